"""Composites with a known tampered region, to train a learned readout without manual forgeries."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from torch.utils.data import Dataset

from exiflang.data.patches import decode_tile
from exiflang.data.shards import DataError, Photo, find_shards, read_photos
from exiflang.simulation.cameras import CAMERAS
from exiflang.simulation.composites import Edit, compose, cut, encode_picture
from exiflang.simulation.render import develop_photo, render_photo
from exiflang.utils.folders import only_pictures
from exiflang.utils.images import load_image

#: Kinds of source, and how often each is drawn if available: whole photos are the most informative, single tiles cover
#: the most photos and cameras, simulated photos never run out.
SHARES: Mapping[str, float] = {"whole": 0.3, "tile": 0.5, "mosaic": 0.1, "simulated": 0.1}
#: Shares of: authentic pictures; unchanged files of whole photos among those; pictures that are recompressed as a
#: whole, most of them after resizing, as on social networks.
AUTHENTIC, UNTOUCHED, LAUNDERED = 0.2, 0.25, 0.2
MOSAIC = (3, 4)  # rows and columns of tiles
#: Smaller tiles, in pixels per side, have no room for a small region and are used only in mosaics.
SMALLEST_TILE = 64
_TEXT = "exif 0123456789 camera photo"


@dataclass(frozen=True, eq=False)
class Composite:
    """A picture's file, and the mask of its tampered region: bool [H, W]."""

    data: bytes
    mask: np.ndarray


