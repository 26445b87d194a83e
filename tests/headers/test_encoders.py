"""Encoders by their headers: recorded ones of many programs, and those of Pillow as it is installed.

`python -m tests.headers.test_encoders` renews encoder_headers.json where GIMP, ImageMagick 6, exiftool and exiv2 are.
"""

import io
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from exiflang.headers.encoders import libjpeg_quality, name_encoder, read_signatures
from exiflang.headers.exif_layout import is_packed
from exiflang.headers.jpeg_header import JpegHeader, read_header
from exiflang.utils.dct import standard_tables
from experiments.header_edits import EDITS, edited

RECORDED = Path(__file__).with_name("encoder_headers.json")
RECORDS = json.loads(RECORDED.read_text(encoding="utf-8")) if RECORDED.is_file() else {}
#: Choices of one program that another makes by itself.
ALIKE = {"Pillow, optimized": ("ImageMagick", "Android"), "Pillow, progressive": (), "OpenCV, default": ("Pillow",)}


def noise() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    return Image.fromarray(pixels).resize((320, 240), Image.Resampling.BICUBIC)


def saved(image: Image.Image | None = None, **options) -> bytes:
    file = io.BytesIO()
    (image or noise()).save(file, "JPEG", **options)
    return file.getvalue()


def header_of(photo: bytes) -> JpegHeader:
    header = read_header(photo)
    assert header
    return header


def photo_with_exif() -> bytes:
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "Maker", "Model X100"
    exif.get_ifd(0x8769)[0x9003] = "2011:01:01 00:00:00"
    return saved(quality=93, subsampling="4:2:2", exif=exif)


@pytest.mark.parametrize("kind", RECORDS)
def test_recorded_files_are_named_as_their_program(kind):
    encoder = name_encoder(JpegHeader.of_record(RECORDS[kind]))
    assert encoder
    if kind in ALIKE:
        assert encoder.programs == ALIKE[kind]
    elif EDITS[kind]:
        assert EDITS[kind] in encoder.programs and EDITS[kind] in encoder.name
        assert "other programs can write the same" in encoder.sentence
    else:  # the pixels' header is that of the photo
        assert encoder.programs == () and encoder.name == "libjpeg quality 93"


def test_recorded_files_cover_every_program():
    assert {EDITS[kind] for kind in RECORDS} == {"", "Pillow", "ImageMagick", "GIMP", "OpenCV", "Android"}


@pytest.mark.parametrize("kind", [kind for kind in RECORDS if kind.startswith(("exiftool", "exiv2", "GIMP"))])
def test_a_rewritten_exif_is_packed(kind):
    assert RECORDS[kind]["packed_exif"] is True


@pytest.mark.parametrize("options", [{}, {"quality": 60}, {"quality": 92}, {"icc_profile": b"profile"}])
def test_pillow_is_named_with_its_quality(options):
    encoder = name_encoder(header_of(saved(**options)))
    assert encoder and encoder.programs == ("Pillow",)
    assert encoder.name == f"libjpeg quality {options.get('quality', 75)}, like Pillow"
    assert "4:2:0, standard Huffman tables" in encoder.sentence


def test_a_density_leaves_two_programs():
    encoder = name_encoder(header_of(saved(quality=85, optimize=True, dpi=(300, 300))))
    assert encoder and encoder.programs == ("ImageMagick", "GIMP")


def test_gray_pictures_have_an_encoder_too():
    encoder = name_encoder(header_of(saved(noise().convert("L"), quality=80)))
    assert encoder and encoder.name == "libjpeg quality 80, like Pillow" and "gray" in encoder.sentence


def test_every_quality_is_told_by_its_tables():
    for quality in range(1, 101):
        header = JpegHeader(standard_tables(quality), "2x2:0 1x1:1 1x1:1", 8, 8)
        found = libjpeg_quality(header)
        assert found and standard_tables(found) == standard_tables(quality)


def test_tables_alone_name_the_library_and_no_program():
    encoder = name_encoder(JpegHeader(standard_tables(90), "2x1:0 1x1:1 1x1:1", 8, 8))
    assert encoder and encoder.programs == () and encoder.name == "libjpeg quality 90"
    assert "1,219 of 3,693 photos as cameras wrote them" in encoder.sentence


def test_unknown_tables_have_no_encoder():
    odd = tuple(range(1, 65))
    assert name_encoder(JpegHeader((odd, odd), "2x2:0 1x1:1 1x1:1", 8, 8)) is None


