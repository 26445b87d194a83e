"""The settings of a training run."""

import math
from dataclasses import dataclass

from exiflang.utils.typed import check_fields

TRACKERS = ("none", "tensorboard", "wandb")


@dataclass
class TrainConfig:
    """How to train.

    Args:
        steps: optimizer steps in all; 0 saves the model as it is.
        batch_size: photos per step and process, at least 2: one pair has nothing to be told apart from.
        learning_rate, weight_decay, beta2, eps: of AdamW; beta1 is 0.9.
        warmup_steps: linear warm-up, before the schedule takes over; both advance at every step.
        schedule: any name that `transformers.get_scheduler` knows, e.g. "cosine" or "constant_with_warmup".
        loss: "infonce" (paper), or "sigmoid" (SigLIP) for a model with a `logit_bias`; over the pairs of all
            processes.
        image_weight: 0..1, share of the loss between two patches of one photo, beside that between patch and EXIF;
            needs a data set with two views of each photo.
        ema: decay a step of the averaged weights that are saved, e.g. 0.998; 0: the last weights themselves.
        chunk_size: photos encoded at a time and process, for batches that do not fit into memory, at the price of a
            second encoding (see `memory.cached_backward`); 0: all at once.
        gradient_checkpointing: keep a layer's input alone for the backward pass and compute the rest again: the same
            results from less memory, in more time.
        compile: `torch.compile` the towers, which needs a C++ compiler and takes a minute, to save time in each step;
            the same results but for rounding. Not with `gradient_checkpointing`. The towers stay compiled.
        mixed_precision: "no", "bf16", "fp16", or "auto": bf16 where the hardware multiplies in it, else "no".
        fast: encode sentences in buckets by length, and step with AdamW's fused kernel: the same results but for
            rounding and the random numbers of dropout. False, to compare with: every sentence padded to the longest of
            its batch, and the plain AdamW.
        max_grad_norm: gradients are clipped to this norm.
        workers: processes that load patches; 0 loads in this one.
        checkpoint_minutes: minutes between checkpoints, from which an interrupted run goes on; 0: after every step.
        validate_every: steps between validations by `train(validate=...)`; the best step's weights are the result.
        tracker: "tensorboard" (files in `out_dir`), "wandb" (needs its package and your login), or "none".
        seed: of everything random here.
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
                raise ValueError(f"{name} is {getattr(self, name)!r}: it must lie in 0..{most}")
        for name, known in {"loss": ("infonce", "sigmoid"), "tracker": TRACKERS}.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}: choose one of {', '.join(known)}")
        if self.compile and self.gradient_checkpointing:  # compiled, it cannot keep batch norm from counting twice
            raise ValueError("compile and gradient_checkpointing do not go together: choose one of them")
