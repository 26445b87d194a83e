import io

import jpeglib
import numpy as np
import pytest
import skimage.data
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from exiflang.data import jpeg as module
from exiflang.data.jpeg import jpeg, quantization_tables, rescale


def natural(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A photo's detail, colors and flat parts: uint8 [H, W, 3]."""
    photo = (skimage.data.chelsea, skimage.data.astronaut, skimage.data.coffee)[seed % 3]()
    rng = np.random.default_rng(seed)
    top, left = rng.integers(photo.shape[0] - height + 1), rng.integers(photo.shape[1] - width + 1)
    return photo[top : top + height, left : left + width].copy()


def as_batch(*pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)  # N x [H, W, 3] -> [N, 3, H, W]


def as_picture(pixels: torch.Tensor) -> np.ndarray:
    return pixels.permute(1, 2, 0).contiguous().numpy()  # [3, H, W] -> [H, W, 3]


def encoded(picture: np.ndarray, quality: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return file.getvalue()


def pillow_jpeg(picture: np.ndarray, quality: int) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encoded(picture, quality))))


def pillow_rescale(picture: np.ndarray, factor: float, height: int, width: int) -> np.ndarray:
    box = (0, 0, width / factor, height / factor)
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC, box=box))


def difference(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype == np.uint8
    return np.abs(ours.astype(int) - theirs)


# ------------------------------------------------ JPEG ------------------------------------------------
@pytest.mark.parametrize("quality", [1, 49, 50, 75, 98, 100])
def test_quantization_tables_match_libjpeg(quality):
    file = Image.open(io.BytesIO(encoded(natural(16, 16), quality)))
    tables = np.array([file.quantization[0], file.quantization[1]])  # Pillow returns them row by row
    assert np.array_equal(quantization_tables(quality).numpy(), tables)


# Other builds of libjpeg may differ by a few levels; with the one in Pillow's wheels, all pixels are equal.
@pytest.mark.parametrize("quality", [30, 60, 82, 95, 100])
def test_jpeg_matches_pillow(quality):
    for seed, (height, width) in enumerate([(128, 128), (97, 131), (120, 90), (33, 50)]):
        picture = natural(height, width, seed)
        ours = as_picture(jpeg(as_batch(picture), quality)[0])
        off = difference(ours, pillow_jpeg(picture, quality))
        assert off.max() <= 2
        assert off.mean() < 0.005


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 100))
@settings(max_examples=60)
def test_jpeg_of_any_size_and_quality(height, width, quality):
    picture = natural(height, width, height + width)
    ours = as_picture(jpeg(as_batch(picture), quality)[0])
    assert difference(ours, pillow_jpeg(picture, quality)).mean() < 0.05


