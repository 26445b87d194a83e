"""EXIF as a language: reading pictures, sentences, vocabulary, and agreement with exiftool."""

import hashlib
import io
import json
import logging
import math
import os
import random
import shutil
import subprocess
import tarfile
import time
from pathlib import Path

import exifread
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from exiflang.exif.reader import canonical_tags, read_exif
from exiflang.exif.tags import TAGS, ExifError
from exiflang.exif.text import TagVocabulary, exif_to_text
from tests.dng import dng

SHARED = Path(__file__).parents[3] / "shared"
# A change here is a change of the language: raise SENTENCE_VERSION, retrain.
GOLDEN = "1fd6757811fecf3637a51d1f92e76c50e4d1dc9cb51cfc09a8ec6955d1766e25"

needs_photos = pytest.mark.skipif(not (SHARED / "photos").is_dir(), reason="needs shared/photos")
needs_camera_photos = pytest.mark.skipif(not (SHARED / "camera_photos").is_dir(), reason="needs shared/camera_photos")


def picture(form: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif.update({0x010F: "Canon", 0x0110: "Canon EOS 700D", 0x0112: 6, 0x013B: "Jane Doe",
                 0x0132: "2020:01:02 03:04:05"})  # fmt: skip
    exif.get_ifd(0x8769).update({0x829A: IFDRational(1, 125), 0x829D: IFDRational(14, 5), 0x8827: 400, 0x9209: 16,
                                 0xA434: "EF-S", 0x9000: b"0230", 0xA431: "123456"})  # fmt: skip
    exif.get_ifd(0x8825).update({1: "N", 2: (51.0, 30.0, 0.0)})
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), "teal").save(buffer, form, exif=exif.tobytes())
    return buffer.getvalue()


PICTURE_TAGS = {
    "Make": "Canon", "Model": "Canon EOS 700D", "LensModel": "EF-S", "ExposureTime": "1/125", "FNumber": "2.8",
    "PhotographicSensitivity": "400", "Orientation": "right-top",
    "Flash": "Flash did not fire, compulsory flash mode", "ExifVersion": "0230", "DateTime": "2020:01:02 03:04:05",
}  # fmt: skip
SENTENCE = ("Make: Canon, Model: Canon EOS 700D, LensModel: EF-S, ExposureTime: 1/125, FNumber: 2.8, "
            "PhotographicSensitivity: 400, Orientation: right-top, Flash: Flash did not fire; compulsory flash mode, "
            "ExifVersion: 0230")  # fmt: skip


# ---------------------------------------------------------------------------------------------- sentences
@given(st.dictionaries(st.text(max_size=20), st.text(max_size=200), max_size=8))
@settings(max_examples=200, deadline=None)
def test_any_mapping_makes_a_sentence_that_can_be_parsed(tags):
    sentence = exif_to_text(tags)
    assert sentence == "" or sentence.isprintable()
    parts = sentence.split(", ") if sentence else []
    assert len(parts) <= len(tags)
    assert all(": " in part and all(part.split(": ", 1)) for part in parts)


def test_sentence_grammar_dates_and_order():
    tags = {"DateTime": "2020:01:02 03:04:05", "Model": "X, Make: Canon\n, a", "Make": "CO.,LTD", "My:Tag, x": "1",
            "SubSecTime": "12"}  # fmt: skip
    assert exif_to_text(tags) == "Make: CO.,LTD, Model: X; Make: Canon ; a, My Tag x: 1"
    assert exif_to_text({}) == exif_to_text({"Make": " \0 "}) == ""


# ---------------------------------------------------------------------------------------------- reading
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_formats_and_sources_agree(form, tmp_path):
    data = picture(form)
    path = tmp_path / "photo"
    path.write_bytes(data)
    tags = read_exif(data)
    assert {name: tags.get(name) for name in PICTURE_TAGS} == PICTURE_TAGS
    assert set(tags) - set(PICTURE_TAGS) <= {tag.name for tag in TAGS}
    file = io.BytesIO(data)
    file.seek(7)
    assert read_exif(path) == read_exif(str(path)) == read_exif(file) == read_exif(bytearray(data)) == tags
    assert file.tell() == 7
    private = read_exif(data, private=True)
    assert private["Artist"] == "Jane Doe" and private["BodySerialNumber"] == "123456"
    assert private["GPSLatitude"] == "[51, 30, 0]"


