"""Laundered benchmarks: copies from social networks on disk, and JPEG recompression and resizing on the fly."""

import io
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from exiflang.data.shards import plain_name
from exiflang.evaluation.layouts import BenchmarkError, Entry, casia_tampered, files, tampered
from exiflang.utils.images import MAX_PIXELS, ImageError, load_image

NETWORKS = ("facebook", "whatsapp", "wechat")

#: picture and mask, uint8 [H, W, 3] and bool [H, W] -> the same after laundering, possibly with a different size
Launder = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]

# Names of the benchmarks in the published copies, see `plain_name`.
_NAMES = {
    "columbia": ("columbia",),
    "dso_1": ("dso", "dso1"),
    "casia_1": ("casia", "casia1"),
    "casia_2": ("casia2",),
    "in_the_wild": ("inthewild", "itw"),
    "scene_completion": ("hays", "scenecompletion"),
    "realistic_tampering": ("rt", "realistictampering"),
}
_MASK_STEMS = {"in_the_wild": "{}", "scene_completion": "{}_mask"}
_JPEG_MAX_SIDE = 65_500  # libjpeg's


def list_laundered(name: str, root: Path, network: str) -> list[Entry]:
    """``<name>_<Network>/*``, all tampered, with masks ``<name>_GT/<stem>_gt.png`` (above 127 = tampered).

    In-the-Wild has ``<stem>.png``, scene completion ``<stem>_mask.png``. Folder names are case-insensitive and may use
    other common names of the benchmark. Social networks shrink pictures, so masks are resized to their picture.

    Raises BenchmarkError for a benchmark without such copies, and if a folder is missing or ambiguous.
    """
    if name not in _NAMES:
        raise BenchmarkError(f"no laundered copies of {name!r} are published, only of {', '.join(sorted(_NAMES))}")
    pictures, truth = files(_copy(name, root, network)), _copy(name, root, "gt")
    if name.startswith("casia"):
        entries = casia_tampered(pictures, truth)
    else:
        entries = tampered(pictures, truth, _MASK_STEMS.get(name, "{}_gt"))
    return [replace(entry, fit_mask=True) for entry in entries]


def _copy(name: str, root: Path, suffix: str) -> Path:
    wanted = {f"{own}{suffix}" for own in _NAMES[name]}
    found = [path for path in sorted(root.iterdir()) if path.is_dir() and plain_name(path.name) in wanted]
    if len(found) != 1:
        names = " or ".join(f"{own}_{suffix}" for own in _NAMES[name])
        there = " and ".join(path.name for path in found) or "none"
        raise BenchmarkError(f"{root}: needs exactly one folder {names} (case-insensitive); found {there}")
    return found[0]


def parse_laundering(text: str) -> Launder:
    """Parse "jpeg Q" (``save_as_jpeg``) or "resize F" (``resize``) into a function of a picture and its mask.

    Raises BenchmarkError for any other text, a quality outside 1..100, and a factor that is 0 or above 4.
    """
    if match := re.fullmatch(r"jpeg ([1-9][0-9]?|100)", str(text)):
        return partial(save_as_jpeg, quality=int(match[1]))
    if match := re.fullmatch(r"resize ([0-9]*\.?[0-9]+)", str(text)):
        if 0 < float(match[1]) <= 4:
            return partial(resize, factor=float(match[1]))
    raise BenchmarkError(
        f"unknown laundering {text!r}: give {', '.join(NETWORKS)}, 'jpeg Q' with an integer Q in 1..100, "
        "or 'resize F' with a factor F above 0, at most 4"
    )


def save_as_jpeg(image: np.ndarray, mask: np.ndarray, quality: int) -> tuple[np.ndarray, np.ndarray]:
    """The picture, uint8 [H, W, 3], after JPEG compression by Pillow (4:2:0), and the unchanged mask.

    Raises ImageError if a side is too long for JPEG.
    """
    if max(mask.shape) > _JPEG_MAX_SIDE:
        raise ImageError(f"a side of {max(mask.shape)} pixels exceeds JPEG's {_JPEG_MAX_SIDE}; crop the picture")
    saved = io.BytesIO()
    Image.fromarray(image).save(saved, "JPEG", quality=quality, subsampling="4:2:0")
    return load_image(saved.getvalue()), mask


def resize(image: np.ndarray, mask: np.ndarray, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """Picture (bicubic with antialiasing) and mask (nearest), each side times ``factor``, rounded, at least 1.

    uint8 [H, W, 3] and bool [H, W] -> the same at the new size. Raises ImageError above ``MAX_PIXELS``.
    """
    height, width = (max(1, round(side * factor)) for side in mask.shape)
    if height * width > MAX_PIXELS:
        raise ImageError(f"{width} x {height} would be more than {MAX_PIXELS:,} pixels; use a smaller factor")
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    return np.array(resized), resize_mask(mask, height, width)


def resize_mask(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """bool [H, W] -> bool [height, width], nearest neighbor."""
    return np.array(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
