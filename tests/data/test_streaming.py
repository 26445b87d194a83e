"""Streaming: each photo once per pass with any readers, exact resumption anywhere, damage costs only its samples."""

import io
import json
import os
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice, takewhile
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from exiflang.data.shard_urls import expand_shards
from exiflang.data.shards import DataError, Sample, read_photos
from exiflang.data.streaming import START, StreamDataset, StreamLoader
from exiflang.exif.text import exif_to_text
from exiflang.training.loop import collate
from tests.shard_writer import write_shards
from tests.training.test_loop import SIZE

SHARDS, PHOTOS = 13, 3  # that is 39 photos of two tiles each; blocks of 4 shards


def tile(seed: int, size: int = 20) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def samples(count: int, broken: tuple[int, ...] = (), size: int = 20) -> list[Sample]:
    """Two tiles per photo; photos in `broken` have a broken second tile, every other one a broken first one, too."""
    found = []
    for number in range(count):
        exif = json.dumps({"Make": "Canon", "Model": f"EOS {number}"})
        for i in range(2):
            whole = number not in broken or (i == 0 and number % 2)
            data = tile(2 * number + i, size) if whole else b"\x89PNG broken"
            found.append(Sample(f"{number:04d}_{i}", data, "png", {"exif": exif, "photo": f"{number}"}))
    return found


def whole_shards(folder: Path) -> list[str]:
    return list(map(str, write_shards(samples(SHARDS * PHOTOS), folder, 2 * PHOTOS)))


