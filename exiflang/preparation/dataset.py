"""A source of photos → a data set: training shards, shards of held-out photos, and test splices.

`train/*.tar` and `heldout/*.tar` hold tiles (see `shards`); held-out photos come from cameras in the training set.
`choose/*.tar` and `report/*.tar`, if requested, hold all photos of cameras excluded from training: one group to select
the training step, the other to report figures (see `Splitter`). `index/*.parquet` has one row per source photo,
including photos that are left out, with the reason (see `shard_job.INDEX`). `tags.json` records how common each tag is
among the training photos (see `TagVocabulary.to_dict`), and which tags are kept. For simulated cameras,
`splices/unseen/` and `splices/seen/` hold composites of cameras outside and inside the training set, in the layout that
`load_benchmark("folder", ...)` reads. `dataset.json` describes the data set, counts each split's photos and cameras,
and is written last.
"""

import json
import os
import shutil
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from numpy.random import default_rng

from exiflang.data.index import describe, tag_vocabulary
from exiflang.data.shards import DataError
from exiflang.preparation.options import Contents, Limits, Simulation, Split, Work
from exiflang.preparation.photos import SourcePhoto, cut_photos
from exiflang.preparation.shard_job import write_job
from exiflang.preparation.sources import write_plan
from exiflang.preparation.splits import camera_group
from exiflang.preparation.workers import run_jobs
from exiflang.simulation.cameras import CAMERAS, Camera
from exiflang.simulation.render import simulate_photos
from exiflang.simulation.splices import write_splices
from exiflang.utils.locks import hold
from exiflang.utils.storage import Store, is_url

# Arguments that older data sets do not record, and the values they were made with.
_ONCE = {"choose_share": 0.0, "report_share": 0.0, "sample": 0, "min_share": 0.05, "photos_per_shard": 1000,
         "private": False}  # fmt: skip


def prepare(
    source: str,
    data_dir: str | Path,
    *,
    seed: int = 0,
    simulation: Simulation = Simulation(),
    split: Split = Split(),
    contents: Contents = Contents(),
    limits: Limits = Limits(),
    work: Work = Work(),
) -> dict[str, Any]:
    """Write the data set of `source` into `data_dir`, unless it already exists, and return its description.

    An interrupted run resumes: only missing shard jobs are done, with the same result. If two runs with the same
    arguments share a `data_dir`, the second waits and returns the first one's result. There are no locks at a URL:
    arguments are compared when a run starts, and you must ensure that no other run writes there. `grouped` builds the
    option groups from a flat mapping.

    Args:
        source: "simulated"; a folder of photos with EXIF, searched recursively; a folder or URL of tar shards in
            img2dataset's layout, whose tiles are copied unchanged; a list of URLs, as parquet or CSV with a column
            `url` (and an optional id column `photo`); or a folder with YFCC100M's dumps as published,
            `yfcc100m_dataset` and `yfcc100m_exif`, each whole or in numbered parts, plain or `.bz2`.
        data_dir: folder or fsspec URL to write to; holds one data set, made with one set of arguments.
        seed: determines photos, tiles, and the held-out makes of simulated cameras.

    Raises `DataError` for a source with nothing usable, a failed job, or a `data_dir` that holds a different data set,
    a damaged one or other files, or is in use by a run with different arguments; `ValueError` for an option that does
    not apply to the source.
    """
    source = str(source)
    arguments = {"source": source, "seed": seed} | asdict(simulation) | asdict(split) | asdict(contents)
    store = Store(str(data_dir) if is_url(data_dir) else Path(data_dir).resolve())
    if not store.exists("dataset.json"):
        folder = Path(store.root)
        lock = folder.with_name(f".{folder.name}.lock")
        with hold(lock, store.root, DataError, arguments) if store.local else nullcontext():
            if not store.exists("dataset.json"):  # another run may have finished in the meantime
                return _make(store, arguments, simulation, split, contents, limits, work)
    return _present(store, arguments)


def _make(
    store: Store,
    arguments: dict[str, Any],
    simulation: Simulation,
    split: Split,
    contents: Contents,
    limits: Limits,
    work: Work,
) -> dict[str, Any]:
    if store.any() and (store.local or not store.exists("plan.json")):
        raise DataError(f"{store.root} holds other files but no data set: choose another data_dir or empty it")
    draft = Store(Path(store.root).with_name(f".{Path(store.root).name}.part")) if store.local else store
    plan: dict[str, Any] = {}
    if arguments["source"] == "simulated":
        extra = _simulated(draft, arguments["seed"], simulation, split, contents, work)
    else:
        plan = _plan(draft, arguments, contents)
        run_jobs(draft.root, plan["parts"], limits, work)
        extra = {"dumps": plan.get("dumps", []), "rows_left_out": plan["rows_left_out"], "unseen_cameras": []}
    description = {"arguments": arguments} | describe(draft.root, split.names, plan) | extra
    _finish(draft, description, contents.min_share)
    if store.local:
        os.replace(draft.root, store.root)  # an empty folder may exist there
    store.remove("plan", "plan.json")
    return description


