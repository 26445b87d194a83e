"""The yardstick: its strata and their results."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest

from exiflang.utils.images import load_image
from experiments.readout_figures import HAND_MADE, LEARNED, compare, detection, markdown, share, strata
from experiments.yardstick import AUTHENTIC, SPLICED, jobs, make


def test_each_stratum_has_forty_pictures():
    spliced = [job for job in jobs() if job.spliced]
    assert len(spliced) == SPLICED and len(list(jobs())) == SPLICED + AUTHENTIC
    for name in ("fmt", "area", "host", "grid"):
        assert min(Counter(getattr(job, name) for job in spliced).values()) >= 40
    assert all((job.grid == "none") == (job.fmt == "never") for job in spliced)
    assert all(job.host == "simulated" for job in spliced if job.fmt == "never")


@pytest.mark.parametrize("number", [4, 45])
def test_simulated_pictures_need_no_other_source(number):
    job = next(job for job in jobs() if job.number == number)
    data, mask = make(job, [])
    assert load_image(data).shape[:2] == mask.shape and 0 < mask.mean() < 0.7
    again, _ = make(job, [])
    assert again == data


STEPS = {f"{number}": float(number) for number in range(12)}


def scores() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = []
    for number in range(12):
        for readout in (LEARNED, *HAND_MADE):
            spliced, gain = number < 8, 0.3 * (readout == LEARNED)
            ap = 0.5 + gain + 0.01 * rng.random() if spliced else np.nan
            p_value = (0.01 if spliced else 0.5) if readout == LEARNED else np.nan
            row = {"name": f"{number}", "spliced": spliced, "readout": readout, "p_map": ap, "ap": ap}
            rows.append(row | {"detection": float(spliced) + gain, "p_value": p_value})
    return pd.DataFrame(rows)


def test_strata_are_all_spliced_pictures_and_each_part():
    info = pd.DataFrame({"format": ["png"] * 5 + ["jpg"] * 7}, index=[f"{number}" for number in range(12)])
    found = {name: len(part) for name, part in strata(scores(), info)}
    each = 1 + len(HAND_MADE)
    assert found == {"all": 8 * each, "format jpg": 3 * each, "format png": 5 * each}


def test_readouts_are_compared_picture_by_picture():
    found = compare(scores()[lambda rows: rows["spliced"]])
    mean, low, high = found["difference"]
    assert found["pictures"] == 8 and low <= mean <= high and mean == pytest.approx(0.3, abs=0.02)
    assert found["signed"] == pytest.approx(found[LEARNED])


def test_detection_has_confidence_limits_and_a_control():
    found = detection(scores(), STEPS)
    assert found["flagged"] == share(np.ones(8, bool)) and found["false_alarms"]["share"] == 0
    assert found["false_alarms"]["high"] == pytest.approx(1 - 0.025 ** (1 / 4))
    assert found["ap"][LEARNED] == 1 and found["ap"]["quantization table alone"] == 1


def test_tables_name_every_set():
    part = {"all": compare(scores()[lambda rows: rows["spliced"]])}
    found = {
        "localization": {"yardstick": part},
        "detection": {"yardstick": detection(scores(), STEPS), "authentic": {"spliced": 0, "authentic": 4}},
        "calibration": {"large, no JPEG": {"photos": 80, "cameras": 70}},
        "networks": 3,
        "parameters": 123_456,
        "taught": {"pictures": 1234, "whole": 5, "tiles": 6789},
    }
    text = markdown(found)
    assert text.startswith("3 networks of 0.1 M parameters each, trained on 1,234 composites of 5 whole photos, tiles")
    assert "| yardstick, all | 8 |" in text and "| large, no JPEG | 80 | 70 |" in text and "1.00 (0.63 to 1.00)" in text
