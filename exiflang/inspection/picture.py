"""A suspicious file: its pixels, its EXIF, and what is odd about them."""

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from exiflang.exif.reader import read_exif
from exiflang.exif.tags import ExifError, clean, is_private
from exiflang.localization.evidence import FileHistory, read_history
from exiflang.utils.bare import JPEG_START
from exiflang.utils.files import printable
from exiflang.utils.images import MOST_PAGES, Decoded, ImageError, count_frames, decode_image
from exiflang.utils.typed import typed

#: A file is read whole, once, so that what is hashed is what is looked at.
MOST_BYTES = 1 << 30


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture file of H x W pixels.

    Attributes:
        name: the file's name without its folder, one printable line.
        image: uint8 [H, W, 3], upright.
        tags: {tag: value} as `read_exif` gives them; with GPS, serial numbers and names only if they were asked for.
        hidden: how many such private tags the file has and `tags` does not.
        notes: sentences about what is odd: no EXIF, EXIF that is broken or gives another size, what was left out.
        format: as Pillow names it, e.g. "JPEG".
        size: of the file, in bytes.
        sha256: of the file, 64 hexadecimal digits.
        history: of its compression, if it is a JPEG.
    """

    name: str
    image: np.ndarray = field(repr=False)
    tags: dict[str, str] = field(repr=False)
    hidden: int
    notes: tuple[str, ...]
    format: str
    size: int
    sha256: str
    history: FileHistory | None = field(repr=False, default=None)


def open_picture(source: str | os.PathLike | bytes, name: str = "", private: bool = False) -> Picture:
    """Read a path, or the bytes of a file called `name`.

    private: keep GPS, serial numbers, names and comments in `tags`.

    Raises `ImageError` for what is no picture or cannot be read, `ValueError` for a `private` that is neither True nor
    False. EXIF that cannot be read is a note, not an error.
    """
    if isinstance(source, bytes):
        data, name = source, clean(printable(name or "picture"), 200)
    else:
        data, name = _read(Path(source)), clean(printable(name or Path(source).name), 200)
    history = read_history(data)  # before the pixels: for a large picture, both at once take twice the memory
    try:
        decoded = decode_image(data)
    except ImageError as error:
        raise ImageError(f"{name}: {str(error).partition(': ')[2]}") from error
    notes = []
    typed("private", private, bool)
    try:
        every = read_exif(data, private=True)
    except ExifError as error:
        every = {}
        notes.append(f"Its EXIF cannot be read: {str(error).partition(': ')[2]}.")
    tags = {tag: value for tag, value in every.items() if private or not is_private(tag)}
    if not every and not notes:
        notes.append(
            "It carries no EXIF that is known: an editor or a website may have removed it, or it never had any."
        )
    if decoded.bare:
        notes.append("What lies beside its pixels is damaged or too large to read: it was skipped.")
    if (frames := count_frames(data)) is None:
        notes.append("The first frame or page is shown: how many follow cannot be told, since they are damaged.")
    elif frames > 1:
        least = "at least " if decoded.format == "TIFF" and frames == MOST_PAGES else ""
        notes.append(f"It has {least}{frames:,} frames or pages: the first one is shown.")
    if history is None and data.startswith(JPEG_START):
        notes.append("Its JPEG coefficients cannot be read: its history of compression is read from its pixels.")
    notes += filter(None, [_turning(decoded, tags), _other_size(tags, decoded.pixels.shape[:2])])
    digest, hidden = hashlib.sha256(data).hexdigest(), len(every) - len(tags)
    return Picture(name, decoded.pixels, tags, hidden, tuple(notes), decoded.format, len(data), digest, history)


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():  # a pipe or a device would block for ever
            raise ImageError(f"{path}: no such file; check the path")
        if path.stat().st_size > MOST_BYTES:
            raise ImageError(f"{path}: more than {MOST_BYTES >> 20:,} MB; open a lossless crop of it")
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error


def _turning(decoded: Decoded, tags: dict[str, str]) -> str:
    """A sentence on how the pixels were turned, or why not although the EXIF asks for it."""
    said = tags.get("Orientation", "top-left")
    if decoded.turn is not None:
        return f"It is stored turned or mirrored, as its {decoded.turned_by} says: it is shown and analyzed upright."
    if said in ("top-left", "0"):
        return ""
    if decoded.format in ("HEIF", "AVIF"):
        return f"Its EXIF Orientation ({said}) does not count in a {decoded.format} file, whose container says its own."
    return (
        f"Its EXIF Orientation ({said}) was not applied, as it is of a wrong type, given twice or in an odd place: the "
        "picture is shown and analyzed as stored."
    )


def _other_size(tags: dict[str, str], shape: tuple[int, int]) -> str:
    """A sentence if EXIF gives other pixel dimensions than the picture has, either way round."""
    said = [tags.get(tag, "") for tag in ("PixelXDimension", "PixelYDimension")]
    if not all(side.isdecimal() for side in said) or sorted(map(int, said)) == sorted(shape):
        return ""
    return (
        f"EXIF says {said[0]} x {said[1]} pixels, the picture has {shape[1]} x {shape[0]}: it was cropped, rescaled or "
        "edited since the camera wrote it, or its EXIF is another picture's."
    )
