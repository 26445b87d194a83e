"""`python -m experiments.speed.scale` (`make scale`): update reports/golden/scale.json and print its table.

Measures how fast photos become shards with one worker and with two, which real photos and broken files are skipped and
why, that existing shards are copied exactly, the effect of a killed worker, and how fast YFCC100M's dumps are read.
Needs `../shared`.
"""

import hashlib
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
from dask.distributed import LocalCluster

from exiflang.data.shards import find_shards, read_member, read_photos
from exiflang.pipeline.parameters import project_path
from exiflang.preparation.dataset import prepare
from exiflang.preparation.options import Contents, Work, grouped
from exiflang.utils.hardware import this_machine
from experiments.speed.yfcc import measure as measure_yfcc
from experiments.tables import publish

SHARED = project_path("../shared")
COPIES = 8  # of each real photo, to keep two workers busy
MILLIONS = 100  # of photos, for the estimate


def measure() -> dict[str, Any]:
    """All measurements, in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="exiflang-scale-") as name:
        folder = Path(name)
        album = _album(folder / "album")
        return {
            "machine": this_machine(),
            "camera_photos": _prepared(SHARED / "camera_photos", folder / "camera_photos"),
            "badfiles": _prepared(SHARED / "badfiles", folder / "badfiles", alone=False),
            "shards": _copied(folder / "shards"),
            "workers": _workers(album, folder),
            "killed": _killed(album, folder),
            "yfcc": measure_yfcc(),
        }


def _album(folder: Path) -> Path:
    folder.mkdir()
    for copy in range(COPIES):
        for path in sorted((SHARED / "camera_photos").iterdir()):
            (folder / f"{copy} {path.name}").symlink_to(path)
    return folder


def _prepared(source: Path, folder: Path, alone: bool = True) -> dict[str, Any]:
    """Result of preparing a folder's photos in one process; with `alone` False, a good photo is added."""
    if not alone:
        (folder.with_name("mixed")).mkdir()
        good = min((SHARED / "camera_photos").iterdir(), key=lambda path: path.stat().st_size)
        for path in [*source.iterdir(), good]:
            (folder.with_name("mixed") / path.name).symlink_to(path)
        source = folder.with_name("mixed")
    before = time.perf_counter()
    found = prepare(str(source), folder, work=Work(workers=1))
    seconds = time.perf_counter() - before
    files = sum(found["photos"].values()) + sum(found["left_out"].values())
    return {
        "files": files,
        "kept": sum(found["photos"].values()),
        "left_out": found["left_out"],
        "files_per_second": round(files / seconds, 1),
        "mb_per_photo": round(sum(path.stat().st_size for path in source.iterdir()) / files / 1e6, 2),
    }


def _copied(folder: Path) -> dict[str, Any]:
    """Prepare `../shared/photos` again, and check whether each tile is unchanged."""
    before = time.perf_counter()
    found = prepare(str(SHARED / "photos"), folder, work=Work(workers=1))
    seconds = time.perf_counter() - before
    made = [photo for split in ("train", "heldout") for photo in read_photos(find_shards(folder / split))[0]]
    tiles = {photo.id: _digests(photo) for photo in made}
    originals = {photo.id: _digests(photo) for photo in read_photos(find_shards(SHARED / "photos"))[0]}
    return {
        "photos": len(made),
        "tiles": sum(map(len, tiles.values())),
        "tiles_that_differ": sum(tiles[photo] != originals[photo] for photo in tiles),
        "left_out": found["left_out"],
        "photos_per_second": round(len(made) / seconds),
    }


def _digests(photo) -> list[bytes]:
    return [hashlib.sha256(read_member(*place)).digest() for place in photo.tiles]


