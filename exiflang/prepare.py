"""A source of photos → a data set: training shards, shards of held-out photos, and splices to be tested with."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from numpy.random import default_rng

from exiflang.cluster import run_parts
from exiflang.downloads import Limits
from exiflang.index import describe, tag_vocabulary
from exiflang.parts import split_arguments, write_part
from exiflang.photos import Item, cut_photos
from exiflang.shards import DataError
from exiflang.simulate import CAMERAS, Camera, simulate_photos, write_splices
from exiflang.sources import write_plan
from exiflang.splits import camera_group, splits_of
from exiflang.storage import Store, is_url

# What older data sets were made with, which do not name these.
_ONCE = {"choose_share": 0.0, "report_share": 0.0, "sample": 0, "min_share": 0.05} | {
    "photos_per_shard": 1000,
    "private": False,
}


def prepare(
    source: str,
    data_dir: str | Path,
    *,
    seed: int = 0,
    photos_per_camera: int = 40,
    unseen_makes: int = 3,
    splices: int = 60,
    authentic: int = 30,
    heldout_share: float = 0.15,
    choose_share: float = 0.0,
    report_share: float = 0.0,
    tile_size: int = 256,
    tiles_per_photo: int = 2,
    min_tags: int = 10,
    min_share: float = 0.05,
    sample: int = 0,
    photos_per_shard: int = 1000,
    private: bool = False,
    workers: int = 2,
    scheduler: str = "",
    limits: Limits | None = None,
) -> dict[str, Any]:
    """Write the data set of `source` into `data_dir`, unless it is there already, and return its description.

    `train/*.tar` and `heldout/*.tar` hold tiles (see `shards`); the held-out photos are of cameras that are trained on.
    `choose/*.tar` and `report/*.tar`, where asked for, hold all photos of cameras that training never sees: one group
    to choose the training step by, the other to report figures on (see `Splitter`). `index/*.parquet` has a row a photo
    of the source, those left out with their reason (see `parts.INDEX`), `tags.json` how common each tag is among the
    photos trained on (see `TagVocabulary.to_dict`), and which ones are kept. For simulated cameras `splices/unseen/`
    and `splices/seen/` hold composites of cameras that training never and that it does see, in the layout that
    `load_benchmark("folder", ...)` reads. `dataset.json` describes all of it, counts each split's photos and cameras,
    and appears last.

    The work falls into parts, a shard of each split (see `parts`), which are done by several processes or machines. Run
    again after an interruption it does the parts that are missing, to the same result.

    Args:
        source: "simulated"; a folder of photos with EXIF, searched through; a folder or URL of tar shards in
            img2dataset's layout, whose tiles are copied unchanged; a list of URLs, parquet or CSV with a column `url`
            (and `photo`, an id, if it has one); or a folder with YFCC100M's dumps as published, `yfcc100m_dataset*` and
            `yfcc100m_exif*`.
        data_dir: folder or fsspec URL to write to; holds one data set, made by one set of arguments.
        seed: draws photos, tiles, and which makes of simulated cameras are held out.
        photos_per_camera, unseen_makes, splices, authentic: of the simulated cameras; spliced and authentic pictures of
            unseen cameras, and half as many of seen ones.
        heldout_share: share of each camera's photos that training does not see.
        choose_share, report_share: shares of the cameras for these two groups; a few cameras may by chance give an
            empty one. Only names are compared (see `camera_group`): a camera sold as "EOS 350D" here and as "EOS
            DIGITAL REBEL XT" there counts as two, which may come to lie in two groups.
        tile_size, tiles_per_photo: side in pixels (a multiple of 32) and number of tiles cut from a photo.
        min_tags: photos with fewer EXIF tags are left out.
        min_share: share of the photos trained on below which `tags.json` calls a tag rare; shards keep all tags.
        sample: photos drawn from YFCC100M's; 0: all.
        photos_per_shard: photos of the source that make a part; existing shards make parts of half a gigabyte.
        private: keep GPS, serial numbers, names and comments in the shards; sentences leave them out anyway.
        workers: processes on this machine; 1: this one itself.
        scheduler: address of a running Dask scheduler instead (see `run_parts`).
        limits: of downloads; None: those of `Limits()`.

    Raises:
        DataError: nothing usable in the source, a part that failed, or `data_dir` holds another data set, a damaged one
            or other files.
        ValueError: an argument out of its range.
    """
    source = str(source)
    chosen = {"data_dir", "workers", "scheduler", "limits"}
    arguments = {name: value for name, value in locals().items() if name not in {*chosen, "chosen"}}
    store = Store(str(data_dir) if is_url(data_dir) else Path(data_dir).resolve())
    if store.exists("dataset.json"):
        return _present(store, arguments)
    _check(arguments, workers)
    _refuse_others(store)
    draft = Store(Path(store.root).with_name(f".{Path(store.root).name}.part")) if store.local else store
    if source == "simulated":
        extra = _simulated(draft, arguments, workers)
    else:
        extra = _in_parts(draft, arguments, workers, scheduler, limits or Limits())
    description = {"arguments": arguments} | describe(draft.root, splits_of(choose_share, report_share)) | extra
    if not description["photos"]["train"]:
        if draft.local:
            shutil.rmtree(draft.root)
        raise DataError(_unusable(source, description))
    draft.remove(*(split for split, number in description["photos"].items() if not number))
    vocabulary = tag_vocabulary(draft.root, min_share)
    draft.write("tags.json", json.dumps(vocabulary.to_dict() | {"kept": vocabulary.tags}, indent=1).encode())
    draft.write("dataset.json", json.dumps(description, indent=1).encode())
    if store.local:
        os.replace(draft.root, store.root)  # an empty folder may stand there
    store.remove("plan", "plan.json")
    return description


def _check(arguments: dict[str, Any], workers: int) -> None:
    heldout, choose, report = (arguments[f"{name}_share"] for name in ("heldout", "choose", "report"))
    if not 0 < heldout < 1:
        raise ValueError(f"heldout_share is {heldout}: it must lie between 0 and 1")
    if not (choose >= 0 and report >= 0 and choose + report < 1):
        raise ValueError(
            f"choose_share and report_share are {choose} and {report}: they must be 0 or more and leave some "
            "cameras to train on"
        )
    if not 0 <= arguments["min_share"] <= 1:
        raise ValueError(f"min_share is {arguments['min_share']}: it must lie in 0..1")
    if arguments["tile_size"] < 32 or arguments["tile_size"] % 32:
        raise ValueError(f"tile_size is {arguments['tile_size']}: it must be a multiple of 32")
    least = {"splices": 0, "authentic": 0, "sample": 0, "tiles_per_photo": 1, "photos_per_shard": 1, "workers": 1}
    for name, number in least.items():
        if (value := workers if name == "workers" else arguments[name]) < number:
            raise ValueError(f"{name} is {value}: it must be at least {number}")


def _refuse_others(store: Store) -> None:
    if store.local:
        folder = Path(store.root)
        others = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    else:
        others = store.any() and not store.exists("plan.json")
    if others:
        raise DataError(f"{store.root} holds other files and no data set: choose another data_dir or empty it")


def _present(store: Store, arguments: dict[str, Any]) -> dict[str, Any]:
    try:
        found = json.loads(store.read("dataset.json"))
        same = _same(_ONCE | found["arguments"], arguments)
        shards = set(found["shards"])
    except (ValueError, TypeError, LookupError) as error:
        raise DataError(f"{store.root}/dataset.json is damaged: remove the folder, it is then made anew") from error
    if not same:
        raise DataError(f"{store.root} holds a data set made with other arguments: choose another data_dir or clear it")
    there = {name for split in {shard.split("/")[0] for shard in shards} for name in store.names(split)}
    if gone := sorted(shards - there):
        raise DataError(f"{store.root}/{gone[0]} is missing: remove the folder, it is then made anew")
    return found


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one == json.loads(json.dumps(other))


def _in_parts(draft: Store, arguments: dict[str, Any], workers: int, scheduler: str, limits: Limits) -> dict[str, Any]:
    """Do what is left to do of the plan, which is made if there is none of these arguments."""
    plan = json.loads(draft.read("plan.json")) if draft.exists("plan.json") else None
    if plan and not _same(plan["arguments"], arguments):
        if not draft.local:
            raise DataError(
                f"{draft.root} holds a data set begun with other arguments: choose another data_dir or clear it"
            )
        plan = None
    if plan is None:
        if draft.local:
            shutil.rmtree(draft.root, ignore_errors=True)
        drawn = {name: arguments[name] for name in ("sample", "seed", "min_tags")}
        try:
            found, left_out = write_plan(arguments["source"], draft, per_shard=arguments["photos_per_shard"], **drawn)
        except (DataError, ValueError):
            if draft.local:
                shutil.rmtree(draft.root, ignore_errors=True)
            raise
        plan = {"arguments": arguments, **found, "rows_left_out": dict(left_out)}
        draft.write("plan.json", json.dumps(plan).encode())
    run_parts(draft.root, plan["parts"], limits, workers=workers, scheduler=scheduler)
    return {"rows_left_out": plan["rows_left_out"], "unseen_cameras": []}


def _simulated(draft: Store, arguments: dict[str, Any], workers: int) -> dict[str, Any]:
    """All in one part, which begins anew after an interruption."""
    if not draft.local:
        raise ValueError("simulated photos need a data_dir on this machine, not a URL")
    seed = arguments["seed"]
    seen, unseen = split_makes(arguments["unseen_makes"], seed)
    shares = {name: arguments[name] for name in ("choose_share", "report_share")}
    trained = [camera for camera in seen if camera_group(camera.name, seed=seed, **shares) == "train"]
    if len(trained) < 2:
        raise ValueError(
            f"choose_share {shares['choose_share']} and report_share {shares['report_share']} leave {len(trained)} of "
            f"{len(seen)} simulated cameras to train on: lower them"
        )
    shutil.rmtree(draft.root, ignore_errors=True)
    rendered = simulate_photos(seen, arguments["photos_per_camera"], seed, workers)
    items = (Item(number, f"{number:08d}", name, data) for number, (name, _, data) in enumerate(rendered))
    cut = {name: arguments[name] for name in ("tile_size", "tiles_per_photo", "min_tags")}
    try:
        write_part(draft, 0, cut_photos(items, default_rng(seed), **cut), several=False, **split_arguments(arguments))
        numbers = [arguments["splices"], arguments["authentic"]]
        if any(numbers):
            folder = Path(draft.root) / "splices"
            write_splices(folder / "unseen", unseen, *numbers, seed, workers)
            write_splices(folder / "seen", trained, *((number + 1) // 2 for number in numbers), seed + 1, workers)
    except BaseException:
        shutil.rmtree(draft.root, ignore_errors=True)
        raise
    return {"unseen_cameras": [camera.name for camera in unseen]}


def _unusable(source: str, description: dict[str, Any]) -> str:
    if any(description["photos"].values()):
        return f"{source}: all of its cameras are set apart: lower choose_share and report_share"
    named = description["left_out_examples"]
    reasons = "; ".join(
        f"{number} left out: {reason}, e.g. {', '.join(named.get(reason, [])[:3]) or 'unnamed'}"
        for reason, number in description["left_out"].items()
    )
    return f"{source}: no photo that can be used ({reasons or 'no photo found'})"


def split_makes(unseen_makes: int, seed: int) -> tuple[list[Camera], list[Camera]]:
    """The simulated cameras that training sees, and all cameras of `unseen_makes` makes drawn by `seed`."""
    makes = sorted({camera.make for camera in CAMERAS})
    if not 1 <= unseen_makes < len(makes):
        raise ValueError(f"unseen_makes is {unseen_makes}: it must be 1 to {len(makes) - 1}")
    held = set(default_rng([seed, len(makes)]).choice(makes, unseen_makes, replace=False).tolist())
    return [c for c in CAMERAS if c.make not in held], [c for c in CAMERAS if c.make in held]
