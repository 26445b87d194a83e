"""The inspector's HTML, style and controls."""

from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import numpy as np

from exiflang.inspection.inspector import Inspection, Inspector
from exiflang.inspection.review import STATUSES
from exiflang.inspection.tables import figures_table
from exiflang.inspection.verdict import meaning_of_score, percent
from exiflang.inspection.views import VIEWS
from exiflang.localization.learned_readout import LEARNED
from exiflang.utils.extras import extra
from exiflang.viz.html import fragment

with extra("notebook"):
    import ipywidgets as widgets

CLASS = "exiflang-inspector"
#: False-alarm rates to choose from.
RATES = (0.01, 0.05, 0.1)
_LABEL = {"description_width": "auto"}


def readout_options(names: Sequence[str]) -> list[tuple[str, str]]:
    """(label, name) of a localizer's readouts, with the default and the paper's first."""
    default = LEARNED if LEARNED in names else "diffused_cut"
    said = {default: f"{default} (default)", "mean_shift": "mean_shift (the paper's)"}
    ordered = sorted(names, key=lambda name: (name != default, name not in said, name))
    return [(said.get(name, name), name) for name in ordered]


def view_options(inspection: Inspection | None) -> list[tuple[str, str]]:
    """(title, name) of the views that are available for a picture."""
    return [(view.title, name) for name, view in VIEWS.items() if name != "misfit" or (inspection and inspection.fit)]


def describe(inspection: Inspection) -> str:
    """A picture in a few lines of HTML: its file, its score and the score's meaning, anything unusual."""
    readout, meaning = inspection.settings["readout"], meaning_of_score(inspection)
    return fragment("widget.html.j2", "describe", inspection.picture, inspection.result, readout, meaning)


def soft(text: str) -> str:
    """A remark in gray, as HTML."""
    return f'<span class="soft">{escape(text)}</span>'


def message(text: str, error: bool = False) -> str:
    """A status message, as HTML that screen readers announce."""
    return f'<div role="status" class="{"error" if error else "soft"}">{escape(text)}</div>'


def compare_windows(embeddings: np.ndarray, selected: tuple[int, int], compared: tuple[int, int] | None) -> str:
    """The cosine of two windows as HTML, or how to choose the second one if there is none."""
    if compared is None:
        return '<span class="soft">B: shift-click</span>'
    return f"cosine <b>{float(embeddings[selected] @ embeddings[compared]):.3f}</b>"


def number(label: str, value: int, low: int, high: int, **more: Any) -> widgets.BoundedIntText:
    """A labeled integer field."""
    length = 8 * len(label) + 6  # pixels
    place = {"layout": {"width": f"{length + 54}px"}, "style": {"description_width": f"{length}px"}}
    return widgets.BoundedIntText(value, min=low, max=high, description=label, **place, **more)


def button(text: str, icon: str, tooltip: str, width: str = "86px", kind: type = widgets.Button) -> Any:
    """A button; for a toggle, set `kind`."""
    return kind(description=text, icon=icon, tooltip=tooltip, layout={"width": width})


def slider(label: str, step: float, digits: int, tooltip: str) -> widgets.FloatSlider:
    """A slider from 0 to 1."""
    look = {"readout_format": f".{digits}f", "layout": {"width": "226px"}, "style": _LABEL}
    return widgets.FloatSlider(min=0, max=1, step=step, description=label, tooltip=tooltip, **look)


def choice(label: str, options: Sequence, value: Any, width: str, tooltip: str) -> widgets.Dropdown:
    """A dropdown list."""
    place = {"layout": {"width": width}, "style": _LABEL}
    return widgets.Dropdown(options=options, value=value, description=label, tooltip=tooltip, **place)


def row(*parts: widgets.Widget, **layout: Any) -> widgets.HBox:
    """Controls side by side, wrapping to the next line."""
    return widgets.HBox(list(parts), layout={"flex_flow": "row wrap", "align_items": "center"} | layout)


def entered(field: widgets.Text, button: widgets.Button, act: Callable[[str], None]) -> None:
    """Call `act` with a field's content when its button is clicked or Enter is pressed."""
    button.on_click(lambda _: act(field.value))
    # `on_submit` does the same but is deprecated, and its successor also fires when the field loses focus
    field.on_msg(lambda _, content, buffers: act(field.value) if content.get("event") == "submit" else None)


def _beside_trust(said: widgets.HTML, inspector: Inspector) -> widgets.HBox:
    """Statements on metadata, next to figures on their accuracy."""
    figures = widgets.HTML(figures_table(inspector.text_bank.figures) if inspector.text_bank else "")
    said.layout = {"flex": "3 1 300px", "margin": "0 30px 0 0"}
    figures.layout = {"flex": "2 1 300px"}
    return row(said, figures, flex_flow="row nowrap", align_items="flex-start")


