"""Golden figures of the linear probes: 05_probe on real photos by the packaged weights, and on the demo's cameras.

`python -m exiflang.probe_figures` makes what is missing (the demo's data and weights, a control on shuffled EXIF for
each), runs the notebook with the presets "base" and "demo", and renews reports/golden/probe.json and the README's
tables.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from exiflang.exif_figures import shuffled_control
from exiflang.files import write_json
from exiflang.golden import with_table
from exiflang.packaged import NAME
from exiflang.parameters import PipelineError, project_path
from exiflang.pipeline import STEPS, run_pipeline

PROBE = "05_probe"
#: Columns of the README's tables: methods, and what a guess would be.
METHODS = ("model", "shuffled EXIF", "untrained", "residual statistics", "mean colour")


def demo() -> Path:
    """The run of 05_probe on the demo's cameras; data, weights and control are made if they are not there."""
    if not project_path("data/models/demo/model.safetensors").is_file():
        run_pipeline("demo", only=STEPS[:2])
    control = "data/models/demo-shuffled"
    if not project_path(f"{control}/model.safetensors").is_file():
        run_pipeline("demo", {"model_dir": control, "exif": "shuffled"}, only=[STEPS[1]])
    return run_pipeline("demo", only=[PROBE])


def real() -> Path:
    """The run of 05_probe on real photos by the packaged weights; their data set must be there."""
    if not project_path("data/base/heldout").is_dir():
        run_pipeline("base", only=STEPS[:1])
    shuffled_control()
    return run_pipeline("base", {"model_dir": f"data/models/{NAME}"}, only=[PROBE])


def gather(run_dir: Path) -> dict[str, Any]:
    """The golden file's part of one run: its `protocol`, and its `rows`."""
    report = json.loads((run_dir / "metrics.json").read_text(encoding="utf-8"))[PROBE]
    return {"protocol": report["protocol"], "rows": report["table"]}


def markdown(part: Mapping[str, Any]) -> str:
    """The README's table of one run: a row a probe and a column a method; ± one standard error of the model's score."""
    rows = pd.DataFrame(part["rows"])
    scores = rows.pivot(index="what", columns="method", values="score")
    methods = [method for method in METHODS if method in scores]
    lines = ["| probe | " + " | ".join(methods) + " | chance | of |", "|" + "---|" * (len(methods) + 3)]
    for row in rows[rows["method"] == "model"].to_dict("records"):
        found = scores.loc[row["what"]]
        cells = [f"**{found['model']:.2f} ± {row['se']:.2f}**"]
        cells += ["" if pd.isna(found[method]) else f"{found[method]:.2f}" for method in methods[1:]]
        chance = f"{row['chance']:.2f} | {row['n']} in {row['groups']} groups"
        lines.append(f"| {row['what'].replace('/', ', ').replace('_', ' ')} | {' | '.join(cells)} | {chance} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns 0, or 1 when something fails or is missing."""
    parser = argparse.ArgumentParser(prog="python -m exiflang.probe_figures", description="Renews the probes' figures.")
    parser.parse_args(arguments)
    try:
        found = {"real": gather(real()), "demo": gather(demo())}
    except (PipelineError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    write_json(project_path("reports/golden/probe.json"), {"model": NAME, **found})
    readme = project_path("README.md")
    text = readme.read_text(encoding="utf-8")
    for name, part in found.items():
        table = markdown(part)
        text = with_table(text, f"probe-{name}", table)
        print(table)
    readme.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
