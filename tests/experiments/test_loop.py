"""The localizer matches plain loops over windows, pairs and rows, and a training step matches a plain one."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from hypothesis import given, settings
from hypothesis import strategies as st

from exiflang.localization.clustering import MeanShiftMode, NormalizedCut
from exiflang.localization.consistency import cell_consistency, principal_components
from exiflang.localization.windows import embed_windows
from exiflang.models.config import ExifLangConfig
from exiflang.models.model import ExifLang
from exiflang.models.tokenizer import train_tokenizer
from exiflang.training.config import TrainConfig
from exiflang.training.step import TrainStep
from experiments.speed import loop


class PixelEncoder:
    """Embeds a window as its centered pixels, unit norm."""

    def encode_image(self, patches):
        return F.normalize(patches.float().flatten(1) - 127.5, dim=1)


def unit(rows: int, cols: int, dim: int = 5, seed: int = 0) -> np.ndarray:
    found = np.random.default_rng(seed).standard_normal((rows, cols, dim)).astype(np.float32)
    return found / np.linalg.norm(found, axis=2, keepdims=True)


@pytest.mark.parametrize(("height", "width", "window", "stride"), [(40, 61, 8, 4), (9, 9, 9, 1), (17, 30, 5, 7)])
def test_embeddings(height, width, window, stride):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    expected = loop.embed(PixelEncoder(), image, window, stride)
    np.testing.assert_allclose(embed_windows(PixelEncoder(), image, window, stride), expected, rtol=0, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 4), st.integers(0, 99))
def test_votes(rows, cols, spread, seed):
    embeddings = unit(rows, cols, seed=seed)
    found, expected = cell_consistency(embeddings, spread), loop.vote_pairs(embeddings, spread)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_mean_shift_if_the_order_of_rows_does_not_matter():
    """Two groups, and a radius between their distances: a row's neighbors are its own group, wherever others moved."""
    inside = np.zeros((4, 5), bool)
    inside[1:3, 1:3] = True
    dissimilarity = np.where(inside[:, :, None, None] != inside, 0.9, 0.1)
    dissimilarity += np.random.default_rng(0).uniform(0, 0.01, dissimilarity.shape)
    percentile = 100 * (16**2 + 4**2) / 20**2  # pairs of rows of one group
    found = MeanShiftMode(percentile).fit_predict(dissimilarity)
    expected = loop.mean_shift(dissimilarity, percentile)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert (expected[inside] > 0.5).all() and (expected[~inside] < 0.5).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 6), st.integers(2, 6), st.integers(0, 99))
def test_the_cut_matches_spectral_clustering(rows, cols, seed):
    """Two origins, the second of which covers less than half: with equal halves either could be the smaller one."""
    rng = np.random.default_rng(seed)
    embeddings = unit(rows, cols, seed=seed) * 0.3
    embeddings[..., 0] += 1
    embeddings[np.divmod(rng.permutation(rows * cols)[: (rows * cols - 1) // 2], cols)] += (-0.4, 0.9, 0, 0, 0)
    embeddings /= np.linalg.norm(embeddings, axis=2, keepdims=True)
    dissimilarity = cell_consistency(embeddings, 1)
    np.testing.assert_array_equal(NormalizedCut().fit_predict(dissimilarity), loop.cut(dissimilarity))


def test_the_cut_finds_the_spliced_block():
    embeddings = np.zeros((6, 7, 2), np.float32)
    embeddings[..., 0] = 1
    embeddings[2:4, 2:5] = (0.6, 0.8)
    np.testing.assert_array_equal(loop.cut(loop.vote_pairs(embeddings, 1)), embeddings[..., 1] > 0)


@pytest.mark.parametrize("spread", [1, 3])
def test_components(spread):
    embeddings = unit(5, 6)
    clipped = np.clip(loop.components(embeddings, spread) / 6 + 0.5, 0, 1)
    np.testing.assert_allclose(principal_components(embeddings, spread), clipped, rtol=0, atol=1e-5)


def test_training_step():
    """All sentences differ, and there are enough for two buckets; each step starts from the weights of the last."""
    sentences = [f"Make: {'Canon ' * (number % 5)}, Number: {number}" for number in range(40)]
    tokenizer = train_tokenizer(sentences, 300)
    config = ExifLangConfig.preset("tiny")
    config.text_config = config.text_config | {"vocab_size": len(tokenizer)}
    patches = torch.randint(256, (40, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    AcceleratorState._reset_state()  # else the precision is that of an earlier training in this process
    found, losses = [], []
    for plain in (True, False):
        torch.manual_seed(0)
        model = ExifLang(config, tokenizer).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, foreach=False, fused=not plain)
        back_propagate = TrainStep(model, model, Accelerator(cpu=True, mixed_precision="no"), TrainConfig())

        def step(model=model, optimizer=optimizer, back_propagate=back_propagate) -> float:
            optimizer.zero_grad()
            loss, _ = back_propagate(patches.unsqueeze(1), sentences)
            optimizer.step()
            return loss.item()

        losses.append([loop.training_step(model, optimizer, patches, sentences) if plain else step() for _ in range(3)])
        found.append(model.state_dict())
    np.testing.assert_allclose(*losses, rtol=1e-4)
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-4)
