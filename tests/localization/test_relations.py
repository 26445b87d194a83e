"""Relations of windows compared with their definitions in numpy, and their invariances."""

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from exiflang.localization import relations as module
from exiflang.localization.relations import (
    EIGENVECTORS,
    MAPS,
    NAMES,
    RINGS,
    SHARES,
    reference_windows,
    smooth_unit,
    window_relations,
)

GRIDS = [(1, 1), (1, 2), (1, 13), (9, 1), (2, 2), (4, 6), (7, 5)]
STANDARD = slice(len(MAPS), 2 * len(MAPS))
FIRST_EIGENVECTOR = 2 * len(MAPS)


def unit(array: np.ndarray) -> np.ndarray:
    return array / np.linalg.norm(array, axis=-1, keepdims=True)


def embeddings(rows: int, cols: int, seed: int = 0, dim: int = 6) -> torch.Tensor:
    values = np.random.default_rng(seed).normal(size=(rows, cols, dim))
    values[..., 0] += 1  # so that no mean vanishes
    return torch.from_numpy(unit(values)).float()


def three_origins(rows: int = 12, cols: int = 16, noise: float = 0.2, seed: int = 0) -> torch.Tensor:
    """A host with two blocks from other sources."""
    rng = np.random.default_rng(seed)
    host, first, second = unit(rng.normal(size=(3, 8)))
    values = np.broadcast_to(host, (rows, cols, 8)).copy()
    values[1:5, 1:6] = first
    values[6:11, 8:12] = second
    return torch.from_numpy(unit(values + noise * rng.normal(size=values.shape))).float()


def loop_maps(values: np.ndarray) -> np.ndarray:
    """`MAPS` window by window, with all windows as references: float64 [rows, cols, M]."""
    rows, cols, _ = values.shape
    cells = list(np.ndindex(rows, cols))
    smoothed = unit(gaussian_filter(values, (1, 1, 0), mode="nearest")).reshape(len(cells), -1)
    centered = smoothed - smoothed.mean(0)
    centered /= np.maximum(np.linalg.norm(centered, axis=1, keepdims=True), 1e-12)
    counts = [max(1, round(share * len(cells))) for share in SHARES]
    found = {name: np.zeros(len(cells)) for name in MAPS}
    for i, (y, x) in enumerate(cells):
        apart = np.array([np.hypot(v - y, u - x) for v, u in cells])
        cosine = np.array([smoothed[i] @ other for other in smoothed])
        reach = min(max(rows, cols) / 4, np.sort(apart)[::-1][counts[-1] - 1])
        friends = sorted(cosine[apart >= reach - 1e-6], reverse=True)
        for share, count in zip(SHARES, counts, strict=True):
            found[f"far friends {share}"][i] = -np.mean(friends[:count])
        found["mean dissimilarity"][i] = 1 - cosine.mean()
        for ring in RINGS:
            inside = (apart > ring / 2) & (apart <= ring)
            found[f"ring {ring}"][i] = (1 - cosine[inside]).mean() if inside.any() else 0
    affinity = np.maximum(centered @ centered.T, 0)
    sums = affinity.sum(1, keepdims=True)
    far = q = found[f"far friends {SHARES[2]}"]
    for _ in range(15):
        q = 0.2 * far + 0.8 * (affinity / np.maximum(sums, 1e-6)) @ q
    found["diffused far friends"] = q
    return np.stack([found[name] for name in MAPS], axis=1).reshape(rows, cols, -1)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("seed", [0, 1])
def test_maps_equal_their_loop(grid, seed):
    values = embeddings(*grid, seed)
    got = window_relations(values)
    expected = loop_maps(values.double().numpy())
    assert got.maps.shape == (*grid, len(NAMES)) and got.maps.dtype == torch.float32
    assert got.references.tolist() == list(range(grid[0] * grid[1]))
    np.testing.assert_allclose(got.maps[..., : len(MAPS)], expected, atol=1e-4)
    deviation = expected.std((0, 1))
    np.testing.assert_allclose(got.picture[: len(MAPS)], deviation, atol=1e-4)
    assert got.picture[-1] == pytest.approx(np.log(grid[0] * grid[1]))
    told = deviation > 0.02
    standard = (expected - expected.mean((0, 1))) / (deviation + 1e-6)
    np.testing.assert_allclose(got.maps[..., STANDARD][..., told], standard[..., told], atol=2e-2)


@pytest.mark.parametrize("grid", GRIDS)
def test_smoothing_is_a_gaussian_of_one_window(grid):
    values = embeddings(*grid)
    smoothed, centered = smooth_unit(values)
    expected = unit(gaussian_filter(values.double().numpy(), (1, 1, 0), mode="nearest")).reshape(-1, 6)
    np.testing.assert_allclose(smoothed, expected, atol=1e-5)
    np.testing.assert_allclose(centered.norm(dim=1), float(grid != (1, 1)), atol=1e-5)


