"""The contrastive objective (paper, section 3.2; CLIP, Radford et al. 2021, figure 3)."""

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
    if image.ndim != 2 or image.shape != text.shape or len(image) == 0:
        raise ValueError(f"image and text must be [B, D] with B > 0, not {list(image.shape)} and {list(text.shape)}")
    logits = logit_scale * image @ text.T  # [B, D] x [D, B] -> [B, B]
    if sentence is None:
        sentence = torch.arange(len(image), device=image.device)
    elif sentence.shape != (len(image),):
        raise ValueError(f"sentence must be [{len(image)}], not {list(sentence.shape)}")
    positive = (sentence[:, None] == sentence[None, :]).to(logits.dtype)  # [B] -> [B, B]
    target = positive / positive.sum(1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
