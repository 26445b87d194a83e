"""One run at a time per folder: a lock that is released when its process ends, for any reason."""

import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout


@contextmanager
def hold(lock: Path, folder: str, error: type[Exception], work: Any = None) -> Iterator[None]:
    """Hold the file `lock`, which guards `folder`, exclusively; it is removed afterwards.

    work: description of the work, as JSON. If another process holds the lock for the same work, wait for it; with None,
        do not wait.

    Raises `error`, naming the process, if another one holds the lock for different work; `OSError` if `lock` cannot be
    written.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    own = FileLock(lock)
    try:
        own.acquire(timeout=1)  # by then the holder has written its details
    except Timeout:
        holder = _holder(lock)
        who = f"process {holder.get('pid', 'unknown')} on {holder.get('host', 'this machine')}"
        if work is None or holder.get("work") != work:
            advice = "wait until it ends, or choose another folder"
            raise error(f"{folder}: another run is using it ({who}): {advice}") from None
        print(f"{folder}: waiting for {who}, which is doing the same work", file=sys.stderr)
        own.acquire(poll_interval=0.5)
    try:
        lock.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "work": work}))
        yield
    finally:
        lock.unlink(missing_ok=True)  # while held: a waiting process then sees that it is gone and opens a new one
        own.release()


def _holder(lock: Path) -> dict[str, Any]:
    """The details that the holder has written; {} if there are none yet."""
    try:
        return json.loads(lock.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
