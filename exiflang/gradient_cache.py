"""Contrastive batches that do not fit into memory (GradCache, Gao et al. 2021, section 3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Chunk = TypeVar("Chunk")


def pair_chunks(
    patches: Tensor, tokens: Mapping[str, Tensor], which: Tensor, size: int
) -> list[tuple[Tensor, dict[str, Tensor], Tensor]]:
    """Split a batch of pairs into batches of at most `size`, as even as can be.

    A sentence that several chunks share is in each of them (and encoded anew): so every chunk uses both towers, as
    `DistributedDataParallel` wants of the one it synchronises after, and none holds more than `size` sentences.

    Args:
        patches: [B, ...], B above 0.
        tokens: of the U distinct sentences, tensors [U, ...].
        which: int64 [B], each pair's sentence.
        size: at least 1.

    Returns:
        The chunks in order, each (patches [b, ...], tokens [u, ...], which [b] into those u).

    Raises:
        ValueError: an empty batch, a `size` below 1, or a `which` that does not fit.
    """
    if size < 1 or len(patches) == 0 or which.shape != (len(patches),):
        raise ValueError(
            f"cannot split {len(patches)} patches, with sentence numbers {list(which.shape)}, into chunks of {size}: "
            "give B > 0 patches, which [B], and a size of at least 1"
        )
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
    """Back-propagate a loss over a whole batch with the memory of one chunk, at the price of encoding it twice.

    All chunks are encoded without a graph; the loss of all their embeddings gives the gradient of each embedding; then
    every chunk is encoded again, with a graph, and given its embeddings' gradients. Gradients add up in `.grad`, and
    are those of `loss(...).backward()` on the whole batch. Both passes over a chunk see the same random numbers of
    torch (dropout), on the CPU and the current CUDA device, which go on as after the first pass.

    Batch norm in training mode normalises **each chunk by itself**: to it, the chunks are the batches. Its running
    statistics take each chunk in once, in the second pass. (`SyncBatchNorm` further needs the same number of chunks in
    all processes.)

    With Accelerate, on any number of processes::

        def encode(chunk):
            patches, tokens, which = chunk
            with accelerator.autocast():
                image, text = wrapped(patches, **tokens)
            return image, text[which]

        ids = sentence_ids(sentences).to(which.device)[which]
        loss = cached_backward(
            model,
            encode,
            pair_chunks(patches, tokens, which, size),
            lambda image, text, scale: global_loss(image, text, scale, ids),
            [model.logit_scale],
            backward=accelerator.backward,
            no_sync=lambda: accelerator.no_sync(wrapped),
        )

    Args:
        model: whatever `encode` runs, wrapped or not; its batch norms are the ones that are held still.
        encode: one chunk -> its embeddings, a tuple of tensors [b, ...], the same number from every chunk. Automatic
            mixed precision belongs in here.
        chunks: at least one; their embeddings are joined in order, so sizes may differ.
        loss: the joined embeddings [B, ...] in the order of `encode`'s tuple, then the `scalars` -> a scalar tensor.
        scalars: what else of the loss is learned, e.g. `[model.logit_scale]`; back-propagated with the last chunk.
        backward: given a scalar whose gradient is the loss's, e.g. `accelerator.backward`, which scales it for fp16.
        no_sync: opened around all chunks but the last, e.g. the `no_sync` of a `DistributedDataParallel` model: it
            then synchronises once, with the last.

    Returns:
        The loss, a scalar without a graph.

    Raises:
        ValueError: no chunks, or an `encode` that does not return a tuple.
    """
    if not chunks:
        raise ValueError("cached_backward needs at least one chunk")
    random_states, parts = [], []
    with torch.no_grad(), batch_norm_still(model):
        for chunk in chunks:
            random_states.append(_random_state())
            parts.append(encode(chunk))
            if not isinstance(parts[-1], tuple):
                raise ValueError(f"encode must return a tuple of tensors, not {type(parts[-1]).__name__}")
    columns = list(zip(*parts, strict=True))  # by embedding, no longer by chunk
    embeddings = [torch.cat(column).requires_grad_() for column in columns]  # of [b, ...] -> [B, ...]
    leaves = [scalar.detach().requires_grad_() for scalar in scalars]
    value = loss(*embeddings, *leaves)
    gradients = torch.autograd.grad(value, embeddings + leaves, allow_unused=True, materialize_grads=True)
    cached = [
        gradient.split([len(part) for part in column])  # [B, ...] -> of [b, ...]
        for gradient, column in zip(gradients[: len(columns)], columns, strict=True)
    ]

    for number, chunk in enumerate(chunks):
        last = number == len(chunks) - 1
        with nullcontext() if last else no_sync(), _replayed(random_states[number]):
            tensors, own = encode(chunk), tuple(column[number] for column in cached)
            if last:  # with all else: DistributedDataParallel waits for every parameter in its one synchronised pass
                tensors, own = tensors + tuple(scalars), own + gradients[len(columns) :]
            backward(_dot(tensors, own))
    return value.detach()


def _dot(tensors: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """A scalar whose gradients with respect to `tensors` are `gradients`."""
    return sum((tensor * gradient).sum() for tensor, gradient in zip(tensors, gradients, strict=True))


@contextmanager
def batch_norm_still(model: nn.Module) -> Iterator[None]:
    """Let batch norm normalise as it does, and leave its running statistics as they are.

    It still takes them as arguments: gradient checkpointing wants of the second pass what the first one saved.
    """
    parts = [part for part in model.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]
    before = [(part.momentum, part.num_batches_tracked) for part in parts]
    for part in parts:
        part.momentum, part.num_batches_tracked = 0.0, part.num_batches_tracked.clone()
    try:
        yield
    finally:
        for part, (momentum, count) in zip(parts, before, strict=True):
            part.momentum, part.num_batches_tracked = momentum, count


def _cuda_devices() -> list[int]:
    """The CUDA device in use, if any: nothing may wake CUDA up."""
    return [torch.cuda.current_device()] if torch.cuda.is_initialized() else []


def _random_state() -> tuple[Tensor, list[Tensor]]:
    return torch.get_rng_state(), [torch.cuda.get_rng_state(device) for device in _cuda_devices()]


@contextmanager
def _replayed(state: tuple[Tensor, list[Tensor]]) -> Iterator[None]:
    """Start from a random state of before, and return to that of now."""
    cpu, cuda = state
    with torch.random.fork_rng(devices=_cuda_devices()):
        torch.set_rng_state(cpu)
        for device, own in zip(_cuda_devices(), cuda, strict=True):
            torch.cuda.set_rng_state(own, device)
        yield
