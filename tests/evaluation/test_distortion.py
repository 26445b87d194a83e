"""Radial distortion: compared with a slow loop written from the docstring, and its invariants."""

import numpy as np
import pytest
from scipy.optimize import brentq

from exiflang.evaluation.probe_data import STRONGEST, distort


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def cubic_weight(distance: float, a: float = -0.75) -> float:
    """Keys' kernel, with OpenCV's parameter."""
    d = abs(distance)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


def slow_distort(image: np.ndarray, k1: float) -> np.ndarray:
    """Pixel by pixel: the true radius by a root finder, then sixteen weighted pixels."""
    height, width = image.shape[:2]
    half = np.hypot(height, width) / 2
    top, left = round(0.21 * height), round(0.21 * width)
    shown = np.zeros((height - 2 * top, width - 2 * left, 3))
    for row in range(len(shown)):
        for col in range(shown.shape[1]):
            y, x = top + row - (height - 1) / 2, left + col - (width - 1) / 2
            radius = np.hypot(y, x) / half
            true = brentq(lambda r, wanted=radius: r * (1 + k1 * r**2) - wanted, 0, 0.9)
            zoom = true / radius if radius else 1.0
            # OpenCV rounds positions to 1/32 of a pixel.
            y, x = (round(32 * ((side - 1) / 2 + zoom * at)) / 32 for side, at in ((height, y), (width, x)))
            for i in range(int(np.floor(y)) - 1, int(np.floor(y)) + 3):
                for j in range(int(np.floor(x)) - 1, int(np.floor(x)) + 3):
                    pixel = image[np.clip(i, 0, height - 1), np.clip(j, 0, width - 1)]
                    shown[row, col] += cubic_weight(y - i) * cubic_weight(x - j) * pixel
    return np.clip(np.round(shown), 0, 255)


@pytest.mark.parametrize("k1", [0.0, -0.013, -0.2, -0.4])
@pytest.mark.parametrize("shape", [(12, 17), (7, 6), (2, 3)])
def test_distort_equals_the_loop_over_pixels(shape, k1):
    image = noise(*shape)
    fast, slow = distort(image, k1), slow_distort(image, k1)
    assert fast.dtype == np.uint8 and fast.shape == slow.shape
    assert np.abs(fast - slow).mean() < 1.5  # a position halfway between two steps of 1/32 may round either way
    assert np.mean(np.abs(fast - slow) <= 2) > 0.8


def test_without_distortion_the_center_is_returned():
    image = noise(41, 60)
    np.testing.assert_array_equal(distort(image, 0.0), image[9:32, 13:47])


@pytest.mark.parametrize("k1", np.linspace(STRONGEST, 0, 5))
def test_distortion_is_symmetric_around_the_center(k1):
    image = noise(61, 81)
    image = np.maximum(image, image[::-1])
    image = np.maximum(image, image[:, ::-1])
    shown = distort(image, k1)
    assert shown.shape == (35, 47, 3)
    np.testing.assert_array_equal(shown[17, 23], image[30, 40])
    for mirrored in (shown[::-1], shown[:, ::-1]):
        assert np.mean(np.abs(mirrored.astype(int) - shown) <= 16) > 0.95  # halves of 1/32 px round one way only


@pytest.mark.parametrize("k1", [0.0, -0.1, -0.25, -0.4])
def test_radii_keep_their_order_and_stay_within_the_picture(k1):
    """In a picture whose values are the pixels' own columns, the values never decrease along a row."""
    places = np.tile(np.arange(25, 225, dtype=np.uint8)[None, :, None], (200, 1, 3))
    shown = distort(places, k1)[..., 0].astype(int)
    assert (np.diff(shown, axis=1) >= 0).all()
    assert shown.min() > 25 and shown.max() < 224


def test_stronger_distortion_shows_more_of_the_corners():
    places = np.tile(np.arange(25, 225, dtype=np.uint8)[None, :, None], (200, 1, 3))
    corners = [int(distort(places, k1)[0, -1, 0]) for k1 in np.linspace(0, STRONGEST, 9)]
    assert corners == sorted(corners) and corners[-1] - corners[0] >= 6


@pytest.mark.parametrize("k1", [0.0, -0.4])
def test_a_single_pixel(k1):
    np.testing.assert_array_equal(distort(noise(1, 1), k1), noise(1, 1))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3)), "float64"),
        (np.zeros((4, 4), np.uint8), r"\[4, 4\]"),
        (np.zeros((4, 4, 4), np.uint8), r"\[4, 4, 4\]"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        ([[0]], "list"),
    ],
)
def test_arrays_that_are_not_pictures_are_refused(image, message):
    with pytest.raises(ValueError, match=message):
        distort(image, -0.1)


@pytest.mark.parametrize("k1", [0.1, -0.41, float("nan"), float("inf")])
def test_a_strength_out_of_range_is_refused(k1):
    with pytest.raises(ValueError, match="k1 is"):
        distort(noise(4, 4), k1)
