"""Opens pictures in the background: one at a time, with a progress bar, a status message and a cancel button."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path
from typing import Any, cast

from exiflang.inspection.inspector import Inspection, Inspector
from exiflang.inspection.widget.background import Background
from exiflang.inspection.widget.controls import CLASS, Controls, entered, message
from exiflang.inspection.widget.file_browser import FileBrowser
from exiflang.utils.extras import extra

with extra("notebook"):
    import ipywidgets as widgets
    import traitlets

_PATIENCE = 2.0  # seconds before an estimate of the remaining time is shown


class PictureOpener(widgets.VBox):
    """The inspector's controls, of which this class connects those that open a picture or set its analysis.

    Args:
        inspector: analyzes the pictures.
        figure: shown among the controls.
    """

    inspection = traitlets.Instance(Inspection, allow_none=True, help="the one shown; None before the first picture")
    status = traitlets.Unicode(help="current activity, or why nothing is shown")
    busy = traitlets.Bool(help="whether a picture is being analyzed")

    def __init__(self, inspector: Inspector, figure: widgets.Widget):
        self.inspector = inspector  # the one behind the current inspection
        self.controls = own = Controls(inspector, figure, FileBrowser(self.open_picture))
        self._background, self._began = Background(self._advance, self._ended), 0.0
        self._opening: tuple[Any, str] | None = None
        super().__init__(own.children)
        self.add_class(CLASS)
        for control in (own.windows, own.readout, own.false_alarms, own.mode):
            control.observe(lambda _: self._resettled(), "value")
        own.browse.observe(lambda on: own.browser.layout.set_trait("display", "" if on.new else "none"), "value")
        own.upload.observe(lambda _: self._uploaded(), "value")
        own.cancel.on_click(lambda _: self.cancel())
        entered(own.path, own.open, self.open_picture)

    def open_picture(self, source: str | os.PathLike | bytes, name: str = "") -> None:
        """Analyze a path, or the bytes of a file called `name`, in the background; cancels the current analysis."""
        if isinstance(source, str):
            source = Path(source.strip()).expanduser()
        self._start((source, name))

    def cancel(self) -> None:
        """Cancel the current analysis, if any."""
        self._background.cancel()

    def wait(self, timeout: float | None = None) -> Inspection | None:
        """Wait for the current analysis, at most `timeout` seconds, and return the inspection shown."""
        self._background.wait(timeout)
        return self.inspection

    @property
    def _shown(self) -> Inspection:
        """`inspection`, for callers that run only if there is one."""
        return cast(Inspection, self.inspection)

    def _start(self, opening: tuple[Any, str] | None) -> None:
        """Open a picture, or (None) analyze the current one again, with the current settings."""
        own = self.controls
        settings = {"windows_per_side": own.windows.value, "readout": own.readout.value, "mode": own.mode.value}
        inspector = self.inspector.with_settings(own.false_alarms.value, **settings)

        def show(found: Inspection) -> None:
            self.inspector, self.inspection = inspector, found

        with self._background.lock:
            self._opening, self.busy = opening, True
            self._say("Analyzing ...")
            work = partial(inspector, *opening) if opening else partial(inspector.again, self._shown)
            self._background.start(work, show)

    def _advance(self, share: float) -> None:
        self.controls.bar.value = share
        if share == 0:
            self._began = time.perf_counter()
        elif (seconds := time.perf_counter() - self._began) > _PATIENCE:
            self._say(f"Analyzing ... about {seconds / share * (1 - share):.0f} s left")

    def _ended(self, said: str, failed: bool) -> None:
        self._say(said, failed)
        self._opening, self.busy = None, False

    def _say(self, text: str, error: bool = False) -> None:
        self.status, self.controls.said.value = text, message(text, error)

    def _resettled(self) -> None:
        if self._opening or self.inspection:
            self._start(self._opening)

    def _uploaded(self) -> None:
        upload = self.controls.upload
        if upload.value:
            file = upload.value[0]
            upload.value = ()  # keep the file out of the notebook's saved state
            self.open_picture(bytes(file["content"]), file["name"])

    @traitlets.observe("busy")
    def _show_progress(self, change: Any) -> None:
        for control in (self.controls.bar, self.controls.cancel):
            control.layout.display = "" if change.new else "none"
