"""Radial lens distortion of known strength, put on pictures: what a probe of geometry is asked about."""

from __future__ import annotations

import cv2
import numpy as np

STRONGEST = -0.4
HIDDEN = 0.21  # of each side, at either end: what is shown has 1 - 2 * 0.21 = 0.58 of the picture's diagonal


def distort(image: np.ndarray, k1: float) -> np.ndarray:
    """The middle of a picture, about 0.58 of each side, as a lens with barrel distortion `k1` would show it.

    Brown's model with one coefficient: what lies at the radius r, in halves of the picture's diagonal, is shown at
    r (1 + k1 r²). The centre stays, and the farther out, the more the picture is pressed together. The corners of what
    is shown, at the distorted radius 0.58, come from 0.75 at most, well inside the picture: no border, filled or cut,
    tells the strength. There the strongest presses detail together by 3.

    Bicubic interpolation (OpenCV's, positions rounded to 1/32 pixel) for every strength. At `k1` 0 it falls on whole
    pixels and gives back the picture's own middle: reduce the result to half its size or less before anything looks at
    it, or traces of interpolation tell the strength.

    Args:
        image: uint8 [H, W, 3].
        k1: from -0.4 to 0, without a unit.

    Returns:
        uint8 [h, w, 3], h = H - 2 round(0.21 H), w likewise: its middle is the picture's.

    Raises `ValueError` for another dtype, shape or strength.
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        found = f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(f"the picture is {found}: give uint8 [H, W, 3], as exiflang.images.load_image does")
    if not image.size:
        raise ValueError(f"the picture has no pixels: {list(image.shape)}")
    if not STRONGEST <= k1 <= 0:
        raise ValueError(f"k1 is {k1}: it must lie in {STRONGEST} to 0")
    middle = (np.array(image.shape[:2]) - 1) / 2
    top, left = (round(HIDDEN * side) for side in image.shape[:2])
    y, x = np.mgrid[top : image.shape[0] - top, left : image.shape[1] - left] - middle[:, None, None]  # [h, w] each
    radius = np.hypot(y, x) / (np.hypot(*image.shape[:2]) / 2)  # [h, w], distorted
    table = np.linspace(0, 0.8, 4097)  # beyond what is needed, and short of 0.91, where the strongest would fold
    zoom = np.interp(radius, table * (1 + k1 * table**2), 1 / (1 + k1 * table**2))  # true radius over the distorted
    return cv2.remap(
        image,
        (middle[1] + x * zoom).astype(np.float32),
        (middle[0] + y * zoom).astype(np.float32),
        cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REPLICATE,  # bicubic looks a pixel further at the rim of tiny pictures
    )
