"""Verdicts, regions and reliability: p-values compared with counting, error rates by simulation, and edge cases."""

from fractions import Fraction

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from exiflang.localization.decision import (
    FEWEST,
    KINDS,
    LARGE,
    TRACES,
    Calibration,
    Decision,
    Record,
    find_regions,
    picture_kind,
    reliability,
)
from exiflang.localization.evidence import NUMBERS, Evidence

KIND = "large, no JPEG"


def records(peaks, cameras=None) -> list[Record]:
    cameras = range(len(peaks)) if cameras is None else cameras
    return [Record(f"camera {camera}", float(peak)) for camera, peak in zip(cameras, peaks, strict=True)]


def normal(count: int = 99, seed: int = 0) -> Calibration:
    return Calibration({KIND: records(np.random.default_rng(seed).normal(size=count))})


def loop_p_value(own: list[Record], value: float) -> Fraction:
    """Camera by camera, exactly."""
    reached = Fraction(0)
    cameras = {record.camera for record in own}
    for camera in cameras:
        theirs = [record.peak for record in own if record.camera == camera]
        reached += Fraction(sum(peak >= value for peak in theirs), len(theirs))
    return (1 + reached) / (1 + len(cameras))


#: Authentic photos of few cameras with few distinct values, so that there are many ties.
TIED = st.lists(st.tuples(st.integers(0, 30), st.integers(-3, 3)), min_size=FEWEST, max_size=60)


# P-values and verdicts


@settings(max_examples=50)
@given(TIED, st.integers(-4, 4), st.sampled_from([0.01, 0.05, 0.3]))
def test_decisions_equal_counting(photos, score, rate):
    cameras, scores = zip(*photos, strict=True)
    own = records(scores, cameras)
    decision = Calibration({KIND: own}).decide(score, KIND, rate)
    expected = loop_p_value(own, score)
    assert decision.p_value == pytest.approx(float(expected), abs=1e-12)
    assert (decision.photos, decision.cameras, decision.kind) == (len(own), len(set(cameras)), KIND)
    if Fraction(1, 1 + decision.cameras) > Fraction(str(rate)):
        assert decision.verdict == "not decidable"
    else:
        assert decision.verdict == ("spliced" if expected <= Fraction(str(rate)) else "no splice found")


def test_a_score_above_all_others_is_spliced_and_one_below_is_not():
    calibration = normal()
    assert calibration.decide(99, KIND).verdict == "spliced"
    assert calibration.decide(99, KIND).p_value == pytest.approx(0.01)
    assert calibration.decide(-99, KIND).p_value == 1 and calibration.decide(-99, KIND).verdict == "no splice found"
    assert calibration.decide(np.inf, KIND).verdict == "spliced"


def test_equal_authentic_scores_count_as_at_least_as_high():
    own = records([0.0] * 50)
    assert Calibration({KIND: own}).decide(0.0, KIND).p_value == 1
    assert Calibration({KIND: own}).decide(np.nextafter(0, 1), KIND).p_value == pytest.approx(1 / 51)


@pytest.mark.parametrize("cameras, verdict", [(18, "not decidable"), (19, "spliced")])
def test_a_false_alarm_rate_requires_enough_cameras_not_photos(cameras, verdict):
    own = records(np.zeros(400), cameras=np.arange(400) % cameras)
    assert Calibration({KIND: own}).decide(1, KIND, 0.05).verdict == verdict
    assert Calibration({KIND: own}).decide(-1, KIND, 0.05).verdict != "spliced"


def test_each_camera_has_one_vote():
    """A camera with 900 photos has the same weight as one with a single photo."""
    scores = [*range(19), *[100.0] * 900]
    cameras = [*range(19), *[99] * 900]
    decision = Calibration({KIND: records(scores, cameras)}).decide(50, KIND)
    assert decision.p_value == pytest.approx(2 / 21) and decision.cameras == 20


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.3])
@pytest.mark.parametrize("photos_per_camera", [1, 5])
def test_authentic_pictures_rarely_raise_an_alarm(rate, photos_per_camera):
    """The guarantee: photos of a new camera have p <= rate with probability `rate` at most, though cameras differ."""
    rng = np.random.default_rng(0)
    cameras, alarms, regions = 40, [], []
    for _ in range(300):
        own = rng.normal(size=(cameras + 1, 1)) + rng.normal(size=(cameras + 1, photos_per_camera))
        names = np.repeat(np.arange(cameras), photos_per_camera)
        calibration = Calibration({KIND: records(own[:-1].ravel(), cameras=names)})
        for score in own[-1, :1]:
            alarms.append(calibration.decide(score, KIND, rate).p_value <= rate)
            regions.append(score >= calibration.level(KIND, rate))
    assert np.mean(alarms) <= rate + 2 * np.sqrt(rate * (1 - rate) / len(alarms))
    assert np.mean(alarms) >= rate - 1 / cameras - 3 * np.sqrt(rate * (1 - rate) / len(alarms))  # and not much smaller
    assert regions == alarms


