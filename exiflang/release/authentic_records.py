"""A learned readout's values on authentic pictures of each kind: the calibration of its decisions."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from exiflang.data.composites import resized
from exiflang.localization.decision import KINDS, LARGE, Calibration, Record, picture_kind
from exiflang.localization.evidence import read_history
from exiflang.localization.learned_readout import LEARNED
from exiflang.localization.localizer import SpliceLocalizer
from exiflang.localization.result import Observation
from exiflang.simulation.composites import cut, encode_picture
from exiflang.utils.images import load_image

#: JPEG quality range of each kind: the lowest, and one above the highest.
QUALITIES = {"fine JPEG": (88, 100), "coarse JPEG": (55, 86)}


def authentic_calibration(
    localizer: SpliceLocalizer, photos: Iterable[tuple[str, np.ndarray, Path | None]]
) -> Calibration:
    """A learned readout's values on authentic photos, each once in each of `KINDS`.

    Every second photo's file counts, unchanged, in its own kind. Half of the other pictures are cropped from the photo,
    on its grid, and half from a version as shown on the web, downscaled and compressed. A photo that is too small for a
    kind is skipped there.

    photos: (camera, uint8 [H, W, 3], its file, if it has one); they are used for neither training nor scoring.

    Raises `ValueError` for a localizer without a learned readout.
    """
    if localizer.learned is None:
        raise ValueError("the localizer has no learned readout to calibrate: train one first")
    records: dict[str, list[Record]] = {kind: [] for kind in KINDS}

    def record(kind: str, camera: str, seen: Observation) -> None:
        records[kind].append(Record(camera, localizer.values(seen, LEARNED)[1]))

    for number, (camera, photo, file) in enumerate(tqdm(photos, unit=" photos")):
        own = None
        if file and number % 2 == 0:
            seen = localizer.observe(photo, read_history(file), calibrated=True)
            own = picture_kind(seen.height, seen.width, seen.evidence)
            record(own, camera, seen)
        for place, kind in enumerate(KINDS):
            data = None if kind == own else picture_of_kind(photo, kind, np.random.default_rng([0xAC, number, place]))
            if data:
                record(kind, camera, localizer.observe(load_image(data), read_history(data), calibrated=True))
    return Calibration(records)


def picture_of_kind(photo: np.ndarray, kind: str, rng: np.random.Generator) -> bytes | None:
    """The file of a picture of `kind` made from an authentic photo; None if the photo is too small."""
    size, file = kind.split(", ")
    if rng.random() < 0.5:
        least = np.sqrt(1.05 * LARGE / photo[..., 0].size) if size == "large" else 0.25
        photo = resized(photo, rng.uniform(min(least, 1), 1))
        photo = load_image(encode_picture(photo, f"jpeg{rng.integers(60, 99)}"))
    longer = 1024 if size == "large" else int(rng.integers(320, 640))
    width, height = min(longer, photo.shape[1]), min(longer * 3 // 4, photo.shape[0])
    if photo.shape[0] > photo.shape[1]:
        width, height = min(longer * 3 // 4, photo.shape[1]), min(longer, photo.shape[0])
    if (height * width >= LARGE) != (size == "large"):
        return None
    picture, _ = cut(photo, (width, height), True, rng)
    return encode_picture(picture, "png" if file == "no JPEG" else f"jpeg{rng.integers(*QUALITIES[file])}")
