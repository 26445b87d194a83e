"""Rules on the structure of a JPEG file (ITU-T T.81, annex B): starts, ends, and what follows the picture."""

from exiflang.headers.facts import Facts
from exiflang.headers.findings import Rule
from exiflang.utils.bare import JPEG_START

#: Up to this much of what follows a picture is looked at for the starts of other files.
_LOOK = 1 << 20


def _second_start(facts: Facts) -> str | None:
    if facts.blocks is None:
        return None
    twice = any(segment.marker == 0xD8 for segment in facts.blocks.segments)
    return "Its JPEG header has a second start marker." if twice else ""


def _no_end(facts: Facts) -> str | None:
    if facts.blocks is None:
        return None
    return "Its JPEG data have no end marker: the file may have been cut off." if facts.blocks.end is None else ""


def _after(facts: Facts) -> bytes | None:
    """What follows the picture, without padding; None if it has no end."""
    if facts.blocks is None or facts.blocks.end is None:
        return None
    return facts.photo[facts.blocks.end :].strip(b"\0\xff\r\n \t") and facts.photo[facts.blocks.end :]


def _kinds(facts: Facts, after: bytes) -> list[str]:
    """The known kinds of data that cameras and phones append, and archives."""
    start, end = after.lstrip(b"\0")[:_LOOK], len(facts.photo) - len(after)
    pictures = (facts.blocks and facts.blocks.pictures) or []
    found = []
    if any(end <= place < len(facts.photo) for place, _ in pictures):
        found.append("more pictures that its index names")
    if after[-4:] == b"SEFT" or after[-6:-2] == b"SEFT":
        found.append("a block of a Samsung phone")
    if start[4:8] == b"ftyp" or b"MotionPhoto_Data" in after[:_LOOK] or _holds_video(after):
        found.append("a video")
    if start.startswith((b"PK\x03\x04", b"Rar!\x1a\x07", b"7z\xbc\xaf\x27\x1c", b"\x1f\x8b\x08")):
        found.append("an archive")
    if start.startswith(JPEG_START) and "more pictures that its index names" not in found:
        found.append("another JPEG file that no index names")
    return found


def _holds_video(after: bytes) -> bool:
    """A motion photo's video starts with the box ftyp of ISO/IEC 14496-12, behind other pictures."""
    place = after.find(b"ftyp")
    return place >= 4 and after[place + 4 : place + 8] in (b"mp42", b"isom", b"mp41", b"qt  ", b"iso2", b"heic")


_BY_CAMERAS = ("more pictures that its index names", "a block of a Samsung phone", "a video")


def _appended(facts: Facts) -> str | None:
    after = _after(facts)
    if after is None:
        return None
    kinds = [kind for kind in _kinds(facts, after) if kind in _BY_CAMERAS] if after else []
    return f"{len(after):,} bytes follow the picture: {' and '.join(kinds)}." if kinds else ""


def _unknown(facts: Facts) -> str | None:
    after = _after(facts)
    if after is None:
        return None
    kinds = _kinds(facts, after) if after else []
    if not after or any(kind in _BY_CAMERAS for kind in kinds):
        return ""
    return f"{len(after):,} bytes follow the picture: {kinds[0] if kinds else 'of no known kind'}."


def _index_outside(facts: Facts) -> str | None:
    """The multi-picture index must point at JPEG files inside the file."""
    pictures = facts.blocks.pictures if facts.blocks else None
    if not pictures:
        return None
    lost = [place for place, _ in pictures if not facts.photo.startswith(JPEG_START, place)]
    if not lost:
        return ""
    return f"Its index lists {len(pictures)} pictures, {len(lost)} of which the file does not have."


_MARKERS, _MPF = "ITU-T T.81, B.2.1 and B.2.4", "CIPA DC-007, 5.2.3, MP Entry"
RULES = (
    Rule("second_start", "notable", _MARKERS, _second_start, by_tags=False),
    Rule("no_end", "notable", _MARKERS, _no_end, by_tags=False),
    Rule("appended", "info", f"{_MPF}; ITU-T T.81, B.2.1", _appended, by_tags=False),
    Rule("unknown_trailer", "notable", _MARKERS, _unknown, by_tags=False),
    Rule("picture_index", "notable", _MPF, _index_outside, by_tags=False),
)
