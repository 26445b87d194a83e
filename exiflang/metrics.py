"""How well a heatmap finds the foreign pixels of a picture, and a score the spliced pictures of a set.

A mask is bool (or 0 / 1) [H, W], true where the pixels are foreign; a heatmap is any real dtype [H, W], high = foreign.
Every figure is per picture. No border of the mask is eroded or left out, so none of these may share a column with
figures of a protocol that does so.

Conventions for a mask of one kind only, the same in every function: without a foreign pixel AP, F1, IoU and the IoU
of the foreign class are 0 (there was nothing to find) and AUC is NaN; with nothing but foreign pixels AP and best F1
are 1, AUC is NaN and the IoU of the background is 0.

ValueError for an empty input, for shapes that differ, for a mask that is not 0 / 1, for NaN or infinity in a heatmap.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_THRESHOLDS = np.linspace(0.0, 1.0, 1000)
_ROUNDING = 1e-6  # how far float32 arithmetic may carry a map of 0..1 beyond its ends


class _Levels(NamedTuple):
    """Distinct heatmap values [K], highest first, and the pixels of each: int64 [K]. One sort serves every metric."""

    values: np.ndarray
    foreign: np.ndarray
    background: np.ndarray

    def inverted(self) -> "_Levels":
        """The levels of `1 - heatmap`, in float64."""
        return _Levels(1 - self.values[::-1].astype(np.float64), self.foreign[::-1], self.background[::-1])


def average_precision(mask: np.ndarray, heatmap: np.ndarray, permuted: bool = False) -> float:
    """Area under precision and recall: ``sum_k (R_k - R_{k-1}) P_k`` over the distinct values, highest first; in 0..1.

    Not interpolated, ties count as one threshold: equal to scikit-learn's ``average_precision_score``.
    ``permuted``: the better of the map and the negated map.
    """
    return _either_sign(_average_precision, _levels(mask, heatmap), permuted)


def permuted_average_precision(mask: np.ndarray, heatmap: np.ndarray) -> float:
    """``max(AP(map), AP(-map))`` in 0..1; its mean over pictures is the paper's p-mAP (-map ranks as 1 - map)."""
    return average_precision(mask, heatmap, permuted=True)


def auc(mask: np.ndarray, heatmap: np.ndarray, permuted: bool = False) -> float:
    """Area under the ROC curve: chance that a foreign pixel ranks above a background pixel, ties half; in 0..1.

    The Mann-Whitney statistic, equal to scikit-learn's ``roc_auc_score``. NaN for a mask of one kind.
    ``permuted``: the better of the map and the negated map, so at least 0.5.
    """
    return _either_sign(_auc, _levels(mask, heatmap), permuted)


def best_f1(mask: np.ndarray, heatmap: np.ndarray, permuted: bool = False) -> float:
    """Best ``2 TP / (2 TP + FP + FN)`` over the thresholds ``heatmap >= v``, v each distinct value; in 0..1.

    An oracle's threshold, picture by picture. ``permuted``: the better of the map and the negated map.
    """
    return _either_sign(_best_f1, _levels(mask, heatmap), permuted)


def ciou(mask: np.ndarray, heatmap: np.ndarray) -> float:
    """Class-balanced IoU of Huh et al. 2018 and Zheng et al. 2023, with a true negation of both masks; in 0..1.

    ``(max_t IoU(mask, P_t) + max_t IoU(~mask, ~P_t)) / 2`` with ``P_t = heatmap >= t`` for the 1000 thresholds
    ``linspace(0, 1, 1000)``, each class at its own best; then the better of ``heatmap`` and ``1 - heatmap``. An IoU of
    two empty sets is 0. ValueError if the heatmap leaves 0..1 by more than 1e-6, the rounding of float32.
    """
    return _ciou(_best_class_ious(_levels(mask, heatmap)))


def ciou_legacy(mask: np.ndarray, heatmap: np.ndarray) -> float:
    """cIoU as the reference code computes it, for comparison with published figures only; in 0.5..1.

    There ``~`` on a 0 / 1 uint8 array gives 255 / 254, both true, so the background's IoU is always 1:
    ``(max_t IoU(mask, P_t) + 1) / 2``, the better of the map and ``1 - heatmap``. Input as for ``ciou``.
    """
    return _ciou_legacy(_best_class_ious(_levels(mask, heatmap)))


def iou(mask: np.ndarray, prediction: np.ndarray) -> float:
    """``TP / (TP + FP + FN)`` of two masks, in 0..1; 0 if both are empty."""
    tp, fp, fn, _ = _confusion(mask, prediction)
    return tp / max(tp + fp + fn, 1)


def mcc(mask: np.ndarray, prediction: np.ndarray) -> float:
    """Matthews correlation of two masks, in -1..1; 0 if either is of one kind (as in scikit-learn)."""
    tp, fp, fn, tn = _confusion(mask, prediction)
    product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return (tp * tn - fp * fn) / math.sqrt(product) if product else 0.0


def detection_average_precision(scores: Sequence[float], labels: Sequence[bool]) -> float:
    """AP of one score a picture (higher = more likely spliced) against its label (true = spliced); in 0..1.

    NaN when all pictures are of one kind. A random score gives the share of spliced pictures, so state it beside.
    ValueError for an empty or NaN input or lengths that differ.
    """
    levels = _levels(np.asarray(labels), np.asarray(scores), "labels", "scores")
    return _average_precision(levels) if levels.foreign.any() and levels.background.any() else math.nan


