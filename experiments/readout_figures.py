"""Golden figures of the learned readout: localization by stratum, detection at a false-alarm rate, and controls.

`python -m experiments.readout_figures` scores the yardstick and the benchmarks of base.yaml with the packaged weights,
by the learned readout and the handcrafted ones, and updates reports/golden/readout.json, its tables, and the figures in
the model card's front matter. Existing scores are reused. No picture scored here was used to train or calibrate the
readout.
"""

import csv
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from huggingface_hub import EvalResult
from huggingface_hub.repocard import metadata_load, metadata_save
from huggingface_hub.repocard_data import eval_results_to_model_index
from scipy.stats import binomtest, bootstrap
from sklearn.metrics import average_precision_score

from exiflang.evaluation.benchmarks import Benchmark, load_benchmark
from exiflang.evaluation.score_run import ScoreRun, score_benchmarks
from exiflang.evaluation.scoring import OVER
from exiflang.localization.decision import FALSE_ALARMS
from exiflang.localization.learned_readout import FILE, LEARNED, LearnedReadout
from exiflang.models.weights import NAME, packaged_model
from exiflang.pipeline.parameters import project_path
from exiflang.utils.commands import run_command
from exiflang.utils.files import file_sha256
from experiments.packaged_readout import PICTURES, composites
from experiments.tables import publish, table

HAND_MADE = ("diffused_cut", "eigenvector")
#: The best of these on different pictures, the demo's splices, which the learned one has to beat.
BEST_HAND_MADE = HAND_MADE[0]
STRATA = ("kind", "format", "area", "grid", "host")
SETS = {"splices": "../shared", "casia_1": "../shared", "forgeries": "../shared", "yardstick": "data"}


def scores_of(name: str, root: str) -> pd.DataFrame:
    """A row per picture and readout of one set, which is scored unless scores exist."""
    run = ScoreRun(
        [name], str(project_path(root)), str(project_path("reports/runs/readout")), "", False, [LEARNED, *HAND_MADE]
    )
    return score_benchmarks(run)[name].scores()