class Controls:
    """All controls of the inspector, not yet connected, and their layout around the figure (`children`)."""

    def __init__(self, inspector: Inspector, figure: widgets.Widget, browser: widgets.Widget):
        self.browser, self.browser.layout.display = browser, "none"
        self.about = widgets.HTML(layout={"flex": "1 1 500px", "min_height": "42px"})
        self.children = [
            widgets.HTML(fragment("widget.html.j2", "style", CLASS), layout={"display": "none"}),
            row(*self._sources(), *self._settings(inspector)),
            browser,
            row(self.about, *self._progress()),
            row(*self._heads(), flex_flow="row nowrap"),
            figure,
            row(*self._tools()),
            widgets.Tab(
                [
                    self._regions_page(),
                    self._exif_page(inspector),
                    self._file_page(),
                    self._ask_page(inspector),
                    self._note_page(),
                    self._export_page(),
                ],
                titles=["Regions", "EXIF", "File", "Ask", "Note", "Export"],
            ),
        ]

    def _sources(self) -> list[widgets.Widget]:
        hint = "Path of a picture; Enter opens it"
        self.path = widgets.Text(placeholder="path of a picture", tooltip=hint, layout={"width": "156px"})
        self.open = button("Open", "search", "Open the picture at this path")
        self.browse = button("Browse", "folder-open", "Browse folders", "96px", widgets.ToggleButton)
        hint = "Upload a picture from the machine that runs the browser"
        self.upload = widgets.FileUpload(accept="image/*", tooltip=hint, layout={"width": "112px"})
        return [self.path, self.open, self.browse, self.upload]

    def _settings(self, inspector: Inspector) -> list[widgets.Widget]:
        localizer = inspector.localizer
        sides = localizer.windows_per_side
        self.windows = number(
            "Windows", sides, min(10, sides), max(60, sides), step=5, tooltip="Windows on the longer side (approximate)"
        )
        readouts = readout_options(localizer.readout_names)
        self.readout = choice("Readout", readouts, localizer.readout, "232px", "Method that computes the heatmap")
        rates = [(percent(rate), rate) for rate in sorted({*RATES, inspector.false_alarms})]
        hint = "Fraction of authentic pictures that are called spliced"
        self.false_alarms = choice("False alarms", rates, inspector.false_alarms, "152px", hint)
        self.false_alarms.disabled = localizer.learned is None
        self.mode = choice("Mode", ["exact", "dense"], localizer.mode, "118px", "Dense: approximate if the tower pads")
        self.mode.disabled = not (localizer.comparison.fast and hasattr(inspector.model, "image_tower"))
        return [self.windows, self.readout, self.false_alarms, self.mode]

    def _progress(self) -> list[widgets.Widget]:
        self.bar = widgets.FloatProgress(max=1, layout={"width": "120px", "display": "none"})
        self.cancel = button("Cancel", "stop", "Stop the analysis and keep the current result")
        self.cancel.layout.display = "none"
        self.said = widgets.HTML(layout={"max_width": "420px"})
        return [self.said, self.bar, self.cancel]

    def _heads(self) -> list[widgets.Widget]:
        self.views = {
            "left_view": choice("Left", view_options(None), "heatmap", "170px", "View in the left panel"),
            "right_view": choice("Right", view_options(None), "components", "170px", "View in the right panel"),
        }
        self.meanings = {name: widgets.HTML() for name in self.views}
        return [
            row(view, self.meanings[name], width="50%", flex_flow="row nowrap") for name, view in self.views.items()
        ]

    def _tools(self) -> list[widgets.Widget]:
        self.sliders = {
            "threshold": slider("Threshold", 0.005, 3, "The mask covers heatmap values above this"),
            "opacity": slider("Opacity", 0.05, 2, "Opacity of the views over the picture"),
        }
        hint = "Hatch unreliable parts of the heatmap"
        self.hatching = button("Hatch", "", hint, "62px", widgets.ToggleButton)
        self.fields = {
            trait: [number(label, 0, 0, 0, disabled=True) for label in (f"{mark} row", "col")]
            for trait, mark in (("selected", "A"), ("compared", "B"))
        }
        hint = "While this is on, clicks select window B"
        self.compare = button("Compare", "", hint, "90px", widgets.ToggleButton)
        self.cosine = widgets.HTML()
        return [*self.sliders.values(), self.hatching, *sum(self.fields.values(), []), self.compare, self.cosine]

    def _regions_page(self) -> widgets.Widget:
        self.regions = widgets.HTML()
        return self.regions

    def _exif_page(self, inspector: Inspector) -> widgets.Widget:
        self.fit, self.tags = widgets.HTML(), widgets.HTML()
        return widgets.VBox([self.fit, _beside_trust(self.tags, inspector)])

    def _file_page(self) -> widgets.Widget:
        self.file = widgets.HTML()
        return self.file

    def _ask_page(self, inspector: Inspector) -> widgets.Widget:
        hint = 'a tag or an EXIF fragment: "Make", "Flash: Flash fired", "ISO: 3200"'
        tooltip = "A question about the picture; press Enter to ask"
        self.question = widgets.Text(placeholder=hint, tooltip=tooltip, layout={"width": "440px"})
        self.ask = button("Ask", "question", "What do the pixels suggest?")
        self.answer = widgets.HTML()
        if inspector.text_bank is None:
            self.question.disabled = self.ask.disabled = True
            self.answer.value = message("This model has no EXIF text bank, so it cannot answer questions.")
        return widgets.VBox([row(self.question, self.ask), _beside_trust(self.answer, inspector)])

    def _note_page(self) -> widgets.Widget:
        self.review = choice("Status", STATUSES, STATUSES[0], "180px", "Your conclusion on this picture")
        hint = "A note on this picture, kept in its report"
        self.note = widgets.Textarea(placeholder=hint, rows=6, layout={"width": "99%"})
        self.save_note = button("Save", "floppy-o", "Save status and note with the report in the export folder")
        self.saved = widgets.HTML()
        return widgets.VBox([row(self.review, self.save_note, self.saved), self.note])

    def _export_page(self) -> widgets.Widget:
        place = {"layout": {"width": "420px"}, "style": _LABEL}
        self.folder = widgets.Text("reports/inspect", description="To folder", **place)
        self.exports = {
            "png": button("Picture (PNG)", "picture-o", "Both views of the whole picture, as shown", "140px"),
            "npz": button("Arrays (NPZ)", "table", "Heatmap, mask, embeddings and all other results", "140px"),
            "html": button("Report (HTML)", "file-text-o", "A self-contained page", "140px"),
        }
        self.exported = widgets.HTML()
        return widgets.VBox([row(self.folder, *self.exports.values()), self.exported])
