"""The marker segments of a JPEG file (ITU-T T.81, B.1.1.4)."""

from collections.abc import Iterator
from typing import NamedTuple

MOST_SEGMENTS = 200
#: What the bytes at the start of an application segment stand for: (marker, start, name).
_KINDS = [
    (0xE0, b"JFIF\0", "JFIF"), (0xE0, b"JFXX\0", "JFXX"), (0xE1, b"Exif\0", "EXIF"),
    (0xE1, b"http://ns.adobe.com/xap/1.0/\0", "XMP"), (0xE1, b"http://ns.adobe.com/xmp/extension/\0", "XMP extension"),
    (0xE2, b"ICC_PROFILE\0", "ICC"), (0xE2, b"MPF\0", "MPF"), (0xE2, b"FPXR\0", "FlashPix"), (0xEB, b"JP", "JUMBF"),
    (0xEC, b"Ducky", "Ducky"), (0xED, b"Photoshop 3.0\0", "Photoshop"), (0xEE, b"Adobe", "Adobe"),
]  # fmt: skip
_NAMES = {0xC4: "DHT", 0xDB: "DQT", 0xDD: "DRI", 0xFE: "COM", 0xDA: "SOS"}
#: Markers of frame headers, SOF0 to SOF15.
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}


class Segment(NamedTuple):
    """A marker segment of a JPEG file: its marker's second byte, where its content begins, and the content."""

    marker: int
    start: int
    body: bytes

    @property
    def name(self) -> str:
        """Its marker and, of an application segment, what it is known to hold: "APP1 EXIF", "DQT"."""
        if self.marker in FRAMES:
            return f"SOF{self.marker - 0xC0}"
        if 0xE0 <= self.marker <= 0xEF:
            kinds = (name for number, start, name in _KINDS if number == self.marker and self.body.startswith(start))
            return f"APP{self.marker - 0xE0} {next(kinds, '')}".strip()
        return _NAMES.get(self.marker, f"{self.marker:02X}")


def read_segments(photo: bytes) -> Iterator[Segment]:
    """The segments up to the first scan, whose content is left out; at most `MOST_SEGMENTS`."""
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
