"""load_image: every kind of picture becomes upright uint8 RGB, every damaged one becomes ImageError."""

import io
import os
import random
import re
import struct
import sys
import time
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, TiffImagePlugin

from exiflang.utils import images
from exiflang.utils.folders import find_pictures, only_pictures, openable_extensions
from exiflang.utils.images import PICTURE_EXTENSIONS, ImageError, load_image

BADFILES = Path(__file__).parents[3] / "shared" / "badfiles"
RGB = np.random.default_rng(0).integers(0, 256, (24, 33, 3), dtype=np.uint8)
GRAY = RGB[..., 0]


def encoded(image, file_format, **options):
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def picture(mode):
    return Image.fromarray(RGB).convert(mode)


def orientation(value):
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def test_all_sources_give_the_same_fresh_pixels(tmp_path):
    data = encoded(picture("RGB"), "PNG")
    path = tmp_path / "a.png"
    path.write_bytes(data)
    array = RGB.copy()
    for source in (path, str(path), data, bytearray(data), memoryview(data), picture("RGB"), array):
        loaded = load_image(source)
        assert loaded.dtype == np.uint8 and loaded.flags.c_contiguous
        np.testing.assert_array_equal(loaded, RGB)
        loaded[:] = 0
    np.testing.assert_array_equal(array, RGB)


@pytest.mark.parametrize("file_format", ["BMP", "TIFF", "PPM", "WEBP", "JPEG2000", "GIF", "JPEG", "AVIF"])
def test_formats(file_format):
    flat = np.full((16, 24, 3), (200, 30, 90), dtype=np.uint8)
    options = {"lossless": True} if file_format == "WEBP" else {}
    loaded = load_image(encoded(Image.fromarray(flat), file_format, **options))
    np.testing.assert_allclose(loaded.astype(int), flat, atol=4)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "PA", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"])
def test_modes_become_rgb(mode):
    image = picture(mode)
    np.testing.assert_array_equal(load_image(image), np.asarray(image.convert("RGB")))


def test_alpha_is_dropped_not_blended():
    rgba = np.dstack([RGB, np.zeros_like(GRAY)])
    np.testing.assert_array_equal(load_image(encoded(Image.fromarray(rgba), "PNG")), RGB)
    np.testing.assert_array_equal(load_image(rgba), RGB)
    gray_alpha = Image.merge("LA", [picture("L"), Image.new("L", (33, 24), 0)])
    np.testing.assert_array_equal(load_image(encoded(gray_alpha, "PNG"))[..., 1], np.asarray(picture("L")))
    palette = picture("P")
    loaded = load_image(encoded(palette, "PNG", transparency=bytes(range(200))))
    np.testing.assert_array_equal(loaded, np.asarray(palette.convert("RGB")))


def test_adobe_cmyk_jpeg_is_not_inverted():
    flat = Image.new("CMYK", (16, 16), (0, 200, 200, 0))
    loaded = load_image(encoded(flat, "JPEG", quality=95))
    assert loaded[..., 0].min() > 245 and loaded[..., 1:].max() < 65


@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm"])
def test_sixteen_bit_gray_is_scaled_not_clipped(suffix, tmp_path):
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    path = tmp_path / f"gray.{suffix}"
    assert cv2.imwrite(str(path), levels)
    expected = np.round(levels / 257).astype(np.uint8)
    np.testing.assert_array_equal(load_image(path), np.repeat(expected[..., None], 3, axis=2))


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L"])
def test_sixteen_bit_byte_orders(mode):
    values = np.array([[0, 257, 65535]], dtype=">u2" if mode.endswith("B") else "<u2")
    image = Image.frombytes(mode, (3, 1), values.tobytes())
    assert load_image(image)[0, :, 0].tolist() == [0, 1, 255]


@pytest.mark.parametrize("suffix", ["png", "tiff", "ppm"])
def test_sixteen_bit_color_is_right_to_one_level(suffix, tmp_path):
    wide = np.random.default_rng(1).integers(0, 65536, (20, 20, 3), dtype=np.uint16)
    path = tmp_path / f"color.{suffix}"
    assert cv2.imwrite(str(path), wide[..., ::-1])
    assert np.abs(load_image(path).astype(int) - np.round(wide / 257)).max() <= 1


