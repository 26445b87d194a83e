"""The reference protocol compared with its steps written as loops over windows, votes and rows."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist
from sklearn.cluster import SpectralClustering

from exiflang import SpliceLocalizer
from exiflang.evaluation.baselines import MeanColor
from exiflang.localization.clustering import MeanShiftMode
from exiflang.localization.localizer import Comparison
from exiflang.localization.reference import (
    MOST_CELLS,
    SequentialMeanShift,
    negate_colors,
    reference_grid,
    stretch_cells,
)
from exiflang.models.config import ExifLangConfig
from exiflang.models.model import ExifLang
from exiflang.utils.images import ImageError


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return ExifLang(ExifLangConfig.preset("tiny")).eval()


def picture(height, width, seed=0):
    """Noise, weak on the left and strong in a box on the right."""
    rng = np.random.default_rng(seed)
    image = rng.integers(90, 110, (height, width, 3))
    image[height // 3 :, width // 2 :] = rng.integers(0, 256, (height - height // 3, width - width // 2, 3))
    return image.astype(np.uint8)


def naive_embeddings(model, image, patch, per_side, negated):
    height, width = image.shape[:2]
    stride = (max(height, width) - patch) // per_side
    rows = []
    for y in range(0, height - patch + 1, stride):
        row = []
        for x in range(0, width - patch + 1, stride):
            window = image[y : y + patch, x : x + patch].astype(np.float64)
            if negated:  # 0..255 mistaken for 0..1 and multiplied by 255, in 8 bits
                window = (window * 255) % 256
            patches = torch.from_numpy(window.astype(np.uint8).transpose(2, 0, 1)[None].copy())
            with torch.inference_mode():
                row.append(model.encode_image(patches)[0].numpy())
        rows.append(row)
    return np.array(rows), stride


def naive_votes(embeddings, patch, stride):
    spread = max(1, patch // stride)
    rows, cols = embeddings.shape[:2]
    h, w = rows + spread - 1, cols + spread - 1
    responses, votes = np.zeros((h, w, h, w)), np.full((h, w, h, w), 1e-4)
    for a in np.ndindex(rows, cols):
        for b in np.ndindex(rows, cols):
            response = 1 - float(embeddings[a] @ embeddings[b])
            where = tuple(slice(place, place + spread) for place in (*a, *b))
            responses[where] += response
            votes[where] += 1
    return responses / votes


def naive_mean_shift(consistency, percentile=10, iterations=5):
    h, w = consistency.shape[:2]
    original = consistency.reshape(h * w, h * w).astype(np.float64)
    # Each distance occurs twice, so the radius often equals one: its last bit must not decide which rows are within.
    radius = np.percentile(cdist(original, original), percentile) * (1 + 1e-9)
    tree, moved = cKDTree(original, copy_data=True), original.copy()
    for _ in range(iterations):
        for i in range(len(moved)):
            if near := tree.query_ball_point(moved[i], radius):
                moved[i] = np.mean(moved[near], axis=0)
    reached = [len(tree.query_ball_point(row, radius)) for row in moved]
    modes = [row for row, count in zip(moved, reached, strict=True) if count == max(reached)]
    return np.mean(modes, axis=0).reshape(h, w)


def naive_stretch(cells, height, width):
    """Bilinear interpolation at the centers of pixels between the centers of cells."""
    h, w = cells.shape
    out = np.zeros((height, width))
    for y, x in np.ndindex(height, width):
        v, u = (y + 0.5) * h / height - 0.5, (x + 0.5) * w / width - 0.5
        v, u = min(max(v, 0), h - 1), min(max(u, 0), w - 1)
        top, left = int(v), int(u)
        low, right = min(top + 1, h - 1), min(left + 1, w - 1)
        dy, dx = v - top, u - left
        above = cells[top, left] * (1 - dx) + cells[top, right] * dx
        below = cells[low, left] * (1 - dx) + cells[low, right] * dx
        out[y, x] = above * (1 - dy) + below * dy
    return out


@pytest.mark.parametrize("negated", [False, True])
@pytest.mark.parametrize(("height", "width", "per_side"), [(72, 96, 8), (130, 60, 5), (200, 140, 3)])
def test_every_step_equals_the_loops(model, height, width, per_side, negated):
    image, patch = picture(height, width), model.config.patch_size
    embeddings, stride = naive_embeddings(model, image, patch, per_side, negated)
    votes = naive_votes(embeddings, patch, stride)

    localizer = SpliceLocalizer(model, per_side, protocol="reference", comparison=Comparison(colors_negated=negated))
    result = localizer(image)

    assert (result.window_size, result.stride) == (patch, stride)
    np.testing.assert_allclose(result.embeddings, embeddings, atol=1e-5)
    np.testing.assert_allclose(result.consistency, naive_votes(result.embeddings, patch, stride), atol=1e-6)
    np.testing.assert_allclose(result.consistency, votes, atol=1e-5)
    cells = naive_mean_shift(result.consistency)  # the last digits of the votes matter to its radius
    np.testing.assert_allclose(result.raw, naive_stretch(cells, height, width), atol=1e-5)
    assert result.score == pytest.approx(votes.mean(), abs=1e-5)
    assert result.raw.dtype == np.float32 and result.raw.shape == result.mask.shape == (height, width)


def test_the_mask_is_that_of_spectral_clustering(model):
    result = SpliceLocalizer(model, 8, protocol="reference")(picture(72, 96))
    h, w = result.consistency.shape[:2]
    affinity = 1 - result.consistency.reshape(h * w, h * w)
    labels = SpectralClustering(2, affinity="precomputed", random_state=0).fit_predict((affinity + affinity.T) / 2)
    smaller = (labels == (labels.mean() < 0.5)).reshape(h, w)
    np.testing.assert_array_equal(result.mask, stretch_cells(smaller, 72, 96) > 0.5)
    assert 0 < result.mask.mean() < 0.5


@settings(max_examples=25)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 99))
def test_sequential_mean_shift_equals_the_loops(rows, cols, seed):
    embeddings = np.random.default_rng(seed).normal(size=(rows * cols, 4)) + [1, 0, 0, 0]
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    consistency = np.clip(1 - embeddings @ embeddings.T, 0, 2).reshape(rows, cols, rows, cols)
    expected = naive_mean_shift(consistency)
    np.testing.assert_allclose(SequentialMeanShift().fit_predict(consistency), expected, atol=1e-5)


def test_the_order_of_rows_matters_unlike_in_the_batched_form():
    rng = np.random.default_rng(1)
    embeddings = rng.normal(size=(40, 3)) + np.repeat([[2, 0, 0], [0, 2, 0]], 20, axis=0)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    consistency = (1 - embeddings @ embeddings.T).reshape(1, 40, 1, 40)
    reverse = consistency[:, ::-1, :, ::-1]
    sequential, batched = SequentialMeanShift(), MeanShiftMode()
    there, back = (batched.fit_predict(array) for array in (consistency, reverse))
    np.testing.assert_allclose(there, back[:, ::-1], atol=1e-5)
    there, back = (sequential.fit_predict(array) for array in (consistency, reverse))
    assert np.abs(there - back[:, ::-1]).max() > 1e-3


@pytest.mark.parametrize("value", [0.0, 0.7])
@pytest.mark.parametrize("grid", [(1, 1), (1, 6), (3, 4)])
def test_sequential_mean_shift_of_equal_rows_is_flat(grid, value):
    np.testing.assert_allclose(SequentialMeanShift().fit_predict(np.full(grid + grid, value)), value, atol=1e-6)


def test_bad_consistency_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        SequentialMeanShift().fit_predict(np.full((2, 2, 2, 2), np.nan))
    with pytest.raises(ValueError, match="must be"):
        SequentialMeanShift().fit_predict(np.zeros((2, 2, 2)))


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(768, 1024, (124, 30)), (3000, 4000, (124, 129)), (256, 384, (124, 8)), (2000, 124, (124, 62))],
)
def test_the_stride_follows_the_longer_side(height, width, expected):
    assert reference_grid(height, width, 124, 30) == expected


def test_pictures_that_crash_the_reference_are_handled_or_refused():
    assert reference_grid(40, 30, 124, 30) == (30, 1)  # smaller than a window
    assert reference_grid(1, 1, 124, 30) == (1, 1)
    with pytest.raises(ImageError, match=rf"150 x 150 pixels.* more than {MOST_CELLS:,}.*protocol='default'"):
        reference_grid(150, 150, 124, 30)  # a stride of zero in the reference


@given(st.integers(0, 255))
def test_negation_equals_the_overflow_in_eight_bits(value):
    pixels = np.full((1, 1, 3), value, np.uint8)
    assert (negate_colors(pixels) == (256 - value) % 256).all()
    assert (negate_colors(pixels) == int(value * 255.0) % 256).all()
    assert negate_colors(pixels).dtype == np.uint8


@settings(max_examples=30)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 40), st.integers(1, 40))
def test_stretching_is_bilinear(h, w, height, width):
    cells = np.random.default_rng(h * 5 + w).random((h, w)).astype(np.float32)
    stretched = stretch_cells(cells, height, width)
    np.testing.assert_allclose(stretched, naive_stretch(cells, height, width), atol=1e-5)


def test_unknown_protocols_and_readouts_are_refused():
    with pytest.raises(ValueError, match="unknown protocol 'paper': choose one of default, reference"):
        SpliceLocalizer(MeanColor(), protocol="paper")
    with pytest.raises(ValueError, match="unknown readout 'sequential_mean_shift'"):
        SpliceLocalizer(MeanColor(), readout="sequential_mean_shift")
    assert SpliceLocalizer(MeanColor()).readout == "diffused_cut"
    reference = SpliceLocalizer(MeanColor(), 6, protocol="reference")
    assert reference.readout == "sequential_mean_shift"
    batched = SpliceLocalizer(MeanColor(), 6, protocol="reference", readout="mean_shift")
    image = picture(120, 160)
    assert np.abs(batched(image).raw - reference(image).raw).max() < 0.1


def test_the_packaged_weights_are_not_calibrated_under_the_reference_protocol():
    localizer = SpliceLocalizer(windows_per_side=6, protocol="reference", window_size=64)
    result = localizer(picture(160, 200))
    assert localizer.calibration == {} and localizer.model.config.calibration
    assert result.score == pytest.approx(float(result.consistency.mean()))
    np.testing.assert_allclose(result.heatmap, np.clip(result.raw / 2, 0, 1), atol=1e-6)
