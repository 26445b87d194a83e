"""The localizer, its views and scores, on pictures from one pixel upwards."""

import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import average_precision_score

from exiflang.evaluation.baselines import BASELINES, MeanColor
from exiflang.localization.clustering import READOUTS, detection_score
from exiflang.localization.consistency import principal_components
from exiflang.localization.localizer import SpliceLocalizer, to_heatmap
from exiflang.localization.windows import window_grid
from exiflang.models.config import ExifLangConfig
from exiflang.models.model import ExifLang
from exiflang.utils.images import ImageError


class ColorEncoder:
    """Embeds a window as its mean color; no `config`, no `device`."""

    def encode_image(self, patches):
        return F.normalize(patches.float().mean((2, 3)) - 127.5, dim=1)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def pasted(height: int = 300, width: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """A reddish picture with a bluish block."""
    rng = np.random.default_rng(0)
    mask = np.zeros((height, width), bool)
    mask[60:150, 220:320] = True
    color = np.where(mask[..., None], (60, 90, 200), (200, 110, 60))
    return np.clip(color + rng.normal(0, 20, (height, width, 3)), 0, 255).astype(np.uint8), mask


def grid_cells(height: int, width: int, window: int, stride: int) -> tuple[int, int]:
    spread = max(1, window // stride)
    return tuple((side - window) // stride + spread for side in (height, width))


# Views and scores


@pytest.mark.parametrize("readout", READOUTS)
def test_the_heatmap_preserves_order_and_lies_in_0_to_1(readout):
    low = 0.0 if readout in ("mean_shift", "mean_dissimilarity") else -1.0
    raw = np.linspace(low - 1e-6, low + 2 + 1e-6, 101, dtype=np.float32)[None]
    heatmap = to_heatmap(raw, readout)
    assert heatmap.dtype == np.float32 and heatmap.min() == 0 and heatmap.max() == 1
    assert (np.diff(heatmap[0]) >= 0).all() and (np.diff(heatmap[0, 1:-1]) > 0).all()


@pytest.mark.parametrize("rows, cols, dim", [(1, 1, 8), (1, 2, 8), (1, 3, 8), (4, 5, 8), (4, 5, 2), (4, 5, 1)])
def test_principal_components_shape_and_range(rows, cols, dim):
    embeddings = np.random.default_rng(0).normal(size=(rows, cols, dim)).astype(np.float32)
    pca = principal_components(embeddings, 2)
    assert pca.shape == (rows + 1, cols + 1, 3) and pca.dtype == np.float32
    assert np.isfinite(pca).all() and pca.min() >= 0 and pca.max() <= 1
    missing = slice(min(3, dim, rows * cols - 1), None)
    assert (pca[..., missing] == 0.5).all()


def test_principal_components_do_not_amplify_rounding():
    two = np.eye(8, dtype=np.float32)[[0, 0, 1, 0, 1, 1]].reshape(2, 3, 8)
    two = two + np.random.default_rng(0).normal(0, 1e-7, two.shape).astype(np.float32)
    pca = principal_components(two, 1)
    assert np.ptp(pca[..., 0]) > 0.1 and (pca[..., 1:] == 0.5).all()


def test_principal_components_are_whitened():
    embeddings = np.random.default_rng(0).normal(size=(12, 15, 6)).astype(np.float32) * [5, 1, 1, 1, 1, 0.1]
    flat = (principal_components(embeddings.astype(np.float32), 1).reshape(-1, 3) - 0.5) * 6
    np.testing.assert_allclose(np.cov(flat.T), np.eye(3), atol=0.05)  # clipped at 3 deviations


def test_detection_score():
    cells, consistency = np.array([[1.0, 3.0]]), np.array([[[[0.0, 1.0]], [[1.0, 0.0]]]])
    assert detection_score(cells, consistency, "mean_shift") == 0.5
    assert detection_score(cells, consistency, "far_friends") == 1.0


# The localizer


@pytest.mark.parametrize("readout", READOUTS)
def test_a_pasted_block_is_found(readout):
    image, mask = pasted()
    result = SpliceLocalizer(ColorEncoder(), window_size=32, readout=readout)(image)
    assert average_precision_score(mask.ravel(), result.heatmap.ravel()) > 0.9
    assert average_precision_score(mask.ravel(), result.raw.ravel()) > 0.9
    assert (result.mask & mask).sum() / (result.mask | mask).sum() > 0.6
    flat = SpliceLocalizer(ColorEncoder(), window_size=32, readout=readout)(np.full_like(image, 90))
    assert result.score > flat.score + 0.05


def test_shapes_dtypes_and_ranges():
    image, _ = pasted()
    result = SpliceLocalizer(ColorEncoder(), window_size=32)(image)
    h, w = grid_cells(300, 400, result.window_size, result.stride)
    rows, cols = ((side - result.window_size) // result.stride + 1 for side in (300, 400))
    assert (result.window_size, result.stride) == window_grid(300, 400, 32, 30)
    assert result.heatmap.shape == result.raw.shape == result.mask.shape == (300, 400)
    assert result.consistency.shape == (h, w, h, w) and result.pca.shape == (h, w, 3)
    assert result.embeddings.shape == (rows, cols, 3)
    for array in (result.heatmap, result.raw, result.consistency, result.embeddings, result.pca):
        assert array.dtype == np.float32
    assert result.mask.dtype == bool and isinstance(result.score, float)
    assert 0 <= result.heatmap.min() and result.heatmap.max() <= 1
    order = np.argsort(result.raw, axis=None)
    assert (np.diff(result.heatmap.ravel()[order]) >= 0).all()
    assert "array" not in repr(result)


def test_the_same_picture_gives_the_same_result_from_any_source(tmp_path):
    image, _ = pasted()
    path = tmp_path / "picture.png"
    Image.fromarray(image).save(path)
    localizer = SpliceLocalizer(ColorEncoder(), window_size=32)
    expected = localizer(image)
    for source in (path, str(path), path.read_bytes(), Image.fromarray(image), image):
        result = localizer(source)
        for name in ("heatmap", "raw", "mask", "consistency", "embeddings", "pca"):
            np.testing.assert_array_equal(getattr(result, name), getattr(expected, name))
        assert result.score == expected.score


def as_file(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "picture",
    [
        noise(60, 80)[..., 0],
        Image.fromarray(noise(60, 80)).convert("L"),
        Image.fromarray(noise(60, 80)).convert("P"),
        Image.fromarray(noise(60, 80)).convert("RGBA"),
        Image.fromarray(noise(60, 80)).convert("CMYK"),
        Image.fromarray(noise(60, 80)).convert("1"),
        as_file(Image.fromarray(noise(60, 80)[..., 0].astype(np.uint16) * 257)),
        as_file(Image.fromarray(noise(60, 80)), "JPEG"),
    ],
    ids=["gray array", "gray", "palette", "RGBA", "CMYK", "bilevel", "16 bits", "JPEG"],
)
def test_other_pixel_formats(picture):
    result = SpliceLocalizer(MeanColor(), windows_per_side=10)(picture)
    assert result.heatmap.shape == (60, 80) and np.isfinite(result.raw).all()


@pytest.mark.parametrize("height, width", [(1, 1), (1, 2), (2, 2), (1, 300), (300, 1), (15, 15), (16, 17), (20, 8000)])
@pytest.mark.parametrize("readout", READOUTS)
def test_tiny_and_long_pictures(height, width, readout):
    result = SpliceLocalizer(MeanColor(), readout=readout)(noise(height, width))
    assert result.heatmap.shape == result.mask.shape == (height, width)
    assert np.isfinite(result.heatmap).all() and np.isfinite(result.score) and result.window_size <= min(height, width)


@settings(max_examples=25)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), st.integers(1, 12))
def test_no_picture_size_crashes(height, width, window, per_side):
    result = SpliceLocalizer(MeanColor(), per_side, window)(noise(height, width))
    assert result.heatmap.shape == result.mask.shape == (height, width) and np.isfinite(result.score)


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("color", [0, 128, 255])
def test_one_color_gives_a_flat_map_and_no_mask(readout, color):
    result = SpliceLocalizer(MeanColor(), windows_per_side=10, readout=readout)(np.full((90, 120, 3), color, np.uint8))
    assert np.ptp(result.heatmap) < 1e-4 and not result.mask.any() and (result.pca == 0.5).all()


@pytest.mark.parametrize("encoder", BASELINES)
def test_encoders_need_no_config(encoder):
    result = SpliceLocalizer(BASELINES[encoder](), windows_per_side=8)(noise(256, 300))
    assert result.window_size == 64 and np.isfinite(result.raw).all()


@pytest.mark.parametrize("height, width", [(1, 1), (7, 9), (90, 120)])
def test_a_real_model(height, width):
    torch.manual_seed(0)
    model = ExifLang(ExifLangConfig.preset("tiny"))
    result = SpliceLocalizer(model, windows_per_side=6)(noise(height, width))
    assert result.heatmap.shape == (height, width) and np.isfinite(result.raw).all()
    assert result.embeddings.shape[2] == 32 and result.window_size == min(height, width, max(height // 4, 16))


def test_the_window_is_the_patch_of_the_model_unless_given():
    model = ExifLang(ExifLangConfig.preset("tiny"))
    assert SpliceLocalizer(model).window_size == 32
    assert SpliceLocalizer(model, window_size=20).window_size == 20
    assert SpliceLocalizer(MeanColor()).window_size == 64


def test_nan_embeddings_are_an_error():
    class Broken:
        def encode_image(self, patches):
            return torch.full((len(patches), 4), torch.nan)

    with pytest.raises(ValueError, match="embeddings are broken"):
        SpliceLocalizer(Broken())(noise(64, 64))


def test_the_error_for_an_unknown_readout_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown readout 'far_frends': choose one of .*far_friends"):
        SpliceLocalizer(MeanColor(), readout="far_frends")


@pytest.mark.parametrize(
    "options", [{"windows_per_side": 0}, {"window_size": 0}, {"window_size": -1}, {"batch_size": 0}]
)
def test_impossible_settings_are_refused(options):
    with pytest.raises(ValueError, match="must be at least 1"):
        SpliceLocalizer(MeanColor(), **options)


def test_the_error_names_a_file_that_is_not_a_picture(tmp_path):
    path = tmp_path / "notes.jpg"
    path.write_text("no picture")
    localizer = SpliceLocalizer(MeanColor())
    with pytest.raises(ImageError, match="notes.jpg"):
        localizer(path)
    with pytest.raises(ImageError, match="missing.jpg"):
        localizer(tmp_path / "missing.jpg")
    with pytest.raises(TypeError, match="not list"):
        localizer([[0, 1]])
