"""What is looked at: pictures whose content costs nothing, since no step but saving them depends on it."""

import numpy as np


def noise(megapixels: float) -> np.ndarray:
    """A picture of 4 : 3: uint8 [H, W, 3]; of 0.786432 megapixels 768 x 1024."""
    height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
    return np.random.default_rng(0).integers(0, 256, (height, round(height * 4 / 3), 3), dtype=np.uint8)
