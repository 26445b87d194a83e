"""Views of an inspection: sizes, positions and numbers."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from exiflang.inspection import views
from exiflang.inspection.inspector import Inspector
from exiflang.localization.localizer import MASK_THRESHOLD, SpliceLocalizer
from exiflang.viz.images import shown_shape
from tests.inspection.by_hand import decided
from tests.localization.test_localizer import ColorEncoder, pasted


def inspected(image: np.ndarray):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return Inspector(SpliceLocalizer(ColorEncoder(), window_size=32))(file.getvalue(), "a.png")


@pytest.fixture(scope="module")
def inspection():
    return inspected(pasted()[0])


def test_each_point_belongs_to_the_nearest_window(inspection):
    down, across = views.window_centers(inspection)
    rows, cols = inspection.result.embeddings.shape[:2]
    assert (len(down), len(across)) == (rows, cols)
    assert views.window_at(inspection, 0, 0) == (0, 0)
    assert views.window_at(inspection, 399, 299) == (rows - 1, cols - 1)
    assert views.window_at(inspection, across[3] + 1, down[2] - 1) == (2, 3)
    assert down[0] == inspection.result.window_size / 2


@pytest.mark.parametrize("view", views.VIEWS)
@pytest.mark.parametrize("longest", [1024, 100])
def test_every_view_has_a_picture_and_one_value_per_window(inspection, view, longest):
    drawn = views.view_picture(inspection, view, 0.5, (0, 0), longest)
    assert drawn.dtype == np.uint8 and drawn.shape == (*shown_shape(300, 400, longest), 3)
    values = views.window_values(inspection, view, 0.5, (0, 0))
    assert values.shape == inspection.result.embeddings.shape[:2]
    assert np.isfinite(values).all() == (view != "misfit")  # the picture has no EXIF


@pytest.mark.parametrize("size", [(1, 1), (1, 90), (40, 33), (7, 3)])
@pytest.mark.parametrize("view", views.VIEWS)
def test_views_of_very_small_pictures(size, view):
    found = inspected(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
    assert views.view_picture(found, view, 0.5, (0, 0)).shape == (*size, 3)
    assert views.window_values(found, view, 0.5, (0, 0)).shape == found.result.embeddings.shape[:2]


@pytest.mark.parametrize("longest", [400, 217, 150, 101])
def test_maps_of_windows_are_aligned_at_any_size(inspection, longest):
    """Here three windows per side vote for each cell; rounding the drawn size must not make them two."""
    result = dataclasses.replace(inspection.result, window_size=48, stride=16)
    rows, cols = (300 - 48) // 16 + 1, (400 - 48) // 16 + 1
    embeddings = np.zeros((rows, cols, 2), np.float32)
    embeddings[..., 0] = 1
    embeddings[6:10, 9:13] = (0, 1)
    found = dataclasses.replace(inspection, result=dataclasses.replace(result, embeddings=embeddings))
    drawn = views.view_picture(found, "similarity", 0.5, (7, 10), longest).sum(2).astype(float)
    bright = np.argwhere(drawn > (drawn.min() + drawn.max()) / 2) * 300 / drawn.shape[0]
    center = (bright.min(0) + bright.max(0)) / 2
    np.testing.assert_allclose(center, [7.5 * 16 + 24, 10.5 * 16 + 24], atol=4)


def test_window_values_of_the_heatmap_are_taken_at_window_centers(inspection):
    values = views.window_values(inspection, "heatmap", 0.5, (0, 0))
    down, across = views.window_centers(inspection)
    assert values[2, 3] == inspection.result.heatmap[int(down[2]), int(across[3])]
    mask = views.window_values(inspection, "mask", 0.5, (0, 0))
    np.testing.assert_array_equal(mask, values > 0.5)


def test_similarity_is_the_cosine_with_the_chosen_window(inspection):
    embeddings = inspection.result.embeddings
    found = views.similarity_map(embeddings, 1, 2)
    assert found[1, 2] == pytest.approx(1, abs=1e-5)
    assert found[4, 5] == pytest.approx(embeddings[4, 5] @ embeddings[1, 2], abs=1e-6)


def test_the_initial_threshold_reproduces_the_mask(inspection):
    assert not inspection.calibrated
    start = views.first_threshold(inspection)
    assert (inspection.result.heatmap > start).mean() == pytest.approx(inspection.result.mask.mean(), abs=0.02)
    assert views.first_threshold(dataclasses.replace(inspection, calibrated=True)) == MASK_THRESHOLD


# ---- verdicts, evidence, reliability


@pytest.fixture(scope="module")
def decision():
    return decided(pasted()[0])


def test_the_mask_shows_the_regions_until_the_threshold_is_moved(decision):
    start, result = views.first_threshold(decision), decision.result
    assert start == 0.5 and result.mask.any()
    source, level = views.mask_source(decision, start)
    np.testing.assert_array_equal(source > level, result.mask)
    down, across = (centers.astype(int) for centers in views.window_centers(decision))
    np.testing.assert_array_equal(
        views.window_values(decision, "mask", start, (0, 0)), result.mask[np.ix_(down, across)]
    )
    assert (views.view_picture(decision, "mask", start, (0, 0))[..., 0] > 0).mean() == result.mask.mean()
    assert views.mask_source(decision, 0.3) == (result.heatmap, 0.3)
    assert "probability" in views.meaning_of_view(decision, "heatmap")
    assert "regions" in views.meaning_of_view(decision, "mask")


def test_without_a_calibration_a_learned_mask_uses_threshold_one_half(decision):
    bare = dataclasses.replace(decision, result=dataclasses.replace(decision.result, decision=None), calibrated=False)
    assert views.first_threshold(bare) == 0.5
    assert views.mask_source(bare, 0.5) == (bare.result.heatmap, 0.5)


@pytest.mark.parametrize("view", views.EVIDENCE)
def test_evidence_is_shown_on_the_pictures_own_scale(decision, view):
    values = views.window_values(decision, view, 0.5, (0, 0))
    low, high = views.value_range(view, values)
    assert np.isfinite(values).all() and low < high
    assert ((values >= low) & (values <= high)).mean() > 0.9 or np.ptp(values) < 1e-3
    said = views.meaning_of_view(decision, view)
    assert views.EVIDENCE[view] in said and "this picture's own scale" in said
    assert views.VIEWS[view].title[0].isupper()


@pytest.mark.parametrize("size", [(1, 1), (20, 20), (1, 90)])
def test_missing_evidence_is_gray_and_explained(size):
    found = decided(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
    assert set(found.result.evidence.absent) < set(views.EVIDENCE)
    for view, reason in found.result.evidence.absent.items():
        assert np.isnan(views.window_values(found, view, 0.5, (0, 0))).all()
        assert (views.view_picture(found, view, 0.5, (0, 0)) == 128).all()
        assert views.meaning_of_view(found, view) == f"nothing to show: {reason}"
        assert reason not in views.meaning_of_view(None, view)


@pytest.mark.parametrize("longest", [1024, 100])
def test_unreliable_areas_are_hatched(decision, longest):
    reliability = np.ones_like(decision.result.reliability)
    reliability[:, decision.seen.centers[1] > 200] = 0.1
    found = dataclasses.replace(decision, result=dataclasses.replace(decision.result, reliability=reliability))
    lines = views.hatching(found, longest)
    height, width = shown_shape(300, 400, longest)
    assert lines.shape == (height, width, 4) and lines.dtype == np.uint8
    assert not lines[:, : width // 2, 3].any() and 0.2 < (lines[:, width // 2 :, 3] > 0).mean() < 0.5
    gray = np.full((height, width, 3), 100, np.uint8)
    drawn = views.lay_over(lines, gray)
    np.testing.assert_array_equal((drawn != gray).any(2), lines[..., 3] > 0)
