"""Which training teaches a tower most about the EXIF of cameras that it never saw: one change in each small model.

`python -m experiments.exif_recipes` trains and measures the rows that have no figures yet, one single-threaded process
per run, and updates reports/golden/exif_recipes.json and its table. Finished runs are not repeated.

All rows have the recipe of the packaged weights at the scale of `experiments.ablation`, and are compared as in
`experiments.unseen_cameras`: by the cosine of picture and EXIF in the tower's own space, and in a tag space fitted to
its embeddings of training photos.
"""

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from tqdm.auto import tqdm

from exiflang.data.patches import PatchDataset
from exiflang.data.shards import find_shards, plain_name, read_member, read_photos
from exiflang.evaluation.retrieval import embed_photos
from exiflang.inspection.tag_space import TagVector, fit_tag_space
from exiflang.inspection.text_bank import TextBank
from exiflang.models.model import ExifLang
from exiflang.models.weights import packaged_model
from exiflang.pipeline.parameters import PipelineError, project_path
from exiflang.training.__main__ import read_parameters
from exiflang.training.loop import train
from exiflang.training.recipe import Recipe
from exiflang.utils.commands import run_command
from exiflang.utils.files import read_json, write_json
from exiflang.utils.hardware import this_machine
from exiflang.utils.processes import worker_pool
from experiments import ablation
from experiments.ablation_data import FOLDERS, data_set
from experiments.tables import figure, publish, spread, table
from experiments.unseen_cameras import GROUPS, Pairs, signature

SCALE: dict[str, Any] = ablation.SCALE | {"preset": "base", "steps": 400, "mixed_precision": "auto"}
CROPS = 4
NAMES = ("Make", "Model")
PHOTO = re.compile(r"Photo: (\d+), ")


# ---- what a row changes


def drop_names(dataset: PatchDataset) -> None:
    """Take Make and Model out of the sentences of every second photo."""
    for i in range(0, len(dataset), 2):
        kept = [word for word in dataset.sentences[i].split(", ") if word.split(": ")[0] not in NAMES]
        dataset.sentences[i] = ", ".join(kept) or dataset.sentences[i]


def add_signature(dataset: PatchDataset) -> None:
    """Append the photo's JPEG header to its sentence as one word: chroma sampling, first steps of both tables."""
    for i, photo in enumerate(dataset.photos):
        sampling, _, *steps = signature(read_member(*photo.tiles[0]))
        dataset.sentences[i] += f", JPEG: {sampling} {' '.join(map(str, (*steps[:6], *steps[64:67])))}"


class NumberedPhotos(PatchDataset):
    """Each sentence begins with the photo's number, by which `TagHeads` finds its tags."""

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        patches, sentence = super().__getitem__(index)
        return patches, f"Photo: {index}, {sentence}"


class AddLoss(torch.autograd.Function):
    """Passes embeddings on, and adds a second loss to that which is computed from them."""

    @staticmethod
    def forward(ctx: Any, embeddings: Tensor, loss: Tensor) -> Tensor:
        return embeddings.view_as(embeddings)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return gradient, gradient.new_ones(())


