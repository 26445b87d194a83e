"""Accuracy of the metadata check, measured on held-out photos and compared with controls.

`python -m experiments.metadata_check` measures the packaged weights and updates reports/golden/exif.json, the tables
of the model card, and the `figures` of the model's text bank, which the widget shows.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from sklearn.metrics import roc_auc_score

from exiflang.data.patches import decode_patch
from exiflang.data.shards import Photo, find_shards, plain_name, read_photos
from exiflang.evaluation.retrieval import embed_photos
from exiflang.exif.text import exif_to_text
from exiflang.inspection.metadata import SWAPS
from exiflang.inspection.tables import MEASURED, UNUSUAL
from exiflang.inspection.text_bank import TextBank, embed_sentences, text_bank_of
from exiflang.models.model import ExifLang
from exiflang.models.weights import NAME, packaged_model
from exiflang.pipeline.parameters import project_path
from exiflang.utils.commands import run_command
from experiments.controls import shuffled_control
from experiments.tables import publish, table

#: Patches of a photo's tiles per embedding; sentences of other cameras compared with each photo; photos per group whose
#: tags are swapped.
CROPS, OFFERED, SWAPPED = 8, 20, 100
ASKED = ("Make", "Flash", "PhotographicSensitivity")


def groups(data_dir: Path) -> dict[str, list[Photo]]:
    """Photos used in neither training nor calibration: from cameras in the training set, and from others."""
    found = {"cameras that training saw": read_photos(find_shards(data_dir / "heldout"))[0][1::2]}
    if (data_dir / "report").is_dir():
        found["other cameras"] = read_photos(find_shards(data_dir / "report"))[0]
    return found


def measure(model: ExifLang, text_bank: TextBank, photos: Sequence[Photo], seed: int = 0) -> dict[str, float]:
    """The figures of `tables.MEASURED` on photos of at least two cameras.

    - `auc`: ranks of own sentences against those of `OFFERED` sentences of other cameras per photo.
    - `false_alarms`, `noticed`: fraction of each that is called unusual; NaN if the ranks are not calibrated.
    - "Make first", "Make sure", "Make similar", and the same for other `ASKED` tags: see `_reading`.
    - `window_auc`: misfit of a patch with its own photo's sentence, against that of a patch from a different camera.
    - `tag_beats`: how often the sentence fits better with a tag's true value than with a different common one.
    """
    rng = np.random.default_rng(seed)
    image, text = embed_photos(model, photos, CROPS, seed)
    text = text_bank.placed(text, [photo.tags for photo in photos])
    camera = np.array([plain_name(photo.camera) for photo in photos])
    others = [rng.permutation(np.flatnonzero(camera != name))[:OFFERED] for name in camera]
    own = text_bank.rank(image, text)
    offered = np.concatenate([text_bank.rank(image[i], text[other]) for i, other in enumerate(others)])
    offered_text = np.concatenate(others)
    familiar = text_bank.familiar(text)
    odd_own = [text_bank.percentile(rank, kind) < UNUSUAL for rank, kind in zip(own, familiar, strict=True)]
    odd_offered = [
        text_bank.percentile(rank, familiar[j]) < UNUSUAL for rank, j in zip(offered, offered_text, strict=True)
    ]
    calibrated = bool(text_bank.ranks)
    found = {
        "auc": _auc(own, offered),
        "false_alarms": float(np.mean(odd_own)) if calibrated else float("nan"),
        "noticed": float(np.mean(odd_offered)) if calibrated else float("nan"),
        "window_auc": _window_auc(model, text_bank, photos, text, [other[0] for other in others], seed),
        "tag_beats": _tag_beats(model, text_bank, photos, image, rng),
    }
    for tag in ASKED:
        found |= _reading(model, text_bank, photos, image, tag)
    return found


def _auc(higher: np.ndarray, lower: np.ndarray) -> float:
    labels = np.repeat([True, False], [len(higher), len(lower)])
    return float(roc_auc_score(labels, np.concatenate([higher, lower])))


def _window_auc(
    model: ExifLang, text_bank: TextBank, photos: Sequence[Photo], text: np.ndarray, strangers: Sequence[int], seed: int
) -> float:
    size = model.config.patch_size
    patches = [decode_patch(photo, size, np.random.default_rng([seed, i])) for i, photo in enumerate(photos)]
    with torch.inference_mode():
        parts = [model.encode_image(part.to(model.device)).cpu() for part in torch.stack(patches).split(64)]
    windows = torch.cat(parts).numpy()  # [photos, D]
    return _auc(text_bank.rank(windows, text), text_bank.rank(windows[strangers], text))


def _reading(
    model: ExifLang, text_bank: TextBank, photos: Sequence[Photo], image: np.ndarray, tag: str
) -> dict[str, float]:
    """How often a tag's true value ranks first, by both methods of `inspection.ask`, and the better one's confidence.

    Measured on photos whose value is among the text bank's common ones; NaN if there are none.
    """
    values = text_bank.values.get(tag, ())
    known = [i for i, photo in enumerate(photos) if photo.tags.get(tag) in values]
    if not known:
        return dict.fromkeys((f"{tag} first", f"{tag} sure", f"{tag} similar"), float("nan"))
    true = np.array([values.index(photos[i].tags[tag]) for i in known])
    shares = text_bank.read(image[known], tag, float(model.logit_scale.detach()))  # [known, values]
    similarity = image[known] @ embed_sentences(model, [exif_to_text({tag: value}) for value in values]).T
    return {
        f"{tag} first": float((shares.argmax(1) == true).mean()),
        f"{tag} sure": float(shares.max(1).mean()),
        f"{tag} similar": float((similarity.argmax(1) == true).mean()),
    }


def _tag_beats(
    model: ExifLang, text_bank: TextBank, photos: Sequence[Photo], image: np.ndarray, rng: np.random.Generator
) -> float:
    wins = []
    for i in rng.permutation(len(photos))[:SWAPPED]:
        tags = {tag: value for tag, value in photos[i].tags.items() if exif_to_text({tag: value})}
        swaps = [
            {**tags, tag: other}
            for tag, value in tags.items()
            if value in text_bank.values.get(tag, ())
            for other in [v for v in text_bank.values[tag] if v != value][:SWAPS]
        ]
        if swaps:
            variants = [tags, *swaps]
            texts = text_bank.placed(embed_sentences(model, [exif_to_text(each) for each in variants]), variants)
            scores = text_bank.fit(image[i], texts)
            wins.append(np.mean((scores[0] > scores[1:]) + 0.5 * (scores[0] == scores[1:])))
    return float(np.mean(wins)) if wins else float("nan")


def majority(text_bank: TextBank, photos: Sequence[Photo], tag: str) -> float:
    """How often the text bank's most frequent value is the true one, among photos with a common value."""
    values = text_bank.values.get(tag, ())
    known = [photo.tags[tag] for photo in photos if photo.tags.get(tag) in values]
    return float(np.mean([value == values[0] for value in known])) if known else float("nan")


