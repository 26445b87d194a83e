"""Photos of any source → their tiles and canonical EXIF, or why they are left out."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from exiflang.exif import ExifError, canonical_tags, read_exif
from exiflang.exif_tags import is_private
from exiflang.images import ImageError, load_image
from exiflang.shards import IMAGE_EXTENSIONS, DataError, Photo, Sample, index_photos, read_member
from exiflang.storage import Store, is_url
from exiflang.tiles import cut_tiles

MAX_PHOTO_BYTES = 300_000_000


@dataclass(frozen=True)
class Item:
    """A photo of the source: its number there, its id, what to call it, its file or why there is none.

    `exif` is the EXIF that the source has beside the file, as some reader printed it: it goes before the file's own.
    """

    number: int
    photo: str
    name: str
    data: bytes | None
    reason: str = ""
    exif: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Prepared:
    """A photo with its canonical tags and its tiles; or the reason why it is left out, and which one that is."""

    photo: str
    name: str
    tags: dict[str, str] = field(default_factory=dict)
    tiles: Sequence[Sample] = ()
    reason: str = ""
    detail: str = ""

    @property
    def camera(self) -> str:
        """As `Photo.camera`."""
        return Photo(self.photo, self.tags, []).camera


def cut_photos(
    items: Iterable[Item],
    rng: np.random.Generator,
    *,
    tile_size: int,
    tiles_per_photo: int,
    min_tags: int,
    private: bool = False,
) -> Iterator[Prepared]:
    """Cut tiles from photos with at least `min_tags` tags (see `cut_tiles`); `private`: see `read_exif`.

    One `Prepared` for each item. Of a photo without EXIF beside it that is broken or no picture nothing is known.
    """
    for item in items:
        if item.data is None:
            yield Prepared(item.photo, item.name, reason=item.reason, detail=item.name)
            continue
        try:
            beside = canonical_tags(item.exif, private=private) if item.exif else {}
            tags = beside or read_exif(item.data, private=private)
            enough = sum(not is_private(tag) for tag in tags) >= min_tags
            tiles = cut_tiles(item.data, tiles_per_photo, tile_size, rng, item.name) if enough else []
        except (ExifError, ImageError) as error:
            yield Prepared(item.photo, item.name, reason="broken or too small", detail=f"{item.name}: {error}")
            continue
        if not tiles:
            reason = f"fewer than {min_tags} EXIF tags" if tags else "no EXIF"
            yield Prepared(item.photo, item.name, reason=reason, detail=item.name)
            continue
        meta = {"exif": json.dumps(tags), "width": tile_size, "height": tile_size, "photo": item.photo}
        yield Prepared(
            item.photo,
            item.name,
            tags,
            [
                Sample(f"{item.number:08d}_{i:02d}", tile.data, tile.extension, {**meta, "x": tile.x, "y": tile.y})
                for i, tile in enumerate(tiles)
            ],
        )


def copy_photos(shards: Sequence[str], first: int, *, min_tags: int) -> Iterator[Prepared]:
    """Photos of existing shards, paths or URLs: the pictures' bytes unchanged, the EXIF in canonical form.

    `first` is the number of the first photo. Raises `DataError` for a shard that cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="exiflang-") as folder:
        photos, unread = index_photos([_local(shard, Path(folder)) for shard in shards])
        for reason, number in unread.items():
            yield from [Prepared("", "", reason=reason)] * number
        for number, photo in enumerate(photos, first):
            if len(photo.tags) < min_tags:
                yield Prepared(
                    photo.id, photo.id, photo.tags, reason=f"fewer than {min_tags} EXIF tags", detail=photo.id
                )
                continue
            tiles: list[Sample] = []
            for i, place in enumerate(photo.tiles):
                data = read_member(*place)
                try:
                    height, width = load_image(data).shape[:2]
                except ImageError as error:
                    yield Prepared(photo.id, photo.id, reason="broken tile", detail=f"{photo.id}: {error}")
                    continue
                meta = {"exif": json.dumps(photo.tags), "width": width, "height": height, "photo": photo.id}
                tiles.append(Sample(f"{number:08d}_{i:02d}", data, _extension(data), meta))
            if tiles:
                yield Prepared(photo.id, photo.id, photo.tags, tiles)


def _local(shard: str, folder: Path) -> Path:
    """The shard itself, or a copy of one at a URL: an index needs to jump about in it."""
    place, _, name = shard.rpartition("/")
    try:
        return Store(place).get(name, folder) if is_url(shard) else Path(shard)
    except (OSError, ValueError, ImportError) as error:
        raise DataError(f"{shard}: cannot be fetched ({error})") from error


def _extension(data: bytes) -> str:
    jpg, _, png, webp = IMAGE_EXTENSIONS
    return jpg if data[:2] == b"\xff\xd8" else png if data[:4] == b"\x89PNG" else webp
