"""Patches and sentences: crops of the photo's own tiles and tags, determined by (seed, epoch, index)."""

import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from exiflang.data.patches import PatchDataset, decode_patch, decode_tile
from exiflang.data.shards import DataError, plain_name
from exiflang.exif.text import exif_to_text
from tests.data.test_shards import EXIF, sample, shard, tile
from tests.shard_writer import write_shards


@pytest.fixture
def shards(tmp_path) -> list[Path]:
    return write_shards((sample(i, photo=f"p{i // 2}") for i in range(20)), tmp_path / "set", per_shard=7)


def test_an_item_is_a_patch_and_a_sentence(shards):
    dataset = PatchDataset(shards, 16)
    assert len(dataset) == 10
    patch, sentence = dataset[3]
    assert patch.dtype == torch.uint8 and patch.shape == (3, 16, 16) and patch.is_contiguous()
    assert sentence == exif_to_text({"Make": "Canon", "Model": "EOS 6"})
    with pytest.raises(IndexError):
        dataset[10]


def test_a_patch_is_a_crop_of_one_of_the_photos_tiles(shards):
    """Naive oracle: search all positions in both tiles."""
    dataset = PatchDataset(shards, 40)
    for index in range(3):
        patch = dataset[index][0].numpy().transpose(1, 2, 0)  # [3, P, P] -> [P, P, 3]
        tiles = [np.array(Image.open(io.BytesIO(tile(2 * index + i)))) for i in range(2)]
        places = [(i, y, x) for i in range(2) for y in range(9) for x in range(9)]
        assert any(np.array_equal(patch, tiles[i][y : y + 40, x : x + 40]) for i, y, x in places)


def test_crops_depend_only_on_seed_epoch_and_index(shards):
    dataset, again, other = PatchDataset(shards, 16, seed=1), PatchDataset(shards, 16, seed=1), PatchDataset(shards, 16)
    backwards = {i: again[i][0] for i in reversed(range(10))}
    first = [dataset[i][0] for i in range(10)]
    assert all(torch.equal(first[i], backwards[i]) for i in range(10))
    assert sum(torch.equal(first[i], other[i][0]) for i in range(10)) < 3
    dataset.set_epoch(1)
    assert sum(torch.equal(first[i], dataset[i][0]) for i in range(10)) < 3
    dataset.set_epoch(0)
    assert all(torch.equal(first[i], dataset[i][0]) for i in range(10))


def test_neither_worker_processes_nor_the_cache_change_anything(shards):
    options = {"views": 2, "tag_dropout": 0.5, "shuffle_tags": True}
    plain, cached = PatchDataset(shards, 16, 5, **options), PatchDataset(shards, 16, 5, **options, cache=True)
    plain.set_epoch(2), cached.set_epoch(2)
    expected = [plain[i] for i in range(10)]
    loader = DataLoader(cached, batch_size=4, num_workers=2, multiprocessing_context="spawn")
    for path in shards:
        path.unlink()
    patches, sentences = zip(*loader, strict=True)
    assert torch.equal(torch.cat(patches), torch.stack([patch for patch, _ in expected]))
    assert [text for batch in sentences for text in batch] == [text for _, text in expected]
    with pytest.raises(DataError, match="cannot be read"):
        plain[0]


@pytest.mark.parametrize("count", [1, 2, 3, 20])
def test_shuffled_exif_is_a_stable_permutation_without_fixed_points(tmp_path, count):
    shards = write_shards(map(sample, range(count)), tmp_path)
    own, shuffled = PatchDataset(shards, 8, seed=3), PatchDataset(shards, 8, seed=3, exif="shuffled")
    assert sorted(shuffled.sentences) == sorted(own.sentences)
    assert count == 1 or all(a != b for a, b in zip(own.sentences, shuffled.sentences, strict=True))
    shuffled.set_epoch(4)
    assert shuffled.sentences == PatchDataset(shards, 8, seed=3, exif="shuffled").sentences
    assert torch.equal(own[0][0], PatchDataset(shards, 8, seed=3, exif="shuffled")[0][0])
    if count == 20:
        assert shuffled.sentences != PatchDataset(shards, 8, seed=4, exif="shuffled").sentences


