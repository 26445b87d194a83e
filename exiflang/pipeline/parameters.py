"""Parameters of notebooks: what each declares, what a preset and the command line give, and a strict meeting of both.

papermill takes a misspelled parameter with a warning and a text for a number without a word; here both are errors.
"""

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from exiflang.utils.commands import RunError
from exiflang.utils.extras import extra
from exiflang.utils.files import absolute_path, printable
from exiflang.utils.typed import typed, unknown_name

#: The mapping of a notebook that trains: what a `Recipe` takes beyond the parameters that the notebook declares.
TRAINING = "training"


class PipelineError(RunError):
    """A run that failed; the message says where and what to look at."""


class UsageError(PipelineError):
    """A request that cannot be run: an unknown parameter, preset or run id, or a value of the wrong type."""

    exit_code = 2


class Typed(str):
    """What was typed for a parameter at a command line: the text as it stands if its default is a text, else YAML."""


def project_root() -> Path:
    """The nearest folder, at or above the working directory, that holds `notebooks/params`.

    Raises UsageError where there is none. The runner alone knows it: a library function takes a relative path from the
    working directory.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "notebooks/params").is_dir():
            return folder
    raise UsageError(
        f"{here}: no notebooks/params here or above: go to such a folder, or make one: exiflang notebooks DIR"
    )


def project_path(path: str | Path) -> Path:
    """`path` as an absolute path, a relative one being taken from the project's root."""
    path = Path(path).expanduser()
    return absolute_path(path if path.is_absolute() else project_root() / path)


def declared_parameters(notebook: str | Path) -> dict[str, Any]:
    """{name: default} of all that a notebook takes: its `parameters` cell, and what goes into its `training`, if any.

    The names in `training` are those of `Recipe`. A default that is not a literal stays the text of its code.
    """
    declared = _parameters_cell(notebook)
    if declared.pop(TRAINING, None) is None:
        return declared
    from exiflang.training.recipe import Recipe  # torch, which a run without training need not wait for

    return declared | {name: default for name, default in Recipe().flat().items() if name not in declared}


def injected_parameters(notebook: str | Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` as the notebook's cell declares them: those without a line of their own go into its `training`."""
    own = _parameters_cell(notebook)
    further = {name: value for name, value in values.items() if name not in own}
    return {name: value for name, value in values.items() if name in own} | ({TRAINING: further} if further else {})


def _parameters_cell(notebook: str | Path) -> dict[str, Any]:
    with extra("notebook"):
        import papermill

    path = project_path(notebook)
    if not path.is_file():
        raise UsageError(f"{path}: no such notebook")
    return {name: _literal(entry["default"]) for name, entry in papermill.inspect_notebook(str(path)).items()}


def load_preset(name: str, declared: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Reads notebooks/params/<name>.yaml: {notebook: {parameter: value}} and `shared`, given to each that declares it.

    `declared` is {notebook: its declared parameters}. Returns {notebook: {parameter: value}} for exactly those.
    Raises UsageError for a preset, notebook or parameter that does not exist, with the names that do.
    """
    folder = project_path("notebooks/params")
    presets = sorted(path.stem for path in folder.glob("*.yaml"))
    check_names(f"no preset in {folder}", [name], presets)
    path = folder / f"{name}.yaml"
    try:
        sections = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(sections, dict) or not all(isinstance(part or {}, dict) for part in sections.values()):
        raise UsageError(f"{path}: expected 'notebook: {{parameter: value}}'")
    shared = sections.pop("shared", None) or {}
    check_names(f"{path}: no notebook", sections, declared)
    for stem, part in sections.items():
        check_names(f"{path}: {stem} has no parameter", part or {}, declared[stem])
    return {
        stem: shared_here | (sections.get(stem) or {})
        for stem, shared_here in spread_overrides(shared, declared, where=f"{path}, shared").items()
    }


def spread_overrides(
    values: Mapping[str, Any], declared: Mapping[str, Mapping[str, Any]], where: str
) -> dict[str, dict[str, Any]]:
    """Gives each value to every notebook that declares its name; a name that none declares raises UsageError."""
    check_names(f"{where}: no notebook has a parameter", values, sorted(set().union(*declared.values())))
    return {stem: {name: value for name, value in values.items() if name in names} for stem, names in declared.items()}


def resolve_parameters(
    stem: str, defaults: Mapping[str, Any], given: Mapping[str, Any], run_dir: Path
) -> dict[str, Any]:
    """The parameters to inject: `given` checked by name and type, `out_dir`, and each path made absolute.

    A path is a parameter named `*_dir`, or a text that begins with ./ or ../: papermill and nbval run in different
    folders, so none may stay relative.
    """
    values = check_parameters(stem, defaults, given)
    if "out_dir" in given:
        raise UsageError("out_dir is set by the runner; choose the run's place with --out")
    if "out_dir" not in defaults:
        raise UsageError(f"{stem} declares no out_dir: its last cell writes metrics.json there")
    values["out_dir"] = str(run_dir / stem)
    for name, value in ({name: defaults[name] for name in defaults if name.endswith("_dir")} | values).items():
        if isinstance(value, str) and value and (name.endswith("_dir") or value.startswith(("./", "../"))):
            values[name] = str(project_path(value))
    for name, value in values.items():
        if isinstance(value, str) and (text := printable(value)) != value:
            raise UsageError(f"{stem}: {name} is {text}, which is not UTF-8, as notebooks must be: rename the folder")
    return values


def check_parameters(what: str, defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """`given` in the types of `defaults`; UsageError for a name that is not there or a value of another type."""
    check_names(f"{what} has no parameter", given, defaults)
    return {name: _resolved(f"{what}: {name}", value, defaults[name]) for name, value in given.items()}


def _resolved(what: str, value: Any, default: Any) -> Any:
    """`value` if it has the type of `default`, None only where that is None.

    YAML reads 1e-4 as text, so a float's text is converted.
    """
    if isinstance(value, Typed):
        value = str(value) if isinstance(default, str) else _from_yaml(what, value)
    if default is None:
        return value
    try:
        return typed(what, value, type(default))
    except ValueError as error:
        raise UsageError(f"{error}, like {default!r}") from error


def _from_yaml(what: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"{what}: {str(text)!r} is not valid YAML ({' '.join(str(error).split())})") from error


def _literal(code: str) -> Any:
    try:
        return ast.literal_eval(code)
    except (ValueError, SyntaxError):
        return code


def check_names(what: str, names: Iterable[object], known: Iterable[str]) -> None:
    """Raise `UsageError` for the first of `names` that is not known, with those that are."""
    if said := unknown_name(names, list(known)):
        raise UsageError(f"{what} {said}")
