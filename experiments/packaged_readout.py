"""The packaged learned readout: trained on composites, calibrated on authentic pictures, stored next to the weights.

`python -m experiments.packaged_readout` needs ../shared (see base.yaml); authentic_split.csv assigns whole photos to
training and calibration. An interrupted run resumes; an already trained readout is only calibrated again.
"""

import csv
import os
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from exiflang.data.composites import SHARES, CompositeDataset
from exiflang.data.shards import find_shards, read_photos
from exiflang.localization.learned_readout import FILE, LearnedReadout
from exiflang.localization.localizer import SpliceLocalizer
from exiflang.models.weights import packaged_model
from exiflang.pipeline.parameters import project_path
from exiflang.release.authentic import AuthenticPictures
from exiflang.release.authentic_records import authentic_calibration
from exiflang.training.readout import ReadoutConfig, train_readout
from exiflang.utils.commands import run_command

SPLIT = "experiments/authentic_split.csv"
FOLDER = "data/models/readout"
PICTURES = 7000


def whole_photos(*parts: str) -> list[tuple[Path, str]]:
    """File and camera of each whole photo in these parts of the split."""
    with project_path(SPLIT).open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["part"] in parts]
    folder = project_path("../shared/authentic/images")
    return [(folder / f"{row['name']}.jpg", row["camera"]) for row in rows]


def composites(length: int, seed: int, shares: Mapping[str, float] = SHARES) -> CompositeDataset:
    """Composites of the whole training photos, and of tiles from all cameras except those of the other parts."""
    elsewhere = {camera for _, camera in whole_photos("yardstick", "calibrate", "measure")}
    photos, _ = read_photos(find_shards(project_path("../shared/photos")))
    tiles = [photo for photo in photos if photo.camera not in elsewhere]
    return CompositeDataset([path for path, _ in whole_photos("train")], tiles, length, seed, shares)


def calibrated(readout: LearnedReadout) -> LearnedReadout:
    """Calibrate the readout on authentic photos used neither for training nor for scoring."""
    listed = project_path("data/calibration.csv")
    listed.parent.mkdir(exist_ok=True)
    with listed.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("path", "camera"), *whole_photos("calibrate")])
    folders = [project_path("../shared/camera_photos"), listed]
    localizer = SpliceLocalizer(readout="diffused_cut")
    localizer.learned = readout
    pictures = AuthenticPictures(folders, None)
    readout.calibration = authentic_calibration(localizer, pictures.by_camera())
    return readout


def renew(
    seed: Annotated[int, typer.Option(help="Seed of pictures and weights.")] = 0,
    out: Annotated[str, typer.Option(help="Output folder of the readout.")] = "",
) -> None:
    """Train and calibrate the packaged readout."""
    folder = project_path(f"{FOLDER}-{seed}")
    train_readout(folder, "", composites(PICTURES, seed), ReadoutConfig(seed=seed), os.cpu_count() or 1)
    calibrated(LearnedReadout.load(folder / FILE)).save(project_path(out) if out else packaged_model())


#: Command line; returns the exit code, see `run_command`.
main = partial(run_command, renew)

if __name__ == "__main__":
    sys.exit(main())
