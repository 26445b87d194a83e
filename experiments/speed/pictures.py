"""Pictures for benchmarks: noise, because only saving a picture depends on its content."""

import numpy as np


def noise(megapixels: float) -> np.ndarray:
    """A 4:3 picture, uint8 [H, W, 3]; at 0.786432 megapixels, it is 768 x 1024."""
    height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
    return np.random.default_rng(0).integers(0, 256, (height, round(height * 4 / 3), 3), dtype=np.uint8)
