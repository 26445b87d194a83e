"""The grid of windows over a picture, and their embeddings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from exiflang.models.model import ExifLang

#: Half-overlapping windows are limited to this many on the longer side, because pairs of windows dominate memory.
MOST_WINDOWS_PER_SIDE = 60
#: Pixels processed at once; in a tower whose windows share features, each takes about 300 bytes.
STRIPE_PIXELS = 2**20


class ImageEncoder(Protocol):
    """Anything that embeds windows: `ExifLang`, or a training-free baseline."""

    def encode_image(self, patches: Tensor) -> Tensor:
        """uint8 [B, 3, P, P] → float32 [B, D], unit norm."""


def picture_window(height: int, width: int, largest: int, calibrated: bool) -> int:
    """Side of a picture's windows: `largest`, the model's training size, or less if the picture is small.

    For calibrated models, a seventh of the shorter side, at least 36, since small pictures have small spliced regions;
    for uncalibrated models, a quarter, at least 16, as in their published figures. Never more than the shorter side.
    """
    side = min(height, width)
    return min(largest, max(side // 7, 36) if calibrated else max(side // 4, 16), side)


def window_grid(height: int, width: int, window_size: int, windows_per_side: int, multiple: int = 1) -> tuple[int, int]:
    """(window, stride) in pixels for a picture: about `windows_per_side` windows on the longer side.

    The window is `window_size`, or the picture's shorter side if that is less. The stride is at most half a window, so
    two windows per side cover a cell, unless that takes more than `MOST_WINDOWS_PER_SIDE` (or `windows_per_side`, if
    more) on the longer side: photos of 24 MP and strips have gaps between windows. A window covers at most 16 cells per
    side (or a third of `windows_per_side`); otherwise, windows almost as large as the picture would make as many cells
    as pixels. The stride is rounded down to a multiple of `multiple`, or up if it would become too small; windows less
    than two multiples wide ignore `multiple`.
    """
    longest, window = max(height, width), min(window_size, height, width)
    wanted = -(-(longest - window) // windows_per_side)
    least = -(-(longest - window) // max(MOST_WINDOWS_PER_SIDE, windows_per_side))
    least = max(least, -(-window // max(16, windows_per_side // 3)), 1)
    stride = max(min(wanted, window // 2), least)
    multiple = multiple if window >= 2 * multiple else 1
    return window, max(stride // multiple, -(-least // multiple)) * multiple


def shared_stride(model: ImageEncoder) -> int | None:
    """Pixels between the cells of features that all windows of a picture share; None if windows share no features.

    Windows share features if the tower does not pad and their stride is a multiple of this one.
    """
    tower = getattr(model, "image_tower", None)
    return tower.config.stride if tower is not None and getattr(model, "receptive_field", None) else None


def no_progress(share: float) -> None:
    """Default progress callback, which does nothing. Custom ones get the fraction done, 0..1, and may raise to stop."""


def embed_windows(
    model: ImageEncoder,
    image: np.ndarray,
    window: int,
    stride: int,
    batch_size: int = 32,
    progress: Callable[[float], None] = no_progress,
) -> np.ndarray:
    """Embed all windows one by one, without copying the picture: uint8 [H, W, 3] → float32 [rows, cols, D]."""
    views = _views(_channels_first(image), window, stride).permute(1, 2, 0, 3, 4)  # [rows, cols, 3, P, P]
    rows, cols = views.shape[:2]
    index = torch.arange(rows * cols)
    device = getattr(model, "device", "cpu")
    parts = []
    with torch.inference_mode():
        for part in index.split(batch_size):
            progress(int(part[0]) / len(index))
            parts.append(model.encode_image(views[part // cols, part % cols].to(device)).float().cpu())
    progress(1.0)
    return torch.cat(parts).reshape(rows, cols, -1).numpy()  # [rows * cols, D] -> [rows, cols, D]


def embed_in_one_pass(
    model: ExifLang, image: np.ndarray, window: int, stride: int, progress: Callable[[float], None] = no_progress
) -> np.ndarray:
    """Same as `embed_windows`, in one pass over the picture: uint8 [H, W, 3] → float32 [rows, cols, D].

    Requires a model whose `shared_stride` divides `stride`, and windows of at least its receptive field. The picture is
    processed in stripes of about `STRIPE_PIXELS`, so memory does not grow with its height.
    """
    pixels = _channels_first(image)
    step = model.image_tower.config.stride
    cells = (window - (model.receptive_field or 1)) // step + 1  # per window and side
    rows, cols = ((side - window) // stride + 1 for side in image.shape[:2])
    used = (cols - 1) * stride + window  # columns of pixels
    at_once = max(1, (STRIPE_PIXELS // used - window) // stride + 1)  # rows of windows
    parts = []
    with torch.inference_mode():
        for first in range(0, rows, at_once):
            progress(first / rows)
            last = min(first + at_once, rows) - 1
            stripe = pixels[None, :, first * stride : last * stride + window, :used].to(model.device)  # [1, 3, H', W']
            features = _views(model.image_features(stripe)[0], cells, stride // step)  # [C, rows', cols, k, k]
            parts.append(model.pool(features.permute(1, 2, 0, 3, 4).flatten(0, 1)).cpu())  # [rows' * cols, D]
    progress(1.0)
    return torch.cat(parts).reshape(rows, cols, -1).numpy()


def embed_densely(
    model: ExifLang, image: np.ndarray, window: int, stride: int, progress: Callable[[float], None] = no_progress
) -> np.ndarray:
    """Embed all windows in one pass through a tower that pads: uint8 [H, W, 3] → float32 [rows, cols, D].

    This approximates `embed_windows`: an isolated window is padded with zeros; here the surrounding picture takes their
    place. Mean and deviation of a window's features weight each cell by its overlap with the window. The picture is
    processed in stripes of about `STRIPE_PIXELS`, with a margin of one window height above and below.
    """
    pixels = _channels_first(image)
    height, width = image.shape[:2]
    rows, cols = ((side - window) // stride + 1 for side in image.shape[:2])
    parts = []
    with torch.inference_mode():
        step = _padded_stride(model)
        at_once = max(1, (STRIPE_PIXELS // width - 3 * window) // stride + 1)  # rows of windows
        across = window_shares(-(-width // step), step, window, stride, cols)  # [cols, w]
        for first in range(0, rows, at_once):
            progress(first / rows)
            count = min(at_once, rows - first)
            top = max(0, first * stride - window) // step * step  # aligns cells across stripes
            bottom = min(height, (first + count - 1) * stride + 2 * window)
            features = model.image_features(pixels[None, :, top:bottom].to(model.device))[0].float()  # [C, h, w]
            down = window_shares(features.shape[1], step, window, stride, count, first * stride - top)  # [rows', h]
            parts.append(_pool_shares(model, features, down.to(features), across.to(features)).cpu())
    progress(1.0)
    return torch.cat(parts).reshape(rows, cols, -1).numpy()


def _pool_shares(model: ExifLang, features: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """`ExifLang.pool` with the windows' weights [rows, h] and [cols, w] on features [C, h, w]: [rows * cols, D]."""

    def average(array: Tensor) -> Tensor:
        return torch.einsum("rh,chw,kw->rkc", down, array, across).flatten(0, 1)  # [rows * cols, C]

    mean = average(features)
    return model.project(mean, lambda: (average(features.square()) - mean.square()).clamp(min=0))


