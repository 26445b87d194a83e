"""The dialects of EXIF readers: output of exiv2, exiftool and metadata-extractor, translated into exifread's terms.

    exifread                          "EXIF FNumber": "14/5"
    exiv2, pyexiv2                    "Exif.Photo.FNumber": "28/10", translated "F2.8"
    exiftool -j, -G, -G1              "FNumber", "EXIF:FNumber", "ExifIFD:FNumber": 2.8
    metadata-extractor (YFCC100M)     "Exif SubIFD.F-Number": "28/10", described "f/2.8" ("F2.8" in old versions)

Directories other than the picture's own keep their prefix, which matches no tag. What a reader drops is lost:

    any, described       precision: f-numbers (two digits in exiv2), focal lengths and zoom ratios have one decimal, an
                         APEX value may be off by 0.1, or by more below f/2 and above 1/4 s; codes without a
                         description. Raw values (exiv2 -Pkv, pyexiv2, exiftool -n) are complete.
    exiftool -j, -G      which image a pixel layout describes (file, picture, thumbnail) and, with -j and a JFIF or
                         Photoshop segment, which one a resolution describes: both are left out. -j also fills in, or
                         prefers, the maker note's ISO, white balance, metering mode, sharpness and the like: use -G1.
                         It writes the software version "1.10" as a number: parse the JSON with parse_float=str.
    metadata-extractor   flash mode unless auto and fired ("did not fire, auto" is code 16 or 24, so it is read as "did
                         not fire", true of both), "no flash function", fractions of reference black and white.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache

from exifread.tags.exif import EXIF_TAGS

from exiflang.exif.tags import NAMES, PRIVATE, fold

MAX_KEY, MAX_TEXT = 100, 4096  # characters; no tag's name or usable value is longer

EXIFREAD, BARE, EXIV2, EXIFTOOL, EXTRACTOR = "exifread", "bare", "exiv2", "exiftool", "metadata-extractor"


def in_exifread_terms(printed: Mapping[str, object]) -> Iterator[tuple[str, str, str]]:
    """Directory ("Image", "EXIF", "Interoperability", "GPS", or "" if unknown), name and text of each value.

    Names are EXIF's or exifread's. exifread's values and unknown keys pass through unchanged; keys that are not strings
    and values without a usable `str` (None, nested too deeply) are skipped.
    """
    plain = not _PLAIN_EXIFTOOL.isdisjoint(printed)
    bare_doubts = _LAYOUT if _OTHER_RESOLUTIONS.isdisjoint(printed) else _LAYOUT | _RESOLUTION
    group_doubts = frozenset() if _THUMBNAIL.isdisjoint(printed) else _LAYOUT
    for key, value in printed.items():
        if not isinstance(key, str) or len(key) > MAX_KEY or value is None:
            continue
        try:
            text = str(value)
        except (RecursionError, ValueError):  # nested too deeply, or an integer of thousands of digits
            continue
        reader, folder, name = _read_key(key)
        doubts = group_doubts if reader == EXIFTOOL and not folder else frozenset()
        if reader == BARE and plain:
            reader, name, doubts = EXIFTOOL, _EXIFTOOL_NAMES.get(name, name), bare_doubts
        if reader == EXTRACTOR and name == "SubjectLocation" and len(text[:MAX_TEXT].split()) > 2:
            name = "SubjectArea"  # metadata-extractor uses one name for both tags
        if tag := NAMES.get(name) if reader != EXIFREAD else None:
            if tag.name in doubts:
                continue
            text = _exif_value(tag.name, text[:MAX_TEXT].strip(" \0"), reader)
        yield folder, name, text


# ------------------------------------------------ keys ------------------------------------------------
_DIRECTORIES = {
    "Exif.Image": (EXIV2, "Image"), "Exif.Photo": (EXIV2, "EXIF"), "Exif.Iop": (EXIV2, "Interoperability"),
    "Exif.GPSInfo": (EXIV2, "GPS"),
    "Exif IFD0": (EXTRACTOR, "Image"), "Exif SubIFD": (EXTRACTOR, "EXIF"),
    "Interoperability": (EXTRACTOR, "Interoperability"), "GPS": (EXTRACTOR, "GPS"),
    "EXIF:": (EXIFTOOL, ""), "IFD0:": (EXIFTOOL, "Image"), "ExifIFD:": (EXIFTOOL, "EXIF"),
    "InteropIFD:": (EXIFTOOL, "Interoperability"), "GPS:": (EXIFTOOL, "GPS"), "EXIF:IFD0:": (EXIFTOOL, "Image"),
    "EXIF:ExifIFD:": (EXIFTOOL, "EXIF"), "EXIF:InteropIFD:": (EXIFTOOL, "Interoperability"),
    "EXIF:GPS:": (EXIFTOOL, "GPS"),
}  # fmt: skip

_EXIFTOOL_NAMES = {
    "CreateDate": "DateTimeDigitized", "ExifImageHeight": "PixelYDimension",
    "ExposureCompensation": "ExposureBiasValue", "FocalLengthIn35mmFormat": "FocalLengthIn35mmFilm",
    "ImageHeight": "ImageLength", "ISO": "PhotographicSensitivity",
    "InteropIndex": "InteroperabilityIndex", "LensInfo": "LensSpecification", "ModifyDate": "DateTime",
    "OwnerName": "CameraOwnerName", "SerialNumber": "BodySerialNumber",
}  # fmt: skip
# Any of these shows that bare names are exiftool's: names only exiftool uses, except those `private=True` returns.
_PLAIN_EXIFTOOL = frozenset({"SourceFile", "ExifToolVersion", *_EXIFTOOL_NAMES} - set(PRIVATE))
# Without a directory, such a tag may describe the file's pixels, the thumbnail's, or JFIF's resolution instead.
_LAYOUT = frozenset(("ImageWidth", "ImageLength", "BitsPerSample", "Compression", "PhotometricInterpretation",
                     "SamplesPerPixel", "PlanarConfiguration", "YCbCrSubSampling"))  # fmt: skip
_RESOLUTION = frozenset(("XResolution", "YResolution", "ResolutionUnit"))
_THUMBNAIL = frozenset(("EXIF:ThumbnailOffset", "EXIF:ThumbnailImage", "EXIF:StripOffsets"))
_OTHER_RESOLUTIONS = frozenset(("JFIFVersion", "DisplayedUnitsX"))  # JFIF's, Photoshop's


_EXTRACTOR_NAMES = {fold(name): name for name in (*NAMES, *PRIVATE)} | {
    "exifimageheight": "PixelYDimension", "focallength35": "FocalLengthIn35mmFilm",
    "imageheight": "ImageLength", "uniqueimageid": "ImageUniqueID",
    "whitebalance": "LightSource", "whitebalancemode": "WhiteBalance",
    **{f"windowsxp{fold(name[2:])}": name for name in PRIVATE if name.startswith("XP")},
}  # fmt: skip


@lru_cache(4096)
def _read_key(key: str) -> tuple[str, str, str]:
    """Reader, and directory and name in exifread's terms; a bare name can come from any reader."""
    if (cut := key.rfind(":") + 1) and (place := _DIRECTORIES.get(key[:cut])):
        return *place, _EXIFTOOL_NAMES.get(key[cut:], key[cut:])
    directory, _, name = key.rpartition(".")
    if place := _DIRECTORIES.get(directory):
        reader, folder = place
        if code := re.fullmatch(r"(?:Unknown tag \()?0x([0-9a-f]{4})\)?", name):  # a tag newer than the reader
            name = EXIF_TAGS.get(int(code[1], 16), ("",))[0] or f"Tag 0x{code[1].upper()}"
        elif reader == EXTRACTOR:
            name = "".join(filter(str.isalnum, name)) if folder == "GPS" else _EXTRACTOR_NAMES.get(fold(name), "")
        return reader, folder, name
    folder, _, name = key.rpartition(" ") if " Tag 0x" not in key else key.partition(" ")
    return EXIFREAD if folder else BARE, folder, name