@pytest.mark.parametrize("mode, value", [("I", 65536), ("I", -1), ("F", 0.5)])
def test_pixels_without_a_defined_white_are_refused(mode, value):
    with pytest.raises(ImageError, match="no defined white; convert a copy losslessly"):
        load_image(encoded(Image.new(mode, (4, 4), value), "TIFF"))


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_orientation_is_applied_as_pillow_does(value, file_format):
    data = encoded(picture("RGB"), file_format, exif=orientation(value))
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(load_image(data), expected)
    assert load_image(data).shape[:2] == ((33, 24) if value > 4 else (24, 33))


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_unknown_orientation_turns_nothing(value):
    np.testing.assert_array_equal(load_image(encoded(picture("RGB"), "PNG", exif=orientation(value))), RGB)


def test_damaged_exif_does_not_cost_the_pixels():
    data = encoded(picture("RGB"), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\x7f")
    assert load_image(data).shape == (24, 33, 3)


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "TIFF", "PNG"])
def test_first_frame_of_several(file_format):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    options = {"lossless": True} if file_format == "WEBP" else {}
    data = encoded(frames[0], file_format, save_all=True, append_images=frames[1:], **options)
    assert load_image(data)[4, 4].tolist() == [255, 0, 0]


def chunk(kind, payload, crc=0):
    return len(payload).to_bytes(4, "big") + kind + payload + (zlib.crc32(kind + payload) ^ crc).to_bytes(4, "big")


def png_beside(*chunks, behind=False):
    """A PNG that EXIF turns by a quarter, with chunks before or behind its pixels."""
    data = encoded(picture("RGB"), "PNG", exif=orientation(6))
    at = len(data) - 12 if behind else 33
    return data[:at] + b"".join(chunks) + data[at:]


def segment(marker, payload):
    return bytes([0xFF, marker]) + (len(payload) + 2).to_bytes(2, "big") + payload


def tiff_with(tag, kind, value):
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    directory.tagtype[tag] = kind
    directory[tag] = value
    return encoded(picture("RGB"), "TIFF", tiffinfo=directory)


def beside_the_pixels():
    """Pictures of which all but the pixels is too large, or damaged; those of PNG and JPEG are stored turned."""
    large = zlib.compress(bytes(1_500_000))
    exif = orientation(6)
    exif[0x010F] = "Canon"
    exif = exif.tobytes()
    jpeg, avif = (encoded(picture("RGB"), kind, exif=exif) for kind in ("JPEG", "AVIF"))
    plain = Image.Exif()
    plain[0x010F] = "Canon"
    frames = encoded(picture("RGB"), "AVIF", exif=plain.tobytes(), save_all=True, append_images=[picture("RGB")])
    segments = [(0xE0, b"JFIF\0"), (0xE2, b"ICC_PROFILE\0"), (0xEE, b"Adobe")]
    return {
        "large zTXt": png_beside(chunk(b"zTXt", b"Comment\0\0" + large)),
        "large zTXt behind": png_beside(chunk(b"zTXt", b"Comment\0\0" + large), behind=True),
        "large iTXt": png_beside(chunk(b"iTXt", b"Comment\0\1\0\0\0" + large)),
        "large XMP": png_beside(chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + large)),
        "large profile": png_beside(chunk(b"iCCP", b"lut\0\0" + large)),
        "much text": png_beside(*[chunk(b"zTXt", b"%d\0\0" % i + zlib.compress(bytes(1 << 20))) for i in range(65)]),
        "unknown compression": png_beside(chunk(b"zTXt", b"Comment\0\7" + large)),
        "checksum of a text": png_beside(chunk(b"tEXt", b"Comment\0abc", crc=1)),
        "short gAMA": png_beside(chunk(b"gAMA", b"\0")),
        "short pHYs": png_beside(chunk(b"pHYs", b"\0")),
        "short acTL": png_beside(chunk(b"acTL", b"\0")),
        **{str(name): jpeg[:2] + segment(marker, name) + jpeg[2:] for marker, name in segments},
        "AVIF's EXIF": avif.replace(b"MM\0*", b"XXXX"),
        "AVIF frames' EXIF": frames.replace(b"MM\0*", b"XXXX"),
        "TIFF's XMP as text": tiff_with(700, 2, "abc"),
        "TIFF's XMP as a number": tiff_with(700, 4, 5),
    }


