"""Rules on tags: each on tags that it finds fault with, on tags that fit, and without them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exiflang.headers.facts import Facts
from exiflang.headers.findings import SEVERITIES
from exiflang.headers.rules import RULES, apply, check_metadata, finding_of
from exiflang.utils.images import decode_image
from tests.headers.made import exif_block, jpeg, scene

RULE = {rule.name: rule for rule in RULES}
TAKEN = "2020:05:06 07:08:09"
DATES = {"DateTimeOriginal": TAKEN, "DateTimeDigitized": TAKEN, "DateTime": TAKEN}
GPS = {"DateTimeOriginal": TAKEN, "GPSDateStamp": "2020:05:06"}
SENSOR = {"FocalLength": 50, "FocalPlaneXResolution": 100, "FocalPlaneYResolution": 100, "FocalPlaneResolutionUnit": 4,
          "PixelXDimension": 3600, "PixelYDimension": 2400}  # fmt: skip
EXPOSURE = {"FNumber": 1.0, "ExposureTime": 1.0, "PhotographicSensitivity": 100}
# rule: tags in which it finds something, a part of what it says, tags in which it finds nothing
CASES = {
    "size": ({"PixelXDimension": 640, "PixelYDimension": 480}, "states 640 x 480 pixels, but the picture has 128 x 96",
             {"PixelXDimension": 96, "PixelYDimension": 128}),
    "stored_size": ({"ImageWidth": 640, "ImageLength": 480}, "640 x 480", {"ImageWidth": 128, "ImageLength": 96}),
    "interoperability": ({"ColorSpace": 1, "InteroperabilityIndex": "R03"}, "sRGB as color space, but R03",
                         {"ColorSpace": 65535, "InteroperabilityIndex": "R03"}),
    "editor": ({"Software": "Adobe Photoshop CS6 (Windows)"}, "names Adobe Photoshop as Software",
               {"Software": "Ver.1.00 "}),
    "shutter_speed": ({"ShutterSpeedValue": 5.0, "ExposureTime": 0.004}, "1/250 s and, as a shutter speed, 1/32 s",
                      {"ShutterSpeedValue": 8.0, "ExposureTime": 0.004}),
    "aperture": ({"ApertureValue": 4.0, "FNumber": 8.0}, "f/8 and, as an APEX value, f/4",
                 {"ApertureValue": 6.0, "FNumber": 8.0}),
    "widest_aperture": ({"MaxApertureValue": 4.0, "FNumber": 2.0}, "f/2, but f/4 as the widest",
                        {"MaxApertureValue": 4.0, "FNumber": 16.0}),
    "brightness": (EXPOSURE | {"BrightnessValue": 15.0}, "20 steps", EXPOSURE | {"BrightnessValue": -5.0}),
    "focal_length": ({"LensSpecification": (18.0, 55.0, 3.5, 5.6), "FocalLength": 85.0}, "but a lens of 18-55 mm",
                     {"LensSpecification": (18.0, 55.0, 3.5, 5.6), "FocalLength": 35.0}),
    "lens_aperture": ({"LensSpecification": (18.0, 55.0, 3.5, 5.6), "FNumber": 1.8}, "f/1.8, but a lens that opens to",
                      {"LensSpecification": (18.0, 55.0, 3.5, 5.6), "FNumber": 4.0}),
    "focal_length_35mm": (SENSOR | {"FocalLengthIn35mmFilm": 75}, "50 mm equal to 75 mm", # diagonal 43.27
                          SENSOR | {"FocalLengthIn35mmFilm": 50}),
    "date_impossible": ({"DateTimeOriginal": "2020:13:06 07:08:09"}, "2020:13:06 07:08:09 as DateTimeOriginal", DATES),
    "clock_not_set": ({"DateTimeOriginal": "1980:01:01 00:00:07"}, "1980-01-01", DATES),
    "date_in_future": ({"DateTime": "2999:01:01 00:00:00"}, "2999-01-01 as DateTime", DATES),
    "digitized_before_taken": (DATES | {"DateTimeDigitized": "2020:05:03 07:08:09"}, "3 days before", DATES),
    "digitized_after_taken": (DATES | {"DateTimeDigitized": "2020:05:06 09:08:09"}, "2 hours after", DATES),
    "changed_before_taken": (DATES | {"DateTime": "2019:05:06 00:00:00"}, "1 year before", DATES),
    "changed_later": (DATES | {"DateTime": "2020:05:06 09:09:09"}, "2 hours after", DATES),
    "changed_days_later": (DATES | {"DateTime": "2020:05:26 09:09:09"}, "20 days after", DATES),
    "time_zone": ({"OffsetTimeOriginal": "+25:00"}, "+25:00 as OffsetTimeOriginal", {"OffsetTimeOriginal": "+05:45"}),
    "gps_after_photo": (GPS | {"GPSTimeStamp": (23.0, 8.0, 9.0)}, "16 hours ahead",
                        GPS | {"GPSTimeStamp": (5.0, 8.0, 9.0)}),
    "gps_clock": (GPS | {"GPSTimeStamp": (5.0, 1.0, 9.0)}, "differ by 7 minutes",
                  GPS | {"GPSTimeStamp": (5.0, 8.0, 0.0)}),
}  # fmt: skip


def facts_of(tags: dict) -> Facts:
    photo = jpeg(scene(), exif=exif_block(tags))
    return Facts.of_file(photo, decode_image(photo).pixels)


def test_every_rule_on_tags_is_tested():
    assert {rule.name for rule in RULES if rule.by_tags} == set(CASES)
    assert len(RULE) == len(RULES)


@pytest.mark.parametrize("name", CASES)
def test_a_rule_tells_tags_that_differ_from_those_that_fit(name):
    odd, said, fitting = CASES[name]
    assert said in apply(RULE[name], facts_of(odd))
    assert apply(RULE[name], facts_of(fitting)) == ""
    assert apply(RULE[name], facts_of({"PhotographicSensitivity": 100})) is None
    assert apply(RULE[name], Facts.of_tags({})) is None


@pytest.mark.parametrize("name", CASES)
def test_a_rule_says_the_same_of_printed_tags(name):
    photo = facts_of(CASES[name][0])
    alone = Facts(photo.tags, photo.size)
    assert apply(RULE[name], alone) == apply(RULE[name], photo)


@pytest.mark.parametrize("name", ["shutter_speed", "brightness"])
@pytest.mark.parametrize("unknown", [0.0, 29.8973])
def test_values_by_which_phones_mean_unknown_are_no_findings(name, unknown):
    tags = {"ExposureTime": 0.01, "FNumber": 2.0, "PhotographicSensitivity": 100}
    tag = "ShutterSpeedValue" if name == "shutter_speed" else "BrightnessValue"
    found = apply(RULE[name], facts_of(tags | {tag: unknown}))
    assert found is None or name == "brightness" and unknown


def test_seconds_in_place_of_a_shutter_speed_are_nofinding_of():
    assert apply(RULE["shutter_speed"], facts_of({"ShutterSpeedValue": 0.02, "ExposureTime": 0.02})) is None


@pytest.mark.parametrize("age", [1, 5, 40])
def test_an_old_position_is_no_contradiction(age):
    facts = facts_of(
        {"DateTimeOriginal": TAKEN, "GPSDateStamp": f"20{20 - age % 7:02}:05:06", "GPSTimeStamp": (7, 8, 9)}
    )
    assert apply(RULE["gps_after_photo"], facts) == ""


def test_the_directory_of_the_standard_wins():
    printed = {"Image FNumber": "2", "EXIF FNumber": "8", "EXIF ApertureValue": "6", "MakerNote FNumber": "1"}
    assert Facts.of_tags(printed).number("FNumber") == 8


numbers = st.one_of(st.just("0/0"), st.just("1/0"), st.integers(-(2**32), 2**32).map(str), st.floats().map(str),
                    st.text(max_size=20), st.just("[1, 2"), st.just("9" * 200))  # fmt: skip
NAMES = sorted({tag for odd, _, fitting in CASES.values() for tag in (*odd, *fitting)})


@given(st.dictionaries(st.sampled_from(NAMES).map(lambda name: f"EXIF {name}"), numbers, max_size=12))
def test_no_tags_make_a_rule_fail(printed):
    facts = Facts.of_tags(printed, (128, 96))
    for rule in RULES:
        said = apply(rule, facts)
        assert said is None or (isinstance(said, str) and len(said) < 400 and said.isprintable())


def test_findings_come_from_the_most_severe_down_with_their_rates():
    tags = CASES["focal_length"][0] | CASES["editor"][0] | CASES["changed_later"][0]
    photo = jpeg(scene(), exif=exif_block(tags))
    found = check_metadata(photo, scene())
    assert [finding.severity for finding in found] == sorted((f.severity for f in found), key=SEVERITIES.index)
    assert {"focal_length", "editor", "changed_later"} == {finding.rule for finding in found}
    assert all(f.source == RULE[f.rule].source and f.photos > 500 and 0 <= f.rate < 0.02 for f in found)
    assert not any(finding.weak for finding in found)


def test_no_strong_rule_is_weak_and_every_rule_was_counted():

    findings = [finding_of(rule, "x") for rule in RULES]
    assert [f.rule for f in findings if f.severity == "strong" and f.weak] == []
    assert all(math.isnan(f.rate) == (f.photos == 0) for f in findings)
    assert sum(f.photos > 0 for f in findings) > 40
