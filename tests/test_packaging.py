"""pyproject.toml, constraints.txt, environment.yml and what is installed say the same."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from exiflang import __version__
from exiflang.parameters import project_path

PROJECT = tomllib.loads(project_path("pyproject.toml").read_text())["project"]
RUNTIME = [Requirement(line) for line in PROJECT["dependencies"]]
DEVELOPMENT = [Requirement(line) for line in PROJECT["optional-dependencies"]["dev"]]
CONSTRAINTS = project_path("constraints.txt").read_text().splitlines()
PINS = dict(line.split("==") for line in CONSTRAINTS if not line.startswith("#"))
CONDA_NAMES = {"pytorch": "torch"}
IMPORT_NAMES = {"cv2": "opencv-python-headless", "PIL": "pillow", "skimage": "scikit-image", "sklearn": "scikit-learn",
                "yaml": "pyyaml"}  # fmt: skip


def imported_packages(folder: str) -> set[str]:
    """Canonical names of the third-party packages that the modules in `folder` import anywhere."""
    names = set()
    for path in project_path(folder).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(node.module.split(".")[0])
    own = {"exiflang", "nbval_plotly"} | {path.stem for path in project_path("tests").glob("*.py")}
    return {canonicalize_name(IMPORT_NAMES.get(name, name)) for name in names - own - sys.stdlib_module_names}


def test_constraints_pin_every_package_exactly_once_and_nothing_local():
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][\w.]*", line) for line in CONSTRAINTS if not line.startswith("#"))
    assert list(PINS) == sorted(PINS)
    assert len(PINS) == len([line for line in CONSTRAINTS if not line.startswith("#")])
    assert PINS["torch"] == "2.13.0"


@pytest.mark.parametrize("requirement", RUNTIME + DEVELOPMENT, ids=lambda requirement: requirement.name)
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
    # Of two copies the one found first counts: setuptools puts its own at the end of the path when torch compiles.
    found_first = reversed(list(importlib.metadata.distributions()))
    installed = {canonicalize_name(entry.name): entry.version for entry in found_first}
    found = {name: installed[name].split("+")[0] for name in PINS if name in installed}
    direct = {canonicalize_name(requirement.name) for requirement in RUNTIME + DEVELOPMENT}
    assert found == {name: PINS[name] for name in found}
    assert direct - set(installed) == set()


def test_the_whole_tree_is_pinned():
    missing, todo, seen = set(), [*RUNTIME, *DEVELOPMENT], set()
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        if (name, *requirement.extras) in seen:
            continue
        seen.add((name, *requirement.extras))
        missing |= {name} - set(PINS)
        for line in importlib.metadata.requires(name) or []:
            child = Requirement(line)
            extras = requirement.extras or {""}
            if child.marker is None or any(child.marker.evaluate({"extra": extra}) for extra in extras):
                todo.append(child)
    assert missing == set()


def test_imports_are_declared():
    runtime = {canonicalize_name(requirement.name) for requirement in RUNTIME}
    development = runtime | {canonicalize_name(requirement.name) for requirement in DEVELOPMENT}
    assert imported_packages("exiflang") - runtime == set()
    assert imported_packages("tests") - development - {"packaging", "speed"} == set()
    assert imported_packages("speed") - development - {"speed"} == set()


def test_version_is_the_same_everywhere():
    citation = yaml.safe_load(project_path("CITATION.cff").read_text())
    assert PROJECT["version"] == __version__ == citation["version"]


def test_hooks_run_the_pinned_tools():
    hooks = yaml.safe_load(project_path(".pre-commit-config.yaml").read_text())["repos"]
    revisions = {entry["repo"].rsplit("/", 1)[1]: entry["rev"].lstrip("v") for entry in hooks}
    assert revisions == {"ruff-pre-commit": PINS["ruff"], "nbstripout": PINS["nbstripout"]}


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, exiflang, exiflang.pipeline; print(sorted({'torch', 'papermill', 'pandas'} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
