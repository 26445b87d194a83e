"""An example composite: photos bundled with scikit-image, rendered as if taken by two simulated cameras."""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from exiflang.simulation.camera_pipeline import develop, scene_size
from exiflang.simulation.cameras import CAMERAS, Camera
from exiflang.simulation.exposure import draw_settings, photo_exif
from exiflang.simulation.render import decoded, encoded

HOST, DONOR = 22, 4  # indices of cameras that give a clear result
SIZE = (1024, 682)  # width, height in pixels
FACE = (-137, 199)  # shift in rows and columns that puts the cat's face into the mask


def example_picture(folder: str | Path) -> Path:
    """Write `example.jpg` into a folder and return its path: a coffee cup with a cat pasted in from another camera.

    The file carries the EXIF of the camera that took the coffee. Its bytes are reproducible on one machine.
    """
    from skimage import data

    picture, exif = _photo(CAMERAS[HOST], data.coffee(), seed=4)
    smaller = np.pad(data.chelsea(), ((100, 100), (150, 150), (0, 0)), "reflect")
    cat, _ = _photo(CAMERAS[DONOR], smaller, seed=5)
    mask = example_mask()
    picture[mask] = np.roll(cat, FACE, (0, 1))[mask]
    path = Path(folder) / "example.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, "JPEG", quality=95, exif=exif)
    return path


def example_mask() -> np.ndarray:
    """The spliced region of the example: bool [H, W]."""
    width, height = SIZE
    mask = np.zeros((height, width), np.uint8)
    cv2.ellipse(mask, (690, 190), (190, 150), 0, 0, 360, 1, -1)
    return mask > 0


def _photo(camera: Camera, picture: np.ndarray, seed: int) -> tuple[np.ndarray, Image.Exif]:
    """uint8 [H, W, 3] as taken by `camera` and compressed once: uint8 of `SIZE`, and its EXIF."""
    width, height = SIZE
    rng = np.random.default_rng(seed)
    settings = draw_settings(camera, rng)
    linear = (picture.astype(np.float32) / 255) ** np.float32(2.2)
    scene = cv2.resize(linear, scene_size(camera, width, height), interpolation=cv2.INTER_CUBIC).clip(0, 2)
    photo = develop(camera, settings, rng, scene, width, height)
    return decoded(encoded(camera, settings, photo)), photo_exif(camera, settings, width, height)