@pytest.mark.parametrize("reached, cameras", [(0, 50), (1, 50), (7, 60), (49, 50), (50, 50)])
def test_limits_match_clopper_and_pearson(reached, cameras):
    own = records([1.0] * reached + [0.0] * (cameras - reached))
    expected = scipy.stats.binomtest(reached, cameras).proportion_ci(0.95, method="exact")
    found = Calibration({KIND: own}).decide(0.5, KIND).p_limits
    assert found == pytest.approx((expected.low, expected.high), abs=1e-9)


@settings(max_examples=50)
@given(TIED, st.integers(-4, 4))
def test_limits_contain_the_share(photos, score):
    cameras, scores = zip(*photos, strict=True)
    decision = Calibration({KIND: records(scores, cameras)}).decide(score, KIND)
    low, high = decision.p_limits
    share = (decision.p_value * (1 + decision.cameras) - 1) / decision.cameras
    assert 0 <= low <= share + 1e-9 and share - 1e-9 <= high <= 1


# Kinds


@pytest.mark.parametrize(
    "kind, there, expected",
    [
        (KIND, KINDS, KIND),
        (KIND, ["large, coarse JPEG", "large, fine JPEG", "small, no JPEG"], "large, fine JPEG"),
        ("large, coarse JPEG", ["large, no JPEG", "large, fine JPEG", "small, coarse JPEG"], "large, fine JPEG"),
        ("small, fine JPEG", ["large, fine JPEG", "small, coarse JPEG"], "small, coarse JPEG"),
        ("small, fine JPEG", ["large, fine JPEG", "large, coarse JPEG"], "large, fine JPEG"),
        ("small, no JPEG", ["large, coarse JPEG"], "large, coarse JPEG"),
        (KIND, [], None),
    ],
)
def test_the_nearest_kind_is_used_for_a_missing_one(kind, there, expected):
    calibration = Calibration({name: records(np.zeros(FEWEST)) for name in there})
    assert calibration.nearest(kind) == expected
    assert calibration.decide(1, kind).kind == (expected or kind)


def test_a_kind_with_too_few_photos_is_not_used():
    calibration = Calibration({KIND: records(np.zeros(FEWEST - 1)), "small, no JPEG": records(np.zeros(FEWEST))})
    assert calibration.nearest(KIND) == "small, no JPEG"


@pytest.mark.parametrize("calibration", [Calibration({}), Calibration({KIND: records(np.zeros(FEWEST - 1))})])
def test_nothing_is_decided_without_photos(calibration):
    assert calibration.decide(5, KIND) == Decision(1.0, (0.0, 1.0), "not decidable", 0.05, KIND, 0, 0)
    assert calibration.level(KIND) is None and calibration.p_value(5, KIND) == 1
    values, above, centers = blobs()
    mask, regions = find_regions(values, above, centers, {}, calibration, KIND)
    assert not mask.any() and regions == []


@pytest.mark.parametrize(
    "height, width, is_jpeg, low_step, kind",
    [
        (1, LARGE, 0, 1, "large, no JPEG"),
        (1, LARGE - 1, 0, 1, "small, no JPEG"),
        (1000, 1000, 1, 3.19, "large, fine JPEG"),
        (1000, 1000, 1, 3.21, "large, coarse JPEG"),
        (1, 1, 1, 1.0, "small, fine JPEG"),
    ],
)
def test_the_kind_of_a_picture_depends_on_size_and_quantization(height, width, is_jpeg, low_step, kind):
    numbers = dict.fromkeys(NUMBERS, 0.0)
    numbers |= {"is a JPEG file": is_jpeg, "log of its mean low step": np.log(low_step)}
    assert picture_kind(height, width, Evidence({}, {}, np.array(list(numbers.values()), np.float32))) == kind


# What is saved


def test_a_round_trip_only_rounds():
    calibration = Calibration({KIND: [Record("Canon A", 1.23456789)], "small, no JPEG": []})
    saved = calibration.to_dict()
    assert saved == {KIND: [["Canon A", 1.2346]], "small, no JPEG": []}
    assert Calibration.of(saved).to_dict() == saved


