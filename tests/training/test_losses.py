import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from exiflang.training.losses import contrastive_loss, sigmoid_loss


def unit(count: int, width: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, width, dtype=torch.float64, generator=generator), dim=1)


def naive_loss(image: torch.Tensor, text: torch.Tensor, scale: float, sentence: list[int]) -> float:
    """The definition, pair by pair: for each of the pair's own sentence, -log softmax, both directions."""
    count, total = len(sentence), 0.0
    for rows, columns in ((image, text), (text, image)):
        for i in range(count):
            scores = [scale * sum(float(a * b) for a, b in zip(rows[i], columns[j], strict=True)) for j in range(count)]
            log_sum = math.log(sum(math.exp(score) for score in scores))
            same = [j for j in range(count) if sentence[j] == sentence[i]]
            total += sum(log_sum - scores[j] for j in same) / len(same)
    return total / (2 * count)


batches = st.tuples(
    st.lists(st.integers(0, 3), min_size=1, max_size=7), st.integers(1, 5), st.floats(0.1, 100), st.integers(0, 999)
)


@given(batches)
@settings(max_examples=40)
def test_it_is_the_naive_loop(batch):
    sentence, width, scale, seed = batch
    image, text = unit(len(sentence), width, seed), unit(len(sentence), width, seed + 1)
    loss = contrastive_loss(image, text, scale, torch.tensor(sentence))
    assert loss.shape == () and loss.dtype == torch.float64
    assert loss.item() == pytest.approx(naive_loss(image, text, scale, sentence), rel=1e-10, abs=1e-10)


@given(st.integers(1, 9), st.floats(0.1, 100), st.integers(0, 999))
@settings(max_examples=30)
def test_without_duplicates_it_is_clips(count, scale, seed):
    image, text = unit(count, 4, seed), unit(count, 4, seed + 1)
    logits, diagonal = scale * image @ text.T, torch.arange(count)
    clip = (F.cross_entropy(logits, diagonal) + F.cross_entropy(logits.T, diagonal)) / 2
    for sentence in (None, torch.randperm(count) + 7):
        torch.testing.assert_close(contrastive_loss(image, text, scale, sentence), clip, rtol=1e-12, atol=1e-12)


