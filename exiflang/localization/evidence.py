"""Untrained evidence on each window from a picture's file and pixels: JPEG history, block grid, content.

`gather_evidence` returns named maps, float32 [rows, cols], one value per window. A map that cannot be computed for a
picture is absent, with the reason. No single map is a verdict; the learned readout weighs them.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from exiflang.localization.windows import no_progress, stripes, window_shares
from exiflang.utils.dct import read_luma

# scipy is imported inside functions to keep importing the localizer fast.

#: Maps by name, and what a high value means.
MEANINGS = {
    "jpeg_history": "no trace here of an earlier JPEG compression on the block grid of the rest",
    "former_history": "the same for a different block grid, from before the picture was cropped or last saved",
    "grid_along": "the block grid is as strong as in the rest of the picture, or stronger",
    "grid_beside": "a block grid unlike that of the rest of the picture",
    "brightness": "bright",
    "deviation": "contrast",
    "gradient": "fine detail",
    "clipped": "black or white pixels, which have lost their traces",
    "saturation": "strong colors",
}
#: The 45 lowest AC frequencies of a block, (row, column): higher ones are zero in most blocks.
LOW_FREQUENCIES = sorted(((v, u) for v in range(8) for u in range(8) if v + u), key=lambda vu: (sum(vu), vu))[:45]
#: Pixel differences are clipped at this many levels: edges of the scene would drown out the block grid.
ROUGHEST = 8.0
#: Filters along a row: across a block boundary, and across a pixel.
_ACROSS_BORDER, _ACROSS_PIXEL = np.array([[1.0, -3.0, 3.0, -1.0]]), np.array([[-1.0, 2.0, -1.0]])
#: Names of `Evidence.numbers`.
NUMBERS = ("is a JPEG file", "log of its first step", "log of its mean low step", "grid", "other grid")


@dataclass(frozen=True, eq=False)
class Evidence:
    """Evidence on one picture.

    Attributes:
        maps: float32 [rows, cols] by name, see `MEANINGS`.
        absent: the reason for each map that is absent.
        numbers: float32 [len(NUMBERS)], for the whole picture: 1 and logs of the JPEG file's luma steps, or zeros if
            it is not a JPEG; the strengths of the grids of `grid_corners`, zeros in a picture too small for a grid.
    """

    maps: dict[str, np.ndarray] = field(repr=False)
    absent: dict[str, str]
    numbers: np.ndarray = field(repr=False)


@dataclass(frozen=True, eq=False)
class FileHistory:
    """Summary of the coefficients of a JPEG file of H x W stored pixels (they would take two bytes per pixel).

    Attributes:
        blocks: float32 [h, w], their `jpeg_history`.
        steps: the quantization table of luma, [8, 8].
        height, width, turn: as in `LumaBlocks`.
    """

    blocks: np.ndarray = field(repr=False)
    steps: np.ndarray = field(repr=False)
    height: int
    width: int
    turn: Image.Transpose | None


def read_history(photo: str | os.PathLike | bytes) -> FileHistory | None:
    """The history of a JPEG file; None for other files, see `read_luma`."""
    luma = read_luma(photo)
    if luma is None:
        return None
    return FileHistory(jpeg_history(luma.quantized), luma.steps, luma.height, luma.width, luma.turn)


class WindowMeans:
    """Averages over the windows of a picture of H x W pixels."""

    def __init__(self, height: int, width: int, window: int, stride: int):
        self.down, self.across = (
            window_shares(side, 1, window, stride, (side - window) // stride + 1).float() for side in (height, width)
        )  # [rows, H], [cols, W]

    def __call__(self, plane: np.ndarray) -> np.ndarray:
        """[H, W] → float32 [rows, cols]."""
        return self.in_stripes(lambda rows: {"plane": plane[rows]})["plane"]

    def in_stripes(self, planes: Callable[[slice], Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Averages of named planes; `planes` computes them for a slice of rows, [h, W]: float32 [rows, cols] each."""
        return {name: (strip @ self.across.T).numpy() for name, strip in self.over_rows(planes).items()}

    def over_rows(self, planes: Callable[[slice], Mapping[str, np.ndarray]]) -> dict[str, Tensor]:
        """The same, but averaged only vertically: float32 [rows, W] each."""
        sums: dict[str, Tensor] = {}
        for rows in stripes(self.down.shape[1], self.across.shape[1]):
            for name, plane in planes(rows).items():
                part = self.down[:, rows] @ torch.from_numpy(plane.astype(np.float32, copy=False))
                sums[name] = sums[name].add_(part) if name in sums else part
        return sums

    def of_blocks(self, values: np.ndarray, down: np.ndarray, across: np.ndarray) -> np.ndarray:
        """Averages of values per block, [h, w]; `down`, int [H], and `across`, int [W], index them: [rows, cols]."""
        sides = ((self.down, down, values.shape[0]), (self.across, across, values.shape[1]))
        rows, cols = (
            shares.new_zeros(len(shares), blocks).index_add_(1, torch.from_numpy(of_pixel), shares)
            for shares, of_pixel, blocks in sides
        )  # [rows, h], [cols, w]
        return (rows @ torch.from_numpy(values) @ cols.T).numpy()


