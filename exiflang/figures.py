"""Figures of the notebooks: plotly where one wants to hover, a plain picture where one wants to look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle

import cv2
import numpy as np
import pandas as pd
import plotly.graph_objects as go
from PIL import Image, ImageDraw, ImageFont
from plotly.colors import qualitative, sample_colorscale, unlabel_rgb
from plotly.subplots import make_subplots

from exiflang.images import load_image
from exiflang.shards import Photo, read_member

TEMPLATE = "plotly_white"
MARGIN = 6  # pixels between the pictures of a sheet
LABEL = 22  # pixels of a line of text


def plot_shares(shares: pd.Series, title: str) -> go.Figure:
    """Bars of shares (0..1), a line a name of the index, in its order."""
    names = shares.index.astype(str)
    figure = go.Figure(go.Bar(x=shares, y=names, orientation="h", hovertemplate="%{y}: %{x:.1%}<extra></extra>"))
    figure.update_xaxes(title=title, tickformat=".1~%", rangemode="tozero")
    figure.update_yaxes(autorange="reversed", tickfont_size=10, dtick=1, type="category")
    figure.update_layout(template=TEMPLATE, height=120 + 15 * len(shares), margin={"t": 20, "b": 40})
    return figure


def plot_training(log: Sequence[Mapping[str, float]], batch_size: int) -> go.Figure:
    """Loss (with the loss of a guess), gradient norm, learning rate and, if steps were judged, the verdicts: over the
    steps of `train`'s log."""
    frame = pd.DataFrame(log)
    titles = {"loss": "loss", "grad_norm": "gradient norm", "lr": "learning rate", "validation": "validation"}
    titles = {column: title for column, title in titles.items() if column in frame}
    heights = [0.5, *[0.25] * (len(titles) - 1)]
    figure = make_subplots(rows=len(titles), cols=1, shared_xaxes=True, vertical_spacing=0.06, row_heights=heights)
    for row, (column, title) in enumerate(titles.items(), 1):
        part = frame.dropna(subset=column)
        mode = "lines+markers" if column == "validation" else "lines"
        figure.add_scatter(x=part["step"], y=part[column], name=title, mode=mode, line_width=1.5, row=row, col=1)
        figure.update_yaxes(title=title, row=row, col=1)
    figure.add_hline(
        y=float(np.log(batch_size)),
        line_dash="dot",
        annotation_text="a guess",
        annotation_position="top right",
        row=1,
        col=1,
    )
    figure.update_xaxes(title="step", row=len(titles), col=1)
    figure.update_layout(template=TEMPLATE, height=190 * len(titles), showlegend=False, margin={"t": 20, "b": 40})
    return figure


def plot_scores(summary: pd.DataFrame, metric: str = "p_map") -> go.Figure:
    """Grouped bars of one metric: a group a set and readout, a bar a method, whiskers of one standard error."""
    figure = go.Figure()
    for method, part in summary.groupby("method", sort=False):
        error = {"type": "data", "array": part["p_map_se"]} if metric == "p_map" else None
        figure.add_bar(name=method, x=[part["set"], part["readout"]], y=part[metric], error_y=error)
    figure.update_yaxes(title=metric, range=[0, 1])
    figure.update_layout(template=TEMPLATE, barmode="group", height=420, margin={"t": 20}, legend_orientation="h")
    return figure


def plot_probes(table: pd.DataFrame, by: Sequence[str]) -> go.Figure:
    """Scores of a probe with whiskers of one standard error, a line a combination of the columns `by`, a colour a
    method, and a grey stroke for chance. Rows without a score are left out."""
    table = table.dropna(subset="score")
    names = table[list(by)].astype(str).agg(", ".join, axis=1)
    figure = go.Figure()
    for (method, part), colour in zip(table.groupby("method", sort=False), cycle(qualitative.D3)):
        figure.add_scatter(
            name=method,
            x=part["score"],
            y=names[part.index],
            error_x={"type": "data", "array": part["se"], "thickness": 1, "width": 0},
            mode="markers",
            orientation="h",
            marker={"color": colour, "size": 10 if method == table["method"].iloc[0] else 7},
        )
    stroke = {"symbol": "line-ns", "size": 22, "line": {"width": 2, "color": "grey"}}
    once = table.assign(line=names).drop_duplicates("line")
    figure.add_scatter(name="chance", x=once["chance"], y=once["line"], mode="markers", marker=stroke)
    ends = pd.concat([table["score"] - table["se"], table["score"] + table["se"], table["chance"]])
    figure.update_xaxes(title="score", range=[ends.min() - 0.03, ends.max() + 0.03])
    figure.update_yaxes(autorange="reversed", dtick=1)
    height = 130 + (12 + 9 * table["method"].nunique()) * len(once)
    figure.update_layout(template=TEMPLATE, height=height, margin={"t": 20, "b": 40}, scattermode="group")
    return figure


