"""Evidence compared with loops, and on pictures whose JPEG history and block grid are known."""

import io

import cv2
import numpy as np
import pytest
import scipy.fft
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import gaussian_filter, gaussian_filter1d
from sklearn.metrics import roc_auc_score

from exiflang.localization import windows
from exiflang.localization.consistency import resize_windows, windows_above
from exiflang.localization.evidence import (
    LOW_FREQUENCIES,
    MEANINGS,
    NUMBERS,
    Evidence,
    WindowMeans,
    block_grid,
    content,
    gather_evidence,
    grid_corners,
    jpeg_history,
    pixel_blocks,
    read_history,
)
from exiflang.utils.dct import read_luma
from exiflang.utils.images import load_image

FROM_BLOCKS = ("jpeg_history", "former_history", "grid_along", "grid_beside")
FROM_CONTENT = ("brightness", "deviation", "gradient", "clipped", "saturation")


def scene(height: int = 160, width: int = 200, seed: int = 0) -> np.ndarray:
    """Soft spots, fine detail and a little noise: uint8 [H, W, 3]."""
    rng = np.random.default_rng(seed)
    soft = gaussian_filter(rng.normal(0, 400, (height, width, 3)), (6, 6, 0))
    fine = gaussian_filter(rng.normal(0, 30, (height, width, 3)), (1, 1, 0))
    return np.clip(128 + soft + fine + rng.normal(0, 2, soft.shape), 0, 255).astype(np.uint8)


def jpeg(picture: np.ndarray, quality: int = 75, mode: str = "RGB", **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).convert(mode).save(file, "JPEG", quality=quality, **options)
    return file.getvalue()


def gray_of(picture: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)


def twice_compressed(first: int = 60, second: int = 92) -> tuple[np.ndarray, np.ndarray]:
    """A compressed picture with an uncompressed patch, and the mask of the patch: uint8 [H, W, 3] and bool [H, W]."""
    picture = load_image(jpeg(scene(), first))
    mask = np.zeros(picture.shape[:2], bool)
    mask[48:112, 80:152] = True
    picture[mask] = scene(seed=1)[mask]
    return picture, mask


def numbers(evidence: Evidence) -> dict[str, float]:
    return dict(zip(NUMBERS, evidence.numbers.tolist(), strict=True))


# Means over windows


@settings(max_examples=25)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 9))
def test_window_means_equal_their_loop(height, width, window, stride):
    window = min(window, height, width)
    plane = np.random.default_rng(0).normal(size=(height, width))
    expected = [
        [plane[y : y + window, x : x + window].mean() for x in range(0, width - window + 1, stride)]
        for y in range(0, height - window + 1, stride)
    ]
    got = WindowMeans(height, width, window, stride)(plane)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=1e-5)


# JPEG history


def loop_history(blocks: np.ndarray) -> np.ndarray:
    """Block by block, frequency by frequency, value by value."""
    total = np.zeros(blocks.shape[:2])
    for v, u in LOW_FREQUENCIES:
        values = blocks[:, :, v, u].astype(int)
        low, high = values.min(), values.max()
        counts = np.array([(values == value).sum() for value in range(low, high + 1)], float)
        expected = gaussian_filter1d(counts, 0.6, mode="constant")
        for y, x in np.ndindex(total.shape):
            own = values[y, x] - low
            others = max(counts[own] - 1, 0)
            total[y, x] += np.clip(np.log((expected[own] + 1) / (others + 1)), -3, 3)
    return gaussian_filter(total, 1.5, mode="nearest")


@pytest.mark.parametrize("h, w", [(1, 1), (1, 5), (4, 6)])
@pytest.mark.parametrize("size", [0, 3, 500])
def test_history_equals_its_loop(h, w, size):
    blocks = np.random.default_rng(0).integers(-size, size + 1, (h, w, 8, 8)).astype(np.int16)
    got = jpeg_history(blocks)
    assert got.shape == (h, w) and got.dtype == np.float32
    np.testing.assert_allclose(got, loop_history(blocks), atol=1e-4)


