"""Shards too many to index up front, local or at a URL → an endless, resumable stream of patches and sentences.

Reader r of n (one worker of a process) gets every n-th shard of a pass, in that pass's order, and mixes the photos of a
few shards at a time. Its position is three numbers, so a run can resume in the middle of a pass.
"""

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from exiflang.data.patches import TAG_STREAM, check_drawing, decode_tile, decode_views, draw_tags, sentence_of
from exiflang.data.shard_urls import fetch_shard, shard_sizes
from exiflang.data.shards import DataError, Photo, TileLocation, index_photos, warn_of_reencoding
from exiflang.exif.text import TagVocabulary
from exiflang.utils.storage import absolute_place

BLOCK = 4  # shards mixed at a time, as neighbors in a shard are often from one camera; as many copies are on disk
ENOUGH = 100  # shards without any photo before reading stops; a few may well have none
TRIES = 20  # broken tiles of a photo before it is skipped
SENTENCE_PHOTOS, SENTENCE_SHARDS = 10_000, 100  # to train a tokenizer on
SHARDS, PHOTOS = 0x5A4D, 0xF070  # separate the random numbers of orders from those of crops
State = tuple[int, int, int]  # of a reader: pass, block, photos of the block already processed
TrainingPair = tuple[Tensor, str]
Tagged = tuple[TrainingPair, int, State, Counter[str]]
START: State = (0, 0, 0)