class TagHeads(ExifLang):
    """Beside the contrastive loss, a linear map of the image embedding learns the vector of all tags of the photo.

    The second loss is the mean squared error of the vector's standardized components.
    """

    def learn(self, vector: TagVector, tags: Sequence[Mapping[str, str]]) -> None:
        """Add the map for the tags of n photos."""
        targets = torch.from_numpy(vector(tags))  # [n, F]
        self.targets = (targets - targets.mean(0)) / targets.std(0).clamp(min=0.05)
        self.heads = nn.Linear(self.config.embed_dim, targets.shape[1])

    def tokenize(self, sentences: Sequence[str]) -> dict[str, Tensor]:
        """As in the base class, and the photos' numbers `photo`, int64 [B], if the sentences begin with them."""
        tokens = super().tokenize([PHOTO.sub("", sentence) for sentence in sentences])
        numbers = [int(found[1]) for sentence in sentences if (found := PHOTO.match(sentence))]
        return tokens | ({"photo": torch.tensor(numbers)} if numbers else {})

    def forward(
        self,
        patches: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        bucketed: bool = True,
        photo: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As in the base class; with `photo` [U], the patches are equally many views of each, in their order."""
        image, text = super().forward(patches, input_ids, attention_mask, bucketed)
        if photo is not None:
            wanted = self.targets[photo].repeat_interleave(len(image) // len(photo), 0)  # [U, F] -> [B, F]
            found = self.heads(image * self.config.embed_dim**0.5)
            image = AddLoss.apply(image, F.mse_loss(found, wanted))
        return image, text


class TagTower(ExifLang):
    """The place of the text tower is taken by a two-layer perceptron of the sentence's tag vector."""

    def learn(self, vector: TagVector, tags: Sequence[Mapping[str, str]]) -> None:
        """Add the perceptron for this vector."""
        self.vector = vector
        width = vector(tags[:1]).shape[1]
        self.of_tags = nn.Sequential(nn.Linear(width, 256), nn.GELU(), nn.Linear(256, self.config.embed_dim))

    def tokenize(self, sentences: Sequence[str]) -> dict[str, Tensor]:
        """Tag vectors, float32 [B, F], in the place of tokens; the mask is [B, 1]."""
        words = [sentence.split(", ") for sentence in sentences]
        tags = [dict(word.split(": ", 1) for word in found if ": " in word) for found in words]
        return {"input_ids": torch.from_numpy(self.vector(tags)), "attention_mask": torch.ones(len(tags), 1).long()}

    def encode_tokens(self, input_ids: Tensor, attention_mask: Tensor, bucketed: bool = True) -> Tensor:
        """Tag vectors [B, F] -> [B, D] of unit norm."""
        return F.normalize(self.of_tags(input_ids).float(), dim=1)


@dataclass(frozen=True)
class Row:
    """One configuration: its changes to the recipe and to the sentences, and its model."""

    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    rewrite: Callable[[PatchDataset], None] | None = None
    model: type[ExifLang] = ExifLang
    seeds: int = 2

    def recipe(self, seed: int) -> Recipe:
        parameters = read_parameters(project_path("notebooks/params/base.yaml")) | SCALE | dict(self.changes)
        places = {"data_dir": str(project_path(FOLDERS["real"])), "model_dir": str(self.folder(seed) / "model")}
        return Recipe.of(**parameters | places | {"seed": seed})

    def folder(self, seed: int) -> Path:
        """Folder of one run: `metrics.json` once it has finished, and weights."""
        slug = re.sub("[^a-z]+", "-", self.name.lower())
        return project_path("reports/runs/exif_recipes") / f"{slug}-{seed}"


_BALANCED = {"balance": 0.5}
ROWS = (
    Row("recipe of the packaged weights"),
    Row("Make and Model dropped from half of the sentences", rewrite=drop_names),
    Row("JPEG header as a word of the sentence", rewrite=add_signature),
    Row("heads for tags beside the loss", model=TagHeads),
    Row("vector of tags in place of the sentence", model=TagTower),
    Row("balanced cameras", _BALANCED),
    Row("vector of tags, balanced cameras", _BALANCED, model=TagTower),
    Row("heads, Make and Model dropped, balanced cameras", _BALANCED, drop_names, TagHeads),
)


# ---- one run


@cache
def common_values() -> Mapping[str, Sequence[str]]:
    """{tag: its common values} in the training photos. Raises `PipelineError` without the packaged text bank."""
    bank = TextBank.load(packaged_model())
    if bank is None:
        raise PipelineError(
            f"{packaged_model()} has no text bank: make it with python -m exiflang.inspection.text_bank"
        )
    return bank.values


def trained(row: Row, seed: int) -> ExifLang:
    """The model of one run, in evaluation mode."""
    recipe = row.recipe(seed)
    dataset = recipe.dataset()
    tags = [photo.tags for photo in dataset.photos]
    if row.rewrite:
        row.rewrite(dataset)
    model = recipe.model(dataset.sentences)
    if row.model is not ExifLang:
        model.__class__ = row.model  # a recipe knows one kind of model; the others only add to it
        model.learn(TagVector.of(common_values(), tags), tags)
    if row.model is TagHeads:
        dataset.__class__ = NumberedPhotos
    sampler, augmentation = recipe.sampler(dataset), recipe.augmentation()
    train(model, dataset, recipe.training, recipe.folder, sampler=sampler, augmentation=augmentation)
    return model.eval()


def measure(model: ExifLang) -> dict[str, float]:
    """{"<group>/own space" or "<group>/tag space": area under the curve}."""
    folder = project_path(FOLDERS["real"])
    training = read_photos(find_shards(folder / "train"))[0]
    cameras = [plain_name(photo.camera) for photo in training]
    image, _ = embed_photos(model, training, CROPS)
    space = fit_tag_space(image, [photo.tags for photo in training], cameras, common_values())
    found = {}
    for group in GROUPS:
        photos = read_photos(find_shards(folder / ("heldout" if group == "seen" else group)))[0]
        pairs = Pairs.of([plain_name(photo.camera) for photo in photos])
        image, text = embed_photos(model, photos, CROPS)
        placed = space.place_images(image), space.place_tags([photo.tags for photo in photos])
        for way, (left, right) in {"own space": (image, text), "tag space": placed}.items():
            fits = (left[pairs.i] * right[pairs.j]).sum(-1)
            found[f"{group}/{way}"] = float(roc_auc_score(pairs.i == pairs.j, fits))
    return found


def run(row: Row, seed: int) -> None:
    """Train and measure, unless that is done."""
    place, settings = row.folder(seed) / "metrics.json", row.recipe(seed).flat()
    if place.exists() and read_json(place)["settings"] == settings:
        return
    torch.set_num_threads(1)
    metrics = measure(trained(row, seed))
    write_json(place, {"settings": settings, "metrics": metrics, "hardware": this_machine()})


# ---- all runs


def gather() -> dict[str, Any]:
    """Figures of the finished runs over their seeds; rows without any are left out."""
    rows, machines = {}, set()
    for row in ROWS:
        places = [row.folder(seed) / "metrics.json" for seed in range(row.seeds)]
        if done := [read_json(place) for place in places if place.exists()]:
            machines |= {found["hardware"] for found in done}
            names = done[0]["metrics"]
            rows[row.name] = {name: spread([found["metrics"][name] for found in done]) for name in names}
    if not rows:
        raise PipelineError("no run has finished")
    protocol = SCALE | {"crops": CROPS, "hardware": sorted(machines)}
    return {"protocol": protocol, "rows": rows}


def markdown(found: Mapping[str, Any]) -> str:
    """The table with its protocol: a row for each training."""
    protocol = found["protocol"]
    columns = {f"{group}/{way}": f"{group}, {way}" for way in ("own space", "tag space") for group in GROUPS}
    body = [
        [name, str(len(row["seen/own space"]["values"])), *(figure(row[key]) for key in columns)]
        for name, row in found["rows"].items()
    ]
    text = f"{protocol['steps']} steps of {protocol['batch_size']} photos, {protocol['crops']} patches of a photo."
    return f"{text}\n\n{table(['training', 'seeds', *columns.values()], body)}"


def renew(
    workers: Annotated[int | None, typer.Option(help="Number of parallel runs (default: one per core).")] = None,
    table: Annotated[bool, typer.Option("--table", help="Run nothing; only gather finished runs.")] = False,
) -> None:
    """Update reports/golden/exif_recipes.json and its table."""
    if not table:
        data_set("real")
        os.environ["OMP_NUM_THREADS"] = "1"
        most = max(row.seeds for row in ROWS)
        runs = [(row, seed) for seed in range(most) for row in ROWS if seed < row.seeds]
        with worker_pool(workers or os.cpu_count()) as pool:
            waiting = [pool.submit(run, *each) for each in runs]
            for done in tqdm(as_completed(waiting), total=len(runs), unit=" runs"):
                done.result()
    found = gather()
    publish("exif_recipes", found, {"exif_recipes": markdown(found)})


#: Command line; returns the exit code, see `run_command`.
main = partial(run_command, renew)

if __name__ == "__main__":
    sys.exit(main())