def test_there_are_45_low_frequencies_without_the_mean():
    assert len(set(LOW_FREQUENCIES)) == 45 and (0, 0) not in LOW_FREQUENCIES
    left = {(v, u) for v in range(8) for u in range(8)} - set(LOW_FREQUENCIES) - {(0, 0)}
    assert max(map(sum, LOW_FREQUENCIES)) <= min(map(sum, left))


def test_history_of_the_largest_coefficients_is_finite():
    blocks = np.random.default_rng(0).choice(np.array([-32768, 32767], np.int16), (2, 2, 8, 8))
    assert np.isfinite(jpeg_history(blocks)).all()


def test_a_patch_without_the_first_compression_stands_out():
    picture, mask = twice_compressed()
    data = jpeg(picture, 92)
    of_block = mask.reshape(20, 8, 25, 8).mean((1, 3)) > 0.5
    assert roc_auc_score(of_block.ravel(), jpeg_history(read_luma(data).quantized).ravel()) > 0.97
    # The pixels of the decoded file show it, too, and so does a PNG of the edited picture.
    for pixels in (load_image(data), picture):
        assert roc_auc_score(of_block.ravel(), jpeg_history(pixel_blocks(gray_of(pixels), 0, 0)).ravel()) > 0.9


def test_a_picture_compressed_once_has_a_uniform_history():
    once = jpeg_history(read_luma(jpeg(scene(), 92)).quantized)
    twice = jpeg_history(read_luma(jpeg(twice_compressed()[0], 92)).quantized)
    assert once.std() < 0.5 * twice.std()


# Blocks of pixels


