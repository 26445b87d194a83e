"""Is the candidate tower better than the packaged one? Each with a readout of its own, trained on as many composites.

`python -m experiments.candidate` measures composites and benchmarks with both towers, trains their readouts with three
seeds, one single-threaded process per run, and updates reports/golden/candidate.json and its table. An interrupted
update resumes. What decides was fixed before the candidate was trained: it must gain `GAIN` on each set of `CHOOSING`,
read the EXIF of seen cameras as well (0.97), and take at most 1.2 times as long at 1 MP.
"""

import os
import sys
import time
from collections.abc import Mapping
from concurrent.futures import as_completed
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from exiflang.localization.localizer import SpliceLocalizer
from exiflang.models.weights import load_model, packaged_model
from exiflang.pipeline.parameters import PipelineError, project_path
from exiflang.training.measured import measure_pictures
from exiflang.utils.commands import run_command
from exiflang.utils.files import file_sha256
from exiflang.utils.hardware import this_machine
from exiflang.utils.processes import worker_pool
from experiments import ablation, readout_ablation
from experiments.ablation_data import data_set
from experiments.candidate_training import CANDIDATE, PLACE
from experiments.packaged_readout import composites
from experiments.readout_ablation import measured_benchmark, result_of, run
from experiments.readout_figures import SETS
from experiments.tables import figure, publish, spread, table
from experiments.tower_recipes import CHOOSING

#: In p-mAP over windows.
GAIN = 0.02
REPEATS = 7
COLUMNS = {"fit/heldout": "EXIF, seen cameras", "fit/unseen": "unseen", "seconds": "seconds at 1 MP"}


def towers() -> dict[str, tuple[readout_ablation.Row, str]]:
    """The readout's row and the model of each tower. Raises `PipelineError` without a candidate."""
    digest = file_sha256(project_path(PLACE) / "model.safetensors")
    if digest is None:
        raise PipelineError(f"{PLACE}: no candidate; experiments/candidate_training.py trains one")
    packaged = readout_ablation.ROWS[0]
    candidate = replace(packaged, name="candidate", tower=f"candidate-{digest[:8]}")
    return {"packaged": (packaged, ""), "candidate": (candidate, str(project_path(PLACE)))}


def localization() -> dict[str, dict[str, Any]]:
    """p-mAP over windows of spliced pictures, {tower: {set: its spread over seeds}}."""
    runs = []
    for row, model in towers().values():
        benchmarks = {name: measured_benchmark(name, row.tower, model) for name in SETS}
        measure_pictures(row.made, model, composites(row.pictures, 0, row.shares), os.cpu_count() or 1)
        runs += [(row, seed, benchmarks) for seed in range(readout_ablation.SEEDS)]
    with worker_pool() as pool:
        waiting = [pool.submit(run, *each) for each in runs]
        for done in tqdm(as_completed(waiting), total=len(waiting), unit=" trainings"):
            done.result()
    found = {}
    for tower, (row, _) in towers().items():
        results = [result_of(row, seed)["localization"] for seed in range(readout_ablation.SEEDS)]
        found[tower] = {name: spread([result[f"{name}, all"] for result in results]) for name in SETS}
    return found


def seconds(models: Mapping[str, str]) -> dict[str, list[float]]:
    """Times to embed all windows of a picture of 1000 x 1000 pixels with each tower, the towers in turn."""
    picture = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), np.uint8)
    localizers = {tower: SpliceLocalizer(load_model(model), readout="diffused_cut") for tower, model in models.items()}
    taken: dict[str, list[float]] = {tower: [] for tower in models}
    for _ in range(REPEATS + 1):
        for tower, localizer in localizers.items():
            began = time.perf_counter()
            localizer.embed(picture, calibrated=True)
            taken[tower].append(time.perf_counter() - began)
    return {tower: times[1:] for tower, times in taken.items()}  # the first is for warming up


def markdown(found: Mapping[str, Any]) -> str:
    """The table: a row for each tower."""
    body = [
        [name, *(figure(row[name], 3) for name in SETS), *(f"{row[key]:.3f}" for key in COLUMNS)]
        for name, row in found["rows"].items()
    ]
    return table(["tower", *SETS, *COLUMNS.values()], body)


def renew() -> None:
    """Update reports/golden/candidate.json and its table."""
    data_set("real")
    models = {tower: model for tower, (_, model) in towers().items()}
    times = seconds(models)  # while nothing else runs
    os.environ["OMP_NUM_THREADS"] = "1"
    found = localization()
    rows = {}
    for tower, model in models.items():
        fits, _ = ablation.exif(load_model(model), ablation.PROTOCOL)
        rows[tower] = found[tower] | fits | {"seconds": median(times[tower])}
    gained = {name: rows["candidate"][name]["mean"] - rows["packaged"][name]["mean"] for name in CHOOSING}
    recipe = CANDIDATE.recipe(0).flat()
    protocol = {
        "weights": {"packaged": file_sha256(packaged_model() / "model.safetensors")},
        "needed": GAIN,
        "readout": {"pictures": readout_ablation.PICTURES, "seeds": readout_ablation.SEEDS},
        "candidate": {name: recipe[name] for name in CANDIDATE.changes} | {"tower": dict(CANDIDATE.tower)},
        "hardware": this_machine(),
    }
    golden = {"protocol": protocol, "rows": rows, "gained": gained, "seconds": times}
    publish("candidate", golden, {"candidate": markdown(golden)})


#: Command line; returns the exit code, see `run_command`.
main = partial(run_command, renew)

if __name__ == "__main__":
    sys.exit(main())
