"""Realistic composites of any two photos, to evaluate localization and to train a readout.

The demo's composites from `splices.py` are always off the host's JPEG grid and at native scale. Here both are options.
"""

import io
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from exiflang.simulation.splices import random_region

SHAPES, FILLS = ("blob", "box", "side"), ("donor", "clone", "smooth")


@dataclass(frozen=True)
class Edit:
    """The edits applied to a host and a donor: whole photos whose JPEG grid, if any, starts at their corner.

    Raises `ValueError` for values out of range.
    """

    size: tuple[int, int]  # (width, height) of the composite, cut from the host
    area: tuple[float, float]  # approximate minimum and maximum tampered fraction: 0.001..0.7
    shape: str = "blob"  # or "box", "side": everything on one side of a wavy line, like a replaced sky
    regions: int = 1  # blobs or boxes that share the area; overlaps reduce the total
    fill: str = "donor"  # or "clone": a different part of the host, "smooth": the surroundings, without detail
    on_grid: bool = True  # whether the host stays on its own JPEG grid; if not, it leaves the grid in both axes
    scale: float = 1.0  # of the donor
    mirrored: bool = False  # the donor
    gain: float = 1.0  # factor on the levels of the filled region
    feather: float = 0.0  # sigma of the region's edge, pixels

    def __post_init__(self) -> None:
        for name, value, known in (("shape", self.shape, SHAPES), ("fill", self.fill, FILLS)):
            if value not in known:
                raise ValueError(f"unknown {name} {value!r}: choose one of {', '.join(known)}")
        if not 0 < self.area[0] <= self.area[1] <= 0.7:
            raise ValueError(f"area must be two shares, the smaller first, above 0 and at most 0.7, not {self.area}")
        if min(self.size) < 1 or self.regions < 1 or self.scale <= 0 or self.gain < 0 or self.feather < 0:
            raise ValueError(f"{self}: size, regions, scale, gain or feather is too small")


