"""Preparing a data set: it names what was left out, and keeps test cameras out of training."""

import csv
import hashlib
import io
import json
import os
import tarfile
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from exiflang.data.index import read_index
from exiflang.data.patches import decode_tile
from exiflang.data.shards import DataError, Sample, find_shards, index_photos, read_member, read_photos
from exiflang.evaluation.benchmarks import load_benchmark
from exiflang.preparation import dataset as module
from exiflang.preparation import shard_job as jobs
from exiflang.preparation.dataset import split_makes
from exiflang.preparation.options import Contents, Split
from exiflang.preparation.sources import write_plan
from exiflang.preparation.splits import Splitter
from exiflang.simulation.cameras import CAMERAS
from exiflang.simulation.splices import write_splices
from exiflang.utils.images import load_image
from exiflang.utils.raw_files import DEVELOP
from exiflang.utils.storage import Store
from tests.dng import dng
from tests.preparation.flat import prepare
from tests.shard_writer import write_shards

SMALL = {"tile_size": 32, "tiles_per_photo": 2, "min_tags": 3}
TINY = {"photos_per_camera": 2, "unseen_makes": 1, "splices": 2, "authentic": 1, "heldout_share": 0.5, "workers": 1}


def photo(model: str = "EOS 40D", seed: int = 0, size: tuple[int, int] = (80, 72), exif: bool = True) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    tags = Image.Exif()
    if exif:
        tags[0x010F], tags[0x0110], tags[0x0131], tags[0x0112] = "Canon", model, "Firmware 1.0", 1
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", exif=tags)
    return buffer.getvalue()


def album(folder: Path, photos: int = 4) -> Path:
    folder.mkdir(parents=True)
    for i in range(photos):
        (folder / f"{i:03d}.jpg").write_bytes(photo(seed=i))
    return folder


def photos_of(folder: Path) -> list:
    return read_photos(find_shards(folder))[0]


@pytest.fixture
def few_cameras(monkeypatch) -> list:
    """Three makes with small pictures, since these tests concern the data set and not the pictures."""
    makes = sorted({camera.make for camera in CAMERAS})[:3]
    cameras = [replace(c, size=(160, 128)) for make in makes for c in [c for c in CAMERAS if c.make == make][:2]]
    monkeypatch.setattr(module, "CAMERAS", cameras)
    monkeypatch.setattr(module, "write_splices", partial(write_splices, size=(160, 128)))
    return cameras


# ----------------------------------------------- simulated -----------------------------------------------
def test_a_simulated_data_set_is_complete(few_cameras, tmp_path):
    result = prepare("simulated", tmp_path / "set", **SMALL, **TINY)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]
    assert result == json.loads((tmp_path / "set" / "dataset.json").read_text())
    assert result["photos"] == {"train": 4, "heldout": 4} and result["left_out"] == {}
    assert result["arguments"]["source"] == "simulated" and "workers" not in result["arguments"]

    train, heldout = photos_of(tmp_path / "set" / "train"), photos_of(tmp_path / "set" / "heldout")
    assert not {photo.id for photo in train} & {photo.id for photo in heldout}
    assert {photo.camera for photo in heldout} == {photo.camera for photo in train}
    assert all(len(photo.tiles) == 2 and len(photo.tags) >= 20 for photo in train + heldout)
    assert load_image(read_member(*train[0].tiles[0])).shape == (32, 32, 3)

    trained, unseen = {photo.camera for photo in train}, set(result["unseen_cameras"])
    assert len(unseen) == 2 and not trained & unseen
    assert trained | unseen == {camera.name for camera in few_cameras}
    for kind, cameras, spliced in (("unseen", unseen, 2), ("seen", trained, 1)):
        folder = tmp_path / "set" / "splices" / kind
        rows = list(csv.DictReader(io.StringIO((folder / "index.csv").read_text(encoding="utf-8"))))
        assert {row["host_camera"] for row in rows} | {row["donor_camera"] for row in rows} <= cameras | {""}
        items = list(load_benchmark("folder", folder))
        assert [item.spliced for item in items] == [True] * spliced + [False]

    for name, digest in result["shards"].items():
        assert hashlib.sha256((tmp_path / "set" / name).read_bytes()).hexdigest() == digest
    assert sorted(result["shards"]) == ["heldout/00000.tar", "train/00000.tar"]


