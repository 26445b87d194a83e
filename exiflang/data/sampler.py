"""The photos of each batch: balanced cameras, and batches of one make as hard negatives."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from exiflang.data.shards import Photo, plain_name


class CameraSampler(Sampler[int]):
    """The photo indices of an epoch, batch after batch: a `sampler` for a `DataLoader` with `drop_last=True`.

    An epoch has as many draws as there are photos. With `balance` 0, each photo is drawn once. Otherwise each camera
    gets a share of the draws, and its photos take turns: none repeats before all others of the camera have been drawn,
    and repeats are far apart; if a camera has more photos than draws, some wait for a later epoch.

    A same-make batch is filled from one make, drawn in proportion to its remaining draws, with each photo once. If the
    make has too few photos, photos of a second make drawn the same way are added, then of a third.

    Draws depend only on `(seed, epoch)`. Camera names that differ in case, spaces or punctuation are the same.

    Args:
        photos: of the data set, in its order, e.g. `PatchDataset.photos`.
        batch_size: draws per batch. With several processes whose batches are one another's negatives, give the size of
            all of them together: Accelerate deals consecutive batches to its processes.
        balance: 0..1; a camera with c photos is drawn in proportion to c^(1 - balance): 0 in proportion to its photos,
            1 as often as any other camera.
        same_make: 0..1, share of the full batches that hold a single make. The remaining photos, which do not fill a
            batch, come last in the epoch.
        seed: determines all draws.

    Raises:
        ValueError: no photos, or a number out of range.
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
        """Draw a different order from now on."""
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
        # Whole numbers that sum to N, each within 1 of its expectation; rounded, as float errors could lose a draw.
        edges = np.floor(expected.round(6) + rng.integers(10**6) / 10**6)
        draws = np.zeros(len(self), int)
        for members, number in zip(self._of_camera, np.diff(edges, prepend=0).astype(int), strict=True):
            draws[members], more = divmod(number, len(members))
            draws[rng.choice(members, more, replace=False)] += 1
        return draws

    def _batch_of_one_make(self, left: np.ndarray, totals: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A batch drawn from `left` (`totals` per make), both of which are reduced accordingly: int [B]."""
        batch: list[int] = []
        waiting = totals.copy()
        while room := self.batch_size - len(batch):
            if not waiting.any():  # every make has contributed each of its photos once
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
    """Each photo as often as it is drawn, in random order with the repeats of a photo evenly spaced."""
    photos = np.repeat(np.arange(len(draws)), draws)  # [N] -> [D]
    turn = np.arange(len(photos)) - np.repeat(draws.cumsum() - draws, draws)  # 0, 1 ... for each photo
    time = (turn + rng.random(len(draws))[photos]) / draws[photos]
    return photos[np.argsort(time, kind="stable")]
