"""What each part of the training recipe gives: small models, one switch changed in each, on the same benchmarks.

`python -m exiflang.ablation` trains and scores what is not measured yet, one single-threaded process a run, and renews
reports/golden/ablation.json and the README's tables. A run that has finished is not repeated and one that fails does
not stop the others, so an interrupted renewal goes on; the first seed of all rows comes first.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from exiflang.ablation_data import FOLDERS, GROUPS, data_set
from exiflang.ablation_scores import exif, localisation
from exiflang.ablation_table import markdown
from exiflang.baselines import BASELINES
from exiflang.benchmarks import BenchmarkError, load_benchmark
from exiflang.files import write_json
from exiflang.golden import spread, with_table
from exiflang.model import ExifLang
from exiflang.model_config import PRESETS
from exiflang.parameters import PipelineError, project_path
from exiflang.recipe import Recipe, read_parameters
from exiflang.shards import DataError
from exiflang.windows import ImageEncoder

#: Of every row, in place of what the preset has for longer training: minutes of one core a run.
SCALE: dict[str, Any] = {
    "preset": "padded",
    "steps": 250,
    "batch_size": 64,
    "learning_rate": 2e-3,
    "warmup_steps": 25,
    "crop_sizes": [40, 64],
    "ema": 0.98,  # the last 50 steps; what suits thousands would hold on to the first ones
    "validate_every": 1_000_000,  # the last step alone: EXIF fit, which some rows do not train, chooses nothing
    "mixed_precision": "bf16",
    "tracker": "none",
}
PROTOCOL: dict[str, Any] = {
    "benchmarks": {"splices": ["folder", "../shared/splices"], "casia_1": ["casia_1", "../shared/casia_1"]},
    "readouts": ["diffused_cut", "far_friends", "mean_shift"],
    "windows_per_side": 24,
    "fit": FOLDERS["real"],
    "crops": 4,
}


@dataclass(frozen=True)
class Row:
    """One training: what it changes in the full recipe (parameters of `Recipe.of`), its data set, its seeds.

    A row named as one of `BASELINES` is that baseline: nothing is trained.
    """

    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    data: str = "real"
    seeds: Sequence[int] = (0, 1)

    @property
    def slug(self) -> str:
        """The name in lower case, of letters, digits and hyphens."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")


_WHOLE_SENTENCES = {"tag_dropout": 0.0, "shuffle_tags": False}
_ALONE = {"image_weight": 0.0, "history": 0.0, "common_jpeg": 0.0, **_WHOLE_SENTENCES, "ema": 0.0}
ROWS = (
    Row("full recipe", seeds=(0, 1, 2)),
    Row("without image-image", {"image_weight": 0.0}),
    Row("without history", {"history": 0.0}),
    Row("without common JPEG", {"common_jpeg": 0.0}),
    Row("without tag dropout and shuffled tags", _WHOLE_SENTENCES),
    Row("without EMA", {"ema": 0.0}),
    Row("balanced cameras", {"balance": 0.5}),
    Row("same-make batches", {"same_make": 0.3}),
    Row("fixed temperature", {"fixed_temperature": True}),
    Row("sigmoid loss", {"loss": "sigmoid"}),
    Row("EXIF contrast alone (paper's objective)", _ALONE),
    Row("image-image only", {"image_weight": 1.0}),
    Row("demo tower", {"preset": "demo"}),
    Row("tower without padding (packaged)", {"preset": "base"}),
    Row("a third of the photos", data="third"),
    Row("simulated cameras only", data="simulated"),
    Row("real and simulated", data="both"),
    Row("shuffled EXIF", {"exif": "shuffled"}),
    Row("untrained", {"steps": 0}),
    *(Row(name, seeds=(0,)) for name in reversed(BASELINES)),
)


# ---- one run