def test_a_simulated_data_set_depends_only_on_its_seed(few_cameras, tmp_path):
    arguments = SMALL | TINY | {"splices": 0, "authentic": 0}
    first, again, other = (
        prepare("simulated", tmp_path / n, seed=s, **arguments) for n, s in [("a", 0), ("b", 0), ("c", 1)]
    )
    assert first["shards"] == again["shards"] != other["shards"]
    assert not (tmp_path / "a" / "splices").exists()


def test_seen_and_unseen_makes_are_disjoint():
    for seed in range(20):
        seen, unseen = split_makes(3, seed)
        assert not {camera.make for camera in seen} & {camera.make for camera in unseen}
        assert len(seen) + len(unseen) == len(CAMERAS)
        assert len({camera.make for camera in unseen}) == 3
    assert split_makes(3, 5) == split_makes(3, 5)
    assert len({tuple(camera.name for camera in split_makes(3, seed)[1]) for seed in range(20)}) > 10


def test_the_default_number_of_unseen_makes_gives_enough_cameras():
    assert min(len(split_makes(3, seed)[1]) for seed in range(50)) >= 8


@pytest.mark.parametrize("makes", [0, -1, len({camera.make for camera in CAMERAS})])
def test_an_impossible_number_of_unseen_makes_is_refused(makes):
    with pytest.raises(ValueError, match="unseen_makes is .* it must be 1 to 11"):
        split_makes(makes, 0)


# ------------------------------------------- a folder of photos -------------------------------------------
def test_a_folder_of_good_and_bad_photos(tmp_path):
    source = album(tmp_path / "album", 6)
    (source / "2019").mkdir()
    (source / "2019" / "UPPER.JPG").write_bytes(photo("EOS 5D", seed=9))
    (source / "bare.jpg").write_bytes(photo(exif=False))
    (source / "cut.jpg").write_bytes(photo()[:3000])
    (source / "tiny.jpg").write_bytes(photo(size=(31, 90)))
    (source / "empty.jpg").write_bytes(b"")
    (source / "text.png").write_bytes(b"no picture")
    (source / "notes.txt").write_text("no photo either")
    (source / "dangling.jpg").symlink_to("nowhere.jpg")
    result = prepare(str(source), tmp_path / "set", heldout_share=0.34, **SMALL)

    assert result["photos"] == {"train": 5, "heldout": 2}
    reasons = {"no EXIF": 1, "broken or too small": 4, "no such file": 1, "no picture by its name": 1}
    assert result["left_out"] == reasons
    assert result["left_out_examples"]["no such file"] == ["dangling.jpg"]
    assert result["left_out_examples"]["no EXIF"] == ["bare.jpg"]
    named = " | ".join(result["left_out_examples"]["broken or too small"])
    for name in ("cut.jpg", "tiny.jpg: tiny.jpg: 31 x 90 pixels", "empty.jpg", "text.png"):
        assert name.split(": ")[0] in named
    assert {photo.camera for photo in photos_of(tmp_path / "set" / "train")} == {"Canon EOS 40D", "Canon EOS 5D"}
    assert result["unseen_cameras"] == [] and not (tmp_path / "set" / "splices").exists()


RAW = f"a camera's raw file; {DEVELOP}"


