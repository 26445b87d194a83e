"""Batch augmentation with a photo's processing after the camera: rescaling, JPEG, and the matching sentences."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from exiflang.data.jpeg import jpeg, rescale

_GRID = 16  # the period of a 4:2:0 JPEG in pixels
_FACTORS = 3  # different factors in one batch: each takes one call


@dataclass(frozen=True)
class Plan:
    """What an `Augmentation` does to one batch of B photos with V views each."""

    size: int  # side of the patches
    percents: np.ndarray  # int [B], each photo's factor in percent; 100: not rescaled
    qualities: np.ndarray  # int [B], each photo's recompression quality; 0: not recompressed
    positions: np.ndarray  # float [B, V, 2] in 0..1, top and left of each view in its source
    offsets: np.ndarray  # int [B, V, 2] in 0..15, rows and columns between each view and its photo's JPEG grid
    common_quality: int  # of the final JPEG of the whole batch; 0: none
    common_offset: np.ndarray  # int [2] in 0..15, between all patches and the grid of that final JPEG


@dataclass(frozen=True)
class Augmentation:
    """Gives the photos of a batch a processing history and records it in their sentences: `..., Resized: 0.75`.

    A photo is rescaled, then recompressed, then cropped: all its views share that, but not their position on the JPEG
    grid. Finally, the whole batch may get one JPEG of a single quality. The sentences do not mention it, because it is
    shared by all photos and distinguishes none. Both JPEGs are 4:2:0 with IJG tables. Three factors are drawn per
    batch, one quality per photo. With the defaults, sources of 256 pixels are large enough.

    Args:
        sizes: sides of the patches in pixels; one is drawn per batch.
        processing_probability: probability that a photo is processed.
        resize, recompress: probability of each for a processed photo; possibly neither is applied.
        resize_range: minimum and maximum factor; factors are drawn in steps of 0.01, without 1.
        quality_range: minimum and maximum quality of recompression.
        common_jpeg: probability that the batch gets a final JPEG.
        common_quality_range: minimum and maximum quality of the final JPEG.

    Raises:
        ValueError: sizes below 1, probabilities outside 0..1, or ranges that are empty or out of bounds.
    """

    sizes: Sequence[int] = (64, 96)
    processing_probability: float = 0.5
    resize: float = 0.5
    recompress: float = 0.75
    resize_range: Sequence[float] = (0.5, 1.5)
    quality_range: Sequence[int] = (60, 98)
    common_jpeg: float = 0.5
    common_quality_range: Sequence[int] = (70, 98)

    def __post_init__(self) -> None:
        if not self.sizes or not all(isinstance(size, int) and size > 0 for size in self.sizes):
            raise ValueError(f"sizes are {self.sizes!r}: give at least one whole number above 0")
        for name in ("processing_probability", "resize", "recompress", "common_jpeg"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)!r}: it must be a probability in 0..1")
        low, high = self.resize_range
        if not 0.01 <= low <= high < math.inf:
            raise ValueError(
                f"resize_range is {self.resize_range!r}: give the minimum factor, at least 0.01, and the maximum"
            )
        for name in ("quality_range", "common_quality_range"):
            low, high = getattr(self, name)
            if not (isinstance(low, int) and isinstance(high, int) and 1 <= low <= high <= 100):
                raise ValueError(f"{name} is {(low, high)!r}: give the minimum and the maximum whole number in 1..100")
        if self._resizes and not len(self._percents):
            raise ValueError(f"resize_range {self.resize_range!r} has no factor but 1: widen it, or set resize to 0")

    @property
    def _resizes(self) -> bool:
        return self.processing_probability > 0 and self.resize > 0

    @property
    def _percents(self) -> np.ndarray:
        low, high = self.resize_range
        percents = np.arange(math.ceil(100 * low - 1e-9), math.floor(100 * high + 1e-9) + 1)
        return percents[percents != 100]

    @property
    def source_size(self) -> int:
        """Side in pixels of the source pictures for a call: enough for the largest patch at the smallest factor."""
        size = _framed(max(self.sizes)) if self.common_jpeg else max(self.sizes)
        if self._resizes or self.processing_probability * self.recompress > 0:
            percent = min(100, self._percents.min()) if self._resizes else 100
            return max(size, _region(_framed(size), percent))
        return size

    def __call__(
        self, patches: Tensor, sentences: Sequence[str], seed: int | Sequence[int], process: int = 0
    ) -> tuple[Tensor, list[str]]:
        """Process a batch; the draws depend only on `seed`, `process`, B and V, on any device.

        Args:
            patches: uint8 [B, 3, S, S], or [B, V, 3, S, S] with V views of each photo; S at least `source_size`.
            sentences: B of them; "" stands for none.
            seed: e.g. (seed of the run, step); determines what all photos of the batch share: the size of the patches,
                the common JPEG, and the three factors.
            process: index among processes whose batches are one another's negatives; they share the draws above.

        Returns:
            uint8 [B, 3, P, P] or [B, V, 3, P, P] on the same device, P one of `sizes`, and the B sentences. An
            unprocessed photo is a crop of its source, apart from the common JPEG, and keeps its sentence.

        Raises:
            ValueError: patches of the wrong dtype, shape or size, or the wrong number of sentences.
        """
        self._check(patches, sentences)
        views = patches.shape[1] if patches.ndim == 5 else 1
        plan = self.plan(len(patches), views, seed, process)
        frames = _processed(patches.flatten(0, -4), plan)  # [B, V, 3, S, S] -> [B V, 3, F, F]
        if plan.common_quality:
            top, left = plan.common_offset
            frames = jpeg(frames, plan.common_quality)[..., top : top + plan.size, left : left + plan.size]
        told = [_tell(*item) for item in zip(sentences, plan.percents, plan.qualities, strict=True)]
        return frames.reshape(*patches.shape[:-2], plan.size, plan.size), told

    def _check(self, patches: Tensor, sentences: Sequence[str]) -> None:
        if patches.dtype != torch.uint8 or patches.ndim not in (4, 5) or patches.shape[-3] != 3:
            what = f"{patches.dtype} {list(patches.shape)}"
            raise ValueError(f"patches must be uint8 [B, 3, S, S] or [B, V, 3, S, S], not {what}")
        height, width = patches.shape[-2:]
        if height != width or height < self.source_size:
            raise ValueError(
                f"patches are {width} x {height} pixels, but sizes {tuple(self.sizes)} with this augmentation need "
                f"squares of {self.source_size} or more: have the data set deliver source_size, or choose smaller sizes"
            )
        if isinstance(sentences, str) or len(sentences) != len(patches):
            raise ValueError(f"{len(sentences)} sentences for {len(patches)} photos: give a list with one per photo")

    def plan(self, photos: int, views: int, seed: int | Sequence[int], process: int = 0) -> Plan:
        """Draw the processing of a batch of `photos` with `views` each, as a call with these arguments does."""
        rng = np.random.default_rng(seed)
        size = int(rng.choice(self.sizes))
        common, common_offset = rng.random() < self.common_jpeg, rng.integers(_GRID, size=2)
        common_quality = int(_draw(rng, self.common_quality_range))
        factors = rng.choice(self._percents, _FACTORS) if self._resizes else np.array([100])
        rng = np.random.default_rng(np.append(seed, process))  # from here on, draws are per photo
        touched = rng.random(photos) < self.processing_probability
        resized = touched & (rng.random(photos) < self.resize)
        recompressed = touched & (rng.random(photos) < self.recompress)
        return Plan(
            size=size,
            percents=np.where(resized, rng.choice(factors, photos), 100),
            qualities=np.where(recompressed, _draw(rng, self.quality_range, photos), 0),
            positions=rng.random((photos, views, 2)),
            offsets=rng.integers(_GRID, size=(photos, views, 2)),
            common_quality=common_quality if common else 0,
            common_offset=common_offset,
        )


def _draw(rng: np.random.Generator, bounds: Sequence[int], count: int | None = None) -> Any:
    return rng.integers(bounds[0], bounds[1], size=count, endpoint=True)


def _framed(side: int) -> int:
    """Side, in whole coding units, of a frame that holds a square of `side` at any position on the grid."""
    return -(-(side + _GRID - 1) // _GRID) * _GRID


def _region(side: int, percent: int) -> int:
    """Source pixels per side that a rescaled picture of `side` pixels needs."""
    return -(-side * 100 // int(percent))


def _tell(sentence: str, percent: int, quality: int) -> str:
    parts = [sentence] if sentence else []
    parts += [f"Resized: {percent / 100:.2f}"] if percent != 100 else []
    parts += [f"Recompressed: {quality}"] if quality else []
    return ", ".join(parts)


def _processed(sources: Tensor, plan: Plan) -> Tensor:
    """Views uint8 [N, 3, S, S] -> [N, 3, F, F], F the side of the patch, or of the frame for a common JPEG."""
    views = plan.positions.shape[1]
    percents, qualities = (np.repeat(values, views) for values in (plan.percents, plan.qualities))  # [B] -> [N]
    positions, offsets = plan.positions.reshape(-1, 2), plan.offsets.reshape(-1, 2)  # [B, V, 2] -> [N, 2]
    side = _framed(plan.size) if plan.common_quality else plan.size
    frames = _cut(sources, np.arange(len(sources)), _corners(positions, sources.shape[-1] - side), side)
    touched = (percents != 100) | (qualities > 0)
    frame = _framed(side)
    for percent in np.unique(percents[touched]):
        group = np.flatnonzero(touched & (percents == percent))
        region = _region(frame, percent)
        pictures = _cut(sources, group, _corners(positions[group], sources.shape[-1] - region), region)
        if percent != 100:
            pictures = rescale(pictures, percent / 100)[..., :frame, :frame]
        saved = np.flatnonzero(qualities[group])
        if len(saved):
            chosen = torch.from_numpy(saved).to(pictures.device)
            pictures[chosen] = jpeg(pictures[chosen], torch.from_numpy(qualities[group[saved]]))
        chosen = torch.from_numpy(group).to(frames.device)
        frames[chosen] = _cut(pictures, np.arange(len(group)), offsets[group], side)
    return frames


def _corners(positions: np.ndarray, room: int) -> np.ndarray:
    """Positions float [N, 2] in 0..1 -> corners int [N, 2] in 0..room."""
    return (positions * (room + 1)).astype(np.int64)


def _cut(pictures: Tensor, which: np.ndarray, corners: np.ndarray, side: int) -> Tensor:
    """Squares of the chosen pictures, each at its own corner: [M, 3, S, S] -> [N, 3, side, side]."""
    top, left = torch.from_numpy(corners).to(pictures.device).T  # [N, 2] -> 2 x [N]
    windows = pictures.unfold(2, side, 1).unfold(3, side, 1)  # [M, 3, rows, columns, side, side], a view
    return windows[torch.from_numpy(which).to(pictures.device), :, top, left]
