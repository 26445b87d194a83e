"""Draws of an epoch: every photo once by default, cameras by their share, makes together; and Accelerate's loaders."""

from collections import Counter

import numpy as np
import pytest
from accelerate import Accelerator, DataLoaderConfiguration, skip_first_batches
from accelerate.data_loader import BatchSamplerShard
from accelerate.state import AcceleratorState
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, DataLoader, Dataset

from exiflang.data.sampler import CameraSampler
from exiflang.data.shards import Photo


def photos_of(*cameras: tuple[str, str, int]) -> list[Photo]:
    """(make, model, number of photos) of each camera."""
    return [
        Photo(f"{make} {model} {i}", {"Make": make, "Model": model}, [])
        for make, model, number in cameras
        for i in range(number)
    ]


def whole_batches(sampler: CameraSampler) -> list[list[int]]:
    return list(BatchSampler(sampler, sampler.batch_size, drop_last=True))


MANY = photos_of(*[(f"make {m}", f"model {c}", 1 + 7 * m + 3 * c) for m in range(6) for c in range(4)])
TWENTY = photos_of(("A", "1", 20), ("B", "1", 20), ("C", "1", 20))


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(1, 12)), min_size=1, max_size=8),
    st.integers(1, 20),
    st.floats(0, 1),
    st.floats(0, 1),
    st.integers(0, 2**63),
)
def test_an_epoch_has_as_many_draws_as_photos(cameras, batch_size, balance, same_make, seed):
    photos = photos_of(*[(f"make {make}", f"model {model}", number) for make, model, number in cameras])
    sampler = CameraSampler(photos, batch_size, balance, same_make, seed)
    drawn = list(sampler)
    assert len(sampler) == len(drawn) == len(photos) and all(type(index) is int for index in drawn)
    assert set(drawn) <= set(range(len(photos)))
    if balance == 0:
        assert sorted(drawn) == list(range(len(photos)))


@settings(max_examples=60)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.floats(0, 1), st.floats(0, 1), st.integers(0, 99))
def test_cameras_are_drawn_by_share_and_their_photos_in_turn(counts, balance, same_make, seed):
    """Oracle: each camera's expected draws, one by one, rounded up or down."""
    photos = photos_of(*[(f"make {i % 3}", f"model {i}", number) for i, number in enumerate(counts)])
    sampler = CameraSampler(photos, 8, balance, same_make, seed)
    drawn = Counter(sampler)
    first = 0
    for number in counts:
        expected = len(photos) * number ** (1 - balance) / sum(other ** (1 - balance) for other in counts)
        each = [drawn[index] for index in range(first, first + number)]
        assert abs(sum(each) - expected) < 1 + 1e-5
        assert max(each) - min(each) <= 1
        first += number


def test_shares_are_right_on_average():
    photos = photos_of(("A", "1", 50), ("B", "1", 5), ("C", "1", 2))
    sampler = CameraSampler(photos, 8, balance=0.5)
    counts = np.zeros(3)
    for epoch in range(300):
        sampler.set_epoch(epoch)
        counts += np.bincount([(index >= 50) + (index >= 55) for index in sampler], minlength=3)
    expected = 57 * np.sqrt([50, 5, 2]) / np.sqrt([50, 5, 2]).sum()
    np.testing.assert_allclose(counts / 300, expected, atol=0.1)


def test_every_photo_of_a_large_camera_gets_its_turn():
    sampler = CameraSampler(photos_of(("A", "1", 90), ("B", "1", 5), ("C", "1", 5)), 8, balance=1)
    seen = set()
    for epoch in range(20):
        sampler.set_epoch(epoch)
        seen |= set(sampler)
    assert seen == set(range(100))


def test_repeats_are_evenly_spaced():
    """A camera with 2 of 62 photos gets half of the draws: each photo is drawn 15 or 16 times, evenly spaced."""
    sampler = CameraSampler(photos_of(("A", "1", 60), ("B", "1", 2)), 1000, balance=1)
    drawn = np.array(list(sampler))
    for photo in (60, 61):
        places = np.flatnonzero(drawn == photo)
        assert len(places) >= 15 and 1 <= np.diff(places).min() and np.diff(places).max() <= 10


def test_a_batch_repeats_no_photo_before_all_are_used():
    for balance, same_make in ((0.5, 0.0), (0.5, 0.5), (0.3, 1.0)):
        batches = whole_batches(CameraSampler(MANY, 16, balance, same_make))
        assert sum(len(batch) - len(set(batch)) for batch in batches) <= 2


def test_order_depends_only_on_seed_and_epoch():
    def sampler(seed=0):
        return CameraSampler(MANY, 16, 0.5, 0.5, seed)

    one, two = sampler(), sampler()
    first = list(one)
    assert first == list(one) == list(two) != list(sampler(seed=1))
    one.set_epoch(1)
    assert list(one) != first
    one.set_epoch(0)
    assert list(one) == first


