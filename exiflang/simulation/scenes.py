"""Procedural scenes in linear light with the statistics of natural pictures.

The base is the dead-leaves model (Lee, Mumford and Huang, "Occlusion models for natural images", IJCV 2001): opaque
shapes painted back to front, with radii from a power law of exponent -3. Every leaf has its own color, texture
(1/f noise, grain or a grating) and shading; some show part of a photo shipped with scikit-image or scikit-learn.
Each scene covers the full range of brightness, color and texture, so none of these distinguishes two scenes.
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from scipy.special import ndtri

_SHAPES_RADII = (0.12, 0.30)  # background shapes, shares of the longer side
_LEAF_RADII = (2.5, 90.0)  # pixels
_LEAVES_PER_PIXEL = 1 / 500
_PHOTO_SHARE = 0.35  # of the background shapes


@dataclass
class _Leaves:
    """Shapes in painting order; arrays of length n unless noted. `photo` is -1 for a shape without a photo."""

    x: np.ndarray
    y: np.ndarray
    radius: np.ndarray
    color: np.ndarray  # [n, 3], linear reflectance
    photo: np.ndarray


def render_scene(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """One scene: float32 [height, width, 3], linear RGB light, 0 (black) to 2 (light sources), mean near 0.2."""
    labels = np.zeros((height, width), np.int32)
    shapes = _background_shapes(rng, width, height)
    _paint(rng, labels, shapes, first=0)
    if rng.random() < 0.4:
        _paint_sky(rng, labels, shapes)
    leaves = _small_leaves(rng, labels, shapes)
    _paint(rng, labels, leaves, first=len(shapes.x))

    color = np.concatenate([shapes.color, leaves.color]).astype(np.float32)
    photo = np.concatenate([shapes.photo, leaves.photo])
    scene = color[labels]  # [H, W] -> [H, W, 3]
    _fill_photos(rng, scene, labels, photo)
    scene *= (_texture(rng, labels, photo) * _illumination(rng, width, height))[..., None]
    return np.clip(scene, 0.0, 2.0, out=scene)


def _random_colors(rng: np.random.Generator, count: int) -> np.ndarray:
    """Reflectances [count, 3]: log-normal brightness spread evenly over its range, mostly muted, some vivid."""
    evenly = (rng.permutation(count) + rng.random(count)) / count
    brightness = np.exp(np.log(0.17) + 0.85 * ndtri(np.clip(evenly, 0.02, 0.98)))[:, None]
    chroma = np.exp(rng.gamma(2.0, 0.13, (count, 1)) * rng.normal(0.0, 1.0, (count, 3)))
    return np.clip(brightness * chroma / chroma.mean(axis=1, keepdims=True), 0.006, 1.1)


def _background_shapes(rng: np.random.Generator, width: int, height: int) -> _Leaves:
    """Large shapes that cover the picture about three times; some show a photo (with the color's brightness)."""
    longer = max(width, height)
    radius = rng.uniform(*_SHAPES_RADII, 40) * longer
    count = max(8, int(np.searchsorted(np.cumsum(2.0 * radius**2), 3 * width * height)))
    radius = radius[:count]
    photo = np.where(rng.random(len(radius)) < _PHOTO_SHARE, rng.integers(0, 1 << 30, len(radius)), -1)
    return _Leaves(
        rng.random(len(radius)) * width, rng.random(len(radius)) * height, radius,
        _random_colors(rng, len(radius)), photo,
    )  # fmt: skip


def _paint_sky(rng: np.random.Generator, labels: np.ndarray, shapes: _Leaves) -> None:
    """Turns the last shape into a bright, bluish or overcast sky above a wavy horizon; changes both arguments."""
    height, width = labels.shape
    horizon = rng.uniform(0.12, 0.35) * height + 0.04 * height * _smooth_noise(rng, width, 1, 4)[0]
    sky = len(shapes.x) - 1
    labels[np.arange(height)[:, None] < horizon] = sky
    blue = rng.uniform(0, 1)
    shapes.color[sky] = rng.uniform(0.4, 0.9) * np.array([1 - 0.6 * blue, 1 - 0.35 * blue, 1.0])
    shapes.photo[sky] = -1


def _small_leaves(rng: np.random.Generator, labels: np.ndarray, shapes: _Leaves) -> _Leaves:
    """Power-law leaves, crowded in some parts and absent in others; most resemble the shape beneath."""
    height, width = labels.shape
    count = max(8, int(width * height * _LEAVES_PER_PIXEL))
    low, high = _LEAF_RADII[0], min(_LEAF_RADII[1], 0.25 * max(width, height))
    # Inverse of the cumulative distribution of a density r**-3 between low and high.
    radius = (low**-2 - rng.random(count) * (low**-2 - high**-2)) ** -0.5
    x, y = rng.random(count) * width, rng.random(count) * height
    crowded = _smooth_noise(rng, width, height, rng.uniform(3, 6))[y.astype(int), x.astype(int)] > rng.normal(0, 0.4)
    kept = crowded | (radius > 25)
    x, y, radius = x[kept], y[kept], radius[kept]
    count = len(x)
    below = shapes.color[labels[y.astype(int), x.astype(int)]]
    alike = below * np.exp(rng.normal(0, 0.45, (count, 1)) + rng.normal(0, 0.08, (count, 3)))
    color = np.where(rng.random((count, 1)) < 0.25, _random_colors(rng, count), alike)
    return _Leaves(x, y, radius, np.clip(color, 0.006, 1.2), np.full(count, -1))


def _paint(rng: np.random.Generator, labels: np.ndarray, leaves: _Leaves, first: int) -> None:
    """Paints ellipses, polygons and, where large, wavy blobs: leaf i writes first + i into int32 labels [H, W]."""
    count = len(leaves.x)
    aspects, angles = rng.uniform(0.4, 1.0, count), rng.uniform(0, 360, count)
    corners = rng.integers(3, 8, count)
    for i in range(count):
        x, y, radius, aspect = leaves.x[i], leaves.y[i], leaves.radius[i], aspects[i]
        if radius < 20 and i % 3:
            axes = (max(1, round(float(radius))), max(1, round(float(radius * aspect))))
            cv2.ellipse(labels, (int(x), int(y)), axes, angles[i], 0, 360, first + i, -1)
            continue
        wavy = radius >= 20 and i % 2
        turns = np.linspace(0, 2 * np.pi, 64 if wavy else corners[i], endpoint=False)
        reach = np.full(len(turns), radius)
        if wavy:
            for k in (2, 3, 5):
                reach *= 1 + rng.normal(0, 0.3 / k) * np.cos(k * turns + rng.uniform(0, 2 * np.pi))
        lean = np.radians(angles[i])
        along, across = reach * np.cos(turns), reach * np.sin(turns) * aspect
        points = np.stack([
            x + along * np.cos(lean) - across * np.sin(lean), y + along * np.sin(lean) + across * np.cos(lean)
        ], axis=1)  # fmt: skip
        cv2.fillPoly(labels, [np.round(points).astype(np.int32)], first + i)


def _texture(rng: np.random.Generator, labels: np.ndarray, photo: np.ndarray) -> np.ndarray:
    """Multiplicative texture and shading of every leaf: float32 [height, width], around 1."""
    height, width = labels.shape
    count = len(photo)
    kind = rng.choice(4, count, p=(0.4, 0.38, 0.07, 0.15))  # nearly flat, 1/f, grain, grating
    kind[photo >= 0] = 0
    strength = rng.gamma(2.0, 0.09, count)
    period = np.exp(rng.uniform(np.log(3), np.log(40), count))
    turn = rng.uniform(0, np.pi, count)
    slope = rng.normal(0, 0.5 / max(width, height), (2, count))
    y = np.arange(height, dtype=np.float32)[:, None]
    x = np.arange(width, dtype=np.float32)[None, :]

    def per_pixel(values: np.ndarray) -> np.ndarray:
        return np.take(values.astype(np.float32), labels)  # [count] -> [H, W]

    texture = per_pixel(np.where(kind == 1, strength, 0.015)) * _pink_noise(rng, width, height, rng.uniform(0.9, 1.3))
    grain = cv2.GaussianBlur(rng.standard_normal((height, width), dtype=np.float32), (0, 0), 0.8)
    texture += per_pixel(np.where(kind == 2, strength, 0.0)) * grain
    phase = per_pixel(2 * np.pi / period * np.cos(turn)) * x + per_pixel(2 * np.pi / period * np.sin(turn)) * y
    texture += per_pixel(np.where(kind == 3, strength, 0.0)) * np.sin(phase, out=phase)
    texture += per_pixel(slope[0]) * (x - width / 2) + per_pixel(slope[1]) * (y - height / 2)
    return np.exp(np.clip(texture, -1.2, 1.0, out=texture), out=texture)


def _illumination(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Slow changes of light over the picture, with shadow edges in some: float32 [height, width]."""
    light = np.exp(rng.uniform(0.1, 0.35) * _smooth_noise(rng, width, height, 2.5))
    if rng.random() < 0.4:
        shadow = (_smooth_noise(rng, width, height, rng.uniform(2, 5)) > rng.uniform(0.2, 1.2)).astype(np.float32)
        light *= 1 - rng.uniform(0.3, 0.7) * cv2.GaussianBlur(shadow, (0, 0), rng.uniform(1, 4))
    return light


def _smooth_noise(rng: np.random.Generator, width: int, height: int, cells: float) -> np.ndarray:
    """Smooth random field [height, width], mean 0, deviation about 0.7, about `cells` bumps on the longer side."""
    step = max(width, height) / cells
    coarse = rng.standard_normal((int(height / step) + 3, int(width / step) + 3), dtype=np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def _pink_noise(rng: np.random.Generator, width: int, height: int, exponent: float) -> np.ndarray:
    """Noise [height, width] with amplitude spectrum 1/f**exponent, mean 0 and deviation 1."""
    rows, cols = cv2.getOptimalDFTSize(height), cv2.getOptimalDFTSize(width)
    spectrum = cv2.dft(rng.standard_normal((rows, cols), dtype=np.float32), flags=cv2.DFT_COMPLEX_OUTPUT)
    fy = np.fft.fftfreq(rows).astype(np.float32)[:, None]
    fx = np.fft.fftfreq(cols).astype(np.float32)[None, :]
    power = fy * fy + fx * fx
    power[0, 0] = np.inf
    np.multiply(spectrum, cv2.pow(power, -exponent / 2)[..., None], out=spectrum)
    field = cv2.dft(spectrum, flags=cv2.DFT_INVERSE | cv2.DFT_REAL_OUTPUT | cv2.DFT_SCALE)[:height, :width]
    return field / np.float32(field.std() + 1e-9)


@lru_cache(maxsize=1)
def _shipped_photos() -> tuple[np.ndarray, ...]:
    """Photos bundled with scikit-image and scikit-learn: linear, mean 1, downscaled to remove their own traces."""
    from skimage import data
    from sklearn.datasets import load_sample_images

    color = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket(), data.stereo_motorcycle()[0]]
    gray = [data.grass(), data.gravel(), data.brick(), data.camera(), data.coins()]
    photos = color + list(load_sample_images().images) + [np.repeat(g[..., None], 3, axis=2) for g in gray]
    linear = [(photo.astype(np.float32) / 255) ** np.float32(2.2) for photo in photos]
    small = [cv2.resize(photo, None, fx=0.55, fy=0.55, interpolation=cv2.INTER_AREA) for photo in linear]
    return tuple(photo / photo.mean() for photo in small)


def _fill_photos(rng: np.random.Generator, scene: np.ndarray, labels: np.ndarray, photo: np.ndarray) -> None:
    """Multiplies photo shapes by a mirrored or rotated crop of their photo: a photo lit by the shape's color."""
    photos = _shipped_photos()
    for number in np.flatnonzero(photo >= 0):
        piece = np.rot90(photos[photo[number] % len(photos)], rng.choice([0, 0, 1, 2, 3]))
        piece = piece[:, ::-1] if rng.random() < 0.5 else piece
        start = rng.integers(0, 1 << 12, 2)
        ys, xs = np.nonzero(labels == number)
        light = scene[ys, xs]
        gray = light.mean(axis=1, keepdims=True)
        scene[ys, xs] = piece[_mirrored(ys + start[0], piece.shape[0]), _mirrored(xs + start[1], piece.shape[1])] * (
            0.3 * light + 0.7 * np.maximum(gray, 0.08)
        )


def _mirrored(index: np.ndarray, length: int) -> np.ndarray:
    """Folds any index into 0..length-1, back and forth."""
    folded = index % (2 * length)
    return np.where(folded < length, folded, 2 * length - 1 - folded)
