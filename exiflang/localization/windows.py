"""Which windows of a picture are looked at, and their embeddings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from exiflang.models.model import ExifLang

#: Windows on the longer side that half-overlapping may cost at most; pairs of windows take the memory.
MOST_WINDOWS_PER_SIDE = 60
#: Pixels that are worked on at once: of a tower, where windows share features, each holds some 300 bytes.
STRIPE_PIXELS = 2**20


class ImageEncoder(Protocol):
    """Anything that embeds windows: `ExifLang`, or a training-free baseline."""

    def encode_image(self, patches: Tensor) -> Tensor:
        """uint8 [B, 3, P, P] → float32 [B, D], unit norm."""


def picture_window(height: int, width: int, largest: int, calibrated: bool) -> int:
    """Side of the windows for a picture: `largest`, what the model was trained for, but less in a small picture.

    Calibrated models take a seventh of the shorter side, at least 36: spliced regions of a small picture are small.
    Without a calibration, whose figures were measured so: a quarter, at least 16. Never more than the side itself.
    """
    side = min(height, width)
    return min(largest, max(side // 7, 36) if calibrated else max(side // 4, 16), side)


def window_grid(height: int, width: int, window_size: int, windows_per_side: int, multiple: int = 1) -> tuple[int, int]:
    """(window, stride) in pixels for a picture: about `windows_per_side` windows on the longer side.

    The window is as large as the picture lets it. The stride is at most half a window, so that two windows a side cover
    a cell, unless the longer side then had more than `MOST_WINDOWS_PER_SIDE` (or `windows_per_side`, if more): a
    photo of 24 MP or a strip has gaps between windows. A window covers at most 16 cells a side (or a third of
    `windows_per_side`): windows almost as large as the picture would otherwise make as many cells as pixels. Of the
    strides that are a multiple of `multiple` the next smaller one is taken, or the next larger one where it is too
    small for that; windows less than two multiples wide take any.
    """
    longest, window = max(height, width), min(window_size, height, width)
    wanted = -(-(longest - window) // windows_per_side)
    least = -(-(longest - window) // max(MOST_WINDOWS_PER_SIDE, windows_per_side))
    least = max(least, -(-window // max(16, windows_per_side // 3)), 1)
    stride = max(min(wanted, window // 2), least)
    multiple = multiple if window >= 2 * multiple else 1
    return window, max(stride // multiple, -(-least // multiple)) * multiple


def shared_stride(model: ImageEncoder) -> int | None:
    """Pixels from cell to cell of features that all windows of a picture share; None if each has features of its own.

    They are shared if nothing is padded, by windows whose distance is a multiple of that stride.
    """
    tower = getattr(model, "image_tower", None)
    return tower.config.stride if tower is not None and getattr(model, "receptive_field", None) else None


def no_progress(share: float) -> None:
    """Ignores how far the work is. A function given instead is called with 0..1 and may raise, to stop the work."""


def embed_windows(
    model: ImageEncoder,
    image: np.ndarray,
    window: int,
    stride: int,
    batch_size: int = 32,
    progress: Callable[[float], None] = no_progress,
) -> np.ndarray:
    """Embeddings of all windows, one by one: uint8 [H, W, 3] → float32 [rows, cols, D], the picture never copied."""
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
    """What `embed_windows` gives, from one pass over the picture: uint8 [H, W, 3] → float32 [rows, cols, D].

    For a model with a `shared_stride` that divides `stride`, and windows of at least its receptive field. The picture
    goes through in stripes of about `STRIPE_PIXELS`, so that memory does not grow with its height.
    """
    pixels = _channels_first(image)
    step = model.image_tower.config.stride
    cells = (window - (model.receptive_field or 1)) // step + 1  # of a window, a side
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
    """Embeddings of all windows from one pass through a tower that pads: uint8 [H, W, 3] → float32 [rows, cols, D].

    An approximation of `embed_windows`: a window by itself is continued by zeros, here by the picture around it. Mean
    and deviation of a window's features weigh each cell by its share of the window. The picture goes through in stripes
    of about `STRIPE_PIXELS`, each with a window's height of the picture above and below it.
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
            top = max(0, first * stride - window) // step * step  # so that cells lie alike in all stripes
            bottom = min(height, (first + count - 1) * stride + 2 * window)
            features = model.image_features(pixels[None, :, top:bottom].to(model.device))[0].float()  # [C, h, w]
            down = window_shares(features.shape[1], step, window, stride, count, first * stride - top)  # [rows', h]
            parts.append(_pool_shares(model, features, down.to(features), across.to(features)).cpu())
    progress(1.0)
    return torch.cat(parts).reshape(rows, cols, -1).numpy()


def _pool_shares(model: ExifLang, features: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """What `ExifLang.pool` does, of windows' shares [rows, h] and [cols, w] in features [C, h, w]: [rows * cols, D]."""

    def average(array: Tensor) -> Tensor:
        return torch.einsum("rh,chw,kw->rkc", down, array, across).flatten(0, 1)  # [rows * cols, C]

    mean = average(features)
    return model.project(mean, lambda: (average(features.square()) - mean.square()).clamp(min=0))


def _padded_stride(model: ExifLang) -> int:
    """Pixels from cell to cell of a padded tower's features, whose number is that of the pixels over it, rounded up."""
    strip = torch.zeros(1, 3, 1024, 8, dtype=torch.uint8, device=model.device)
    return 1024 // model.image_features(strip).shape[2]


def window_shares(cells: int, step: int, window: int, stride: int, count: int, start: int = 0) -> Tensor:
    """Share of each cell of `step` pixels in each window along a side: float64 [count, cells], rows sum to 1.

    The `count` windows begin at `start` and every `stride` pixels.
    """
    edges = torch.arange(cells + 1, dtype=torch.float64) * step
    begin = torch.arange(count, dtype=torch.float64)[:, None] * stride + start  # [count, 1]
    return edges.clamp(begin, begin + window).diff(dim=1) / window  # [count, cells + 1] -> [count, cells]


def stripes(height: int, width: int) -> Iterator[slice]:
    """The rows of a picture, about `STRIPE_PIXELS` at a time: what is made of all of them at once takes memory."""
    at_once = max(1, STRIPE_PIXELS // width)
    for top in range(0, height, at_once):
        yield slice(top, min(top + at_once, height))


def _channels_first(image: np.ndarray) -> Tensor:
    return torch.from_numpy(np.require(image, requirements=["C", "W"])).permute(2, 0, 1)  # [H, W, 3] -> [3, H, W]


def _views(array: Tensor, side: int, stride: int) -> Tensor:
    """All squares of an array, without a copy: [C, H, W] -> [C, rows, cols, side, side]."""
    return array.unfold(1, side, stride).unfold(2, side, stride)
