"""Authentic pictures to calibrate released weights on: photos, simulated photos, and mosaics of held-out tiles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from exiflang.calibration import camera_mosaics
from exiflang.images import ImageError, load_image
from exiflang.shards import DataError, Photo, find_shards, read_photos
from exiflang.simulate import CAMERAS, FORMATS, Camera, make_authentic
from exiflang.sources import PICTURE_EXTENSIONS

#: Longer and shorter side in pixels. Raw values shift with the number and the size of windows: both sizes are needed.
LARGE, SMALL = (1024, 768), (384, 256)
MOST_PHOTOS, SIMULATED, PHOTO_MOSAICS = 100, 36, 24


@dataclass(frozen=True)
class _Source:
    """A picture before it is read, the sizes it will be given in, and what kind it counts as."""

    kind: str
    name: str
    read: Callable[[], np.ndarray]
    sizes: tuple[str, ...]


class AuthenticPictures:
    """A sized iterable of authentic pictures, uint8 [H, W, 3], cut from the middle of their source, never resampled.

    - "whole photos": up to `MOST_PHOTOS` of the files in the photo folders, as large as `LARGE` lets them;
    - "simulated photos": of `SIMULATED` different cameras, PNG, JPEG 95 and JPEG 85 in turn, of the size `LARGE`;
    - "mosaics of one camera": 3 x 4 held-out tiles each, as many as there are tiles for;
    - "mosaics of one photo": 1 x 2 held-out tiles each, of up to `PHOTO_MOSAICS` cameras, in the size `SMALL`.

    Every second picture of the first two kinds also comes in the size `SMALL`. The same arguments always give the same
    pictures. After an iteration `counts` holds how many there were, by (kind, "large" or "small"), and `left_out`
    the name of each photo that could not be used, with the reason. `len` counts those too.

    Args:
        photo_folders: folders of whole photos, searched through.
        heldout: folder of shards of photos that training did not see.
        seed: draws photos, cameras, scenes and tiles.

    Raises `DataError` for a folder that is missing or without photos, and for shards that cannot be used.
    """

    def __init__(self, photo_folders: Sequence[str | Path], heldout: str | Path, seed: int = 0):
        rng = np.random.default_rng([seed, 0xCA1])
        whole = _whole_photos(photo_folders, rng)
        tiled = read_photos(find_shards(heldout))[0]
        self._sources = [*whole, *_simulated(rng), *_camera_mosaics(tiled, seed), *_photo_mosaics(tiled, rng)]
        self.counts: Counter[tuple[str, str]] = Counter()
        self.left_out: list[tuple[str, str]] = []

    def __len__(self) -> int:
        return sum(len(source.sizes) for source in self._sources)

    def __iter__(self) -> Iterator[np.ndarray]:
        self.counts.clear()
        self.left_out.clear()
        for source in self._sources:
            try:
                picture = source.read()
            except ImageError as error:
                self.left_out.append((source.name, str(error)))
                continue
            for size in source.sizes:
                self.counts[source.kind, size] += 1
                yield middle(picture, *(LARGE if size == "large" else SMALL))


def middle(picture: np.ndarray, longer: int, shorter: int) -> np.ndarray:
    """The middle of [H, W, 3], at most `longer` x `shorter` pixels, lying or standing as the picture does."""
    height, width = picture.shape[:2]
    most = (shorter, longer) if width >= height else (longer, shorter)
    rows, cols = min(height, most[0]), min(width, most[1])
    top, left = (height - rows) // 2, (width - cols) // 2
    return picture[top : top + rows, left : left + cols]


def _sizes(number: int) -> tuple[str, ...]:
    return ("large",) if number % 2 else ("large", "small")


def _whole_photos(folders: Sequence[str | Path], rng: np.random.Generator) -> list[_Source]:
    named: list[tuple[Path, str]] = []
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; give folders of photos as cameras wrote them")
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURE_EXTENSIONS)
        if not files:
            raise DataError(f"{folder}: no photos in it ({', '.join(sorted(PICTURE_EXTENSIONS))})")
        named += [(path, f"{folder.name}/{path.relative_to(folder)}") for path in files]
    drawn = sorted(rng.permutation(len(named))[:MOST_PHOTOS])
    return [
        _Source("whole photos", named[i][1], partial(_read_photo, named[i][0]), _sizes(number))
        for number, i in enumerate(drawn)
    ]


def _read_photo(path: Path) -> np.ndarray:
    picture = load_image(path)
    height, width = picture.shape[:2]
    if min(height, width) < SMALL[1] or max(height, width) < SMALL[0]:
        raise ImageError(f"{path}: {width} x {height} pixels, less than {SMALL[0]} x {SMALL[1]}; leave it out")
    return picture


def _simulated(rng: np.random.Generator) -> list[_Source]:
    drawn = [CAMERAS[i] for i in rng.permutation(len(CAMERAS))[:SIMULATED]]
    return [
        _Source(
            "simulated photos",
            camera.name,
            partial(_render, camera, int(rng.integers(2**62)), FORMATS[number % len(FORMATS)]),
            _sizes(number // len(FORMATS)),  # each format in both sizes
        )
        for number, camera in enumerate(drawn)
    ]


def _render(camera: Camera, seed: int, fmt: str) -> np.ndarray:
    return load_image(make_authentic(camera, seed, LARGE, fmt).data)


def _camera_mosaics(photos: Sequence[Photo], seed: int, rows: int = 3, cols: int = 4) -> list[_Source]:
    tiles: Counter[str] = Counter()
    for photo in photos:
        tiles[photo.camera] += len(photo.tiles)
    if max(tiles.values()) < rows * cols:
        return []
    return [
        _Source("mosaics of one camera", "mosaic", partial(np.asarray, mosaic), ("large",))
        for mosaic in camera_mosaics(photos, rows, cols, seed)
    ]


def _photo_mosaics(photos: Sequence[Photo], rng: np.random.Generator) -> list[_Source]:
    pairs = [photo for photo in photos if len(photo.tiles) >= 2]
    one_a_camera = {pairs[i].camera: pairs[i] for i in rng.permutation(len(pairs))}
    return [
        _Source("mosaics of one photo", photo.id, partial(_pair, photo), ("small",))
        for photo in list(one_a_camera.values())[:PHOTO_MOSAICS]
    ]


def _pair(photo: Photo) -> np.ndarray:
    return next(camera_mosaics([photo], 1, 2))
