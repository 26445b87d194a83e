"""pyproject.toml, constraints.txt, environment.yml and the installed packages agree."""

import ast
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from exiflang import __version__
from exiflang.pipeline.parameters import project_path

PYPROJECT = tomllib.loads(project_path("pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
CORE = [Requirement(line) for line in PROJECT["dependencies"]]
EXTRAS = {
    name: [Requirement(line) for line in lines]
    for name, lines in PROJECT["optional-dependencies"].items()
    if name != "all"
}
RUNTIME = [*CORE, *chain.from_iterable(EXTRAS.values())]
DEVELOPMENT = [Requirement(line) for group in ("dev", "docs") for line in PYPROJECT["dependency-groups"][group]]
CONSTRAINTS = project_path("constraints.txt").read_text().splitlines()
PINS = dict(line.split("==") for line in CONSTRAINTS if not line.startswith("#"))
CONDA_NAMES = {"pytorch": "torch"}
IMPORT_NAMES = {"c2pa": "c2pa-python", "cv2": "opencv-python-headless", "PIL": "pillow", "skimage": "scikit-image",
                "sklearn": "scikit-learn", "yaml": "pyyaml"}  # fmt: skip


# The extra that a module, or the modules of a subpackage, may need; all others need only the core.
NEEDS = {
    "exiflang.data.index": "data",
    "exiflang.evaluation": "train",
    "exiflang.headers.credentials": "c2pa",
    "exiflang.inspection.widget": "notebook",
    "exiflang.pipeline": "notebook",
    "exiflang.preparation": "data",
    "exiflang.training": "train",
    "exiflang.utils.develop_raw": "raw",
    "exiflang.utils.images": "heif",
    "exiflang.utils.launch": "train",
    "exiflang.viz.plots": "notebook",
}
# Imports each module with the blocked packages hidden -> {module: its error message}.
CORE_ALONE = """
import importlib, json, sys
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder

blocked, modules = json.loads(sys.argv[1])

class Core:
    find_distributions = PathFinder.find_distributions

    @staticmethod
    def find_spec(name, path=None, target=None):
        return None if name.partition(".")[0] in blocked else PathFinder.find_spec(name, path, target)

sys.meta_path[:] = [BuiltinImporter, FrozenImporter, Core]
said = {}
for module in modules:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        said[module] = str(error)
from exiflang import ExifLang, ExifLangConfig, Inspector, SpliceLocalizer, exif_to_text, load_benchmark, read_exif
print(json.dumps(said))
"""


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(project_path(".")).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in sorted(project_path("exiflang").rglob("*.py"))}


def extra_of(module: str) -> str | None:
    return next((extra for place, extra in NEEDS.items() if f"{module}.".startswith(f"{place}.")), None)


def canonical(requirements) -> set[str]:
    return {canonicalize_name(requirement.name) for requirement in requirements}


def third_party(tree: ast.AST) -> set[str]:
    """Canonical names of the third-party packages that a module imports anywhere, but for type checkers."""
    names = set()
    for node in list(ast.walk(tree)):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.split(".")[0])
    own = {"exiflang", "experiments", "tests"}
    return {canonicalize_name(IMPORT_NAMES.get(name, name)) for name in names - own - sys.stdlib_module_names}


def is_extra(call: ast.expr) -> bool:
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "extra"


def imported_packages(folder: str) -> set[str]:
    """What the modules in `folder` import."""
    return set().union(*(third_party(ast.parse(path.read_text())) for path in project_path(folder).rglob("*.py")))


def closure(requirements) -> set[str]:
    """Canonical names of everything that the requirements pull in, according to the installed packages."""
    todo, seen = list(requirements), set()
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        if (name, *requirement.extras) in seen:
            continue
        seen.add((name, *requirement.extras))
        for line in importlib.metadata.requires(name) or []:
            child = Requirement(line)
            extras = requirement.extras or {""}
            if child.marker is None or any(child.marker.evaluate({"extra": extra}) for extra in extras):
                todo.append(child)
    return {name for name, *_ in seen}


def test_constraints_pin_every_package_exactly_once_and_nothing_local():
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][\w.]*", line) for line in CONSTRAINTS if not line.startswith("#"))
    assert list(PINS) == sorted(PINS)
    assert len(PINS) == len([line for line in CONSTRAINTS if not line.startswith("#")])
    assert PINS["torch"] == "2.13.0"


@pytest.mark.parametrize(
    "requirement", sorted({*RUNTIME, *DEVELOPMENT}, key=str), ids=lambda requirement: requirement.name
)
def test_direct_dependency_has_a_lower_bound_that_its_pin_meets(requirement):
    assert [part.operator for part in requirement.specifier] == [">="]
    assert requirement.specifier.contains(PINS[canonicalize_name(requirement.name)])


