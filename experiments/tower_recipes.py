"""Which training makes a tower that finds splices better: one change in each small model, the packaged readout on all.

`python -m experiments.tower_recipes` trains and measures the rows that have no figures yet, one single-threaded process
per run, and updates reports/golden/tower_recipes.json and its table. Finished runs are not repeated, and the first seed
of all rows comes first.

A tower is scored by the relations of its windows, read by the packaged readout together with the evidence of the same
windows, and by diffused far friends alone. `forgeries` and the yardstick, whose pictures no training saw, choose a
recipe; `splices` and `casia_1` are only reported.
"""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
import typer
from torch import Tensor
from tqdm.auto import tqdm

from exiflang.data.augmentation import Augmentation
from exiflang.data.patches import PatchDataset
from exiflang.localization.learned_readout import FILE, LearnedReadout
from exiflang.localization.localizer import Comparison, SpliceLocalizer
from exiflang.localization.relations import NAMES, window_relations
from exiflang.models.model import ExifLang
from exiflang.models.weights import packaged_model
from exiflang.pipeline.parameters import PipelineError, project_path
from exiflang.training.__main__ import read_parameters
from exiflang.training.loop import train
from exiflang.training.measured import Measured, measure, read_measured
from exiflang.training.recipe import Recipe
from exiflang.utils.commands import run_command
from exiflang.utils.files import file_sha256, read_json, write_json
from exiflang.utils.hardware import this_machine
from exiflang.utils.processes import worker_pool
from experiments import ablation
from experiments.ablation_data import FOLDERS, data_set
from experiments.exif_recipes import AddLoss
from experiments.histories import WORDS, Histories, Twins
from experiments.readout_ablation import measured_benchmark, scores_of, window_scores
from experiments.readout_figures import SETS, pictures_of
from experiments.tables import figure, publish, spread, table

SCALE: dict[str, Any] = ablation.SCALE | {"preset": "base", "mixed_precision": "auto"}
#: Settings of rows that go on from the packaged weights.
CONTINUED = {"learning_rate": 7e-4}
#: Every so many-th spliced picture of a set is scored.
EVERY = {"yardstick": 2}
CHOOSING = ("yardstick", "forgeries")
ALONE = "diffused far friends"
#: Weight of the loss of `Distilled`.
LIKENESS = 30.0
#: Weight of the loss of `FlatSpectrum`, and the share of eigenvalues below which it does not look.
FLATNESS, FLOOR = 0.05, 1e-4


# ---- what a row changes


class SameModel(PatchDataset):
    """The second view of a photo comes from another photo of the same camera model, if there is one."""

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        patches, sentence = super().__getitem__(index)
        others = self.alike[self.photos[index].camera]
        rng = np.random.default_rng([self.seed, self.epoch, index, 2])
        other = int(rng.choice(others))
        return torch.stack([patches[0], super().__getitem__(other)[0][1]]), sentence

    def index(self) -> None:
        """List the photos of each camera."""
        self.alike: dict[str, list[int]] = {}
        for i, photo in enumerate(self.photos):
            self.alike.setdefault(photo.camera, []).append(i)


class FlatSpectrum(ExifLang):
    """Beside the contrastive loss, the eigenvalues of the embeddings' covariance shall be equal.

    The second loss is the log of their arithmetic over their geometric mean: what Noiseprint asks of the power spectrum
    of its output (Cozzolino and Verdoliva 2020), asked of embeddings, which have no frequencies.
    """

    def forward(self, patches: Tensor, *tokens: Tensor, **named: Any) -> tuple[Tensor, Tensor]:
        """As in the base class."""
        image, text = super().forward(patches, *tokens, **named)
        return AddLoss.apply(image, FLATNESS * unevenness(image)), text


class Distilled(ExifLang):
    """Beside the contrastive loss, patches shall be as similar to one another as two finished towers find them.

    The second loss is the mean squared difference of all cosines of a batch's patches from the mean over the teachers.
    """

    def learn_from(self, teachers: Sequence[ExifLang]) -> None:
        """Set the teachers, whose weights are neither trained nor saved."""
        self.teachers = lambda: teachers  # a function, since a module in an attribute would be a part of the model

    def forward(self, patches: Tensor, *tokens: Tensor, **named: Any) -> tuple[Tensor, Tensor]:
        """As in the base class."""
        image, text = super().forward(patches, *tokens, **named)
        if not self.training:
            return image, text
        with torch.no_grad():
            wanted = torch.stack([gram(teacher.encode_image(patches)) for teacher in self.teachers()]).mean(0)
        return AddLoss.apply(image, LIKENESS * F.mse_loss(gram(image), wanted)), text


def gram(embeddings: Tensor) -> Tensor:
    """Cosines of all pairs of embeddings of unit norm: [B, D] -> float32 [B, B]."""
    return embeddings.float() @ embeddings.float().T


