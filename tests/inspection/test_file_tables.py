"""What a file says about itself, in words: three statements side by side, findings, header, thumbnail."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from exiflang.headers.encoders import Encoder
from exiflang.headers.file_check import FileCheck
from exiflang.headers.findings import Finding
from exiflang.headers.jpeg_header import JpegHeader
from exiflang.headers.reference import HeaderFit
from exiflang.inspection.file_tables import file_section, statement_table, thumbnail_pair
from exiflang.inspection.file_words import (
    FITS,
    NEVER,
    ODD,
    OPEN,
    file_facts,
    finding_counts,
    header_verdict,
    rate_words,
    signature_notes,
    signature_rows,
    statements,
)
from exiflang.inspection.inspector import Inspection
from exiflang.inspection.picture import Picture
from exiflang.localization.decision import Decision
from exiflang.utils.files import write_json
from tests.inspection.test_tables import EVIL, fit_of

HEADER = JpegHeader(((1,) * 64,), "2x2:0 1x1:0", 400, 300, False, "standard", 0, ("APP1 EXIF", "DQT"), (), "II")
FIT = HeaderFit(
    0.7, 0.4, True, 0.23, 3693, 345, (2, 30), (5, 400), (9, 3693), ("Canon", "Nikon"), False, {"huffman": "standard"}
)  # fmt: skip
DECISION = Decision(0.2, (0.1, 0.3), "no splice found", 0.05, "large, fine JPEG", 87, 84)
STRONG = Finding("size", "strong", "EXIF states another size.", "EXIF 2.32, 4.6.5", 0.0, 3693)
WEAK = Finding("date", "notable", "Written later.", "EXIF 2.32, 4.6.4", 0.041, 3693)
UNKNOWN = Finding("xmp", "info", "It has XMP.", "XMP, part 1")


def checked(
    header=HEADER, header_fit=FIT, findings=(), encoder=None, thumbnail=None, tags=None, decision=DECISION, **more
) -> Inspection:
    """An inspection of which only what the file says is filled in."""
    file = FileCheck(header, encoder, tuple(findings), thumbnail)
    tags = {"Make": "Canon"} if tags is None else tags
    pixels = np.zeros((30, 40, 3), np.uint8)
    picture = Picture("a.jpg", pixels, tags, 0, (), more.pop("format", "JPEG"), 10, "0" * 64, file)
    result = SimpleNamespace(decision=decision, score=0.93)
    return Inspection(picture, result, more.pop("fit", None), header_fit, more.pop("calibrated", True), {}, None)


@pytest.mark.parametrize(
    ("changes", "verdict", "reason", "trust"),
    [
        ({}, FITS, "40 % of authentic headers fit their EXIF less well; 2 of 30 photos of the claimed model",
         "Compared with 3,693 photos of 345 cameras; false-alarm rate 5 %."),
        ({"percentile": 0.01, "of_model": (0, 30)}, ODD, "0 of 30 photos of the claimed model", "false-alarm rate 5 %"),
        ({"percentile": 0.05}, FITS, "5 % of authentic headers", ""),
        ({"known_camera": False, "of_model": (0, 0)}, FITS, "5 of 400 photos of the claimed make", "of the claimed"),
        ({"known_camera": False, "of_model": (0, 0), "of_make": (0, 0)}, FITS,
         "; no photo of the claimed make is known; 9 of 3,693 photos of all cameras encode like this.", ""),
        ({"ratio": np.nan, "percentile": np.nan}, NEVER, "None of the 3,693 photos of 345 cameras has these tables.",
         "The same is true of 23 % of authentic photos of these cameras."),
        ({"ratio": np.nan, "percentile": np.nan, "known_camera": False}, NEVER, "", "of other cameras."),
        ({"percentile": np.nan}, OPEN, "2 of 30 photos of the claimed model", "Not calibrated: too few photos"),
    ],
)  # fmt: skip
def test_a_header_has_one_of_four_verdicts(changes, verdict, reason, trust):
    fit = replace(FIT, **changes)
    said = statements(checked(header_fit=fit))[2]
    assert said.verdict == header_verdict(fit) == verdict
    assert reason in said.reason and trust in said.trust


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"header": None}, "the JPEG header cannot be read"),
        ({"header": None, "format": "PNG"}, "this is not a JPEG file but PNG"),
        ({"tags": {}}, "the EXIF names no make"),
        ({"tags": {"Make": "---"}}, "the EXIF names no make"),
        ({}, "this model has no signature reference"),
    ],
)
def test_what_is_not_compared_says_why(given, why):
    found = checked(header_fit=None, **given)
    said = statements(found)[2]
    assert (said.verdict, said.reason) == (OPEN, f"Not compared: {why}.")
    assert signature_rows(found) == [] and "Not compared." in file_section(found)


def test_three_statements_stand_side_by_side_and_are_not_mixed():
    shown = statement_table(checked(fit=fit_of({"Make": "Canon"}, 0.01)))
    for said in ("no splice found", "<div>20 % of authentic pictures score as high.", "87 photos of 84 cameras"):
        assert said in shown
    assert ">unusual<" in shown and ">fits the claimed camera<" in shown


def test_statements_without_a_verdict_say_so():
    pixels, exif, _ = statements(checked(decision=None, calibrated=False))
    assert pixels.verdict == "score 0.930" and "Not calibrated" in pixels.trust
    assert exif.verdict == OPEN and "this model cannot check it" in exif.reason
    pixels, exif, _ = statements(checked(decision=None, fit=fit_of({"Make": "A"}, float("nan")), tags={}))
    assert pixels.verdict == "score 0.93" and exif.verdict == OPEN and "Not calibrated" in exif.reason
    assert "Unreliable" in statements(checked(fit=fit_of({"Make": "A"}, 0.5, familiar=False)))[1].trust
    assert "no EXIF that the model uses" in statements(checked(tags={}))[1].reason


def test_findings_come_from_the_most_severe_down_with_their_rates():
    shown = file_section(checked(findings=(UNKNOWN, WEAK, STRONG)))
    places = [shown.index(f"<b>{word}</b>, rule {rule}") for word, rule in
              (("strong", "size"), ("notable", "date"), ("info", "xmp"))]  # fmt: skip
    assert places == sorted(places)
    assert rate_words(STRONG) == "in 0 of 3,693 authentic photos" and rate_words(UNKNOWN) == "not measured"
    assert rate_words(WEAK) == "weak: in 4.1 % of 3,693 authentic photos"
    assert rate_words(replace(STRONG, rate=3 / 3693)) == "in 3 of 3,693 authentic photos"
    assert finding_counts([STRONG, WEAK, UNKNOWN]) == {"strong": 1, "notable": 0, "info": 1, "weak": 1}
    assert "No rule on the metadata found anything" in file_section(checked())


def test_the_signature_has_counts_and_what_no_photo_of_the_model_has():
    unlike = {"size": (300, 400), "markers": ("DQT", "SOF0"), "thumbnail": (160, 120, "ab"), "maker_note": False,
              "byte_order": "", "restart": 0, "progressive": True}  # fmt: skip
    rows = signature_rows(checked(header_fit=replace(FIT, unlike=unlike)))
    assert rows[0][2:] == ("2 of 30 photos", "5 of 400 photos", "9 of 3,693 photos")
    assert rows[0].value == f"{HEADER.encoding}, sampling {HEADER.sampling}"
    assert [row.value for row in rows[1:]] == [
        "400 x 300", "DQT, SOF0", "160 x 120, tables ab", "no", "none", "0", "yes",
    ]  # fmt: skip
    assert {row.of_model for row in rows[1:]} == {"none of 30"}
    fit = replace(FIT, rotated=True, makes=tuple(f"make {number}" for number in range(11)))
    notes = signature_notes(checked(header_fit=fit, encoder=Encoder("libjpeg", "Of many programs.")))
    assert notes[0] == "Encoder: libjpeg. Of many programs." and "turned by 90 degrees" in notes[1]
    assert notes[2].endswith("make 7 and 3 more.")


def test_a_thumbnail_stands_beside_the_picture():
    assert thumbnail_pair(checked()) == "" and "no thumbnail" in file_section(checked())
    shown = thumbnail_pair(checked(thumbnail=np.zeros((120, 160, 3), np.uint8)))
    assert shown.count('src="data:image/') == 2 and shown.count("height:200px") == 2


def test_facts_are_strict_json(tmp_path):
    unseen = replace(FIT, ratio=np.nan, percentile=np.nan)
    write_json(tmp_path / "facts.json", file_facts(checked(header_fit=unseen, findings=(UNKNOWN, STRONG))))
    facts = json.loads((tmp_path / "facts.json").read_text(), parse_constant=pytest.fail)
    assert facts["header_verdict"] == NEVER and facts["header_fit"]["ratio"] is None
    assert facts["header"]["encoding"] == HEADER.encoding and "tables" not in facts["header"]
    assert [(finding["rule"], finding["rate"], finding["weak"]) for finding in facts["findings"]] == [
        ("size", 0.0, False), ("xmp", None, False),
    ]  # fmt: skip
    assert facts["has_thumbnail"] is False and facts["encoder"] is None and len(facts["statements"]) == 3


def test_nothing_from_a_file_is_html():
    header = replace(HEADER, markers=(EVIL,))
    fit = replace(FIT, makes=(EVIL,), unlike={"markers": (EVIL,)})
    findings = (replace(STRONG, sentence=EVIL, source=EVIL),)
    found = checked(header, fit, findings, Encoder(EVIL, EVIL), decision=replace(DECISION, verdict=EVIL))
    for text in (file_section(found), statement_table(found)):
        assert "<img" not in text and "&lt;img" in text
