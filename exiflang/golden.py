"""Golden figures: the demo over several seeds, with its two controls, into reports/golden/ and the README's tables.

`python -m exiflang.golden` measures what is not measured yet: each seed redraws the held-out makes, the photos, the
splices and the weights, and runs three times by the same notebooks: the model, a model trained on EXIF shuffled among
the photos, and an untrained network. A run that has finished is not repeated, so an interrupted renewal goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

from exiflang.files import write_json
from exiflang.parameters import PipelineError, project_path
from exiflang.pipeline import STEPS, run_pipeline

VARIANTS: dict[str, dict[str, Any]] = {
    "model": {},
    "shuffled EXIF": {"exif": "shuffled", "baselines": False, "readouts": ["diffusion"]},
    "untrained": {"steps": 0, "baselines": False, "readouts": ["diffusion"]},
}
SHOWN = ("p_map", "ap", "auc", "ciou", "detection_ap")


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation (n - 1) and the range in which one more run lies with a chance of 95 %.

    `low` and `high` are `mean ± t(0.975, n - 1) sd sqrt(1 + 1/n)`, the prediction interval of a normal sample; for one
    value they are that value. Raises `ValueError` for none.
    """
    if not len(values):
        raise ValueError("no values to take the spread of")
    n, mean = len(values), float(np.mean(values))
    sd = float(np.std(values, ddof=1)) if n > 1 else 0.0
    reach = float(student.ppf(0.975, n - 1)) * sd * (1 + 1 / n) ** 0.5 if n > 1 else 0.0
    return {"mean": mean, "sd": sd, "low": mean - reach, "high": mean + reach, "values": list(values)}


def gather(preset: str, seeds: Sequence[int]) -> dict[str, Any]:
    """What the finished runs of `seeds` x `VARIANTS` have found: `metrics` of the model, `controls` beside them."""
    found: dict[str, dict[str, list[float]]] = {variant: {} for variant in VARIANTS}
    for seed in seeds:
        for variant in VARIANTS:
            metrics = (run_folder(preset, seed, variant) / "metrics.json").read_text(encoding="utf-8")
            report = json.loads(metrics)["03_evaluate"]
            for name, value in report["check"].items():
                found[variant].setdefault(name, []).append(value)
    return {
        "preset": preset,
        "seeds": list(seeds),
        "protocol": protocol(report),
        "metrics": {name: spread(values) for name, values in found["model"].items()},
        "controls": {
            variant: {name: spread(values) for name, values in found[variant].items()}
            for variant in VARIANTS
            if variant != "model"
        },
    }


def protocol(report: Mapping[str, Any]) -> dict[str, Any]:
    """How the figures of a report of 03_evaluate were measured, and on how much."""
    counts = {row["set"]: {"spliced": row["pictures"], "authentic": row["authentic"]} for row in report["table"]}
    searched = ("among", "photos", "chance", "cameras", "chance_camera")
    retrieval = {key: report["retrieval"][key] for key in searched if key in report["retrieval"]}
    return report["protocol"] | {"pictures": counts, "retrieval": retrieval}


def run_folder(preset: str, seed: int, variant: str) -> Path:
    """Where the run of one seed and variant lies."""
    return project_path("reports/runs") / f"golden-{preset}-{seed}-{variant.split()[0]}"


def run(preset: str, seed: int, variant: str) -> None:
    """Run one variant of one seed, unless it has finished; "model" makes the data set that the others share."""
    folder = run_folder(preset, seed, variant)
    if folder.exists():
        if json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["status"] == "finished":
            return
        raise PipelineError(f"{folder} has failed: look into it, delete it, and run again")
    folders = {"data_dir": f"data/golden/{preset}-{seed}", "model_dir": f"data/models/golden/{folder.name}"}
    steps = STEPS if variant == "model" else STEPS[1:]
    run_pipeline(preset, {"seed": seed, **folders, **VARIANTS[variant]}, folder.name, steps)


