"""Photos → small tiles with exactly the photo's pixels: JPEG blocks are copied, never recompressed."""

import io
import tempfile
from dataclasses import dataclass
from pathlib import Path

import jpeglib
import numpy as np
from PIL import Image

from exiflang.utils.bare import JPEG_START
from exiflang.utils.dct import read_dct
from exiflang.utils.images import ImageError, load_image
from exiflang.utils.raw_files import raw_reason


@dataclass(frozen=True)
class Tile:
    """An encoded square cut from a photo: file bytes, their extension, and its corner (x, y).

    The corner is in stored pixel coordinates for JPEG tiles, and in upright ones, as from `load_image`, for WebP tiles.
    """

    data: bytes
    extension: str
    x: int
    y: int


def cut_tiles(photo: bytes, count: int, size: int, rng: np.random.Generator, name: str = "photo") -> list[Tile]:
    """Cut up to `count` different tiles of `size` x `size` pixels at random positions in a photo.

    JPEG photos give JPEG tiles on the grid of minimum coded units, DCT blocks and quantization tables untouched;
    decoded, they equal the photo except within 2 pixels of the border, where chroma upsampling reads across the cut.
    Other formats, and JPEG that is gray, CMYK or stored as RGB, give lossless WebP tiles.

    Args:
        photo: the bytes of the picture file, with or without metadata (tiles carry none).
        count: tiles wanted, at least 1; fewer come back when the photo has fewer positions.
        size: side in pixels, a multiple of 32.
        rng: determines the positions.
        name: the photo's name in error messages.

    Raises:
        ImageError: not a picture, truncated, damaged, smaller than a tile, or a camera's raw file.
    """
    if count < 1 or size < 32 or size % 32:
        raise ValueError(f"count must be at least 1 and size a multiple of 32, not {count} and {size}")
    refuse_raw(photo, name)
    try:
        pixels = load_image(photo)
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error
    if min(pixels.shape[:2]) < size:
        height, width = pixels.shape[:2]
        raise ImageError(f"{name}: {width} x {height} pixels, smaller than a tile of {size}: choose a smaller size")
    try:
        if photo[:3] == JPEG_START and (tiles := _jpeg_tiles(photo, count, size, rng)):
            return tiles
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error
    corners = _corners(pixels.shape[0], pixels.shape[1], size, 1, 1, count, rng)
    return [Tile(_webp(pixels[y : y + size, x : x + size]), "webp", x, y) for y, x in corners]


def refuse_raw(photo: bytes, name: str) -> None:
    """Raise `ImageError` for a camera's raw file: its pixels depend on who develops it, so no camera is learned."""
    if reason := raw_reason(io.BytesIO(photo)):
        raise ImageError(f"{name}: {reason}; data sets take the JPEG that the camera made")


def _corners(
    height: int, width: int, size: int, step_y: int, step_x: int, count: int, rng: np.random.Generator
) -> list[tuple[int, int]]:
    rows, cols = (height - size) // step_y + 1, (width - size) // step_x + 1
    chosen = rng.choice(rows * cols, size=min(count, rows * cols), replace=False)
    return [(int(i) // cols * step_y, int(i) % cols * step_x) for i in chosen]


def _jpeg_tiles(photo: bytes, count: int, size: int, rng: np.random.Generator) -> list[Tile]:
    try:
        source = read_dct(photo)
    except OSError:
        return []
    if source.jpeg_color_space.name != "JCS_YCbCr":  # by name: its members all compare equal
        return []
    planes = [source.Y, source.Cb, source.Cr]
    with tempfile.TemporaryDirectory(prefix="exiflang-") as folder:
        path = Path(folder) / "tile.jpg"
        factors = np.asarray(source.samp_factor)  # [3, 2], vertical and horizontal
        if (factors.max(0) % factors).any():
            return []
        # Blocks of each plane cover 8 * max/factor pixels; a unit of 8 * max pixels starts at a block boundary in all.
        cover = 8 * factors.max(0) // factors  # [3, 2]
        unit_y, unit_x = (8 * factors.max(0)).tolist()
        tiles = []
        for y, x in _corners(source.height, source.width, size, unit_y, unit_x, count, rng):
            blocks = [
                np.ascontiguousarray(plane[y // cy : (y + size) // cy, x // cx : (x + size) // cx])
                for plane, (cy, cx) in zip(planes, cover.tolist(), strict=True)
            ]  # [rows, cols, 8, 8] -> [size / cy, size / cx, 8, 8]
            cut = jpeglib.from_dct(*blocks, qt=source.qt, quant_tbl_no=source.quant_tbl_no)
            cut.samp_factor = source.samp_factor
            try:
                cut.write_dct(str(path))
            except OSError as error:
                raise ImageError("its blocks are damaged; download the file again or leave it out") from error
            tiles.append(Tile(path.read_bytes(), "jpg", x, y))
        return tiles


def _webp(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", lossless=True, exact=True)
    return buffer.getvalue()
