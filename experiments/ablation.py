"""Ablation of the training recipe: small models with one setting changed in each, on the same benchmarks.

`python -m experiments.ablation` trains and scores the rows that have no figures yet, one single-threaded process per
run, and updates reports/golden/ablation.json and its tables. Finished runs are not repeated, and a failed one
does not stop the others, so an interrupted update resumes; the first seed of all rows comes first.
"""

import json
import os
import re
import sys
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import as_completed
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from exiflang.data.shards import find_shards, read_photos
from exiflang.evaluation.baselines import BASELINES
from exiflang.evaluation.benchmarks import load_benchmark
from exiflang.evaluation.layouts import BenchmarkError
from exiflang.evaluation.retrieval import embed_photos, exif_fit
from exiflang.evaluation.scoring import p_map_by_kind, score_pictures, summarize_pictures
from exiflang.localization.windows import ImageEncoder
from exiflang.models.config import PRESETS
from exiflang.models.model import ExifLang
from exiflang.pipeline.parameters import PipelineError, check_names, project_path
from exiflang.training.__main__ import read_parameters
from exiflang.training.recipe import Recipe
from exiflang.utils.commands import run_command
from exiflang.utils.files import read_json, write_json
from exiflang.utils.hardware import this_machine
from exiflang.utils.processes import worker_pool
from experiments.ablation_data import FOLDERS, GROUPS, data_set
from experiments.tables import SCORES, counted, figure, publish, spread, table

