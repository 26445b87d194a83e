"""Exports of an inspection: the picture as shown, and the arrays behind it."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from exiflang.inspection.inspector import Inspection
from exiflang.inspection.report import report_name
from exiflang.inspection.views import VIEWS, hatching, lay_over, mask_source, view_picture
from exiflang.inspection.widget.panels import MARKS, OUTLINE, window_square
from exiflang.utils.files import write_whole
from exiflang.viz.images import LabeledImage, outlines, sheet, shown_shape, shrink


def shown_picture(
    inspection: Inspection,
    views: Sequence[str],
    threshold: float,
    opacity: float,
    marks: Mapping[str, tuple[int, int] | None],
    hatched: bool,
) -> Image.Image:
    """Views of the whole picture, side by side, with the mask's outline and the windows marked "A" and "B"; heatmaps
    are hatched on request."""
    result, (height, width) = inspection.result, inspection.picture.image.shape[:2]
    size = shown_shape(height, width)
    scale = np.array(size[::-1]) / (width, height)
    lines = [(line, OUTLINE) for line in outlines(*mask_source(inspection, threshold))]
    squares = {name: window_square(result.window_size, result.stride, place) for name, place in marks.items()}
    lines += [(square, MARKS[name]) for name, square in squares.items() if len(square)]
    small, panels = shrink(inspection.picture.image).astype(np.float32), []
    for view in views:
        over = view_picture(inspection, view, threshold, marks["A"] or (0, 0))
        drawn = np.ascontiguousarray((small + opacity * (over - small)).round().astype(np.uint8))
        if hatched and view == "heatmap":
            drawn = lay_over(hatching(inspection), drawn)
        for line, color in lines:
            points = (line * scale).round().astype(np.int32)
            cv2.polylines(drawn, [points], False, tuple(bytes.fromhex(color[1:])), 2, cv2.LINE_AA)
        panels.append(LabeledImage(drawn, VIEWS[view].title))
    return sheet([panels], width=max(size[1], 300))


def save_picture(inspection: Inspection, folder: str | os.PathLike, *shown: Any) -> Path:
    """Write `shown_picture` as a PNG; returns its path."""
    file = io.BytesIO()
    shown_picture(inspection, *shown).save(file, "PNG")
    return _write(inspection, folder, ".png", file)


def save_arrays(inspection: Inspection, folder: str | os.PathLike, threshold: float) -> Path:
    """Write a compressed .npz with the arrays of the `SpliceResult`, the maps of its evidence, the mask at a threshold,
    and `misfit` if there is one; returns its path."""
    result, file = inspection.result, io.BytesIO()
    names = ("heatmap", "raw", "reliability", "embeddings", "pca", "consistency", "window_size", "stride", "score")
    source, level = mask_source(inspection, threshold)
    arrays = {name: getattr(result, name) for name in names} | result.evidence.maps
    arrays |= {"mask": source > level, "threshold": threshold}
    if inspection.fit:
        arrays["misfit"] = inspection.fit.misfit
    np.savez_compressed(file, **arrays)
    return _write(inspection, folder, ".npz", file)


def _write(inspection: Inspection, folder: str | os.PathLike, suffix: str, data: io.BytesIO) -> Path:
    """Write a file atomically, named like the picture's report, to a folder that is created if necessary."""
    path = Path(folder) / f"{report_name(inspection.picture.name, inspection.picture.sha256)}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, data.getvalue())
    return path
