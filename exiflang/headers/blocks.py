"""The parts of a JPEG file besides its pixels: application segments, and what follows the end of the picture."""

import contextlib
import io
import re
from dataclasses import dataclass, field

from PIL import TiffImagePlugin

from exiflang.headers.segments import Segment, read_segments
from exiflang.utils.bare import JPEG_START
from exiflang.utils.images import DAMAGE

#: At most this many bytes of metadata of one kind are looked at.
MOST_BYTES = 4 << 20
_XMP, _XMP_MORE = b"http://ns.adobe.com/xap/1.0/\0", b"http://ns.adobe.com/xmp/extension/\0"
# In the compressed data, FF00 is the byte FF, and restart markers may stand anywhere.
_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])", re.DOTALL)
_MOST_SCANS = 1000


@dataclass(frozen=True, eq=False)
class JpegBlocks:
    """The segments of a JPEG file.

    Attributes:
        photo: the file.
        segments: up to the first scan.
        end: where the picture ends, after its end marker; None without one.
    """

    photo: bytes = field(repr=False)
    segments: tuple[Segment, ...] = field(repr=False)
    end: int | None

    def bodies(self, marker: int, start: bytes) -> list[bytes]:
        """What follows `start` in the segments that begin with it, at most `MOST_BYTES` in all."""
        found, total = [], 0
        for segment in self.segments:
            if segment.marker == marker and segment.body.startswith(start):
                total += len(segment.body)
                if total > MOST_BYTES:
                    break
                found.append(segment.body[len(start) :])
        return found

    @property
    def xmp(self) -> list[bytes]:
        """XMP packets: the main one and its extension (XMP specification, part 3, 1.1.3)."""
        more = [body[40:] for body in self.bodies(0xE1, _XMP_MORE)]  # after the digest, size and place
        return [*self.bodies(0xE1, _XMP), *([b"".join(more)] if more else [])]

    @property
    def jumbf(self) -> bytes:
        """The JUMBF boxes (ISO/IEC 19566-5, annex D), each part of a box without the repeated head."""
        parts = self.bodies(0xEB, b"JP")
        return b"".join(part[6:] if index == 0 else part[14:] for index, part in enumerate(parts))

    @property
    def photoshop(self) -> dict[int, bytes]:
        """Photoshop's image resources by number (Adobe Photoshop File Formats Specification, Image Resource Blocks)."""
        found: dict[int, bytes] = {}
        data, at = b"".join(self.bodies(0xED, b"Photoshop 3.0\0")), 0
        while data[at : at + 4] == b"8BIM" and len(found) < 500:
            name = data[at + 6] if at + 6 < len(data) else 0
            begin = at + 6 + (name + 2) // 2 * 2
            size = int.from_bytes(data[begin : begin + 4], "big")
            found[int.from_bytes(data[at + 4 : at + 6], "big")] = data[begin + 4 : begin + 4 + size]
            at = begin + 4 + (size + 1) // 2 * 2
        return found

    @property
    def pictures(self) -> list[tuple[int, int]] | None:
        """Place and size of each picture in the multi-picture index (CIPA DC-007, 5.2.3); None without a readable one.

        The first picture's place is 0.
        """
        segment = next((s for s in self.segments if s.marker == 0xE2 and s.body.startswith(b"MPF\0")), None)
        if segment is None:
            return None
        base, index = segment.start + 4, segment.body[4:]
        with contextlib.suppress(*DAMAGE):
            folder = TiffImagePlugin.ImageFileDirectory_v2(index[:8])
            file = io.BytesIO(index)
            file.seek(folder.next)
            folder.load(file)
            order = "little" if index[:2] == b"II" else "big"
            entries = bytes(folder[0xB002])[: 16 * 100]
            found = []
            for at in range(0, len(entries) - 15, 16):
                size = int.from_bytes(entries[at + 4 : at + 8], order)  # type: ignore[arg-type]
                place = int.from_bytes(entries[at + 8 : at + 12], order)  # type: ignore[arg-type]
                found.append((place + base if place else 0, size))
            return found
        return None


def read_blocks(photo: bytes) -> JpegBlocks | None:
    """The segments of a JPEG file; None for any other file."""
    if not photo.startswith(JPEG_START):
        return None
    segments = tuple(read_segments(photo))
    scan = segments[-1].start if segments and segments[-1].marker == 0xDA else None
    return JpegBlocks(photo, segments, None if scan is None else _end(photo, scan))


def _end(photo: bytes, at: int) -> int | None:
    """After the end marker that follows the scan at `at`, and any further scans (ITU-T T.81, B.2.1)."""
    for _ in range(_MOST_SCANS):
        match = _MARKER.search(photo, at)
        if match is None:
            return None
        if match[1] == b"\xd9":
            return match.end()
        at = match.end() + int.from_bytes(photo[match.end() : match.end() + 2], "big")
    return None
