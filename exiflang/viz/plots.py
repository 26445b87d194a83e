"""Interactive plotly figures for the notebooks."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
import pandas as pd

from exiflang.utils.extras import extra

with extra("notebook"):
    import plotly.graph_objects as go
    from plotly.colors import qualitative
    from plotly.subplots import make_subplots

TEMPLATE = "plotly_white"


def plot_shares(shares: pd.Series, title: str) -> go.Figure:
    """Horizontal bars of shares (0..1), one per index entry, in order."""
    names = shares.index.astype(str)
    figure = go.Figure(go.Bar(x=shares, y=names, orientation="h", hovertemplate="%{y}: %{x:.1%}<extra></extra>"))
    figure.update_xaxes(title=title, tickformat=".1~%", rangemode="tozero")
    figure.update_yaxes(autorange="reversed", tickfont_size=10, dtick=1, type="category")
    figure.update_layout(template=TEMPLATE, height=120 + 15 * len(shares), margin={"t": 20, "b": 40})
    return figure


def plot_training(log: Sequence[Mapping[str, float]], batch_size: int) -> go.Figure:
    """Loss (with the loss of a guess), gradient norm, learning rate and, if any, validation scores
    over the steps of `train`'s log."""
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
    said = {"annotation_text": "a guess", "annotation_position": "top right"}
    figure.add_hline(y=float(np.log(batch_size)), line_dash="dot", **said, row=1, col=1)
    figure.update_xaxes(title="step", row=len(titles), col=1)
    figure.update_layout(template=TEMPLATE, height=190 * len(titles), showlegend=False, margin={"t": 20, "b": 40})
    return figure


def plot_similarities(matrices: Mapping[str, np.ndarray]) -> go.Figure:
    """Cosines of patches and sentences, side by side, on one scale: {title: float [B, B], a row per patch}."""
    figure = make_subplots(rows=1, cols=len(matrices), subplot_titles=list(matrices), horizontal_spacing=0.08)
    for col, matrix in enumerate(matrices.values(), 1):
        said = "patch %{y}, sentence %{x}: %{z:.2f}<extra></extra>"
        figure.add_heatmap(z=matrix, coloraxis="coloraxis", hovertemplate=said, row=1, col=col)
        figure.update_xaxes(title="sentence of photo", constrain="domain", row=1, col=col)
        square = {"scaleanchor": "x" if col == 1 else f"x{col}", "constrain": "domain"}
        figure.update_yaxes(title="patch of photo", autorange="reversed", **square, row=1, col=col)
    figure.update_layout(template=TEMPLATE, height=420, margin={"t": 40, "b": 40})
    figure.update_coloraxes(colorscale="Viridis", colorbar_title="cosine")
    return figure


def plot_scores(summary: pd.DataFrame, metric: str = "p_map") -> go.Figure:
    """Grouped bars of one metric: one group per set and readout, one bar per method, whiskers of one standard error."""
    figure = go.Figure()
    for method, part in summary.groupby("method", sort=False):
        error = {"type": "data", "array": part["p_map_se"]} if metric == "p_map" else None
        figure.add_bar(name=method, x=[part["set"], part["readout"]], y=part[metric], error_y=error)
    figure.update_yaxes(title=metric, range=[0, 1])
    figure.update_layout(template=TEMPLATE, barmode="group", height=420, margin={"t": 20}, legend_orientation="h")
    return figure


def plot_probes(table: pd.DataFrame, by: Sequence[str]) -> go.Figure:
    """Probe scores with whiskers of one standard error: a row per combination of the columns `by`, a color per
    method, and a gray tick for chance. Rows without a score are left out."""
    table = table.dropna(subset="score")
    names = table[list(by)].astype(str).agg(", ".join, axis=1)
    figure = go.Figure()
    for (method, part), color in zip(table.groupby("method", sort=False), cycle(qualitative.D3)):
        figure.add_scatter(
            name=method,
            x=part["score"],
            y=names[part.index],
            error_x={"type": "data", "array": part["se"], "thickness": 1, "width": 0},
            mode="markers",
            orientation="h",
            marker={"color": color, "size": 10 if method == table["method"].iloc[0] else 7},
        )
    stroke = {"symbol": "line-ns", "size": 22, "line": {"width": 2, "color": "gray"}}
    once = table.assign(line=names).drop_duplicates("line")
    figure.add_scatter(name="chance", x=once["chance"], y=once["line"], mode="markers", marker=stroke)
    ends = pd.concat([table["score"] - table["se"], table["score"] + table["se"], table["chance"]])
    figure.update_xaxes(title="score", range=[ends.min() - 0.03, ends.max() + 0.03])
    figure.update_yaxes(autorange="reversed", dtick=1)
    height = 130 + (12 + 9 * table["method"].nunique()) * len(once)
    figure.update_layout(template=TEMPLATE, height=height, margin={"t": 20, "b": 40}, scattermode="group")
    return figure