@torch.autocast("cpu", enabled=False)  # a caller's lower precision is meant for networks
def gather_evidence(
    image: np.ndarray,
    history: FileHistory | None,
    window: int,
    stride: int,
    progress: Callable[[float], None] = no_progress,
) -> Evidence:
    """All evidence on a picture uint8 [H, W, 3], one value per window.

    history: the file's, if it is a JPEG; None: computed from the pixels, on the strongest block grid. A picture of less
    than three blocks per side has neither history nor grid.
    progress: called with the fraction done, 0..1; it may raise to stop.
    """
    height, width = image.shape[:2]
    means = WindowMeans(height, width, window, stride)
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    maps = content(image, gray, means)
    progress(0.2)
    steps = _steps(history)
    if min(height, width) < 24:
        reason = f"the picture has {width} x {height} pixels, less than three blocks per side"
        absent = dict.fromkeys(("jpeg_history", "former_history", "grid_along", "grid_beside"), reason)
        return Evidence(maps, absent, np.array([*steps, 0, 0], np.float32))
    maps |= block_grid(gray, means)
    progress(0.4)
    (top, left, strength), (other_top, other_left, other_strength) = grid_corners(gray)
    progress(0.6)
    if history is None:
        maps["jpeg_history"] = _pixel_history(gray, top, left, means)
    else:
        maps["jpeg_history"] = _upright_history(history, height, width, means)
    progress(0.8)
    maps["former_history"] = _pixel_history(gray, other_top, other_left, means)
    progress(1.0)
    return Evidence(maps, {}, np.array([*steps, strength, other_strength], np.float32))


def _steps(history: FileHistory | None) -> tuple[float, float, float]:
    """The first three of `NUMBERS`."""
    if history is None:
        return 0.0, 0.0, 0.0
    low = np.sort(history.steps.ravel())[:10]
    return 1.0, float(np.log(max(history.steps[0, 0], 1))), float(np.log(max(low.mean(), 1)))


