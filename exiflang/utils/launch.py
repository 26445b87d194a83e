"""Run a module in several processes on this machine, with its parameters passed in a file."""

import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from exiflang.utils.extras import extra

with extra("train"):
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

from exiflang.utils.commands import RunError

#: Set in the environment of processes whose standard input closes when their launcher ends.
_FOLLOWS = "EXIFLANG_FOLLOWS_LAUNCHER"


class LaunchError(RunError):
    """Failed processes; the message is their output."""


def launch_module(module: str, parameters: Mapping[str, Any], processes: int) -> None:
    """Run `python -m module --config <parameters>` in several processes, on this machine's GPUs if it has as many,
    else on its CPU.

    They are new processes rather than forks (`notebook_launcher`), because a notebook's kernel may have threads and
    CUDA state. The module calls `follow_launcher`, so that they end when this process is killed.
    Raises `LaunchError` if they fail.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.yaml"
        path.write_text(yaml.safe_dump(dict(parameters)), encoding="utf-8")
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command += ["-m", module, "--config", str(path)]
        device = {} if torch.cuda.device_count() >= processes else {"ACCELERATE_USE_CPU": "true"}
        read, write = os.pipe()  # never written to; closes when this process ends
        try:
            done = subprocess.run(
                command,
                env=os.environ | device | {_FOLLOWS: "1"},
                stdin=read,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="backslashreplace",
            )
        finally:
            os.close(read)
            os.close(write)
    if done.returncode:
        said = "\n".join(line for line in done.stdout.splitlines() if line.startswith("error: "))
        # Drop the launcher's own report at the end: it would hide the last words of an aborted process.
        own = re.split(r"^.*\btorch/distributed/elastic/", done.stdout, maxsplit=1, flags=re.MULTILINE)[0]
        raise LaunchError(f"{processes} processes failed:\n{said or own[-10_000:]}")


def follow_launcher() -> None:
    """Make this process end when the one that started it with `launch_module` ends, if there is one."""
    if os.environ.get(_FOLLOWS):
        threading.Thread(target=_end_with_input, daemon=True).start()


def _end_with_input() -> None:
    os.read(0, 1)  # not through sys.stdin, whose lock the interpreter needs at shutdown
    os._exit(1)


def this_process() -> PartialState:
    """Index of this process, number of processes and device; a single process if none were launched."""
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))  # PartialState ignores this variable


def read_mapping(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises `ValueError` for any other content, `OSError` for a missing file."""
    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(found, Mapping):
        raise ValueError(f"{path}: not a YAML mapping of parameters")
    return dict(found)
