"""Composites: where each pixel comes from, on which grid, and how large the region is."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import gaussian_filter, label

from exiflang.simulation.composites import FILLS, SHAPES, Edit, compose, cut, encode_picture
from exiflang.simulation.splices import random_region

SIZE = (96, 80)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def places(height: int, width: int, blue: int) -> np.ndarray:
    """A photo of at most 256 pixels per side whose red is the row and green the column: uint8 [H, W, 3]."""
    ys, xs = np.indices((height, width))
    return np.stack([ys, xs, np.full_like(ys, blue)], axis=2).astype(np.uint8)


HOST, DONOR = places(121, 134, 0), places(130, 141, 255)


def changed(picture: np.ndarray) -> np.ndarray:
    """Which pixels come from the donor: bool [H, W]."""
    return picture[..., 2] == 255


# Where pixels come from


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("on_grid", [True, False])
def test_the_mask_separates_donor_and_host(shape, on_grid):
    for seed in range(20):
        picture, mask = compose(HOST, DONOR, Edit(SIZE, (0.1, 0.2), shape, on_grid=on_grid), generator(seed))
        part, (top, left) = cut(HOST, SIZE, on_grid, generator(seed))
        assert picture.shape == (80, 96, 3) and picture.dtype == np.uint8
        assert mask.shape == (80, 96) and mask.dtype == bool
        np.testing.assert_array_equal(picture[~mask], part[~mask])
        np.testing.assert_array_equal(changed(picture), mask)
        if on_grid:
            assert top % 16 == left % 16 == 0
        else:
            assert top % 8 and left % 8


def shifts(picture: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each masked pixel, its row and column in the donor minus those in the composite."""
    ys, xs = np.nonzero(mask)
    return picture[ys, xs, 0].astype(int) - ys, picture[ys, xs, 1].astype(int) - xs


@pytest.mark.parametrize("feather", [0.0, 2.0])
@pytest.mark.parametrize("on_grid", [True, False])
def test_the_grid_of_the_donor_is_never_aligned_with_the_hosts(on_grid, feather):
    for seed in range(40):
        edit = Edit(SIZE, (0.05, 0.3), on_grid=on_grid, feather=feather)
        picture, mask = compose(HOST, DONOR, edit, generator(seed))
        _, (top, left) = cut(HOST, SIZE, on_grid, generator(seed))
        down, across = shifts(picture, mask & changed(picture))
        assert len(set(down)) == len(set(across)) == 1
        # Row y of the composite is row y + top of the host and y + down of the donor.
        assert (down[0] - top) % 8 and (across[0] - left) % 8


@pytest.mark.parametrize("width", [136, 141])
def test_the_grid_of_a_mirrored_donor_is_not_aligned_either(width):
    """Mirroring a photo that is 141 pixels wide shifts its grid by 5 pixels."""
    donor = places(130, width, 255)
    for seed in range(40):
        picture, mask = compose(HOST, donor, Edit(SIZE, (0.05, 0.3), mirrored=True), generator(seed))
        _, (_, left) = cut(HOST, SIZE, True, generator(seed))
        ys, xs = np.nonzero(mask)
        borders = {
            (x + left) % 8
            for y, x in zip(ys, xs, strict=True)
            if picture[y, x, 1] % 8 == 7  # after mirroring, the first column of a block of the donor
        }
        assert len(borders) == 1 and borders != {0}
        assert set(picture[ys, xs, 1].astype(int) + xs) == {int(picture[ys[0], xs[0], 1]) + xs[0]}


def test_a_clone_is_another_part_of_the_host():
    for seed in range(20):
        picture, mask = compose(HOST, DONOR, Edit(SIZE, (0.05, 0.1), fill="clone"), generator(seed))
        assert not changed(picture).any()
        _, (top, left) = cut(HOST, SIZE, True, generator(seed))
        down, across = shifts(picture, mask)
        assert len(set(down)) == len(set(across)) == 1
        assert (down[0] - top) % 8 and (across[0] - left) % 8  # so it is never the same part


