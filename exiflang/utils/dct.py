"""The quantized DCT coefficients of a JPEG file as stored: they keep traces that decoding loses."""

import contextlib
import io
import os
import tempfile
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import jpeglib
import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from exiflang.utils.bare import JPEG_START, bare_jpeg
from exiflang.utils.images import DAMAGE, stored_turn


@dataclass(frozen=True, eq=False)
class LumaBlocks:
    """The luma (or gray, or first) plane of a JPEG file of H x W stored pixels.

    Attributes:
        quantized: int16 [h, w, 8, 8], frequency rows before columns; the last blocks may extend beyond the picture.
        steps: the quantization table, [8, 8].
        height, width: of the stored picture, in pixels.
        turn: the transpose that makes the stored pixels upright; None if they already are.
    """

    quantized: np.ndarray = field(repr=False)
    steps: np.ndarray = field(repr=False)
    height: int
    width: int
    turn: Image.Transpose | None


def read_luma(photo: str | os.PathLike | bytes) -> LumaBlocks | None:
    """Read the luma of a JPEG file; None for other files, and for JPEG that Pillow (by header) or libjpeg rejects."""
    with contextlib.suppress(*DAMAGE):
        if not isinstance(photo, bytes) and not Path(photo).is_file():  # a pipe or a device would block forever
            return None
        data = photo if isinstance(photo, bytes) else Path(photo).read_bytes()
        turn = stored_turn(data)  # reads the header, and rejects what `load_image` would
        found = read_dct(data)
        steps = np.asarray(found.get_component_qt(0))
        return LumaBlocks(found.Y, steps, found.height, found.width, turn)
    return None


def read_dct(photo: bytes) -> Any:
    """Blocks, tables and sampling of a JPEG file, as a fully loaded `jpeglib.DCTJPEG`.

    Raises `OSError` for a file that is not JPEG, or that libjpeg cannot read.
    """
    if photo[:3] != JPEG_START:
        raise OSError("not a JPEG")
    with tempfile.TemporaryDirectory(prefix="exiflang-") as folder:
        path = Path(folder) / "photo.jpg"
        path.write_bytes(bare_jpeg(photo))
        found = jpeglib.read_dct(str(path))
        found.Y  # noqa: B018  # load now: it is lazy, and the file is about to be deleted
        return found


@cache
def standard_tables(quality: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """libjpeg's quantization tables for a quality in 1..100: 64 luma and 64 chroma steps, row by row.

    At quality 50 they are those of ITU-T T.81, annex K.
    """
    file = io.BytesIO()
    Image.new("RGB", (1, 1)).save(file, "JPEG", quality=quality)
    file.seek(0)
    with JpegImageFile(file) as image:
        return tuple(image.quantization[0]), tuple(image.quantization[1])