def test_a_file_and_its_shard_json_give_the_same_sentence():
    data = picture()
    printed = exifread.process_file(io.BytesIO(data), details=False, extract_thumbnail=False)
    record = json.dumps({tag: str(value) for tag, value in printed.items()})
    assert exif_to_text(read_exif(data)) == exif_to_text(canonical_tags(json.loads(record))) == SENTENCE


def test_exif_after_large_segments_and_in_both_webp_forms():
    data = picture()
    filler = b"".join(b"\xff\xe2\xff\xff" + bytes(65533) for _ in range(3))
    assert read_exif(data[:2] + filler + data[2:]) == read_exif(data)
    webp = picture("WEBP")
    at = webp.index(b"EXIF")
    size = int.from_bytes(webp[at + 4 : at + 8], "little") + 6
    assert read_exif(webp[: at + 4] + size.to_bytes(4, "little") + b"Exif\0\0" + webp[at + 8 :]) == read_exif(webp)


def heif_boxes(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return (8 + len(body)).to_bytes(4, "big") + kind + body


@pytest.mark.parametrize("version", [0, 1, 2])
@pytest.mark.parametrize("brand", [b"heic", b"heix", b"hevx", b"msf1", b"avis", b"new1"])
def test_exif_of_heif_with_any_brand_and_location_version(version, brand):
    exif = Image.Exif()
    exif[0x010F] = "Canon"
    block = b"\0\0\0\6" + exif.tobytes()
    number = 4 if version == 2 else 2
    item = (1).to_bytes(number, "big") + bytes(4 if version else 2)

    def file(base: int) -> bytes:
        place = item + base.to_bytes(4, "big") + b"\0\1" + (b"\0" * 4 if version else b"") + bytes(4)
        place += len(block).to_bytes(4, "big")
        iloc = heif_boxes(b"iloc", bytes([version, 0, 0, 0]), b"\x44", b"\x44" if version else b"\x40",
                          (1).to_bytes(number, "big"), place)  # fmt: skip
        infe = heif_boxes(b"infe", b"\2\0\0\0\0\1\0\0Exif\0")
        meta = heif_boxes(b"meta", bytes(4), heif_boxes(b"iinf", bytes(4), b"\0\1", infe), iloc)
        return heif_boxes(b"ftyp", brand, b"\0\0\0\1") + meta + block

    assert read_exif(file(len(file(0)) - len(block))) == {"Make": "Canon"}


def test_pictures_without_exif_have_no_tags(tmp_path):
    for form in ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"):
        buffer = io.BytesIO()
        Image.new("L", (1, 1)).save(buffer, form)
        assert "Make" not in read_exif(buffer.getvalue())
        assert form == "TIFF" or read_exif(buffer.getvalue()) == {}


def test_unreadable_files_are_named_in_the_error(tmp_path):
    (tmp_path / "notes.jpg").write_text("not a picture")
    (tmp_path / "empty.jpg").touch()
    for name, word in [("notes.jpg", "not a JPEG"), ("empty.jpg", "empty"), ("none.jpg", "check"), ("", "check")]:
        with pytest.raises(ExifError, match=word) as error:
            read_exif(tmp_path / name)
        assert (name or tmp_path.name) in str(error.value)
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ExifError, match="pipe.jpg: a pipe"):
        read_exif(tmp_path / "pipe.jpg")
    with pytest.raises(ExifError, match="cannot be opened"):
        read_exif("a\0b")
    with pytest.raises(ExifError, match="not a TIFF"):
        read_exif(b"\xff\xd8\xff\xe1\0\x10Exif\0\0garbage" + bytes(20))
    closed = io.BytesIO(picture())
    closed.close()
    with pytest.raises(ExifError, match="rewound"):
        read_exif(closed)
    with pytest.raises(ExifError, match="text mode"):
        read_exif(io.StringIO("abc"))
    for wrong in (None, 3, ["a.jpg"], {}):
        with pytest.raises(TypeError, match="path, bytes"):
            read_exif(wrong)


