"""Rules on exposure and lens: the same quantities in two forms (EXIF 2.32, 4.6.5 G, and annex C on APEX units)."""

import math

from exiflang.headers.facts import Facts
from exiflang.headers.findings import Rule

#: In steps of exposure: cameras round APEX values to thirds and halves of a step.
_ROUNDED, _BRIGHTNESS = 0.5, 7.0
#: At these shutter speeds, in seconds, some phones' ShutterSpeedValue stands for "unknown".
_INSTANT = 2.0**-19
_UNITS = {"2": 25.4, "3": 10.0, "4": 1.0, "5": 0.001}  # mm; exifread prints numbers
#: Diagonal of 36 x 24 mm.
_FULL_FRAME = 43.27


def _shutter(facts: Facts) -> str | None:
    """Tv = -log2 t; None where a camera writes seconds or "unknown" instead, as some phones do."""
    apex, time = facts.number("ShutterSpeedValue"), facts.positive("ExposureTime")
    if apex is None or time is None or apex == 0 or 2**-apex < _INSTANT or abs(apex - time[0]) < 0.01:
        return None
    if abs(apex + math.log2(time[0])) <= _ROUNDED:
        return ""
    return f"Its EXIF gives two exposure times: {_seconds(time[0])} and, as a shutter speed, {_seconds(2**-apex)}."


def _seconds(time: float) -> str:
    return f"1/{1 / time:.0f} s" if time < 0.4 else f"{time:.3g} s"


def _aperture(facts: Facts) -> str | None:
    """Av = 2 log2 N."""
    found = facts.positive("ApertureValue", "FNumber")
    if found is None or found[0] > 20:
        return None
    apex, number = found
    if abs(apex - 2 * math.log2(number)) <= _ROUNDED:
        return ""
    return f"Its EXIF gives two apertures: f/{number:.3g} and, as an APEX value, f/{2 ** (apex / 2):.3g}."


def _widest(facts: Facts) -> str | None:
    """The aperture used is at most the widest of the lens."""
    found = facts.positive("MaxApertureValue", "FNumber")
    if found is None or found[0] > 20:
        return None
    apex, number = found
    if apex - 2 * math.log2(number) <= _ROUNDED:
        return ""
    return f"Its EXIF gives an aperture of f/{number:.3g}, but f/{2 ** (apex / 2):.3g} as the widest of the lens."


def _brightness(facts: Facts) -> str | None:
    """Bv = Av + Tv - Sv; cameras disagree on what the scene's brightness is, so only by far too much counts."""
    apex = facts.number("BrightnessValue")
    found = facts.positive("FNumber", "ExposureTime", "PhotographicSensitivity")
    if not apex or found is None:
        return None
    aperture, time, speed = found
    off = apex - (2 * math.log2(aperture) - math.log2(time) - math.log2(speed / 3.125))
    if abs(off) <= _BRIGHTNESS:
        return ""
    return f"Its EXIF's brightness of the scene differs by {abs(off):.0f} steps from its exposure."


def _lens(facts: Facts) -> tuple[float, float, float] | None:
    """Shortest and longest focal length, and the widest aperture, 0 for unknown ones."""
    found = [number or 0 for number in facts.numbers("LensSpecification")]
    return (found[0], found[1], found[2]) if len(found) == 4 else None


def _focal_length(facts: Facts) -> str | None:
    lens, focal = _lens(facts), facts.positive("FocalLength")
    if lens is None or focal is None or not lens[0] or not lens[1] or lens[0] > lens[1]:
        return None
    shortest, longest = lens[:2]
    if 0.95 * shortest <= focal[0] <= 1.05 * longest:
        return ""
    span = f"{shortest:.4g} mm" if shortest == longest else f"{shortest:.4g}-{longest:.4g} mm"
    return f"Its EXIF gives a focal length of {focal[0]:.4g} mm, but a lens of {span}."


def _lens_aperture(facts: Facts) -> str | None:
    lens, number = _lens(facts), facts.positive("FNumber")
    if lens is None or number is None or not lens[2]:
        return None
    if number[0] >= 0.9 * lens[2]:
        return ""
    return f"Its EXIF gives an aperture of f/{number[0]:.3g}, but a lens that opens to f/{lens[2]:.3g}."


def _full_frame(facts: Facts) -> str | None:
    """FocalLengthIn35mmFilm against the size of the sensor, which the resolution of the focal plane gives."""
    unit = _UNITS.get(facts.text("FocalPlaneResolutionUnit"))
    found = facts.positive(
        "FocalLength", "FocalLengthIn35mmFilm", "FocalPlaneXResolution", "FocalPlaneYResolution",
        "PixelXDimension", "PixelYDimension",
    )  # fmt: skip
    if unit is None or found is None:
        return None
    focal, equal, across, down, width, height = found
    diagonal = math.hypot(width / across, height / down) * unit
    expected = focal * _FULL_FRAME / diagonal * max(facts.number("DigitalZoomRatio") or 1, 1)
    if abs(math.log2(equal / expected)) <= 0.5:
        return ""
    return (
        f"Its EXIF calls {focal:.4g} mm equal to {equal:.0f} mm of 35 mm film; its sensor of {diagonal:.3g} mm makes "
        f"that {expected:.0f} mm."
    )


_SOURCE = "EXIF 2.32, 4.6.5 G and annex C"
RULES = (
    Rule("shutter_speed", "notable", f"{_SOURCE}, ShutterSpeedValue", _shutter),
    Rule("aperture", "notable", f"{_SOURCE}, ApertureValue", _aperture),
    Rule("widest_aperture", "notable", f"{_SOURCE}, MaxApertureValue", _widest),
    Rule("brightness", "info", f"{_SOURCE}, BrightnessValue", _brightness),
    Rule("focal_length", "strong", "EXIF 2.32, 4.6.5 H, LensSpecification", _focal_length),
    Rule("lens_aperture", "strong", "EXIF 2.32, 4.6.5 H, LensSpecification", _lens_aperture),
    Rule("focal_length_35mm", "notable", "EXIF 2.32, 4.6.5 G, FocalLengthIn35mmFilm", _full_frame),
)
