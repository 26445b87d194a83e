"""Rules on dates and times (EXIF 2.32, 4.6.5 F and 4.6.6)."""

import math
import re
from datetime import UTC, datetime, timedelta

from exiflang.headers.facts import Facts
from exiflang.headers.findings import Rule

_DATES = {"DateTimeOriginal": "taken", "DateTimeDigitized": "digitized", "DateTime": "last changed"}
_OFFSETS = ("OffsetTimeOriginal", "OffsetTimeDigitized", "OffsetTime")
#: Before this year, no digital camera wrote EXIF.
_FIRST_YEAR = 1995
# Some cameras round up, or write the file a little later.
_MOMENT, _DAY = timedelta(minutes=1), timedelta(days=1)
_QUARTER = timedelta(minutes=15)


def _impossible(facts: Facts) -> str | None:
    """A date in the form of the standard that no calendar has; blanks and zeros stand for "unknown"."""
    shaped = [n for n in _DATES if re.fullmatch(r"\d{4}(:\d\d){2} \d\d(:\d\d){2}", facts.text(n))]
    if not shaped:
        return None
    wrong = [n for n in shaped if facts.date(n) is None and facts.text(n).strip("0: ")]
    return "" if not wrong else f"Its EXIF gives {facts.text(wrong[0])} as {wrong[0]}, which is no date."


def _clock_not_set(facts: Facts) -> str | None:
    taken = facts.date("DateTimeOriginal") or facts.date("DateTime")
    if taken is None:
        return None
    return f"It is dated {taken:%Y-%m-%d}, before there was EXIF." if taken.year < _FIRST_YEAR else ""


def _future(facts: Facts) -> str | None:
    dates = {name: date for name in _DATES if (date := facts.date(name))}
    if not dates:
        return None
    latest = datetime.now(UTC).replace(tzinfo=None) + _DAY
    name = next((name for name, date in dates.items() if date > latest), None)
    return f"Its EXIF gives {dates[name]:%Y-%m-%d} as {name}, which is in the future." if name else ""


def _order(facts: Facts, later: str, than: str) -> timedelta | None:
    """How much later one date is than the other."""
    first, second = facts.date(later), facts.date(than)
    if first is None or second is None or min(first.year, second.year) < _FIRST_YEAR:
        return None
    return first - second


def _digitized_before(facts: Facts) -> str | None:
    gap = _order(facts, "DateTimeDigitized", "DateTimeOriginal")
    if gap is None:
        return None
    return f"Its EXIF says it was digitized {_span(-gap)} before it was taken." if gap < -_MOMENT else ""


def _digitized_after(facts: Facts) -> str | None:
    gap = _order(facts, "DateTimeDigitized", "DateTimeOriginal")
    if gap is None:
        return None
    return f"Its EXIF says it was digitized {_span(gap)} after it was taken." if gap > _MOMENT else ""


def _changed_before(facts: Facts) -> str | None:
    gap = _order(facts, "DateTime", "DateTimeOriginal")
    if gap is None:
        return None
    return f"Its EXIF says the file was last changed {_span(-gap)} before it was taken." if gap < -_MOMENT else ""


def _changed_later(facts: Facts) -> str | None:
    gap = _order(facts, "DateTime", "DateTimeOriginal")
    if gap is None:
        return None
    said = _MOMENT < gap <= _DAY
    return f"Its EXIF says the file was last changed {_span(gap)} after it was taken." if said else ""


def _changed_days_later(facts: Facts) -> str | None:
    gap = _order(facts, "DateTime", "DateTimeOriginal")
    if gap is None:
        return None
    return f"Its EXIF says the file was last changed {_span(gap)} after it was taken." if gap > _DAY else ""


def _zone(facts: Facts) -> str | None:
    """Time zones are multiples of 15 minutes, from UTC-12 to UTC+14."""
    offsets = {name: found for name in _OFFSETS if (found := facts.offset(name)) is not None}
    if not offsets:
        return None
    for name, offset in offsets.items():
        if not timedelta(hours=-12) <= offset <= timedelta(hours=14) or offset % _QUARTER:
            return f"Its EXIF gives {facts.text(name)} as {name}, which is no time zone."
    return ""


def _gps_clock(facts: Facts) -> timedelta | None:
    """Local time less GPS time, which is UTC."""
    taken, day, clock = facts.date("DateTimeOriginal"), facts.text("GPSDate"), facts.numbers("GPSTimeStamp")
    match = re.fullmatch(r"(\d{4})[:-](\d\d)[:-](\d\d)", day)
    if taken is None or match is None or len(clock) != 3:
        return None
    hours, minutes, seconds = (0.0 if part is None else part for part in clock)
    if not (0 <= hours < 24 and 0 <= minutes < 60 and 0 <= seconds < 61):
        return None
    try:
        midnight = datetime.fromisoformat("-".join(match.groups()))
    except ValueError:
        return None
    return taken - midnight - timedelta(hours=hours, minutes=minutes, seconds=seconds)


def _gps_later(facts: Facts) -> str | None:
    """A position can be older than the photo, never later."""
    gap = _gps_clock(facts)
    if gap is None:
        return None
    late = timedelta(hours=-12, minutes=-5)
    return f"Its GPS time is {_span(-gap)} ahead of the camera's clock: no time zone explains it." if gap < late else ""


def _gps_minutes(facts: Facts) -> str | None:
    """The difference is a time zone, unless the position is old or the clock wrong."""
    gap = _gps_clock(facts)
    if gap is None:
        return None
    if (zone := facts.offset("OffsetTimeOriginal")) is not None:
        off = abs(gap - zone)
    else:
        off = abs(gap - _QUARTER * round(gap / _QUARTER)) if gap <= timedelta(hours=14) else gap
    return f"GPS time and the camera's clock differ by {_span(off)} beyond a time zone." if off > 2 * _MOMENT else ""


def _span(gap: timedelta) -> str:
    """A duration in its largest unit: "3 days"."""
    seconds = math.floor(gap.total_seconds())
    for unit, size in (("year", 31_557_600), ("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= size:
            number = seconds // size
            return f"{number:,} {unit}{'s' if number > 1 else ''}"
    return f"{seconds} seconds"


_TIME, _GPS = "EXIF 2.32, 4.6.5 F", "EXIF 2.32, 4.6.6, GPSTimeStamp"
RULES = (
    Rule("date_impossible", "notable", _TIME, _impossible),
    Rule("clock_not_set", "info", _TIME, _clock_not_set),
    Rule("date_in_future", "notable", _TIME, _future),
    Rule("digitized_before_taken", "notable", f"{_TIME}, DateTimeDigitized", _digitized_before),
    Rule("digitized_after_taken", "notable", f"{_TIME}, DateTimeDigitized", _digitized_after),
    Rule("changed_before_taken", "notable", "EXIF 2.32, 4.6.4 D, DateTime", _changed_before),
    Rule("changed_later", "info", "EXIF 2.32, 4.6.4 D, DateTime", _changed_later),
    Rule("changed_days_later", "notable", "EXIF 2.32, 4.6.4 D, DateTime", _changed_days_later),
    Rule("time_zone", "notable", f"{_TIME}, OffsetTime", _zone),
    Rule("gps_after_photo", "notable", _GPS, _gps_later),
    Rule("gps_clock", "info", _GPS, _gps_minutes),
)
