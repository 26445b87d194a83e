"""Parameters of notebooks: what each declares, what a preset and the command line give, and a strict meeting of both.

papermill takes a misspelt parameter with a warning and a text for a number without a word; here both are errors.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]


class PipelineError(RuntimeError):
    """A run that failed; the message says where and what to look at."""


class UsageError(PipelineError):
    """A request that cannot be run: an unknown parameter, preset or run id, or a value of the wrong type."""


def project_path(path: str | Path) -> Path:
    """`path` as an absolute path, a relative one being taken from the project's root whatever the current folder."""
    return Path(os.path.abspath(ROOT / Path(path).expanduser()))


def declared_parameters(notebook: str | Path) -> dict[str, Any]:
    """{name: default} of a notebook's `parameters` cell; a default that is not a literal stays the text of its code."""
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
    if name not in presets:
        raise unknown_name(f"no preset in {folder}", name, presets)
    path = folder / f"{name}.yaml"
    try:
        sections = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(sections, dict) or not all(isinstance(part or {}, dict) for part in sections.values()):
        raise UsageError(f"{path}: expected 'notebook: {{parameter: value}}'")
    shared = sections.pop("shared", None) or {}
    for stem in sections:
        if stem not in declared:
            raise unknown_name(f"{path}: no notebook", stem, declared)
        for key in sections[stem] or {}:
            if key not in declared[stem]:
                raise unknown_name(f"{path}: {stem} has no parameter", key, declared[stem])
    return {
        stem: shared_here | (sections.get(stem) or {})
        for stem, shared_here in spread_overrides(shared, declared, where=f"{path}, shared").items()
    }


def spread_overrides(
    values: Mapping[str, Any], declared: Mapping[str, Mapping[str, Any]], where: str
) -> dict[str, dict[str, Any]]:
    """Gives each value to every notebook that declares its name; a name that none declares raises UsageError."""
    known = sorted(set().union(*declared.values()))
    for name in values:
        if name not in known:
            raise unknown_name(f"{where}: no notebook has a parameter", name, known)
    return {stem: {name: value for name, value in values.items() if name in names} for stem, names in declared.items()}


def resolve_parameters(
    stem: str, defaults: Mapping[str, Any], given: Mapping[str, Any], run_dir: Path
) -> dict[str, Any]:
    """The parameters to inject: `given` checked by name and type, `out_dir`, and each path made absolute.

    A path is a parameter named `*_dir`, or a text that begins with ./ or ../: papermill and nbval run in different
    folders, so none may stay relative.
    """
    for name in given:
        if name not in defaults:
            raise unknown_name(f"{stem} has no parameter", name, defaults)
    if "out_dir" in given:
        raise UsageError("out_dir is set by the runner; choose the run's place with --out")
    if "out_dir" not in defaults:
        raise UsageError(f"{stem} declares no out_dir: its last cell writes metrics.json there")
    values = {name: _typed(f"{stem}: {name}", value, defaults[name]) for name, value in given.items()}
    values["out_dir"] = str(run_dir / stem)
    for name, value in ({name: defaults[name] for name in defaults if name.endswith("_dir")} | values).items():
        if isinstance(value, str) and value and (name.endswith("_dir") or value.startswith(("./", "../"))):
            values[name] = str(project_path(value))
    return values


def _typed(what: str, value: Any, default: Any) -> Any:
    """`value` if it has the type of `default`; YAML reads 1e-4 as text, so a float's text is converted."""
    if value is None or default is None:
        return value
    if isinstance(default, float) and not isinstance(value, bool):
        with contextlib.suppress(TypeError, ValueError):
            return float(value)
    wanted = (list, tuple) if isinstance(default, list | tuple) else type(default)
    if not isinstance(value, wanted) or (isinstance(value, bool) and not isinstance(default, bool)):
        raise UsageError(f"{what}: expected {type(default).__name__} like {default!r}, got {value!r}")
    return value


def _literal(code: str) -> Any:
    try:
        return ast.literal_eval(code)
    except (ValueError, SyntaxError):
        return code


def unknown_name(what: str, name: object, known: Iterable[str]) -> UsageError:
    known = list(known)
    close = difflib.get_close_matches(str(name), known, n=3)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    return UsageError(f"{what} {str(name)!r}; {hint}known: {', '.join(known) or 'none'}")
