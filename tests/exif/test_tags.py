"""The dictionary of the EXIF language: one canonical text per value, canonical names and order, nothing private."""

import math
from fractions import Fraction

import pytest
from exifread.tags.exif import EXIF_TAGS
from hypothesis import given, settings
from hypothesis import strategies as st

from exiflang.exif.reader import canonical_tags
from exiflang.exif.tags import MAX_VALUE, PRIVATE, TAGS
from exiflang.exif.text import exif_to_text


def one(tag: str, printed: object) -> str | None:
    return canonical_tags({tag: printed}).get(tag)


# ---------------------------------------------------------------------------------------------- values
@pytest.mark.parametrize(
    ("tag", "printed", "canonical"),
    [
        ("ExposureTime", "1/125", "1/125"),
        ("ExposureTime", "10/1250", "1/125"),
        ("ExposureTime", "16666667/1000000000", "1/60"),
        ("ExposureTime", "1/47957", "1/48000"),
        ("ExposureTime", "0.25", "1/4"),
        ("ExposureTime", "1/3", "0.3"),
        ("ExposureTime", "5/2", "2.5"),
        ("ExposureTime", "30", "30"),
        ("ExposureTime", "0", None),
        ("ExposureTime", "0/0", None),
        ("ExposureTime", "nan", None),
        ("FNumber", "14/5", "2.8"),
        ("FNumber", "(5.6,)", "5.6"),
        ("FNumber", "7549747/2097152", "3.6"),
        ("FNumber", "8", "8"),
        ("FNumber", "0", None),
        ("FNumber", "1e999999999", None),
        ("PhotographicSensitivity", "[100, 100]", "100"),
        ("PhotographicSensitivity", 400, "400"),
        ("FocalLength", "4183519/1048501", "3.99"),
        ("FocalLength", "4294967295", None),
        ("ExposureBiasValue", "-1/3", "-0.3"),
        ("ExposureBiasValue", "-1/100", "0"),
        ("ExposureBiasValue", "-16/0", None),
        ("XResolution", "10748/91", "118"),
        ("CompressedBitsPerPixel", "1/297", None),
        ("DigitalZoomRatio", "0", "0"),
        ("SubjectDistance", "4294967295", "Infinity"),
        ("LensSpecification", "[18, 55, 7/2, 28/5]", "18 55 3.5 5.6"),
        ("LensSpecification", "[18, 55, 0/0, 0]", "18 55 ? ?"),
        ("LensSpecification", [18, 55, 3.5, 5.6], "18 55 3.5 5.6"),
        ("LensSpecification", "[0, 0, 0, 0]", None),
        ("LensSpecification", "155", None),
        ("SubjectArea", "[2015, 1511, 2217, 1330]", "2015 1511 2217 1330"),
        ("CFAPattern", "[0, 2, 0, 2, 1, 2, 0, 1]", "GBRG"),
        ("CFAPattern", "[2, 0, 2, 0, 0, 1, 1, 2]", "RGGB"),
        ("ComponentsConfiguration", "YCbCr", "YCbCr"),
        ("ComponentsConfiguration", "1 2 3 0", "YCbCr"),
        ("ComponentsConfiguration", "RedGreenBlue", "RGB"),
        ("ComponentsConfiguration", "", None),
        ("ExifVersion", "220", "0220"),
        ("ExifVersion", "[48, 50, 51, 50]", "0232"),
        ("ExifVersion", "Ü", None),
        ("Flash", "8", "Flash did not fire, compulsory flash mode"),
        ("Flash", "88", "Flash did not fire, auto mode, red-eye reduction mode"),
        ("Flash", "Strobe return light detected", "Flash fired, return light detected"),
        ("Flash", "Flash fired, auto modeFlash did not fire", "Flash fired, auto mode"),
        ("SceneType", "Directly Photographed000", "A directly photographed image"),
        ("SceneType", "'1''0''0''0''0''0''0''1''0'", None),
        ("SceneType", "0", "0"),
        ("MeteringMode", "no such mode", None),
        ("Saturation", "Hard", "High saturation"),
        ("Make", "  OLYMPUS IMAGING CORP.  \0junk", "OLYMPUS IMAGING CORP."),
        ("Software", "HD3.03.02.00\r\r\r", "HD3.03.02.00"),
        ("Software", "b'Caf\\xe9 1.0'", "Café 1.0"),
        ("Software", "b'broken", "b'broken"),
        ("Software", "----", None),
        ("Software", "000", None),
        ("Software", "x" * 5000, "x" * MAX_VALUE),
        ("DateTime", "0000:00:00 00:00:00", None),
        ("DateTime", "2020:01:02 03:04:05", "2020:01:02 03:04:05"),
        ("OffsetTime", "+00:00", "+00:00"),
        ("Make", None, None),
    ],
)  # fmt: skip
def test_a_value_has_one_canonical_text(tag, printed, canonical):
    assert one(tag, printed) == canonical


