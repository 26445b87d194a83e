"""The unit of work of `prepare`: one shard job of a plan → a shard for each split, and its index.

A job is done once its index exists, which is written last. Jobs are byte-for-byte reproducible on any worker: repeating
one, or running it again after an interruption, changes nothing.
"""

import hashlib
import io
import json
import os
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from exiflang.data.shards import DataError, add_sample
from exiflang.preparation.downloads import MAX_BYTES, TOO_LARGE, fetch
from exiflang.preparation.options import Limits, Split, grouped
from exiflang.preparation.photos import Prepared, SourcePhoto, copy_photos, cut_photos
from exiflang.preparation.splits import Splitter
from exiflang.preparation.yfcc import decode_exif
from exiflang.utils.dct import standard_tables
from exiflang.utils.extras import extra
from exiflang.utils.files import printable
from exiflang.utils.storage import Store

with extra("data"):
    import pyarrow as pa
    import pyarrow.parquet as pq

#: One row per source photo. `split` and the columns after it are null if a photo is left out, `reason` if it is not.
INDEX = pa.schema(
    dict.fromkeys(("photo", "name", "reason", "detail", "split", "camera"), pa.string())
    | {"year": pa.int32(), "tags": pa.list_(pa.string()), "tiles": pa.int32()}
    | dict.fromkeys(("format", "tables"), pa.string())
)


def job_name(job: int) -> str:
    """The base name of a job's files, e.g. "00012"."""
    return f"{job:05d}"


def run_job(root: str, job: int, limits: Limits) -> str:
    """Do job number `job` of the plan in the folder or URL `root`, unless it is done; returns the job's name.

    limits: for downloads. Raises `DataError` if a shard of the source cannot be read.
    """
    store, name = Store(root), job_name(job)
    if store.exists(f"index/{name}.parquet"):
        return name
    plan = json.loads(store.read("plan.json"))
    options = grouped({name: value for name, value in plan["arguments"].items() if name != "source"})
    seed, contents = options["seed"], options["contents"]
    rows = pq.read_table(pa.BufferReader(store.read(f"plan/{name}.parquet"))).to_pylist()
    rows = [row | {"place": os.fsdecode(row["place"])} for row in rows]
    rng = np.random.default_rng([seed, job] if job else seed)
    if plan["kind"] == "shards":
        photos = copy_photos([row["place"] for row in rows], plan["stride"] * job, contents.min_tags)
    else:
        photos = cut_photos(_fetched(rows, limits) if plan["kind"] == "urls" else _read(rows), rng, contents)
    write_job(store, job, photos, seed, options["split"], several=plan["parts"] > 1)
    return name


def _read(rows: list[dict[str, Any]]) -> Iterator[SourcePhoto]:
    for row in rows:
        data, reason, path = None, "", Path(row["place"])
        try:
            if not path.is_file():  # a pipe or a device would block forever
                reason = "no such file"
            elif path.stat().st_size > MAX_BYTES:
                reason = TOO_LARGE.format(MAX_BYTES / 1e6)
            else:
                data = path.read_bytes()
        except OSError as error:
            reason = f"cannot be read: {error.strerror}"
        yield SourcePhoto(row["number"], row["photo"], row["name"], data, reason)


def _fetched(rows: list[dict[str, Any]], limits: Limits) -> Iterator[SourcePhoto]:
    urls = ((row["photo"], row["place"]) for row in rows)
    missed: Counter[str] = Counter()
    for row, got in zip(rows, fetch(urls, limits), strict=True):
        exif = decode_exif(row["exif"]) if row["exif"] else None
        missed[got.reason] += got.later
        yield SourcePhoto(row["number"], row["photo"], row["name"], got.data, got.reason, exif)
    if missed.total() == len(rows):  # otherwise, a network outage would leave an empty shard that counts as done
        reasons = ", ".join(f"{number} times {reason}" for reason, number in missed.items())
        raise DataError(f"none of {len(rows)} photos could be fetched ({reasons}): check the network")


def write_job(store: Store, job: int, photos: Iterable[Prepared], seed: int, split: Split, *, several: bool) -> None:
    """Write the shards of `photos` and their index.

    With `several` jobs, each split has a shard even if it is empty: a gap in the numbers would look like missing data.
    """
    splitter, name = Splitter(job, seed, split), job_name(job)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="exiflang-") as folder:
        files = {kind: Path(folder) / f"{kind}.tar" for kind in split.names}
        with ExitStack() as stack:
            tars = {kind: stack.enter_context(tarfile.open(file, "w")) for kind, file in files.items()}
            for photo in photos:
                kind = None if photo.reason else splitter(photo.camera)
                if kind:
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
    row = {"photo": printable(photo.photo), "name": printable(photo.name)}
    if photo.reason:
        return row | {"reason": photo.reason, "detail": printable(photo.detail)}
    year = photo.tags.get("DateTimeOriginal", photo.tags.get("DateTime", ""))[:4]
    kind, tables = _format(photo.tiles[0].data)
    return row | {
        "split": split, "camera": photo.camera, "year": int(year) if year.isdecimal() else None,
        "tags": list(photo.tags), "tiles": len(photo.tiles), "format": kind, "tables": tables,
    }  # fmt: skip


def _format(tile: bytes) -> tuple[str, str | None]:
    """A tile's file format and, for JPEG, the name of its quantization tables.

    "quality 95" for libjpeg's tables of that quality, else "own", a space and 8 digits that identify the tables.
    """
    with Image.open(io.BytesIO(tile)) as image:
        if image.format != "JPEG" or not isinstance(image, JpegImageFile):
            return str(image.format), None
        tables = _key(image.quantization)
    return "JPEG", _standard_tables().get(tables) or f"own {tables}"


def _key(tables: Mapping[int, Sequence[int]]) -> str:
    named = sorted((number, list(steps)) for number, steps in tables.items())
    return hashlib.blake2b(repr(named).encode(), digest_size=4).hexdigest()


@cache
def _standard_tables() -> dict[str, str]:
    return {_key(dict(enumerate(standard_tables(quality)))): f"quality {quality}" for quality in range(1, 101)}