def unevenness(embeddings: Tensor) -> Tensor:
    """Log of arithmetic over geometric mean of the covariance's eigenvalues: [B, D] -> scalar, 0 if they are equal."""
    centered = embeddings.float() - embeddings.float().mean(0)
    rank = min(len(centered) - 1, centered.shape[1])
    values = torch.linalg.svdvals(centered)[:rank].square()
    values = values / values.mean() + FLOOR
    return values.mean().log() - values.log().mean()


@dataclass(frozen=True)
class Row:
    """One configuration: its changes to the recipe, its data, and what else is different.

    Attributes:
        continued: start from the packaged weights.
        histories, twins: see `experiments.histories`.
        tower: changes to the image tower's configuration.
        largest: side in pixels of the largest windows that are scored.
    """

    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    data: str = "real"
    dataset: type[PatchDataset] = PatchDataset
    model: type[ExifLang] = ExifLang
    continued: bool = False
    histories: bool = False
    twins: bool = False
    tower: Mapping[str, Any] = field(default_factory=dict)
    largest: int = 64
    seeds: int = 2

    def recipe(self, seed: int) -> Recipe:
        parameters = read_parameters(project_path("notebooks/params/base.yaml")) | SCALE
        parameters |= (CONTINUED if self.continued else {}) | dict(self.changes)
        places = {"data_dir": str(project_path(FOLDERS[self.data])), "model_dir": str(self.folder(seed) / "model")}
        return Recipe.of(**parameters | places | {"seed": seed})

    def folder(self, seed: int) -> Path:
        """Folder of one run: `metrics.json` once it has finished, and weights."""
        slug = re.sub("[^a-z0-9]+", "-", self.name.lower())
        return project_path("reports/runs/tower_recipes") / f"{slug}-{seed}"

    def augmentation(self, recipe: Recipe) -> Any:
        """What is done to a batch."""
        found: Any = recipe.augmentation()
        if self.histories:
            found = Histories(Augmentation(tuple(recipe.crop_sizes), 0.0, common_jpeg=recipe.common_jpeg))
        return Twins(found) if self.twins else found


_LARGE = {"crop_sizes": [40, 64, 96]}
WIDE = {"embedding_size": 32, "hidden_sizes": [64, 128, 256]}
PLAIN = Row("recipe of the packaged weights")
ROWS = (
    Row("packaged weights", {"steps": 0}, continued=True, seeds=1),
    PLAIN,
    Row("more kinds of histories", histories=True),
    Row("each photo twice, with two histories", twins=True),
    Row("twice, with more kinds", histories=True, twins=True),
    Row("packaged weights, windows to 96 px", {"steps": 0}, continued=True, largest=96, seeds=1),
    Row("patches to 96 px", _LARGE),
    Row("patches and windows to 96 px", _LARGE, largest=96),
    Row("views from two photos of a model", dataset=SameModel),
    Row("flat spectrum", model=FlatSpectrum),
    Row("real and simulated cameras", data="both"),
    Row("padded tower", {"preset": "padded"}),
    Row("wider early stages", tower=WIDE),
    Row("distilled from two seeds", model=Distilled),
    Row("continued", continued=True),
    Row("continued, more kinds of histories", continued=True, histories=True),
    Row("continued, each photo twice", continued=True, twins=True),
    Row("continued, twice, with more kinds", continued=True, histories=True, twins=True),
)


# ---- one run


def trained(row: Row, seed: int) -> ExifLang:
    """The model of one run, in evaluation mode."""
    recipe = row.recipe(seed)
    if not recipe.training.steps:
        return ExifLang.from_pretrained(str(packaged_model()))
    dataset, augmentation = recipe.dataset(), row.augmentation(recipe)
    dataset.__class__ = row.dataset  # a recipe knows one kind of data set and of model; the others only add to it
    if isinstance(dataset, SameModel):
        dataset.index()
    if row.continued:
        model = ExifLang.from_pretrained(str(packaged_model()))
    else:
        model = recipe.model([*dataset.sentences, *(WORDS if row.histories else [])])
    if row.tower:
        model.config.image_config |= row.tower
        model = ExifLang(model.config, model.tokenizer)
    model.__class__ = row.model
    if isinstance(model, Distilled):
        model.learn_from([trained(PLAIN, seed) for seed in range(PLAIN.seeds)])
    train(model, dataset, recipe.training, recipe.folder, augmentation=augmentation)
    model.__class__ = ExifLang
    return model.eval()


@cache
def known(name: str) -> Mapping[str, Path]:
    """The scored pictures of a set, spliced ones, as measured with the packaged weights."""
    files = measured_benchmark(name, "packaged", "")
    spliced = [item for item, file in files.items() if read_measured(file).shares.max() > 0]
    return {item: files[item] for item in spliced[:: EVERY.get(name, 1)]}


def read_with(embeddings: np.ndarray, seen: Measured) -> Measured:
    """A measured picture with the relations of other embeddings [rows, cols, D] of the same windows."""
    found = window_relations(torch.from_numpy(embeddings))
    maps = torch.cat([found.maps, seen.maps[..., len(NAMES) :]], 2)
    picture = torch.cat([found.picture, seen.picture[len(found.picture) :]])
    return Measured(maps, picture, torch.from_numpy(embeddings), seen.shares)


