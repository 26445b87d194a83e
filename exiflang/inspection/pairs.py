"""How similar the embeddings of two authentic photos are, of one camera and of two: what a cosine is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils import cached_file

from exiflang.utils.files import read_json, write_json

FILE = "pairs.json"


@dataclass(frozen=True)
class PairRanks:
    """Percentiles 1 to 99 of the cosines of pairs of authentic photos.

    Attributes:
        same, different: of pairs of the same camera model, and of two different ones.
        photos, cameras: number of photos and of models.
    """

    same: Sequence[float]
    different: Sequence[float]
    photos: int
    cameras: int

    def below(self, cosine: float) -> dict[str, Any]:
        """Fractions of pairs with a lower cosine, "same" and "different", with the numbers of photos and cameras."""
        shares = {kind: float(np.mean(np.array(getattr(self, kind)) < cosine)) for kind in ("same", "different")}
        return {**shares, "photos": self.photos, "cameras": self.cameras}

    def save(self, folder: str | Path) -> None:
        """Write `pairs.json` to a model's folder, atomically."""
        write_json(Path(folder) / FILE, asdict(self))

    @classmethod
    def of_model(cls, name: str | Path) -> PairRanks | None:
        """Those in a model's folder or at its hub id; None if it has none. Raises `ValueError` for a damaged file."""
        path = cached_file(str(name), FILE, _raise_exceptions_for_missing_entries=False)
        if path is None:
            return None
        try:
            known = cls(**read_json(path))
            known.below(0.0)
            return known
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: damaged ({error}): download the model again, or delete the file") from error


def pair_ranks(embeddings: np.ndarray, cameras: Sequence[str]) -> PairRanks:
    """Percentiles of the cosines of n authentic photos, [n, D], unit norm, by their cameras' names.

    The embeddings must be those of whole pictures, see `picture_embedding`: the mean over more windows has a higher
    cosine with any other. Raises `ValueError` without a pair of each kind.
    """
    row, col = np.triu_indices(len(cameras), 1)
    cosines = (embeddings @ embeddings.T)[row, col]
    names = np.array(cameras)
    same = names[row] == names[col]
    if not same.any() or same.all():
        raise ValueError("give two photos of one camera, and photos of a different camera")
    shares = np.arange(1, 100) / 100
    own, other = (np.quantile(part, shares).round(4).tolist() for part in (cosines[same], cosines[~same]))
    return PairRanks(own, other, len(cameras), len(set(cameras)))
