"""The fixture that times all benchmarks in this folder."""

import pytest
from torch.utils.flop_counter import FlopCounterMode


def pytest_addoption(parser):
    parser.addoption("--rounds", type=int, default=5, help="number of timed runs of each implementation")


@pytest.fixture
def measure(benchmark, request):
    """`measure(group, call, *given, **noted)`: time the call, after an untimed one that counts the network's FLOPs.

    `noted` is added to the report; a `flops` entry overrides the count.
    """

    def timed(group, call, *given, **noted):
        benchmark.group = group
        with FlopCounterMode(display=False) as counter:
            call(*given)
        benchmark.extra_info |= {"flops": counter.get_total_flops(), **noted}
        return benchmark.pedantic(call, given, rounds=request.config.getoption("--rounds"))

    return timed
