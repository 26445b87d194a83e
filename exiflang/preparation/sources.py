"""A source of photos → a plan: the inputs of each shard job, in files that workers fetch by number."""

import io
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import fsspec

from exiflang.data.index import NAMED
from exiflang.data.shard_urls import expand_shards, shard_sizes
from exiflang.data.shards import DataError, find_shards, is_shard, warn_of_reencoding
from exiflang.preparation.options import Contents
from exiflang.preparation.shard_job import job_name
from exiflang.preparation.yfcc import yfcc_photos
from exiflang.utils.extras import extra
from exiflang.utils.files import printable
from exiflang.utils.folders import find_pictures
from exiflang.utils.images import PICTURE_EXTENSIONS
from exiflang.utils.storage import Store, is_url

with extra("data"):
    import pyarrow as pa
    import pyarrow.csv as csv
    import pyarrow.parquet as pq

LIST_EXTENSIONS = (".parquet", ".csv", ".csv.gz", ".csv.bz2")
DUMP = re.compile(r"yfcc100m_(dataset|exif)(?:[-_]?(\d{1,4}))?(?:\.bz2)?")  # whole, or in numbered parts
SHARDS_BYTES = 512 << 20  # of existing shards per job

#: One row per photo (or per shard of a folder of shards): number in the source, id, name, supplied EXIF, and path or
#: URL, as bytes because paths need not be UTF-8.
PLAN = pa.schema(
    {"number": pa.int64()} | dict.fromkeys(("photo", "name", "exif"), pa.string()) | {"place": pa.binary()}
)


def write_plan(source: str, store: Store, seed: int, contents: Contents) -> dict[str, Any]:
    """Write `plan/00000.parquet` and so on, one file per job, and return a summary of the plan and of what is left out.

    `kind` is "files", "urls" or "shards"; `parts` counts the jobs, `stride` caps the photos per job; `left_out` and
    `left_out_examples` count and name files of a folder, `rows_left_out` counts rows of dumps. Raises `DataError` for
    a source that is missing, of an unknown kind or empty.
    """
    found, length = _Found(), contents.photos_per_shard
    rows = _rows(source, seed, contents, found)
    jobs = _runs_of_shards(rows) if found.kind == "shards" else iter(lambda: list(islice(rows, length)), [])
    count = 0
    for count, job in enumerate(jobs, 1):
        places = [row | {"place": os.fsencode(row["place"])} for row in job]
        table, buffer = pa.Table.from_pylist(places, PLAN), io.BytesIO()
        pq.write_table(table, buffer)
        store.write(f"plan/{job_name(count - 1)}.parquet", buffer.getvalue())
    if not count:
        reasons = "; ".join(f"{number} left out: {reason}" for reason, number in found.rows_left_out.items())
        raise DataError(f"{source}: no photo in it{f' ({reasons})' if reasons else ''}")
    return {
        "kind": found.kind,
        "parts": count,
        "stride": 10**6,
        "dumps": found.dumps,
        "rows_left_out": dict(found.rows_left_out),
        "left_out": {reason: len(names) for reason, names in found.unused.items()},
        "left_out_examples": {reason: names[:NAMED] for reason, names in found.unused.items()},
    }


@dataclass
class _Found:
    """The contents of a source: its kind, the dumps to read, and the dump rows and files that are not used."""

    kind: str = "urls"
    dumps: list[str] = field(default_factory=list)
    rows_left_out: Counter[str] = field(default_factory=Counter)
    unused: dict[str, list[str]] = field(default_factory=dict)

    def pass_over(self, reason: str, name: str) -> None:
        self.unused.setdefault(reason, []).append(printable(name))

    def __str__(self) -> str:
        named = ((len(names), reason, ", ".join(names[:3])) for reason, names in self.unused.items())
        return "".join(f"; {number} left out: {reason}, e.g. {examples}" for number, reason, examples in named)


def _rows(source: str, seed: int, contents: Contents, found: _Found) -> Iterator[dict]:
    sample, dumps = contents.sample, {} if is_url(source) else _dumps(Path(source), found)
    if sample and not dumps:
        raise ValueError(f"sample is {sample}: only YFCC100M's dumps are sampled; give 0 for any other source")
    if source.lower().endswith(LIST_EXTENSIONS):
        return _url_list(source)
    if is_url(source):
        found.kind = "shards"
        return _named_apart(expand_shards(source))
    folder = Path(source)
    if not folder.is_dir():
        raise DataError(
            f"{source}: no such folder; source must be 'simulated', a folder of photos, of tar shards or of YFCC100M's "
            "dumps, or a list of URLs (.parquet or .csv)"
        )
    if dumps:
        found.dumps = [Path(path).name for paths in dumps.values() for path in paths]
        options = {"sample": sample, "seed": seed, "min_tags": contents.min_tags}
        batches = yfcc_photos(dumps["dataset"], dumps["exif"], found.rows_left_out, **options)
        photos = (row for batch in batches for row in batch.to_pylist())
        return (
            {"number": number, "photo": row["photo"], "name": row["photo"], "place": row["url"], "exif": row["exif"]}
            for number, row in enumerate(photos)
        )
    return _files(folder, found)


