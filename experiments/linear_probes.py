"""Golden figures of the linear probes: 05_probe with the packaged weights on real photos, and on the demo's cameras.

`python -m experiments.linear_probes` creates missing inputs (the demo's data and weights, a control on shuffled EXIF
for each), runs the notebook with the presets "base" and "demo", and updates reports/golden/probe.json and its
tables.
"""

import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from exiflang.models.weights import NAME
from exiflang.pipeline.parameters import project_path
from exiflang.pipeline.runner import STEPS, run_pipeline
from exiflang.utils.commands import run_command
from exiflang.utils.files import read_json
from experiments.controls import shuffled_control
from experiments.tables import publish, table

PROBE = "05_probe"
#: Columns of the tables.
METHODS = ("model", "shuffled EXIF", "untrained", "residual statistics", "mean color")


def demo() -> Path:
    """The run of 05_probe on the demo's cameras; missing data, weights and controls are created."""
    if not project_path("data/models/demo/model.safetensors").is_file():
        run_pipeline("demo", only=STEPS[:2])
    control = "data/models/demo-shuffled"
    if not project_path(f"{control}/model.safetensors").is_file():
        run_pipeline("demo", {"model_dir": control, "exif": "shuffled"}, only=[STEPS[1]])
    return run_pipeline("demo", only=[PROBE])


def real() -> Path:
    """The run of 05_probe on real photos with the packaged weights, whose data set must exist."""
    if not project_path("data/base/heldout").is_dir():
        run_pipeline("base", only=STEPS[:1])
    shuffled_control()
    return run_pipeline("base", {"model_dir": f"data/models/{NAME}"}, only=[PROBE])


def gather(run_dir: Path) -> dict[str, Any]:
    """One run's part of the golden file: its `protocol` and its `rows`."""
    report = read_json(run_dir / "metrics.json")[PROBE]
    return {"protocol": report["protocol"], "rows": report["table"]}


def markdown(part: Mapping[str, Any]) -> str:
    """The table for one run: a row per probe, a column per method; ± is one standard error of the model."""
    rows = pd.DataFrame(part["rows"])
    scores = rows.pivot(index="what", columns="method", values="score")
    methods = [method for method in METHODS if method in scores]
    cells = []
    for row in rows[rows["method"] == "model"].to_dict("records"):
        found = scores.loc[row["what"]]
        others = ["" if pd.isna(found[method]) else f"{found[method]:.2f}" for method in methods[1:]]
        what, of = row["what"].replace("/", ", ").replace("_", " "), f"{row['n']} in {row['groups']} groups"
        cells.append([what, f"**{found['model']:.2f} ± {row['se']:.2f}**", *others, f"{row['chance']:.2f}", of])
    return table(["probe", *methods, "chance", "of"], cells)


def renew() -> None:
    """Update reports/golden/probe.json and its tables."""
    found = {"real": gather(real()), "demo": gather(demo())}
    publish("probe", {"model": NAME, **found}, {f"probe-{name}": markdown(part) for name, part in found.items()})


#: Command line; returns the exit code, see `run_command`.
main = partial(run_command, renew)

if __name__ == "__main__":
    sys.exit(main())
