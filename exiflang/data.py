"""WebDataset shards of tiles (img2dataset's layout) and the patches that training draws from them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from exiflang.exif import canonical_tags, exif_to_text
from exiflang.images import ImageError, load_image

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
MAX_JSON_BYTES, MAX_TILE_BYTES = 1_000_000, 32_000_000
Place = tuple[Path, int, int]  # of a tile: shard, offset, size


class DataError(ValueError):
    """Shards that cannot be used; the message names the file and what to do."""


@dataclass(frozen=True)
class Sample:
    """What a shard holds of one tile: its key, the encoded picture, and the JSON beside it.

    `meta` has img2dataset's fields (`exif`: a JSON string of printed tags, `width`, `height`), and `photo`: an id that
    the tiles of one photo share.
    """

    key: str
    data: bytes
    extension: str
    meta: dict[str, Any]


@dataclass(frozen=True)
class Photo:
    """A photo in the shards: its id, canonical EXIF, and where each of its tiles lies."""

    id: str
    tags: dict[str, str]
    tiles: list[Place] = field(compare=False)

    @property
    def make(self) -> str:
        """The camera's maker, "unknown" if the tags do not say."""
        return self.tags.get("Make", "unknown")

    @property
    def camera(self) -> str:
        """Make and model, the name by which cameras are told apart."""
        return f"{self.make} {self.tags.get('Model', 'unknown')}"


def plain_name(name: str) -> str:
    """Letters and digits of the name of a make or camera, case folded: "SONY DSC-W1" and "Sony DSC W1" are one."""
    return "".join(sign for sign in unicodedata.normalize("NFKC", name).casefold() if sign.isalnum())


