"""A training run from its parameters: data set, model, processing, judge; in this process or in several.

`accelerate launch -m exiflang.train --config run.yaml` and `notebooks/02_train` both start here.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list, set_seed
from torch.utils.data import Sampler

from exiflang.data import PatchDataset
from exiflang.evaluate import embed_photos, exif_fit
from exiflang.index import read_vocabulary
from exiflang.launch import LaunchError, launch_module, read_mapping
from exiflang.model import ExifLang
from exiflang.model_config import ExifLangConfig
from exiflang.parameters import project_path
from exiflang.processing import Processing
from exiflang.run_folder import RunFolder, TrainingError
from exiflang.sampling import CameraSampler
from exiflang.shard_places import expand_shards
from exiflang.shards import DataError, find_shards, read_photos
from exiflang.storage import absolute_place, is_url
from exiflang.stream import StreamDataset
from exiflang.tokenizer import train_tokenizer
from exiflang.train import train
from exiflang.train_config import TrainConfig


@dataclass
class Recipe:
    """What a run needs to know; the parameters of `notebooks/02_train`.

    Args:
        data_dir: folder that `prepare` has written; photos of unseen cameras in its `choose/`, if there, judge steps.
        shards: where to stream training shards from: folder, glob, braces or URL (see `expand_shards`); "":
            `data_dir`'s train/, streamed from a URL, indexed at once in a folder.
        model_dir: folder for weights, log and checkpoints.
        preset: towers, see `ExifLangConfig.preset`.
        image_tower, text_tower: folder or hub id of a pretrained tower, or "random". Both "": random, which the paper's
            presets do not take for granted.
        exif: "own", or "shuffled" among the photos.
        vocab_size: tokens of the tokenizer that is trained on the sentences (random text tower only).
        fixed_temperature: keep the preset's temperature instead of learning it.
        crop_sizes: sides of the training patches, one drawn a batch; empty: the preset's patch size.
        history, common_jpeg: see `Processing`.
        tag_dropout, shuffle_tags: see `PatchDataset`.
        min_share: share of the photos that must have a tag for it to be in sentences (by `data_dir`'s tags.json); 0:
            none is asked for.
        cache_tiles: decode all tiles once and keep them in memory (`PatchDataset(cache=True)`).
        balance, same_make: see `CameraSampler`.
        training: see `TrainConfig`.

    Raises `ValueError` for `shards` with a choice that needs all photos known at once.
    """

    data_dir: str = "data/demo"
    shards: str = ""
    model_dir: str = "data/models/demo"
    preset: str = "demo"
    image_tower: str = ""
    text_tower: str = ""
    exif: str = "own"
    vocab_size: int = 3000
    fixed_temperature: bool = False
    crop_sizes: list[int] = field(default_factory=list)
    history: float = 0.0
    common_jpeg: float = 0.0
    tag_dropout: float = 0.0
    shuffle_tags: bool = False
    min_share: float = 0.0
    cache_tiles: bool = False
    balance: float = 0.0
    same_make: float = 0.0
    training: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        chosen = {
            'exif="shuffled"': self.exif != "own",
            "balance": self.balance,
            "same_make": self.same_make,
            "cache_tiles": self.cache_tiles,
        }
        if self.streamed and (unfit := [name for name, wanted in chosen.items() if wanted]):
            raise ValueError(
                f"streamed shards do not go with {', '.join(unfit)}, which need all photos known at once: leave it "
                "out, or prepare the shards into a data_dir on this machine"
            )

    @classmethod
    def of(cls, **parameters: Any) -> Recipe:
        """From one flat set of names, those of `TrainConfig` among them. Raises `ValueError` for unknown ones."""
        own = {part.name for part in dataclasses.fields(cls)} - {"training"}
        training = {part.name for part in dataclasses.fields(TrainConfig)}
        if unknown := sorted(parameters.keys() - own - training):
            raise ValueError(f"unknown parameters {unknown}: choose among {', '.join(sorted(own | training))}")
        defaults = cls().flat()
        # YAML reads 1e-3 as text
        given = {name: float(v) if isinstance(defaults[name], float) else v for name, v in parameters.items()}
        config = TrainConfig(**{name: value for name, value in given.items() if name in training})
        return cls(**{name: value for name, value in given.items() if name in own}, training=config)

    def flat(self) -> dict[str, Any]:
        """The reverse of `of`."""
        fields = dataclasses.asdict(self)
        return fields | fields.pop("training")

    @property
    def folder(self) -> Path:
        """`model_dir`, absolute."""
        return project_path(self.model_dir)

    @property
    def patch_size(self) -> int:
        """The preset's, in pixels."""
        return ExifLangConfig.preset(self.preset).patch_size

    @property
    def streamed(self) -> str:
        """Where shards are streamed from; "" if they are indexed at once."""
        return self.shards or (f"{self.data_dir.rstrip('/')}/train" if is_url(self.data_dir) else "")

    def processing(self) -> Processing | None:
        """What is done to a batch; None: nothing, patches are cut by the data set."""
        if not (self.crop_sizes or self.history or self.common_jpeg):
            return None
        return Processing(
            tuple(self.crop_sizes) or (self.patch_size,), history=self.history, common_jpeg=self.common_jpeg
        )

    def dataset(self) -> PatchDataset | StreamDataset:
        """The photos of `data_dir/train`, or the stream of `shards`."""
        processing = self.processing()
        size = processing.source_size if processing else self.patch_size
        drawn = {
            "seed": self.training.seed,
            "views": 2 if self.training.image_weight else 1,
            "tag_dropout": self.tag_dropout,
            "shuffle_tags": self.shuffle_tags,
            "vocabulary": read_vocabulary(absolute_place(self.data_dir), self.min_share) if self.min_share else None,
        }
        if self.streamed:
            return StreamDataset(expand_shards(self.streamed), size, **drawn)
        shards = find_shards(project_path(self.data_dir) / "train")
        return PatchDataset(shards, size, exif=self.exif, cache=self.cache_tiles, **drawn)

    def sentences(self, dataset: PatchDataset | StreamDataset) -> list[str]:
        """What a tokenizer is trained on, the same in every process.

        Of a stream it is what the first process has read: another may have failed to fetch some shard.
        """
        return broadcast_object_list([dataset.sentences])[0] if self.streamed else dataset.sentences

    def model(self, sentences: list[str]) -> ExifLang:
        """The two towers; a random text tower has a tokenizer that is trained on `sentences`.

        Raises `ValueError` if a tower is "" beside one that is given, or with a preset of the paper.
        """
        set_seed(self.training.seed)
        bias = -10.0 if self.training.loss == "sigmoid" else None  # where SigLIP starts
        config = ExifLangConfig.preset(self.preset, logit_bias=bias)
        config.learn_logit_scale &= not self.fixed_temperature
        from_scratch = not (self.image_tower or self.text_tower or self.preset.startswith("paper"))
        image, text = ("random", "random") if from_scratch else (self.image_tower, self.text_tower)
        tokenizer = None
        if text == "random":
            words = ["Resized: 0.1234567890", "Recompressed: 0.1234567890"] if self.history else []
            tokenizer = train_tokenizer([*sentences, *words], self.vocab_size)
            config.text_config = config.text_config | {"vocab_size": len(tokenizer)}
        return ExifLang.from_towers(config, image, text, tokenizer)

    def sampler(self, dataset: PatchDataset, processes: int = 1) -> Sampler[int] | None:
        """The order of the photos; None: shuffled."""
        if not (self.balance or self.same_make):
            return None
        batch = self.training.batch_size * processes
        return CameraSampler(dataset.photos, batch, self.balance, self.same_make, self.training.seed)

    def judge(self) -> UnseenCameraJudge | None:
        """How well a model serves for cameras that it never saw; None without such photos on this machine."""
        folder = project_path(self.data_dir) / "choose"
        return UnseenCameraJudge(read_photos(find_shards(folder))[0]) if folder.is_dir() else None

    def run(self, dataset: PatchDataset | StreamDataset | None = None) -> list[dict[str, float]]:
        """Train, on `dataset()` if it is at hand already; as one of several processes where they were launched so.

        Returns the log.
        """
        dataset = dataset or self.dataset()
        return train(
            self.model(self.sentences(dataset)),
            dataset,
            self.training,
            self.folder,
            sampler=self.sampler(dataset, processes=int(os.environ.get("WORLD_SIZE", 1))),  # as launchers set it
            processing=self.processing(),
            validate=self.judge(),
        )

    def left_out(self) -> dict[str, int]:
        """What a finished run has left out of its stream, by reason."""
        return RunFolder(self.folder).read_left_out()


@dataclass
class UnseenCameraJudge:
    """A model's verdict for `train`, from `photos` of cameras that it never saw.

    The mean of two areas under the curve: a photo's own EXIF against that of other cameras, and two patches of a photo
    against patches of other cameras' photos. The first alone peaks early. The second is nearer to what finds splices,
    but soon close to 1, since patches of a photo share its scene: from then on EXIF decides.
    """

    photos: list

    def __call__(self, model: ExifLang) -> float:
        (image, text), (again, _) = (embed_photos(model, self.photos, crops=2, seed=seed) for seed in (0, 1))
        return (exif_fit(image, text, self.photos)["auc"] + exif_fit(image, again, self.photos)["auc"]) / 2


def launch(recipe: Recipe, processes: int) -> list[dict[str, float]]:
    """Train in so many new processes of this machine (see `launch_module`); returns the log.

    Raises `TrainingError` with what they said if they fail.
    """
    try:
        launch_module("exiflang.train", recipe.flat(), processes)
    except LaunchError as error:
        raise TrainingError(str(error)) from error
    return RunFolder(recipe.folder).read_log()


def main(arguments: list[str] | None = None) -> int:
    """Command line of `python -m exiflang.train`; returns 0, or 1 when a run cannot go on."""
    description = "Trains; start it with `accelerate launch -m exiflang.train ...` on several GPUs or machines."
    parser = argparse.ArgumentParser(prog="python -m exiflang.train", description=description)
    parser.add_argument("--config", required=True, help="YAML: 02_train's parameters, or a preset")
    options = parser.parse_args(arguments)
    try:
        Recipe.of(**read_parameters(Path(options.config))).run()
    except (TrainingError, DataError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def read_parameters(path: Path) -> Mapping[str, Any]:
    """A flat YAML mapping, or a preset's `shared` and `02_train` sections. Raises `ValueError` for anything else."""
    found = read_mapping(path)
    if "02_train" in found:
        return {**found.get("shared", {}), **found["02_train"]}
    return found