def hostile_tiffs() -> dict[str, bytes]:
    entry = b"\x9a\x82\x05\0" + (999).to_bytes(4, "little") + (8).to_bytes(4, "little")  # ExposureTime, 999 rationals
    text = b"\x0f\x01\x02\0\xff\xff\xff\xff\x08\0\0\0"  # Make, 4 GB of text
    chain = b"".join(b"\0\0" + (14 + 6 * i).to_bytes(4, "little") for i in range(500_000))
    head = b"II*\0\x08\0\0\0"
    heic = b"\0\0\0\x18ftypheic\0\0\0\0heicmif1" + b"\0\0\0\x08free" * 2 + b"\0\0\0\x02loop"
    iloc = b"iloc" + bytes(6) + b"\xff\xff" + b"\0\1\0\0\xff\xff" * 65535
    meta = b"meta" + bytes(4) + (len(iloc) + 4).to_bytes(4, "big") + iloc
    return {
        "free extents": heic[:24] + (len(meta) + 4).to_bytes(4, "big") + meta,
        "65535 tags": head + b"\xff\xff" + entry * 65535,
        "4 GB texts": head + b"\xff\xff" + text * 65535 + b"A" * (5 << 20),
        "IFD chain": head + chain,
        "box loop": heic,
        "IFD loop": head + b"\0\0\x08\0\0\0",
    }


@pytest.mark.parametrize("name", hostile_tiffs())
def test_hostile_structures_are_handled_quickly(name):
    began = time.process_time()
    try:
        assert len(read_exif(hostile_tiffs()[name])) < 50
    except ExifError as error:
        assert "in memory" in str(error)
    assert time.process_time() - began < 5


def test_mutated_pictures_raise_only_exif_errors(capsys):
    rng, failed, began = random.Random(5), 0, time.process_time()
    seeds = [picture(form) for form in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF")]
    for _ in range(1000):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.choice([1, 3, 20])):
            data[rng.randrange(min(len(data), 600))] = rng.choice([0, 1, 127, 255, rng.randrange(256)])
        data = data[: rng.randrange(len(data))] if rng.random() < 0.2 else data
        try:
            assert all(value.isprintable() for value in read_exif(bytes(data)).values())
        except ExifError:
            failed += 1
    assert 0 < failed < 1000
    assert time.process_time() - began < 30
    assert capsys.readouterr().err == "" and logging.getLogger("exifread").level == logging.CRITICAL


@pytest.mark.skipif(not (SHARED / "badfiles").is_dir(), reason="needs shared/badfiles")
def test_broken_files_from_the_wild():
    counts = {path.name: len(read_exif(path)) for path in sorted((SHARED / "badfiles").iterdir())}
    assert len(counts) == 19 and sum(map(bool, counts.values())) == 12


# ---------------------------------------------------------------------------------------------- exiftool
EXIFTOOL_NAMES = {
    "ISO": "PhotographicSensitivity", "ExposureCompensation": "ExposureBiasValue", "LensInfo": "LensSpecification",
    "FocalLengthIn35mmFormat": "FocalLengthIn35mmFilm", "ExifImageWidth": "PixelXDimension",
    "ImageHeight": "ImageLength", "ExifImageHeight": "PixelYDimension", "ModifyDate": "DateTime",
    "CreateDate": "DateTimeDigitized", "InteropIndex": "InteroperabilityIndex",
}  # fmt: skip
# exiftool converts APEX values to seconds and f-numbers; we keep the logarithms that the standard defines.
APEX = {"ShutterSpeedValue": lambda seconds: -math.log2(seconds), "ApertureValue": lambda f: 2 * math.log2(f),
        "MaxApertureValue": lambda f: 2 * math.log2(f)}  # fmt: skip


