"""A picture file -> the same pixels without metadata: broken metadata must not make the pixels unreadable."""

import contextlib
import io
import re
import zlib
from collections.abc import Iterator

from PIL import PngImagePlugin

#: The first bytes of every JPEG file.
JPEG_START = b"\xff\xd8\xff"
_PNG_START = b"\x89PNG\r\n\x1a\n"
_METADATA = {*range(0xE1, 0xF0), 0xFE} - {0xEE}  # APP1 to APP15 without Adobe's APP14, and comments
_COLOR = {0xE0: 14, 0xEE: 12}  # JFIF and Adobe define the color space, unless they are shorter than this
_TURN_SEGMENTS = (b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0")
_TURN_TEXTS = ("Raw profile type exif", "XML:com.adobe.xmp")


def bare_picture(data: bytes) -> bytes | None:
    """A JPEG, PNG or AVIF file reduced to its pixels and their orientation; None for any other format."""
    if data.startswith(JPEG_START):
        return bare_jpeg(data, _TURN_SEGMENTS)
    if data.startswith(_PNG_START):
        return _PNG_START + b"".join(_needed_chunks(data))
    if data[4:8] == b"ftyp" and b"avi" in data[8:32]:
        return re.sub(rb"(infe.{8,10})Exif", rb"\1free", data, flags=re.DOTALL)  # the item's type
    return None


def bare_jpeg(data: bytes, keep: tuple[bytes, ...] = ()) -> bytes:
    """A JPEG file without metadata segments, of which jpeglib accepts at most 49; those starting with `keep` stay."""
    kept, offset = [data[:2]], 2
    while offset + 3 < len(data) and data[offset] == 0xFF and data[offset + 1] != 0xDA:
        marker, size = data[offset + 1], int.from_bytes(data[offset + 2 : offset + 4], "big")
        end = offset + (1 if marker == 0xFF else 2 + size)
        useless = marker in _METADATA or (marker in _COLOR and size - 2 < _COLOR[marker])
        if not useless or (keep and data.startswith(keep, offset + 4)):
            kept.append(data[offset:end])
        offset = end
    return b"".join(kept) + data[offset:]


def _needed_chunks(data: bytes) -> Iterator[bytes]:
    """The critical chunks of a PNG file, and intact chunks that define the orientation of its pixels."""
    offset = len(_PNG_START)
    while offset + 12 <= len(data):
        end = offset + 12 + int.from_bytes(data[offset : offset + 4], "big")
        kind, body = data[offset + 4 : offset + 8], data[offset + 8 : end - 4]
        whole = zlib.crc32(kind + body).to_bytes(4, "big") == data[end - 4 : end]
        if kind[:1].isupper() or (whole and (kind == b"eXIf" or _tells_turn(kind, body))):
            yield data[offset:end]
        offset = end


def _tells_turn(kind: bytes, body: bytes) -> bool:
    if kind in (b"tEXt", b"zTXt", b"iTXt"):
        text = PngImagePlugin.PngStream(io.BytesIO(body))
        with contextlib.suppress(ValueError, SyntaxError):  # too large, or damaged
            text.call(kind, 0, len(body))
        return any(key in text.im_text for key in _TURN_TEXTS)
    return False
