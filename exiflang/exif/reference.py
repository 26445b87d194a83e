"""EXIF sentences in the wording that the authors' checkpoint was trained on (reference code of the paper)."""

import re
from collections.abc import Mapping
from fractions import Fraction

from exiflang.exif.tags import TAGS, is_private

REFERENCE_SENTENCE_VERSION = 0  # `sentence_version` of models that use these sentences instead of `exif_to_text`

_WORD_STARTS = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_DUMP_NAMES = {tag.name: _WORD_STARTS.sub(" ", tag.name) for tag in TAGS} | {
    "DateTime": "Date/Time", "DateTimeDigitized": "Date/Time Digitized", "DateTimeOriginal": "Date/Time Original",
    "FlashpixVersion": "FlashPix Version", "FNumber": "F-Number", "FocalLengthIn35mmFilm": "Focal Length 35",
    "ImageLength": "Image Height", "ISOSpeedRatings": "ISO Speed Ratings", "LightSource": "White Balance",
    "PhotographicSensitivity": "ISO Speed Ratings", "PixelXDimension": "Exif Image Width",
    "PixelYDimension": "Exif Image Height", "ReferenceBlackWhite": "Reference Black/White",
    "SubSecTime": "Sub-Sec Time", "SubSecTimeDigitized": "Sub-Sec Time Digitized",
    "SubSecTimeOriginal": "Sub-Sec Time Original", "WhiteBalance": "White Balance Mode",
    "YCbCrCoefficients": "YCbCr Coefficients", "YCbCrPositioning": "YCbCr Positioning",
    "YCbCrSubSampling": "YCbCr Sub-Sampling",
}  # fmt: skip

# Spellings that `is_private` knows by EXIF's names ("XPAuthor", "ImageUniqueID"), and text from outside EXIF.
_PRIVATE_IN_DUMPS = re.compile(r"comment|title|unique|windows xp|iptc|xmp", re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?\d{1,20}(/0*[1-9]\d{0,19}|\.\d{1,20})?", re.ASCII)


def reference_sentence(tags: Mapping[str, str]) -> str:
    """Tags -> ", ".join("tag: value") in the given order, cleaned as in the paper's reference code.

    The reference was trained on YFCC100M's EXIF dump. "Exif IFD0.Make" loses its directory. EXIF 2.32 names ("FNumber",
    as returned by `read_exif`) become the dump's spelling, that of metadata-extractor ("F-Number", and "White Balance"
    for LightSource); any other name is kept. Resolutions and exposure bias are rounded down to whole numbers; focal
    length has one decimal; only the first word of an ISO value is used. Any other value longer than 20 characters
    becomes "Unknown"; a shorter one keeps only a-zA-Z0-9.,/- and loses its spaces.

    Dates are kept, as in the reference. GPS, serial numbers, owners, comments, titles and unique ids are left out,
    which the reference does not guarantee. An invalid number ("0/0", "inf", "") is cleaned like any other value, and a
    tag without a value stays as "tag: ". Without tags, the sentence is "". Descriptions ("Normal program") are not
    converted back into the dump's text. Accepts any strings without raising.
    """
    named = ((key, key.split(".", 1)[-1]) for key in tags)
    shown = ((_DUMP_NAMES.get(name, name), tags[key]) for key, name in named if not _private(key, name))
    return ", ".join(f"{name}: {_clean(name, value)}" for name, value in shown)


def _private(key: str, name: str) -> bool:
    return is_private(key) or is_private(name) or bool(_PRIVATE_IN_DUMPS.search(key))


def _clean(name: str, value: str) -> str:
    if _NUMBER.fullmatch(value):
        if name.endswith("Resolution") or name.startswith("Exposure Bias"):
            return str(Fraction(value) // 1)
        if name == "Focal Length":
            return f"{float(Fraction(value)):.1f}"
    if name.startswith("ISO"):
        value = next(iter(value.split()), "")
    return "Unknown" if len(value) > 20 else re.sub(r"[^a-zA-Z0-9.,/-]", "", value)
