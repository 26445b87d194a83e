"""One run at a time on a folder: a lock that ends with the process that holds it, however that ends."""

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
    """Hold the file `lock`, which stands for `folder`, alone; afterwards it is gone.

    work: what is done, as JSON. Whoever holds the lock for the same work is waited for; None: for nothing.

    Raises `error`, which names the process, if another one holds the lock for other work; `OSError` if `lock` cannot be
    written.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    own = FileLock(lock)
    try:
        own.acquire(timeout=1)  # by then whoever has it has written who it is
    except Timeout:
        holder = _holder(lock)
        who = f"process {holder.get('pid', 'unknown')} on {holder.get('host', 'this machine')}"
        if work is None or holder.get("work") != work:
            advice = "wait until it ends, or choose another folder"
            raise error(f"{folder}: another run works on it ({who}): {advice}") from None
        print(f"{folder}: waiting for {who}, which does the same", file=sys.stderr)
        own.acquire(poll_interval=0.5)
    try:
        lock.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "work": work}))
        yield
    finally:
        lock.unlink(missing_ok=True)  # while it is held: who has opened it sees that it is gone, and opens a new one
        own.release()


def _holder(lock: Path) -> dict[str, Any]:
    """What the holder has written; {} if it has not yet."""
    try:
        return json.loads(lock.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
