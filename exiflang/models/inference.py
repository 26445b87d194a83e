"""Prepares the image tower for inference: the same function with less arithmetic, or in bfloat16."""

import copy
import time
from statistics import median

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from exiflang.models.model import ExifLang
from exiflang.utils.hardware import has_fast_bf16

PRECISIONS = ("float32", "bf16", "auto")


def for_inference(model: ExifLang, precision: str = "float32") -> ExifLang:
    """`model` in evaluation mode with an optimized copy of its image tower; the original tower is not changed.

    The copy has its batch norms folded into the preceding convolutions, stores weights channels-last, and computes in
    `precision`: "float32", "bf16", or "auto" (bf16 if the hardware supports it and it is faster on a few test windows).
    Embeddings are always float32; bf16 changes them slightly (cosine about 0.999).

    Raises `ValueError` for an unknown precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}: choose one of {', '.join(PRECISIONS)}")
    ready = _with_tower(model, _folded(model.image_tower))
    if precision != "float32":
        half = _with_tower(model, copy.deepcopy(ready.image_tower).bfloat16())
        if precision == "bf16" or (has_fast_bf16(model.device) and _seconds(half) < _seconds(ready)):
            ready = half
    return ready


def _with_tower(model: ExifLang, tower: nn.Module) -> ExifLang:
    """A model that shares everything but the image tower with `model`."""
    other = copy.copy(model)
    other._modules = {**model._modules, "image_tower": tower}
    other.training = False  # not eval(), which would also switch the shared text tower
    return other


def _folded(tower: nn.Module) -> nn.Module:
    tower = copy.deepcopy(tower).eval()
    for part in tower.modules():
        for conv, norm in _pairs(part):
            setattr(part, conv, fuse_conv_bn_eval(getattr(part, conv), getattr(part, norm)))
            setattr(part, norm, nn.Identity())
    return tower.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's types


def _pairs(part: nn.Module) -> list[tuple[str, str]]:
    """Names of each convolution and the batch norm right after it, in `transformers` layers and in `Sequential`."""
    names = [name for name, _ in part.named_children()]
    follow = (
        zip(names, names[1:], strict=False) if isinstance(part, nn.Sequential) else [("convolution", "normalization")]
    )
    return [
        (conv, norm)
        for conv, norm in follow
        if isinstance(getattr(part, conv, None), nn.Conv2d) and isinstance(getattr(part, norm, None), nn.BatchNorm2d)
    ]


@torch.inference_mode()
def _seconds(model: ExifLang) -> float:
    """Median time of a small batch, in seconds."""
    side = model.config.patch_size
    patches = torch.zeros(8, 3, side, side, dtype=torch.uint8, device=model.device)
    taken = []
    for _ in range(4):
        began = time.perf_counter()
        model.encode_image(patches).cpu()
        taken.append(time.perf_counter() - began)
    return median(taken[1:])  # the first run is a warm-up
