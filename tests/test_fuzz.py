"""A slice of `make fuzz`, and tests of the fuzzer itself."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from exiflang.inspection.picture import open_picture
from exiflang.utils.images import load_image
from tests import fuzzing


def test_mutated_pictures_do_no_harm():
    found = fuzzing.fuzz_all(30, seed=1, shared=None, keep=None)
    assert found["files"] == 30 * len(fuzzing.FORMATS)
    assert found["problems"] == [] and tuple(found["formats"]) == fuzzing.FORMATS
    for kind, counts in found["formats"].items():
        assert sum(counts["outcomes"].values()) == 30 and len(counts["outcomes"]) > 1, kind
        assert counts["changed in their EXIF alone, still decoding"] == 15, kind
        assert 15 <= counts["still decoding"] < 30, kind


def test_mutated_real_files_do_no_harm(shared):
    assert fuzzing.fuzz(200, seed=2, shared=shared, formats=("JPEG",))["problems"] == []


@pytest.mark.parametrize("kind", fuzzing.FORMATS)
def test_seeds_are_valid_pictures_with_exif_where_it_is_mutated(kind):
    seeds = fuzzing.seeds(kind)
    assert any(place for _, _, place in seeds)
    for name, data, place in seeds:
        assert fuzzing.judge(data, {"picture": fuzzing.look}) == "picture fine", name
        if place:
            begin, end = place
            emptied = fuzzing.with_checksums(data[:begin] + bytes(end - begin) + data[end:])
            emptied = emptied if kind == "PNG" else data[:begin] + bytes(end - begin) + data[end:]
            np.testing.assert_array_equal(load_image(emptied), load_image(data))
            assert "ExposureTime" not in open_picture(emptied).tags


def test_checksums_of_a_png_are_corrected():
    (_, data, _), *_ = fuzzing.seeds("PNG")
    broken = data[:29] + bytes(4) + data[33:]
    assert fuzzing.judge(broken, {"picture": fuzzing.look}) == "picture refused"
    assert fuzzing.with_checksums(broken) == data
    assert len(fuzzing.with_checksums(data[:1000])) == 1000


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
def test_crashes_hangs_and_excess_memory_are_detected(tmp_path, fault, said, patience):
    found = fuzzing.fuzz(2, keep=tmp_path, readers={"fault": fault}, patience=patience, formats=("JPEG",))
    assert [said in problem for problem in found["problems"]] == [True, True] and len(list(tmp_path.iterdir())) == 2


def test_excess_cpu_time_is_detected(monkeypatch):
    monkeypatch.setattr(fuzzing, "MOST_SECONDS", 0.1)
    assert "too much: " in fuzzing.fuzz(1, readers={"fault": compute_a_while}, formats=("JPEG",))["problems"][0]


def test_the_verdict_does_not_depend_on_the_calling_process():
    held = bytearray(b"x") * (fuzzing.MOST_BYTES + (64 << 20))  # all of its pages resident
    found = fuzzing.fuzz(4, formats=("JPEG",))
    assert found["problems"] == [] and len(held) > fuzzing.MOST_BYTES
    assert found["largest_memory_added_mb"] < 500


def test_mutations_stay_within_their_bounds():
    data = bytes(range(256)) * 4
    for seed in range(200):
        changed = fuzzing.mutated(data, np.random.default_rng(seed), 100, 200)
        assert len(changed) == len(data) and changed[:100] == data[:100] and changed[264:] == data[264:]


GOLDEN = json.loads((Path(__file__).parents[1] / "reports" / "golden" / "fuzz.json").read_text())


def test_the_long_run_found_nothing():
    assert GOLDEN["files"] >= 20_000 and GOLDEN["problems"] == []
    assert GOLDEN["slowest_cpu_seconds"] < fuzzing.MOST_SECONDS and GOLDEN["largest_memory_added_mb"] < 1024


@pytest.mark.skipif("formats" not in GOLDEN, reason="`make fuzz` has not been run since it covers all formats")
@pytest.mark.parametrize("kind", fuzzing.FORMATS)
def test_the_long_run_decoded_enough_files_of_each_format(kind):
    counts = GOLDEN["formats"][kind]
    assert counts["files"] >= 20_000 and counts["still decoding"] >= counts["files"] / 3
