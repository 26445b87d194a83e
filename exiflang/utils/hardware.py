"""Processor capabilities, and the speed of matrix multiplication."""

import os
import platform
import statistics
import time
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch


def has_fast_bf16(device: torch.device | str) -> bool:
    """Whether the hardware computes in bfloat16 (CUDA since Ampere; AVX512-BF16 or AMX) rather than only storing it."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    processor = torch.cpu.get_capabilities()
    return processor.get("avx512_bf16", False) or processor.get("amx_bf16", False)


@cache
def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations per second of a large square matrix product, measured once per process.

    The median of nine runs, or of fewer if they are slow, as in emulated bfloat16; on a CPU, with the number of threads
    that torch currently uses.
    """
    side = 1024 if device.type == "cpu" else 8192
    matrix = torch.ones(side, side, device=device, dtype=dtype)
    seconds: list[float] = []
    while len(seconds) < 9 and sum(seconds[1:]) < 0.5:  # the first run may load a library
        began = time.perf_counter()
        matrix @ matrix  # [side, side]
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        seconds.append(time.perf_counter() - began)
    return 2 * side**3 / statistics.median(seconds)


def this_machine() -> str:
    """Processor, cores and torch version; torch is not imported, as it would count toward measured memory."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{next(named, platform.machine())}, {os.cpu_count()} cores, torch {version('torch')}"
