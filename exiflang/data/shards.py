"""WebDataset shards of tiles, in img2dataset's layout: find, index and read."""

import hashlib
import io
import json
import re
import tarfile
import unicodedata
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from exiflang.exif.reader import canonical_tags
from exiflang.utils.images import PICTURE_EXTENSIONS

MAX_JSON_BYTES, MAX_TILE_BYTES = 1_000_000, 32_000_000
TileLocation = tuple[Path, int, int]  # shard, offset and size of a tile


class DataError(ValueError):
    """Unusable shards; the message names the file and what to do."""


@dataclass(frozen=True)
class Sample:
    """One tile in a shard: its key, the encoded picture, and its JSON.

    `meta` has img2dataset's fields (`exif`: a JSON string of printed tags, `width`, `height`), and `photo`: an id that
    the tiles of one photo share.
    """

    key: str
    data: bytes
    extension: str
    meta: dict[str, Any]


@dataclass(frozen=True)
class Photo:
    """A photo in the shards: its id, canonical EXIF, the location of each tile, and its first tile's JSON if wanted."""

    id: str
    tags: dict[str, str]
    tiles: list[TileLocation] = field(compare=False)
    meta: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def make(self) -> str:
        """The camera's maker, "unknown" if the tags do not name it."""
        return self.tags.get("Make", "unknown")

    @property
    def camera(self) -> str:
        """Make and model, the name that identifies a camera."""
        return f"{self.make} {self.tags.get('Model', 'unknown')}"


def plain_name(name: str) -> str:
    """Letters and digits of a make or camera name, case-folded: "SONY DSC-W1" and "Sony DSC W1" are one."""
    return "".join(sign for sign in unicodedata.normalize("NFKC", name).casefold() if sign.isalnum())


def add_sample(tar: tarfile.TarFile, sample: Sample) -> None:
    """Append a tile and its JSON to a tar open for writing; equal samples give equal bytes."""
    text = json.dumps(sample.meta, sort_keys=True).encode()
    for extension, data in ((sample.extension, sample.data), ("json", text)):
        member = tarfile.TarInfo(f"{sample.key}.{extension}")
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))


def find_shards(folder: str | Path) -> list[Path]:
    """The shards of a folder in order. Raises `DataError` if there are none or the numbering has a gap."""
    shards = sorted(path for path in Path(folder).glob("*.tar") if not path.name.startswith("."))
    if not shards:
        raise DataError(f"{folder}: no .tar shard there; check the path, or run notebooks/01_prepare_data first")
    if all(re.fullmatch(r"[0-9]{1,18}", path.stem) for path in shards):
        shards.sort(key=lambda path: int(path.stem))
        for before, after in pairwise(shards):
            if int(after.stem) > int(before.stem) + 1:
                name = f"{int(before.stem) + 1:0{len(before.stem)}d}.tar"
                raise DataError(
                    f"{folder}: shard {name} is missing, the next is {after.name}: download it, or renumber the rest"
                )
    return shards


def read_member(shard: Path, offset: int, size: int) -> bytes:
    """The bytes of one member, by its location in the shard. Raises `DataError` if the shard is gone or too short."""
    try:
        with open(shard, "rb") as file:
            file.seek(offset)
            data = file.read(size)
    except OSError as error:
        raise DataError(f"{shard}: cannot be read ({error.strerror}): run notebooks/01_prepare_data again") from error
    if len(data) < size:
        raise DataError(f"{shard}: ends in the middle of a tile: the shard is truncated, download or write it again")
    return data


def read_photos(shards: Sequence[Path]) -> tuple[list[Photo], Counter[str]]:
    """Like `index_photos`, but also raises `DataError` if no tile has EXIF."""
    photos, unused = index_photos(shards)
    left_out = Counter({reason: len(names) for reason, names in unused.items()})
    if not photos:
        reasons = "; ".join(f"{number} times {reason}" for reason, number in left_out.items()) or "no tile at all"
        raise DataError(
            f"{shards[0] if shards else 'no shards'}: no tile with EXIF in {len(shards)} shard(s) ({reasons}): "
            "img2dataset writes it with extract_exif=True"
        )
    return photos, left_out