#: Settings of every row that replace the preset's, which are for longer training: minutes of one core per run.
SCALE: dict[str, Any] = {
    "preset": "padded",
    "steps": 250,
    "batch_size": 64,
    "learning_rate": 2e-3,
    "warmup_steps": 25,
    "crop_sizes": [40, 64],
    "ema": 0.98,  # about 50 steps; a value for thousands would still average the first ones
    "validate_every": 1_000_000,  # last step only: no selection by EXIF fit, which some rows do not train
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
    """One configuration: its changes to the full recipe (parameters of `Recipe.of`), its data set, number of seeds.

    A row with the name of one of `BASELINES` is that baseline, without training.
    """

    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    data: str = "real"
    seeds: int = 2

    @property
    def slug(self) -> str:
        """The name in lower case, with only letters, digits and hyphens."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")


_WHOLE_SENTENCES = {"tag_dropout": 0.0, "shuffle_tags": False}
_ALONE = {"image_weight": 0.0, "processing_probability": 0.0, "common_jpeg": 0.0, **_WHOLE_SENTENCES, "ema": 0.0}
ROWS = (
    Row("full recipe", seeds=3),
    Row("without image-image", {"image_weight": 0.0}),
    Row("without processing history", {"processing_probability": 0.0}),
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
    *(Row(name, seeds=1) for name in reversed(BASELINES)),
)


# ---- one run


def settings(row: Row, seed: int) -> dict[str, Any]:
    """Everything but the code that a run's figures depend on: encoder, recipe, towers and protocol, as JSON data."""
    recipe = read_parameters(project_path("notebooks/params/base.yaml")) | SCALE | dict(row.changes)
    recipe |= {"seed": seed, "data_dir": FOLDERS[row.data]}
    del recipe["model_dir"]
    found: dict[str, Any] = {"encoder": "model", "recipe": recipe, "towers": PRESETS[recipe["preset"]]}
    if row.name in BASELINES:
        found = {"encoder": row.name, "recipe": {}}
    return json.loads(json.dumps(found | {"protocol": PROTOCOL}))


def run_folder(row: Row, seed: int) -> Path:
    """Folder of one run: `metrics.json` once it has finished, `log.txt`, even after a failure, and weights."""
    return project_path("reports/runs/ablation") / f"{row.slug}-{seed}"


def run(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Train and evaluate with the settings `wanted` and write `folder/metrics.json`, unless it exists.

    Raises `PipelineError` if it exists with different settings, and any error of training and evaluation.
    """
    if reason := unfinished(folder, wanted):
        if (folder / "metrics.json").exists():
            raise PipelineError(f"{folder}: {reason}")
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "log.txt", "a", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
            try:
                found = _measured(folder, wanted)
            except Exception:
                traceback.print_exc()
                raise
        write_json(folder / "metrics.json", {"settings": wanted} | found)


def unfinished(folder: Path, wanted: Mapping[str, Any]) -> str:
    """Why there are no figures for the settings `wanted`, or "" if there are."""
    try:
        done = read_json(folder / "metrics.json")
    except FileNotFoundError:
        return "failed, or in progress: see its log.txt" if folder.exists() else "not run yet"
    return "" if done["settings"] == wanted else "run with different settings: delete the folder and run again"


def _measured(folder: Path, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Figures, counts, and CPU seconds of this process; for a resumed run, only those since it resumed."""
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
    # Baselines use integer counts, which bfloat16 would round.
    with torch.autocast("cpu", torch.bfloat16, enabled=isinstance(encoder, ExifLang)):
        metrics, pictures = localization(encoder, wanted["protocol"])
        if isinstance(encoder, ExifLang):
            fits, counts = exif(encoder, wanted["protocol"])
            metrics, photos = metrics | fits, photos | counts
    return {
        "metrics": metrics,
        "pictures": pictures,
        "photos": photos,
        "cpu_seconds": {"training": trained - began, "evaluation": time.process_time() - trained},
        "hardware": this_machine(),
    }


# ---- all runs


def ordered(rows: Iterable[Row]) -> list[tuple[Row, int]]:
    """All runs: the first seed of all rows, then the second, etc., so that partial results are useful."""
    return sorted(((row, seed) for row in rows for seed in range(row.seeds)), key=lambda run: run[1])


def run_all(runs: Sequence[tuple[Path, Mapping[str, Any]]], workers: int) -> list[str]:
    """`run` each of (folder, settings) in order in `workers` processes; returns a line per failure."""
    failures = []
    os.environ["OMP_NUM_THREADS"] = "1"  # two single-threaded runs have more throughput than one on two cores
    pool = worker_pool(workers)
    try:
        waiting = {pool.submit(run, *item): item[0] for item in runs}
        for number, done in enumerate(as_completed(waiting), 1):
            folder, error = waiting[done], done.exception()
            if error is not None:
                failures.append(f"{folder.name}: {type(error).__name__}: {error}")
            print(f"[{number}/{len(runs)}] {failures[-1] if error else folder.name}", file=sys.stderr, flush=True)
    finally:
        pool.shutdown(cancel_futures=True)
    return failures


def gather() -> dict[str, Any]:
    """Results of the finished runs of `ROWS`: `protocol`, `rows` ({name: figures over seeds}), `missing` runs.

    Raises `PipelineError` if no run has finished.
    """
    gathered, missing, done = {}, [], []
    for row in ROWS:
        reasons = {seed: unfinished(run_folder(row, seed), settings(row, seed)) for seed in range(row.seeds)}
        missing += [{"row": row.name, "seed": seed, "reason": reason} for seed, reason in reasons.items() if reason]
        seeds = [seed for seed, reason in reasons.items() if not reason]
        found = [read_json(run_folder(row, seed) / "metrics.json") for seed in seeds]
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
        "localization": "spliced pictures only",
        "windows": "of a calibrated model (exiflang.localization.windows.picture_window), embedded in bfloat16",
        "pictures": done[0]["pictures"],
        "photos": {group: photos[group] for group in GROUPS if group in photos},
        "hardware": sorted({found["hardware"] for found in done}),
    }
    return {"protocol": protocol, "rows": gathered, "missing": missing}


# ---- scores


def localization(encoder: ImageEncoder, protocol: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, Any]]:
    """Scores of an encoder on each benchmark: `{"<benchmark>/<readout>/<metric>": value}`, and counts of pictures.

    p-mAP of the first readout is also given by kind: `<benchmark>/<readout>/p_map/<kind>`. Raises `BenchmarkError` for
    an unreadable picture, because rows would then be scored on different pictures.
    """
    metrics: dict[str, float] = {}
    pictures: dict[str, dict[str, int]] = {}
    for name, (layout, folder) in protocol["benchmarks"].items():
        benchmark = load_benchmark(layout, project_path(folder))
        scores = score_pictures(
            {"encoder": encoder},
            benchmark,
            protocol["readouts"],
            windows_per_side=protocol["windows_per_side"],
            info=("format", "donor_scale"),
            calibrated=True,
        )
        if benchmark.skipped:
            raise BenchmarkError(f"{folder}: {benchmark.skipped[0]} cannot be scored: repair or remove it for all rows")
        for row in summarize_pictures(scores).to_dict("records"):
            metrics |= {f"{name}/{row['readout']}/{metric}": row[metric] for metric in SCORES}
            pictures[name] = {"spliced": row["pictures"], "authentic": row["authentic"]}
        first = protocol["readouts"][0]
        for kind, p_map in p_map_by_kind(scores[scores["readout"] == first]).items():
            metrics[f"{name}/{first}/p_map/{kind}"] = float(np.mean(p_map))
            pictures[name][kind] = len(p_map)
    return metrics, pictures


