"""Stratified composites for selecting and measuring readouts, with hosts not used for training or calibration.

`python -m experiments.yardstick` writes data/yardstick/ in the layout of benchmark folders: 240 spliced and 60
authentic pictures. Hosts and donors are real photos (the part "yardstick" of authentic_split.csv, 384 to 1024 pixels)
or simulated ones (up to 1600). A host keeps its JPEG grid, as forgers usually do, or is cropped off the grid; "never"
was never compressed: simulated without the camera's JPEG step, and saved as PNG.
"""

import csv
import shutil
import sys
from collections.abc import Iterator
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from exiflang.pipeline.parameters import project_path
from exiflang.simulation.cameras import CAMERAS
from exiflang.simulation.composites import Edit, compose, cut, encode_picture
from exiflang.simulation.render import develop_photo, render_photo
from exiflang.utils.commands import run_command
from exiflang.utils.images import load_image
from exiflang.utils.processes import worker_pool

SPLICED, AUTHENTIC = 240, 60
#: Strata; each but "off" has at least 40 spliced pictures.
FORMATS = ("png", "jpeg95", "jpeg75", "jpeg50", "never")
AREAS = {"2-10 %": (0.02, 0.1), "10-30 %": (0.1, 0.3), "30-60 %": (0.3, 0.6)}


class Job(NamedTuple):
    """One picture of the yardstick."""

    number: int
    spliced: bool
    fmt: str
    area: str
    grid: str
    host: str


def jobs() -> Iterator[Job]:
    """All pictures, cycling through the strata."""
    for number in range(SPLICED + AUTHENTIC):
        fmt = FORMATS[number % 5]
        area = list(AREAS)[number // 5 % 3]
        grid = "none" if fmt == "never" else "off" if number // 15 % 3 == 2 else "on"
        host = "simulated" if fmt == "never" or number // 45 % 2 else "real"
        yield Job(number, number < SPLICED, fmt, area, grid, host)


def yardstick_photos(shared: Path) -> list[Path]:
    """Files of the yardstick's real photos."""
    with project_path("experiments/authentic_split.csv").open(encoding="utf-8", newline="") as file:
        return [
            shared / f"authentic/images/{row['name']}.jpg" for row in csv.DictReader(file) if row["part"] == "yardstick"
        ]


def make(job: Job, photos: list[Path]) -> tuple[bytes, np.ndarray]:
    """The picture's file and its mask, bool [H, W]."""
    rng = np.random.default_rng([job.number, 0x9A])
    longer = int(rng.integers(384, 1600 if job.host == "simulated" else 1000))
    size = longer, longer * 3 // 4
    first, second = rng.permutation(len(CAMERAS) if job.host == "simulated" else len(photos))[:2]
    host, donor = (_photo(job, photos, int(number), size, rng) for number in (first, second))
    size = min(size[0], host.shape[1]), min(size[1], host.shape[0])  # a photo may be in portrait format
    if not job.spliced:
        picture = cut(host, size, job.grid == "on", rng)[0]
        mask = np.zeros(picture.shape[:2], bool)
    else:
        scale = float(rng.choice([1.0, rng.uniform(0.5, 2)]))
        edit = Edit(size, AREAS[job.area], _shape(job, rng), on_grid=job.grid != "off", scale=scale)
        picture, mask = compose(host, donor, edit, rng)
    return encode_picture(picture, "png" if job.fmt == "never" else job.fmt), mask


def _shape(job: Job, rng: np.random.Generator) -> str:
    return str(rng.choice(["blob", "side"])) if job.area == "30-60 %" else "blob"


def _photo(job: Job, photos: list[Path], number: int, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    if job.host == "real":
        return load_image(photos[number])
    camera, seed, larger = CAMERAS[number], int(rng.integers(2**62)), (size[0] + 16, size[1] + 16)
    if job.fmt == "never":
        return develop_photo(camera, seed, larger)
    return load_image(render_photo(camera, seed, larger))


def write(shared: Path, folder: Path) -> Path:
    """Write the pictures, their masks and index.csv to `folder`, replacing its content."""
    draft = folder.with_name(f"{folder.name}.new")
    for part in ("images", "masks"):
        (draft / part).mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    every = list(jobs())
    with worker_pool() as pool:
        made = pool.map(make, every, cycle([yardstick_photos(shared)]), chunksize=4)
        for job, (data, mask) in tqdm(zip(every, made, strict=True), total=len(every), unit=" pictures"):
            name, ending = f"{job.number:03d}", "jpg" if job.fmt.startswith("jpeg") else "png"
            (draft / f"images/{name}.{ending}").write_bytes(data)
            Image.fromarray(mask).save(draft / f"masks/{name}.png")
            kind = "spliced" if job.spliced else "authentic"
            row = {"name": name, "kind": kind, "format": job.fmt, "area": job.area, "grid": job.grid, "host": job.host}
            rows.append(row | {"tampered_fraction": f"{mask.mean():.4f}"})
    pd.DataFrame(rows).to_csv(draft / "index.csv", index=False, lineterminator="\n")
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)
    return folder


def renew() -> None:
    """Regenerate data/yardstick/ from the authentic photos of base.yaml's root."""
    print(write(project_path("../shared"), project_path("data/yardstick")))


#: Command line; returns the exit code, see `run_command`.
main = partial(run_command, renew)

if __name__ == "__main__":
    sys.exit(main())
