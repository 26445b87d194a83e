"""Splices of two simulated photos, and matching authentic pictures: test data for a localizer."""

import io
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from exiflang.simulation.cameras import Camera
from exiflang.simulation.render import _checked_cameras, _checked_size, _generator, _mapped, decoded, render_photo

FORMATS = ("png", "jpeg95", "jpeg85")
_TAMPERED = (0.06, 0.24)  # target fraction of the pixels
_TRIES = 1000


@dataclass(frozen=True)
class Splice:
    """A spliced (or authentic) picture: `data` is the encoded file, `mask` bool [H, W], True where spliced."""

    data: bytes
    mask: np.ndarray
    host: str
    donor: str | None  # None: authentic
    fmt: str
    tampered_fraction: float


def make_splice(
    host: Camera, donor: Camera, seed: int, size: tuple[int, int] = (1024, 768), fmt: str = "png"
) -> Splice:
    """A region of a donor's photo in a host's photo of a different scene, 5 to 25 % of the pixels, at native scale.

    Both photos have been JPEG-compressed by their cameras. In both axes, the block grids of host, donor and saved file
    are mutually offset by amounts that are not multiples of 8. The file carries no metadata.
    size: (width, height); fmt: "png", "jpeg95" or "jpeg85". Raises ValueError for other values.
    """
    width, height = _checked_size(size)
    picture, offset = _host_picture(host, seed, width, height)
    rng = _generator(seed, host.name, donor.name, "splice")
    mask = random_region(rng, width, height)
    ys, xs = np.nonzero(mask)
    donor_photo = decoded(render_photo(donor, int(rng.integers(2**62)), (width + 16, height + 16)))
    # Shifts keep the region inside the donor's photo: column x of the splice shows donor column x + shift.
    shift_x = _misaligned(rng, -xs.min(), width + 16 - 1 - xs.max(), offset[0])
    shift_y = _misaligned(rng, -ys.min(), height + 16 - 1 - ys.max(), offset[1])
    picture[ys, xs] = donor_photo[ys + shift_y, xs + shift_x]
    return Splice(_encoded(picture, fmt), mask, host.name, donor.name, fmt, float(mask.mean()))


def make_authentic(camera: Camera, seed: int, size: tuple[int, int] = (1024, 768), fmt: str = "png") -> Splice:
    """The host picture of `make_splice`, encoded the same way but without a donor; the mask is all False."""
    width, height = _checked_size(size)
    picture, _ = _host_picture(camera, seed, width, height)
    return Splice(_encoded(picture, fmt), np.zeros((height, width), bool), camera.name, None, fmt, 0.0)


def _host_picture(host: Camera, seed: int, width: int, height: int) -> tuple[np.ndarray, tuple[int, int]]:
    """The host's decoded photo, cropped off its JPEG grid: uint8 [height, width, 3] and the crop's (x, y)."""
    rng = _generator(seed, host.name, "host")
    photo = decoded(render_photo(host, int(rng.integers(2**62)), (width + 16, height + 16)))
    x, y = _misaligned(rng, 1, 15), _misaligned(rng, 1, 15)
    return photo[y : y + height, x : x + width].copy(), (x, y)


def _misaligned(rng: np.random.Generator, low: int, high: int, other: int = 0) -> int:
    """A random n in low..high such that neither n nor n - `other` is a multiple of 8."""
    allowed = [n for n in range(int(low), int(high) + 1) if n % 8 and (n - other) % 8]
    return int(rng.choice(allowed))


def random_region(
    rng: np.random.Generator, width: int, height: int, aim: tuple[float, float] = _TAMPERED
) -> np.ndarray:
    """One blob or polygon inside the picture: bool [height, width].

    aim: minimum and maximum fraction of the picture, met approximately: 5 to 25 % by default.

    Raises `ValueError` if the picture is too small for such a region.
    """
    mask = np.zeros((height, width), np.uint8)
    least, most = aim[0] / 1.2, aim[1] / 0.96
    for _ in range(_TRIES):
        if rng.random() < 0.5:
            angles = np.linspace(0, 2 * np.pi, 96, endpoint=False)
            waves = [rng.normal(0, 0.28 / k) * np.cos(k * angles + rng.uniform(0, 2 * np.pi)) for k in range(2, 6)]
            radii = np.clip(1 + sum(waves), 0.45, 1.8)
        else:
            corners = int(rng.integers(4, 9))
            angles = (np.arange(corners) + rng.uniform(-0.3, 0.3, corners)) * (2 * np.pi / corners)
            radii = rng.uniform(0.7, 1.3, corners)
        stretch = np.sqrt(rng.uniform(0.6, 1.6))
        shape = np.stack([radii * np.cos(angles) * stretch, radii * np.sin(angles) / stretch], axis=1)  # [n, 2]
        # In fractions of width and height, scaled to the target area but never larger than the picture.
        wanted = np.sqrt(rng.uniform(*aim) / cv2.contourArea(shape.astype(np.float32)))
        shape *= min(wanted, 0.96 / np.ptp(shape, axis=0).max())
        low, high = -shape.min(axis=0), 1 - shape.max(axis=0)
        shape += low + rng.random(2) * (high - low)
        mask[:] = 0
        cv2.fillPoly(mask, [np.round(shape * (width - 1, height - 1)).astype(np.int32)], 1)
        if least <= mask.mean() <= most:
            return mask.astype(bool)
    raise ValueError(
        f"no region of {aim[0]:.3g} to {aim[1]:.3g} fits in {width} x {height} pixels: give a larger picture"
    )