@needs_camera_photos
@pytest.mark.skipif(not shutil.which("exiftool"), reason="needs exiftool (Debian: libimage-exiftool-perl)")
def test_every_value_agrees_with_exiftool():
    paths = sorted((SHARED / "camera_photos").iterdir())
    answer = subprocess.run(["exiftool", "-j", "-G1", "-n", *paths], capture_output=True, check=True).stdout
    directories = {"IFD0": "Image", "ExifIFD": "EXIF", "InteropIFD": "Interoperability"}
    compared = 0
    for theirs in json.loads(answer):
        printed = {}
        for key, value in theirs.items():
            directory, _, name = key.partition(":")
            if directory in directories:
                name = EXIFTOOL_NAMES.get(name, name)
                value = APEX[name](float(value)) if name in APEX else value
                printed[f"{directories[directory]} {name}"] = f"{value:.6f}" if name in APEX else value
        theirs, ours = canonical_tags(printed), read_exif(theirs["SourceFile"])
        for name in APEX.keys() & ours.keys():  # a logarithm with six digits may round the other way
            assert abs(float(theirs.pop(name)) - float(ours.pop(name))) < 0.11
        assert theirs == ours
        compared += len(ours)
    assert compared > 800


# ---------------------------------------------------------------------------------------------- vocabulary
def test_vocabulary_keeps_common_tags():
    photos = [{"Make": "a", "FNumber": "2"}, {"Make": "b"}, {"Make": "c", "Artist": "x"}, {}]
    vocabulary = TagVocabulary(min_share=0.4).fit(iter(photos))
    assert vocabulary.photos == 3 and vocabulary.shares == {"Make": 1.0, "FNumber": pytest.approx(1 / 3)}
    assert vocabulary.tags == ["Make"]
    assert vocabulary.transform({"FNumber": "4", "Make": "z", "Zoom": "1"}) == {"Make": "z"}
    copy = TagVocabulary.from_dict(json.loads(json.dumps(vocabulary.to_dict())))
    assert copy.to_dict() == vocabulary.to_dict() and copy.tags == ["Make"]
    assert TagVocabulary(min_share=0, min_tags=2).fit(photos).tags == ["Make", "FNumber"]


def test_vocabulary_refuses_misuse():
    with pytest.raises(ExifError, match="fit"):
        TagVocabulary().transform({})
    for photos in ([], [{}]):
        with pytest.raises(ExifError, match="no photo has"):
            TagVocabulary().fit(photos)
    with pytest.raises(ValueError, match="between 0 and 1"):
        TagVocabulary(min_share=49)
    with pytest.raises(ExifError, match="unknown \\['version'\\]"):
        TagVocabulary.from_dict({**TagVocabulary().to_dict(), "version": 1})


# ---------------------------------------------------------------------------------------------- stability
@needs_photos
def test_sentences_of_the_shared_photos_match_this_version():
    photos: dict[str, dict[str, str]] = {}
    for shard in sorted((SHARED / "photos").glob("*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                if member.name.endswith(".json"):
                    record = json.load(tar.extractfile(member))
                    photos.setdefault(record["photo"], json.loads(record["exif"]))
    digest = hashlib.sha256()
    for photo in sorted(photos):
        digest.update(f"{photo}\t{exif_to_text(canonical_tags(photos[photo]))}\n".encode())
    assert len(photos) == 4983
    assert digest.hexdigest() == GOLDEN


@pytest.mark.parametrize("magic", [b"IIRO", b"IIRS", b"IIU\0"])
def test_exif_of_raw_files_that_are_tiff_but_for_their_first_bytes(magic):
    data = dng(np.zeros((4, 4, 3)), t34665={0x829A: 0.01})
    found = read_exif(magic + data[4:])
    assert found == read_exif(data) and found["Make"] == "Maker" and found["ExposureTime"] == "1/100"


@pytest.mark.parametrize(
    ("kind", "head"),
    [
        ("CR3", b"\0\0\0\x18ftypcrx \0\0\0\1crx isom"),
        ("CRW", b"II\x1a\0\0\0HEAPCCDR"),
        ("MRW", b"\0MRM"),
        ("RAF", b"FUJIFILMCCD-RAW 0201"),
        ("X3F", b"FOVb"),
    ],
)
def test_of_other_raw_files_the_true_reason_is_given(kind, head):
    with pytest.raises(ExifError, match=f"EXIF of {kind} is not looked for; use the picture without EXIF"):
        read_exif(head + bytes(99))