def compose(host: np.ndarray, donor: np.ndarray, edit: Edit, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A composite of two photos, uint8 [H, W, 3] each: uint8 [height, width, 3] and its mask, bool [height, width].

    The donor's grid never aligns with the host's. A donor too small for the region at the requested scale is enlarged
    to cover it. The mask marks the cut region; a feathered edge extends about three sigmas beyond it.
    Raises `ValueError` if the host is smaller than the composite, or if no such region fits into it.
    """
    picture, corner = cut(host, edit.size, edit.on_grid, rng)
    mask = np.zeros(picture.shape[:2], bool)
    for _ in range(edit.regions):
        share = (edit.area[0] / edit.regions, edit.area[1] / edit.regions)
        mask |= _region(rng, *edit.size, share, edit.shape)
    weight: np.ndarray = mask.astype(np.float32)
    if edit.feather:
        weight = cv2.GaussianBlur(weight, (0, 0), edit.feather)
    ys, xs = np.nonzero(weight > 1 / 512)  # smaller weights change no pixel
    box = (slice(ys.min(), ys.max() + 1), slice(xs.min(), xs.max() + 1))
    if edit.fill == "smooth":
        pasted = _smooth_fill(picture, mask, rng)[box]
    else:
        source = host if edit.fill == "clone" else donor
        place = (corner[0] + int(ys.min()), corner[1] + int(xs.min()))
        pasted = _taken(source, edit, mask[box].shape, place, rng)
    weight = weight[box][..., None]
    picture[box] = np.round(weight * np.clip(pasted * edit.gain, 0, 255) + (1 - weight) * picture[box])
    return picture, mask


def cut(
    photo: np.ndarray, size: tuple[int, int], on_grid: bool, rng: np.random.Generator
) -> tuple[np.ndarray, tuple[int, int]]:
    """A random crop, uint8 [height, width, 3], and its top and left.

    On the grid, both are multiples of 16, the size of a subsampled chroma block; off the grid, neither is a multiple of
    8 if the photo is large enough. Raises `ValueError` for a photo smaller than `size`, (width, height).
    """
    width, height = size
    if photo.shape[0] < height or photo.shape[1] < width:
        raise ValueError(
            f"the photo has {photo.shape[1]} x {photo.shape[0]} pixels, the part {width} x {height}: use a larger photo"
        )
    corner = []
    for side, wanted in zip(photo.shape[:2], (height, width), strict=True):
        places = np.arange(side - wanted + 1)
        fit = places[places % 16 == 0] if on_grid else places[places % 8 != 0]
        corner.append(int(rng.choice(fit if len(fit) else places)))
    top, left = corner
    return photo[top : top + height, left : left + width].copy(), (top, left)


def _region(rng: np.random.Generator, width: int, height: int, area: tuple[float, float], shape: str) -> np.ndarray:
    """bool [height, width]."""
    if shape == "blob":
        return random_region(rng, width, height, area)
    share = rng.uniform(*area)
    mask = np.zeros((height, width), bool)
    if shape == "box":
        ratio = np.sqrt(rng.uniform(0.5, 2) * share)
        high = max(1, round(height * float(np.clip(ratio, share, 1))))
        wide = min(max(1, round(width * share * height / high)), width)
        top, left = int(rng.integers(height - high + 1)), int(rng.integers(width - wide + 1))
        mask[top : top + high, left : left + wide] = True
        return mask
    along = np.linspace(0, 2 * np.pi, width)
    waves = np.zeros(width)
    for k in range(1, 6):
        waves += rng.normal(0, 0.08 / k) * np.sin(k * along + rng.uniform(0, 2 * np.pi))
    mask = np.arange(height)[:, None] < height * (share + waves - np.mean(waves))
    return mask if rng.random() < 0.7 else mask[::-1]


def _taken(
    donor: np.ndarray, edit: Edit, shape: tuple[int, int], at: tuple[int, int], rng: np.random.Generator
) -> np.ndarray:
    """The donor's pixels for a box of `shape`, located `at` (row, column) in the host: [h, w, 3]."""
    if edit.mirrored:
        donor = donor[:, ::-1]
    least = max((wanted + 8) / side for wanted, side in zip(shape, donor.shape[:2], strict=True))
    if (scale := max(edit.scale, least)) != 1:
        kernel = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        donor = cv2.resize(np.ascontiguousarray(donor), None, fx=scale, fy=scale, interpolation=kernel)
    place = []
    grid = (0, donor.shape[1] if edit.mirrored else 0)  # origin of the donor's grid, modulo 8
    for side, wanted, host, begin in zip(donor.shape[:2], shape, at, grid, strict=True):
        places = np.arange(side - wanted + 1)
        place.append(int(rng.choice(places[(places - begin - host) % 8 != 0])))
    rows, cols = (slice(start, start + wanted) for start, wanted in zip(place, shape, strict=True))
    return donor[rows, cols].astype(np.float32)


def _smooth_fill(picture: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Simple inpainting: the surroundings extended inward, plus slight noise; float32 [H, W, 3]."""
    factor = max(1, max(mask.shape) // 128)
    small = cv2.resize(picture, None, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_AREA)
    holes = cv2.resize(mask.astype(np.uint8), small.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    filled = cv2.inpaint(small, cv2.dilate(holes, np.ones((3, 3), np.uint8)), 3, cv2.INPAINT_TELEA)
    filled = cv2.resize(filled, mask.shape[::-1], interpolation=cv2.INTER_CUBIC).astype(np.float32)
    noise = rng.normal(0, rng.uniform(0, 3), (*mask.shape, 3))
    return filled + noise.astype(np.float32)


def encode_picture(picture: np.ndarray, fmt: str) -> bytes:
    """Encode uint8 [H, W, 3] as "png", or "jpeg" and a quality in 1..100. Raises `ValueError` for another format."""
    kind, quality = fmt[:4], fmt[4:]
    if fmt != "png" and not (kind == "jpeg" and quality.isdecimal() and 1 <= int(quality) <= 100):
        raise ValueError(f"unknown format {fmt!r}: use png, or jpeg with a quality, such as jpeg75")
    file = io.BytesIO()
    options = {"compress_level": 3} if fmt == "png" else {"quality": int(quality)}
    Image.fromarray(picture).save(file, kind, **options)
    return file.getvalue()