@given(batches)
@settings(max_examples=30)
def test_bounds_and_order_of_pairs(batch):
    sentence, width, scale, seed = batch
    image, text, which = unit(len(sentence), width, seed), unit(len(sentence), width, seed + 1), torch.tensor(sentence)
    loss = contrastive_loss(image, text, scale, which)
    assert loss >= -1e-12
    order = torch.randperm(len(sentence), generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(contrastive_loss(image[order], text[order], scale, which[order]), loss)
    torch.testing.assert_close(contrastive_loss(text, image, scale, which), loss)  # symmetric


@pytest.mark.parametrize("sentence", [None, [0, 1, 2, 3, 4], [0, 1, 0, 1, 2], [0, 0, 0, 0, 0]])
@pytest.mark.parametrize("scale", [1.0, 20.0, 100.0])
def test_equal_embeddings_tell_nothing_apart(sentence, scale):
    same = unit(1, 8, 0).expand(5, 8)
    loss = contrastive_loss(same, same, scale, None if sentence is None else torch.tensor(sentence))
    assert loss.item() == pytest.approx(math.log(5), abs=1e-9)


def test_one_pair_and_perfect_pairs_cost_nothing():
    assert contrastive_loss(unit(1, 3, 0), unit(1, 3, 1), 100.0).item() == 0.0
    assert contrastive_loss(torch.eye(6), torch.eye(6), 100.0).item() < 1e-6


@pytest.mark.parametrize("sentence", [[0, 1, 2, 3], [0, 1, 0, 2], [5, 5, 5, 5]])
def test_gradients_are_those_of_finite_differences(sentence):
    image, text = unit(4, 3, 0).requires_grad_(), unit(4, 3, 1).requires_grad_()
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    which = torch.tensor(sentence)
    assert torch.autograd.gradcheck(lambda a, b, s: contrastive_loss(a, b, s, which), (image, text, scale))


def similarity_gradient(image: torch.Tensor, text: torch.Tensor, sentence: torch.Tensor | None) -> torch.Tensor:
    """d loss / d similarity of each image and text: positive pushes them apart."""
    similarity = (image @ text.T).requires_grad_()
    contrastive_loss(similarity, torch.eye(len(image), dtype=image.dtype), 20.0, sentence).backward()
    return similarity.grad


@given(batches)
@settings(max_examples=40)
def test_photos_of_one_sentence_are_no_negatives_of_each_other(batch):
    sentence, width, _, seed = batch
    which = torch.tensor(sentence)
    same = which[:, None] == which[None, :]
    gradient = similarity_gradient(unit(len(sentence), width, seed), unit(len(sentence), width, seed + 1), which)
    for value in set(sentence):
        group = which == value  # its images and its sentence are drawn together, and away from all others
        assert gradient[group][:, group].sum() <= 1e-12
    assert (gradient[~same] >= 0).all()


def test_without_their_numbers_equal_sentences_would_be_pushed_apart():
    image = unit(1, 4, 0).expand(3, 4)
    text = unit(1, 4, 1).expand(3, 4)
    assert similarity_gradient(image, text, torch.zeros(3, dtype=torch.long)).abs().max() < 1e-12
    assert similarity_gradient(image, text, None).max() > 1.0


def naive_sigmoid_loss(image, text, scale: float, bias: float, sentence: list[int]) -> float:
    """The definition, pair by pair, in numbers that do not overflow."""
    count, total = len(sentence), 0.0
    for i in range(count):
        for j in range(count):
            logit = scale * sum(float(a * b) for a, b in zip(image[i], text[j], strict=True)) + bias
            against = -logit if sentence[i] == sentence[j] else logit
            total += max(against, 0.0) + math.log1p(math.exp(-abs(against)))
    return total / count


@given(batches, st.floats(-20, 20))
@settings(max_examples=40)
def test_the_sigmoid_loss_is_the_naive_loop(batch, bias):
    sentence, width, scale, seed = batch
    image, text = unit(len(sentence), width, seed), unit(len(sentence), width, seed + 1)
    loss = sigmoid_loss(image, text, scale, bias, torch.tensor(sentence))
    assert loss.shape == () and loss.dtype == torch.float64
    expected = naive_sigmoid_loss(image, text, scale, bias, sentence)
    assert loss.item() == pytest.approx(expected, rel=1e-10, abs=1e-10)


@given(st.integers(1, 9), st.floats(0.1, 100), st.floats(-20, 20), st.integers(0, 999))
@settings(max_examples=30)
def test_without_duplicates_it_is_siglips(count, scale, bias, seed):
    image, text = unit(count, 4, seed), unit(count, 4, seed + 1)
    labels = 2 * torch.eye(count) - torch.ones(count, count)  # SigLIP, algorithm 1
    siglip = -F.logsigmoid(labels * (image @ text.T * scale + bias)).sum() / count
    for sentence in (None, torch.randperm(count) + 7):
        torch.testing.assert_close(sigmoid_loss(image, text, scale, bias, sentence), siglip, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sentence", [[0, 1, 2, 3], [0, 1, 0, 2], [5, 5, 5, 5]])
def test_gradients_of_the_sigmoid_loss_are_those_of_finite_differences(sentence):
    image, text = unit(4, 3, 0).requires_grad_(), unit(4, 3, 1).requires_grad_()
    scale, bias = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (3.0, -2.0))
    which = torch.tensor(sentence)
    assert torch.autograd.gradcheck(lambda a, b, s, c: sigmoid_loss(a, b, s, c, which), (image, text, scale, bias))


def test_the_sigmoid_loss_stays_finite_at_the_extremes():
    image = torch.eye(3).requires_grad_()
    for scale, bias in ((1e4, -1e4), (1e4, 1e4), (0.0, -1e4)):
        loss = sigmoid_loss(image, torch.eye(3).flip(0), scale, bias)
        assert loss.isfinite() and torch.autograd.grad(loss, image)[0].isfinite().all()
    assert sigmoid_loss(torch.eye(6), torch.eye(6), 100.0, -50.0).item() < 1e-6  # each told apart with certainty


@pytest.mark.parametrize(
    ("image", "text", "sentence", "message"),
    [
        (torch.zeros(0, 4), torch.zeros(0, 4), None, r"B > 0, not \[0, 4\]"),
        (torch.zeros(2, 4), torch.zeros(3, 4), None, r"\[2, 4\] and \[3, 4\]"),
        (torch.zeros(2, 4), torch.zeros(2, 5), None, r"\[2, 4\] and \[2, 5\]"),
        (torch.zeros(4), torch.zeros(4), None, r"must be \[B, D\]"),
        (torch.zeros(2, 4), torch.zeros(2, 4), torch.zeros(3), r"sentence must be \[2\], not \[3\]"),
        (torch.zeros(2, 4), torch.zeros(2, 4), torch.zeros(2, 1), r"sentence must be \[2\], not \[2, 1\]"),
    ],
)
def test_shapes_that_do_not_match_are_refused(image, text, sentence, message):
    with pytest.raises(ValueError, match=message):
        contrastive_loss(image, text, 1.0, sentence)
    with pytest.raises(ValueError, match=message):
        sigmoid_loss(image, text, 1.0, 0.0, sentence)