def _padded_stride(model: ExifLang) -> int:
    """Pixels between the feature cells of a padded tower, which has pixels / stride cells, rounded up."""
    strip = torch.zeros(1, 3, 1024, 8, dtype=torch.uint8, device=model.device)
    return 1024 // model.image_features(strip).shape[2]


def window_shares(cells: int, step: int, window: int, stride: int, count: int, start: int = 0) -> Tensor:
    """Weight of each cell of `step` pixels in each window along a side: float64 [count, cells], rows sum to 1.

    The `count` windows begin at `start`, `stride` pixels apart.
    """
    edges = torch.arange(cells + 1, dtype=torch.float64) * step
    begin = torch.arange(count, dtype=torch.float64)[:, None] * stride + start  # [count, 1]
    return edges.clamp(begin, begin + window).diff(dim=1) / window  # [count, cells + 1] -> [count, cells]


def stripes(height: int, width: int) -> Iterator[slice]:
    """Slices of a picture's rows, of about `STRIPE_PIXELS` each, which bound the memory of temporary arrays."""
    at_once = max(1, STRIPE_PIXELS // width)
    for top in range(0, height, at_once):
        yield slice(top, min(top + at_once, height))


def _channels_first(image: np.ndarray) -> Tensor:
    return torch.from_numpy(np.require(image, requirements=["C", "W"])).permute(2, 0, 1)  # [H, W, 3] -> [3, H, W]


def _views(array: Tensor, side: int, stride: int) -> Tensor:
    """All squares of an array, without a copy: [C, H, W] -> [C, rows, cols, side, side]."""
    return array.unfold(1, side, stride).unfold(2, side, stride)