# ----------------------------------------------- values -----------------------------------------------
# EXIF value -> other readers' descriptions, where they differ from those of the standard and of exifread.
_WORDS: dict[str, Mapping[int, str] | Mapping[str, str]] = {
    "Orientation": {
        1: "Top, left side (Horizontal / normal)", 2: "Top, right side (Mirror horizontal) | Mirror horizontal",
        3: "Bottom, right side (Rotate 180) | Rotate 180", 4: "Bottom, left side (Mirror vertical) | Mirror vertical",
        5: "Left side, top (Mirror horizontal and rotate 270 CW) | Mirror horizontal and rotate 270 CW",
        6: "Right side, top (Rotate 90 CW) | Rotate 90 CW",
        7: "Right side, bottom (Mirror horizontal and rotate 90 CW) | Mirror horizontal and rotate 90 CW",
        8: "Left side, bottom (Rotate 270 CW) | Rotate 270 CW"},
    "Flash": {
        0: "No flash", 1: "Fired", 5: "Fired, Return not detected | Fired, return light not detected",
        7: "Fired, Return detected | Fired, return light detected", 8: "On, Did not fire | Yes, did not fire",
        9: "On, Fired | Yes, compulsory", 13: "On, Return not detected | Yes, compulsory, return light not detected",
        15: "On, Return detected | Yes, compulsory, return light detected", 16: "Off, Did not fire | No, compulsory",
        20: "Off, Did not fire, Return not detected | No, did not fire, return light not detected",
        24: "Auto, Did not fire | No, auto", 25: "Auto, Fired | Yes, auto | Flash fired, auto",
        29: "Auto, Fired, Return not detected | Yes, auto, return light not detected",
        31: "Auto, Fired, Return detected | Yes, auto, return light detected",
        48: "Off, No flash function | No, no flash function", 65: "Fired, Red-eye reduction | Yes, red-eye reduction",
        69: "Fired, Red-eye reduction, Return not detected | Yes, red-eye reduction, return light not detected",
        71: "Fired, Red-eye reduction, Return detected | Yes, red-eye reduction, return light detected",
        73: "On, Red-eye reduction | Yes, compulsory, red-eye reduction",
        77: "On, Red-eye reduction, Return not detected | "
            "Yes, compulsory, red-eye reduction, return light not detected",
        79: "On, Red-eye reduction, Return detected | Yes, compulsory, red-eye reduction, return light detected",
        80: "Off, Red-eye reduction | No, red-eye reduction",
        88: "Auto, Did not fire, Red-eye reduction | No, auto, red-eye reduction",
        89: "Auto, Fired, Red-eye reduction | Yes, auto, red-eye reduction",
        93: "Auto, Fired, Red-eye reduction, Return not detected | "
            "Yes, auto, red-eye reduction, return light not detected",
        95: "Auto, Fired, Red-eye reduction, Return detected | Yes, auto, red-eye reduction, return light detected"},
    "ExposureProgram": {
        1: "Manual control", 2: "Program AE | Auto | Program normal", 3: "Aperture-priority AE",
        4: "Shutter speed priority AE", 5: "Creative (Slow speed) | Program creative (slow program)",
        6: "Action (High speed) | Program action (high-speed program)", 7: "Portrait", 8: "Landscape", 9: "Bulb"},
    "MeteringMode": {5: "Multi-segment"},
    "ExposureMode": {0: "Auto", 1: "Manual"},
    "WhiteBalance": {0: "Auto", 1: "Manual"},
    "LightSource": {
        2: "Florescent", 3: "Tungsten | Tungsten (Incandescent)", 10: "Cloudy",
        12: "Daylight Fluorescent | Daylight Flourescent",
        13: "Day White Fluorescent | Day White Flourescent | Day white fluorescent (N 4600 - 5400K)",
        14: "Cool White Fluorescent | Cool White Flourescent | Cool white fluorescent (W 3900 - 4500K)",
        15: "White Fluorescent | White Flourescent | White fluorescent (WW 3200 - 3700K)",
        16: "Warm White Fluorescent | Warm White Flourescent", 17: "Standard light", 24: "Studio Tungsten",
        255: "Other"},
    "SceneCaptureType": {3: "Night", 4: "Other"},
    "Contrast": {0: "None", 1: "Low", 2: "High"},
    "Saturation": {0: "None", 1: "Low", 2: "High"},
    "Sharpness": {0: "None", 1: "Low"},
    "CustomRendered": {
        0: "Normal", 1: "Custom", 2: "HDR (no original saved)", 3: "HDR (original saved)", 4: "Original (for HDR)",
        6: "Panorama", 7: "Portrait HDR", 8: "Portrait"},
    "CompositeImage": {
        1: "Not a Composite Image | NonComposite", 2: "GeneralComposite",
        3: "Composite Image Captured While Shooting | CompositeCapturedWhenShooting"},
    "SensitivityType": {7: "Standard Output Sensitivity, Recommended Exposure Index and ISO Speed"},
    "SubjectDistance": {4294967295: "4294967295.0 metres"},
    "SubjectDistanceRange": {2: "Close", 3: "Distant"},
    "SensingMethod": {
        2: "One-chip color area", 3: "Two-chip color area", 4: "Three-chip color area", 5: "Color sequential area",
        7: "Trilinear", 8: "Color sequential linear"},
    "FileSource": {
        1: "Film Scanner", 2: "Reflection Print Scanner | Reflexion print scanner",
        3: "Digital Camera | Digital still camera | Digital Still Camera (DSC)"},
    "SceneType": {1: "Directly photographed image | Directly photographed"},
    "FocalPlaneResolutionUnit": {1: "None | No unit", 2: "Inch", 3: "cm", 4: "mm", 5: "um"},
    "ResolutionUnit": {1: "None | No unit", 2: "Inch", 3: "cm"},
    "YCbCrPositioning": {1: "Center of pixel array", 2: "Datum point"},
    "ColorSpace": {65533: "Wide Gamut RGB", 65534: "ICC Profile", 65535: "Undefined"},
    "Compression": {
        1: "Uncompressed", 2: "CCITT 1D | CCITT RLE", 3: "T4/Group 3 Fax", 4: "T6/Group 4 Fax", 5: "LZW",
        6: "JPEG (old-style)", 7: "JPEG", 8: "Adobe Deflate", 9: "JBIG B&W", 10: "JBIG Color",
        32773: "PackBits | PackBits (Macintosh RLE)", 65535: "Pentax PEF Compressed"},
    "PhotometricInterpretation": {
        0: "White Is Zero", 1: "Black Is Zero", 3: "RGB Palette", 4: "Transparency Mask", 5: "CMYK", 8: "CIELab",
        9: "ICCLab", 10: "ITULab"},
    "PlanarConfiguration": {
        1: "Chunky | Chunky (contiguous for each subsampling pixel)",
        2: "Planar | Separate (Y-plane/Cb-plane/Cr-plane format)"},
    "DigitalZoomRatio": {0: "Digital zoom not used"},
    "InteroperabilityIndex": {
        "R98": "R98 - DCF basic file (sRGB) | Recommended Exif Interoperability Rules (ExifR98)",
        "R03": "R03 - DCF option file (Adobe RGB) | Unknown (R03)", "THM": "THM - DCF thumbnail file | Unknown (THM)"},
    "YCbCrSubSampling": {
        f"{across} {down}": f"YCbCr4:{ratio} | YCbCr4:{ratio} ({across} {down})"
        for ratio, across, down in [("4:4", 1, 1), ("4:0", 1, 2), ("2:2", 2, 1), ("2:0", 2, 2), ("1:1", 4, 1),
                                    ("1:0", 4, 2)]},
}  # fmt: skip
_VALUES = {tag: {fold(word): str(value) for value, words in table.items() for word in words.split(" | ")}
           for tag, table in _WORDS.items()}  # fmt: skip
