"""Golden figures of the packaged weights: what 03_evaluate finds with them, and how long a first heatmap takes.

`python -m exiflang.golden_weights` runs that notebook as the preset "base" says, on `data/models/exiflang-base`, and
renews reports/golden/base.json, the README's table and the model card's. There is one training run, so that the spread
beside p-mAP is that of pictures: its standard error.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from exiflang.files import write_json
from exiflang.golden import markdown, protocol, spread, with_table
from exiflang.packaged import NAME, packaged_model
from exiflang.parameters import PipelineError, project_path
from exiflang.pipeline import STEPS, run_pipeline
from exiflang.scoring import p_map_by_kind

#: What a person waits for: a fresh process loads the weights and looks at one picture of 1024 x 768 pixels.
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


def gather(run_dir: Path) -> dict[str, Any]:
    """The golden file of a finished run of 03_evaluate: metrics as `golden.gather` has them, and p-mAP by kind."""
    report = json.loads((run_dir / "metrics.json").read_text(encoding="utf-8"))["03_evaluate"]
    scores = pd.read_parquet(run_dir / "03_evaluate" / "scores.parquet")
    first = scores[(scores["method"] == "model") & (scores["readout"] == scores["readout"].iloc[0])]
    found = {
        f"{name}, {kind}": pd.Series(p_map)
        for name, part in first.groupby("set", sort=False)
        for kind, p_map in {"all": part[part["spliced"]]["p_map"], **p_map_by_kind(part)}.items()
    }
    return {
        "preset": "base",
        "weights": hashlib.sha256((packaged_model() / "model.safetensors").read_bytes()).hexdigest(),
        "seeds": [0],
        "protocol": protocol(report),
        "metrics": {name: spread([value]) for name, value in report["check"].items()},
        "controls": {},
        "kinds": {
            name: {"mean": p_map.mean(), "se": p_map.sem(), "pictures": len(p_map)} for name, p_map in found.items()
        },
    }


def first_heatmap() -> dict[str, Any]:
    """Seconds of `FIRST_HEATMAP` in `REPEATS` fresh processes: medians and all values. Raises `PipelineError`."""
    seconds: dict[str, list[float]] = {"load": [], "load_and_heatmap": []}
    for _ in range(REPEATS):
        done = subprocess.run([sys.executable, "-c", FIRST_HEATMAP], capture_output=True, text=True)
        if done.returncode:
            raise PipelineError(f"the packaged weights make no heatmap: {done.stderr[-2000:]}")
        for values, value in zip(seconds.values(), done.stdout.split(), strict=True):
            values.append(float(value))
    return {name: {"median": median(values), "values": values} for name, values in seconds.items()} | {
        "cores": os.cpu_count()
    }


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns 0, or 1 when the notebook or the weights fail."""
    parser = argparse.ArgumentParser(prog="python -m exiflang.golden_weights", description="Renews base.json.")
    parser.parse_args(arguments)
    try:
        found = {"first_heatmap_seconds": first_heatmap()}
        run_dir = run_pipeline("base", {"model_dir": f"data/models/{NAME}"}, only=STEPS[-1:])
        found = gather(run_dir) | found
    except (PipelineError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    place = project_path("reports/golden/base.json")
    write_json(place, found)
    table = markdown(json.loads(place.read_text(encoding="utf-8")))
    for readme in (project_path("README.md"), packaged_model() / "README.md"):
        readme.write_text(with_table(readme.read_text(encoding="utf-8"), "base", table), encoding="utf-8")
    print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
