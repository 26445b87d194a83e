import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from exiflang.models.config import ExifLangConfig
from exiflang.models.model import ExifLang
from exiflang.training.step import StepFlops


def by_hand(patches: int, sentences: int, tokens: int) -> int:
    """A forward pass of `two_layers`, three times: two operations for each multiplication and addition."""
    stem, stage = 30 * 30 * 6 * 9 * 4, 15 * 15 * 4 * 9 * 5  # cells x inputs x 3 x 3 x outputs
    image = stem + stage + 10 * 7  # and the projection of 5 means and 5 deviations
    attention = 4 * tokens * 8 * 8 + 2 * tokens * tokens * 8  # four linear layers, then scores and what they weigh
    text = attention + 2 * tokens * 8 * 16 + 8 * 7
    return 3 * 2 * (patches * image + sentences * text)


def two_layers(attention: str = "eager") -> ExifLangConfig:
    """A stem and a stage that see 32 x 32 pixels, less 2 of the residual's border, and a text tower of one layer."""
    image = {"model_type": "trace_resnet", "num_channels": 6, "embedding_size": 4, "hidden_sizes": [5], "depths": [0]}
    text = {"model_type": "distilbert", "dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 16}
    text |= {"attn_implementation": attention}
    return ExifLangConfig.preset("base", image_config=image | {"padded": True}, text_config=text, embed_dim=7)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_operations_are_those_counted_by_hand(attention):
    assert StepFlops(two_layers(attention))((4, 2, 3, 30, 30), [(3, 11)]) == by_hand(8, 3, 11)


def test_buckets_add_up_and_what_is_not_there_costs_nothing():
    flops = StepFlops(two_layers())
    patches = (8, 3, 30, 30)
    assert flops(patches, [(3, 11), (2, 5)]) == by_hand(8, 3, 11) + by_hand(0, 2, 5)
    assert flops(patches, []) == by_hand(8, 0, 0) and flops((0, 3, 30, 30), []) == 0


@pytest.mark.parametrize("preset", ["tiny", "demo", "base", "paper"])
def test_a_forward_pass_is_what_torch_counts_in_it(preset):
    """On real tensors, two patches and three sentences of seven tokens; no random number is taken."""
    config = ExifLangConfig.preset(preset)
    config.text_config = config.text_config | {"attn_implementation": "eager"}  # torch does not count a CPU's SDPA
    before = torch.get_rng_state()
    expected = StepFlops(config)((2, 3, 64, 64), [(3, 7)])
    assert torch.equal(torch.get_rng_state(), before)
    model, ids = ExifLang(config).eval(), torch.ones(3, 7, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(2, 3, 64, 64, dtype=torch.uint8), ids, ids)
    assert expected == 3 * counter.get_total_flops()