def _finish(draft: Store, description: dict[str, Any], min_share: float) -> None:
    """Remove empty splits, and write the files that describe the rest."""
    if not description["photos"]["train"]:
        _discard(draft)
        raise DataError(_unusable(description))
    draft.remove(*(split for split, number in description["photos"].items() if not number))
    vocabulary = tag_vocabulary(draft.root, min_share)
    draft.write("tags.json", json.dumps(vocabulary.to_dict() | {"kept": vocabulary.tags}, indent=1).encode())
    draft.write("dataset.json", json.dumps(description, indent=1).encode())


def _unusable(description: dict[str, Any]) -> str:
    source = description["arguments"]["source"]
    if any(description["photos"].values()):
        return f"{source}: no cameras are left to train on: lower choose_share and report_share"
    named = description["left_out_examples"]
    reasons = "; ".join(
        f"{number} left out: {reason}, e.g. {', '.join(named.get(reason, [])[:3]) or 'unnamed'}"
        for reason, number in description["left_out"].items()
    )
    return f"{source}: no usable photo ({reasons or 'no photo found'})"


def _present(store: Store, arguments: dict[str, Any]) -> dict[str, Any]:
    """The description of the existing data set, which must be complete and made with the same arguments."""
    try:
        found = json.loads(store.read("dataset.json"))
        same = _ONCE | found["arguments"] == arguments
        shards = set(found["shards"])
    except (ValueError, TypeError, LookupError) as error:
        raise DataError(f"{store.root}/dataset.json is damaged: remove the folder and run again") from error
    if not same:
        raise DataError(f"{store.root} holds a data set made with other arguments: choose another data_dir or clear it")
    there = {name for split in {shard.split("/")[0] for shard in shards} for name in store.names(split)}
    if gone := sorted(shards - there):
        raise DataError(f"{store.root}/{gone[0]} is missing: remove the folder and run again")
    return found


def _discard(draft: Store) -> None:
    if draft.local:
        shutil.rmtree(draft.root, ignore_errors=True)


def _plan(draft: Store, arguments: dict[str, Any], contents: Contents) -> dict[str, Any]:
    """The existing plan if it was made with these arguments, else a new one."""
    if draft.exists("plan.json"):
        plan = json.loads(draft.read("plan.json"))
        if plan["arguments"] == arguments:
            return plan
        if not draft.local:
            raise DataError(
                f"{draft.root} holds a data set begun with other arguments: choose another data_dir or clear it"
            )
    _discard(draft)
    try:
        plan = {"arguments": arguments} | write_plan(arguments["source"], draft, arguments["seed"], contents)
    except (DataError, ValueError):
        _discard(draft)
        raise
    draft.write("plan.json", json.dumps(plan).encode())
    return plan


def _simulated(
    draft: Store, seed: int, simulation: Simulation, split: Split, contents: Contents, work: Work
) -> dict[str, Any]:
    """Make the whole data set in one job, which starts over after an interruption."""
    if not draft.local:
        raise ValueError("simulated photos need a data_dir on this machine, not a URL")
    seen, unseen = split_makes(simulation.unseen_makes, seed)
    trained = [camera for camera in seen if camera_group(camera.name, seed, split) == "train"]
    if len(trained) < 2:
        raise ValueError(
            f"choose_share {split.choose_share} and report_share {split.report_share} leave {len(trained)} of "
            f"{len(seen)} simulated cameras to train on: lower them"
        )
    _discard(draft)
    rendered = simulate_photos(seen, simulation.photos_per_camera, seed, work.workers)
    items = (SourcePhoto(number, f"{number:08d}", name, data) for number, (name, _, data) in enumerate(rendered))
    try:
        write_job(draft, 0, cut_photos(items, default_rng(seed), contents), seed, split, several=False)
        spliced, authentic, folder = simulation.splices, simulation.authentic, Path(draft.root) / "splices"
        if spliced or authentic:
            write_splices(folder / "unseen", unseen, spliced, authentic, seed, work.workers)
            write_splices(folder / "seen", trained, (spliced + 1) // 2, (authentic + 1) // 2, seed + 1, work.workers)
    except BaseException:
        _discard(draft)
        raise
    return {"unseen_cameras": [camera.name for camera in unseen]}


def split_makes(unseen_makes: int, seed: int) -> tuple[list[Camera], list[Camera]]:
    """The simulated cameras used in training, and all cameras of `unseen_makes` makes drawn by `seed`."""
    makes = sorted({camera.make for camera in CAMERAS})
    if not 1 <= unseen_makes < len(makes):
        raise ValueError(f"unseen_makes is {unseen_makes}: it must be 1 to {len(makes) - 1}")
    held = set(default_rng([seed, len(makes)]).choice(makes, unseen_makes, replace=False).tolist())
    return [c for c in CAMERAS if c.make not in held], [c for c in CAMERAS if c.make in held]