def markdown(golden: Mapping[str, Any]) -> str:
    """The README's table of one golden file: a row a method and readout of each set, mean ± deviation over seeds."""
    table: dict[tuple[str, str, str], dict[str, str]] = {}
    for variant, metrics in ({"": golden["metrics"]} | golden["controls"]).items():
        for name, value in metrics.items():
            if not name.startswith("retrieval/"):
                pictures, method, readout, metric = name.split("/")
                table.setdefault((pictures, readout, variant or method), {})[metric] = figure(value)
    seeds = len(golden["seeds"])
    counts = [f"{n['spliced']} + {n['authentic']} {name}" for name, n in golden["protocol"]["pictures"].items()]
    lines = [f"{seeds} seed{'s' * (seeds > 1)}; pictures of each seed, spliced + authentic: {', '.join(counts)}.", ""]
    lines += ["| pictures | readout | method | " + " | ".join(SHOWN) + " |", "|" + "---|" * (3 + len(SHOWN))]
    order = {"model": 0, "residual statistics": 1, "mean colour": 2}
    for key in sorted(table, key=lambda k: (k[0] != "unseen", k[0], k[1], order.get(k[2], 3), k[2])):
        bold = "**" if key[2] == "model" else ""
        cells = [f"{bold}{table[key].get(metric, '')}{bold}" for metric in SHOWN]
        lines.append(f"| {key[0]} | {key[1].replace('_', ' ')} | {key[2]} | " + " | ".join(cells) + " |")
    columns = ["photo → EXIF", "model", *golden["controls"], "chance"]
    lines += ["", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    searched = golden["protocol"]["retrieval"]
    for name, label, chance in (
        ("retrieval/recall", f"recall@1 among {searched['among']} photos", searched["chance"]),
        ("retrieval/recall_camera", "recall@1 among the photos of one camera", searched.get("chance_camera")),
        ("retrieval/fit_heldout", "AUC of own against other cameras' EXIF, seen cameras", 0.5),
        ("retrieval/fit_choose", "the same, cameras set apart to choose the step", 0.5),
        ("retrieval/fit_report", "the same, cameras set apart to report on", 0.5),
    ):
        if name in golden["metrics"]:
            values = [golden["metrics"][name], *(control[name] for control in golden["controls"].values())]
            lines.append(f"| {label} | " + " | ".join([*map(figure, values), f"{chance:.3f}"]) + " |")
    if kinds := golden.get("kinds"):
        lines += ["", "| kind of picture | spliced pictures | p_map ± standard error |", "|---|---|---|"]
        for name, kind in kinds.items():
            error = "" if kind["se"] is None else f" ± {kind['se']:.2f}"  # one picture has none
            lines.append(f"| {name} | {kind['pictures']} | {kind['mean']:.2f}{error} |")
    return "\n".join(lines)


def figure(value: Mapping[str, Any]) -> str:
    """What `spread` has found, for a table: mean ± deviation, or the one value."""
    return f"{value['mean']:.2f} ± {value['sd']:.2f}" if len(value["values"]) > 1 else f"{value['mean']:.2f}"


def with_table(readme: str, preset: str, table: str) -> str:
    """The README with the text between its two `golden:<preset>` comments replaced by `table`."""
    pattern = re.compile(rf"(<!-- golden:{preset} -->\n).*?(<!-- /golden:{preset} -->)", re.DOTALL)
    return pattern.sub(lambda match: f"{match[1]}\n{table}\n\n{match[2]}", readme)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns 0, or 1 when a run fails."""
    parser = argparse.ArgumentParser(prog="python -m exiflang.golden", description="Renews reports/golden/.")
    parser.add_argument("--preset", default="demo", help="notebooks/params/<preset>.yaml (default: demo)")
    parser.add_argument("--seeds", type=int, default=5, help="how many seeds, from 0 (default: 5)")
    options = parser.parse_args(arguments)
    seeds = range(options.seeds)
    model, *controls = VARIANTS
    # One run a core: two single-threaded runs get more done than one that shares each step between two cores.
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
            models = [pool.submit(run, options.preset, seed, model) for seed in seeds]
            checks = []
            for seed, made in zip(seeds, models, strict=True):
                made.result()  # the controls train on its data set
                checks += [pool.submit(run, options.preset, seed, control) for control in controls]
            for done in checks:
                done.result()
        golden = gather(options.preset, seeds)
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    write_json(project_path(f"reports/golden/{options.preset}.json"), golden)
    if options.preset == "demo":  # simulated pictures alone: those of real photos are not ours to publish
        gallery = run_folder("demo", 0, "model") / STEPS[-1] / "gallery.png"
        shutil.copyfile(gallery, project_path("reports/golden/gallery.png"))
    readme = project_path("README.md")
    table = markdown(golden)
    readme.write_text(with_table(readme.read_text(encoding="utf-8"), options.preset, table), encoding="utf-8")
    print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