def test_tables_of_editors_photos_name_the_editors():
    odd = tuple(range(1, 65))
    header = JpegHeader((odd, odd), "2x2:0 1x1:1 1x1:1", 8, 8)
    known = {"camera_photos": 1000, "of_libjpeg": 3, "encodings": {header.encoding: {"A": [30, 4], "B": [3, 2]}}}
    encoder = name_encoder(header, known)
    assert encoder and encoder.name == "A or B" and encoder.programs == ("A", "B")
    assert "30 photos saved by A and 3 photos saved by B" in encoder.sentence and "none of 1,000" in encoder.sentence


@pytest.mark.parametrize(
    ("markers", "name"),
    [
        (("APP13 Photoshop", "APP14 Adobe", "DQT"), "Adobe Photoshop or Adobe Lightroom"),
        (("APP0 JFIF", "APP12 Ducky", "APP14 Adobe"), "Adobe, Save for Web"),
    ],
)
def test_segments_of_adobe_programs_are_known(markers, name):
    odd = tuple(range(1, 65))
    encoder = name_encoder(JpegHeader((odd, odd), "1x1:0 1x1:1 1x1:1", 8, 8, markers=markers))
    assert encoder and encoder.name == name


def test_a_program_may_name_itself_in_a_comment_whose_text_is_not_kept():
    header = header_of(saved(comment=b"CREATOR: gd-jpeg v1.0, for Jane Doe"))
    encoder = name_encoder(header)
    assert header.comments == ("GD",) and "Jane" not in json.dumps(header.record)
    assert encoder and encoder.name == "GD"
    assert header_of(saved(comment=b"My holidays")).comments == ()


def test_the_header_tells_how_tables_and_density_are_stored():
    header = header_of(saved(dpi=(300, 200)))
    assert header.jfif == (1, 1, 1, 300, 200) and header.separate_tables is True and header.packed_exif is None
    photo = saved()
    first = photo.index(b"\xff\xdb\x00\x43")  # two segments of a table each -> one of both
    tables = photo[first + 4 : first + 69] + photo[first + 73 : first + 138]
    merged = photo[:first] + b"\xff\xdb\x00\x84" + tables + photo[first + 138 :]
    assert header_of(merged).tables == header_of(photo).tables and header_of(merged).separate_tables is False


def test_packaged_signatures_are_counts():
    known = read_signatures()
    assert 0 < known["of_libjpeg"] < known["camera_photos"]
    for encoding, editors in known["encodings"].items():
        assert len(encoding) == 12 and editors
        assert all(photos >= 3 and cameras >= 2 for photos, cameras in editors.values())


def test_a_gap_or_another_order_is_not_packed():
    block = packed_block()
    assert is_packed(block)
    assert not is_packed(block + b"more")
    moved = bytearray(block + block[26:32])
    moved[18:22] = (32).to_bytes(4, "little")  # the value lies at the end, with unused bytes before it
    assert not is_packed(bytes(moved))


def packed_block() -> bytes:
    """IFD0 with a Make of six bytes behind it."""
    entry = (0x010F).to_bytes(2, "little") + (2).to_bytes(2, "little") + (6).to_bytes(4, "little")
    return b"II*\0\x08\0\0\0" + b"\x01\0" + entry + (26).to_bytes(4, "little") + bytes(4) + b"Maker\0"


def test_damaged_exif_is_never_packed_and_never_raises():
    rng, block = np.random.default_rng(0), packed_block()
    for _ in range(300):
        broken = bytearray(block[: rng.integers(len(block) + 1)])
        for place in rng.integers(0, len(broken), 3) if broken else ():
            broken[place] = rng.integers(256)
        is_packed(bytes(broken))
    loop = block[:22] + (8).to_bytes(4, "little") + block[26:]  # IFD1 is IFD0
    assert not is_packed(b"") and not is_packed(loop)


def renew() -> None:
    """Record the headers of noise, saved by each program."""
    with tempfile.TemporaryDirectory() as folder:
        source, room = Path(folder) / "photo.jpg", Path(folder) / "room"
        source.write_bytes(photo_with_exif())
        room.mkdir()
        clean = {kind: files[1] for kind, files in edited(source, source, room).items()}
    headers = {kind: read_header(clean[kind]) for kind in EDITS if kind in clean}
    lines = [f"{json.dumps(kind)}: {json.dumps(header.record)}" for kind, header in headers.items() if header]
    RECORDED.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    renew()
