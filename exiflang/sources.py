"""A source of photos → a plan: what each part of the work is to read, in files that workers fetch by number."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq

from exiflang.parts import part_name
from exiflang.reencoded import warn_of_reencoding
from exiflang.shards import DataError, find_shards
from exiflang.storage import Store, is_url
from exiflang.yfcc import yfcc_photos

PICTURE_EXTENSIONS = {".jpg", ".jpeg", ".jpe", ".png", ".webp", ".tif", ".tiff", ".heic", ".heif"}
LIST_EXTENSIONS = (".parquet", ".csv", ".csv.gz", ".csv.bz2")
SHARDS_BYTES = 512 << 20  # of existing shards that make a part

#: A row a photo (a shard of a folder of shards): number in the source, id, name, path or URL, and EXIF beside it.
PLAN = pa.schema(
    [
        ("number", pa.int64()),
        ("photo", pa.string()),
        ("name", pa.string()),
        ("place", pa.string()),
        ("exif", pa.string()),
    ]
)


def write_plan(
    source: str, store: Store, *, per_shard: int, sample: int, seed: int, min_tags: int
) -> tuple[dict[str, Any], Counter[str]]:
    """Write `plan/00000.parquet` and so on, a file a part, and return {kind, parts, stride} and what was left out.

    The kind is "files", "urls" or "shards"; `stride` bounds the photos of a part. Raises `DataError` for a source
    that is not there, is of no known kind or holds nothing.
    """
    left_out: Counter[str] = Counter()
    kind, rows = _rows(source, sample=sample, seed=seed, min_tags=min_tags, left_out=left_out)
    parts = _runs_of_shards(rows) if kind == "shards" else _runs(rows, per_shard)
    count = 0
    for count, part in enumerate(parts, 1):
        table, buffer = pa.Table.from_pylist(part, PLAN), io.BytesIO()
        pq.write_table(table, buffer)
        store.write(f"plan/{part_name(count - 1)}.parquet", buffer.getvalue())
    if not count:
        reasons = "; ".join(f"{number} left out: {reason}" for reason, number in left_out.items())
        raise DataError(f"{source}: no photo in it{f' ({reasons})' if reasons else ''}")
    return {"kind": kind, "parts": count, "stride": 10**6}, left_out


def _rows(source: str, *, sample: int, seed: int, min_tags: int, left_out: Counter[str]) -> tuple[str, Iterator[dict]]:
    if sample and not _dumps(source):
        raise ValueError(f"sample is {sample}: only YFCC100M's dumps are sampled; give 0 for any other source")
    if source.lower().endswith(LIST_EXTENSIONS):
        return "urls", _url_list(source)
    if is_url(source):
        return "shards", ({"place": shard} for shard in _remote_shards(source))
    folder = Path(source)
    if not folder.is_dir():
        raise DataError(
            f"{source}: no such folder; source is 'simulated', or a folder of photos, of tar shards or of YFCC100M's "
            "dumps, or a list of URLs (.parquet or .csv)"
        )
    if dumps := _dumps(source):
        return "urls", _yfcc(
            yfcc_photos(*dumps, sample=sample or None, seed=seed, min_tags=min_tags, left_out=left_out)
        )
    if any(folder.glob("*.tar")):
        shards = find_shards(folder)
        warn_of_reencoding(shards)
        return "shards", ({"place": str(shard)} for shard in shards)
    return "files", _files(folder)


def _dumps(source: str) -> list[str]:
    """YFCC100M's dumps of photos and of EXIF in a folder; [] if one is not there."""
    if is_url(source):
        return []
    found = [sorted(Path(source).glob(f"yfcc100m_{name}*")) for name in ("dataset", "exif")]
    return [str(files[0]) for files in found] if all(found) else []


def _files(folder: Path) -> Iterator[dict[str, Any]]:
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURE_EXTENSIONS and path.is_file())
    if not files:
        raise DataError(f"{folder}: no photos in it ({', '.join(sorted(PICTURE_EXTENSIONS))}) and no tar shards")
    for number, path in enumerate(files):
        yield {"number": number, "photo": f"{number:08d}", "name": str(path.relative_to(folder)), "place": str(path)}


def _remote_shards(source: str) -> list[str]:
    try:
        found = [name for name in Store(source).names() if name.endswith(".tar")]
    except (OSError, ValueError, ImportError) as error:
        raise DataError(f"{source}: cannot be listed ({error})") from error
    if not found:
        raise DataError(f"{source}: no .tar shard there; check the address")
    return [f"{source.rstrip('/')}/{name}" for name in found]


def _url_list(source: str) -> Iterator[dict[str, Any]]:
    """The rows of a table with a column `url`, and `photo` or `id` if it has one; their case does not matter."""
    number = 0
    for batch in _batches(source):
        names = {name.lower(): name for name in batch.schema.names}
        if "url" not in names:
            raise DataError(f"{source}: no column 'url' among {', '.join(batch.schema.names)}: name it so")
        urls, own = (
            batch.column(names[name]).cast(pa.string()).to_pylist() if name in names else [None] * batch.num_rows
            for name in ("url", "photo" if "photo" in names else "id")
        )
        for url, photo in zip(urls, own, strict=True):
            name = (url or "").partition("?")[0]  # what follows may be a secret
            yield {"number": number, "photo": photo or f"{number:08d}", "name": name, "place": url or ""}
            number += 1


def _batches(source: str) -> Iterator[pa.RecordBatch]:
    try:
        with fsspec.open(source, "rb", compression=None if source.endswith("parquet") else "infer") as file:
            if source.lower().endswith(".parquet"):
                yield from pq.ParquetFile(file).iter_batches(batch_size=10_000)
            else:
                yield from csv.open_csv(file)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(
            f"{source}: cannot be read as a table ({error}): give parquet or CSV with a head line"
        ) from error


def _yfcc(batches: Iterable[pa.RecordBatch]) -> Iterator[dict[str, Any]]:
    rows = (row for batch in batches for row in batch.to_pylist())
    for number, row in enumerate(rows):
        photo = row["photo"]
        yield {"number": number, "photo": photo, "name": photo, "place": row["url"], "exif": row["exif"]}


def _runs(rows: Iterator[dict], length: int) -> Iterator[list[dict]]:
    while run := list(islice(rows, length)):
        yield run


def _runs_of_shards(rows: Iterable[dict]) -> Iterator[list[dict]]:
    """Whole shards together until there are `SHARDS_BYTES` of them."""
    run: list[dict] = []
    size = 0
    for row in rows:
        run.append(row)
        size += _size(row["place"])
        if size >= SHARDS_BYTES:
            yield run
            run, size = [], 0
    if run:
        yield run


def _size(place: str) -> int:
    if not is_url(place):
        return os.path.getsize(place)
    filesystem, path = fsspec.core.url_to_fs(place)
    return filesystem.size(path) or 0
