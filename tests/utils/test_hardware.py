"""The speed of matrix products on a processor."""

import time

import pytest
import torch

from exiflang.utils.hardware import has_fast_bf16, matrix_rate


@pytest.mark.parametrize(
    "capabilities, fast",
    [
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"avx512_bf16": False, "avx2": True}, False),
        ({}, False),
    ],
)
def test_bf16_is_fast_if_the_processor_multiplies_in_it(monkeypatch, capabilities, fast):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert has_fast_bf16("cpu") is fast


def test_the_matrix_rate_is_measured_once():
    rate = matrix_rate(torch.device("cpu"), torch.float32)
    assert 1e8 < rate < 1e15 and matrix_rate(torch.device("cpu"), torch.float32) == rate


@pytest.mark.parametrize("seconds, products", [([0.001], 9), ([2.0], 2), ([2.0, 0.001], 9), ([0.001, 0.3], 3)], ids=str)
def test_slow_products_are_repeated_less_often(monkeypatch, seconds, products):
    """Each product takes the next of `seconds`, and then always the last. The first one may be an outlier."""
    taken = []

    def clock():
        taken.append(0.0)
        each = seconds + [seconds[-1]] * 9
        return sum(each[: len(taken) // 2])

    monkeypatch.setattr(time, "perf_counter", clock)
    rate = matrix_rate.__wrapped__(torch.device("cpu"), torch.float32)
    assert len(taken) == 2 * products
    assert rate == pytest.approx(2 * 1024**3 / seconds[-1])
