"""Quantized coefficients as stored in files."""

import io
import os
import struct
import time

import numpy as np
import pytest
from PIL import Image

from exiflang.utils.dct import read_dct, read_luma, standard_tables


def jpeg(size=(40, 24), mode="RGB", **options) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "JPEG", quality=90, **options)
    return file.getvalue()


def test_dequantized_coefficients_match_the_pixels():
    flat = io.BytesIO()
    Image.new("L", (16, 8), 200).save(flat, "JPEG", quality=90)
    found = read_dct(flat.getvalue())
    assert found.Y.shape == (1, 2, 8, 8)
    assert found.Y[..., 0, 0] * found.qt[0][0, 0] / 8 + 128 == pytest.approx(200, abs=0.5)
    assert not found.Y.reshape(2, 64)[:, 1:].any()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": "4:4:4"}, {"subsampling": "4:1:1"}])
def test_all_kinds_of_jpeg_have_luma_blocks(mode, options):
    assert read_dct(jpeg(mode=mode, **options)).Y.shape[:2] == (3, 5)


def test_any_number_of_metadata_segments_is_skipped():
    plain = jpeg()
    segment = b"\xff\xe1\x00\x08EXIF\x00\x00"
    many = plain[:2] + 80 * segment + plain[2:]
    np.testing.assert_array_equal(read_dct(many).Y, read_dct(plain).Y)


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff", b"\x89PNG\r\n", jpeg()[:200]])
def test_incomplete_jpegs_raise_os_error(data):
    with pytest.raises(OSError):
        read_dct(data)


# Luma


def swapped_tables(data: bytes) -> bytes:
    """The same picture with the luma table in slot 1 and the chroma table in slot 0."""
    swapped, at = bytearray(data), 2
    while data[at + 1] != 0xDA:
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] == 0xDB:
            for table in range(at + 4, at + 2 + length, 65):
                swapped[table] ^= 1
        if data[at + 1] == 0xC0:
            for component in range(3):
                swapped[at + 12 + 3 * component] ^= 1
        at += 2 + length
    return bytes(swapped)


def test_luma_is_read_from_paths_and_bytes(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(jpeg())
    for source in (path, str(path), jpeg()):
        luma = read_luma(source)
        np.testing.assert_array_equal(luma.quantized, read_dct(jpeg()).Y)
        assert (luma.height, luma.width, luma.turn) == (24, 40, None)
        assert luma.steps.ravel().tolist() == list(standard_tables(90)[0])


def test_missing_and_special_files_have_no_luma(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    assert [read_luma(tmp_path / name) for name in ("missing.jpg", "pipe.jpg", ".")] == [None] * 3


def test_luma_of_a_file_too_large_to_decode_is_not_read():
    data = bytearray(jpeg())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", 13_000, 13_000)
    start = time.process_time()
    assert read_luma(bytes(data)) is None and time.process_time() - start < 1


def test_luma_uses_its_own_table_in_any_slot():
    luma = read_luma(swapped_tables(jpeg()))
    assert luma.steps.ravel().tolist() == list(standard_tables(90)[0])


@pytest.mark.parametrize("orientation", [0, 1, 6, 8, 9])
def test_luma_records_the_orientation_of_the_photo(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    turn = {6: Image.Transpose.ROTATE_270, 8: Image.Transpose.ROTATE_90}.get(orientation)
    assert read_luma(jpeg(exif=tags)).turn == turn


ARITHMETIC = jpeg().replace(b"\xff\xc0", b"\xff\xc9", 1)  # its header claims arithmetic coding, which libjpeg refuses


@pytest.mark.parametrize("data", [b"\x89PNG\r\n", jpeg()[:200], ARITHMETIC], ids=["PNG", "truncated", "arithmetic"])
def test_files_without_readable_blocks_have_no_luma(data):
    assert read_luma(data) is None
