"""What a processor can multiply, and how fast."""

import os
import platform
import statistics
import time
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch


def has_fast_bf16(device: torch.device | str) -> bool:
    """Whether the hardware multiplies in bfloat16 (CUDA from Ampere on; AVX512-BF16 or AMX), not only stores it."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    processor = torch.cpu.get_capabilities()
    return processor.get("avx512_bf16", False) or processor.get("amx_bf16", False)


@cache
def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating point operations a second of a large product of square matrices, measured once in a process.

    It is the median of nine, or of fewer if they take long, as in emulated bfloat16; on a CPU it is that of the threads
    that torch has here.
    """
    side = 1024 if device.type == "cpu" else 8192
    matrix = torch.ones(side, side, device=device, dtype=dtype)
    seconds: list[float] = []
    while len(seconds) < 9 and sum(seconds[1:]) < 0.5:  # the first may load a library
        began = time.perf_counter()
        matrix @ matrix  # [side, side]
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        seconds.append(time.perf_counter() - began)
    return 2 * side**3 / statistics.median(seconds)


def this_machine() -> str:
    """Processor, cores and the version of torch, which is not imported for this: it would count in measured memory."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{next(named, platform.machine())}, {os.cpu_count()} cores, torch {version('torch')}"