def heat_colours(values: np.ndarray, low: float, high: float, scale: str = "inferno") -> np.ndarray:
    """Values [H, W] on a perceptual scale from `low` to `high`: uint8 [H, W, 3]."""
    table = np.array([unlabel_rgb(c) for c in sample_colorscale(scale, np.linspace(0, 1, 256))])  # [256, 3]
    level = np.clip((values - low) / max(high - low, 1e-9) * 255, 0, 255).astype(np.uint8)
    return table.round().astype(np.uint8)[level]


@dataclass(frozen=True)
class Panel:
    """One picture of a sheet: uint8 [H, W, 3] and a line of text under it."""

    image: np.ndarray
    label: str


def picture_panel(image: np.ndarray, mask: np.ndarray, label: str) -> Panel:
    """A picture, uint8 [H, W, 3], with the outline of its mask, bool [H, W]: red, edged in white to show on red."""
    thick = max(2, max(mask.shape) // 200)
    inside = mask.astype(np.uint8)
    marked = image.copy()
    for width, colour in ((2 * thick, (255, 255, 255)), (thick, (230, 0, 0))):
        grown = cv2.dilate(inside, np.ones((2 * width + 1, 2 * width + 1), np.uint8)) > 0
        marked[grown & ~mask] = colour
    return Panel(marked, label)


def heatmap_panel(heatmap: np.ndarray, label: str) -> Panel:
    """A heatmap from its 1st to its 99th percentile: where a picture is most foreign, not how foreign it is."""
    low, high = np.percentile(heatmap, [1, 99])
    return Panel(heat_colours(heatmap, float(low), float(high)), label)


def _fit(image: np.ndarray, width: int) -> Image.Image:
    """Scaled to `width`, and to twice that in height at most."""
    height, full = image.shape[:2]
    scale = min(width / full, 2 * width / height)
    return Image.fromarray(image).resize((max(1, round(full * scale)), max(1, round(height * scale))))


def _shorten(label: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    """One line of at most `width` pixels."""
    line = " ".join(label[:width].split())
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(line + "…") > width:
        line = line[:-1]
    return line + "…"


def sheet(rows: Sequence[Sequence[Panel]], width: int = 300) -> Image.Image:
    """Panels in rows, each `width` pixels wide, its label below. Raises `ValueError` for no panels."""
    if not rows or not all(rows):
        raise ValueError("a sheet needs at least one row, and each row a panel")
    font = ImageFont.load_default(13)
    scaled = [[(_fit(panel.image, width), panel.label) for panel in row] for row in rows]
    heights = [max(picture.height for picture, _ in row) + LABEL + MARGIN for row in scaled]
    page = Image.new("RGB", (max(len(row) for row in rows) * (width + MARGIN) - MARGIN, sum(heights)), "white")
    pen = ImageDraw.Draw(page)
    top = 0
    for row, height in zip(scaled, heights, strict=True):
        for column, (picture, label) in enumerate(row):
            left = column * (width + MARGIN)
            page.paste(picture, (left, top))
            pen.text((left + 2, top + picture.height + 3), _shorten(label, width - 4, font), fill="black", font=font)
        top += height
    return page


def tile_sheet(photos: Sequence[Photo], columns: int = 6, rows: int = 2) -> Image.Image:
    """A tile each of photos of different cameras, evenly spread over them, the camera's name below."""
    cameras = list({photo.camera: photo for photo in photos}.values())
    chosen = [cameras[i] for i in np.linspace(0, len(cameras) - 1, min(columns * rows, len(cameras))).astype(int)]
    panels = [Panel(load_image(read_member(*photo.tiles[0])), photo.camera) for photo in chosen]
    return sheet([panels[i : i + columns] for i in range(0, len(panels), columns)], width=160)
