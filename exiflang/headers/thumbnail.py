"""The thumbnail that a camera stores in the EXIF."""

import numpy as np


def read_thumbnail(photo: bytes) -> np.ndarray | None:
    """The thumbnail, uint8 [h, w, 3]; None if there is none that can be read."""
    return None
