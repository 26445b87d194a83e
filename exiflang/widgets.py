"""The inspector: open a picture, see which windows do not belong, and ask what they say of its metadata."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np
import traitlets

from exiflang.background import Background
from exiflang.exif_check import ask
from exiflang.exports import save_arrays, save_picture
from exiflang.file_browser import FileBrowser
from exiflang.inspection import Inspection, Inspector
from exiflang.localize import FOREIGN
from exiflang.panels import TwoPanels, window_square
from exiflang.parameters import project_path
from exiflang.report import Origin, write_report
from exiflang.tables import answer_table, fit_summary, metadata_table
from exiflang.views import (
    VIEWS,
    first_threshold,
    meaning_of_view,
    outlines,
    same_place,
    window_at,
    window_values,
)
from exiflang.widget_parts import CLASS, Controls, compare_windows, describe, message, soft, view_options

_NOTHING = "No picture is open."


class HeatmapInspector(widgets.VBox):
    """A picture under suspicion, two views of it side by side, and what its metadata say.

    Pictures are analysed in a thread of their own: the one before stays until the new one is ready; `wait` waits.

    Args:
        picture: a path to open at once.
        inspector: None: one with the weights that come with the package.
        private: of that one: show GPS, serial numbers and names.
    """

    inspection = traitlets.Instance(Inspection, allow_none=True, help="what is shown; None before the first picture")
    selected = traitlets.Tuple(traitlets.Int(), traitlets.Int(), default_value=(0, 0), help="row, column of window A")
    compared = traitlets.Tuple(
        traitlets.Int(), traitlets.Int(), default_value=None, allow_none=True, help="the same of window B, or None"
    )
    threshold = traitlets.Float(FOREIGN, min=0, max=1, help="of the heatmap: above lies the mask")
    opacity = traitlets.Float(0.5, min=0, max=1, help="of the views over the picture")
    left_view = traitlets.Enum(list(VIEWS), "heatmap")
    right_view = traitlets.Enum(list(VIEWS), "components")
    status = traitlets.Unicode(help="what is going on, or why nothing is shown")
    busy = traitlets.Bool(help="whether a picture is being analysed")

    def __init__(
        self, picture: str | os.PathLike | None = None, inspector: Inspector | None = None, private: bool = False
    ):
        self.inspector = inspector or Inspector(private=private)  # the one that made what is shown
        self.panels = TwoPanels(self._clicked)
        self.controls = Controls(self.inspector, self.panels.box, FileBrowser(self.open_picture))
        self._background = Background(lambda share: self.controls.bar.set_trait("value", share), self._ended)
        self._opening: tuple[Any, str] | None = None
        self._quiet = False
        super().__init__(self.controls.children)
        self.add_class(CLASS)
        self._connect()
        self._explain()
        self.panels.fade(self.opacity)
        self._say("Open a picture: type its path, browse this machine, or upload it.")
        if picture is not None:
            self.open_picture(picture)

    def _connect(self) -> None:
        """Give the controls their duties."""
        own = self.controls
        for name, control in (own.views | own.sliders).items():
            traitlets.link((self, name), (control, "value"))
        for name, pair in own.fields.items():
            for field in pair:
                field.observe(lambda _, name=name: self._typed(name), "value")
        for control in (own.windows, own.readout, own.mode):
            control.observe(lambda _: self._resettled(), "value")
        own.browse.observe(
            lambda _: own.browser.layout.set_trait("display", "" if own.browse.value else "none"), "value"
        )
        own.upload.observe(lambda _: self._uploaded(), "value")
        own.cancel.on_click(lambda _: self.cancel())
        for field, button, act in (
            (own.path, own.open, lambda: self.open_picture(own.path.value)),
            (own.question, own.ask, lambda: self.ask(own.question.value)),
        ):
            button.on_click(lambda _, act=act: act())
            # Enter; `on_submit`, which says the same, is deprecated, and its successor fires when the field is left too
            field.on_msg(lambda _, content, buffers, act=act: act() if content.get("event") == "submit" else None)
        for kind, button in own.exports.items():
            button.on_click(lambda _, kind=kind: self.export(kind))

    # ---- what one can do

    def open_picture(self, source: str | os.PathLike | bytes, name: str = "") -> None:
        """Analyse a path, or the bytes of a file called `name`, in the background, instead of what is under way."""
        if isinstance(source, str):
            source = Path(source.strip()).expanduser()
        self._start((source, name))

    def cancel(self) -> None:
        """Stop the analysis that is under way, if one is."""
        self._background.cancel()

    def wait(self, timeout: float | None = None) -> Inspection | None:
        """Wait until nothing is under way, or so many seconds, and return what is shown."""
        self._background.wait(timeout)
        return self.inspection

    def choose(self, row: int, col: int) -> None:
        """Select a window and see what is like it: on the right, unless a panel shows that already."""
        with self._drawing():
            self.selected = (row, col)
            if "similarity" not in (self.left_view, self.right_view):
                self.right_view = "similarity"

    def ask(self, question: str) -> None:
        """Show what the picture suggests, see `exif_check.ask`."""
        if self.inspection is None:
            self.controls.answer.value = message(_NOTHING, error=True)
            return
        found, population = self.inspection.result.embeddings, self.inspector.population
        try:
            self.controls.answer.value = answer_table(ask(self.inspector.model, population, found, question))
        except ValueError as error:
            self.controls.answer.value = message(str(error), error=True)

    def export(self, kind: str) -> Path | None:
        """Write "png", "npz" or "html" into the export folder; returns the path, or None if that failed."""
        shown, folder = self.inspection, project_path(self.controls.folder.value)
        if shown is None:
            self.controls.exported.value = message(_NOTHING, error=True)
            return None
        try:
            if kind == "html":
                path = write_report(shown, folder, Origin.of(self.inspector))
            elif kind == "npz":
                path = save_arrays(shown, folder, self.threshold)
            else:
                views = (self.left_view, self.right_view)
                marks = {"A": self.selected, "B": self.compared}
                path = save_picture(shown, folder, views, self.threshold, self.opacity, marks)
        except OSError as error:
            self.controls.exported.value = message(f"{folder}: cannot be written ({error.strerror})", error=True)
            return None
        self.controls.exported.value = message(f"Written: {path}")
        return path

    # ---- the work in the background

    def _start(self, opening: tuple[Any, str] | None) -> None:
        """Open something, or (None) look at the picture again, by the settings of now."""
        own, shown = self.controls, self.inspection
        settings = {"windows_per_side": own.windows.value, "readout": own.readout.value, "mode": own.mode.value}
        inspector = self.inspector.with_settings(**settings)

        def show(found: Inspection) -> None:
            self.inspector, self.inspection = inspector, found

        with self._background.lock:
            self._opening, self.busy = opening, True
            self._say("Looking at it ...")
            self._background.start(partial(inspector, *opening) if opening else partial(inspector.again, shown), show)

    def _ended(self, said: str, failed: bool) -> None:
        self._say(said, failed)
        self._opening, self.busy = None, False

    def _say(self, text: str, error: bool = False) -> None:
        self.status, self.controls.said.value = text, message(text, error)

    # ---- what the controls do

    def _clicked(self, x: float, y: float, shift: bool) -> None:
        if self.inspection is None:
            return
        place = window_at(self.inspection, x, y)
        if shift or self.controls.compare.value:
            self.compared = place
        else:
            self.choose(*place)

    def _typed(self, name: str) -> None:
        if not self._may_draw:
            return
        row, col = (field.value for field in self.controls.fields[name])
        if name == "selected":
            self.choose(row, col)
        else:
            self.compared = (row, col)

    def _resettled(self) -> None:
        if self._opening or self.inspection:
            self._start(self._opening)

    def _uploaded(self) -> None:
        upload = self.controls.upload
        if upload.value:
            file = upload.value[0]
            upload.value = ()  # the file must not stay in the notebook's state
            self.open_picture(bytes(file["content"]), file["name"])

    # ---- what follows from the traits

    @traitlets.validate("selected", "compared")
    def _in_the_grid(self, proposal: Any) -> tuple[int, int] | None:
        place = proposal.value
        if place is not None and self.inspection is not None:
            rows, cols = self.inspection.result.embeddings.shape[:2]
            if not (0 <= place[0] < rows and 0 <= place[1] < cols):
                raise traitlets.TraitError(
                    f"{proposal.trait.name} {place}: the picture has {rows} x {cols} windows, counted from 0"
                )
        return place

    @traitlets.observe("busy")
    def _show_progress(self, change: Any) -> None:
        for control in (self.controls.bar, self.controls.cancel):
            control.layout.display = "" if change.new else "none"

    @traitlets.observe("inspection")
    def _show_inspection(self, change: Any) -> None:
        new, old, own = change.new, change.old, self.controls
        again = old is not None and old.picture is new.picture
        with self._quietly():
            self._offer_views()
            if again:
                self.selected = same_place(self.selected, old, new)
                self.compared = self.compared and same_place(self.compared, old, new)
            else:
                heat = window_values(new, "heatmap", 0, (0, 0))
                self.selected, self.compared = tuple(map(int, np.unravel_index(heat.argmax(), heat.shape))), None
            if not again or old.settings["readout"] != new.settings["readout"]:
                self.threshold = first_threshold(new)
        with self._drawing():
            self.panels.show_picture(new, zoom_out=not again)
            self._draw(VIEWS)
            self._draw_outline()
            self._mark()
        self._explain()
        own.about.value, own.fit.value, own.tags.value = describe(new), fit_summary(new), metadata_table(new)
        own.exported.value = ""
        if self.inspector.population:
            own.answer.value = ""

    def _offer_views(self) -> None:
        """What cannot be shown of this picture is not offered."""
        options = tuple(view_options(self.inspection))
        known = {name for _, name in options}
        for trait, control in self.controls.views.items():
            wanted = getattr(self, trait)
            if control.options != options:
                control.options = options  # and takes the first one
                setattr(self, trait, wanted if wanted in known else self.traits()[trait].default_value)

    @traitlets.observe("left_view", "right_view")
    def _show_view(self, change: Any) -> None:
        if self._may_draw:
            self._draw({change.new}, change.name)
        self._explain()

    @traitlets.observe("threshold")
    def _show_threshold(self, _: Any) -> None:
        if self._may_draw:
            with self._drawing():
                self._draw({"mask"})
                self._draw_outline()

    @traitlets.observe("opacity")
    def _fade(self, change: Any) -> None:
        with self._drawing():
            self.panels.fade(change.new)

    @traitlets.observe("selected", "compared")
    def _show_selection(self, change: Any) -> None:
        if self._may_draw:
            with self._drawing():
                if change.name == "selected":
                    self._draw({"similarity"})
                self._mark()

    # ---- drawing

    @contextmanager
    def _drawing(self) -> Iterator[None]:
        """One thread at a time, one message to the browser; no property may be set twice, for plotly forgets one."""
        with self._background.lock, self.panels.figure.batch_update():
            yield

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        """What changes now is drawn by who changes it."""
        self._quiet = True
        try:
            yield
        finally:
            self._quiet = False

    @property
    def _may_draw(self) -> bool:
        return self.inspection is not None and not self._quiet

    def _draw(self, views: Collection[str], only: str = "") -> None:
        """Draw anew the panels (`only` one) that show one of the views."""
        with self._drawing():
            for panel, trait in enumerate(self.controls.views):
                if (view := getattr(self, trait)) in views and only in ("", trait):
                    self.panels.show_view(panel, self.inspection, view, self.threshold, self.selected)

    def _draw_outline(self) -> None:
        self.panels.outline(outlines(self.inspection.result.heatmap, self.threshold))

    def _mark(self) -> None:
        """Marks, fields and cosine of both windows."""
        result = self.inspection.result
        places = {"selected": self.selected, "compared": self.compared}
        with self._quietly():
            for (trait, place), mark in zip(places.items(), "AB", strict=True):
                self.panels.mark(mark, window_square(result.window_size, result.stride, place))
                fields = self.controls.fields[trait]
                for field, value, number in zip(fields, place or (0, 0), result.embeddings.shape, strict=False):
                    field.max, field.value, field.disabled = number - 1, value, False
        self.controls.cosine.value = compare_windows(result.embeddings, **places)

    def _explain(self) -> None:
        for trait, text in self.controls.meanings.items():
            text.value = soft(meaning_of_view(self.inspection, getattr(self, trait)))
