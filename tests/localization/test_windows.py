"""Windows, votes and cells, from a picture of one pixel to one of 24 megapixels."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from exiflang.localization.consistency import cell_average, cell_consistency, resize_cells
from exiflang.localization.localizer import Comparison, SpliceLocalizer
from exiflang.localization.windows import (
    MOST_WINDOWS_PER_SIDE,
    embed_in_one_pass,
    embed_windows,
    picture_window,
    shared_stride,
    window_grid,
)
from exiflang.models.config import ExifLangConfig
from exiflang.models.model import ExifLang


class ColorEncoder:
    """Embeds a window as its mean color, and records the sizes of batches."""

    def __init__(self):
        self.batches = []

    def encode_image(self, patches):
        self.batches.append(len(patches))
        return F.normalize(patches.float().mean((2, 3)) - 127.5, dim=1)


class PixelEncoder:
    """Embeds a window as its pixels."""

    def encode_image(self, patches):
        return patches.float().flatten(1)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def grid_cells(height: int, width: int, window: int, stride: int) -> tuple[int, int]:
    spread = max(1, window // stride)
    return tuple((side - window) // stride + spread for side in (height, width))


# Windows


@settings(max_examples=300)
@given(st.integers(1, 70_000), st.integers(1, 70_000), st.integers(1, 600), st.integers(1, 100))
def test_the_window_grid_fits_every_picture(height, width, size, per_side):
    window, stride = window_grid(height, width, size, per_side)
    side, longest = min(height, width), max(height, width)
    assert window == min(side, size) and stride >= 1
    most = max(MOST_WINDOWS_PER_SIDE, per_side)
    assert (longest - window) // stride + 1 <= most + 1
    if (longest - window) <= most * (window // 2):
        assert stride <= max(window // 2, 1)
    if longest - window <= per_side * (window // 2):
        assert (longest - window) // stride + 1 <= per_side + 1


@settings(max_examples=300)
@given(st.integers(1, 70_000), st.integers(1, 70_000), st.sampled_from([16, 32, 40, 64, 96, 124]))
def test_consistency_of_every_picture_stays_small(height, width, size):
    window, stride = window_grid(height, width, size, 30)
    h, w = grid_cells(height, width, window, stride)
    assert h >= 1 and w >= 1
    assert max(h, w) <= 64  # at most 4096 cells: 67 MB


@pytest.mark.parametrize(
    "height, width, megabytes",
    [(4000, 6000, 50), (20, 8000, 1), (8000, 20, 1), (1, 100_000_000, 1), (78, 78, 20), (1, 1, 1), (20_000, 8000, 50)],
)
def test_memory_of_pairs(height, width, megabytes):
    window = picture_window(height, width, 64, calibrated=False)
    h, w = grid_cells(height, width, *window_grid(height, width, window, 30))
    assert 4 * (h * w) ** 2 < megabytes * 1e6


def test_window_grid_by_hand():
    assert window_grid(750, 1000, 64, 30) == (64, 32)  # (1000 - 64) / 30 = 31.2
    assert window_grid(800, 1200, 64, 30) == (64, 32)  # half a window at most
    assert window_grid(4000, 6000, 64, 30) == (64, 99)  # otherwise 186 windows per side
    assert window_grid(100, 120, 64, 30) == (64, 4)  # no more than 16 cells per side in a window
    assert window_grid(100, 120, 25, 30) == (25, 4)
    assert window_grid(10, 30, 64, 30) == (10, 1)
    assert window_grid(1, 1, 64, 30) == (1, 1)


@settings(max_examples=300)
@given(st.integers(1, 70_000), st.integers(1, 70_000), st.integers(1, 200), st.integers(1, 100), st.integers(1, 20))
def test_a_stride_multiple_changes_the_stride_by_less_than_the_multiple(height, width, size, per_side, multiple):
    window, free = window_grid(height, width, size, per_side)
    again, stride = window_grid(height, width, size, per_side, multiple)
    assert again == window and abs(stride - free) < multiple
    assert stride % multiple == 0 or (window < 2 * multiple and stride == free)
    most = max(MOST_WINDOWS_PER_SIDE, per_side)
    assert (max(height, width) - window) // stride <= most


def test_a_stride_multiple_by_hand():
    assert window_grid(256, 384, 36, 30) == (36, 12) and window_grid(256, 384, 36, 30, 8) == (36, 8)
    assert window_grid(768, 1024, 64, 30, 8) == (64, 32)
    assert window_grid(1500, 2000, 64, 30) == (64, 33) and window_grid(1500, 2000, 64, 30, 8) == (64, 40)
    assert window_grid(10, 30, 64, 30, 8) == (10, 1)


@settings(max_examples=300)
@given(st.integers(1, 9000), st.integers(1, 9000), st.integers(1, 200), st.integers(1, 100))
def test_windows_without_a_calibration_are_those_of_published_results(height, width, largest, per_side):
    """Published results without a calibration use a quarter of the side, and any number of cells per window."""
    side, longest = min(height, width), max(height, width)
    window = min(largest, max(side // 4, 16), side)
    wanted, least = -(-(longest - window) // per_side), -(-(longest - window) // max(MOST_WINDOWS_PER_SIDE, per_side))
    got = window_grid(height, width, picture_window(height, width, largest, calibrated=False), per_side)
    assert got == (window, max(min(wanted, window // 2), least, 1))


@pytest.mark.parametrize(
    "height, width, largest, window",
    [
        (256, 384, 124, 36),
        (768, 1024, 64, 64),
        (768, 1024, 200, 109),
        (200, 300, 64, 36),
        (30, 90, 64, 30),
        (1, 1, 9, 1),
    ],
)
def test_windows_of_a_calibrated_model_by_hand(height, width, largest, window):
    assert picture_window(height, width, largest, calibrated=True) == window
    assert picture_window(width, height, largest, calibrated=True) == window


def test_a_given_window_is_limited_by_the_shorter_side():
    localizer = SpliceLocalizer(ColorEncoder(), windows_per_side=8, window_size=50)
    assert localizer.embed(noise(60, 90))[1] == localizer.embed(noise(60, 90), calibrated=True)[1] == 50
    assert localizer.embed(noise(20, 90))[1] == 20


def test_window_rules_by_picture_size():
    localizer = SpliceLocalizer(ColorEncoder(), windows_per_side=8)
    assert localizer.embed(noise(80, 90))[1] == 20
    assert localizer.embed(noise(80, 90), calibrated=True)[1] == 36


@pytest.mark.parametrize("height, width, window, stride", [(20, 31, 8, 4), (9, 9, 9, 1), (17, 11, 4, 7), (1, 5, 1, 1)])
def test_windows_equal_crops_in_raster_order(height, width, window, stride):
    image = noise(height, width)
    embeddings = embed_windows(PixelEncoder(), image, window, stride)
    crops = [
        [image[y : y + window, x : x + window].transpose(2, 0, 1).ravel() for x in range(0, width - window + 1, stride)]
        for y in range(0, height - window + 1, stride)
    ]
    assert embeddings.dtype == np.float32
    np.testing.assert_array_equal(embeddings, np.array(crops, np.float32))


@pytest.mark.parametrize("batch_size", [1, 7, 10_000])
def test_batch_size_limits_batches_and_does_not_change_results(batch_size):
    image, encoder = noise(50, 70), ColorEncoder()
    embeddings = embed_windows(encoder, image, 16, 8, batch_size)
    np.testing.assert_array_equal(embeddings, embed_windows(ColorEncoder(), image, 16, 8))
    assert max(encoder.batches) <= batch_size and sum(encoder.batches) == embeddings.shape[0] * embeddings.shape[1]


@pytest.mark.parametrize("turn", [0, 1])
def test_windows_of_a_read_only_or_rotated_array(turn):
    image = np.rot90(noise(30, 40), turn)
    expected = embed_windows(PixelEncoder(), image.copy(), 8, 4)
    image.flags.writeable = False
    np.testing.assert_array_equal(embed_windows(PixelEncoder(), image, 8, 4), expected)


def without_padding(**changes) -> ExifLang:
    """A model whose windows share their features."""
    torch.manual_seed(0)
    tower = {"model_type": "trace_resnet", "num_channels": 6, "embedding_size": 4, "hidden_sizes": [4, 6]}
    tower |= {"depths": [0, 1], "padded": False}
    text = {"model_type": "distilbert", "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16, "vocab_size": 30}
    options = {"image_config": tower, "text_config": text, "residual_gain": 60.0, "pooling": "mean_std"}
    return ExifLang(ExifLangConfig(**options | {"embed_dim": 8, "patch_size": 32} | changes)).eval()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 70), st.integers(0, 70), st.integers(0, 12), st.integers(1, 6), st.sampled_from([1, 5, 10_000]))
def test_one_pass_equals_embedding_each_window(height, width, wider, every, stripe):
    model = without_padding()
    window, stride = model.receptive_field + wider, 4 * every
    image = noise(window + height, window + width)
    expected = embed_windows(model, image, window, stride)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("exiflang.localization.windows.STRIPE_PIXELS", stripe)
        found = embed_in_one_pass(model, image, window, stride)
    assert found.dtype == np.float32 and found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("changes", [{"pooling": "mean"}, {"residual_gain": 0.0}])
def test_one_pass_with_other_heads(changes):
    if "residual_gain" in changes:
        tower = without_padding().config.image_config | {"num_channels": 3}
        changes = changes | {"image_config": tower}
    model = without_padding(**changes)
    image = noise(60, 75)
    np.testing.assert_allclose(
        embed_in_one_pass(model, image, 30, 8), embed_windows(model, image, 30, 8), rtol=0, atol=1e-5
    )


def test_only_towers_without_padding_share_features():
    assert shared_stride(without_padding()) == 4
    assert shared_stride(ColorEncoder()) is None
    assert shared_stride(ExifLang(ExifLangConfig.preset("tiny"))) is None
    assert shared_stride(ExifLang(ExifLangConfig.preset("padded"))) is None


@pytest.mark.parametrize(
    "height, width, options, passes",
    [
        (60, 90, {}, 1),
        (60, 90, {"comparison": Comparison(fast=False)}, 0),
        (60, 90, {"comparison": Comparison(stride_multiple=5)}, 0),  # not a multiple of the tower's stride
        (10, 90, {}, 0),  # windows smaller than the tower's field
        (40, 4000, {}, 0),  # windows with gaps between them: embedding each is less work
        (1, 1, {}, 0),
    ],
)
def test_the_localizer_uses_one_pass_if_possible(monkeypatch, height, width, options, passes):
    calls = []
    wrapped = lambda *given, **more: calls.append(given) or embed_in_one_pass(*given, **more)  # noqa: E731
    monkeypatch.setattr("exiflang.localization.localizer.embed_in_one_pass", wrapped)
    model, image = without_padding(), noise(height, width)
    found, window, stride = SpliceLocalizer(model, window_size=32, **options).embed(image)
    assert len(calls) == passes
    np.testing.assert_allclose(found, embed_windows(model, image, window, stride), rtol=0, atol=1e-5)


def test_a_module_is_set_to_evaluation_mode():
    """Batch norm would make embeddings depend on the batch, and would be updated by the picture."""
    torch.manual_seed(0)
    model = ExifLang(ExifLangConfig.preset("tiny")).train()
    image = noise(80, 100)
    one, many = (SpliceLocalizer(model, 8, batch_size=size)(image).embeddings for size in (3, 1000))
    assert not model.training
    np.testing.assert_allclose(one, many, atol=1e-6)


# Votes


def loop_votes(values: np.ndarray, spread: int, pairs: bool) -> np.ndarray:
    """Every window (or pair) adds to every cell (or pair) it covers, one by one, in float64."""
    rows, cols = values.shape[:2]
    h, w = rows + spread - 1, cols + spread - 1
    cover = [(y, x, y + i, x + j) for y, x in np.ndindex(rows, cols) for i, j in np.ndindex(spread, spread)]
    count = np.zeros((h, w))
    for _, _, v, u in cover:
        count[v, u] += 1
    total = np.zeros((h, w, h, w) if pairs else (h, w, *values.shape[2:]))
    for y, x, v, u in cover:
        if not pairs:
            total[v, u] += values[y, x]
            continue
        for y2, x2, v2, u2 in cover:
            total[v, u, v2, u2] += values[y, x, y2, x2]
    if pairs:
        return total / (count[:, :, None, None] * count[None, None] + 1e-4)
    return total / count.reshape(h, w, *[1] * (values.ndim - 2))


@pytest.mark.parametrize("rows, cols", [(1, 1), (1, 2), (1, 6), (5, 1), (2, 3), (3, 4)])
@pytest.mark.parametrize("spread", [1, 2, 3, 5])
def test_votes_of_pairs_equal_the_loop(rows, cols, spread):
    values = np.random.default_rng(rows * cols + spread).uniform(0, 2, (rows, cols, rows, cols))
    got = cell_average(values, spread, pairs=True)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, loop_votes(values, spread, pairs=True), atol=1e-6)


@settings(max_examples=40)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 9), st.integers(0, 99))
def test_votes_of_values_equal_the_loop(rows, cols, spread, seed):
    values = np.random.default_rng(seed).normal(size=(rows, cols, 3))
    np.testing.assert_allclose(cell_average(values, spread), loop_votes(values, spread, pairs=False), atol=1e-6)


def test_votes_are_exact_for_a_large_spread():
    """16 windows per side cover a cell: a pair gets 65,536 votes in float32."""
    values = np.random.default_rng(0).uniform(0, 2, (16, 16, 16, 16))
    membership = np.array([[i <= j < i + 16 for j in range(31)] for i in range(16)], float)  # [rows, h]
    total = np.einsum("abcd,ah,bw,cg,dv->hwgv", values, *[membership] * 4, optimize=True)
    count = np.outer(membership.sum(0), membership.sum(0))
    expected = total / (count[:, :, None, None] * count + 1e-4)
    np.testing.assert_allclose(cell_average(values, 16, pairs=True), expected, atol=1e-6)


def test_consistency_is_one_minus_cosine():
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(3, 5, 4)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=2, keepdims=True)
    expected = (1 - np.einsum("abd,efd->abef", embeddings, embeddings)) / (1 + 1e-4)
    got = cell_consistency(embeddings, 1)
    assert got.dtype == np.float32 and got.min() >= 0 and got.max() <= 2
    np.testing.assert_allclose(got, expected, atol=1e-6)


# Cells to pixels


def loop_resize(cells: np.ndarray, height: int, width: int, window: int, stride: int) -> np.ndarray:
    h, w = cells.shape
    margin = (window - max(1, window // stride) * stride) / 2
    centers_y, centers_x = ([margin + stride * (i + 0.5) for i in range(n)] for n in (h, w))
    out = np.empty((height, width))
    for y, x in np.ndindex(height, width):
        along = [np.interp(x + 0.5, centers_x, row) for row in cells]
        out[y, x] = np.interp(y + 0.5, centers_y, along)
    return out


@pytest.mark.parametrize(
    "height, width, window, stride",
    [(1, 1, 1, 1), (20, 33, 8, 4), (20, 33, 8, 3), (31, 17, 5, 8), (16, 64, 16, 5), (9, 30, 9, 1)],
)
def test_cells_are_placed_where_their_windows_vote(height, width, window, stride):
    cells = np.random.default_rng(0).uniform(size=grid_cells(height, width, window, stride)).astype(np.float32)
    got = resize_cells(cells, height, width, window, stride)
    assert got.shape == (height, width) and got.dtype == np.float32
    expected = loop_resize(cells, height, width, window, stride)
    np.testing.assert_allclose(got, expected, atol=2e-6)


def test_maps_may_be_wider_than_32767_pixels():
    got = resize_cells(np.array([[0.0, 1.0]]), 1, 40_000, 20_000, 20_000)
    assert got.shape == (1, 40_000) and got[0, 0] == 0 and got[0, -1] == 1 and (np.diff(got[0]) >= 0).all()


def test_gaps_between_windows_keep_the_map_centered():
    """A symmetric picture has a symmetric map, even if the stride is wider than the window."""
    got = resize_cells(np.array([[0.0, 1.0, 0.0]]), 4, 24, 4, 10)
    np.testing.assert_allclose(got, got[:, ::-1], atol=1e-6)
