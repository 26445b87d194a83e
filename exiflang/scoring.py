"""How well splices are found in the pictures of a benchmark: each picture scored, and what the scores come to."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from accelerate.utils import tqdm

from exiflang.benchmarks import Benchmark, BenchmarkError, Item
from exiflang.clustering import detection_score
from exiflang.images import ImageError
from exiflang.localize import SpliceLocalizer, cell_consistency, to_heatmap
from exiflang.metrics import LOCALISATION, detection_average_precision, localisation_scores
from exiflang.model import ExifLang
from exiflang.windows import ImageEncoder, shared_stride

#: What the means of `summarise_pictures` are taken over.
OVER = "spliced pictures"


@dataclass(frozen=True, eq=False)
class Scored:
    """A picture, a row for each encoder and readout, and the heatmap of the first of them: float32 [H, W]."""

    item: Item
    rows: list[dict]
    heatmap: np.ndarray = field(repr=False)


def score_each(
    encoders: Mapping[str, ImageEncoder],
    benchmark: Benchmark,
    readouts: Sequence[str] = ("far_friends",),
    windows_per_side: int = 30,
    window_size: int | None = None,
    *,
    info: Sequence[str] = ("format",),
    calibrated: bool | None = None,
    mode: str = "exact",
    precision: str = "float32",
    protocol: str = "default",
    border: int = 0,
    colours_negated: bool = False,
) -> Iterator[Scored]:
    """Score each picture of `benchmark` by each encoder and readout, in the benchmark's order.

    Columns of a row: set (the benchmark's name), name, the entries of `Item.info` named by `info` (None where a picture
    has none), spliced, method (the encoder's name), readout, protocol, border, detection (the picture's score), and for
    spliced pictures `LOCALISATION[protocol]` (NaN for authentic ones). `calibrated`: see `SpliceLocalizer.embed`;
    `mode` and `precision`: of the models among the encoders, `protocol` and `colours_negated`: of all, see
    `SpliceLocalizer`; `border`: see `localisation_scores`.

    All encoders look through the same windows, whose distance suits each `shared_stride`.
    Maps and detection are scored before the model's calibration: it keeps their order, on which all but the cIoUs
    depend, and those compare methods, of which the baselines have none. The reference protocol scores raw maps.

    Pictures that cannot be read, or not by the protocol, are in `benchmark.skipped` afterwards. Raises `ValueError` for
    an unknown readout.
    """
    multiple = math.lcm(*(shared_stride(encoder) or 1 for encoder in encoders.values()))  # the same windows for all
    ways = {
        name: {"mode": mode, "precision": precision} if isinstance(e, ExifLang) else {} for name, e in encoders.items()
    }
    all_alike = {"stride_multiple": multiple, "protocol": protocol, "colours_negated": colours_negated}
    localizers = {
        name: SpliceLocalizer(encoder, windows_per_side, window_size, **all_alike, **ways[name])
        for name, encoder in encoders.items()
    }
    known = next(iter(localizers.values())).readouts
    if unknown := sorted(set(readouts) - known.keys()):
        raise ValueError(f"unknown readouts {unknown}: choose among {', '.join(known)}")

    def score(item: Item, embedded: Mapping[str, tuple[np.ndarray, int, int]]) -> Scored:
        rows, first = [], None
        for method, (embeddings, window, stride) in embedded.items():
            consistency = cell_consistency(embeddings, max(1, window // stride))
            for readout in readouts:
                cells = known[readout]().fit_predict(consistency)
                row = {"set": benchmark.name, "name": item.name, **{key: item.info.get(key) for key in info}}
                row |= {"spliced": item.spliced, "method": method, "readout": readout, "protocol": protocol}
                row |= {"border": border, "detection": detection_score(cells, consistency, readout)}
                raw = localizers[method].draw(cells, *item.mask.shape, window, stride)
                heatmap = to_heatmap(raw, readout)
                first = heatmap if first is None else first
                scored = raw if protocol == "reference" else heatmap
                none = dict.fromkeys(LOCALISATION[protocol], np.nan)
                found = localisation_scores(item.mask, scored, protocol, border) if item.spliced else none
                rows.append(row | found)
        return Scored(item, rows, first)

    # The network keeps this thread busy; readouts and metrics, which release the interpreter, go beside it.
    ahead = 2 * (os.cpu_count() or 1)  # pictures that may wait for a score: each is held in memory
    with ThreadPoolExecutor(ahead // 2) as pool:
        waiting: deque = deque()
        for item in tqdm(benchmark, unit=" pictures"):
            try:
                embedded = {name: localizer.embed(item.image, calibrated) for name, localizer in localizers.items()}
            except ImageError as error:
                benchmark.skipped.append((item.name, str(error)))
                continue
            waiting.append(pool.submit(score, item, embedded))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def score_pictures(
    encoders: Mapping[str, ImageEncoder],
    benchmark: Benchmark,
    readouts: Sequence[str] = ("far_friends",),
    windows_per_side: int = 30,
    window_size: int | None = None,
    **how,
) -> pd.DataFrame:
    """The rows of `score_each`, which says what may be asked for. Raises `BenchmarkError` if no picture can be read."""
    scored = score_each(encoders, benchmark, readouts, windows_per_side, window_size, **how)
    rows = [row for picture in scored for row in picture.rows]
    if not rows:
        raise nothing_scored(benchmark.name, len(benchmark), benchmark.skipped)
    return pd.DataFrame(rows)


def nothing_scored(name: str, pictures: int, skipped: Sequence[tuple[str, str]]) -> BenchmarkError:
    """The error of a benchmark without a single picture to score."""
    reasons = "; ".join(f"{picture}: {reason}" for picture, reason in skipped[:3])
    return BenchmarkError(f"{name}: no picture to score among {pictures} ({reasons})")


def summarise_pictures(scores: pd.DataFrame) -> pd.DataFrame:
    """A row a set, method and readout, with the protocol that its figures hang on.

    `pictures` counts the spliced pictures, `authentic` the others; `over` says over which of them the means of the
    localisation metrics are taken, `protocol` and `border` how these are computed (see `localisation_scores`).
    `p_map_se`: standard error of p-mAP; `detection_ap`: over all pictures. What is not defined is NaN: the means
    without a spliced picture, the error of one, detection of one kind alone.
    """
    rows = []
    for keys, part in scores.groupby(["set", "method", "readout", "protocol", "border"], sort=False):
        row = dict(zip(("set", "method", "readout", "protocol", "border"), keys, strict=True))
        spliced = part[part["spliced"]]
        row |= {"over": OVER, "pictures": len(spliced), "authentic": len(part) - len(spliced)}
        row |= spliced[LOCALISATION[row["protocol"]]].astype(float).mean()
        row["p_map_se"] = spliced["p_map"].sem()
        row["detection_ap"] = detection_average_precision(part["detection"].tolist(), part["spliced"].tolist())
        rows.append(row)
    return pd.DataFrame(rows)


def p_map_by_kind(scores: pd.DataFrame) -> dict[str, list[float]]:
    """p-mAP of each spliced picture by format, and, where the column `donor_scale` says it, "native" (1) or "rescaled".

    `scores` are those of one method and readout.
    """
    spliced = scores[scores["spliced"]]
    parts = {str(kind): part["p_map"].tolist() for kind, part in spliced.groupby("format")}
    factor = pd.to_numeric(spliced["donor_scale"])
    scale = {
        "native": spliced[factor == 1]["p_map"].tolist(),
        "rescaled": spliced[factor.notna() & (factor != 1)]["p_map"].tolist(),
    }
    return parts | {kind: values for kind, values in scale.items() if values}
