"""Any user-supplied picture -> upright uint8 RGB, or one kind of error that says what to do."""

import contextlib
import io
import os
import struct
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from exiflang.utils.bare import bare_picture
from exiflang.utils.develop_raw import RawError, RawSizeError, develop
from exiflang.utils.extras import extra
from exiflang.utils.files import printable
from exiflang.utils.heic import is_heic
from exiflang.utils.raw_files import DEVELOP, RAW_EXTENSIONS, raw_reason

#: Maximum number of pixels, checked in the header before any pixel is decoded. It equals Pillow's own hard limit (twice
#: ``Image.MAX_IMAGE_PIXELS`` as shipped), so no global setting of Pillow has to change.
MAX_PIXELS = 178_956_970

#: Above this many pixels, a file must hold a byte per `MOST_PIXELS_A_BYTE` pixels; otherwise it is nearly blank or was
#: made to exhaust memory. Deflate packs at most 1,032 bytes into one, JPEG's Huffman codes fewer.
LARGE, MOST_PIXELS_A_BYTE = 16_000_000, 1200

#: A TIFF of a few megabytes can chain more pages than can be counted in reasonable time.
MOST_PAGES = 1000

# No EPS, WMF, PSD and the like: some start other programs, and cameras and editors do not publish in them.
_FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP", "JPEG2000", "AVIF", "PPM")

#: Extensions that count as pictures in a folder or a shard: those of `_FORMATS` and of HEIC.
PICTURE_EXTENSIONS = frozenset(
    ".jpg .jpeg .jpe .jfif .png .apng .webp .tif .tiff .gif .bmp .avif .avifs .heic .heics .heif .heifs .hif "
    ".jp2 .j2k .j2c .jpc .jpf .jpx .ppm .pgm .pbm .pnm .pfm .mpo".split()
)

