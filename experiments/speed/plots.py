"""Plots for notebooks/06_speed."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.colors import qualitative
from plotly.subplots import make_subplots

from exiflang.viz.plots import TEMPLATE


def plot_ratios(found: Mapping[str, Any]) -> go.Figure:
    """Speedup of each way over its loop: one bar each, on a logarithmic axis, with the spread of rounds."""
    rows = pd.DataFrame([row for row in found["rows"] if "times_loop" in row and row["way"] != "loop"])
    figure = go.Figure()
    for way, part in rows.groupby("way", sort=False):
        high = part["times_loop"] * (part["median"] / part["seconds"].map(min) - 1)
        low = part["times_loop"] * (1 - part["median"] / part["seconds"].map(max))
        error = {"type": "data", "array": high, "arrayminus": low}
        figure.add_bar(name=way, y=part["group"], x=part["times_loop"], error_x=error, orientation="h")
    figure.update_xaxes(type="log", title="times the loop's speed")
    figure.update_yaxes(autorange="reversed")
    height = 120 + 28 * len(rows)
    figure.update_layout(template=TEMPLATE, barmode="group", height=height, margin={"t": 20}, legend_orientation="h")
    return figure


def plot_curve(points: pd.DataFrame, rates: Mapping[str, float]) -> go.Figure:
    """Seconds and peak memory of one of `measure_curve`'s curves; dotted: lower bound by each precision's FLOP/s."""
    name = points["curve"].iloc[0]
    figure = make_subplots(rows=1, cols=2, subplot_titles=["seconds", "peak memory in MB"])
    for color, (way, part) in zip(qualitative.D3, points.groupby("way", sort=False), strict=False):
        floor = part["flops"] / rates.get(way, rates["float32"])
        style = {"x": part["value"], "legendgroup": way, "line_color": color}
        figure.add_scatter(**style, y=part["seconds"], name=way, mode="lines+markers", row=1, col=1)
        figure.add_scatter(**style, y=floor, name=f"{way}, floor", line_dash="dot", mode="lines", row=1, col=1)
        figure.add_scatter(**style, y=part["megabytes"], mode="lines+markers", showlegend=False, row=1, col=2)
    figure.update_xaxes(title=name, type="log" if name != "windows per side" else "linear")
    figure.update_yaxes(type="log", row=1, col=1)
    figure.update_yaxes(rangemode="tozero", row=1, col=2)
    figure.update_layout(template=TEMPLATE, height=340, margin={"t": 30, "b": 40})
    return figure