def strata(scores: pd.DataFrame, info: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Name and rows of each group of spliced pictures: all, and by every available column of `info`."""
    spliced = scores[scores["spliced"]]
    yield "all", spliced
    for column in info.columns:
        for value in sorted(info[column].dropna().unique()):
            if len(part := spliced[spliced["name"].map(info[column]) == value]):
                yield f"{column} {value}", part


def recorded_strata(name: str, scores: pd.DataFrame) -> pd.DataFrame:
    """Available columns of `STRATA` for the pictures of one of `SETS`, a row per picture, indexed by name."""
    if (index := project_path(SETS[name]) / name / "index.csv").exists():
        info = pd.read_csv(index, dtype=str).set_index("name")
        return info[[column for column in STRATA if column in info]]
    return scores.drop_duplicates("name").set_index("name")[["format"]]


def compare(part: pd.DataFrame) -> dict[str, Any]:
    """p-mAP of each readout, AP of the learned one without inversion, and its paired difference to the handcrafted."""
    by = part.pivot(index="name", columns="readout", values="p_map")
    difference = (by[LEARNED] - by[BEST_HAND_MADE]).to_numpy()
    found: dict[str, Any] = {"pictures": len(by), **{name: by[name].mean() for name in (LEARNED, *HAND_MADE)}}
    found["signed"] = part[part["readout"] == LEARNED]["ap"].mean()
    if len(difference) > 1:
        interval = bootstrap((difference,), np.mean, rng=np.random.default_rng(0), method="percentile")
        found["difference"] = [float(v) for v in (difference.mean(), *interval.confidence_interval)]
    return found


def detection(scores: pd.DataFrame, steps: Mapping[str, float]) -> dict[str, Any]:
    """AP of the learned readout, the handcrafted one and the quantization table alone; fractions flagged."""
    learned = scores[scores["readout"] == LEARNED].set_index("name")
    spliced = learned["spliced"].to_numpy()
    found: dict[str, Any] = {"spliced": int(spliced.sum()), "authentic": int((~spliced).sum())}
    flagged = (learned["p_value"] <= FALSE_ALARMS).to_numpy()
    if spliced.any():
        found["flagged"] = share(flagged[spliced])
    if not spliced.all():
        found["false_alarms"] = share(flagged[~spliced])
    if spliced.any() and not spliced.all():
        by = scores.pivot(index="name", columns="readout", values="detection").loc[learned.index]
        found["ap"] = {name: average_precision_score(spliced, by[name]) for name in (LEARNED, BEST_HAND_MADE)}
        table_alone = learned.index.map(steps).to_numpy()
        found["ap"]["quantization table alone"] = max(
            average_precision_score(spliced, s * table_alone) for s in (1, -1)
        )
    return found


def share(flags: np.ndarray) -> dict[str, Any]:
    """Fraction of pictures flagged, with its 95 % confidence limits (Clopper and Pearson)."""
    found = binomtest(int(flags.sum()), len(flags))
    interval = found.proportion_ci()
    return {"share": found.statistic, "low": interval.low, "high": interval.high, "pictures": len(flags)}


def pictures_of(name: str) -> Benchmark:
    """The pictures of one of `SETS`."""
    return load_benchmark(name if name == "casia_1" else "folder", project_path(SETS[name]) / name)


def luma_steps(name: str) -> dict[str, float]:
    """Mean quantization step of each picture's file; 0 if it is not a JPEG."""
    return {item.name: 0.0 if item.history is None else float(item.history.steps.mean()) for item in pictures_of(name)}


def measured_photos() -> set[str]:
    """Names of the authentic photos that were not used for calibration."""
    with project_path("experiments/authentic_split.csv").open(encoding="utf-8", newline="") as file:
        return {row["name"] for row in csv.DictReader(file) if row["part"] == "measure"}


def gather() -> dict[str, Any]:
    """All figures."""
    localization, detected = {}, {}
    for name, root in SETS.items():
        scores = scores_of(name, root)
        info = recorded_strata(name, scores)
        localization[name] = {stratum: compare(part) for stratum, part in strata(scores, info)}
        detected[name] = detection(scores, luma_steps(name))
    photos = scores_of("authentic", "../shared")
    measured = photos[photos["name"].map(lambda name: name.partition(".")[0]).isin(measured_photos())]
    detected["authentic, measured"] = detection(measured, {})
    return {
        "weights": file_sha256(packaged_model() / "model.safetensors"),
        "readout": file_sha256(packaged_model() / FILE),
        "protocol": {
            "false_alarms": FALSE_ALARMS,
            "hand_made": BEST_HAND_MADE,
            "localization": OVER,
        },
        **_origin(LearnedReadout.load(packaged_model() / FILE)),
        "localization": localization,
        "detection": detected,
    }


def _origin(readout: LearnedReadout) -> dict[str, Any]:
    """Size, training data and calibration data of the packaged readout."""
    made = composites(PICTURES, 0)
    taught = {"pictures": PICTURES, "whole": len(made.photos), "tiles": sum(map(len, made.tiles))}
    parameters = sum(weights.numel() for weights in readout.networks[0].parameters())
    records = readout.calibration.records if readout.calibration else {}
    calibration = {kind: {"photos": len(own), "cameras": len({r.camera for r in own})} for kind, own in records.items()}
    return {"networks": len(readout.networks), "parameters": parameters, "taught": taught, "calibration": calibration}


def markdown(found: Mapping[str, Any]) -> str:
    """Tables, and a sentence on the origin of the readout."""
    taught = found["taught"]
    origin = (
        f"{found['networks']} networks of {found['parameters'] / 1e6:.1f} M parameters each, trained on "
        f"{taught['pictures']:,} composites of {taught['whole']} whole photos, tiles of {taught['tiles']:,} photos, "
        "and simulated cameras."
    )
    rows = []
    for name, groups in found["localization"].items():
        for stratum, part in groups.items():
            mean, low, high = part.get("difference", [float("nan")] * 3)
            others = [f"{part[readout]:.2f}" for readout in HAND_MADE]
            gain = f"{mean:+.2f} ({low:+.2f} to {high:+.2f})" if part["pictures"] > 1 else ""
            bold = f"**{part[LEARNED]:.3f}**"
            rows.append([f"{name}, {stratum}", str(part["pictures"]), bold, f"{part['signed']:.3f}", *others, gain])
    columns = ["pictures", "spliced", "learned", "its AP", *(name.replace("_", " ") for name in HAND_MADE)]
    first = table([*columns, f"learned - {BEST_HAND_MADE.replace('_', ' ')} (95 %)"], rows)
    kinds = [[kind, str(count["photos"]), str(count["cameras"])] for kind, count in found["calibration"].items()]
    calibrated = table(["authentic pictures for calibration", "photos", "cameras"], kinds)
    return "\n\n".join([origin, first, _detection_table(found["detection"]), calibrated])


def _detection_table(detected: Mapping[str, Any]) -> str:
    rows = []
    for name, part in detected.items():
        aps = [f"{part['ap'][method]:.2f}" if "ap" in part else "" for method in _METHODS]
        rows.append([name, f"{part['spliced']} + {part['authentic']}", *aps, *map(_limits, _shares(part))])
    methods = [f"AP, {name.replace('_', ' ')}" for name in _METHODS]
    return table(["pictures", "spliced + authentic", *methods, "spliced flagged", "authentic flagged"], rows)


def headline(found: Mapping[str, Any]) -> str:
    """The README's table: how well each set is localized and detected, next to what needs no training."""
    rows = []
    for name, about in ABOUT.items():
        own, detected = found["localization"][name]["all"], found["detection"][name]
        scores = [f"**{own[LEARNED]:.2f}**", f"{own[BEST_HAND_MADE]:.2f}"]
        aps = [f"**{detected['ap'][LEARNED]:.2f}**", f"{detected['ap'][_METHODS[2]]:.2f}"]
        counts = f"{detected['spliced']} + {detected['authentic']}"
        rows.append([about, counts, *scores, *aps, f"**{detected['flagged']['share']:.2f}**"])
    columns = ["pictures", "spliced + authentic", "p-mAP", "p-mAP, hand-made readout"]
    columns += ["detection AP", f"AP, {_METHODS[2]}", "flagged"]
    alarms = found["detection"]["authentic, measured"]["false_alarms"]
    said = (
        f"*flagged*: at a nominal false-alarm rate of {FALSE_ALARMS:.0%}. On {alarms['pictures']} authentic photos "
        f"from cameras not used for calibration, the rate is {alarms['share']:.2f} (95 % limits {alarms['low']:.2f} to "
        f"{alarms['high']:.2f})."
    )
    return f"{table(columns, rows)}\n\n{said}"


#: Names of the sets in the README.
ABOUT = {
    "splices": "composites from cameras not seen in training",
    "casia_1": "CASIA 1 (small pictures)",
    "forgeries": "forgeries made by people",
    "yardstick": "composites on and off the host's JPEG grid",
}
_METHODS = (LEARNED, BEST_HAND_MADE, "quantization table alone")


def _shares(part: Mapping[str, Any]) -> Sequence[Mapping[str, Any] | None]:
    return part.get("flagged"), part.get("false_alarms")


def _limits(found: Mapping[str, Any] | None) -> str:
    return f"{found['share']:.2f} ({found['low']:.2f} to {found['high']:.2f})" if found else ""


_LOCALIZATION = {"task_type": "image-segmentation", "task_name": "Splice localization"}
_DETECTION = {"task_type": "image-classification", "task_name": "Splice detection"}


def hub_results(found: Mapping[str, Any]) -> list[EvalResult]:
    """The learned readout's figures on each set, in the terms of the Hugging Face Hub, rounded as in the tables.

    "recall" and "false_positive_rate" are the fractions of spliced and of authentic pictures that are flagged.
    """
    results = []
    for name, part in found["detection"].items():
        pictures = f"{part['spliced']} spliced and {part['authentic']} authentic pictures"
        place = {"dataset_type": name.replace(", ", "-"), "dataset_name": f"{name} ({pictures})"}
        for task, kind, label, value in _hub_figures(found, name):
            metric = {"metric_type": kind, "metric_name": label, "metric_value": value}
            results.append(EvalResult(**task, **place, **metric))
    return results


def _hub_figures(found: Mapping[str, Any], name: str) -> Iterator[tuple[dict[str, str], str, str, float]]:
    """Task, kind, name, and value of each figure of a set."""
    part, rate = found["detection"][name], f"at a false-alarm rate of {found['protocol']['false_alarms']:.0%}"
    if name in found["localization"]:
        p_map = found["localization"][name]["all"][LEARNED]
        yield _LOCALIZATION, "p_map", f"p-mAP, {found['protocol']['localization']}", round(float(p_map), 3)
    if "ap" in part:
        yield _DETECTION, "average_precision", "AP, spliced against authentic", round(float(part["ap"][LEARNED]), 2)
    shares = {"recall": "flagged", "false_positive_rate": "false_alarms"}
    for kind, key in shares.items():
        if key in part:
            flagged = "spliced" if key == "flagged" else "authentic"
            yield _DETECTION, kind, f"{flagged} pictures flagged {rate}", round(float(part[key]["share"]), 2)


def write_model_index(card: Path, found: Mapping[str, Any]) -> None:
    """Write the figures into the `model-index` of a model card's front matter."""
    index = eval_results_to_model_index(NAME, hub_results(found))
    metadata_save(card, {**(metadata_load(card) or {}), "model-index": index})


def renew() -> None:
    """Update reports/golden/readout.json, README's table, and the model card's tables and `model-index`."""
    found, card = gather(), packaged_model() / "README.md"
    tables = {"readout": markdown(found), "headline": headline(found)}
    publish("readout", found, tables, project_path("README.md"), card)
    write_model_index(card, found)


#: Command line; returns the exit code, see `run_command`.
main = partial(run_command, renew)

if __name__ == "__main__":
    sys.exit(main())
