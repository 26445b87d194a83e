"""A picture, or a folder of pictures → reports, and a gallery that leads to them: `pipeline --inspect`.

A folder gives `index.html`, `index.json` and, in `pictures/`, a report of each picture. Reports that are there already,
of the same files by the same model and settings, are not made again: an interrupted run goes on.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from safetensors import SafetensorError
from tqdm.auto import tqdm

from exiflang.exif_tags import clean
from exiflang.files import file_sha256, write_json, write_whole
from exiflang.images import ImageError
from exiflang.inspection import Inspector
from exiflang.localize import SpliceLocalizer
from exiflang.parameters import PipelineError, UsageError, resolve_parameters
from exiflang.report import Origin, render, report_name, write_report
from exiflang.sources import PICTURE_EXTENSIONS
from exiflang.weights import load_model

EXTENSIONS = PICTURE_EXTENSIONS | {".gif", ".bmp", ".avif", ".jp2"}
#: Cards on a page of the gallery.
PAGE = 200
#: Parameters of `SpliceLocalizer` that `-p` may set.
PARAMETERS = ("windows_per_side", "window_size", "readout", "mode", "precision")


def make_reports(source: str | Path, out_dir: str | Path, parameters: Mapping[str, Any], private: bool = False) -> Path:
    """Inspect a picture, or all pictures of a folder, and return the path of the report or of the gallery.

    parameters: any of `PARAMETERS`, and `model_dir`, see `load_model`; None stands for the default.
    private: show GPS, serial numbers, names and comments.

    Raises `UsageError` for an unknown parameter or a wrong value, `PipelineError` if nothing could be read or written.
    """
    inspector = _inspector(parameters, private)
    source, out_dir = Path(source).expanduser(), Path(out_dir).expanduser()
    try:
        if source.is_dir():
            return make_gallery(source, out_dir, inspector)
        return write_report(inspector(source), out_dir, Origin.of(inspector))
    except ImageError as error:
        raise PipelineError(str(error)) from error
    except OSError as error:
        raise PipelineError(f"{out_dir}: cannot be written ({error}); choose another folder with --out") from error


def _inspector(parameters: Mapping[str, Any], private: bool) -> Inspector:
    defaults = {name: inspect.signature(SpliceLocalizer).parameters[name].default for name in PARAMETERS}
    defaults |= {"window_size": 64, "model_dir": "", "out_dir": ""}  # of their types; the last is the runner's own
    given = {name: value for name, value in parameters.items() if value is not None}
    if isinstance(given.get("model_dir"), str):  # as --inspect and --out: from where the command is typed
        given["model_dir"] = os.path.abspath(Path(given["model_dir"]).expanduser())
    values = resolve_parameters("--inspect", defaults, given, Path())
    folder = values.pop("model_dir", "")
    del values["out_dir"]
    try:
        return Inspector(SpliceLocalizer(load_model(folder), **values), private)
    except (ValueError, OSError, SafetensorError) as error:
        raise UsageError(f"--inspect: {error}") from error


def make_gallery(folder: str | Path, out_dir: str | Path, inspector: Inspector) -> Path:
    """Inspect all pictures of a folder into `out_dir`, and return the path of its `index.html`.

    Files that cannot be read are named in the gallery. Raises `PipelineError` if there is no other, `OSError` if
    nothing can be written.
    """
    folder, out_dir = Path(folder), Path(out_dir)
    files, left_out = find_pictures(folder)
    origin, entries = Origin.of(inspector), []
    for path in tqdm(files, unit=" pictures"):
        name = _name(path, folder)
        try:
            page, facts = _report(path, out_dir / "pictures", inspector, origin)
        except ImageError as error:
            reason = str(error).removeprefix(f"{path}: ").removeprefix(f"{clean(path.name, 200)}: ")
            left_out.append({"name": name, "reason": clean(reason, 300)})
            continue
        entries.append(_entry(name, page, facts))
    if not entries and not left_out:
        raise PipelineError(f"{folder}: no pictures in it ({', '.join(sorted(EXTENSIONS))})")
    out_dir.mkdir(parents=True, exist_ok=True)
    index, title = out_dir / "index.html", clean(folder.resolve().name, 200)
    write_whole(index, gallery_page(title, entries, left_out, origin.record))
    listed = [{key: value for key, value in entry.items() if key != "thumbnail"} for entry in entries]
    record = {"folder": title, "pictures": listed, "left_out": left_out, "origin": origin.record}
    write_json(index.with_suffix(".json"), record)
    if not entries:
        raise PipelineError(f"{folder}: none of its {len(left_out)} pictures can be read; {index} says why")
    return index


def find_pictures(folder: Path) -> tuple[list[Path], list[dict[str, str]]]:
    """Pictures in a folder and its folders, by their extension, sorted; and what is left out: `name`, `reason`.

    Links are followed to files within the folder only.
    """
    found, left_out, root = [], [], Path(os.path.realpath(folder))

    def closed(error: OSError) -> None:
        left_out.append({"name": _name(Path(error.filename), folder), "reason": f"cannot be opened: {error.strerror}"})

    for place, _, names in os.walk(folder, onerror=closed):
        for path in (Path(place, name) for name in names):
            if path.suffix.lower() not in EXTENSIONS:
                continue
            if Path(os.path.realpath(path)).is_relative_to(root):
                found.append(path)
            else:
                left_out.append({"name": _name(path, folder), "reason": "a link that leads out of the folder"})
    return sorted(found), sorted(left_out, key=lambda entry: entry["name"])


def gallery_page(
    title: str, entries: Sequence[Mapping[str, Any]], left_out: Sequence[Mapping[str, str]], origin: Mapping[str, Any]
) -> str:
    """The gallery as one page of HTML: `entries` as `index.json` lists them, and the `thumbnail` of each."""
    best_first = sorted(entries, key=lambda entry: -entry["score"])  # for those who read it without scripts
    made = max((entry["made"] for entry in entries), default="")  # so that the same reports give the same gallery
    return render(
        "gallery.html.j2", title=title, entries=best_first, left_out=left_out, origin=origin, made=made, page=PAGE
    )


def _name(path: Path, folder: Path) -> str:
    """What a file of a folder is called: its relative path, one printable line."""
    return clean(path.relative_to(folder).as_posix(), 300)


def _report(path: Path, folder: Path, inspector: Inspector, origin: Origin) -> tuple[Path, dict[str, Any]]:
    """Path and facts of a picture's report, which is made unless it is there. Raises `ImageError`."""
    digest = file_sha256(path)
    page = folder / f"{report_name(path.name, digest or '')}.html"
    if digest and (facts := _finished(page, digest, origin)):
        return page, facts
    page = write_report(inspector(path), folder, origin)
    return page, json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))


def _finished(page: Path, sha256: str, origin: Origin) -> dict[str, Any] | None:
    """The facts of a report if it is there, whole, and what would be made now."""
    try:
        facts = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    same = isinstance(facts, dict) and facts.get("sha256") == sha256 and facts.get("origin") == origin.record
    return facts if same and page.is_file() else None


def _entry(name: str, page: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """A picture in the gallery: what is listed of its report's facts, and the report's address."""
    kept = ("score", "calibrated", "mask_share", "width", "height", "sha256", "made", "thumbnail")
    fit = facts["fit"] or {}
    return {
        "name": name,
        "report": quote(f"pictures/{page.name}"),
        "percentile": fit.get("percentile"),
        "familiar": fit.get("familiar"),
        "make": facts["tags"].get("Make", ""),
        "model": facts["tags"].get("Model", ""),
        **{key: facts[key] for key in kept},
    }
