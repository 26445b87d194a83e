"""Training-free embeddings against their definitions, on patches of every size."""

from collections import Counter
from itertools import product

import numpy as np
import pytest
import torch

from exiflang.evaluation.baselines import BASELINES, MeanColor, ResidualStatistics

ENCODERS = list(BASELINES.values())


def noise(batch: int, height: int, width: int, seed: int = 0, low: int = 0, high: int = 256) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(low, high, (batch, 3, height, width), dtype=np.uint8))


def loop_residual_statistics(patch: np.ndarray, step: int = 4) -> np.ndarray:
    """Counts of the 81 words of four levels, along rows and along columns, pixel by pixel in integer arithmetic."""
    luma = (patch.astype(int) * np.array([299, 587, 114])[:, None, None]).sum(0)  # thousandths
    features = []
    for plane in (luma, luma.T):
        words = Counter()
        for line in plane.tolist():
            residual = [line[i + 3] - 3 * line[i + 2] + 3 * line[i + 1] - line[i] for i in range(len(line) - 3)]
            level = [max(-1, min(1, round(r / (1000 * step)))) for r in residual]
            words.update(tuple(level[i : i + 4]) for i in range(len(level) - 3))
        total = sum(words.values())
        # The first level of a word is the least significant: reversed words sort as their codes do.
        features += [np.sqrt(words[word[::-1]] / total) for word in product((-1, 0, 1), repeat=4)]
    return np.array(features) / np.linalg.norm(features)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("height, width", [(1, 1), (1, 9), (7, 7), (8, 8), (16, 20), (64, 64)])
def test_unit_norm_float32(encoder, height, width):
    embedding = encoder().encode_image(noise(3, height, width))
    assert embedding.shape == (3, {MeanColor: 6, ResidualStatistics: 162}[encoder])
    assert embedding.dtype == torch.float32
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(3))


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("size", [1, 8, 64])
@pytest.mark.parametrize("value", [0, 127, 128, 255])
def test_constant_patches_have_finite_equal_embeddings(encoder, size, value):
    embedding = encoder().encode_image(torch.full((2, 3, size, size), value, dtype=torch.uint8))
    assert embedding.isfinite().all() and torch.equal(embedding[0], embedding[1])
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(2))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_patch_does_not_depend_on_its_batch(encoder):
    patches = noise(20, 32, 32, high=12)
    together = encoder().encode_image(patches)
    alone = torch.cat([encoder().encode_image(patch[None]) for patch in patches])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)


def test_mean_color_by_hand():
    patch = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    patch[0, 0] = 255
    patch[0, 1, 0] = 255
    expected = np.array([0.5, 0.0, -0.5, -0.1, 0.4, -0.1])
    expected /= np.linalg.norm(expected)
    np.testing.assert_allclose(MeanColor().encode_image(patch)[0], expected, atol=1e-6)


@pytest.mark.parametrize("height, width, high", [(8, 8, 256), (12, 9, 20), (16, 24, 6), (64, 64, 10)])
@pytest.mark.parametrize("gray", [False, True])
def test_residual_statistics_equal_the_loop(height, width, high, gray):
    """With few gray levels, residuals of exactly half a step are common: they round to level zero."""
    patch = noise(1, height, width, high=high)
    if gray:
        patch = patch[:, :1].repeat(1, 3, 1, 1)
    got = ResidualStatistics().encode_image(patch)[0]
    np.testing.assert_allclose(got, loop_residual_statistics(patch[0].numpy()), atol=1e-6)


def test_a_small_patch_repeats_its_border():
    patch = noise(1, 3, 5)
    padded = np.pad(patch[0].numpy(), ((0, 0), (0, 5), (0, 5)), mode="edge")
    got = ResidualStatistics().encode_image(patch)[0]
    np.testing.assert_allclose(got, loop_residual_statistics(padded), atol=1e-6)


def test_residual_statistics_separate_sharp_from_smooth_and_ignore_brightness():
    rng = np.random.default_rng(0)
    sharp = torch.from_numpy(rng.integers(60, 160, (4, 3, 64, 64), dtype=np.uint8))
    smooth = torch.nn.functional.avg_pool2d(sharp.float(), 5, 1, 2).byte()
    a, brighter, b = (ResidualStatistics().encode_image(patches) for patches in (sharp, sharp + 40, smooth))
    torch.testing.assert_close(a, brighter, atol=1e-6, rtol=0)
    assert (a @ a.T).min() > (a @ b.T).max() + 0.2
