"""Runs work in a background thread, one task at a time; the latest wins."""

import threading
import time
from collections.abc import Callable
from typing import Any

Progress = Callable[[float], None]


class _Canceled(Exception):
    """Raised inside a task that was canceled."""


class Background:
    """Runs tasks one after another; a new task cancels the previous one.

    Args:
        progress: called with the fraction done, 0..1, in the task's thread.
        ended: called at the end of the latest task with a message, and whether it failed.

    `lock` is held while `done` stores results: acquire it to change the same state.
    """

    def __init__(self, progress: Progress, ended: Callable[[str, bool], None]):
        self.lock = threading.RLock()
        self._progress, self._ended = progress, ended
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def start(self, work: Callable[[Progress], Any], done: Callable[[Any], None]) -> None:
        """Run `done(work(progress))`. Canceling takes effect when `work` calls `progress`; it must do so regularly."""
        with self.lock:
            self._stop.set()
            before, self._stop = self._thread, threading.Event()
            self._thread = threading.Thread(target=self._run, args=(work, done, before, self._stop), daemon=True)
            self._thread.start()

    def cancel(self) -> None:
        """Cancel the current task, if any."""
        self._stop.set()

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the current task ends, at most `timeout` seconds."""
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
                raise _Canceled
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
        except _Canceled:
            said, failed = "Canceled.", False
        except ValueError as error:  # includes ImageError: a bad picture or setting
            said = str(error)
        except Exception as error:  # otherwise lost with the thread
            said = f"{type(error).__name__}: {error}"
        with self.lock:
            if self._stop is stop:  # else a newer task is running
                self._ended(said, failed)
