"""Cameras for training, for choosing the training step and for reporting: three disjoint groups."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exiflang.data.shards import DataError, plain_name
from exiflang.evaluation.benchmarks import load_benchmark
from exiflang.preparation.dataset import split_makes
from exiflang.preparation.options import Split
from exiflang.preparation.splits import camera_group
from tests.preparation.flat import prepare
from tests.preparation.test_dataset import SMALL, TINY, few_cameras, photo, photos_of, samples  # noqa: F401 few_cameras is a fixture
from tests.shard_writer import write_shards

SHARES = {"choose_share": 0.3, "report_share": 0.3}
NAMES = [f"Make {i % 9} Model {i}" for i in range(2000)]


def group(camera: str, seed: int = 0, choose_share: float = 0.3, report_share: float = 0.3) -> str:
    return camera_group(camera, seed, Split(choose_share=choose_share, report_share=report_share))


def album(folder: Path, cameras: int, photos: int = 2) -> Path:
    folder.mkdir()
    for camera in range(cameras):
        for i in range(photos):
            (folder / f"{camera:02d}_{i}.jpg").write_bytes(photo(f"EOS {camera}", seed=10 * camera + i))
    return folder


def cameras_of(folder: Path) -> dict[str, set[str]]:
    """The cameras of each split that holds photos."""
    return {path.name: {p.camera for p in photos_of(path)} for path in folder.iterdir() if list(path.glob("*.tar"))}


# ------------------------------------------------ the hash ------------------------------------------------
def test_shares_are_right_on_average():
    counts = Counter(group(name, 0, 0.1, 0.25) for name in NAMES)
    assert counts["choose"] / 2000 == pytest.approx(0.1, abs=0.03)
    assert counts["report"] / 2000 == pytest.approx(0.25, abs=0.04)


def test_a_group_is_stable():
    """Recorded values: a data set made next year must have the same groups."""
    drawn = [group(f"Canon EOS {i}", seed=1) for i in range(8)]
    assert drawn == ["train", "choose", "train", "report", "train", "choose", "choose", "train"]
    assert [group(name, seed=1) for name in NAMES] != [group(name) for name in NAMES]


@given(st.text(max_size=20), st.integers(0, 9), st.floats(0, 0.5), st.floats(0, 0.49))
def test_a_larger_share_only_moves_cameras_out_of_training(name, seed, choose, report):
    before, after = group(name, seed, choose, report), group(name, seed, choose + 0.01, report)
    assert after == before or (before, after) == ("train", "choose")
    assert camera_group(name, seed, Split()) == "train"


@given(st.text("abcXYZ019", min_size=1, max_size=12), st.text(" -_.,()/", max_size=4), st.integers(0, 12))
def test_all_spellings_of_a_camera_are_in_the_same_group(name, between, place):
    assert group(name[:place].upper() + between + name[place:].lower()) == group(name)


@pytest.mark.parametrize("name", ["unknown unknown", "Canon unknown", "Canon Unknown"])
def test_photos_without_a_model_name_are_used_for_training(name):
    assert {group(name, seed) for seed in range(30)} == {"train"}


# ----------------------------------------------- the data set -----------------------------------------------
def test_a_folder_is_split_into_three_groups(tmp_path):
    result = prepare(str(album(tmp_path / "album", 12, 4)), tmp_path / "set", heldout_share=0.25, **SMALL, **SHARES)
    found = cameras_of(tmp_path / "set")
    for split, cameras in found.items():
        expected = {"heldout": "train"}.get(split, split)
        assert cameras == {f"Canon EOS {i}" for i in range(12) if group(f"Canon EOS {i}") == expected}
    assert set(found) == {"train", "heldout", "choose", "report"}
    assert result["cameras"] == {split: len(cameras) for split, cameras in found.items()}
    assert result["photos"] == {
        split: len(cameras) * {"train": 3, "heldout": 1}.get(split, 4) for split, cameras in found.items()
    }
    assert {Path(name).parent.name for name in result["shards"]} == set(found)
    assert result == json.loads((tmp_path / "set" / "dataset.json").read_text())


def test_shards_are_split_into_three_groups_regardless_of_spelling(tmp_path):
    made = samples(24, models=8)
    for number, one in enumerate(made):
        if number % 4 < 2:  # every other photo
            one.meta["exif"] = one.meta["exif"].replace("Canon", "CANON").replace("EOS ", "Eos-")
    write_shards(made, tmp_path / "source")
    result = prepare(str(tmp_path / "source"), tmp_path / "set", seed=1, **SMALL, **SHARES)
    names = {split: {plain_name(name) for name in cameras} for split, cameras in cameras_of(tmp_path / "set").items()}
    assert sum(result["photos"].values()) == 24
    for one, other in [("train", "choose"), ("train", "report"), ("choose", "report")]:
        assert not names[one] & names[other]
    assert set.union(*names.values()) == {f"canoneos{i}" for i in range(8)}
    assert {split: result["cameras"][split] for split in names} == {split: len(n) for split, n in names.items()}


def test_cameras_keep_their_group_when_a_source_grows(tmp_path):
    prepare(str(album(tmp_path / "few", 6)), tmp_path / "a", seed=1, **SMALL, **SHARES)
    prepare(str(album(tmp_path / "many", 10)), tmp_path / "b", seed=1, **SMALL, **SHARES)
    few, many = cameras_of(tmp_path / "a"), cameras_of(tmp_path / "b")
    for split in ("train", "choose", "report"):
        assert few[split] <= many[split]


def test_simulated_splices_of_seen_cameras_use_only_training_cameras(few_cameras, tmp_path):  # noqa: F811
    seed = next(s for s in range(99) if _groups_of(few_cameras, s) == {"train", "choose", "report"})
    arguments = SMALL | TINY | SHARES | {"photos_per_camera": 1}
    result = prepare("simulated", tmp_path / "set", seed=seed, **arguments)
    found = cameras_of(tmp_path / "set")
    assert not found["train"] & (found["choose"] | found["report"] | set(result["unseen_cameras"]))
    items = list(load_benchmark("folder", tmp_path / "set" / "splices" / "seen"))
    assert items and {item.info["host_camera"] for item in items} <= found["train"]
    assert {item.info["donor_camera"] for item in items} <= found["train"] | {""}


def _groups_of(cameras: list, seed: int) -> set[str]:
    """The groups of the simulated cameras by a seed; none of them if fewer than two cameras are trained on."""
    groups = Counter(group(camera.name, seed) for camera in split_makes(1, seed)[0])
    return set(groups) if groups["train"] >= 2 else set()


def test_groups_are_off_by_default(tmp_path):
    source = album(tmp_path / "album", 4)
    result = prepare(str(source), tmp_path / "set", **SMALL)
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == [
        "dataset.json", "index", "tags.json", "train",
    ]  # fmt: skip
    assert result["photos"] == {"train": 8, "heldout": 0} and result["cameras"] == {"train": 4, "heldout": 0}
    named = prepare(str(source), tmp_path / "named", **SMALL, choose_share=0, report_share=0)
    assert named["shards"] == result["shards"]


def test_a_data_set_made_before_groups_existed_is_reused(tmp_path):
    source = album(tmp_path / "album", 2)
    prepare(str(source), tmp_path / "set", **SMALL)
    path = tmp_path / "set" / "dataset.json"
    description = json.loads(path.read_text())
    del description["arguments"]["choose_share"], description["arguments"]["report_share"], description["cameras"]
    path.write_text(json.dumps(description))
    assert prepare(str(source), tmp_path / "set", **SMALL) == description
    with pytest.raises(DataError, match="made with other arguments"):
        prepare(str(source), tmp_path / "set", **SMALL, report_share=0.2)


def test_a_single_group_and_an_empty_one(tmp_path):
    source = album(tmp_path / "album", 3)
    result = prepare(str(source), tmp_path / "set", **SMALL, choose_share=1e-9)
    assert result["photos"] == {"train": 6, "heldout": 0, "choose": 0} and result["cameras"]["choose"] == 0


def test_shares_that_leave_no_training_cameras_are_refused(tmp_path):
    source = album(tmp_path / "album", 1)
    with pytest.raises(DataError, match="no cameras are left to train on: lower choose_share and report_share"):
        prepare(str(source), tmp_path / "set", **SMALL, report_share=0.9999)
    with pytest.raises(ValueError, match="leave . of .* simulated cameras to train on: lower them"):
        prepare("simulated", tmp_path / "set", **SMALL, report_share=0.9999)
    assert [path.name for path in tmp_path.iterdir()] == ["album"]


@pytest.mark.parametrize("shares", [(-0.1, 0), (0, -0.1), (0.5, 0.5), (1.0, 0), (float("nan"), 0), (0, float("nan"))])
def test_shares_out_of_range_are_refused(tmp_path, shares):
    with pytest.raises(ValueError, match="they must be 0 or more and leave some cameras to train on"):
        prepare(str(tmp_path), tmp_path / "set", choose_share=shares[0], report_share=shares[1])
