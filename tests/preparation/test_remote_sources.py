"""Lists of URLs and YFCC100M's dumps, from a server to shards: available photos are kept, missing ones counted."""

import json
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pandas as pd
import pytest

from exiflang.data.shards import DataError, read_member
from tests.preparation.flat import prepare
from tests.preparation.test_dataset import SMALL, album, photo, photos_of, samples
from tests.shard_writer import write_shards

LOCAL = {"allow_private": True, **SMALL, "workers": 1}


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(autouse=True)
def asked_once(monkeypatch):
    monkeypatch.setattr("exiflang.preparation.downloads.ATTEMPTS", 1)


@pytest.fixture
def served(tmp_path):
    """A folder and the address at which it is served."""
    with serving(tmp_path / "served") as address:
        yield tmp_path / "served", address


@contextmanager
def serving(folder):
    folder.mkdir(exist_ok=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def tiles_of(folder):
    return [read_member(*place) for one in photos_of(folder) for place in one.tiles]


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_a_list_gives_the_same_tiles_as_its_folder(tmp_path, served, kind):
    folder, address = served
    album(folder / "album", 6)
    (folder / "page.html").write_text("<html></html>")
    names = [f"album/{i:03d}.jpg?key=secret" for i in range(6)] + ["gone.jpg", "page.html"]
    table = pd.DataFrame({"URL": [f"{address}/{name}" for name in names], "photo": [f"p{i}" for i in range(8)]})
    source = tmp_path / f"list.{kind}"
    table.to_parquet(source) if kind == "parquet" else table.to_csv(source, index=False)
    found = prepare(str(source), tmp_path / "set", **LOCAL)
    prepare(str(folder / "album"), tmp_path / "same", **SMALL, workers=1)
    for split in ("train", "heldout"):
        if found["photos"][split]:
            assert tiles_of(tmp_path / "set" / split) == tiles_of(tmp_path / "same" / split)
    assert found["left_out"] == {"HTTP 404": 1, "no picture": 1}
    assert {one.id for one in photos_of(tmp_path / "set" / "train")} <= {f"p{i}" for i in range(6)}
    index = pd.read_parquet(tmp_path / "set" / "index")
    assert not index.astype(str).apply(lambda column: column.str.contains("secret")).any(axis=None)


def test_a_job_without_network_is_repeated(tmp_path, served):
    folder, address = served
    album(folder / "album", 4)
    lines = [f"{address}/album/00{i}.jpg" for i in range(2)] + ["http://127.0.0.1:9/a.jpg", "http://127.0.0.1:9/b.jpg"]
    (tmp_path / "list.csv").write_text("\n".join(["url", *lines]))
    run = partial(prepare, str(tmp_path / "list.csv"), tmp_path / "set", photos_per_shard=2, **LOCAL)
    with pytest.raises(DataError, match=r"1 of 2 shards failed \(shard 00001: none of 2 photos could be fetched"):
        run()
    first = (tmp_path / ".set.part" / "train" / "00000.tar").stat().st_mtime_ns
    with pytest.raises(DataError, match="2 times no connection"):
        run()
    assert (tmp_path / ".set.part" / "train" / "00000.tar").stat().st_mtime_ns == first


def test_photos_at_private_addresses_are_left_out(tmp_path, served):
    folder, address = served
    album(folder / "album", 2)
    (tmp_path / "list.csv").write_text(f"url\n{address}/album/000.jpg\n")
    with pytest.raises(DataError, match="no usable photo .1 left out: private address"):
        prepare(str(tmp_path / "list.csv"), tmp_path / "set", **SMALL, workers=1)


def test_exif_is_taken_from_dumps(tmp_path, served):
    folder, address = served
    (tmp_path / "dumps").mkdir()
    rows, told = [], []
    for i in range(5):
        (folder / f"{i}.jpg").write_bytes(photo(seed=i, exif=i % 2 == 0))
        fields = [str(i), *["x"] * 13, f"{address}/{i}.jpg", "by", "http://cc", *["x"] * 5, "0"]
        rows.append("\t".join(fields))
        told.append(f"{i}\tExif+IFD0.Make:Nikon,Exif+IFD0.Model:D{i},Exif+SubIFD.F-Number:F2.8,GPS.GPS+Latitude:48")
    (tmp_path / "dumps" / "yfcc100m_dataset").write_text("\n".join(rows))
    (tmp_path / "dumps" / "yfcc100m_exif").write_text("\n".join(told[:4]))
    found = prepare(str(tmp_path / "dumps"), tmp_path / "set", **LOCAL, heldout_share=0.01)
    assert found["photos"]["train"] == 4 and found["rows_left_out"] == {"no EXIF": 1}
    photos = {one.id: one.tags for one in photos_of(tmp_path / "set" / "train")}
    assert photos == {f"{i}": {"Make": "Nikon", "Model": f"D{i}", "FNumber": "2.8"} for i in range(4)}
    assert json.loads((tmp_path / "set" / "tags.json").read_text())["kept"] == ["Make", "Model", "FNumber"]
    some = prepare(str(tmp_path / "dumps"), tmp_path / "some", **LOCAL, heldout_share=0.01, sample=2)
    assert some["photos"]["train"] == 2 and some["rows_left_out"] == {"no EXIF": 1, "not drawn": 2}


def test_sampling_other_sources_is_refused(tmp_path):
    with pytest.raises(ValueError, match="only YFCC100M's dumps are sampled"):
        prepare(str(album(tmp_path / "album")), tmp_path / "set", **SMALL, workers=1, sample=2)


def test_re_encoded_shards_raise_a_warning(tmp_path):
    made = samples(4)
    for sample in made:
        sample.meta.pop("photo", None)
        sample.meta["md5"] = "0" * 32
    write_shards(made, tmp_path / "shards")
    with pytest.warns(UserWarning, match="disable_all_reencoding=True"):
        prepare(str(tmp_path / "shards"), tmp_path / "set", workers=1, min_tags=1)
