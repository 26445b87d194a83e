"""A data set is written completely or not at all, reused unchanged, and never mixed with anything else."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from exiflang.data.shards import DataError, read_member
from exiflang.preparation import dataset as module
from exiflang.preparation import photos
from exiflang.preparation.options import grouped
from exiflang.utils.images import load_image
from tests.preparation.flat import prepare
from tests.preparation.test_dataset import SMALL, album, photos_of


def test_a_second_call_does_no_work(tmp_path, monkeypatch):
    source = album(tmp_path / "album")
    first = prepare(str(source), tmp_path / "set", **SMALL)
    monkeypatch.setattr(photos, "cut_tiles", lambda *arguments: pytest.fail("worked again"))
    monkeypatch.setattr(module, "run_jobs", lambda *arguments, **options: pytest.fail("worked again"))
    assert prepare(str(source), tmp_path / "set", **SMALL) == first
    assert prepare(source, str(tmp_path / "set"), workers=1, **SMALL) == first


@pytest.mark.parametrize("change", [{"seed": 1}, {"tile_size": 64}, {"heldout_share": 0.2}, {"min_tags": 2}], ids=str)
def test_a_data_set_with_other_arguments_is_not_overwritten(tmp_path, change):
    source = album(tmp_path / "album")
    prepare(str(source), tmp_path / "set", **SMALL)
    before = {path: path.read_bytes() for path in (tmp_path / "set").rglob("*") if path.is_file()}
    with pytest.raises(DataError, match="set holds a data set made with other arguments: choose another data_dir"):
        prepare(str(source), tmp_path / "set", **SMALL | change)
    assert {path: path.read_bytes() for path in (tmp_path / "set").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("fault", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_run_resumes_where_it_stopped(tmp_path, monkeypatch, fault):
    source, arguments = album(tmp_path / "album", 6), SMALL | {"photos_per_shard": 2, "workers": 1}
    clean = prepare(str(source), tmp_path / "clean", **arguments)
    cut, calls = photos.cut_tiles, []

    def counting(*given):
        calls.append(given)
        if len(calls) == 4:
            raise fault("stopped")
        return cut(*given)

    monkeypatch.setattr(photos, "cut_tiles", counting)
    with pytest.raises(fault, match="stopped"):
        prepare(str(source), tmp_path / "set", **arguments)
    assert not (tmp_path / "set").exists()
    assert prepare(str(source), tmp_path / "set", **arguments) == clean
    assert len(calls) == 4 + 4  # the two photos of the first shard were not cut again
    assert contents(tmp_path / "set") == contents(tmp_path / "clean")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["album", "clean", "set"]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_draft_with_other_arguments_is_discarded(tmp_path, monkeypatch):
    source, arguments = album(tmp_path / "album", 4), SMALL | {"photos_per_shard": 2, "workers": 1}
    with monkeypatch.context() as patch:
        patch.setattr(photos, "cut_tiles", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prepare(str(source), tmp_path / "set", seed=3, **arguments)
    clean = prepare(str(source), tmp_path / "clean", **arguments)
    assert prepare(str(source), tmp_path / "set", **arguments) == clean
    assert contents(tmp_path / "set") == contents(tmp_path / "clean")


def test_a_killed_run_leaves_no_data_dir_and_can_be_repeated(tmp_path, monkeypatch):
    source = album(tmp_path / "album")
    with monkeypatch.context() as patch:
        patch.setattr(module.os, "replace", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prepare(str(source), tmp_path / "set", **SMALL)
    assert not (tmp_path / "set").exists() and (tmp_path / ".set.part").exists()
    result = prepare(str(source), tmp_path / "set", **SMALL)
    assert sorted(result["shards"]) == ["train/00000.tar"] and not (tmp_path / ".set.part").exists()


def test_other_files_in_data_dir_are_kept(tmp_path):
    source, folder = album(tmp_path / "album"), tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter1.txt").write_text("years of work")
    with pytest.raises(
        DataError, match="thesis holds other files but no data set: choose another data_dir or empty it"
    ):
        prepare(str(source), folder, **SMALL)
    with pytest.raises(DataError, match="chapter1.txt holds other files"):
        prepare(str(source), folder / "chapter1.txt", **SMALL)
    assert (folder / "chapter1.txt").read_text() == "years of work"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["album", "thesis"]


@pytest.mark.parametrize("relative", [False, True])
def test_an_empty_or_new_nested_data_dir_is_accepted(tmp_path, monkeypatch, relative):
    source = album(tmp_path / "album")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for name in ("empty", "a/b/c"):
        assert prepare(str(source), name if relative else tmp_path / name, **SMALL)["photos"]["train"] == 4
        assert (tmp_path / name / "dataset.json").is_file()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"arguments": {}, "shards": null}'])
def test_a_damaged_description_is_reported(tmp_path, content):
    source = album(tmp_path / "album")
    prepare(str(source), tmp_path / "set", **SMALL)
    (tmp_path / "set" / "dataset.json").write_text(content)
    with pytest.raises(DataError, match="set/dataset.json is damaged: remove the folder"):
        prepare(str(source), tmp_path / "set", **SMALL)


def test_a_missing_shard_of_a_data_set_is_reported(tmp_path):
    source = album(tmp_path / "album")
    prepare(str(source), tmp_path / "set", **SMALL)
    (tmp_path / "set" / "train" / "00000.tar").unlink()
    with pytest.raises(DataError, match="set/train/00000.tar is missing: remove the folder"):
        prepare(str(source), tmp_path / "set", **SMALL)


@pytest.mark.parametrize(
    "wrong",
    [{"heldout_share": 0.0}, {"heldout_share": 1.0}, {"heldout_share": float("nan")}, {"splices": -1},
     {"authentic": -1}, {"tile_size": 100}, {"tile_size": 0}, {"tiles_per_photo": 0}],
    ids=str,
)  # fmt: skip
def test_arguments_out_of_range_are_refused(tmp_path, wrong):
    source = album(tmp_path / "album", 1)
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        prepare(str(source), tmp_path / "set", **SMALL | wrong)
    assert [path.name for path in tmp_path.iterdir()] == ["album"]


def test_a_misspelled_option_is_refused_with_a_suggestion():
    with pytest.raises(ValueError, match="tile_siz is not an option of prepare: did you mean tile_size"):
        grouped({"tile_siz": 64})
    with pytest.raises(ValueError, match="zzz is not an option of prepare: choose among seed, photos_per_camera, "):
        grouped({"zzz": 1})


@pytest.fixture
def slow(monkeypatch):
    """A run that waits in its first photo: events for having reached it and for continuing, and photos cut so far."""
    there, go, seen, cut = Event(), Event(), [], photos.cut_tiles

    def waiting(*given):
        seen.append(given)
        there.set()
        assert go.wait(60)
        return cut(*given)

    monkeypatch.setattr(photos, "cut_tiles", waiting)
    return there, go, seen


def test_a_second_run_with_other_arguments_is_refused(tmp_path, slow):
    there, go, _ = slow
    source, arguments = album(tmp_path / "album"), SMALL | {"workers": 1}
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(prepare, str(source), tmp_path / "set", **arguments)
        assert there.wait(60)
        try:
            with pytest.raises(DataError, match=rf"set: another run is using it \(process {os.getpid()} on "):
                prepare(str(source), tmp_path / "set", **arguments | {"tile_size": 64})
        finally:
            go.set()
        assert first.result()["photos"]["train"] == 4 and first.result()["arguments"]["tile_size"] == 32
    tiles = [load_image(read_member(*tile)) for one in photos_of(tmp_path / "set" / "train") for tile in one.tiles]
    assert {tile.shape for tile in tiles} == {(32, 32, 3)} and len(tiles) == 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["album", "set"]


def test_a_second_run_with_the_same_arguments_waits_for_the_first(tmp_path, slow, capsys):
    there, go, seen = slow
    source, arguments = album(tmp_path / "album"), SMALL | {"workers": 1}
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(prepare, str(source), tmp_path / "set", **arguments)
        assert there.wait(60)
        second = pool.submit(prepare, str(source), tmp_path / "set", **arguments)
        time.sleep(1.5)
        assert not second.done()
        go.set()
        assert first.result() == second.result() and len(seen) == 4
    assert "set: waiting for process" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["album", "set"]


def test_an_existing_data_set_needs_no_lock(tmp_path, monkeypatch):
    source = album(tmp_path / "album")
    made = prepare(str(source), tmp_path / "set", **SMALL)
    monkeypatch.setattr(module, "hold", lambda *arguments: pytest.fail("locked a folder that may be read-only"))
    assert prepare(str(source), tmp_path / "set", **SMALL) == made
