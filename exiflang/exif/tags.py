"""The dictionary of the EXIF language: the tags of a sentence in canonical order, and the canonical form of each value.

Names and enumerations follow EXIF 2.32 (CIPA DC-008-2019). A formatter takes any reader's output ("14/5", "2.8",
"(2.8,)") and returns the canonical text, or "" if the value carries no information; its own output is unchanged.
Any change here alters sentences: raise `text.SENTENCE_VERSION`, which requires new weights.
"""

import ast
import re
import unicodedata
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

from exifread.tags.exif import EXIF_TAGS


class ExifError(ValueError):
    """A picture's EXIF or a tag vocabulary cannot be used; the message names the file and says what to do."""


MAX_VALUE = 100  # characters of one canonical value; the longest lens name among 5,000 real photos has 69

_NUMBER = re.compile(r"[+-]?\d{1,20}(?:/\d{1,20}|\.\d{0,20})?(?:[eE][+-]?\d{1,2})?")
_UNKNOWN = {"?", "undef", "inf", "-inf", "nan"}


def clean(text: str, limit: int = MAX_VALUE) -> str:
    """One line of printable characters (NFKC), single spaces, at most `limit` characters."""
    text = unicodedata.normalize("NFKC", text[: 4 * limit].split("\0", 1)[0])
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:limit].strip()


def fold(text: str) -> str:
    """Only letters and digits, case-folded: the key for comparing different readers' wording."""
    return "".join(filter(str.isalnum, text.casefold()))


def read_numbers(text: str) -> list[Fraction | None]:
    """Numbers in "1/125", "(5.6,)" or "[18, 55, 0/0, 0/0]", None for unknown (x/0); [] if there is any other text."""
    numbers: list[Fraction | None] = []
    for token in re.split(r"[\s,\[\]()'\"]+", text):
        whole, _, denominator = token.partition("/")
        if token.lower() in _UNKNOWN or (denominator and not denominator.strip("0") and _NUMBER.fullmatch(whole)):
            numbers.append(None)
        elif _NUMBER.fullmatch(token):
            numbers.append(Fraction(token))
        elif token:
            return []
    return numbers


def _decimal(number: Fraction, digits: int) -> str:
    """Shortest decimal with at most `digits` places, half to even: 14/5 -> "2.8", -0.01 -> "0"."""
    text = f"{float(round(number, digits)):.{digits}f}"
    text = text.rstrip("0").rstrip(".") if digits else text
    return "0" if text == "-0" else text


def _number(digits: int, zero: bool = False) -> Callable[[str], str]:
    """A decimal; unless `zero`, a number must be positive (EXIF writes 0 or 0xFFFFFFFF for "unknown" there)."""

    def show(text: str) -> str:
        number = (read_numbers(text) or [None])[0]
        if number is None or abs(number) >= 2**32 - 1 or not (zero or round(number, digits) > 0):
            return ""
        return _decimal(number, digits)

    return show


def _list(count: int, zero: bool = True) -> Callable[[str], str]:
    """`count` decimals (0: two to four), separated by spaces, "?" for unknown; unless `zero`, 0 is unknown too."""

    def show(text: str) -> str:
        known = [round(n, 3) if n is not None and abs(n) < 2**32 - 1 else None for n in read_numbers(text)]
        if not any(known) or (len(known) != count if count else not 2 <= len(known) <= 4):
            return ""
        return " ".join("?" if n is None or not (n or zero) else _decimal(n, 3) for n in known)

    return show


def _exposure_time(text: str) -> str:
    """Seconds: up to 1/4 s as "1/125" (three significant digits), longer ones with one decimal ("0.5", "2.5", "30")."""
    number = (read_numbers(text) or [None])[0]
    if number is None or not Fraction(1, 10**9) < number < 2**32 - 1:
        return ""
    if number > Fraction(25001, 100_000):
        return _decimal(number, 1)
    parts = round(1 / number)
    return f"1/{round(parts, 3 - len(str(parts)))}" if parts > 999 else f"1/{parts}"


def _distance(text: str) -> str:
    """Meters; numerator 0 means unknown, 0xFFFFFFFF infinity."""
    return "Infinity" if text in ("4294967295", "Infinity") else _number(2)(text)


def _text(text: str) -> str:
    """A string without padding; dropped if it has no letter and no digit other than 0 ("----", "000")."""
    if re.fullmatch(r"b'.*'|b\".*\"", text):  # exifread's output for bytes that are not UTF-8
        try:
            text = ast.literal_eval(text).decode("latin-1")
        except (SyntaxError, ValueError):
            return ""
    text = clean(text)
    return text if any(c.isalnum() and c != "0" for c in text) and text not in ("[]", "None") else ""


