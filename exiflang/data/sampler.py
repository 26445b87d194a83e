"""Which photos a batch is made of: cameras balanced, and batches of one make as hard negatives."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from exiflang.data.shards import Photo, plain_name


class CameraSampler(Sampler[int]):
    """The photos of an epoch, as indices, batch after batch: a `sampler` for `DataLoader`, with its `drop_last=True`.

    An epoch has as many draws as there are photos. With `balance` 0 each photo is drawn once. Otherwise each camera has
    its share of the draws, and its photos take turns in them: none is drawn again before all others of the camera were,
    and its repeats stand far apart; of a camera with more photos than draws, some wait for another epoch.

    A batch of one make is filled from a make drawn in proportion to its draws that are left, with each photo once. A
    make with fewer photos than that is topped up with photos of a second make drawn likewise, then of a third.

    Draws depend on `(seed, epoch)` alone. Names of cameras that differ by case, spaces or punctuation are one.

    Args:
        photos: of the data set, in its order, e.g. `PatchDataset.photos`.
        batch_size: draws that make a batch. With several processes whose batches are one another's negatives give that
            of all of them together: Accelerate deals consecutive batches to its processes.
        balance: 0..1; a camera with c photos is drawn in proportion to c^(1 - balance): 0 as often as it has photos, 1
            as often as any other camera.
        same_make: 0..1, share of the whole batches that are of one make. The remainder of the photos that fills no
            batch stands last in the epoch.
        seed: decides all draws.

    Raises:
        ValueError: no photos, or a number out of its range.
    """

    def __init__(
        self, photos: Sequence[Photo], batch_size: int, balance: float = 0.0, same_make: float = 0.0, seed: int = 0
    ):
        if not len(photos):
            raise ValueError("no photos to draw from: give those of a data set, e.g. PatchDataset.photos")
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size is {batch_size!r}: it must be a whole number of at least 1")
        for name, share in (("balance", balance), ("same_make", same_make)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} is {share}: it must lie between 0 and 1")
        self.batch_size, self.balance, self.same_make, self.seed, self.epoch = batch_size, balance, same_make, seed, 0
        self._of_camera = _groups(plain_name(photo.camera) for photo in photos)
        self._of_make = _groups(plain_name(photo.make) for photo in photos)
        self._length = len(photos)

    def set_epoch(self, epoch: int) -> None:
        """Draw another order from now on."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch, 0xCA3E4A])
        left = self._draws(rng)
        whole = len(self) // self.batch_size
        totals = np.array([left[members].sum() for members in self._of_make])  # [M]
        batches = [self._batch_of_one_make(left, totals, rng) for _ in range(round(self.same_make * whole))]
        mixed = _spread(left, rng)
        rest = len(self) % self.batch_size
        batches += np.split(mixed[: len(mixed) - rest], whole - len(batches)) if whole > len(batches) else []
        for batch in rng.permutation(whole):
            yield from batches[batch].tolist()
        yield from mixed[len(mixed) - rest :].tolist()

    def _draws(self, rng: np.random.Generator) -> np.ndarray:
        """How often each of the N photos is drawn: int [N], their sum N."""
        shares = np.array([len(members) for members in self._of_camera]) ** (1.0 - self.balance)  # [C]
        expected = shares.cumsum() * (len(self) / shares.sum())
        # Whole numbers whose sum is N, each less than 1 from what is expected; rounded, or floats would miss a draw.
        edges = np.floor(expected.round(6) + rng.integers(10**6) / 10**6)
        draws = np.zeros(len(self), int)
        for members, number in zip(self._of_camera, np.diff(edges, prepend=0).astype(int), strict=True):
            draws[members], more = divmod(number, len(members))
            draws[rng.choice(members, more, replace=False)] += 1
        return draws

    def _batch_of_one_make(self, left: np.ndarray, totals: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A batch out of the draws that are `left`, `totals` of each make, which are taken from there: int [B]."""
        batch: list[int] = []
        waiting = totals.copy()
        while room := self.batch_size - len(batch):
            if not waiting.any():  # every make has given each of its photos once
                waiting = totals.copy()
            make = rng.choice(len(waiting), p=waiting / waiting.sum())
            members = self._of_make[make]
            weights = left[members]
            number = min(room, int(np.count_nonzero(weights)))
            taken = rng.choice(members, number, replace=False, p=weights / weights.sum())
            left[taken] -= 1
            totals[make] -= number
            waiting[make] = 0
            batch.extend(taken)
        return np.array(batch)


def _groups(names: Iterable[str]) -> list[np.ndarray]:
    """The indices of each distinct name, in order of first appearance."""
    groups: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        groups.setdefault(name, []).append(index)
    return [np.array(members) for members in groups.values()]


def _spread(draws: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each photo as often as it is drawn, in random order, but the repeats of a photo equally far apart."""
    photos = np.repeat(np.arange(len(draws)), draws)  # [N] -> [D]
    turn = np.arange(len(photos)) - np.repeat(draws.cumsum() - draws, draws)  # 0, 1 ... of each photo
    time = (turn + rng.random(len(draws))[photos]) / draws[photos]
    return photos[np.argsort(time, kind="stable")]
