"""The contrastive objective (paper, section 3.2; CLIP, Radford et al. 2021, figure 3), and its sigmoid variant.

`contrastive_loss` and `sigmoid_loss` compare the pairs of one process, `global_loss` those of all processes, and
`batch_loss` is the total loss of a training step.
"""

from collections.abc import Sequence
from functools import partial
from hashlib import blake2b
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def contrastive_loss(
    image: Tensor, text: Tensor, logit_scale: Tensor | float, sentence: Tensor | None = None
) -> Tensor:
    """Symmetric InfoNCE over a batch of pairs: a scalar, at least 0; `log B` if all embeddings are equal.

    With `S = logit_scale * image @ text.T`, the mean over both directions of `-sum_j q_ij log softmax_j(S_ij)`, where
    `q_i` is uniform over the pairs with the sentence of pair i: two photos with the same EXIF are positives of each
    other, never negatives.

    Args:
        image, text: float [B, D], unit norm, row i of both from photo i.
        logit_scale: inverse temperature, a positive scalar.
        sentence: int [B], equal for equal EXIF sentences; None: all sentences differ.

    Raises `ValueError` for shapes that do not match and for an empty batch.
    """
    sentence = _numbered(image, text, sentence)
    logits = logit_scale * image @ text.T  # [B, D] x [D, B] -> [B, B]
    target = _uniform_target(sentence, sentence, logits.dtype)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def sigmoid_loss(
    image: Tensor, text: Tensor, logit_scale: Tensor | float, logit_bias: Tensor | float, sentence: Tensor | None = None
) -> Tensor:
    """Independent binary classification of each image-sentence pair (SigLIP, Zhai et al. 2023, equation 1): a scalar.

    `sum_ij -log sigmoid(z_ij (logit_scale * image_i . text_j + logit_bias)) / B`, with `z_ij = 1` where the sentences
    of pairs i and j are equal and -1 elsewhere: at least 0. Without a softmax, the terms of a row are independent.

    Args:
        image, text: float [B, D], unit norm, row i of both from photo i.
        logit_scale: a positive scalar; SigLIP starts at 10.
        logit_bias: a scalar; SigLIP starts at -10, because only one of B terms is a positive.
        sentence: int [B], equal for equal EXIF sentences; None: all sentences differ.

    Raises `ValueError` for shapes that do not match and for an empty batch.
    """
    sentence = _numbered(image, text, sentence)
    return _sigmoid_sum(image, text, logit_scale, logit_bias, sentence, sentence) / len(image)


def global_loss(
    image: Tensor, text: Tensor, logit_scale: Tensor | float, sentence: Tensor, logit_bias: Tensor | float | None = None
) -> Tensor:
    """`contrastive_loss` (`sigmoid_loss` given a `logit_bias`) over the pairs of all processes in the default group.

    Call it in all processes at once, each with its own pairs, the same number everywhere. Each process compares its
    rows with all others, b x B logits per direction. Gradients flow back through the gather to the process of each row.
    Values differ between processes; **their mean over processes is the loss** of all B pairs. If gradients are averaged
    over processes, as in `DistributedDataParallel`, backpropagating each process's value gives the gradient of that
    loss; average the values for the log. In a single process, with or without a process group, it is the plain loss.

    Args:
        image, text: float [b, D], unit norm, row i of both from photo i of this process.
        logit_scale: inverse temperature, a positive scalar, equal in all processes.
        sentence: int [b], equal for equal sentences **across processes** (see `sentence_ids`).
        logit_bias: of the sigmoid loss, a scalar, equal in all processes.

    Returns a scalar, this process's part of the loss times the number of processes. Raises `ValueError` for shapes
    that do not match and for an empty batch.
    """
    world = dist.group.WORLD if dist.is_available() else None
    if world is None or world.size() == 1:
        if logit_bias is None:
            return contrastive_loss(image, text, logit_scale, sentence)
        return sigmoid_loss(image, text, logit_scale, logit_bias, sentence)
    _numbered(image, text, sentence)  # before the gather, where an error would deadlock the others
    sentences = gather_rows(sentence, world)
    images, texts = gather_rows(torch.cat([image, text], dim=1), world).chunk(2, dim=1)  # [b, 2D] -> 2 x [B, D]
    if logit_bias is None:
        total = _infonce_sum(image, text, images, texts, logit_scale, _uniform_target(sentence, sentences, image.dtype))
    else:
        total = _sigmoid_sum(image, texts, logit_scale, logit_bias, sentence, sentences)
    return total * (world.size() / len(sentences))