def _first_word(text: str) -> str:
    """A code without the description that some readers add: "R98 - DCF basic file (sRGB)" -> "R98"."""
    return _text(next(iter(_text(text).split()), ""))


def _version(text: str) -> str:
    """Four digits, "0232" for EXIF 2.32; also from the bytes [48, 50, 51, 50]."""
    codes = read_numbers(text)
    if len(codes) == 4 and all(c is not None and 48 <= c <= 57 for c in codes):
        text = "".join(chr(int(c)) for c in codes if c is not None)
    return text.zfill(4) if re.fullmatch(r"[0-9]{3,4}", text) and int(text) else ""


def _components(text: str) -> str:
    """Channel order as letters: "YCbCr", also from "1 2 3 0"."""
    codes = read_numbers(text)
    if len(codes) == 4 and all(c in range(7) for c in codes):
        text = "".join(("", "Y", "Cb", "Cr", "R", "G", "B")[int(c)] for c in codes if c is not None)
    text = text.replace("Red", "R").replace("Green", "G").replace("Blue", "B")
    return text if re.fullmatch(r"(Y|Cb|Cr|R|G|B){1,4}", text) else ""


def _filter_array(text: str) -> str:
    """Color filter array row by row, "RGGB", from two 16-bit sizes (either byte order) and one byte per filter."""
    codes = read_numbers(text)
    if 8 <= len(codes) <= 40 and all(c in range(7) for c in codes[4:]):
        text = "".join("RGBCMYW"[int(c)] for c in codes[4:] if c is not None)
    return text if re.fullmatch(r"[RGBCMYW]{4,36}", text) else ""


def _flash_text(code: int) -> str:
    """Flash bits: 0 fired, 1-2 strobe return, 3-4 mode, 5 no flash function, 6 red-eye reduction."""
    if code & 32:
        return "No flash function"
    parts = ["Flash fired" if code & 1 else "Flash did not fire"]
    parts += [("", "compulsory flash mode", "compulsory flash mode", "auto mode")[code >> 3 & 3]]
    parts += [("", "", "return light not detected", "return light detected")[code >> 1 & 3]]
    return ", ".join(filter(None, [*parts, "red-eye reduction mode" if code & 64 else ""]))


def _enum(code: int, texts: list[str] | dict[int, str]) -> Callable[[str], str]:
    """EXIF's text from a number, exifread's text or itself; a reserved code, which some makers use, stays a number."""
    texts = dict(texts if isinstance(texts, dict) else enumerate(texts))
    table = EXIF_TAGS.get(code, ("", None))[1]
    printed = {text: value for value, text in table.items() if text} if isinstance(table, dict) else {}
    codes = {fold(text): value for value, text in reversed(texts.items())} | {fold(t): v for t, v in printed.items()}

    def show(text: str) -> str:
        numbers = read_numbers(text)
        value = numbers[0] if 0 < len(numbers) <= 4 else codes.get(fold(text))
        if value is None:  # exifread concatenates the texts of several values: use the first
            first = max((t for t in printed if text.startswith(t)), key=len, default="")
            rest = text[len(first) :]
            value = printed[first] if first and (rest in printed or rest.isdecimal()) else None
        if value is None or value not in range(1 << 16):
            return ""
        return texts.get(int(value), str(int(value)))

    return show


def _date(text: str) -> str:
    """Date, sub-second digits or time offset as written; blank and all-zero clocks are dropped."""
    text = clean(text)
    return text if re.fullmatch(r"[0-9:+ -]{1,25}", text) and (text[0] in "+-" or text.strip("0: ")) else ""


# These identify people and individual devices: never in a sentence, read only with `private=True`.
PRIVATE = ("Artist", "CameraOwnerName", "Copyright", "DocumentName", "HostComputer", "ImageDescription", "ImageHistory",
           "ImageUniqueID", "OwnerName", "PageName", "BodySerialNumber", "LensSerialNumber", "SerialNumber",
           "UserComment", "XPAuthor", "XPComment", "XPKeywords", "XPSubject", "XPTitle")  # fmt: skip
_PRIVATE_KEYS = {name.casefold() for name in PRIVATE}


def is_private(name: str) -> bool:
    """Whether a tag identifies a person, a place, a device or a single picture, regardless of spelling."""
    name = "".join(filter(str.isalnum, name)).casefold()
    return name.startswith("gps") or "serial" in name or "owner" in name or name in _PRIVATE_KEYS


