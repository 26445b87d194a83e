"""Figures contain the given data; sheets have the documented sizes."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageFont

from exiflang.data.shards import Photo, Sample, read_photos
from exiflang.viz.images import (
    LABEL,
    MARGIN,
    LabeledImage,
    beside_text,
    heat_colors,
    heatmap_panel,
    high_pass,
    mark_windows,
    picture_panel,
    residual_row,
    sheet,
    tile_sheet,
)
from exiflang.viz.plots import plot_scores, plot_shares, plot_similarities, plot_training
from tests.shard_writer import write_shards


def panel(height: int = 20, width: int = 30, label: str = "label") -> LabeledImage:
    return LabeledImage(np.full((height, width, 3), 90, np.uint8), label)


def test_shares_by_hand():
    bars = plot_shares(pd.Series({"Make": 0.75, "Flash": 0.25}), "share of photos").data[0]
    assert list(bars.x) == [0.75, 0.25] and list(bars.y) == ["Make", "Flash"]


def test_years_are_labels_and_empty_data_has_no_bars():
    assert list(plot_shares(pd.Series({2004: 1.0}), "years").data[0].y) == ["2004"]
    assert len(plot_shares(pd.Series(dtype=float), "nothing").data[0].x) == 0


def test_training_curves_show_loss_gradient_norm_and_rate():
    log = [{"step": i, "loss": 5.0 / i, "grad_norm": 1.0 * i, "lr": 1e-3} for i in (1, 2, 3)]
    figure = plot_training(log, batch_size=64)
    assert [list(curve.x) for curve in figure.data] == [[1, 2, 3]] * 3
    assert list(figure.data[0].y) == [5.0, 2.5, 5 / 3]
    assert list(figure.data[1].y) == [1, 2, 3] and list(figure.data[2].y) == [1e-3] * 3
    assert figure.layout.shapes[0].y0 == pytest.approx(np.log(64))
    assert [getattr(figure.layout, f"yaxis{n}").title.text for n in ("", 2, 3)] == [
        "loss",
        "gradient norm",
        "learning rate",
    ]


def test_validated_steps_are_marked_on_the_curve():
    log = [{"step": step, "loss": 1.0, "grad_norm": 1.0, "lr": 1e-3} for step in (1, 2, 3, 4)]
    log[1]["validation"], log[3]["validation"] = 0.5, 0.75
    scores = plot_training(log, batch_size=8).data[3]
    assert list(scores.x) == [2, 4] and list(scores.y) == [0.5, 0.75] and "markers" in scores.mode


def test_similarities_are_side_by_side_on_one_scale():
    before, after = np.zeros((3, 3)), np.eye(3)
    figure = plot_similarities({"before": before, "after": after})
    assert [note.text for note in figure.layout.annotations] == ["before", "after"]
    assert all(map(np.array_equal, (matrix.z for matrix in figure.data), (before, after)))
    assert {matrix.coloraxis for matrix in figure.data} == {"coloraxis"}


def summary() -> pd.DataFrame:
    rows = [
        {"set": group, "method": method, "readout": "far_friends", "p_map": value, "p_map_se": 0.01, "auc": value / 2}
        for (group, method), value in {("unseen", "model"): 0.8, ("unseen", "b"): 0.4, ("seen", "model"): 0.9}.items()
    ]
    return pd.DataFrame(rows)


def test_scores_are_bars_with_errors():
    figure = plot_scores(summary())
    assert [bar.name for bar in figure.data] == ["model", "b"]
    assert list(figure.data[0].y) == [0.8, 0.9] and list(figure.data[0].x[0]) == ["unseen", "seen"]
    assert list(figure.data[0].error_y.array) == [0.01, 0.01]
    other = plot_scores(summary(), "auc")
    assert list(other.data[0].y) == [0.4, 0.45] and other.data[0].error_y.array is None


def test_figures_are_plain_and_need_no_network():
    page = plot_scores(summary()).to_html(include_plotlyjs=False, full_html=False)
    assert "<script src" not in page


def test_heat_colors_are_clipped_to_the_scale():
    colors = heat_colors(np.array([[-1.0, 0.0, 0.5, 1.0, 9.0]]), 0, 1)
    assert colors.shape == (1, 5, 3) and colors.dtype == np.uint8
    np.testing.assert_array_equal(colors[0, 0], colors[0, 1])
    np.testing.assert_array_equal(colors[0, 3], colors[0, 4])
    brightness = colors[0, 1:4].astype(int).sum(1)
    assert (np.diff(brightness) > 100).all()


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_a_flat_heatmap_is_uniformly_dark(value):
    image = heatmap_panel(np.full((7, 9), value, np.float32), "flat").image
    assert image.shape == (7, 9, 3) and np.ptp(image, axis=(0, 1)).max() == 0 and image.max() < 10


def test_a_heatmap_panel_is_brightest_at_the_maximum():
    heatmap = np.linspace(0.4, 0.5, 200, dtype=np.float32).reshape(10, 20)
    brightness = heatmap_panel(heatmap, "map").image.astype(int).sum(2).ravel()
    assert brightness[-1] > 500 > 50 > brightness[0]


@pytest.mark.parametrize("color", [(230, 0, 0), (255, 255, 255), (0, 0, 0), (128, 128, 128)])
def test_the_outline_is_outside_the_mask_and_visible_on_any_color(color):
    image = np.full((60, 80, 3), color, np.uint8)
    mask = np.zeros((60, 80), bool)
    mask[20:40, 30:50] = True
    got = picture_panel(image, mask, "name")
    changed = (got.image != image).any(2)
    assert got.label == "name" and not changed[mask].any()
    assert changed.any() and not changed[:16].any() and not changed[:, :26].any()
    assert (image == color).all()  # the caller's picture is not modified


@pytest.mark.parametrize("fill", [False, True])
def test_a_mask_without_a_border_has_no_outline(fill):
    image = np.full((10, 12, 3), 70, np.uint8)
    np.testing.assert_array_equal(picture_panel(image, np.full((10, 12), fill), "").image, image)


def test_sheet_size_and_positions():
    page = sheet([[panel(20, 30), LabeledImage(np.full((60, 30, 3), 200, np.uint8), "b")], [panel(10, 40)]], width=120)
    assert page.mode == "RGB" and page.size == (2 * 120 + MARGIN, 240 + 30 + 2 * (LABEL + MARGIN))
    pixels = np.asarray(page)
    assert (pixels[:80, :120] == 90).all() and (pixels[:240, 126:] == 200).all()
    assert (pixels[240 + LABEL + MARGIN :][:30, :120] == 90).all()
    assert (pixels[:80, 120:126] == 255).all()  # the margin


@pytest.mark.parametrize("height, width", [(1, 1), (1, 5000), (5000, 1), (8000, 20)])
def test_a_sheet_of_extreme_pictures_is_small(height, width):
    page = sheet([[panel(height, width)]], width=100)
    assert page.width == 100 and LABEL < page.height <= 200 + LABEL + MARGIN


def test_labels_stay_in_their_column():
    page = np.asarray(sheet([[panel(label="W" * 300 + "\nsecond line"), panel(label="")]], width=100))
    below = page[68 : 68 + LABEL]
    assert (below[:, :98] < 128).any() and (below[:, 100:] == 255).all()
    assert (page[67 + LABEL :] == 255).all()
    short = np.asarray(sheet([[panel(label="short")]], width=100))[67:]
    font = ImageFont.load_default(13)
    dark = np.flatnonzero((short < 128).any(axis=(0, 2)))
    assert dark.max() <= 2 + font.getlength("short")


@pytest.mark.parametrize("rows", [[], [[]], [[panel()], []]])
def test_a_sheet_without_panels_is_refused(rows):
    with pytest.raises(ValueError, match="at least one row"):
        sheet(rows)


def test_a_sentence_is_placed_beside_its_patch():
    patch = np.full((8, 8, 3), 90, np.uint8)
    for text in ("Make: A", "Make: " + "Acme, " * 300, "W" * 500, ""):
        page = np.asarray(beside_text(patch, text, width=600))
        assert page.shape[1] == 600 and (page[:256, :256] == 90).all()
        written = (page[:, 256:] < 128).any(axis=2)
        assert written.any() == bool(text) and not written[:, :8].any() and not written[-1].any()
        assert not written[:, -1].any()
    assert len(page) == 256 < len(np.asarray(beside_text(patch, "Acme, " * 300, width=600)))


def test_a_high_pass_keeps_edges_and_removes_brightness():
    image = np.full((40, 40, 3), 200, np.uint8)
    np.testing.assert_allclose(high_pass(image), 0, atol=1e-3)
    image[:, 20:] = 100
    residual = high_pass(image)
    assert residual.dtype == np.float32 and residual[:, 19].min() > 10 and residual[:, 20].max() < -10
    np.testing.assert_allclose(residual[:, :10], 0, atol=1e-3)


def test_the_spectrum_shows_the_period_of_camera_traces():
    rng = np.random.default_rng(0)
    tiles = [rng.integers(100, 110, (64, 80, 3), np.uint8) for _ in range(4)]
    for tile in tiles:
        tile[:, ::4] += 40  # a period of 4 pixels: 16 of 64 from the middle
    patch, residual, spectrum = residual_row(tiles, "camera", size=32)
    assert patch.label == "camera" and patch.image.shape == residual.image.shape == (256, 256, 3)
    assert (patch.image[:8, :8] == tiles[0][0, 0]).all()
    brightness = spectrum.image.astype(int).sum(2)
    assert brightness.shape == (64, 64)
    assert brightness[32, 32 + 16] == brightness[32, 32 - 16] == brightness.max() > brightness[32, 32 + 9] + 100


def test_windows_are_marked_by_dots_and_one_by_a_frame():
    image = np.zeros((60, 80, 3), np.uint8)
    yellow = (mark_windows(image, (2, 3, 20, 20), (1, 2)) == (255, 220, 0)).all(2)
    centers = [10, 10, 10, 30, 30, 30], [10, 30, 50, 10, 30, 50]
    assert yellow[centers].all() and not image.any()
    assert yellow[20:40, 40].all() and yellow[20, 40:60].all() and yellow[39, 40:60].all()
    assert not yellow[15, 15:].any() and not yellow[45:].any()


def shard_of_tiles(folder: Path, cameras: list[str]) -> list[Photo]:
    folder.mkdir()
    samples = []
    for i, camera in enumerate(cameras):
        path = folder / "tile.png"
        Image.new("RGB", (32, 32), (8 * i, 0, 0)).save(path)
        meta = {"photo": f"p{i}", "exif": f'{{"Image Make": "{camera}", "Image Model": "M{camera}"}}'}
        samples.append(Sample(f"{i:04d}", path.read_bytes(), "png", meta))
    return read_photos(write_shards(samples, folder))[0]


@pytest.mark.parametrize("cameras, expected", [(1, 1), (3, 3), (40, 6)])
def test_a_tile_sheet_shows_each_camera_once(tmp_path, cameras, expected):
    names = [f"C{i:02d}" for i in range(cameras)]
    photos = shard_of_tiles(tmp_path / "shards", names + names[:1])
    page = tile_sheet(photos, columns=3, rows=2)
    columns, rows = min(expected, 3), -(-expected // 3)
    assert page.size == (columns * (160 + MARGIN) - MARGIN, rows * (160 + LABEL + MARGIN))


def test_a_tile_sheet_without_photos_is_refused():
    with pytest.raises(ValueError, match="at least one row"):
        tile_sheet([])