@pytest.mark.parametrize("name", beside_the_pixels())
def test_what_lies_beside_the_pixels_does_not_cost_them(name, tmp_path):
    data = beside_the_pixels()[name]
    (tmp_path / "a").write_bytes(data)
    found = load_image(data)
    np.testing.assert_array_equal(load_image(tmp_path / "a"), found)
    if name.startswith(("AVIF", "b'")):
        assert found.shape == ((24, 33, 3) if "frames" in name else (33, 24, 3))
    else:
        np.testing.assert_array_equal(found, RGB if name.startswith("TIFF") else np.rot90(RGB, -1))


def test_large_text_of_a_given_png(shared):
    assert load_image(shared / "cases" / "png_large_text" / "comment.png").size


def test_the_true_reason_is_given_where_there_is_one():
    with pytest.raises(ImageError, match=r"its header is damaged \(Truncated IHDR chunk\)"):
        load_image(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", bytes(5)))


def test_no_message_makes_people_save_a_file_anew():
    """Saving a file anew destroys the traces that are looked for."""
    for path in (Path(images.__file__).parents[1]).rglob("*.py"):
        said = re.findall(r"; (?:or )?(?:re-?)?save .*|save it anew.*|save it compressed.*", path.read_text())
        assert [line for line in said if "UTF-8 CSV" not in line] == []


BEHIND = {"save_all": True, "append_images": [picture("RGB").resize((66, 48))]}
RAW = {
    "DNG": (encoded(picture("RGB"), "TIFF", tiffinfo={50706: b"\1\4\0\0"}), "a camera's raw file .DNG."),
    "DNG in BigTIFF": (encoded(picture("RGB"), "TIFF", tiffinfo={50706: b"\1\4\0\0"}, big_tiff=True), "raw file .DNG."),
    "NEF, ARW": (encoded(picture("RGB"), "TIFF", tiffinfo={254: 1, 330: 8}), "a thumbnail and .* is in a SubIFD"),
    "TIFF": (encoded(picture("RGB"), "TIFF", tiffinfo={254: 1}, **BEHIND), "picture is in a later one"),
    "PEF": (b"II*\0\x08\0\0\0\2\0" + struct.pack("<HHIHxxHHIHxx", 259, 3, 1, 65535, 262, 3, 1, 32803) + bytes(4),
            "a camera's raw file"),
    "CR2": (encoded(picture("RGB"), "TIFF")[:4] + b"\x10\0\0\0CR\2\0" + bytes(4096), "raw file .CR2."),
    "CR3": (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(99), "raw file .CR3."),
    "RW2": (b"IIU\0\x18\0\0\0" + bytes(99), "raw file .RW2."),
    "ORF": (b"IIRO\x08\0\0\0" + bytes(99), "raw file .ORF."),
    "ORF, Motorola": (b"MMOR\0\0\0\x08" + bytes(99), "raw file .ORF."),
    "RAF": (b"FUJIFILMCCD-RAW 0201" + bytes(99), "raw file .RAF."),
}  # fmt: skip


@pytest.mark.parametrize("kind", RAW)
def test_without_rawpy_raw_files_are_refused_by_name_with_the_reason(kind, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "rawpy", None)
    data, reason = RAW[kind]
    (tmp_path / "picture.tif").write_bytes(data)
    out = r'pip install "exiflang\[raw\]", or develop it losslessly to TIFF or PNG, or inspect the JPEG'
    for source in (data, tmp_path / "picture.tif"):
        with pytest.raises(ImageError, match=f"{reason}.*; rawpy is not installed: {out}"):
            load_image(source)


@pytest.mark.parametrize("kind", RAW)
def test_what_libraw_does_not_read_is_refused_by_name_with_the_reason(kind, tmp_path):
    data, reason = RAW[kind]
    path = tmp_path / "picture: one.tif"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=f"{reason}.*, but LibRaw does not read it .*; develop it losslessly") as found:
        load_image(path)
    assert str(found.value).startswith(f"{path}: ")


def test_a_raw_file_of_unknown_content_is_told_by_its_name(tmp_path):
    (tmp_path / "a.NEF").write_bytes(b"of no known content")
    with pytest.raises(ImageError, match=r"a.NEF: a camera's raw file, by its extension; develop it losslessly"):
        load_image(tmp_path / "a.NEF")


@pytest.mark.parametrize("sub", [True, False])
def test_tiff_files_with_other_pages_behind_the_picture_are_read(sub):
    for tags in ({254: 0}, {254: 2}, {}):
        data = encoded(picture("RGB"), "TIFF", tiffinfo=tags | ({330: 8} if sub else {}), **({} if sub else BEHIND))
        np.testing.assert_array_equal(load_image(data), RGB)