def test_files_without_a_picture_extension_are_counted_and_named(tmp_path):
    source = album(tmp_path / "album", 1)
    (source / "Sub").mkdir()
    (source / "Sub" / "000.JFIF").write_bytes(photo(seed=5))
    (source / "link").symlink_to(source / "Sub")
    for number in range(30):
        (source / "Sub" / f"{number:03d}.xmp").write_text("beside a photo")
    for name in ("IMG_1.CR2", "IMG_1.pp3", "notes.txt", ".DS_Store"):
        (source / name).write_bytes(b"")
    result = prepare(str(source), tmp_path / "set", **SMALL)
    assert result["photos"]["train"] == 2
    assert result["left_out"] == {"no picture by its name": 33, "a link to a folder": 1, RAW: 1}
    named = result["left_out_examples"]["no picture by its name"]
    assert named[:4] == [".DS_Store", "IMG_1.pp3", "Sub/000.xmp", "notes.txt"] and len(named) == 20
    assert json.loads((tmp_path / "set" / "dataset.json").read_text()) == result
    for path in (source / "000.jpg", source / "Sub" / "000.JFIF"):
        path.unlink()
    message = "no photos in it .*; 33 left out: no picture by its name, e.g. .DS_Store, IMG_1.pp3, Sub/000.xmp$"
    with pytest.raises(DataError, match=message):
        prepare(str(source), tmp_path / "none", **SMALL)


@pytest.mark.parametrize("workers", [1, 2])
def test_names_that_are_not_utf_8_are_preserved(tmp_path, workers):
    source = album(tmp_path / os.fsdecode(b"f\xf6lder"), 1)
    for name in (b"caf\xe9.jpg", b"caf\xe8.jpg"):
        (source / os.fsdecode(name)).write_bytes(photo(seed=name[3]))
    (source / os.fsdecode(b"br\xf6ken.jpg")).write_bytes(b"none")
    (source / os.fsdecode(b"n\xf6te.txt")).write_bytes(b"none")
    made = tmp_path / os.fsdecode(b"s\xe9t")
    result = prepare(str(source), made, **SMALL, workers=workers, photos_per_shard=2)
    assert result["photos"]["train"] == 3 and prepare(str(source), made, **SMALL, photos_per_shard=2) == result
    assert result["left_out_examples"]["no picture by its name"] == ["n\\xf6te.txt"]
    assert result["left_out_examples"]["broken or too small"][0].startswith("br\\xf6ken.jpg: ")
    names = [name for table in read_index(str(made)) for name in table["name"].to_pylist()]
    assert names == ["000.jpg", "br\\xf6ken.jpg", "caf\\xe8.jpg", "caf\\xe9.jpg"]


def test_shards_whose_names_are_not_utf_8_are_copied(tmp_path):
    made = samples(2)
    for sample in made:
        del sample.meta["photo"]
    shards = write_shards(made, tmp_path / os.fsdecode(b"f\xf6lder"))
    shards[0].rename(shards[0].with_name(os.fsdecode(b"sh\xe4rd.tar")))
    result = prepare(str(shards[0].parent), tmp_path / "set", **SMALL)
    assert result["photos"]["train"] == 4
    (table,) = read_index(str(tmp_path / "set"))
    assert table["name"].to_pylist()[0] == "sh\\xe4rd.tar/00000_0"
    assert len({one.id for one in photos_of(tmp_path / "set" / "train")}) == 4


def test_a_pipe_among_the_photos_is_skipped(tmp_path):
    source = album(tmp_path / "album", 2)
    os.mkfifo(source / "pipe.jpg")
    assert prepare(str(source), tmp_path / "set", **SMALL)["left_out"] == {"no such file": 1}


def test_tiles_match_the_photo_and_record_their_position(tmp_path):
    source = album(tmp_path / "album", 1)
    prepare(str(source), tmp_path / "set", **SMALL)
    pixels = load_image(source / "000.jpg")
    with tarfile.open(tmp_path / "set" / "train" / "00000.tar") as tar:
        assert tar.getnames() == [f"00000000_0{i}.{extension}" for i in range(2) for extension in ("jpg", "json")]
        for i in range(2):
            meta = json.load(tar.extractfile(f"00000000_0{i}.json"))
            piece = load_image(tar.extractfile(f"00000000_0{i}.jpg").read())
            x, y = meta["x"], meta["y"]
            assert np.array_equal(piece[2:-2, 2:-2], pixels[y : y + 32, x : x + 32][2:-2, 2:-2])
            assert json.loads(meta["exif"])["Model"] == "EOS 40D" and meta["width"] == meta["height"] == 32


