"""Speed and memory of reading YFCC100M's dumps: part of `make scale`, or `python -m experiments.speed.yfcc`."""

import bz2
import json
import resource
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from exiflang.preparation.yfcc import yfcc_photos
from exiflang.utils.processes import worker_pool
from experiments.speed.yfcc_writer import write_many

PIECE = 64 << 20  # bytes compressed at a time, as in pbzip2


def measure(rows: int = 5_000_000, compressed: int = 1_000_000) -> dict[str, dict[str, Any]]:
    """Read dumps of `rows` rows, and smaller ones in bz2, each in a separate process."""
    found = {}
    with tempfile.TemporaryDirectory(prefix="exiflang-yfcc-") as name:
        folder = Path(name)
        dumps = [folder / "yfcc100m_dataset", folder / "yfcc100m_exif"]
        for columns, kind, sample in [(23, "a sample", rows // 50), (25, "all of them", 0)]:
            write_many(*dumps, rows, columns)
            found[f"{columns} columns, {kind}"] = _alone(dumps, rows, sample)
        write_many(*dumps, compressed)
        packed = [_compressed(path) for path in dumps]
        found["bz2, a sample"] = _alone(packed, compressed, compressed // 50)
    return found


def _alone(dumps: list[Path], rows: int, sample: int) -> dict[str, Any]:
    with worker_pool(1) as pool:
        return pool.submit(_read, [str(path) for path in dumps], rows, sample).result()


def _read(dumps: list[str], rows: int, sample: int) -> dict[str, Any]:
    left_out: Counter[str] = Counter()
    before = time.perf_counter()
    photos = sum(batch.num_rows for batch in yfcc_photos(dumps[:1], dumps[1:], left_out, sample=sample))
    seconds = time.perf_counter() - before
    if photos + left_out.total() != rows:
        raise RuntimeError(f"{photos} photos and {dict(left_out)} are not {rows} rows")
    return {
        "rows": rows,
        "photos": photos,
        "mb": round(sum(Path(dump).stat().st_size for dump in dumps) / 1e6),
        "rows_per_second": round(rows / seconds),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3),
    }


def _compressed(path: Path) -> Path:
    packed = path.with_name(f"{path.name}.bz2")
    with path.open("rb") as file, packed.open("wb") as out:
        while piece := file.read(PIECE):
            out.write(bz2.compress(piece))
    return packed


if __name__ == "__main__":
    print(json.dumps(measure(), indent=1))
