"""A suspicious file: its pixels, its EXIF, and notes on anything unusual."""

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from exiflang.exif.reader import read_exif
from exiflang.exif.tags import ExifError, clean, is_private
from exiflang.headers.file_check import FileCheck, check_file
from exiflang.localization.evidence import FileHistory, read_history
from exiflang.utils.bare import JPEG_START
from exiflang.utils.develop_raw import developer
from exiflang.utils.files import printable
from exiflang.utils.images import MOST_PAGES, Decoded, ImageError, count_frames, decode_image
from exiflang.utils.typed import typed

#: A file is read once, completely, so the hash matches the analyzed data.
MOST_BYTES = 1 << 30


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture file of H x W pixels.

    Attributes:
        name: the file's name without its folder, one printable line.
        image: uint8 [H, W, 3], upright.
        tags: {tag: value} from `read_exif`, with GPS, serial numbers and names only on request.
        hidden: number of private tags that are in the file but not in `tags`.
        notes: sentences on anything unusual: no EXIF, broken EXIF, parts that were skipped.
        format: Pillow's name for it, e.g. "JPEG"; "RAW" for a camera's raw file.
        size: size of the file, in bytes.
        sha256: of the file, 64 hexadecimal digits.
        file: what the file says about itself.
        history: compression history, if it is a JPEG.
    """

    name: str
    image: np.ndarray = field(repr=False)
    tags: dict[str, str] = field(repr=False)
    hidden: int
    notes: tuple[str, ...]
    format: str
    size: int
    sha256: str
    file: FileCheck = field(repr=False)
    history: FileHistory | None = field(repr=False, default=None)


def open_picture(source: str | os.PathLike | bytes, name: str = "", private: bool = False) -> Picture:
    """Read a path, or the bytes of a file called `name`.

    private: keep GPS, serial numbers, names and comments in `tags`.

    Raises `ImageError` if it is not a picture or cannot be read, `ValueError` if `private` is neither True nor False.
    Unreadable EXIF is a note, not an error.
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
        notes.append("It has no known EXIF: an editor or a website may have removed it, or there never was any.")
    if decoded.bare:
        notes.append("Its metadata are damaged or too large to read and were skipped.")
    if (frames := count_frames(data)) is None:
        notes.append("Only the first frame or page is shown; the others are damaged, so their number is unknown.")
    elif frames > 1:
        least = "at least " if decoded.format == "TIFF" and frames == MOST_PAGES else ""
        notes.append(f"It has {least}{frames:,} frames or pages; only the first one is shown.")
    if history is None and data.startswith(JPEG_START):
        notes.append("Its JPEG coefficients cannot be read; its compression history is estimated from its pixels.")
    if decoded.format == "RAW":
        notes.append(
            f"A camera's raw file, developed by {developer()}: these are not the pixels of the camera's own JPEG, and "
            "JPEGs are what the packaged model was trained on."
        )
    notes += filter(None, [_turning(decoded, tags)])
    digest, hidden = hashlib.sha256(data).hexdigest(), len(every) - len(tags)
    file = check_file(data, decoded.pixels, private)
    return Picture(name, decoded.pixels, tags, hidden, tuple(notes), decoded.format, len(data), digest, file, history)


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():  # a pipe or a device would block forever
            raise ImageError(f"{path}: no such file; check the path")
        if path.stat().st_size > MOST_BYTES:
            raise ImageError(f"{path}: larger than {MOST_BYTES >> 20:,} MB; open a lossless crop of it")
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error


def _turning(decoded: Decoded, tags: dict[str, str]) -> str:
    """A sentence on how the pixels were rotated, or why they were not although the EXIF requests it."""
    said = tags.get("Orientation", "top-left")
    if decoded.turn is not None:
        return f"Stored rotated or mirrored according to its {decoded.turned_by}; shown and analyzed upright."
    if said in ("top-left", "0"):
        return ""
    if decoded.format == "RAW":
        return f"Its EXIF Orientation ({said}) was left to LibRaw, which turns raw files upright."
    if decoded.format in ("HEIF", "AVIF"):
        return f"Its EXIF Orientation ({said}) is ignored: the container of a {decoded.format} file sets it."
    return (
        f"Its EXIF Orientation ({said}) was not applied because it has a wrong type or location or is duplicated: the "
        "picture is shown and analyzed as stored."
    )