def scratched_shards(folder: Path) -> list[str]:
    """Six shards of three photos, with broken tiles; one of the shards is not a tar."""
    made = write_shards(samples(18, broken=(1, 4, 5, 10, 17)), folder, 6)
    made[3].write_bytes(b"no tar" * 999)
    return list(map(str, made))


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> list[str]:
    return whole_shards(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def scratched(tmp_path_factory) -> list[str]:
    return scratched_shards(tmp_path_factory.mktemp("scratched"))


def stream(shards: list[str], **options) -> StreamDataset:
    return StreamDataset(shards, **{"patch_size": SIZE, "seed": 5, **options})


def one_pass(dataset: StreamDataset, number: int, readers: int, turn: int = 0) -> list[tuple[torch.Tensor, str]]:
    read = takewhile(lambda given: given[1][0] <= turn, dataset.read(number, readers, START))
    return [item for item, state, _ in read if state[0] == turn]


def sentences(items) -> list[str]:
    return [sentence for _, sentence in items]


def number(sentence: str) -> int:
    return int(sentence.split()[-1])


def same(first, second) -> bool:
    pairs = zip(first, second, strict=True)
    return all(torch.equal(a[0], b[0]) and list(a[1]) == list(b[1]) for a, b in pairs)


def loader(dataset: StreamDataset, workers: int, **options) -> StreamLoader:
    return StreamLoader(dataset, 2, collate, workers=workers, **options)


# ------------------------------------------------ what is read ------------------------------------------------
@pytest.mark.parametrize("readers", [1, 2, 3, 4, 6, 13])
def test_each_photo_is_read_once_per_pass_by_one_reader(shards, readers):
    """The oracle: all photos, indexed at once."""
    dataset, photos = stream(shards), read_photos(shards)[0]
    everything = sorted(exif_to_text(photo.tags) for photo in photos)
    assert len(everything) == len(photos) == SHARDS * PHOTOS
    for turn in range(3):
        shares = [sentences(one_pass(dataset, reader, readers, turn)) for reader in range(readers)]
        assert sorted(sum(shares, [])) == everything
        assert all(shares)


def test_each_pass_is_reshuffled_reproducibly(shards):
    first, second = (sentences(one_pass(stream(shards), 0, 1, turn)) for turn in (0, 1))
    assert first != second and first != sorted(first)
    assert sentences(one_pass(stream(shards), 0, 1)) == first
    assert sentences(one_pass(stream(shards, seed=6), 0, 1)) != first
    assert np.abs(np.diff([number(text) for text in first])).mean() > 3  # photos of one shard are not adjacent


def test_items_do_not_depend_on_the_number_of_readers(shards):
    options = {"views": 2, "tag_dropout": 0.5, "shuffle_tags": True}
    alone, among = stream(shards, **options), stream(shards, **options)
    expected = {patches.numpy().tobytes(): sentence for patches, sentence in one_pass(alone, 0, 1)}
    found = {item[0].numpy().tobytes(): item[1] for reader in range(3) for item in one_pass(among, reader, 3)}
    assert found == expected and len(found) == SHARDS * PHOTOS
    patches, _ = next(iter(alone))
    assert patches.shape == (2, 3, SIZE, SIZE) and patches.dtype == torch.uint8


def test_a_patch_is_a_crop_of_its_photo_and_changes_with_each_pass(shards):
    dataset = stream(shards)
    first, second = ({text: patch for patch, text in one_pass(dataset, 0, 1, turn)} for turn in (0, 1))
    assert first.keys() == second.keys()
    assert sum(torch.equal(first[text], second[text]) for text in first) < 5
    for text, patch in list(first.items())[:5]:
        tiles = [Image.open(io.BytesIO(tile(2 * number(text) + i))) for i in range(2)]
        pixels = [np.array(one).transpose(2, 0, 1) for one in tiles]
        places = [(i, y, x) for i in range(2) for y in range(5) for x in range(5)]
        assert any(np.array_equal(patch, pixels[i][:, y : y + SIZE, x : x + SIZE]) for i, y, x in places)


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_processes_and_workers_take_turns(shards, processes, workers):
    dataset, readers = stream(shards), max(1, workers)
    for process in range(processes):
        given = [dataset.read(process * readers + i, processes * readers, START) for i in range(readers)]
        expected = [collate([item for item, *_ in islice(given[batch % readers], 2)]) for batch in range(7)]
        mine = loader(dataset, workers, process_index=process, processes=processes)
        assert same(islice(mine, 7), expected)


def test_a_plain_data_loader_shares_the_shards_among_its_workers(shards):
    batches = islice(DataLoader(stream(shards), batch_size=1, num_workers=2), 24)
    assert len({sentence for _, (sentence,) in batches}) == 24


# ------------------------------------------------ resuming ------------------------------------------------
@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")
@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_resuming_after_any_batch(scratched, workers):
    """Over three passes: the same batches, and everything left out is counted once."""
    whole, steps = loader(stream(scratched), workers), 16 if workers < 2 else 9
    batches, states = [], [json.loads(json.dumps(whole.state_dict()))]
    for batch in islice(whole, steps):
        batches.append(batch)
        states.append(json.loads(json.dumps(whole.state_dict())))
    assert whole.left_out["broken tile"] > 3 and whole.left_out["damaged part of a shard"]
    for done, state in enumerate(states):
        resumed = loader(stream(scratched), workers)
        resumed.load_state_dict(state)
        assert resumed.state_dict() == state
        assert same(islice(resumed, min(3, steps - done)), batches[done : done + 3])
        assert resumed.state_dict() == states[min(done + 3, steps)]


def test_iterating_again_continues(shards):
    once, twice = loader(stream(shards), 2), loader(stream(shards), 2)
    expected = list(islice(once, 8))
    assert same([*islice(twice, 3), *islice(twice, 5)], expected)


def test_resuming_reads_only_the_current_block_again(shards, monkeypatch):
    dataset = stream(shards)
    *_, (_, state, _) = islice(dataset.read(0, 1, START), 2 * 4 * PHOTOS + 1)
    assert state == (0, 2, 1)
    read = []
    monkeypatch.setattr("exiflang.data.streaming.fetch_shard", lambda shard, folder: read.append(shard) or Path(shard))
    next(dataset.read(0, 1, state))
    assert len(read) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"processes": 2}, "processes 1, now it is 2"),
        ({"processes": 3, "process_index": 2}, "processes 1"),
        ({"workers": 2}, "workers 1, now it is 2"),
        ({"seed": 6}, "shards '"),
        ({"shards": 12}, "shards '"),
    ],
)
def test_the_state_of_another_stream_is_refused(shards, change, message):
    state = loader(stream(shards), 0).state_dict()
    options = {"workers": 0} | {key: value for key, value in change.items() if key not in ("seed", "shards")}
    other = loader(stream(shards[: change.get("shards", SHARDS)], seed=change.get("seed", 5)), **options)
    with pytest.raises(DataError, match=f"{message}.*resume with the same shards"):
        other.load_state_dict(state)


def test_more_readers_than_shards_are_refused(shards):
    with pytest.raises(DataError, match="2 shards for 3 readers.*lower workers or processes.*photos_per_shard"):
        loader(stream(shards[:2]), 3)
    with pytest.raises(DataError, match="1 shards for 2 readers"):
        next(stream(shards[:1]).read(0, 2, START))


