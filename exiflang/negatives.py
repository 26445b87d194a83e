"""The losses over the batch of all processes: everybody's pairs are everybody's negatives."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from exiflang.loss import contrastive_loss, numbered, sigmoid_loss, sigmoid_terms, uniform_target


def sentence_ids(sentences: Sequence[str]) -> Tensor:
    """Number sentences alike in every process, on every machine and in every run: U of them -> int64 [U], at least 0.

    63 bits of BLAKE2b: two sentences among a million share a number with a chance of one in ten million.

    Raises `ValueError` for a single str.
    """
    if isinstance(sentences, str):
        raise ValueError("sentence_ids takes a list of sentences: wrap the single one in [ ]")
    digests = [blake2b(sentence.encode("utf-8", "surrogatepass"), digest_size=8).digest() for sentence in sentences]
    return torch.tensor([int.from_bytes(digest, "big") >> 1 for digest in digests], dtype=torch.int64)


def global_loss(
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor | float,
    sentence: Tensor | None = None,
    *,
    kind: Literal["infonce", "sigmoid"] = "infonce",
    logit_bias: Tensor | float | None = None,
    local: bool = True,
) -> Tensor:
    """`contrastive_loss` or `sigmoid_loss` of the pairs of all processes of the default process group.

    To be called in all of them at once, each with its own pairs. The gradient goes through the gather, to the process
    that a row came from. Values differ between processes, such that **their mean over processes is the loss** of all B
    pairs: back-propagate them as they are where gradients are averaged over processes (as by
    `DistributedDataParallel`) and every parameter has the gradient of that loss; average them for the log. In a single
    process, with or without a process group, it is the plain loss.

    Args:
        image, text: float [b, D], unit norm, row i of both from photo i of this process; b may differ between
            processes.
        logit_scale: inverse temperature, a positive scalar, the same in all processes.
        sentence: int [b], equal where the sentences are equal, **in whichever process** (see `sentence_ids`); in all
            processes or in none: None says that all differ.
        kind: "infonce" or "sigmoid".
        logit_bias: of the sigmoid loss, and of it alone: a scalar, the same in all processes.
        local: True compares only this process's rows with all others, b x B logits a direction; False forms all B x B
            in every process, to the same end.

    Returns:
        Scalar tensor: this process's share, times the number of processes (`local`), or the loss itself.

    Raises:
        ValueError: shapes that do not match, no pairs in this process, an unknown kind, or a bias that is missing or
            not asked for.
    """
    if kind not in ("infonce", "sigmoid"):
        raise ValueError(f"kind is {kind!r}: choose 'infonce' or 'sigmoid'")
    if (kind == "sigmoid") != (logit_bias is not None):
        raise ValueError("give a logit_bias with kind='sigmoid', and only then")
    own = numbered(image, text, sentence)
    processes = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    if processes == 1:
        return _plain(image, text, logit_scale, logit_bias, own)

    counts = _row_counts(image, processes)
    if sentence is None:
        own = own + sum(counts[: dist.get_rank()])
    sentences = gather_rows(own, counts)
    images, texts = gather_rows(torch.cat([image, text], dim=1), counts).chunk(2, dim=1)  # [b, 2D] -> 2 x [B, D]
    if not local:
        return _plain(images, texts, logit_scale, logit_bias, sentences)
    if kind == "sigmoid":
        share = sigmoid_terms(image, texts, logit_scale, logit_bias, own, sentences).sum()  # [b, B] -> []
    else:
        share = _infonce_share(image, text, images, texts, logit_scale, uniform_target(own, sentences, image.dtype))
    return share * (processes / sum(counts))


def _infonce_share(
    image: Tensor, text: Tensor, images: Tensor, texts: Tensor, logit_scale: Tensor | float, target: Tensor
) -> Tensor:
    """What the pairs of this process [b, D] add to B times the InfoNCE of all pairs [B, D]; `target` is [b, B]."""
    directions = ((image, texts), (text, images))
    logits = [logit_scale * rows @ columns.T for rows, columns in directions]  # [b, D] x [D, B] -> [b, B]
    return sum(F.cross_entropy(one, target, reduction="sum") for one in logits) / 2


def _plain(image: Tensor, text: Tensor, scale: Tensor | float, bias: Tensor | float | None, sentence: Tensor) -> Tensor:
    if bias is None:
        return contrastive_loss(image, text, scale, sentence)
    return sigmoid_loss(image, text, scale, bias, sentence)


def _row_counts(rows: Tensor, processes: int) -> list[int]:
    """How many rows each process holds."""
    counts = [torch.empty(1, dtype=torch.int64, device=rows.device) for _ in range(processes)]
    dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
    return torch.cat(counts).tolist()


def gather_rows(rows: Tensor, counts: Sequence[int]) -> Tensor:
    """Rows of all processes, [counts[rank], ...] -> [sum of counts, ...], by rank, with the true gradient.

    Each row's gradient is the sum of those of all processes' losses (`accelerate.gather` has none).
    """
    return _GatherRows.apply(rows, counts)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: Sequence[int]) -> Tensor:
        ctx.counts = counts
        padded = rows.new_zeros(max(counts), *rows.shape[1:])  # [b, ...] -> [largest b, ...]: gloo gathers equal sizes
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])  # -> [B, ...]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)  # not reduce_scatter: rows may be uneven, and older gloo has none
        return total.split(list(ctx.counts))[dist.get_rank()], None  # [B, ...] -> [b, ...]
