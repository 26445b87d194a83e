"""An image tower for camera traces: it starts at full resolution because the traces are in the finest pixels."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithNoAttention


@strict
class TraceResNetConfig(PreTrainedConfig):
    """Configuration of a `TraceResNet`, registered with `transformers` as `model_type="trace_resnet"`.

    Args:
        num_channels: channels of the input.
        embedding_size: channels of the stem, which works at full resolution.
        hidden_sizes: channels of each stage; each halves the resolution.
        depths: residual blocks of each stage.
        padded: zero padding: a window of P pixels gives P / 2^stages cells per side. Without padding, each output cell
            depends only on its receptive field and never on the border: one pass over a picture then yields the exact
            features of all its windows.
    """

    model_type = "trace_resnet"

    num_channels: int = 3
    embedding_size: int = 16
    hidden_sizes: list | tuple = (32, 64, 128)
    depths: list | tuple = (2, 2, 2)
    padded: bool = True

    def __post_init__(self, **others: Any) -> None:
        super().__post_init__(**others)
        if not self.hidden_sizes or len(self.hidden_sizes) != len(self.depths):
            raise ValueError(
                f"hidden_sizes {list(self.hidden_sizes)} and depths {list(self.depths)} need one number per stage each"
            )
        sizes = [self.num_channels, self.embedding_size, *self.hidden_sizes]
        if not all(isinstance(n, int) and n > 0 for n in sizes) or min(self.depths) < 0:
            raise ValueError("channels must be whole numbers above 0, depths at least 0")

    @property
    def stride(self) -> int:
        """Pixels from one output cell to the next."""
        return 2 ** len(self.hidden_sizes)

    @property
    def receptive_field(self) -> int:
        """Side in pixels of one output cell's receptive field; also the smallest input of a tower without padding."""
        side, step = 3, 1  # the stem
        for depth in self.depths:
            side += 2 * step
            step *= 2
            side += 4 * step * depth
        return side


def _conv(inputs: int, outputs: int, stride: int, padded: bool) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1 if padded else 0, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


class _Entry(GradientCheckpointingLayer, nn.Sequential):
    """The first convolution of the tower or of a stage."""


class _Block(GradientCheckpointingLayer):
    """Two 3 x 3 convolutions and a skip (He et al. 2016); without padding, the skip is cropped to match."""

    def __init__(self, channels: int, padded: bool):
        super().__init__()
        self.first, self.second = (_conv(channels, channels, 1, padded) for _ in range(2))
        self.border = 0 if padded else 2

    def forward(self, x: Tensor) -> Tensor:
        inner = x[:, :, self.border : x.shape[2] - self.border, self.border : x.shape[3] - self.border]
        return F.relu(inner + self.second(F.relu(self.first(x))))  # [B, C, h, w] -> [B, C, h - 2 border, w - 2 border]


class TraceResNet(PreTrainedModel):
    """Residual network without early pooling: a stem at full resolution, then stages that halve it.

    `forward(pixel_values)` takes float [B, C, H, W] and returns `last_hidden_state` [B, hidden_sizes[-1], h, w]; h is
    `H / stride` rounded up with padding, and `(H - receptive_field) // stride + 1` without. Raises `ValueError` for an
    input smaller than the receptive field of a tower without padding.
    """

    config_class = TraceResNetConfig
    base_model_prefix = "trace_resnet"
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True

    def __init__(self, config: TraceResNetConfig):
        super().__init__(config)
        stem = _Entry(*_conv(config.num_channels, config.embedding_size, 1, config.padded))
        layers: list[nn.Module] = [stem, nn.ReLU()]
        width = config.embedding_size
        for size, depth in zip(config.hidden_sizes, config.depths, strict=True):
            layers += [_Entry(*_conv(width, size, 2, config.padded)), nn.ReLU()]
            layers += [_Block(size, config.padded) for _ in range(depth)]
            width = size
        self.layers = nn.Sequential(*layers)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, pixel_values: Tensor) -> BaseModelOutputWithNoAttention:
        least = self.config.receptive_field
        if not self.config.padded and min(pixel_values.shape[2:]) < least:
            height, width = pixel_values.shape[2:]
            raise ValueError(f"a window of {width} x {height} pixels is smaller than the receptive field of {least}")
        return BaseModelOutputWithNoAttention(last_hidden_state=self.layers(pixel_values))


AutoConfig.register(TraceResNetConfig.model_type, TraceResNetConfig)
AutoModel.register(TraceResNetConfig, TraceResNet)
