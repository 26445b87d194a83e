"""Two views of one picture, side by side in one plotly figure: they zoom together and report clicked windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import numpy as np

from exiflang.inspection.inspector import Inspection
from exiflang.inspection.views import (
    EVIDENCE,
    VIEWS,
    hatching,
    value_range,
    view_picture,
    window_centers,
    window_values,
)
from exiflang.utils.extras import extra
from exiflang.viz.images import data_uri, shrink

with extra("notebook"):
    import anywidget
    import ipywidgets as widgets
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

HEIGHT = 420  # pixels: two 3:2 pictures fill a screen 1280 pixels wide
#: Longer side of a view in pixels; views are smooth, and each change is sent to the browser.
DRAWN = 512
#: Characters of the encoded picture, which both panels contain: a saved notebook may have 6 MB, and plotly takes 5.
MOST = 170_000
#: Colors that are in none of the color scales.
OUTLINE, MARKS = "#00e5ff", {"A": "#39ff14", "B": "#ff4fd8"}
_HOVER = {
    "heatmap": "heatmap %{z:.3f}",
    "mask": "above the threshold: %{z:.0f}",
    "components": "first component %{z:.2f}",
    "similarity": "cosine with A %{z:.3f}",
    "misfit": "misfit %{z:.3f}",
    **{name: f"{VIEWS[name].title} %{{z:.3g}}" for name in EVIDENCE},
}
_AXES = ("", "2")  # plotly's suffixes of the panels' axes
_PARTS = ("windows", "outline", "B", "A")  # traces of a panel, in order
_LAYERS = ("picture", "view", "hatching")  # images of a panel, in order


def window_edges(centers: np.ndarray, side: int) -> np.ndarray:
    """Boundaries between the pixels nearest to each of n centers, along a side of `side` pixels: float [n + 1]."""
    return np.concatenate([[0], (centers[1:] + centers[:-1]) / 2, [side]])


def window_square(window: int, stride: int, place: tuple[int, int] | None) -> np.ndarray:
    """The closed outline of a window at (row, column), in pixels: float [5, 2] of x and y; [0, 2] for no window."""
    if place is None:
        return np.zeros((0, 2))
    corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1), (0, 0)])
    return corners * window + np.array(place[::-1]) * float(stride)


def join_lines(lines: Sequence[np.ndarray]) -> np.ndarray:
    """Lines [n, 2] joined into one, separated by NaN: float [n, 2]."""
    gap = np.full((1, 2), np.nan)
    return np.concatenate([np.zeros((0, 2)), *(part for line in lines for part in (line, gap))])


def picture_uri(image: np.ndarray) -> str:
    """A picture as a `data:` URL, a JPEG at the highest quality within the size limit."""
    for quality in (90, 80, 70, 60, 50):
        uri = data_uri(image, quality=quality)
        if len(uri) <= MOST:
            break
    return uri


class _Figure(go.FigureWidget):
    """A FigureWidget that keeps its current state when the page is reloaded; plotly's reverts to the initial one."""

    def get_state(self, key: Any = None, drop_defaults: bool = False) -> dict[str, Any]:
        if key is None and hasattr(self, "_layout_obj"):  # missing during construction
            now = {"_widget_layout": self._layout_obj._props, "_widget_data": self._data}
            self._trait_values |= deepcopy(now)
        return super().get_state(key, drop_defaults)


class _Width(anywidget.AnyWidget):
    """Makes plotly's figures fit the page: as widgets, they are 700 pixels wide until the window is resized."""

    _esm = """
    export default {
      render({ el }) {
        const tell = () => window.dispatchEvent(new Event("resize"));
        const watch = new ResizeObserver(tell);
        watch.observe(el);
        document.addEventListener("plotlywidget-after-render", tell);
        return () => {
          watch.disconnect();
          document.removeEventListener("plotlywidget-after-render", tell);
        };
      },
    };
    """


def _empty_figure() -> go.Figure:
    """Both panels with all their traces (see `_PARTS`), images and axes, without a picture."""
    base = make_subplots(1, 2, horizontal_spacing=0.015)
    for column, axis in enumerate(_AXES, 1):
        base.add_heatmap(opacity=0, coloraxis=f"coloraxis{axis}", z=[[0.0]], hoverinfo="skip", row=1, col=column)
        base.add_scatter(x=[], y=[], mode="lines", line={"color": OUTLINE, "width": 1.5}, row=1, col=column)
        for name in ("B", "A"):
            look = {"line": {"color": MARKS[name], "width": 2.5}, "mode": "lines+text"}
            font = {"color": MARKS[name], "size": 14, "weight": "bold"}
            base.add_scatter(x=[], y=[], **look, textfont=font, textposition="bottom right", row=1, col=column)
    base.update_traces(hoverinfo="skip", selector={"type": "scatter"})
    nothing = {"visible": False, "autorange": True}  # unzoomed axes show the whole picture
    place = {"y": 0, "sizex": 1, "sizey": 1, "sizing": "stretch", "layer": "below"}
    base.update_layout(
        height=HEIGHT,
        # plotly draws only one of two images at exactly the same position.
        images=[place | {"x": x, "xref": f"x{axis}", "yref": f"y{axis}"} for axis in _AXES for x in (-1e-9, 0, 1e-9)],
        margin={"l": 2, "r": 2, "t": 4, "b": 34},
        xaxis=nothing,
        yaxis=nothing | {"autorange": "reversed", "scaleanchor": "x"},
        xaxis2=nothing | {"matches": "x"},
        yaxis2=nothing | {"autorange": "reversed", "matches": "y"},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        showlegend=False,
        hovermode="closest",
        hoverlabel={"bgcolor": "#222", "bordercolor": "#aaa", "font": {"color": "#fff", "size": 13}},
        dragmode="pan",
        uirevision="one",
        modebar={"bgcolor": "rgba(0,0,0,0.5)", "color": "#ddd", "activecolor": "#fff"},
    )
    for axis, x in zip(_AXES, (0.25, 0.75), strict=True):
        bar = {"orientation": "h", "x": x, "len": 0.36, "y": 0, "yanchor": "top", "ypad": 4, "thickness": 9}
        base.layout[f"coloraxis{axis}"] = {"showscale": False, "colorbar": bar | {"tickfont": {"size": 11}}}
    return base