@pytest.mark.parametrize(
    "saved",
    [None, 3, "text", [], [1], {KIND: 3}, {KIND: None}, {KIND: [1]}, {KIND: [["a"]]}, {KIND: [["a", 1, 2]]},
     {KIND: [["a", None]]}, {KIND: [["a", "high"]]}, {KIND: [["a", [2]]]}, {KIND: [["a", 10**400]]}, {KIND: "abc"}],
)  # fmt: skip
def test_invalid_calibrations_are_refused(saved):
    with pytest.raises(ValueError, match="maps kinds to lists of \\[camera, peak\\]"):
        Calibration.of(saved)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_peaks_are_refused(bad):
    with pytest.raises(ValueError, match="NaN or infinity among the values"):
        Calibration.of({KIND: [["b", 1.0], ["a", bad]]})


def test_the_error_for_unknown_kinds_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown kinds of pictures \\['huge'\\]: choose among large, no JPEG, "):
        Calibration({"huge": []})


# The level of regions


@settings(max_examples=50)
@given(TIED, st.sampled_from([0.0, 0.02, 0.05, 0.1, 0.5, 1.0]))
def test_the_level_is_the_lowest_peak_with_its_p_value(photos, rate):
    cameras, peaks = zip(*photos, strict=True)
    own = records(np.divide(peaks, 3), cameras)
    calibration = Calibration({KIND: own})
    level = calibration.level(KIND, rate)
    candidates = sorted({-1e300, *(np.nextafter(record.peak, np.inf) for record in own)})
    passing = [value for value in candidates if loop_p_value(own, value) <= Fraction(str(rate))]
    if not passing:
        assert level is None
    elif passing[0] == -1e300:
        assert level < -1e300
    else:
        assert level == passing[0]
        assert calibration.p_value(level, KIND) <= rate
        assert calibration.p_value(np.nextafter(level, -np.inf), KIND) > rate


# Regions


