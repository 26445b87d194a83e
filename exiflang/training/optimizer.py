"""AdamW and its learning-rate schedule; compiled towers."""

import torch
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from exiflang.models.model import ExifLang
from exiflang.training.config import TrainConfig


def make_optimizer(model: ExifLang, config: TrainConfig, processes: int) -> tuple[torch.optim.AdamW, LRScheduler]:
    """AdamW with weight decay on matrices only, not on biases and norms, and its learning-rate schedule."""
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decay, no_decay = [p for p in learned if p.ndim > 1], [p for p in learned if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": config.weight_decay}, {"params": no_decay, "weight_decay": 0.0}],
        lr=config.learning_rate,
        betas=(0.9, config.beta2),
        eps=config.eps,
        fused=config.fast,
    )
    # Accelerate advances a prepared schedule once per process.
    warmup_steps, steps = config.warmup_steps * processes, config.steps * processes
    return optimizer, get_scheduler(config.schedule, optimizer, warmup_steps, steps)


def compile_towers(model: ExifLang) -> None:
    """`torch.compile` both towers, with the random numbers of eager dropout, equal in both passes."""
    options = {"fallback_random": True}
    model.image_tower.compile(options=options)
    model.text_tower.compile(dynamic=True, options=options)  # lengths differ from batch to batch
