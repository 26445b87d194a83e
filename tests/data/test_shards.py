"""Shards: written completely and reproducibly, read defensively."""

import gzip
import io
import json
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from exiflang.data.patches import PatchDataset, decode_patch
from exiflang.data.shards import DataError, Sample, find_shards, read_member, read_photos
from tests.shard_writer import write_shards

EXIF = '{"Image Make": "Canon", "Image Model": "Canon EOS 40D", "EXIF ISOSpeedRatings": "400"}'


def tile(seed: int = 0, size: int = 48) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def sample(number: int, photo: object = None, exif: object = None, **meta) -> Sample:
    exif = json.dumps({"Make": "Canon", "Model": f"EOS {number}"}) if exif is None else exif
    meta = {"exif": exif, "width": 48, "height": 48, **meta} | ({} if photo is None else {"photo": photo})
    return Sample(f"{number:08d}", tile(number), "png", meta)


def shard(folder: Path, members: dict[str, bytes], name: str = "00000.tar") -> Path:
    with tarfile.open(folder / name, "w") as tar:
        for member, data in members.items():
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return folder / name


def with_good(**members: bytes) -> dict[str, bytes]:
    return {"good.png": tile(), "good.json": json.dumps({"exif": EXIF}).encode(), **members}


# ------------------------------------------------ writing ------------------------------------------------
def test_the_layout_is_that_of_img2dataset(tmp_path):
    shards = write_shards((sample(i, photo=f"p{i}") for i in range(5)), tmp_path / "train", per_shard=2)
    assert [path.name for path in shards] == ["00000.tar", "00001.tar", "00002.tar"]
    assert find_shards(tmp_path / "train") == shards
    with tarfile.open(shards[0]) as tar:
        assert tar.getnames() == ["00000000.png", "00000000.json", "00000001.png", "00000001.json"]
        assert tar.extractfile("00000001.png").read() == tile(1)
        meta = json.load(tar.extractfile("00000001.json"))
    assert meta["photo"] == "p1" and json.loads(meta["exif"])["Model"] == "EOS 1" and meta["width"] == 48


def test_writing_is_deterministic(tmp_path):
    def swapped(one):
        return replace(one, meta=dict(reversed(one.meta.items())))

    first = write_shards((sample(i) for i in range(3)), tmp_path / "a", per_shard=2)
    second = write_shards((swapped(sample(i)) for i in range(3)), tmp_path / "b", per_shard=2)
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


# ------------------------------------------------ finding ------------------------------------------------
@pytest.mark.parametrize("folder", ["", "missing"])
def test_no_shards(tmp_path, folder):
    with pytest.raises(DataError, match="no .tar shard there.*01_prepare_data"):
        find_shards(tmp_path / folder)


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        (["00000", "00002"], "00001.tar"),
        (["00003", "00004", "00007"], "00005.tar"),
        (["8", "9", "11"], "10.tar"),
        (["0", "99999999999999999"], "1.tar"),
    ],
)
def test_the_error_names_a_missing_number(tmp_path, names, missing):
    for name in names:
        (tmp_path / f"{name}.tar").touch()
    with pytest.raises(DataError, match=f"shard {missing} is missing, the next is {names[-1]}.tar"):
        find_shards(tmp_path)


def test_shards_are_in_numeric_order_and_other_files_ignored(tmp_path):
    for name in ("9", "10", "8"):
        (tmp_path / f"{name}.tar").touch()
    (tmp_path / "._8.tar").touch()  # left by macOS on external disks
    (tmp_path / "9.part").touch()
    assert [path.stem for path in find_shards(tmp_path)] == ["8", "9", "10"]
    (tmp_path / "extra.tar").touch()
    assert len(find_shards(tmp_path)) == 4


# ------------------------------------------------ reading ------------------------------------------------
def test_write_and_read_round_trip(tmp_path):
    samples = [sample(0, photo="a"), sample(1, photo="b"), sample(2, photo="a"), sample(3)]
    photos, left_out = read_photos(write_shards(samples, tmp_path, per_shard=2))
    assert [photo.id for photo in photos] == ["a", "b", "00001.tar/00000003"]
    assert [photo.camera for photo in photos] == ["Canon EOS 0", "Canon EOS 1", "Canon EOS 3"]
    assert [[read_member(*place) for place in photo.tiles] for photo in photos] == [
        [tile(0), tile(2)],
        [tile(1)],
        [tile(3)],
    ]
    assert left_out == Counter()


