"""Gradient checkpointing: what a layer computed is computed again in the backward pass, not kept until then."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from exiflang.gradient_cache import batch_norm_still


@contextmanager
def checkpointed(tower: PreTrainedModel) -> Iterator[None]:
    """While open, training keeps the inputs of the tower's layers alone: less memory, a second forward pass.

    Results are the same, with the same random numbers, and batch norm counts each batch once. A tower of a class that
    `transformers` cannot checkpoint (its ResNet) is checkpointed by the members of its outermost list of modules, its
    stages. Raises `ValueError` for one without such a list.
    """
    options = {"use_reentrant": False, "context_fn": partial(_contexts, tower)}
    if tower.supports_gradient_checkpointing:
        tower.activation_checkpointing_enable(options)
        try:
            yield
        finally:
            tower.activation_checkpointing_disable()
        return
    stages = next((part for part in tower.modules() if isinstance(part, nn.ModuleList)), None)
    if stages is None:
        raise ValueError(f"{type(tower).__name__} cannot be checkpointed: train it without gradient_checkpointing")
    for stage in stages:
        stage.forward = partial(checkpoint, stage.forward, **options)
    try:
        yield
    finally:
        for stage in stages:
            del stage.forward  # the instance's: that of its class is back


def _contexts(tower: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    """Around the first and around the second computation."""
    return nullcontext(), batch_norm_still(tower)