class Tag(NamedTuple):
    """Code (EXIF 2.32), canonical name, and printed value -> canonical text or ""."""

    code: int
    name: str
    show: Callable[[str], str]

    @property
    def folder(self) -> str:
        """exifread's name of the directory that the standard assigns to the tag."""
        return "Interoperability" if self.code < 0x0B else "Image" if self.code < 0x829A else "EXIF"

    @property
    def printed_names(self) -> set[str]:
        """Names it may be printed under: EXIF's, exifread's ("ISOSpeedRatings", "CVAPattern"), and a bare code."""
        return {self.name, EXIF_TAGS.get(self.code, (self.name, None))[0], f"Tag 0x{self.code:04X}"}


def _tags(show: Callable[[str], str], **codes: int) -> list[Tag]:
    return [Tag(code, name, show) for name, code in codes.items()]


def _enum_tag(code: int, name: str, texts: list[str] | dict[int, str]) -> Tag:
    return Tag(code, name, _enum(code, texts))


_UNITS = {1: "none", 2: "inches", 3: "centimeters"}
_LIGHTS = {0: "unknown", 1: "Daylight", 2: "Fluorescent", 3: "Tungsten (incandescent light)", 4: "Flash",
           9: "Fine weather", 10: "Cloudy weather", 11: "Shade", 12: "Daylight fluorescent (D 5700 - 7100K)",
           13: "Day white fluorescent (N 4600 - 5500K)", 14: "Cool white fluorescent (W 3800 - 4500K)",
           15: "White fluorescent (WW 3250 - 3800K)", 16: "Warm white fluorescent (L 2600 - 3250K)",
           17: "Standard light A", 18: "Standard light B", 19: "Standard light C", 20: "D55", 21: "D65", 22: "D75",
           23: "D50", 24: "ISO studio tungsten", 255: "other light source"}  # fmt: skip

