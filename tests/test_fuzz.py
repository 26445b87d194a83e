"""A slice of `make fuzz`, and its watchman himself watched."""

import json
import os
import time
from pathlib import Path

import fuzzing
import numpy as np
import pytest


def test_mutated_pictures_do_no_harm():
    found = fuzzing.fuzz(400, seed=1)
    assert found["problems"] == []
    assert found["changed in their EXIF alone, still decoding"] == 200
    assert sum(found["outcomes"].values()) == 400 and len(found["outcomes"]) > 2


def test_mutated_real_files_do_no_harm(shared):
    assert fuzzing.fuzz(200, seed=2, shared=shared)["problems"] == []


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (lambda data: time.sleep(60), "hang"),
        (lambda data: os._exit(11), "crash of the process, exit code 11"),
        (lambda data: 1 / 0, "crash ZeroDivisionError: division by zero"),
        (lambda data: bytearray(2 << 30), "MB"),
    ],
    ids=["hang", "crash", "error", "memory"],
)
def test_harm_is_noticed(monkeypatch, tmp_path, fault, said):
    monkeypatch.setattr(fuzzing, "MOST_SECONDS", 2.0)
    monkeypatch.setattr(fuzzing, "read", fault)
    found = fuzzing.fuzz(1, keep=tmp_path)
    assert said in found["problems"][0] and len(list(tmp_path.iterdir())) == 1


def test_changes_stay_where_they_belong():
    data = bytes(range(256)) * 4
    for seed in range(200):
        changed = fuzzing.mutated(data, np.random.default_rng(seed), 100, 200)
        assert len(changed) == len(data) and changed[:100] == data[:100] and changed[264:] == data[264:]


def test_the_long_run_found_nothing():
    found = json.loads((Path(__file__).parents[1] / "reports" / "golden" / "fuzz.json").read_text())
    assert found["files"] >= 20_000 and found["problems"] == []
    assert found["changed in their EXIF alone, still decoding"] >= 10_000
    assert found["slowest_seconds"] < fuzzing.MOST_SECONDS and found["largest_memory_mb"] < 1024
