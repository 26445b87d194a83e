"""What is drawn of an inspection, as pictures, lines and numbers: pure functions for widget, notebook and reports."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image
from skimage.measure import approximate_polygon, find_contours

from exiflang.figures import heat_colours
from exiflang.inspection import Inspection
from exiflang.localize import FOREIGN, resize_cells, vote

#: Longer side in pixels of what is drawn: a screen shows no more.
SHOWN = 1024


@dataclass(frozen=True)
class View:
    """A way to look at a picture: its title, what it says, colour scale and range of its values (None: no scale)."""

    title: str
    meaning: str
    scale: str | None
    low: float = 0.0
    high: float = 1.0


VIEWS = {
    "heatmap": View(
        "Heatmap", "bright: unlike the rest of the picture; share of authentic pictures' cells below", "inferno"
    ),
    "mask": View("Mask", "what lies above the threshold", None),
    "components": View("Components", "like colours: like traces; three principal components of all windows", None),
    "similarity": View("Similarity", "bright: like the chosen window; the cosine of their embeddings", "viridis", -1.0),
    "misfit": View(
        "EXIF misfit",
        "bright: does not fit this file's EXIF; the share of other photos' EXIF that fits better",
        "cividis",
    ),
}


def shown_shape(height: int, width: int, longest: int = SHOWN) -> tuple[int, int]:
    """Height and width of a picture drawn with at most `longest` pixels a side, at least 1 x 1."""
    scale = min(1.0, longest / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def shrink(array: np.ndarray, longest: int = SHOWN) -> np.ndarray:
    """[H, W] or [H, W, C] with at most `longest` pixels a side: areas are averaged, nothing is enlarged."""
    height, width = shown_shape(*array.shape[:2], longest)
    if (height, width) == array.shape[:2]:
        return array
    return cv2.resize(array, (width, height), interpolation=cv2.INTER_AREA)


def window_centres(inspection: Inspection) -> tuple[np.ndarray, np.ndarray]:
    """Of rows and columns of windows, in pixels: float [rows], [cols]."""
    window, stride = inspection.result.window_size, inspection.result.stride
    rows, cols = inspection.result.embeddings.shape[:2]
    return np.arange(rows) * stride + window / 2, np.arange(cols) * stride + window / 2


def window_at(inspection: Inspection, x: float, y: float) -> tuple[int, int]:
    """Row and column of the window whose centre is nearest to a point in pixels."""
    down, across = window_centres(inspection)
    return int(np.abs(down - y).argmin()), int(np.abs(across - x).argmin())


def same_place(place: tuple[int, int], old: Inspection, new: Inspection) -> tuple[int, int]:
    """The window of a picture's new inspection that is nearest to one of the old, both (row, column)."""
    down, across = window_centres(old)
    return window_at(new, across[place[1]], down[place[0]])


def similarity_map(embeddings: np.ndarray, row: int, col: int) -> np.ndarray:
    """Cosine of one window with every window: [rows, cols, D] -> float32 [rows, cols], 1 at the window itself."""
    return np.clip(embeddings @ embeddings[row, col], -1, 1)


def window_values(inspection: Inspection, view: str, threshold: float, chosen: tuple[int, int]) -> np.ndarray:
    """The value of a view at each window: float [rows, cols]; NaN if the view has none for this picture.

    The heatmap's is the one at the window's centre, the mask's 0 or 1, the first component stands for all three.
    """
    result = inspection.result
    if view == "similarity":
        return similarity_map(result.embeddings, *chosen)
    if view == "misfit":
        return inspection.fit.misfit if inspection.fit else np.full(result.embeddings.shape[:2], np.nan, np.float32)
    rows, cols = (centres.astype(int) for centres in window_centres(inspection))
    if view == "components":
        spread = max(1, result.window_size // result.stride)
        first = result.pca[..., 0]
        return first[spread // 2 :, spread // 2 :][: len(rows), : len(cols)]
    heat = result.heatmap[np.ix_(rows, cols)]
    return (heat > threshold).astype(np.float32) if view == "mask" else heat


def view_picture(
    inspection: Inspection, view: str, threshold: float, chosen: tuple[int, int], longest: int = SHOWN
) -> np.ndarray:
    """A view over the whole picture, in colour: uint8 [h, w, 3], at most `longest` a side; grey if there is none."""
    result, shape = inspection.result, inspection.picture.image.shape[:2]
    height, width = shown_shape(*shape, longest)
    if view == "heatmap":
        return heat_colours(shrink(result.heatmap, longest), 0.0, 1.0)
    if view == "mask":
        inside = shrink(result.heatmap, longest) > threshold
        return np.where(inside[..., None], np.uint8(255), np.uint8(0)).repeat(3, axis=2)
    place = {"window": result.window_size, "stride": result.stride, "scale": max(height, width) / max(shape)}
    if view == "components":
        planes = [resize_cells(result.pca[..., i], height, width, **place) for i in range(3)]
        return (np.stack(planes, axis=-1) * 255).astype(np.uint8)
    values = window_values(inspection, view, threshold, chosen)
    if not np.isfinite(values).all():
        return np.full((height, width, 3), 128, np.uint8)
    spread = max(1, result.window_size // result.stride)
    drawn = resize_cells(vote(values, spread), height, width, **place)
    look = VIEWS[view]
    low = float(values.min()) if view == "similarity" else look.low
    return heat_colours(drawn, low, look.high, look.scale)


def outlines(heatmap: np.ndarray, threshold: float, longest: int = 512) -> list[np.ndarray]:
    """Closed lines around what lies above the threshold, [H, W] -> float arrays [n, 2] of x and y in pixels."""
    small = shrink(heatmap, longest)
    padded = np.pad(small, 1, constant_values=-1.0)  # so that regions at the border are closed too
    scale = np.array(heatmap.shape[::-1]) / np.array(small.shape[::-1])
    lines = [approximate_polygon(line, 0.5) for line in find_contours(padded, threshold)]
    return [np.clip((line[:, ::-1] - 0.5) * scale, 0, heatmap.shape[::-1]) for line in lines if len(line) > 3]


def data_uri(image: np.ndarray, lossless: bool = False, quality: int = 90) -> str:
    """uint8 [H, W, 3] as a `data:` address, JPEG or PNG."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG" if lossless else "JPEG", **({} if lossless else {"quality": quality}))
    kind = "png" if lossless else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def first_threshold(inspection: Inspection) -> float:
    """Where the mask's threshold starts: `FOREIGN` for a calibrated heatmap, else what gives the result's own area."""
    if inspection.calibrated:
        return FOREIGN
    result = inspection.result
    return float(np.quantile(result.heatmap, 1 - np.clip(result.mask.mean(), 0.01, 0.5)))


def meaning_of_view(inspection: Inspection | None, view: str) -> str:
    """What a view says, for a person."""
    if view == "heatmap" and inspection and not inspection.calibrated:
        return "bright: unlike the rest of the picture; the readout's own scale, as this model is not calibrated"
    return VIEWS[view].meaning


def meaning_of_score(inspection: Inspection) -> str:
    """A sentence on the score, for a person."""
    score = inspection.result.score
    if not inspection.calibrated:
        return f"Score {score:.3f}: higher is more likely spliced. This model is not calibrated: compare only its own."
    how_many = "few" if score >= 0.95 else "some" if score >= 0.8 else "many"
    return (
        f"Score {score:.2f}: higher than {100 * score:.0f} % of authentic pictures; {how_many} of them look as uneven."
    )