@pytest.mark.parametrize("photo", [None, ""])
def test_photos_without_an_id_are_not_merged(tmp_path, photo):
    samples = [replace(one, meta={**one.meta, "photo": photo}) for one in map(sample, range(3))]
    assert len(read_photos(write_shards(samples, tmp_path))[0]) == 3


@pytest.mark.parametrize("exif", [json.loads(EXIF), EXIF], ids=["object", "string"])
def test_exif_may_be_an_object_or_a_json_string(tmp_path, exif):
    photos, _ = read_photos(write_shards([sample(0, exif=exif)], tmp_path))
    assert photos[0].tags == {"Make": "Canon", "Model": "Canon EOS 40D", "PhotographicSensitivity": "400"}


def test_private_tags_never_reach_a_sentence(tmp_path):
    exif = json.dumps({"Image Make": "Canon", "GPS GPSLatitude": "[48, 8, 0]", "EXIF BodySerialNumber": "0815007"})
    dataset = PatchDataset(write_shards([sample(0, exif=exif)], tmp_path), 8)
    assert dataset.sentences == ["Make: Canon"]


BAD_JSON = {
    "broken": (b"{", "JSON that cannot be read"),
    "empty": (b"", "JSON that cannot be read"),
    "binary": (b"\xff\xfe\x00", "JSON that cannot be read"),
    "a list": (b"[1]", "JSON that cannot be read"),
    "a number": (b"7", "JSON that cannot be read"),
    "null": (b"null", "JSON that cannot be read"),
    "too deep": (b"[" * 200_000, "JSON that cannot be read"),
    "a huge number": (b'{"exif": {}, "n": ' + b"9" * 9000 + b"}", "JSON that cannot be read"),
    "broken exif": (b'{"exif": "{"}', "JSON that cannot be read"),
    "exif a list": (b'{"exif": "[1, 2]"}', "JSON that cannot be read"),
    "exif a string": (b'{"exif": "\\"abc\\""}', "JSON that cannot be read"),
    "exif null in a string": (b'{"exif": "null"}', "JSON that cannot be read"),
    "exif a number": (b'{"exif": 7}', "JSON that cannot be read"),
    "exif null": (b'{"exif": null}', "tile without EXIF"),
    "no exif": (b'{"width": 8}', "tile without EXIF"),
    "unknown tags": (b'{"exif": "{\\"Nonsense\\": [[[1]]]}"}', "tile without EXIF"),
    "over 1 MB": (json.dumps({"exif": EXIF, "x": "x" * 1_000_000}).encode(), "JSON larger than 1 MB"),
}


@pytest.mark.parametrize("kind", BAD_JSON)
def test_bad_json_is_counted_once_and_reading_continues(tmp_path, kind):
    data, reason = BAD_JSON[kind]
    photos, left_out = read_photos([shard(tmp_path, with_good(**{"bad.png": tile(), "bad.json": data}))])
    assert [photo.id for photo in photos] == ["00000.tar/good"]
    assert left_out == Counter({reason: 1})


def test_tiles_without_json_and_json_without_tiles_are_counted(tmp_path):
    members = {"a.png": tile(), "b.json": json.dumps({"exif": EXIF}).encode()}
    _, left_out = read_photos([shard(tmp_path, with_good(**members))])
    assert left_out == Counter({"tile without JSON": 1, "JSON without tile": 1})


def test_a_huge_tile_is_left_out_without_reading_it(tmp_path):
    path = tmp_path / "00000.tar"
    with tarfile.open(path, "w") as tar:
        for name, size in (("huge.png", 32_000_001), ("huge.json", 2), ("good.png", 9)):
            info = tarfile.TarInfo(name)
            info.size = size
            tar.addfile(info, io.BytesIO(b"{}" + bytes(size - 2)))
        info.name, info.size = "good.json", len(data := json.dumps({"exif": EXIF}).encode())
        tar.addfile(info, io.BytesIO(data))
    photos, left_out = read_photos([path])
    assert [photo.id for photo in photos] == ["00000.tar/good"]
    assert left_out == Counter({"tile larger than 32 MB": 1})


def test_member_names_are_not_used_as_paths(tmp_path, monkeypatch):
    inner = tmp_path / "inner"
    inner.mkdir()
    meta = json.dumps({"exif": EXIF}).encode()
    members = {f"{key}.{extension}": data for key in ("../up", "/abs", "a/b", "a/../c")
               for extension, data in (("png", tile()), ("json", meta))}  # fmt: skip
    photos, left_out = read_photos([shard(inner, members)])
    assert len(photos) == 4 and left_out == Counter()
    assert [path.name for path in tmp_path.rglob("*")] == ["inner", "00000.tar"]


