"""Time and memory as functions of picture size, number of windows, batch size, and sentence length."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm

from exiflang import ExifLang, ExifLangConfig, SpliceLocalizer
from exiflang.localization.localizer import Comparison
from exiflang.localization.windows import embed_windows
from exiflang.models.inference import for_inference
from exiflang.utils.hardware import has_fast_bf16
from exiflang.utils.processes import worker_pool
from experiments.speed.pictures import noise

PLAIN = {"exact": {}, "windows one by one": {"comparison": Comparison(fast=False)}}


def _analysis(way: str, megapixels: float = 0.786432, windows_per_side: int = 30) -> Callable[[], Any]:
    localizer, image = SpliceLocalizer(windows_per_side=windows_per_side, **PLAIN[way]), noise(megapixels)
    return lambda: localizer(image)


def _batch(way: str, size: int) -> Callable[[], Any]:
    """260 windows of 124 px through the paper's image tower."""
    encoder = for_inference(ExifLang(ExifLangConfig.preset("paper")), way)
    image = noise(0.786432)[:448]
    return lambda: embed_windows(encoder, image, 124, 36, size)


def _tokens(way: str, length: int) -> Callable[[], Any]:
    """16 sentences through the paper's text tower."""
    model = ExifLang(ExifLangConfig.preset("paper")).eval()
    ids = torch.ones(16, length, dtype=torch.int64)
    return torch.inference_mode()(lambda: model.encode_tokens(ids, ids))


CURVES: Mapping[str, tuple[Callable[[str, Any], Callable], Sequence[str]]] = {
    "megapixels": (_analysis, tuple(PLAIN)),
    "windows per side": (lambda way, count: _analysis(way, windows_per_side=count), tuple(PLAIN)),
    "batch": (_batch, ("float32", "bf16")),
    "tokens": (_tokens, ("float32",)),
}


def measure_curve(name: str, values: Sequence[float], rounds: int) -> pd.DataFrame:
    """A row per way and value: `curve`, `way`, `value`, median `seconds`, peak `megabytes`, and `flops` of the network.

    Each point is measured in a separate process, so its memory includes only libraries, weights and this point. bf16 is
    measured only if the processor supports it. Raises `KeyError` for a name that is not in `CURVES`.
    """
    ways = [way for way in CURVES[name][1] if way != "bf16" or has_fast_bf16("cpu")]
    points = [(name, way, value, rounds) for way in ways for value in values]
    rows = []
    for point in tqdm(points, desc=name, unit=" points"):
        with worker_pool(1) as process:
            rows.append(process.submit(_measure, *point).result())
    return pd.DataFrame(rows)


def _measure(name: str, way: str, value: float, rounds: int) -> dict[str, Any]:
    torch.manual_seed(0)
    call, seconds = CURVES[name][0](way, value), []
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    megabytes = _peak_memory()
    with FlopCounterMode(display=False) as counter:
        call()
    row = {"curve": name, "way": way, "value": value, "seconds": median(seconds), "megabytes": megabytes}
    return row | {"flops": counter.get_total_flops()}


def _peak_memory() -> float | None:
    """Peak memory of this process in MB; None without /proc. `getrusage` would include the parent's memory at fork."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1000 for line in lines if line.startswith("VmHWM")), None)