# metadata-extractor takes the lower bit of the flash mode for "auto": only "fired" with "auto" determines the mode.
_VALUES["Flash"] |= {
    fold(f"Flash {fired}{back}{auto}{eyes}"): str(
        (fired == "fired") * (25 if auto else 1) | {"": 0, ", return not detected": 4, ", return detected": 6}[back]
        | (64 if eyes else 0)
    )
    for fired in ("fired", "did not fire")
    for back in ("", ", return not detected", ", return detected")
    for auto in ("", ", auto")
    for eyes in ("", ", red-eye reduction")
}  # fmt: skip
_GAIN_OF_EXTRACTOR = {"lowgaindown": "2", "highgainup": "3"}  # metadata-extractor swaps these two

_UNKNOWN_CODE = re.compile(r"(?:Unknown )?\((0x[0-9a-fA-F]{1,4}|[0-9]{1,5})\)")
_UNIT = re.compile(r"(?<=[0-9.]) ?(?:mm|cm|m|metres|sec|s|EV|pixels|bits?/pixel|bits/component/pixel|samples/pixel"
                   r"|inch(?:es)?|\(no unit\)|dots per .{1,20})$", re.IGNORECASE)  # fmt: skip
_RATIO = re.compile(r"([0-9]{1,12}(?:\.[0-9]{0,20})?(?:e-?[0-9]{1,2})?)(?:/([0-9]{1,12}))?")
_TEXTS = {"Make", "Model", "Software", "ProcessingSoftware", "LensMake", "LensModel"}
_APEX = {"ShutterSpeedValue", "ApertureValue", "MaxApertureValue"}