def all_figures(
    models: Mapping[str, tuple[ExifLang, TextBank]], parts: Mapping[str, Sequence[Photo]]
) -> dict[str, Any]:
    """`TextBank.figures`: for each group of photos, the figures of each model and of a guess."""
    text_bank = models["model"][1]
    return {
        "protocol": {"crops": CROPS, "offered": OFFERED, "unusual": UNUSUAL, "text_bank": len(text_bank.text)},
        "groups": {
            group: {
                "photos": len(photos),
                "cameras": len({plain_name(photo.camera) for photo in photos}),
                "guess": 0.5,
                "unusual": UNUSUAL,
                **{f"{tag} majority": majority(text_bank, photos, tag) for tag in ASKED},
                **{name: measure(*pair, photos) for name, pair in models.items()},
            }
            for group, photos in parts.items()
        },
    }


def markdown(figures: Mapping[str, Any]) -> str:
    """A table per group of photos."""
    tables = []
    for group, part in figures["groups"].items():
        methods = [name for name, found in part.items() if isinstance(found, Mapping)]
        rows = []
        for key, label, beside in MEASURED:
            first, *others = (f"{part[name][key]:.2f}" for name in methods)
            chance = f"{part[beside]:.2f}" if beside in part else ""
            rows.append([f"{label[0].lower()}{label[1:]}", f"**{first}**", *others, chance])
        tables.append(table([f"{part['photos']} photos of {part['cameras']} {group}", *methods, "chance"], rows))
    return "\n\n".join(tables)


def packaged_with_controls(data_dir: Path) -> dict[str, tuple[ExifLang, TextBank]]:
    """The packaged "model", "shuffled EXIF" and "untrained", each with a text bank of the same data set.

    Raises `ValueError` if the packaged weights have no text bank.
    """
    folder = packaged_model()
    model, text_bank = ExifLang.from_pretrained(str(folder)), TextBank.load(folder)
    if text_bank is None:
        raise ValueError(f"{folder} has no text bank: create one with python -m exiflang.release")
    torch.manual_seed(0)
    untrained, shuffled = ExifLang(model.config, model.tokenizer).eval(), shuffled_control()
    return {
        "model": (model, text_bank),
        "shuffled EXIF": (shuffled, text_bank_of(shuffled, data_dir, CROPS, "shuffled")),
        "untrained": (untrained, text_bank_of(untrained, data_dir, CROPS)),
    }


def renew(data: Annotated[str, typer.Option(help="Data set of the packaged weights.")] = "data/base") -> None:
    """Update reports/golden/exif.json, the tables of the model card, and the figures in the widget."""
    data_dir, folder = project_path(data), packaged_model()
    models = packaged_with_controls(data_dir)
    figures = all_figures(models, groups(data_dir))
    replace(models["model"][1], figures=figures).save(folder)
    publish("exif", {"model": NAME, **figures}, {"exif": markdown(figures)}, folder / "README.md")


#: Command line; returns the exit code, see `run_command`.
main = partial(run_command, renew)

if __name__ == "__main__":
    sys.exit(main())