def jpeg_history(blocks: np.ndarray) -> np.ndarray:
    """How much each block's values fall into histogram gaps of an earlier JPEG compression: → float32 [h, w].

    In a photo compressed twice on one block grid, the histogram of each frequency's quantized values has peaks and
    gaps, which spliced blocks do not follow. For each of `LOW_FREQUENCIES`, with `h` the histogram over the picture and
    `s` the same smoothed by a Gaussian of 0.6 bins, a block scores `log((s + 1) / (max(h - 1, 0) + 1))` at its own
    value, clipped to ±3; subtracting 1 excludes the block itself. The sum over frequencies is smoothed by 1.5 blocks.
    High = tampered. It is uninformative if the host was compressed once, if its first compression used a different
    grid, or if the second one was much coarser. (The traces: Lin et al., Pattern Recognition 42, 2009.)

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
    """DCT of all whole blocks of a picture uint8 [H, W] starting at a corner, rounded: int16 [h, w, 8, 8].

    If the pixels come from a JPEG on this grid, values cluster at multiples of its quantization steps, whatever file
    format the picture was saved to since.
    """
    h, w = (gray.shape[0] - top) // 8, (gray.shape[1] - left) // 8
    blocks = gray[top : top + 8 * h, left : left + 8 * w].reshape(h, 8, w, 8).swapaxes(1, 2)  # [h, w, 8, 8]
    basis = cv2.dct(np.eye(8, dtype=np.float32), flags=cv2.DCT_ROWS).T  # [frequency, pixel]
    found = np.empty(blocks.shape, np.int16)
    for rows in stripes(h, 64 * w):
        found[rows] = np.rint(basis @ (blocks[rows].astype(np.float32) - 128) @ basis.T)
    return found


def grid_corners(gray: np.ndarray) -> list[tuple[int, int, float]]:
    """Top and left, 0..7, of a picture's two strongest block grids, and each one's relative excess over the mean phase.

    The first is the strongest; the second is the strongest with both top and left above 0, since every JPEG file has a
    grid at its corner. A block boundary shows in the third difference across it,
    `|x[i - 2] - 3 x[i - 1] + 3 x[i] - x[i + 1]|`, which weights a step between `x[i - 1]` and `x[i]` twice as much as
    one next to it.
    """
    height, width = gray.shape
    down, across = np.empty(height, np.float32), np.zeros(width, np.float32)
    for rows in stripes(height, width):
        down[rows] = _rough(gray, rows, _ACROSS_BORDER.T, 3 * ROUGHEST).mean(1)
        across += _rough(gray, rows, _ACROSS_BORDER, 3 * ROUGHEST).sum(0)
    excess = []
    for step in (down[2:-1], across[2:-1] / np.float32(height)):
        phase = (np.arange(len(step)) + 2) % 8  # of the boundary before line 2, 3, ...
        found = np.bincount(phase, step, minlength=8) / np.maximum(np.bincount(phase, minlength=8), 1)
        excess.append((found - found.mean()) / (found.mean() + 1e-6))
    grids = []
    for first in (0, 1):
        top, left = (int(phases[first:].argmax()) + first for phases in excess)
        grids.append((top, left, float(min(excess[0][top], excess[1][left]))))
    return grids


def _rough(gray: np.ndarray, rows: slice, kernel: np.ndarray, most: float) -> np.ndarray:
    """Absolute responses of a filter of up to 5 pixels, clipped at `most`, in some rows of a picture; border pixels
    are replicated: uint8 [H, W] → float32 [h, W]."""
    first, last = max(rows.start - 2, 0), rows.stop + 2
    found = cv2.filter2D(gray[first:last], cv2.CV_32F, kernel, borderType=cv2.BORDER_REPLICATE)
    found = found[rows.start - first :][: rows.stop - rows.start]
    return np.minimum(np.abs(found, out=found), most, out=found)


def _pixel_history(gray: np.ndarray, top: int, left: int, means: WindowMeans) -> np.ndarray:
    """`jpeg_history` per window, from the pixels' blocks starting at a corner: float32 [rows, cols]."""
    blocks = jpeg_history(pixel_blocks(gray, top, left))
    down, across = (_block_of_pixels(*sizes) for sizes in zip(gray.shape, (top, left), blocks.shape, strict=True))
    return means.of_blocks(blocks, down, across)


