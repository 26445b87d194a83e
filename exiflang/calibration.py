"""What a value means: the share of authentic cells, or pictures, that lie below it.

A readout's raw values depend on the model, so that no threshold on them means anything. Measured once on authentic
pictures they become shares in 0..1, by one monotone map for all pictures. A model carries its calibration in
`ExifLangConfig.calibration`: `{readout: {"cells": [knots], "scores": [knots], "pictures": n}}`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from exiflang.clustering import READOUTS, detection_score
from exiflang.data import decode_tile
from exiflang.images import load_image
from exiflang.shards import Photo

if TYPE_CHECKING:
    from exiflang.localize import SpliceLocalizer

#: Knots at shares of 1 to 99 %: more would need more pictures than anyone calibrates on.
KNOTS = 99
#: Smallest distance of knots. Rounding (1e-7) moves a share by 0.1 % of it at most, even where values pile up.
_LEAST_STEP = 1e-5
#: Raw values span 2. Over a tail this wide foreign cells, far above all authentic ones, keep their order in float32.
_TAIL = 0.25


def quantile_knots(values: Sequence[float]) -> list[float]:
    """The `KNOTS` quantiles k / (KNOTS + 1) of authentic values, strictly rising.

    Raises `ValueError` for no values and for NaN or infinity.
    """
    values = np.asarray(values, np.float64).ravel()
    if values.size == 0:
        raise ValueError("no authentic values to calibrate on: give at least one picture")
    if not np.isfinite(values).all():
        raise ValueError("authentic values hold NaN or infinity: the model is broken")
    knots = np.quantile(values, np.arange(1, KNOTS + 1) / (KNOTS + 1))
    ramp = _LEAST_STEP * np.arange(KNOTS)
    return (np.maximum.accumulate(knots - ramp) + ramp).tolist()


def share_below(values: np.ndarray, knots: Sequence[float]) -> np.ndarray:
    """Share of authentic values below each value: float of any shape → float64 of the same shape, within 0..1.

    Linear between the n knots, at which the share is `k / (n + 1)`, k from 1. Beyond them `p / (1 + t)` and
    `1 - p / (1 + t)` with `p = 1 / (n + 1)` and `t` the distance from the end knot in tails of 0.25: strictly rising
    everywhere and never 1, so that order is kept, in float32 to about 1e-6 of a raw value.
    """
    values, knots = np.asarray(values, np.float64), np.asarray(knots, np.float64)
    tail = 1 / (len(knots) + 1)
    share = np.asarray(np.interp(values, knots, np.arange(1, len(knots) + 1) * tail))
    below, above = values < knots[0], values > knots[-1]
    share[below] = tail / (1 + (knots[0] - values[below]) / _TAIL)
    share[above] = 1 - tail / (1 + (values[above] - knots[-1]) / _TAIL)
    return share


def check_calibration(calibration: Any) -> None:
    """Raise `ValueError` unless this is what `calibrate` gives: `{readout: {"cells", "scores", "pictures"}}`."""
    if not isinstance(calibration, Mapping) or not calibration:
        raise ValueError(f"calibration is {calibration!r}: give what calibrate() returns, or None")
    for readout, entry in calibration.items():
        if readout not in READOUTS:
            raise ValueError(f"calibration of an unknown readout {readout!r}: choose among {', '.join(READOUTS)}")
        if not isinstance(entry, Mapping) or entry.keys() != {"cells", "scores", "pictures"}:
            raise ValueError(f"calibration of {readout!r} must have cells, scores and pictures, as calibrate() returns")
        for name in ("cells", "scores"):
            if not _are_knots(entry[name]):
                raise ValueError(f"calibration of {readout!r}: {name} must be two or more rising, finite numbers")


def _are_knots(knots: Any) -> bool:
    try:
        knots = np.asarray(knots, np.float64)
    except (TypeError, ValueError):
        return False
    return knots.ndim == 1 and len(knots) > 1 and bool(np.isfinite(knots).all() and (np.diff(knots) > 0).all())


def calibrate(
    localizer: SpliceLocalizer, pictures: Iterable[Any], readouts: Sequence[str] | None = None
) -> dict[str, dict[str, Any]]:
    """`ExifLangConfig.calibration` of a localizer's model, measured on authentic pictures; can be written as JSON.

    Windows are those that the calibrated model will take (see `picture_window`). Raw values shift with their size and
    with the number of windows: calibrate on pictures of the sizes to be looked at.

    Args:
        pictures: authentic ones, whatever `load_image` reads; never those that the model is scored on.
        readouts: names of readouts; None: the localizer's own.

    Raises `ValueError` for no pictures or an unknown readout, `ImageError` for what is not a picture.
    """
    readouts = [localizer.readout] if readouts is None else readouts
    if unknown := sorted(set(readouts) - READOUTS.keys()):
        raise ValueError(f"unknown readouts {unknown}: choose among {', '.join(READOUTS)}")
    cells: dict[str, list[float]] = {readout: [] for readout in readouts}
    scores: dict[str, list[float]] = {readout: [] for readout in readouts}
    for picture in tqdm(pictures, unit=" pictures"):
        consistency = localizer.consistency(load_image(picture), calibrated=True)  # [h, w, h, w]
        for readout in readouts:
            values = READOUTS[readout]().fit_predict(consistency)  # [h, w]
            cells[readout].extend(values.ravel())
            scores[readout].append(detection_score(values, consistency, readout))
    return {
        readout: {
            "cells": quantile_knots(cells[readout]),
            "scores": quantile_knots(scores[readout]),
            "pictures": len(scores[readout]),
        }
        for readout in readouts
    }


def camera_mosaics(photos: Sequence[Photo], rows: int = 3, cols: int = 4, seed: int = 0) -> Iterator[np.ndarray]:
    """Pictures laid out of tiles of one camera, for `calibrate`: uint8 [rows * side, cols * side, 3] each.

    They stand in for whole photos where shards hold tiles alone. Photos of a camera come in random order, all tiles of
    a photo side by side, no tile twice; a mosaic takes `rows * cols` of them in raster order, and a camera gives as
    many mosaics as it has tiles for. `side` is the smallest side of its tiles. Exposure and quality differ between the
    photos of a camera, so that mosaics are less of one piece than photos are: calibrated on mosaics alone, heatmaps and
    scores err towards authentic. Given one photo at a time, mosaics are of one exposure.

    Raises `ValueError` if no camera has tiles for one mosaic, `DataError` naming a tile that is broken.
    """
    if rows < 1 or cols < 1:
        raise ValueError(f"a mosaic of {rows} x {cols} tiles has none: rows and cols must be at least 1")
    cameras: dict[str, list[Photo]] = {}
    for photo in photos:
        cameras.setdefault(photo.camera, []).append(photo)
    wanted = rows * cols
    large = {name: own for name, own in cameras.items() if sum(len(photo.tiles) for photo in own) >= wanted}
    if not large:
        raise ValueError(
            f"no camera has {wanted} tiles for a mosaic of {rows} x {cols}: give more photos or fewer tiles"
        )
    rng = np.random.default_rng(seed)
    for name in sorted(large):
        places = [(large[name][i], place) for i in rng.permutation(len(large[name])) for place in large[name][i].tiles]
        for start in range(0, len(places) - wanted + 1, wanted):
            tiles = [decode_tile(*place) for place in places[start : start + wanted]]
            side = min(min(tile.shape[:2]) for tile in tiles)
            grid = np.stack([tile[:side, :side] for tile in tiles]).reshape(rows, cols, side, side, 3)
            yield grid.swapaxes(1, 2).reshape(rows * side, cols * side, 3)  # [rows, side, cols, side, 3] -> [H, W, 3]
