"""JPEG and bicubic rescaling of a batch of pictures, as libjpeg and Pillow compute them, on any device."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from exiflang.utils.dct import standard_tables


def quantization_tables(quality: int | Tensor) -> Tensor:
    """The IJG's tables: float32 [2, 64] (luma, chroma; row by row), or [B, 2, 64] for qualities [B], in 1..255.

    Raises `ValueError` for a quality outside 1..100.
    """
    quality = torch.as_tensor(quality)
    if quality.is_floating_point() or quality.ndim > 1:
        raise ValueError(f"quality is {quality.dtype} {list(quality.shape)}: give an int or an int tensor [B]")
    if quality.numel() and not 1 <= int(quality.min()) <= int(quality.max()) <= 100:
        raise ValueError(f"qualities run from {int(quality.min())} to {int(quality.max())}: they must lie in 1..100")
    tables = [standard_tables(each) for each in quality.flatten().tolist()]
    return torch.tensor(tables, dtype=torch.float32, device=quality.device).reshape(*quality.shape, 2, 64)


@torch.no_grad()
def jpeg(pixels: Tensor, quality: int | Tensor) -> Tensor:
    """The pixels after one JPEG save (4:2:0) and load, as computed by libjpeg (and so by Pillow).

    All steps are libjpeg's integer formulas (colors, averaged chroma, "fancy" triangle upsampling, accurate DCT), exact
    in floating point. Sides need not be multiples of 8. Gradients are not tracked.

    Args:
        pixels: uint8 [B, 3, H, W].
        quality: 1..100, one for all or an int tensor [B]; IJG tables, see `quantization_tables`.

    Returns:
        uint8 [B, 3, H, W].

    Raises:
        ValueError: wrong shape, dtype or quality.
    """
    levels = _to_levels(pixels)
    tables = quantization_tables(quality).to(levels.device)
    if tables.ndim == 3 and len(tables) != len(levels):
        raise ValueError(f"{len(tables)} qualities for {len(levels)} pictures: give one, or one per picture")
    height, width = levels.shape[2:]
    luma, chroma = _encoder_planes(levels)
    luma = _through_blocks(luma, tables[..., :1, :])[..., :height, :width]
    chroma = _through_blocks(chroma, tables[..., 1:, :])
    chroma = _upsample(chroma[..., : -(-height // 2), : -(-width // 2)])
    return _to_rgb(luma, chroma[..., :height, :width])


def _to_levels(pixels: Tensor) -> Tensor:
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[1] != 3 or 0 in pixels.shape[2:]:
        raise ValueError(f"pixels must be uint8 [B, 3, H, W], not {pixels.dtype} {list(pixels.shape)}")
    return pixels.float()


def _encoder_planes(levels: Tensor) -> tuple[Tensor, Tensor]:
    """Levels [B, 3, H, W] -> luma [B, 1, h, w] and chroma [B, 2, h', w'], padded to whole blocks as in libjpeg.

    Columns are repeated before chroma is averaged, rows after.
    """
    height, width = levels.shape[2:]
    levels = F.pad(levels, (0, -width % 16, 0, height % 2), mode="replicate")
    luma, chroma = _to_ycc(levels)
    planes = luma, _downsample(chroma)
    luma, chroma = (F.pad(plane, (0, 0, 0, -plane.shape[2] % 8), mode="replicate") for plane in planes)
    return luma, chroma


# libjpeg's accurate integer DCT (jfdctint.c, jidctint.c) as one matrix: 8192 sqrt(8) times the DCT-II, including the
# rounding of its shared factors. Rows then columns forward, columns then rows back, rounded in between.
_DCT = torch.tensor(
    [
        [8192, 8192, 8192, 8192, 8192, 8192, 8192, 8192],
        [11363, 9633, 6437, 2260, -2260, -6437, -9633, -11363],
        [10703, 4433, -4433, -10703, -10703, -4433, 4433, 10703],
        [9633, -2259, -11362, -6436, 6436, 11362, 2259, -9633],
        [8192, -8192, -8192, 8192, 8192, -8192, -8192, 8192],
        [6437, -11362, 2261, 9633, -9633, -2261, 11362, -6437],
        [4433, -10704, 10704, -4433, -4433, 10704, -10704, 4433],
        [2260, -6436, 9633, -11363, 11363, -9633, 6436, -2260],
    ],
    dtype=torch.float32,
)  # fmt: skip


# Weights are libjpeg's, in 1/65536: all sums stay below 2^24 and so are exact in float32.
def _to_ycc(levels: Tensor) -> tuple[Tensor, Tensor]:
    """jccolor.c; Cb and Cr include the offset 128, and halves round down."""
    red, green, blue = levels.split(1, dim=1)  # 3 x [B, 1, H, W]
    luma = (19595 * red).add_(green, alpha=38470).add_(blue, alpha=7471).add_(32768)
    middle = (128 << 16) + 32767
    cb = (-11059 * red).add_(green, alpha=-21709).add_(blue, alpha=32768).add_(middle)
    cr = (32768 * red).add_(green, alpha=-27439).add_(blue, alpha=-5329).add_(middle)
    return _floor_of(luma), _floor_of(torch.cat([cb, cr], dim=1))


def _floor_of(sums: Tensor) -> Tensor:
    return sums.div_(65536).floor_()


def _to_rgb(luma: Tensor, chroma: Tensor) -> Tensor:
    """jdcolor.c: luma [B, 1, H, W] and chroma [B, 2, H, W] -> uint8 [B, 3, H, W]."""
    cb, cr = (chroma - 128).split(1, dim=1)  # 2 x [B, 1, H, W]
    red = (91881 * cr).add_(32768)
    green = (-22554 * cb).add_(cr, alpha=-46802).add_(32768)
    blue = (116130 * cb).add_(32768)
    rgb = _floor_of(torch.cat([red, green, blue], dim=1)).add_(luma)
    return rgb.clamp_(0, 255).to(torch.uint8)


def _columns(even: float, odd: float, like: Tensor) -> Tensor:
    """A row that alternates between two values, like libjpeg's rounding in successive columns."""
    return torch.tensor([even, odd], device=like.device).repeat(-(-like.shape[3] // 2))[: like.shape[3]]


def _downsample(chroma: Tensor) -> Tensor:
    """Box average, [B, 2, 2h, 2w] -> [B, 2, h, w]; jcsample.c, `h2v2_downsample`."""
    mean = F.avg_pool2d(chroma, 2)
    return mean.add_(_columns(1 / 4, 2 / 4, mean)).floor_()


def _upsample(chroma: Tensor) -> Tensor:
    """Triangle filter [B, 2, h, w] -> [B, 2, 2h, 2w]; jdsample.c, `h2v2_fancy_upsample`, skipped for tiny planes."""
    if chroma.shape[3] <= 2:
        return F.interpolate(chroma, scale_factor=2, mode="nearest")
    fine = F.interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False)
    return fine.add_(_columns(8 / 16, 7 / 16, fine)).floor_()


def _through_blocks(plane: Tensor, tables: Tensor) -> Tensor:
    """Quantize the DCT of all blocks and invert it: levels [B, C, h, w], tables [B or none, 1, 64] -> [B, C, h, w]."""
    coefficients = _quantized(plane, tables).mul_(_tiled(tables))
    levels = _by_rows(_DCT.T / 2**18, _by_columns(_DCT.T / 2**11, coefficients))
    return levels.add_(128).clamp_(0, 255).view(plane.shape).float()


def _quantized(plane: Tensor, tables: Tensor) -> Tensor:
    """DCT coefficients in steps of their table, whole numbers: [B, C, h, w] -> [B, C, h / 8, 8, w / 8, 8]."""
    # Doubles hold all sums and are unaffected by TF32 and autocast; Apple's GPUs do not support them.
    exact = torch.float32 if plane.device.type == "mps" else torch.float64
    blocks = (plane - 128).to(exact).unflatten(3, (-1, 8)).unflatten(2, (-1, 8))
    eighths = _by_columns(_DCT / 2**15, _by_rows(_DCT / 2**11, blocks))
    steps = 8 * _tiled(tables)
    return eighths.abs().add_(steps / 2).div_(steps).floor_().copysign_(eighths)  # halves round away from zero


def _tiled(tables: Tensor) -> Tensor:
    return tables.unflatten(-1, (1, 8, 1, 8))  # [B or none, 1, 64] -> [B or none, 1, 1, 8, 1, 8]


def _by_rows(matrix: Tensor, blocks: Tensor) -> Tensor:
    """Transform the last axis of [B, C, h / 8, 8, w / 8, 8], and round."""
    return (blocks @ matrix.T.to(blocks)).add_(0.5).floor_()


def _by_columns(matrix: Tensor, blocks: Tensor) -> Tensor:
    """Transform the fourth axis of [B, C, h / 8, 8, w / 8, 8], and round."""
    return (matrix.to(blocks) @ blocks.flatten(4)).view(blocks.shape).add_(0.5).floor_()


@torch.no_grad()
def rescale(pixels: Tensor, factor: float) -> Tensor:
    """Bicubic with antialiasing, as Pillow's `resize(..., BICUBIC)`: horizontally, rounded to levels, then vertically.

    The factor is exact: if a side times the factor is not a whole number, the equivalent `box` of Pillow ends at
    `floor(side * factor) / factor`.

    Args:
        pixels: uint8 [B, 3, H, W].
        factor: above 0; below 1 shrinks pictures.

    Returns:
        uint8 [B, 3, floor(H * factor), floor(W * factor)].

    Raises:
        ValueError: wrong shape, dtype or factor, or a picture that would have no pixel left.
    """
    levels = _to_levels(pixels)
    if not 0 < factor < math.inf:
        raise ValueError(f"factor is {factor!r}: it must be above 0")
    exact = factor * (1 + 1e-12)  # 100 * 0.29 is a little less than 29 in floats
    if min(levels.shape[2:]) * exact < 1:
        height, width = levels.shape[2:]
        raise ValueError(f"{width} x {height} pixels times {factor} leave no pixel: choose a larger factor")
    for scale in ((1.0, exact), (exact, 1.0)):
        levels = F.interpolate(levels, scale_factor=scale, mode="bicubic", antialias=True)
        levels = levels.add_(0.5).floor_().clamp_(0, 255)
    return levels.to(torch.uint8)
