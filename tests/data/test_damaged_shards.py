"""With damaged="skip" a shard loses only the samples that are damaged, and reports them."""

import tarfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exiflang.data.shards import DataError, index_photos, read_member
from tests.data.test_shards import sample
from tests.shard_writer import write_shards

COUNT = 6
DAMAGED = "damaged part of a shard"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return write_shards([sample(i, photo=str(i)) for i in range(COUNT)], tmp_path_factory.mktemp("whole"))[0]


def headers(path: Path) -> list[tuple[str, int, int, int]]:
    """For each member: its name, and the offsets of its header, its data and the next header."""
    with tarfile.open(path) as tar:
        members = tar.getmembers()
    ends = [member.offset for member in members[1:]] + [members[-1].offset_data + 512]
    return [(m.name, m.offset, m.offset_data, end) for m, end in zip(members, ends, strict=True)]


def read(folder: Path, data: bytes) -> tuple[dict[str, list[bytes]], Counter]:
    """The tiles of each photo, and counts of what was left out."""
    path = folder / "0.tar"
    path.write_bytes(data)
    photos, left_out = index_photos([path], damaged="skip")
    counts = Counter({reason: len(names) for reason, names in left_out.items()})
    return {photo.id: [read_member(*place) for place in photo.tiles] for photo in photos}, counts


def index(folder: Path, data: bytes) -> tuple[list[int], Counter]:
    found, left_out = read(folder, data)
    return [int(name) for name in found], left_out


def test_an_intact_shard_is_read_as_without_the_option(whole, tmp_path):
    assert index_photos([whole], damaged="skip") == index_photos([whole])
    assert index(tmp_path, whole.read_bytes()) == (list(range(COUNT)), Counter())


@pytest.mark.parametrize("number", range(2 * COUNT))
@pytest.mark.parametrize("kind", ["flipped", "zeros", "ones"])
def test_a_damaged_header_costs_its_sample(whole, tmp_path, number, kind):
    data = bytearray(whole.read_bytes())
    name, start, *_ = headers(whole)[number]
    if kind == "flipped":
        data[start + 3] ^= 1
    else:
        data[start : start + 512] = bytes(512) if kind == "zeros" else b"\xff" * 512
    found, left_out = index(tmp_path, bytes(data))
    assert found == [i for i in range(COUNT) if i != number // 2]
    lone = "JSON without tile" if name.endswith(".png") else "tile without JSON"
    hidden = kind == "zeros" and number == 2 * COUNT - 1  # zeros mark the end of the archive if no header follows
    assert left_out == Counter({lone: 1} | ({} if hidden else {DAMAGED: 1}))
    if kind == "flipped":
        with pytest.raises(DataError, match="0.tar"):
            index_photos([tmp_path / "0.tar"])


def test_a_truncated_shard_keeps_its_complete_samples(whole, tmp_path):
    data, places = whole.read_bytes(), headers(whole)
    for length in (*range(0, len(data), 777), *(end for *_, end in places)):
        found, left_out = index(tmp_path, data[:length])
        kept = [i for i in range(COUNT) if places[2 * i + 1][2] + 120 <= length]
        assert found in (kept, kept + [len(kept)])
        assert left_out[DAMAGED] == (length < places[-1][3] + 512)


def test_a_hole_in_the_middle(whole, tmp_path):
    data, places = bytearray(whole.read_bytes()), headers(whole)
    data[places[2][1] : places[7][1] + 700] = b"x" * (places[7][1] + 700 - places[2][1])
    found, left_out = index(tmp_path, bytes(data))
    assert found == [0, 4, 5] and left_out == Counter({DAMAGED: 1})


@pytest.mark.parametrize("data", [b"", b"x", b"no tar" * 999, bytes(10240), b"\x1f\x8b" * 4000])
def test_data_that_is_not_a_tar_has_no_photos(tmp_path, data):
    found, left_out = index(tmp_path, data)
    assert found == [] and left_out[DAMAGED] == bool(data.strip(b"\0") or not data)


def test_a_missing_shard_is_still_an_error(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        index_photos([tmp_path / "gone.tar"], damaged="skip")


def test_a_negative_size_ends_the_shard(tmp_path):
    members = [bytearray(tarfile.TarInfo(f"{i}.txt").tobuf(tarfile.GNU_FORMAT)) for i in range(3)]
    members[2][124:136] = (-1024).to_bytes(12, "big", signed=True)
    members[2][148:156] = b" " * 8
    members[2][148:156] = b"%06o\0 " % sum(members[2])
    assert index(tmp_path, b"".join(members) + bytes(10240)) == ([], Counter({DAMAGED: 1}))


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=20), st.integers(0, 60_000))
def test_damage_does_not_affect_other_samples(whole, tmp_path, changes, length):
    original, places = whole.read_bytes(), headers(whole)
    with tarfile.open(whole) as tar:
        tiles = [tar.extractfile(name).read() for name, *_ in places[::2]]
    data = bytearray(original)
    for position, value in changes:
        data[position % len(data)] = value
    data = bytes(data[: max(length, len(data) - length)])
    found, _ = read(tmp_path, data)
    for i, tile in enumerate(tiles):
        sample = slice(places[2 * i][1], places[2 * i + 1][3])
        if data[sample] == original[sample]:
            assert tile in found.get(str(i), [])


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(st.integers(0, 2 * COUNT - 1)), st.integers(0, 511).filter(lambda byte: byte != 155))
def test_damaged_headers_cost_only_their_own_samples(whole, tmp_path, hit, byte):
    """Byte 155 follows the terminator of the checksum and has no meaning."""
    data, places = bytearray(whole.read_bytes()), headers(whole)
    for number in hit:
        data[places[number][1] + byte] ^= 0x15
    lost = {number // 2 for number in hit}
    assert index(tmp_path, bytes(data))[0] == [i for i in range(COUNT) if i not in lost]
