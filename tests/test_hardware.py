"""What a processor can multiply."""

import pytest
import torch

from exiflang.hardware import has_fast_bf16, matrix_rate


@pytest.mark.parametrize(
    "capabilities, fast",
    [
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"avx512_bf16": False, "avx2": True}, False),
        ({}, False),
    ],
)
def test_bf16_of_a_processor_is_fast_where_it_multiplies_in_it(monkeypatch, capabilities, fast):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert has_fast_bf16("cpu") is fast


def test_the_matrix_rate_is_measured_once():
    rate = matrix_rate(torch.device("cpu"), torch.float32)
    assert 1e8 < rate < 1e15 and matrix_rate(torch.device("cpu"), torch.float32) == rate
