"""The index of a data set, one row per source photo → the set's contents, tag frequencies and left-out photos."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from exiflang.data.shards import plain_name
from exiflang.exif.text import TagVocabulary
from exiflang.utils.extras import extra
from exiflang.utils.storage import Store

with extra("data"):
    import pyarrow as pa
    import pyarrow.parquet as pq

NAMED = 20  # left-out photos listed per reason


def read_index(root: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The index of the data set in a folder or at a URL, one table per shard, in order (see `shard_job.INDEX`)."""
    store = Store(root)
    for name in store.names("index"):
        yield pq.read_table(pa.BufferReader(store.read(name)), columns=columns)


def describe(root: str, splits: Sequence[str], plan: Mapping[str, Any]) -> dict[str, Any]:
    """Photo and camera counts of each split, left-out counts by reason, and the SHA-256 of each shard.

    plan: may have its own `left_out` and `left_out_examples`, for files that no job received.
    """
    photos: Counter[str] = Counter()
    cameras: dict[str, set[str]] = {split: set() for split in splits}
    left_out: Counter[str] = Counter(plan.get("left_out", {}))
    examples: dict[str, list[str]] = dict(plan.get("left_out_examples", {}))
    shards: dict[str, str] = {}
    for table in read_index(root, ["reason", "detail", "split", "camera"]):
        shards |= json.loads(table.schema.metadata[b"shards"])
        for row in table.to_pylist():
            if row["reason"]:
                left_out[row["reason"]] += 1
                named = examples.setdefault(row["reason"], [])
                if row["detail"] and len(named) < NAMED:
                    named.append(row["detail"])
            else:
                photos[row["split"]] += 1
                cameras[row["split"]].add(plain_name(row["camera"]))
    return {
        "photos": {split: photos[split] for split in splits},
        "cameras": {split: len(names) for split, names in cameras.items()},
        "left_out": dict(left_out),
        "left_out_examples": {reason: names for reason, names in examples.items() if names},
        "shards": {name: shards[name] for name in sorted(shards) if photos[name.partition("/")[0]]},
    }


def tag_vocabulary(root: str, min_share: float) -> TagVocabulary:
    """How common each tag is among the training photos; `min_share` as in `TagVocabulary`."""
    tables = (table.filter(pa.compute.equal(table["split"], "train")) for table in read_index(root, ["split", "tags"]))
    names = (tags for table in tables for tags in table["tags"].to_pylist())
    return TagVocabulary(min_share).fit(dict.fromkeys(tags, "") for tags in names)


def kept_photos(root: str) -> pd.DataFrame:
    """One row per photo kept: split, camera, year (Int32, may be missing), tiles, tables (see `shard_job.INDEX`)."""
    columns = ["split", "camera", "year", "tiles", "tables"]
    table = pa.concat_tables(read_index(root, columns)).to_pandas()
    return table[table["split"].notna()].astype({"year": "Int32", "tiles": int}).reset_index(drop=True)
