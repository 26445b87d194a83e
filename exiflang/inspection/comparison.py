"""A suspect beside a reference photo of the camera that it claims, as one page and as JSON: `exiflang compare`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from exiflang.data.shards import plain_name
from exiflang.inspection.file_tables import NAMES, finding_list, statement_table, thumbnail_pair
from exiflang.inspection.file_words import header_fields
from exiflang.inspection.inspector import Inspection, Inspector
from exiflang.inspection.metadata import picture_embedding
from exiflang.inspection.pairs import PairRanks
from exiflang.inspection.report import Provenance, report_facts, report_name
from exiflang.inspection.verdict import percent
from exiflang.utils.files import write_json, write_whole
from exiflang.viz.html import render

#: Keys of a report that a comparison has of each picture; the page also shows the thumbnail.
_KEPT = (
    *("name", "sha256", "format", "size", "width", "height", "notes", "tags", "hidden"),
    *("score", "calibrated", "meaning", "decision", "file"),
)


class Row(NamedTuple):
    """A property of both files in words, and whether it is the same; None if one of them is unknown."""

    name: str
    suspect: str
    reference: str
    same: bool | None


@dataclass(frozen=True, eq=False)
class Comparison:
    """A suspect and a reference photo.

    Attributes:
        header: fields of their JPEG headers; () if one has none that can be read.
        camera: make, model and software by their EXIF.
        cosine: of the embeddings of the two pictures.
        pairs: fractions of pairs of authentic photos with a lower cosine, see `PairRanks.below`; None if the model is
            not calibrated for that.
    """

    suspect: Inspection = field(repr=False)
    reference: Inspection = field(repr=False)
    header: tuple[Row, ...]
    camera: tuple[Row, ...]
    cosine: float
    pairs: Mapping[str, Any] | None

    @property
    def summary(self) -> list[str]:
        """A sentence each on the headers, on the cameras, and on the pixels."""
        return [_on_headers(self.header), _on_cameras(self.camera), _on_pixels(self.cosine, self.pairs)]


def compare(
    inspector: Inspector, suspect: str | os.PathLike | bytes, reference: str | os.PathLike | bytes
) -> Comparison:
    """Inspect and compare two pictures, given by their paths or as bytes.

    Raises `ImageError` if one is not a picture, `ValueError` for a damaged calibration of the model.
    """
    place = getattr(inspector.model, "name_or_path", "")  # "" if the model was created in memory
    pairs = PairRanks.of_model(place) if place else None
    own, other = inspector(suspect), inspector(reference)
    left, right = (picture_embedding(found.seen.embeddings) for found in (own, other))
    cosine = float(left @ right)
    fractions = pairs.below(cosine) if pairs else None
    return Comparison(own, other, _headers(own, other), _cameras(own, other), cosine, fractions)


def _headers(suspect: Inspection, reference: Inspection) -> tuple[Row, ...]:
    headers = [found.picture.file.header for found in (suspect, reference)]
    known = [header_fields(header) for header in headers if header]
    if len(known) < 2:
        return ()
    own, other = known
    return tuple(
        Row(label, own[name], other[name], None if "unknown" in (own[name], other[name]) else own[name] == other[name])
        for name, label in NAMES.items()
    )


def _cameras(suspect: Inspection, reference: Inspection) -> tuple[Row, ...]:
    rows = []
    for tag in ("Make", "Model", "Software"):
        own, other = (found.picture.tags.get(tag, "") for found in (suspect, reference))
        same = plain_name(own) == plain_name(other) if own and other else None
        rows.append(Row(tag, own or "not named", other or "not named", same))
    return tuple(rows)


def _on_headers(rows: tuple[Row, ...]) -> str:
    if not rows:
        return "Headers: not comparable, because one of the files has no JPEG header that can be read."
    unlike = [row.name for row in rows if row.same is False]
    return f"Headers: different in {', '.join(unlike)}." if unlike else "Headers: the same in all fields."


def _on_cameras(rows: tuple[Row, ...]) -> str:
    same = [row.same for row in rows if row.name != "Software"]
    if None in same:
        return "Cameras: not comparable, because the EXIF of one of the files does not name both make and model."
    return (
        "Cameras: the EXIF names the same make and model." if all(same) else "Cameras: the EXIF names different ones."
    )


def _on_pixels(cosine: float, pairs: Mapping[str, Any] | None) -> str:
    said = f"Pixels: the cosine of the embeddings is {cosine:.3f}"
    if pairs is None:
        return f"{said}; not calibrated, so compare it only with that of other pairs."
    return (
        f"{said}, higher than that of {percent(pairs['same'])} of pairs of photos of the same model and of "
        f"{percent(pairs['different'])} of pairs of different models ({pairs['photos']:,} photos of "
        f"{pairs['cameras']:,} models)."
    )


def write_comparison(comparison: Comparison, folder: str | Path, origin: Provenance) -> Path:
    """Write `<suspect>-<SHA-256>-<SHA-256>.html` and `.json`, 8 digits each, and return the path of the page.

    Each file is written atomically. Raises `OSError`.
    """
    own, other = comparison.suspect.picture, comparison.reference.picture
    page = Path(folder) / f"{report_name(own.name, own.sha256)}-{other.sha256[:8]}.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    made = datetime.now().astimezone().isoformat(" ", "seconds")
    both = {name: getattr(comparison, name) for name in ("suspect", "reference")}
    facts = {name: report_facts(found, origin, made) for name, found in both.items()}
    shown = [
        {
            "title": {"suspect": "Suspect", "reference": "Reference"}[name],
            "facts": facts[name],
            "statements": statement_table(found),
            "findings": finding_list(found),
            "thumbnails": thumbnail_pair(found),
        }
        for name, found in both.items()
    ]
    write_whole(page, render("comparison.html.j2", shown=shown, comparison=comparison, origin=origin.record, made=made))
    record: dict[str, Any] = {name: {key: facts[name][key] for key in _KEPT} for name in both}
    record |= {name: [row._asdict() for row in getattr(comparison, name)] for name in ("header", "camera")}
    record |= {"cosine": comparison.cosine, "pairs": comparison.pairs, "summary": comparison.summary}
    write_json(page.with_suffix(".json"), record | {"origin": origin.record, "made": made})
    return page
