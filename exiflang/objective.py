"""What training minimises: patches against EXIF sentences, and patches of one photo against each other."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from exiflang.negatives import global_loss


def batch_loss(
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor | None = None,
    *,
    sentence: Tensor,
    image_weight: float,
) -> Tensor:
    """What is minimised: EXIF contrast of every view, and contrast of the first view with the others, averaged.

    Args:
        image, text: float [B, V, D] and [B, D], unit norm; V views of each photo, and its sentence.
        logit_scale, logit_bias: scalars; a bias makes it the sigmoid loss.
        sentence: int64 [B], equal where sentences are equal, in whichever process.
        image_weight: 0..1, share of the contrast between views.

    Returns:
        Scalar; its mean over processes is the loss of all their pairs (see `global_loss`).

    Raises:
        ValueError: contrast between views without a second one.
    """
    first, *others = image.unbind(1)  # [B, V, D] -> V x [B, D]
    if image_weight and not others:
        raise ValueError("image_weight needs a data set with two views of each photo: PatchDataset(..., views=2)")
    kind = "infonce" if logit_bias is None else "sigmoid"
    contrast = partial(global_loss, logit_scale=logit_scale, sentence=sentence, kind=kind, logit_bias=logit_bias)
    exif = sum(contrast(view, text) for view in (first, *others)) / image.shape[1]
    if not image_weight:
        return exif
    between = sum(contrast(first, other) for other in others) / len(others)
    return (1 - image_weight) * exif + image_weight * between
