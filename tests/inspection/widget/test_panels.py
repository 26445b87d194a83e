"""The figure of the inspector: positions in pixels, what is drawn where, what is escaped."""

import numpy as np
import plotly.graph_objects as go
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exiflang.inspection.views import EVIDENCE, VIEWS, value_range, window_values
from exiflang.inspection.widget.panels import TwoPanels, join_lines, window_edges, window_square
from tests.inspection.test_views import inspected
from tests.localization.test_localizer import pasted


@pytest.fixture(scope="module")
def inspection():
    return inspected(pasted()[0])


@given(st.integers(1, 30), st.integers(1, 20), st.integers(1, 60))
def test_every_pixel_belongs_to_its_nearest_window(count, stride, window):
    side = (count - 1) * stride + window
    centers = np.arange(count) * stride + window / 2
    edges = window_edges(centers, side)
    assert len(edges) == count + 1 and edges[0] == 0 and edges[-1] == side
    for pixel in range(side):
        found = min(int(np.searchsorted(edges, pixel + 0.25, "right")) - 1, count - 1)
        assert abs(centers[found] - pixel - 0.25) == pytest.approx(abs(centers - pixel - 0.25).min())


def test_window_squares_are_closed_and_correctly_placed():
    square = window_square(32, 16, (2, 3))
    assert (square[0] == square[-1]).all()
    assert square.min(0).tolist() == [48, 32] and square.max(0).tolist() == [80, 64]
    assert window_square(32, 16, None).shape == (0, 2)


def test_joined_lines_are_separated_by_gaps():
    joined = join_lines([np.zeros((3, 2)), np.ones((2, 2))])
    assert joined.shape == (7, 2) and np.isnan(joined[[3, 6]]).all()
    assert join_lines([]).shape == (0, 2)


@pytest.mark.parametrize("view", VIEWS)
def test_the_scale_spans_the_range_of_the_view(inspection, view):
    values = window_values(inspection, view, 0.5, (1, 1))
    low, high = value_range(view, values)
    if view in EVIDENCE:
        assert low < high
    else:
        assert high == 1 and low == (values.min() if view == "similarity" else 0)


def test_picture_views_marks_and_outline_are_drawn(inspection):
    panels = TwoPanels(lambda *place: None)
    panels.show_picture(inspection, zoom_out=True)
    for panel, view in enumerate(("heatmap", "similarity")):
        panels.show_view(panel, inspection, view, 0.5, (1, 2), hatched=True)
    panels.outline([np.array([[0, 0], [5, 0], [5, 5], [0, 0]], float)])
    panels.mark("A", window_square(32, 10, (1, 2)))
    panels.fade(0.25)
    figure = panels.figure
    assert [image.sizex for image in figure.layout.images] == [400] * 6
    assert all(image.source.startswith("data:image/") for image in figure.layout.images)
    assert [image.opacity for image in figure.layout.images] == [None, 0.25, None] * 2
    assert [image.visible for image in figure.layout.images] == [None, None, True, None, None, False]
    rows, cols = inspection.result.embeddings.shape[:2]
    grids = [trace for trace in figure.data if isinstance(trace, go.Heatmap)]
    for trace, view in zip(grids, ("heatmap", "similarity"), strict=True):
        np.testing.assert_allclose(trace.z, window_values(inspection, view, 0.5, (1, 2)), rtol=1e-5)
        assert (len(trace.y), len(trace.x)) == (rows + 1, cols + 1) and trace.opacity == 0
        assert trace.text[2][3] == "2, 3"
    assert figure.layout.coloraxis.showscale is not False and figure.layout.coloraxis2.colorscale
    panels.show_view(0, inspection, "mask", 0.5, (1, 2))
    assert figure.layout.coloraxis.showscale is False and figure.layout.images[2].visible is False


def test_missing_evidence_has_no_scale():
    tiny = inspected(np.zeros((20, 20, 3), np.uint8))
    panels = TwoPanels(lambda *place: None)
    panels.show_picture(tiny, zoom_out=True)
    panels.show_view(0, tiny, "jpeg_history", 0.5, (0, 0))
    panels.show_view(1, tiny, "brightness", 0.5, (0, 0))
    layout = panels.figure.layout
    assert layout.coloraxis.showscale is False and layout.coloraxis2.showscale is True
    assert layout.coloraxis.cmin < layout.coloraxis.cmax


def test_uploading_from_the_figure_is_disabled():
    assert TwoPanels(lambda *place: None).figure._config["showSendToCloud"] is False
