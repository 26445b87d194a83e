"""Work in a thread of its own: one piece at a time, the latest one."""

import threading
import time
from collections.abc import Callable
from typing import Any

Progress = Callable[[float], None]


class _Canceled(Exception):
    """Raised within work that nobody waits for any more."""


class Background:
    """Runs pieces of work one after the other; a new one cancels the one before.

    Args:
        progress: called with the share done, 0..1, in the thread of the work.
        ended: called at the end of the latest piece with a message, and whether it failed.

    `lock` is held while `done` stores results: hold it as well to change the same state.
    """

    def __init__(self, progress: Progress, ended: Callable[[str, bool], None]):
        self.lock = threading.RLock()
        self._progress, self._ended = progress, ended
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def start(self, work: Callable[[Progress], Any], done: Callable[[Any], None]) -> None:
        """Run `done(work(progress))`. Work stops only where it calls its `progress`, so it must do so now and then."""
        with self.lock:
            self._stop.set()
            before, self._stop = self._thread, threading.Event()
            self._thread = threading.Thread(target=self._run, args=(work, done, before, self._stop), daemon=True)
            self._thread.start()

    def cancel(self) -> None:
        """Stop the work that is under way, if any."""
        self._stop.set()

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the work under way ends, or so many seconds."""
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
        except ValueError as error:  # among them ImageError: what is wrong with a picture or a setting
            said = str(error)
        except Exception as error:  # else it would vanish with the thread
            said = f"{type(error).__name__}: {error}"
        with self.lock:
            if self._stop is stop:  # else another piece is under way
                self._ended(said, failed)
