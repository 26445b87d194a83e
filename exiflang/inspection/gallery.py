"""A picture, or a folder of pictures → reports, and a gallery that links to them: `exiflang inspect`.

For a folder, it writes `index.html`, `index.json` and, in `pictures/`, a report on each picture. Existing reports on
the same files with the same model and settings are kept, so an interrupted run resumes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tqdm.auto import tqdm

from exiflang.exif.tags import clean
from exiflang.inspection.file_words import HEADER_VERDICTS, NEVER
from exiflang.inspection.inspector import Inspector
from exiflang.inspection.report import Provenance, report_name, write_report
from exiflang.inspection.review import STATUSES, Review
from exiflang.inspection.verdict import region_lines
from exiflang.utils.files import absolute_path, file_sha256, printable, read_json, write_json, write_whole
from exiflang.utils.folders import count_others, find_pictures, openable_extensions
from exiflang.utils.images import ImageError
from exiflang.viz.html import PAGE, render

#: Keys of entries to filter by: the label, and the values to choose from.
_FILTERS = {
    "status": ("Status", STATUSES),
    "verdict": ("Verdict", ("spliced", "no splice found", "not decidable")),
    "header": ("Header", HEADER_VERDICTS),
    "severity": ("Findings", ("strong", "notable", "info", "weak")),
}


def make_reports(source: str | Path, out_dir: str | Path, inspector: Inspector) -> Path:
    """Inspect a picture, or all pictures of a folder, and return the path of the report or of the gallery.

    Raises `ImageError` if no picture can be read, `OSError` if the output cannot be written.
    """
    source = Path(source)
    if source.is_dir():
        return make_gallery(source, out_dir, inspector)
    with tqdm(total=1.0, delay=1, bar_format="{l_bar}{bar}| {elapsed}, about {remaining} left") as bar:
        found = inspector(source, progress=lambda share: bar.update(share - bar.n))
    return write_report(found, out_dir, Provenance.of(inspector))


def make_gallery(folder: str | Path, out_dir: str | Path, inspector: Inspector) -> Path:
    """Inspect all pictures of a folder, write the gallery to `out_dir`, and return the path of its `index.html`.

    The gallery lists unreadable pictures and counts files whose names are not those of pictures. Raises `ImageError` if
    no picture can be read, `OSError` if the output cannot be written.
    """
    folder, out_dir = Path(folder), Path(out_dir)
    files, closed, others = find_pictures(folder, extensions=openable_extensions())
    left_out = [{"name": _name(path, folder), "reason": reason} for path, reason in closed]
    # Skip the output of an earlier run.
    others = [path for path in others if not absolute_path(path).is_relative_to(absolute_path(out_dir))]
    passed_over = count_others([_name(path, folder) for path in others])
    origin, entries = Provenance.of(inspector), []
    for path in tqdm(files, unit=" pictures"):
        name = _name(path, folder)
        try:
            page, facts = _report(path, out_dir / "pictures", inspector, origin)
        except ImageError as error:
            reason = (
                str(error).removeprefix(f"{printable(path)}: ").removeprefix(f"{clean(printable(path.name), 200)}: ")
            )
            left_out.append({"name": name, "reason": clean(reason, 300)})
            continue
        entries.append(_entry(name, page, facts))
    if not entries and not left_out:
        there = f"; {passed_over}" if passed_over else ""
        raise ImageError(f"{folder}: no pictures in it ({', '.join(sorted(openable_extensions()))}){there}")
    out_dir.mkdir(parents=True, exist_ok=True)
    index, title = out_dir / "index.html", clean(printable(folder.resolve().name), 200)
    write_whole(index, gallery_page(title, entries, left_out, passed_over, origin.record))
    listed = [{key: value for key, value in entry.items() if key != "thumbnail"} for entry in entries]
    record: dict[str, Any] = {"folder": title, "pictures": listed, "left_out": left_out, "passed_over": passed_over}
    record |= {"origin": origin.record}
    write_json(index.with_suffix(".json"), record)
    if not entries:
        raise ImageError(f"{folder}: none of its {len(left_out)} pictures can be read; see {index} for the reasons")
    return index


def gallery_page(
    title: str,
    entries: Sequence[Mapping[str, Any]],
    left_out: Sequence[Mapping[str, str]],
    passed_over: str,
    origin: Mapping[str, Any],
) -> str:
    """The gallery as one HTML page: `entries` as in `index.json`, with a `thumbnail` each.

    passed_over: a line about files that were not opened, or "".
    """
    best_first = sorted(entries, key=lambda entry: -entry["score"])  # the order without JavaScript
    made = max((entry["made"] for entry in entries), default="")  # not now: equal reports give equal galleries
    return render(
        "gallery.html.j2",
        title=title,
        entries=[{**entry, "keys": _sorted_by(entry)} for entry in best_first],
        choices=_choices(entries),
        left_out=left_out,
        passed_over=passed_over,
        origin=origin,
        made=made,
        page=PAGE,
    )


def summary(page: Path) -> list[str]:
    """The findings of a report, a gallery or a comparison, as lines of text."""
    facts = _facts(page)
    if "summary" in facts:
        return facts["summary"]
    if "pictures" in facts:
        verdicts = Counter(entry["verdict"] for entry in facts["pictures"] if entry["verdict"])
        unread = len(facts["left_out"])
        others = [f"could not be read: {unread}" if unread else "", facts["passed_over"]]
        lines = [f"{verdict}: {number}" for verdict, number in sorted(verdicts.items())]
        return lines + [line for line in others if line]
    return [facts["meaning"], *region_lines(facts["regions"])]


def _name(path: Path, folder: Path) -> str:
    """A file's name in the gallery: its path relative to the folder, as one printable line."""
    return clean(printable(path.relative_to(folder).as_posix()), 300)


