"""Readouts compared with their definitions written as loops, and on pictures with a known spliced block."""

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from exiflang.localization.clustering import (
    READOUTS,
    DiffusedCut,
    Diffusion,
    FarFriends,
    MeanDissimilarity,
    MeanShiftMode,
    NormalizedCut,
    SignedEigenvector,
    affinity,
    detection_score,
    second_eigenvector,
    smooth,
)

GRIDS = [(1, 1), (1, 2), (1, 7), (2, 2), (5, 1), (4, 6), (7, 5)]


def unit(array: np.ndarray) -> np.ndarray:
    return array / np.linalg.norm(array, axis=-1, keepdims=True)


def random_embeddings(h: int, w: int, seed: int = 0, dim: int = 6) -> np.ndarray:
    return unit(np.random.default_rng(seed).normal(size=(h, w, dim)))


def dissimilarity_of(embeddings: np.ndarray) -> np.ndarray:
    return 1 - np.einsum("abd,efd->abef", embeddings, embeddings)


def spliced_block(h: int = 12, w: int = 16, noise: float = 0.1, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Dissimilarity and mask of a grid from one source with a spliced 3 x 4 block from another."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((h, w), bool)
    mask[2:5, 9:13] = True
    host, donor = unit(rng.normal(size=(2, 8)))
    return dissimilarity_of(unit(np.where(mask[..., None], donor, host) + noise * rng.normal(size=(h, w, 8)))), mask


def loop_mean_shift(dissimilarity: np.ndarray, percentile: float = 10, iterations: int = 5) -> np.ndarray:
    h, w = dissimilarity.shape[:2]
    rows = dissimilarity.reshape(h * w, h * w)
    radius = np.percentile([np.linalg.norm(a - b) for a in rows for b in rows], percentile)
    shifted = [row.copy() for row in rows]
    for _ in range(iterations):
        for i, row in enumerate(shifted):
            near = [other for other in rows if np.linalg.norm(row - other) <= radius + 1e-9]
            shifted[i] = np.mean(near, axis=0) if near else row
    votes = [sum(np.linalg.norm(row - other) <= radius + 1e-9 for other in rows) for row in shifted]
    return np.mean([row for row, n in zip(shifted, votes, strict=True) if n == max(votes)], axis=0).reshape(h, w)


def loop_far_friends(smoothed: np.ndarray, share: float = 0.1, distance: float = 0.25) -> np.ndarray:
    h, w = smoothed.shape[:2]
    cells = [(y, x) for y in range(h) for x in range(w)]
    wanted = max(1, round(share * len(cells)))
    out = np.empty((h, w))
    for y, x in cells:
        apart = {(v, u): np.hypot(v - y, u - x) for v, u in cells}
        reach = min(distance * max(h, w), sorted(apart.values(), reverse=True)[wanted - 1])
        cosines = sorted((1 - smoothed[y, x, v, u] for (v, u), d in apart.items() if d >= reach), reverse=True)
        out[y, x] = -np.mean(cosines[:wanted])
    return out


def loop_diffusion(smoothed: np.ndarray, far: np.ndarray, steps: int = 15, weight: float = 0.8) -> np.ndarray:
    """From embeddings reconstructed from their Gram matrix, centered and compared pair by pair."""
    n = far.size
    value, vector = np.linalg.eigh(1 - smoothed.reshape(n, n))
    embeddings = vector * np.sqrt(np.maximum(value, 0))  # [n, n]
    centered = embeddings - embeddings.mean(0)
    affinity = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            cosine = centered[i] @ centered[j] / (np.linalg.norm(centered[i]) * np.linalg.norm(centered[j]))
            affinity[i, j] = max(cosine, 0)
        affinity[i] /= affinity[i].sum()
    f = far.ravel()
    q = f.copy()
    for _ in range(steps):
        walked = [sum(affinity[i, j] * q[j] for j in range(n)) for i in range(n)]
        q = np.array([(1 - weight) * f[i] + weight * walked[i] for i in range(n)])
    return q.reshape(far.shape)


@pytest.mark.parametrize("grid", [(1, 1), (1, 7), (3, 3), (4, 6)])
@pytest.mark.parametrize("seed", [0, 1])
def test_mean_shift_equals_its_loop(grid, seed):
    dissimilarity = dissimilarity_of(random_embeddings(*grid, seed))
    np.testing.assert_allclose(MeanShiftMode().fit_predict(dissimilarity), loop_mean_shift(dissimilarity), atol=1e-6)


def test_mean_shift_with_other_settings_equals_its_loop():
    dissimilarity = dissimilarity_of(random_embeddings(4, 5, 3))
    got = MeanShiftMode(percentile=40, iterations=2).fit_predict(dissimilarity)
    np.testing.assert_allclose(got, loop_mean_shift(dissimilarity, 40, 2), atol=1e-6)


def test_mean_shift_on_equal_rows_finds_the_larger_block_exactly():
    """The 10th percentile of distances is zero here: rounding must not separate equal rows."""
    dissimilarity, mask = spliced_block(noise=0)
    distance = dissimilarity[0, 0][mask].mean()
    np.testing.assert_allclose(MeanShiftMode().fit_predict(dissimilarity), np.where(mask, distance, 0), atol=1e-5)


@pytest.mark.parametrize("grid", GRIDS)
def test_mean_dissimilarity_equals_its_loop(grid):
    dissimilarity = dissimilarity_of(random_embeddings(*grid))
    expected = [[dissimilarity[y, x].mean() for x in range(grid[1])] for y in range(grid[0])]
    np.testing.assert_allclose(MeanDissimilarity().fit_predict(dissimilarity), expected, atol=1e-6)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.0])
