"""Simulated photos with ground-truth EXIF: the data that the demo trains and tests on.

A photo depends only on the camera, the seed and the size. The chain is scene (`scenes`) -> lens, sensor and in-camera
processing (`camera_pipeline`) -> JPEG with the camera's own quantization tables and EXIF of its settings.
"""

import io
import re
import signal
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from exiflang.simulation.camera_pipeline import develop, scene_size
from exiflang.simulation.cameras import Camera
from exiflang.simulation.exposure import Settings, draw_settings, photo_exif
from exiflang.simulation.scenes import render_scene
from exiflang.utils.processes import worker_pool

_SMALLEST, _LARGEST = 64, 8192  # pixels


def render_photo(camera: Camera, seed: int, size: tuple[int, int] | None = None) -> bytes:
    """A complete JPEG file as `camera` would write it, EXIF included.

    size: (width, height), 64 to 8192 each; None: the camera's default. Raises ValueError for a size or seed outside
    its range. The same arguments always give the same bytes on one machine.
    """
    pixels, settings = _develop(camera, seed, camera.size if size is None else size)
    return encoded(camera, settings, pixels, exif=photo_exif(camera, settings, *pixels.shape[1::-1]))


def develop_photo(camera: Camera, seed: int, size: tuple[int, int]) -> np.ndarray:
    """The uncompressed pixels behind `render_photo`: uint8 [height, width, 3]."""
    return _develop(camera, seed, size)[0]


def _develop(camera: Camera, seed: int, size: tuple[int, int]) -> tuple[np.ndarray, Settings]:
    width, height = _checked_size(size)
    rng = _generator(seed, camera.name)
    settings = draw_settings(camera, rng)
    scene = render_scene(rng, *scene_size(camera, width, height))
    return develop(camera, settings, rng, scene, width, height), settings


def encoded(camera: Camera, settings: Settings, pixels: np.ndarray, **options: Image.Exif) -> bytes:
    """Encode uint8 [H, W, 3] as JPEG with the camera's tables and subsampling; options: those of Pillow's `save`."""
    luma, chroma = camera.tables(settings.quality)
    file = io.BytesIO()
    Image.fromarray(pixels).save(
        file, "JPEG", qtables=[list(luma), list(chroma)], subsampling=camera.subsampling, **options
    )
    return file.getvalue()


def decoded(data: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


def _generator(seed: int, *names: str) -> np.random.Generator:
    """A generator seeded by a number and names, so a camera's position in a list does not matter."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed must be a whole number, zero or larger, not {seed!r}")
    return np.random.default_rng((int(seed), *(zlib.crc32(name.encode()) for name in names)))


def _checked_size(size: tuple[int, int]) -> tuple[int, int]:
    if len(size) != 2 or not all(isinstance(n, int | np.integer) and _SMALLEST <= n <= _LARGEST for n in size):
        raise ValueError(f"size must be (width, height), whole numbers of {_SMALLEST} to {_LARGEST} pixels, not {size}")
    return int(size[0]), int(size[1])


def simulate_photos(
    cameras: Sequence[Camera], photos_per_camera: int, seed: int, workers: int = 2
) -> Iterator[tuple[str, Camera, bytes]]:
    """Yields (name, camera, JPEG file) for every camera in turn; the same for any number of worker processes."""
    if photos_per_camera < 1:
        raise ValueError(f"photos_per_camera must be 1 or more, not {photos_per_camera}")
    seeds = [int(_generator(seed, f"photo {number}").integers(2**62)) for number in range(photos_per_camera)]
    jobs = [(camera, photo_seed) for camera in _checked_cameras(cameras) for photo_seed in seeds]
    for index, ((camera, _), data) in enumerate(zip(jobs, _mapped(_photo_job, jobs, workers, "photos"), strict=True)):
        yield f"{re.sub('[^A-Za-z0-9-]+', '_', camera.name)}_{index % photos_per_camera:04d}", camera, data


def _photo_job(job: tuple[Camera, int]) -> bytes:
    return render_photo(*job)


def _checked_cameras(cameras: Sequence[Camera]) -> list[Camera]:
    cameras = list(cameras)
    if not cameras or not all(isinstance(camera, Camera) for camera in cameras):
        raise ValueError("cameras must be a non-empty sequence of Camera, such as exiflang.simulation.CAMERAS[:8]")
    return cameras


def _mapped(function: Callable[[Any], Any], jobs: list, workers: int, unit: str) -> Iterator:
    """Apply `function` to every job, in order, with a progress bar; a single worker is this process."""
    if workers < 1:
        raise ValueError(f"workers must be 1 or more, not {workers}")
    if workers == 1:
        yield from tqdm(map(function, jobs), total=len(jobs), unit=f" {unit}")
        return
    pool = worker_pool(workers, cv2.setNumThreads, 1)
    try:
        with _interrupts_ignored():  # in the worker processes: on Ctrl-C, this process ends them
            done = pool.map(function, jobs, chunksize=2)
        yield from tqdm(done, total=len(jobs), unit=f" {unit}")
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # other threads cannot set signal handlers
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