def test_links_and_folders_are_ignored_and_case_does_not_matter(tmp_path):
    path = tmp_path / "00000.tar"
    with tarfile.open(path, "w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo("good.png")
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        for name, data in (("good.JPG", tile()), ("good.json", json.dumps({"exif": EXIF}).encode())):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    photos, _ = read_photos([path])
    assert [read_member(*place) for place in photos[0].tiles] == [tile()]


def test_the_error_without_any_usable_tile_gives_the_reasons(tmp_path):
    path = shard(tmp_path, {"a.png": tile(), "a.json": b"{}", "b.png": tile()})
    with pytest.raises(DataError, match="no tile with EXIF.*1 times tile without EXIF; 1 times tile without JSON"):
        read_photos([path])
    with pytest.raises(DataError, match="no shards: no tile with EXIF"):
        read_photos([])
    with pytest.raises(DataError, match="no tile at all"):
        read_photos([shard(tmp_path, {})])


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"no tar" * 999,
        lambda data: data[:700],  # within a tile
        lambda data: data[: data.rindex(b"good.json")],  # after a member: tarfile would take this for the end
        lambda data: data[: data.rindex(b"good.json") + 100],  # within a header
        lambda data: data.replace(b"ustar", b"?star").replace(b"good.json", b"!ood.json"),  # wrong checksum
        gzip.compress,
        lambda data: data[:124] + b"\xff" * 11 + b"\0" + data[136:],  # size -1
    ],
    ids=["empty", "text", "in a tile", "after a member", "in a header", "damaged", "compressed", "negative size"],
)
def test_the_error_names_a_damaged_shard(tmp_path, damage):
    path = shard(tmp_path, with_good())
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match="00000.tar.*(download or write it again|write it again)"):
        read_photos([path])


def test_a_negative_size_with_a_valid_checksum(tmp_path):
    """It makes Python's tarfile seek backwards: without a check these three members are read forever."""
    headers = [bytearray(tarfile.TarInfo(f"{i}.txt").tobuf(tarfile.GNU_FORMAT)) for i in range(3)]
    headers[2][124:136] = (-1024).to_bytes(12, "big", signed=True)
    headers[2][148:156] = b" " * 8
    headers[2][148:156] = b"%06o\0 " % sum(headers[2])
    path = tmp_path / "00000.tar"
    path.write_bytes(b"".join(headers) + bytes(10240))
    with pytest.raises(DataError, match="00000.tar.*negative size"):
        read_photos([path])


def test_missing_and_unreadable_shards(tmp_path):
    with pytest.raises(DataError, match="gone.tar: cannot be read .*01_prepare_data"):
        read_photos([tmp_path / "gone.tar"])
    (tmp_path / "folder.tar").mkdir()
    with pytest.raises(DataError, match="folder.tar: cannot be read"):
        read_photos([tmp_path / "folder.tar"])


def test_read_member_of_a_shard_that_changed(tmp_path):
    path = shard(tmp_path, with_good())
    (photo,), _ = read_photos([path])
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(DataError, match="00000.tar: ends in the middle of a tile"):
        read_member(*photo.tiles[0])
    path.unlink()
    with pytest.raises(DataError, match="00000.tar: cannot be read"):
        read_member(*photo.tiles[0])


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=30))
def test_mutated_shards_give_photos_or_a_data_error(tmp_path, changes):
    path = shard(tmp_path, with_good(**{"b.png": b"12", "b.json": b'{"exif": "{}"}'}))
    data = bytearray(path.read_bytes())
    for position, value in changes:
        data[position % len(data)] = value
    path.write_bytes(data)
    try:
        photos, _ = read_photos([path])
    except DataError as error:
        assert "00000.tar" in str(error)
    else:
        assert all(photo.tags for photo in photos)


def test_the_real_photos(shared):
    photos, left_out = read_photos(find_shards(shared / "photos"))
    assert len(photos) == 4983 and sum(len(photo.tiles) for photo in photos) == 9309
    assert left_out == Counter()
    assert len({photo.camera for photo in photos}) > 450
    patch = decode_patch(photos[0], 124, np.random.default_rng(0))
    assert patch.shape == (3, 124, 124)