def test_a_lone_page_that_calls_itself_a_thumbnail_is_read():
    np.testing.assert_array_equal(load_image(encoded(picture("RGB"), "TIFF", tiffinfo={254: 1})), RGB)


def test_the_given_raw_file_is_refused(shared):
    """LibRaw does not know its picture, and its thumbnail is never taken for that."""
    with pytest.raises(ImageError, match="sub.dng: its first page is a thumbnail and the picture is in a SubIFD"):
        load_image(shared / "cases" / "raw_thumbnail" / "sub.dng")


def test_raw_files_of_a_folder_are_left_out_by_name(tmp_path):
    for name in ("a.dng", "b.CR2", "c.txt", "d.png"):
        (tmp_path / name).touch()
    found, left_out, others = find_pictures(tmp_path)
    assert [path.name for path in found] == ["d.png"] and [path.name for path in others] == ["c.txt"]
    assert [path.name for path, _ in left_out] == ["a.dng", "b.CR2"]
    assert all(reason.startswith("a camera's raw file; develop it losslessly") for _, reason in left_out)


def test_raw_files_of_a_folder_are_found_if_asked_for(tmp_path, monkeypatch):
    (tmp_path / "a.dng").touch()
    assert find_pictures(tmp_path, extensions=openable_extensions())[0] == [tmp_path / "a.dng"]
    monkeypatch.setitem(sys.modules, "rawpy", None)
    found, left_out, _ = find_pictures(tmp_path, extensions=openable_extensions())
    assert found == [] and [path.name for path, _ in left_out] == ["a.dng"]


def test_files_that_are_left_out_are_logged(tmp_path, caplog):
    for name in ("a.dng", os.fsdecode(b"caf\xe9.txt"), "d.png"):
        (tmp_path / name).touch()
    assert [path.name for path in only_pictures(tmp_path)] == ["d.png"]
    raw, others = [record.getMessage() for record in caplog.records]
    assert raw.startswith(f"{tmp_path}/a.dng: left out, a camera's raw file")
    assert others == f"{tmp_path}: 1 file skipped, not a picture by extension: caf\\xe9.txt"


def test_one_pixel():
    assert load_image(encoded(Image.new("L", (1, 1), 7), "PNG")).tolist() == [[[7, 7, 7]]]
    assert load_image(np.array([[7]], dtype=np.uint8)).tolist() == [[[7, 7, 7]]]
    assert load_image(np.array([[[7]]], dtype=np.uint8)).tolist() == [[[7, 7, 7]]]


@pytest.mark.parametrize(
    "array, message",
    [
        (np.zeros((4, 4, 3)), "must be uint8"),
        (np.zeros((4, 4), np.uint16), "must be uint8"),
        (np.zeros((3, 4, 4), np.uint8)[:, :, :2], "reorder or split"),
        (np.zeros((1, 4, 4, 3), np.uint8), "reorder or split"),
        (np.zeros(4, np.uint8), "reorder or split"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        (np.broadcast_to(np.uint8(0), (20_000, 20_000)), "more than"),
    ],
)
def test_arrays_that_are_no_picture(array, message):
    with pytest.raises(ImageError, match=message):
        load_image(array)


@pytest.mark.parametrize("source", [None, 3, [[1, 2]], io.BytesIO(b"x")])
def test_other_types_are_a_type_error(source):
    with pytest.raises(TypeError, match="a picture is a path, bytes, a PIL image or a uint8 array"):
        load_image(source)


def test_files_that_cannot_be_opened_are_named(tmp_path):
    fifo = tmp_path / "pipe.jpg"
    os.mkfifo(fifo)
    for path in (tmp_path / "missing.jpg", tmp_path, fifo, tmp_path / ("x" * 5000), "nul\0.jpg"):
        with pytest.raises(ImageError) as caught:
            load_image(path)
        assert str(path) in str(caught.value) and "check the path" in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"\x00", b"GIF89a", b"\xff\xd8\xff", b"not a picture at all", b"%!PS-Adobe-3.0 EPSF-3.0\n"]
)
def test_what_is_no_picture_is_named(content, tmp_path):
    path = tmp_path / "thing.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match="thing.jpg: not a picture.*give one of JPEG, PNG"):
        load_image(path)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "BMP", "WEBP", "TIFF"])