def gather_rows(rows: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Gather the rows of all processes of a group, by rank: [b, ...] in each -> [B, ...], with gradients.

    The gradient of a row is summed over the losses of all processes (`accelerate.gather` has no gradient).
    """
    return _GatherRows.apply(rows, group)


class _GatherRows(torch.autograd.Function):
    """Replaces `torch.distributed._functional_collectives`, which on gloo crashes about once in ten thousand steps."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(group.size())]
        dist.all_gather(parts, rows.contiguous(), group)
        return torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.group)
        return total.chunk(ctx.group.size())[ctx.group.rank()], None  # [B, ...] -> [b, ...]


def batch_loss(
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor | None = None,
    *,
    sentence: Tensor,
    image_weight: float,
) -> Tensor:
    """The training loss: a weighted mean of EXIF contrast of every view and contrast of the first view with the others.

    Args:
        image, text: float [B, V, D] and [B, D], unit norm; V views of each photo, and its sentence.
        logit_scale, logit_bias: scalars; with a bias, it is the sigmoid loss.
        sentence: int64 [B], equal for equal sentences across processes.
        image_weight: 0..1, weight of the contrast between views.

    Returns a scalar whose mean over processes is the loss of all their pairs (see `global_loss`). Raises `ValueError`
    if `image_weight` is above 0 and there is only one view.
    """
    first, *others = image.unbind(1)  # [B, V, D] -> V x [B, D]
    if image_weight and not others:
        raise ValueError("image_weight needs a data set with two views of each photo: PatchDataset(..., views=2)")
    contrast = partial(global_loss, logit_scale=logit_scale, sentence=sentence, logit_bias=logit_bias)
    exif = torch.stack([contrast(view, text) for view in (first, *others)]).mean()
    if not image_weight:
        return exif
    between = torch.stack([contrast(first, other) for other in others]).mean()
    return (1 - image_weight) * exif + image_weight * between


def sentence_ids(sentences: Sequence[str]) -> Tensor:
    """Hash U sentences, equally in every process, machine and run: -> int64 [U], at least 0.

    63 bits of BLAKE2b: among a million sentences, the chance of any collision is one in ten million.

    Raises `ValueError` for a single str.
    """
    if isinstance(sentences, str):
        raise ValueError("sentence_ids takes a list of sentences: wrap a single one in [ ]")
    digests = [blake2b(sentence.encode("utf-8", "surrogatepass"), digest_size=8).digest() for sentence in sentences]
    return torch.tensor([int.from_bytes(digest, "big") >> 1 for digest in digests], dtype=torch.int64)


def _numbered(image: Tensor, text: Tensor, sentence: Tensor | None) -> Tensor:
    """Check the shapes of a batch of pairs; returns its sentence ids [B], consecutive numbers if there are none."""
    if image.ndim != 2 or image.shape != text.shape or len(image) == 0:
        raise ValueError(f"image and text must be [B, D] with B > 0, not {list(image.shape)} and {list(text.shape)}")
    if sentence is None:
        return torch.arange(len(image), device=image.device)
    if sentence.shape != (len(image),):
        raise ValueError(f"sentence must be [{len(image)}], not {list(sentence.shape)}")
    return sentence


def _uniform_target(own: Tensor, sentences: Tensor, dtype: torch.dtype) -> Tensor:
    """For each pair of `own` [b], the uniform distribution over the equal ones of `sentences` [B]: [b, B]."""
    positive = (own[:, None] == sentences[None, :]).to(dtype)  # [b], [B] -> [b, B]
    return positive / positive.sum(1, keepdim=True)


def _infonce_sum(
    image: Tensor, text: Tensor, images: Tensor, texts: Tensor, logit_scale: Tensor | float, target: Tensor
) -> Tensor:
    """Contribution of pairs [b, D] to B times the InfoNCE of all pairs [B, D]; `target` is [b, B]."""
    by_image, by_text = logit_scale * image @ texts.T, logit_scale * text @ images.T  # [b, D] x [D, B] -> [b, B]
    losses = [F.cross_entropy(logits, target, reduction="sum") for logits in (by_image, by_text)]
    return (losses[0] + losses[1]) / 2


def _sigmoid_sum(
    image: Tensor, text: Tensor, logit_scale: Tensor | float, logit_bias: Tensor | float, own: Tensor, sentences: Tensor
) -> Tensor:
    """Sum of the sigmoid loss over images [b, D] and texts [B, D], whose sentence ids are [b] and [B]."""
    logits = logit_scale * image @ text.T + logit_bias  # [b, D] x [D, B] -> [b, B]
    return -F.logsigmoid(torch.where(own[:, None] == sentences[None, :], logits, -logits)).sum()
