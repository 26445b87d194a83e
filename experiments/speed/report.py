"""Runs the benchmarks of this folder and reports seconds, speedups over plain loops, and the hardware's lower bound."""

import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
import torch
from tqdm.auto import tqdm

from exiflang.utils.hardware import matrix_rate

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}
#: Steps after the network, whose sum is a separate group.
AFTER = ("votes", "mean shift", "normalized cut", "principal components")


def run_benchmarks(rounds: int, only: str = "") -> dict[str, Any]:
    """Time the benchmarks selected by pytest's expression `only`, each `rounds` times, in one process.

    Returns `gather`'s report, with the reasons for skipped ones under "skipped". Raises `RuntimeError` with pytest's
    output if a benchmark fails or none is selected.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pytest", "experiments/speed", "-v", "-rs", "-k", only]
        command += ["-p", "no:cacheprovider", f"--rounds={rounds}", f"--benchmark-json={path}"]
        command += ["--color=no"]  # Jupyter's kernels request color
        root, said = Path(__file__).parents[2], []
        # Started by a test, it must not behave like a worker of that test's pytest.
        own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        with subprocess.Popen(
            command, cwd=root, env=own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            bar = tqdm(process.stdout, desc="lines of the benchmarks")
            said.extend(bar)
        if process.returncode:
            raise RuntimeError("the benchmarks failed:\n" + "".join(said[-60:]))
        report = json.loads(path.read_text(encoding="utf-8"))
    reasons = [re.match(r"SKIPPED \[\d+\] \S+: (.*)", line) for line in said]
    return gather(report) | {"skipped": sorted({reason[1] for reason in reasons if reason})}


def gather(report: Mapping[str, Any]) -> dict[str, Any]:
    """Convert pytest-benchmark's report to "protocol" and "rows", one dict per implementation of a task.

    Keys of a row: `group` (the task), `way` (the implementation), `seconds` (of each round), `median`, the network's
    `flops`, if any, entries noted by the benchmark, `floor` (seconds for these flops at the processor's matrix rate),
    and `times_loop`, the speedup over its group's loop, by medians.
    """
    rates = {name: matrix_rate(torch.device("cpu"), dtype) for name, dtype in DTYPES.items()}
    if torch.cuda.is_available():
        rates |= {f"GPU {name}": matrix_rate(torch.device("cuda"), dtype) for name, dtype in DTYPES.items()}
    rows = [
        {"group": entry["group"], "way": entry["param"] or "", "seconds": entry["stats"]["data"], **entry["extra_info"]}
        for entry in report["benchmarks"]
    ]
    for way in ("loop", "exact"):
        parts = [row["seconds"] for row in rows if row["group"] in AFTER and row["way"] == way]
        if len(parts) == len(AFTER):
            rows.append(
                {"group": "all after the network", "way": way, "seconds": list(map(sum, zip(*parts, strict=True)))}
            )
    for row in rows:
        row["median"] = median(row["seconds"])
        if row.get("flops"):
            place, name = "GPU " * ("GPU" in row["way"]), "bf16" if "bf16" in row["way"] else "float32"
            row["floor"] = row["flops"] / rates[place + name]
    loops = {row["group"]: row["median"] for row in rows if row["way"] == "loop"}
    for row in rows:
        if row["group"] in loops:
            row["times_loop"] = loops[row["group"]] / row["median"]
    cpu = report["machine_info"]["cpu"]
    protocol = {
        "processor": cpu["brand_raw"],
        "flags": sorted(flag for flag in cpu.get("flags", []) if re.match("avx512_bf16|amx", flag)),
        "threads": torch.get_num_threads(),
        "matrix_rate": rates,
        "rounds": min(len(row["seconds"]) for row in rows),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    return {"protocol": protocol, "rows": rows}


def table(found: Mapping[str, Any]) -> pd.DataFrame:
    """One row per implementation, for display: all columns are text."""
    rows = [
        {
            "what": row["group"],
            "way": row["way"],
            "median": duration(row["median"]),
            "range": f"{duration(min(row['seconds']))} to {duration(max(row['seconds']))}",
            "of the loop's speed": f"{three_digits(row['times_loop'])} times" if "times_loop" in row else "",
            "of the floor": f"{row['median'] / row['floor']:.2f} times" if "floor" in row else "",
        }
        for row in found["rows"]
    ]
    return pd.DataFrame(rows)


def duration(seconds: float) -> str:
    """A duration in s or ms, with three digits."""
    return f"{three_digits(seconds)} s" if seconds >= 0.9995 else f"{three_digits(1000 * seconds)} ms"


def three_digits(number: float) -> str:
    """Three significant digits, without an exponent for large numbers."""
    return f"{number:,.0f}" if number >= 999.5 else f"{number:.3g}"


def protocol_line(protocol: Mapping[str, Any]) -> str:
    """A sentence on how the figures were measured."""
    rates = ", ".join(f"{rate / 1e9:.0f} GFLOP/s in {name}" for name, rate in protocol["matrix_rate"].items())
    return (
        f"{protocol['processor']} ({', '.join(protocol['flags']) or 'neither avx512_bf16 nor amx'}), "
        f"{protocol['threads']} threads, products of matrices at {rates}; torch {protocol['torch']}; "
        f"median and range of {protocol['rounds']} rounds."
    )


def markdown(found: Mapping[str, Any]) -> str:
    """The table, after a line on the machine."""
    frame = table(found)
    lines = [
        protocol_line(found["protocol"]),
        "",
        "| " + " | ".join(frame.columns) + " |",
        "|---" * frame.shape[1] + "|",
    ]
    lines += ["| " + " | ".join(row) + " |" for row in frame.itertuples(index=False)]
    return "\n".join(lines)
