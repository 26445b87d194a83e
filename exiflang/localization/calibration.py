"""Calibration: maps a value to the fraction of authentic cells, or pictures, below it.

A readout's raw values depend on the model, so a fixed threshold on them is meaningless. Quantiles measured once on
authentic pictures map them to fractions in 0..1, by one monotone function for all pictures. A model stores them in
`ExifLangConfig.calibration`: `{readout: {"cells": [knots], "scores": [knots], "pictures": n}}`.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from exiflang.localization.clustering import READOUTS, detection_score
from exiflang.localization.consistency import cell_consistency
from exiflang.utils.images import load_image

#: Knots at the 1st to 99th percentile: more would need more pictures than a calibration set has.
KNOTS = 99
#: Smallest distance between knots. Rounding (1e-7) then shifts a fraction by at most 0.1 % of it, even for tied values.
_LEAST_STEP = 1e-5
#: Raw values span 2. A tail this wide keeps spliced cells, far above all authentic ones, in order in float32.
_TAIL = 0.25


def quantile_knots(values: Sequence[float]) -> list[float]:
    """The `KNOTS` quantiles k / (KNOTS + 1) of authentic values, strictly increasing.

    Raises `ValueError` for no values and for NaN or infinity.
    """
    found = np.asarray(values, np.float64).ravel()
    if found.size == 0:
        raise ValueError("no authentic values to calibrate on: give at least one picture")
    if not np.isfinite(found).all():
        raise ValueError("authentic values contain NaN or infinity: the model is broken")
    knots = np.quantile(found, np.arange(1, KNOTS + 1) / (KNOTS + 1))
    ramp = _LEAST_STEP * np.arange(KNOTS)
    return (np.maximum.accumulate(knots - ramp) + ramp).tolist()


def share_below(values: np.ndarray | float, knots: Sequence[float]) -> np.ndarray:
    """Fraction of authentic values below each value: float of any shape → float64 of the same shape, within 0..1.

    Linear between the n knots, at which the fraction is `k / (n + 1)`, k from 1. Beyond them `p / (1 + t)` and
    `1 - p / (1 + t)` with `p = 1 / (n + 1)` and `t` the distance from the end knot in units of 0.25: strictly
    increasing everywhere and never 1. This keeps the order of raw values, in float32 down to differences of about 1e-6.
    """
    values = np.asarray(values, np.float64)
    tail = 1 / (len(knots) + 1)
    share = np.asarray(np.interp(values, knots, np.arange(1, len(knots) + 1) * tail))
    below, above = values < knots[0], values > knots[-1]
    share[below] = tail / (1 + (knots[0] - values[below]) / _TAIL)
    share[above] = 1 - tail / (1 + (values[above] - knots[-1]) / _TAIL)
    return share


def calibrate(
    localizer: Any, pictures: Iterable[Any], readouts: Sequence[str] | None = None
) -> dict[str, dict[str, Any]]:
    """Measure `ExifLangConfig.calibration` of a localizer's model on authentic pictures; the result is JSON-ready.

    Windows are sized as for a calibrated model (see `picture_window`). Raw values shift with the size and number of
    windows, so calibrate on pictures of the sizes you will analyze.

    Args:
        localizer: a `SpliceLocalizer`.
        pictures: authentic pictures, as for `load_image`; never those that the model is evaluated on.
        readouts: names of readouts; None: the localizer's own.

    Raises `ValueError` for no pictures or an unknown readout, `ImageError` for input that is not a picture.
    """
    readouts = [localizer.readout] if readouts is None else readouts
    if unknown := sorted(set(readouts) - READOUTS.keys()):
        raise ValueError(f"unknown readouts {unknown}: choose among {', '.join(READOUTS)}")
    found: dict[str, dict[str, list[float]]] = {readout: {"cells": [], "scores": []} for readout in readouts}
    for picture in tqdm(pictures, unit=" pictures"):
        embeddings, window, stride = localizer.embed(load_image(picture), calibrated=True)
        consistency = cell_consistency(embeddings, max(1, window // stride))  # [h, w, h, w]
        for readout in readouts:
            values = READOUTS[readout]().fit_predict(consistency)  # [h, w]
            found[readout]["cells"].extend(values.ravel())
            found[readout]["scores"].append(detection_score(values, consistency, readout))
    return {
        readout: {name: quantile_knots(values) for name, values in own.items()} | {"pictures": len(own["scores"])}
        for readout, own in found.items()
    }
