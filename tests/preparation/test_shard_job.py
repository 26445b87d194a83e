"""Shard jobs: one process or several, locally or at a URL, with failures or without, give the same data set."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time

import fsspec
import pandas as pd
import psutil
import pyarrow.parquet as pq
import pytest
from dask.distributed import LocalCluster

from exiflang.data.index import kept_photos, read_index
from exiflang.data.shards import DataError
from exiflang.exif.text import TagVocabulary
from exiflang.preparation import shard_job as jobs
from exiflang.preparation import sources
from exiflang.preparation.options import Limits
from exiflang.utils.storage import Store
from tests.preparation.flat import prepare
from tests.preparation.test_dataset import SMALL, album, photo, photos_of, samples
from tests.preparation.test_prepare_safety import contents
from tests.shard_writer import write_shards

JOBS = SMALL | {"photos_per_shard": 3}


def pictures(folder, photos=8):
    album(folder, photos)
    (folder / "bare.jpg").write_bytes(photo(exif=False))
    (folder / "cut.jpg").write_bytes(photo()[:3000])
    return folder


# ------------------------------------------------- what a set holds -------------------------------------------------
def test_shards_index_and_tags(tmp_path):
    result = prepare(str(pictures(tmp_path / "album")), tmp_path / "set", workers=1, heldout_share=0.01, **JOBS)
    assert [path.name for path in sorted((tmp_path / "set" / "train").iterdir())] == [f"0000{i}.tar" for i in range(4)]
    assert result["photos"] == {"train": 8, "heldout": 0} and not (tmp_path / "set" / "heldout").exists()
    assert not (tmp_path / "set" / "plan.json").exists() and not (tmp_path / "set" / "plan").exists()
    photos = photos_of(tmp_path / "set" / "train")
    assert [one.id for one in photos] == [f"{i:08d}" for i in range(8)]

    table = pd.read_parquet(tmp_path / "set" / "index")
    assert list(table["name"]) == sorted(table["name"]) and len(table) == 10
    assert list(table[table["split"].isna()]["name"]) == ["bare.jpg", "cut.jpg"]
    kept = table[table["split"].notna()]
    assert set(kept["camera"]) == {"Canon EOS 40D"} and set(kept["tiles"]) == {2} and set(kept["format"]) == {"JPEG"}
    assert set(kept["tables"]) == {"quality 75"}
    assert set(kept_photos(str(tmp_path / "set"))["split"]) == {"train"}

    vocabulary = json.loads((tmp_path / "set" / "tags.json").read_text())
    assert vocabulary.pop("kept") == ["Make", "Model", "Software", "Orientation"]
    assert TagVocabulary.from_dict(vocabulary).photos == 8


def test_later_shards_hold_out_photos_too(tmp_path):
    source = album(tmp_path / "album", 40)
    result = prepare(str(source), tmp_path / "set", workers=1, heldout_share=0.5, **SMALL, photos_per_shard=8)
    assert sum(result["photos"].values()) == 40 and 12 <= result["photos"]["heldout"] <= 25
    train, heldout = photos_of(tmp_path / "set" / "train"), photos_of(tmp_path / "set" / "heldout")
    assert not {one.id for one in train} & {one.id for one in heldout}


def test_any_number_of_jobs_keeps_the_same_photos(tmp_path):
    source, found = str(pictures(tmp_path / "album")), []
    for size in (1, 2, 99):
        result = prepare(source, tmp_path / f"{size}", workers=1, **SMALL, photos_per_shard=size)
        photos = [
            one.id
            for split in result["photos"]
            if result["photos"][split]
            for one in photos_of(tmp_path / f"{size}" / split)
        ]
        found.append((sorted(photos), result["left_out"], result["left_out_examples"]))
    assert found[0] == found[1] == found[2] and len(found[0][0]) == 8


def test_jobs_consist_of_whole_shards(tmp_path, monkeypatch):
    made = samples(9)
    write_shards(made, tmp_path / "source", per_shard=6)
    monkeypatch.setattr(sources, "SHARDS_BYTES", 1)
    result = prepare(str(tmp_path / "source"), tmp_path / "set", workers=1, **SMALL)
    assert result["photos"]["train"] == 9 and len(result["shards"]) == 3
    photos = photos_of(tmp_path / "set" / "train")
    assert [one.id for one in photos] == [f"p{i}" for i in range(9)]
    keys = {name.split("_")[0] for table in read_index(str(tmp_path / "set")) for name in table["photo"].to_pylist()}
    assert len(keys) == 9


# ------------------------------------------------------ Dask ------------------------------------------------------
def test_several_processes_give_the_same_as_one(tmp_path, capsys):
    source = str(pictures(tmp_path / "album"))
    one = prepare(source, tmp_path / "one", workers=1, **JOBS)
    assert prepare(source, tmp_path / "two", workers=2, **JOBS) == one
    assert "2 workers, dashboard: http://127.0.0.1" in capsys.readouterr().out
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_a_running_scheduler_is_used(tmp_path):
    source = str(pictures(tmp_path / "album"))
    one = prepare(source, tmp_path / "one", workers=1, **JOBS)
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:
        assert prepare(source, tmp_path / "far", scheduler=cluster.scheduler_address, **JOBS) == one
    assert contents(tmp_path / "far") == contents(tmp_path / "one")


def test_an_unreachable_scheduler_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr("exiflang.preparation.workers.PATIENCE", 1)
    with pytest.raises(DataError, match="tcp://127.0.0.1:9: no Dask scheduler responds"):
        prepare(str(album(tmp_path / "album")), tmp_path / "set", scheduler="tcp://127.0.0.1:9", **JOBS)


def test_the_job_of_a_killed_worker_is_repeated(tmp_path):
    source = str(pictures(tmp_path / "album", 60))
    arguments = SMALL | {"photos_per_shard": 2, "tile_size": 64}
    prepare(source, tmp_path / "calm", workers=1, **arguments)
    killed = []

    def kill_one_worker() -> None:
        index = tmp_path / ".set.part" / "index"
        while len(list(index.glob("*.parquet"))) < 4:
            time.sleep(0.002)
        children = psutil.Process().children(recursive=True)
        workers = [one for one in children if "spawn_main" in " ".join(one.cmdline())]
        os.kill(workers[-1].pid, signal.SIGKILL)
        killed.append(len(list(index.glob("*.parquet"))))

    killer = threading.Thread(target=kill_one_worker, daemon=True)
    killer.start()
    prepare(source, tmp_path / "set", workers=4, **arguments)
    killer.join(5)
    assert killed and killed[0] < 31  # in the middle of the run
    assert contents(tmp_path / "set") == contents(tmp_path / "calm")


def test_failed_jobs_are_named_and_the_others_kept(tmp_path, monkeypatch):
    write_shards(samples(6), tmp_path / "source", per_shard=4)
    monkeypatch.setattr(sources, "SHARDS_BYTES", 1)
    middle = tmp_path / "source" / "00001.tar"
    whole = middle.read_bytes()
    middle.write_bytes(whole[:2000])
    with pytest.raises(DataError, match="1 of 3 shards failed .shard 00001: .*00001.tar: .*finished shards are kept"):
        prepare(str(tmp_path / "source"), tmp_path / "set", workers=1, **SMALL)
    middle.write_bytes(whole)
    result = prepare(str(tmp_path / "source"), tmp_path / "set", workers=1, **SMALL)
    assert result["photos"]["train"] == 6


def test_a_finished_job_is_not_repeated(tmp_path, monkeypatch):
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "00003.parquet").write_bytes(b"done")
    assert jobs.run_job(str(tmp_path), 3, Limits()) == "00003"


# ------------------------------------------------------ URLs ------------------------------------------------------
def test_a_data_set_in_memory(tmp_path):
    source = str(pictures(tmp_path / "album"))
    one = prepare(source, tmp_path / "one", workers=1, **JOBS)
    memory = fsspec.filesystem("memory")
    try:
        assert prepare(source, "memory://sets/far", workers=1, **JOBS) == one
        assert prepare(source, "memory://sets/far/", workers=1, **JOBS) == one  # reused
        far = {name.removeprefix("/sets/far/"): memory.cat_file(name) for name in memory.find("/sets/far")}
        assert far == contents(tmp_path / "one")
        with pytest.raises(DataError, match="made with other arguments"):
            prepare(source, "memory://sets/far", workers=1, seed=1, **JOBS)
        memory.rm_file("/sets/far/train/00001.tar")
        with pytest.raises(DataError, match="train/00001.tar is missing"):
            prepare(source, "memory://sets/far", workers=1, **JOBS)
        memory.pipe_file("/other/thesis.txt", b"years of work")
        with pytest.raises(DataError, match="holds other files"):
            prepare(source, "memory://other", workers=1, **JOBS)
    finally:
        for name in ("/sets", "/other"):
            if memory.exists(name):
                memory.rm(name, recursive=True)


def test_shards_at_a_url(tmp_path):
    made = samples(5)
    shards = write_shards(made, tmp_path / "source", per_shard=4)
    memory = fsspec.filesystem("memory")
    try:
        for shard in shards:
            memory.pipe_file(f"/shards/{shard.name}", shard.read_bytes())
        near = prepare(str(tmp_path / "source"), tmp_path / "near", **SMALL)
        far = prepare("memory://shards", tmp_path / "far", **SMALL)
        assert far["shards"] == near["shards"]
        with pytest.raises(DataError, match="memory://nothing: "):
            prepare("memory://nothing", tmp_path / "none", **SMALL)
    finally:
        memory.rm("/shards", recursive=True)


def test_unknown_protocols_are_refused(tmp_path):
    with pytest.raises(ValueError, match="nowhere"):
        prepare(str(album(tmp_path / "album")), "nowhere://set", **SMALL)
    with pytest.raises(ValueError, match="simulated photos need a data_dir on this machine"):
        prepare("simulated", "memory://simulated", **SMALL)


# --------------------------------------------------- storage itself ---------------------------------------------------
@pytest.mark.parametrize("kind", ["folder", "memory"])
def test_a_store_reads_writes_and_lists(tmp_path, kind):
    root = (
        tmp_path / "store"
        if kind == "folder"
        else f"memory://store-{hashlib.sha256(str(tmp_path).encode()).hexdigest()}"
    )
    store = Store(root)
    assert not store.any() and store.names("a") == [] and not store.exists("a/b")
    store.write("a/b", b"1")
    store.write("a/b", b"22")
    (tmp_path / "file").write_bytes(b"333")
    store.put(tmp_path / "file", "a/c")
    store.write("a/deep/d", b"")
    assert store.any() and store.names("a") == ["a/b", "a/c"]
    assert [store.read(name) for name in ("a/b", "a/c", "a/deep/d")] == [b"22", b"333", b""]
    store.remove("a/b", "a/deep", "not there")
    assert store.names("a") == ["a/c"] and not store.exists("a/deep/d")
    store.remove("a")
    assert not store.exists("a/c")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.write("a", b"old")
    monkeypatch.setattr(os, "replace", lambda *arguments: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        store.write("a", b"new")
    assert contents(tmp_path) == {"a": b"old"}


def test_a_killed_write_leaves_the_old_file(tmp_path):
    Store(tmp_path).write("a", b"old")
    killed = "os.replace = lambda *arguments: os.kill(os.getpid(), 9); Store(sys.argv[1]).write('a', b'new')"
    code = f"import os, sys; from exiflang.utils.storage import Store; {killed}"
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == -9
    assert Store(tmp_path).read("a") == b"old"


def test_the_index_holds_the_digests_of_shards(tmp_path):
    result = prepare(str(album(tmp_path / "album")), tmp_path / "set", **SMALL)
    metadata = pq.read_schema(tmp_path / "set" / "index" / "00000.parquet").metadata
    assert json.loads(metadata[b"shards"]) == result["shards"]
