"""Which whole photos serve to train, choose, calibrate and measure: no camera serves two purposes."""

import csv
from collections import defaultdict
from pathlib import Path

import pytest

SPLIT = Path(__file__).parents[2] / "experiments/authentic_split.csv"


def rows(path: Path) -> dict[str, dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def test_no_camera_is_in_two_parts():
    parts = defaultdict(set)
    for row in rows(SPLIT).values():
        parts[row["camera"]].add(row["part"])
    assert all(len(found) == 1 for found in parts.values())
    assert set.union(*parts.values()) == {"train", "yardstick", "calibrate", "measure"}


def test_parts_hold_only_allowed_photos(shared):
    photos, split = rows(shared / "authentic/index.csv"), rows(SPLIT)
    assert photos.keys() == split.keys()
    for name, photo in photos.items():
        part = split[name]["part"]
        assert split[name]["camera"] == photo["camera"]
        assert photo["in_photos"] == "no" or part == "train"
        assert photo["class"] == "original" or part in ("calibrate", "measure")
    originals = [split[name]["part"] for name, photo in photos.items() if photo["class"] == "original"]
    assert originals.count("train") / len(originals) == pytest.approx(0.6, abs=0.02)
