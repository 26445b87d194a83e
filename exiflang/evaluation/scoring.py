"""Localization and detection scores of each picture of a benchmark, and their summary."""

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from exiflang.evaluation.benchmarks import Benchmark, BenchmarkImage
from exiflang.evaluation.layouts import BenchmarkError
from exiflang.evaluation.metrics import LOCALIZATION, both_classes, detection_average_precision, localization_scores
from exiflang.localization.decision import FALSE_ALARMS
from exiflang.localization.learned_readout import LEARNED
from exiflang.localization.localizer import Comparison, SpliceLocalizer, to_heatmap
from exiflang.localization.result import Observation
from exiflang.localization.windows import ImageEncoder, shared_stride
from exiflang.models.model import ExifLang
from exiflang.utils.extras import extra
from exiflang.utils.images import ImageError

with extra("train"):
    from accelerate.utils import tqdm

#: The pictures that the means of `summarize_pictures` are taken over.
OVER = "spliced pictures"
#: Metrics of `summarize_pictures`, where a protocol has them.
FIGURES = (
    *("p_map", "ap", "auc", "best_f1", "best_mcc", "mcc", "ciou", "ciou_legacy"),
    *("detection_ap", "flagged", "false_alarms"),
)


@dataclass(frozen=True, eq=False)
class Scored:
    """A picture, one row per encoder and readout, and the heatmap of the first row: float32 [H, W]."""

    item: BenchmarkImage
    rows: list[dict]
    heatmap: np.ndarray = field(repr=False)


def score_each(
    encoders: Mapping[str, ImageEncoder],
    benchmark: Benchmark,
    readouts: Sequence[str] = ("far_friends",),
    *,
    info: Sequence[str] = ("format",),
    calibrated: bool | None = None,
    border: int = 0,
    **settings: Any,
) -> Iterator[Scored]:
    """Score each picture of `benchmark` with each encoder and readout, in the benchmark's order.

    Columns of a row: set (the benchmark's name), name, the entries of `BenchmarkImage.info` listed in `info` (None if a
    picture lacks one), spliced, method (the encoder's name), readout, protocol, border, detection (the picture's
    score), p_value (see `localization.decision`; NaN without a calibration for verdicts), and for spliced pictures
    `LOCALIZATION[protocol]` (NaN for authentic ones). `calibrated`: see `SpliceLocalizer.embed`; `border`: see
    `localization_scores`; `settings`: of `SpliceLocalizer`, such as `windows_per_side`, and `colors_negated` of
    `Comparison`; `mode` and `precision` apply only to encoders that are models.

    All encoders get the same windows, with a stride that is a multiple of each `shared_stride`.
    Maps and detection are scored before the model's calibration, because baselines have none; calibration preserves
    order, so only the cIoUs would change. The reference protocol scores raw maps.

    Pictures that cannot be read, that the protocol rejects, or whose mask has a single class outside the border, are in
    `benchmark.skipped` afterwards. Raises `ValueError` for an unknown readout or a negative border.
    """
    localizers = _localizers(encoders, settings)
    known = next(iter(localizers.values())).readout_names
    if unknown := sorted(set(readouts) - set(known)):
        raise ValueError(f"unknown readouts {unknown}: choose among {', '.join(known)}")

    def jobs() -> Iterator[Callable[[], Scored]]:
        for item in tqdm(benchmark, unit=" pictures"):
            if border and item.spliced and not both_classes(item.mask, border):
                reason = f"a border of {border} pixels leaves no two classes of its mask: make it narrower"
                benchmark.skipped.append((item.name, reason))
                continue
            try:
                seen = {name: own.observe(item.image, item.history, calibrated) for name, own in localizers.items()}
            except ImageError as error:
                benchmark.skipped.append((item.name, str(error)))
                continue
            columns = {"set": benchmark.name, "name": item.name, **{key: item.info.get(key) for key in info}}
            yield partial(_score, item, columns, localizers, seen, readouts, border)

    yield from _in_threads(jobs())


