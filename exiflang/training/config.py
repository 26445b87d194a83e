"""The settings of a training run."""

import math
from dataclasses import dataclass

from exiflang.utils.typed import check_fields

TRACKERS = ("none", "tensorboard", "wandb")


@dataclass
class TrainConfig:
    """Settings of a training run.

    Args:
        steps: total number of optimizer steps; 0 saves the model unchanged.
        batch_size: photos per batch in each process, at least 2, because a single pair has no negatives.
        learning_rate, weight_decay, beta2, eps: of AdamW; beta1 is 0.9.
        warmup_steps: steps of linear warm-up before the schedule takes over; both advance at every step.
        schedule: any name that `transformers.get_scheduler` accepts, e.g. "cosine" or "constant_with_warmup".
        loss: "infonce" (paper), or "sigmoid" (SigLIP) for a model with a `logit_bias`; over the pairs of all
            processes.
        image_weight: 0..1, weight of the loss between two patches of a photo; the rest goes to the loss between patch
            and EXIF. Above 0, it needs a data set with two views of each photo.
        ema: decay per step of the moving average of weights that is saved, e.g. 0.998; 0: the last weights are saved.
        chunk_size: photos encoded at a time in each process, for batches that do not fit in memory, at the cost of
            encoding twice (see `memory.cached_backward`); 0: all at once.
        gradient_checkpointing: keep only each layer's input for the backward pass and recompute the rest: the same
            results with less memory and more time.
        compile: `torch.compile` the towers, which needs a C++ compiler and takes a minute, for faster steps; same
            results up to rounding. Not with `gradient_checkpointing`. The towers stay compiled.
        mixed_precision: "no", "bf16", "fp16", or "auto": bf16 if the hardware supports it, else "no".
        fast: encode sentences in buckets by length, and use AdamW's fused kernel: same results up to rounding and
            dropout's random numbers. False pads every sentence to the longest of its batch and uses plain AdamW, for
            comparison.
        max_grad_norm: gradients are clipped to this norm.
        workers: number of processes that load patches; 0: load in the main process.
        checkpoint_minutes: minutes between checkpoints, from which an interrupted run resumes; 0: after every step.
        validate_every: steps between validations by `train(validate=...)`; the best step's weights are kept.
        tracker: "tensorboard" (files in `out_dir`), "wandb" (needs its package and your login), or "none".
        seed: for all random numbers of the run.
    """

    steps: int = 1000
    batch_size: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    beta2: float = 0.98
    eps: float = 1e-6
    warmup_steps: int = 50
    schedule: str = "cosine"
    loss: str = "infonce"
    image_weight: float = 0.0
    ema: float = 0.0
    chunk_size: int = 0
    gradient_checkpointing: bool = False
    compile: bool = False
    mixed_precision: str = "auto"
    fast: bool = True
    max_grad_norm: float = 1.0
    workers: int = 0
    checkpoint_minutes: float = 3.0
    validate_every: int = 500
    tracker: str = "tensorboard"
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        whole = {"steps": 0, "batch_size": 2, "warmup_steps": 0, "chunk_size": 0, "workers": 0, "validate_every": 1}
        for name, least in whole.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)!r}: it must be a whole number of at least {least}")
        for name, most in {"image_weight": 1, "ema": 1, "checkpoint_minutes": math.inf}.items():
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"{name} is {getattr(self, name)!r}: it must be in 0..{most}")
        for name, known in {"loss": ("infonce", "sigmoid"), "tracker": TRACKERS}.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}: choose one of {', '.join(known)}")
        if self.compile and self.gradient_checkpointing:  # compiled, batch norm would count each batch twice
            raise ValueError("compile and gradient_checkpointing cannot be combined: choose one of them")