def _report(path: Path, folder: Path, inspector: Inspector, origin: Provenance) -> tuple[Path, dict[str, Any]]:
    """Path and facts of a picture's report, which is written unless an up-to-date, complete one exists.

    Raises `ImageError`.
    """
    digest = file_sha256(path)
    page = folder / f"{report_name(path.name, digest or '')}.html"
    facts = _facts(page) if digest and page.is_file() else {}
    if facts.get("sha256") != digest or facts.get("origin") != origin.record:
        page = write_report(inspector(path), folder, origin)
        facts = _facts(page)
    return page, facts


def _facts(page: Path) -> dict[str, Any]:
    """The JSON file next to a report's page; {} if it is missing or damaged."""
    try:
        facts = read_json(page.with_suffix(".json"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _entry(name: str, page: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """A picture's gallery entry: selected facts of its report, and the report's URL."""
    kept = ("score", "calibrated", "mask_share", "unreliable_share", "width", "height", "sha256", "made", "thumbnail")
    fit, decision, file = facts["fit"] or {}, facts["decision"] or {}, facts["file"]
    review = Review.of(facts)
    return {
        "name": name,
        "report": quote(f"pictures/{page.name}"),
        "verdict": decision.get("verdict"),
        "p_value": decision.get("p_value"),
        "regions": len(facts["regions"]),
        "percentile": fit.get("percentile"),
        "familiar": fit.get("familiar"),
        "make": facts["tags"].get("Make", ""),
        "model": facts["tags"].get("Model", ""),
        "header": file["header_verdict"],
        "header_percentile": (file["header_fit"] or {}).get("percentile"),
        "severity": next((kind for kind, number in file["finding_counts"].items() if number), None),
        "findings": file["finding_counts"],
        "status": review.status,
        "note": review.note,
        **{key: facts[key] for key in kept},
    }


def _choices(entries: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, list[str]]]:
    """The filters that tell some of the entries apart, with the values that occur."""
    found = {}
    for key, (label, values) in _FILTERS.items():
        present = {entry[key] for entry in entries}
        if len(present) > 1:
            found[key] = (label, [value for value in values if value in present])
    return found


def _sorted_by(entry: Mapping[str, Any]) -> dict[str, float | None]:
    """What a card is sorted by besides its name; None comes last."""
    percentile = 0.0 if entry["header"] == NEVER else entry["header_percentile"]
    severe = sum(number * 1000.0**-place for place, number in enumerate(entry["findings"].values()))
    keys = {"score": entry["score"], "mask": entry["mask_share"], "fit": entry["percentile"]}
    return keys | {"header": percentile, "findings": severe}
