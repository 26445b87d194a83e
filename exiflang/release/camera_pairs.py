"""How similar two authentic photos of one camera are to the model, and two of different cameras."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from exiflang.inspection.metadata import picture_embedding
from exiflang.inspection.pairs import PairRanks, pair_ranks
from exiflang.localization.localizer import SpliceLocalizer


def photo_embeddings(
    localizer: SpliceLocalizer, photos: Iterable[tuple[str, np.ndarray, Path | None]]
) -> tuple[np.ndarray, list[str]]:
    """Embeddings of photo files, float32 [n, D], and their cameras; made pictures, which have no file, are left out.

    photos: (camera, uint8 [H, W, 3], its file), see `AuthenticPictures.by_camera`.
    """
    embeddings, cameras = [], []
    for camera, pixels, file in tqdm(photos, desc="pairs", unit=" photos"):
        if file:
            embeddings.append(picture_embedding(localizer.observe(pixels).embeddings))
            cameras.append(camera)
    return np.array(embeddings, np.float32), cameras


def camera_pairs(localizer: SpliceLocalizer, photos: Iterable[tuple[str, np.ndarray, Path | None]]) -> PairRanks | None:
    """The calibration of `exiflang compare`; None without two photos of one camera and photos of another."""
    embeddings, cameras = photo_embeddings(localizer, photos)
    if len(set(cameras)) < 2 or len(set(cameras)) == len(cameras):
        return None
    return pair_ranks(embeddings, cameras)