def test_the_fingerprint_identifies_the_training_data(shards, tmp_path):
    same = write_shards((sample(i, photo=f"p{i // 2}") for i in range(20)), tmp_path / "copy", per_shard=7)
    fewer = write_shards((sample(i, photo=f"p{i // 2}") for i in range(18)), tmp_path / "fewer", per_shard=7)
    recut = [replace(sample(i, photo=f"p{i // 2}"), data=tile(i, size=56)) for i in range(20)]
    recut = write_shards(recut, tmp_path / "recut", per_shard=7)
    base = PatchDataset(shards, 16).fingerprint
    assert PatchDataset(same, 16).fingerprint == base
    dataset = PatchDataset(shards, 16)
    dataset.set_epoch(3)
    assert dataset.fingerprint == base
    others = [
        PatchDataset(shards, 17),
        PatchDataset(shards, 16, seed=1),
        PatchDataset(shards, 16, exif="shuffled"),
        PatchDataset(fewer, 16),
        PatchDataset(recut, 16),
        PatchDataset(shards, 16, views=2),
        PatchDataset(shards, 16, tag_dropout=0.5),
        PatchDataset(shards, 16, shuffle_tags=True),
    ]
    assert len({base, *(dataset.fingerprint for dataset in others)}) == 9
    assert PatchDataset(shards, 16, tag_dropout=0, cache=True).fingerprint == base


def test_the_default_fingerprint_is_that_of_earlier_versions(shards):
    """So that runs started before views and tag dropout existed can be resumed."""
    dataset = PatchDataset(shards, 16, seed=2)
    tiles = [[photo.id, [(shard.name, *place) for shard, *place in photo.tiles]] for photo in dataset.photos]
    what = json.dumps([16, 2, tiles, dataset.sentences])
    assert dataset.fingerprint == hashlib.sha256(what.encode()).hexdigest()


def test_a_patch_may_be_as_large_as_its_tile_but_not_larger(shards):
    assert PatchDataset(shards, 48)[0][0].shape == (3, 48, 48)
    with pytest.raises(DataError, match="photo p0 is 48 x 48 pixels, smaller than a patch of 49: choose a smaller"):
        PatchDataset(shards, 49)[0]


def test_the_error_names_a_broken_tile(tmp_path):
    path = shard(tmp_path, {"a.jpg": b"\xff\xd8\xff no picture", "a.json": json.dumps({"exif": EXIF}).encode()})
    dataset = PatchDataset([path], 16)
    with pytest.raises(DataError, match="00000.tar: a tile of photo 00000.tar/a cannot be decoded"):
        dataset[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"exif": "none"}, "'own' or 'shuffled'"),
        ({"patch_size": 0}, "at least 1"),
        ({"views": 0}, "views is 0"),
        ({"views": 1.5}, "views is 1.5"),
        ({"tag_dropout": -0.1}, "tag_dropout is -0.1"),
        ({"tag_dropout": 1.0}, "tag_dropout is 1.0"),
        ({"tag_dropout": float("nan")}, "tag_dropout is nan"),
    ],
)
def test_wrong_arguments(shards, arguments, message):
    with pytest.raises(ValueError, match=message):
        PatchDataset(shards, **{"patch_size": 16} | arguments)


def test_paths_may_be_strings(shards):
    assert len(PatchDataset([str(path) for path in shards], 16)) == 10


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 48), st.integers(0, 2**63), st.integers(0, 9))
def test_any_patch_size_and_seed(shards, size, seed, index):
    patch, sentence = PatchDataset(shards, size, seed)[index]
    assert patch.shape == (3, size, size) and sentence


# ------------------------------------------------- views -------------------------------------------------
@pytest.fixture
def uneven(tmp_path) -> list[Path]:
    """Photos with 1, 2, 3 and 4 tiles; each pixel of tile n has the value n."""
    photos = [photo for photo in range(4) for _ in range(photo + 1)]
    flat = [plain(number) for number in range(10)]
    made = [replace(sample(n, photo=f"p{photo}"), data=flat[n]) for n, photo in enumerate(photos)]
    return write_shards(made, tmp_path / "uneven")


