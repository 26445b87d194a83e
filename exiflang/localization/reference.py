"""Where the paper's reference code differs from ours, reproduced for `SpliceLocalizer(protocol="reference")`.

This reproduces its figures, but not its crashes: a picture smaller than a window, or barely larger, gets a window of
its own size or a stride of one pixel.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from exiflang.localization.clustering import READOUTS, square_rows
from exiflang.utils.images import ImageError

#: Larger grids are rejected: shifting their rows one by one takes minutes, and their pairs take gigabytes.
MOST_CELLS = 4000


@dataclass
class SequentialMeanShift:
    """Mean shift as in the reference code, which shifts rows in place one after another, so their order matters.

    Like `MeanShiftMode`, but each row becomes the mean of the *shifted* rows whose originals are within its radius, and
    rows before it have been shifted once more than rows after it. (The reference finds neighbors in a k-d tree of the
    original rows, then uses their indices on the array it is modifying.)
    """

    percentile: float = 10.0
    iterations: int = 5

    def fit_predict(self, dissimilarity: np.ndarray) -> np.ndarray:
        """float [h, w, h, w] → float32 [h, w], the dissimilarity of each cell to the picture's largest mode."""
        rows, h, w = square_rows(dissimilarity)
        rows_mean = rows.mean(0)
        rows -= rows_mean  # a common offset would only add rounding error
        norms = np.einsum("nd,nd->n", rows, rows)
        moved = rows.copy()
        inner = rows @ rows.T  # [n, n], shifted rows by original rows; linear in the former, so means carry over
        distances = np.sqrt(np.maximum(norms[:, None] + norms - 2 * inner, 0))
        np.fill_diagonal(distances, 0)
        # Every distance occurs twice, so the radius often equals one; such a row must count as within it.
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
#: Readouts for the reference protocol: its own, `SEQUENTIAL`, and the others for comparison.
REFERENCE_READOUTS = READOUTS | {SEQUENTIAL: SequentialMeanShift}


def reference_grid(height: int, width: int, window_size: int, windows_per_side: int) -> tuple[int, int]:
    """(window, stride) in pixels: `stride = (longer side - window) // windows_per_side`.

    In a large picture, the stride exceeds the window and leaves gaps. Raises `ImageError` if the picture would be
    divided into more than `MOST_CELLS` cells, as a small picture with large windows is.
    """
    window = min(window_size, height, width)
    stride = max(1, (max(height, width) - window) // windows_per_side)
    spread = max(1, window // stride)
    rows, cols = ((side - window) // stride + spread for side in (height, width))
    if rows * cols > MOST_CELLS:
        raise ImageError(
            f"a picture of {width} x {height} pixels: the reference protocol cuts it into {rows * cols:,} cells, more "
            f"than {MOST_CELLS:,}: use protocol='default' or smaller windows"
        )
    return window, stride


def negate_colors(image: np.ndarray) -> np.ndarray:
    """The input of the reference's network at test time: uint8 → uint8, `v → (256 - v) mod 256`.

    At test time, but not in training, a conversion to 8 bits multiplies its float patches, already 0..255, by 255.
    """
    return np.negative(image)


def stretch_cells(cells: np.ndarray, height: int, width: int) -> np.ndarray:
    """Cells stretched over the picture: [h, w] → float32 [H, W], bilinear.

    A cell is up to half a window from its true position if windows leave a margin or end before the picture does.
    """
    return cv2.resize(cells.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
