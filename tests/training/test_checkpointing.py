"""Gradient checkpointing: the same gradients, statistics and random numbers, from less memory."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from exiflang.models.config import ExifLangConfig
from exiflang.models.model import ExifLang
from exiflang.training.memory import checkpointed
from tests.training.test_memory import peak_of_saved_bytes

SIZE = {"tiny": 16, "base": 40, "padded": 16}


def trained_pass(preset: str, checkpoint: bool, momentum: float | None = 0.1) -> dict:
    """What one backward pass leaves behind, and the most bytes that autograd kept for it, beside layers' inputs."""
    torch.manual_seed(0)
    config = ExifLangConfig.preset(preset)
    config.text_config = config.text_config | {"dropout": 0.3, "n_layers": 3}
    model = ExifLang(config).train()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = momentum
    patches = torch.randint(256, (6, 3, SIZE[preset], SIZE[preset]), dtype=torch.uint8)
    ids = torch.randint(1, 99, (5, 30))
    with checkpointed(model.image_tower) if checkpoint else nullcontext():
        with checkpointed(model.text_tower) if checkpoint else nullcontext():

            def step():
                image, text = model(patches, ids, torch.ones_like(ids))
                (image[:5] * text).sum().backward()

            peak = peak_of_saved_bytes(step)
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"gradients": gradients, "state": model.state_dict(), "random": torch.rand(()), "peak": peak}


@pytest.mark.parametrize(("preset", "momentum"), [("tiny", 0.1), ("base", 0.1), ("padded", None)])
def test_gradients_statistics_and_random_numbers_are_the_same(preset, momentum):
    found, expected = (trained_pass(preset, checkpoint, momentum) for checkpoint in (True, False))
    assert any(name.startswith("image_tower") for name in found["gradients"])
    torch.testing.assert_close(found["gradients"], expected["gradients"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found["state"], expected["state"], rtol=0, atol=0)
    assert torch.equal(found["random"], expected["random"])
    assert found["peak"] < 0.8 * expected["peak"]


@pytest.mark.parametrize("preset", ["tiny", "base"])
def test_the_tower_is_as_before_in_the_end(preset):
    model = ExifLang(ExifLangConfig.preset(preset)).train()
    patches = torch.randint(256, (2, 3, SIZE[preset], SIZE[preset]), dtype=torch.uint8)
    with pytest.raises(ArithmeticError), checkpointed(model.image_tower):
        raise ArithmeticError("in the middle")
    kept = [peak_of_saved_bytes(lambda: model.encode_image(patches).sum().backward()) for _ in range(2)]
    with checkpointed(model.image_tower):
        kept.append(peak_of_saved_bytes(lambda: model.encode_image(patches).sum().backward()))
    assert kept[0] == kept[1] > kept[2]
    assert not any("forward" in vars(part) for part in model.modules())


def test_a_tower_without_stages_is_refused():
    model = ExifLang(ExifLangConfig.preset("tiny"))
    model.image_tower.encoder.stages = nn.Sequential()
    with pytest.raises(ValueError, match="ResNetModel cannot be checkpointed: train it without"):
        with checkpointed(model.image_tower):
            pass
