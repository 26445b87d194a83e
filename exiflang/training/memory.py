"""Less memory for more time: gradient caching (GradCache, Gao et al. 2021, section 3) and gradient checkpointing.

Both compute some passes twice with equal results: the second pass replays torch's random numbers (dropout) on the CPU
and the model's device, then restores the state after the first, and batch norm's running statistics count each batch
once. If a batch is encoded in chunks, batch norm in training mode normalizes **each chunk separately**, as if chunks
were batches. (`SyncBatchNorm` also needs the same number of chunks in all processes.)
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint, get_device_states, set_device_states
from transformers import PreTrainedModel

Chunk = TypeVar("Chunk")
RandomState = tuple[Tensor, list[int], list[Tensor]]  # the CPU's; ids of other devices, and their states


def pair_chunks(
    patches: Tensor, tokens: Mapping[str, Tensor], which: Tensor, size: int
) -> list[tuple[Tensor, dict[str, Tensor], Tensor]]:
    """Split a batch of pairs into chunks of at most `size`, as equal as possible.

    A sentence used by several chunks is in each of them (and encoded in each). Every chunk therefore uses both towers,
    as `DistributedDataParallel` requires of the one that synchronizes, and none has more than `size` sentences.

    Takes patches [B, ...], B above 0, tokens of the U distinct sentences, tensors [U, ...], and each pair's sentence
    index, int64 [B]; yields the chunks in order, each (patches [b, ...], tokens [u, ...], indices [b] into those u).
    """
    count, chunks = -(-len(patches) // size), []
    for own_patches, own_which in zip(patches.tensor_split(count), which.tensor_split(count), strict=True):
        distinct, own = own_which.unique(return_inverse=True)  # [b] -> [u], [b]
        chunks.append((own_patches, {key: value[distinct] for key, value in tokens.items()}, own))
    return chunks


def cached_backward(
    model: nn.Module,
    encode: Callable[[Chunk], tuple[Tensor, ...]],
    chunks: Sequence[Chunk],
    loss: Callable[..., Tensor],
    scalars: Sequence[Tensor] = (),
    *,
    backward: Callable[[Tensor], None] = Tensor.backward,
    no_sync: Callable[[], AbstractContextManager] = nullcontext,
) -> Tensor:
    """Backpropagate a loss over a whole batch with the memory of one chunk; returns the loss, a scalar without a graph.

    All chunks are encoded without a graph; the loss over all embeddings gives the gradient of each embedding; then each
    chunk is encoded again, with a graph, and backpropagates its embeddings' gradients. Gradients accumulate in `.grad`
    and equal those of `loss(...).backward()` on the whole batch. See `TrainStep` for an example.

    Args:
        model: the model that `encode` runs, wrapped or not, whose batch norms are frozen for the second pass.
        encode: one chunk -> its embeddings, a tuple of tensors [b, ...], the same number for every chunk. Apply
            automatic mixed precision in here.
        chunks: at least one; their embeddings are concatenated in order, so sizes may differ.
        loss: the concatenated embeddings [B, ...] in the order of `encode`'s tuple, then the `scalars` -> a scalar.
        scalars: other learned inputs of the loss, e.g. `[model.logit_scale]`; backpropagated with the last chunk.
        backward: called with a scalar that has the loss's gradient, e.g. `accelerator.backward`, which scales for fp16.
        no_sync: context manager around all chunks but the last, e.g. the `no_sync` of a `DistributedDataParallel`
            model, which then synchronizes once, with the last chunk.
    """
    columns, random_states = _encode_without_graph(model, encode, chunks)
    embeddings = [torch.cat(column).requires_grad_() for column in columns]  # [b, ...] each -> [B, ...]
    leaves = [scalar.detach().requires_grad_() for scalar in scalars]
    value = loss(*embeddings, *leaves)
    gradients = torch.autograd.grad(value, embeddings + leaves, allow_unused=True, materialize_grads=True)
    cached = [
        gradient.split([len(part) for part in column])  # [B, ...] -> [b, ...] each
        for gradient, column in zip(gradients, columns, strict=False)  # the scalars' gradients come last
    ]
    for number, chunk in enumerate(chunks):
        last = number == len(chunks) - 1
        with nullcontext() if last else no_sync(), _replayed(random_states[number]):
            tensors, own = encode(chunk), tuple(column[number] for column in cached)
            if last:  # scalars too: DistributedDataParallel waits for every parameter in the synchronized pass
                tensors, own = tensors + tuple(scalars), own + gradients[len(columns) :]
            # a scalar whose gradients with respect to the tensors are the given ones
            backward(torch.stack([(tensor * grad).sum() for tensor, grad in zip(tensors, own, strict=True)]).sum())
    return value.detach()


def _encode_without_graph(
    model: nn.Module, encode: Callable[[Chunk], tuple[Tensor, ...]], chunks: Sequence[Chunk]
) -> tuple[list[tuple[Tensor, ...]], list[RandomState]]:
    """For each of `encode`'s outputs, the embeddings of all chunks in order; and the random state before each chunk."""
    parts, random_states = [], []
    with torch.no_grad(), batch_norm_still(model):
        for chunk in chunks:
            random_states.append((torch.get_rng_state(), *get_device_states(next(model.parameters()))))
            parts.append(encode(chunk))
    return list(zip(*parts, strict=True)), random_states  # grouped by output, not by chunk


@contextmanager
def batch_norm_still(model: nn.Module) -> Iterator[None]:
    """Keep batch norm's normalization but freeze its running statistics.

    They remain arguments of the op, because gradient checkpointing expects both passes to save the same tensors.
    """
    norms = [part for part in model.modules() if isinstance(part, _BatchNorm)]
    before = [(part, part.momentum, part.num_batches_tracked) for part in norms]
    for part, _, count in before:
        if count is not None:  # None: it has no running statistics
            part.momentum, part.num_batches_tracked = 0.0, count.clone()
    try:
        yield
    finally:
        for part, momentum, count in before:
            part.momentum, part.num_batches_tracked = momentum, count


@contextmanager
def _replayed(state: RandomState) -> Iterator[None]:
    """Run with an earlier random state, then restore the current one."""
    cpu, devices, others = state
    with torch.random.fork_rng(devices):
        torch.set_rng_state(cpu)
        set_device_states(devices, others)
        yield


@contextmanager
def checkpointed(tower: PreTrainedModel) -> Iterator[None]:
    """Inside this context, training keeps only the inputs of the tower's layers: less memory, a second forward pass.

    Results are the same, with the same random numbers, and batch norm counts each batch once. If `transformers` cannot
    checkpoint a tower's class (its ResNet), the members of its outermost `ModuleList`, its stages, are checkpointed.
    Raises `ValueError` if there is no such list.
    """
    # contexts of the first and of the second computation
    options: dict[str, Any] = {"use_reentrant": False, "context_fn": lambda: (nullcontext(), batch_norm_still(tower))}
    with ExitStack() as undone:
        if tower.supports_gradient_checkpointing:
            tower.activation_checkpointing_enable(options)
            undone.callback(tower.activation_checkpointing_disable)
        else:
            stages = next((part for part in tower.modules() if isinstance(part, nn.ModuleList)), None)
            if stages is None:
                advice = "train it without gradient_checkpointing"
                raise ValueError(f"{type(tower).__name__} cannot be checkpointed: {advice}")
            for stage in stages:
                stage.forward = partial(checkpoint, stage.forward, **options)
                undone.callback(delattr, stage, "forward")  # removes the instance's, which exposes the class's
        yield
