"""WebDataset shards of tiles, in img2dataset's layout: written, found, indexed and read."""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from exiflang.exif import canonical_tags

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
                add_sample(tar, sample)
        os.replace(path.with_suffix(".part"), path)
        self.shards.append(path)
        self._batch = []


def add_sample(tar: tarfile.TarFile, sample: Sample) -> None:
    """Append a tile and its JSON to a tar that is open for writing; equal samples, equal bytes."""
    text = json.dumps(sample.meta, sort_keys=True).encode()
    for extension, data in ((sample.extension, sample.data), ("json", text)):
        member = tarfile.TarInfo(f"{sample.key}.{extension}")
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))


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
    """As `index_photos`, and raises `DataError` also when no tile has EXIF."""
    photos, left_out = index_photos(shards)
    if not photos:
        reasons = "; ".join(f"{number} times {reason}" for reason, number in left_out.items()) or "no tile at all"
        raise DataError(
            f"{shards[0] if shards else 'no shards'}: no tile with EXIF in {len(shards)} shard(s) ({reasons}): "
            "img2dataset writes it with extract_exif=True"
        )
    return photos, left_out


def index_photos(shards: Sequence[Path], *, damaged: str = "raise") -> tuple[list[Photo], Counter[str]]:
    """Index the shards: photos in order of first appearance, and a count of tiles left out, by reason.

    Only the JSON members are read; names of members are never used as paths. Raises `DataError` for a shard that is
    missing, and with `damaged="raise"` also for one that is no uncompressed tar, damaged or truncated. With "skip" such
    a one loses the samples that the damage hits: reading goes on at the next whole header, each such jump is counted as
    a "damaged part of a shard", and a half whose other half lay there under its own reason.
    """
    photos: dict[str, Photo] = {}
    left_out: Counter[str] = Counter()
    printed, tags = {}, {}
    for shard in map(Path, shards):
        pictures, metas, holes = _read_index(shard, skip=damaged == "skip")
        left_out["damaged part of a shard"] += holes
        for key, place in pictures.items():
            meta = metas.get(key, "tile without JSON")
            if place[2] > MAX_TILE_BYTES:
                meta = f"tile larger than {MAX_TILE_BYTES // 10**6} MB"
            if isinstance(meta, str):
                left_out[meta] += 1
                continue
            if meta["exif"] != printed:  # tiles of a photo follow one another, and this is what takes the time
                printed, tags = meta["exif"], canonical_tags(meta["exif"])
            if not tags:
                left_out["tile without EXIF"] += 1
                continue
            name = str(meta["photo"]) if meta.get("photo") not in (None, "") else f"{shard.name}/{key}"
            photos.setdefault(name, Photo(name, tags, [])).tiles.append(place)
        left_out["JSON without tile"] += len(metas.keys() - pictures.keys())
    return list(photos.values()), +left_out


def _read_index(shard: Path, skip: bool) -> tuple[dict[str, Place], dict[str, dict | str], int]:
    """Of each key: where its tile lies, and its EXIF and photo or why it has none; damaged parts."""
    pictures: dict[str, Place] = {}
    metas: dict[str, dict | str] = {}
    damage, end = [], 0
    try:
        size = shard.stat().st_size
        # places in a compressed tar would be none in the file; ignore_zeros: looks for the next header behind damage
        with tarfile.open(shard, "r:", ignore_zeros=skip) as tar:
            for member in tar:
                if member.size < 0:
                    raise tarfile.ReadError(f"negative size of {member.name!r}")
                if skip and member.offset != end:
                    damage.append(end)
                if member.offset_data + member.size > size:
                    raise tarfile.ReadError("unexpected end of data")
                end = tar.offset
                key, _, extension = member.name.rpartition(".")
                if member.isreg() and extension.lower() in IMAGE_EXTENSIONS:
                    pictures[key] = (shard, member.offset_data, member.size)
                elif member.isreg() and extension.lower() == "json":
                    metas[key] = _read_json(shard, member)
    except OSError as error:
        advice = "run notebooks/01_prepare_data again, or correct the path"
        raise DataError(f"{shard}: cannot be read ({error.strerror}): {advice}") from error
    except (tarfile.TarError, ValueError, OverflowError) as error:  # the last two: numbers in headers that are none
        if not skip:
            message = f"{shard}: not a whole, uncompressed tar file ({error}): fetch or write it again"
            raise DataError(message) from error
        damage.append(end)
    else:
        # tarfile takes a damaged header for the end; the end that writers write is a block of zeros.
        if size < end + tarfile.BLOCKSIZE or any(read_member(shard, end, tarfile.BLOCKSIZE)):
            damage.append(end)
    if damage and not skip:
        raise DataError(f"{shard}: damaged at byte {damage[0]}: fetch or write it again")
    return pictures, metas, len(damage)


def _read_json(shard: Path, member: tarfile.TarInfo) -> dict | str:
    if member.size > MAX_JSON_BYTES:
        return f"JSON larger than {MAX_JSON_BYTES // 10**6} MB"
    try:
        meta = json.loads(read_member(shard, member.offset_data, member.size))
        exif = meta.get("exif") or {}
        exif = json.loads(exif) if isinstance(exif, str) else exif
        return {"exif": exif, "photo": meta.get("photo")} if isinstance(exif, dict) else "JSON that cannot be read"
    except (ValueError, AttributeError, RecursionError):
        return "JSON that cannot be read"