def settings(row: Row, seed: int) -> dict[str, Any]:
    """All that a run's figures depend on but the code: encoder, recipe, towers and protocol, as JSON gives it back."""
    recipe = read_parameters(project_path("notebooks/params/base.yaml")) | SCALE | dict(row.changes)
    recipe |= {"seed": seed, "data_dir": FOLDERS[row.data]}
    del recipe["model_dir"]
    found: dict[str, Any] = {"encoder": "model", "recipe": recipe, "towers": PRESETS[recipe["preset"]]}
    if row.name in BASELINES:
        found = {"encoder": row.name, "recipe": {}}
    return json.loads(json.dumps(found | {"protocol": PROTOCOL}))


def run_folder(row: Row, seed: int) -> Path:
    """Where one run lies: `metrics.json` when it has finished, `failure.json` when it has failed, log and weights."""
    return project_path("reports/runs/ablation") / f"{row.slug}-{seed}"


def run(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Train and evaluate by the settings `wanted` and write `folder/metrics.json`, unless it is there.

    Raises `PipelineError` if it is there with other settings, and whatever training and evaluation raise.
    """
    if reason := unfinished(folder, wanted):
        if (folder / "metrics.json").exists():
            raise PipelineError(f"{folder}: {reason}")
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "log.txt", "a", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
            found = _measured(folder, wanted)
        write_json(folder / "metrics.json", {"settings": wanted} | found)
        (folder / "failure.json").unlink(missing_ok=True)


def unfinished(folder: Path, wanted: Mapping[str, Any]) -> str:
    """Why there are no figures for the settings `wanted`: "" if there are."""
    try:
        done = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        failure = folder / "failure.json"
        return json.loads(failure.read_text(encoding="utf-8"))["reason"] if failure.exists() else "not run yet"
    return "" if done["settings"] == wanted else "run with other settings: delete the folder and run again"


def _measured(folder: Path, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Figures, counts, and CPU seconds of this process: of a run that goes on after a kill those since then."""
    began = time.process_time()
    encoder: ImageEncoder
    photos: dict[str, int] = {}
    if wanted["recipe"]:
        recipe = Recipe.of(**wanted["recipe"], model_dir=str(folder / "model"))
        dataset = recipe.dataset()
        photos["train"] = len(dataset)
        recipe.run(dataset)
        del dataset  # its decoded tiles take gigabytes
        encoder = ExifLang.from_pretrained(str(recipe.folder))
    else:
        encoder = BASELINES[wanted["encoder"]]()
    trained = time.process_time()
    # Baselines count in whole numbers, which bfloat16 would round.
    with torch.autocast("cpu", torch.bfloat16, enabled=isinstance(encoder, ExifLang)):
        metrics, pictures = localisation(encoder, wanted["protocol"])
        if isinstance(encoder, ExifLang):
            fits, counts = exif(encoder, wanted["protocol"])
            metrics, photos = metrics | fits, photos | counts
    return {
        "metrics": metrics,
        "pictures": pictures,
        "photos": photos,
        "cpu_seconds": {"training": trained - began, "evaluation": time.process_time() - trained},
        "hardware": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}",
    }


# ---- all runs


def ordered(rows: Iterable[Row]) -> list[tuple[Row, int]]:
    """All runs: the first seed of all rows, then the second ..., so that a part of them is of use."""
    rows = list(rows)
    seeds = sorted({seed for row in rows for seed in row.seeds})
    return [(row, seed) for seed in seeds for row in rows if seed in row.seeds]


