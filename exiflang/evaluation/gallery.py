"""The scored pictures of a run: an HTML page, sorted by score, and rows of examples for a figure."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from exiflang.evaluation.score_run import ScoredSet
from exiflang.evaluation.scoring import FIGURES
from exiflang.localization.localizer import SpliceLocalizer
from exiflang.utils.files import write_whole
from exiflang.viz.html import PAGE, render
from exiflang.viz.images import LabeledImage, heatmap_panel, picture_panel

#: Columns of the table, if present in a summary, including the protocol behind each figure.
_SHOWN = ("set", "method", "readout", "protocol", "border", "over", "pictures", "authentic")
_FIGURES = ("p_map", "p_map_se", *FIGURES[1:])


def write_score_gallery(
    path: str | Path, sets: Mapping[str, ScoredSet], scores: pd.DataFrame, summary: pd.DataFrame
) -> Path:
    """Write the page for the pictures of `sets`, and return its path.

    It has a card per picture with the scores of the first method and readout in `scores` (see `score_each`), `summary`
    above them (see `summarize_pictures`), and a list of skipped pictures. It loads no external resources.
    """
    first = scores.iloc[0]
    rows = scores[(scores["method"] == first["method"]) & (scores["readout"] == first["readout"])].to_dict("records")
    entries = [_entry(row, sets[row["set"]]) for row in rows]
    left_out = [(f"{name}: {picture}", reason) for name, found in sets.items() for picture, reason in found.skipped()]
    page = render(
        "scores.html.j2",
        title=", ".join(sets),
        readout=first["readout"],
        entries=sorted(entries, key=lambda entry: (entry["p_map"] is None, -(entry["p_map"] or 0))),
        left_out=left_out,
        table=_table(summary),
        page=PAGE,
    )
    path = Path(path)
    write_whole(path, page)
    return path


def example_rows(
    sets: Mapping[str, ScoredSet], scores: pd.DataFrame, localizer: SpliceLocalizer, shares: Sequence[float]
) -> list[list[LabeledImage]]:
    """Rows of picture, heatmap and components: each set's spliced pictures at the upper quantiles `shares` of p-mAP."""
    rows = []
    first = scores[scores["spliced"] & (scores["method"] == "model") & (scores["readout"] == localizer.readout)]
    for name, part in first.groupby("set", sort=False):
        ranked = part.set_index("name")["p_map"].sort_values(kind="stable", ascending=False)
        wanted = [ranked.index[round(share * (len(ranked) - 1))] for share in shares]
        for item in sorted(sets[str(name)].benchmark.only(wanted), key=lambda item: wanted.index(item.name)):
            result = localizer(item.image)
            picture = picture_panel(item.image, item.mask, f"{name} {item.name}, {item.info['format']}")
            heatmap = heatmap_panel(result.heatmap, f"heatmap, p-mAP {ranked[item.name]:.2f}")
            rows.append([picture, heatmap, LabeledImage((result.pca * 255).astype(np.uint8), "components")])
    return rows


def _entry(row: Mapping[str, Any], found: ScoredSet) -> dict[str, Any]:
    thumbnail = found.place(row["name"], ".jpg").read_bytes()
    spliced = row["spliced"]
    shown = {"set": row["set"], "kind": row["kind"]}
    shown |= {name: _figure(row[name]) for name in _FIGURES if name in row and spliced and not pd.isna(row[name])}
    return {
        "name": row["name"],
        "p_map": row["p_map"] if spliced else None,
        "detection": row["detection"],
        "scores": shown | {"detection": _figure(row["detection"])},
        "thumbnail": f"data:image/jpeg;base64,{base64.b64encode(thumbnail).decode()}",
    }


def _table(summary: pd.DataFrame) -> Sequence[Mapping[str, Any]]:
    columns = [name for name in (*_SHOWN, *_FIGURES) if name in summary and summary[name].notna().any()]
    return [
        {name: _figure(row[name]) if name in _FIGURES else row[name] for name in columns}
        for row in summary.to_dict("records")
    ]


def _figure(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.3f}"
