"""Augmentations that recipes of towers try: more kinds of processing histories, and each photo twice in a batch."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from exiflang.data.augmentation import Augmentation

#: Pixels between a view and the codec's grid: a period of 4:2:0.
ROOM = 16
KERNELS = {
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
    "Lanczos": cv2.INTER_LANCZOS4,
}
CODECS = ("JPEG", "JPEG 4:4:4", "WebP", "AVIF")
#: Sentences with all words that `Histories` adds, for a tokenizer.
WORDS = [f"Saved: {codec} 0123456789" for codec in CODECS] + [f"Resized: 0.1 {kernel}" for kernel in KERNELS]

Step = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class History:
    """What happened to a photo after the camera: its steps before and after rescaling, and the words that tell them."""

    factor: float
    kernel: int
    before: Sequence[Step]
    after: Sequence[Step]
    words: Sequence[str]

    def __call__(self, source: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
        """A random square of a view uint8 [S, S, 3] with this history: uint8 [side, side, 3]."""
        region = -(-side * 100 // round(100 * self.factor))
        top, left = rng.integers(len(source) - region + 1, size=2)
        picture = np.ascontiguousarray(source[top : top + region, left : left + region])
        for step in self.before:
            picture = step(picture)
        if self.factor != 1:
            picture = cv2.resize(picture, (side, side), interpolation=self.kernel)
        for step in self.after:
            picture = step(picture)
        return picture


def drawn(rng: np.random.Generator, smallest: float) -> History:
    """A random history: two saves, a rescaling and a filter, each of them or not."""
    before, after, words = list[Step](), list[Step](), list[str]()
    if rng.random() < 0.3:
        before.append(_saved("JPEG", rng, words))
    factor, kernel = 1.0, rng.choice(list(KERNELS))
    if rng.random() < 0.5:
        factor = round(rng.uniform(smallest, 1.5), 2)
        words.append(f"Resized: {factor:.2f} {kernel}")
    if rng.random() < 0.4:
        name = rng.choice(list(FILTERS))
        strength = round(rng.uniform(), 1)
        after.append(partial(FILTERS[name], strength=strength, seed=int(rng.integers(2**31))))
        words.append(f"Filtered: {name} {strength}")
    if rng.random() < 0.75:
        after.append(_saved(rng.choice(CODECS, p=(0.6, 0.2, 0.1, 0.1)), rng, words))
    return History(factor, KERNELS[kernel], before, after, words)


def _saved(codec: str, rng: np.random.Generator, words: list[str]) -> Step:
    quality = int(rng.integers(60, 98, endpoint=True))
    words.append(f"Saved: {codec} {quality}")
    name, _, fine = codec.partition(" ")
    options: dict[str, Any] = {"JPEG": {"subsampling": 0 if fine else 2}, "AVIF": {"speed": 10}}.get(name, {})
    return partial(_through_file, format=name, quality=quality, **options)


def _through_file(picture: np.ndarray, **options: Any) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, **options)
    return np.asarray(Image.open(file).convert("RGB"))


def _blur(picture: np.ndarray, strength: float, seed: int) -> np.ndarray:
    return cv2.GaussianBlur(picture, (0, 0), 0.4 + 0.8 * strength)


def _sharpen(picture: np.ndarray, strength: float, seed: int) -> np.ndarray:
    share = 0.3 + 1.2 * strength
    return cv2.addWeighted(picture, 1 + share, cv2.GaussianBlur(picture, (0, 0), 1.0), -share, 0)


def _contrast(picture: np.ndarray, strength: float, seed: int) -> np.ndarray:
    """A curve by a power of 0.6 to 1.6."""
    table = 255 * np.linspace(0, 1, 256) ** (0.6 + strength)
    return cv2.LUT(picture, np.round(table).astype(np.uint8))


def _denoise(picture: np.ndarray, strength: float, seed: int) -> np.ndarray:
    return cv2.bilateralFilter(picture, 5, 10 + 30 * strength, 2)


def _noise(picture: np.ndarray, strength: float, seed: int) -> np.ndarray:
    grain = np.random.default_rng(seed).normal(0, 1 + 4 * strength, picture.shape)
    return np.clip(picture + grain, 0, 255).round().astype(np.uint8)


FILTERS: dict[str, Callable[..., np.ndarray]] = {
    "blur": _blur, "sharpen": _sharpen, "contrast": _contrast, "denoise": _denoise, "noise": _noise
}  # fmt: skip
WORDS += [f"Filtered: {name} 0.5" for name in FILTERS]


@dataclass(frozen=True)
class Histories:
    """Like `Augmentation`, with more kinds of histories: see `drawn`. All views of a photo share theirs.

    Args:
        cropping: cuts the patches and makes the common JPEG; its own processing must be off.
        probability: of a history at all.
        smallest: smallest factor of rescaling.
    """

    cropping: Augmentation
    probability: float = 0.7
    smallest: float = 0.5

    @property
    def source_size(self) -> int:
        """Side of the source views in pixels."""
        return -(-self._side * 100 // round(100 * self.smallest))

    @property
    def _side(self) -> int:
        return self.cropping.source_size + ROOM

    def __call__(
        self, patches: Tensor, sentences: Sequence[str], seed: Sequence[int], process: int = 0
    ) -> tuple[Tensor, list[str]]:
        """As of `Augmentation`: uint8 [B, V, 3, S, S] -> uint8 [B, V, 3, P, P]."""
        rng = np.random.default_rng([*seed, process, 1])
        photos, told = [], []
        for views, sentence in zip(patches.permute(0, 1, 3, 4, 2).numpy(), sentences, strict=True):
            history = drawn(rng, self.smallest) if rng.random() < self.probability else History(1.0, 0, (), (), ())
            photos.append(np.stack([history(view, self._side, rng) for view in views]))
            told.append(", ".join([sentence, *history.words]))
        pixels = torch.from_numpy(np.stack(photos)).permute(0, 1, 4, 2, 3).contiguous()
        return self.cropping(pixels, told, seed, process)


@dataclass(frozen=True)
class Twins:
    """The first half of a batch twice, each time with a history of its own.

    A photo's two copies show the same scene of the same camera, and only what happened to them tells them apart.
    """

    processing: Augmentation | Histories

    @property
    def source_size(self) -> int:
        """Side of the source views in pixels."""
        return self.processing.source_size

    def __call__(
        self, patches: Tensor, sentences: Sequence[str], seed: Sequence[int], process: int = 0
    ) -> tuple[Tensor, list[str]]:
        """As of `Augmentation`, for an even number of photos."""
        half = len(patches) // 2
        return self.processing(patches[:half].repeat(2, 1, 1, 1, 1), [*sentences[:half]] * 2, seed, process)
