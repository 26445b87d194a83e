"""Authentic pictures to calibrate released weights on: photos, simulated photos, and mosaics of held-out tiles."""

import csv
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from exiflang.data.mosaics import camera_mosaics
from exiflang.data.shards import DataError, Photo, find_shards, read_photos
from exiflang.exif.reader import read_exif
from exiflang.exif.tags import ExifError
from exiflang.simulation.cameras import CAMERAS, Camera
from exiflang.simulation.splices import FORMATS, make_authentic
from exiflang.utils.files import printable
from exiflang.utils.folders import only_pictures
from exiflang.utils.images import PICTURE_EXTENSIONS, ImageError, load_image

#: Longer and shorter side in pixels. Raw values depend on the number and size of windows, so both are needed.
LARGE, SMALL = (1024, 768), (384, 256)
MOST_PHOTOS, SIMULATED, PHOTO_MOSAICS = 100, 36, 24


@dataclass(frozen=True)
class _Source:
    """A picture before it is read, its kind, and the sizes it will come in."""

    kind: str
    name: str
    camera: str
    read: Callable[[], np.ndarray]
    sizes: tuple[str, ...]
    file: Path | None = None


class AuthenticPictures:
    """A sized iterable of authentic pictures, uint8 [H, W, 3], center crops of their sources, never resampled.

    - "whole photos": up to `MOST_PHOTOS` of the files in the photo folders, cropped to at most `LARGE`;
    - "simulated photos": of `SIMULATED` different cameras, PNG, JPEG 95 and JPEG 85 in turn, of the size `LARGE`;
    - "mosaics of one camera": 3 x 4 held-out tiles each, as many as there are tiles for;
    - "mosaics of one photo": 1 x 2 held-out tiles each, of up to `PHOTO_MOSAICS` cameras, in the size `SMALL`.

    Every second picture of the first two kinds also comes in the size `SMALL`. The same arguments always give the same
    pictures. After an iteration, `counts` holds the number of pictures by (kind, "large" or "small"), and `left_out`
    the name of each unusable photo with the reason. `len` includes unusable photos.

    Args:
        photo_folders: folders of whole photos, searched recursively, or CSV files that list photos: the columns `path`,
            relative to the file's folder, and `camera`. In folders, a photo's EXIF determines the camera.
        heldout: folder of shards of photos excluded from training; None: no mosaics.

    Raises `DataError` for a folder that is missing or without photos, and for shards that cannot be used.
    """

    def __init__(self, photo_folders: Sequence[str | Path], heldout: str | Path | None):
        rng = np.random.default_rng([0, 0xCA1])
        whole = _whole_photos(photo_folders, rng)
        tiled = read_photos(find_shards(heldout))[0] if heldout else []
        self._sources = [*whole, *_simulated(rng), *_camera_mosaics(tiled), *_photo_mosaics(tiled, rng)]
        self.counts: Counter[tuple[str, str]] = Counter()
        self.left_out: list[tuple[str, str]] = []

    def by_camera(self) -> Iterator[tuple[str, np.ndarray, Path | None]]:
        """Camera name, whole picture and file, if any, of each source large enough for `LARGE`."""
        for source in self._sources:
            if "large" in source.sizes:
                with suppress(ImageError):  # named in `left_out` after an iteration
                    yield source.camera, source.read(), source.file

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
    """The center of [H, W, 3], at most `longer` x `shorter` pixels, in the orientation of the picture."""
    height, width = picture.shape[:2]
    most = (shorter, longer) if width >= height else (longer, shorter)
    rows, cols = min(height, most[0]), min(width, most[1])
    top, left = (height - rows) // 2, (width - cols) // 2
    return picture[top : top + rows, left : left + cols]


def _sizes(number: int) -> tuple[str, ...]:
    return ("large",) if number % 2 else ("large", "small")


def _whole_photos(folders: Sequence[str | Path], rng: np.random.Generator) -> list[_Source]:
    named: list[tuple[Path, str, str]] = []
    for folder in map(Path, folders):
        if folder.suffix == ".csv":
            named += _listed(folder)
            continue
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; give folders of original camera files")
        files = only_pictures(folder, outside=True)
        if not files:
            raise DataError(f"{folder}: no photos in it ({', '.join(sorted(PICTURE_EXTENSIONS))})")
        named += [(path, printable(f"{folder.name}/{path.relative_to(folder)}"), "") for path in files]
    drawn = sorted(rng.permutation(len(named))[:MOST_PHOTOS])
    return [
        _Source("whole photos", name, camera or _camera(path), partial(_read_photo, path), _sizes(number), path)
        for number, (path, name, camera) in enumerate(named[i] for i in drawn)
    ]


def _listed(file: Path) -> list[tuple[Path, str, str]]:
    """Path, name and camera of each photo of a CSV file."""
    try:
        with file.open(encoding="utf-8", newline="") as opened:
            rows = [(file.parent / row["path"], row["camera"]) for row in csv.DictReader(opened)]
    except (OSError, KeyError, ValueError, csv.Error) as error:
        raise DataError(f"{file}: not a list of photos ({error!r}); give the columns path and camera") from error
    return [(path, f"{file.name}/{path.name}", camera) for path, camera in rows]


def _camera(path: Path) -> str:
    """Make and model from a photo's EXIF, or the file's name."""
    try:
        tags = read_exif(path)
    except ExifError:
        tags = {}
    return " ".join(tags[tag] for tag in ("Make", "Model") if tag in tags) or printable(path.name)


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
            camera.name,
            partial(_render, camera, int(rng.integers(2**62)), FORMATS[number % len(FORMATS)]),
            _sizes(number // len(FORMATS)),  # each format in both sizes
        )
        for number, camera in enumerate(drawn)
    ]


def _render(camera: Camera, seed: int, fmt: str) -> np.ndarray:
    return load_image(make_authentic(camera, seed, LARGE, fmt).data)


def _camera_mosaics(photos: Sequence[Photo]) -> list[_Source]:
    rows, cols = 3, 4
    tiles = Counter(photo.camera for photo in photos for _ in photo.tiles)
    if max(tiles.values(), default=0) < rows * cols:
        return []
    return [
        _Source("mosaics of one camera", "mosaic", camera, partial(np.asarray, mosaic), ("large",))
        for camera in sorted(name for name, count in tiles.items() if count >= rows * cols)
        for mosaic in camera_mosaics([photo for photo in photos if photo.camera == camera], rows, cols)
    ]


def _photo_mosaics(photos: Sequence[Photo], rng: np.random.Generator) -> list[_Source]:
    pairs = [photo for photo in photos if len(photo.tiles) >= 2]
    one_a_camera = {pairs[i].camera: pairs[i] for i in rng.permutation(len(pairs))}
    return [
        _Source("mosaics of one photo", photo.id, photo.camera, partial(_pair, photo), ("small",))
        for photo in list(one_a_camera.values())[:PHOTO_MOSAICS]
    ]


def _pair(photo: Photo) -> np.ndarray:
    return next(camera_mosaics([photo], 1, 2))
