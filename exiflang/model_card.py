"""The README.md of a released model: what was measured and recorded, filled into prose."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import yaml

from exiflang.authentic import LARGE, SMALL
from exiflang.model_config import ExifLangConfig

SPLITS = {
    "train": "trained on",
    "heldout": "other photos of the same cameras: calibration, retrieval",
    "choose": "cameras that training never saw: they chose the training step",
    "report": "cameras that training never saw: figures alone",
}
TRAINING = (
    "steps", "batch_size", "learning_rate", "warmup_steps", "schedule", "weight_decay", "loss", "image_weight", "ema",
    "mixed_precision", "seed",
)  # fmt: skip

CARD = """\
---
{front_matter}---

# {name}

Two towers with one embedding space: patches of photos on one side, sentences of EXIF metadata on the other, trained by
the method of [*EXIF as Language*](https://arxiv.org/abs/2301.04647) (Zheng, Shrivastava, Owens, CVPR 2023). The image
side learns what cameras leave in pixels, so that a region pasted in from another camera stands out among the windows of
a picture. No splice was seen in training.

## Use

```python
from exiflang import SpliceLocalizer

result = SpliceLocalizer()("suspect.jpg")  # the weights exiflang-base, which come with the package
print(result.score)  # share of authentic pictures below, 0..1
print(result.heatmap.shape, result.mask.mean())  # float32 [H, W] in 0..1, high = foreign; bool [H, W]
```

Give it the file as you have it: not resized, not saved again, no screenshot. Weights that lie elsewhere are loaded by
`SpliceLocalizer(ExifLang.from_pretrained(folder))`.

## Data

{data}

## Recipe

{recipe}

## Hardware and time

{time}

## Calibration

Heatmap and score are shares of authentic cells and pictures that lie below. They were measured on pictures that the
model was not trained on and whose heatmaps are not among the figures, cut from the middle of their source to at most
{large} (large) or {small} pixels (small) and never resampled:

{calibration}

## Figures

<!-- golden:base -->
None have been measured with these weights yet.
<!-- /golden:base -->

## Metadata

`population.safetensors` tells whether a file's EXIF fits its pixels: embeddings of the training photos' sentences, how
many of them are of each make, the common values of each tag with a linear reading of them, and how well authentic
photos fit their own. No sentence is in it.

<!-- golden:exif -->
None have been measured with these weights yet.
<!-- /golden:exif -->

## Limits

- A heatmap is evidence that parts of a picture do not agree with each other. It is no proof that somebody forged it,
  and a calm heatmap is no proof that nobody did.
- Regions smaller than a window or two are missed, and so is what comes from the same camera, or from another photo with
  the same settings.
- Strong recompression, resizing, filters and screenshots wash traces out of the whole picture; a donor that was resized
  may stand out for that alone, or blend in.
- Sky, saturated and dark areas, text and overlays have traces of their own and can look foreign in an authentic
  picture.
- It was trained on few photos. Cameras and phones that are unlike theirs are less well told apart.
- A score of 0.95 means: higher than 95 % of the few authentic pictures above. It is not the probability of a splice.

## Licence

Code and weights: MIT. {licence}
"""


@dataclass(frozen=True)
class Origin:
    """Where weights come from: what `prepare` and `train` wrote down, and the hardware in words."""

    dataset: Mapping[str, Any]  # dataset.json
    settings: Mapping[str, Any]  # train_config.json
    log: Sequence[Mapping[str, float]]  # log.jsonl
    hardware: str


def model_card(
    name: str,
    config: ExifLangConfig,
    parameters: int,
    origin: Origin,
    pictures: Mapping[tuple[str, str], int],
    left_out: int,
) -> str:
    """Markdown with Hugging Face's front matter; names are escaped, no path and no name of a file enters it.

    Figures go between its `golden:base` and `golden:exif` comments, see `golden.with_table`.

    Args:
        name: of the model.
        config, parameters: of the model; its number of weights.
        origin: see `Origin`.
        pictures, left_out: of the calibration, `AuthenticPictures.counts` and the number left out.

    Raises `LookupError`, `TypeError` or `ValueError` if `origin` lacks what belongs there.
    """
    simulated = origin.dataset["arguments"]["source"] == "simulated"
    front_matter = {
        "license": "mit",
        "library_name": "exiflang",
        "model_name": name,
        "tags": ["image-forensics", "splice-localization", "exif", "camera-identification", "contrastive-learning"],
    }
    return CARD.format(
        front_matter=yaml.safe_dump(front_matter, sort_keys=False, allow_unicode=True),
        name=plain(name),
        data=_data(origin.dataset, simulated),
        recipe=_recipe(config, parameters, origin.settings),
        time=_time(origin),
        large=" x ".join(map(str, LARGE)),
        small=" x ".join(map(str, SMALL)),
        calibration=_calibration(pictures, left_out),
        licence="The training photos are simulated, by the package itself."
        if simulated
        else "The training photos are not redistributed; many of them carry no open licence.",
    )


def plain(text: object) -> str:
    """One line that Markdown and HTML show as it stands, also in a cell of a table."""
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", html.escape(" ".join(str(text).split()), quote=False))


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *([plain(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _data(dataset: Mapping[str, Any], simulated: bool) -> str:
    photos, cameras = dataset["photos"], dataset["cameras"]
    kind = "simulated photos" if simulated else "photos"
    rows = [[split, f"{photos[split]:,}", f"{cameras[split]:,}", SPLITS[split]] for split in SPLITS if split in photos]
    return (
        f"Tiles of {sum(photos.values()):,} {kind}, with their EXIF. Positions, serial numbers, names and comments "
        "never enter a sentence.\n\n" + _table(["split", "photos", "cameras", "what for"], rows)
    )


def _recipe(config: ExifLangConfig, parameters: int, settings: Mapping[str, Any]) -> str:
    image, text = config.image_config, config.text_config
    rows = [
        ["parameters", f"{parameters:,}, kernels and matrices stored as float16"],
        ["image tower, text tower", f"{image['model_type']}, {text['model_type']}"],
        ["embedding", f"{config.embed_dim} dimensions, windows of {config.patch_size} pixels"],
    ]
    rows += [[key, settings["train"][key]] for key in TRAINING]
    for part in ("processing", "sampler"):
        given = settings.get(part, {})
        entries = given.items() if isinstance(given, Mapping) else [("", given)]
        rows += [[f"{part} {key}".strip(), value] for key, value in entries]
    return _table(["what", "value"], rows)


def _time(origin: Origin) -> str:
    if not origin.log:
        return "Not trained: the weights are random."
    batch, rates = origin.settings["train"]["batch_size"], [row["pairs_per_second"] for row in origin.log]
    judged = [row for row in origin.log if "validation" in row]
    said = (
        f"{origin.hardware}. {len(origin.log):,} steps of {batch:,} photos at {median(rates):,.0f} photos a second "
        f"(median): {sum(batch / rate for rate in rates) / 3600:.1f} hours of steps."
    )
    if judged:
        best = max(judged, key=lambda row: row["validation"])
        said += (
            f" These weights are those of step {best['step']:,}, the best on cameras set apart: "
            f"{best['validation']:.3f}, the mean AUC of own against other EXIF and of patches of one photo against "
            "others."
        )
    return plain(said)


def _calibration(pictures: Mapping[tuple[str, str], int], left_out: int) -> str:
    kinds = dict.fromkeys(kind for kind, _ in pictures)
    table = _table(
        ["pictures", "large", "small"],
        [[kind, pictures.get((kind, "large"), 0), pictures.get((kind, "small"), 0)] for kind in kinds],
    )
    unread = f" {left_out} could not be used and were left out." if left_out else ""
    return f"{table}\n\n{sum(pictures.values())} pictures in all.{unread}"