def _encoded(picture: np.ndarray, fmt: str) -> bytes:
    if fmt not in FORMATS:
        raise ValueError(f"unknown format {fmt!r}: use one of {', '.join(FORMATS)}")
    file = io.BytesIO()
    options = {"compress_level": 3} if fmt == "png" else {"quality": int(fmt[4:])}
    Image.fromarray(picture).save(file, fmt[:4], **options)
    return file.getvalue()


def write_splices(
    folder: str | Path,
    cameras: Sequence[Camera],
    count: int,
    authentic: int,
    seed: int,
    workers: int = 2,
    size: tuple[int, int] = (1024, 768),
) -> Path:
    """Write `count` splices and then `authentic` untouched pictures of `cameras`, in the folder layout of benchmarks.

    images/000.png ..., masks/000.png ... (255 = spliced) and index.csv with the columns name, kind, format,
    host_camera, donor_camera, donor_scale, tampered_fraction. Formats alternate. The folder is created atomically; if
    it exists, FileExistsError is raised. Returns the folder.
    """
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"{folder} already exists: remove it or choose another folder")
    jobs = _splice_jobs(_checked_cameras(cameras), count, authentic, seed, _checked_size(size))
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        (draft / "images").mkdir()
        (draft / "masks").mkdir()
        splices = _mapped(_splice_job, jobs, workers, "splices")
        rows = [_store(draft, number, splice) for number, splice in enumerate(splices)]
        pd.DataFrame(rows).to_csv(draft / "index.csv", index=False, lineterminator="\n")
        draft.chmod(0o755)
        os.rename(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)  # gone already unless something failed
    return folder


def _splice_jobs(
    cameras: Sequence[Camera], count: int, authentic: int, seed: int, size: tuple[int, int]
) -> list[tuple]:
    """(host, donor or None, seed, size, format) for every picture; the donor is of a different make if possible."""
    if count < 0 or authentic < 0 or count + authentic == 0:
        raise ValueError(f"count and authentic must be 0 or more and not both 0, not {count} and {authentic}")
    if count and len({camera.name for camera in cameras}) < 2:
        raise ValueError("a splice needs two cameras: pass at least two different ones")
    rng = _generator(seed, "splice set")
    jobs = []
    for number in range(count + authentic):
        host = cameras[int(rng.integers(len(cameras)))]
        others = [c for c in cameras if c.make != host.make] or [c for c in cameras if c.name != host.name]
        donor = others[int(rng.integers(len(others)))] if number < count else None
        jobs.append((host, donor, int(rng.integers(2**62)), size, FORMATS[number % 3]))
    return jobs


def _splice_job(job: tuple) -> Splice:
    host, donor, seed, size, fmt = job
    return make_authentic(host, seed, size, fmt) if donor is None else make_splice(host, donor, seed, size, fmt)


def _store(folder: Path, number: int, splice: Splice) -> dict[str, str]:
    """Write picture and mask, and return the row of index.csv."""
    name = f"{number:03d}"
    (folder / "images" / (name + (".png" if splice.fmt == "png" else ".jpg"))).write_bytes(splice.data)
    Image.fromarray(splice.mask.astype(np.uint8) * 255).save(folder / "masks" / f"{name}.png")
    return {
        "name": name,
        "kind": "spliced" if splice.donor else "authentic",
        "format": splice.fmt.replace("jpeg", "jpg"),
        "host_camera": splice.host,
        "donor_camera": splice.donor or "",
        "donor_scale": "1.0" if splice.donor else "",
        "tampered_fraction": f"{splice.tampered_fraction:.4f}",
    }
