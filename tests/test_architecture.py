"""The house: which room may import which. Every import counts, those under TYPE_CHECKING and in functions too."""

import ast
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From the ground up: a room may import from floors below its own, never from beside or above.
FLOORS = [
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
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for folder in ("exiflang", "experiments") for path in (ROOT / folder).rglob("*.py")}
# package -> {name that it gives: the module that it takes it from}, as its stub says
LAZY = {
    module_name(path.with_suffix(".py")): {
        alias.name: f"{module_name(path.with_suffix('.py'))}.{node.module}"
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    for path in (ROOT / "exiflang").rglob("__init__.pyi")
}


def room(module: str) -> str:
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


def test_every_room_has_its_floor():
    assert {room(module) for module in MODULES} - {""} <= set(FLOOR)


@pytest.mark.parametrize("place", [name for floor in FLOORS for name in sorted(floor)])
def test_a_room_imports_from_below_alone(place):
    upwards = [
        f"{module} -> {other}"
        for module, others in GRAPH.items()
        for other in others
        if room(module) == place and room(other) not in ("", place) and FLOOR[room(other)] >= FLOOR[place]
    ]
    assert upwards == []


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a ring, the first one again at the end; [] if there is no ring."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_no_imports_go_in_a_circle():
    assert circle(GRAPH) == []
    assert set(circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})) == {"a", "b", "c"}


@pytest.mark.parametrize("package", LAZY)
def test_packages_give_the_names_of_their_stubs(package):
    room = import_module(package)
    assert sorted(room.__all__) == sorted(LAZY[package])
    assert all(getattr(room, name) is getattr(import_module(home), name) for name, home in LAZY[package].items())
    assert 3 <= len(room.__doc__.strip().splitlines()) <= 8 or package == "exiflang"


@pytest.mark.parametrize(
    "source",
    [
        "from exiflang.models.model import ExifLang",
        "import exiflang.models.model as room",
        "from exiflang.models import model",
        "from ..models import model",
        "from exiflang import ExifLang",
        "from exiflang.models import ExifLang",
        "if TYPE_CHECKING:\n    from exiflang.models.model import ExifLang",
        "def later():\n    from ..models.model import ExifLang",
    ],
)
def test_each_form_of_import_is_seen(source):
    assert imports("exiflang.utils.files", source) == {"exiflang.models.model"}
