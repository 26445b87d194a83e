"""A picture file, a shard's JSON, or output of exiv2, exiftool or metadata-extractor → canonical {tag: value}.

`tags.py` defines the tags, their order and the form of their values; `dialects.py` covers other readers' spellings.
"""

import contextlib
import io
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from os import PathLike, fspath
from pathlib import Path
from typing import BinaryIO, cast

import exifread
from exifread.core.exceptions import ExifError as ReaderError
from exifread.core.heic import Box, HEICExifFinder
from PIL import PngImagePlugin

from exiflang.exif.dialects import in_exifread_terms
from exiflang.exif.tags import NAMES, PRIVATE, ExifError, _position, clean
from exiflang.utils.images import DAMAGE
from exiflang.utils.typed import typed

MAX_READ = 4 << 20  # bytes per read: a corrupt text length can request 4 GB
MAX_BYTES, MAX_READS = 32 << 20, 200_000  # per picture; a metadata-rich file takes about 4,000 reads


_FOLDERS = ("", "Image", "EXIF", "Interoperability")  # the picture's own; "Thumbnail", "MakerNote", "IFD 2" are not


def canonical_tags(printed: Mapping[str, object], *, private: bool = False) -> dict[str, str]:
    """Canonical tags from a reader's output, such as the parsed `exif` of an img2dataset JSON or a YFCC100M dump line.

    Args:
        printed: "EXIF ExposureTime" (exifread) or plain "ExposureTime" -> "1/125", "Exif.Photo.ExposureTime" (exiv2),
            "ExifIFD:ExposureTime" (exiftool), "Exif SubIFD.Exposure Time" -> "1/125 sec" (metadata-extractor); values
            of any type are converted with `str`. `dialects` lists what each reader loses.
        private: also keep GPS, serial numbers, names, comments and unique ids; sentences omit them regardless.

    Returns:
        EXIF 2.32 tag name -> canonical value (not empty, printable, one line, at most 100 characters), in canonical
        order regardless of the order of `printed`. Unknown tags, thumbnails, maker notes, offsets and unusable values
        ("", "0/0", padding) are absent. If two directories hold a tag, the one that the standard specifies wins.
        Idempotent.
    """
    found: dict[str, tuple[int, str]] = {}
    typed("private", private, bool)
    for folder, name, value in in_exifread_terms(printed):
        tag = NAMES.get(name)
        if tag and folder in _FOLDERS:
            text = tag.show(value[:4096].strip(" \0"))
            rank = 0 if folder in ("", tag.folder) else _FOLDERS.index(folder)
            if text and (tag.name not in found or rank < found[tag.name][0]):
                found[tag.name] = (rank, text)
        elif private and (folder in _FOLDERS and name in PRIVATE or folder in ("", "GPS") and name.startswith("GPS")):
            if text := clean(value):
                found.setdefault(name, (0, text))
    return {name: found[name][1] for name in sorted(found, key=_position)}


# ------------------------------------- picture -> printed values --------------------------------------
class _BoundedFile:
    """A file from `start` on that cuts off a reader caught in a loop (malicious counts, circular boxes)."""

    def __init__(self, file: BinaryIO, start: int = 0):
        self._file, self._start, self._bytes, self._reads = file, start, MAX_BYTES, MAX_READS
        self.seek(0)

    def read(self, size: int = -1) -> bytes:
        self._reads -= 1
        data = self._file.read(size if 0 <= size < MAX_READ else MAX_READ)
        if not isinstance(data, bytes):
            raise ExifError("the file is open in text mode: open it with mode 'rb'")
        self._bytes -= len(data)
        if self._bytes < 0 or self._reads < 0:
            raise ExifError("its EXIF requires too much reading (circular or malicious); use the picture without EXIF")
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset + self._start if whence == 0 else offset, whence)

    def tell(self) -> int:
        return self._file.tell() - self._start


def _jpeg_tiff(file: _BoundedFile) -> int | None:
    """Offset of the TIFF header in the first non-empty Exif APP1 segment, wherever it is."""
    offset = 2
    while True:
        file.seek(offset)
        head = file.read(10)  # FF, marker, length (2), "Exif\0\0"
        if len(head) < 4 or head[0] != 0xFF or head[1] in (0xD9, 0xDA):
            return None
        size = int.from_bytes(head[2:4], "big")
        if head[1] == 0xE1 and head[4:] == b"Exif\0\0" and size > 8:
            return offset + 10
        offset += 1 if head[1] == 0xFF else 2 + size


