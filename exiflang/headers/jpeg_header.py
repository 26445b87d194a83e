"""A JPEG file -> the choices of the encoder and of the EXIF writer: no pixels, no values of tags."""

import contextlib
import io
import struct
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import sha256
from typing import Any, NamedTuple

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from exiflang.exif.reader import read_exif_block
from exiflang.exif.tags import ExifError, is_private
from exiflang.headers.exif_layout import is_packed
from exiflang.utils.bare import JPEG_START
from exiflang.utils.images import DAMAGE

#: At most this many segments of a file are listed.
MOST_SEGMENTS = 200
#: What the bytes at the start of an application segment stand for: (marker, start, name).
_KINDS = [
    (0xE0, b"JFIF\0", "JFIF"), (0xE0, b"JFXX\0", "JFXX"), (0xE1, b"Exif\0", "EXIF"),
    (0xE1, b"http://ns.adobe.com/xap/1.0/\0", "XMP"), (0xE1, b"http://ns.adobe.com/xmp/extension/\0", "XMP extension"),
    (0xE2, b"ICC_PROFILE\0", "ICC"), (0xE2, b"MPF\0", "MPF"), (0xE2, b"FPXR\0", "FlashPix"), (0xEB, b"JP", "JUMBF"),
    (0xEC, b"Ducky", "Ducky"), (0xED, b"Photoshop 3.0\0", "Photoshop"), (0xEE, b"Adobe", "Adobe"),
]  # fmt: skip
#: What a comment holds, in lower case, where a program names itself in it.
_SAID = {
    b"gimp": "GIMP", b"gd-jpeg": "GD", b"imagemagick": "ImageMagick", b"lavc": "FFmpeg", b"paint.net": "Paint.NET",
    b"lead technologies": "LEADTOOLS", b"adobe photoshop": "Adobe Photoshop", b"acd systems": "ACDSee",
    b"jpegmini": "JPEGmini",
}  # fmt: skip
_NAMES = {0xC4: "DHT", 0xDB: "DQT", 0xDD: "DRI", 0xFE: "COM", 0xDA: "SOS"}
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
# Absent from some records of tags, so that their absence tells nothing.
_NOT_COMPARED = {"MakerNote", "InteroperabilityOffset", "GPSInfo", "Padding"}


