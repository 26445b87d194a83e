"""What a picture's file and pixels say of each window without training: JPEG history, block grid, content.

`gather_evidence` gives named maps, float32 [rows, cols], a value a window. A kind that has nothing to say of a picture
is absent, and the reason is kept. No map is a verdict: the learned readout weighs them.
"""

from dataclasses import dataclass, field

import cv2
import numpy as np
from PIL import Image

from exiflang.localization.windows import window_shares
from exiflang.utils.dct import LumaBlocks

# scipy is imported by the functions: an import of the localizer does not wait for it.

#: Maps by name, and what a high value means.
MEANINGS = {
    "jpeg_history": "an earlier JPEG compression on the block grid of the rest has left no trace here",
    "former_history": "the same on another grid, which the picture had before it was cropped or saved as it is now",
    "grid_along": "the block grid is as strong as in the rest of the picture, or stronger",
    "grid_beside": "another block grid than that of the rest of the picture",
    "brightness": "light",
    "deviation": "contrast",
    "gradient": "fine detail",
    "clipped": "black or white pixels, which have lost their traces",
    "saturation": "strong colors",
}
#: The 45 AC frequencies of a block with the longest waves, (row, column): finer ones are zero in most blocks.
LOW_FREQUENCIES = sorted(((v, u) for v in range(8) for u in range(8) if v + u), key=lambda vu: (sum(vu), vu))[:45]
#: Differences of pixels count at most this much, in levels: edges of what is shown would drown the block grid.
ROUGHEST = 8.0
#: Names of `Evidence.numbers`.
NUMBERS = ("is a JPEG file", "log of its first step", "log of its mean low step", "grid", "other grid")


@dataclass(frozen=True, eq=False)
class Evidence:
    """Evidence on one picture.

    Attributes:
        maps: float32 [rows, cols] by name, see `MEANINGS`.
        absent: of each map that is absent the reason.
        numbers: float32 [len(NUMBERS)], of the whole picture: 1 and the logs of a JPEG file's luma steps, zeros without
            one; how far the grids of `grid_corner` stand out, zeros in a picture too small for a grid.
    """

    maps: dict[str, np.ndarray] = field(repr=False)
    absent: dict[str, str]
    numbers: np.ndarray = field(repr=False)


