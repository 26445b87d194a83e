"""Kinds of processing histories, and each photo twice in a batch."""

import numpy as np
import pytest
import torch

from exiflang.data.augmentation import Augmentation
from experiments.histories import CODECS, FILTERS, KERNELS, WORDS, Histories, Twins, drawn

CROPPING = Augmentation((32,), 0.0, common_jpeg=0.0)
SENTENCES = ["Make: Canon", "Make: NIKON", "ISO: 100", "FNumber: 4"]


def views(photos: int = 4, side: int = 160) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (photos, 2, 3, side, side), dtype=np.uint8))


def test_draws_depend_on_seed_and_process_alone():
    augmentation = Histories(CROPPING, probability=1.0)
    assert augmentation.source_size <= 160
    first, told = augmentation(views(), SENTENCES, (0, 1))
    again, told_again = augmentation(views(), SENTENCES, (0, 1))
    assert first.shape == (4, 2, 3, 32, 32) and first.dtype == torch.uint8
    assert torch.equal(first, again) and told == told_again
    for seed, process in (((0, 2), 0), ((0, 1), 1)):
        assert augmentation(views(), SENTENCES, seed, process)[1] != told


def test_without_a_history_a_view_is_a_crop():
    sources = views()
    found, told = Histories(CROPPING, probability=0.0)(sources, SENTENCES, (0,))
    assert told == SENTENCES
    for photo, crops in zip(sources, found, strict=True):
        for source, crop in zip(photo, crops, strict=True):
            windows = source.unfold(1, 32, 1).unfold(2, 32, 1)  # [3, 129, 129, 32, 32]
            assert (windows == crop[:, None, None]).flatten(3).all(3).all(0).any()


def test_every_kind_of_step_is_drawn_and_told():
    rng = np.random.default_rng(0)
    words = ", ".join(word for _ in range(400) for word in drawn(rng, 0.5).words)
    for kind in (*CODECS, *KERNELS, *FILTERS):
        assert f" {kind}" in words and any(f" {kind}" in known for known in WORDS)


def test_two_saves_follow_each_other():
    rng = np.random.default_rng(0)
    histories = [drawn(rng, 0.5) for _ in range(100)]
    twice = [history for history in histories if len(history.words) > 1 and history.before]
    assert twice and all(history.words[0].startswith("Saved: JPEG ") for history in twice)


@pytest.mark.parametrize("seed", range(20))
def test_a_history_keeps_size_and_range(seed):
    rng = np.random.default_rng(seed)
    history = drawn(rng, 0.5)
    for source in (views()[0, 0].permute(1, 2, 0).numpy(), np.full((160, 160, 3), 255, np.uint8)):
        found = history(source, 48, rng)
        assert found.shape == (48, 48, 3) and found.dtype == np.uint8


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_a_filter_changes_a_picture(name, strength):
    picture = np.random.default_rng(0).normal(120, 8, (40, 40, 3)).round().astype(np.uint8)
    found = FILTERS[name](picture, strength=strength, seed=0)
    assert found.shape == picture.shape and found.dtype == np.uint8 and (found != picture).mean() > 0.1


@pytest.mark.parametrize("name", sorted(FILTERS.keys() - {"contrast", "noise"}))
def test_a_filter_leaves_one_color_as_it_is(name):
    flat = np.full((20, 20, 3), 90, np.uint8)
    assert (FILTERS[name](flat, strength=0.5, seed=0) == flat).all()


def test_twins_share_a_photo_but_not_its_history():
    found, told = Twins(Histories(CROPPING, probability=1.0))(views(), SENTENCES, (0,))
    assert found.shape == (4, 2, 3, 32, 32)
    assert [sentence.split(", ")[0] for sentence in told] == SENTENCES[:2] * 2
    assert told[0] != told[2] and told[1] != told[3]


def test_twins_without_processing_are_one_photo_with_one_sentence():
    same = torch.full((4, 2, 3, 64, 64), 7, dtype=torch.uint8) * torch.arange(1, 5, dtype=torch.uint8).view(
        4, 1, 1, 1, 1
    )
    found, told = Twins(CROPPING)(same, SENTENCES, (0,))
    assert told == SENTENCES[:2] * 2
    assert found[:, 0, 0, 0, 0].tolist() == [7, 14, 7, 14]