def plain(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (48, 48), (level, level, level)).save(buffer, "PNG")
    return buffer.getvalue()


def test_views_use_different_tiles_where_there_are_enough(uneven):
    dataset = PatchDataset(uneven, 16, views=3)
    tiles = [{0}, {1, 2}, {3, 4, 5}, {6, 7, 8, 9}]
    for epoch in range(20):
        dataset.set_epoch(epoch)
        for index, known in enumerate(tiles):
            patches = dataset[index][0]
            assert patches.dtype == torch.uint8 and patches.shape == (3, 3, 16, 16) and patches.is_contiguous()
            seen = {int(patch.max()) for patch in patches}
            assert seen <= known and len(seen) == min(3, len(known))


def test_every_tile_is_equally_likely_in_every_view(uneven):
    dataset = PatchDataset(uneven, 16, views=2)
    counts = np.zeros((2, 10))
    for epoch in range(400):
        dataset.set_epoch(epoch)
        for view, patch in enumerate(dataset[3][0]):
            counts[view, int(patch.max())] += 1
    assert np.abs(counts[:, 6:] - 100).max() < 4.5 * np.sqrt(75)


def test_the_first_view_does_not_depend_on_the_others(shards):
    one, two, five = (PatchDataset(shards, 16, seed=3, views=views) for views in (1, 2, 5))
    for index in range(10):
        assert torch.equal(one[index][0], two[index][0][0])
        assert torch.equal(two[index][0], five[index][0][:2])
        assert one[index][1] == two[index][1] == five[index][1]


def test_a_single_patch_is_drawn_as_in_earlier_versions(shards):
    """Golden results depend on these draws: tile, y and x, in this order."""
    dataset = PatchDataset(shards, 16, seed=3)
    dataset.set_epoch(2)
    for index, photo in enumerate(dataset.photos):
        rng = np.random.default_rng([3, 2, index])
        number = rng.integers(2)
        y, x = rng.integers(33), rng.integers(33)
        pixels = np.array(Image.open(io.BytesIO(tile(2 * index + number))))
        expected = torch.from_numpy(pixels[y : y + 16, x : x + 16].transpose(2, 0, 1).copy())
        assert torch.equal(dataset[index][0], expected)
        assert torch.equal(decode_patch(photo, 16, np.random.default_rng([3, 2, index])), expected)


def test_views_of_the_same_tile_are_at_different_positions(tmp_path):
    dataset = PatchDataset(write_shards([sample(0)], tmp_path), 16, views=4)
    patches = dataset[0][0]
    assert len({patch.numpy().tobytes() for patch in patches}) == 4


def test_a_tile_is_decoded_once_per_item(uneven, monkeypatch):
    decoded = []

    def counting(photo, place):
        decoded.append(place)
        return decode_tile(photo, place)

    monkeypatch.setattr("exiflang.data.patches.decode_tile", counting)
    dataset = PatchDataset(uneven, 16, views=3)
    for index, tiles in enumerate([1, 2, 3, 3]):
        decoded.clear()
        dataset[index]
        assert len(decoded) == len(set(decoded)) == tiles


def test_the_error_names_a_broken_tile_among_views(tmp_path):
    (good,) = [sample(0, photo="p")]
    dataset = PatchDataset(write_shards([good, replace(good, key="b", data=b"broken")], tmp_path), 16, views=2)
    with pytest.raises(DataError, match="a tile of photo p cannot be decoded"):
        dataset[0]


def test_the_cache_reports_a_broken_tile_immediately(tmp_path):
    shards = write_shards([sample(0), replace(sample(1), data=b"broken")], tmp_path)
    with pytest.raises(DataError, match="00000.tar: a tile of photo .* cannot be decoded"):
        PatchDataset(shards, 16, cache=True)


# ------------------------------------------------- tags -------------------------------------------------
MANY = {"Make": "Canon", "Model": "EOS 5D", "LensModel": "a, b: c", "FNumber": "8", "PhotographicSensitivity": "100"}


