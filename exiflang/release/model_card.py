"""The README.md of a released model: measurements and records, filled into a prose template."""

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import yaml

from exiflang.models.config import ExifLangConfig
from exiflang.release.authentic import LARGE, SMALL
from exiflang.viz.html import render

SPLITS = {
    "train": "trained on",
    "heldout": "other photos of the same cameras: calibration, retrieval",
    "choose": "cameras excluded from training: selection of the training step",
    "report": "cameras excluded from training: figures only",
}
TRAINING = (
    "steps", "batch_size", "learning_rate", "warmup_steps", "schedule", "weight_decay", "loss", "image_weight", "ema",
    "mixed_precision", "seed",
)  # fmt: skip


@dataclass(frozen=True)
class RunRecord:
    """The origin of weights: the records of `prepare` and `train`, and the hardware in words."""

    dataset: Mapping[str, Any]  # dataset.json
    settings: Mapping[str, Any]  # train_config.json
    log: Sequence[Mapping[str, float]]  # log.jsonl
    hardware: str


def model_card(
    name: str,
    config: ExifLangConfig,
    parameters: int,
    origin: RunRecord,
    pictures: Mapping[tuple[str, str], int],
    left_out: int,
    readout: bool = False,
) -> str:
    """Markdown with Hugging Face's front matter; names are escaped, and no path or file name is included.

    Figures that are measured later go between its `golden:base`, `golden:readout` and `golden:exif` comments.

    Args:
        name: of the model.
        config, parameters: configuration and number of weights of the model.
        origin: see `RunRecord`.
        pictures, left_out: of the calibration, `AuthenticPictures.counts` and the number left out.
        readout: whether it has a learned readout.

    Raises `LookupError`, `TypeError` or `ValueError` if `origin` is incomplete.
    """
    photos, cameras = origin.dataset["photos"], origin.dataset["cameras"]
    front_matter = {
        "license": "mit",
        "library_name": "exiflang",
        "pipeline_tag": "image-segmentation",
        "model_name": name,
        "tags": ["image-forensics", "splice-localization", "exif", "camera-identification", "contrastive-learning"],
    }
    card = render(
        "model_card.md.j2",
        plain=plain,
        front_matter=yaml.safe_dump(front_matter, sort_keys=False, allow_unicode=True),
        name=name,
        simulated=origin.dataset["arguments"]["source"] == "simulated",
        photos=sum(photos.values()),
        splits=[[key, f"{photos[key]:,}", f"{cameras[key]:,}", use] for key, use in SPLITS.items() if key in photos],
        recipe=_recipe(config, parameters, origin.settings),
        time=_time(origin),
        large=" x ".join(map(str, LARGE)),
        small=" x ".join(map(str, SMALL)),
        calibration=[
            [kind, pictures.get((kind, "large"), 0), pictures.get((kind, "small"), 0)]
            for kind in dict.fromkeys(kind for kind, _ in pictures)
        ],
        pictures=sum(pictures.values()),
        left_out=left_out,
        readout=readout,
    )
    return card + "\n"


def plain(text: object) -> str:
    """One line that Markdown and HTML show verbatim, even in a table cell."""
    line = html.escape(" ".join(str(text).split()), quote=False)
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", line)


def _recipe(config: ExifLangConfig, parameters: int, settings: Mapping[str, Any]) -> list[list[object]]:
    image, text = config.image_config or {}, config.text_config or {}
    rows = [
        ["parameters", f"{parameters:,}, kernels and matrices stored as float16"],
        ["image tower, text tower", f"{image['model_type']}, {text['model_type']}"],
        ["embedding", f"{config.embed_dim} dimensions, windows of {config.patch_size} pixels"],
        *([key, settings["train"][key]] for key in TRAINING),
    ]
    for part in ("augmentation", "sampler"):
        given = settings.get(part, {})
        entries = given.items() if isinstance(given, Mapping) else [("", given)]
        rows += [[f"{part} {key}".strip(), value] for key, value in entries]
    return rows


def _time(origin: RunRecord) -> str:
    if not origin.log:
        return "Not trained: the weights are random."
    batch, rates = origin.settings["train"]["batch_size"], [row["pairs_per_second"] for row in origin.log]
    said = (
        f"{origin.hardware}. {len(origin.log):,} steps of {batch:,} photos at {median(rates):,.0f} photos a second "
        f"(median): {sum(batch / rate for rate in rates) / 3600:.1f} hours of training."
    )
    validated = [row for row in origin.log if "validation" in row]
    if not validated:
        return said
    best = max(validated, key=lambda row: row["validation"])
    return (
        f"{said} These weights are those of step {best['step']:,}, which has the best validation score on cameras set "
        f"apart: {best['validation']:.3f}, the mean of two AUCs, of a photo's own EXIF against that of others and of "
        "patches of one photo against those of others."
    )