def blobs(*heights: float, low: float = -4.0) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Values of 20 x 30 windows of one pixel, with blobs of these heights that cover 4 x 4, 3 x 3, ... windows."""
    values = np.full((20, 30), low, np.float32)
    for place, height in enumerate(heights):
        values[2 : 6 - place, 2 + 8 * place : 6 + 7 * place] = height
    return values, lambda level: values > level, (np.arange(20), np.arange(30))


def test_only_the_significant_one_of_two_blobs_is_a_region():
    calibration = Calibration({KIND: records(np.linspace(-3, 2, 99))})
    values, above, centers = blobs(6.0, 1.0)
    traces = {name: np.where(values > 5, sign * 2.0, 0.0) for name, sign in TRACES.items()}
    traces["jpeg_history"] += np.where(values > 5, 1, np.random.default_rng(0).normal(0, 0.1, values.shape))
    mask, regions = find_regions(values, above, centers, traces, calibration, KIND)
    np.testing.assert_array_equal(mask, values == 6)
    (region,) = regions
    assert region.area == mask.mean() and region.box == (2, 2, 6, 6) and region.peak == 6
    assert region.p_value == pytest.approx(0.01) and region.p_value == calibration.p_value(6, KIND)
    assert region.evidence.keys() == TRACES.keys() and min(region.evidence.values()) > 1
    assert region.strongest != "jpeg_history"  # the only one with noise elsewhere
    assert "evidence" not in repr(region)


@settings(max_examples=50)
@given(TIED, st.lists(st.integers(-5, 5), min_size=1, max_size=3), st.sampled_from([0.02, 0.05, 0.2, 0.9]))
def test_a_picture_is_spliced_if_and_only_if_it_has_a_region(photos, heights, rate):
    cameras, peaks = zip(*photos, strict=True)
    calibration = Calibration({KIND: records(peaks, cameras)})
    values, above, centers = blobs(*heights)
    decision = calibration.decide(float(values.max()), KIND, rate)
    _, regions = find_regions(values, above, centers, {}, calibration, KIND, rate)
    assert bool(regions) == (decision.p_value <= rate)
    assert not regions or decision.p_value == min(region.p_value for region in regions)


def test_the_largest_region_comes_first_and_each_has_its_evidence():
    calibration = Calibration({KIND: records(np.linspace(-3, 0, 99))})
    values, above, centers = blobs(1.0, 6.0)
    noise = np.random.default_rng(0).normal(0, 1, values.shape)
    traces = {"camera_traces": noise + 9 * (values == 1), "grid_along": noise - 9 * (values == 6)}
    mask, regions = find_regions(values, above, centers, traces, calibration, KIND)
    assert [region.peak for region in regions] == [1, 6] and regions[0].area > regions[1].area
    assert [region.strongest for region in regions] == ["camera_traces", "grid_along"]
    assert sum(region.area for region in regions) == pytest.approx(mask.mean())


def test_regions_may_touch_the_border():
    values, above, _ = blobs()
    values[17:, 26:] = values[0, :] = 6
    _, regions = find_regions(values, above, (np.arange(20), np.arange(30)), {}, normal(), KIND)
    assert [region.box for region in regions] == [(0, 0, 30, 1), (26, 17, 30, 20)]


def test_there_are_no_regions_below_the_level():
    values, above, centers = blobs(0.5)
    mask, regions = find_regions(values, above, centers, {}, normal(), KIND)
    assert not mask.any() and regions == []


def test_a_region_may_cover_the_whole_picture():
    values = np.full((3, 4), 9.0, np.float32)
    centers, traces = (np.arange(3), np.arange(4)), {"camera_traces": values}
    mask, (region,) = find_regions(values, lambda level: values > level, centers, traces, normal(), KIND)
    assert mask.all() and region.area == 1 and region.evidence == {} and region.strongest is None


def test_a_single_window_may_be_a_region():
    values = np.full((1, 1), 9.0, np.float32)
    drawn, centers = np.full((5, 7), 9.0), (np.array([2]), np.array([3]))
    mask, regions = find_regions(values, lambda level: drawn > level, centers, {}, normal(), KIND)
    assert mask.all() and [region.box for region in regions] == [(0, 0, 7, 5)]


def test_a_part_between_windows_is_not_a_region():
    """No window belongs to it that could be significant."""
    values = np.array([[-4, 9]], np.float32)
    drawn = np.full((4, 40), -4.0)
    drawn[:, 28:32] = 9
    drawn[:, 18:20] = 5
    centers = (np.array([2]), np.array([5, 30]))
    mask, regions = find_regions(values, lambda level: drawn > level, centers, {}, normal(), KIND)
    assert [region.box for region in regions] == [(28, 0, 32, 4)] and mask.sum() == 16


def test_a_level_below_zero_bounds_the_region():
    """All authentic pictures are far below: what exceeds them is a region, though probably not tampered."""
    calibration = Calibration({KIND: records(np.linspace(-9, -5, 99))})
    values, above, centers = blobs(-3.0, low=-8.0)
    mask, regions = find_regions(values, above, centers, {}, calibration, KIND)
    np.testing.assert_array_equal(mask, values == -3)
    assert len(regions) == 1


def test_a_peak_equal_to_an_authentic_one_is_not_a_region():
    """In float32 the level would be rounded to the authentic peak itself."""
    calibration = Calibration({KIND: records([float(np.float32(2.7))] * 50)})
    values, above, centers = blobs(2.7)
    assert find_regions(values, above, centers, {}, calibration, KIND)[1] == []
    assert len(find_regions(*blobs(2.71), {}, calibration, KIND)[1]) == 1


# Reliability


def content_maps(**changes: float) -> dict[str, np.ndarray]:
    plain = {"gradient": 0.02, "brightness": 0.5, "clipped": 0.0}
    return {name: np.full((2, 3), changes.get(name, value), np.float32) for name, value in plain.items()}


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({}, 1.0),
        ({"gradient": 0.0}, 0.0),
        ({"gradient": 0.004}, 0.5),
        ({"brightness": 0.02}, 0.0),
        ({"brightness": 0.06}, 0.5),
        ({"clipped": 1.0}, 0.0),
        ({"clipped": 0.25, "gradient": 0.004}, 0.375),
    ],
)
def test_flat_dark_and_clipped_windows_are_unreliable(changes, expected):
    found = reliability(content_maps(**changes), {})
    assert found.shape == (2, 3) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_traces_that_disagree_are_trusted_less():
    rng = np.random.default_rng(0)
    traces = {name: rng.normal(0, 0.1, (20, 30)) for name in ("camera_traces", "jpeg_history")}
    traces["camera_traces"][3, 4] = 9
    maps = {name: np.broadcast_to(values[0, 0], (20, 30)) for name, values in content_maps().items()}
    found = reliability(maps, traces)
    assert found[3, 4] == 0 and np.median(found) == 1
    traces["jpeg_history"][3, 4] = 9
    assert reliability(maps, traces)[3, 4] == 1
    del traces["jpeg_history"]
    assert reliability(maps, traces).min() == 1


@given(st.integers(0, 99), st.floats(-100, 100), st.floats(0, 100))
def test_reliability_is_between_0_and_1(seed, mean, spread):
    rng = np.random.default_rng(seed)
    maps = {name: rng.uniform(0, 1, (3, 4)).astype(np.float32) for name in ("gradient", "brightness", "clipped")}
    traces = {name: rng.normal(mean, spread, (3, 4)) for name in ("camera_traces", "jpeg_history")}
    found = reliability(maps, traces)
    assert found.min() >= 0 and found.max() <= 1