@dataclass(frozen=True)
class JpegHeader:
    """The header of a JPEG file. None in the optional fields means unknown, never "no".

    Attributes:
        tables: the quantization tables that components use, in the order of their numbers, 64 steps each, row by row.
        sampling: sampling factors (horizontal x vertical) and number of the table of each component, "2x2:0 1x1:1".
        width, height: of the stored picture, in pixels.
        progressive: whether it is stored in several scans of rising detail.
        huffman: "standard" for the tables of ITU-T T.81, annex K.3, "optimized" for any other.
        restart: restart interval in minimum coded units, 0 without one.
        markers: the segments up to the first scan in order, "APP1 EXIF", "DQT", equal neighbors once.
        thumbnail: width, height and key of the tables of the EXIF's thumbnail; () if there is none.
        byte_order: of the EXIF, "II" or "MM"; "" without EXIF.
        tags: names of its tags as exifread prints them, in the order of the file, without private ones.
        maker_note: whether the EXIF has a maker note.
        jfif: version (two numbers), unit of the density (0 none, 1 inch, 2 cm) and density, across and down, of the
            first JFIF segment; () without one.
        separate_tables: whether each quantization and Huffman table has a segment of its own.
        comments: the known programs that comments name, without their other text.
        packed_exif: whether the EXIF lies as programs that rewrite it leave it, see `is_packed`.
    """

    tables: tuple[tuple[int, ...], ...]
    sampling: str
    width: int | None = None
    height: int | None = None
    progressive: bool | None = None
    huffman: str | None = None
    restart: int | None = None
    markers: tuple[str, ...] | None = None
    thumbnail: tuple[Any, ...] | None = None
    byte_order: str | None = None
    tags: tuple[str, ...] | None = None
    maker_note: bool | None = None
    jfif: tuple[int, ...] | None = None
    separate_tables: bool | None = None
    comments: tuple[str, ...] | None = None
    packed_exif: bool | None = None

    @property
    def encoding(self) -> str:
        """A key of tables and sampling, 12 hexadecimal digits: files of equal keys can share an encoder."""
        return _key([self.tables, self.sampling])

    @property
    def size(self) -> tuple[int, int] | None:
        """The shorter and the longer side, in pixels: equal for a picture and its rotation."""
        if self.width is None or self.height is None:
            return None
        return min(self.width, self.height), max(self.width, self.height)

    @property
    def record(self) -> dict[str, Any]:
        """For JSON: the known fields."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> "JpegHeader":
        """The header of a `record`, as read from JSON. Raises `ValueError` if it is not one."""
        try:
            found = cls(**{name: _frozen(value) for name, value in record.items()})
            numbers = {type(step) for table in found.tables for step in table}
            names = {type(name) for name in (found.sampling, *(found.tags or ()))}
            if {len(table) for table in found.tables} != {64} or numbers != {int} or names != {str}:
                raise TypeError("tables are not of 64 whole numbers, or names not of text")
            return found
        except (TypeError, LookupError) as error:
            raise ValueError(f"not the record of a JPEG header ({error}): prepare the photo again") from error


def read_header(photo: bytes) -> JpegHeader | None:
    """The header of a JPEG file; None for any other file, and for a header that cannot be read."""
    if not photo.startswith(JPEG_START):
        return None
    segments = list(read_segments(photo))
    frame = next((segment.marker for segment in segments if segment.marker in _FRAMES), None)
    restart = [int.from_bytes(segment.body[:2], "big") for segment in segments if segment.marker == 0xDD]
    huffman = {segment.body for segment in segments if segment.marker == 0xC4}
    names = [_name(segment) for segment in segments]
    with warnings.catch_warnings(action="ignore"), contextlib.suppress(*DAMAGE):
        with JpegImageFile(io.BytesIO(photo)) as image:
            layers = " ".join(f"{across}x{down}:{table}" for _, across, down, table in image.layer)
            used = sorted({table for *_, table in image.layer})  # some cameras store one more
            tables = tuple(tuple(map(int, image.quantization[number])) for number in used)
            if not tables:
                return None
            return JpegHeader(
                tables, layers, *image.size,
                progressive=None if frame is None else frame in _PROGRESSIVE,
                huffman=None if not huffman else "standard" if _all_standard(huffman) else "optimized",
                restart=restart[-1] if restart else 0,
                markers=tuple(name for name, before in zip(names, ["", *names], strict=False) if name != before),
                jfif=_jfif(segments),
                separate_tables=all(_one_table(marker, body) for marker, body in segments if marker in (0xC4, 0xDB)),
                comments=_named_programs(segments),
                packed_exif=_packed_exif(segments),
                **_exif_fields(photo, image),
            )  # fmt: skip
    return None


def _jfif(segments: Sequence[tuple[int, bytes]]) -> tuple[int, ...]:
    """`JpegHeader.jfif`; the segment's layout is that of JFIF 1.02, page 5."""
    for marker, body in segments:
        if marker == 0xE0 and body.startswith(b"JFIF\0") and len(body) >= 12:
            return struct.unpack(">BBBHH", body[5:12])
    return ()


def _one_table(marker: int, body: bytes) -> bool:
    if marker == 0xC4:
        return len(list(_split(body))) == 1
    return len(body) == (129 if body[:1] >= b"\x10" else 65)  # precision of 16 or 8 bits, ITU-T T.81, B.2.4.1


def _named_programs(segments: Sequence[tuple[int, bytes]]) -> tuple[str, ...]:
    said = [body.lower() for marker, body in segments if marker == 0xFE]
    return tuple(name for sign, name in _SAID.items() if any(sign in text for text in said))