#: Exceptions that Pillow and other readers raise on damaged bytes. UnidentifiedImageError is an OSError.
DAMAGE = (
    OSError, ValueError, SyntaxError, TypeError, LookupError, AttributeError, ArithmeticError, EOFError, MemoryError,
    RuntimeError, AssertionError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip

_ORIENTATION = 0x0112
# EXIF 2.32, 4.6.4 A, tag Orientation -> transpose that makes the stored pixels upright. ImageOps.exif_transpose also
# rewrites the whole EXIF block, which fails on the irregular tags of real cameras.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


_ROWS = 256  # pixels
_LEAVE = "download the file again or leave it out"
# Never advise re-saving: that destroys the traces under analysis.
_CONVERT = "convert a copy losslessly (PNG or TIFF); the original keeps the traces"
_T = TypeVar("_T")


class ImageError(ValueError):
    """An unreadable picture; the message names it (see `printable`), says what is wrong and what to do."""

    def __init__(self, message: str):
        super().__init__(printable(message))


class _DamagedError(ImageError):
    """Damage that may be outside the pixel data."""


class _RawFileError(ImageError):
    """A camera's raw file, which Pillow does not read."""

    def __init__(self, name: str, reason: str):
        super().__init__(f"{name}: {reason}")
        self.name = name


@dataclass(frozen=True, eq=False)
class Decoded:
    """A decoded picture.

    Attributes:
        pixels: uint8 [H, W, 3], upright.
        format: Pillow's name for it, e.g. "JPEG"; "RAW" for a camera's raw file; "" if the source was not a file.
        turn: the transpose that made the stored pixels upright; None if there was none. A HEIF file's own orientation
            counts as part of the stored pixels, and LibRaw turns a raw file while it develops it.
        turned_by: the source of the turn, "EXIF", "XMP" or (AVIF only) "container"; "" without a turn.
        bare: whether the file could be read only without its metadata, see `bare_picture`.
    """

    pixels: np.ndarray = field(repr=False)
    format: str = ""
    turn: Image.Transpose | None = None
    turned_by: str = ""
    bare: bool = False


def load_image(source: str | os.PathLike | bytes | Image.Image | np.ndarray) -> np.ndarray:
    """Read a picture as upright RGB.

    - `source`: a path; a file's bytes; a PIL image; or a uint8 array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]. JPEG,
      PNG, TIFF, WebP, GIF, BMP, JPEG 2000, AVIF and PPM are read, HEIC where pillow-heif is installed, and a camera's
      raw file (DNG, CR2, NEF and so on) where rawpy is, developed as `develop` says.
    - Orientation comes from EXIF, otherwise from XMP (damaged metadata is ignored; HEIF and AVIF use the container's).
      ICC profiles are ignored: pixels stay as stored. An animation or a multi-page file gives its first frame, a PIL
      image its current one.
    - Gray, palette, CMYK and YCbCr become RGB. Alpha is dropped, not blended: the pixels beneath were recorded, a
      blend would be invented. 16-bit gray is scaled, `round(v / 257)`; for 16-bit color, Pillow keeps the high byte.

    Returns uint8 [H, W, 3] in 0..255, a new array. Raises `ImageError` for a source that is missing, not a picture,
    truncated, damaged, empty or too large (`MAX_PIXELS`), HEIC or a raw file without its plugin, or a pixel type
    without a defined white (float, 32-bit integers beyond 65535); `TypeError` for a source of another type.
    """
    return decode_image(source).pixels


def decode_image(source: str | os.PathLike | bytes | Image.Image | np.ndarray) -> Decoded:
    """Read a picture like `load_image`, with its format and how it was turned."""
    if isinstance(source, np.ndarray):
        return Decoded(_array_to_rgb(source))
    with warnings.catch_warnings(action="ignore"):  # the caller wants pixels, not warnings about damaged metadata
        if isinstance(source, Image.Image):
            return _decode(source, getattr(source, "filename", "") or "PIL image")
        try:
            decoded, bare = _from_file(source, _decode)
        except _RawFileError as error:
            return Decoded(_developed(source, error), "RAW")
        return replace(decoded, bare=bare)


def _from_file(source: str | os.PathLike | bytes, use: Callable[[Image.Image, str], _T]) -> tuple[_T, bool]:
    """The result of `use` on a file or, if that is damaged, on its pixels alone; and whether it was damaged."""
    file, name = _named(source)  # closed with the picture, which frees its pixels
    try:
        with contextlib.closing(_opened(file, name)) as image:
            return use(image, name), False
    except _DamagedError:
        data = Path(source).read_bytes() if isinstance(source, str | os.PathLike) else bytes(source)
        bare = bare_picture(data)
        if bare is not None:
            with contextlib.suppress(_DamagedError), contextlib.closing(_opened(io.BytesIO(bare), name)) as image:
                return use(image, name), True
        raise


def _named(source: str | os.PathLike | bytes) -> tuple[Path | io.BytesIO, str]:
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(source), f"picture of {len(source)} bytes"
    if isinstance(source, str | os.PathLike):
        return _regular_file(source), os.fspath(source)
    raise TypeError(f"a picture is a path, bytes, a PIL image or a uint8 array, not {type(source).__name__}")


def _regular_file(path: str | os.PathLike) -> Path:
    try:
        if Path(path).is_file():  # a pipe or a device would block forever
            return Path(path)
    except OSError as error:
        raise ImageError(f"{path}: cannot be opened ({error.strerror}); check the path and its permissions") from error
    raise ImageError(f"{path}: no such file; check the path")


def _opened(file: Path | io.BytesIO, name: str) -> Image.Image:
    formats: tuple[str, ...] = _FORMATS
    try:
        with file.open("rb") if isinstance(file, Path) else contextlib.nullcontext(file) as opened:
            if reason := raw_reason(opened):
                raise _RawFileError(name, reason)
            if is_heic(opened):
                _register_heic(name)
                formats = ("HEIF",)
        image = Image.open(file, formats=formats)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(name) from error
    except PermissionError as error:
        raise ImageError(f"{name}: permission denied; change its permissions") from error
    except DAMAGE as error:
        if Path(name).suffix.lower() in RAW_EXTENSIONS:
            raise ImageError(f"{name}: a camera's raw file, by its extension; {DEVELOP}") from error
        why = "" if isinstance(error, Image.UnidentifiedImageError) else f" ({_reason(error)})"
        known = ", ".join(_FORMATS)
        raise _DamagedError(f"{name}: not a picture, or its header is damaged{why}; give one of {known}") from error
    size = file.stat().st_size if isinstance(file, Path) else file.getbuffer().nbytes
    if _most_pixels(size) < image.width * image.height <= MAX_PIXELS:
        image.close()
        raise _empty(name, image.width, image.height, size)
    return image


def _most_pixels(size: int) -> int:
    """How many pixels a file of `size` bytes may declare: more must be nearly uniform, or are too many."""
    return min(MAX_PIXELS, max(LARGE, MOST_PIXELS_A_BYTE * size))


def _empty(name: str, width: int, height: int, size: int) -> ImageError:
    return ImageError(
        f"{name}: declares {width:,} x {height:,} pixels in {size:,} bytes: damaged, empty, or made to exhaust memory; "
        f"{_LEAVE}"
    )


def _developed(source: str | os.PathLike | bytes, found: _RawFileError) -> np.ndarray:
    """The pixels of a camera's raw file."""
    file = Path(source) if isinstance(source, str | os.PathLike) else bytes(source)
    size = file.stat().st_size if isinstance(file, Path) else len(file)
    try:
        return develop(file, _most_pixels(size))
    except ImportError as error:
        raise ImageError(f"{found}; {error}, or {DEVELOP}") from error
    except RawSizeError as error:
        too_many = error.height * error.width > MAX_PIXELS
        raise _too_large(found.name) if too_many else _empty(found.name, error.width, error.height, size) from error
    except (RawError, OSError) as error:
        raise ImageError(f"{found}, but LibRaw does not read it ({_reason(error)}); {DEVELOP}") from error


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


def _register_heic(name: str) -> None:
    """Make Pillow read HEIC with its plugin, which is an extra."""
    try:
        with extra("heif"):
            import pillow_heif
    except ImportError as error:
        raise ImageError(f"{name}: HEIC needs a plugin: {error}; or {_CONVERT}") from error
    pillow_heif.register_heif_opener()


def _decode(image: Image.Image, name: str) -> Decoded:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise _too_large(name)
    if width * height == 0:
        raise ImageError(f"{name}: has no pixels ({width} x {height}); give a picture of at least 1 x 1")
    # Loading a TIFF, Pillow applies its turn and then forgets it; in a PNG, it may find EXIF only after the pixels.
    turn = turn_upright(image) if image.format == "TIFF" else None
    turned_by = _said_by(image) if turn is not None else ""
    try:
        image.load()
    except DAMAGE as error:
        raise _DamagedError(f"{name}: truncated or damaged ({_reason(error)}); {_LEAVE}") from error
    if (late := turn_upright(image)) is not None:
        turn, turned_by, image = late, _said_by(image), image.transpose(late)
    return Decoded(_to_rgb(image, name), image.format or "", turn, turned_by)


def _to_rgb(image: Image.Image, name: str) -> np.ndarray:
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _sixteen_bits_to_rgb(np.asarray(image), name)
    if image.mode == "F":
        raise ImageError(f"{name}: float pixels have no defined white; {_CONVERT}, with 8 or 16 bits a channel")
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    try:
        for top in range(0, image.height, _ROWS):  # all rows at once would take three times the memory
            part = image.crop((0, top, image.width, min(top + _ROWS, image.height)))
            pixels[top : top + _ROWS] = np.asarray(part.convert("RGB"))
        return pixels
    except DAMAGE as error:
        raise ImageError(f"{name}: mode {image.mode} cannot be converted to RGB; {_CONVERT}, as RGB") from error


def turn_upright(image: Image.Image) -> Image.Transpose | None:
    """How to turn the stored pixels, according to metadata; None: they are upright, or the metadata is damaged."""
    with contextlib.suppress(*DAMAGE):
        return _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    return None


def _said_by(image: Image.Image) -> str:
    """The source of the Orientation that Pillow reports: XMP if the EXIF has none."""
    if image.format == "AVIF":
        return "container"  # Pillow overwrites the EXIF's with the container's
    alone = Image.new("1", (1, 1))
    alone.info = {key: image.info[key] for key in ("exif", "Raw profile type exif") if key in image.info}
    return "EXIF" if _ORIENTATION in {*getattr(image, "tag_v2", ()), *alone.getexif()} else "XMP"


def stored_turn(photo: bytes) -> Image.Transpose | None:
    """How `load_image` turns the pixels of a readable JPEG file."""
    with warnings.catch_warnings(action="ignore"):
        return _from_file(photo, lambda image, _: turn_upright(image))[0]


def count_frames(data: bytes) -> int | None:
    """Number of frames or pages of a file that `load_image` has read; None: data after the first one is damaged.

    For a TIFF, at most `MOST_PAGES` pages are counted; a raw file counts as one.
    """
    with warnings.catch_warnings(action="ignore"), contextlib.suppress(*DAMAGE):
        try:
            return _from_file(data, _frames)[0]
        except _RawFileError:
            return 1
    return None


def _frames(image: Image.Image, _: str) -> int:
    if image.format != "TIFF":
        return getattr(image, "n_frames", 1)
    for page in range(1, MOST_PAGES):
        try:
            image.seek(page)
        except EOFError:
            return page
    return MOST_PAGES


def _sixteen_bits_to_rgb(gray: np.ndarray, name: str) -> np.ndarray:
    """Integer [H, W] in 0..65535 -> uint8 [H, W, 3]; 65535 / 257 = 255, so white stays white."""
    if gray.min() < 0 or gray.max() > 65535:
        raise ImageError(f"{name}: 32-bit pixels have no defined white; {_CONVERT}, with 8 or 16 bits a channel")
    return np.repeat(((gray.astype(np.uint32) + 128) // 257).astype(np.uint8)[..., None], 3, axis=2)


def _array_to_rgb(array: np.ndarray) -> np.ndarray:
    name = f"array {array.dtype} {list(array.shape)}"
    if array.dtype != np.uint8:
        raise ImageError(f"{name}: pixels must be uint8 in 0..255; scale and convert the array first")
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ImageError(f"{name}: a picture is [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]; reorder or split the array")
    if array.size == 0:
        raise ImageError(f"{name}: has no pixels; give a picture of at least 1 x 1")
    if array.shape[0] * array.shape[1] > MAX_PIXELS:
        raise _too_large(name)
    colors = np.atleast_3d(array)[..., :3]  # [H, W, 1 or 3]
    return np.array(np.broadcast_to(colors, (*colors.shape[:2], 3)), order="C")


def _too_large(name: str) -> ImageError:
    return ImageError(f"{name}: more than {MAX_PIXELS:,} pixels; crop a copy losslessly, or cut it into tiles")