def test_truncated_files_are_named(file_format, tmp_path):
    path = tmp_path / "cut.img"
    data = encoded(picture("RGB"), file_format)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageError, match="cut.img: (truncated|not a picture)"):
        load_image(path)


def test_a_lazily_truncated_pil_image_is_an_image_error():
    data = encoded(picture("RGB"), "JPEG")
    with Image.open(io.BytesIO(data[: len(data) - 150])) as image, pytest.raises(ImageError, match="truncated"):
        load_image(image)


def declared(width, height):
    """A PNG whose header promises ``width`` x ``height``."""
    data = bytearray(encoded(Image.new("L", (1, 1)), "PNG"))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def test_size_is_refused_from_the_header(monkeypatch):
    start = time.process_time()
    with pytest.raises(ImageError, match="more than 178,956,970 pixels; crop a copy losslessly"):
        load_image(declared(20_000, 20_000))
    assert time.process_time() - start < 1
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # another library may lift Pillow's limit
    with pytest.raises(ImageError, match="more than 178,956,970 pixels"):
        load_image(declared(20_000, 20_000))


def test_few_bytes_that_promise_many_pixels_are_refused_before_they_take_memory():
    start = time.process_time()
    with pytest.raises(ImageError, match=r"declares 13,000 x 13,000 pixels in \d+ bytes: damaged, empty"):
        load_image(declared(13_000, 13_000))
    assert time.process_time() - start < 1


def test_a_large_picture_of_one_color_is_read(tmp_path):
    Image.new("L", (4200, 4000), 7).save(tmp_path / "one.png", optimize=True)
    assert load_image(tmp_path / "one.png").shape == (4000, 4200, 3)


def test_pillows_bomb_warning_does_not_leak(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)  # the 792 pixels of RGB lie between the warning and the error
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(load_image(encoded(picture("RGB"), "PNG")), RGB)


def test_the_limit_is_pillows_own():
    assert images.MAX_PIXELS == 2 * Image.MAX_IMAGE_PIXELS


SEEDS = [
    encoded(picture("RGB"), "JPEG", exif=orientation(6)),
    encoded(picture("CMYK"), "JPEG", progressive=True),
    encoded(picture("RGB"), "PNG", exif=orientation(3)),
    encoded(picture("P"), "PNG", transparency=bytes(range(200))),
    encoded(picture("RGB"), "TIFF", exif=orientation(8)),
    encoded(picture("RGB"), "TIFF", compression="tiff_lzw"),
    encoded(picture("P"), "GIF", save_all=True, append_images=[picture("P").rotate(9)]),
    encoded(picture("RGB"), "WEBP"),
    encoded(picture("RGB"), "BMP"),
]


@settings(deadline=None, max_examples=400)
@given(st.sampled_from(SEEDS), st.integers(0, 2**32 - 1), st.booleans(), st.integers(1, 12))
def test_mutated_files_give_a_picture_or_an_image_error(seed, number, in_header, changes):
    generator = random.Random(number)
    data = bytearray(seed)
    for _ in range(changes):
        position = generator.randrange(min(len(data), 100) if in_header else len(data))
        data[position] = generator.randrange(256)
    if number % 5 == 0:
        del data[generator.randrange(1, len(data)) :]
    try:
        loaded = load_image(bytes(data))
    except ImageError as error:
        assert f"picture of {len(data)} bytes: " in str(error) and "\n" not in str(error)
    else:
        assert loaded.dtype == np.uint8 and loaded.ndim == 3 and loaded.shape[2] == 3


@pytest.mark.skipif(not BADFILES.is_dir(), reason="the shared folder of broken files is not here")
def test_real_broken_files_give_a_picture_or_an_image_error():
    outcomes = []
    for path in sorted(BADFILES.iterdir()):
        try:
            outcomes.append(load_image(path).ndim == 3)
        except ImageError as error:
            outcomes.append(path.name in str(error))
    assert outcomes and all(outcomes)


# ---- names of files


def test_every_extension_of_a_format_that_is_read_is_a_pictures():
    Image.init()
    known = {end for end, kind in Image.registered_extensions().items() if kind in {*images._FORMATS, "MPO"}}
    assert known <= PICTURE_EXTENSIONS
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    known |= {end for end, kind in Image.registered_extensions().items() if kind == "HEIF"}
    assert known == PICTURE_EXTENSIONS