def _exif_value(name: str, text: str, reader: str) -> str:
    """The value as EXIF stores it: code, number or list of numbers; text that no other reader prints is kept."""
    if name in _TEXTS:
        return text
    table = _GAIN_OF_EXTRACTOR if reader == EXTRACTOR and name == "GainControl" else _VALUES.get(name, {})
    if value := table.get(fold(text)):
        return value
    if code := _UNKNOWN_CODE.fullmatch(text):
        return str(int(code[1], 16 if code[1].startswith("0x") else 10))
    if name in _FORMS:
        pattern, form = _FORMS[name]
        match = re.fullmatch(pattern, text)
        return form(match) if match else text
    number = re.sub(r"^[fF]/?(?=[0-9])", "", _UNIT.sub("", text))
    if name in _APEX and (reader == EXIFTOOL or number != text):
        return _apex(name, number)
    number = re.sub(r"^([0-9]+)/-(?=[0-9])", r"-\1/", number).removesuffix("/1")
    if reader == EXTRACTOR and name.startswith("FocalPlane"):
        size = _ratio(number)
        return f"{1 / size:.6f}" if 0 < size < 1 else number  # it prints the pixel size instead
    return number


def _ratio(text: str) -> float:
    """The positive number in "1/30" or "2.8"; 0 for any other text."""
    match = _RATIO.fullmatch(text)
    return float(match[1]) / (float(match[2] or 1) or math.inf) if match else 0


