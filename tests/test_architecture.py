"""Which subpackage may import which. Every import counts, including those under TYPE_CHECKING and inside functions."""

import ast
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From the bottom up: a subpackage may import from lower layers, never from its own or a higher one.
LAYERS = [
    {"utils"},
    {"exif", "simulation"},
    {"models", "data"},
    {"headers"},
    {"viz", "localization", "preparation"},
    {"evaluation"},
    {"inspection", "training"},
    {"release"},
    {"pipeline"},
    {"cli"},
    {"experiments"},
]
LAYER = {subpackage: number for number, subpackages in enumerate(LAYERS) for subpackage in subpackages}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for folder in ("exiflang", "experiments") for path in (ROOT / folder).rglob("*.py")}
# package -> {name that it exports: the module that defines it}, according to its stub
LAZY = {
    module_name(path.with_suffix(".py")): {
        alias.name: f"{module_name(path.with_suffix('.py'))}.{node.module}"
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    for path in (ROOT / "exiflang").rglob("__init__.pyi")
}


def subpackage(module: str) -> str:
    """`exiflang.models.model` -> "models"; "" for the package itself, which imports nothing."""
    first, _, rest = module.partition(".")
    return rest.partition(".")[0] if first == "exiflang" else first


def imports(module: str, source: str) -> set[str]:
    """The modules of the project that a module imports anywhere, by whichever form of import."""
    found = set()
    package = module.split(".") if module in MODULES and MODULES[module].stem == "__init__" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*(package[: len(package) - node.level + 1] if node.level else []), node.module or ""])
            names = [f"{base.strip('.')}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parent, _, last = name.rpartition(".")
            if name not in MODULES and parent in LAZY:
                name = LAZY[parent].get(last, parent)
            while name and name not in MODULES:
                name = name.rpartition(".")[0]
            found.add(name)
    return found - {"", module}


GRAPH = {module: imports(module, path.read_text()) for module, path in MODULES.items()}


def test_every_subpackage_has_a_layer():
    assert {subpackage(module) for module in MODULES} - {""} <= set(LAYER)


@pytest.mark.parametrize("place", [name for layer in LAYERS for name in sorted(layer)])
def test_a_subpackage_imports_only_from_lower_layers(place):
    upwards = [
        f"{module} -> {other}"
        for module, others in GRAPH.items()
        for other in others
        if subpackage(module) == place
        and subpackage(other) not in ("", place)
        and LAYER[subpackage(other)] >= LAYER[place]
    ]
    assert upwards == []


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a cycle, with the first one repeated at the end; [] if there is no cycle."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_there_are_no_import_cycles():
    assert cycle(GRAPH) == []
    assert set(cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})) == {"a", "b", "c"}


@pytest.mark.parametrize("package", LAZY)
def test_packages_export_the_names_in_their_stubs(package):
    subpackage = import_module(package)
    assert sorted(subpackage.__all__) == sorted(LAZY[package])
    assert all(getattr(subpackage, name) is getattr(import_module(home), name) for name, home in LAZY[package].items())
    assert 3 <= len(subpackage.__doc__.strip().splitlines()) <= 8 or package == "exiflang"


@pytest.mark.parametrize(
    "source",
    [
        "from exiflang.models.model import ExifLang",
        "import exiflang.models.model as module",
        "from exiflang.models import model",
        "from ..models import model",
        "from exiflang import ExifLang",
        "from exiflang.models import ExifLang",
        "if TYPE_CHECKING:\n    from exiflang.models.model import ExifLang",
        "def later():\n    from ..models.model import ExifLang",
    ],
)
def test_each_form_of_import_is_detected(source):
    assert imports("exiflang.utils.files", source) == {"exiflang.models.model"}