def run_all(runs: Sequence[tuple[Path, Mapping[str, Any]]], workers: int) -> list[str]:
    """`run` each of (folder, settings) in order in `workers` processes; what failed, a line each, which
    `failure.json` in its folder also says."""
    failures = []
    os.environ["OMP_NUM_THREADS"] = "1"  # two single-threaded runs get more done than one on two cores
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
    try:
        waiting = {pool.submit(run, *item): item[0] for item in runs}
        for number, done in enumerate(as_completed(waiting), 1):
            folder, error = waiting[done], done.exception()
            if error is not None:
                reason = f"{type(error).__name__}: {error}"
                folder.mkdir(parents=True, exist_ok=True)
                trace = "".join(traceback.format_exception(error))
                write_json(folder / "failure.json", {"reason": reason, "traceback": trace})
                failures.append(f"{folder.name}: {reason}")
            print(f"[{number}/{len(runs)}] {failures[-1] if error else folder.name}", file=sys.stderr, flush=True)
    finally:
        pool.shutdown(cancel_futures=True)
    return failures


def gather() -> dict[str, Any]:
    """What the finished runs of `ROWS` have found: `protocol`, `rows` ({name: figures over seeds}), `missing` runs.

    Raises `PipelineError` if none has finished.
    """
    gathered, missing, done = {}, [], []
    for row in ROWS:
        reasons = {seed: unfinished(run_folder(row, seed), settings(row, seed)) for seed in row.seeds}
        missing += [{"row": row.name, "seed": seed, "reason": reason} for seed, reason in reasons.items() if reason]
        seeds = [seed for seed, reason in reasons.items() if not reason]
        found = [json.loads((run_folder(row, seed) / "metrics.json").read_text(encoding="utf-8")) for seed in seeds]
        done += found
        gathered[row.name] = {"changes": dict(row.changes), "data": row.data, "seeds": seeds}
        if found:
            gathered[row.name] |= {
                "photos": found[0]["photos"].get("train", 0),
                "cpu_seconds": {key: [each["cpu_seconds"][key] for each in found] for key in found[0]["cpu_seconds"]},
                "metrics": {name: spread([each["metrics"][name] for each in found]) for name in found[0]["metrics"]},
            }
    if not done:
        first = missing[0]
        raise PipelineError(f"no run has finished; {first['row']}, seed {first['seed']}: {first['reason']}")
    photos = next((found["photos"] for found in done if found["photos"]), {})  # baselines have none
    protocol = PROTOCOL | {
        "recipe": settings(ROWS[0], 0)["recipe"],
        "pixels": "all",
        "localisation": "spliced pictures only",
        "windows": "of a calibrated model (exiflang.windows.picture_window), embedded in bfloat16",
        "pictures": done[0]["pictures"],
        "photos": {group: photos[group] for group in GROUPS if group in photos},
        "hardware": sorted({found["hardware"] for found in done}),
        "cores": os.cpu_count(),
    }
    return {"protocol": protocol, "rows": gathered, "missing": missing}


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns 0, or 1 when a run has failed or nothing can be run."""
    parser = argparse.ArgumentParser(prog="python -m exiflang.ablation", description="Renews the ablation.")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="runs side by side (default: one a core)")
    slugs = [row.slug for row in ROWS]
    parser.add_argument("--only", action="append", choices=slugs, metavar="ROW", help=f"one of {', '.join(slugs)}")
    parser.add_argument("--table", action="store_true", help="run nothing, only gather what has finished")
    options = parser.parse_args(arguments)
    failures = []
    try:
        if not options.table:
            rows = [row for row in ROWS if not options.only or row.slug in options.only]
            for layout, folder in PROTOCOL["benchmarks"].values():
                load_benchmark(layout, project_path(folder))  # a missing one is an error now, not after an hour
            for name in {"real": None} | {row.data: None for row in rows}:
                data_set(name)
            jobs = [(run_folder(row, seed), settings(row, seed)) for row, seed in ordered(rows)]
            failures = run_all(jobs, options.workers)
        found = gather()
    except (PipelineError, DataError, BenchmarkError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    write_json(project_path("reports/golden/ablation.json"), found)
    readme, table = project_path("README.md"), markdown(found)
    readme.write_text(with_table(readme.read_text(encoding="utf-8"), "ablation", table), encoding="utf-8")
    print(table)
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
