"""A training run from its parameters: data set, model, augmentation, validation; in this process or in several.

`accelerate launch -m exiflang.training --config run.yaml` and `notebooks/02_train` both start here.
"""

import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

from torch.utils.data import Sampler

from exiflang.data.augmentation import Augmentation
from exiflang.data.composites import CompositeDataset, composites_of
from exiflang.data.patches import PatchDataset, read_vocabulary
from exiflang.data.sampler import CameraSampler
from exiflang.data.shard_urls import expand_shards
from exiflang.data.shards import Photo, find_shards, read_photos
from exiflang.data.streaming import StreamDataset
from exiflang.evaluation.retrieval import embed_photos, exif_fit
from exiflang.models.config import ExifLangConfig
from exiflang.models.model import ExifLang
from exiflang.models.tokenizer import train_tokenizer
from exiflang.training.config import TrainConfig
from exiflang.training.loop import train
from exiflang.training.readout import ReadoutConfig, train_readout
from exiflang.training.run_folder import RunFolder
from exiflang.utils.extras import extra
from exiflang.utils.files import absolute_path
from exiflang.utils.launch import launch_module
from exiflang.utils.storage import absolute_place, is_url
from exiflang.utils.typed import check_fields, unknown_name

with extra("train"):
    from accelerate.utils import broadcast_object_list, set_seed


