"""Less memory for more time: gradient caching (GradCache, Gao et al. 2021, section 3) and gradient checkpointing.

Both compute something twice, to the same results: the two passes see the same random numbers of torch (dropout), on the
CPU and the model's device, which go on as after the first, and batch norm's running statistics take each batch in
once. Where a batch is encoded in chunks, batch norm in training mode normalizes **each chunk by itself**: to it, the
chunks are the batches. (`SyncBatchNorm` further needs the same number of chunks in all processes.)
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
RandomState = tuple[Tensor, list[int], list[Tensor]]  # of the CPU; the model's device if another, and of it


def pair_chunks(
    patches: Tensor, tokens: Mapping[str, Tensor], which: Tensor, size: int
) -> list[tuple[Tensor, dict[str, Tensor], Tensor]]:
    """Split a batch of pairs into batches of at most `size`, as even as can be.

    A sentence that several chunks share is in each of them (and encoded anew): so every chunk uses both towers, as
    `DistributedDataParallel` wants of the one it synchronizes after, and none holds more than `size` sentences.

    Takes patches [B, ...], B above 0, tokens of the U distinct sentences, tensors [U, ...], and which of them is each
    pair's, int64 [B]; gives the chunks in order, each (patches [b, ...], tokens [u, ...], which [b] into those u).
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
    """Back-propagate a loss over a whole batch with the memory of one chunk; returns it, a scalar without a graph.

    All chunks are encoded without a graph; the loss of all their embeddings gives the gradient of each embedding; then
    every chunk is encoded again, with a graph, and given its embeddings' gradients. Gradients add up in `.grad`, and
    are those of `loss(...).backward()` on the whole batch; `TrainStep` shows it at work.

    Args:
        model: whatever `encode` runs, wrapped or not; its batch norms are the ones that are held still.
        encode: one chunk -> its embeddings, a tuple of tensors [b, ...], the same number from every chunk. Automatic
            mixed precision belongs in here.
        chunks: at least one; their embeddings are joined in order, so sizes may differ.
        loss: the joined embeddings [B, ...] in the order of `encode`'s tuple, then the `scalars` -> a scalar tensor.
        scalars: what else of the loss is learned, e.g. `[model.logit_scale]`; back-propagated with the last chunk.
        backward: given a scalar whose gradient is the loss's, e.g. `accelerator.backward`, which scales it for fp16.
        no_sync: opened around all chunks but the last, e.g. the `no_sync` of a `DistributedDataParallel` model: it
            then synchronizes once, with the last.
    """
    columns, random_states = _encode_without_graph(model, encode, chunks)
    embeddings = [torch.cat(column).requires_grad_() for column in columns]  # of [b, ...] -> [B, ...]
    leaves = [scalar.detach().requires_grad_() for scalar in scalars]
    value = loss(*embeddings, *leaves)
    gradients = torch.autograd.grad(value, embeddings + leaves, allow_unused=True, materialize_grads=True)
    cached = [
        gradient.split([len(part) for part in column])  # [B, ...] -> of [b, ...]
        for gradient, column in zip(gradients, columns, strict=False)  # those of the scalars come last
    ]
    for number, chunk in enumerate(chunks):
        last = number == len(chunks) - 1
        with nullcontext() if last else no_sync(), _replayed(random_states[number]):
            tensors, own = encode(chunk), tuple(column[number] for column in cached)
            if last:  # with all else: DistributedDataParallel waits for every parameter in its one synchronized pass
                tensors, own = tensors + tuple(scalars), own + gradients[len(columns) :]
            # a scalar whose gradients with respect to the tensors are their own
            backward(torch.stack([(tensor * grad).sum() for tensor, grad in zip(tensors, own, strict=True)]).sum())
    return value.detach()


def _encode_without_graph(
    model: nn.Module, encode: Callable[[Chunk], tuple[Tensor, ...]], chunks: Sequence[Chunk]
) -> tuple[list[tuple[Tensor, ...]], list[RandomState]]:
    """Each of `encode`'s embeddings, of all chunks in order, and the random state before each chunk."""
    parts, random_states = [], []
    with torch.no_grad(), batch_norm_still(model):
        for chunk in chunks:
            random_states.append((torch.get_rng_state(), *get_device_states(next(model.parameters()))))
            parts.append(encode(chunk))
    return list(zip(*parts, strict=True)), random_states  # by embedding, no longer by chunk


@contextmanager
def batch_norm_still(model: nn.Module) -> Iterator[None]:
    """Let batch norm normalize as it does, and leave its running statistics as they are.

    It still takes them as arguments: gradient checkpointing wants of the second pass what the first one saved.
    """
    norms = [part for part in model.modules() if isinstance(part, _BatchNorm)]
    before = [(part, part.momentum, part.num_batches_tracked) for part in norms]
    for part, _, count in before:
        if count is not None:  # else it has no running statistics
            part.momentum, part.num_batches_tracked = 0.0, count.clone()
    try:
        yield
    finally:
        for part, momentum, count in before:
            part.momentum, part.num_batches_tracked = momentum, count


@contextmanager
def _replayed(state: RandomState) -> Iterator[None]:
    """Start from a random state of before, and return to that of now."""
    cpu, devices, others = state
    with torch.random.fork_rng(devices):
        torch.set_rng_state(cpu)
        set_device_states(devices, others)
        yield


@contextmanager
def checkpointed(tower: PreTrainedModel) -> Iterator[None]:
    """While open, training keeps the inputs of the tower's layers alone: less memory, a second forward pass.

    Results are the same, with the same random numbers, and batch norm counts each batch once. A tower of a class that
    `transformers` cannot checkpoint (its ResNet) is checkpointed by the members of its outermost list of modules, its
    stages. Raises `ValueError` for one without such a list.
    """
    # around the first and around the second computation
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
                undone.callback(delattr, stage, "forward")  # the instance's: that of its class is back
        yield
