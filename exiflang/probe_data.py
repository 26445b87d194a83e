"""What linear probes look at: views of a whole picture, its embedding, and which pictures share a source."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import nn

from exiflang.gallery import find_pictures
from exiflang.images import ImageError, load_image
from exiflang.windows import ImageEncoder

SIDE = 224  # pixels: the paper's
WINDOW = 64  # pixels, about the patches of the packaged model

_CASIA_NAME = re.compile(r"(?:Au|Tp|Sp|CM)_.+")
_CASIA_SOURCE = re.compile(r"_([a-z]{3})_?(\d{4,5})(?=[_.])")


def whole_pictures(folder: Path, most: int) -> tuple[list[np.ndarray], list[tuple[str, str]]]:
    """Pictures of a folder and its folders, uint8 [H, W, 3], `most` at most, and (name, reason) of those left out."""
    found, left_out = find_pictures(folder)
    pictures, skipped = [], [(entry["name"], entry["reason"]) for entry in left_out]
    for path in found:
        if len(pictures) == most:
            break
        try:
            pictures.append(load_image(path))
        except ImageError as error:
            skipped.append((path.name, str(error)))
    return pictures, skipped


def reduced(image: np.ndarray) -> np.ndarray:
    """The whole picture at 224 x 224, whatever its shape: uint8 [H, W, 3] -> [224, 224, 3], bicubic, antialiased."""
    return np.array(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def centre_crop(image: np.ndarray) -> np.ndarray:
    """The central 224 x 224 pixels, all of a side that is shorter: uint8 [H, W, 3] -> [h, w, 3], a view."""
    top, left = (max(0, side - SIDE) // 2 for side in image.shape[:2])
    return image[top : top + SIDE, left : left + SIDE]


def whole_views(image: np.ndarray) -> dict[str, np.ndarray]:
    """The two views by which the paper's probe sees a picture: "centre crop" and "resized"."""
    return {"centre crop": centre_crop(image), "resized": reduced(image)}


def corners_and_middle(image: np.ndarray) -> np.ndarray:
    """Five windows of 64 pixels: uint8 [224, 224, 3] -> [5, 64, 64, 3], corners by row, then the middle."""
    low, middle, high = 0, (SIDE - WINDOW) // 2, SIDE - WINDOW
    places = [(low, low), (low, high), (high, low), (high, high), (middle, middle)]
    return np.stack([image[y : y + WINDOW, x : x + WINDOW] for y, x in places])


def embed(encoder: ImageEncoder, pictures: np.ndarray) -> np.ndarray:
    """Each picture embedded as one patch, large as it may be: uint8 [B, H, W, 3] -> float32 [B, D]. A network is put in
    evaluation mode."""
    if isinstance(encoder, nn.Module):
        encoder.eval()
    patches = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2)  # [B, H, W, 3] -> [B, 3, H, W]
    with torch.inference_mode():
        return encoder.encode_image(patches.to(getattr(encoder, "device", "cpu"))).float().cpu().numpy()


def source_groups(pictures: Sequence[tuple[str, Mapping[str, str]]]) -> np.ndarray:
    """Numbers that pictures share if they share a source picture, directly or by others between them: int [n].

    Of each picture its name and `Item.info`. Sources are those that `info["sources"]` names, split at spaces, and those
    in CASIA's names: `ani0001` in `Au_ani_0001.jpg`, `ani00018` and `sec00096` in
    `Tp_D_CND_M_N_ani00018_sec00096_00138.tif`. A picture without any is alone.
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