def _webp_tiff(file: _BoundedFile) -> int | None:
    """Offset of the TIFF header in the EXIF chunk, with or without the "Exif\\0\\0" that some writers prepend."""
    offset = 12
    while True:
        file.seek(offset)
        head = file.read(14)
        if len(head) < 8:
            return None
        if head[:4] == b"EXIF":
            return offset + (14 if head[8:] == b"Exif\0\0" else 8)
        size = int.from_bytes(head[4:8], "little")
        offset += 8 + size + size % 2


def _png_tiff(file: _BoundedFile) -> int | io.BytesIO | None:
    """Offset of the TIFF header in the eXIf chunk, or the TIFF structure in the text chunk that predates it."""
    offset, profile = 8, None
    while True:
        file.seek(offset)
        head = file.read(8)
        size = int.from_bytes(head[:4], "big")
        if len(head) < 8 or head[4:] == b"IEND":
            return profile
        if head[4:] == b"eXIf":
            return offset + 8
        if head[4:] in (b"tEXt", b"zTXt", b"iTXt") and file.read(17) == b"Raw profile type ":
            file.seek(offset + 8)
            profile = _raw_profile(head[4:], file.read(size)) or profile
        offset += 12 + size


def _raw_profile(kind: bytes, chunk: bytes) -> io.BytesIO | None:
    """The TIFF structure that a PNG text chunk encodes as hexadecimal digits, after a name and a length."""
    with contextlib.suppress(ValueError, LookupError, SyntaxError, AttributeError):
        text = PngImagePlugin.PngStream(io.BytesIO(chunk))  # limits the size of decompressed text
        text.call(kind, 0, len(chunk))
        for name in ("exif", "APP1"):
            if spelled := text.im_text.get(f"Raw profile type {name}"):
                block = bytes.fromhex("".join(spelled.split("\n")[3:])).removeprefix(b"Exif\0\0")
                return io.BytesIO(block) if block[:2] in (b"II", b"MM") else None
    return None


class _HeifFinder(HEICExifFinder):
    """exifread's parser, extended to all HEIF brands and to item offsets relative to a base offset."""

    def _parse_ftyp(self, box: Box) -> None:
        box.major_brand, box.minor_version = b"heic", 0

    def _parse_iloc(self, box: Box) -> None:
        """Read the location of each item: ISO/IEC 14496-12, 8.11.3."""
        self.get_full(box)
        (offset_size, length_size), (base_size, index_size) = self.get_int4x2(), self.get_int4x2()
        number = self.get32 if box.version == 2 else self.get16
        box.locs = {}
        for _ in range(number()):
            item = number()
            self.get(4 if box.version else 2)  # construction method and data reference: assumed to be 0
            base, extents = self.get_int(base_size), []
            for _ in range(self.get16() if offset_size + length_size else 0):  # else a loop without reads
                self.get_int(index_size if box.version else 0)
                extents.append((base + self.get_int(offset_size), self.get_int(length_size)))
            box.locs[item] = extents


def _heif_tiff(file: _BoundedFile) -> int | None:
    """Offset of the TIFF header in the Exif item."""
    file.seek(0)
    offset, endian = _HeifFinder(cast(BinaryIO, file)).find_exif()
    return (offset or file.tell()) if endian else None  # without "Exif\0\0", the header is at the current position


# The second two are malformed but read anyway; the others are ORF and RW2, which are TIFF in all else.
_TIFF = (b"II*\0", b"MM\0*", b"II\0*", b"MM*\0", b"IIRO", b"IIRS", b"MMOR", b"IIU\0")
_NOT_LOOKED_FOR = {
    b"II+\0": "BigTIFF", b"MM\0+": "BigTIFF", b"\0\0\0\x0cjP  ": "JPEG 2000", b"\xff\x4f\xff\x51": "JPEG 2000",
    b"II\x1a\0\0\0HEAP": "CRW", b"FUJIFILMCCD": "RAF", b"FOVb": "X3F", b"\0MRM": "MRW",
}  # fmt: skip


def _tiff(file: BinaryIO) -> int | io.BytesIO | None:
    """Where a picture's EXIF begins; ExifError if the file is not a picture."""
    whole = _BoundedFile(file)
    head = whole.read(12)
    # exifread misses an Exif segment after 4 kB of other segments, and a standard-conforming EXIF chunk in WebP
    if head[:3] == b"\xff\xd8\xff":
        return _jpeg_tiff(whole)
    if head[:4] == b"RIFF" and head[8:] == b"WEBP":
        return _webp_tiff(whole)
    if head[:4] == b"\x89PNG":
        return _png_tiff(whole)
    if head[4:] == b"ftypcrx ":
        raise ExifError("EXIF of CR3 is not looked for; use the picture without EXIF")
    if head[4:8] == b"ftyp":
        return _heif_tiff(whole)
    if head[:2] == b"BM" or head[:4] == b"GIF8" or re.match(rb"P[0-9Ffy]", head):
        return None  # formats without EXIF
    if head[:4] in _TIFF or head[4:] == b"JXL \r\n\x87\n":
        return 0
    for start, name in _NOT_LOOKED_FOR.items():
        if head.startswith(start):
            raise ExifError(f"EXIF of {name} is not looked for; use the picture without EXIF")
    known = "not a JPEG, TIFF, PNG, WebP, HEIC or AVIF picture; leave the file out"
    raise ExifError(known if head else "the file is empty; leave it out")


