"""What a value means: the share of authentic cells, or pictures, that lie below it.

A readout's raw values depend on the model, so that no threshold on them means anything. Measured once on authentic
pictures they become shares in 0..1, by one monotone map for all pictures. A model carries its calibration in
`ExifLangConfig.calibration`: `{readout: {"cells": [knots], "scores": [knots], "pictures": n}}`.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from exiflang.localization.clustering import READOUTS, detection_score
from exiflang.localization.consistency import cell_consistency
from exiflang.utils.images import load_image

#: Knots at shares of 1 to 99 %: more would need more pictures than anyone calibrates on.
KNOTS = 99
#: Smallest distance of knots. Rounding (1e-7) moves a share by 0.1 % of it at most, even where values pile up.
_LEAST_STEP = 1e-5
#: Raw values span 2. Over a tail this wide spliced cells, far above all authentic ones, keep their order in float32.
_TAIL = 0.25


def quantile_knots(values: Sequence[float]) -> list[float]:
    """The `KNOTS` quantiles k / (KNOTS + 1) of authentic values, strictly rising.

    Raises `ValueError` for no values and for NaN or infinity.
    """
    found = np.asarray(values, np.float64).ravel()
    if found.size == 0:
        raise ValueError("no authentic values to calibrate on: give at least one picture")
    if not np.isfinite(found).all():
        raise ValueError("authentic values hold NaN or infinity: the model is broken")
    knots = np.quantile(found, np.arange(1, KNOTS + 1) / (KNOTS + 1))
    ramp = _LEAST_STEP * np.arange(KNOTS)
    return (np.maximum.accumulate(knots - ramp) + ramp).tolist()


def share_below(values: np.ndarray | float, knots: Sequence[float]) -> np.ndarray:
    """Share of authentic values below each value: float of any shape → float64 of the same shape, within 0..1.

    Linear between the n knots, at which the share is `k / (n + 1)`, k from 1. Beyond them `p / (1 + t)` and
    `1 - p / (1 + t)` with `p = 1 / (n + 1)` and `t` the distance from the end knot in tails of 0.25: strictly rising
    everywhere and never 1, so that order is kept, in float32 to about 1e-6 of a raw value.
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
    """`ExifLangConfig.calibration` of a localizer's model, measured on authentic pictures; can be written as JSON.

    Windows are those that the calibrated model will take (see `picture_window`). Raw values shift with their size and
    with the number of windows: calibrate on pictures of the sizes to be looked at.

    Args:
        localizer: a `SpliceLocalizer`.
        pictures: authentic ones, whatever `load_image` reads; never those that the model is scored on.
        readouts: names of readouts; None: the localizer's own.

    Raises `ValueError` for no pictures or an unknown readout, `ImageError` for what is not a picture.
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