@pytest.mark.parametrize("kind", ["noise", "ramp", "black", "white", "primaries", "checkerboard"])
def test_jpeg_of_synthetic_pictures(kind):
    rng, rows, cols = np.random.default_rng(3), *np.indices((48, 64))
    picture = {
        "noise": rng.integers(0, 256, (48, 64, 3)),
        "ramp": np.stack([rows * 5, cols * 3, 255 - rows - cols], axis=2),
        "black": np.zeros((48, 64, 3)),
        "white": np.full((48, 64, 3), 255),
        "primaries": 255 * np.stack([cols // 8 & 1, cols // 16 & 1, rows // 8 & 1], axis=2),
        "checkerboard": np.repeat(255 * ((rows + cols) % 2)[..., None], 3, axis=2),
    }[kind].astype(np.uint8)
    for quality in (40, 90):
        off = difference(as_picture(jpeg(as_batch(picture), quality)[0]), pillow_jpeg(picture, quality))
        assert off.max() <= 2
        assert off.mean() < 0.01


@pytest.mark.parametrize("size", [(64, 96), (50, 71), (7, 9)])
def test_quantized_blocks_match_libjpeg(tmp_path, size):
    picture = natural(*size, seed=1)
    (tmp_path / "saved.jpg").write_bytes(encoded(picture, 85))
    saved = jpeglib.read_dct(str(tmp_path / "saved.jpg"))
    tables = quantization_tables(85)
    luma, chroma = module._encoder_planes(as_batch(picture).float())
    ours = [module._quantized(luma, tables[:1])[0, 0], *module._quantized(chroma, tables[1:])[0]]
    for plane, blocks in zip(ours, (saved.Y, saved.Cb, saved.Cr), strict=True):
        rows, cols = blocks.shape[:2]  # ours has whole MCUs, libjpeg keeps whole blocks
        kept = plane.transpose(1, 2)[:rows, :cols].numpy()  # [rows, 8, cols, 8] -> [rows, cols, 8, 8]
        assert np.abs(kept - blocks).max() <= 1
        assert np.mean(kept != blocks) < 1e-3


def test_each_picture_may_have_its_own_quality():
    pictures = as_batch(*(natural(40, 56, seed) for seed in range(3)))
    together = jpeg(pictures, torch.tensor([35, 80, 99]))
    for picture, quality, result in zip(pictures, (35, 80, 99), together, strict=True):
        assert torch.equal(result, jpeg(picture[None], quality)[0])


def test_memory_layout_and_autocast_do_not_matter():
    pictures = as_batch(*(natural(40, 56, seed) for seed in range(2))).contiguous()
    plain = jpeg(pictures, 80)
    assert torch.equal(jpeg(pictures.contiguous(memory_format=torch.channels_last), 80), plain)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(jpeg(pictures, 80), plain)


def test_empty_batches():
    none = torch.zeros(0, 3, 20, 24, dtype=torch.uint8)
    assert jpeg(none, 80).shape == (0, 3, 20, 24)
    assert jpeg(none, torch.zeros(0, dtype=torch.int64)).shape == (0, 3, 20, 24)
    assert rescale(none, 0.5).shape == (0, 3, 10, 12)


@pytest.mark.parametrize("quality", [0, 101, -5, 80.0, torch.tensor([50, 101, 50]), torch.full((2,), 50), [[50]] * 3])
def test_wrong_qualities_are_refused(quality):
    with pytest.raises(ValueError, match="qualit"):
        jpeg(torch.zeros(3, 3, 16, 16, dtype=torch.uint8), quality)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (torch.zeros(3, 16, 16, dtype=torch.uint8), "B, 3, H, W"),
        (torch.zeros(1, 1, 16, 16, dtype=torch.uint8), "B, 3, H, W"),
        (torch.zeros(1, 3, 0, 16, dtype=torch.uint8), "B, 3, H, W"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.int32), "uint8"),
        (torch.zeros(1, 3, 16, 16), "uint8"),
    ],
)
def test_wrong_pixels_are_refused(pixels, message):
    for call in (lambda: jpeg(pixels, 80), lambda: rescale(pixels, 0.5)):
        with pytest.raises(ValueError, match=message):
            call()


# ---------------------------------------------- rescaling ---------------------------------------------
@pytest.mark.parametrize("factor", [0.29, 0.5, 0.75, 0.83, 1.0, 1.2, 1.5])
def test_rescaling_matches_pillow(factor):
    picture = natural(100, 121, seed=2)
    ours = as_picture(rescale(as_batch(picture), factor)[0])
    assert ours.shape[0] == round(100 * factor)  # also where 100 * factor falls slightly short in floating point
    off = difference(ours, pillow_rescale(picture, factor, *ours.shape[:2]))
    assert off.max() <= 2
    assert off.mean() < 0.05
    if factor == 0.5:
        whole = Image.fromarray(picture[:, :120]).resize((60, 50), Image.Resampling.BICUBIC)
        assert difference(as_picture(rescale(as_batch(picture[:, :120]), 0.5)[0]), np.asarray(whole)).mean() < 0.05


@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan"), float("inf"), 0.01])
def test_wrong_factors_are_refused(factor):
    with pytest.raises(ValueError, match="factor"):
        rescale(torch.zeros(1, 3, 16, 16, dtype=torch.uint8), factor)
