"""A source of photos → a plan: what each shard job is to read, in files that workers fetch by number."""

import io
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import fsspec

from exiflang.data.index import NAMED
from exiflang.data.shard_urls import expand_shards, shard_sizes
from exiflang.data.shards import DataError, find_shards, warn_of_reencoding
from exiflang.preparation.options import Contents
from exiflang.preparation.shard_job import job_name
from exiflang.preparation.yfcc import yfcc_photos
from exiflang.utils.extras import extra
from exiflang.utils.images import PICTURE_EXTENSIONS, find_pictures
from exiflang.utils.storage import Store, is_url

with extra("data"):
    import pyarrow as pa
    import pyarrow.csv as csv
    import pyarrow.parquet as pq

LIST_EXTENSIONS = (".parquet", ".csv", ".csv.gz", ".csv.bz2")
SHARDS_BYTES = 512 << 20  # of existing shards that make a job

#: A row a photo (a shard of a folder of shards): number in the source, id, name, path or URL, and EXIF beside it.
PLAN = pa.schema({"number": pa.int64()} | dict.fromkeys(("photo", "name", "place", "exif"), pa.string()))


def write_plan(source: str, store: Store, seed: int, contents: Contents) -> dict[str, Any]:
    """Write `plan/00000.parquet` and so on, a file a job, and return what they are and what they leave out.

    `kind` is "files", "urls" or "shards"; `parts` counts the jobs, `stride` bounds the photos of one; `left_out` and
    `left_out_examples` count and name files of a folder, `rows_left_out` counts rows of dumps. Raises `DataError` for
    a source that is not there, is of no known kind or holds nothing.
    """
    left_out: Counter[str] = Counter()
    unused: dict[str, list[str]] = {}
    kind, rows = _rows(source, seed, contents, left_out, unused)
    length = contents.photos_per_shard
    jobs = _runs_of_shards(rows) if kind == "shards" else iter(lambda: list(islice(rows, length)), [])
    count = 0
    for count, job in enumerate(jobs, 1):
        table, buffer = pa.Table.from_pylist(job, PLAN), io.BytesIO()
        pq.write_table(table, buffer)
        store.write(f"plan/{job_name(count - 1)}.parquet", buffer.getvalue())
    if not count:
        reasons = "; ".join(f"{number} left out: {reason}" for reason, number in left_out.items())
        raise DataError(f"{source}: no photo in it{f' ({reasons})' if reasons else ''}")
    return {
        "kind": kind,
        "parts": count,
        "stride": 10**6,
        "rows_left_out": dict(left_out),
        "left_out": {reason: len(names) for reason, names in unused.items()},
        "left_out_examples": {reason: names[:NAMED] for reason, names in unused.items()},
    }


def _rows(
    source: str, seed: int, contents: Contents, left_out: Counter[str], unused: dict[str, list[str]]
) -> tuple[str, Iterator[dict]]:
    sample = contents.sample
    if sample and not _dumps(source):
        raise ValueError(f"sample is {sample}: only YFCC100M's dumps are sampled; give 0 for any other source")
    if source.lower().endswith(LIST_EXTENSIONS):
        return "urls", _url_list(source)
    if is_url(source):
        return "shards", ({"place": shard} for shard in expand_shards(source))
    folder = Path(source)
    if not folder.is_dir():
        raise DataError(
            f"{source}: no such folder; source is 'simulated', or a folder of photos, of tar shards or of YFCC100M's "
            "dumps, or a list of URLs (.parquet or .csv)"
        )
    if dumps := _dumps(source):
        dataset, exif = dumps
        batches = yfcc_photos(dataset, exif, left_out, sample=sample, seed=seed, min_tags=contents.min_tags)
        photos = (row for batch in batches for row in batch.to_pylist())
        return "urls", (
            {"number": number, "photo": row["photo"], "name": row["photo"], "place": row["url"], "exif": row["exif"]}
            for number, row in enumerate(photos)
        )
    if any(folder.glob("*.tar")):
        shards = find_shards(folder)
        warn_of_reencoding(shards)
        return "shards", ({"place": str(shard)} for shard in shards)
    return "files", _files(folder, unused)


def _dumps(source: str) -> list[str]:
    """YFCC100M's dumps of photos and of EXIF in a folder; [] if one is not there."""
    if is_url(source):
        return []
    found = [sorted(Path(source).glob(f"yfcc100m_{name}*")) for name in ("dataset", "exif")]
    return [str(files[0]) for files in found] if all(found) else []


def _files(folder: Path, unused: dict[str, list[str]]) -> Iterator[dict[str, Any]]:
    files, closed, others = find_pictures(folder, outside=True)
    for path, reason in [*closed, *((path, "no picture by its name") for path in others)]:
        unused.setdefault(reason, []).append(str(path.relative_to(folder)))
    if not files:
        known = ", ".join(sorted(PICTURE_EXTENSIONS))
        reasons = "".join(f"; {len(out)} left out: {why}, e.g. {', '.join(out[:3])}" for why, out in unused.items())
        raise DataError(f"{folder}: no photos in it ({known}) and no tar shards{reasons}")
    for number, path in enumerate(files):
        yield {"number": number, "photo": f"{number:08d}", "name": str(path.relative_to(folder)), "place": str(path)}


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


def _runs_of_shards(rows: Iterable[dict]) -> Iterator[list[dict]]:
    """Whole shards together until there are `SHARDS_BYTES` of them."""
    rows, run, filled = list(rows), [], 0
    for row, size in zip(rows, shard_sizes([row["place"] for row in rows]), strict=True):
        run.append(row)
        filled += size or 0
        if filled >= SHARDS_BYTES:
            yield run
            run, filled = [], 0
    if run:
        yield run