# --------------------------------------------- batches of one make ---------------------------------------------
@pytest.mark.parametrize("share", [0, 0.25, 0.5, 1])
def test_same_make_is_the_share_of_batches_of_one_make(share):
    sampler = CameraSampler(TWENTY, 5, same_make=share)
    for epoch in range(5):
        sampler.set_epoch(epoch)
        one = sum(len({index // 20 for index in batch}) == 1 for batch in whole_batches(sampler))
        assert share * 12 <= one <= share * 12 + (2 if share < 1 else 0)  # a mixed batch may be of one make by chance


def test_batches_of_one_make_are_spread_over_the_epoch():
    sampler = CameraSampler(TWENTY, 5, same_make=0.5)
    places = Counter()
    for epoch in range(40):
        sampler.set_epoch(epoch)
        places.update(n for n, batch in enumerate(whole_batches(sampler)) if len({i // 20 for i in batch}) == 1)
    assert min(places[n] for n in range(12)) >= 8


def test_a_batch_of_a_small_make_is_filled_up_from_one_large_make():
    photos = photos_of(("A", "1", 3), ("B", "1", 40), ("C", "1", 40), ("D", "1", 3), ("E", "1", 2))
    makes = [photo.make for photo in photos]
    small = Counter()
    for epoch in range(60):
        sampler = CameraSampler(photos, 8, same_make=0.2, seed=epoch)  # two of eleven batches
        for batch in whole_batches(sampler):
            count = Counter(makes[index] for index in batch)
            if len(count) == 2 and count["A"] == 3:
                small.update(count.keys() - {"A"})
    assert set(small) == {"B", "C"}


def test_spelling_of_makes_and_cameras_does_not_matter():
    photos = photos_of(("SONY", "A 1", 10), ("Sony", "A-1", 10), ("sony", "a1", 10), ("Canon", "1", 30))
    of_sony = {frozenset(i < 30 for i in batch) for batch in whole_batches(CameraSampler(photos, 10, same_make=1))}
    assert of_sony == {frozenset([True]), frozenset([False])}
    drawn = Counter(i < 30 for i in CameraSampler(photos, 10, balance=1))
    assert drawn[True] == drawn[False] == 30


def test_photos_without_a_make():
    photos = [Photo(str(i), {"Flash": "8"}, []) for i in range(7)]
    assert sorted(CameraSampler(photos, 3, 0.5, 1.0)) == list(range(7))


@pytest.mark.parametrize("batch_size", [1, 5, 6, 100])
def test_extreme_batch_sizes(batch_size):
    assert sorted(CameraSampler(photos_of(("A", "1", 5)), batch_size, 1, 1)) == list(range(5))
    assert list(CameraSampler(photos_of(("A", "1", 1)), batch_size, 1, 1)) == [0]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"photos": []}, "no photos to draw from"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 2.5}, "batch_size is 2.5"),
        ({"balance": -0.1}, "balance is -0.1"),
        ({"balance": float("nan")}, "balance is nan"),
        ({"same_make": 1.1}, "same_make is 1.1"),
    ],
    ids=str,
)
def test_what_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        CameraSampler(**{"photos": MANY, "batch_size": 4} | wrong)


# --------------------------------------------- with Accelerate ---------------------------------------------
class Indices(Dataset):
    def __len__(self):
        return len(MANY)

    def __getitem__(self, index):
        return index


@pytest.fixture
def accelerator():
    AcceleratorState._reset_state(reset_partial_state=True)
    configuration = DataLoaderConfiguration(dispatch_batches=False, use_seedable_sampler=True, data_seed=0)
    yield Accelerator(cpu=True, dataloader_config=configuration)
    AcceleratorState._reset_state(reset_partial_state=True)


def test_a_prepared_loader_tracks_epochs_and_resumes_within_one(accelerator):
    sampler, oracle = CameraSampler(MANY, 16, 0.5, 0.5), CameraSampler(MANY, 16, 0.5, 0.5)
    loader = accelerator.prepare(DataLoader(Indices(), batch_size=16, sampler=sampler, drop_last=True))
    assert len(loader) == len(MANY) // 16
    for epoch in (0, 3, 1):
        loader.set_epoch(epoch)
        oracle.set_epoch(epoch)
        expected = whole_batches(oracle)
        for skipped in (5, 0):
            batches = skip_first_batches(loader, skipped) if skipped else loader
            assert [batch.tolist() for batch in batches] == expected[skipped:]
            loader.set_epoch(epoch)  # a loader that is exhausted advances its epoch by one


def test_two_processes_share_a_batch_of_one_make():
    """How Accelerate splits batches of 8 draws between two processes of 4."""
    photos = photos_of(("A", "1", 64), ("B", "1", 64))
    sampler = CameraSampler(photos, 8, same_make=1)
    shards = [BatchSamplerShard(BatchSampler(sampler, 4, True), 2, process) for process in (0, 1)]
    steps = list(zip(*shards, strict=True))
    assert [[*one, *two] for one, two in steps] == whole_batches(sampler)
    assert all(len({index // 64 for index in one + two}) == 1 for one, two in steps)
