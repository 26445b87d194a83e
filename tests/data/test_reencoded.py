"""img2dataset's own output: its EXIF is read, and pictures that it re-encoded are detected."""

import hashlib
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from exiflang.data.patches import PatchDataset
from exiflang.data.shards import SAMPLES, find_shards, warn_of_reencoding
from exiflang.data.streaming import StreamDataset
from tests.data.test_shards import EXIF, shard, tile


def fetched(folder: Path, changed: int = 0, kind: str = "sha256", count: int = 6, **more: object) -> Path:
    """A shard as img2dataset writes it, with hashes of the downloads; the first `changed` pictures differ."""
    members = {}
    for i in range(count):
        meta = {
            "url": f"https://a.example/{i}.jpg",
            "status": "success",
            "error_message": None,
            "key": f"{i:09d}",
            "width": 48,
            "height": 48,
            "original_width": 48,
            "original_height": 48,
            "exif": EXIF,
            kind: hashlib.new(kind, tile(i)).hexdigest(),
            **more,
        }
        members |= {f"{i:09d}.jpg": tile(i + 100 if i < changed else i), f"{i:09d}.txt": b"a caption"}
        members[f"{i:09d}.json"] = json.dumps(meta).encode()
    return shard(folder, members)


@pytest.fixture(params=["at once", "streamed"])
def read(request) -> Iterator:
    yield {
        "at once": lambda path: PatchDataset([path], 16).sentences,
        "streamed": lambda path: StreamDataset([path], 16).sentences,
    }[request.param]


@pytest.mark.parametrize("kind", ["sha256", "sha512", "md5"])
def test_unchanged_files_raise_no_warning(tmp_path, read, kind):
    assert read(fetched(tmp_path, kind=kind)) == ["Make: Canon, Model: Canon EOS 40D, PhotographicSensitivity: 400"] * 6


@pytest.mark.parametrize("kind", ["sha256", "sha512", "md5"])
def test_re_encoded_pictures_raise_one_warning(tmp_path, read, kind):
    path = fetched(tmp_path, 4, kind)
    with pytest.warns(UserWarning, match="00000.tar: 4 of the first 6 pictures.*disable_all_reencoding=True") as said:
        assert len(read(path)) == 6
    assert len(said) == 1


@pytest.mark.parametrize("more", [{"original_width": 4000, "original_height": 3000}, {"original_height": 49}])
def test_resized_pictures_raise_a_warning(tmp_path, read, more):
    path = fetched(tmp_path, **more, sha256=None)
    with pytest.warns(UserWarning, match="6 of the first 6 pictures.*resize_mode='no'"):
        read(path)


@pytest.mark.parametrize(
    "meta",
    [
        {"width": 48, "height": 48},
        {"sha256": None, "original_width": None},
        {"sha256": 7},
        {"original_width": 4000},
        {"sha256": ["x"], "width": {}},
        {"photo": "p", "width": 48, "height": 48, "original_width": 4000, "original_height": 3000, "x": 8, "y": 0},
    ],
)
def test_samples_without_hashes_or_sizes_raise_no_warning(tmp_path, read, meta):
    path = shard(tmp_path, {"a.png": tile(), "a.json": json.dumps({"exif": EXIF, **meta}).encode()})
    assert len(read(path)) == 1


def test_the_first_shard_with_hashes_or_sizes_decides(tmp_path):
    """The first is one of our own, the next one img2dataset's; at most 50 samples are read, and no later shard."""
    plain = shard(tmp_path, {"a.png": tile(), "a.json": b'{"exif": {}}'}, "0.tar")
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    many, other = fetched(folders[0], count=SAMPLES + 9, changed=1), fetched(folders[1], changed=6)
    with pytest.warns(UserWarning, match=f"1 of the first {SAMPLES} pictures") as said:
        warn_of_reencoding([plain, many, other])
    assert len(said) == 1


@pytest.mark.parametrize("data", [b"", b"no tar" * 999, None])
def test_an_unreadable_shard_does_not_hide_the_next(tmp_path, recwarn, data):
    path = tmp_path / "0.tar"
    if data is not None:
        path.write_bytes(data)
    warn_of_reencoding([path])
    assert not recwarn
    with pytest.warns(UserWarning, match="00000.tar: 1 of the first 6 pictures"):
        warn_of_reencoding([path, fetched(tmp_path, changed=1)])


@pytest.mark.parametrize("meta", [b"{", b"[" * 99_999, b"[]", b"\xff"])
def test_samples_before_an_unreadable_one_count(tmp_path, recwarn, meta):
    broken = {"b.png": tile(), "b.json": meta}
    warn_of_reencoding([shard(tmp_path, broken, "0.tar")])
    assert not recwarn
    changed = {"a.png": tile(), "a.json": json.dumps({"sha256": "0" * 64}).encode()}
    with pytest.warns(UserWarning, match="1.tar: 1 of the first 1 pictures"):
        warn_of_reencoding([shard(tmp_path, changed | broken, "1.tar")])


def test_an_empty_list_raises_no_warning(recwarn):
    warn_of_reencoding([])
    assert not recwarn


def test_losslessly_cut_tiles_raise_no_warning(shared, recwarn):
    """Each records the photo's size beside its own, as a resized picture does."""
    shards = find_shards(shared / "photos")
    with tarfile.open(shards[0]) as tar:
        meta = json.load(tar.extractfile(next(name for name in tar.getnames() if name.endswith(".json"))))
    assert meta["width"] < meta["original_width"]
    warn_of_reencoding(shards)
    assert not recwarn
