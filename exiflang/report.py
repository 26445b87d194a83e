"""An inspection as one page of HTML that loads nothing from anywhere, and the same in numbers as JSON.

Whatever comes from a file is escaped; the page forbids every load by its Content-Security-Policy, so that it can be
sent, kept and opened anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import Environment, PackageLoader, StrictUndefined

from exiflang.exif_tags import clean
from exiflang.figures import heat_colours, picture_panel
from exiflang.files import file_sha256, write_json, write_whole
from exiflang.inspection import Inspection, Inspector
from exiflang.tables import figures_table, fit_summary, metadata_table
from exiflang.views import (
    VIEWS,
    data_uri,
    first_threshold,
    meaning_of_score,
    meaning_of_view,
    outlines,
    shown_shape,
    shrink,
    view_picture,
    window_values,
)

#: Longer sides in pixels. Maps are smooth: more pixels would only make the page heavier.
MAP, THUMBNAIL = 640, 240
#: Steps of a colour bar.
_STEPS = 16
#: `views` ask for a chosen window; what a report draws depends on none.
_NO_WINDOW = (0, 0)


@dataclass(frozen=True)
class Origin:
    """What a report depends on besides its picture.

    Attributes:
        settings: see `Inspection`.
        model_files: {file of the model's folder: its SHA-256}; {} if it is not in a folder.
        private: whether GPS, serial numbers and names are shown.
        figures: what was measured of the model's judgement on EXIF, see `Population`.
    """

    settings: Mapping[str, Any]
    model_files: Mapping[str, str]
    private: bool
    figures: Mapping[str, Any]

    @classmethod
    def of(cls, inspector: Inspector) -> Origin:
        files = [path for path in sorted(Path(inspector.name).glob("*")) if path.suffix in (".json", ".safetensors")]
        return cls(
            inspector.settings,
            {path.name: digest for path in files if (digest := file_sha256(path))},
            inspector.private,
            inspector.population.figures if inspector.population else {},
        )

    @property
    def record(self) -> dict[str, Any]:
        """For JSON, and to compare by; the figures lie in the model's files."""
        return {"settings": dict(self.settings), "model_files": dict(self.model_files), "private": self.private}


def report_name(name: str, sha256: str) -> str:
    """What the files of a picture's report are called, without extension: safe on any disk and in any address."""
    stem = re.sub(r"[^\w.-]+", "_", Path(clean(name, 200)).stem)[:50].strip("._-")
    return f"{stem or 'picture'}-{sha256[:8]}"


def report_facts(inspection: Inspection, origin: Origin, made: str) -> dict[str, Any]:
    """A report in numbers, for `write_json`, which turns NaN into null.

    Heatmap and misfit are those of the windows, [rows, cols] in 0..1, whose size and stride in pixels stand beside
    them; `thumbnail` is a `data:` address. `made` is the date to print.
    """
    picture, result, fit = inspection.picture, inspection.result, inspection.fit
    threshold = first_threshold(inspection)
    height, width = picture.image.shape[:2]
    heat = window_values(inspection, "heatmap", threshold, _NO_WINDOW)
    return {
        "name": picture.name,
        "sha256": picture.sha256,
        "format": picture.format,
        "size": picture.size,
        "width": width,
        "height": height,
        "notes": list(picture.notes),
        "tags": dict(picture.tags),
        "hidden": picture.hidden,
        "score": result.score,
        "calibrated": inspection.calibrated,
        "meaning": meaning_of_score(inspection),
        "threshold": threshold,
        "mask_share": float((result.heatmap > threshold).mean()),
        "windows": {"size": result.window_size, "stride": result.stride, "preview": result.preview},
        "heatmap": _rounded(heat),
        "fit": fit
        and {
            "sentence": fit.sentence,
            "similarity": fit.similarity,
            "rank": fit.rank,
            "percentile": fit.percentile,
            "familiar": fit.familiar,
            "misfit": _rounded(fit.misfit),
            "tags": fit.tags.to_dict("records"),
        },
        "origin": origin.record,
        "versions": {"exiflang": origin.settings["exiflang"], "torch": str(torch.__version__)},
        "made": made,
        "thumbnail": data_uri(_outlined(inspection, threshold, THUMBNAIL)),
    }


def report_page(inspection: Inspection, facts: Mapping[str, Any], figures: Mapping[str, Any]) -> str:
    """A report to read: one page of HTML. `facts` are those of `report_facts`, `figures` those of `Origin`."""
    picture = inspection.picture
    height, width = shown_shape(facts["height"], facts["width"])
    lines = outlines(inspection.result.heatmap, facts["threshold"])
    return render(
        "report.html.j2",
        facts=facts,
        shape={"width": width, "height": height},
        picture=data_uri(shrink(picture.image)),
        outlined=data_uri(_outlined(inspection, facts["threshold"], MAP)),
        outlines=[" ".join(f"{x:.0f},{y:.0f}" for x, y in line) for line in lines],
        maps=_maps(inspection, facts["threshold"]),
        fit_summary=fit_summary(inspection),
        metadata_table=metadata_table(inspection),
        figures_table=figures_table(figures),
    )


def write_report(inspection: Inspection, folder: str | Path, origin: Origin) -> Path:
    """Write `<stem>-<first 8 of SHA-256>.html` and `.json` into a folder, and return the path of the page.

    Each file appears in one step; the JSON comes last and says that the report is whole. Raises `OSError`.
    """
    page = Path(folder) / f"{report_name(inspection.picture.name, inspection.picture.sha256)}.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    facts = report_facts(inspection, origin, datetime.now().astimezone().isoformat(" ", "seconds"))
    write_whole(page, report_page(inspection, facts, origin.figures))
    write_json(page.with_suffix(".json"), facts)
    return page


@cache
def _templates() -> Environment:
    loader = PackageLoader("exiflang")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def render(template: str, **values: Any) -> str:
    """A page of `exiflang/templates`; every value is escaped, but for what a template calls safe."""
    return _templates().get_template(template).render(values)


def _rounded(values: np.ndarray) -> list[list[float]]:
    return np.round(values.astype(float), 4).tolist()


def _outlined(inspection: Inspection, threshold: float, longest: int) -> np.ndarray:
    """The picture with the outline of its mask, uint8 [h, w, 3], at most `longest` a side."""
    mask = shrink(inspection.result.heatmap, longest) > threshold
    return picture_panel(shrink(inspection.picture.image, longest), mask, "").image


def _maps(inspection: Inspection, threshold: float) -> list[dict[str, Any]]:
    """What can be laid over the picture: key, title, meaning, image as `data:`, and colour bar as CSS or None."""
    maps = []
    for key in ("heatmap", "mask", "components", *(["misfit"] if inspection.fit else [])):
        look = VIEWS[key]
        image = view_picture(inspection, key, threshold, _NO_WINDOW, MAP)
        maps.append(
            {
                "key": key,
                "title": look.title,
                "meaning": meaning_of_view(inspection, key),
                "image": data_uri(image, lossless=key == "mask"),
                "bar": look.scale and _gradient(look.scale),
                "ticks": [f"{number:g}" for number in np.linspace(look.low, look.high, 5)],
            }
        )
    return maps


def _gradient(scale: str) -> str:
    """A colour scale as a CSS gradient from left to right."""
    colours = heat_colours(np.linspace(0, 1, _STEPS)[None], 0.0, 1.0, scale)[0]  # [_STEPS, 3]
    return f"linear-gradient(90deg,{','.join(f'rgb({r},{g},{b})' for r, g, b in colours)})"