def test_smooth_equals_smoothing_the_embeddings(grid, sigma):
    embeddings = random_embeddings(*grid) + np.array([1.5, 0, 0, 0, 0, 0])  # so that no mean vanishes
    smoothed = unit(gaussian_filter(unit(embeddings), (sigma, sigma, 0), mode="nearest"))
    got = smooth(dissimilarity_of(unit(embeddings)), sigma)
    np.testing.assert_allclose(got, dissimilarity_of(smoothed), atol=2e-6)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("options", [{}, {"share": 0.5}, {"share": 1.0, "distance": 0.9}, {"distance": 0.0}])
def test_far_friends_equals_its_loop(grid, options):
    dissimilarity = dissimilarity_of(random_embeddings(*grid, seed=2))
    got = FarFriends(**options).fit_predict(dissimilarity)
    np.testing.assert_allclose(got, loop_far_friends(smooth(dissimilarity, 1.0), **options), atol=2e-6)


@pytest.mark.parametrize("grid", [(1, 3), (3, 4), (5, 5)])
def test_diffusion_equals_its_loop(grid):
    dissimilarity = dissimilarity_of(random_embeddings(*grid, seed=4))
    expected = loop_diffusion(smooth(dissimilarity, 1.0), FarFriends(share=0.25).fit_predict(dissimilarity))
    np.testing.assert_allclose(Diffusion().fit_predict(dissimilarity), expected, atol=1e-4)


def loop_cut(smoothed: np.ndarray) -> np.ndarray:
    """Standardized second generalized eigenvector of `A v = l D v` by a full decomposition."""
    n = smoothed.shape[0] * smoothed.shape[1]
    edges = affinity(smoothed).astype(float)
    value, vector = scipy.linalg.eigh(edges, np.diag(edges.sum(1)))
    v = vector[:, np.argsort(value)[-2]] if n > 1 else np.zeros(n)
    return ((v - v.mean()) / max(v.std(), 1e-12)).reshape(smoothed.shape[:2])


@pytest.mark.parametrize("grid", [(3, 4), (6, 7), (1, 8)])
@pytest.mark.parametrize("seed", [0, 1])
def test_second_eigenvector_solves_its_equation(grid, seed):
    smoothed = smooth(dissimilarity_of(random_embeddings(*grid, seed)), 1.0)
    got, expected = second_eigenvector(affinity(smoothed)), loop_cut(smoothed).ravel()
    np.testing.assert_allclose(got * np.sign(got @ expected), expected, atol=2e-3)
    np.testing.assert_array_equal(got, second_eigenvector(affinity(smoothed)))
    assert abs(got.mean()) < 1e-9 and abs(got.std() - 1) < 1e-9