def _packed_exif(segments: Sequence[tuple[int, bytes]]) -> bool | None:
    block = next((body[6:] for marker, body in segments if _name(marker, body) == "APP1 EXIF"), None)
    return None if block is None else is_packed(block)


def _exif_fields(photo: bytes, image: Image.Image) -> dict[str, Any]:
    """Fields of the EXIF that can be read."""
    try:
        block = read_exif_block(photo)
    except ExifError:
        return {}
    maker_note = None
    with contextlib.suppress(*DAMAGE):
        maker_note = 0x927C in image.getexif().get_ifd(0x8769)
    small = () if block.thumbnail is None else _thumbnail_fields(block.thumbnail)
    return {
        "thumbnail": small,
        "byte_order": block.byte_order,
        "tags": compared_tags(block.printed),
        "maker_note": maker_note,
    }


def compared_tags(printed: Mapping[str, object]) -> tuple[str, ...]:
    """The names of exifread's output that `JpegHeader.tags` lists."""
    named = ((key, key.partition(" ")) for key in printed)
    return tuple(
        key
        for key, (folder, _, name) in named
        if folder in ("Image", "EXIF") and name not in _NOT_COMPARED and not is_private(name)
    )


def _thumbnail_fields(photo: bytes) -> tuple[Any, ...] | None:
    with contextlib.suppress(*DAMAGE), JpegImageFile(io.BytesIO(photo)) as image:
        tables = [tuple(map(int, image.quantization[number])) for number in sorted(image.quantization)]
        return (*image.size, _key(tables))
    return None


class Segment(NamedTuple):
    """A marker segment of a JPEG file: its marker's second byte, where its content begins, and the content."""

    marker: int
    start: int
    body: bytes


def read_segments(photo: bytes) -> Iterator[Segment]:
    """The segments up to the first scan, whose content is left out."""
    offset = 2
    for _ in range(MOST_SEGMENTS):
        while photo[offset : offset + 2] == b"\xff\xff":  # fill bytes
            offset += 1
        marker, size = photo[offset + 1 : offset + 2], int.from_bytes(photo[offset + 2 : offset + 4], "big")
        if photo[offset : offset + 1] != b"\xff" or not marker or size < 2:
            return
        body = b"" if marker == b"\xda" else photo[offset + 4 : offset + 2 + size]
        yield Segment(marker[0], offset + 4, body)
        if marker in (b"\xda", b"\xd9"):
            return
        offset += 2 + size


def _name(segment: Segment) -> str:
    marker = segment.marker
    if marker in _FRAMES:
        return f"SOF{marker - 0xC0}"
    if 0xE0 <= marker <= 0xEF:
        kinds = (name for number, start, name in _KINDS if number == marker and segment.body.startswith(start))
        return f"APP{marker - 0xE0} {next(kinds, '')}".strip()
    return _NAMES.get(marker, f"{marker:02X}")


@cache
def _standard_tables() -> frozenset[bytes]:
    """The four Huffman tables of annex K.3, as libjpeg writes them: class and number, then counts and symbols."""
    file = io.BytesIO()
    Image.new("RGB", (1, 1)).save(file, "JPEG", optimize=False)
    segments = read_segments(file.getvalue())
    return frozenset(table for segment in segments if segment.marker == 0xC4 for table in _split(segment.body))


def _all_standard(bodies: set[bytes]) -> bool:
    return all(table in _standard_tables() for body in bodies for table in _split(body))


def _split(body: bytes) -> Iterator[bytes]:
    """The tables of a DHT segment (ITU-T T.81, B.2.4.2)."""
    while body:
        end = 17 + sum(body[1:17])
        yield body[:end]
        body = body[end:]


def _key(value: Any) -> str:
    return sha256(repr(value).encode()).hexdigest()[:12]


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list | tuple) else value