def _localizers(encoders: Mapping[str, ImageEncoder], settings: Mapping[str, Any]) -> dict[str, SpliceLocalizer]:
    multiple = math.lcm(*(shared_stride(encoder) or 1 for encoder in encoders.values()))  # equal windows for all
    settings = dict(settings)
    comparison = Comparison(stride_multiple=multiple, colors_negated=settings.pop("colors_negated", False))
    plain = {name: value for name, value in settings.items() if name not in ("mode", "precision")}
    own = {name: settings if isinstance(encoder, ExifLang) else plain for name, encoder in encoders.items()}
    localizers = {name: SpliceLocalizer(encoders[name], comparison=comparison, **own[name]) for name in encoders}
    learned = next((localizer.learned for localizer in localizers.values() if localizer.learned), None)
    for localizer in localizers.values():
        localizer.learned = localizer.learned or learned  # it works with any encoder
    return localizers


def _score(
    item: BenchmarkImage,
    columns: Mapping[str, Any],
    localizers: Mapping[str, SpliceLocalizer],
    observations: Mapping[str, Observation],
    readouts: Sequence[str],
    border: int,
) -> Scored:
    """The rows of `score_each`, starting with `columns`, from each localizer's observation."""
    rows: list[dict[str, Any]] = []
    shown: list[np.ndarray] = []  # only the first heatmap: each is as large as the picture
    for method, observation in observations.items():
        localizer = localizers[method]
        protocol = localizer.protocol
        for readout in readouts:
            values, detection = localizer.values(observation, readout)
            raw = localizer.draw(observation, values, readout)
            heatmap = to_heatmap(raw, readout)
            shown = shown or [heatmap]
            row = {**columns, "spliced": item.spliced, "method": method, "readout": readout, "protocol": protocol}
            decides = readout == LEARNED and localizer.decides
            p_value = localizer.decide(observation, detection).p_value if decides else np.nan
            row |= {"border": border, "detection": detection, "p_value": p_value}
            if item.spliced:
                row |= localization_scores(item.mask, raw if protocol == "reference" else heatmap, protocol, border)
            else:
                row |= dict.fromkeys(LOCALIZATION[protocol], np.nan)
            rows.append(row)
    return Scored(item, rows, *shown)


