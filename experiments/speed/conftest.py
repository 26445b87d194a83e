"""How everything here is measured."""

import pytest
from torch.utils.flop_counter import FlopCounterMode


def pytest_addoption(parser):
    parser.addoption("--rounds", type=int, default=5, help="how often each way of doing a thing is timed")


@pytest.fixture
def measure(benchmark, request):
    """`measure(group, call, *given, **noted)`: time the call, after a first one that counts the network's arithmetic.

    What is noted is in the report, `flops` in place of those counted.
    """

    def timed(group, call, *given, **noted):
        benchmark.group = group
        with FlopCounterMode(display=False) as counter:
            call(*given)
        benchmark.extra_info |= {"flops": counter.get_total_flops(), **noted}
        return benchmark.pedantic(call, given, rounds=request.config.getoption("--rounds"))

    return timed