def test_a_smooth_fill_has_less_detail_than_its_surroundings():
    host = generator().integers(0, 256, (200, 240, 3), dtype=np.uint8)
    for seed in range(5):
        picture, mask = compose(host, DONOR, Edit((224, 192), (0.1, 0.2), fill="smooth"), generator(seed))
        part, _ = cut(host, (224, 192), True, generator(seed))
        np.testing.assert_array_equal(picture[~mask], part[~mask])
        assert picture[mask].std() < 0.6 * picture[~mask].std()
        assert picture[mask].mean() == pytest.approx(128, abs=25)


@pytest.mark.parametrize("gain, level", [(0.0, 0), (0.5, 100), (1.2, 240), (9.0, 255)])
def test_gain_changes_the_brightness_of_the_fill(gain, level):
    picture, mask = compose(HOST, np.full_like(DONOR, 200), Edit(SIZE, (0.1, 0.2), gain=gain), generator())
    assert (picture[mask] == level).all()


@pytest.mark.parametrize("scale", [0.3, 0.7, 1.5, 3.0])
def test_a_rescaled_donor_has_its_slope(scale):
    """The donor is a ramp of one level per pixel; if too small at this scale, it is enlarged as needed."""
    picture, mask = compose(HOST, DONOR, Edit(SIZE, (0.05, 0.06), scale=scale), generator(3))
    height, width = np.ptp(np.argwhere(mask), axis=0) + 1
    needed = max(scale, (height + 8) / 130, (width + 8) / 141)
    row = np.nonzero(mask.sum(1) > 4)[0][0]
    levels = picture[row, mask[row], 1].astype(float)
    assert (levels[-1] - levels[0]) / (len(levels) - 1) == pytest.approx(1 / needed, abs=0.2)


@pytest.mark.parametrize("shape", [(1, 1), (9, 200), (300, 7)])
def test_a_donor_smaller_than_the_region_is_enlarged(shape):
    donor = np.full((*shape, 3), 255, np.uint8)
    picture, mask = compose(HOST, donor, Edit(SIZE, (0.3, 0.5), "side"), generator())
    assert (picture[mask] == 255).all()


# Feathering


@pytest.mark.parametrize("shape", SHAPES)
def test_a_feathered_edge_equals_blending_the_whole_picture(shape):
    """Also where the region touches its bounding box, which a box does on every side."""
    host, donor = np.zeros((120, 140, 3), np.uint8), np.full((200, 200, 3), 200, np.uint8)
    picture, mask = compose(host, donor, Edit(SIZE, (0.1, 0.2), shape, feather=2.0), generator(1))
    expected = 200 * gaussian_filter(mask.astype(float), 2.0, mode="mirror")
    assert np.abs(picture[..., 0] - expected).max() <= 2
    assert (picture[~mask].max(1) > 0).any() and (picture[mask].min(1) < 200).any()


# Regions


@given(st.sampled_from(SHAPES), st.integers(0, 10**6), st.floats(0.02, 0.6), st.integers(60, 200), st.integers(60, 200))
@settings(max_examples=60)
def test_the_region_has_about_the_requested_area(shape, seed, share, width, height):
    host = np.zeros((height, width, 3), np.uint8)
    edit = Edit((width, height), (share * 0.9, min(share * 1.1, 0.65)), shape)
    _, mask = compose(host, host, edit, generator(seed))
    slack = 0.15 if shape == "side" else 0.02  # a wavy line may leave the picture
    assert 0.7 * share - slack <= mask.mean() <= 1.3 * share + slack


@pytest.mark.parametrize("height", range(60, 80))
def test_large_boxes_fit_at_any_height(height):
    """Regression: with its height rounded down, a box had to be wider than the picture."""
    host = np.zeros((height, 480, 3), np.uint8)
    for seed in range(30):
        _, mask = compose(host, host, Edit((480, height), (0.6, 0.65), "box"), generator(seed))
        assert mask.mean() == pytest.approx(0.625, abs=0.05)


def test_boxes_are_rectangles():
    _, mask = compose(HOST, DONOR, Edit(SIZE, (0.1, 0.2), "box"), generator())
    rows, cols = mask.any(1), mask.any(0)
    np.testing.assert_array_equal(mask, rows[:, None] & cols)


