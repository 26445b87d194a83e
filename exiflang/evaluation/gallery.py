"""The scored pictures of a run: an HTML page, sorted by score, and rows of examples for a figure."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from exiflang.evaluation.metrics import average_precision, count_levels
from exiflang.evaluation.score_run import ScoredSet
from exiflang.evaluation.scoring import FIGURES
from exiflang.localization.consistency import resize_windows
from exiflang.localization.localizer import SpliceLocalizer
from exiflang.utils.files import write_whole
from exiflang.viz.html import PAGE, render
from exiflang.viz.images import LabeledImage, heat_colors, heatmap_panel, mark_windows, picture_panel

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


def method_steps(
    sets: Mapping[str, ScoredSet], scores: pd.DataFrame, localizer: SpliceLocalizer
) -> tuple[list[list[LabeledImage]], pd.DataFrame]:
    """From windows to heatmap: six panels of the first set's spliced picture with the median p-mAP, and their figures.

    The windows; how unlike all others are to the one that agrees least with them; all pairs of cells, sorted by the
    next map; the second eigenvector; the paper's mean shift; the heatmap. A row of figures per map: its mean inside and
    outside the spliced region, and its p-mAP. Both are empty if no spliced picture was scored.
    """
    first = scores[scores["spliced"] & (scores["method"] == "model") & (scores["readout"] == localizer.readout)]
    if first.empty:
        return [], pd.DataFrame()
    name = str(first["set"].iloc[0])
    ranked = first[first["set"] == name].sort_values("p_map", kind="stable")["name"]
    (item,) = sets[name].benchmark.only([ranked.iloc[len(ranked) // 2]])
    seen = localizer.observe(item.image, item.history)
    unlike = 1 - np.tensordot(seen.embeddings, seen.embeddings, (2, 2))  # [rows, cols, rows, cols]
    rows, cols = unlike.shape[:2]
    row, col = divmod(int(unlike.mean((2, 3)).argmax()), cols)
    cut, shifted = (localizer.values(seen, readout)[0] for readout in ("eigenvector", "mean_shift"))  # [h, w]
    height, width = item.mask.shape
    order = cut.argsort(None)
    pairs = seen.consistency.reshape(cut.size, cut.size)[np.ix_(order, order)]  # [h w, h w]
    maps = {
        f"unlike window {row}, {col}": resize_windows(unlike[row, col], height, width, seen.window, seen.stride),
        "eigenvector": localizer.draw(seen, cut, "eigenvector"),
        "mean shift": localizer.draw(seen, shifted, "mean_shift"),
        f"heatmap ({localizer.readout.replace('_', ' ')})": localizer.read_out(seen).heatmap,
    }
    marked = mark_windows(item.image, (rows, cols, seen.window, seen.stride), (row, col))
    low, high = np.percentile(pairs, [1, 99])
    matrix = heat_colors(pairs, float(low), float(high))
    beside = max(0, round(cut.size * item.mask.shape[1] / item.mask.shape[0]) - cut.size)  # as wide as a picture
    matrix = np.pad(matrix, ((0, 0), (0, beside), (0, 0)), constant_values=255)
    panels = [picture_panel(marked, item.mask, f"{name} {item.name}, {rows} x {cols} windows")]
    panels += [heatmap_panel(values, title) for title, values in maps.items()]
    panels.insert(2, LabeledImage(matrix, f"all pairs of {cut.size} cells"))
    panels = [LabeledImage(panel.image, f"{n}. {panel.label}") for n, panel in enumerate(panels, 1)]
    figures = {
        title: {
            "inside the region": values[item.mask].mean(),
            "outside": values[~item.mask].mean(),
            "p-mAP": max(average_precision(count_levels(item.mask, sign * values)[1]) for sign in (1, -1)),
        }
        for title, values in maps.items()
    }
    return [panels[:3], panels[3:]], pd.DataFrame(figures).T


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
