"""Photos from any source → their tiles and canonical EXIF, or the reason they are left out."""

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from exiflang.data.shard_urls import fetch_shard
from exiflang.data.shards import Photo, Sample, index_photos, read_member
from exiflang.exif.reader import canonical_tags, read_exif
from exiflang.exif.tags import ExifError, is_private
from exiflang.headers.collect import header_of_photo
from exiflang.headers.jpeg_header import JpegHeader, read_header
from exiflang.preparation.options import Contents
from exiflang.preparation.tiles import cut_tiles, refuse_raw
from exiflang.utils.images import ImageError, decode_image

#: File extensions of tiles whose format Pillow names differently.
EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "JPEG2000": "jp2"}


@dataclass(frozen=True)
class SourcePhoto:
    """A photo of the source: its number there, its id, its display name, and its file or the reason it is missing.

    `exif` is EXIF that the source supplies with the file, as printed by any reader; it overrides the file's own.
    """

    number: int
    photo: str
    name: str
    data: bytes | None
    reason: str = ""
    exif: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Prepared:
    """A photo with its canonical tags and its tiles, or the reason it is left out, with a detail that identifies it."""

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


def cut_photos(items: Iterable[SourcePhoto], rng: np.random.Generator, contents: Contents) -> Iterator[Prepared]:
    """Cut tiles from photos with enough tags (see `cut_tiles`).

    Yields one `Prepared` per item. A broken file or non-picture has tags only if the source supplies its EXIF.
    """
    size = contents.tile_size
    for item in items:
        prepared = partial(Prepared, item.photo, item.name)
        if item.data is None:
            yield prepared(reason=item.reason, detail=item.name)
            continue
        try:
            beside = canonical_tags(item.exif, private=contents.private) if item.exif else {}
            tags = beside or read_exif(item.data, private=contents.private)
            enough = sum(not is_private(tag) for tag in tags) >= contents.min_tags
            tiles = cut_tiles(item.data, contents.tiles_per_photo, size, rng, item.name) if enough else []
        except (ExifError, ImageError) as error:
            yield prepared(reason="broken or too small", detail=f"{item.name}: {error}")
            continue
        if not tiles:
            reason = f"fewer than {contents.min_tags} EXIF tags" if tags else "no EXIF"
            yield prepared(reason=reason, detail=item.name)
            continue
        meta = {"exif": json.dumps(tags), "width": size, "height": size, "photo": item.photo}
        meta |= _recorded(read_header(item.data))
        samples = [
            Sample(f"{item.number:08d}_{i:02d}", tile.data, tile.extension, {**meta, "x": tile.x, "y": tile.y})
            for i, tile in enumerate(tiles)
        ]
        yield prepared(tags, samples)


def copy_photos(shards: Sequence[str], first: int, min_tags: int) -> Iterator[Prepared]:
    """Photos of existing shards, paths or URLs: the pictures' bytes unchanged, the EXIF in canonical form.

    `first` is the number of the first photo. Raises `DataError` for a shard that cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="exiflang-") as folder:
        photos, unread = index_photos([fetch_shard(shard, Path(folder)) for shard in shards], metas=True)
        for reason, names in unread.items():
            yield from (Prepared(name, name, reason=reason, detail=name) for name in names)
        for number, photo in enumerate(photos, first):
            prepared = partial(Prepared, photo.id, photo.id)
            if len(photo.tags) < min_tags:
                yield prepared(photo.tags, reason=f"fewer than {min_tags} EXIF tags", detail=photo.id)
                continue
            tiles: list[Sample] = []
            header = _recorded(header_of_photo(photo))
            for i, location in enumerate(photo.tiles):
                data = read_member(*location)
                try:
                    refuse_raw(data, "tile")
                    decoded = decode_image(data)
                except ImageError as error:
                    yield prepared(reason="broken tile", detail=f"{photo.id}: {error}")
                    continue
                height, width = decoded.pixels.shape[:2]
                meta = {"exif": json.dumps(photo.tags), "width": width, "height": height, "photo": photo.id, **header}
                extension = EXTENSIONS.get(decoded.format, decoded.format.lower())
                tiles.append(Sample(f"{number:08d}_{i:02d}", data, extension, meta))
            if tiles:
                yield prepared(photo.tags, tiles)


def _recorded(header: JpegHeader | None) -> dict[str, Any]:
    """The field of a tile's JSON for the header of its photo's file; none if that is unknown."""
    return {"header": header.record} if header else {}