class StreamDataset(IterableDataset):
    """An endless stream of random patches of photos with their EXIF sentences: items `(uint8 [3, P, P], str)`.

    A pass yields each photo of each shard once, in a new order; a photo whose tiles are in two shards counts as two. An
    item depends only on `(seed, pass, shard, photo)`. Unusable data is left out and counted: shards that cannot be
    read, damaged parts of shards, and tiles that are broken or smaller than a patch.

    Args:
        shards: paths or URLs, e.g. `expand_shards(text)`. Those at URLs are copied to a temporary
            folder, a few at a time.
        patch_size, seed, views, tag_dropout, shuffle_tags, vocabulary: as for `PatchDataset`.

    Raises:
        ValueError: a number out of range.
        DataError: no shards; on reading, fewer shards than readers, or a reader's entire pass without a photo.
    """

    def __init__(
        self,
        shards: Sequence[str | Path],
        patch_size: int,
        seed: int = 0,
        *,
        views: int = 1,
        tag_dropout: float = 0.0,
        shuffle_tags: bool = False,
        vocabulary: TagVocabulary | None = None,
    ):
        check_drawing(patch_size, views, tag_dropout)
        if not shards:
            raise DataError("no shards to stream: see expand_shards")
        self.shards = [absolute_place(shard) for shard in shards]
        self.patch_size, self.seed = patch_size, seed
        self.views, self.tag_dropout, self.shuffle_tags = views, tag_dropout, shuffle_tags
        self.vocabulary = vocabulary

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the shards' names and sizes and the drawing options; independent of the folder."""
        names = [shard.rpartition("/")[2] for shard in self.shards]
        shards = list(zip(names, shard_sizes(self.shards), strict=True))
        drawn: list[Any] = [self.patch_size, self.seed, self.views, float(self.tag_dropout), bool(self.shuffle_tags)]
        if self.vocabulary:
            drawn.append(self.vocabulary.tags)
        return hashlib.sha256(json.dumps(["stream", shards, drawn]).encode()).hexdigest()

    @cached_property
    def sentences(self) -> list[str]:
        """Complete sentences of the first 10,000 photos, to train a tokenizer. Raises `DataError` if there are none."""
        found: list[str] = []
        left_out: Counter[str] = Counter()
        for number in range(min(len(self.shards), SENTENCE_SHARDS)):
            with tempfile.TemporaryDirectory(prefix="exiflang-") as folder:
                photos = self._index([number], Path(folder), left_out, look=not found)
            found += [sentence for _, _, sentence in photos]
            if len(found) >= SENTENCE_PHOTOS:
                break
        if not found:
            raise self._nothing(left_out)
        return found[:SENTENCE_PHOTOS]

    @property
    def summary(self) -> str:
        """A description for display."""
        first = self.sentences
        return f"{len(self.shards)} shards, streamed; {len(set(first))} different sentences in the first {len(first)}"

    def __iter__(self) -> Iterator[TrainingPair]:
        """Items of this process, from the start; its `DataLoader` workers divide the shards among themselves."""
        worker = get_worker_info()
        number, readers = (worker.id, worker.num_workers) if worker else (0, 1)
        return (item for item, _, _ in self.read(number, readers, START))

    def check_readers(self, readers: int) -> None:
        """Raises `DataError` if some of the readers would have no shard."""
        if readers > len(self.shards):
            raise DataError(
                f"{len(self.shards)} shards for {readers} readers (processes times workers), starting with "
                f"{self.shards[0]}: lower workers or processes, or prepare smaller shards (photos_per_shard)"
            )

    def read(self, number: int, readers: int, state: State) -> Iterator[tuple[TrainingPair, State, Counter[str]]]:
        """The output of reader `number` after `state`: items, each with the next state and newly left-out counts."""
        self.check_readers(readers)
        first_pass, first_block, behind = state
        barren = 0  # shards since the last item
        left_out: Counter[str] = Counter()
        for turn in count(first_pass):
            mine = self._rng(turn, SHARDS).permutation(len(self.shards))[number::readers].tolist()
            for block in range(first_block, -(-len(mine) // BLOCK)):
                shards = mine[block * BLOCK : (block + 1) * BLOCK]
                with tempfile.TemporaryDirectory(prefix="exiflang-") as folder:
                    photos = self._index(shards, Path(folder), left_out)
                    if behind:  # the block's counts were reported before the state was reached
                        left_out.clear()
                    order = self._rng(turn, shards[0], PHOTOS).permutation(len(photos)).tolist()
                    for position in range(behind, len(photos)):
                        key, photo, sentence = photos[order[position]]
                        patches = self._patches(photo, self._rng(turn, *key), left_out)
                        if patches is None:
                            continue
                        words = draw_tags(
                            sentence, self._rng(turn, *key, TAG_STREAM), self.tag_dropout, self.shuffle_tags
                        )
                        barren = -len(shards)
                        yield (patches, words), (turn, block, position + 1), left_out
                        left_out = Counter()
                behind = 0
                barren += len(shards)
                if barren >= max(len(mine), min(len(self.shards), ENOUGH)):
                    raise self._nothing(left_out)
            first_block = 0

    def _rng(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *key])

    def _index(
        self, numbers: Sequence[int], folder: Path, left_out: Counter[str], look: bool = False
    ) -> list[tuple[tuple[int, int], Photo, str]]:
        """Photos of these shards: (shard, number in it), tiles, sentence. Other EXIF is dropped."""
        found = []
        for number in numbers:
            try:
                (folder / str(number)).mkdir()
                shard = fetch_shard(self.shards[number], folder / str(number))
                photos, unusable = index_photos([shard], damaged="skip")
            except DataError:
                left_out[f"shard that cannot be read: {self.shards[number]}"] += 1
                continue
            if look:
                warn_of_reencoding([shard])
            left_out.update({reason: len(names) for reason, names in unusable.items()})
            found += [
                ((number, i), replace(photo, tags={}), sentence_of(photo, self.vocabulary))
                for i, photo in enumerate(photos)
            ]
        return found

    def _patches(self, photo: Photo, rng: np.random.Generator, left_out: Counter[str]) -> Tensor | None:
        """Views of the usable tiles, with each unusable one tried once; None if too many are unusable."""

        def decode(photo: Photo, location: TileLocation) -> np.ndarray:
            try:
                pixels = decode_tile(photo, location)
            except DataError as error:
                raise _Unusable(location, "broken tile") from error
            if min(pixels.shape[:2]) < self.patch_size:
                raise _Unusable(location, "tile smaller than a patch")
            return pixels

        tiles = list(photo.tiles)
        for _ in range(min(len(tiles), TRIES)):
            try:
                patches = decode_views(replace(photo, tiles=tiles), self.patch_size, self.views, rng, decode)
                return patches if self.views > 1 else patches[0]
            except _Unusable as error:
                location, reason = error.args
                left_out[reason] += 1
                tiles.remove(location)
        return None

    def _nothing(self, left_out: Counter[str]) -> DataError:
        reasons = (
            "; ".join(f"{number} times {reason}" for reason, number in left_out.most_common(5)) or "no tile at all"
        )
        return DataError(
            f"{self.shards[0]} and the shards read with it: no usable photo ({reasons}): img2dataset writes "
            "EXIF with extract_exif=True; a tile must be at least as large as a patch"
        )


class _Unusable(Exception):
    """A tile's location, and the reason it is unusable."""


class StreamLoader:
    """Batches of a `StreamDataset` for one of several processes, in an order that a saved state resumes exactly.

    Iterating yields `collate`'s batches on `device` without end, and continues where the last iteration stopped.
    `left_out` counts what this process's readers have left out so far, by reason.

    Args:
        collate: list of items → batch.
        workers: reader processes, each with its own shards; 0: the current process.
        process_index, processes: index and number of the processes, none of which read the same shard in a pass.

    Raises `DataError` if there are fewer shards than readers, `processes * max(1, workers)`.
    """

    def __init__(
        self,
        dataset: StreamDataset,
        batch_size: int,
        collate: Callable[[Sequence[TrainingPair]], tuple[Tensor, list[str]]],
        *,
        workers: int = 0,
        process_index: int = 0,
        processes: int = 1,
        device: torch.device | str = "cpu",
    ):
        self.dataset, self.batch_size, self.collate, self.workers = dataset, batch_size, collate, workers
        self.process_index, self.processes, self.device = process_index, processes, torch.device(device)
        self.left_out: Counter[str] = Counter()
        self._states = [START] * max(1, workers)
        self._batches = 0
        dataset.check_readers(processes * len(self._states))

    def __iter__(self) -> Iterator[tuple[Tensor, list[str]]]:
        readers = _Readers(self)
        batches = DataLoader(
            readers,
            batch_size=self.batch_size,
            collate_fn=partial(_tagged, self.collate),
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # separate: a resumed run must not consume random numbers of dropout
        )
        for found in batches:
            if isinstance(found, DataError):
                raise found
            (patches, sentences), reader, state, left_out = found
            self._states[reader] = tuple(state)
            self._batches += 1
            self.left_out.update(left_out)
            yield patches.to(self.device, non_blocking=True), sentences

    def state_dict(self) -> dict[str, Any]:
        """The position of each reader after the batches yielded so far, as JSON-compatible data."""
        return {
            **self._identity(),
            "batches": self._batches,
            "readers": [list(state) for state in self._states],
            "left_out": dict(self.left_out),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a saved state. Raises `DataError` if shards, processes or workers have changed since."""
        for name, mine in self._identity().items():
            if state[name] != mine:
                advice = "resume with the same shards and as many processes and workers, or start in an empty folder"
                raise DataError(f"the stream's saved state has {name} {state[name]!r}, now it is {mine!r}: {advice}")
        self._states = [tuple(reader) for reader in state["readers"]]
        self._batches, self.left_out = state["batches"], Counter(state["left_out"])

    def _identity(self) -> dict[str, Any]:
        return {
            "shards": self.dataset.fingerprint,
            "processes": self.processes,
            "process": self.process_index,
            "workers": len(self._states),
        }


class _Readers(IterableDataset):
    """A loader's items, each with its reader in this process, the state after it, and what was newly left out.

    A final error is the last item: raised in a worker, it would reach the user as a traceback.
    """

    def __init__(self, loader: StreamLoader):
        self.dataset, self.states, self.batches = loader.dataset, list(loader._states), loader._batches
        self.first, self.readers = loader.process_index * len(self.states), loader.processes * len(self.states)

    def __iter__(self) -> Iterator[Tagged | DataError]:
        worker = get_worker_info()
        # A loader asks worker 0 first, even if it resumes at the turn of a different reader.
        reader = ((worker.id if worker else 0) + self.batches) % len(self.states)
        try:
            for item, state, left_out in self.dataset.read(self.first + reader, self.readers, self.states[reader]):
                yield item, reader, state, left_out
        except DataError as error:
            yield error


def _tagged(
    collate: Callable[[Sequence[TrainingPair]], Any], items: Sequence[Tagged | DataError]
) -> tuple[Any, int, State, dict[str, int]] | DataError:
    """A batch, its reader, the state after it, and what was left out meanwhile; or the error that ended the stream."""
    if isinstance(items[-1], DataError):
        return items[-1]
    tagged = [item for item in items if not isinstance(item, DataError)]  # all of them: an error comes last
    left_out = sum((lost for *_, lost in tagged), Counter())
    _, reader, state, _ = tagged[-1]
    return collate([item for item, *_ in tagged]), reader, state, dict(left_out)