def _in_threads(jobs: Iterable[Callable[[], Scored]]) -> Iterator[Scored]:
    """Results of `jobs` in order, computed in threads while this thread runs the network that creates the jobs.

    Readouts and metrics release the GIL, so they run in parallel with it.
    """
    ahead = 2 * (os.cpu_count() or 1)  # limits the pictures in memory that wait for a score
    with ThreadPoolExecutor(ahead // 2) as pool:
        waiting: deque[Future[Scored]] = deque()
        for job in jobs:
            waiting.append(pool.submit(job))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def score_pictures(
    encoders: Mapping[str, ImageEncoder], benchmark: Benchmark, readouts: Sequence[str] = ("far_friends",), **how: Any
) -> pd.DataFrame:
    """The rows of `score_each`; see there for options. Raises `BenchmarkError` if no picture can be read."""
    rows = [row for picture in score_each(encoders, benchmark, readouts, **how) for row in picture.rows]
    if not rows:
        raise nothing_scored(benchmark.name, len(benchmark), benchmark.skipped)
    return pd.DataFrame(rows)


def nothing_scored(name: str, pictures: int, skipped: Sequence[tuple[str, str]]) -> BenchmarkError:
    """The error for a benchmark without a single picture to score."""
    reasons = "; ".join(f"{picture}: {reason}" for picture, reason in skipped[:3])
    return BenchmarkError(f"{name}: no picture to score among {pictures} ({reasons})")


def summarize_pictures(scores: pd.DataFrame) -> pd.DataFrame:
    """One row per set, method and readout, including the protocol that its figures depend on.

    `pictures` counts the spliced pictures, `authentic` the others; `over` names the pictures over which localization
    metrics are averaged, `protocol` and `border` how these are computed (see `localization_scores`). `p_map_se`:
    standard error of p-mAP; `detection_ap`: over all pictures; `flagged` and `false_alarms`: the fraction of spliced
    and of authentic pictures whose p-value is at most `FALSE_ALARMS`. Undefined figures are NaN: means without spliced
    pictures, the standard error of one picture, detection of a single class, fractions without a calibration.
    """
    rows = []
    keys = ["set", "method", "readout", "protocol", "border"]
    for values, part in scores.groupby(keys, sort=False):
        row: dict[str, Any] = dict(zip(keys, values, strict=True))
        spliced = part[part["spliced"]]
        row |= {"over": OVER, "pictures": len(spliced), "authentic": len(part) - len(spliced)}
        row |= spliced[LOCALIZATION[row["protocol"]]].astype(float).mean()
        row["p_map_se"] = spliced["p_map"].sem()
        row["detection_ap"] = detection_average_precision(part["detection"].tolist(), part["spliced"].tolist())
        flags = (part["p_value"] <= FALSE_ALARMS).astype(float).where(part["p_value"].notna())
        row |= {"flagged": flags[part["spliced"]].mean(), "false_alarms": flags[~part["spliced"]].mean()}
        rows.append(row)
    return pd.DataFrame(rows)


def p_map_by_kind(scores: pd.DataFrame) -> dict[str, list[float]]:
    """p-mAP of each spliced picture by format, and by column `donor_scale` if there is one: "native" (1) or "rescaled".

    `scores`: rows of one method and readout.
    """
    spliced = scores[scores["spliced"]]
    parts = {str(kind): part["p_map"].tolist() for kind, part in spliced.groupby("format")}
    factor = pd.to_numeric(spliced["donor_scale"])
    scale = {
        "native": spliced[factor == 1]["p_map"].tolist(),
        "rescaled": spliced[factor.notna() & (factor != 1)]["p_map"].tolist(),
    }
    return parts | {kind: values for kind, values in scale.items() if values}


#: Zheng, Shrivastava, Owens (CVPR 2023), their released checkpoint; cIoU as in their code, see `metrics.cious`.
#: Columbia and DSO-1 are scored on spliced pictures only.
PAPER: dict[str, dict[str, float]] = {
    "columbia": {"p_map": 0.94, "ciou_legacy": 0.96, "detection_ap": 0.98},
    "dso_1": {"p_map": 0.62, "ciou_legacy": 0.82, "detection_ap": 0.66},
    "realistic_tampering": {"p_map": 0.23, "ciou_legacy": 0.72, "detection_ap": 0.53},
    "in_the_wild": {"p_map": 0.54, "ciou_legacy": 0.80},
    "scene_completion": {"p_map": 0.31, "ciou_legacy": 0.61},
}


#: Columns of the paper's table: ours, then the published figure.
METRICS = ("p_map", "ciou_legacy", "detection_ap")


def paper_table(summary: pd.DataFrame) -> pd.DataFrame:
    """The paper's table: one row per set and readout of "model", each metric of `METRICS` next to the published one.

    `summary`: from `summarize_pictures`. `p_map_all` includes authentic pictures, with an AP of 0, as the reference
    code does for Realistic Tampering. Published values are NaN for sets not in the paper and for laundered ones.
    """
    rows = []
    for row in summary[summary["method"] == "model"].to_dict("records"):
        pictures = row["pictures"] + row["authentic"]
        shown = {key: row[key] for key in ("set", "readout", "protocol", "over", "pictures", "authentic")}
        for metric in METRICS:
            shown |= {metric: row[metric], f"{metric}, paper": PAPER.get(row["set"], {}).get(metric, float("nan"))}
        rows.append(shown | {"p_map_all": row["p_map"] * row["pictures"] / pictures if row["pictures"] else 0.0})
    return pd.DataFrame(rows)
