"""An inspection as one HTML page that loads nothing from the network, and the same data as JSON.

All content from files is escaped, and the page's Content-Security-Policy forbids loading anything, so it can be sent,
kept and opened anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch

from exiflang.exif.tags import clean
from exiflang.headers.reference import SignatureReference
from exiflang.inspection.file_tables import file_section, statement_table
from exiflang.inspection.file_words import file_facts
from exiflang.inspection.inspector import Inspection, Inspector
from exiflang.inspection.review import Review, kept_review, review_block
from exiflang.inspection.tables import figures_table, fit_summary, metadata_table, region_table
from exiflang.inspection.verdict import decision_facts, meaning_of_score, region_facts
from exiflang.inspection.views import (
    EVIDENCE,
    VIEWS,
    first_threshold,
    hatching,
    mask_source,
    meaning_of_view,
    unreliable,
    value_range,
    view_picture,
    window_values,
)
from exiflang.utils.files import file_sha256, printable, write_json, write_whole
from exiflang.viz.html import render
from exiflang.viz.images import data_uri, heat_colors, outlines, picture_panel, shown_shape, shrink

#: Lengths of the longer side, in pixels. Maps are smooth: more pixels would only make the page larger.
MAP, SMALL_MAP, THUMBNAIL = 640, 320, 240
#: Steps of a color bar.
_STEPS = 16
#: `views` require a chosen window, which has no effect on a report.
_NO_WINDOW = (0, 0)


@dataclass(frozen=True)
class Provenance:
    """Everything a report depends on besides its picture.

    Attributes:
        settings: see `Inspection`.
        model_files: {file of the model's folder: its SHA-256}; {} if it is not in a folder.
        private: whether GPS, serial numbers and names are shown.
        figures: measured accuracy of the model's EXIF check, see `TextBank`.
        signatures: key of the signature reference and its number of photos; {} without one.
    """

    settings: Mapping[str, Any]
    model_files: Mapping[str, str]
    private: bool
    figures: Mapping[str, Any]
    signatures: Mapping[str, Any]

    @classmethod
    def of(cls, inspector: Inspector) -> Provenance:
        files = [path for path in sorted(Path(inspector.name).glob("*")) if path.suffix in (".json", ".safetensors")]
        return cls(
            inspector.settings,
            {path.name: digest for path in files if (digest := file_sha256(path))},
            inspector.private,
            inspector.text_bank.figures if inspector.text_bank else {},
            _reference_record(inspector.signatures),
        )

    @property
    def record(self) -> dict[str, Any]:
        """For JSON and for comparisons; without the figures, which are in the model's files."""
        known = {"settings": dict(self.settings), "model_files": dict(self.model_files), "private": self.private}
        return known | {"signatures": dict(self.signatures)}


def _reference_record(reference: SignatureReference | None) -> dict[str, Any]:
    if reference is None:
        return {}
    key = sha256(" ".join(sorted(reference.photos)).encode()).hexdigest()[:12]
    return {"key": key, "photos": len(reference.photos)}


def report_name(name: str, digest: str) -> str:
    """Name of the files of a picture's report, without extension: safe in any file system and URL."""
    stem = re.sub(r"[^\w.-]+", "_", Path(clean(printable(name), 200)).stem)[:50].strip("._-")
    return f"{stem or 'picture'}-{digest[:8]}"


def report_facts(inspection: Inspection, origin: Provenance, made: str, review: Review | None = None) -> dict[str, Any]:
    """A report as data, for `write_json`, which turns NaN into null.

    Heatmap and misfit are given per window, [rows, cols] in 0..1, with the windows' size and stride in pixels; evidence
    maps by their minimum, median and maximum; `thumbnail` is a `data:` URL. `made` is the date to print.
    """
    picture, result, fit = inspection.picture, inspection.result, inspection.fit
    threshold = first_threshold(inspection)
    source, level = mask_source(inspection, threshold)
    height, width = picture.image.shape[:2]
    return {
        **{key: getattr(picture, key) for key in ("name", "sha256", "format", "size")},
        "width": width,
        "height": height,
        **{key: getattr(picture, key) for key in ("notes", "tags", "hidden")},
        "score": result.score,
        "calibrated": inspection.calibrated,
        "meaning": meaning_of_score(inspection),
        "decision": decision_facts(inspection),
        "regions": region_facts(inspection),
        "threshold": threshold,
        "mask_share": float((source > level).mean()),
        "unreliable_share": float(unreliable(inspection).mean()),
        "evidence": {
            "maps": {name: _spread(values) for name, values in result.evidence.maps.items()},
            "absent": result.evidence.absent,
        },
        "windows": {"size": result.window_size, "stride": result.stride, "preview": result.preview},
        "heatmap": _rounded(window_values(inspection, "heatmap", threshold, _NO_WINDOW)),
        "fit": fit
        and {
            **{key: getattr(fit, key) for key in ("sentence", "similarity", "rank", "percentile", "familiar")},
            "misfit": _rounded(fit.misfit),
            "tags": fit.tags.to_dict("records"),
        },
        "file": file_facts(inspection),
        "review": (review or Review()).record,
        "origin": origin.record,
        "versions": {"exiflang": origin.settings["exiflang"], "torch": str(torch.__version__)},
        "made": made,
        "thumbnail": data_uri(_outlined(inspection, threshold, THUMBNAIL)),
    }


def report_page(inspection: Inspection, facts: Mapping[str, Any], figures: Mapping[str, Any]) -> str:
    """A report as one HTML page. `facts` are from `report_facts`, `figures` from `Provenance`."""
    picture = inspection.picture
    height, width = shown_shape(facts["height"], facts["width"])
    lines = outlines(*mask_source(inspection, facts["threshold"]))
    over = ["heatmap", "mask", "components", *(["misfit"] if inspection.fit else [])]
    return render(
        "report.html.j2",
        facts=facts,
        shape={"width": width, "height": height},
        picture=data_uri(shrink(picture.image)),
        outlined=data_uri(_outlined(inspection, facts["threshold"], MAP)),
        outlines=[" ".join(f"{x:.0f},{y:.0f}" for x, y in line) for line in lines],
        hatching=data_uri(hatching(inspection, MAP), lossless=True),
        maps=_maps(inspection, over, MAP),
        evidence=_maps(inspection, EVIDENCE, SMALL_MAP),
        review=review_block(Review.of(facts)),
        statement_table=statement_table(inspection),
        file_section=file_section(inspection),
        region_table=region_table(inspection),
        fit_summary=fit_summary(inspection),
        metadata_table=metadata_table(inspection),
        figures_table=figures_table(figures),
    )


def report_path(inspection: Inspection, folder: str | Path) -> Path:
    """Path of the page of a picture's report in a folder."""
    return Path(folder) / f"{report_name(inspection.picture.name, inspection.picture.sha256)}.html"


def write_report(inspection: Inspection, folder: str | Path, origin: Provenance) -> Path:
    """Write `<stem>-<first 8 digits of SHA-256>.html` and `.json` to a folder, and return the path of the page.

    Each file is written atomically; the JSON comes last and marks the report as complete. An earlier report on the same
    file leaves its review. Raises `OSError`.
    """
    page = report_path(inspection, folder)
    page.parent.mkdir(parents=True, exist_ok=True)
    review = kept_review(page.with_suffix(".json"), inspection.picture.sha256)
    facts = report_facts(inspection, origin, datetime.now().astimezone().isoformat(" ", "seconds"), review)
    write_whole(page, report_page(inspection, facts, origin.figures))
    write_json(page.with_suffix(".json"), facts)
    return page


def _rounded(values: np.ndarray) -> list[list[float]]:
    return np.round(values.astype(float), 4).tolist()


def _spread(values: np.ndarray) -> dict[str, float]:
    return {"least": float(values.min()), "middle": float(np.median(values)), "largest": float(values.max())}


def _outlined(inspection: Inspection, threshold: float, longest: int) -> np.ndarray:
    """The picture with the outline of its mask, uint8 [h, w, 3], at most `longest` per side."""
    source, level = mask_source(inspection, threshold)
    mask = shrink(source, longest) > level
    return picture_panel(shrink(inspection.picture.image, longest), mask, "").image


def _maps(inspection: Inspection, views: Iterable[str], longest: int) -> list[dict[str, Any]]:
    """Views for the page: key, title, meaning, image as a `data:` URL, and color bar as CSS or None."""
    threshold, found = first_threshold(inspection), []
    for key in views:
        look, values = VIEWS[key], window_values(inspection, key, threshold, _NO_WINDOW)
        image = view_picture(inspection, key, threshold, _NO_WINDOW, longest)
        found.append(
            {
                "key": key,
                "title": look.title,
                "meaning": meaning_of_view(inspection, key),
                "image": data_uri(image, lossless=key == "mask"),
                "bar": _gradient(look.scale) if look.scale and np.isfinite(values).all() else None,
                "ticks": [f"{n:.2g}" for n in np.linspace(*value_range(key, values), 3 if key in EVIDENCE else 5)],
            }
        )
    return found


def _gradient(scale: str) -> str:
    """A color scale as a CSS gradient from left to right."""
    colors = heat_colors(np.linspace(0, 1, _STEPS)[None], 0.0, 1.0, scale)[0]  # [_STEPS, 3]
    return f"linear-gradient(90deg,{','.join(f'rgb({r},{g},{b})' for r, g, b in colors)})"