class TwoPanels:
    """The figure and its content; a panel is 0 (left) or 1. `box` is the widget to show.

    Args:
        on_click: called with x and y in pixels, and whether shift was held.
    """

    def __init__(self, on_click: Callable[[float, float, bool], None]):
        self.figure = _Figure(_empty_figure())
        self.figure._config = {
            "scrollZoom": True,
            "displaylogo": False,
            "showSendToCloud": False,
            "doubleClick": "autosize",
            "responsive": True,
            "modeBarButtons": [["pan2d", "zoom2d", "zoomIn2d", "zoomOut2d", "autoScale2d"]],
        }
        self.box = widgets.VBox([_Width(layout={"height": "0", "margin": "0"}), self.figure])

        def clicked(_: Any, points: Any, keys: Any) -> None:
            if points.xs:  # none if another trace was clicked
                on_click(points.xs[0], points.ys[0], bool(keys and keys.shift))

        for panel in (0, 1):
            self._trace(panel, "windows").on_click(clicked)

    def _trace(self, panel: int, part: str) -> Any:
        return self.figure.data[panel * len(_PARTS) + _PARTS.index(part)]

    def _image(self, panel: int, layer: str) -> Any:
        return self.figure.layout.images[panel * len(_LAYERS) + _LAYERS.index(layer)]

    def show_picture(self, inspection: Inspection, zoom_out: bool) -> None:
        """Draw the picture at the bottom of both panels, and the grid of its windows on top."""
        height, width = inspection.picture.image.shape[:2]
        down, across = window_centers(inspection)
        picture = picture_uri(shrink(inspection.picture.image))
        lines = data_uri(hatching(inspection, DRAWN), lossless=True)
        labels = [[f"{row}, {col}" for col in range(len(across))] for row in range(len(down))]
        edges = {"x": window_edges(across, width), "y": window_edges(down, height)}
        with self.figure.batch_update():
            for image in self.figure.layout.images:
                image.update(sizex=width, sizey=height)
            if zoom_out:
                self.figure.layout.xaxis.autorange = True
                self.figure.layout.yaxis.autorange = "reversed"
            for panel in (0, 1):
                self._image(panel, "picture").source = picture
                self._image(panel, "hatching").source = lines
                self._trace(panel, "windows").update(**edges, text=labels, hoverinfo=None)

    def show_view(
        self,
        panel: int,
        inspection: Inspection,
        view: str,
        threshold: float,
        chosen: tuple[int, int],
        hatched: bool = False,
    ) -> None:
        """Draw a view on a panel, with hatching if it is a heatmap and that is requested."""
        values = window_values(inspection, view, threshold, chosen)
        low, high = value_range(view, values)
        drawn = view_picture(inspection, view, threshold, chosen, DRAWN)
        look, colors = VIEWS[view], self.figure.layout[f"coloraxis{_AXES[panel]}"]
        with self.figure.batch_update():
            self._image(panel, "view").source = data_uri(drawn, lossless=view == "mask")
            self._image(panel, "hatching").visible = hatched and view == "heatmap"
            template = f"row, column %{{text}}<br>{_HOVER[view]}<extra></extra>"
            self._trace(panel, "windows").update(z=values.astype(np.float32), hovertemplate=template)
            colors.update(cmin=low, cmax=high, showscale=look.scale is not None and bool(np.isfinite(values).all()))
            if look.scale:
                colors.colorscale = look.scale

    def fade(self, opacity: float) -> None:
        """Set the opacity of the views over the picture: 0..1."""
        with self.figure.batch_update():
            for panel in (0, 1):
                self._image(panel, "view").opacity = opacity

    def outline(self, lines: Sequence[np.ndarray]) -> None:
        """Draw closed lines [n, 2] on both panels."""
        self._draw("outline", join_lines(lines))

    def mark(self, name: str, line: np.ndarray) -> None:
        """Draw a window's line, [n, 2], as "A" or "B" on both panels."""
        inside = len(line) == 0 or line[:, 1].min() < 1  # no space for the letter above
        letters = [name, *[""] * 4][: len(line)]
        self._draw(name, line, text=letters, textposition="bottom right" if inside else "top right")

    def _draw(self, part: str, line: np.ndarray, **more: Any) -> None:
        with self.figure.batch_update():
            for panel in (0, 1):
                self._trace(panel, part).update(x=line[:, 0], y=line[:, 1], **more)
