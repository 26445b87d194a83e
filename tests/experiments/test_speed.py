"""The report of the speed benchmarks, and its tables."""

import pandas as pd
import pytest

from experiments.speed import report
from experiments.speed.curves import _measure, _peak_memory
from experiments.speed.loop import localize
from experiments.speed.pictures import noise
from experiments.speed.plots import plot_curve, plot_ratios
from experiments.speed.report import AFTER, duration, gather, markdown, table


def entry(group: str, way: str, *seconds: float, **noted) -> dict:
    return {"group": group, "param": way, "stats": {"data": list(seconds)}, "extra_info": noted}


REPORT = {
    "machine_info": {"cpu": {"brand_raw": "Some CPU", "flags": ["avx2", "avx512_bf16", "amx_tile"]}},
    "benchmarks": [
        *[entry(group, "loop", 2.0, 1.0, 3.0, flops=0) for group in AFTER],
        *[entry(group, "exact", 0.5, 0.4, 0.6, flops=0) for group in AFTER],
        entry("whole", "loop", 8.0, 8.0, 8.0, flops=4e9),
        entry("whole", "exact, bf16", 2.0, 2.0, 2.0, flops=4e9),
        entry("large", "12 MP", 7.0, 8.0, 9.0, flops=0, pairs=64),
    ],
}


@pytest.fixture
def found(monkeypatch):
    monkeypatch.setattr(report, "matrix_rate", lambda device, dtype: 2e9 if "bfloat16" in str(dtype) else 1e9)
    return gather(REPORT)


def rows(found) -> dict:
    return {(row["group"], row["way"]): row for row in found["rows"]}


def test_medians_ratios_and_floors(found):
    row = rows(found)
    assert row["whole", "loop"]["median"] == 8 and row["whole", "loop"]["floor"] == 4
    assert row["whole", "exact, bf16"]["floor"] == 2 and row["whole", "exact, bf16"]["times_loop"] == 4
    assert row["votes", "exact"]["seconds"] == [0.5, 0.4, 0.6] and row["votes", "exact"]["times_loop"] == 4
    assert row["large", "12 MP"]["pairs"] == 64
    assert not row["large", "12 MP"].keys() & {"times_loop", "floor"}
    assert found["protocol"]["flags"] == ["amx_tile", "avx512_bf16"] and found["protocol"]["rounds"] == 3


def test_steps_after_the_network_are_summed_per_round(found):
    row = rows(found)["all after the network", "exact"]
    assert row["seconds"] == pytest.approx([2.0, 1.6, 2.4]) and row["times_loop"] == pytest.approx(4)


def test_an_incomplete_set_of_steps_is_not_summed(monkeypatch):
    monkeypatch.setattr(report, "matrix_rate", lambda device, dtype: 1e9)
    part = {**REPORT, "benchmarks": [one for one in REPORT["benchmarks"] if one["group"] != "votes"]}
    assert not [row for row in gather(part)["rows"] if row["group"] == "all after the network"]


def test_table(found):
    shown = table(found).set_index(["what", "way"]).loc[("whole", "exact, bf16")]
    assert shown.tolist() == ["2 s", "2 s to 2 s", "4 times", "1.00 times"]
    assert "| large | 12 MP | 8 s | 7 s to 9 s |  |  |" in markdown(found)


@pytest.mark.parametrize(
    "seconds, text",
    [
        (12345, "12,345 s"),
        (12.34, "12.3 s"),
        (0.9996, "1 s"),
        (0.9994, "999 ms"),
        (0.0123456, "12.3 ms"),
        (2e-6, "0.002 ms"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_figures(found):
    assert {bar.name for bar in plot_ratios(found).data} == {"exact", "exact, bf16"}
    points = pd.DataFrame(
        [{"curve": "batch", "way": "bf16", "value": 4, "seconds": 3.0, "megabytes": 500.0, "flops": 2e9}]
    )
    assert plot_curve(points, {"float32": 1e9, "bf16": 2e9}).data[1].y == (1.0,)


@pytest.mark.parametrize(
    "name, way, values, ratio",
    [
        ("megapixels", "windows one by one", (0.1, 0.2), None),
        ("windows per side", "windows one by one", (5, 40), None),
        ("windows per side", "exact", (10, 20), 1.0),  # one pass serves any number of windows
        ("tokens", "float32", (3, 6), 2.0),
    ],
)
def test_points_of_a_curve_differ_in_the_swept_value(name, way, values, ratio):
    few, many = (_measure(name, way, value, rounds=1) for value in values)
    assert [few["curve"], few["way"], few["value"]] == [name, way, values[0]]
    assert min(few["seconds"], many["seconds"]) > 0
    assert many["flops"] / few["flops"] == pytest.approx(ratio) if ratio else many["flops"] > 1.1 * few["flops"] > 0


def test_peak_memory_is_plausible_for_a_process_with_torch():
    assert 100 < _peak_memory() < 100_000


def test_loops_run_from_picture_to_heatmap():
    class Color:
        def encode_image(self, patches):
            mean = patches.float().mean((2, 3)) - 127.5
            return mean / mean.norm(dim=1, keepdim=True)

    image = noise(0.005)
    heatmap, mask, components = localize(Color(), image, 16, 8)
    assert heatmap.shape == image.shape[:2] and mask.shape == components.shape[:2]
