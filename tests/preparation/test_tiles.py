"""Tiles are exact parts of the photo: DCT blocks, tables and decoded values are compared with the photo's."""

import io
import subprocess
import sys
import tempfile

import jpeglib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from exiflang.preparation.tiles import cut_tiles
from exiflang.utils.images import ImageError, load_image

SIZE = 64
SUBSAMPLINGS = {"4:4:4": (1, 1), "4:2:2": (1, 2), "4:2:0": (2, 2)}  # units: rows, columns of 8 pixels


def picture(width: int = 203, height: int = 179, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    walk = np.cumsum(np.cumsum(rng.normal(0, 1, (height, width, 3)), 0), 1) / 2 + 128  # [H, W, 3]
    return Image.fromarray(np.clip(walk, 0, 255).astype(np.uint8))


def encoded(image: Image.Image, fmt: str = "JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


def dct(data: bytes, folder) -> jpeglib.DCTJPEG:
    (folder / "read.jpg").write_bytes(data)
    jpeg = jpeglib.read_dct(str(folder / "read.jpg"))
    jpeg.load()
    return jpeg


def upright_crop(photo: bytes, tile) -> np.ndarray:
    return load_image(photo)[tile.y : tile.y + SIZE, tile.x : tile.x + SIZE]


def assert_lossless_jpeg(photo: bytes, tiles, folder, unit: tuple[int, int]) -> None:
    """Blocks and tables are identical; so are pixels, except within 2 of the border."""
    whole = dct(photo, folder)
    for tile in tiles:
        assert tile.extension == "jpg"
        assert tile.y % (8 * unit[0]) == 0 and tile.x % (8 * unit[1]) == 0
        part = dct(tile.data, folder)
        assert (part.height, part.width) == (SIZE, SIZE)
        assert np.array_equal(part.samp_factor, whole.samp_factor)
        for component, (big, small) in enumerate(
            zip((whole.Y, whole.Cb, whole.Cr), (part.Y, part.Cb, part.Cr), strict=True)
        ):
            rows, cols = (8, 8) if component == 0 else (8 * unit[0], 8 * unit[1])
            top, left = tile.y // rows, tile.x // cols
            assert np.array_equal(small, big[top : top + SIZE // rows, left : left + SIZE // cols])
            assert np.array_equal(part.get_component_qt(component), whole.get_component_qt(component))
        inside = (slice(2, -2), slice(2, -2))
        assert np.array_equal(load_image(tile.data)[inside], upright_crop(photo, tile)[inside])


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 3}, {"quality": 31}], ids=str)
def test_jpeg_blocks_and_tables_are_copied(subsampling, options, tmp_path):
    photo = encoded(picture(), subsampling=subsampling, **options)
    tiles = cut_tiles(photo, 4, SIZE, np.random.default_rng(1))
    assert len(tiles) == 4
    assert_lossless_jpeg(photo, tiles, tmp_path, SUBSAMPLINGS[subsampling])


def test_vertical_subsampling_4_4_0_is_copied(tmp_path):
    rng = np.random.default_rng(2)
    planes = [np.zeros((rows, 24, 8, 8), np.int16) for rows in (22, 11, 11)]
    for plane in planes:
        plane[..., 0, 0] = rng.integers(-60, 60, plane.shape[:2])
        plane[..., 1, 2] = rng.integers(-9, 9, plane.shape[:2])
    jpeg = jpeglib.from_dct(*planes, qt=np.stack([np.full((8, 8), 7), np.full((8, 8), 11)]).astype(np.uint16))
    jpeg.samp_factor = np.array([[2, 1], [1, 1], [1, 1]])
    jpeg.write_dct(str(tmp_path / "photo.jpg"))
    photo = (tmp_path / "photo.jpg").read_bytes()
    tiles = cut_tiles(photo, 5, SIZE, np.random.default_rng(3))
    assert_lossless_jpeg(photo, tiles, tmp_path, (2, 1))


def test_unnecessarily_large_sampling_factors_are_kept(tmp_path):
    """Some cameras write 4:4:4 with all factors 2: the same pixels in larger MCUs."""
    planes = [np.zeros((22, 24, 8, 8), np.int16) for _ in range(3)]
    for plane in planes:
        plane[..., 0, 0] = np.random.default_rng(0).integers(-60, 60, plane.shape[:2])
    jpeg = jpeglib.from_dct(*planes, qt=np.full((2, 8, 8), 9, np.uint16))
    jpeg.samp_factor = np.array([[1, 2]] * 3)
    jpeg.write_dct(str(tmp_path / "photo.jpg"))
    photo = (tmp_path / "photo.jpg").read_bytes()
    tiles = cut_tiles(photo, 3, SIZE, np.random.default_rng(0))
    assert np.array_equal(dct(tiles[0].data, tmp_path).samp_factor, [[1, 2]] * 3)
    for tile in tiles:
        assert tile.x % 16 == 0
        assert np.array_equal(load_image(tile.data), upright_crop(photo, tile))


def test_separate_tables_for_each_component(tmp_path):
    tables = [[8 + i] * 64 for i in range(3)]
    photo = encoded(picture(), qtables=tables, subsampling=0)
    tiles = cut_tiles(photo, 2, SIZE, np.random.default_rng(1))
    assert_lossless_jpeg(photo, tiles, tmp_path, (1, 1))


@settings(max_examples=25)
@given(st.integers(64, 150), st.integers(64, 150), st.integers(1, 12), st.sampled_from(sorted(SUBSAMPLINGS)), st.data())
def test_positions_are_distinct_and_inside_the_photo(width, height, count, subsampling, data):
    fmt = data.draw(st.sampled_from(["JPEG", "PNG"]))
    options = {"subsampling": subsampling} if fmt == "JPEG" else {}
    tiles = cut_tiles(encoded(picture(width, height), fmt, **options), count, SIZE, np.random.default_rng(0))
    step_y, step_x = (8 * n for n in SUBSAMPLINGS[subsampling]) if fmt == "JPEG" else (1, 1)
    possible = ((height - SIZE) // step_y + 1) * ((width - SIZE) // step_x + 1)
    places = {(tile.x, tile.y) for tile in tiles}
    assert len(places) == len(tiles) == min(count, possible)
    assert all(0 <= x <= width - SIZE and 0 <= y <= height - SIZE for x, y in places)
    assert all(load_image(tile.data).shape == (SIZE, SIZE, 3) for tile in tiles)


def test_equal_generators_give_equal_tiles():
    photo = encoded(picture())
    first, again, other = (cut_tiles(photo, 3, SIZE, np.random.default_rng(seed)) for seed in (7, 7, 8))
    assert first == again
    assert first != other


def other_pictures() -> dict[str, bytes]:
    gray16 = np.random.default_rng(0).integers(0, 65536, (90, 100)).astype(np.uint16)
    color = picture(100, 90)
    return {
        "gray JPEG": encoded(color.convert("L")),
        "CMYK JPEG": encoded(color.convert("CMYK")),
        "JPEG stored as RGB": encoded(color, keep_rgb=True),
        "PNG": encoded(color, "PNG"),
        "palette PNG": encoded(color.quantize(16), "PNG"),
        "transparent PNG": encoded(Image.merge("RGBA", (*color.split(), color.split()[0])), "PNG"),
        "TIFF": encoded(color, "TIFF"),
        "WebP": encoded(color, "WEBP"),
        "16-bit PNG": encoded(Image.fromarray(gray16), "PNG"),
        "16-bit TIFF": encoded(Image.fromarray(gray16), "TIFF"),
    }


@pytest.mark.parametrize("kind", other_pictures())
def test_other_formats_give_lossless_webp(kind):
    photo = other_pictures()[kind]
    tiles = cut_tiles(photo, 3, SIZE, np.random.default_rng(0))
    assert [tile.extension for tile in tiles] == ["webp"] * 3
    for tile in tiles:
        assert np.array_equal(load_image(tile.data), upright_crop(photo, tile))


@pytest.mark.parametrize("keep_rgb", [False, True])
def test_orientation_does_not_resample_pixels(keep_rgb):
    """JPEG tiles are as stored, WebP tiles are upright: in both cases no pixel is resampled."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image = picture(160, 96)
    photo, stored = encoded(image, exif=exif, keep_rgb=keep_rgb), encoded(image, keep_rgb=keep_rgb)
    assert load_image(photo).shape == (160, 96, 3)
    reference = photo if keep_rgb else stored
    for tile in cut_tiles(photo, 3, SIZE, np.random.default_rng(0)):
        inside = (slice(2, -2), slice(2, -2))
        assert np.array_equal(load_image(tile.data)[inside], upright_crop(reference, tile)[inside])


def test_metadata_is_dropped_and_many_segments_are_harmless(tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "SecretMake"
    plain = encoded(picture(), exif=exif, comment=b"SecretComment")
    crowded = plain[:2] + b"\xff\xe1\x00\x08Secret" * 300 + b"\xff\xff" + plain[2:]
    tiles = cut_tiles(crowded, 3, SIZE, np.random.default_rng(0))
    assert tiles == cut_tiles(plain, 3, SIZE, np.random.default_rng(0))
    assert_lossless_jpeg(encoded(picture()), tiles, tmp_path, (2, 2))
    assert not any(b"Secret" in tile.data for tile in tiles)


def test_jpegs_that_the_block_reader_refuses_become_webp():
    """Pillow decodes arithmetic coding, the block reader does not; a header that claims it shows which one was used."""
    photo = encoded(picture())
    claimed = photo.replace(b"\xff\xc0", b"\xff\xc9", 1)
    assert {tile.extension for tile in cut_tiles(claimed, 2, SIZE, np.random.default_rng(0))} == {"webp"}


HOSTILE = {
    "empty": b"",
    "no picture": b"\xff\xd8\xff" + b"no picture at all" * 9,
    "truncated": encoded(picture())[:4000],
    "header only": encoded(picture())[:300],
    "segment of length 0": b"\xff\xd8\xff\xe1\x00\x00" * 40,
    "bomb": encoded(Image.new("1", (20000, 20000)), "PNG"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_files_that_pillow_refuses_never_reach_the_block_reader(kind, monkeypatch):
    monkeypatch.setattr(jpeglib, "read_dct", lambda path: pytest.fail("the block reader saw a damaged file"))
    with pytest.raises(ImageError, match="^holiday/1.jpg: "):
        cut_tiles(HOSTILE[kind], 2, SIZE, np.random.default_rng(0), name="holiday/1.jpg")


def test_the_error_for_a_small_photo_names_it_and_both_sizes(monkeypatch):
    monkeypatch.setattr(jpeglib, "read_dct", lambda path: pytest.fail("too small to be read"))
    with pytest.raises(ImageError, match="^a.jpg: 63 x 100 pixels, smaller than a tile of 64: choose a smaller"):
        cut_tiles(encoded(picture(63, 100)), 1, SIZE, np.random.default_rng(0), name="a.jpg")
    with pytest.raises(ImageError, match="1 x 1"):
        cut_tiles(encoded(picture(1, 1), "PNG"), 1, SIZE, np.random.default_rng(0))


def test_exactly_one_tile_fits():
    (tile,) = cut_tiles(encoded(picture(64, 64)), 9, SIZE, np.random.default_rng(0))
    assert (tile.x, tile.y) == (0, 0)


@pytest.mark.parametrize(("count", "size"), [(0, 64), (-1, 64), (1, 0), (1, 16), (1, 100)])
def test_impossible_requests_are_refused(count, size):
    with pytest.raises(ValueError, match="multiple of 32"):
        cut_tiles(encoded(picture()), count, size, np.random.default_rng(0))


def test_no_temporary_file_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for photo in (encoded(picture()), *other_pictures().values(), *HOSTILE.values()):
        try:
            cut_tiles(photo, 2, SIZE, np.random.default_rng(0))
        except ImageError:
            assert photo in HOSTILE.values()
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_mutated_photos_give_tiles_or_an_image_error(seed, flips):
    rng = np.random.default_rng(seed)
    photo = bytearray(encoded(picture(100, 90), subsampling=2, progressive=bool(seed % 2)))
    for position in rng.integers(2, len(photo), flips):
        photo[position] = rng.integers(256)
    try:
        tiles = cut_tiles(bytes(photo), 2, SIZE, rng)
    except ImageError as error:
        assert str(error).startswith("photo: ")
    else:
        assert all(load_image(tile.data).shape == (SIZE, SIZE, 3) for tile in tiles)


def test_real_bad_files_give_tiles_or_an_image_error(shared):
    left_out = 0
    for path in sorted((shared / "badfiles").iterdir()):
        try:
            tiles = cut_tiles(path.read_bytes(), 1, SIZE, np.random.default_rng(0), path.name)
        except ImageError as error:
            left_out += 1
            assert path.name in str(error)
        else:
            assert load_image(tiles[0].data).shape == (SIZE, SIZE, 3)
    assert 0 < left_out < 19


def test_blocks_of_real_photos_are_copied(shared, tmp_path):
    for path in sorted((shared / "camera_photos").iterdir())[:12]:
        photo = path.read_bytes()
        (tile,) = cut_tiles(photo, 1, 256, np.random.default_rng(0), path.name)
        whole, part = dct(photo, tmp_path), dct(tile.data, tmp_path)
        top, left = tile.y // 8, tile.x // 8
        assert np.array_equal(part.Y, whole.Y[top : top + 32, left : left + 32]), path.name
        assert np.array_equal(part.qt, whole.qt), path.name


def test_torch_is_not_needed():
    code = "import sys, exiflang.preparation.tiles; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