# The canonical order is device, exposure, file format: a truncated sentence keeps the camera.
# fmt: off
TAGS = [
    *_tags(_text, Make=0x010F, Model=0x0110, Software=0x0131),
    *_tags(_text, ProcessingSoftware=0x000B),  # not EXIF's own, but editors write it
    *_tags(_text, LensMake=0xA433, LensModel=0xA434), Tag(0xA432, "LensSpecification", _list(4, zero=False)),
    Tag(0x829A, "ExposureTime", _exposure_time), Tag(0x829D, "FNumber", _number(2)),
    Tag(0x8827, "PhotographicSensitivity", _number(0)), Tag(0x920A, "FocalLength", _number(2)),
    *_tags(_number(0), FocalLengthIn35mmFilm=0xA405, PixelXDimension=0xA002, PixelYDimension=0xA003),
    _enum_tag(0x0112, "Orientation", ["0", "top-left", "top-right", "bottom-right", "bottom-left", "left-top",
                                      "right-top", "right-bottom", "left-bottom"]),
    _enum_tag(0x9209, "Flash", {code: _flash_text(code) for code in range(128)}),
    _enum_tag(0x8822, "ExposureProgram", [
        "Not defined", "Manual", "Normal program", "Aperture priority", "Shutter priority", "Creative program",
        "Action program", "Portrait mode", "Landscape mode"]),
    _enum_tag(0x9207, "MeteringMode", {
        0: "unknown", 1: "Average", 2: "CenterWeightedAverage", 3: "Spot", 4: "MultiSpot", 5: "Pattern", 6: "Partial",
        255: "other"}),
    _enum_tag(0xA402, "ExposureMode", ["Auto exposure", "Manual exposure", "Auto bracket"]),
    Tag(0x9204, "ExposureBiasValue", _number(1, zero=True)),
    _enum_tag(0xA403, "WhiteBalance", ["Auto white balance", "Manual white balance"]),
    _enum_tag(0x9208, "LightSource", _LIGHTS),
    _enum_tag(0xA406, "SceneCaptureType", ["Standard", "Landscape", "Portrait", "Night scene"]),
    _enum_tag(0xA407, "GainControl", ["None", "Low gain up", "High gain up", "Low gain down", "High gain down"]),
    _enum_tag(0xA408, "Contrast", ["Normal", "Soft", "Hard"]),
    _enum_tag(0xA409, "Saturation", ["Normal", "Low saturation", "High saturation"]),
    _enum_tag(0xA40A, "Sharpness", ["Normal", "Soft", "Hard"]),
    _enum_tag(0xA401, "CustomRendered", ["Normal process", "Custom process"]),
    _enum_tag(0xA460, "CompositeImage", ["unknown", "non-composite image", "General composite image",
                                         "Composite image captured when shooting"]),
    Tag(0xA404, "DigitalZoomRatio", _number(2, zero=True)),  # 0: not used
    *_tags(_number(1, zero=True), ShutterSpeedValue=0x9201, ApertureValue=0x9202, BrightnessValue=0x9203,
           MaxApertureValue=0x9205),
    _enum_tag(0x8830, "SensitivityType", [
        "unknown", "Standard output sensitivity", "Recommended exposure index", "ISO speed",
        "Standard output sensitivity and recommended exposure index", "Standard output sensitivity and ISO speed",
        "Recommended exposure index and ISO speed",
        "Standard output sensitivity and recommended exposure index and ISO speed"]),
    *_tags(_number(0), StandardOutputSensitivity=0x8831, RecommendedExposureIndex=0x8832, ISOSpeed=0x8833),
    Tag(0xA215, "ExposureIndex", _number(2)), Tag(0x9206, "SubjectDistance", _distance),
    _enum_tag(0xA40C, "SubjectDistanceRange", ["unknown", "Macro", "Close view", "Distant view"]),
    Tag(0x9214, "SubjectArea", _list(0)), Tag(0xA214, "SubjectLocation", _list(2)),
    _enum_tag(0xA217, "SensingMethod", {
        1: "Not defined", 2: "One-chip color area sensor", 3: "Two-chip color area sensor",
        4: "Three-chip color area sensor", 5: "Color sequential area sensor", 7: "Trilinear sensor",
        8: "Color sequential linear sensor"}),
    _enum_tag(0xA300, "FileSource", ["others", "scanner of transparent type", "scanner of reflex type", "DSC"]),
    _enum_tag(0xA301, "SceneType", {1: "A directly photographed image"}),
    Tag(0xA302, "CFAPattern", _filter_array),
    *_tags(_number(0), FocalPlaneXResolution=0xA20E, FocalPlaneYResolution=0xA20F),
    _enum_tag(0xA210, "FocalPlaneResolutionUnit", _UNITS),
    *_tags(_number(0), XResolution=0x011A, YResolution=0x011B), _enum_tag(0x0128, "ResolutionUnit", _UNITS),
    _enum_tag(0x0213, "YCbCrPositioning", {1: "centered", 2: "co-sited"}),
    _enum_tag(0xA001, "ColorSpace", {1: "sRGB", 2: "Adobe RGB", 65535: "Uncalibrated"}),
    Tag(0x9101, "ComponentsConfiguration", _components), Tag(0x9102, "CompressedBitsPerPixel", _number(1)),
    *_tags(_version, ExifVersion=0x9000, FlashpixVersion=0xA000),
    Tag(0x0001, "InteroperabilityIndex", _first_word), Tag(0xA500, "Gamma", _number(2)),
    *_tags(_number(0), ImageWidth=0x0100, ImageLength=0x0101), Tag(0x0102, "BitsPerSample", _list(3)),
    _enum_tag(0x0103, "Compression", {1: "uncompressed", 6: "JPEG compression (thumbnails only)"}),
    _enum_tag(0x0106, "PhotometricInterpretation", {2: "RGB", 6: "YCbCr"}),
    Tag(0x0115, "SamplesPerPixel", _number(0)),
    _enum_tag(0x011C, "PlanarConfiguration", {1: "chunky format", 2: "planar format"}),
    Tag(0x0212, "YCbCrSubSampling", _list(2)), Tag(0x0211, "YCbCrCoefficients", _list(3)),
    Tag(0x0214, "ReferenceBlackWhite", _list(6)), Tag(0x013E, "WhitePoint", _list(2)),
    Tag(0x013F, "PrimaryChromaticities", _list(6)),
    *_tags(_date, DateTime=0x0132, DateTimeOriginal=0x9003, DateTimeDigitized=0x9004, OffsetTime=0x9010,
           OffsetTimeOriginal=0x9011, OffsetTimeDigitized=0x9012, SubSecTime=0x9290, SubSecTimeOriginal=0x9291,
           SubSecTimeDigitized=0x9292),
]
# fmt: on
NAMES = {spelling: tag for tag in TAGS for spelling in tag.printed_names}
# These distinguish photos, not cameras: kept out of sentences unless requested.
DATE_NAMES = frozenset(tag.name for tag in TAGS if tag.show is _date)
_ORDER = {tag.name: position for position, tag in enumerate(TAGS)}


def _position(name: str) -> tuple[int, str]:
    return _ORDER.get(name, len(_ORDER)), name
