"""A space that pictures and tags share: what pixels tell about tags of cameras that training never saw.

A model's two towers learn whole sentences, which name cameras; what they say of an unseen camera is weak. But the same
image embeddings tell much about single tags: sensitivity, exposure, what software wrote the file, which tags a maker
writes at all. A canonical correlation analysis with a ridge on either side (Hotelling 1936; Vinod 1976) between a
training photo's image embedding and a vector of its tags finds those directions in closed form.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

#: Directions, and the ridge of either side in units of its mean variance. Chosen on cameras outside the training set.
DIRECTIONS, RIDGE = 20, 3.0
#: Tags whose value is also used as a number, by its logarithm: neighbors of a value are like it.
NUMBERS = (
    "PhotographicSensitivity",
    "ExposureTime",
    "FNumber",
    "FocalLength",
    "FocalLengthIn35mmFilm",
    "PixelXDimension",
    "PixelYDimension",
    "MaxApertureValue",
    "CompressedBitsPerPixel",
    "XResolution",
    "DigitalZoomRatio",
    "FocalPlaneXResolution",
)
_FARTHEST = 3.0  # deviations: one absurd number must not outweigh all other tags


@dataclass(frozen=True)
class TagVector:
    """Tags → a vector: which tags there are, which of them have which common value, and the `NUMBERS`.

    Attributes:
        values: {tag: its common values}.
        numbers: {tag: mean and deviation of the binary logarithm of its value}.
    """

    values: Mapping[str, Sequence[str]]
    numbers: Mapping[str, Sequence[float]]

    @classmethod
    def of(cls, values: Mapping[str, Sequence[str]], photos: Sequence[Mapping[str, str]]) -> TagVector:
        """For `values`, and the numbers in the tags of `photos`."""
        numbers = {}
        for tag in NUMBERS:
            found = [number for tags in photos if (number := logarithm(tags.get(tag, ""))) is not None]
            if found and np.ptp(found) > 0:
                numbers[tag] = [float(np.mean(found)), float(np.std(found))]
        return cls(values, numbers)

    def __call__(self, photos: Sequence[Mapping[str, str]]) -> np.ndarray:
        """The vectors of n photos' tags: float32 [n, F]. A number that is missing is the mean."""
        column = {word: i for i, word in enumerate(self._words())}
        vectors = np.zeros((len(photos), len(column) + len(self.numbers)), np.float32)
        for row, tags in zip(vectors, photos, strict=True):
            for word in ((tag, value) for tag, found in tags.items() for value in ("", found)):
                if word in column:
                    row[column[word]] = 1
            for i, (tag, (mean, deviation)) in enumerate(self.numbers.items(), len(column)):
                if (number := logarithm(tags.get(tag, ""))) is not None:
                    row[i] = np.clip((number - mean) / deviation, -_FARTHEST, _FARTHEST)
        return vectors

    def _words(self) -> list[tuple[str, str]]:
        return [(tag, value) for tag, values in self.values.items() for value in ("", *values)]


@dataclass(frozen=True, eq=False)
class TagSpace:
    """The common space of K directions.

    Attributes:
        vector: makes vectors of tags.
        image: float32 [D + 1, K], affine map of image embeddings; the last row is added.
        tags: float32 [F + 1, K], that of the vectors.
    """

    vector: TagVector
    image: np.ndarray
    tags: np.ndarray

    def place_images(self, image: np.ndarray) -> np.ndarray:
        """Where pictures lie: [..., D] -> [..., K], unit norm. The product with tags' places is the fit, a cosine."""
        return _unit(image @ self.image[:-1] + self.image[-1])

    def place_tags(self, photos: Sequence[Mapping[str, str]]) -> np.ndarray:
        """Where the tags of n photos lie: [n, K], unit norm."""
        return _unit(self.vector(photos) @ self.tags[:-1] + self.tags[-1])

    def check(self, dim: int) -> None:
        """Raises `ValueError` unless the maps are whole and take image embeddings of `dim` numbers."""
        numbers = len(self.vector.numbers) + sum(1 + len(values) for values in self.vector.values.values())
        if self.image.shape[0] != dim + 1 or self.tags.shape != (numbers + 1, self.image.shape[1]):
            raise ValueError("the maps of images and tags do not belong together")
        if not (np.isfinite(self.image).all() and np.isfinite(self.tags).all()):
            raise ValueError("the maps contain NaN or infinity")


def fit_tag_space(
    image: np.ndarray, photos: Sequence[Mapping[str, str]], cameras: Sequence[str], values: Mapping[str, Sequence[str]]
) -> TagSpace:
    """The space of n photos: their image embeddings [n, D], their tags and cameras, and the common `values` of tags."""
    vector = TagVector.of(values, photos)
    return TagSpace(vector, *correlate(image, vector(photos), cameras))


def correlate(
    image: np.ndarray,
    vectors: np.ndarray,
    cameras: Sequence[str],
    directions: int = DIRECTIONS,
    ridge: tuple[float, float] = (RIDGE, RIDGE),
) -> tuple[np.ndarray, np.ndarray]:
    """The affine maps of both sides of n photos: [n, D] and [n, F] -> [D + 1, K] and [F + 1, K].

    A camera weighs as the square root of its number of photos, so that the commonest does not decide. A direction is
    scaled by the square root of its correlation, on either side.
    """
    count = Counter(cameras)
    weight = np.array([count[camera] ** -0.5 for camera in cameras])
    weight /= weight.sum()
    means, whiten, white = [], [], []
    for side, strength in zip((image, vectors), ridge, strict=True):
        mean = weight @ side.astype(np.float64)
        centered = (side - mean) * np.sqrt(weight)[:, None]
        means.append(mean)
        whiten.append(_whitening(centered.T @ centered, strength))
        white.append(centered @ whiten[-1])
    left, correlation, right = np.linalg.svd(white[0].T @ white[1], full_matrices=False)
    scale = np.sqrt(correlation[:directions])
    maps = []
    for mean, matrix, turn in zip(means, whiten, (left, right.T), strict=True):
        linear = matrix @ turn[:, :directions] * scale
        maps.append(np.vstack([linear, -mean @ linear]).astype(np.float32))
    return maps[0], maps[1]


def _whitening(covariance: np.ndarray, ridge: float) -> np.ndarray:
    """The inverse square root of a covariance with a ridge: [D, D] -> [D, D]."""
    values, vectors = np.linalg.eigh(covariance)
    strength = max(ridge * float(values.mean()), 1e-12)
    return vectors / np.sqrt(np.clip(values, 0, None) + strength) @ vectors.T


def logarithm(text: str) -> float | None:
    """The binary logarithm of a canonical value as `1/125` or `3200`; None if it is no number above 0."""
    try:
        above, _, below = text.partition("/")
        number = float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        return None
    return float(np.log2(number)) if 0 < number < 2**64 else None


def _unit(places: np.ndarray) -> np.ndarray:
    return places / np.maximum(np.linalg.norm(places, axis=-1, keepdims=True), 1e-12)
