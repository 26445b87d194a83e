"""A module's work in several processes of this machine, its parameters handed over in a file."""

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

#: Set in the environment of processes whose standard input ends when the one that launched them does.
_FOLLOWS = "EXIFLANG_FOLLOWS_LAUNCHER"


class LaunchError(RunError):
    """Processes that failed; the message is what they said."""


def launch_module(module: str, parameters: Mapping[str, Any], processes: int) -> None:
    """Run `python -m module --config <parameters>` in so many processes, on this machine's GPUs if it has as many, else
    on its processor.

    New ones rather than forks (`notebook_launcher`): a notebook's kernel may have threads and CUDA of its own. The
    module calls `follow_launcher`, so that they end when this process is killed.
    Raises `LaunchError` if they fail.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.yaml"
        path.write_text(yaml.safe_dump(dict(parameters)), encoding="utf-8")
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command += ["-m", module, "--config", str(path)]
        device = {} if torch.cuda.device_count() >= processes else {"ACCELERATE_USE_CPU": "true"}
        read, write = os.pipe()  # nobody writes: it ends with this process
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
        # What follows them is said by their launcher: of a process that was aborted it would hide the words.
        own = re.split(r"^.*\btorch/distributed/elastic/", done.stdout, maxsplit=1, flags=re.MULTILINE)[0]
        raise LaunchError(f"{processes} processes failed:\n{said or own[-10_000:]}")


def follow_launcher() -> None:
    """See to it that this process ends with the one whose `launch_module` has started it, if one has."""
    if os.environ.get(_FOLLOWS):
        threading.Thread(target=_end_with_input, daemon=True).start()


def _end_with_input() -> None:
    os.read(0, 1)  # not through sys.stdin, whose lock an interpreter wants that shuts down
    os._exit(1)


def this_process() -> PartialState:
    """Which of how many processes this one is, and its device; the only one where none were launched."""
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))  # it does not look there by itself


def read_mapping(path: str | Path) -> dict[str, Any]:
    """The mapping that a YAML file holds. Raises `ValueError` for anything else, `OSError` for no file."""
    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(found, Mapping):
        raise ValueError(f"{path}: not a YAML mapping of parameters")
    return dict(found)
