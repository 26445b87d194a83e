"""Golden figures of the packaged weights: the scores of 03_evaluate, and the time to a first heatmap.

`python -m experiments.packaged_weights` runs that notebook with the preset "base" on `data/models/exiflang-base`, and
updates reports/golden/base.json and the model card's tables. There is only one training run, so the spread
of p-mAP is its standard error over pictures.
"""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from exiflang.evaluation.scoring import p_map_by_kind
from exiflang.models.weights import NAME, packaged_model
from exiflang.pipeline.parameters import PipelineError
from exiflang.pipeline.runner import STEPS, run_pipeline
from exiflang.utils.commands import run_command
from exiflang.utils.files import file_sha256, read_json
from experiments.golden import markdown, protocol
from experiments.tables import publish, spread

#: The waiting time of a user: a fresh process loads the weights and analyzes one picture of 1024 x 768 pixels.
FIRST_HEATMAP = """
import time
began = time.perf_counter()
from exiflang import SpliceLocalizer
import numpy as np
localizer = SpliceLocalizer()
loaded = time.perf_counter()
localizer(np.random.default_rng(0).integers(0, 256, (768, 1024, 3), dtype=np.uint8))
print(loaded - began, time.perf_counter() - began)
"""
REPEATS = 5
NOTE = (
    "`flagged` and `false_alarms` are the fractions of spliced and of authentic pictures with a p-value of at most "
    "0.05. Most photos of `authentic` were used to calibrate the learned readout, so its false alarms there are too "
    "few; see the row *authentic, measured* of the learned readout instead. The readout was trained and calibrated on "
    "the model's windows; with the windows of the baselines it only serves as a comparison.\n\n"
)


def gather(run_dir: Path) -> dict[str, Any]:
    """The golden file of a finished run of 03_evaluate: metrics as in `golden.gather`, and p-mAP by kind."""
    report = read_json(run_dir / "metrics.json")["03_evaluate"]
    scores = pd.read_parquet(run_dir / "03_evaluate" / "scores.parquet")
    first = scores[(scores["method"] == "model") & (scores["readout"] == scores["readout"].iloc[0])]
    kinds = {}
    for name, part in first.groupby("set", sort=False):
        for kind, values in {"all": part[part["spliced"]]["p_map"], **p_map_by_kind(part)}.items():
            p_map = pd.Series(values)
            if p_map.empty:  # authentic pictures only
                continue
            error = p_map.sem() if len(p_map) > 1 else None
            kinds[f"{name}, {kind}"] = {"mean": p_map.mean(), "se": error, "pictures": len(p_map)}
    return {
        "preset": "base",
        "weights": file_sha256(packaged_model() / "model.safetensors"),
        "seeds": [0],
        "protocol": protocol(report),
        "metrics": {name: spread([value]) for name, value in report["check"].items()},
        "controls": {},
        "kinds": kinds,
    }


def first_heatmap() -> dict[str, Any]:
    """Seconds of `FIRST_HEATMAP` in `REPEATS` fresh processes: medians and all values. Raises `PipelineError`."""
    seconds: dict[str, list[float]] = {"load": [], "load_and_heatmap": []}
    for _ in range(REPEATS):
        done = subprocess.run([sys.executable, "-c", FIRST_HEATMAP], capture_output=True, text=True)
        if done.returncode:
            raise PipelineError(f"the packaged weights fail to compute a heatmap: {done.stderr[-2000:]}")
        for values, value in zip(seconds.values(), done.stdout.split(), strict=True):
            values.append(float(value))
    return {name: {"median": median(values), "values": values} for name, values in seconds.items()} | {
        "cores": os.cpu_count()
    }


def renew() -> None:
    """Update reports/golden/base.json and the model card's tables."""
    found = {"first_heatmap_seconds": first_heatmap()}
    found = gather(run_pipeline("base", {"model_dir": f"data/models/{NAME}"}, only=STEPS[-1:])) | found
    publish("base", found, {"base": NOTE + markdown(found)}, packaged_model() / "README.md")


#: Command line; returns the exit code, see `run_command`.
main = partial(run_command, renew)

if __name__ == "__main__":
    sys.exit(main())
