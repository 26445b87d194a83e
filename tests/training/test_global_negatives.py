"""Losses over all processes: in two real ones, they are the plain loss of one process, forward and gradient."""

import datetime
import os
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from exiflang.training.losses import contrastive_loss, gather_rows, global_loss, sentence_ids, sigmoid_loss
from exiflang.training.memory import cached_backward

PROCESSES = 2
SENTENCES = [
    "Make: Canon",
    "Make: NIKON",
    "",
    "Make: Canon",
    "Make: ソニー",
    "Make: Canon",
    "Make: NIKON",
    "Model: D90",
]
ROWS = len(SENTENCES) // PROCESSES  # of each process; equal sentences fall into both


def unit(count: int, width: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, width, dtype=torch.float64, generator=generator), dim=1)


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def mean_over_processes(value: torch.Tensor) -> torch.Tensor:
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / PROCESSES


def plain_loss(kind, image, text, scale, bias, sentence):
    if kind == "sigmoid":
        return sigmoid_loss(image, text, scale, bias, sentence)
    return contrastive_loss(image, text, scale, sentence)


def inputs(requires_grad: bool = True) -> list[torch.Tensor]:
    """Image and text embeddings of the whole batch, scale and bias."""
    numbers = [torch.tensor(value, dtype=torch.float64) for value in (7.0, -3.0)]
    return [tensor.requires_grad_(requires_grad) for tensor in (unit(8, 5, 0), unit(8, 5, 1), *numbers)]


class Towers(nn.Module):
    """Two linear towers and a scale that, as in `ExifLang`, is used outside `forward`."""

    def __init__(self, biased: bool):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.image, self.text = nn.Linear(6, 5, dtype=torch.float64), nn.Linear(4, 5, dtype=torch.float64)
        self.log_scale = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
        self.bias = nn.Parameter(torch.tensor(-2.0, dtype=torch.float64)) if biased else None
        for parameter in (*self.image.parameters(), *self.text.parameters()):
            nn.init.normal_(parameter, generator=generator)

    def forward(self, pixels, words):
        return F.normalize(self.image(pixels), dim=1), F.normalize(self.text(words), dim=1)

    def learned(self):
        return [self.log_scale.exp()] + ([] if self.bias is None else [self.bias])


def check_inputs(rank: int, kind: str) -> None:
    own = slice(rank * ROWS, (rank + 1) * ROWS)
    sentence = sentence_ids(SENTENCES)
    image, text, scale, bias = inputs()
    expected = plain_loss(kind, image, text, scale, bias, sentence)
    expected.backward()

    my_image, my_text, my_scale, my_bias = inputs(requires_grad=False)
    leaves = [tensor.detach().clone().requires_grad_() for tensor in (my_image[own], my_text[own], my_scale, my_bias)]
    loss = global_loss(*leaves[:3], sentence[own], leaves[3] if kind == "sigmoid" else None)
    loss.backward()
    close(mean_over_processes(loss), expected.detach())
    close(leaves[0].grad / PROCESSES, image.grad[own])  # averaging over processes divides what one of them has
    close(leaves[1].grad / PROCESSES, text.grad[own])
    close(mean_over_processes(leaves[2].grad), scale.grad)
    if kind == "sigmoid":
        close(mean_over_processes(leaves[3].grad), bias.grad)


def check_gather(rank: int) -> None:
    """The gradient of a gathered row is the sum of what all processes want of it."""
    rows = (torch.arange(4.0).reshape(2, 2) + 10 * rank).requires_grad_()
    gathered = gather_rows(rows, dist.group.WORLD)
    close(gathered.detach() * 1, torch.tensor([[0.0, 1], [2, 3], [10, 11], [12, 13]]))
    arrived = []
    gathered.register_hook(arrived.append)
    weights = torch.arange(8.0).reshape(4, 2)
    (gathered * weights * (rank + 1)).sum().backward()
    close(arrived[0], weights * (rank + 1))  # autograd's own tensor is not summed into
    close(rows.grad, weights.split(2)[rank] * 3)  # 1 of process 0 + 2 of process 1
    whole_numbers = gather_rows(torch.tensor([2**62 + rank] * 2), dist.group.WORLD)
    assert whole_numbers.tolist() == [2**62] * 2 + [2**62 + 1] * 2