def test_several_regions_share_the_area():
    counts, areas = [], []
    for seed in range(10):
        _, mask = compose(HOST, DONOR, Edit(SIZE, (0.05, 0.07), regions=3), generator(seed))
        counts.append(label(mask)[1])
        areas.append(mask.mean())
    assert max(counts) == 3 and 0.03 < np.mean(areas) < 0.07 and max(areas) <= 0.085


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (12, 10)])
def test_a_picture_too_small_for_its_region_is_refused(size):
    with pytest.raises(ValueError, match=f"no region of 0.001 to 0.002 fits in {size[0]} x {size[1]} pixels"):
        random_region(generator(), *size, (0.001, 0.002))


def test_equal_generators_give_equal_composites():
    edit = Edit(SIZE, (0.1, 0.3), scale=1.3, feather=1.0, regions=2)
    (first, mask), (second, again) = (compose(HOST, DONOR, edit, generator(5)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(mask, again)
    host = HOST.copy()
    compose(host, DONOR, edit, generator(5))
    np.testing.assert_array_equal(host, HOST)  # the host is not modified


# Parts


@pytest.mark.parametrize("on_grid", [True, False])
def test_a_part_of_full_size_is_the_photo(on_grid):
    part, corner = cut(HOST, (134, 121), on_grid, generator())
    np.testing.assert_array_equal(part, HOST)
    assert corner == (0, 0)


def test_all_positions_on_the_grid_occur():
    corners = {cut(HOST, (96, 80), True, generator(seed))[1] for seed in range(100)}
    assert corners == {(top, left) for top in (0, 16, 32) for left in (0, 16, 32)}


@pytest.mark.parametrize("size", [(135, 80), (96, 122), (1000, 1000)])
def test_a_photo_smaller_than_the_part_is_refused(size):
    with pytest.raises(ValueError, match=f"the photo has 134 x 121 pixels, the part {size[0]} x {size[1]}"):
        compose(HOST, DONOR, Edit(size, (0.1, 0.2)), generator())


@pytest.mark.parametrize(
    "options, message",
    [
        ({"shape": "star"}, "unknown shape 'star': choose one of blob, box, side"),
        ({"fill": "donut"}, "unknown fill 'donut': choose one of donor, clone, smooth"),
        ({"area": (0.0, 0.1)}, "area must be two shares"),
        ({"area": (0.2, 0.1)}, "area must be two shares"),
        ({"area": (0.6, 0.9)}, "area must be two shares"),
        ({"size": (0, 5)}, "too small"),
        ({"regions": 0}, "too small"),
        ({"scale": 0.0}, "too small"),
        ({"gain": -1.0}, "too small"),
        ({"feather": -0.1}, "too small"),
    ],
)
def test_edits_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Edit(**{"size": SIZE, "area": (0.1, 0.2)} | options)


def test_all_fills_and_shapes_can_be_combined():
    for fill in FILLS:
        for shape in SHAPES:
            _, mask = compose(HOST, DONOR, Edit(SIZE, (0.05, 0.2), shape, fill=fill, feather=0.5), generator())
            assert mask.any() and not mask.all()


# Files


@pytest.mark.parametrize("fmt, kind", [("png", "PNG"), ("jpeg1", "JPEG"), ("jpeg100", "JPEG")])
def test_files_have_the_requested_format(fmt, kind):
    with Image.open(io.BytesIO(encode_picture(HOST, fmt))) as image:
        assert image.format == kind and image.size == (134, 121)
        if kind == "PNG":
            np.testing.assert_array_equal(np.asarray(image), HOST)


@pytest.mark.parametrize("fmt", ["", "webp", "jpeg", "jpeg0", "jpeg101", "jpeg-5", "jpeg²", "png90", "JPEG90"])
def test_unknown_formats_are_refused(fmt):
    with pytest.raises(ValueError, match="unknown format .*: use png, or jpeg with a quality"):
        encode_picture(HOST, fmt)
