"""What is drawn of an inspection: sizes, places and numbers."""

import base64
import dataclasses
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from test_localize import ColourEncoder, pasted

from exiflang import views
from exiflang.inspection import Inspector
from exiflang.localize import FOREIGN, SpliceLocalizer


def inspected(image: np.ndarray):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return Inspector(SpliceLocalizer(ColourEncoder(), window_size=32))(file.getvalue(), "a.png")


@pytest.fixture(scope="module")
def inspection():
    return inspected(pasted()[0])


@given(st.integers(1, 20_000), st.integers(1, 20_000), st.integers(1, 2000))
def test_shown_shape_fits_and_keeps_the_proportions(height, width, longest):
    rows, cols = views.shown_shape(height, width, longest)
    assert 1 <= rows <= height and 1 <= cols <= width and max(rows, cols) <= max(longest, 1)
    if min(rows, cols) > 20:
        assert rows / cols == pytest.approx(height / width, rel=0.1)


def test_shrink_averages_and_never_enlarges():
    stripes = np.tile(np.array([0.0, 1.0], np.float32), (10, 50))  # [10, 100]
    np.testing.assert_allclose(views.shrink(stripes, 50), 0.5)
    assert views.shrink(stripes, 500) is stripes


def test_each_point_belongs_to_the_nearest_window(inspection):
    down, across = views.window_centres(inspection)
    rows, cols = inspection.result.embeddings.shape[:2]
    assert (len(down), len(across)) == (rows, cols)
    assert views.window_at(inspection, 0, 0) == (0, 0)
    assert views.window_at(inspection, 399, 299) == (rows - 1, cols - 1)
    assert views.window_at(inspection, across[3] + 1, down[2] - 1) == (2, 3)
    assert down[0] == inspection.result.window_size / 2


@pytest.mark.parametrize("view", views.VIEWS)
@pytest.mark.parametrize("longest", [1024, 100])
def test_every_view_is_a_picture_with_a_value_a_window(inspection, view, longest):
    drawn = views.view_picture(inspection, view, 0.5, (0, 0), longest)
    assert drawn.dtype == np.uint8 and drawn.shape == (*views.shown_shape(300, 400, longest), 3)
    values = views.window_values(inspection, view, 0.5, (0, 0))
    assert values.shape == inspection.result.embeddings.shape[:2]
    assert np.isfinite(values).all() == (view != "misfit")  # it has no EXIF


@pytest.mark.parametrize("size", [(1, 1), (1, 90), (40, 33), (7, 3)])
@pytest.mark.parametrize("view", views.VIEWS)
def test_views_of_very_small_pictures(size, view):
    found = inspected(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
    assert views.view_picture(found, view, 0.5, (0, 0)).shape == (*size, 3)
    assert views.window_values(found, view, 0.5, (0, 0)).shape == found.result.embeddings.shape[:2]


@pytest.mark.parametrize("longest", [400, 217, 150, 101])
def test_maps_of_windows_are_drawn_in_place_at_any_size(inspection, longest):
    """Three windows a side vote for a cell here, so that rounding of the drawn size must not make it two."""
    result = dataclasses.replace(inspection.result, window_size=48, stride=16)
    rows, cols = (300 - 48) // 16 + 1, (400 - 48) // 16 + 1
    embeddings = np.zeros((rows, cols, 2), np.float32)
    embeddings[..., 0] = 1
    embeddings[6:10, 9:13] = (0, 1)
    found = dataclasses.replace(inspection, result=dataclasses.replace(result, embeddings=embeddings))
    drawn = views.view_picture(found, "similarity", 0.5, (7, 10), longest).sum(2).astype(float)
    bright = np.argwhere(drawn > (drawn.min() + drawn.max()) / 2) * 300 / drawn.shape[0]
    centre = (bright.min(0) + bright.max(0)) / 2
    np.testing.assert_allclose(centre, [7.5 * 16 + 24, 10.5 * 16 + 24], atol=4)


def test_the_heatmap_at_windows_is_that_at_their_centres(inspection):
    values = views.window_values(inspection, "heatmap", 0.5, (0, 0))
    down, across = views.window_centres(inspection)
    assert values[2, 3] == inspection.result.heatmap[int(down[2]), int(across[3])]
    mask = views.window_values(inspection, "mask", 0.5, (0, 0))
    np.testing.assert_array_equal(mask, values > 0.5)


def test_similarity_is_the_cosine_with_the_chosen_window(inspection):
    embeddings = inspection.result.embeddings
    found = views.similarity_map(embeddings, 1, 2)
    assert found[1, 2] == pytest.approx(1, abs=1e-5)
    assert found[4, 5] == pytest.approx(embeddings[4, 5] @ embeddings[1, 2], abs=1e-6)


def test_outlines_enclose_what_lies_above_the_threshold():
    heatmap = np.zeros((100, 200), np.float32)
    heatmap[20:60, 50:120] = 1
    (line,) = views.outlines(heatmap, 0.5)
    np.testing.assert_allclose(line[0], line[-1])
    np.testing.assert_allclose([line.min(0), line.max(0)], [[49.5, 19.5], [119.5, 59.5]], atol=1)


def test_outlines_close_at_the_border_and_there_are_none_of_nothing():
    heatmap = np.zeros((50, 50), np.float32)
    assert views.outlines(heatmap, 0.5) == []
    heatmap[:, 30:] = 1
    (line,) = views.outlines(heatmap, 0.5)
    np.testing.assert_allclose(line[0], line[-1])
    assert line.min() >= 0 and line.max() <= 50


def test_outlines_of_a_large_picture_are_in_its_pixels():
    heatmap = np.zeros((3000, 4000), np.float32)
    heatmap[1000:2000, 1000:3000] = 1
    (line,) = views.outlines(heatmap, 0.5)
    np.testing.assert_allclose([line.min(0), line.max(0)], [[1000, 1000], [3000, 2000]], atol=10)


@pytest.mark.parametrize(("lossless", "kind"), [(True, "png"), (False, "jpeg")])
def test_data_uri(lossless, kind):
    head, _, body = views.data_uri(np.zeros((4, 5, 3), np.uint8), lossless).partition(",")
    assert head == f"data:image/{kind};base64"
    assert Image.open(io.BytesIO(base64.b64decode(body))).size == (5, 4)


def test_the_threshold_starts_where_the_mask_is(inspection):
    assert not inspection.calibrated
    start = views.first_threshold(inspection)
    assert (inspection.result.heatmap > start).mean() == pytest.approx(inspection.result.mask.mean(), abs=0.02)
    assert views.first_threshold(dataclasses.replace(inspection, calibrated=True)) == FOREIGN


@pytest.mark.parametrize(("score", "said"), [(0.99, "few"), (0.85, "some"), (0.1, "many")])
def test_what_the_score_means(inspection, score, said):
    found = dataclasses.replace(inspection, result=dataclasses.replace(inspection.result, score=score))
    assert "not calibrated" in views.meaning_of_score(found)
    assert f"; {said} of them" in views.meaning_of_score(dataclasses.replace(found, calibrated=True))
