"""Signatures from folders, shards, data sets and references; what is left out is counted; `exiflang reference add`."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from exiflang.cli import main
from exiflang.data.shards import DataError, find_shards, index_photos
from exiflang.headers.collect import collect_signatures, header_of_photo
from exiflang.headers.jpeg_header import JpegHeader, read_header
from exiflang.headers.reference import SignatureError, SignatureReference
from exiflang.preparation.dataset import prepare
from exiflang.preparation.options import grouped
from tests.headers.test_jpeg_header import jpeg, with_exif

PIXELS = np.random.default_rng(3).integers(0, 256, (300, 300, 3), np.uint8)


def rich_exif(number: int) -> Image.Exif:
    """Enough tags for `prepare`."""
    exif = with_exif(model=f"A{number % 3}")
    for tag, value in {0x0131: "1.0", 0x0132: "2020:01:01 10:00:00", 0x011A: 72.0, 0x011B: 72.0, 0x0128: 2}.items():
        exif[tag] = value
    more = {0x829A: 0.01, 0x829D: 2.8, 0x8827: 200, 0x9003: "2020:01:01 10:00:00", 0x9209: 0, 0x920A: 5.0}
    exif.get_ifd(0x8769).update(more)
    return exif


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.jpg").write_bytes(jpeg(PIXELS + np.uint8(number), rich_exif(number), quality=70 + number))
    return folder


def test_a_folder_of_photos(photos):
    (photos / "no_exif.jpg").write_bytes(jpeg())
    (photos / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    (photos / "text.txt").write_text("hello")
    found, left_out = collect_signatures(photos)
    assert (len(found.photos), found.cameras) == (6, 3)
    assert left_out == {"no make in its EXIF": 1, "not a JPEG, or a damaged header": 2}


def test_an_unreadable_photo_is_counted(photos):
    (photos / "gone.jpg").symlink_to(photos / "nowhere.jpg")
    found, left_out = collect_signatures(photos)
    assert len(found.photos) == 6 and left_out == {"cannot be read: No such file or directory": 1}


def test_prepare_records_the_header_of_the_whole_file_and_copies_it(photos, tmp_path):
    options = grouped({"min_tags": 5, "tiles_per_photo": 2, "workers": 1, "tile_size": 64, "private": False})
    prepare(str(photos), str(tmp_path / "first"), **options)
    prepare(str(tmp_path / "first" / "train"), str(tmp_path / "second"), **options)
    whole = {read_header(path.read_bytes()) for path in photos.glob("*.jpg")}
    for folder in ("first", "second"):
        indexed, _ = index_photos(find_shards(tmp_path / folder / "train"), metas=True)
        headers = {header_of_photo(photo) for photo in indexed}
        assert headers <= whole and all(header.markers and header.tags for header in headers)
    found, left_out = collect_signatures(tmp_path / "first")  # all splits
    assert found.photos.keys().isdisjoint(collect_signatures(photos)[0].photos)
    assert len(found.photos) == 6 and not left_out


def shard(tmp_path, **meta):
    import tarfile

    from exiflang.data.shards import Sample, add_sample

    folder = tmp_path / "shards"
    folder.mkdir(exist_ok=True)
    printed = json.dumps({"Image Make": "Canon", "Image Model": "A1", "EXIF Flash": "Flash did not fire"})
    with tarfile.open(folder / "00000.tar", "w") as tar:
        add_sample(tar, Sample("0", jpeg(quality=83), "jpg", {"exif": printed, **meta}))
    return folder


def test_a_tile_tells_tables_and_its_json_size_and_tags(tmp_path):
    folder = shard(tmp_path, photo="p", original_width=4000, original_height=3000, camera_original=True)
    photo = index_photos(find_shards(folder), metas=True)[0][0]
    tile = read_header(jpeg(quality=83))
    tags = ("Image Make", "Image Model", "EXIF Flash")
    assert header_of_photo(photo) == JpegHeader(tile.tables, tile.sampling, 4000, 3000, tags=tags)


@pytest.mark.parametrize(
    "meta", [{"photo": "p", "camera_original": False}, {}, {"photo": "p", "header": {"tables": "nonsense"}}]
)
def test_edited_photos_downloads_and_damaged_records_are_unknown(tmp_path, meta):
    with pytest.raises(SignatureError, match=r"no JPEG photo with a make .*1 times header unknown, or edited"):
        collect_signatures(shard(tmp_path, **meta))


def test_damaged_shards_are_named(tmp_path):
    folder = shard(tmp_path, photo="p")
    (folder / "00000.tar").write_bytes(b"not a tar" * 200)
    with pytest.raises(DataError, match="00000.tar"):
        collect_signatures(folder)


def test_the_command_creates_extends_and_repeats(photos, tmp_path, capsys):
    own = tmp_path / "own.json"
    assert main(["reference", "add", str(photos), str(own)]) == 0
    first = own.read_bytes()
    assert main(["reference", "add", str(photos), str(own)]) == 0
    assert own.read_bytes() == first
    (photos / "new.jpg").write_bytes(jpeg(PIXELS[::-1], rich_exif(1), quality=60))
    assert main(["reference", "add", str(photos), str(own)]) == 0
    assert main(["reference", "add", str(own), str(tmp_path / "other.json")]) == 0
    assert len(SignatureReference.load(tmp_path / "other.json").photos) == 7
    assert "own.json: 7 photos of 3 cameras" in capsys.readouterr().out
    assert sorted(os.listdir(tmp_path)) == ["other.json", "own.json", "photos"]


@pytest.mark.parametrize("source", ["nowhere", "empty"])
def test_the_command_names_a_source_without_photos(tmp_path, capsys, source):
    (tmp_path / "empty").mkdir()
    assert main(["reference", "add", str(tmp_path / source), str(tmp_path / "own.json")]) == 1
    assert source in capsys.readouterr().err and not (tmp_path / "own.json").exists()