@dataclass
class Recipe:
    """What a run needs to know: the parameters of `notebooks/02_train`, and what its `training` may hold.

    Args:
        data_dir: folder that `prepare` has written; photos of unseen cameras in its `choose/`, if there,
            validate steps.
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
        processing_probability, common_jpeg: see `Augmentation`.
        tag_dropout, shuffle_tags: see `PatchDataset`.
        min_share: share of the photos that must have a tag for it to be in sentences (by `data_dir`'s tags.json); 0:
            none is asked for.
        cache_tiles: decode all tiles once and keep them in memory (`PatchDataset(cache=True)`).
        balance, same_make: see `CameraSampler`.
        readout_pictures: made pictures on which a readout is trained after the towers; 0: none is.
        readout_photos: folder of whole photos that nobody edited, to make them of; "": tiles and simulated cameras.
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
    processing_probability: float = 0.0
    common_jpeg: float = 0.0
    tag_dropout: float = 0.0
    shuffle_tags: bool = False
    min_share: float = 0.0
    cache_tiles: bool = False
    balance: float = 0.0
    same_make: float = 0.0
    readout_pictures: int = 0
    readout_photos: str = ""
    training: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        check_fields(self)
        chosen = {name: getattr(self, name) for name in ("balance", "same_make", "cache_tiles", "readout_pictures")}
        chosen = {'exif="shuffled"': self.exif != "own"} | chosen
        if self.streamed and (unfit := [name for name, wanted in chosen.items() if wanted]):
            raise ValueError(
                f"streamed shards do not go with {', '.join(unfit)}, which need all photos known at once: leave it "
                "out, or prepare the shards into a data_dir on this machine"
            )

    @classmethod
    def of(cls, **parameters: Any) -> Self:
        """From one flat set of names, those of `TrainConfig` among them.

        Raises `ValueError` for an unknown name, with the nearest one, and for a value of another type.
        """
        if said := unknown_name(parameters, cls().flat()):
            raise ValueError(f"a training has no parameter {said}")
        training = {field.name for field in dataclasses.fields(TrainConfig)} & parameters.keys()
        return cls(training=TrainConfig(**{name: parameters.pop(name) for name in training}), **parameters)

    def flat(self) -> dict[str, Any]:
        """The reverse of `of`."""
        fields = dataclasses.asdict(self)
        return fields | fields.pop("training")

    @property
    def folder(self) -> Path:
        """`model_dir`, absolute."""
        return absolute_path(self.model_dir)

    @property
    def patch_size(self) -> int:
        """The preset's, in pixels."""
        return ExifLangConfig.preset(self.preset).patch_size

    @property
    def streamed(self) -> str:
        """Where shards are streamed from; "" if they are indexed at once."""
        return self.shards or (f"{self.data_dir.rstrip('/')}/train" if is_url(self.data_dir) else "")

    def augmentation(self) -> Augmentation | None:
        """What is done to a batch; None: nothing, patches are cut by the data set."""
        if not (self.crop_sizes or self.processing_probability or self.common_jpeg):
            return None
        return Augmentation(
            tuple(self.crop_sizes) or (self.patch_size,),
            processing_probability=self.processing_probability,
            common_jpeg=self.common_jpeg,
        )

    def dataset(self) -> PatchDataset | StreamDataset:
        """The photos of `data_dir/train`, or the stream of `shards`."""
        augmentation = self.augmentation()
        size = augmentation.source_size if augmentation else self.patch_size
        drawn: dict[str, Any] = {
            "seed": self.training.seed,
            "views": 2 if self.training.image_weight else 1,
            "tag_dropout": self.tag_dropout,
            "shuffle_tags": self.shuffle_tags,
            "vocabulary": read_vocabulary(absolute_place(self.data_dir), self.min_share) if self.min_share else None,
        }
        if self.streamed:
            return StreamDataset(expand_shards(self.streamed), size, **drawn)
        shards = find_shards(absolute_path(self.data_dir) / "train")
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
            words = ["Resized: 0.1234567890", "Recompressed: 0.1234567890"] if self.processing_probability else []
            tokenizer = train_tokenizer([*sentences, *words], self.vocab_size)
            config.text_config = {**(config.text_config or {}), "vocab_size": len(tokenizer)}
        return ExifLang.from_towers(config, image, text, tokenizer)

    def sampler(self, dataset: PatchDataset | StreamDataset, processes: int = 1) -> Sampler[int] | None:
        """The order of the photos; None: shuffled."""
        if isinstance(dataset, StreamDataset) or not (self.balance or self.same_make):
            return None
        batch = self.training.batch_size * processes
        return CameraSampler(dataset.photos, batch, self.balance, self.same_make, self.training.seed)

    def validation(self) -> Callable[[ExifLang], float] | None:
        """How well a model serves for cameras that it never saw; None without such photos on this machine."""
        folder = absolute_path(self.data_dir) / "choose"
        return partial(validation_score, read_photos(find_shards(folder))[0]) if folder.is_dir() else None

    def run(self, dataset: PatchDataset | StreamDataset | None = None) -> list[dict[str, float]]:
        """Train, on `dataset()` if at hand already, as one of several processes if launched so; returns the log."""
        dataset = dataset or self.dataset()
        return train(
            self.model(self.sentences(dataset)),
            dataset,
            self.training,
            self.folder,
            sampler=self.sampler(dataset, processes=int(os.environ.get("WORLD_SIZE", 1))),  # as launchers set it
            augmentation=self.augmentation(),
            validate=self.validation(),
        )

    def composites(self) -> CompositeDataset:
        """What a readout is trained on."""
        photos = absolute_path(self.readout_photos) if self.readout_photos else ""
        return composites_of(absolute_path(self.data_dir), photos, self.readout_pictures, self.training.seed)

    def run_readout(self) -> list[dict[str, Any]]:
        """Train a readout beside the finished weights, if one is asked for; returns its log, a dict an epoch."""
        if not self.readout_pictures:
            return []
        config = ReadoutConfig(seed=self.training.seed)
        return train_readout(self.folder, str(self.folder), self.composites(), config, self.training.workers or 1)

    def left_out(self) -> dict[str, int]:
        """What a finished run has left out of its stream, by reason."""
        return RunFolder(self.folder).read_left_out()


def validation_score(photos: Sequence[Photo], model: ExifLang) -> float:
    """How well a model tells cameras apart, by `photos` of cameras that it never saw: 0..1, 0.5 for a guess.

    The mean of two areas under the curve: a photo's own EXIF against that of other cameras, and two patches of a photo
    against patches of other cameras' photos. The first alone peaks early. The second is nearer to what finds splices,
    but soon close to 1, since patches of a photo share its scene: from then on EXIF decides.
    """
    (image, text), (again, _) = (embed_photos(model, photos, crops=2, seed=seed) for seed in (0, 1))
    return (exif_fit(image, text, photos)["auc"] + exif_fit(image, again, photos)["auc"]) / 2


def launch(recipe: Recipe, processes: int) -> list[dict[str, float]]:
    """Train in so many new processes of this machine; returns the log. Raises what `launch_module` does."""
    launch_module("exiflang.training", recipe.flat(), processes)
    return RunFolder(recipe.folder).read_log()
