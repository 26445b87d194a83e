"""What is taken away of an inspection: the picture as shown, and the arrays behind it."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from exiflang.figures import Panel, sheet
from exiflang.files import write_whole
from exiflang.inspection import Inspection
from exiflang.panels import MARKS, OUTLINE, window_square
from exiflang.report import report_name
from exiflang.views import VIEWS, outlines, shown_shape, shrink, view_picture


def shown_picture(
    inspection: Inspection,
    views: Sequence[str],
    threshold: float,
    opacity: float,
    marks: Mapping[str, tuple[int, int] | None],
) -> Image.Image:
    """Views over the whole picture, side by side, with the mask's outline and the windows marked "A" and "B"."""
    result, (height, width) = inspection.result, inspection.picture.image.shape[:2]
    size = shown_shape(height, width)
    scale = np.array(size[::-1]) / (width, height)
    lines = [(line, OUTLINE) for line in outlines(result.heatmap, threshold)]
    lines += [
        (window_square(result.window_size, result.stride, place), MARKS[name])
        for name, place in marks.items()
        if place is not None
    ]
    small, panels = shrink(inspection.picture.image).astype(np.float32), []
    for view in views:
        over = view_picture(inspection, view, threshold, marks["A"])
        drawn = np.ascontiguousarray((small + opacity * (over - small)).round().astype(np.uint8))
        for line, colour in lines:
            points = (line * scale).round().astype(np.int32)
            cv2.polylines(drawn, [points], False, tuple(bytes.fromhex(colour[1:])), 2, cv2.LINE_AA)
        panels.append(Panel(drawn, VIEWS[view].title))
    return sheet([panels], width=max(size[1], 300))


def save_picture(inspection: Inspection, folder: str | os.PathLike, *shown: Any) -> Path:
    """Write `shown_picture` as a PNG; returns its path."""
    file = io.BytesIO()
    shown_picture(inspection, *shown).save(file, "PNG")
    return _write(inspection, folder, ".png", file)


def arrays(inspection: Inspection, threshold: float) -> dict[str, np.ndarray]:
    """The arrays of a `SpliceResult` by name, the mask at a threshold, and `misfit` if there is one."""
    result = inspection.result
    names = ("heatmap", "raw", "embeddings", "pca", "consistency", "window_size", "stride", "score")
    found = {name: np.asarray(getattr(result, name)) for name in names}
    found |= {"mask": result.heatmap > threshold, "threshold": np.asarray(threshold)}
    return found | ({"misfit": inspection.fit.misfit} if inspection.fit else {})


def save_arrays(inspection: Inspection, folder: str | os.PathLike, threshold: float) -> Path:
    """Write `arrays` as a compressed .npz; returns its path."""
    file = io.BytesIO()
    np.savez_compressed(file, **arrays(inspection, threshold))
    return _write(inspection, folder, ".npz", file)


def _write(inspection: Inspection, folder: str | os.PathLike, suffix: str, data: io.BytesIO) -> Path:
    """Write a file in one step, named as the picture's report is, into a folder that is made if it is missing."""
    path = Path(folder) / f"{report_name(inspection.picture.name, inspection.picture.sha256)}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, data.getvalue())
    return path
