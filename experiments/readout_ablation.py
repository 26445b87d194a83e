"""Ablation of the learned readout's inputs and training composites: small training runs with one change each.

`python -m experiments.readout_ablation` measures composites and benchmarks once per tower, trains the missing rows, one
single-threaded process per run, and updates reports/golden/readout_ablation.json and its tables. An
interrupted update resumes; the first seed of all rows comes first.
"""

import json
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from sklearn.metrics import average_precision_score
from tqdm.auto import tqdm

from exiflang.data.composites import SHARES
from exiflang.evaluation.benchmarks import BenchmarkImage
from exiflang.evaluation.layouts import BenchmarkError
from exiflang.localization.evidence import NUMBERS, WindowMeans
from exiflang.localization.learned_readout import MAPS, PICTURE, LearnedReadout
from exiflang.localization.localizer import SpliceLocalizer
from exiflang.localization.relations import EIGENVECTORS
from exiflang.localization.relations import MAPS as RELATIONS
from exiflang.models.model import ExifLang
from exiflang.models.weights import load_model, packaged_model
from exiflang.pipeline.parameters import PipelineError, project_path
from exiflang.training.measured import Measured, measure, measure_pictures, read_measured, write_measured
from exiflang.training.readout import ReadoutConfig, fit_readout
from exiflang.utils.commands import run_command
from exiflang.utils.files import file_sha256, read_json, write_json
from exiflang.utils.processes import worker_pool
from experiments.controls import CONTROL_DIR, shuffled_control
from experiments.packaged_readout import composites
from experiments.readout_figures import HAND_MADE, SETS, pictures_of, recorded_strata, strata
from experiments.tables import figure, publish, spread, table

FOLDER = "data/readout_ablation"
PICTURES, SEEDS = 1000, 3
CONFIG = ReadoutConfig(networks=1)
#: Inputs that a row can hide: maps by name, and numbers of the picture.
INPUTS: Mapping[str, Sequence[str]] = {
    "relations": (
        *RELATIONS,
        *(f"eigenvector {k}" for k in range(1, EIGENVECTORS + 1)),
        *(f"eigenvalue {k}" for k in range(1, EIGENVECTORS + 1)),
    ),
    "JPEG history": ("jpeg_history", "former_history", *NUMBERS[:3]),
    "history on another grid": ("former_history",),
    "block grid": ("grid_along", "grid_beside", *NUMBERS[3:]),
    "content": ("brightness", "deviation", "gradient", "clipped", "saturation"),
}
EVIDENCE = ("JPEG history", "block grid", "content")


@dataclass(frozen=True)
class Row:
    """One configuration: the inputs it omits, the tower that embeds its windows, and its training composites."""

    name: str
    without: Sequence[str] = ()
    tower: str = "packaged"
    shares: Mapping[str, float] = field(default_factory=lambda: dict(SHARES))
    pictures: int = PICTURES

    @property
    def made(self) -> Path:
        """Folder of its measured composites."""
        kinds = "-".join(f"{kind}{share:g}" for kind, share in self.shares.items())
        return project_path(FOLDER) / f"{self.tower}-{kinds}"

    def settings(self, seed: int) -> dict[str, Any]:
        """Everything but the code that its figures depend on."""
        weights = file_sha256(packaged_model() / "model.safetensors")
        return {**asdict(self), "without": list(self.without), "config": asdict(CONFIG) | {"seed": seed}} | {
            "weights": weights
        }