def exif(model: ExifLang, protocol: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, int]]:
    """AUC of own against other cameras' sentences, `{"fit/<group>": value}`, and the number of photos per group.

    Groups: "heldout" (photos of seen cameras), "choose" and "report" (unseen ones), and "unseen", these two combined.
    """
    folder = project_path(protocol["fit"])
    photos = {group: read_photos(find_shards(folder / group))[0] for group in GROUPS}
    embedded = {group: embed_photos(model, photos[group], protocol["crops"]) for group in GROUPS}
    fits = {group: exif_fit(*embedded[group], photos[group])["auc"] for group in GROUPS}
    both = [np.concatenate([embedded["choose"][side], embedded["report"][side]]) for side in (0, 1)]
    fits["unseen"] = exif_fit(*both, photos["choose"] + photos["report"])["auc"]
    return {f"fit/{group}": auc for group, auc in fits.items()}, {group: len(own) for group, own in photos.items()}


# ---- tables


KINDS = {"png": "PNG", "jpg95": "JPEG 95", "jpg85": "JPEG 85", "native": "native scale", "rescaled": "rescaled"}


def markdown(found: Mapping[str, Any]) -> str:
    """Both tables with the protocol above them, from the result of `ablation.gather`.

    The first has localization and detection on both benchmarks and EXIF fit. The second has p-mAP of the first readout
    by the format of the last save, and by whether the spliced region was rescaled. Rows without a finished run are
    omitted.
    """
    first, *others = found["protocol"]["readouts"]
    columns = {f"splices/{readout}/p_map": f"splices p_map, {_plain(readout)}" for readout in (first, *others)}
    columns |= {f"splices/{first}/{metric}": metric for metric in ("ap", "ciou", "auc", "detection_ap")}
    columns |= {f"casia_1/{first}/p_map": "casia_1 p_map"}
    columns |= {"fit/heldout": "EXIF, seen cameras", "fit/unseen": "EXIF, unseen"}
    pictures = found["protocol"]["pictures"]["splices"]
    kinds = {f"splices/{first}/p_map/{kind}": f"{KINDS[kind]} ({pictures.get(kind, 0)})" for kind in KINDS}
    return "\n\n".join([_protocol(found["protocol"]), _table(found["rows"], columns), _table(found["rows"], kinds)])


def _protocol(protocol: Mapping[str, Any]) -> str:
    recipe, photos = protocol["recipe"], protocol["photos"]
    text = (
        f"{recipe['steps']} steps of {recipe['batch_size']} photos, patches of "
        f"{' and '.join(map(str, recipe['crop_sizes']))} px, last step. Pictures, spliced + authentic: "
        f"{counted(protocol['pictures'])}; about {protocol['windows_per_side']} windows along the longer side, "
        "sized as for a calibrated model, and a multiple of 8 px apart for the tower without padding. *ap*, *ciou*, "
        f"*auc*, *detection_ap* (splices) and casia_1 by {_plain(protocol['readouts'][0])}."
    )
    if photos:
        unseen = photos["choose"] + photos["report"]
        text += " EXIF: area under the curve of own against other cameras' sentences, "
        text += f"{photos['heldout']} photos of seen and {unseen} of unseen cameras."
    return text


def _table(rows: Mapping[str, Any], columns: Mapping[str, str]) -> str:
    def cells(row: Mapping[str, Any]) -> list[str]:
        return [figure(row["metrics"][key]) if key in row["metrics"] else "" for key in columns]

    done = {name: row for name, row in rows.items() if row["seeds"]}
    body = [[name, str(len(row["seeds"])), *cells(row)] for name, row in done.items()]
    return table(["training", "seeds", *columns.values()], body)


def _plain(readout: str) -> str:
    return readout.replace("_", " ")


# ---- the command


def renew(
    workers: Annotated[int | None, typer.Option(help="Number of parallel runs (default: one per core).")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Train only this row; can be repeated.")] = None,
    table: Annotated[bool, typer.Option("--table", help="Run nothing; only gather finished runs.")] = False,
) -> None:
    """Update reports/golden/ablation.json and its tables; failed runs are reported as an error at the end."""
    slugs = {row.slug: row for row in ROWS}
    check_names("no row", only or (), slugs)
    failures = []
    if not table:
        rows = [slugs[slug] for slug in only or slugs]
        for layout, folder in PROTOCOL["benchmarks"].values():
            load_benchmark(layout, project_path(folder))  # fail now if one is missing, not after an hour
        for name in {"real": None} | {row.data: None for row in rows}:
            data_set(name)
        runs = [(run_folder(row, seed), settings(row, seed)) for row, seed in ordered(rows)]
        failures = run_all(runs, workers or os.cpu_count())
    found = gather()
    publish("ablation", found, {"ablation": markdown(found)})
    if failures:
        raise PipelineError("\n".join(f"failed: {failure}" for failure in failures))


#: Command line; returns the exit code, see `run_command`.
main = partial(run_command, renew)

if __name__ == "__main__":
    sys.exit(main())
