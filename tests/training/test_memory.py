"""Gradient caching: the loss and the gradients of the whole batch, a chunk at a time."""

import weakref
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from exiflang.models.config import ExifLangConfig
from exiflang.models.model import ExifLang
from exiflang.training.losses import contrastive_loss, sigmoid_loss
from exiflang.training.memory import cached_backward, pair_chunks


class Towers(nn.Module):
    """Patches [b, 3, 4, 4] and tokens [u, 4] of distinct sentences -> [b, 5], [u, 5]; a scale beside them."""

    def __init__(self, *middle: nn.Module):
        super().__init__()
        torch.manual_seed(5)
        self.image = nn.Sequential(nn.Flatten(), nn.Linear(48, 6), *middle, nn.Linear(6, 5)).double()
        self.text = nn.Linear(4, 5).double()
        self.log_scale = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))

    def forward(self, patches, words):
        return F.normalize(self.image(patches), dim=1), F.normalize(self.text(words), dim=1)

    @property
    def scale(self):
        return self.log_scale.exp()

    def encode(self, chunk):
        patches, tokens, which = chunk
        image, text = self(patches, **tokens)
        return image, text[which]


def batch(pairs: int, sentences: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    patches = torch.randn(pairs, 3, 4, 4, dtype=torch.float64, generator=generator)
    tokens = {"words": torch.randn(sentences, 4, dtype=torch.float64, generator=generator)}
    return patches, tokens, torch.randint(sentences, (pairs,), generator=generator)


def gradients(model: nn.Module) -> list[torch.Tensor]:
    return [parameter.grad.clone() for parameter in model.parameters()]


def cached(model: Towers, chunks, which: torch.Tensor, **others) -> torch.Tensor:
    def loss(image, text, scale):
        return contrastive_loss(image, text, scale, which)

    return cached_backward(model, model.encode, chunks, loss, [model.scale], **others)


def with_one_graph(model: Towers, chunks, which: torch.Tensor) -> torch.Tensor:
    """The same chunks, all their graphs kept until the loss: what the cache avoids."""
    image, text = (torch.cat(column) for column in zip(*[model.encode(chunk) for chunk in chunks], strict=True))
    loss = contrastive_loss(image, text, model.scale, which)
    loss.backward()
    return loss.detach()


@given(st.integers(1, 9), st.integers(1, 4), st.integers(1, 10), st.integers(0, 99))
@settings(max_examples=30)
def test_it_is_the_plain_loss_forward_and_gradient(pairs, sentences, size, seed):
    patches, tokens, which = batch(pairs, sentences, seed)
    model = Towers(nn.GELU())
    image, text = model(patches, **tokens)  # as the training loop has it, in one
    plain = contrastive_loss(image, text[which], model.scale, which)
    plain.backward()
    expected = gradients(model)

    model.zero_grad()
    loss = cached(model, pair_chunks(patches, tokens, which, size), which)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, plain.detach(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(gradients(model), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("sizes", [(1, 4, 2), (5, 1, 1), (2, 2, 3), (7,)])
def test_chunks_may_have_any_sizes(sizes):
    patches, tokens, which = batch(7, 3)
    model = Towers()
    plain = with_one_graph(model, [(patches, tokens, which)], which)
    expected = gradients(model)
    model.zero_grad()
    chunks = [(own, tokens, into) for own, into in zip(patches.split(sizes), which.split(sizes), strict=True)]
    torch.testing.assert_close(cached(model, chunks, which), plain, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(gradients(model), expected, rtol=1e-10, atol=1e-12)


@given(st.integers(1, 12), st.integers(1, 4), st.integers(1, 13), st.integers(0, 99))
@settings(max_examples=30)
def test_chunks_hold_every_pair_once_in_order(pairs, sentences, size, seed):
    patches, tokens, which = batch(pairs, sentences, seed)
    chunks = pair_chunks(patches, tokens, which, size)
    assert torch.equal(torch.cat([own for own, _, _ in chunks]), patches)
    assert torch.equal(torch.cat([own["words"][into] for _, own, into in chunks]), tokens["words"][which])
    counts = [len(own) for own, _, _ in chunks]
    assert max(counts) <= size and max(counts) - min(counts) <= 1 and len(counts) == -(-pairs // size)
    for own, own_tokens, into in chunks:
        assert 1 <= len(own_tokens["words"]) == len(into.unique()) <= len(own)


def test_dropout_is_the_same_in_both_passes_and_random_numbers_go_on():
    patches, tokens, which = batch(7, 3)
    chunks, model = pair_chunks(patches, tokens, which, 3), Towers(nn.Dropout(0.5))
    torch.manual_seed(0)
    plain = with_one_graph(model, chunks, which)
    expected, next_number = gradients(model), torch.rand(())
    model.zero_grad()
    torch.manual_seed(0)
    assert torch.equal(cached(model, chunks, which), plain)
    torch.testing.assert_close(gradients(model), expected, rtol=1e-10, atol=1e-12)
    assert torch.equal(torch.rand(()), next_number)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_chunks_are_the_batches_of_batch_norm_and_counted_once(momentum):
    patches, tokens, which = batch(8, 3)
    chunks = pair_chunks(patches, tokens, which, 3)
    one, other = (Towers(nn.BatchNorm1d(6, momentum=momentum)) for _ in range(2))
    torch.testing.assert_close(cached(one, chunks, which), with_one_graph(other, chunks, which))
    torch.testing.assert_close(gradients(one), gradients(other), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=1e-12, atol=1e-12)
    assert one.image[2].num_batches_tracked == 3
    assert one.image[2].track_running_stats


def test_batch_norm_is_let_go_when_encoding_fails():
    model = Towers(nn.BatchNorm1d(6))

    def fail(chunk):
        raise ArithmeticError("in the middle")

    with pytest.raises(ArithmeticError):
        cached_backward(model, fail, [0], contrastive_loss)
    assert model.image[2].track_running_stats


def test_in_evaluation_mode_batch_norm_makes_no_difference():
    patches, tokens, which = batch(8, 3)
    model = Towers(nn.BatchNorm1d(6)).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    plain = with_one_graph(model, [(patches, tokens, which)], which)
    expected = gradients(model)
    model.zero_grad()
    torch.testing.assert_close(cached(model, pair_chunks(patches, tokens, which, 3), which), plain)
    torch.testing.assert_close(gradients(model), expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def peak_of_saved_bytes(run) -> int:
    """The most bytes that autograd kept at any one time for a backward pass."""
    kept = peak = 0

    class Kept:
        def __init__(self, tensor):
            self.tensor = tensor

    def forget(size):
        nonlocal kept
        kept -= size

    def pack(tensor):
        nonlocal kept, peak
        holder, size = Kept(tensor), tensor.numel() * tensor.element_size()
        weakref.finalize(holder, forget, size)
        kept += size
        peak = max(peak, kept)
        return holder

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda holder: holder.tensor):
        run()
    return peak


def test_memory_is_that_of_one_chunk():
    patches, tokens, which = batch(64, 64)
    model = Towers(*[nn.Tanh()] * 20)

    def peak(size):
        chunks = pair_chunks(patches, tokens, which, size)
        return peak_of_saved_bytes(
            lambda: cached_backward(model, model.encode, chunks, lambda image, text: (image * text).sum())
        )

    assert peak(8) < peak(64) / 4
    assert peak(64) > 20 * 64 * 6 * 8  # float64 after each of the 20


def test_only_the_last_chunk_is_synchronized_and_a_scaled_backward_is_used():
    patches, tokens, which = batch(7, 3)
    chunks, model, happened = pair_chunks(patches, tokens, which, 3), Towers(), []
    with_one_graph(model, chunks, which)
    expected = [8 * gradient for gradient in gradients(model)]
    model.zero_grad()

    @contextmanager
    def no_sync():
        happened.append("quiet")
        yield
        happened.append("loud")

    def backward(loss):
        happened.append("backward")
        (8 * loss).backward()  # as the scaler of fp16 does

    cached(model, chunks, which, backward=backward, no_sync=no_sync)
    assert happened == ["quiet", "backward", "loud"] * 2 + ["backward"]
    torch.testing.assert_close(gradients(model), expected, rtol=1e-10, atol=1e-12)


def test_gradients_add_up_and_automatic_mixed_precision_may_surround_all():
    patches, tokens, which = batch(6, 3)
    model = Towers(nn.GELU()).float()
    patches, tokens = patches.float(), {"words": tokens["words"].float()}
    chunks = pair_chunks(patches, tokens, which, 2)
    with torch.autocast("cpu", torch.bfloat16):
        with_one_graph(model, chunks, which)
        expected = [2 * gradient for gradient in gradients(model)]
        model.zero_grad()
        cached(model, chunks, which)
        cached(model, chunks, which)
    torch.testing.assert_close(gradients(model), expected, rtol=0.02, atol=1e-3)


def test_any_number_of_embeddings_and_scalars_used_or_not():
    """Two views of a photo, a sentence, and a sigmoid loss with its bias; one tower frozen, one embedding idle."""
    patches, tokens, which = batch(6, 3)
    model = Towers()
    model.bias = nn.Parameter(torch.tensor(-2.0, dtype=torch.float64))
    model.text.requires_grad_(False)

    def encode(chunk):
        image, text = model.encode(chunk)
        return image, model.encode((chunk[0] * 2 + 1, *chunk[1:]))[0], text, text * 2

    def loss(image, other_view, text, idle, scale, bias):
        return sigmoid_loss(image, text, scale, bias, which) + contrastive_loss(image, other_view, scale)

    plain = loss(*encode((patches, tokens, which)), model.scale, model.bias)
    plain.backward()
    learned = [model.image[1].weight, model.log_scale, model.bias]
    expected = [parameter.grad.clone() for parameter in learned]
    model.zero_grad()
    chunks = pair_chunks(patches, tokens, which, 4)
    found = cached_backward(model, encode, chunks, loss, [model.scale, model.bias])
    torch.testing.assert_close(found, plain.detach(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close([parameter.grad for parameter in learned], expected, rtol=1e-10, atol=1e-12)
    assert model.text.weight.grad is None


def test_the_real_model_takes_its_steps_in_chunks():
    torch.manual_seed(0)
    model = ExifLang(ExifLangConfig.preset("tiny")).eval()  # batch norm off: then chunks make no difference
    patches = torch.randint(256, (5, 3, 32, 32), dtype=torch.uint8)
    tokens = {"input_ids": torch.randint(1, 99, (3, 7)), "attention_mask": torch.ones(3, 7, dtype=torch.int64)}
    tokens["attention_mask"][1, 4:] = 0
    which = torch.tensor([0, 1, 0, 2, 1])
    image, text = model(patches, **tokens)
    plain = contrastive_loss(image, text[which], model.logit_scale, which)
    plain.backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()

    def encode(chunk):
        own_image, own_text = model(chunk[0], **chunk[1])
        return own_image, own_text[chunk[2]]

    loss = cached_backward(
        model,
        encode,
        pair_chunks(patches, tokens, which, 2),
        lambda image, text, scale: contrastive_loss(image, text, scale, which),
        [model.logit_scale],
    )
    torch.testing.assert_close(loss, plain.detach())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-3, atol=1e-5, msg=name)