def test_photos_with_few_tags_are_left_out(tmp_path):
    source = album(tmp_path / "album", 2)
    with pytest.raises(DataError, match="no usable photo .2 left out: fewer than 9 EXIF tags, e.g. 000.jpg"):
        prepare(str(source), tmp_path / "set", **SMALL | {"min_tags": 9})


def test_unreadable_and_too_large_photos_are_left_out(tmp_path, monkeypatch):
    source = album(tmp_path / "album", 3)
    (source / "large.jpg").write_bytes(photo() + bytes(100_000))
    monkeypatch.setattr(jobs, "MAX_BYTES", 90_000)
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path / "x" if path.name == "001.jpg" else path))
    result = prepare(str(source), tmp_path / "set", **SMALL)
    assert result["left_out"] == {"cannot be read: Not a directory": 1, "larger than 0.09 MB": 1}
    assert result["left_out_examples"]["larger than 0.09 MB"] == ["large.jpg"]


def test_only_the_first_of_many_bad_photos_are_named(tmp_path):
    source = album(tmp_path / "album", 1)
    for i in range(30):
        (source / f"bad{i:02d}.jpg").write_bytes(b"")
    result = prepare(str(source), tmp_path / "set", **SMALL)
    assert result["left_out"] == {"broken or too small": 30}
    assert len(result["left_out_examples"]["broken or too small"]) == 20


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "no such folder; source must be 'simulated', a folder"),
        (lambda folder: folder.write_text("a file"), "no such folder"),
        (lambda folder: folder.mkdir(), "no photos in it .*.jpg.* and no tar shards"),
        (lambda folder: album(folder, 0).joinpath("bare.jpg").write_bytes(photo(exif=False)), "1 left out: no EXIF"),
    ],
    ids=["missing", "a file", "empty", "no EXIF"],
)
def test_unusable_sources_are_refused(tmp_path, make, message):
    make(tmp_path / "source")
    with pytest.raises(DataError, match=f"source: .*{message}"):
        prepare(str(tmp_path / "source"), tmp_path / "set", **SMALL)
    assert not [path for path in tmp_path.iterdir() if path.name != "source"]


def test_real_bad_files_among_real_photos(shared, tmp_path):
    source = tmp_path / "album"
    source.mkdir()
    for path in [*(shared / "badfiles").iterdir(), *sorted((shared / "camera_photos").iterdir())[:6]]:
        (source / path.name).symlink_to(path)
    result = prepare(str(source), tmp_path / "set", min_tags=5, heldout_share=0.5)
    assert result["photos"]["train"] >= 5
    assert sum(result["photos"].values()) + sum(result["left_out"].values()) == 25
    named = sum(len(names) for names in result["left_out_examples"].values())
    assert named == sum(result["left_out"].values()) > 0


# ------------------------------------------- a folder of shards -------------------------------------------
def samples(photos: int, models: int = 1) -> list[Sample]:
    return [
        Sample(f"{i:05d}_{j}", photo(seed=10 * i + j, exif=False, size=(48, 48)), "jpg", {
            "exif": json.dumps({"Image Make": "Canon", "Image Model": f"EOS {i % models}", "EXIF FNumber": "8"}),
            "photo": f"p{i}",
        })
        for i in range(photos) for j in range(2)
    ]  # fmt: skip


def test_shards_are_copied_byte_by_byte(tmp_path):
    made = samples(8)
    write_shards(made, tmp_path / "source", per_shard=5)
    result = prepare(str(tmp_path / "source"), tmp_path / "set", heldout_share=0.25, **SMALL)
    assert result["photos"] == {"train": 6, "heldout": 2}
    train, heldout = photos_of(tmp_path / "set" / "train"), photos_of(tmp_path / "set" / "heldout")
    assert [photo.id for photo in heldout] == ["p3", "p7"]
    for photo in train + heldout:
        assert [read_member(*place) for place in photo.tiles] == [s.data for s in made if s.meta["photo"] == photo.id]
        assert photo.tags == {"Make": "Canon", "Model": "EOS 0", "FNumber": "8"}


