"""A JPEG file -> the choices of the encoder and of the EXIF writer: no pixels, no values of tags."""

import contextlib
import io
import struct
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import sha256
from typing import Any

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from exiflang.exif.reader import read_exif_block
from exiflang.exif.tags import ExifError, is_private
from exiflang.headers.exif_layout import is_packed
from exiflang.headers.segments import FRAMES, Segment, read_segments
from exiflang.utils.bare import JPEG_START
from exiflang.utils.images import DAMAGE

#: What a comment holds, in lower case, where a program names itself in it.
_SAID = {
    b"gimp": "GIMP", b"gd-jpeg": "GD", b"imagemagick": "ImageMagick", b"lavc": "FFmpeg", b"paint.net": "Paint.NET",
    b"lead technologies": "LEADTOOLS", b"adobe photoshop": "Adobe Photoshop", b"acd systems": "ACDSee",
    b"jpegmini": "JPEGmini",
}  # fmt: skip
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
    frame = next((segment.marker for segment in segments if segment.marker in FRAMES), None)
    restart = [int.from_bytes(segment.body[:2], "big") for segment in segments if segment.marker == 0xDD]
    huffman = {segment.body for segment in segments if segment.marker == 0xC4}
    names = [segment.name for segment in segments]
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
                separate_tables=all(_one_table(segment) for segment in segments if segment.marker in (0xC4, 0xDB)),
                comments=_named_programs(segments),
                packed_exif=_packed_exif(segments),
                **_exif_fields(photo, image),
            )  # fmt: skip
    return None


def _jfif(segments: Sequence[Segment]) -> tuple[int, ...]:
    """`JpegHeader.jfif`; the segment's layout is that of JFIF 1.02, page 5."""
    for segment in segments:
        if segment.name == "APP0 JFIF" and len(segment.body) >= 12:
            return struct.unpack(">BBBHH", segment.body[5:12])
    return ()


def _one_table(segment: Segment) -> bool:
    if segment.marker == 0xC4:
        return len(list(_split(segment.body))) == 1
    precise = segment.body[:1] >= b"\x10"  # 16 bits a step instead of 8, ITU-T T.81, B.2.4.1
    return len(segment.body) == (129 if precise else 65)


def _named_programs(segments: Sequence[Segment]) -> tuple[str, ...]:
    said = [segment.body.lower() for segment in segments if segment.marker == 0xFE]
    return tuple(name for sign, name in _SAID.items() if any(sign in text for text in said))


def _packed_exif(segments: Sequence[Segment]) -> bool | None:
    block = next((segment.body[6:] for segment in segments if segment.name == "APP1 EXIF"), None)
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
