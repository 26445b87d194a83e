"""The paper's results next to our own."""

import math

import pandas as pd
import pytest

from exiflang.evaluation.layouts import LAYOUTS
from exiflang.evaluation.scoring import METRICS, OVER, PAPER, paper_table

ROW = {"readout": "mean_shift", "protocol": "reference", "border": 0, "over": OVER, "method": "model"}


def test_the_table_shows_our_results_next_to_the_published_ones():
    summary = pd.DataFrame(
        [
            ROW | {"set": "columbia", "pictures": 180, "authentic": 60, "p_map": 0.8, "ciou_legacy": 0.9},
            ROW | {"set": "mine", "pictures": 3, "authentic": 0, "p_map": 0.5, "ciou_legacy": 0.7},
            ROW | {"set": "columbia jpeg 75", "pictures": 180, "authentic": 60, "p_map": 0.7, "ciou_legacy": 0.9},
            ROW | {"set": "dso_1", "pictures": 0, "authentic": 4, "p_map": math.nan, "ciou_legacy": math.nan},
            ROW | {"set": "columbia", "method": "mean color", "pictures": 180, "authentic": 60, "p_map": 0.1},
        ]
    ).assign(detection_ap=0.6)
    table = paper_table(summary)
    assert list(table["set"]) == ["columbia", "mine", "columbia jpeg 75", "dso_1"]  # only the model
    columbia = table.iloc[0]
    assert (columbia["p_map"], columbia["p_map, paper"]) == (0.8, 0.94)
    assert (columbia["ciou_legacy, paper"], columbia["detection_ap, paper"]) == (0.96, 0.98)
    assert columbia["p_map_all"] == pytest.approx(0.8 * 180 / 240)
    assert columbia[["protocol", "over", "pictures", "authentic"]].tolist() == ["reference", OVER, 180, 60]
    for row in (1, 2):  # not published, or measured differently
        assert table.loc[row, [f"{metric}, paper" for metric in METRICS]].isna().all()
    assert math.isnan(table.loc[3, "p_map"]) and table.loc[3, "p_map_all"] == 0


def test_published_sets_are_known_benchmarks_and_values_are_fractions():
    assert PAPER.keys() < LAYOUTS.keys()
    for figures in PAPER.values():
        assert figures.keys() <= set(METRICS) and all(0 < value < 1 for value in figures.values())