def test_raw_files_in_shards_are_left_out_and_never_trained_on(tmp_path):
    (good,) = samples(1)[:1]
    raw = replace(good, key="raw", data=dng(np.full((96, 96, 3), 0.2)), meta={**good.meta, "photo": "raw"})
    write_shards([good, raw], tmp_path / "source")
    result = prepare(str(tmp_path / "source"), tmp_path / "set", **SMALL)
    assert result["left_out"] == {"broken tile": 1}
    assert "raw: tile: a camera's raw file (DNG); data sets take" in result["left_out_examples"]["broken tile"][0]
    photos, _ = index_photos([str(path) for path in (tmp_path / "source").iterdir()])
    with pytest.raises(DataError, match=r"a tile of photo raw cannot be decoded \(a camera's raw file \(DNG\)"):
        [decode_tile(photo, photo.tiles[0]) for photo in photos]


def test_bad_tiles_of_shards_are_left_out_and_named(tmp_path):
    (good,) = samples(1)[:1]
    bad = [
        replace(good, key="broken", data=good.data[:300], meta={**good.meta, "photo": "broken \ud800"}),
        replace(good, key="fewtags", meta={"exif": '{"Image Make": "Canon"}', "photo": "fewtags"}),
        replace(good, key="noexif", meta={"photo": "noexif"}),
        replace(good, key="odd", meta={**good.meta, "photo": "odd \ud800"}),
    ]
    write_shards([good, *bad], tmp_path / "source")
    result = prepare(str(tmp_path / "source"), tmp_path / "set", **SMALL)
    assert result["photos"] == {"train": 2, "heldout": 0}
    assert result["left_out"] == {"tile without EXIF": 1, "broken tile": 1, "fewer than 3 EXIF tags": 1}
    assert result["left_out_examples"]["fewer than 3 EXIF tags"] == ["fewtags"]
    assert result["left_out_examples"]["broken tile"][0].startswith("broken")
    assert [photo.id for photo in photos_of(tmp_path / "set" / "train")] == ["p0", "odd \ud800"]


@pytest.mark.parametrize(("extension", "kind"), [("jfif", "jpg"), ("TIF", "tiff"), ("j2k", "jp2"), ("gif", "gif")])
def test_tiles_of_every_picture_format_are_copied(tmp_path, extension, kind):
    data = io.BytesIO()
    Image.fromarray(np.full((48, 48, 3), 99, np.uint8)).save(
        data, Image.registered_extensions()[f".{extension.lower()}"]
    )
    write_shards([replace(samples(1)[0], data=data.getvalue(), extension=extension)], tmp_path / "source")
    assert prepare(str(tmp_path / "source"), tmp_path / "set", **SMALL)["photos"]["train"] == 1
    with tarfile.open(tmp_path / "set" / "train" / "00000.tar") as tar:
        assert tar.extractfile(f"00000000_00.{kind}").read() == data.getvalue()


def test_duplicate_keys_in_a_shard_are_counted_and_named(tmp_path):
    first, other, third = samples(3)[::2]
    made = [first, replace(other, key=first.key), third, replace(third, extension="png")]
    write_shards(made, tmp_path / "source")
    result = prepare(str(tmp_path / "source"), tmp_path / "set", **SMALL)
    assert result["photos"]["train"] == 2 and result["left_out"] == {"its key comes again": 2}
    assert result["left_out_examples"]["its key comes again"] == ["00000.tar/00000_0", "00000.tar/00002_0"]


