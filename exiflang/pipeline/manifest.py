"""The manifest of a run: code, machine, packages, parameters, and the time and memory of each step."""

import contextlib
import importlib.metadata
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from exiflang.pipeline.parameters import project_path
from exiflang.utils.extras import extra

with extra("notebook"):
    import psutil


def new_manifest(run_id: str, preset: str, overrides: dict[str, Any]) -> dict[str, Any]:
    """The manifest of a run that starts now: its status is "failed" until it is set to "finished"."""
    packages = {entry.name: entry.version for entry in importlib.metadata.distributions()}
    return {
        "run": run_id,
        "status": "failed",  # a killed run must not look finished
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "git": {"sha": _git("rev-parse", "HEAD"), "dirty": bool(_git("status", "--porcelain"))},
        "preset": preset,
        "overrides": overrides,
        "platform": {"system": platform.platform(), "python": platform.python_version(), "cores": os.cpu_count()},
        "packages": dict(sorted(packages.items(), key=lambda item: item[0].lower())),
        "steps": {},
        "files": {},
    }


def _git(*arguments: str) -> str | None:
    """Output of git in the project's root; None outside a repository or without git."""
    try:
        return subprocess.check_output(
            ["git", *arguments], cwd=project_path("."), stderr=subprocess.DEVNULL, text=True, timeout=30
        ).strip()
    except (OSError, subprocess.SubprocessError):
        return None


@contextlib.contextmanager
def measured(step: dict[str, Any]) -> Iterator[None]:
    """Record `seconds` and `peak_memory_mb` in `step`.

    Memory is the peak total resident size of all child processes (the kernel and its workers), sampled twice a second;
    pages that workers share count once for each.
    """
    done, peak = threading.Event(), 0

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.5):
            resident = 0
            for child in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    resident += child.memory_info().rss
            peak = max(peak, resident)

    watcher, start = threading.Thread(target=watch, daemon=True), time.perf_counter()
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
        step |= {"seconds": round(time.perf_counter() - start, 1), "peak_memory_mb": round(peak / 2**20)}
        print(f"    {step['seconds']:.0f} s, {step['peak_memory_mb']} MB", file=sys.stderr, flush=True)
