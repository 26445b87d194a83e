"""Encoding sentences in buckets by length: the same embeddings and gradients, with fewer tokens."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from exiflang.models.config import ExifLangConfig
from exiflang.models.model import ExifLang
from exiflang.models.tokenizer import LEAST, MOST, length_buckets


def tokens(count: int, longest: int, seed: int = 0, side: str = "right") -> dict[str, torch.Tensor]:
    """`count` sentences of 0 to `longest` tokens: ids and mask int64 [count, longest], padded on a side."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(longest + 1, (count, 1), generator=generator)
    mask = (torch.arange(longest) < lengths).long()
    ids = torch.randint(1, 99, (count, longest), generator=generator)
    return {"input_ids": ids, "attention_mask": mask if side == "right" else mask.flip(1)}


@pytest.fixture(scope="module", params=["eager", "sdpa"])
def model(request) -> ExifLang:
    torch.manual_seed(0)
    config = ExifLangConfig.preset("tiny")
    config.text_config = config.text_config | {"attn_implementation": request.param}
    return ExifLang(config).eval()


@given(st.integers(1, 200), st.integers(1, 40), st.integers(0, 99), st.sampled_from(["right", "left"]))
@settings(max_examples=30)
def test_buckets_hold_every_sentence_once_with_all_attended_tokens(count, longest, seed, side):
    mask = tokens(count, longest, seed, side)["attention_mask"]
    buckets = length_buckets(mask)
    assert sorted(torch.cat([rows for rows, _ in buckets]).tolist()) == list(range(count))
    assert 1 <= len(buckets) <= MOST
    sizes = [len(rows) for rows, _ in buckets]
    assert max(sizes) - min(sizes) <= 1 and (len(buckets) == 1 or min(sizes) >= LEAST)
    last = 1
    for rows, end in buckets:
        ends = [max((place + 1 for place in range(longest) if row[place]), default=1) for row in mask[rows].tolist()]
        assert end == max(ends) and min(ends) >= last
        last = end


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("count", [0, 1, 2, 31, 32, 33, 150])
def test_embeddings_equal_those_of_padded_sentences(model, count, side):
    given = tokens(count, 23, side=side)
    found, expected = model.encode_tokens(**given), model.encode_tokens(**given, bucketed=False)
    assert found.shape == (count, 32) and found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_embeddings_equal_those_of_each_sentence_alone(model):
    given = tokens(40, 23, seed=1)
    ids, mask = given["input_ids"], given["attention_mask"]
    lengths = mask.sum(1).clamp(min=1).tolist()
    alone = [
        model.encode_tokens(ids[i : i + 1, :end], mask[i : i + 1, :end], bucketed=False)
        for i, end in enumerate(lengths)
    ]
    torch.testing.assert_close(model.encode_tokens(**given), torch.cat(alone), rtol=0, atol=1e-5)


def test_gradients_equal_those_of_padded_sentences(model):
    given, weight = tokens(70, 23), torch.randn(70, 32, generator=torch.Generator().manual_seed(1))
    gradients = []
    for bucketed in (True, False):
        model.zero_grad()
        (model.encode_tokens(**given, bucketed=bucketed) * weight).sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.text_tower.parameters()])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


def test_few_tokens_are_padding(model, monkeypatch):
    seen = []
    monkeypatch.setattr(model, "_encode_padded", lambda ids, mask: seen.append(ids.shape) or torch.zeros(len(ids), 32))
    lengths = torch.arange(128).view(-1, 1) + 1
    mask = (torch.arange(128) < lengths.flip(0)).long()
    model.encode_tokens(mask, mask)
    assert seen == [(16, 16 * part) for part in range(1, 9)]