class CompositeDataset(Dataset):
    """Composites mixed with authentic pictures, made on access: picture i is always the same.

    Hosts and donors are whole photos, tiles, mosaics of one camera's tiles, or simulated photos, in one of three
    states: as written by a camera, as shown on the web (downscaled and compressed), or never compressed. A region of
    1 to 60 % is pasted in (or cloned, or smoothed over): a blob, a box, several, or everything on one side of a line.
    The donor may be rescaled, mirrored or brightened; the edge is sharp or feathered; the host usually keeps its own
    JPEG grid. Some pictures are then resized and recompressed as a whole.
    Some authentic pictures carry a line of text, and some are unchanged files of whole photos.

    Args:
        photos: files of unedited whole photos of at least 384 x 256 pixels.
        tiles: photos available as tiles, all of about the same size.
        length: number of pictures.
        seed: determines all pictures.
        shares: of the kinds of source, see `SHARES`; kinds without a source are ignored.

    Raises `ValueError` for unknown kinds of source and if none is available, `DataError` if the first tile is broken.
    Making a picture raises `ImageError` or `DataError` for a broken photo or tile, `ValueError` for a photo that is too
    small.
    """

    def __init__(
        self,
        photos: Sequence[str | Path],
        tiles: Sequence[Photo],
        length: int,
        seed: int = 0,
        shares: Mapping[str, float] = SHARES,
    ):
        if unknown := sorted(shares.keys() - SHARES.keys()):
            raise ValueError(f"unknown kinds of source {unknown}: choose among {', '.join(SHARES)}")
        self.photos, self.length, self.seed = list(photos), length, seed
        names = sorted(Path(photo).name for photo in self.photos), sorted(photo.id for photo in tiles)
        digests = [hashlib.sha256("\n".join(own).encode("utf-8", "surrogatepass")).hexdigest()[:16] for own in names]
        #: The inputs that determine the pictures, for records.
        self.settings: dict[str, Any] = {"length": length, "seed": seed, "photos": digests[0], "tiles": digests[1]}
        cameras: dict[str, list[Photo]] = {}
        for photo in tiles:
            cameras.setdefault(photo.camera, []).append(photo)
        needed = MOSAIC[0] * MOSAIC[1]
        #: Photos by camera: all cameras, and those with enough tiles for a mosaic.
        self.tiles = [own for _, own in sorted(cameras.items())]
        self.mosaics = [own for own in self.tiles if sum(len(photo.tiles) for photo in own) >= needed]
        there = {
            "whole": len(self.photos) > 1,
            "tile": len(self.tiles) > 1 and min(decode_tile(tiles[0], tiles[0].tiles[0]).shape[:2]) >= SMALLEST_TILE,
            "mosaic": len(self.mosaics) > 1,
            "simulated": True,
        }
        self.shares: dict[str, float] = {kind: share for kind, share in shares.items() if share > 0 and there[kind]}
        self.settings["shares"] = self.shares
        if not self.shares:
            raise ValueError(
                f"no source of pictures among {', '.join(shares) or 'no kinds'}: give two photos, or tiles of two "
                "cameras, or a share of simulated ones"
            )

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Composite:
        if not 0 <= index < self.length:
            raise IndexError(index)
        rng = np.random.default_rng([self.seed, 0xC0, index])
        sides = int(rng.integers(320, 480)), int(rng.integers(480, 900)), 1024
        longer = int(rng.choice(sides, p=[0.4, 0.25, 0.35]))
        authentic = rng.random() < AUTHENTIC
        if authentic and "whole" in self.shares and rng.random() < UNTOUCHED:
            return _untouched(self.photos[rng.integers(len(self.photos))])
        host, donor = (_as_found(photo, longer, rng) for photo in self._two_photos(longer, rng))
        width, height = _part(host, longer, rng)
        on_grid = rng.random() < 0.7
        if authentic:
            picture, _ = cut(host, (width, height), on_grid, rng)
            mask = np.zeros((height, width), bool)
            if rng.random() < 0.2:
                _write_on(picture, rng)
        else:
            picture, mask = compose(host, donor, _draw_edit((width, height), on_grid, rng), rng)
        return _saved(picture, mask, rng)

    def _two_photos(self, longer: int, rng: np.random.Generator) -> list[np.ndarray]:
        """Two different photos, or photos of two cameras, usually of one kind: uint8 [H, W, 3] each."""
        kinds = list(self.shares)
        p = np.array([self.shares[kind] for kind in kinds])
        kind = str(rng.choice(kinds, p=p / p.sum()))
        other = str(rng.choice(kinds, p=p / p.sum())) if rng.random() < 0.25 else kind
        sources = dict(whole=len(self.photos), tile=len(self.tiles), mosaic=len(self.mosaics), simulated=len(CAMERAS))
        first = rng.integers(sources[kind])
        second = rng.integers(sources[other])
        while kind == other and first == second:
            second = rng.integers(sources[other])
        return [self._photo(k, int(number), longer, rng) for k, number in ((kind, first), (other, second))]

    def _photo(self, kind: str, number: int, longer: int, rng: np.random.Generator) -> np.ndarray:
        if kind == "whole":
            return load_image(self.photos[number])
        if kind == "tile":
            own = self.tiles[number]
            photo = own[rng.integers(len(own))]
            return decode_tile(photo, photo.tiles[rng.integers(len(photo.tiles))])
        if kind == "mosaic":
            return self._mosaic(self.mosaics[number], rng)
        camera, seed, size = CAMERAS[number], int(rng.integers(2**62)), (longer + 32, longer * 3 // 4 + 32)
        if rng.random() < 0.4:
            return develop_photo(camera, seed, size)  # never compressed
        return load_image(render_photo(camera, seed, size))

    def _mosaic(self, photos: Sequence[Photo], rng: np.random.Generator) -> np.ndarray:
        rows, cols = MOSAIC
        located = [(photo, location) for photo in photos for location in photo.tiles]
        tiles = [decode_tile(*located[i]) for i in rng.permutation(len(located))[: rows * cols]]
        side = min(min(tile.shape[:2]) for tile in tiles) // 16 * 16  # keeps all tiles on one grid
        grid = np.stack([tile[:side, :side] for tile in tiles]).reshape(rows, cols, side, side, 3)
        return grid.swapaxes(1, 2).reshape(rows * side, cols * side, 3)


def composites_of(data_dir: str | Path, photos: str | Path, length: int, seed: int = 0) -> CompositeDataset:
    """Composites of the training tiles of a data set written by `prepare`, and of a folder of whole photos.

    photos: "" for none. Raises `DataError` for shards that cannot be used and for a folder without photos.
    """
    files = only_pictures(Path(photos)) if photos else []
    if photos and not files:
        raise DataError(f"{photos}: no photos in it; give a folder of unedited whole photos")
    return CompositeDataset(files, read_photos(find_shards(Path(data_dir) / "train"))[0], length, seed)


def _untouched(photo: str | Path) -> Composite:
    """The file itself."""
    return Composite(Path(photo).read_bytes(), np.zeros(load_image(photo).shape[:2], bool))


def _as_found(photo: np.ndarray, longer: int, rng: np.random.Generator) -> np.ndarray:
    """As written by the camera, as shown on the web, or downscaled and not compressed since: uint8 [H, W, 3]."""
    way = rng.choice(["camera", "web", "reduced"], p=[0.55, 0.32, 0.13])
    if way == "camera":
        return photo
    least = min(1.0, (longer + 17) / max(photo.shape[:2]))
    photo = resized(photo, rng.uniform(least, max(least, 0.9)))
    return load_image(encode_picture(photo, f"jpeg{rng.integers(60, 99)}")) if way == "web" else photo


def _part(host: np.ndarray, longer: int, rng: np.random.Generator) -> tuple[int, int]:
    """Width and height of the crop."""
    height, width = host.shape[:2]
    wide = min(longer, width)
    return wide, min(round(wide * rng.uniform(0.6, 0.85)), height)


def _draw_edit(size: tuple[int, int], on_grid: bool, rng: np.random.Generator) -> Edit:
    large = rng.random() < 0.3
    area = rng.uniform(0.25, 0.6) if large else np.exp(rng.uniform(np.log(0.012), np.log(0.3)))
    shape = str(rng.choice(["blob", "box", "side"], p=[0.6, 0.15, 0.25] if large else [0.85, 0.15, 0]))
    return Edit(
        size,
        (area * 0.9, min(area * 1.1, 0.65)),
        shape,
        regions=1 if large or rng.random() < 0.85 else int(rng.integers(2, 4)),
        fill=str(rng.choice(["donor", "clone", "smooth"], p=[0.88, 0.07, 0.05])),
        on_grid=on_grid,
        scale=float(np.exp(rng.uniform(np.log(0.4), np.log(2)))) if rng.random() < 0.5 else 1.0,
        mirrored=bool(rng.random() < 0.3),
        gain=float(rng.uniform(0.8, 1.2)) if rng.random() < 0.4 else 1.0,
        feather=float(rng.uniform(0.4, 3)) if rng.random() < 0.5 else 0.0,
    )


def _write_on(picture: np.ndarray, rng: np.random.Generator) -> None:
    """Draw a line of text, which does not count as tampering."""
    height = picture.shape[0]
    scale, place = height / 500 * float(rng.uniform(0.5, 1.5)), (8, int(rng.integers(height // 4, height - 8)))
    shade = tuple(int(v) for v in rng.integers(0, 256, 3))
    cv2.putText(picture, _TEXT, place, cv2.FONT_HERSHEY_SIMPLEX, scale, shade, max(1, round(2 * scale)), cv2.LINE_AA)


def _saved(picture: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> Composite:
    """The file, and the mask at the same size; some pictures are resized and recompressed as a whole."""
    data = encode_picture(picture, "png" if rng.random() < 0.25 else f"jpeg{rng.integers(45, 101)}")
    if rng.random() < LAUNDERED:
        picture = load_image(data)
        if rng.random() < 0.7 and min(mask.shape) > 320:
            picture = resized(picture, rng.uniform(0.5, 0.95))
            mask = cv2.resize(mask.astype(np.uint8), picture.shape[1::-1], interpolation=cv2.INTER_NEAREST) > 0
        data = encode_picture(picture, f"jpeg{rng.integers(65, 96)}")
    return Composite(data, mask)


def resized(picture: np.ndarray, scale: float) -> np.ndarray:
    """uint8 [H, W, 3] resized by `scale` to at least one pixel per side; downscaling averages areas."""
    scale = max(scale, 0.51 / min(picture.shape[:2]))
    kernel = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(picture, None, fx=scale, fy=scale, interpolation=kernel)
