"""The quantized DCT coefficients of a JPEG file, as they are stored: they tell what decoded pixels no longer do."""

import contextlib
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jpeglib
import numpy as np
from PIL import Image

from exiflang.utils.bare import JPEG_START, bare_jpeg
from exiflang.utils.images import DAMAGE, stored_turn


@dataclass(frozen=True, eq=False)
class LumaBlocks:
    """The luma (or gray, or first) plane of a JPEG file of H x W stored pixels.

    Attributes:
        quantized: int16 [h, w, 8, 8], rows of frequencies before columns; the last blocks may lie beyond the picture.
        steps: the quantization table, [8, 8].
        height, width: of the stored picture, in pixels.
        turn: what turns the stored pixels upright; None: nothing.
    """

    quantized: np.ndarray = field(repr=False)
    steps: np.ndarray = field(repr=False)
    height: int
    width: int
    turn: Image.Transpose | None


def read_luma(photo: str | os.PathLike | bytes) -> LumaBlocks | None:
    """The luma of a JPEG file; None for other files, and for JPEG that libjpeg or, by its header, Pillow refuses."""
    with contextlib.suppress(*DAMAGE):
        if not isinstance(photo, bytes) and not Path(photo).is_file():  # a pipe or a device would block for ever
            return None
        data = photo if isinstance(photo, bytes) else Path(photo).read_bytes()
        turn = stored_turn(data)  # looks at the header, and refuses what `load_image` would
        found = read_dct(data)
        steps = np.asarray(found.get_component_qt(0))
        return LumaBlocks(found.Y, steps, found.height, found.width, turn)
    return None


def read_dct(photo: bytes) -> Any:
    """Blocks, tables and sampling of a JPEG file, as a `jpeglib.DCTJPEG`, read whole.

    Raises `OSError` for a file that is no JPEG, or that libjpeg cannot read.
    """
    if photo[:3] != JPEG_START:
        raise OSError("no JPEG")
    with tempfile.TemporaryDirectory(prefix="exiflang-") as folder:
        path = Path(folder) / "photo.jpg"
        path.write_bytes(bare_jpeg(photo))
        found = jpeglib.read_dct(str(path))
        found.Y  # noqa: B018  # read now: it is lazy, and the file goes
        return found