@torch.inference_mode()
def localization(model: ExifLang, largest: int) -> dict[str, float]:
    """Mean p-mAP over windows: {"<set>/<readout>"} for the packaged readout, "learned", and `ALONE`."""
    readout = LearnedReadout.load(packaged_model() / FILE)
    usual = largest == model.config.patch_size
    model.config.patch_size = largest
    localizer = SpliceLocalizer(model, readout="diffused_cut", comparison=Comparison(stride_multiple=8))
    found = {}
    for name in SETS:
        files, scores = known(name), list[tuple[float, float]]()
        for item in pictures_of(name).only(list(files)):
            if usual:
                embeddings, *_ = localizer.embed(item.image, calibrated=True)
                picture = read_with(embeddings, read_measured(files[item.name]))
            else:
                picture = measure(localizer.observe(item.image, item.history, calibrated=True), item.mask)
            alone = picture.maps[..., NAMES.index(ALONE)].numpy()
            by_relations = window_scores(alone, picture.shares.numpy())["p_map"]
            scores.append((scores_of(readout, picture)["p_map"], by_relations))
        found |= dict(zip((f"{name}/learned", f"{name}/{ALONE}"), np.mean(scores, 0).tolist(), strict=True))
    return found


def run(row: Row, seed: int) -> None:
    """Train and measure, unless that is done."""
    place = row.folder(seed) / "metrics.json"
    settings = row.recipe(seed).flat() | {"weights": file_sha256(packaged_model() / "model.safetensors")}
    if place.exists() and read_json(place)["settings"] == settings:
        return
    torch.set_num_threads(1)
    model = trained(row, seed)
    fits = ablation.exif(model, ablation.PROTOCOL)[0]
    metrics = localization(model, row.largest) | fits
    place.parent.mkdir(parents=True, exist_ok=True)  # without training it does not exist yet
    write_json(place, {"settings": settings, "metrics": metrics, "hardware": this_machine()})


# ---- all runs


def gather() -> dict[str, Any]:
    """Figures of the finished runs over their seeds; rows without any are left out."""
    rows, machines = {}, set()
    for row in ROWS:
        places = [row.folder(seed) / "metrics.json" for seed in range(row.seeds)]
        if done := [read_json(place) for place in places if place.exists()]:
            machines |= {found["hardware"] for found in done}
            rows[row.name] = {name: spread([found["metrics"][name] for found in done]) for name in done[0]["metrics"]}
    if not rows:
        raise PipelineError("no run has finished")
    pictures = {name: len(known(name)) for name in SETS}
    protocol = SCALE | {"continued": CONTINUED, "pictures": pictures, "hardware": sorted(machines)}
    return {"protocol": protocol, "rows": rows}


def markdown(found: Mapping[str, Any]) -> str:
    """Both tables with their protocol, a row for each training: the packaged readout and EXIF, and `ALONE`."""
    protocol, rows = found["protocol"], found["rows"]
    first = {f"{name}/learned": name for name in SETS} | {"fit/heldout": "EXIF, seen cameras", "fit/unseen": "unseen"}
    text = f"{protocol['steps']} steps of {protocol['batch_size']} photos; p-mAP over windows of spliced pictures: "
    text += ", ".join(f"{name} {count}" for name, count in protocol["pictures"].items())
    second = {f"{name}/{ALONE}": name for name in SETS}
    return f"{text}.\n\n{_table('learned', rows, first)}\n\n{_table(ALONE, rows, second)}"


def _table(readout: str, rows: Mapping[str, Any], columns: Mapping[str, str]) -> str:
    body = [
        [name, str(len(row["fit/heldout"]["values"])), *(figure(row[key], 3) for key in columns)]
        for name, row in rows.items()
    ]
    return table([readout, "seeds", *columns.values()], body)


def renew(
    workers: Annotated[int | None, typer.Option(help="Number of parallel runs (default: one per core).")] = None,
    table: Annotated[bool, typer.Option("--table", help="Run nothing; only gather finished runs.")] = False,
) -> None:
    """Update reports/golden/tower_recipes.json and its table."""
    if not table:
        for name in {row.data for row in ROWS}:
            data_set(name)
        for name in SETS:
            known(name)
        os.environ["OMP_NUM_THREADS"] = "1"
        most = max(row.seeds for row in ROWS)
        runs = [(row, seed) for seed in range(most) for row in ROWS if seed < row.seeds]
        runs.sort(key=lambda each: each[0].model is Distilled)  # last: their teachers are other runs
        with worker_pool(workers or os.cpu_count()) as pool:
            waiting = [pool.submit(run, *each) for each in runs]
            for done in tqdm(as_completed(waiting), total=len(runs), unit=" runs"):
                done.result()
    found = gather()
    publish("tower_recipes", found, {"tower_recipes": markdown(found)})


#: Command line; returns the exit code, see `run_command`.
main = partial(run_command, renew)

if __name__ == "__main__":
    sys.exit(main())
