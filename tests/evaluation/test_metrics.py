"""Every metric against its definition, written out with loops."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import average_precision_score, matthews_corrcoef, roc_auc_score

from exiflang.evaluation import metrics

CLOSE = {"rel": 1e-9, "abs": 1e-9, "nan_ok": True}
THRESHOLDS = np.linspace(0, 1, 1000)


def scores_of_ranks(mask, heatmap):
    """AP, best F1, best MCC and AUC."""
    counts = metrics.count_levels(mask, heatmap)[1]
    return [metric(counts) for metric in (metrics.average_precision, metrics.best_f1, metrics.best_mcc, metrics.auc)]


@st.composite
def pictures(draw, unit=False):
    """A mask and a heatmap of 1 to 24 pixels: tied, constant, with only one class or arbitrary."""
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 6)))
    mask = draw(hnp.arrays(bool, shape))
    if unit:
        on_threshold = st.integers(0, 999).map(lambda i: float(THRESHOLDS[i]))
        value = on_threshold | st.sampled_from([0.0, 0.5, 1.0]) | st.floats(0, 1)
    else:
        value = st.sampled_from([-2.0, 0.0, 3.5]) | st.floats(-1e6, 1e6)
    return mask, draw(hnp.arrays(np.float64, shape, elements=value))


def counts(mask, prediction):
    tp = fp = fn = tn = 0
    for truth, says in zip(mask.ravel(), prediction.ravel(), strict=True):
        tp += bool(truth and says)
        fp += bool(says and not truth)
        fn += bool(truth and not says)
        tn += bool(not truth and not says)
    return tp, fp, fn, tn


def naive_average_precision(mask, heatmap):
    if not mask.any():
        return 0.0
    area, recall_before = 0.0, 0.0
    for value in sorted(set(heatmap.ravel()), reverse=True):
        tp, fp, fn, _ = counts(mask, heatmap >= value)
        area += (tp / (tp + fn) - recall_before) * tp / (tp + fp)
        recall_before = tp / (tp + fn)
    return area


def naive_auc(mask, heatmap):
    wins = [
        1.0 if tampered > background else 0.5 if tampered == background else 0.0
        for tampered in heatmap[mask]
        for background in heatmap[~mask]
    ]
    return sum(wins) / len(wins) if wins else math.nan


def naive_best_f1(mask, heatmap):
    best = 0.0
    for value in set(heatmap.ravel()):
        tp, fp, fn, _ = counts(mask, heatmap >= value)
        best = max(best, 2 * tp / (2 * tp + fp + fn))
    return best


def naive_mcc(mask, prediction):
    tp, fp, fn, tn = counts(mask, prediction)
    denominator = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return (tp * tn - fp * fn) / math.sqrt(denominator) if denominator else 0.0


def naive_best_mcc(mask, heatmap):
    return max(naive_mcc(mask, heatmap >= value) for value in set(heatmap.ravel()))


def naive_iou(mask, prediction):
    tp, fp, fn, _ = counts(mask, prediction)
    return tp / (tp + fp + fn) if tp + fp + fn else 0.0


def naive_ciou(mask, heatmap):
    def one_way(values):
        predictions = [values >= threshold for threshold in THRESHOLDS]
        tampered = max(naive_iou(mask, prediction) for prediction in predictions)
        background = max(naive_iou(~mask, ~prediction) for prediction in predictions)
        return (tampered + background) / 2

    return max(one_way(heatmap), one_way(1 - heatmap))


def naive_ciou_legacy(mask, heatmap):
    """The bug of the reference, reproduced: ``~`` on 0 / 1 bytes, then logical operations."""
    label = mask.astype(np.uint8)

    def one_way(values):
        tampered = background = 0.0
        for threshold in THRESHOLDS:
            says = (values >= threshold).astype(np.uint8)
            tampered = max(tampered, naive_iou(label, says))
            both, either = np.logical_and(~label, ~says), np.logical_or(~label, ~says)
            background = max(background, both.sum() / either.sum())
        return (tampered + background) / 2

    return max(one_way(heatmap), one_way(1 - heatmap))


@settings(deadline=None, max_examples=150)
@given(pictures())
def test_ranking_metrics_equal_their_definitions(picture):
    mask, heatmap = picture
    naive = (naive_average_precision, naive_best_f1, naive_best_mcc, naive_auc)
    assert scores_of_ranks(mask, heatmap) == pytest.approx([metric(mask, heatmap) for metric in naive], **CLOSE)
    inverted = metrics.count_levels(mask, heatmap)[1].inverted()
    for mine, theirs in zip(inverted, metrics.count_levels(mask, -heatmap)[1], strict=True):
        np.testing.assert_array_equal(mine, theirs)


@settings(deadline=None, max_examples=12)
@given(pictures(unit=True))
def test_ciou_equals_its_definition(picture):
    mask, heatmap = picture
    expected = {"ciou": naive_ciou(mask, heatmap), "ciou_legacy": naive_ciou_legacy(mask, heatmap)}
    assert metrics.cious(*metrics.count_levels(mask, heatmap)) == pytest.approx(expected, **CLOSE)


@settings(deadline=None, max_examples=12)
@given(pictures())
def test_reference_scores_match_the_reference_code_on_raw_maps(picture):
    mask, heatmap = picture
    heatmap = heatmap % 2.0  # dissimilarities, which thresholds in 0..1 do not cover
    expected = {
        "p_map": max(naive_average_precision(mask, heatmap), naive_average_precision(mask, -heatmap)),
        "auc": max(naive_auc(mask, heatmap), naive_auc(mask, -heatmap)),
        "best_f1": max(naive_best_f1(mask, heatmap), naive_best_f1(mask, -heatmap)),
        "mcc": max(naive_mcc(mask, heatmap > 0.5), naive_mcc(mask, 1 - heatmap > 0.5)),
        "ciou": naive_ciou(mask, heatmap),
        "ciou_legacy": naive_ciou_legacy(mask, heatmap),
    }
    assert metrics.localization_scores(mask, heatmap, "reference") == pytest.approx(expected, **CLOSE)


@settings(deadline=None, max_examples=60)
@given(hnp.arrays(bool, st.tuples(st.integers(1, 7), st.integers(1, 7))), st.integers(0, 3))
def test_scored_pixels_are_farther_from_any_edge_than_the_border(mask, border):
    height, width = mask.shape
    kept = np.ones(mask.shape, bool)
    for y, x in np.ndindex(height, width):
        around = mask[max(0, y - border) : y + border + 1, max(0, x - border) : x + border + 1]
        kept[y, x] = around.all() or not around.any()
    if kept.any():
        np.testing.assert_array_equal(metrics.scored_pixels(mask, border), kept)
    else:
        with pytest.raises(ValueError, match="leaves none"):
            metrics.scored_pixels(mask, border)
    assert metrics.both_classes(mask, border) == (mask[kept].any() and not mask[kept].all())


def test_border_pixels_are_left_out_of_all_scores():
    mask = np.zeros((20, 20), bool)
    mask[5:15, 5:15] = True
    heatmap = np.zeros((20, 20))
    heatmap[6:14, 6:14] = 1  # one pixel too small on each side
    assert metrics.localization_scores(mask, heatmap)["best_f1"] < 1
    bordered = metrics.localization_scores(mask, heatmap, border=1)
    kept = metrics.scored_pixels(mask, 1)
    assert bordered["best_f1"] == bordered["ap"] == bordered["ciou"] == bordered["best_mcc"] == 1
    assert bordered["ap"] == scores_of_ranks(mask[kept], heatmap[kept])[0]
    with pytest.raises(ValueError, match="border is -1"):
        metrics.localization_scores(mask, heatmap, border=-1)
    with pytest.raises(ValueError, match="unknown protocol 'paper': choose one of default, reference"):
        metrics.localization_scores(mask, heatmap, "paper")


@pytest.mark.parametrize("protocol", metrics.LOCALIZATION)
def test_scoring_twelve_megapixels_takes_less_than_half_a_gigabyte(protocol):
    rng = np.random.default_rng(0)
    heatmap = rng.random((3000, 4000), np.float32)  # as many levels as pixels: the worst case
    mask = np.zeros(heatmap.shape, bool)
    mask[:1500, :2500] = True
    tracemalloc.start()
    scores = metrics.localization_scores(mask, heatmap, protocol)
    peak = tracemalloc.get_traced_memory()[1] + heatmap.nbytes + mask.nbytes
    tracemalloc.stop()
    assert peak < 500e6
    assert scores["p_map"] == pytest.approx(mask.mean(), abs=0.01)


@settings(deadline=None, max_examples=100)
@given(pictures(), st.integers(0, 2**32 - 1))
def test_mask_against_mask_equals_its_definition(picture, seed):
    mask = picture[0]
    prediction = np.random.default_rng(seed).random(mask.shape) < 0.5
    assert metrics.mcc(mask, prediction) == pytest.approx(naive_mcc(mask, prediction), **CLOSE)


@settings(deadline=None, max_examples=50)
@given(pictures(unit=True))
def test_scores_keep_their_ranges_and_ignore_monotone_changes(picture):
    mask, heatmap = picture
    scores = metrics.localization_scores(mask, heatmap)
    assert all(0 <= score <= 1 or math.isnan(score) for score in scores.values())
    assert scores["p_map"] >= scores["ap"]
    assert scores["ciou_legacy"] >= max(0.5, scores["ciou"])
    rank_only = scores_of_ranks(mask, heatmap * 8)[0]  # exact in binary: ranks and ties are kept
    assert rank_only == pytest.approx(scores["ap"], **CLOSE)
    turned = metrics.localization_scores(mask, -heatmap, "reference")["p_map"]
    assert turned == pytest.approx(scores["p_map"], **CLOSE)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint8, np.int16, bool])
def test_dtypes_agree_with_scikit_learn(dtype):
    rng = np.random.default_rng(3)
    mask = rng.random((40, 50)) < 0.2
    heatmap = (rng.random((40, 50)) * 200 + 30 * mask).astype(np.uint8)
    heatmap = (heatmap > 100) if dtype is bool else heatmap.astype(dtype)
    flat = mask.ravel(), heatmap.ravel().astype(np.float64)
    ap, *_, auc = scores_of_ranks(mask.astype(np.uint8), heatmap)
    assert ap == pytest.approx(average_precision_score(*flat), **CLOSE)
    assert auc == pytest.approx(roc_auc_score(*flat), **CLOSE)
    prediction = heatmap > 100
    assert metrics.mcc(mask, prediction) == pytest.approx(matthews_corrcoef(flat[0], prediction.ravel()), **CLOSE)


def test_a_perfect_map_and_its_inverse():
    mask = np.zeros((8, 8), dtype=bool)
    mask[2:5, 3:6] = True
    heatmap = mask * 0.8 + 0.1
    perfect = dict.fromkeys(metrics.LOCALIZATION["default"], 1.0)
    assert metrics.localization_scores(mask, heatmap) == pytest.approx(perfect)
    inverted = metrics.localization_scores(mask, 1 - heatmap)
    assert inverted["ap"] < 0.2 and inverted["auc"] == 0
    assert inverted["p_map"] == inverted["ciou"] == pytest.approx(1)


def test_masks_with_only_one_class_follow_the_documented_convention():
    heatmap = np.array([[0.1, 0.9], [0.4, 0.4]])
    none, everything = np.zeros((2, 2), bool), np.ones((2, 2), bool)
    nothing_found = metrics.localization_scores(none, heatmap)
    expected = {"ap": 0.0, "p_map": 0.0, "auc": math.nan, "best_f1": 0.0, "best_mcc": 0.0}
    expected |= {"ciou": 0.5, "ciou_legacy": 0.5}
    assert nothing_found == pytest.approx(expected, nan_ok=True)
    expected = {"ap": 1.0, "p_map": 1.0, "auc": math.nan, "best_f1": 1.0, "best_mcc": 0.0}
    expected |= {"ciou": 0.5, "ciou_legacy": 1.0}
    assert metrics.localization_scores(everything, heatmap) == pytest.approx(expected, nan_ok=True)
    assert metrics.mcc(none, everything) == metrics.mcc(everything, everything) == 0


def test_legacy_ciou_overrates_noise_and_correct_ciou_does_not():
    rng = np.random.default_rng(0)
    mask = np.zeros((64, 64), dtype=bool)
    mask[:16, :24] = True
    noise = rng.random((64, 64))
    scores = metrics.localization_scores(mask, noise)
    assert scores["ciou_legacy"] == pytest.approx(0.55, abs=0.02)
    assert scores["ciou"] < scores["ciou_legacy"] - 0.03


def test_ciou_tolerates_float32_rounding_at_the_limits():
    mask = np.array([[True, False]])
    slightly_out = np.array([[1 + 3e-7, -3e-7]], dtype=np.float32)
    assert metrics.localization_scores(mask, slightly_out)["ciou"] == 1
    with pytest.raises(ValueError, match="ranges from -0.1 to 1"):
        metrics.localization_scores(mask, np.array([[1.0, -0.1]]))
    with pytest.raises(ValueError, match="0 to 2"):
        metrics.localization_scores(mask, np.array([[2, 0]]))


@pytest.mark.parametrize("metric", [metrics.count_levels, metrics.localization_scores])
def test_bad_heatmaps_and_masks_are_refused(metric):
    mask, heatmap = np.eye(3, dtype=bool), np.full((3, 3), 0.5)
    for bad in (np.nan, np.inf, -np.inf):
        broken = heatmap.copy()
        broken[1, 1] = bad
        with pytest.raises(ValueError, match="heatmap: contains NaN or infinity"):
            metric(mask, broken)
    with pytest.raises(ValueError, match=r"mask \[3, 3\] and heatmap \[3, 2\] differ"):
        metric(mask, heatmap[:, :2])
    with pytest.raises(ValueError, match="mask: is empty"):
        metric(np.zeros((0, 3), bool), np.zeros((0, 3)))
    with pytest.raises(ValueError, match="mask > 127"):
        metric(mask * np.uint8(255), heatmap)
    with pytest.raises(ValueError, match="real numbers, not complex128"):
        metric(mask, heatmap.astype(complex))
    with pytest.raises(ValueError, match="real numbers, not object"):
        metric(mask, heatmap.astype(object))


def test_bad_predictions_are_refused():
    mask = np.eye(3, dtype=bool)
    with pytest.raises(ValueError, match="prediction: must be bool"):
        metrics.mcc(mask, np.full((3, 3), 0.4))
    with pytest.raises(ValueError, match="differ in shape"):
        metrics.mcc(mask, mask[:2])
    with pytest.raises(ValueError, match="is empty"):
        metrics.mcc(mask[:0], mask[:0])


def test_mcc_of_a_large_picture_does_not_overflow():
    mask = np.zeros((2000, 2000), dtype=bool)
    mask[:, ::2] = True
    assert metrics.mcc(mask, mask) == pytest.approx(1)
    assert metrics.mcc(mask, ~mask) == pytest.approx(-1)


def test_average_precision_of_a_megapixel():
    rng = np.random.default_rng(0)
    mask, heatmap = rng.random((1000, 1000)) < 0.1, rng.random((1000, 1000)).astype(np.float32)
    assert scores_of_ranks(mask, heatmap)[0] == pytest.approx(0.1, abs=0.01)


def test_detection_average_precision():
    rng = np.random.default_rng(1)
    scores, labels = rng.integers(0, 9, 40) / 8, rng.random(40) < 0.6
    expected = average_precision_score(labels, scores)
    assert metrics.detection_average_precision(list(scores), list(labels)) == pytest.approx(expected, **CLOSE)
    assert metrics.detection_average_precision([0.1, 0.9], [False, True]) == 1
    assert math.isnan(metrics.detection_average_precision([0.1, 0.9], [True, True]))
    assert math.isnan(metrics.detection_average_precision([0.1], [False]))
    for bad_scores, bad_labels, message in (
        ([], [], "is empty"),
        ([0.1, math.nan], [True, False], "scores: contains NaN"),
        ([0.1], [True, False], "differ in shape"),
    ):
        with pytest.raises(ValueError, match=message):
            metrics.detection_average_precision(bad_scores, bad_labels)
