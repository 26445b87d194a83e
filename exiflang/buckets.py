"""Sentences of much the same length together, so that few tokens are padding."""

from __future__ import annotations

import torch
from torch import Tensor

MOST, LEAST = 8, 16  # buckets, and sentences in each: a GPU wants few launches, and enough to do in each


def length_buckets(attention_mask: Tensor) -> list[tuple[Tensor, int]]:
    """Split U > 0 sentences into even buckets by length: a mask [U, T] -> each one's rows, int64 [u], and length, 1..T.

    From that length on no sentence of the bucket is attended to. What comes before keeps its position: padding on the
    left, which a tokenizer may prefer, stays.
    """
    places = torch.arange(1, attention_mask.shape[1] + 1, device=attention_mask.device)
    lengths, order = (attention_mask.ne(0) * places).amax(1).clamp(min=1).sort()  # [U, T] -> [U], [U]
    count = max(1, min(MOST, len(order) // LEAST))
    parts = zip(order.tensor_split(count), lengths.cpu().tensor_split(count), strict=True)
    return [(rows, int(own[-1])) for rows, own in parts]
