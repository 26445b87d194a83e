"""Calibration: shares compared with counting, order is kept, and a calibrated localizer from pictures to masks."""

import io
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import gaussian_filter
from sklearn.metrics import average_precision_score

from exiflang.data.mosaics import camera_mosaics
from exiflang.data.shards import DataError, Photo
from exiflang.evaluation.baselines import MeanColor
from exiflang.localization.calibration import KNOTS, calibrate, quantile_knots, share_below
from exiflang.localization.clustering import READOUTS
from exiflang.localization.localizer import MASK_THRESHOLD, SpliceLocalizer, to_heatmap
from exiflang.localization.windows import picture_window
from exiflang.models.config import ExifLangConfig, check_calibration
from exiflang.models.model import ExifLang
from exiflang.utils.images import ImageError


def average_precision(mask: np.ndarray, heatmap: np.ndarray) -> float:
    return average_precision_score(mask.ravel(), heatmap.ravel())


KNOWN = {"far_friends": {"cells": [0.1, 0.2, 0.3], "scores": [0.01, 0.02], "pictures": 5}}


class Encoder(MeanColor):
    """Mean color with a model's configuration."""

    def __init__(self, calibration: dict | None = None):
        self.config = ExifLangConfig(patch_size=64, calibration=calibration)


def picture(seed: int, height: int = 130, width: int = 170, pasted: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """A reddish picture of soft spots, optionally with a bluish block, and its mask."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((height, width), bool)
    mask[30:90, 80:150] = pasted
    color = np.where(mask[..., None], (60, 90, 200), (200, 110, 60))
    scene = gaussian_filter(rng.normal(0, 600, (height, width, 3)), (12, 12, 0))
    return np.clip(color + scene, 0, 255).astype(np.uint8), mask


@pytest.fixture(scope="module")
def calibration() -> dict:
    localizer = SpliceLocalizer(Encoder(), windows_per_side=12)
    return calibrate(localizer, [picture(seed)[0] for seed in range(12)], sorted(READOUTS))


# Shares


@pytest.mark.parametrize("draw", ["normal", "uniform", "exponential"])
def test_shares_equal_counting(draw):
    values = getattr(np.random.default_rng(0), draw)(size=20_000)
    fresh = getattr(np.random.default_rng(1), draw)(size=500)
    counted = (values < fresh[:, None]).mean(1)
    np.testing.assert_allclose(share_below(fresh, quantile_knots(values)), counted, atol=0.011)


def test_shares_by_hand():
    got = share_below(np.array([[0.0, 0.1, 0.15], [0.2, 0.3, 0.55]]), [0.1, 0.2, 0.3])
    np.testing.assert_allclose(got, [[0.25 / 1.4, 0.25, 0.375], [0.5, 0.75, 1 - 0.25 / 2]])
    assert share_below(0.2, [0.1, 0.2, 0.3]).shape == () and float(share_below(0.2, [0.1, 0.2, 0.3])) == 0.5
    assert share_below(np.empty((0, 3)), [0.1, 0.2]).shape == (0, 3)


@settings(max_examples=40)
@given(
    st.lists(st.floats(-2, 2), min_size=1, max_size=50),
    st.lists(st.floats(-3, 3, width=16), min_size=2, max_size=50, unique=True),
)
def test_order_is_preserved_far_beyond_the_knots(authentic, values):
    knots = quantile_knots(authentic)
    assert len(knots) == KNOTS and (np.diff(knots) > 0).all()
    check_calibration({"diffusion": {"cells": knots, "scores": knots, "pictures": 1}})
    shares = share_below(np.sort(values), knots)
    assert 0 < shares[0] and shares[-1] < 1 and (np.diff(shares) > 0).all()


@pytest.mark.parametrize("value", [-1.0, 0.0, 1e-9, 1.5])
def test_equal_authentic_values_still_give_an_increasing_curve(value):
    knots = quantile_knots(np.full(30, value))
    assert (np.diff(knots) > 0).all() and knots[-1] - knots[0] < 2e-3
    low, high = share_below(np.array([value - 0.1, value + 0.1]), knots)
    assert low < 0.01 and high > 0.99


def test_rounding_of_a_value_barely_changes_its_share():
    knots = quantile_knots(np.full(30, -0.9))
    shares = share_below(-0.9 + np.array([0, 1e-7, 1e-6]), knots)
    assert np.ptp(shares[:2]) < 2e-4


@pytest.mark.parametrize("spread", [1e-3, 0.1])
def test_average_precision_is_preserved_in_float32(spread):
    """Tampered pixels are far above all authentic ones, where the curve is flattest."""
    rng = np.random.default_rng(0)
    knots = quantile_knots(-0.95 + spread * rng.normal(size=1000))
    mask = rng.random((200, 300)) < 0.2
    raw = (-0.5 + 0.2 * mask + 0.2 * rng.normal(size=mask.shape)).astype(np.float32)
    heatmap = share_below(raw, knots).astype(np.float32)
    assert average_precision(mask, heatmap) == pytest.approx(average_precision(mask, raw), abs=1e-4)


@pytest.mark.parametrize(
    "values, match", [([], "at least one picture"), ([0.1, np.nan], "NaN"), ([np.inf], "NaN or inf")]
)
def test_knots_of_empty_or_broken_values_are_refused(values, match):
    with pytest.raises(ValueError, match=match):
        quantile_knots(values)


# The dictionary in a model's configuration


@pytest.mark.parametrize(
    "wrong, match",
    [
        ({}, "dict that calibrate"),
        ([1], "dict that calibrate"),
        ({"diffusion": {"cells": [1, 2]}}, "must have cells, scores and pictures"),
        ({"diffusion": 3}, "must have cells, scores and pictures"),
        *(
            ({"diffusion": {**KNOWN["far_friends"], "scores": knots}}, "scores must be two or more finite, increasing")
            for knots in ([0.1], [0.2, 0.1], [0.1, 0.1], [0.1, np.nan], [[0.1, 0.2]], "ab", [None, 1], 4)
        ),
    ],
)
def test_a_configuration_refuses_an_invalid_calibration(wrong, match):
    with pytest.raises(ValueError, match=match):
        check_calibration(wrong)
    if isinstance(wrong, dict):  # other types are refused earlier, by transformers
        with pytest.raises(ValueError, match=match):
            ExifLangConfig.preset("tiny", calibration=wrong)


def test_the_localizer_refuses_a_calibration_of_unknown_readouts():
    with pytest.raises(ValueError, match=r"unknown readouts \['far_frends'\]: choose among .*far_friends"):
        SpliceLocalizer(Encoder({"far_frends": KNOWN["far_friends"]}))


def test_a_calibration_is_saved_with_its_model(tmp_path):
    torch.manual_seed(0)
    ExifLang(ExifLangConfig.preset("tiny", calibration=KNOWN)).save_pretrained(tmp_path)
    assert ExifLang.from_pretrained(tmp_path).config.calibration == KNOWN
    assert SpliceLocalizer(ExifLang.from_pretrained(tmp_path)).calibration == KNOWN


# The localizer


def test_calibration_is_json_and_counts_its_pictures(calibration):
    assert json.loads(json.dumps(calibration)) == calibration
    assert calibration.keys() == READOUTS.keys()
    assert all(entry["pictures"] == 12 and len(entry["cells"]) == KNOTS for entry in calibration.values())
    check_calibration(calibration)


@pytest.mark.parametrize("readout", READOUTS)
def test_a_calibrated_localizer_gives_values_in_0_to_1(calibration, readout):
    image, mask = picture(50, pasted=True)
    localizer = SpliceLocalizer(Encoder(calibration), windows_per_side=12, readout=readout)
    result, authentic = localizer(image), localizer(picture(51)[0])
    assert result.heatmap.dtype == np.float32 and 0 <= result.heatmap.min() and result.heatmap.max() < 1
    assert average_precision(mask, result.heatmap) == pytest.approx(average_precision(mask, result.raw), abs=1e-4)
    np.testing.assert_array_equal(result.mask, result.heatmap > MASK_THRESHOLD)
    assert 0 < authentic.score < result.score < 1 and isinstance(result.score, float)
    assert result.window_size == picture_window(130, 170, 64, calibrated=True)


@pytest.mark.parametrize("readout", ["far_friends", "diffusion", "diffused_cut"])
def test_the_mask_covers_the_pasted_block_and_little_of_authentic_pictures(calibration, readout):
    image, mask = picture(50, pasted=True)
    localizer = SpliceLocalizer(Encoder(calibration), windows_per_side=12, readout=readout)
    assert localizer(image).mask[mask].mean() > 0.95
    authentic = [localizer(picture(seed)[0]) for seed in range(12)]  # the pictures of the calibration
    assert np.mean([result.mask.mean() for result in authentic]) == pytest.approx(1 - MASK_THRESHOLD, abs=0.02)
    assert np.mean([result.heatmap.mean() for result in authentic]) == pytest.approx(0.5, abs=0.05)
    assert np.mean([result.score for result in authentic]) == pytest.approx(0.5, abs=0.05)


def test_a_readout_without_calibration_keeps_its_own_scale(calibration):
    only = {"far_friends": calibration["far_friends"]}
    result = SpliceLocalizer(Encoder(only), windows_per_side=12, readout="diffusion")(picture(50, pasted=True)[0])
    np.testing.assert_array_equal(result.heatmap, to_heatmap(result.raw, "diffusion"))
    assert 0 < result.mask.mean() <= 0.5


@pytest.mark.parametrize("height, width", [(1, 1), (1, 90), (15, 15), (60, 50)])
@pytest.mark.parametrize("readout", ["diffusion", "diffused_cut"])
def test_flat_and_tiny_pictures_have_flat_calibrated_maps(calibration, height, width, readout):
    localizer = SpliceLocalizer(Encoder(calibration), windows_per_side=12, readout=readout)
    result = localizer(np.full((height, width, 3), 90, np.uint8))
    assert result.heatmap.shape == (height, width) and np.isfinite(result.heatmap).all() and 0 < result.score < 0.5
    assert np.ptp(result.heatmap) < 1e-3 and not result.mask.any()


def test_calibrating_a_calibrated_model_again_changes_nothing(calibration):
    pictures = [picture(seed)[0] for seed in range(12)]
    again = calibrate(SpliceLocalizer(Encoder(calibration), windows_per_side=12, readout="far_friends"), pictures)
    assert again == {"far_friends": calibration["far_friends"]}


def test_calibration_without_pictures_or_of_unknown_readouts_is_refused(tmp_path):
    localizer = SpliceLocalizer(MeanColor())
    with pytest.raises(ValueError, match="at least one picture"):
        calibrate(localizer, [])
    with pytest.raises(ValueError, match="unknown readouts \\['far_frends'\\]"):
        calibrate(localizer, [picture(0)[0]], ["far_frends"])
    with pytest.raises(ImageError, match="missing.jpg"):
        calibrate(localizer, [tmp_path / "missing.jpg"])


# Mosaics


@pytest.fixture
def photos(tmp_path) -> list[Photo]:
    """Cameras A (3 photos, 5 tiles) and B (1 photo, 1 tile); each tile has a different gray."""
    shard, photos, gray = tmp_path / "00000.tar", [], 0
    with shard.open("wb") as file:
        for name, model, tiles in (("a", "A", 2), ("b", "A", 2), ("c", "B", 1), ("d", "A", 1)):
            places = []
            for _ in range(tiles):
                gray += 10
                buffer = io.BytesIO()
                Image.new("RGB", (24, 16 + gray % 20), (gray,) * 3).save(buffer, "PNG")
                places.append((shard, file.tell(), file.write(buffer.getvalue())))
            photos.append(Photo(name, {"Make": "X", "Model": model}, places))
    return photos


def test_each_mosaic_is_of_one_camera_and_no_tile_is_used_twice(photos):
    mosaics = list(camera_mosaics(photos, rows=1, cols=2, seed=3))
    assert [mosaic.shape for mosaic in mosaics] == [(16, 32, 3)] * 2 and mosaics[0].dtype == np.uint8
    grays = [int(value) for mosaic in mosaics for value in mosaic[0, [0, 16], 0]]
    assert len(set(grays)) == 4 and 50 not in grays  # 50 is the tile of camera B
    np.testing.assert_array_equal(mosaics, list(camera_mosaics(photos, rows=1, cols=2, seed=3)))


def test_a_mosaic_by_hand(photos):
    (mosaic,) = camera_mosaics(photos[2:3], rows=1, cols=1)
    assert mosaic.shape == (24, 24, 3) and (mosaic == 50).all()


@pytest.mark.parametrize(
    "rows, cols, match", [(2, 3, "no camera has 6 tiles"), (0, 1, "at least 1"), (2, -1, "at least")]
)
def test_impossible_mosaics_are_refused(photos, rows, cols, match):
    with pytest.raises(ValueError, match=match):
        next(camera_mosaics(photos, rows, cols))


def test_the_error_names_a_broken_tile(photos):
    shard = photos[0].tiles[0][0]
    shard.write_bytes(b"?" * shard.stat().st_size)
    with pytest.raises(DataError, match="00000.tar"):
        list(camera_mosaics(photos, 1, 1))
