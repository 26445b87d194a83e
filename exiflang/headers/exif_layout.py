"""Where the parts of an EXIF block lie: programs that rewrite it lay it out anew (TIFF 6.0, section 2)."""

import struct
from collections.abc import Iterator
from typing import NamedTuple

#: Bytes of a value by its type; EXIF 2.32, 4.6.2.
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
#: Directories in the order of `is_packed`, with the tag that points to each; IFD1 follows IFD0's last entry.
_POINTERS = {0x8769: "Exif", 0xA005: "Interoperability", 0x8825: "GPS"}
_ORDER = ("IFD0", "Exif", "Interoperability", "GPS", "IFD1")
#: Tags with the place of a thumbnail in IFD1, and with its bytes: of a JPEG file, and of one strip of pixels.
_THUMBNAIL = {0x0201: 0x0202, 0x0111: 0x0117}
#: Entries of a directory at most; a damaged count can be 65,535.
_MOST_ENTRIES = 1000


class _Part(NamedTuple):
    """Bytes of an EXIF block from `start` to `end`: in which directory, the value of which tag (-1: none)."""

    start: int
    end: int
    directory: str
    tag: int


def is_packed(block: bytes) -> bool:
    """Whether an EXIF block (from its TIFF header on) is laid out as exiftool and exiv2 write it.

    The directories come in a fixed order, each with the values of its entries behind it in the order of their tags,
    IFD1 last, the thumbnail at the end; no byte is unused but one behind an odd number, so that each part starts at
    an even offset. Most cameras leave room or order values differently, some write just this.
    """
    try:
        parts = sorted(_parts(block))
    except struct.error:
        return False
    end, before = 0, (-1, -1)
    for part in parts:
        place = (_ORDER.index(part.directory), part.tag)
        if part.start != end + end % 2 or place < before:
            return False
        end, before = part.end, place
    return 0 <= len(block) - end <= 1


def _parts(block: bytes) -> Iterator[_Part]:
    """Header, directories and values; the thumbnail counts as a value of IFD1. Raises `struct.error` if one is cut."""
    order = ">" if block[:2] == b"MM" else "<"
    yield _Part(0, 8, "IFD0", -2)
    places, seen = {"IFD0": _number(block, order, 4)}, set()
    while places:
        directory, start = places.popitem()
        if start in seen:
            raise struct.error("a directory that contains itself")
        seen.add(start)
        (entries,) = struct.unpack_from(f"{order}H", block, start)
        if entries > _MOST_ENTRIES:
            raise struct.error("more entries than a directory has")
        end = start + 2 + 12 * entries + 4
        yield _Part(start, end, directory, -1)
        after = _number(block, order, end - 4)
        if directory == "IFD0" and after:
            places["IFD1"] = after
        values = {}
        for offset in range(start + 2, end - 4, 12):
            tag, kind, count, value = struct.unpack_from(f"{order}HHII", block, offset)
            size = _SIZES.get(kind, 1) * count
            values[tag] = value
            if size > 4:
                yield _Part(value, value + size, directory, tag)
            elif tag in _POINTERS:
                places[_POINTERS[tag]] = value
        for place, size in _THUMBNAIL.items():
            if directory == "IFD1" and values.get(place) and values.get(size):
                yield _Part(values[place], values[place] + values[size], directory, 0x10000)


def _number(block: bytes, order: str, offset: int) -> int:
    return int(struct.unpack_from(f"{order}I", block, offset)[0])
