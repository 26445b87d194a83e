"""All rules at once: privacy, damaged files, and bounds."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exiflang.headers.file_check import check_file
from exiflang.headers.rules import check_metadata
from tests.headers.made import (
    encoded,
    exif_block,
    jpeg,
    photoshop_segment,
    picture_index,
    scene,
    segment,
    with_segments,
    xmp_packet,
    xmp_segment,
)
from tests.headers.test_credentials import manifest_segment

SECRETS = ("Jane", "Doe", "SN12345", "52", "secret", "C:", "/home", "uuid", "host-of")
PRIVATE = {
    "Make": "Canon", "Artist": "Jane Doe", "Copyright": "Jane Doe", "HostComputer": "host-of-Jane with Photoshop",
    "ImageDescription": "secret", "UserComment": b"ASCII\0\0\0secret", "BodySerialNumber": "SN12345",
    "LensSerialNumber": "SN12345", "CameraOwnerName": "Jane Doe", "GPSLatitude": (52.0, 52.0, 52.0),
    "GPSDateStamp": "2020:01:01", "GPSTimeStamp": (1.0, 2.0, 3.0), "DateTimeOriginal": "2019:07:08 09:10:11",
    "MakerNote": b"Nikon\0Jane Doe SN12345",
}  # fmt: skip
XMP = xmp_packet(
    'xmp:CreatorTool="C:\\Users\\Jane\\Photoshop.exe" photoshop:ColorMode="Jane" dc:creator="Jane Doe" '
    'crs:RawFileName="/home/Jane/secret.dng"',
    '<xmpMM:DerivedFrom stRef:filePath="/home/Jane/secret.psd" stRef:instanceID="uuid:SN12345"/>'
    '<xmpMM:History><rdf:Seq><rdf:li stEvt:action="Jane Doe" stEvt:softwareAgent="/home/Jane/gimp" '
    'stEvt:instanceID="uuid:SN12345" stEvt:changed="/home"/></rdf:Seq></xmpMM:History>',
)
PIECES = [
    xmp_segment(XMP), photoshop_segment({0x0404: b"Jane", 0x0425: b"Jane Doe SN12345", 0x0411: b"Jane"}),
    picture_index([(5, 0), (5, 900)]), segment(0xFE, b"Jane Doe"), segment(0xEC, b"Ducky Jane"),
]  # fmt: skip
THUMBNAIL = jpeg(scene(48, 64, 7))
FULL = with_segments(jpeg(scene(), exif=exif_block(PRIVATE, THUMBNAIL)), *PIECES) + b"PK\x03\x04secret"


def test_sentences_hold_nothing_private():
    found = check_metadata(FULL, scene())
    assert len(found) >= 12
    said = " ".join(finding.sentence for finding in found)
    assert [secret for secret in SECRETS if secret in said] == []


def test_on_request_they_may():
    tool = with_segments(jpeg(scene()), xmp_segment(xmp_packet('xmp:CreatorTool="of Jane"')))
    assert check_metadata(tool, scene()) == ()
    assert "of Jane" in check_metadata(tool, scene(), private=True)[0].sentence


def test_a_plain_camera_file_has_no_findings():
    tags = {"Make": "Canon", "Software": "Ver.1.00", "FNumber": 8.0, "ApertureValue": 6.0, "PixelXDimension": 128,
            "PixelYDimension": 96, "DateTimeOriginal": "2019:07:08 09:10:11", "ColorSpace": 1}  # fmt: skip
    assert check_metadata(jpeg(scene(), exif=exif_block(tags, jpeg(scene()))), scene()) == ()
    assert check_metadata(jpeg(scene()), scene()) == ()


@pytest.mark.parametrize(
    "photo", [b"", b"\xff\xd8\xff", b"\xff\xd8\xff\xe1\0\4", b"\x89PNG\r\n\x1a\n", b"RIFF", b"II*\0"]
)
def test_a_file_of_almost_nothing_is_not_checked(photo):
    assert {finding.rule for finding in check_metadata(photo, scene(1, 1))} <= {"no_end"}


@pytest.mark.parametrize("value", ["x" * 15_000, "\0" * 9, "\u202e" * 90], ids=["long", "zeros", "signs"])
def test_values_of_wrong_types_and_sizes(value):
    tags = dict.fromkeys(("Make", "Software", "DateTime", "Model"), value)
    for finding in check_metadata(jpeg(scene(), exif=exif_block(tags)), scene()):
        assert len(finding.sentence) < 400 and finding.sentence.isprintable()


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "AVIF"])
def test_other_formats(kind):
    photo = encoded(scene(), kind, exif=exif_block({"Software": "GIMP 2.10"}))
    assert [finding.rule for finding in check_metadata(photo, scene())] == ["editor"]


def test_large_hostile_files_take_bounded_time():
    nests = b"<a>" * 1_300_000
    many = [segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + b"A" * 40 + nests[:65_000])] * 60
    scans = segment(0xDA, b"\1\1\0\0\x3f\0") * 200_000
    photos = [with_segments(jpeg(scene()), *many), jpeg(scene())[:-2] + scans, FULL + b"ftyp" * 10**6]
    began = time.process_time()
    for photo in photos:
        check_metadata(photo, scene())
    assert time.process_time() - began < 10


@settings(max_examples=150)
@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.binary(min_size=1, max_size=8)), min_size=1, max_size=40),
    st.booleans(),
)
def test_mutated_files_never_raise(changes, cut):
    data = bytearray(with_segments(FULL, manifest_segment()))
    head = data.index(b"\xff\xda")
    for place, new in changes:
        at = 4 + place % (head - 4)
        data[at : at + len(new)] = new
    photo = bytes(data[: len(data) - changes[0][0] % len(data)] if cut else data)
    for finding in check_file(photo, np.zeros((1, 1, 3), np.uint8)).findings:
        assert finding.sentence.isprintable() and len(finding.sentence) < 400
