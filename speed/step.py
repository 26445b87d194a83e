"""A training step as `exiflang.train` takes it, without what surrounds it: no clipping, log or schedule."""

from __future__ import annotations

import torch

from exiflang.model import ExifLang
from exiflang.negatives import sentence_ids
from exiflang.objective import batch_loss
from exiflang.train import distinct


def training_step(
    model: ExifLang, optimizer: torch.optim.Optimizer, patches: torch.Tensor, sentences: list[str], bf16: bool = False
) -> float:
    """One step on patches uint8 [B, 3, P, P] and their B sentences; returns the loss."""
    different, which = distinct(sentences)
    tokens = {key: value.to(patches.device) for key, value in model.tokenize(different).items()}
    with torch.autocast(patches.device.type, torch.bfloat16, enabled=bf16):
        image, text = model(patches, **tokens)  # [B, D], [U, D]
    ids = sentence_ids(different)[which].to(patches.device)
    loss = batch_loss(image.unsqueeze(1), text[which], model.logit_scale, sentence=ids, image_weight=0.0)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()