def index_photos(
    shards: Sequence[Path], *, damaged: str = "raise", metas: bool = False
) -> tuple[list[Photo], dict[str, list[str]]]:
    """Index the shards: photos in order of first appearance, and the names of left-out tiles by reason.

    `metas` fills in `Photo.meta`, with `exif` parsed.

    Only JSON members are read; member names are never used as paths. Raises `DataError` for a missing shard, and with
    `damaged="raise"` also for one that is damaged, truncated, or not an uncompressed tar. With "skip", such a shard
    loses only the affected samples: reading continues at the next intact header, each such jump counts as a "damaged
    part of a shard", and a sample with only one half left counts under the reason for that half.
    """
    photos: dict[str, Photo] = {}
    left_out: defaultdict[str, list[str]] = defaultdict(list)
    printed: dict[str, Any] = {}
    tags: dict[str, str] = {}
    for shard in map(Path, shards):
        pictures, read, again, holes = _read_index(shard, skip=damaged == "skip")
        for reason, keys in (("damaged part of a shard", holes), ("its key comes again", again)):
            if keys:
                left_out[reason] += [f"{shard.name}/{key}" for key in keys]
        for key, location in pictures.items():
            meta = read.get(key, "tile without JSON")
            if location[2] > MAX_TILE_BYTES:
                meta = f"tile larger than {MAX_TILE_BYTES // 10**6} MB"
            if isinstance(meta, str):
                left_out[meta].append(f"{shard.name}/{key}")
                continue
            if meta["exif"] != printed:  # a photo's tiles are adjacent, and this step is the slow one
                printed, tags = meta["exif"], canonical_tags(meta["exif"])
            if not tags:
                left_out["tile without EXIF"].append(f"{shard.name}/{key}")
                continue
            name = str(meta["photo"]) if meta.get("photo") not in (None, "") else f"{shard.name}/{key}"
            photos.setdefault(name, Photo(name, tags, [], meta if metas else {})).tiles.append(location)
        if lone := sorted(read.keys() - pictures.keys()):
            left_out["JSON without tile"] += [f"{shard.name}/{key}" for key in lone]
    return list(photos.values()), dict(left_out)


def _read_index(shard: Path, skip: bool) -> tuple[dict[str, TileLocation], dict[str, dict | str], list[str], list[str]]:
    """For each key: the location of its tile, and its EXIF and photo or the reason it has none; keys that an earlier
    sample of the shard already used, once per replaced sample; and where damaged parts begin."""
    pictures: dict[str, TileLocation] = {}
    metas: dict[str, dict | str] = {}
    seen: dict[str, Counter[str]] = {"picture": Counter(), "json": Counter()}
    damage, end = [], 0
    try:
        size = shard.stat().st_size
        # a compressed tar's offsets are not file offsets; ignore_zeros: continue at the next header after damage
        with tarfile.open(shard, "r:", ignore_zeros=skip) as tar:
            for member in tar:
                if member.size < 0:
                    raise tarfile.ReadError(f"negative size of {member.name!r}")
                if skip and member.offset != end:
                    damage.append(end)
                if member.offset_data + member.size > size:
                    raise tarfile.ReadError("unexpected end of data")
                end = tar.offset
                key, kind = _key_and_kind(member)
                if kind in seen:
                    seen[kind][key] += 1
                if kind == "picture":
                    pictures[key] = (shard, member.offset_data, member.size)
                elif kind == "json":
                    metas[key] = _read_json(shard, member)
    except OSError as error:
        advice = "run notebooks/01_prepare_data again, or correct the path"
        raise DataError(f"{shard}: cannot be read ({error.strerror}): {advice}") from error
    except (tarfile.TarError, ValueError, OverflowError) as error:  # the last two: invalid numbers in headers
        if not skip:
            message = f"{shard}: not a complete, uncompressed tar file ({error}): download or write it again"
            raise DataError(message) from error
        damage.append(end)
    else:
        # tarfile mistakes a damaged header for the end; writers mark the end by a block of zeros.
        if size < end + tarfile.BLOCKSIZE or any(read_member(shard, end, tarfile.BLOCKSIZE)):
            damage.append(end)
    if damage and not skip:
        raise DataError(f"{shard}: damaged at byte {damage[0]}: download or write it again")
    again = (seen["picture"] | seen["json"]) - Counter(pictures.keys() | metas.keys())
    return pictures, metas, sorted(again.elements()), [f"byte {place}" for place in damage]