def _workers(album: Path, folder: Path) -> dict[str, Any]:
    """Photos per second with one worker and with two, excluding the start of workers; measured alternately, twice."""
    rates: dict[int, list[float]] = {1: [], 2: []}
    for turn in range(2):
        for workers in rates:
            with LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster:
                before = time.perf_counter()
                target = folder / f"workers{workers}-{turn}"
                work = Work(scheduler=cluster.scheduler_address)
                prepare(str(album), target, contents=Contents(photos_per_shard=10), work=work)
                rates[workers].append(len(list(album.iterdir())) / (time.perf_counter() - before))
    best = {workers: max(values) for workers, values in rates.items()}
    return {
        "photos_per_second": {str(workers): round(rate, 1) for workers, rate in best.items()},
        "scaling": round(best[2] / best[1], 2),
    }


def _killed(album: Path, folder: Path) -> dict[str, Any]:
    """Four workers, one of them killed with SIGKILL halfway: compares the shards with those of an undisturbed run."""
    options = grouped({"photos_per_shard": 10, "workers": 4})
    calm = prepare(str(album), folder / "calm", **options)
    index, parts, when = folder / ".killed.part" / "index", len(calm["shards"]), []

    def kill() -> None:
        while len(list(index.glob("*.parquet"))) < len(list((folder / "calm" / "index").iterdir())) // 2:
            time.sleep(0.01)
        children = psutil.Process().children(recursive=True)
        os.kill([one for one in children if "spawn_main" in " ".join(one.cmdline())][-1].pid, signal.SIGKILL)
        when.append(len(list(index.glob("*.parquet"))))

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    found = prepare(str(album), folder / "killed", **options)
    killer.join()
    return {"shards": parts, "done_when_killed": when[0], "equal": found["shards"] == calm["shards"]}


def markdown(found: Mapping[str, Any]) -> str:
    """The table, between lines on the machine and on what it means for a large set."""
    photos, bad, shards = found["camera_photos"], found["badfiles"], found["shards"]
    rates, yfcc, killed = found["workers"]["photos_per_second"], found["yfcc"], found["killed"]
    days = MILLIONS * 1e6 / rates["1"] / 86400
    lines = [
        f"{found['machine']}; photos of {photos['mb_per_photo']} MB on average, two tiles of 256 px each.",
        "",
        "| what | figure |",
        "|---|---|",
        f"| whole photos → shards, one worker | {rates['1']} photos per second |",
        f"| two workers on two cores | {rates['2']} photos per second, {found['workers']['scaling']} times |",
        f"| existing shards, copied | {shards['photos_per_second']} photos per second; {shards['tiles_that_differ']} "
        f"of {shards['tiles']:,} tiles differ |",
        f"| 4 workers, one killed after {killed['done_when_killed']} shards | {killed['shards']} shards, "
        f"{'all equal' if killed['equal'] else 'NOT equal'} to those of an uninterrupted run |",
        f"| {photos['files']} real photos | {photos['kept']} kept; {_reasons(photos['left_out'])} |",
        f"| {bad['files']} files, all but one broken or unusual | {bad['kept']} kept; {_reasons(bad['left_out'])} |",
    ]
    lines += [
        f"| YFCC100M's dumps, {row['rows']:,} rows, {kind} | {row['rows_per_second']:,} rows per second, "
        f"{row['peak_mb']:,} MB at most |"
        for kind, row in yfcc.items()
    ]
    lines += [
        "",
        f"{MILLIONS} million photos at {rates['1']} per second and core are {MILLIONS}e6 / {rates['1']} / 86,400 = "
        f"{days:,.0f} core-days, {days / 256:.1f} days on 256 cores, if the network delivers "
        f"{rates['1'] * 256 * photos['mb_per_photo'] / 1e3:.1f} GB per second.",
    ]
    return "\n".join(lines)


def _reasons(left_out: Mapping[str, int]) -> str:
    return "left out: " + (", ".join(f"{number} {reason}" for reason, number in left_out.items()) or "none")


def main() -> int:
    """Returns 0, or 1 without `../shared`."""
    if not SHARED.is_dir():
        print(f"error: {SHARED} does not exist: the figures need its photos", file=sys.stderr)
        return 1
    found = measure()
    publish("scale", found, {"scale": markdown(found)})
    return 0


if __name__ == "__main__":
    sys.exit(main())
