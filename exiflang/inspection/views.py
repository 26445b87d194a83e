"""Views of an inspection as pictures, numbers and sentences: pure functions for the widget, notebook and reports."""

from dataclasses import dataclass

import numpy as np

from exiflang.inspection.inspector import Inspection
from exiflang.inspection.verdict import UNRELIABLE, spoken
from exiflang.localization.consistency import cell_average, resize_cells, resize_windows
from exiflang.localization.evidence import MEANINGS
from exiflang.localization.learned_readout import LEARNED
from exiflang.localization.localizer import MASK_THRESHOLD
from exiflang.viz.images import SHOWN, heat_colors, shown_shape, shrink


@dataclass(frozen=True)
class View:
    """A view of a picture: its title, its meaning, and its color scale from `low` to 1 (None: no scale)."""

    title: str
    meaning: str
    scale: str | None
    low: float = 0.0


#: Kinds of evidence, which have a view each, and what a high value means.
EVIDENCE = {"camera_traces": "camera traces unlike those of the rest", **MEANINGS}
VIEWS = {
    "heatmap": View(
        "Heatmap", "bright: unlike the rest of the picture; share of authentic pictures' cells below", "inferno"
    ),
    "mask": View("Mask", "pixels above the threshold", None),
    "components": View("Components", "similar colors: similar traces; three principal components of all windows", None),
    "similarity": View(
        "Similarity", "bright: similar to the chosen window; cosine of their embeddings", "viridis", -1.0
    ),
    "misfit": View(
        "EXIF misfit", "bright: does not fit this file's EXIF; share of other photos' EXIF that fits better", "cividis"
    ),
    **{
        name: View(
            spoken(name)[0].upper() + spoken(name)[1:], f"bright: {meaning}; on this picture's own scale", "viridis"
        )
        for name, meaning in EVIDENCE.items()
    },
}


def window_centers(inspection: Inspection) -> tuple[np.ndarray, np.ndarray]:
    """Centers of the rows and columns of windows, in pixels: float [rows], [cols]."""
    window, stride = inspection.result.window_size, inspection.result.stride
    rows, cols = inspection.result.embeddings.shape[:2]
    return np.arange(rows) * stride + window / 2, np.arange(cols) * stride + window / 2


def window_at(inspection: Inspection, x: float, y: float) -> tuple[int, int]:
    """Row and column of the window whose center is nearest to a point in pixels."""
    down, across = window_centers(inspection)
    return int(np.abs(down - y).argmin()), int(np.abs(across - x).argmin())


def same_place(place: tuple[int, int], old: Inspection, new: Inspection) -> tuple[int, int]:
    """The window of a new inspection that is nearest to a window of the old one, both as (row, column)."""
    down, across = window_centers(old)
    return window_at(new, float(across[place[1]]), float(down[place[0]]))


def similarity_map(embeddings: np.ndarray, row: int, col: int) -> np.ndarray:
    """Cosine of one window with every window: [rows, cols, D] -> float32 [rows, cols], 1 at the window itself."""
    return np.clip(embeddings @ embeddings[row, col], -1, 1)