def test_a_tar_among_photos_is_named_and_shards_among_photos_are_refused(tmp_path):
    source = album(tmp_path / "album", 2)
    with tarfile.open(source / "backup.tar", "w") as tar:
        tar.add(source / "000.jpg", "holiday.jpg")
    result = prepare(str(source), tmp_path / "set", **SMALL)
    assert result["photos"]["train"] == 2 and result["left_out"] == {"no picture by its name": 1}
    assert result["left_out_examples"] == {"no picture by its name": ["backup.tar"]}
    write_shards(samples(2), source)
    with pytest.raises(
        DataError, match="album: holds 2 tar shards and 2 photos, such as 000.jpg: give a folder with only one"
    ):
        prepare(str(source), tmp_path / "other", **SMALL)


def test_a_given_folder_with_a_tar_among_photos(shared, tmp_path):
    source = shared / "cases" / "photos_beside_tar" / "f"
    found = write_plan(str(source), Store(tmp_path), 0, Contents())
    assert found["kind"] == "files" and found["left_out_examples"] == {"no picture by its name": ["backup.tar"]}


def test_other_files_beside_shards_are_named(tmp_path):
    write_shards(samples(2), tmp_path / "source")
    for name in ("00000_stats.json", "00001.tar.gz", "more/00000.tar"):
        (tmp_path / "source" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "source" / name).write_bytes(b"{}")
    found = prepare(str(tmp_path / "source"), tmp_path / "set", **SMALL)
    assert found["photos"]["train"] == 2
    named = ["00000_stats.json", "00001.tar.gz", "more/00000.tar"]
    assert found["left_out_examples"] == {"no shard by its name": named}


def test_shards_with_the_same_name_at_urls_are_refused(tmp_path):
    for name in "ab":
        write_shards(samples(1), tmp_path / name)
    with pytest.raises(DataError, match="2 shards named 00000.tar: prepare the folders separately"):
        prepare(f"file://{tmp_path}/{{a,b}}/00000.tar", tmp_path / "set", **SMALL)


def test_a_missing_shard_in_the_source_is_reported(tmp_path):
    shards = write_shards(samples(6), tmp_path / "source", per_shard=4)
    shards[1].unlink()
    with pytest.raises(DataError, match="shard 00001.tar is missing"):
        prepare(str(tmp_path / "source"), tmp_path / "set", **SMALL)
    assert not (tmp_path / "set").exists()


@settings(max_examples=60)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=80), st.floats(0.01, 0.99))
def test_held_out_share(cameras, share):
    splitter = Splitter(0, 0, Split(share))
    splits = [splitter(f"camera {camera}") for camera in cameras]
    assert splits.count("heldout") == sum(int(number * share) for number in Counter(cameras).values())
    of = {split: {c for c, own in zip(cameras, splits, strict=True) if own == split} for split in ("train", "heldout")}
    assert of["train"] == set(cameras) >= of["heldout"]


@settings(max_examples=30)
@given(st.integers(1, 50), st.floats(0.01, 0.99), st.integers(0, 99))
def test_held_out_share_of_later_shards(job, share, seed):
    splits = []
    for camera in range(200):
        splitter = Splitter(job, seed, Split(share))
        splits += [splitter(f"camera {camera}") for _ in range(5)]
        assert splits[-5] == "train"
    assert abs(splits.count("heldout") / 1000 - share * 4 / 5) < share / 5 + 0.1


def test_the_real_shards(shared, tmp_path):
    """One shard of three is enough to check that nothing is lost."""
    (tmp_path / "source").mkdir()
    first = find_shards(shared / "photos")[-1]
    (tmp_path / "source" / first.name).symlink_to(first)
    photos, _ = read_photos([first])
    result = prepare(str(tmp_path / "source"), tmp_path / "set")
    assert sum(result["photos"].values()) + sum(result["left_out"].values()) == len(photos)
    assert result["photos"]["heldout"] > 0 and sum(result["left_out"].values()) < 0.05 * len(photos)
    known = {hashlib.sha256(read_member(*place)).digest() for photo in photos for place in photo.tiles}
    kept = photos_of(tmp_path / "set" / "train") + photos_of(tmp_path / "set" / "heldout")
    assert {hashlib.sha256(read_member(*place)).digest() for photo in kept for place in photo.tiles} <= known
    assert len({photo.id for photo in kept}) == len(kept)
