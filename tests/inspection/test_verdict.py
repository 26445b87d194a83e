"""Decisions in words: nothing is claimed that was not measured, and everything can be stored as JSON."""

import json
from dataclasses import replace

import numpy as np
import pytest

from exiflang.inspection.verdict import (
    SPOKEN,
    decision_facts,
    evidence_of,
    meaning_of_score,
    percent,
    place_in_words,
    region_facts,
    region_lines,
)
from exiflang.localization.decision import Region
from tests.inspection.by_hand import decided
from tests.inspection.test_views import inspected
from tests.localization.test_localizer import noise, pasted

FLAT = np.full((300, 400, 3), 99, np.uint8)


@pytest.fixture(scope="module")
def spliced():
    return decided(pasted()[0])


def test_a_splice_is_reported_with_the_statistics_behind_it(spliced):
    assert meaning_of_score(spliced) == (
        "Spliced: 2 % of authentic pictures score as high (p-value 0.020, 95 % confidence limits 0.000 to 0.071), no "
        "more than the false-alarm rate of 5 %. Compared with 100 photos of 50 cameras (small, no JPEG)."
    )


def test_the_absence_of_a_splice_is_reported_likewise():
    said = meaning_of_score(decided(FLAT))
    assert said.startswith("No splice found: 100 % of authentic pictures score as high (p-value 1.000")
    assert "more than the false-alarm rate of 5 %. Compared with" in said


@pytest.mark.parametrize(("rate", "needed"), [(0.01, 99), (0.015, 66), (0.001, 999)])
def test_an_undecidable_picture_states_how_many_cameras_are_needed(rate, needed):
    said = meaning_of_score(decided(pasted()[0], rate))
    assert said.startswith(f"Not decidable at a false-alarm rate of {percent(rate)}: that needs {needed} cameras")
    assert meaning_of_score(decided(pasted()[0], rate, cameras=needed)).startswith("Spliced")
    assert meaning_of_score(decided(pasted()[0], rate, cameras=needed - 1)).startswith("Not decidable")


def test_comparison_with_another_kind_of_picture_is_stated():
    found = decided(pasted()[0], kinds=("large, fine JPEG",))
    said = meaning_of_score(found)
    assert "50 cameras (large, fine JPEG), because there are too few of its own kind (small, no JPEG)." in said
    assert (decision_facts(found)["kind"], decision_facts(found)["own_kind"]) == ("large, fine JPEG", "small, no JPEG")


def test_without_any_authentic_pictures_nothing_is_decided():
    found = decided(pasted()[0], kinds=())
    assert meaning_of_score(found) == (
        "Not decidable: fewer than 40 authentic photos of any kind are available for comparison."
    )
    assert region_facts(found) == [] and decision_facts(found)["cameras"] == 0


def test_a_readout_without_a_decision_has_only_a_score():
    found = inspected(pasted()[0])
    assert decision_facts(found) is None and region_facts(found) == region_lines([]) == []
    assert meaning_of_score(found).startswith("Score ")


@pytest.mark.parametrize(("score", "said"), [(0.99, "few"), (0.85, "some"), (0.1, "many")])
def test_the_meaning_of_a_score(score, said):
    found = inspected(noise(40, 40))
    found = replace(found, result=replace(found.result, score=score))
    assert "not calibrated" in meaning_of_score(found)
    assert f"; {said} of them" in meaning_of_score(replace(found, calibrated=True))


def test_a_region_has_a_place_a_size_a_reason_and_json_types(spliced):
    (region,) = region_facts(spliced)
    assert json.loads(json.dumps(region, allow_nan=False))["box"] == list(region["box"])
    left, top, right, bottom = region["box"]
    assert left < 230 and right > 310 and top < 70 and bottom > 140  # the pasted block
    assert region["place"] == "right" and region["area"] == pytest.approx(spliced.result.mask.mean())
    assert region["strongest"] == "camera_traces" and 0 <= region["reliability"] <= 1
    (line,) = region_lines([region])
    assert line.startswith(f"Region right {region['box']}: {percent(region['area'])} of the picture, p-value 0.020; ")


def with_region(spliced, **changes):
    region = Region(0.1, (0, 0, 40, 30), 2.0, 0.02, {"jpeg_history": 3.24, "grid_along": -1.0})
    mask = np.ones_like(spliced.result.mask)
    return replace(spliced, result=replace(spliced.result, regions=[replace(region, **changes)], mask=mask))


def test_evidence_is_named_if_it_stands_out(spliced):
    def said(**changes) -> str:
        return evidence_of(region_facts(with_region(spliced, **changes))[0])

    assert said().startswith("JPEG history, 3.2 deviations from the rest")
    assert said(evidence={"grid_along": 1e6}).startswith("grid along, more than 100 deviations")
    for nothing in ({}, {"camera_traces": -2.0}, {"camera_traces": 0.3}):
        assert said(evidence=nothing).startswith("no single kind of evidence stands out")
        assert region_facts(with_region(spliced, evidence=nothing))[0]["strongest"] == ""


def test_a_region_states_if_the_picture_is_unreliable_there(spliced):
    found = with_region(spliced)
    for reliability, said in ((0.1, True), (0.9, False)):
        blind = replace(found.result, reliability=np.full_like(found.result.reliability, reliability))
        (region,) = region_facts(replace(found, result=blind))
        assert evidence_of(region).endswith("; the evidence is unreliable there") == said


def test_many_regions_are_counted(spliced):
    (region,) = region_facts(spliced)
    assert region_lines([region] * (SPOKEN + 1))[SPOKEN:] == ["1 more region, smaller."]
    assert region_lines([region] * (SPOKEN + 7))[SPOKEN:] == ["7 more regions, smaller."]
    assert len(region_lines([region] * SPOKEN)) == SPOKEN


@pytest.mark.parametrize(
    ("box", "said"),
    [
        ((0, 0, 100, 100), "upper left"),
        ((250, 0, 300, 50), "upper right"),
        ((100, 0, 200, 10), "upper middle"),
        ((0, 100, 90, 200), "left"),
        ((0, 0, 300, 300), "center"),
        ((0, 290, 300, 300), "lower middle"),
        ((299, 299, 300, 300), "lower right"),
    ],
)
def test_places_in_words(box, said):
    assert place_in_words(box, 300, 300) == said


def test_one_pixel_is_the_center_of_its_picture():
    assert place_in_words((0, 0, 1, 1), 1, 1) == "center"
    found = decided(noise(1, 1))
    assert "confidence limits" in meaning_of_score(found) and region_facts(found) == []


@pytest.mark.parametrize(("share", "said"), [(0.05, "5 %"), (0.0196, "2 %"), (0.123, "12.3 %"), (1.0, "100 %")])
def test_percent(share, said):
    assert percent(share) == said
