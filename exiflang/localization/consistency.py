"""Window embeddings → per-cell averages: pairwise dissimilarity, principal components (paper, section 3.4)."""

import numpy as np

from exiflang.localization.windows import stripes


def _spread_sum(array: np.ndarray, spread: int, axis: int) -> np.ndarray:
    """Add each entry to `spread` cells along `axis`, which grows by `spread - 1`."""
    shape = list(array.shape)
    shape[axis] += spread - 1
    total = np.zeros(shape, array.dtype)
    for shift in range(spread):
        covered = [slice(None)] * array.ndim
        covered[axis] = slice(shift, shift + array.shape[axis])
        total[tuple(covered)] += array
    return total


def cell_average(values: np.ndarray, spread: int, pairs: bool = False) -> np.ndarray:
    """Per-cell average over overlapping windows, each of which covers `spread` cells per side.

    `values` is [rows, cols, ...] → [h, w, ...] with `h = rows + spread - 1`. With `pairs`, pairwise responses of
    windows [rows, cols, rows, cols] → [h, w, h, w], in the closed form `(M' S M) / (c c' + 1e-4)`, where `M` is the
    0/1 membership of windows in cells and `c` its column sums; `M` is a box along each axis, hence separable.
    """
    axes = (0, 1, 2, 3) if pairs else (0, 1)
    total = np.asarray(values, np.float32)
    for axis in axes:
        total = _spread_sum(total, spread, axis)
    count = np.ones(values.shape[:2], np.float32)
    for axis in (0, 1):
        count = _spread_sum(count, spread, axis)  # [h, w]
    if pairs:
        return total / (count[:, :, None, None] * count + np.float32(1e-4))
    return total / count.reshape(count.shape + (1,) * (total.ndim - 2))


def resize_cells(
    cells: np.ndarray, height: int, width: int, window: int, stride: int, scale: float = 1.0
) -> np.ndarray:
    """Draw cells at their positions: [h, w] → float32 [H, W], bilinear between their centers.

    Cells are `stride` pixels wide. A window's cells are centered in it: its size is rarely a multiple of `stride`.
    `scale`: size of the drawing, H x W, relative to the picture in whose pixels `window` and `stride` are given.
    """
    margin = (window - max(1, window // stride) * stride) / 2
    y, x = (((np.arange(side) + 0.5) / scale - margin) / stride for side in (height, width))  # in cells
    return _bilinear(cells, y - 0.5, x - 0.5)


def resize_windows(
    values: np.ndarray, height: int, width: int, window: int, stride: int, scale: float = 1.0
) -> np.ndarray:
    """Draw one value per window at its position: [rows, cols] → float32 [H, W], bilinear between window centers.

    `scale`: as in `resize_cells`.
    """
    return _bilinear(values, *_in_windows(height, width, window, stride, scale))


def windows_above(level: float, values: np.ndarray, height: int, width: int, window: int, stride: int) -> np.ndarray:
    """Where `resize_windows` exceeds a level, without a float for each pixel: values [rows, cols] → bool [H, W]."""
    y, x = _in_windows(height, width, window, stride)
    above = np.empty((height, width), bool)
    for rows in stripes(height, width):
        above[rows] = _bilinear(values, y[rows], x) > level
    return above


def _in_windows(height: int, width: int, window: int, stride: int, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Centers of the rows and columns of pixels, in windows from the center of the first: [H], [W]."""
    y, x = (((np.arange(side) + 0.5) / scale - window / 2) / stride for side in (height, width))
    return y, x


def _bilinear(array: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Interpolate [h, w] at rows `y` and columns `x` (in cells): float32 [H, W], constant beyond the ends."""
    tall = _interpolate(array.astype(np.float32), y, 0)  # [H, w]
    drawn = np.empty((len(y), len(x)), np.float32)
    for rows in stripes(*drawn.shape):
        drawn[rows] = _interpolate(tall[rows], x, 1)
    return drawn


def _interpolate(array: np.ndarray, at: np.ndarray, axis: int) -> np.ndarray:
    """Linear interpolation of [h, w] along `axis` at `at` (in cells), constant beyond the ends."""
    last = array.shape[axis] - 1
    at = np.clip(at, 0, last)
    low = at.astype(int)
    share = np.expand_dims((at - low).astype(np.float32), 1 - axis)
    before, after = array.take(low, axis), array.take(np.minimum(low + 1, last), axis)
    return before + share * (after - before)


def principal_components(embeddings: np.ndarray, spread: int) -> np.ndarray:
    """Three whitened components of [rows, cols, D] per cell, clipped at 3 deviations: float32 [h, w, 3] in 0..1.

    A component that does not exist (fewer than four windows, a picture of one color) is 0.5 everywhere.
    """
    rows, cols, dim = embeddings.shape
    flat = embeddings.reshape(rows * cols, dim)
    components = np.zeros((rows * cols, 3), np.float32)
    wanted = min(3, rows * cols - 1, dim)
    if wanted > 0 and np.ptp(flat, axis=0).max() > 1e-5:
        from sklearn.decomposition import PCA  # takes seconds to import

        solver = "arpack" if wanted < min(flat.shape) else "full"  # three of hundreds of components
        pca = PCA(wanted, whiten=True, svd_solver=solver, random_state=0)
        found = pca.fit_transform(flat)  # [rows * cols, D] -> [rows * cols, wanted]
        # Whitening would amplify the rounding errors of an empty component to full contrast.
        components[:, :wanted] = np.where(pca.explained_variance_ratio_ > 1e-6, found, 0)
    return np.clip(cell_average(components.reshape(rows, cols, 3), spread) / 6 + 0.5, 0, 1)


def cell_consistency(embeddings: np.ndarray, spread: int) -> np.ndarray:
    """Dissimilarity of cells, averaged over their windows: unit [rows, cols, D] → float32 [h, w, h, w], 0..2."""
    rows, cols, dim = embeddings.shape
    flat = embeddings.reshape(rows * cols, dim)
    response = 1 - np.clip(flat @ flat.T, -1, 1)  # [rows * cols, rows * cols]
    return cell_average(response.reshape(rows, cols, rows, cols), spread, pairs=True)