def _key_and_kind(member: tarfile.TarInfo) -> tuple[str, str]:
    """A member's key, and "picture", "json" or a different extension; "" for members that are not files."""
    key, _, extension = member.name.rpartition(".")
    kind = "picture" if f".{extension.lower()}" in PICTURE_EXTENSIONS else extension.lower()
    return key, kind if member.isreg() else ""


def _read_json(shard: Path, member: tarfile.TarInfo) -> dict | str:
    if member.size > MAX_JSON_BYTES:
        return f"JSON larger than {MAX_JSON_BYTES // 10**6} MB"
    try:
        meta = json.loads(read_member(shard, member.offset_data, member.size))
        exif = meta.get("exif") or {}
        exif = json.loads(exif) if isinstance(exif, str) else exif
        return {**meta, "exif": exif} if isinstance(exif, dict) else "JSON that cannot be read"
    except (ValueError, AttributeError, RecursionError):
        return "JSON that cannot be read"


SHARDS, SAMPLES = 3, 50  # to check: the setting is the same for an entire download
MOST = {"picture": MAX_TILE_BYTES, "json": MAX_JSON_BYTES}
HASHES = ("sha256", "sha512", "md5")  # hashes of the downloaded file, by their name in its JSON


def warn_of_reencoding(shards: Sequence[str | Path]) -> None:
    """Warn if the pictures of the first shard that records it differ from the downloaded files.

    img2dataset writes the downloaded file's hash and size in pixels into the JSON. Samples that have neither, or
    are tiles of a `photo`, are skipped; a shard that cannot be read raises no warning. Local paths only.
    """
    for shard in shards[:SHARDS]:
        found = [changed for meta, data in _first_samples(Path(shard)) if (changed := _changed(meta, data)) is not None]
        if any(found):
            share = f"{sum(found)} of the first {len(found)} pictures"
            warnings.warn(
                f"{shard}: {share} were resized or recompressed after the download, so the "
                "traces of the camera's own compression are gone: download again with img2dataset's "
                "disable_all_reencoding=True and resize_mode='no'",
                stacklevel=3,
            )
        if found:
            return


def is_shard(path: Path) -> bool:
    """Whether a tar file has a picture with JSON among its first members."""
    return any(True for _ in _first_samples(path))


def _changed(meta: Mapping[str, Any], data: bytes) -> bool | None:
    """Whether a picture differs from the downloaded one; None if its JSON does not say."""
    if "photo" in meta:  # smaller than the photo because it is a crop
        return None
    sizes = [meta.get(name) for name in ("width", "height", "original_width", "original_height")]
    resized = None if None in sizes else sizes[:2] != sizes[2:]
    for name in HASHES:
        if isinstance(meta.get(name), str):
            return bool(resized) or hashlib.new(name, data, usedforsecurity=False).hexdigest() != meta[name].lower()
    return resized


def _first_samples(shard: Path) -> Iterator[tuple[dict[str, Any], bytes]]:
    """JSON and picture of the first samples that have both."""
    locations: dict[str, dict[str, TileLocation]] = {"picture": {}, "json": {}}
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in islice(tar, 3 * SAMPLES):  # a picture, its JSON and its caption
                key, kind = _key_and_kind(member)
                if kind in locations and 0 <= member.size <= MOST[kind]:
                    locations[kind][key] = (shard, member.offset_data, member.size)
        both = [key for key in locations["json"] if key in locations["picture"]]
        for key in both[:SAMPLES]:
            meta = json.loads(read_member(*locations["json"][key]))
            if isinstance(meta, dict):
                yield meta, read_member(*locations["picture"][key])
    except (OSError, tarfile.TarError, ValueError, OverflowError, RecursionError):
        return  # indexing the shard reports the error
