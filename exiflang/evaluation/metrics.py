"""Metrics of localization (heatmap against mask, per pixel) and of detection (score against label, per picture).

A mask is bool (or 0 / 1) [H, W], true where pixels are tampered; a heatmap is any real dtype [H, W], high = tampered.
Every localization metric is per picture, over all pixels it is given. Some protocols exclude a border around mask edges
(`scored_pixels`); never put such figures in one column with others.

Conventions for a mask with only one class, in every function: without tampered pixels, AP, F1 and the IoU of the
tampered class are 0 (there is nothing to find) and AUC is NaN; without background, AP and best F1 are 1, AUC is NaN,
and the IoU of the background is 0. MCC is 0 in both cases.

ValueError for an empty input, different shapes, a mask that is not 0 / 1, and NaN or infinity in a heatmap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.ndimage import maximum_filter, minimum_filter

#: Columns of `localization_scores` by protocol. Except for `p_map`, `ciou` and `ciou_legacy`, definitions differ.
LOCALIZATION = {
    "default": ["ap", "p_map", "auc", "best_f1", "best_mcc", "ciou", "ciou_legacy"],
    "reference": ["p_map", "auc", "best_f1", "mcc", "ciou", "ciou_legacy"],
}

_THRESHOLDS = np.linspace(0.0, 1.0, 1000)
_ROUNDING = 1e-6  # how far float32 rounding may push a map of 0..1 out of its range


class Counts(NamedTuple):
    """Number of pixels at or above each of the K distinct heatmap values, ascending: one sort serves all metrics."""

    found: np.ndarray  # int32 [K], tampered pixels at or above each value
    reached: np.ndarray  # int32 [K], pixels at or above each value
    tampered: int
    pixels: int

    def inverted(self) -> Counts:
        """The counts of the negated heatmap."""
        found = self.tampered - np.append(self.found[1:], np.int32(0))  # tampered pixels at or below each value
        reached = self.pixels - np.append(self.reached[1:], np.int32(0))
        return Counts(found[::-1], reached[::-1], self.tampered, self.pixels)


def count_levels(
    mask: ArrayLike, heatmap: ArrayLike, mask_name: str = "mask", heatmap_name: str = "heatmap"
) -> tuple[np.ndarray, Counts]:
    """Distinct values of a heatmap [K], ascending, and their counts, from which the metrics below are computed."""
    heatmap = np.asarray(heatmap)
    mask = _as_mask(mask, heatmap.shape, mask_name, heatmap_name)
    if heatmap.dtype.kind not in "biuf":
        raise ValueError(f"{heatmap_name}: must contain real numbers, not {heatmap.dtype}")
    if not np.isfinite(heatmap).all():
        raise ValueError(f"{heatmap_name}: contains NaN or infinity; missing values have no rank, so fill them first")
    # Sorting values twice plus a binary search is several times faster than one argsort.
    ranked, tampered = np.sort(heatmap, axis=None), np.sort(heatmap[mask])  # [N], [positives], ascending
    first = np.flatnonzero(np.append(True, ranked[1:] != ranked[:-1])).astype(np.int32)  # [K] where each value begins
    values = ranked[first]
    found = len(tampered) - np.searchsorted(tampered, values).astype(np.int32)
    return values, Counts(found, len(ranked) - first, len(tampered), len(ranked))


def average_precision(counts: Counts) -> float:
    """Area under precision and recall: ``sum_k (R_k - R_{k-1}) P_k`` over the distinct values, highest first; in 0..1.

    Not interpolated; ties count as one threshold: equal to scikit-learn's ``average_precision_score``. A picture's
    p-mAP is the better AP of the heatmap and its inverse; the paper reports its mean over pictures.
    """
    if counts.tampered == 0:
        return 0.0
    terms = counts.found / counts.reached  # precision at each threshold
    terms *= _at_each(counts.found)
    return min(float(terms.sum()) / counts.tampered, 1.0)


def auc(counts: Counts) -> float:
    """Area under the ROC curve: probability that a tampered pixel ranks above a background pixel, ties half; in 0..1.

    The Mann-Whitney statistic, equal to scikit-learn's ``roc_auc_score``. NaN for a mask with only one class.
    """
    pairs = counts.tampered * (counts.pixels - counts.tampered)
    if pairs == 0:
        return math.nan
    tampered = _at_each(counts.found)
    background = _at_each(counts.reached) - tampered
    twice_won = 2 * counts.found.astype(np.int64)
    twice_won -= tampered  # tampered pixels above count twice, those at the same level once
    twice_won *= background
    return int(twice_won.sum()) / (2 * pairs)


def best_f1(counts: Counts) -> float:
    """Best ``2 TP / (2 TP + FP + FN)`` over the thresholds ``heatmap >= v``, v each distinct value; in 0..1.

    The threshold is an oracle's, chosen per picture.
    """
    return float((counts.found / (counts.reached + counts.tampered)).max()) * 2


def best_mcc(counts: Counts) -> float:
    """Best Matthews correlation (see ``mcc``) over the thresholds of ``best_f1``; in 0..1, since all pixels give 0.

    The threshold is an oracle's, chosen per picture.
    """
    tampered, pixels = counts.tampered, counts.pixels
    if tampered in (0, pixels):
        return 0.0
    # With n pixels, m tampered and r reached, TP TN - FP FN = TP n - r m; the last level reaches all and is 0 / 0.
    reached = counts.reached[1:].astype(np.float64)
    gain = counts.found[1:] * float(pixels)
    gain -= reached * tampered
    reached *= pixels - reached
    gain /= np.sqrt(reached, out=reached)
    return min(float(gain.max(initial=0.0)) / math.sqrt(tampered * (pixels - tampered)), 1.0)


def cious(values: np.ndarray, counts: Counts, raw: bool = False) -> dict[str, float]:
    """``ciou`` and ``ciou_legacy``, each for the better of ``heatmap`` and ``1 - heatmap``.

    ``ciou``: class-balanced IoU of Huh et al. 2018 and Zheng et al. 2023, with a true negation of both masks; in 0..1:
    ``(max_t IoU(mask, P_t) + max_t IoU(~mask, ~P_t)) / 2`` with ``P_t = heatmap >= t`` for the 1000 thresholds
    ``linspace(0, 1, 1000)``, each class at its own best. An IoU of two empty sets is 0.

    ``ciou_legacy``: as the reference code computes it, only for comparison with published figures; in 0.5..1. In that
    code, ``~`` on a 0 / 1 uint8 array gives 255 / 254, both true, so the background's IoU is always 1:
    ``(max_t IoU(mask, P_t) + 1) / 2``.

    ValueError if the heatmap exceeds 0..1 by more than 1e-6, float32's rounding, unless it is ``raw``, as the
    reference's maps are: their dissimilarities reach 2, but its thresholds do not.
    """
    if not raw:
        low, high = values[0], values[-1]
        if low < -_ROUNDING or high > 1 + _ROUNDING:
            raise ValueError(
                f"cIoU has fixed thresholds in 0..1, but the heatmap ranges from {low:g} to {high:g}; "
                "give a calibrated heatmap (result.heatmap), or rescale it the same way for every picture"
            )
        values = values.clip(0, 1)
    inverted = 1 - values[::-1].astype(np.float64)
    ious = [_best_class_ious(values, counts), _best_class_ious(inverted, counts.inverted())]
    balanced = max((tampered + background) / 2 for tampered, background in ious)
    return {"ciou": balanced, "ciou_legacy": max((tampered + 1) / 2 for tampered, _ in ious)}


def mcc(mask: np.ndarray, prediction: np.ndarray) -> float:
    """Matthews correlation of two masks, in -1..1; 0 if either has only one class (as in scikit-learn).

    ``(TP TN - FP FN) / sqrt((TP + FP) (TP + FN) (TN + FP) (TN + FN))``.
    """
    prediction = np.asarray(prediction)
    prediction = _as_mask(prediction, prediction.shape, "prediction", "prediction")
    mask = _as_mask(mask, prediction.shape, "mask", "prediction")
    # Python integers, because the products overflow 64 bits.
    tp, predicted, tampered = (int(np.count_nonzero(x)) for x in (mask & prediction, prediction, mask))
    fp, fn, tn = predicted - tp, tampered - tp, mask.size - predicted - tampered + tp
    product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return (tp * tn - fp * fn) / math.sqrt(product) if product else 0.0


def detection_average_precision(scores: Sequence[float], labels: Sequence[bool]) -> float:
    """AP of one score per picture (higher = more likely spliced) against its label (true = spliced); in 0..1.

    NaN if all pictures are of one class. A random score gives the fraction of spliced pictures, so report both.
    ValueError for an empty input, NaN, or different lengths.
    """
    counts = count_levels(np.asarray(labels), np.asarray(scores), "labels", "scores")[1]
    return average_precision(counts) if 0 < counts.tampered < counts.pixels else math.nan


def scored_pixels(mask: np.ndarray, border: int) -> np.ndarray:
    """Pixels farther than ``border`` from any edge of the mask, along rows, columns and diagonals: bool [H, W].

    Hand-drawn masks are uncertain there; TruFor and others exclude such a border. 0: all pixels. ValueError for a
    negative border and for one that leaves no pixels.
    """
    mask = np.asarray(mask)
    mask = _as_mask(mask, mask.shape, "mask", "mask")
    side = _side(border)
    kept = minimum_filter(mask, side, mode="nearest") == maximum_filter(mask, side, mode="nearest")
    if not kept.any():
        raise ValueError(f"a border of {border} pixels leaves none of {list(mask.shape)}: make it narrower")
    return kept


def both_classes(mask: np.ndarray, border: int) -> bool:
    """Whether `scored_pixels` of a mask, bool [H, W], hold tampered ones and others."""
    side = _side(border)
    tampered = minimum_filter(mask, side, mode="nearest").any()
    return bool(tampered and not maximum_filter(mask, side, mode="nearest").all())


def _side(border: int) -> int:
    """Side of the square that must be of one class."""
    if border < 0:
        raise ValueError(f"border is {border}: give 0 (all pixels) or more")
    return 2 * border + 1


def localization_scores(
    mask: np.ndarray, heatmap: np.ndarray, protocol: str = "default", border: int = 0
) -> dict[str, float]:
    """All heatmap metrics of one picture: the columns ``LOCALIZATION[protocol]``.

    "default": only ``p_map`` and the two cIoUs also try the inverted map; heatmap in 0..1, as required by cIoU.
    "reference": as in the reference code, on its raw map: each metric is the better of map and ``1 - map``, and ``mcc``
    thresholds at ``map > 0.5``; but ``ciou`` negates masks correctly; only ``ciou_legacy`` does not.
    ``border``: pixels to exclude on either side of the mask's edges, see ``scored_pixels``.
    """
    if protocol not in LOCALIZATION:
        raise ValueError(f"unknown protocol {protocol!r}: choose one of {', '.join(LOCALIZATION)}")
    mask, heatmap = np.asarray(mask), np.asarray(heatmap)
    if border and mask.shape == heatmap.shape:
        kept = scored_pixels(mask, border)
        mask, heatmap = mask[kept], heatmap[kept]
    reference = protocol == "reference"
    values, counts = count_levels(mask, heatmap)
    ap = average_precision(counts)
    scores = cious(values, counts, raw=reference) | {"ap": ap, "p_map": max(ap, average_precision(counts.inverted()))}
    if reference:
        scores |= {metric.__name__: max(metric(counts), metric(counts.inverted())) for metric in (auc, best_f1)}
        scores["mcc"] = max(mcc(mask, heatmap > 0.5), mcc(mask, 1.0 - heatmap > 0.5))
    else:
        scores |= {metric.__name__: metric(counts) for metric in (auc, best_f1, best_mcc)}
    return {name: scores[name] for name in LOCALIZATION[protocol]}


def _at_each(reached: np.ndarray) -> np.ndarray:
    """Pixels at each level, from those at or above it: int32 [K] -> [K]."""
    count = reached.copy()
    count[:-1] -= reached[1:]
    return count


def _best_class_ious(values: np.ndarray, counts: Counts) -> tuple[float, float]:
    """(tampered, background) IoU, each at its own best threshold."""
    first = np.searchsorted(values, _THRESHOLDS)  # [1000], the lowest value at or above each threshold
    within = first < len(values)
    tp, reached = (np.where(within, pixels[first * within], 0) for pixels in (counts.found, counts.reached))
    tn = counts.pixels - counts.tampered - (reached - tp)
    tampered = tp / np.maximum(counts.tampered + reached - tp, 1)
    background = tn / np.maximum(counts.pixels - tp, 1)
    return float(tampered.max()), float(background.max())


def _as_mask(mask: ArrayLike, shape: tuple[int, ...], name: str, other: str) -> np.ndarray:
    mask = np.asarray(mask)
    if mask.shape != shape:
        raise ValueError(f"{name} {list(mask.shape)} and {other} {list(shape)} differ in shape; resize one of them")
    if mask.size == 0:
        raise ValueError(f"{name}: is empty {list(shape)}; there is nothing to score")
    if mask.dtype.kind not in "biuf" or not ((mask == 0) | (mask == 1)).all():
        raise ValueError(f"{name}: must be bool or 0 / 1; compare it with a threshold first, as in mask > 127")
    return mask.astype(bool)
