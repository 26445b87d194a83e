"""Worker processes end with their parent, however it ends."""

import signal
import subprocess
import sys
import time

import psutil
import pytest

from exiflang.utils.processes import worker_pool

POOL = """
import time
from exiflang.utils.processes import worker_pool
if __name__ == "__main__":
    pool = worker_pool(2)
    list(pool.map(abs, range(4)))
    print("started", flush=True)
    time.sleep(600)
"""
LAUNCH = """
from exiflang.utils.launch import launch_module
launch_module("worker", {}, 2)
"""
LAUNCHED = """
import time
from pathlib import Path
from exiflang.utils.launch import follow_launcher
follow_launcher()
Path("started").touch()
time.sleep(600)
"""


def started(code: str, folder) -> subprocess.Popen:
    (folder / "parent.py").write_text(code)
    return subprocess.Popen([sys.executable, "parent.py"], cwd=folder, stdout=subprocess.PIPE, text=True)


def all_workers_end_with(parent: subprocess.Popen, how: int) -> bool:
    workers = psutil.Process(parent.pid).children(recursive=True)
    assert len(workers) >= 2
    parent.send_signal(how)
    parent.communicate()
    return not psutil.wait_procs(workers, timeout=60)[1]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_their_killed_parent(tmp_path, how):
    parent = started(POOL, tmp_path)
    assert parent.stdout.readline() == "started\n"
    assert all_workers_end_with(parent, how)


def test_launched_processes_end_with_their_killed_launcher(tmp_path):
    (tmp_path / "worker.py").write_text(LAUNCHED)
    parent = started(LAUNCH, tmp_path)
    while not (tmp_path / "started").exists():
        assert parent.poll() is None
        time.sleep(0.1)
    assert all_workers_end_with(parent, signal.SIGKILL)


def test_a_pool_runs_its_initializer_and_works():
    with worker_pool(1, sys.setrecursionlimit, 1234) as pool:
        assert pool.submit(sys.getrecursionlimit).result() == 1234
