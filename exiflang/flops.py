"""How much a training step computes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from copy import deepcopy
from functools import cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from exiflang.model import ExifLang
from exiflang.model_config import ExifLangConfig


class StepFlops:
    """Counts the floating point operations of a model's training steps, on a copy without memory.

    Only products of matrices, convolutions and attention count, a multiplication and an addition as two. A step is
    three forward passes, the backward pass being two; what is computed twice to save memory counts once.
    """

    def __init__(self, config: ExifLangConfig):
        with torch.device("meta"):
            self._model = ExifLang(deepcopy(config)).eval()
        self._image, self._text = cache(self._count_image), cache(self._count_text)

    def __call__(self, patches: Sequence[int], buckets: Iterable[tuple[int, int]]) -> int:
        """Given the shape [..., 3, P, P] of the patches, and pairs (sentences, tokens of each with its padding)."""
        image = math.prod(patches[:-3]) * self._image(*patches[-2:])
        return 3 * (image + sum(count * self._text(tokens) for count, tokens in buckets))

    def _count_image(self, height: int, width: int) -> int:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            self._model.encode_image(torch.zeros(1, 3, height, width, dtype=torch.uint8, device="meta"))
        return counter.get_total_flops()

    def _count_text(self, tokens: int) -> int:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            # without a mask: nothing on the meta device can be looked at
            hidden = self._model.text_tower(torch.ones(1, tokens, dtype=torch.int64, device="meta")).last_hidden_state
            self._model.text_projection(hidden[:, 0])  # [1, T, W] -> [1, D]
        return counter.get_total_flops()
