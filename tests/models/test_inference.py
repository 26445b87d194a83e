"""Fast ways of embedding compared with the plain ones."""

import time
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from exiflang.localization.localizer import Comparison, SpliceLocalizer
from exiflang.localization.windows import embed_densely, embed_windows
from exiflang.models import inference
from exiflang.models.config import ExifLangConfig
from exiflang.models.inference import for_inference
from exiflang.models.model import ExifLang


def trained(preset: str, **changes) -> ExifLang:
    """A model with random weights, and with batch norm statistics as after training."""
    torch.manual_seed(0)
    model = ExifLang(ExifLangConfig.preset(preset, **changes)).eval()
    for part in model.image_tower.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1), part.running_var.uniform_(0.5, 2)
            part.weight.data.uniform_(0.5, 1.5), part.bias.data.normal_(0, 0.1)
    return model


BOTTLENECK = {
    "model_type": "resnet",
    "num_channels": 3,
    "embedding_size": 8,
    "hidden_sizes": [16, 32],
    "depths": [1, 2],
}


KINDS = ("basic", "bottleneck", "padded", "base")


@cache
def model_of(kind: str) -> ExifLang:
    """Both kinds of tower, with all kinds of block; not to be changed."""
    if kind == "bottleneck":
        return trained("tiny", image_config=BOTTLENECK, residual_gain=0.0, pooling="mean")
    return trained("tiny" if kind == "basic" else kind)


def patches(side: int = 48, count: int = 5) -> torch.Tensor:
    return torch.randint(256, (count, 3, side, side), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def norms(model: ExifLang) -> int:
    return sum(isinstance(part, torch.nn.BatchNorm2d) for part in model.image_tower.modules())


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_folding_removes_batch_norms_and_keeps_embeddings(kind):
    model = model_of(kind)
    before, expected = norms(model), model.encode_image(patches())
    ready = for_inference(model)
    torch.testing.assert_close(ready.encode_image(patches()), expected, rtol=0, atol=1e-5)
    assert norms(ready) == 0 and norms(model) == before > 0
    torch.testing.assert_close(model.encode_image(patches()), expected, rtol=0, atol=0)


def test_the_given_model_stays_in_training_mode():
    model = trained("tiny").train()
    ready = for_inference(model)
    assert model.training and model.text_tower.training
    assert not ready.training and not ready.image_tower.training
    assert ready.text_tower is model.text_tower and ready.config is model.config


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_bf16_embeddings_are_close_and_returned_as_float32(kind):
    model = model_of(kind)
    found, expected = for_inference(model, "bf16").encode_image(patches()), model.encode_image(patches())
    assert found.dtype == torch.float32
    assert (found * expected).sum(1).min() > 0.995


@pytest.mark.parametrize("hardware, half_seconds, taken", [(True, 1, True), (True, 3, False), (False, 1, False)])
def test_auto_uses_bf16_if_it_is_measured_to_be_faster(monkeypatch, hardware, half_seconds, taken):
    seconds = {torch.bfloat16: half_seconds, torch.float32: 2}
    monkeypatch.setattr(inference, "has_fast_bf16", lambda device: hardware)
    monkeypatch.setattr(inference, "_seconds", lambda model: seconds[model.image_tower.dtype])
    assert (for_inference(trained("tiny"), "auto").image_tower.dtype == torch.bfloat16) is taken


def test_the_time_is_measured_on_windows(monkeypatch):
    model, shapes = trained("tiny"), []

    def slowly(patches):
        shapes.append(tuple(patches.shape))
        time.sleep(0.02)
        return patches

    monkeypatch.setattr(model, "encode_image", slowly)
    assert 0.02 <= inference._seconds(model) < 2
    assert set(shapes) == {(8, 3, 32, 32)} and len(shapes) > 1


def test_unknown_precision():
    with pytest.raises(ValueError, match="float32, bf16, auto"):
        for_inference(trained("tiny"), "fp16")


# One pass through a tower that pads


def loop_dense(model: ExifLang, image: np.ndarray, window: int, stride: int) -> np.ndarray:
    """Paint each cell of the picture's feature map over the pixels that it represents, and cut windows from that."""
    with torch.inference_mode():
        features = model.image_features(torch.from_numpy(image).permute(2, 0, 1)[None])
        step = (
            8 if model.config.image_config["model_type"] == "trace_resnet" else 4 * 2 ** (len(BOTTLENECK["depths"]) - 1)
        )
        painted = features.repeat_interleave(step, 2).repeat_interleave(step, 3)  # [1, C, H', W']
        height, width = image.shape[:2]
        return np.stack(
            [
                torch.cat(
                    [
                        model.pool(painted[..., y : y + window, x : x + window])
                        for x in range(0, width - window + 1, stride)
                    ]
                ).numpy()
                for y in range(0, height - window + 1, stride)
            ]
        )


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(["basic", "bottleneck", "padded"]), st.integers(0, 40), st.integers(0, 70), st.integers(1, 31))
def test_dense_windows_are_cut_from_the_features_of_the_picture(kind, height, width, stride):
    model, image = model_of(kind), noise(32 + height, 32 + width)
    found = embed_densely(model, image, 32, stride)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, loop_dense(model, image, 32, stride), rtol=0, atol=1e-4)


