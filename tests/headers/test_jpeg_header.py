"""JPEG headers: each field against files that Pillow writes, tiles, damaged bytes, and the record in JSON."""

import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from exiflang.headers.jpeg_header import JpegHeader, read_header
from exiflang.headers.segments import MOST_SEGMENTS
from exiflang.preparation.tiles import cut_tiles
from exiflang.utils.dct import standard_tables

NOISE = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)


def jpeg(pixels: np.ndarray = NOISE, exif: Image.Exif | None = None, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", **options, **({"exif": exif} if exif else {}))
    return file.getvalue()


def with_exif(**tags: str) -> Image.Exif:
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = tags.get("make", "Canon"), tags.get("model", "A1")
    return exif


def test_a_plain_file_states_the_encoder_and_no_exif():
    header = read_header(jpeg(quality=80))
    assert header == JpegHeader(
        standard_tables(80), "2x2:0 1x1:1 1x1:1", 96, 64, progressive=False, huffman="standard", restart=0,
        markers=("APP0 JFIF", "DQT", "SOF0", "DHT", "SOS"), thumbnail=(), byte_order="", tags=(), maker_note=False,
        jfif=(1, 1, 0, 1, 1), separate_tables=True, comments=(),
    )  # fmt: skip


@pytest.mark.parametrize(
    "options, field, value",
    [
        ({"progressive": True}, "progressive", True),
        ({"progressive": True}, "huffman", "optimized"),
        ({"optimize": True}, "huffman", "optimized"),
        ({"subsampling": 0}, "sampling", "1x1:0 1x1:1 1x1:1"),
        ({"subsampling": 1}, "sampling", "2x1:0 1x1:1 1x1:1"),
        ({"restart_marker_blocks": 4}, "restart", 4),
        ({"icc_profile": b"x" * 200}, "markers", ("APP0 JFIF", "APP2 ICC", "DQT", "SOF0", "DHT", "SOS")),
        ({"comment": b"hello"}, "markers", ("APP0 JFIF", "COM", "DQT", "SOF0", "DHT", "SOS")),
    ],
)
def test_an_option_of_the_encoder_shows_in_its_field(options, field, value):
    assert getattr(read_header(jpeg(**options)), field) == value


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (7, 9)])
def test_small_pictures_have_headers(shape):
    header = read_header(jpeg(np.zeros((*shape, 3), np.uint8)))
    assert (header.height, header.width) == shape


def test_gray_pictures_have_one_component():
    header = read_header(jpeg(NOISE[..., 0], quality=80))
    assert (header.sampling, header.tables) == ("1x1:0", standard_tables(80)[:1])


@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_exif_gives_byte_order_and_names_of_tags_without_private_ones(byte_order):
    exif = with_exif()
    exif.endian = byte_order
    exif[0x013B] = "Jane Doe"  # Artist
    exif.get_ifd(0x8769)[0xA431] = "12345678"  # BodySerialNumber
    exif.get_ifd(0x8769)[0x829A] = 0.01  # ExposureTime
    header = read_header(jpeg(exif=exif))
    assert header.byte_order == {"<": "II", ">": "MM"}[byte_order]
    assert header.tags == ("Image Make", "Image Model", "Image ExifOffset", "EXIF ExposureTime")
    assert "Jane" not in json.dumps(header.record) and "12345678" not in json.dumps(header.record)


def test_a_maker_note_is_found():
    exif = with_exif()
    exif.get_ifd(0x8769)[0x927C] = b"Nikon\0\x02"
    assert read_header(jpeg(exif=exif)).maker_note is True
    assert read_header(jpeg(exif=with_exif())).maker_note is False


def test_broken_exif_makes_its_fields_unknown_and_keeps_the_others():
    broken = jpeg(exif=with_exif()).replace(b"II*\0", b"XX*\0").replace(b"MM\0*", b"XX\0*")
    header = read_header(broken)
    assert (header.byte_order, header.tags, header.thumbnail) == (None, None, None)
    assert header.encoding == read_header(jpeg()).encoding


def test_the_encoding_is_that_of_a_tile_cut_without_recompression():
    photo = jpeg(np.random.default_rng(1).integers(0, 256, (320, 320, 3), np.uint8), quality=88, subsampling=1)
    tile = cut_tiles(photo, 1, 64, np.random.default_rng(0))[0]
    assert read_header(tile.data).encoding == read_header(photo).encoding


def test_a_table_that_no_component_uses_does_not_count():
    plain = jpeg(quality=80)
    unused = b"\xff\xdb\x00\x43\x03" + bytes(range(1, 65))
    assert read_header(plain[:2] + unused + plain[2:]).encoding == read_header(plain).encoding


def test_other_encodings_have_other_keys():
    options = [{"quality": quality} for quality in (60, 75, 90)] + [{"subsampling": n} for n in (0, 1)]
    assert len({read_header(jpeg(**option)).encoding for option in options}) == len(options)


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xd9", b"\xff\xd8" * 500])
def test_no_header_without_a_jpeg(data):
    assert read_header(data) is None


def test_endless_segments_are_cut_off():
    file = jpeg()
    many = file[:2] + b"\xff\xe5\x00\x04xx" * 100_000 + file[2:]
    header = read_header(many)
    assert header is None or len(header.markers) <= MOST_SEGMENTS


@given(st.data())
def test_mutated_files_never_raise(data):
    file = bytearray(jpeg(exif=with_exif(), quality=70))
    for _ in range(data.draw(st.integers(1, 8))):
        file[data.draw(st.integers(0, min(len(file), 700) - 1))] = data.draw(st.integers(0, 255))
    header = read_header(bytes(file[: data.draw(st.integers(0, len(file)))]))
    assert header is None or JpegHeader.of_record(json.loads(json.dumps(header.record))) == header


def test_a_record_keeps_known_fields_only():
    known = JpegHeader(standard_tables(75), "1x1:0")
    assert known.record.keys() == {"tables", "sampling"}
    assert JpegHeader.of_record(json.loads(json.dumps(known.record))) == known


@pytest.mark.parametrize(
    "record",
    [
        {}, {"tables": [], "sampling": ""}, {"tables": [[1] * 63], "sampling": "1x1:0"}, {"tables": 5, "sampling": ""},
        {"tables": [["a"] * 64], "sampling": "1x1:0"}, {"tables": [[1] * 64], "sampling": "1x1:0", "other": 1},
        {"tables": [[1] * 64], "sampling": "1x1:0", "tags": [1]},
    ],
)  # fmt: skip
def test_other_records_are_refused(record):
    with pytest.raises(ValueError, match="not the record of a JPEG header"):
        JpegHeader.of_record(record)


def test_camera_files_have_headers(shared):
    for path in sorted((shared / "camera_photos").iterdir()):
        header = read_header(path.read_bytes())
        assert header.markers[-1] == "SOS" and header.byte_order in ("II", "MM") and header.tags