def test_second_eigenvector_separates_unconnected_parts():
    """The largest eigenvalue is double here: any mixture of the parts solves the equation, but they must not mix."""
    part = np.arange(7) < 3
    got = second_eigenvector((part[:, None] == part).astype(np.float32))
    assert np.ptp(got[part]) < 1e-5 and np.ptp(got[~part]) < 1e-5 and abs(got[part][0] - got[~part][0]) > 1


@pytest.mark.parametrize("grid", [(3, 4), (6, 7)])
def test_cuts_equal_their_definition(grid):
    dissimilarity = dissimilarity_of(random_embeddings(*grid, seed=5))
    smoothed = smooth(dissimilarity, 1.0)
    far, v = FarFriends().fit_predict(dissimilarity), loop_cut(smoothed)
    slope = np.polyfit(v.ravel(), far.ravel(), 1)
    np.testing.assert_allclose(SignedEigenvector().fit_predict(dissimilarity), np.polyval(slope, v), atol=1e-4)
    diffused = Diffusion(share=0.1).fit_predict(dissimilarity)
    expected = diffused + 0.3 * diffused.std() * np.sign(slope[0]) * v
    np.testing.assert_allclose(DiffusedCut(cut=0.3).fit_predict(dissimilarity), expected, atol=1e-4)
    np.testing.assert_allclose(DiffusedCut(cut=0).fit_predict(dissimilarity), diffused, atol=1e-6)


@pytest.mark.parametrize("readout", [Diffusion(), SignedEigenvector(), DiffusedCut()])
def test_an_authentic_picture_is_flatter_than_a_spliced_one(readout):
    spliced, mask = spliced_block(noise=0.3)
    authentic = dissimilarity_of(unit(np.ones(8) + 0.3 * np.random.default_rng(1).normal(size=(*mask.shape, 8))))
    assert readout.fit_predict(authentic).std() < 0.25 * readout.fit_predict(spliced).std()


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_spliced_block_has_the_highest_values(readout, seed):
    dissimilarity, mask = spliced_block(seed=seed)
    values = READOUTS[readout]().fit_predict(dissimilarity)
    # Smoothing blends the border of the block with the host, so only its core is compared.
    core = np.zeros_like(mask)
    core[3, 10:12] = True
    assert values[core].min() > values[~mask].max()


@pytest.mark.parametrize("readout", [MeanDissimilarity(), MeanShiftMode(), FarFriends(sigma=0)])
def test_every_cell_of_the_block_is_higher_without_smoothing(readout):
    dissimilarity, mask = spliced_block()
    values = readout.fit_predict(dissimilarity)
    assert values[mask].min() > values[~mask].max()


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("grid", [(1, 1), (1, 5), (3, 4)])
def test_flat_input_gives_a_flat_finite_map(readout, value, grid):
    values = READOUTS[readout]().fit_predict(np.full(grid + grid, value, np.float32))
    assert values.shape == grid and values.dtype == np.float32
    assert np.isfinite(values).all() and np.ptp(values) < 1e-5


@settings(max_examples=25)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 99), st.sampled_from(sorted(READOUTS)))
def test_maps_are_finite_and_on_their_scale(h, w, seed, readout):
    values = READOUTS[readout]().fit_predict(dissimilarity_of(random_embeddings(h, w, seed)).astype(np.float32))
    low, high = (0, 2) if readout in ("mean_shift", "mean_dissimilarity") else (-1, 1)
    # The eigenvector is added or fitted, not averaged: it may leave the scale if cells have nothing in common.
    slack = 1 if readout in ("eigenvector", "diffused_cut") else 1e-5
    assert values.shape == (h, w) and values.dtype == np.float32
    assert low - slack <= values.min() and values.max() <= high + slack