ROWS = (
    Row("all of it"),
    Row("embeddings only", EVIDENCE),
    Row("evidence only", ("relations",)),
    Row("relations and JPEG history alone", ("history on another grid", "block grid", "content")),
    *(Row(f"without {kind}", (kind,)) for kind in INPUTS if kind != "relations"),
    Row("untrained tower", tower="untrained"),
    Row("tower of shuffled EXIF", tower="shuffled"),
    Row("composites of whole photos only", shares={"whole": 1}),
    Row("of single tiles only", shares={"tile": 1}),
    Row("of mosaics only", shares={"mosaic": 1}),
    Row("of simulated photos only", shares={"simulated": 1}),
    Row("a third of the composites", pictures=PICTURES // 3),
)


# ---- what is measured once


def towers() -> dict[str, str]:
    """The model of each tower, by name; missing controls are created (the shuffled one takes minutes)."""
    shuffled_control()
    return {"packaged": "", "untrained": str(untrained_tower()), "shuffled": str(project_path(CONTROL_DIR))}


def untrained_tower() -> Path:
    """Folder of a model like the packaged one with random weights, created if it does not exist."""
    folder = project_path(FOLDER) / "untrained"
    if not folder.exists():
        model = ExifLang.from_pretrained(str(packaged_model()))
        torch.manual_seed(0)
        ExifLang(model.config, model.tokenizer).save_pretrained(folder)
    return folder


_worker: dict[str, Any] = {}


def _start(model: str) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    _worker["localizer"] = SpliceLocalizer(load_model(model), readout=HAND_MADE[0])


def _measure(item: BenchmarkImage, file: Path) -> None:
    """Write a benchmark's picture for `read_measured`, and next to it the scores of handcrafted readouts."""
    localizer = _worker["localizer"]
    seen = localizer.observe(item.image, item.history, calibrated=True)
    measured = measure(seen, item.mask)
    means = WindowMeans(seen.height, seen.width, seen.window, seen.stride)
    scores = {}
    for readout in HAND_MADE:
        values, detection = localizer.values(seen, readout)
        drawn = localizer.draw(seen, values, readout)
        scores[readout] = {**window_scores(means(drawn), measured.shares.numpy()), "detection": detection}
    write_json(file.with_suffix(".json"), scores)
    write_measured(file, measured)


def measured_benchmark(name: str, tower: str, model: str) -> dict[str, Path]:
    """File of each picture of a benchmark, by the picture's name, measured with a tower."""
    benchmark = pictures_of(name)
    place = project_path(FOLDER) / f"{tower}-{name}"
    place.mkdir(parents=True, exist_ok=True)
    files = {item: place / f"{number:04d}.npz" for number, item in enumerate(benchmark.names)}
    missing = benchmark.only([item for item, file in files.items() if not file.exists()])
    with worker_pool(None, _start, model) as pool:
        waiting = [pool.submit(_measure, item, files[item.name]) for item in missing]
        for done in tqdm(as_completed(waiting), total=len(waiting), unit=" pictures", desc=place.name):
            done.result()
    if missing.skipped:
        raise BenchmarkError(f"{name}: {missing.skipped[0]} cannot be measured: repair or remove it for all rows")
    return files


def hidden(picture: Measured, without: Sequence[str]) -> Measured:
    """The same with the named inputs set to zero; hiding the relations hides the embeddings, too."""
    names = {name for kind in without for name in INPUTS[kind]}
    kept = {
        inputs: torch.tensor([re.sub(r"^(log of the )?deviation of |, standardized$", "", name) not in names
                              for name in inputs])
        for inputs in (MAPS, PICTURE)
    }  # fmt: skip
    embeddings = picture.embeddings * ("relations" not in without)
    return Measured(picture.maps * kept[MAPS], picture.picture * kept[PICTURE], embeddings, picture.shares)


def spliced_windows(shares: np.ndarray) -> np.ndarray:
    """Which windows count as tampered, see `window_scores`: bool, in the shape of `shares`."""
    return shares > min(0.5, 0.99 * shares.max())


def window_scores(values: np.ndarray, shares: np.ndarray) -> dict[str, float]:
    """AP and p-mAP over windows, which count as tampered if more than half is; {} for an authentic picture.

    If a region is too small for that, the windows with the largest tampered fraction count.
    """
    if not shares.max() > 0:
        return {}
    truth = spliced_windows(shares)
    ap, inverse = (average_precision_score(truth.ravel(), sign * values.ravel()) for sign in (1, -1))
    return {"ap": ap, "p_map": max(ap, inverse)}


# ---- one training


def run(row: Row, seed: int, benchmarks: Mapping[str, Mapping[str, Path]]) -> None:
    """Train and score one row with one seed, unless that is done, and write the result for `result_of`."""
    torch.set_num_threads(1)
    if result_of(row, seed):
        return
    folder = run_folder(row, seed)
    place = folder / "readout" / "pictures"
    place.mkdir(parents=True, exist_ok=True)
    files = []
    for file in sorted(row.made.glob("*.npz"))[: row.pictures]:
        files.append(place / file.name)
        write_measured(files[-1], hidden(read_measured(file), row.without))
    readout, _ = fit_readout(folder / "readout", files, replace(CONFIG, seed=seed))
    scores = [
        {
            "set": name,
            "name": item,
            "format": Path(item).suffix,
            **scores_of(readout, hidden(read_measured(file), row.without)),
        }
        for name, files in benchmarks.items()
        for item, file in files.items()
    ]
    write_json(folder / "metrics.json", {"settings": row.settings(seed), **figures(pd.DataFrame(scores))})
    shutil.rmtree(folder / "readout")


def run_folder(row: Row, seed: int) -> Path:
    """Folder of one run, which has `metrics.json` once it has finished."""
    name = re.sub(r"[^a-z]+", "-", row.name.lower())
    return project_path("reports/runs/readout_ablation") / f"{name}-{seed}"


def result_of(row: Row, seed: int) -> dict[str, Any]:
    """The result of one run; {} if it has not finished. Raises `PipelineError` if its settings differ."""
    file = run_folder(row, seed) / "metrics.json"
    if not file.exists():
        return {}
    found = read_json(file)
    if found["settings"] != json.loads(json.dumps(row.settings(seed))):
        raise PipelineError(f"{file.parent}: run with different settings: delete the folder and run again")
    return found


@torch.inference_mode()
def scores_of(readout: LearnedReadout, picture: Measured) -> dict[str, Any]:
    """Scores of one picture, in the form `figures` expects."""
    windows = readout(picture.inputs())
    return {**window_scores(windows.numpy(), picture.shares.numpy()), "detection": float(windows.max())}


def figures(scores: pd.DataFrame) -> dict[str, Any]:
    """p-mAP over windows by set and stratum, `{"splices, all": ...}`, and detection AP by set; one row per picture."""
    scores = scores.assign(spliced=scores["p_map"].notna())
    localization, detection = {}, {}
    for name, part in scores.groupby("set", sort=False):
        for stratum, own in strata(part, recorded_strata(str(name), part)):
            localization[f"{name}, {stratum}"] = float(own["p_map"].mean())
        detection[str(name)] = float(average_precision_score(part["spliced"], part["detection"]))
    return {"localization": localization, "detection": detection}


# ---- all of them


def renew() -> None:
    """Update reports/golden/readout_ablation.json and print its tables."""
    os.environ["OMP_NUM_THREADS"] = "1"  # two single-threaded runs have more throughput than one on two cores
    models = towers()
    measured = {
        tower: {name: measured_benchmark(name, tower, model) for name in SETS} for tower, model in models.items()
    }
    for row in ROWS:
        measure_pictures(row.made, models[row.tower], composites(row.pictures, 0, row.shares), os.cpu_count() or 1)
    runs = [(row, seed) for seed in range(SEEDS) for row in ROWS]
    with worker_pool() as pool:
        waiting = [pool.submit(run, row, seed, measured[row.tower]) for row, seed in runs]
        for done in tqdm(as_completed(waiting), total=len(waiting), unit=" trainings"):
            done.result()
    found = gather(measured["packaged"])
    publish("readout_ablation", found, {"readout_ablation": markdown(found)})


def gather(measured: Mapping[str, Mapping[str, Path]]) -> dict[str, Any]:
    """Figures of all rows over the finished seeds, and of handcrafted readouts on the same measured pictures."""
    results = {row.name: [found for seed in range(SEEDS) if (found := result_of(row, seed))] for row in ROWS}
    for readout in HAND_MADE:
        scores = [
            {"set": name, "name": item, "format": Path(item).suffix, **read_json(file.with_suffix(".json"))[readout]}
            for name, files in measured.items()
            for item, file in files.items()
        ]
        results[readout.replace("_", " ")] = [figures(pd.DataFrame(scores))]
    rows = {
        name: {
            kind: {key: spread([found[kind][key] for found in each]) for key in each[0][kind]}
            for kind in ("localization", "detection")
        }
        for name, each in results.items()
        if each
    }
    protocol = {"pictures": PICTURES, "config": asdict(CONFIG), "localization": "over windows of spliced pictures"}
    weights = file_sha256(packaged_model() / "model.safetensors")
    return {"protocol": protocol | {"weights": weights}, "rows": rows}


def markdown(found: Mapping[str, Any]) -> str:
    """The tables: localization and detection by set, and localization by stratum of the yardstick."""
    rows = found["rows"]
    known = next(iter(rows.values()))["localization"]
    parts = [key for key in known if re.match("yardstick, (area|grid|format)", key)]
    first, second = [], []
    for name, row in rows.items():
        localization, detection = row["localization"], row["detection"]
        seeds = str(len(localization["splices, all"]["values"]))
        everywhere = [localization[f"{name}, all"] for name in SETS] + [detection[name] for name in SETS]
        first.append([name, seeds, *map(figure, everywhere)])
        second.append([name, *(figure(localization[key]) for key in parts)])
    columns = ["readout", "seeds", *SETS, *(f"detection AP, {name}" for name in SETS)]
    names = [key.removeprefix("yardstick, ") for key in parts]
    return f"{table(columns, first)}\n\n{table(['p-mAP of the yardstick', *names], second)}"


#: Command line; returns the exit code, see `run_command`.
main = partial(run_command, renew)

if __name__ == "__main__":
    sys.exit(main())
