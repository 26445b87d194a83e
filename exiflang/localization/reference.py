"""The choices of the paper's reference code that differ from ours, one by one: `SpliceLocalizer(protocol="reference")`.

They reproduce its figures. Its crashes are not among them: a picture smaller than a window, or hardly larger, has a
window of its size or a stride of one pixel.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from exiflang.localization.clustering import READOUTS, square_rows
from exiflang.utils.images import ImageError

#: More cells than that are refused: moving their rows one by one takes minutes, and their pairs gigabytes.
MOST_CELLS = 4000


@dataclass
class SequentialMeanShift:
    """Mean shift as the reference code has it: rows move one after the other, in place, so that their order counts.

    As `MeanShiftMode`, but each row becomes the mean of the *moved* rows whose originals lie within the radius of it,
    those before it moved once more often than those behind it. (There a k-d tree of the original rows finds the
    neighbors, and their indices then address the array that is being changed.)
    """

    percentile: float = 10.0
    iterations: int = 5

    def fit_predict(self, dissimilarity: np.ndarray) -> np.ndarray:
        """float [h, w, h, w] → float32 [h, w], the dissimilarity of each cell to the picture's largest mode."""
        rows, h, w = square_rows(dissimilarity)
        rows_mean = rows.mean(0)
        rows -= rows_mean  # what all rows share would only add to the rounding
        norms = np.einsum("nd,nd->n", rows, rows)
        moved = rows.copy()
        inner = rows @ rows.T  # [n, n], of the moved rows with the original ones; as linear in the first as means are
        distances = np.sqrt(np.maximum(norms[:, None] + norms - 2 * inner, 0))
        np.fill_diagonal(distances, 0)
        # Every distance occurs twice, so that the radius often is one: a row at that distance is within.
        reach = np.percentile(distances, self.percentile) ** 2 + 1e-12 * norms.max()
        for _ in range(self.iterations):
            for i in range(len(rows)):
                near = np.flatnonzero(moved[i] @ moved[i] + norms - 2 * inner[i] <= reach)
                if len(near):
                    moved[i], inner[i] = moved[near].mean(0), inner[near].mean(0)
        squared = np.einsum("nd,nd->n", moved, moved)[:, None] + norms - 2 * inner
        members = (squared <= reach).sum(1)  # [n]
        return (moved[members == members.max()].mean(0) + rows_mean).reshape(h, w).astype(np.float32)


SEQUENTIAL = "sequential_mean_shift"
#: What the reference protocol may read out by: `SEQUENTIAL` is its own, the others stand beside it.
REFERENCE_READOUTS = READOUTS | {SEQUENTIAL: SequentialMeanShift}


def reference_grid(height: int, width: int, window_size: int, windows_per_side: int) -> tuple[int, int]:
    """(window, stride) in pixels: `stride = (longer side - window) // windows_per_side`.

    Wider than the window where the picture is large: there are gaps then. Raises `ImageError` for a picture so small,
    at windows so large, that it would fall into more than `MOST_CELLS` cells.
    """
    window = min(window_size, height, width)
    stride = max(1, (max(height, width) - window) // windows_per_side)
    spread = max(1, window // stride)
    rows, cols = ((side - window) // stride + spread for side in (height, width))
    if rows * cols > MOST_CELLS:
        raise ImageError(
            f"a picture of {width} x {height} pixels: the reference protocol cuts it into {rows * cols:,} cells, more "
            f"than {MOST_CELLS:,}: use protocol='default', or smaller windows"
        )
    return window, stride


def negate_colors(image: np.ndarray) -> np.ndarray:
    """What the reference's network sees in a test: uint8 → uint8, `v → (256 - v) mod 256`.

    Its float patches of 0..255 go through a conversion to 8 bits that multiplies by 255. Its training patches do not.
    """
    return np.negative(image)


def stretch_cells(cells: np.ndarray, height: int, width: int) -> np.ndarray:
    """Cells stretched over the picture: [h, w] → float32 [H, W], bilinear.

    A cell lies up to half a window from its true place, where windows leave a border or end before the picture does.
    """
    return cv2.resize(cells.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