@pytest.mark.parametrize("stride", [7, 16])
def test_stripes_change_nothing_if_their_margin_exceeds_the_field(stride, monkeypatch):
    model, image = trained("tiny"), noise(500, 90)
    whole = embed_densely(model, image, 32, stride)
    monkeypatch.setattr("exiflang.localization.windows.STRIPE_PIXELS", 1)
    stripes = embed_densely(model, image, 32, stride)
    np.testing.assert_allclose(stripes, whole, rtol=0, atol=1e-5)


def test_dense_embeddings_resemble_those_of_windows():
    model, image = trained("padded"), noise(200, 260)
    found, expected = (embed(model, image, 64, 32) for embed in (embed_densely, embed_windows))
    cosine = (found * expected).sum(2)
    assert 0.9 < cosine.min() < 0.9999999


# The localizer's settings

SLOW = Comparison(fast=False)


@pytest.mark.parametrize(
    "preset, options, preview",
    [
        ("padded", {}, False),
        ("padded", {"mode": "dense"}, True),
        ("padded", {"mode": "dense", "windows_per_side": 1}, True),
        ("base", {"mode": "dense"}, False),
        ("base", {"mode": "dense", "precision": "bf16"}, False),
        ("base", {"comparison": SLOW}, False),
    ],
)
def test_only_approximations_are_marked_as_previews(preset, options, preview):
    assert SpliceLocalizer(trained(preset), **options)(noise(150, 200)).preview is preview


def test_dense_mode_is_exact_if_windows_do_not_overlap():
    model, image = trained("tiny"), noise(40, 6000)
    dense, exact = (SpliceLocalizer(model, window_size=32, mode=mode)(image) for mode in ("dense", "exact"))
    assert not dense.preview and dense.stride > dense.window_size
    np.testing.assert_array_equal(dense.embeddings, exact.embeddings)


@pytest.mark.parametrize("preset", ["tiny", "base"])
def test_fast_and_plain_ways_give_the_same_heatmap(preset):
    model, image = trained(preset), noise(150, 200)
    image[40:90, 60:120] //= 2
    plain = SpliceLocalizer(model, comparison=SLOW)(image)
    fast = SpliceLocalizer(model)(image)
    np.testing.assert_allclose(fast.embeddings, plain.embeddings, rtol=0, atol=1e-5)
    assert np.corrcoef(fast.heatmap.ravel(), plain.heatmap.ravel())[0, 1] > 0.999


def test_one_switch_turns_off_all_fast_ways():
    localizer = SpliceLocalizer(trained("tiny"), comparison=SLOW)
    assert localizer.encoder is localizer.model
    for options in ({"mode": "dense"}, {"precision": "bf16"}):
        with pytest.raises(ValueError, match="mode and precision need an ExifLang"):
            SpliceLocalizer(trained("tiny"), comparison=SLOW, **options)


class Baseline:
    def encode_image(self, patches):
        return patches.float().flatten(1)


def test_other_encoders_have_no_modes():
    assert SpliceLocalizer(Baseline()).encoder.__class__ is Baseline
    with pytest.raises(ValueError, match="need an ExifLang"):
        SpliceLocalizer(Baseline(), mode="dense")


def test_unknown_mode():
    with pytest.raises(ValueError, match="unknown mode 'fast': choose one of exact, dense"):
        SpliceLocalizer(trained("tiny"), mode="fast")


@pytest.mark.parametrize("name", ["windows_per_side", "window_size", "batch_size"])
def test_the_error_names_a_wrong_count(name):
    with pytest.raises(ValueError, match=f"^{name} must be at least 1"):
        SpliceLocalizer(Baseline(), **{name: 0})
