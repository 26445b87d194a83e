"""Golden figures: the demo over several seeds, with two controls, for reports/golden/.

`python -m experiments.golden` runs everything that has not been measured yet. Each seed draws different held-out makes,
photos, splices and weights, and runs the same notebooks three times: the model, a model trained on EXIF shuffled among
photos, and an untrained network. Finished runs are not repeated, so an interrupted update resumes.
"""

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from exiflang.localization.learned_readout import LEARNED
from exiflang.pipeline.parameters import PipelineError, project_path
from exiflang.pipeline.runner import STEPS, run_pipeline
from exiflang.utils.commands import run_command
from exiflang.utils.files import read_json
from exiflang.utils.processes import worker_pool
from experiments.tables import SCORES, counted, figure, publish, spread, table

VARIANTS: dict[str, dict[str, Any]] = {
    "model": {},
    "shuffled EXIF": {"exif": "shuffled", "baselines": False, "readouts": ["diffusion"], "readout_pictures": 0},
    "untrained": {"steps": 0, "baselines": False, "readouts": ["diffusion"], "readout_pictures": 0},
}


def gather(preset: str, seeds: Sequence[int]) -> dict[str, Any]:
    """Results of the finished runs of `seeds` x `VARIANTS`: `metrics` of the model, and of the `controls`."""
    found: dict[str, dict[str, list[float]]] = {variant: {} for variant in VARIANTS}
    for seed in seeds:
        for variant in VARIANTS:
            report = read_json(run_folder(preset, seed, variant) / "metrics.json")["03_evaluate"]
            for name, value in report["check"].items():
                found[variant].setdefault(name, []).append(value)
    spreads = {variant: {name: spread(values) for name, values in own.items()} for variant, own in found.items()}
    metrics = spreads.pop("model")
    how = {"preset": preset, "seeds": list(seeds), "protocol": protocol(report)}
    return how | {"metrics": metrics, "controls": spreads}


def protocol(report: Mapping[str, Any]) -> dict[str, Any]:
    """Protocol of a report of 03_evaluate, and the numbers of pictures and photos."""
    counts = {row["set"]: {"spliced": row["pictures"], "authentic": row["authentic"]} for row in report["table"]}
    searched = ("among", "photos", "chance", "cameras", "chance_camera")
    retrieval = {key: report["retrieval"][key] for key in searched if key in report["retrieval"]}
    return report["protocol"] | {"pictures": counts, "retrieval": retrieval}


def run_folder(preset: str, seed: int, variant: str) -> Path:
    """Folder of the run of one seed and variant."""
    return project_path("reports/runs") / f"golden-{preset}-{seed}-{variant.split()[0]}"


def run(preset: str, seed: int, variant: str) -> None:
    """Run one variant of one seed, unless it has finished; "model" creates the data set that the others share."""
    folder = run_folder(preset, seed, variant)
    if folder.exists():
        if read_json(folder / "manifest.json")["status"] == "finished":
            return
        raise PipelineError(f"{folder}: this run failed; find out why, delete the folder, and run again")
    folders = {"data_dir": f"data/golden/{preset}-{seed}", "model_dir": f"data/models/golden/{folder.name}"}
    steps = STEPS if variant == "model" else STEPS[1:]
    run_pipeline(preset, {"seed": seed, **folders, **VARIANTS[variant]}, folder.name, steps)


def markdown(golden: Mapping[str, Any]) -> str:
    """The tables for one golden file: a sentence on the pictures, scores, EXIF, and p-mAP by kind."""
    seeds = len(golden["seeds"])
    pictures = counted(golden["protocol"]["pictures"])
    parts = [f"{seeds} seed{'s' * (seeds > 1)}; pictures of each seed, spliced + authentic: {pictures}."]
    parts += [_scores(golden), _retrieval(golden)]
    if kinds := golden.get("kinds"):
        rows = []
        for name, kind in kinds.items():
            error = "" if kind["se"] is None else f" ± {kind['se']:.2f}"  # one picture has none
            rows.append([name, str(kind["pictures"]), f"{kind['mean']:.2f}{error}"])
        parts.append(table(["kind of picture", "spliced pictures", "p_map ± standard error"], rows))
    return "\n\n".join(parts)


def _scores(golden: Mapping[str, Any]) -> str:
    """A row per set, readout and method, mean ± standard deviation over seeds."""
    found: dict[tuple[str, str, str], dict[str, str]] = {}
    for variant, metrics in ({"": golden["metrics"]} | golden["controls"]).items():
        for name, value in metrics.items():
            if not name.startswith("retrieval/"):
                pictures, method, readout, metric = name.split("/")
                found.setdefault((pictures, readout, variant or method), {})[metric] = figure(value)
    order = {"model": 0, "residual statistics": 1, "mean color": 2}
    columns = [name for name in (*SCORES, "flagged", "false_alarms") if any(name in row for row in found.values())]
    rows = []
    for key in sorted(found, key=lambda k: (k[0] != "unseen", k[0], k[1] != LEARNED, k[1], order.get(k[2], 3), k[2])):
        pictures, readout, method = key
        bold = "**" if method == "model" else ""
        cells = [f"{bold}{value}{bold}" if (value := found[key].get(name)) else "" for name in columns]
        rows.append([pictures, readout.replace("_", " "), method, *cells])
    return table(["pictures", "readout", "method", *columns], rows)


def _retrieval(golden: Mapping[str, Any]) -> str:
    """A row per measure of how well photos and EXIF match, a column per trained model."""
    searched = golden["protocol"]["retrieval"]
    rows = []
    for name, label, chance in (
        ("recall", f"recall@1 among {searched['among']} photos", searched["chance"]),
        ("recall_camera", "recall@1 among the photos of one camera", searched.get("chance_camera")),
        ("fit_heldout", "AUC of own against other cameras' EXIF, seen cameras", 0.5),
        ("fit_choose", "the same, cameras set aside to choose the step", 0.5),
        ("fit_report", "the same, cameras set aside for reporting", 0.5),
    ):
        if f"retrieval/{name}" in golden["metrics"]:
            trainings = (golden["metrics"], *golden["controls"].values())
            rows.append([label, *(figure(found[f"retrieval/{name}"]) for found in trainings), f"{chance:.3f}"])
    return table(["photo → EXIF", "model", *golden["controls"], "chance"], rows)


def renew(
    preset: Annotated[str, typer.Option(help="notebooks/params/<preset>.yaml.")] = "demo",
    seeds: Annotated[int, typer.Option(help="Number of seeds, starting at 0.")] = 5,
) -> None:
    """Update reports/golden/<preset>.json and print its tables."""
    model, *controls = VARIANTS
    # One run per core: two single-threaded runs have more throughput than one on two cores.
    os.environ["OMP_NUM_THREADS"] = "1"
    with worker_pool() as pool:
        models = [pool.submit(run, preset, seed, model) for seed in range(seeds)]
        checks = []
        for seed, made in enumerate(models):
            made.result()  # the controls need its data set
            checks += [pool.submit(run, preset, seed, control) for control in controls]
        for done in checks:
            done.result()
    golden = gather(preset, range(seeds))
    if preset == "demo":  # simulated pictures only: those of real photos cannot be published
        gallery = run_folder("demo", 0, "model") / STEPS[-1] / "gallery.png"
        shutil.copyfile(gallery, project_path("reports/golden/gallery.png"))
    publish(preset, golden, {preset: markdown(golden)})


#: Command line; returns the exit code, see `run_command`.
main = partial(run_command, renew)

if __name__ == "__main__":
    sys.exit(main())