class ShardWriter:
    """Writes tiles into `folder/00000.tar`, `00001.tar` ...: `key.jpg` and `key.json` each; equal input, equal bytes.

    A context manager; a shard appears under its name only when it is whole. `shards` lists those written. Raises
    `DataError` if the folder holds shards already: old ones would be read together with the new.
    """

    def __init__(self, folder: str | Path, per_shard: int = 1000):
        self.folder, self.per_shard = Path(folder), per_shard
        self.shards: list[Path] = []
        self._batch: list[Sample] = []

    def __enter__(self) -> ShardWriter:
        self.folder.mkdir(parents=True, exist_ok=True)
        if any(self.folder.glob("*.tar")):
            raise DataError(f"{self.folder}: holds shards already: remove them or choose another folder")
        return self

    def __exit__(self, error_type: type | None, *_: object) -> None:
        if error_type is None and self._batch:
            self._flush()

    def write(self, sample: Sample) -> None:
        """Add one tile."""
        self._batch.append(sample)
        if len(self._batch) == self.per_shard:
            self._flush()

    def _flush(self) -> None:
        path = self.folder / f"{len(self.shards):05d}.tar"
        with tarfile.open(path.with_suffix(".part"), "w") as tar:
            for sample in self._batch:
                text = json.dumps(sample.meta, sort_keys=True).encode()
                for extension, data in ((sample.extension, sample.data), ("json", text)):
                    member = tarfile.TarInfo(f"{sample.key}.{extension}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
        os.replace(path.with_suffix(".part"), path)
        self.shards.append(path)
        self._batch = []


def write_shards(samples: Iterable[Sample], folder: str | Path, per_shard: int = 1000) -> list[Path]:
    """Write all `samples` with a `ShardWriter`. Raises `DataError` if there is nothing to write."""
    with ShardWriter(folder, per_shard) as writer:
        for sample in samples:
            writer.write(sample)
    if not writer.shards:
        raise DataError(f"{folder}: no tile to write, every photo was left out")
    return writer.shards


def find_shards(folder: str | Path) -> list[Path]:
    """The shards of a folder in order. Raises `DataError` if there is none or a number is missing in between."""
    shards = sorted(path for path in Path(folder).glob("*.tar") if not path.name.startswith("."))
    if not shards:
        raise DataError(f"{folder}: no .tar shard there; check the path, or run notebooks/01_prepare_data first")
    if all(re.fullmatch(r"[0-9]{1,18}", path.stem) for path in shards):
        shards.sort(key=lambda path: int(path.stem))
        for before, after in pairwise(shards):
            if int(after.stem) > int(before.stem) + 1:
                name = f"{int(before.stem) + 1:0{len(before.stem)}d}.tar"
                raise DataError(
                    f"{folder}: shard {name} is missing, the next is {after.name}: fetch what is missing, or renumber "
                    "the rest to do without it"
                )
    return shards


def read_member(shard: Path, offset: int, size: int) -> bytes:
    """The bytes of one member, by its place in the shard. Raises `DataError` if the shard is gone or too short."""
    try:
        with open(shard, "rb") as file:
            file.seek(offset)
            data = file.read(size)
    except OSError as error:
        raise DataError(f"{shard}: cannot be read ({error.strerror}): run notebooks/01_prepare_data again") from error
    if len(data) < size:
        raise DataError(f"{shard}: ends in the middle of a tile: the shard is truncated, fetch or write it again")
    return data


def read_photos(shards: Sequence[Path]) -> tuple[list[Photo], Counter[str]]:
    """Index the shards: photos in order of first appearance, and a count of tiles left out, by reason.

    Only the JSON members are read; names of members are never used as paths. Raises `DataError` for a shard that is
    missing, is no uncompressed tar or ends early, and when no tile has EXIF.
    """
    photos: dict[str, Photo] = {}
    left_out: Counter[str] = Counter()
    for shard in map(Path, shards):
        pictures, metas = _read_index(shard)
        for key, place in pictures.items():
            meta = metas.get(key, "tile without JSON")
            if place[2] > MAX_TILE_BYTES:
                meta = f"tile larger than {MAX_TILE_BYTES // 10**6} MB"
            tags = canonical_tags(meta["exif"]) if isinstance(meta, dict) else {}
            if not tags:
                left_out[meta if isinstance(meta, str) else "tile without EXIF"] += 1
                continue
            name = str(meta["photo"]) if meta.get("photo") not in (None, "") else f"{shard.name}/{key}"
            photos.setdefault(name, Photo(name, tags, [])).tiles.append(place)
        left_out["JSON without tile"] += len(metas.keys() - pictures.keys())
    if not photos:
        reasons = "; ".join(f"{number} times {reason}" for reason, number in (+left_out).items()) or "no tile at all"
        raise DataError(
            f"{shards[0] if shards else 'no shards'}: no tile with EXIF in {len(shards)} shard(s) ({reasons}): "
            "img2dataset writes it with extract_exif=True"
        )
    return list(photos.values()), +left_out


def _read_index(shard: Path) -> tuple[dict[str, Place], dict[str, dict | str]]:
    """Of each key: where its tile lies, and its JSON (`exif` a dict) or why that cannot be used."""
    pictures: dict[str, Place] = {}
    metas: dict[str, dict | str] = {}
    try:
        with tarfile.open(shard, "r:") as tar:  # places in a compressed tar would be none in the file
            for member in tar:
                key, _, extension = member.name.rpartition(".")
                if member.size < 0:
                    raise tarfile.ReadError(f"negative size of {key!r}")
                if member.isreg() and extension.lower() in IMAGE_EXTENSIONS:
                    pictures[key] = (shard, member.offset_data, member.size)
                elif member.isreg() and extension.lower() == "json":
                    metas[key] = _read_json(shard, member)
            end = tar.offset
    except OSError as error:
        advice = "run notebooks/01_prepare_data again, or correct the path"
        raise DataError(f"{shard}: cannot be read ({error.strerror}): {advice}") from error
    except tarfile.TarError as error:
        raise DataError(f"{shard}: not a whole, uncompressed tar file ({error}): fetch or write it again") from error
    # tarfile takes a damaged header for the end; the end that writers write is a block of zeros.
    if any(read_member(shard, end, tarfile.BLOCKSIZE)):
        raise DataError(f"{shard}: damaged at byte {end}: fetch or write it again")
    return pictures, metas


def _read_json(shard: Path, member: tarfile.TarInfo) -> dict | str:
    if member.size > MAX_JSON_BYTES:
        return f"JSON larger than {MAX_JSON_BYTES // 10**6} MB"
    try:
        meta = json.loads(read_member(shard, member.offset_data, member.size))
        exif = meta.get("exif") or {}
        meta["exif"] = json.loads(exif) if isinstance(exif, str) else exif
        return meta if isinstance(meta["exif"], dict) else "JSON that cannot be read"
    except (ValueError, AttributeError, RecursionError):
        return "JSON that cannot be read"


def decode_tile(photo: Photo, place: Place) -> np.ndarray:
    """The pixels of a tile of `photo`: uint8 [H, W, 3]. Raises `DataError` if it is broken."""
    try:
        return load_image(read_member(*place))
    except ImageError as error:
        raise DataError(f"{place[0]}: a tile of photo {photo.id} cannot be decoded ({error})") from error


def decode_patch(photo: Photo, patch_size: int, rng: np.random.Generator) -> Tensor:
    """A random crop of a random tile of `photo`: uint8 [3, P, P]. Raises `DataError` naming a tile that is broken."""
    return decode_views(photo, patch_size, 1, rng)[0]  # [1, 3, P, P] -> [3, P, P]


def decode_views(
    photo: Photo,
    patch_size: int,
    views: int,
    rng: np.random.Generator,
    decode: Callable[[Photo, Place], np.ndarray] = decode_tile,
) -> Tensor:
    """`views` random crops of `photo`: uint8 [V, 3, P, P], the first of them the one that `decode_patch` draws.

    No tile is drawn again before each has had its turn, so that views share no more of the scene than they must; the
    place in its tile is drawn for each view by itself. A tile is decoded once, however many views fall on it. Raises
    `DataError` naming a tile that is broken or smaller than a patch.
    """
    pixels: dict[Place, np.ndarray] = {}
    waiting: list[Place] = []
    patches = []
    for _ in range(views):
        waiting = waiting or list(photo.tiles)
        place = waiting.pop(rng.integers(len(waiting)))
        if place not in pixels:
            pixels[place] = decode(photo, place)
        height, width = pixels[place].shape[:2]
        if min(height, width) < patch_size:
            raise DataError(
                f"{place[0]}: a tile of photo {photo.id} is {width} x {height} pixels, smaller than a patch of "
                f"{patch_size}: choose a smaller patch_size"
            )
        y, x = rng.integers(height - patch_size + 1), rng.integers(width - patch_size + 1)
        patches.append(pixels[place][y : y + patch_size, x : x + patch_size])
    stacked = np.stack(patches).transpose(0, 3, 1, 2)  # [V, P, P, 3] -> [V, 3, P, P]
    return torch.from_numpy(np.ascontiguousarray(stacked))


class PatchDataset(Dataset):
    """Random patches of each photo with the photo's EXIF sentence: item i is `(uint8 [3, P, P], str)`.

    Patch and sentence depend on `(seed, epoch, i)` alone, so that runs repeat and resume exactly, whatever the workers.

    Args:
        shards: paths of the shards, e.g. `find_shards(folder)`.
        patch_size: side of the crop in pixels.
        seed: decides crops, tags left out and their order, and the permutation of `exif="shuffled"`.
        exif: "own", or "shuffled": the control in which each photo gets the sentence of another one, for good.
        views: patches of each photo. With more than one, an item's patches are uint8 [V, 3, P, P], on different tiles
            as far as the photo has them (see `decode_views`); the first does not depend on how many follow.
        tag_dropout: 0..1, below 1: the probability by which each tag is left out of an item's sentence. One tag always
            stays.
        shuffle_tags: whether the tags of an item's sentence come in random order.
        cache: decode all tiles at once and keep them in memory: 3 bytes a pixel, 1.8 GB for 9,309 tiles of 256 px. An
            item then takes a tenth of the time. Worker processes share it if they are forked and copy it if not.

    `photos` and `sentences` (whole ones) stand in order of the items; `left_out` counts unusable tiles by reason.

    Raises:
        DataError: a shard cannot be used (see `read_photos`); on access, a tile that is broken or smaller than a patch
            (with `cache` a broken one at once).
        ValueError: another value of `exif`, or a number out of its range.
    """

    def __init__(
        self,
        shards: Sequence[Path],
        patch_size: int,
        seed: int = 0,
        exif: str = "own",
        *,
        views: int = 1,
        tag_dropout: float = 0.0,
        shuffle_tags: bool = False,
        cache: bool = False,
    ):
        if exif not in ("own", "shuffled"):
            raise ValueError(f"exif is {exif!r}: choose 'own' or 'shuffled'")
        if patch_size < 1:
            raise ValueError(f"patch_size is {patch_size}: it must be at least 1 pixel")
        if not isinstance(views, int) or views < 1:
            raise ValueError(f"views is {views!r}: it must be a whole number of at least 1")
        if not 0 <= tag_dropout < 1:
            raise ValueError(f"tag_dropout is {tag_dropout}: it must be at least 0 and below 1")
        self.photos, self.left_out = read_photos(shards)
        self.sentences = [exif_to_text(photo.tags) for photo in self.photos]
        if exif == "shuffled":
            order = np.random.default_rng([seed, 0x5EED]).permutation(len(self.photos))
            giver = dict(zip(order, np.roll(order, 1), strict=True))  # one cycle: nobody keeps the own sentence
            self.sentences = [self.sentences[giver[i]] for i in range(len(order))]
        self.patch_size, self.seed, self.epoch = patch_size, seed, 0
        self.views, self.tag_dropout, self.shuffle_tags = views, tag_dropout, shuffle_tags
        kept = [(photo, place) for photo in self.photos for place in photo.tiles] if cache else []
        self._decoded = {place: decode_tile(photo, place) for photo, place in kept}

    @property
    def fingerprint(self) -> str:
        """Changes with the photos, their tiles, their sentences and how items are drawn; not with the folder."""
        tiles = [[photo.id, [(shard.name, *place) for shard, *place in photo.tiles]] for photo in self.photos]
        what = [self.patch_size, self.seed, tiles, self.sentences]
        drawn = [self.views, float(self.tag_dropout), bool(self.shuffle_tags)]
        if drawn != [1, 0.0, False]:  # else it stays that of the runs begun before there was a choice
            what.append(drawn)
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()

    def set_epoch(self, epoch: int) -> None:
        """Draw other items from now on."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        rng = np.random.default_rng([self.seed, self.epoch, index])
        patches = decode_views(self.photos[index], self.patch_size, self.views, rng, self._pixels)
        return patches if self.views > 1 else patches[0], self._sentence(index)

    def _pixels(self, photo: Photo, place: Place) -> np.ndarray:
        return self._decoded[place] if self._decoded else decode_tile(photo, place)

    def _sentence(self, index: int) -> str:
        if not self.tag_dropout and not self.shuffle_tags:
            return self.sentences[index]
        rng = np.random.default_rng([self.seed, self.epoch, index, 0x7A65])  # its own: crops stay what they were
        words = np.array(self.sentences[index].split(", "), dtype=object)  # no value holds ", ": see `exif_to_text`
        stays = rng.random(len(words)) >= self.tag_dropout
        stays[rng.integers(len(words))] |= not stays.any()
        words = words[stays]
        return ", ".join(rng.permutation(words) if self.shuffle_tags else words)
