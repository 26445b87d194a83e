"""Malicious photos and shards: each is left out with a clear reason or is harmless."""

import io
import json
import struct
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from exiflang.exif.text import exif_to_text
from tests.preparation.flat import prepare
from tests.preparation.test_dataset import SMALL, photo, photos_of, samples
from tests.preparation.test_prepare_safety import contents


def bomb(kind: str) -> bytes:
    """A small file that claims to have four billion pixels."""
    if kind == "JPEG":
        data = bytearray(photo())
        place = data.index(b"\xff\xc0") + 5
        data[place : place + 4] = struct.pack(">HH", 65500, 65500)
        return bytes(data)
    file = io.BytesIO()
    Image.new("1", (8, 8)).save(file, "PNG", exif=with_tags("Canon"))
    data = bytearray(file.getvalue())
    data[16:24] = struct.pack(">II", 65500, 65500)
    return bytes(data)


def with_tags(make: str) -> Image.Exif:
    tags = Image.Exif()
    tags[0x010F], tags[0x0110], tags[0x0131], tags[0x0112] = make, "EOS", "Firmware", 1
    return tags


def with_text(length: int) -> bytes:
    """A picture with a Make of this length; a PNG, since segments of a JPEG are limited to 64 kB."""
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(file, "PNG", exif=with_tags("Canon " + "x" * length))
    return file.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_decompression_bombs_are_left_out(tmp_path, kind):
    source = tmp_path / "album"
    source.mkdir()
    (source / "bomb").with_suffix(f".{kind.lower()}").write_bytes(bomb(kind))
    (source / "good.jpg").write_bytes(photo())
    result = prepare(str(source), tmp_path / "set", workers=1, **SMALL)
    assert result["photos"]["train"] == 1 and sum(result["left_out"].values()) == 1
    ((named,),) = result["left_out_examples"].values()
    assert named.startswith("bomb.")


def test_long_text_is_truncated(tmp_path):
    source = tmp_path / "album"
    source.mkdir()
    (source / "long.png").write_bytes(with_text(1 << 20))
    prepare(str(source), tmp_path / "set", workers=1, **SMALL)
    (kept,) = photos_of(tmp_path / "set" / "train")
    assert len(kept.tags["Make"]) <= 100 and len(exif_to_text(kept.tags)) < 300
    assert pd.read_parquet(tmp_path / "set" / "index")["format"].tolist() == ["WEBP"]


def test_shards_with_paths_outside_their_folder(tmp_path):
    (tmp_path / "source").mkdir()
    with tarfile.open(tmp_path / "source" / "00000.tar", "w") as tar:
        for name in ("../../evil", "/tmp/evil", "a/../../../evil"):
            one = samples(1)[0]
            for extension, data in (("jpg", one.data), ("json", json.dumps({**one.meta, "photo": name}).encode())):
                member = tarfile.TarInfo(f"{name}.{extension}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    result = prepare(str(tmp_path / "source"), tmp_path / "set", workers=1, **SMALL)
    assert result["photos"]["train"] == 3
    names = set(contents(tmp_path))
    assert {name.split("/")[0] for name in names} == {"source", "set"} and not Path("/tmp/evil.jpg").exists()
    with tarfile.open(tmp_path / "set" / "train" / "00000.tar") as tar:
        assert [name for name in tar.getnames() if "/" in name or ".." in name] == []


def test_json_of_a_megabyte_is_left_out(tmp_path):
    one, two = samples(2)[::2]
    one.meta["exif"] = json.dumps({"Image Make": "x" * (1 << 20)})
    (tmp_path / "source").mkdir()
    with tarfile.open(tmp_path / "source" / "00000.tar", "w") as tar:
        for each in (one, two):
            for extension, data in (("jpg", each.data), ("json", json.dumps(each.meta).encode())):
                member = tarfile.TarInfo(f"{each.key}.{extension}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    result = prepare(str(tmp_path / "source"), tmp_path / "set", workers=1, **SMALL)
    assert result["photos"]["train"] == 1 and result["left_out"] == {"JSON larger than 1 MB": 1}


def test_private_tags_are_kept_only_on_request(tmp_path):
    source = tmp_path / "album"
    source.mkdir()
    tags = with_tags("Canon")
    tags[0x013B] = "Jane Doe"
    tags.get_ifd(0x8825).update({1: "N", 2: (52.0, 31.0, 12.0)})
    pixels = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8))
    pixels.save(source / "home.jpg", exif=tags)
    for private in (False, True):
        folder = tmp_path / f"private {private}"
        prepare(str(source), folder, workers=1, private=private, **SMALL)
        with tarfile.open(folder / "train" / "00000.tar") as tar:
            exif = json.loads(json.load(tar.extractfile("00000000_00.json"))["exif"])
        assert ("Artist" in exif, any(name.startswith("GPS") for name in exif)) == (private, private)
        assert "Jane" not in exif_to_text(exif)
        names = {name for tags in pd.read_parquet(folder / "index")["tags"] for name in tags}
        assert names == set(exif) and "Jane" not in (folder / "tags.json").read_text()