@pytest.mark.parametrize("wrong", [{"patch_size": 0}, {"views": 0}, {"tag_dropout": 1.0}])
def test_wrong_arguments(shards, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        stream(shards, **wrong)


def test_no_shards():
    with pytest.raises(DataError, match="no shards"):
        stream([])


def test_fingerprint(shards, tmp_path):
    made = whole_shards(tmp_path / "copy")
    base = stream(shards).fingerprint
    assert stream(made).fingerprint == base == stream(made, tag_dropout=0).fingerprint
    with open(made[1], "ab") as file:
        file.write(bytes(512))
    others = [stream(made), stream(shards[1:])]
    others += [stream(shards, **{name: value}) for name, value in
               {"seed": 1, "patch_size": 17, "views": 2, "tag_dropout": 0.5, "shuffle_tags": True}.items()]  # fmt: skip
    assert len({base, *(other.fingerprint for other in others)}) == 8


def test_the_number_of_sentences_for_a_tokenizer_is_bounded(shards, monkeypatch):
    dataset = stream(shards)
    assert len(dataset.sentences) == SHARDS * PHOTOS
    assert dataset.summary == "13 shards, streamed; 39 different sentences in the first 39"
    monkeypatch.setattr("exiflang.data.streaming.SENTENCE_PHOTOS", 4)
    assert len(stream(shards).sentences) == 4
    monkeypatch.setattr("exiflang.data.streaming.SENTENCE_SHARDS", 1)
    assert len(stream(shards).sentences) == PHOTOS


# ------------------------------------------------ at a URL ------------------------------------------------
@pytest.fixture
def far(shards):
    """The shards in fsspec's memory."""
    memory = fsspec.filesystem("memory")
    for shard in shards:
        memory.pipe(f"/photos/train/{Path(shard).name}", Path(shard).read_bytes())
    yield "memory://photos/train"
    memory.rm("/photos", recursive=True)


def copies(folder: Path) -> int:
    """Number of shards in it and below. Unlike Path.rglob, os.walk ignores folders that a worker removes meanwhile."""
    return sum(name.endswith(".tar") for _, _, names in os.walk(folder) for name in names)


@pytest.mark.parametrize("workers", [0, 2])
def test_urls_give_the_same_batches_as_files_and_leave_nothing_behind(shards, far, tmp_path, monkeypatch, workers):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    dataset = stream(expand_shards(far))
    reading, near = loader(dataset, workers), loader(stream(shards), workers)
    batches = iter(reading)
    first = next(batches)
    assert copies(tmp_path) in ([4] if workers == 0 else range(9))
    rest = list(islice(batches, 8))
    assert copies(tmp_path) <= 4 * max(1, workers)
    batches.close()
    assert same([first, *rest], islice(near, 9))
    assert not list(tmp_path.iterdir())
    assert dataset.fingerprint == stream(shards).fingerprint


def test_missing_shards_are_skipped_counted_and_named(far):
    dataset, memory = stream(expand_shards(f"{far}/{{00000..00003}}.tar")), fsspec.filesystem("memory")
    memory.rm("/photos/train/00002.tar")
    reading = loader(dataset, 0)
    list(islice(reading, 5))
    assert [(reason.startswith("shard that cannot be read: memory:"), reason[-9:]) for reason in reading.left_out] == [
        (True, "00002.tar")
    ]
    memory.rm("/photos/train", recursive=True)
    with pytest.raises(DataError, match="no usable photo .1 times shard that cannot be read: memory:.*00000"):
        next(iter(dataset))
    memory.mkdirs("/photos/train")


def test_a_web_server(shards, tmp_path):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(Path(shards[0]).parent)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        address = f"http://127.0.0.1:{server.server_port}/{{00000..00002}}.tar"
        dataset = stream(expand_shards(address))
        found = sentences(one_pass(dataset, 0, 1))
        assert len(expand_shards(f"http://127.0.0.1:{server.server_port}/*.tar")) == SHARDS
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert sorted(found) == sorted(sentences(one_pass(stream(shards[:3]), 0, 1)))
    assert dataset.fingerprint != stream(shards[:3]).fingerprint  # sizes are not known


# ------------------------------------------------ damage ------------------------------------------------
def test_other_tiles_replace_broken_ones(scratched):
    reading = loader(stream(scratched), 0)
    found = [sentence for _, batch in islice(reading, 30) for sentence in batch]
    numbers = {number(sentence) for sentence in found}
    assert {1, 5, 17} <= numbers and numbers.isdisjoint({4, 10, 9, 11})  # 9 to 11: in the shard that is not a tar
    assert reading.left_out.keys() == {"broken tile", "damaged part of a shard"}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["broken tiles", "small tiles", "no tars", "empty tars", "no EXIF"])
def test_shards_without_any_photo_raise_an_error(tmp_path, kind, workers):
    one = {"exif": json.dumps({"Make": "Canon"})}
    for i in range(2):
        if kind == "no tars":
            (tmp_path / f"{i}.tar").write_bytes(b"")
        elif kind == "empty tars":
            tarfile.open(tmp_path / f"{i}.tar", "w").close()
        else:
            data = b"\x89PNG" if kind == "broken tiles" else tile(0, SIZE - 1)
            meta = {"exif": "{}"} if kind == "no EXIF" else one
            (made,) = write_shards([Sample(f"{j}", data, "png", meta) for j in range(9)], tmp_path / f"made{i}")
            made.rename(tmp_path / f"{i}.tar")
    reason = {"broken tiles": "times broken tile", "small tiles": "times tile smaller than a patch"}
    reason |= {"no tars": "damaged part of a shard", "empty tars": "no tile at all", "no EXIF": "tile without EXIF"}
    with pytest.raises(DataError, match=f"no usable photo .*{reason[kind]}.*: img2dataset"):
        next(iter(loader(stream(expand_shards(str(tmp_path))), workers)))