@dataclass(frozen=True, eq=False)
class ExifBlock:
    """A picture's EXIF as it is stored.

    Attributes:
        printed: exifread's output in the order of the file, "EXIF ExposureTime" -> a value that `str` prints.
        byte_order: "II" (little-endian) or "MM"; "" without EXIF.
        thumbnail: the embedded JPEG file; None if there is none.
    """

    printed: dict[str, object] = field(repr=False)
    byte_order: str = ""
    thumbnail: bytes | None = field(default=None, repr=False)


def _read_block(file: BinaryIO, thumbnail: bool = False) -> ExifBlock:
    """The EXIF of a picture; ExifError if the file is not a picture."""
    start = _tiff(file)
    if start is None:
        return ExifBlock({})
    if isinstance(start, io.BytesIO):
        file, start = start, 0
    file.seek(start)
    byte_order = file.read(2)
    if start and byte_order not in (b"II", b"MM"):
        raise ExifError("its EXIF block is not a TIFF structure; use the picture without EXIF")
    logging.getLogger("exifread").setLevel(logging.CRITICAL)  # it warns of each odd value; errors are raised here
    bounded = cast(BinaryIO, _BoundedFile(file, start))  # exifread only reads, seeks and tells
    printed = exifread.process_file(bounded, details=False, extract_thumbnail=thumbnail)
    small = printed.pop("JPEGThumbnail", None)
    return ExifBlock(printed, byte_order.decode("latin-1"), small if isinstance(small, bytes) else None)


def read_exif_block(photo: bytes) -> ExifBlock:
    """The EXIF of a picture file as stored, with its thumbnail. Raises `ExifError` like `read_exif`."""
    return _named_errors(lambda: _read_block(io.BytesIO(photo), thumbnail=True), f"{len(photo)} bytes in memory")


def read_exif(source: str | PathLike | bytes | BinaryIO, *, private: bool = False) -> dict[str, str]:
    """The EXIF of a picture as canonical tags (see `canonical_tags`), in canonical order; {} when it has none.

    Args:
        source: path, the picture's bytes, or a seekable binary file (read from its start; its position is restored).
        private: also return GPS, serial numbers, names, comments and unique ids.

    Raises:
        ExifError: the file is missing or not a picture, or its EXIF is too damaged to read. Bounded in time and memory.
        TypeError: `source` is of another type.
    """
    if isinstance(source, (str, PathLike)):
        name = clean(str(fspath(source)), 300)
        if Path(source).is_fifo():  # opening it would block forever
            raise ExifError(f"{name}: a pipe; give a file")
        try:
            file = open(source, "rb")
        except (OSError, ValueError) as error:
            raise ExifError(f"{name}: cannot be opened ({clean(str(error))}); check path and permissions") from error
        with file:
            return _read(file, name, private)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _read(io.BytesIO(source), f"{len(source)} bytes in memory", private)
    if not all(hasattr(source, method) for method in ("read", "seek", "tell")):
        raise TypeError(f"source must be a path, bytes or a binary file, not {type(source).__name__}")
    name = clean(str(getattr(source, "name", "open file")), 300)
    try:
        position = source.tell()
        source.seek(0)
    except (OSError, ValueError) as error:
        raise ExifError(f"{name}: cannot be rewound ({clean(str(error))}); pass its bytes instead") from error
    try:
        return _read(source, name, private)
    finally:
        source.seek(position)


def _read(file: BinaryIO, name: str, private: bool) -> dict[str, str]:
    return canonical_tags(_named_errors(lambda: _read_block(file), name).printed, private=private)


def _named_errors(read: Callable[[], ExifBlock], name: str) -> ExifBlock:
    try:
        return read()
    except ExifError as error:
        raise ExifError(f"{name}: {error}") from error
    except OSError as error:
        raise ExifError(f"{name}: cannot be read ({clean(str(error))}); check the disk or the connection") from error
    except (ReaderError, *DAMAGE) as error:
        raise ExifError(
            f"{name}: broken EXIF ({type(error).__name__}: {clean(str(error))}); its pixels may still be readable: "
            "use the picture without EXIF, or repair it with exiftool"
        ) from error
