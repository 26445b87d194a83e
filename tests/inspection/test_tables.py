"""HTML fragments on metadata: correct, escaped, and clear about what is unknown."""

import dataclasses
import re

import numpy as np
import pandas as pd
import pytest

from exiflang.inspection.inspector import Inspection
from exiflang.inspection.metadata import Answer, MetadataFit
from exiflang.inspection.picture import Picture
from exiflang.inspection.tables import (
    MEASURED,
    SHOWN,
    UNUSUAL,
    answer_table,
    figures_table,
    fit_summary,
    metadata_table,
    region_table,
)
from exiflang.inspection.verdict import region_facts
from tests.inspection.by_hand import decided
from tests.inspection.test_views import inspected
from tests.localization.test_localizer import noise, pasted

EVIL = "<img src=x onerror=alert(1)>"


def inspection(tags: dict[str, str], fit: MetadataFit | None = None, hidden: int = 0) -> Inspection:
    picture = Picture("a.jpg", np.zeros((2, 2, 3), np.uint8), tags, hidden, (), "JPEG", 10, "0" * 64, None)
    return Inspection(picture, None, fit, None, True, {}, None)


def fit_of(tags: dict[str, str], percentile: float = 0.5, familiar: bool = True, **effects) -> MetadataFit:
    rows = [{"tag": tag, "value": value, "removed": 0.1, "best": "", "swapped": np.nan} for tag, value in tags.items()]
    rows = [row | effects.get(row["tag"], {}) for row in rows]
    return MetadataFit("s", 0.3, 0.75, percentile, familiar, 3605, np.zeros((1, 1), np.float32), pd.DataFrame(rows))


def test_regions_are_listed_largest_first_or_their_absence_is_explained():
    found = decided(noise(300, 400))
    regions, shown = region_facts(found), region_table(found)
    assert len(regions) > 5 and shown.count("<tr>") == len(regions) + 1
    assert [f"{100 * region['area']:.1f}".removesuffix(".0") + " %" for region in regions] == re.findall(
        r"<td>([\d.]+ %)</td>", shown
    )
    assert "no regions; only a learned one" in region_table(inspected(pasted()[0]))
    assert "No region stands out at a false-alarm rate of 5 %" in region_table(decided(noise(1, 1)))
    assert "Regions are not decidable either" in region_table(decided(pasted()[0], 0.001))


def test_the_table_shows_each_tag_with_its_effect():
    tags = {"Make": "Canon", "Flash": "Flash fired", "DateTime": "2020"}
    fit = fit_of({"Make": "Canon", "Flash": "Flash fired"}, Make={"removed": -0.2, "best": "NIKON", "swapped": 0.034})
    shown = metadata_table(inspection(tags, fit))
    assert shown.count("<tr>") == 1 + 3
    assert "−20.0" in shown and "+3.4" in shown and "NIKON" in shown and "+10.0" in shown
    widths = [float(width) for width in re.findall(r"width:([\d.]+)%;height", shown)]
    assert max(widths) == 48 and min(widths) > 0  # the largest effect fills half of the width


def test_bars_of_tiny_effects_are_short():
    shown = metadata_table(inspection({"Make": "Canon"}, fit_of({"Make": "Canon"}, Make={"removed": 0.0001})))
    assert float(re.search(r"width:([\d.]+)%;height", shown)[1]) < 1


def test_the_table_without_a_fit_has_only_tags_and_values():
    shown = metadata_table(inspection({"Make": "Canon"}))
    assert "Canon" in shown and "Fit without" not in shown


@pytest.mark.parametrize("hidden", [0, 3])
def test_private_tags_are_counted(hidden):
    for tags in ({}, {"Make": "Canon"}):
        assert ("3 private tags" in metadata_table(inspection(tags, hidden=hidden))) == bool(hidden)


def test_content_of_files_is_escaped():
    tags = {EVIL: EVIL, "Make": EVIL}
    shown = metadata_table(inspection(tags, fit_of(tags, Make={"best": EVIL, "swapped": 0.1})))
    answer = Answer(EVIL, pd.DataFrame({"value": [EVIL], "score": [0.5], "asked": [True]}), "similarity", EVIL)
    figures = {"groups": {EVIL: {"photos": EVIL, "model": {}}}}
    for text in (shown, answer_table(answer), figures_table(figures)):
        assert "<img" not in text and "&lt;img" in text


@pytest.mark.parametrize(
    ("percentile", "familiar", "said"),
    [
        (0.5, True, "nothing unusual"),
        (UNUSUAL / 2, True, "<b>unusual</b>"),
        (0.5, False, "the answer is unreliable"),
        (float("nan"), True, "was not measured"),
    ],
)
def test_the_summary_explains_the_numbers(percentile, familiar, said):
    shown = fit_summary(inspection({"Make": "A"}, fit_of({"Make": "A"}, percentile, familiar)))
    assert said in shown and "75.0 % of 3,605" in shown


def test_the_summary_without_a_fit_gives_the_reason():
    assert "the file has no EXIF" in fit_summary(inspection({}))
    assert "this model cannot check it" in fit_summary(inspection({"Make": "A"}))


def test_an_answer_shows_the_top_values_and_those_asked_for():
    values = [f"v{i}" for i in range(30)]
    table = pd.DataFrame({"value": values, "score": np.linspace(0.5, 0, 30), "asked": [v == "v20" for v in values]})
    shown = answer_table(Answer("Make", table, "probability", "note"))
    assert shown.count("<tr>") == 1 + SHOWN + 1
    assert "<b>v20</b>" in shown and "21" in shown and "50.0 %" in shown
    assert "0.500" in answer_table(dataclasses.replace(Answer("", table, "similarity", ""), tag=""))


def test_results_are_shown_next_to_those_of_a_guess():
    part = {"photos": 138, "guess": 0.5, "model": {key: 0.9 for key, _, _ in MEASURED}}
    shown = figures_table({"groups": {"cameras that training saw": part}})
    assert "138 photos" in shown and "0.90 (0.50)" in shown and shown.count("<tr>") == 1 + len(MEASURED)
    assert "was not measured" in figures_table({})
