import pytest
import torch
from transformers import AutoConfig, AutoModel

from exiflang.models.config import ExifLangConfig
from exiflang.models.model import ExifLang
from exiflang.models.trace_resnet import TraceResNet, TraceResNetConfig

SMALL = {"num_channels": 2, "embedding_size": 4, "hidden_sizes": [4, 6], "depths": [1, 2]}


def small_tower(**changes) -> TraceResNet:
    torch.manual_seed(0)
    return TraceResNet(TraceResNetConfig(**{**SMALL, **changes})).eval()


def features(tower: TraceResNet, pixels: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return tower(pixel_values=pixels).last_hidden_state


@pytest.mark.parametrize("size", [1, 2, 7, 40, 64, 96, 128])
def test_with_padding_there_is_one_cell_per_stride(size):
    tower = small_tower()
    assert tower.config.stride == 4
    found = features(tower, torch.rand(2, 2, size, size + 3))
    assert found.shape == (2, 6, -(-size // 4), -(-(size + 3) // 4)) and found.isfinite().all()


@pytest.mark.parametrize("depths", [[0, 0], [1, 0], [0, 1], [1, 2]])
def test_the_receptive_field_is_the_extent_of_gradients(depths):
    tower = small_tower(depths=depths, padded=False)
    side = tower.config.receptive_field
    # ReLUs block some paths, so sum over many pictures.
    reached = torch.zeros(side + 8, side + 8)
    for seed in range(30):
        torch.manual_seed(seed)
        pixels = torch.rand(1, 2, side + 8, side + 8, requires_grad=True)
        tower(pixel_values=pixels).last_hidden_state[0, :, 1, 1].sum().backward()
        reached += pixels.grad.abs().sum((0, 1))
    rows = reached.sum(1).nonzero().flatten()
    assert (int(rows[0]), int(rows[-1])) == (4, 4 + side - 1)  # the second cell begins one stride further


def test_without_padding_one_pass_gives_the_features_of_every_window():
    tower = small_tower(padded=False)
    window, stride = tower.config.receptive_field + 8, tower.config.stride
    picture = torch.rand(1, 2, window + 5 * stride, window + 7 * stride)
    whole, cells = features(tower, picture), 3
    for row, column in [(0, 0), (2, 5), (5, 7)]:
        y, x = row * stride, column * stride
        alone = features(tower, picture[..., y : y + window, x : x + window])
        assert alone.shape[2:] == (cells, cells)
        torch.testing.assert_close(whole[..., row : row + cells, column : column + cells], alone, rtol=0, atol=1e-5)


def test_with_padding_the_features_of_a_window_differ_from_those_of_the_picture():
    tower = small_tower()
    picture = torch.rand(1, 2, 48, 48)
    assert not torch.allclose(features(tower, picture)[..., 4:8, 4:8], features(tower, picture[..., 16:32, 16:32]))


def test_a_window_smaller_than_the_field_is_refused():
    tower = small_tower(padded=False)
    least = tower.config.receptive_field
    assert features(tower, torch.rand(1, 2, least, least)).shape[2:] == (1, 1)
    with pytest.raises(ValueError, match=f"window of {least} x {least - 1} pixels is smaller than .* field of {least}"):
        features(tower, torch.rand(1, 2, least - 1, least))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depths": [1]}, "need one number per stage each"),
        ({"hidden_sizes": [], "depths": []}, "need one number per stage each"),
        ({"embedding_size": 0}, "whole numbers above 0"),
        ({"depths": [1, -1]}, "depths at least 0"),
    ],
)
def test_invalid_configurations_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        TraceResNetConfig(**{**SMALL, **changes})


def test_the_tower_is_registered_with_transformers(tmp_path):
    tower = AutoModel.from_config(AutoConfig.for_model("trace_resnet", **SMALL))
    assert isinstance(tower, TraceResNet)
    tower.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in tower.state_dict().items())


@pytest.mark.parametrize("preset", ["base", "padded"])
def test_trace_towers_are_small_and_accept_all_their_window_sizes(preset, tmp_path):
    torch.manual_seed(0)
    model = ExifLang(ExifLangConfig.preset(preset)).eval()
    assert sum(p.numel() for p in model.image_tower.parameters()) <= 4e6
    with torch.no_grad():
        for size in (40, 64, 96, 128):
            embedding = model.encode_image(torch.randint(256, (2, 3, size, size), dtype=torch.uint8))
            assert embedding.shape == (2, 256)
            torch.testing.assert_close(embedding.norm(dim=1), torch.ones(2))
    model.save_pretrained(tmp_path)
    patches = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        again = ExifLang.from_pretrained(str(tmp_path)).encode_image(patches)
        torch.testing.assert_close(again, model.encode_image(patches))
