"""What the inspector says and how it looks: HTML from inspections, its style, its kinds of controls."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import ipywidgets as widgets
import numpy as np

from exiflang.clustering import READOUTS
from exiflang.inspection import Inspection, Inspector
from exiflang.tables import figures_table
from exiflang.views import VIEWS, meaning_of_score

CLASS = "exiflang-inspector"
#: JupyterLab's own colours, so that the widget follows its theme; hover labels keep theirs, which plotly draws dark.
STYLE = f"""<style>
.{CLASS} {{ --ink: var(--jp-ui-font-color1, #222); --soft: var(--jp-ui-font-color2, #666); color: var(--ink);
  overflow: hidden; padding: 2px }}
.{CLASS} .widget-html-content {{ line-height: 1.35; color: var(--ink) }}
.{CLASS} .widget-html-content table, .{CLASS} .widget-html-content td {{ color: var(--ink) }}
.{CLASS} .widget-html-content p {{ margin: 2px 0 6px }}
.{CLASS} .meaning {{ color: var(--soft); line-height: 1.2; display: block; font-size: 12px }}
.{CLASS} .soft {{ color: var(--soft) }}
.{CLASS} .score {{ font-weight: 600 }}
.{CLASS} .error {{ color: var(--jp-error-color1, #d32f2f); font-weight: 600 }}
.{CLASS} .main-svg text {{ fill: var(--ink) !important }}
.{CLASS} .hoverlayer text {{ fill: #fff !important }}
.{CLASS} .scatterlayer .textpoint text {{ fill: #fff !important; paint-order: stroke; stroke: #000; stroke-width: 3px }}
.{CLASS} .widget-tab > .widget-tab-contents {{ max-height: 300px; overflow: auto; padding: 6px 10px }}
.{CLASS} .mark-a {{ border-bottom: 3px solid #39ff14 }}
.{CLASS} .mark-b {{ border-bottom: 3px solid #ff4fd8 }}
</style>"""
_SIDES = "Windows on the picture's longer side, about"
_SAID = {"diffused_cut": "diffused_cut (default)", "mean_shift": "mean_shift (the paper's)"}


def readout_options() -> list[tuple[str, str]]:
    """(label, name) of the readouts, the default and the paper's first."""
    return [(_SAID.get(name, name), name) for name in sorted(READOUTS, key=lambda name: (name not in _SAID, name))]


def view_options(inspection: Inspection | None) -> list[tuple[str, str]]:
    """(title, name) of the views that a picture has."""
    return [(view.title, name) for name, view in VIEWS.items() if name != "misfit" or (inspection and inspection.fit)]


def describe(inspection: Inspection) -> str:
    """A picture in a few lines of HTML: its file, its score with what it means, what is odd."""
    picture, result = inspection.picture, inspection.result
    height, width = picture.image.shape[:2]
    rows, cols = result.embeddings.shape[:2]
    file = f"{picture.format}, {width:,} x {height:,} pixels, {picture.size / 1000:,.0f} kB"
    settings = inspection.settings
    way = f"{rows} x {cols} windows of {result.window_size} px every {result.stride} px, {settings['readout']}"
    preview = "A preview: windows were embedded approximately, in one pass." if result.preview else ""
    notes = " ".join([*picture.notes, preview]).strip()
    return (
        f'<b>{escape(picture.name)}</b> <span class="soft">{escape(file)}; {escape(way)}</span><br>'
        f'<span class="score">{escape(meaning_of_score(inspection))}</span>' + (f" {escape(notes)}" if notes else "")
    )


def soft(text: str) -> str:
    """A remark, as HTML."""
    return f'<span class="soft">{escape(text)}</span>'


def message(text: str, error: bool = False) -> str:
    """What is said of the work, as HTML that screen readers notice."""
    return f'<div role="status" class="{"error" if error else "soft"}">{escape(text)}</div>'


def compare_windows(embeddings: np.ndarray, selected: tuple[int, int], compared: tuple[int, int] | None) -> str:
    """The cosine of two windows as HTML; what to do for one if there is no second."""
    if compared is None:
        return '<span class="soft">B: shift-click a window</span>'
    return f"cosine <b>{float(embeddings[selected] @ embeddings[compared]):.3f}</b>"


def number(label: str, value: int, low: int, high: int, width: str = "54px", **more: Any) -> widgets.BoundedIntText:
    """A field for a whole number, with its label before it."""
    length = f"{8 * len(label) + 6}px"
    field = widgets.BoundedIntText(value=value, min=low, max=high, description=label, **more)
    field.style.description_width = length
    field.layout.width = f"calc({length} + {width})"
    return field


def button(text: str, icon: str, tooltip: str, width: str = "86px") -> widgets.Button:
    """A button."""
    return widgets.Button(description=text, icon=icon, tooltip=tooltip, layout={"width": width})


def slider(label: str, step: float, digits: int, tooltip: str) -> widgets.FloatSlider:
    """A slider from 0 to 1."""
    made = widgets.FloatSlider(min=0, max=1, step=step, readout_format=f".{digits}f", tooltip=tooltip)
    made.description, made.style.description_width = label, "auto"
    made.layout = {"width": "236px"}
    return made


def choice(label: str, options: Sequence, value: Any, width: str, tooltip: str) -> widgets.Dropdown:
    """A list to choose from."""
    made = widgets.Dropdown(options=options, value=value, description=label, tooltip=tooltip, layout={"width": width})
    made.style.description_width = "auto"
    return made


def row(*parts: widgets.Widget, **layout: Any) -> widgets.HBox:
    """Controls side by side, on a second line where the first is full."""
    return widgets.HBox(list(parts), layout={"flex_flow": "row wrap", "align_items": "center"} | layout)


def _beside_trust(said: widgets.HTML, inspector: Inspector) -> widgets.HBox:
    """What is said of metadata, and beside it how far it can be trusted."""
    figures = widgets.HTML(figures_table(inspector.population.figures) if inspector.population else "")
    said.layout = {"flex": "3 1 300px", "margin": "0 30px 0 0"}
    figures.layout = {"flex": "2 1 300px"}
    return row(said, figures, flex_flow="row nowrap", align_items="flex-start")


class Controls:
    """All controls of the inspector, as yet without a duty, and how they lie about its figure (`children`)."""

    def __init__(self, inspector: Inspector, figure: widgets.Widget, browser: widgets.Widget):
        self.browser, self.browser.layout.display = browser, "none"
        self.about = widgets.HTML(layout={"flex": "1 1 500px", "min_height": "42px"})
        self.children = [
            widgets.HTML(STYLE, layout={"display": "none"}),
            row(*self._sources(), *self._settings(inspector)),
            browser,
            row(self.about, *self._progress()),
            row(*self._heads(), flex_flow="row nowrap"),
            figure,
            row(*self._tools()),
            widgets.Tab(
                [self._exif_page(inspector), self._ask_page(inspector), self._export_page()],
                titles=["EXIF", "Ask", "Export"],
            ),
        ]

    def _sources(self) -> list[widgets.Widget]:
        self.path = widgets.Text(placeholder="path of a picture", tooltip="Path of a picture, Enter opens it")
        self.path.layout = {"width": "220px"}
        self.open = button("Open", "search", "Open the picture of this path")
        self.browse = widgets.ToggleButton(description="Browse", icon="folder-open", tooltip="Look into folders")
        self.browse.layout = {"width": "96px"}
        self.upload = widgets.FileUpload(accept="image/*", tooltip="A picture of the machine that the browser runs on")
        self.upload.layout = {"width": "112px"}
        return [self.path, self.open, self.browse, self.upload]

    def _settings(self, inspector: Inspector) -> list[widgets.Widget]:
        localizer = inspector.localizer
        sides = localizer.windows_per_side
        self.windows = number("Windows", sides, min(10, sides), max(60, sides), step=5, tooltip=_SIDES)
        self.readout = choice("Readout", readout_options(), localizer.readout, "232px", "What makes the heatmap")
        self.mode = choice("Mode", ["exact", "dense"], localizer.mode, "118px", "Dense: approximate where towers pad")
        self.mode.disabled = not (localizer.fast and hasattr(inspector.model, "image_tower"))
        return [self.windows, self.readout, self.mode]

    def _progress(self) -> list[widgets.Widget]:
        self.bar = widgets.FloatProgress(max=1, layout={"width": "120px", "display": "none"})
        self.cancel = button("Cancel", "stop", "Stop the analysis, keep what is shown")
        self.cancel.layout.display = "none"
        self.said = widgets.HTML(layout={"max_width": "420px"})
        return [self.said, self.bar, self.cancel]

    def _heads(self) -> list[widgets.Widget]:
        self.views = {
            "left_view": choice("Left", view_options(None), "heatmap", "170px", "What the left panel shows"),
            "right_view": choice("Right", view_options(None), "components", "170px", "What the right panel shows"),
        }
        self.meanings = {name: widgets.HTML() for name in self.views}
        return [
            row(view, self.meanings[name], width="50%", flex_flow="row nowrap") for name, view in self.views.items()
        ]

    def _tools(self) -> list[widgets.Widget]:
        self.sliders = {
            "threshold": slider("Threshold", 0.005, 3, "The mask lies above this value of the heatmap"),
            "opacity": slider("Opacity", 0.05, 2, "Of the views over the picture"),
        }
        self.fields = {
            "selected": [number("A row", 0, 0, 0), number("col", 0, 0, 0)],
            "compared": [number("B row", 0, 0, 0), number("col", 0, 0, 0)],
        }
        for field in sum(self.fields.values(), []):
            field.disabled = True
        self.compare = widgets.ToggleButton(description="Compare", tooltip="While this is on, clicks choose window B")
        self.compare.layout = {"width": "90px"}
        self.cosine = widgets.HTML()
        return [*self.sliders.values(), *sum(self.fields.values(), []), self.compare, self.cosine]

    def _exif_page(self, inspector: Inspector) -> widgets.Widget:
        self.fit, self.tags = widgets.HTML(), widgets.HTML()
        return widgets.VBox([self.fit, _beside_trust(self.tags, inspector)])

    def _ask_page(self, inspector: Inspector) -> widgets.Widget:
        self.question = widgets.Text(placeholder='a tag or a piece of EXIF: "Make", "Flash: Flash fired", "ISO: 3200"')
        self.question.layout, self.question.tooltip = {"width": "440px"}, "What to ask of the picture, Enter asks"
        self.ask = button("Ask", "question", "What do the pixels suggest?")
        self.answer = widgets.HTML()
        if inspector.population is None:
            self.question.disabled = self.ask.disabled = True
            self.answer.value = message("This model comes without a population of EXIF: it cannot be asked.")
        return widgets.VBox([row(self.question, self.ask), _beside_trust(self.answer, inspector)])

    def _export_page(self) -> widgets.Widget:
        self.folder = widgets.Text("reports/inspect", description="Into folder", layout={"width": "420px"})
        self.folder.style.description_width = "auto"
        self.exports = {
            "png": button("Picture (PNG)", "picture-o", "Both views over the whole picture, as they are", "140px"),
            "npz": button("Arrays (NPZ)", "table", "Heatmap, mask, embeddings and what else was found", "140px"),
            "html": button("Report (HTML)", "file-text-o", "One page that can be opened anywhere", "140px"),
        }
        self.exported = widgets.HTML()
        return widgets.VBox([row(self.folder, *self.exports.values()), self.exported])