class WindowMeans:
    """Means over the windows of a picture of H x W pixels."""

    def __init__(self, height: int, width: int, window: int, stride: int):
        self.down, self.across = (
            window_shares(side, 1, window, stride, (side - window) // stride + 1).float().numpy()
            for side in (height, width)
        )  # [rows, H], [cols, W]

    def __call__(self, plane: np.ndarray) -> np.ndarray:
        """[H, W] → float32 [rows, cols]."""
        return self.down @ plane.astype(np.float32) @ self.across.T


def gather_evidence(image: np.ndarray, luma: LumaBlocks | None, window: int, stride: int) -> Evidence:
    """All kinds of evidence on a picture uint8 [H, W, 3], a value a window.

    luma: of the picture's file, if that is a JPEG. Without it the history is read from the pixels, on the grid that is
    strongest in them. A picture of less than three blocks a side has neither history nor grid.
    """
    height, width = image.shape[:2]
    means = WindowMeans(height, width, window, stride)
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    maps = content(image, gray, means)
    steps = _steps(luma)
    if min(height, width) < 24:
        reason = f"the picture has {width} x {height} pixels, less than three blocks a side"
        absent = dict.fromkeys(("jpeg_history", "former_history", "grid_along", "grid_beside"), reason)
        return Evidence(maps, absent, np.array([*steps, 0, 0], np.float32))
    maps |= block_grid(gray, means)
    top, left, strength = grid_corner(gray)
    other_top, other_left, other_strength = grid_corner(gray, other=True)
    history = _pixel_history(gray, top, left) if luma is None else _upright_history(luma, height, width)
    maps["jpeg_history"] = means(history)
    maps["former_history"] = means(_pixel_history(gray, other_top, other_left))
    return Evidence(maps, {}, np.array([*steps, strength, other_strength], np.float32))


def _steps(luma: LumaBlocks | None) -> tuple[float, float, float]:
    """The first three of `NUMBERS`."""
    if luma is None:
        return 0.0, 0.0, 0.0
    low = np.sort(luma.steps.ravel())[:10]
    return 1.0, float(np.log(max(luma.steps[0, 0], 1))), float(np.log(max(low.mean(), 1)))


def jpeg_history(blocks: np.ndarray) -> np.ndarray:
    """How far each block lies in gaps that an earlier compression has left in the others: → float32 [h, w].

    Of a photo that was compressed twice on one block grid, the histogram of a frequency's quantized values has peaks
    and gaps, which blocks from elsewhere do not keep to. For each of `LOW_FREQUENCIES`, with `h` the histogram over
    the picture and `s` the same smoothed by a Gaussian of 0.6 bins, a block adds
    `log((s + 1) / (max(h - 1, 0) + 1))` of its own value, clipped to ±3: what it brings itself does not count. The sum
    is smoothed by 1.5 blocks. High = tampered. It says nothing where the host was compressed once, or before on another
    grid, or the second time much more coarsely. (The traces: Lin et al., Pattern Recognition 42, 2009.)

    blocks: quantized coefficients of luma, int16 [h, w, 8, 8].
    """
    from scipy.ndimage import gaussian_filter, gaussian_filter1d

    total = np.zeros(blocks.shape[:2], np.float32)
    for v, u in LOW_FREQUENCIES:
        values = blocks[:, :, v, u].astype(np.int32)
        bins = values - values.min()  # [h, w]
        counts = np.bincount(bins.ravel()).astype(np.float64)
        expected = gaussian_filter1d(counts, 0.6, mode="constant")
        gap = np.log((expected + 1) / (np.maximum(counts - 1, 0) + 1)).clip(-3, 3)
        total += gap.astype(np.float32)[bins]
    return gaussian_filter(total, 1.5, mode="nearest")


def pixel_blocks(gray: np.ndarray, top: int, left: int) -> np.ndarray:
    """DCT of all whole blocks of a picture uint8 [H, W] from a corner on, in whole levels: int16 [h, w, 8, 8].

    Of pixels that come from a JPEG on this grid they gather at multiples of its quantization steps, wherever the file
    went since.
    """
    h, w = (gray.shape[0] - top) // 8, (gray.shape[1] - left) // 8
    blocks = gray[top : top + 8 * h, left : left + 8 * w].reshape(h, 8, w, 8).swapaxes(1, 2)  # [h, w, 8, 8]
    basis = cv2.dct(np.eye(8, dtype=np.float32), flags=cv2.DCT_ROWS).T  # [frequency, pixel]
    return np.rint(basis @ (blocks.astype(np.float32) - 128) @ basis.T).astype(np.int16)


def grid_corner(gray: np.ndarray, other: bool = False) -> tuple[int, int, float]:
    """Top and left, 0..7, of a picture's strongest block grid, and how far it exceeds the mean phase, in shares of it.

    A border of blocks shows in the third difference across it, `|x[i - 2] - 3 x[i - 1] + 3 x[i] - x[i + 1]|`, which
    counts a step between `x[i - 1]` and `x[i]` twice, and one beside it once.

    other: only grids whose top and left are both above 0; a JPEG file has that of the corner anyway.
    """
    corner, strength = [], []
    for levels in (gray, gray.T):
        levels = levels.astype(np.float32)
        step = np.minimum(np.abs(levels[:-3] - 3 * levels[1:-2] + 3 * levels[2:-1] - levels[3:]), 3 * ROUGHEST)
        phase = (np.arange(len(step)) + 2) % 8  # of the border before row 2, 3, ...
        found = np.bincount(phase, step.mean(1), minlength=8) / np.maximum(np.bincount(phase, minlength=8), 1)
        excess = (found - found.mean()) / (found.mean() + 1e-6)
        best = int(excess[int(other) :].argmax()) + int(other)
        corner.append(best)
        strength.append(float(excess[best]))
    return corner[0], corner[1], min(strength)


def _pixel_history(gray: np.ndarray, top: int, left: int) -> np.ndarray:
    """`jpeg_history` of the pixels' blocks from a corner on, float32 [H, W]."""
    return _over_pixels(jpeg_history(pixel_blocks(gray, top, left)), top, left, *gray.shape)


def _over_pixels(blocks: np.ndarray, top: int, left: int, height: int, width: int) -> np.ndarray:
    """A value a block over the pixels, [h, w] → [height, width]; the outermost go on beyond the whole blocks."""
    rows = np.clip((np.arange(height) - top) // 8, 0, blocks.shape[0] - 1)
    cols = np.clip((np.arange(width) - left) // 8, 0, blocks.shape[1] - 1)
    return blocks[np.ix_(rows, cols)]


def _upright_history(luma: LumaBlocks, height: int, width: int) -> np.ndarray:
    """`jpeg_history` over the pixels of the upright picture, float32 [height, width]."""
    stored = _over_pixels(jpeg_history(luma.quantized), 0, 0, luma.height, luma.width)
    if luma.turn is not None:
        stored = np.asarray(Image.fromarray(stored).transpose(luma.turn))
    return stored[:height, :width]


def block_grid(gray: np.ndarray, means: WindowMeans) -> dict[str, np.ndarray]:
    """How each window's JPEG block grid agrees with that of the picture: uint8 [H, W] → maps float32 [rows, cols].

    A block's border shows in the second difference across it, `|2 x[i] - x[i - 1] - x[i + 1]|`. A window's profile is
    its mean at each of the 8 phases of columns, and of rows, as the excess over the mean of the phases in shares of it:
    16 numbers. The picture's is the median of those. `grid_along` is a window's part in the direction of the picture's,
    `grid_beside` the length of what is left: low and high where a region brought another grid, or none. Both are noise
    in a picture without a grid, which was never compressed or was resized since.
    """
    across = _phases(gray, means.down, means.across)
    down = _phases(gray.T, means.across, means.down).swapaxes(0, 1)
    profile = np.concatenate([across, down], axis=2)  # [rows, cols, 16]
    common = np.median(profile, axis=(0, 1))
    common /= np.linalg.norm(common) + 1e-6
    along = profile @ common
    beside = np.linalg.norm(profile - along[..., None] * common, axis=2)
    return {"grid_along": along.astype(np.float32), "grid_beside": beside.astype(np.float32)}


def _phases(gray: np.ndarray, down: np.ndarray, across: np.ndarray) -> np.ndarray:
    """Excess of the second difference across columns at each of their 8 phases: [rows, cols, 8]."""
    levels = np.pad(gray.astype(np.float32), ((0, 0), (1, 1)), mode="edge")
    rough = np.minimum(np.abs(2 * levels[:, 1:-1] - levels[:, :-2] - levels[:, 2:]), ROUGHEST)  # [H, W]
    strips = down @ rough  # [rows, W]
    phase = np.arange(rough.shape[1]) % 8
    found = np.stack([strips[:, phase == k] @ across[:, phase == k].T for k in range(8)], axis=2)
    weight = np.stack([across[:, phase == k].sum(1) for k in range(8)], axis=1)  # [cols, 8]
    found = found / np.maximum(weight, 1e-6)
    base = found.mean(2, keepdims=True)
    return (found - base) / (base + 0.1)


def content(image: np.ndarray, gray: np.ndarray, means: WindowMeans) -> dict[str, np.ndarray]:
    """What a window shows, so that a flat or clipped one is not taken for a tampered one: maps float32 [rows, cols].

    Of luma in shares of 255 its mean (`brightness`), `deviation` and `gradient` (mean difference of neighbors);
    `clipped`, the share of pixels below 3 or above 252; `saturation`, the mean spread of the channels.
    """
    luma = gray.astype(np.float32) / 255
    brightness, middle = means(luma), luma.mean()  # squares of what is left lose no digits in a flat picture
    steps = np.abs(np.diff(luma, axis=0, append=luma[-1:])) + np.abs(np.diff(luma, axis=1, append=luma[:, -1:]))
    return {
        "brightness": brightness,
        "deviation": np.sqrt(np.maximum(means((luma - middle) ** 2) - (brightness - middle) ** 2, 0)),
        "gradient": means(steps) / 2,
        "clipped": means((gray < 3) | (gray > 252)),
        "saturation": means(image.max(2) - image.min(2)) / 255,
    }
