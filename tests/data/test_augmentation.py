from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from exiflang.data.augmentation import Augmentation, Plan
from tests.data.test_jpeg import as_batch, as_picture, difference, natural, pillow_jpeg, pillow_rescale

NOTHING = {"processing_probability": 0.0, "common_jpeg": 0.0}
ALWAYS = {"processing_probability": 1.0, "resize": 1.0, "recompress": 1.0, "common_jpeg": 1.0}


# ------------------------------------------ a batch's processing history -----------------------------------------
def batch(photos: int, size: int, views: int = 1) -> tuple[torch.Tensor, list[str]]:
    pictures = as_batch(*(natural(size, size, seed) for seed in range(photos * views)))
    sentences = [f"Make: Maker {i}, Model: Camera, ISO: 100" for i in range(photos)]
    return pictures.unflatten(0, (photos, views)), sentences  # [B V, 3, S, S] -> [B, V, 3, S, S]


def appended(before: str, after: str) -> dict[str, str]:
    """What was appended to a sentence, parsed."""
    assert after.startswith(before)
    return dict(part.split(": ") for part in after[len(before) :].split(", ") if part)


def is_cut_of(patch: torch.Tensor, source: torch.Tensor) -> bool:
    side = patch.shape[-1]
    return bool((source.unfold(1, side, 1).unfold(2, side, 1) == patch[:, None, None]).all(-1).all(-1).all(0).any())


def by_pillow(source: np.ndarray, plan: Plan, photo: int, view: int) -> np.ndarray:
    """One view's patch, step by step on one picture: uint8 [S, S, 3] -> [P, P, 3]."""

    def frame_of(side: int) -> int:  # large enough for a patch at any offset of the 16-pixel grid
        return next(n for n in range(side + 15, side + 31) if n % 16 == 0)

    def cut(picture: np.ndarray, top: int, left: int, side: int) -> np.ndarray:
        return picture[top : top + side, left : left + side]

    side = frame_of(plan.size) if plan.common_quality else plan.size
    factor, quality = plan.percents[photo] / 100, plan.qualities[photo]
    if factor != 1 or quality:
        region = int(np.ceil(round(frame_of(side) / factor, 6)))
        top, left = (int(place * (len(source) - region + 1)) for place in plan.positions[photo, view])
        picture = cut(source, top, left, region)
        if factor != 1:
            picture = pillow_rescale(picture, factor, frame_of(side), frame_of(side))
        if quality:
            picture = pillow_jpeg(picture, int(quality))
        picture = cut(picture, *plan.offsets[photo, view], side)
    else:
        picture = cut(source, *(int(place * (len(source) - side + 1)) for place in plan.positions[photo, view]), side)
    if plan.common_quality:
        picture = cut(pillow_jpeg(picture, plan.common_quality), *plan.common_offset, plan.size)
    return picture


@pytest.mark.parametrize("common_jpeg", [0.0, 1.0])
def test_the_sentence_records_what_was_done(common_jpeg):
    process = Augmentation(sizes=(40, 32), processing_probability=0.8, common_jpeg=common_jpeg)
    patches, sentences = batch(12, process.source_size + 5, views=2)
    kinds, rescaled, unscaled = set(), [], []
    for seed in range(3):
        results, after = process(patches, sentences, (7, seed))
        plan = process.plan(12, 2, (7, seed))
        assert results.shape == (12, 2, 3, plan.size, plan.size) and results.dtype == torch.uint8
        for photo, (before, now) in enumerate(zip(sentences, after, strict=True)):
            history = appended(before, now)
            expected = {"Resized": f"{plan.percents[photo] / 100:.2f}", "Recompressed": str(plan.qualities[photo])}
            assert history == {key: value for key, value in expected.items() if value not in ("1.00", "0")}
            kinds.add(tuple(history))
            for view in range(2):
                oracle = by_pillow(as_picture(patches[photo, view]), plan, photo, view)
                off = difference(as_picture(results[photo, view]), oracle)
                (rescaled if "Resized" in history else unscaled).append(off.mean())
            if not history and not common_jpeg:
                assert all(map(is_cut_of, results[photo], patches[photo]))
    assert max(unscaled) < 0.01
    assert max(rescaled) < 1 and np.mean(rescaled) < 0.1  # one level off in rescaling may move a whole coefficient
    assert kinds == {(), ("Resized",), ("Recompressed",), ("Resized", "Recompressed")}


def test_without_processing_patches_are_plain_crops():
    process = Augmentation(sizes=(24, 24), **NOTHING)
    assert process.source_size == 24
    patches, sentences = batch(4, 30)
    results, after = process(patches[:, 0], sentences, 0)
    assert results.shape == (4, 3, 24, 24)
    assert after == sentences
    assert all(map(is_cut_of, results, patches[:, 0]))
    whole, _ = process(patches[:, 0, :, :24, :24], sentences, 0)
    assert torch.equal(whole, patches[:, 0, :, :24, :24])