def check_training(rank: int, kind: str, chunk: int | None) -> None:
    """Gradients of parameters, averaged by DistributedDataParallel, two steps in a row; `chunk` rows at a time."""
    own = slice(rank * ROWS, (rank + 1) * ROWS)
    sentence = sentence_ids(SENTENCES)
    alone, shared = Towers(kind == "sigmoid"), Towers(kind == "sigmoid")
    wrapped = DistributedDataParallel(shared)
    for step in range(2):
        pixels, words = unit(8, 6, 20 + step), unit(8, 4, 30 + step)
        alone.zero_grad()
        shared.zero_grad()
        expected = plain_loss(kind, *alone(pixels, words), *(alone.learned() + [None])[:2], sentence)
        expected.backward()

        def loss_of(image, text, scale, bias=None):
            return global_loss(image, text, scale, sentence[own], logit_bias=bias)

        if chunk is None:
            loss = loss_of(*wrapped(pixels[own], words[own]), *shared.learned())
            loss.backward()
        else:
            chunks = list(zip(pixels[own].split(chunk), words[own].split(chunk), strict=True))
            loss = cached_backward(
                wrapped, lambda pair: wrapped(*pair), chunks, loss_of, shared.learned(), no_sync=wrapped.no_sync
            )
        close(mean_over_processes(loss), expected.detach())
        for found, wanted in zip(shared.parameters(), alone.parameters(), strict=True):
            close(found.grad, wanted.grad)


def worker(rank: int, meeting_place: str) -> None:
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{meeting_place}",
        rank=rank,
        world_size=PROCESSES,
        timeout=datetime.timedelta(minutes=5),
    )
    checked = 0
    try:
        check_gather(rank)
        for kind in ("infonce", "sigmoid"):
            check_inputs(rank, kind)
            checked += 1
            for chunk in (None, 3, ROWS):  # all at once; 3 + 1 rows; a single chunk
                check_training(rank, kind, chunk)
                checked += 1
        Path(f"{meeting_place}.{rank}").write_text(str(checked))
    finally:
        dist.destroy_process_group()
    # DistributedDataParallel leaves the group's threads behind, whose destruction at a normal exit aborts now and then.
    os._exit(0)


def test_two_processes_have_the_loss_and_the_gradient_of_one(tmp_path):
    """What a process finds wrong is raised here; what it has checked, it leaves in a file."""
    mp.spawn(worker, args=(str(tmp_path / "meeting"),), nprocs=PROCESSES)
    checked = [int((tmp_path / f"meeting.{rank}").read_text()) for rank in range(PROCESSES)]
    assert checked == [2 * (1 + 3)] * PROCESSES


@pytest.mark.parametrize("kind", ["infonce", "sigmoid"])
def test_one_process_has_the_plain_loss_to_the_bit(kind):
    sentence = sentence_ids(SENTENCES)
    image, text, scale, bias = inputs()
    loss = global_loss(image, text, scale, sentence, logit_bias=bias if kind == "sigmoid" else None)
    assert torch.equal(loss, plain_loss(kind, image, text, scale, bias, sentence))


def test_a_group_of_one_process_has_the_plain_loss_to_the_bit(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    try:
        image, text, scale, _ = inputs()
        loss = global_loss(image, text, scale, sentence_ids(SENTENCES))
        assert torch.equal(loss, contrastive_loss(image, text, scale, sentence_ids(SENTENCES)))
        assert gather_rows(image, dist.group.WORLD).equal(image)
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sentence": torch.zeros(3)}, r"sentence must be \[2\], not \[3\]"),
        ({"text": torch.zeros(3, 4)}, r"\[2, 4\] and \[3, 4\]"),
        ({"image": torch.zeros(0, 4), "text": torch.zeros(0, 4)}, "B > 0"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        global_loss(
            **{"image": torch.eye(2, 4), "text": torch.eye(2, 4), "logit_scale": 1.0, "sentence": torch.arange(2)}
            | arguments
        )


@given(st.lists(st.text(max_size=5), max_size=8))
@settings(max_examples=30)
def test_sentences_have_one_number_each(sentences):
    ids = sentence_ids(sentences)
    assert ids.dtype == torch.int64 and ids.shape == (len(sentences),) and (ids >= 0).all()
    same = torch.tensor([[a == b for b in sentences] for a in sentences], dtype=torch.bool)
    assert torch.equal((ids[:, None] == ids[None, :]).reshape(-1), same.reshape(-1))
    assert torch.equal(sentence_ids(sentences[::-1]), ids.flip(0))  # whatever stands beside it


@pytest.mark.parametrize(
    ("sentence", "b2sum"),  # of `printf '...' | b2sum -l 64`
    [
        ("", "e4a6a0577479b2b4"),
        ("Make: Canon, Model: EOS 40D", "0809831d92a36351"),
        ("Make: ソニー", "1482a1ea09f05d77"),
    ],
)
def test_numbers_of_sentences_never_change(sentence, b2sum):
    assert sentence_ids([sentence]).item() == int(b2sum, 16) // 2


def test_sentences_that_are_no_unicode_have_numbers():
    assert len(set(sentence_ids(["\udcff", "\udcfe", "?", ""]).tolist())) == 4


def test_a_single_sentence_is_refused():
    with pytest.raises(ValueError, match=r"list of sentences: wrap a single one in \[ \]"):
        sentence_ids("Make: Canon")