@pytest.mark.parametrize("top, left", [(0, 0), (3, 5), (7, 7)])
@pytest.mark.parametrize("height, width", [(24, 24), (31, 47)])
def test_pixel_blocks_are_the_dct(height, width, top, left):
    gray = np.random.default_rng(0).integers(0, 256, (height, width), dtype=np.uint8)
    blocks = pixel_blocks(gray, top, left)
    assert blocks.dtype == np.int16 and blocks.shape == ((height - top) // 8, (width - left) // 8, 8, 8)
    for y, x in np.ndindex(blocks.shape[:2]):
        own = gray[top + 8 * y : top + 8 * y + 8, left + 8 * x : left + 8 * x + 8].astype(float) - 128
        assert np.abs(blocks[y, x] - scipy.fft.dctn(own, norm="ortho")).max() <= 0.501


@pytest.mark.parametrize("level", [0, 128, 255])
def test_flat_blocks_have_only_a_mean(level):
    blocks = pixel_blocks(np.full((16, 16), level, np.uint8), 0, 0)
    assert (blocks[..., 0, 0] == 8 * (level - 128)).all()
    assert not blocks.reshape(-1, 64)[:, 1:].any()


def test_blocks_of_a_decoded_jpeg_cluster_at_multiples_of_its_steps():
    gray = scene()[..., 0]
    data = jpeg(gray, 60, "L")
    steps = read_history(data).steps
    on, off = (pixel_blocks(gray_of(load_image(data)), *corner) for corner in ((0, 0), (3, 5)))

    def near(blocks: np.ndarray) -> float:
        left = np.abs(blocks - steps * np.round(blocks / steps))
        return float((left <= 1)[(np.abs(blocks) > steps / 2) & (steps >= 8)].mean())

    assert near(on) > 0.95 and near(off) < 0.5


# The block grid


@pytest.mark.parametrize("top, left", [(0, 0), (1, 7), (3, 5), (4, 4), (6, 0), (0, 2)])
def test_the_corner_of_a_cropped_jpeg_is_found(top, left):
    """After `top` rows are cut off, the next block begins at row `-top`, modulo 8."""
    gray = gray_of(load_image(jpeg(scene(), 70)))[top:, left:]
    found_top, found_left, strength = grid_corners(gray)[0]
    assert (found_top, found_left) == (-top % 8, -left % 8)
    assert strength > 0.05


def test_a_second_corner_is_found_besides_that_of_the_file():
    """Compressed, cropped and compressed again: both grids are in the pixels."""
    first = load_image(jpeg(scene(), 50))[3:, 5:]
    gray = gray_of(load_image(jpeg(first, 92)))
    assert grid_corners(gray)[1][:2] == (5, 3)
    top, left, _ = grid_corners(gray_of(load_image(jpeg(scene(), 50))))[1]
    assert top > 0 and left > 0


def test_the_third_difference_weights_a_step_1_2_1():
    levels = np.zeros((64, 64), np.uint8)
    levels[24:] = 2
    top, _, _ = grid_corners(levels)[0]
    assert top == 24 % 8
    column = levels[:, 0].astype(int)
    third = np.abs(column[:-3] - 3 * column[1:-2] + 3 * column[2:-1] - column[3:])
    assert third[21:24].tolist() == [2, 4, 2] and third.sum() == 8  # third[i] is the difference before row i + 2


@pytest.mark.parametrize("level", [0, 90, 255])
def test_a_flat_picture_has_no_grid(level):
    gray = np.full((40, 50), level, np.uint8)
    assert grid_corners(gray)[0][2] == grid_corners(gray)[1][2] == 0
    for values in block_grid(gray, WindowMeans(40, 50, 16, 8)).values():
        assert not values.any()


def loop_grid(gray: np.ndarray, window: int, stride: int) -> dict[str, np.ndarray]:
    """Phase by phase from slices of each window."""
    height, width = gray.shape
    levels = gray.astype(float)
    wide, high = np.pad(levels, ((0, 0), (1, 1)), mode="edge"), np.pad(levels, ((1, 1), (0, 0)), mode="edge")
    rough = [
        np.minimum(np.abs(2 * levels - wide[:, :-2] - wide[:, 2:]), 8),
        np.minimum(np.abs(2 * levels - high[:-2] - high[2:]), 8),
    ]
    rows, cols = range(0, height - window + 1, stride), range(0, width - window + 1, stride)
    profile = np.zeros((len(rows), len(cols), 16))
    for i, y in enumerate(rows):
        for j, x in enumerate(cols):
            for axis, start in ((0, x), (1, y)):
                own = rough[axis][y : y + window, x : x + window]
                at = (np.arange(window) + start) % 8
                found = np.array([own.compress(at == k, axis=1 - axis).mean() for k in range(8)])
                profile[i, j, 8 * axis : 8 * axis + 8] = (found - found.mean()) / (found.mean() + 0.1)
    common = np.median(profile, axis=(0, 1))
    common /= np.linalg.norm(common) + 1e-6
    along = np.einsum("ijk,k->ij", profile, common)
    return {"grid_along": along, "grid_beside": np.linalg.norm(profile - along[..., None] * common, axis=2)}


def test_block_grid_equals_its_loop():
    gray = gray_of(load_image(jpeg(scene(50, 70), 60)))
    got = block_grid(gray, WindowMeans(50, 70, 20, 7))
    for name, expected in loop_grid(gray, 20, 7).items():
        np.testing.assert_allclose(got[name], expected, atol=1e-3)


def test_block_grid_is_transposed_with_the_picture():
    gray = gray_of(load_image(jpeg(scene(64, 96), 60)))
    got, turned = block_grid(gray, WindowMeans(64, 96, 16, 8)), block_grid(gray.T, WindowMeans(96, 64, 16, 8))
    for name, values in got.items():
        np.testing.assert_allclose(turned[name].T, values, atol=1e-4)


def test_a_region_on_another_grid_stands_out_in_grid_beside():
    picture = load_image(jpeg(scene(), 60))
    picture[48:112, 80:152] = load_image(jpeg(scene(seed=1), 60))[51:115, 85:157]
    found = block_grid(gray_of(picture), WindowMeans(160, 200, 24, 8))
    inside = np.zeros(found["grid_along"].shape, bool)
    inside[6:12, 10:17] = True
    assert roc_auc_score(inside.ravel(), found["grid_beside"].ravel()) > 0.9
    assert roc_auc_score(inside.ravel(), -found["grid_along"].ravel()) > 0.9


# Content


def loop_content(image: np.ndarray, window: int, stride: int) -> dict[str, np.ndarray]:
    height, width = image.shape[:2]
    gray = gray_of(image).astype(float)
    steps = np.zeros((height, width))
    for y, x in np.ndindex(height, width):
        steps[y, x] += abs(gray[min(y + 1, height - 1), x] - gray[y, x])
        steps[y, x] += abs(gray[y, min(x + 1, width - 1)] - gray[y, x])
    found = {name: [] for name in FROM_CONTENT}
    for y in range(0, height - window + 1, stride):
        for x in range(0, width - window + 1, stride):
            place = (slice(y, y + window), slice(x, x + window))
            own, color = gray[place], image[place].astype(int)
            found["brightness"].append(own.mean() / 255)
            found["deviation"].append(own.std() / 255)
            found["gradient"].append(steps[place].mean() / 2 / 255)
            found["clipped"].append(((own < 3) | (own > 252)).mean())
            found["saturation"].append((color.max(2) - color.min(2)).mean() / 255)
    shape = ((height - window) // stride + 1, -1)
    return {name: np.reshape(values, shape) for name, values in found.items()}


@pytest.mark.parametrize("height, width, window, stride", [(1, 1, 1, 1), (1, 9, 1, 2), (20, 30, 7, 5), (16, 16, 16, 8)])
def test_content_equals_its_loop(height, width, window, stride):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image[:, : width // 2] //= 64  # partly clipped
    got = content(image, gray_of(image), WindowMeans(height, width, window, stride))
    expected = loop_content(image, window, stride)
    assert got.keys() == expected.keys()
    for name, values in got.items():
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, expected[name], atol=2e-4, err_msg=name)


@pytest.mark.parametrize("color", [(0, 0, 0), (255, 255, 255), (90, 90, 90), (251, 3, 120)])
def test_a_flat_picture_shows_no_contrast(color):
    """Not even from rounding, which would look like contrast after standardization."""
    image = np.broadcast_to(np.array(color, np.uint8), (90, 120, 3)).copy()
    found = gather_evidence(image, None, 32, 8).maps
    assert np.abs(found["deviation"]).max() < 1e-5 and not found["gradient"].any()
    assert all(np.isfinite(values).all() for values in found.values())


# All of it


@pytest.mark.parametrize("height, width", [(24, 24), (25, 400), (90, 120)])
def test_maps_are_complete_and_finite(height, width):
    evidence = gather_evidence(scene(height, width), None, 16, 8)
    assert evidence.maps.keys() == MEANINGS.keys() and evidence.absent == {}
    for values in evidence.maps.values():
        assert values.shape == ((height - 16) // 8 + 1, (width - 16) // 8 + 1)
        assert values.dtype == np.float32 and np.isfinite(values).all()
    assert numbers(evidence)["is a JPEG file"] == 0 and np.isfinite(evidence.numbers).all()


@pytest.mark.parametrize("height, width", [(1, 1), (1, 300), (23, 400), (400, 23)])
def test_tiny_pictures_report_missing_evidence(height, width):
    image = scene(height, width)
    for history in (None, read_history(jpeg(image, 50))):
        evidence = gather_evidence(image, history, min(16, height, width), 4)
        assert evidence.maps.keys() == set(FROM_CONTENT)
        assert evidence.absent.keys() == set(FROM_BLOCKS)
        assert all(f"{width} x {height} pixels" in reason for reason in evidence.absent.values())
        assert all(np.isfinite(values).all() for values in evidence.maps.values())
        assert numbers(evidence)["is a JPEG file"] == (history is not None)  # a separate kind, however small


def test_numbers_of_a_jpeg_are_its_quantization_steps():
    picture = scene()
    for quality in (30, 75, 100):
        history = read_history(jpeg(picture, quality))
        found = numbers(gather_evidence(picture, history, 32, 16))
        assert found["is a JPEG file"] == 1
        assert found["log of its first step"] == pytest.approx(np.log(history.steps[0, 0]))
        low = sorted(history.steps.ravel().tolist())[:10]
        assert found["log of its mean low step"] == pytest.approx(np.log(np.mean(low)), abs=1e-6)
    stronger, weaker = (numbers(gather_evidence(load_image(jpeg(picture, q)), None, 32, 16))["grid"] for q in (50, 98))
    assert stronger > weaker


def test_a_file_and_its_pixels_differ_only_in_their_history():
    picture, mask = twice_compressed()
    data = jpeg(picture, 92)
    pixels = load_image(data)
    of_file, of_array = (gather_evidence(pixels, history, 16, 8) for history in (read_history(data), None))
    for name in MEANINGS:
        if name != "jpeg_history":
            np.testing.assert_array_equal(of_file.maps[name], of_array.maps[name])
    inside = WindowMeans(160, 200, 16, 8)(mask) > 0.5
    for evidence in (of_file, of_array):
        assert roc_auc_score(inside.ravel(), evidence.maps["jpeg_history"].ravel()) > 0.95


def test_a_png_of_a_cropped_jpeg_keeps_its_history():
    picture, mask = twice_compressed()
    file = io.BytesIO()
    Image.fromarray(picture[3:, 6:]).save(file, "PNG")
    assert read_history(file.getvalue()) is None
    evidence = gather_evidence(load_image(file.getvalue()), None, 16, 8)
    inside = WindowMeans(157, 194, 16, 8)(mask[3:, 6:]) > 0.5
    assert roc_auc_score(inside.ravel(), evidence.maps["jpeg_history"].ravel()) > 0.9


def test_a_history_on_an_earlier_grid_is_found():
    """Compressed, edited, cropped off its grid and saved again: the file's own grid does not show the history."""
    picture, mask = twice_compressed(50)
    data = jpeg(picture[3:, 5:], 97)
    evidence = gather_evidence(load_image(data), read_history(data), 16, 8)
    inside = WindowMeans(157, 195, 16, 8)(mask[3:, 5:]) > 0.5
    assert roc_auc_score(inside.ravel(), evidence.maps["former_history"].ravel()) > 0.9


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_rotated_photo_has_a_rotated_history(orientation):
    picture, _ = twice_compressed()
    tags = Image.Exif()
    tags[0x0112] = orientation
    plain, turned = jpeg(picture, 92), jpeg(picture, 92, exif=tags)
    expected = gather_evidence(load_image(plain), read_history(plain), 16, 8).maps["jpeg_history"]
    upright = load_image(turned)
    got = gather_evidence(upright, read_history(turned), 16, 8).maps["jpeg_history"]
    turn = read_history(turned).turn
    np.testing.assert_allclose(got, np.asarray(Image.fromarray(expected).transpose(turn)), atol=1e-3)


def test_a_rotated_photo_with_odd_sides():
    tags = Image.Exif()
    tags[0x0112] = 6
    data = jpeg(scene(53, 75), 80, exif=tags)
    image = load_image(data)
    assert image.shape == (75, 53, 3)
    assert gather_evidence(image, read_history(data), 16, 4).maps["jpeg_history"].shape == (15, 10)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": "4:1:1"}, {"optimize": True}])
def test_all_kinds_of_jpeg_have_finite_maps(mode, options):
    data = jpeg(scene(50, 60), 80, mode, **options)
    history = read_history(data)
    assert history is not None and (history.height, history.width) == (50, 60)
    evidence = gather_evidence(load_image(data), history, 16, 8)
    assert evidence.absent == {} and all(np.isfinite(values).all() for values in evidence.maps.values())


@pytest.mark.parametrize("color", [0, 255])
def test_a_black_or_white_jpeg_has_a_flat_history(color):
    data = jpeg(np.full((48, 64, 3), color, np.uint8))
    maps = gather_evidence(load_image(data), read_history(data), 16, 8).maps
    assert all(np.isfinite(values).all() for values in maps.values())
    assert np.ptp(maps["jpeg_history"]) < 1e-3 and (maps["clipped"] > 0.999).all()


def test_a_jpeg_with_unreadable_blocks_is_analyzed_from_its_pixels():
    """Its header claims arithmetic coding, which Pillow decodes (to noise, here) and jpeglib refuses."""
    data = jpeg(scene(50, 60)).replace(b"\xff\xc0", b"\xff\xc9", 1)
    assert read_history(data) is None
    evidence = gather_evidence(load_image(data), None, 16, 8)
    assert evidence.absent == {} and all(np.isfinite(values).all() for values in evidence.maps.values())


# Real photos


def test_the_grid_of_cropped_real_photos_is_found(shared):
    files = sorted((shared / "camera_photos").iterdir(), key=lambda path: path.stat().st_size)[:6]
    for path in files:
        gray = gray_of(load_image(path))[3:600, 5:600]
        assert grid_corners(gray)[0][:2] == (5, 3), path.name


def test_the_history_of_broken_photos_has_their_size(shared):
    files = sorted((shared / "badfiles").iterdir(), key=lambda path: path.stat().st_size)[:12]
    for path in files:
        image, history = load_image(path), read_history(path)
        assert (history.height, history.width) == image.shape[:2], path.name
        small = image[:200, :200]
        window = min(32, *small.shape[:2])
        evidence = gather_evidence(small, None, window, window)
        assert all(np.isfinite(values).all() for values in evidence.maps.values()), path.name


def test_a_patch_in_a_real_photo_stands_out(shared):
    """A patch from another photo in a photo that is compressed twice on the same grid."""
    files = sorted((shared / "camera_photos").iterdir(), key=lambda path: path.stat().st_size)[:4]
    host, donor = (load_image(path)[128:512, 128:512] for path in files[:2])
    for first, other in ((host, donor), (donor, host)):
        picture = load_image(jpeg(first, 65))
        picture[120:250, 130:270] = other[123:253, 135:275]
        mask = np.zeros(picture.shape[:2], bool)
        mask[120:250, 130:270] = True
        data = jpeg(picture, 92)
        maps = gather_evidence(load_image(data), read_history(data), 48, 16).maps
        inside = WindowMeans(384, 384, 48, 16)(mask) > 0.5
        assert roc_auc_score(inside.ravel(), maps["jpeg_history"].ravel()) > 0.9


# Large pictures


@pytest.mark.parametrize("pixels", [1, 200, 999, 10_000])
@pytest.mark.parametrize("of_file", [True, False])
def test_processing_in_stripes_equals_processing_the_whole(monkeypatch, pixels, of_file):
    data = jpeg(scene(157, 203), 80)
    image, history = load_image(data), read_history(data) if of_file else None
    whole = gather_evidence(image, history, 24, 7)
    drawn = resize_windows(whole.maps["gradient"], 157, 203, 24, 7)
    above = windows_above(float(np.median(drawn)), whole.maps["gradient"], 157, 203, 24, 7)
    np.testing.assert_array_equal(above, drawn > np.median(drawn))
    monkeypatch.setattr(windows, "STRIPE_PIXELS", pixels)
    striped = gather_evidence(image, history, 24, 7)
    for name in MEANINGS:
        np.testing.assert_allclose(striped.maps[name], whole.maps[name], atol=2e-5, err_msg=name)
    np.testing.assert_allclose(striped.numbers, whole.numbers, rtol=1e-5)
    np.testing.assert_array_equal(resize_windows(whole.maps["gradient"], 157, 203, 24, 7), drawn)