def localisation_scores(mask: np.ndarray, heatmap: np.ndarray) -> dict[str, float]:
    """All heatmap metrics of one picture: ``ap``, ``p_map``, ``auc``, ``best_f1``, ``ciou``, ``ciou_legacy``.

    Only ``p_map`` and the two cIoUs may turn the map round. Heatmap in 0..1, as cIoU needs it.
    """
    levels = _levels(mask, heatmap)
    ious = _best_class_ious(levels)
    ap = _average_precision(levels)
    return {
        "ap": ap,
        "p_map": max(ap, _average_precision(levels.inverted())),
        "auc": _auc(levels),
        "best_f1": _best_f1(levels),
        "ciou": _ciou(ious),
        "ciou_legacy": _ciou_legacy(ious),
    }


def _either_sign(metric, levels: _Levels, permuted: bool) -> float:
    return max(metric(levels), metric(levels.inverted())) if permuted else metric(levels)


def _average_precision(levels: _Levels) -> float:
    found = np.cumsum(levels.foreign)  # [K] true positives at each threshold
    if found[-1] == 0:
        return 0.0
    precision = found / np.cumsum(levels.foreign + levels.background)
    return min(float(levels.foreign @ precision / found[-1]), 1.0)


def _auc(levels: _Levels) -> float:
    above = np.cumsum(levels.foreign)  # [K] foreign pixels at or above each level
    pairs = int(above[-1]) * int(levels.background.sum())
    if pairs == 0:
        return math.nan
    twice_won = int((levels.background * (2 * above - levels.foreign)).sum())
    return twice_won / (2 * pairs)


def _best_f1(levels: _Levels) -> float:
    found = np.cumsum(levels.foreign)
    predicted = np.cumsum(levels.foreign + levels.background)
    return float((2 * found / (predicted + found[-1])).max())


def _ciou(ious: list[tuple[float, float]]) -> float:
    return max((foreign + background) / 2 for foreign, background in ious)


def _ciou_legacy(ious: list[tuple[float, float]]) -> float:
    return max((foreign + 1) / 2 for foreign, _ in ious)


def _best_class_ious(levels: _Levels) -> list[tuple[float, float]]:
    """(foreign, background) IoU, each at its best threshold, of the map and of the inverted map."""
    high, low = levels.values[0], levels.values[-1]
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        raise ValueError(
            f"cIoU has fixed thresholds in 0..1, the heatmap goes from {low:g} to {high:g}; "
            "give a calibrated heatmap (result.heatmap), or rescale it the same way for every picture"
        )
    levels = levels._replace(values=levels.values.clip(0, 1))
    return [_class_ious_at_best(levels), _class_ious_at_best(levels.inverted())]


def _class_ious_at_best(levels: _Levels) -> tuple[float, float]:
    reached = len(levels.values) - np.searchsorted(levels.values[::-1], _THRESHOLDS)  # [1000] levels at or above each
    tp, fp = (np.append(0, np.cumsum(count))[reached] for count in (levels.foreign, levels.background))  # [1000]
    positives, negatives = int(tp[0]), int(fp[0])  # threshold 0 predicts every pixel
    foreign = tp / (positives + fp) if positives else np.zeros(1)
    background = (negatives - fp) / (negatives + positives - tp) if negatives else np.zeros(1)
    return float(foreign.max()), float(background.max())


def _levels(mask, heatmap, mask_name: str = "mask", heatmap_name: str = "heatmap") -> _Levels:
    mask, heatmap = _checked(mask, heatmap, mask_name, heatmap_name)
    # Two sorts of values and a search are several times faster than one sort of indices.
    ranked, found = np.sort(heatmap), np.sort(heatmap[mask])  # [N], [positives], rising
    first = np.flatnonzero(np.append(True, ranked[1:] != ranked[:-1]))  # [K] where each level begins
    total = np.diff(first, append=len(ranked))
    values = ranked[first]
    foreign = np.diff(np.searchsorted(found, values), append=len(found))
    return _Levels(values[::-1], foreign[::-1], (total - foreign)[::-1])


def _checked(mask, heatmap, mask_name: str = "mask", heatmap_name: str = "heatmap") -> tuple[np.ndarray, np.ndarray]:
    """Flat bool [N] and real [N], or ValueError."""
    heatmap = np.asarray(heatmap)
    mask = _as_mask(mask, heatmap.shape, mask_name, heatmap_name)
    if heatmap.dtype.kind not in "biuf":
        raise ValueError(f"{heatmap_name}: must hold real numbers, not {heatmap.dtype}")
    if not np.isfinite(heatmap).all():
        raise ValueError(f"{heatmap_name}: holds NaN or infinity; a missing value has no rank, so fill it first")
    return mask.ravel(), heatmap.ravel()


def _as_mask(mask, shape: tuple[int, ...], name: str, other: str) -> np.ndarray:
    mask = np.asarray(mask)
    if mask.shape != shape:
        raise ValueError(f"{name} {list(mask.shape)} and {other} {list(shape)} differ in shape; resize one of them")
    if mask.size == 0:
        raise ValueError(f"{name}: is empty {list(shape)}; there is nothing to score")
    if mask.dtype.kind not in "biuf" or not ((mask == 0) | (mask == 1)).all():
        raise ValueError(f"{name}: must be bool or 0 / 1; compare it with a threshold first, as in mask > 127")
    return mask.astype(bool)


def _confusion(mask, prediction) -> tuple[int, int, int, int]:
    """Counts (TP, FP, FN, TN) as Python integers: their products outgrow 64 bits."""
    prediction = np.asarray(prediction)
    prediction = _as_mask(prediction, prediction.shape, "prediction", "prediction")
    mask = _as_mask(mask, prediction.shape, "mask", "prediction")
    tp, predicted, positives = (int(np.count_nonzero(x)) for x in (mask & prediction, prediction, mask))
    return tp, predicted - tp, positives - tp, mask.size - predicted - positives + tp
