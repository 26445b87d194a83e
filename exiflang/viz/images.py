"""Image panels: colored heatmaps, outlines, sheets."""

import base64
import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from skimage.measure import approximate_polygon, find_contours

from exiflang.data.shards import Photo, read_member
from exiflang.utils.images import load_image

MARGIN = 6  # pixels between the pictures of a sheet
LABEL = 22  # pixels of a line of text


def heat_colors(values: np.ndarray, low: float, high: float, scale: str = "inferno") -> np.ndarray:
    """Values [H, W] from `low` to `high` on a perceptual scale of OpenCV's, such as "viridis": uint8 [H, W, 3]."""
    level = np.clip((values - low) / max(high - low, 1e-9) * 255, 0, 255).astype(np.uint8)
    colors = cv2.applyColorMap(level, getattr(cv2, f"COLORMAP_{scale.upper()}"))  # [H, W, 3], blue first
    return cv2.cvtColor(colors, cv2.COLOR_BGR2RGB)


@dataclass(frozen=True)
class LabeledImage:
    """One picture of a sheet: uint8 [H, W, 3] and a line of text under it."""

    image: np.ndarray
    label: str


def picture_panel(image: np.ndarray, mask: np.ndarray, label: str) -> LabeledImage:
    """A picture, uint8 [H, W, 3], with the outline of its mask, bool [H, W]: red, with a white edge for contrast."""
    thick = max(2, max(mask.shape) // 200)
    inside = mask.astype(np.uint8)
    marked = image.copy()
    for width, color in ((2 * thick, (255, 255, 255)), (thick, (230, 0, 0))):
        grown = cv2.dilate(inside, np.ones((2 * width + 1, 2 * width + 1), np.uint8)) > 0
        marked[grown & ~mask] = color
    return LabeledImage(marked, label)


def heatmap_panel(heatmap: np.ndarray, label: str) -> LabeledImage:
    """A heatmap scaled from its 1st to its 99th percentile: it shows where a picture deviates most, not by how much."""
    low, high = np.percentile(heatmap, [1, 99])
    return LabeledImage(heat_colors(heatmap, float(low), float(high)), label)


def thumbnail(image: np.ndarray, mask: np.ndarray, heatmap: np.ndarray, longest: int) -> np.ndarray:
    """A picture with the outline of its mask next to its heatmap, each with at most `longest` pixels per side.

    uint8 [H, W, 3], bool [H, W] and float [H, W] -> uint8 [h, 2 w, 3].
    """
    low, high = np.percentile(heatmap, [1, 99])
    colors = heat_colors(shrink(heatmap, longest), float(low), float(high))
    small = picture_panel(shrink(image, longest), shrink(mask.astype(np.float32), longest) > 0.5, "").image
    return np.hstack([small, colors])


def _fit(image: np.ndarray, width: int) -> Image.Image:
    """Scaled to `width`, with a height of at most twice that."""
    height, full = image.shape[:2]
    scale = min(width / full, 2 * width / height)
    return Image.fromarray(image).resize((max(1, round(full * scale)), max(1, round(height * scale))))


def _shorten(label: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """One line of at most `width` pixels."""
    line = " ".join(label[:width].split())
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(line + "…") > width:
        line = line[:-1]
    return line + "…"


def sheet(rows: Sequence[Sequence[LabeledImage]], width: int = 300) -> Image.Image:
    """Panels in rows, each `width` pixels wide with its label below. Raises `ValueError` if there are none."""
    if not rows or not all(rows):
        raise ValueError("a sheet needs at least one row, and each row needs a panel")
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
    """One tile per camera, for cameras evenly spaced through the list, with the camera's name below."""
    cameras = list({photo.camera: photo for photo in photos}.values())
    chosen = [cameras[i] for i in np.linspace(0, len(cameras) - 1, min(columns * rows, len(cameras))).astype(int)]
    panels = [LabeledImage(load_image(read_member(*photo.tiles[0])), photo.camera) for photo in chosen]
    return sheet([panels[i : i + columns] for i in range(0, len(panels), columns)], width=160)


def beside_text(patch: np.ndarray, text: str, width: int = 900) -> Image.Image:
    """A patch, uint8 [P, P, 3], enlarged to 256 pixels, and its sentence to the right, in wrapped lines."""
    font, left, spacing = ImageFont.load_default(15), 256 + 3 * MARGIN, 5
    letters = int(0.95 * (width - left) * len(text) / max(font.getlength(text), 1))
    words = "\n".join(textwrap.wrap(text, max(letters, 1)))
    page = Image.new("RGB", (width, 256), "white")
    lower = ImageDraw.Draw(page).multiline_textbbox((left, 0), words, font, spacing=spacing)[3]
    page = Image.new("RGB", (width, max(256, int(lower) + MARGIN)), "white")
    page.paste(Image.fromarray(patch).resize((256, 256), Image.Resampling.NEAREST))
    ImageDraw.Draw(page).multiline_text((left, 0), words, "black", font, spacing=spacing)
    return page


def high_pass(image: np.ndarray) -> np.ndarray:
    """The luma minus its Gaussian blur of 1 pixel: uint8 [H, W, 3] -> float32 [H, W], gray levels around 0."""
    luma = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return luma - cv2.GaussianBlur(luma, (0, 0), 1)


def residual_row(tiles: Sequence[np.ndarray], label: str, size: int = 64) -> list[LabeledImage]:
    """A patch of a camera, its residual (see `high_pass`), and the median power spectrum of the residuals of its tiles.

    Tiles uint8 [H, W, 3], at least `size` per side -> three pictures uint8; residuals from -10 to 10 gray levels.
    """
    residuals = [high_pass(tile) for tile in tiles]
    side = min(min(residual.shape) for residual in residuals)
    fade = np.outer(np.hanning(side), np.hanning(side))  # the borders are not edges of the scene
    power = np.median([np.abs(np.fft.fft2(fade * residual[:side, :side])) ** 2 for residual in residuals], axis=0)
    spectrum = np.log(np.fft.fftshift(power) + 1)  # [side, side]
    low, high = np.percentile(spectrum, (5, 99.9))
    pixels = np.ones((256 // size, 256 // size, 1), np.uint8)  # enlarged, to show each one
    return [
        LabeledImage(np.kron(tiles[0][:size, :size], pixels), label),
        LabeledImage(np.kron(heat_colors(residuals[0][:size, :size], -10, 10, "bone"), pixels), "residual"),
        LabeledImage(heat_colors(spectrum, float(low), float(high), "viridis"), "spectrum of residuals"),
    ]


def mark_windows(image: np.ndarray, grid: tuple[int, int, int, int], at: tuple[int, int]) -> np.ndarray:
    """A picture, uint8 [H, W, 3], with a dot at the center of each window and a frame around the one at (row, column).

    grid: rows, columns, side and distance of the windows, the latter two in pixels. Both marks are yellow.
    """
    rows, cols, side, stride = grid
    thick, marked, yellow = max(2, max(image.shape) // 200), image.copy(), (255, 220, 0)
    for row, col in np.ndindex(rows, cols):
        cv2.circle(marked, (col * stride + side // 2, row * stride + side // 2), max(1, stride // 12), yellow, -1)
    left, top = at[1] * stride, at[0] * stride
    for width, color in ((2 * thick, (0, 0, 0)), (thick, yellow)):
        cv2.rectangle(marked, (left, top), (left + side - 1, top + side - 1), color, width)
    return marked


#: Longer side in pixels of drawn pictures: screens show no more.
SHOWN = 1024


def shown_shape(height: int, width: int, longest: int = SHOWN) -> tuple[int, int]:
    """Height and width of a picture drawn with at most `longest` pixels per side, at least 1 x 1."""
    scale = min(1.0, longest / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def shrink(array: np.ndarray, longest: int = SHOWN) -> np.ndarray:
    """[H, W] or [H, W, C] downscaled to at most `longest` pixels per side by area averaging; never enlarged."""
    height, width = shown_shape(array.shape[0], array.shape[1], longest)
    if (height, width) == array.shape[:2]:
        return array
    return cv2.resize(array, (width, height), interpolation=cv2.INTER_AREA)


def outlines(heatmap: np.ndarray, threshold: float, longest: int = 512) -> list[np.ndarray]:
    """Closed outlines of the regions above the threshold, [H, W] -> float arrays [n, 2] of x and y in pixels."""
    small = shrink(heatmap, longest).astype(np.float32)
    padded = np.pad(small, 1, constant_values=-1.0)  # closes regions at the border
    scale = np.array(heatmap.shape[::-1]) / np.array(small.shape[::-1])
    lines = [approximate_polygon(line, 0.5) for line in find_contours(padded, threshold)]
    return [np.clip((line[:, ::-1] - 0.5) * scale, 0, heatmap.shape[::-1]) for line in lines if len(line) > 3]


def data_uri(image: np.ndarray, lossless: bool = False, quality: int = 90) -> str:
    """uint8 [H, W, 3] as a `data:` URI, JPEG or PNG."""
    file = io.BytesIO()
    kind = "png" if lossless else "jpeg"
    Image.fromarray(image).save(file, kind, quality=quality)  # ignored for PNG
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