ENUMERATIONS = [tag for tag in TAGS if isinstance(EXIF_TAGS.get(tag.code, ("", None))[1], dict)]


@pytest.mark.parametrize("tag", ENUMERATIONS, ids=lambda tag: tag.name)
def test_enumerations_have_one_spelling_for_codes_and_texts(tag):
    assert tag.show("99999") == tag.show("-1") == tag.show("") == tag.show("nonsense") == ""
    if tag.name != "ComponentsConfiguration":
        for code, printed in EXIF_TAGS[tag.code][1].items():
            text = tag.show(str(code))
            assert text == tag.show(printed) == tag.show(f"[{code}, 0]") == tag.show(text) != ""


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
@settings(max_examples=200, deadline=None)
def test_rationals_are_close_to_a_float_oracle(top, bottom):
    shown = {name: one(name, f"{top}/{bottom}") for name in ("FNumber", "ExposureTime", "BrightnessValue")}
    if bottom == 0:
        assert not any(shown.values())
        return
    value = top / bottom
    if shown["FNumber"]:
        assert abs(float(shown["FNumber"]) - value) <= 0.005 + 1e-6 * value
    if shown["BrightnessValue"]:
        assert abs(float(shown["BrightnessValue"]) - value) <= 0.05 + 1e-6 * value
    if shown["ExposureTime"]:
        assert math.isclose(float(Fraction(shown["ExposureTime"])), value, rel_tol=0.2, abs_tol=1e-9)
    else:
        assert value <= 1e-9 or value >= 2**32 - 1


# ---------------------------------------------------------------------------------------------- tags
def test_tag_names_directories_and_order():
    printed = {
        "EXIF Tag 0xA460": "2", "Image Tag 0x000B": "GIMP", "EXIF CVAPattern": "[2, 0, 2, 0, 0, 1, 1, 2]",
        "EXIF ISOSpeedRatings": "200", "Image Make": "Sony", "Thumbnail XResolution": "1", "IFD 2 Model": "x",
        "EXIF XResolution": "1", "Image XResolution": "72", "EXIF ExposureTime": "1/8", "Image ExposureTime": "1",
        "MakerNote Model": "x", "Image ExifOffset": "228", "EXIF Tag 0x9999": "{}", "EXIF MakerNote": "[1, 2]", 5: "x",
        "Interoperability InteroperabilityIndex": "R98", "EXIF ExifImageWidth": "640",
    }  # fmt: skip
    expected = {
        "Make": "Sony", "ProcessingSoftware": "GIMP", "ExposureTime": "1/8", "PhotographicSensitivity": "200",
        "PixelXDimension": "640", "CompositeImage": "General composite image", "CFAPattern": "RGGB",
        "XResolution": "72", "InteroperabilityIndex": "R98",
    }  # fmt: skip
    for items in (printed, dict(reversed(printed.items()))):
        assert list(canonical_tags(items).items()) == list(expected.items())


def test_private_tags_are_given_only_on_request_and_never_in_a_sentence():
    printed = {"EXIF BodySerialNumber": "42", "GPS GPSLatitude": "[51, 30, 0]", "Image Artist": "Jane",
               "Image Make": "Sony"}  # fmt: skip
    assert canonical_tags(printed) == {"Make": "Sony"}
    private = canonical_tags(printed, private=True)
    assert private == {"Make": "Sony", "Artist": "Jane", "BodySerialNumber": "42", "GPSLatitude": "[51, 30, 0]"}
    assert exif_to_text(private) == "Make: Sony"
    odd = {"gps latitude": "1", "Serial Number": "2", "InternalSerialNumber": "3", "Camera Owner": "4"}
    assert exif_to_text(odd | dict.fromkeys(PRIVATE, "5")) == ""


printed_like = st.one_of(
    st.text(max_size=40),
    st.builds("{}/{}".format, st.integers(-9, 2**32), st.integers(0, 9999)),
    st.lists(st.integers(0, 300), max_size=8).map(str),
    st.sampled_from([text for _, table in EXIF_TAGS.values() if isinstance(table, dict) for text in table.values()]),
)


@given(st.dictionaries(st.sampled_from([tag.name for tag in TAGS]), printed_like, max_size=12))
@settings(max_examples=100, deadline=None)
def test_canonical_tags_is_idempotent_bounded_and_ordered(printed):
    tags = canonical_tags(printed)
    assert canonical_tags(tags) == canonical_tags(dict(reversed(tags.items()))) == tags
    assert all(0 < len(value) <= MAX_VALUE and value.isprintable() for value in tags.values())
    assert list(canonical_tags(dict(reversed(printed.items())))) == list(tags)
