"""Inputs of linear probes: views of a whole picture, its embedding, and groups of pictures that share a source."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import nn

from exiflang.localization.windows import ImageEncoder
from exiflang.utils.files import printable
from exiflang.utils.folders import count_others, find_pictures
from exiflang.utils.images import ImageError, load_image

SIDE = 224  # pixels, as in the paper
WINDOW = 64  # pixels, about the packaged model's patch size

_CASIA_NAME = re.compile(r"(?:Au|Tp|Sp|CM)_.+")
_CASIA_SOURCE = re.compile(r"_([a-z]{3})_?(\d{4,5})(?=[_.])")


def whole_pictures(folder: Path, most: int) -> tuple[list[np.ndarray], list[tuple[str, str]]]:
    """At most `most` pictures of a folder and its subfolders, uint8 [H, W, 3], and (name, reason) of skipped ones."""
    found, left_out, others = find_pictures(folder)
    pictures: list[np.ndarray] = []
    skipped = [(printable(path.relative_to(folder)), reason) for path, reason in left_out]
    if others:
        skipped.append((printable(folder.name), count_others([printable(path.relative_to(folder)) for path in others])))
    for path in found:
        if len(pictures) == most:
            break
        try:
            pictures.append(load_image(path))
        except ImageError as error:
            skipped.append((printable(path.relative_to(folder)), str(error)))
    return pictures, skipped


def reduced(image: np.ndarray) -> np.ndarray:
    """The whole picture at 224 x 224, whatever its shape: uint8 [H, W, 3] -> [224, 224, 3], bicubic, antialiased."""
    return np.array(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def center_crop(image: np.ndarray) -> np.ndarray:
    """The central 224 x 224 pixels, or the whole of a shorter side: uint8 [H, W, 3] -> [h, w, 3], a view."""
    top, left = (max(0, side - SIDE) // 2 for side in image.shape[:2])
    return image[top : top + SIDE, left : left + SIDE]


def whole_views(image: np.ndarray) -> dict[str, np.ndarray]:
    """The two views of a picture in the paper's probe: "center crop" and "resized"."""
    return {"center crop": center_crop(image), "resized": reduced(image)}


def corners_and_middle(image: np.ndarray) -> np.ndarray:
    """Five windows of 64 pixels: uint8 [224, 224, 3] -> [5, 64, 64, 3], corners by row, then the middle."""
    low, middle, high = 0, (SIDE - WINDOW) // 2, SIDE - WINDOW
    places = [(low, low), (low, high), (high, low), (high, high), (middle, middle)]
    return np.stack([image[y : y + WINDOW, x : x + WINDOW] for y, x in places])


def embed(encoder: ImageEncoder, pictures: np.ndarray) -> np.ndarray:
    """Embed each picture as a single patch, whatever its size: uint8 [B, H, W, 3] -> float32 [B, D]. Puts a network in
    evaluation mode."""
    if isinstance(encoder, nn.Module):
        encoder.eval()
    patches = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2)  # [B, H, W, 3] -> [B, 3, H, W]
    with torch.inference_mode():
        return encoder.encode_image(patches.to(getattr(encoder, "device", "cpu"))).float().cpu().numpy()


def source_groups(pictures: Sequence[tuple[str, Mapping[str, str]]]) -> np.ndarray:
    """Group numbers, int [n]: pictures are in one group if they share a source picture, directly or transitively.

    `pictures`: the name and `BenchmarkImage.info` of each. Sources are those listed in `info["sources"]`, separated by
    spaces, and those in CASIA's names: `ani0001` in `Au_ani_0001.jpg`, `ani00018` and `sec00096` in
    `Tp_D_CND_M_N_ani00018_sec00096_00138.tif`. A picture without sources is a group by itself.
    """
    sources = [_sources(name, info) or [f"picture {i}"] for i, (name, info) in enumerate(pictures)]
    picture = np.repeat(np.arange(len(sources)), [len(part) for part in sources])
    _, source = np.unique([name for part in sources for name in part], return_inverse=True)
    n = len(sources)
    edges = coo_array((np.ones(len(picture)), (picture, n + source)), shape=(n + len(source),) * 2)
    return connected_components(edges, directed=False)[1][:n]


def _sources(name: str, info: Mapping[str, str]) -> list[str]:
    named = _CASIA_SOURCE.findall(name) if _CASIA_NAME.fullmatch(name) else []
    return info.get("sources", "").split() + [category + number for category, number in named]


STRONGEST = -0.4  # k1
HIDDEN = 0.21  # fraction cut off either end of each side: the output spans 1 - 2 * 0.21 = 0.58 of the diagonal


def distort(image: np.ndarray, k1: float) -> np.ndarray:
    """The middle of a picture, about 0.58 of each side, as seen through a lens with barrel distortion `k1`.

    Brown's model with one coefficient: a point at radius r, in units of half the picture's diagonal, moves to
    r (1 + k1 r²). The center is fixed, and compression grows with the radius. The corners of the output, at the
    distorted radius 0.58, come from a radius of at most 0.75, well inside the picture, so no filled or cropped border
    reveals the strength. At the corners, the maximum strength compresses detail by a factor of 3.

    Every strength uses bicubic interpolation (OpenCV's, positions rounded to 1/32 pixel). With `k1` 0, it hits whole
    pixels and returns the picture's middle unchanged. Downscale the result to half its size or less before using it, or
    traces of interpolation reveal the strength.

    Args:
        image: uint8 [H, W, 3].
        k1: from -0.4 to 0, dimensionless.

    Returns:
        uint8 [h, w, 3], h = H - 2 round(0.21 H), w likewise, with the same center as the picture.

    Raises `ValueError` for a wrong dtype, shape or strength.
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        found = f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(f"the picture is {found}: give uint8 [H, W, 3], as exiflang.utils.images.load_image does")
    if not image.size:
        raise ValueError(f"the picture has no pixels: {list(image.shape)}")
    if not STRONGEST <= k1 <= 0:
        raise ValueError(f"k1 is {k1}: it must be in {STRONGEST} to 0")
    middle = (np.array(image.shape[:2]) - 1) / 2
    top, left = (round(HIDDEN * side) for side in image.shape[:2])
    y, x = np.mgrid[top : image.shape[0] - top, left : image.shape[1] - left] - middle[:, None, None]  # [h, w] each
    radius = np.hypot(y, x) / (np.hypot(*image.shape[:2]) / 2)  # [h, w], distorted
    table = np.linspace(0, 0.8, 4097)  # more than needed, but below 0.91, where the maximum strength folds over
    zoom = np.interp(radius, table * (1 + k1 * table**2), 1 / (1 + k1 * table**2))  # true radius over distorted radius
    return cv2.remap(
        image,
        (middle[1] + x * zoom).astype(np.float32),
        (middle[0] + y * zoom).astype(np.float32),
        cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REPLICATE,  # in tiny pictures, bicubic reads one pixel beyond the edge
    )