def _apex(name: str, text: str) -> str:
    """Seconds or f-number as the logarithm that EXIF stores (EXIF 2.32, annex C)."""
    value = _ratio(text)
    if value <= 0:
        return ""
    return f"{-math.log2(value) if name == 'ShutterSpeedValue' else 2 * math.log2(value):.6f}"


_VERSION = r"([0-9]{1,2})\.([0-9]{1,2})", lambda m: f"{m[1]:0>2}{m[2]:0<2}"  # "2.20" -> "0220"
# Pattern of an entire value, and its EXIF form; a value that does not match is kept.
_FORMS: dict[str, tuple[str, Callable[[re.Match[str]], str]]] = {
    "ExifVersion": _VERSION, "FlashpixVersion": _VERSION,
    # "Y, Cb, Cr, -" -> "YCbCr"
    "ComponentsConfiguration": (r"[A-Z].*", lambda m: re.sub("[, -]", "", m[0])),
    # "18-55mm f/3.5-5.6" -> "18 55 3.5 5.6"
    "LensSpecification": (
        r"([0-9./?]+)(?:-([0-9./?]+))? ?mm(?: [fF]/?([0-9./?]+)(?:-([0-9./?]+))?)?",
        lambda m: f"{m[1]} {m[2] or m[1]} {m[3] or '?'} {m[4] or m[3] or '?'}"),
    # "[Red,Green][Green,Blue]" -> "RGGB", and exiftool's "2 2 0 1 1 2" -> two 16-bit sizes
    "CFAPattern": (
        r"((?:\[(?:(?:Red|Green|Blue|Cyan|Magenta|Yellow|White),?){1,6}\]){1,6})|2\s+2\s+(\S+(?:\s+\S+){3})",
        lambda m: "".join(re.findall("[A-Z]", m[1])) if m[1] else f"2 0 2 0 {m[2]}"),
    # "[0,128,128] [255,255,255]", blacks first -> "0 255 128 255 128 255"
    "ReferenceBlackWhite": (
        r"\[(\d+),(\d+),(\d+)\] \[(\d+),(\d+),(\d+)\]", lambda m: m.expand(r"\1 \4 \2 \5 \3 \6")),
}  # fmt: skip