def test_environment_has_the_same_pins_for_the_same_packages():
    *conda, pip = yaml.safe_load(project_path("environment.yml").read_text())["dependencies"]
    pinned = dict(line.split("=") for line in conda if re.search(r"\w=\w", line))
    pinned |= dict(line.split("==") for line in pip["pip"] if "==" in line)
    found = {canonicalize_name(CONDA_NAMES.get(name, name)): version for name, version in pinned.items()}

    direct = {canonicalize_name(requirement.name) for requirement in RUNTIME + DEVELOPMENT}
    assert found == {name: PINS[name] for name in direct}
    assert f"python{PROJECT['requires-python']}" in conda


def test_installed_versions_are_the_pinned_ones():
    # Of two copies the first one found counts: setuptools appends its own to the path when torch compiles.
    found_first = reversed(list(importlib.metadata.distributions()))
    installed = {canonicalize_name(entry.name): entry.version for entry in found_first}
    found = {name: installed[name].split("+")[0] for name in PINS if name in installed}
    direct = {canonicalize_name(requirement.name) for requirement in RUNTIME + DEVELOPMENT}
    assert found == {name: PINS[name] for name in found}
    assert direct - set(installed) == set()


def test_the_whole_tree_is_pinned():
    assert closure([*RUNTIME, *DEVELOPMENT]) - set(PINS) == set()


def test_all_means_every_extra():
    (line,) = PROJECT["optional-dependencies"]["all"]
    assert Requirement(line).name == "exiflang" and Requirement(line).extras == set(EXTRAS)


def test_imports_are_declared():
    development = canonical([*RUNTIME, *DEVELOPMENT])
    assert imported_packages("tests") - development == set()
    assert imported_packages("experiments") - development == set()


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_the_core_and_its_extra(module):
    tree = ast.parse(MODULES[module].read_text())
    guards = [node for node in ast.walk(tree) if isinstance(node, ast.With) and is_extra(node.items[0].context_expr)]
    for guard in guards:
        (name,) = (argument.value for argument in guard.items[0].context_expr.args)
        assert name == extra_of(module)
        assert third_party(guard) <= canonical(EXTRAS[name])
        guard.body = []
    assert third_party(tree) <= canonical(CORE)


def test_every_module_imports_with_only_the_core_or_names_its_extra():
    core = closure(CORE) | {"exiflang"}
    found = importlib.metadata.packages_distributions()
    blocked = [name for name, homes in found.items() if not {canonicalize_name(home) for home in homes} & core]
    assert {"accelerate", "dask", "duckdb", "ipywidgets", "papermill", "plotly", "psutil", "pyarrow"} <= set(blocked)
    command = [sys.executable, "-c", CORE_ALONE, json.dumps([blocked, list(MODULES)])]
    done = subprocess.run(command, capture_output=True, text=True, cwd=project_path("."))
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    for module, message in said.items():
        assert message.endswith(f' is not installed: pip install "exiflang[{extra_of(module)}]"'), (module, message)
    assert {extra_of(module) for module in said} == {"data", "notebook", "train"}
    in_the_core = {"exiflang.evaluation.retrieval", "exiflang.evaluation.benchmarks", "exiflang.evaluation.metrics"}
    assert in_the_core & set(said) == set()


def test_version_is_the_same_everywhere():
    citation = yaml.safe_load(project_path("CITATION.cff").read_text())
    assert PROJECT["version"] == __version__ == citation["version"]
    sections = re.findall(r"^## \[(.*)\]", project_path("CHANGELOG.md").read_text(), re.MULTILINE)
    assert sections[:2] == ["Unreleased", __version__]


def test_hooks_run_the_pinned_tools():
    hooks = yaml.safe_load(project_path(".pre-commit-config.yaml").read_text())["repos"]
    revisions = {entry["repo"].rsplit("/", 1)[1]: entry["rev"].lstrip("v") for entry in hooks}
    pinned = {"ruff-pre-commit": PINS["ruff"], "nbstripout": PINS["nbstripout"]}
    assert {name: revisions[name] for name in pinned} == pinned


def test_workflows_run_the_declared_python_versions():
    promised = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    workflow = yaml.safe_load(project_path(".github/workflows/test.yml").read_text())
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == promised
    assert PROJECT["requires-python"] == f">={promised[0]}"


def test_binder_and_read_the_docs_install_the_pinned_versions():
    binder = project_path(".binder/postBuild")
    assert os.access(binder, os.X_OK)
    for place in (binder, project_path(".readthedocs.yaml")):
        commands = re.findall(r"install (.*)", place.read_text())
        unpinned = [command for command in commands if "-c constraints.txt" not in command and "pip>=" not in command]
        assert len(commands) >= 2 and unpinned == []
    environment = yaml.safe_load(project_path(".binder/environment.yml").read_text())
    assert not {name.partition("=")[0] for name in environment["dependencies"]} & PINS.keys()


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, exiflang, exiflang.pipeline; print(sorted({'torch', 'papermill', 'pandas'} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