@pytest.fixture
def tagged(tmp_path) -> list[Path]:
    tags = [MANY | {"Model": f"EOS {i}"} for i in range(6)] + [{"Make": "Canon"}]
    return write_shards([sample(i, exif=json.dumps(exif)) for i, exif in enumerate(tags)], tmp_path / "tagged")


def sentences_of(dataset: PatchDataset, epochs: int) -> list[list[str]]:
    rows = []
    for epoch in range(epochs):
        dataset.set_epoch(epoch)
        rows.append([dataset[index][1] for index in range(len(dataset))])
    return rows


def test_tags_are_dropped_with_their_probability_and_keep_their_order(tagged):
    dataset = PatchDataset(tagged, 8, tag_dropout=0.3)
    whole = [sentence.split(", ") for sentence in dataset.sentences]
    assert [len(words) for words in whole] == [5] * 6 + [1] and "LensModel: a; b: c" in whole[0]
    kept = 0
    for row in sentences_of(dataset, 100):
        for sentence, words in zip(row, whole, strict=True):
            left = sentence.split(", ")
            assert left == [word for word in words if word in left] and sentence
            kept += len(left) * (len(words) > 1)
    assert kept / (100 * 6 * 5) == pytest.approx(0.7, abs=0.03)


def test_at_least_one_tag_always_remains_and_it_may_be_any(tagged):
    dataset = PatchDataset(tagged, 8, tag_dropout=0.999)
    rows = sentences_of(dataset, 60)
    assert all(len(sentence.split(", ")) <= 2 for row in rows for sentence in row)
    assert {row[0] for row in rows} >= set(dataset.sentences[0].split(", "))
    assert {row[6] for row in rows} == {"Make: Canon"}


def test_shuffling_keeps_the_set_of_tags(tagged):
    dataset = PatchDataset(tagged, 8, shuffle_tags=True)
    rows = sentences_of(dataset, 30)
    for row in rows:
        for sentence, own in zip(row, dataset.sentences, strict=True):
            assert sorted(sentence.split(", ")) == sorted(own.split(", "))
    assert len({row[0] for row in rows}) > 20
    assert {row[0].split(", ")[0] for row in rows} == set(dataset.sentences[0].split(", "))


@pytest.mark.parametrize("exif", ["own", "shuffled"])
def test_sentences_depend_only_on_seed_epoch_and_index(tagged, exif):
    def draw(seed=0, **options):
        return PatchDataset(tagged, 8, seed, exif, tag_dropout=0.5, shuffle_tags=True, **options)

    dataset, other = draw(), draw(seed=1)
    rows, again = sentences_of(dataset, 3), sentences_of(draw(), 3)
    assert rows == again != sentences_of(other, 3) and rows[0] != rows[1]
    plain = PatchDataset(tagged, 8, exif=exif)
    assert dataset.sentences == plain.sentences
    dataset.set_epoch(1)
    plain.set_epoch(1)
    for index in reversed(range(7)):
        patch, sentence = dataset[index]
        assert sentence == rows[1][index] and set(sentence.split(", ")) <= set(plain.sentences[index].split(", "))
        assert torch.equal(patch, plain[index][0])
    assert sentences_of(draw(views=2), 1) == rows[:1]


def test_an_empty_sentence_stays_empty(tagged):
    dataset = PatchDataset(tagged, 8, tag_dropout=0.5, shuffle_tags=True)
    dataset.sentences = [""] * 7
    assert {dataset[index][1] for index in range(7)} == {""}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("SONY DSC-W1", "Sony DSC W1", True),
        ("OLYMPUS OPTICAL CO.,LTD C4", "Olympus Optical Co. Ltd C-4", True),
        ("Ｃａｎｏｎ 5", "canon5", True),
        ("NIKON D90", "NIKON D80", False),
        ("ソニー A1", "キヤノン A1", False),
        ("", "---", True),
    ],
)
def test_plain_names(one, other, same):
    assert (plain_name(one) == plain_name(other)) is same