@pytest.mark.parametrize("readout", READOUTS)
def test_maps_rotate_with_the_picture(readout):
    dissimilarity, _ = spliced_block()
    turned = np.rot90(np.rot90(dissimilarity, axes=(0, 1)), axes=(2, 3))
    values = READOUTS[readout]().fit_predict(dissimilarity)
    atol = 1e-4 if readout in ("eigenvector", "diffused_cut") else 1e-5  # the eigenvector is found by iteration
    np.testing.assert_allclose(np.rot90(READOUTS[readout]().fit_predict(turned), 3), values, atol=atol)


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.1])
def test_normalized_cut_finds_the_smaller_of_two_blocks(noise):
    dissimilarity, mask = spliced_block(noise=noise)
    found = NormalizedCut().fit_predict(dissimilarity)
    assert found.dtype == bool
    np.testing.assert_array_equal(found, mask)
    np.testing.assert_array_equal(found, NormalizedCut().fit_predict(dissimilarity))


@pytest.mark.parametrize("grid", [(1, 1), (1, 2), (2, 2), (6, 7)])
def test_normalized_cut_of_a_uniform_picture_is_all_false(grid):
    noise = np.random.default_rng(0).uniform(0, 5e-6, grid + grid)  # float32 rounding of equal embeddings
    found = NormalizedCut().fit_predict(0.3 + noise)
    assert found.shape == grid and not found.any()


@settings(max_examples=25)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 99), st.sampled_from([2, 6, 40]))
def test_normalized_cut_never_marks_more_than_half(h, w, seed, dim):
    found = NormalizedCut().fit_predict(dissimilarity_of(random_embeddings(h, w, seed, dim)))
    assert found.shape == (h, w) and found.mean() <= 0.5


def test_normalized_cut_of_all_different_cells():
    """All cells are opposite or orthogonal: the constant is the only affinity."""
    apart = np.ones((9, 9)) - np.eye(9)
    found = NormalizedCut().fit_predict(apart.reshape(3, 3, 3, 3))
    assert found.shape == (3, 3) and found.mean() <= 0.5


@pytest.mark.parametrize("estimator", [*READOUTS.values(), NormalizedCut])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_broken_embeddings_are_refused(estimator, bad):
    dissimilarity = np.zeros((2, 2, 2, 2))
    dissimilarity[1, 0, 1, 1] = bad
    with pytest.raises(ValueError, match="embeddings are broken"):
        estimator().fit_predict(dissimilarity)


@pytest.mark.parametrize("estimator", [*READOUTS.values(), NormalizedCut])
@pytest.mark.parametrize("shape", [(4, 4), (2, 3, 3, 2), (0, 2, 0, 2), ()])
def test_other_shapes_are_refused(estimator, shape):
    with pytest.raises(ValueError, match="must be \\[h, w, h, w\\]"):
        estimator().fit_predict(np.zeros(shape))


@pytest.mark.parametrize("options", [{"share": 0}, {"share": 1.5}, {"distance": -1}, {"sigma": -1}, {"share": np.nan}])
def test_far_friends_refuses_impossible_settings(options):
    with pytest.raises(ValueError, match="share above 0 and at most 1"):
        FarFriends(**options)


def test_input_is_not_modified():
    dissimilarity, _ = spliced_block()
    before = dissimilarity.copy()
    for estimator in (*READOUTS.values(), NormalizedCut):
        estimator().fit_predict(dissimilarity)
    np.testing.assert_array_equal(dissimilarity, before)


def test_the_score_of_the_cut_depends_only_on_far_friends():
    dissimilarity, mask = spliced_block()
    far = np.sort(FarFriends().fit_predict(dissimilarity).ravel())
    expected = np.quantile(far, 0.99) - np.median(far)
    for cells in (np.zeros(mask.shape), np.random.default_rng(0).normal(size=mask.shape)):
        assert detection_score(cells, dissimilarity, "diffused_cut") == pytest.approx(expected)
    assert detection_score(np.zeros((1, 1)), np.zeros((1, 1, 1, 1)), "diffused_cut") == 0


def test_the_score_of_the_cut_is_higher_for_a_spliced_picture():
    spliced, mask = spliced_block(noise=0.3)
    authentic = dissimilarity_of(unit(np.ones(8) + 0.3 * np.random.default_rng(1).normal(size=(*mask.shape, 8))))
    scores = [detection_score(np.zeros(mask.shape), each, "diffused_cut") for each in (authentic, spliced)]
    assert scores[0] < 0.5 * scores[1]
