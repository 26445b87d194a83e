"""The inspector: open a picture, see which windows differ from the rest, and ask what they suggest about metadata."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from exiflang.inspection.file_tables import file_section, statement_table
from exiflang.inspection.inspector import Inspector
from exiflang.inspection.metadata import ask
from exiflang.inspection.tables import answer_table, fit_summary, metadata_table, region_table
from exiflang.inspection.views import (
    VIEWS,
    first_threshold,
    mask_source,
    meaning_of_view,
    same_place,
    window_at,
    window_values,
)
from exiflang.inspection.widget.controls import compare_windows, describe, entered, message, soft, view_options
from exiflang.inspection.widget.exports import save_arrays, save_picture
from exiflang.inspection.widget.notes import Notes
from exiflang.inspection.widget.opening import PictureOpener
from exiflang.inspection.widget.panels import TwoPanels, window_square
from exiflang.localization.localizer import MASK_THRESHOLD
from exiflang.utils.extras import extra
from exiflang.utils.files import absolute_path
from exiflang.viz.images import outlines

with extra("notebook"):
    import traitlets

_NOTHING = "No picture is open."


def _not_written(error: OSError | ValueError, folder: str | Path) -> str:
    return (
        f"{absolute_path(folder)}: cannot be written ({error.strerror})" if isinstance(error, OSError) else str(error)
    )


class HeatmapInspector(PictureOpener):
    """A suspicious picture, two views of it side by side, and whether its metadata fit.

    Pictures are analyzed in a background thread; the previous one stays visible until then. `wait` blocks until done.

    Args:
        picture: path of a picture to open immediately.
        inspector: None: one with the packaged weights.
        private: show GPS, serial numbers and names; only without an `inspector`.
    """

    selected = traitlets.Tuple(traitlets.Int(), traitlets.Int(), default_value=(0, 0), help="row, column of window A")
    compared: Any = traitlets.Tuple(
        traitlets.Int(), traitlets.Int(), default_value=None, allow_none=True, help="row, column of window B, or None"
    )
    threshold = traitlets.Float(
        MASK_THRESHOLD, min=0, max=1, help="the mask covers heatmap values above; until moved, a verdict's regions"
    )
    opacity = traitlets.Float(0.5, min=0, max=1, help="opacity of the views over the picture")
    hatching = traitlets.Bool(True, help="whether unreliable parts of heatmaps are hatched")
    left_view = traitlets.Enum(list(VIEWS), "heatmap")
    right_view = traitlets.Enum(list(VIEWS), "components")

    def __init__(
        self, picture: str | os.PathLike | None = None, inspector: Inspector | None = None, private: bool = False
    ):
        self.panels = TwoPanels(self._clicked)
        self._quiet = False
        super().__init__(inspector or Inspector(private=private), self.panels.box)
        self._notes = Notes(self.controls)
        self._connect()
        self._explain()
        self.panels.fade(self.opacity)
        self._say("Open a picture: type its path, browse this machine, or upload it.")
        if picture is not None:
            self.open_picture(picture)

    def _connect(self) -> None:
        """Connect the controls to traits and methods."""
        own = self.controls
        for name, control in (own.views | own.sliders | {"hatching": own.hatching}).items():
            traitlets.link((self, name), (control, "value"))
        for name, pair in own.fields.items():
            for field in pair:
                field.observe(lambda _, name=name: self._typed(name), "value")
        entered(own.question, own.ask, self.ask)
        for kind, button in own.exports.items():
            button.on_click(lambda _, kind=kind: self.export(kind))
        own.save_note.on_click(lambda _: self.save_note())

    # ---- actions

    def choose(self, row: int, col: int) -> None:
        """Select a window and show similar ones, in the right panel unless a panel already does."""
        with self._drawing():
            self.selected = (row, col)
            if "similarity" not in (self.left_view, self.right_view):
                self.right_view = "similarity"

    def ask(self, question: str) -> None:
        """Show the picture's answer to a question, see `metadata.ask`."""
        text_bank = self.inspector.text_bank
        if self.inspection is None or text_bank is None:
            self.controls.answer.value = message(_NOTHING, error=True)
            return
        found = self.inspection.result.embeddings
        try:
            self.controls.answer.value = answer_table(ask(self.inspector.model, text_bank, found, question))
        except ValueError as error:
            self.controls.answer.value = message(str(error), error=True)

    def export(self, kind: str) -> Path | None:
        """Write "png", "npz" or "html" to the export folder; returns the path, or None on failure."""
        shown, folder = self.inspection, absolute_path(self.controls.folder.value)
        if shown is None:
            self.controls.exported.value = message(_NOTHING, error=True)
            return None
        try:
            if kind == "html":
                path = self._notes.write(shown, self.inspector, anew=True)
            elif kind == "npz":
                path = save_arrays(shown, folder, self.threshold)
            else:
                views, marks = (self.left_view, self.right_view), {"A": self.selected, "B": self.compared}
                path = save_picture(shown, folder, views, self.threshold, self.opacity, marks, self.hatching)
        except (OSError, ValueError) as error:
            self.controls.exported.value = message(_not_written(error, folder), error=True)
            return None
        self.controls.exported.value = message(f"Written: {path}")
        return path

    def save_note(self) -> Path | None:
        """Save status and note with the picture's report in the export folder, which is written if it does not exist;
        returns the path of its page, or None on failure."""
        shown, own = self.inspection, self.controls
        if shown is None:
            own.saved.value = message(_NOTHING, error=True)
            return None
        try:
            path = self._notes.write(shown, self.inspector, anew=False)
        except (OSError, ValueError) as error:
            own.saved.value = message(_not_written(error, own.folder.value), error=True)
            return None
        own.saved.value = message(f"Saved: {path}")
        return path

    # ---- reactions to controls

    def _clicked(self, x: float, y: float, shift: bool) -> None:
        if self.inspection is not None:
            trait = "compared" if shift or self.controls.compare.value else "selected"
            self._point(trait, window_at(self.inspection, x, y))

    def _typed(self, trait: str) -> None:
        if self._may_draw:
            row, col = (field.value for field in self.controls.fields[trait])
            self._point(trait, (row, col))

    def _point(self, trait: str, place: tuple[int, int]) -> None:
        if trait == "selected":
            self.choose(*place)
        else:
            self.compared = place

    # ---- reactions to traits

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
            if not again or any(old.settings[key] != new.settings[key] for key in ("readout", "false_alarms")):
                self.threshold = first_threshold(new)
        with self._drawing():
            self.panels.show_picture(new, zoom_out=not again)
            self._draw(VIEWS)
            self._draw_outline()
            self._mark()
        self._explain()
        own.about.value, own.regions.value = describe(new), region_table(new)
        own.fit.value, own.tags.value = fit_summary(new), metadata_table(new)
        own.file.value = statement_table(new) + file_section(new)
        own.exported.value = ""
        if not again:
            self._notes.show(new)
        if self.inspector.text_bank:
            own.answer.value = ""

    def _offer_views(self) -> None:
        """Offer only the views that this picture has."""
        options = tuple(view_options(self.inspection))
        known = {name for _, name in options}
        for trait, control in self.controls.views.items():
            wanted = getattr(self, trait)
            if control.options != options:
                control.options = options  # also selects the first one
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

    @traitlets.observe("hatching")
    def _show_hatching(self, _: Any) -> None:
        if self._may_draw:
            self._draw({"heatmap"})

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
        """One thread at a time, one message to the browser. Set each property only once, or plotly loses an update."""
        with self._background.lock, self.panels.figure.batch_update():
            yield

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        """Keep observers from drawing changes of traits made in this context."""
        self._quiet = True
        try:
            yield
        finally:
            self._quiet = False

    @property
    def _may_draw(self) -> bool:
        return self.inspection is not None and not self._quiet

    def _draw(self, views: Collection[str], only: str = "") -> None:
        """Redraw the panels (or `only` one) that show one of the views."""
        with self._drawing():
            for panel, trait in enumerate(self.controls.views):
                if (view := getattr(self, trait)) in views and only in ("", trait):
                    shown = (view, self.threshold, self.selected, self.hatching)
                    self.panels.show_view(panel, self._shown, *shown)

    def _draw_outline(self) -> None:
        self.panels.outline(outlines(*mask_source(self._shown, self.threshold)))

    def _mark(self) -> None:
        """Update marks, fields and cosine of both windows."""
        result = self._shown.result
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
