"""Whether the similarity of two photos tells that they are of one camera model.

`python -m experiments.camera_pairs` compares all pairs of whole authentic photos, calibrates `exiflang compare` of the
packaged weights with them, and updates reports/golden/camera_pairs.json.
"""

import csv
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from sklearn.metrics import roc_auc_score

from exiflang.data.shards import plain_name
from exiflang.inspection.pairs import pair_ranks
from exiflang.localization.localizer import SpliceLocalizer
from exiflang.models.model import ExifLang
from exiflang.models.weights import NAME, packaged_model
from exiflang.pipeline.parameters import project_path
from exiflang.release.camera_pairs import photo_embeddings
from exiflang.utils.commands import run_command
from exiflang.utils.images import load_image
from experiments.tables import publish, table

#: Resamples of cameras for the limits.
RESAMPLES = 1000


def photos_as_cameras_wrote_them(folder: Path) -> Iterator[tuple[str, np.ndarray, Path | None]]:
    """Camera, pixels and file of each photo of `authentic` that no editor or web site has saved anew."""
    with (folder / "index.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["class"] == "original"]
    for row in rows:
        path = next((folder / "images").glob(f"{row['name']}.*"))
        yield plain_name(row["camera"]), load_image(path), path


def measure(embeddings: np.ndarray, cameras: list[str]) -> dict[str, float]:
    """AUC of pairs of one camera against pairs of two, with 95 % limits over cameras."""
    rng, names = np.random.default_rng(0), np.array(cameras)
    cosines = embeddings @ embeddings.T

    def auc(chosen: np.ndarray) -> float:
        row, col = np.triu_indices(len(chosen), 1)
        i, j = chosen[row], chosen[col]
        different = i != j  # a photo drawn twice is no pair
        same = names[i] == names[j]
        return float(roc_auc_score(same[different], cosines[i, j][different]))

    kinds = sorted(set(cameras))
    drawn = []
    for _ in range(RESAMPLES):
        chosen = np.concatenate([np.flatnonzero(names == kind) for kind in rng.choice(kinds, len(kinds))])
        drawn.append(auc(chosen))
    low, high = np.quantile(drawn, [0.025, 0.975])
    pairs = sum(count * (count - 1) // 2 for count in np.unique(names, return_counts=True)[1].tolist())
    return {"auc": auc(np.arange(len(names))), "low": float(low), "high": float(high), "same_pairs": pairs}


def markdown(found: Mapping[str, Any]) -> str:
    """The table: trained and untrained weights."""
    rows = [
        [name, f"{part['auc']:.2f} ({part['low']:.2f} to {part['high']:.2f})"] for name, part in found["models"].items()
    ]
    pairs = next(iter(found["models"].values()))["same_pairs"]
    return table([f"{found['photos']} photos of {found['cameras']} cameras, {pairs} pairs of one camera", "AUC"], rows)


def renew(
    folder: Annotated[str, typer.Option(help="Whole authentic photos with index.csv.")] = "../shared/authentic",
) -> None:
    """Calibrate the packaged weights and update reports/golden/camera_pairs.json."""
    model = ExifLang.from_pretrained(str(packaged_model()))
    torch.manual_seed(0)
    untrained = ExifLang(model.config, model.tokenizer).eval()
    models, cameras = {}, []
    for name, tower in {"packaged weights": model, "control: untrained": untrained}.items():
        embeddings, cameras = photo_embeddings(
            SpliceLocalizer(tower), photos_as_cameras_wrote_them(project_path(folder))
        )
        models[name] = measure(embeddings, cameras)
        if tower is model:
            pair_ranks(embeddings, cameras).save(packaged_model())
    golden = {"model": NAME, "protocol": {"resamples": RESAMPLES}, "photos": len(cameras)}
    golden |= {"cameras": len(set(cameras)), "models": models}
    publish("camera_pairs", golden, {"camera_pairs": markdown(golden)})


#: Command line; returns the exit code, see `run_command`.
main = partial(run_command, renew)

if __name__ == "__main__":
    sys.exit(main())
