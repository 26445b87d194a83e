"""A slice of `make fuzz`, and its watchman himself watched."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from tests import fuzzing


def test_mutated_pictures_do_no_harm():
    found = fuzzing.fuzz(400, seed=1)
    assert found["problems"] == []
    assert found["changed in their EXIF alone, still decoding"] == 200
    assert sum(found["outcomes"].values()) == 400 and len(found["outcomes"]) > 2


def test_mutated_real_files_do_no_harm(shared):
    assert fuzzing.fuzz(200, seed=2, shared=shared)["problems"] == []


def sleep(data: bytes) -> None:
    time.sleep(60)


def exit_at_once(data: bytes) -> None:
    os._exit(11)


def divide_by_zero(data: bytes) -> None:
    1 / 0  # noqa: B018


def compute_a_while(data: bytes) -> None:
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass


def take_a_gigabyte(data: bytes) -> None:
    bytearray(b"x") * (fuzzing.MOST_BYTES + (64 << 20))


@pytest.mark.parametrize(
    ("fault", "said", "patience"),
    [
        (sleep, "hang", 1),
        (exit_at_once, "crash of the process, exit code 11", fuzzing.PATIENCE),
        (divide_by_zero, "crash ZeroDivisionError: division by zero", fuzzing.PATIENCE),
        (take_a_gigabyte, "too much: ", fuzzing.PATIENCE),
    ],
)
def test_harm_is_noticed(tmp_path, fault, said, patience):
    found = fuzzing.fuzz(2, keep=tmp_path, readers={"fault": fault}, patience=patience)
    assert [said in problem for problem in found["problems"]] == [True, True] and len(list(tmp_path.iterdir())) == 2


def test_too_much_computing_is_noticed(monkeypatch):
    monkeypatch.setattr(fuzzing, "MOST_SECONDS", 0.1)
    assert "too much: " in fuzzing.fuzz(1, readers={"fault": compute_a_while})["problems"][0]


def test_the_verdict_does_not_depend_on_the_process_that_asks():
    held = bytearray(b"x") * (fuzzing.MOST_BYTES + (64 << 20))  # every page of it in memory
    found = fuzzing.fuzz(4)
    assert found["problems"] == [] and len(held) > fuzzing.MOST_BYTES
    assert found["largest_memory_added_mb"] < 500


def test_changes_stay_where_they_belong():
    data = bytes(range(256)) * 4
    for seed in range(200):
        changed = fuzzing.mutated(data, np.random.default_rng(seed), 100, 200)
        assert len(changed) == len(data) and changed[:100] == data[:100] and changed[264:] == data[264:]


def test_the_long_run_found_nothing():
    found = json.loads((Path(__file__).parents[1] / "reports" / "golden" / "fuzz.json").read_text())
    assert found["files"] >= 20_000 and found["problems"] == []
    assert found["changed in their EXIF alone, still decoding"] >= 10_000
    assert found["slowest_cpu_seconds"] < fuzzing.MOST_SECONDS and found["largest_memory_added_mb"] < 1024
