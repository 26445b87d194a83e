"""The contrastive objective (paper, section 3.2; CLIP, Radford et al. 2021, figure 3), and its sigmoid relative."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def contrastive_loss(
    image: Tensor, text: Tensor, logit_scale: Tensor | float, sentence: Tensor | None = None
) -> Tensor:
    """Symmetric InfoNCE over a batch of pairs.

    With `S = logit_scale * image @ text.T`, the mean over both directions of
    `-sum_j q_ij log softmax_j(S_ij)`, where `q_i` is uniform over the pairs whose sentence is that of pair i:
    two photos with the same EXIF are positives of each other, never negatives.

    Args:
        image, text: float [B, D], unit norm, row i of both from photo i.
        logit_scale: inverse temperature, a positive scalar.
        sentence: int [B], equal where the EXIF sentences are equal; None says that all differ.

    Returns:
        Scalar tensor, at least 0; `log B` for embeddings that do not tell pairs apart.

    Raises:
        ValueError: shapes that do not match, or an empty batch.
    """
    sentence = numbered(image, text, sentence)
    logits = logit_scale * image @ text.T  # [B, D] x [D, B] -> [B, B]
    target = uniform_target(sentence, sentence, logits.dtype)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def sigmoid_loss(
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float,
    sentence: Tensor | None = None,
) -> Tensor:
    """Each image and sentence judged on its own, a pair or not (SigLIP, Zhai et al. 2023, equation 1, algorithm 1).

    `sum_ij -log sigmoid(z_ij (logit_scale * image_i . text_j + logit_bias)) / B`, with `z_ij = 1` where the sentences
    of pairs i and j are equal and -1 elsewhere. No softmax: a row's terms do not depend on each other.

    Args:
        image, text: float [B, D], unit norm, row i of both from photo i.
        logit_scale: a positive scalar; SigLIP starts at 10.
        logit_bias: a scalar; SigLIP starts at -10, since all but one in B of the terms are negatives.
        sentence: int [B], equal where the EXIF sentences are equal; None says that all differ.

    Returns:
        Scalar tensor, at least 0.

    Raises:
        ValueError: shapes that do not match, or an empty batch.
    """
    sentence = numbered(image, text, sentence)
    return sigmoid_terms(image, text, logit_scale, logit_bias, sentence, sentence).sum() / len(image)


def numbered(image: Tensor, text: Tensor, sentence: Tensor | None) -> Tensor:
    """Check the shapes of a batch of pairs; its sentences' numbers [B], counted up if there are none."""
    if image.ndim != 2 or image.shape != text.shape or len(image) == 0:
        raise ValueError(f"image and text must be [B, D] with B > 0, not {list(image.shape)} and {list(text.shape)}")
    if sentence is None:
        return torch.arange(len(image), device=image.device)
    if sentence.shape != (len(image),):
        raise ValueError(f"sentence must be [{len(image)}], not {list(sentence.shape)}")
    return sentence


def uniform_target(sentence: Tensor, sentences: Tensor, dtype: torch.dtype) -> Tensor:
    """For each pair of `sentence` [b], the distribution over `sentences` [B] uniform on its own: [b, B]."""
    positive = (sentence[:, None] == sentences[None, :]).to(dtype)  # [b], [B] -> [b, B]
    return positive / positive.sum(1, keepdim=True)


def sigmoid_terms(
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float,
    sentence: Tensor,
    sentences: Tensor,
) -> Tensor:
    """Terms [b, B] of the sigmoid loss of images [b, D] and texts [B, D] with the sentences [b] and [B]."""
    logits = logit_scale * image @ text.T + logit_bias  # [b, D] x [D, B] -> [b, B]
    return -F.logsigmoid(torch.where(sentence[:, None] == sentences[None, :], logits, -logits))