def _dumps(folder: Path, found: _Found) -> dict[str, list[str]]:
    """The parts of YFCC100M's dumps, `dataset` and `exif`, in a folder; {} if it has neither."""
    dumps: dict[str, dict[int, Path]] = {"dataset": {}, "exif": {}}
    others = _Found()
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:  # plain files sort before their compressed copies
        name = DUMP.fullmatch(path.name)
        if not name or not path.is_file():
            others.pass_over("no dump by its name", path.name)
            continue
        parts, part = dumps[name[1]], int(name[2] or -1)
        if not path.stat().st_size:
            others.pass_over("an empty file", path.name)
        elif part in parts:
            others.pass_over(f"the same dump as {parts[part].name}", path.name)
        else:
            parts[part] = path
    if not any(dumps.values()):
        return {}
    found.unused = others.unused
    for dump, parts in dumps.items():
        if not parts:
            raise DataError(f"{folder}: no yfcc100m_{dump} next to the other dump: download it too{found}")
        for before, after in pairwise(sorted(parts)):
            if after > before + 1 > 0:
                missing = f"part {before + 1} of yfcc100m_{dump} is missing, the next is {parts[after].name}"
                raise DataError(f"{folder}: {missing}: download it, or move the parts you want into a separate folder")
    return {dump: [str(parts[part]) for part in sorted(parts)] for dump, parts in dumps.items()}


def _files(folder: Path, found: _Found) -> Iterator[dict[str, Any]]:
    """The shards of a folder, or its photos."""
    photos, closed, others = find_pictures(folder, outside=True)
    tars = [path for path in folder.glob("*.tar") if not path.name.startswith(".")]
    shards = find_shards(folder) if tars and (not photos or any(map(is_shard, tars))) else []
    if shards and photos:
        raise DataError(
            f"{folder}: holds {len(shards)} tar shards and {len(photos)} photos, such as {photos[0].name}: give a "
            "folder with only one kind"
        )
    kind = "no shard by its name" if shards else "no picture by its name"
    used = {*shards}
    for path, reason in [*closed, *((path, kind) for path in others if path not in used)]:
        found.pass_over(reason, str(path.relative_to(folder)))
    found.kind = "shards" if shards else "files"
    if shards:
        warn_of_reencoding(shards)
        return ({"place": str(shard)} for shard in shards)
    if not photos:
        known = ", ".join(sorted(PICTURE_EXTENSIONS))
        raise DataError(f"{folder}: no photos in it ({known}) and no tar shards{found}")
    return (
        {"number": number, "photo": f"{number:08d}", "name": printable(path.relative_to(folder)), "place": str(path)}
        for number, path in enumerate(photos)
    )


def _named_apart(shards: list[str]) -> Iterator[dict[str, Any]]:
    """One row per shard. Photos are identified by the names of their shards, which must be unique."""
    ((name, times),) = Counter(shard.rpartition("/")[2] for shard in shards).most_common(1)
    if times > 1:
        raise DataError(f"{times} shards named {name}: prepare the folders separately, or rename their shards")
    return ({"place": shard} for shard in shards)


def _url_list(source: str) -> Iterator[dict[str, Any]]:
    """The rows of a table with a column `url` and an optional column `photo` or `id`, in any case."""
    number = 0
    for batch in _batches(source):
        names = {name.lower(): name for name in batch.schema.names}
        if "url" not in names:
            raise DataError(f"{source}: no column 'url' among {', '.join(batch.schema.names)}: rename the URL column")
        urls, own = (
            batch.column(names[name]).cast(pa.string()).to_pylist() if name in names else [None] * batch.num_rows
            for name in ("url", "photo" if "photo" in names else "id")
        )
        for url, photo in zip(urls, own, strict=True):
            name = (url or "").partition("?")[0]  # the query may contain a secret
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
            f"{source}: cannot be read as a table ({error}): give parquet or CSV with a header line"
        ) from error


def _runs_of_shards(rows: Iterable[dict]) -> Iterator[list[dict]]:
    """Group whole shards into runs of at least `SHARDS_BYTES`."""
    rows, run, filled = list(rows), [], 0
    for row, size in zip(rows, shard_sizes([row["place"] for row in rows]), strict=True):
        run.append(row)
        filled += size or 0
        if filled >= SHARDS_BYTES:
            yield run
            run, filled = [], 0
    if run:
        yield run