def _block_of_pixels(pixels: int, start: int, blocks: int) -> np.ndarray:
    """The block index of each pixel along a side, int [pixels]; pixels outside whole blocks get the outermost one."""
    return np.clip((np.arange(pixels) - start) // 8, 0, blocks - 1)


def _upright_history(history: FileHistory, height: int, width: int, means: WindowMeans) -> np.ndarray:
    """A file's history per window of the upright picture of H x W pixels: float32 [rows, cols]."""
    blocks, turn = history.blocks, history.turn
    down = _block_of_pixels(history.height, 0, blocks.shape[0])[:, None].astype(np.int32)  # a dtype Pillow accepts
    across = _block_of_pixels(history.width, 0, blocks.shape[1])[None].astype(np.int32)
    if turn is not None:
        down, across = (np.array(Image.fromarray(side).transpose(turn)) for side in (down, across))
        if down.shape[1] > 1 or across.shape[0] > 1:
            blocks, down, across = blocks.T.copy(), across, down
    return means.of_blocks(blocks, down.ravel()[:height], across.ravel()[:width])


def block_grid(gray: np.ndarray, means: WindowMeans) -> dict[str, np.ndarray]:
    """How well each window's JPEG block grid matches the picture's: uint8 [H, W] → maps float32 [rows, cols].

    A block boundary shows in the second difference across it, `|2 x[i] - x[i - 1] - x[i + 1]|`. A window's profile is
    the mean of these at each of the 8 column phases and 8 row phases, as the relative excess over the mean phase: 16
    numbers. The picture's profile is the median over windows. `grid_along` is the projection of a window's profile on
    the picture's, `grid_beside` the norm of the remainder. A region with a different grid, or none, has a low
    `grid_along`, and a different grid gives a high `grid_beside`. Both are noise in a picture without a grid, i.e. one
    that was never compressed or was resized since.
    """
    strip = means.over_rows(lambda rows: {"rough": _rough(gray, rows, _ACROSS_PIXEL, ROUGHEST)})["rough"]  # [rows, W]
    across = _phases(strip, means.across)
    strip = torch.empty(len(means.across), len(gray))  # [cols, H]
    for rows in stripes(*gray.shape):
        strip[:, rows] = means.across @ torch.from_numpy(_rough(gray, rows, _ACROSS_PIXEL.T, ROUGHEST)).T
    down = _phases(strip, means.down).swapaxes(0, 1)
    profile = np.concatenate([across, down], axis=2)  # [rows, cols, 16]
    common = np.median(profile, axis=(0, 1))
    common /= np.linalg.norm(common) + 1e-6
    along = profile @ common
    beside = np.linalg.norm(profile - along[..., None] * common, axis=2)
    return {"grid_along": along.astype(np.float32), "grid_beside": beside.astype(np.float32)}


def _phases(rough: Tensor, across: Tensor) -> np.ndarray:
    """Relative excess of differences [rows, W] at each of 8 phases, in windows [cols, W]: [rows, cols, 8]."""
    sums = [rough[:, k::8] @ across[:, k::8].T for k in range(8)]
    weights = [across[:, k::8].sum(1).clamp(min=1e-6) for k in range(8)]
    found = torch.stack([total / weight for total, weight in zip(sums, weights, strict=True)], 2).numpy()
    base = found.mean(2, keepdims=True)
    return (found - base) / (base + 0.1)


def content(image: np.ndarray, gray: np.ndarray, means: WindowMeans) -> dict[str, np.ndarray]:
    """Content of each window, so the readout does not take flat or clipped for tampered: maps [rows, cols].

    Float32, from luma scaled to 0..1: mean (`brightness`), `deviation` and `gradient` (mean difference of neighbors);
    also `clipped`, the fraction of pixels below 3 or above 252, and `saturation`, the mean spread of the channels.
    """
    middle = float(gray.mean()) / 255

    def planes(rows: slice) -> dict[str, np.ndarray]:
        part, levels = gray[rows], gray[rows.start : rows.stop + 1].astype(np.int16)  # one more row for the differences
        below, steps = np.abs(np.diff(levels, axis=0)), np.zeros(part.shape, np.float32)
        steps[: len(below)] += below
        steps[:, :-1] += np.abs(np.diff(levels[: len(part)], axis=1))
        red, green, blue = cv2.split(image[rows])
        return {
            "luma": part,
            # around the mean, which keeps precision in a flat picture
            "square": (part.astype(np.float32) / 255 - np.float32(middle)) ** 2,
            "steps": steps,
            "unclipped": cv2.inRange(part, 3, 252),
            "spread": cv2.max(cv2.max(red, green), blue) - cv2.min(cv2.min(red, green), blue),
        }

    found = means.in_stripes(planes)
    brightness = found["luma"] / 255
    return {
        "brightness": brightness,
        "deviation": np.sqrt(np.maximum(found["square"] - (brightness - middle) ** 2, 0)),
        "gradient": found["steps"] / 510,
        "clipped": 1 - found["unclipped"] / 255,
        "saturation": found["spread"] / 255,
    }
