"""Drawing pictures: sizes, outlines, data URIs."""

import base64
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from exiflang.viz.images import data_uri, outlines, shown_shape, shrink


@given(st.integers(1, 20_000), st.integers(1, 20_000), st.integers(1, 2000))
def test_the_shown_shape_fits_and_keeps_proportions(height, width, longest):
    rows, cols = shown_shape(height, width, longest)
    assert 1 <= rows <= height and 1 <= cols <= width and max(rows, cols) <= max(longest, 1)
    if min(rows, cols) > 20:
        assert rows / cols == pytest.approx(height / width, rel=0.1)


def test_shrink_averages_and_never_enlarges():
    stripes = np.tile(np.array([0.0, 1.0], np.float32), (10, 50))  # [10, 100]
    np.testing.assert_allclose(shrink(stripes, 50), 0.5)
    assert shrink(stripes, 500) is stripes


def test_outlines_enclose_values_above_the_threshold():
    heatmap = np.zeros((100, 200), np.float32)
    heatmap[20:60, 50:120] = 1
    (line,) = outlines(heatmap, 0.5)
    np.testing.assert_allclose(line[0], line[-1])
    np.testing.assert_allclose([line.min(0), line.max(0)], [[49.5, 19.5], [119.5, 59.5]], atol=1)


def test_outlines_close_at_the_border_and_flat_maps_have_none():
    heatmap = np.zeros((50, 50), np.float32)
    assert outlines(heatmap, 0.5) == []
    heatmap[:, 30:] = 1
    (line,) = outlines(heatmap, 0.5)
    np.testing.assert_allclose(line[0], line[-1])
    assert line.min() >= 0 and line.max() <= 50


def test_outlines_of_a_large_picture_are_in_pixel_coordinates():
    heatmap = np.zeros((3000, 4000), np.float32)
    heatmap[1000:2000, 1000:3000] = 1
    (line,) = outlines(heatmap, 0.5)
    np.testing.assert_allclose([line.min(0), line.max(0)], [[1000, 1000], [3000, 2000]], atol=10)


@pytest.mark.parametrize(("lossless", "kind"), [(True, "png"), (False, "jpeg")])
def test_data_uris_hold_png_or_jpeg(lossless, kind):
    head, _, body = data_uri(np.zeros((4, 5, 3), np.uint8), lossless).partition(",")
    assert head == f"data:image/{kind};base64"
    assert Image.open(io.BytesIO(base64.b64decode(body))).size == (5, 4)
