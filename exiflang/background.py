"""Work in a thread of its own: one piece at a time, the latest one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

Progress = Callable[[float], None]


class _Cancelled(Exception):
    """Raised in the midst of the work when nobody waits for it any more."""


class Background:
    """Runs pieces of work; a new one cancels the one before.

    Args:
        progress: hears the share done, 0..1, in the thread of the work.
        ended: hears at the end of the latest piece what to say of it, and whether it failed.

    `lock` is held while results are taken in: whoever changes what they change must hold it too.
    """

    def __init__(self, progress: Progress, ended: Callable[[str, bool], None]):
        self.lock = threading.RLock()
        self._progress, self._ended = progress, ended
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def start(self, work: Callable[[Progress], Any], done: Callable[[Any], None]) -> None:
        """Do `done(work(progress))`; the work must call its `progress` now and then, by which it is stopped."""
        with self.lock:
            self._stop.set()
            before, self._stop = self._thread, threading.Event()
            self._thread = threading.Thread(target=self._run, args=(work, done, before, self._stop), daemon=True)
            self._thread.start()

    def cancel(self) -> None:
        """Stop what is under way, if anything is."""
        self._stop.set()

    def wait(self, timeout: float | None = None) -> None:
        """Wait for the end of what is under way, or so many seconds."""
        if self._thread:
            self._thread.join(timeout)

    def _run(
        self,
        work: Callable[[Progress], Any],
        done: Callable[[Any], None],
        before: threading.Thread | None,
        stop: threading.Event,
    ) -> None:
        def progress(share: float) -> None:
            if stop.is_set():
                raise _Cancelled
            self._progress(share)

        if before:
            before.join()
        began, failed = time.perf_counter(), True
        try:
            progress(0.0)
            found = work(progress)
            with self.lock:
                progress(1.0)
                done(found)
            said, failed = f"Done in {time.perf_counter() - began:.1f} s.", False
        except _Cancelled:
            said, failed = "Cancelled.", False
        except ValueError as error:  # among them ImageError: what is wrong with a picture or a setting
            said = str(error)
        except Exception as error:  # here it would end with the thread, unheard
            said = f"{type(error).__name__}: {error}"
        with self.lock:
            if self._stop is stop:  # else another piece is under way
                self._ended(said, failed)
