"""The piece of work of which a data set is made: one part of a plan → a shard of each split and its index.

A part is done when its index is there, which is written last. Equal parts give equal bytes, whoever does them: a part
that is done twice, or again after a kill, changes nothing.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from exiflang.downloads import Limits, fetch
from exiflang.photos import MAX_PHOTO_BYTES, Item, Prepared, copy_photos, cut_photos
from exiflang.shards import DataError, add_sample
from exiflang.splits import Splitter, splits_of
from exiflang.storage import Store
from exiflang.yfcc import decode_exif

#: A row a photo of the source. Of one that is left out `split` and what follows are null, of any other `reason`.
INDEX = pa.schema(
    [
        ("photo", pa.string()),
        ("name", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("split", pa.string()),
        ("camera", pa.string()),
        ("year", pa.int32()),
        ("tags", pa.list_(pa.string())),
        ("tiles", pa.int32()),
        ("format", pa.string()),
        ("tables", pa.string()),
    ]
)


def part_name(part: int) -> str:
    """The name that a part's files share, e.g. "00012"."""
    return f"{part:05d}"


def prepare_part(root: str, part: int, limits: Limits) -> str:
    """Do part number `part` of the plan in the folder or URL `root`, unless it is done; returns the part's name.

    limits: of downloads. Raises `DataError` for a shard of the source that cannot be read.
    """
    store, name = Store(root), part_name(part)
    if store.exists(f"index/{name}.parquet"):
        return name
    plan = json.loads(store.read("plan.json"))
    arguments = plan["arguments"]
    rows = pq.read_table(pa.BufferReader(store.read(f"plan/{name}.parquet"))).to_pylist()
    seed = arguments["seed"]
    rng = np.random.default_rng([seed, part] if part else seed)
    cut = {key: arguments[key] for key in ("tile_size", "tiles_per_photo", "min_tags", "private")}
    if plan["kind"] == "shards":
        photos = copy_photos([row["place"] for row in rows], plan["stride"] * part, min_tags=arguments["min_tags"])
    elif plan["kind"] == "urls":
        photos = cut_photos(_fetched(rows, limits), rng, **cut)
    else:
        photos = cut_photos(_read(rows), rng, **cut)
    write_part(store, part, photos, several=plan["parts"] > 1, **split_arguments(arguments))
    return name


def split_arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    """Those of a `Splitter` among the arguments of `prepare`."""
    return {key: arguments[key] for key in ("seed", "heldout_share", "choose_share", "report_share")}


def _read(rows: list[dict[str, Any]]) -> Iterator[Item]:
    for row in rows:
        data, reason = None, ""
        try:
            if Path(row["place"]).stat().st_size > MAX_PHOTO_BYTES:
                reason = f"larger than {MAX_PHOTO_BYTES // 10**6} MB"
            else:
                data = Path(row["place"]).read_bytes()
        except OSError as error:
            reason = f"cannot be read: {error.strerror}"
        yield Item(row["number"], row["photo"], row["name"], data, reason)


def _fetched(rows: list[dict[str, Any]], limits: Limits) -> Iterator[Item]:
    urls = ((row["photo"], row["place"]) for row in rows)
    missed: Counter[str] = Counter()
    for row, got in zip(rows, fetch(urls, limits), strict=True):
        exif = decode_exif(row["exif"]) if row["exif"] else None
        missed[got.reason] += got.later
        yield Item(row["number"], row["photo"], row["name"], got.data, got.reason, exif)
    if missed.total() == len(rows):  # else a network that is down would leave an empty set that counts as done
        reasons = ", ".join(f"{number} times {reason}" for reason, number in missed.items())
        raise DataError(f"not one of {len(rows)} photos could be fetched ({reasons}): check the network")


def write_part(store: Store, part: int, photos: Iterable[Prepared], *, several: bool, **split: Any) -> None:
    """Write the shards of `photos` and their index.

    With `several` parts each split has a shard, an empty one if need be: a gap in the numbers would look like a loss.
    """
    splitter = Splitter(part, **split)
    splits = splits_of(split["choose_share"], split["report_share"])
    name = part_name(part)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="exiflang-") as folder:
        files = {kind: Path(folder) / f"{kind}.tar" for kind in splits}
        with ExitStack() as stack:
            tars = {kind: stack.enter_context(tarfile.open(file, "w")) for kind, file in files.items()}
            for photo in photos:
                kind = None if photo.reason else splitter(photo.camera)
                for tile in photo.tiles:
                    add_sample(tars[kind], tile)
                rows.append(_row(photo, kind))
        digests = {}
        for kind, file in files.items():
            if several or any(row.get("split") == kind for row in rows):
                with file.open("rb") as opened:
                    digests[f"{kind}/{name}.tar"] = hashlib.file_digest(opened, "sha256").hexdigest()
                store.put(file, f"{kind}/{name}.tar")
    table = pa.Table.from_pylist(rows, INDEX.with_metadata({"shards": json.dumps(digests)}))
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    store.write(f"index/{name}.parquet", buffer.getvalue())


def _row(photo: Prepared, split: str | None) -> dict[str, Any]:
    row = {"photo": _text(photo.photo), "name": _text(photo.name)}
    if photo.reason:
        return row | {"reason": photo.reason, "detail": _text(photo.detail)}
    year = photo.tags.get("DateTimeOriginal", photo.tags.get("DateTime", ""))[:4]
    kind, tables = _format(photo.tiles[0].data)
    return row | {
        "split": split,
        "camera": photo.camera,
        "year": int(year) if year.isdecimal() else None,
        "tags": list(photo.tags),
        "tiles": len(photo.tiles),
        "format": kind,
        "tables": tables,
    }


def _text(text: str) -> str:
    """Names of files and ids may hold bytes that are no UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def _format(tile: bytes) -> tuple[str, str | None]:
    """Of a tile's file: its format, and for JPEG the name of its quantisation tables.

    "quality 95" for libjpeg's tables of that quality, else "own", a space and 8 digits that tell tables apart.
    """
    with Image.open(io.BytesIO(tile)) as image:
        if image.format != "JPEG":
            return image.format, None
        tables = _key(image)
    return "JPEG", _standard_tables().get(tables) or f"own {tables}"


def _key(image: Image.Image) -> str:
    return hashlib.blake2b(repr(sorted(image.quantization.items())).encode(), digest_size=4).hexdigest()


@lru_cache(maxsize=1)
def _standard_tables() -> dict[str, str]:
    names = {}
    for quality in range(1, 101):
        buffer = io.BytesIO()
        Image.new("RGB", (1, 1)).save(buffer, "JPEG", quality=quality)
        names[_key(Image.open(buffer))] = f"quality {quality}"
    return names