def window_values(inspection: Inspection, view: str, threshold: float, chosen: tuple[int, int]) -> np.ndarray:
    """The value of a view at each window: float [rows, cols]; NaN if the view has none for this picture.

    For the heatmap, it is the window's own value (learned readout) or the one at its center; for the mask, 0 or 1; for
    components, the first one.
    """
    result = inspection.result
    if view == "similarity":
        return similarity_map(result.embeddings, *chosen)
    if view == "misfit":
        return inspection.fit.misfit if inspection.fit else np.full(result.embeddings.shape[:2], np.nan, np.float32)
    if view in EVIDENCE:
        maps = inspection.seen.traces | result.evidence.maps
        return maps.get(view, np.full(result.embeddings.shape[:2], np.nan, np.float32))
    rows, cols = (centers.astype(int) for centers in window_centers(inspection))
    if view == "components":
        spread = max(1, result.window_size // result.stride)
        first = result.pca[..., 0]
        return first[spread // 2 :, spread // 2 :][: len(rows), : len(cols)]
    if view == "mask":
        source, level = mask_source(inspection, threshold)
        return (source[np.ix_(rows, cols)] > level).astype(np.float32)
    if inspection.settings["readout"] == LEARNED:
        return result.scale(result.values.copy())
    return result.heatmap[np.ix_(rows, cols)]


def mask_source(inspection: Inspection, threshold: float) -> tuple[np.ndarray, float]:
    """The map that the mask is thresholded from, float32 or uint8 [H, W], and the level.

    With a decision, the mask shows its regions until the threshold is moved.
    """
    result = inspection.result
    if result.decision and threshold == first_threshold(inspection):
        return result.mask.view(np.uint8) * np.uint8(255), 127.5
    return result.heatmap, threshold


def value_range(view: str, values: np.ndarray) -> tuple[float, float]:
    """Values at the ends of a view's scale: similarity starts at the least similar window; evidence spans the 1st to
    the 99th percentile."""
    if view in EVIDENCE and np.isfinite(values).all():
        low, high = np.percentile(values, (1, 99)).tolist()
        return low, max(high, low + 1e-3)
    return float(values.min()) if view == "similarity" else VIEWS[view].low, 1.0


def unreliable(inspection: Inspection, longest: int = SHOWN) -> np.ndarray:
    """Unreliable parts of the picture: bool [h, w], at most `longest` per side."""
    result, shape = inspection.result, inspection.picture.image.shape[:2]
    height, width = shown_shape(shape[0], shape[1], longest)
    scale = max(height, width) / max(shape)
    return resize_windows(result.reliability, height, width, result.window_size, result.stride, scale) < UNRELIABLE


def hatching(inspection: Inspection, longest: int = SHOWN) -> np.ndarray:
    """Hatching of unreliable parts, to overlay on the heatmap: uint8 [h, w, 4], transparent elsewhere."""
    little = unreliable(inspection, longest)
    y, x = np.indices(little.shape)
    stripe = (x + y) % 12 // 2
    lines = np.zeros((*little.shape, 4), np.uint8)
    lines[little & (stripe == 0)] = (255, 255, 255, 190)
    lines[little & (stripe == 1)] = (0, 0, 0, 130)
    return lines


def lay_over(lines: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """A picture, uint8 [h, w, 3], with `hatching` of the same size on top."""
    cover = lines[..., 3:] / np.float32(255)
    return (picture + cover * (lines[..., :3] - picture.astype(np.float32))).astype(np.uint8)


def view_picture(
    inspection: Inspection, view: str, threshold: float, chosen: tuple[int, int], longest: int = SHOWN
) -> np.ndarray:
    """A view of the whole picture, in color: uint8 [h, w, 3], at most `longest` per side; gray if there is none."""
    result, shape = inspection.result, inspection.picture.image.shape[:2]
    height, width = shown_shape(shape[0], shape[1], longest)
    place = {"window": result.window_size, "stride": result.stride, "scale": max(height, width) / max(shape)}
    if view == "heatmap" and inspection.settings["readout"] == LEARNED:  # not from `heatmap`, which is slow and large
        return heat_colors(result.scale(resize_windows(result.values, height, width, **place)), 0.0, 1.0)
    if view == "heatmap":
        return heat_colors(shrink(result.heatmap, longest), 0.0, 1.0)
    if view == "mask":
        source, level = mask_source(inspection, threshold)
        inside = shrink(source, longest) > level
        return np.where(inside[..., None], np.uint8(255), np.uint8(0)).repeat(3, axis=2)
    if view == "components":
        planes = [resize_cells(result.pca[..., i], height, width, **place) for i in range(3)]
        return (np.stack(planes, axis=-1) * 255).astype(np.uint8)
    values = window_values(inspection, view, threshold, chosen)
    scale = VIEWS[view].scale
    if scale is None or not np.isfinite(values).all():
        return np.full((height, width, 3), 128, np.uint8)
    spread = max(1, result.window_size // result.stride)
    drawn = resize_cells(cell_average(values, spread), height, width, **place)
    return heat_colors(drawn, *value_range(view, values), scale)


def first_threshold(inspection: Inspection) -> float:
    """The mask's initial threshold: even odds of tampering, `MASK_THRESHOLD` for a calibrated heatmap, else the one
    that reproduces the area of the result's mask."""
    if inspection.settings["readout"] == LEARNED:
        return 0.5
    if inspection.calibrated:
        return MASK_THRESHOLD
    result = inspection.result
    return float(np.quantile(result.heatmap, 1 - np.clip(result.mask.mean(), 0.01, 0.5)))


def meaning_of_view(inspection: Inspection | None, view: str) -> str:
    """A description of what a view shows for a picture, or why it shows nothing."""
    if inspection is None:
        return VIEWS[view].meaning
    if reason := inspection.result.evidence.absent.get(view):
        return f"nothing to show: {reason}"
    if view == "mask" and inspection.result.decision:
        return "the regions that were found, until the threshold is moved"
    if view == "heatmap" and inspection.settings["readout"] == LEARNED:
        return "bright: likely tampered; the readout's probability for each pixel"
    if view == "heatmap" and not inspection.calibrated:
        return "bright: unlike the rest of the picture; on the readout's scale, since this model is not calibrated"
    return VIEWS[view].meaning