def test_cosines_are_computed_on_centered_embeddings():
    values = three_origins()
    _, centered = smooth_unit(values)
    torch.testing.assert_close(window_relations(values).cosine, centered @ centered.T)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_eigenvectors_solve_their_equation(seed):
    values = three_origins(seed=seed)
    got = window_relations(values)
    affinity = got.cosine.double().clamp(min=0).numpy()
    value, vector = scipy.linalg.eigh(affinity, np.diag(affinity.sum(1)))  # ascending, the last is constant
    np.testing.assert_allclose(got.picture[len(MAPS) : -1], value[-2 : -2 - EIGENVECTORS : -1], atol=2e-3)
    far = got.maps[..., 1].double().numpy().ravel()
    for k in range(2):  # those that separate the three sources; others are close to each other
        v = got.maps[..., FIRST_EIGENVECTOR + k].double().numpy().ravel()
        assert abs(v.mean()) < 1e-4 and v.std() == pytest.approx(1, abs=1e-4)
        assert abs(np.corrcoef(v, vector[:, -2 - k])[0, 1]) > 0.999
        assert np.corrcoef(v, far)[0, 1] > -1e-4


def test_blocks_from_other_sources_have_no_far_friends():
    values = window_relations(three_origins()).maps
    block = torch.zeros(12, 16, dtype=torch.bool)
    block[2:4, 2:5] = True
    block[7:10, 9:11] = True
    host = torch.ones(12, 16, dtype=torch.bool)
    host[0:6, 0:7] = host[5:12, 7:13] = False
    for name in ("far friends 0.25", "far friends 0.5", "diffused far friends", "mean dissimilarity"):
        found = values[..., NAMES.index(name)]
        assert found[block].min() > found[host].max(), name


# Invariances


@settings(max_examples=10)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 99))
def test_rotating_the_embedding_space_changes_nothing(rows, cols, seed):
    values = embeddings(rows, cols, seed)
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(6, 6)))
    got, turned = window_relations(values), window_relations(values @ torch.from_numpy(q).float())
    np.testing.assert_allclose(turned.maps[..., : len(MAPS)], got.maps[..., : len(MAPS)], atol=1e-4)
    np.testing.assert_allclose(turned.picture, got.picture, atol=5e-3)


@pytest.mark.parametrize("turn", [lambda x: x.flip(0), lambda x: x.flip(1), lambda x: x.transpose(0, 1)])
def test_maps_rotate_with_the_picture(turn):
    values = three_origins()
    got, turned = window_relations(values), window_relations(turn(values))
    first = slice(0, FIRST_EIGENVECTOR + 2)  # other eigenvectors are close to each other, and mix
    np.testing.assert_allclose(turned.maps[..., first], turn(got.maps)[..., first], atol=5e-3)
    np.testing.assert_allclose(turned.picture, got.picture, atol=5e-3)


def test_equal_embeddings_give_equal_relations():
    values = three_origins()
    assert all(
        torch.equal(getattr(window_relations(values), name), getattr(window_relations(values), name))
        for name in ("maps", "picture", "cosine", "references")
    )


# Edges


@pytest.mark.parametrize("grid", [*GRIDS, (1, 60)])
@pytest.mark.parametrize("kind", ["equal", "constant", "two", "apart"])
def test_degenerate_embeddings_give_finite_relations(grid, kind):
    n = grid[0] * grid[1]
    vectors = {
        "equal": torch.ones(n, 8) / 8**0.5,  # with rounding
        "constant": torch.eye(8)[:1].expand(n, 8),
        "two": torch.eye(8)[(torch.arange(n) > n // 2).long()],
        "apart": torch.eye(n),
    }[kind]
    got = window_relations(vectors.reshape(*grid, -1).contiguous())
    assert got.maps.shape == (*grid, len(NAMES))
    assert got.maps.isfinite().all() and got.picture.isfinite().all() and got.cosine.isfinite().all()
    if kind in ("equal", "constant"):
        assert got.maps[..., STANDARD].abs().max() < 1 and not got.maps[..., FIRST_EIGENVECTOR:].any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_broken_embeddings_are_refused(bad):
    values = embeddings(3, 4)
    values[1, 2, 3] = bad
    with pytest.raises(ValueError, match="embeddings contain NaN"):
        window_relations(values)


# Many windows


@given(st.integers(1, 120), st.integers(1, 120), st.integers(1, 900))
def test_references_are_evenly_spread_and_bounded_in_number(rows, cols, most):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MOST_REFERENCES", most)
        found = reference_windows(rows, cols)
        assert 1 <= len(found) <= most
        ys, xs = (sorted(set(side.tolist())) for side in (found // cols, found % cols))
    assert len(found) == len(ys) * len(xs)
    steps = set(np.diff(ys)) | set(np.diff(xs))
    assert len(steps) <= 1
    if rows * cols <= most:
        assert found.tolist() == list(range(rows * cols))
    for places, side in ((ys, rows), (xs, cols)):
        if len(places) > 1:  # the margins at both ends differ by at most one step
            step = steps.copy().pop()
            assert places[0] < step and side - 1 - places[-1] < step


def test_the_number_of_references_is_bounded_for_any_shape():
    assert len(reference_windows(1, 5000)) <= module.MOST_REFERENCES
    assert len(reference_windows(60, 60)) <= module.MOST_REFERENCES


def test_maps_from_some_references_are_close_to_those_from_all(monkeypatch):
    values = three_origins(24, 32)
    every = window_relations(values)
    monkeypatch.setattr(module, "MOST_REFERENCES", 200)
    some = window_relations(values)
    assert some.cosine.shape == (24 * 32, len(some.references)) and len(some.references) <= 200
    assert some.maps.shape == every.maps.shape and some.maps.isfinite().all()
    for name in ("far friends 0.1", "far friends 0.25", "mean dissimilarity", "diffused far friends", "eigenvector 1"):
        at = NAMES.index(name)
        assert np.corrcoef(some.maps[..., at].ravel(), every.maps[..., at].ravel())[0, 1] > 0.97, name