def test_the_result_depends_only_on_the_seed():
    process = Augmentation(sizes=(24, 32))
    patches, sentences = batch(6, process.source_size)
    first, again = (process(patches, sentences, (1, 2)) for _ in range(2))
    assert torch.equal(first[0], again[0]) and first[1] == again[1]
    others = [process(patches, sentences, seed) for seed in [(1, 3), (2, 2), 5]]
    assert all(not torch.equal(first[0], pixels) and first[1] != words for pixels, words in others)


def test_processes_share_the_settings_of_a_batch():
    """Otherwise the last save, or the size of the patches, would reveal which process a patch comes from."""
    for seed in range(5):
        one, other = (Augmentation().plan(64, 2, (seed, 9), process) for process in (0, 1))
        assert (one.size, one.common_quality, *one.common_offset) == (
            other.size,
            other.common_quality,
            *other.common_offset,
        )
        assert {*one.percents} == {*other.percents}
        assert (one.positions != other.positions).all() and (one.qualities != other.qualities).any()


def test_grid_offsets_cover_all_values_and_factors_vary():
    plans = [Augmentation().plan(64, 2, seed) for seed in range(40)]
    assert {tuple(place) for plan in plans for place in plan.offsets.reshape(-1, 2)} == set(
        product(range(16), repeat=2)
    )
    assert {number for plan in plans for number in plan.common_offset} == set(range(16))
    assert any((plan.offsets[:, 0] != plan.offsets[:, 1]).any() for plan in plans)
    percents = np.concatenate([plan.percents for plan in plans])
    qualities = np.concatenate([plan.qualities for plan in plans])
    assert percents.min() >= 50 and percents.max() <= 150 and len(np.unique(percents)) > 40
    assert {*np.unique(qualities)} == {0, *range(60, 99)}
    assert np.mean((percents != 100) & (qualities > 0)) == pytest.approx(0.5 * 0.5 * 0.75, abs=0.03)
    assert np.mean((percents == 100) & (qualities == 0)) == pytest.approx(1 - 0.5 * (1 - 0.5 * 0.25), abs=0.03)
    assert {plan.size for plan in plans} == {64, 96}
    assert Augmentation().source_size == 256


@given(st.integers(1, 130), st.sampled_from([(0.29, 0.35), (0.5, 1.5), (1.1, 2.07)]), st.booleans())
@settings(max_examples=25)
def test_source_size_is_enough_for_any_factor(size, resize_range, common):
    process = Augmentation(sizes=(size,), **ALWAYS | {"common_jpeg": float(common)}, resize_range=resize_range)
    for seed in range(2):
        source = torch.zeros(1, 3, process.source_size, process.source_size, dtype=torch.uint8)
        assert process(source, [""], seed)[0].shape == (1, 3, size, size)


def test_empty_batches_and_sentences():
    for settings_, shape in product((NOTHING, ALWAYS), ((0, 3), (0, 2, 3))):
        process = Augmentation(sizes=(16,), **settings_)
        none, after = process(torch.zeros(*shape, 100, 100, dtype=torch.uint8), [], 0)
        assert none.shape == (*shape, 16, 16) and after == []
    _, after = process(torch.zeros(1, 3, 100, 100, dtype=torch.uint8), [""], 0)
    assert after[0].startswith("Resized: ") and ", Recompressed: " in after[0]


def test_unsuitable_patches_are_refused():
    process = Augmentation(sizes=(16, 32))
    good, sentences = batch(2, process.source_size)
    process(good, sentences, 0)
    with pytest.raises(ValueError, match=r"sizes \(16, 32\).* need squares of \d+"):
        process(good[..., 1:, 1:], sentences, 0)
    for wrong in (good.float(), good[:, :, :2], good[0, 0], good[..., 1:]):
        with pytest.raises(ValueError, match="patches"):
            process(wrong, sentences, 0)
    for wrong in (sentences[:1], "ab"):
        with pytest.raises(ValueError, match="sentences"):
            process(good, wrong, 0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"sizes": ()},
        {"sizes": (0,)},
        {"sizes": (64.0,)},
        {"processing_probability": 1.5},
        {"resize": -0.1},
        {"common_jpeg": np.nan},
    ]
    + [{"resize_range": bounds} for bounds in ((1.5, 0.5), (0.0, 1.0), (1.0, 1.0), (0.5, np.inf), (np.nan, 1.0))]
    + [{name: (60.5, 98)} for name in ("quality_range", "common_quality_range")]
    + [{"quality_range": (0, 98)}, {"quality_range": (60, 101)}, {"common_quality_range": (98, 70)}],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Augmentation(**wrong)
