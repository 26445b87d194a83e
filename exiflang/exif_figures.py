"""How far the check of metadata can be trusted: measured on photos set apart, beside controls.

`python -m exiflang.exif_figures` measures the packaged weights and writes reports/golden/exif.json, the README's table,
the model card's and, for people to read beside the widget, the `figures` of the population in the model's folder.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from exiflang.data import decode_patch
from exiflang.evaluate import embed_photos
from exiflang.exif import exif_to_text
from exiflang.exif_check import SWAPS
from exiflang.files import write_json
from exiflang.golden import with_table
from exiflang.model import ExifLang
from exiflang.packaged import NAME, packaged_model
from exiflang.parameters import project_path
from exiflang.population import Population, embed_sentences, population_of
from exiflang.recipe import Recipe, read_parameters
from exiflang.shards import DataError, Photo, find_shards, plain_name, read_photos
from exiflang.tables import MEASURED, UNUSUAL

#: Patches of a photo's tiles that make its embedding; sentences of other cameras that each photo is offered; photos of
#: a group whose tags are swapped.
CROPS, OFFERED, SWAPPED = 8, 20, 100
ASKED = ("Make", "Flash", "PhotographicSensitivity")
#: The shuffled control is the packaged recipe, but each photo has another's sentence, and a quarter of the steps.
CONTROL = {"exif": "shuffled", "steps": 1350, "validate_every": 1_000_000, "tracker": "none"}
CONTROL_DIR = "data/models/shuffled"


def groups(data_dir: Path) -> dict[str, list[Photo]]:
    """Photos that neither trained nor calibrated anything: of cameras that training saw, and of others."""
    found = {"cameras that training saw": read_photos(find_shards(data_dir / "heldout"))[0][1::2]}
    if (data_dir / "report").is_dir():
        found["other cameras"] = read_photos(find_shards(data_dir / "report"))[0]
    return found


def measure(model: ExifLang, population: Population, photos: Sequence[Photo], seed: int = 0) -> dict[str, float]:
    """The figures of `tables.MEASURED` on photos of at least two cameras.

    - `auc`: ranks of own sentences against those of `OFFERED` sentences of other cameras a photo.
    - `false_alarms`, `noticed`: the share of either that is called unusual; NaN if the ranks are not calibrated.
    - "Make first", "Make sure", "Make similar" and those of other `ASKED` tags: see `_reading`.
    - `window_auc`: misfit of a patch with its own photo's sentence against that of a patch of another camera's photo.
    - `tag_beats`: how often the true value of a tag has a higher similarity than another common one in its sentence.
    """
    rng = np.random.default_rng(seed)
    image, text = embed_photos(model, photos, CROPS, seed)
    camera = np.array([plain_name(photo.camera) for photo in photos])
    others = [rng.permutation(np.flatnonzero(camera != name))[:OFFERED] for name in camera]
    own = population.rank(image, text)
    offered = np.concatenate([population.rank(image[i], text[other]) for i, other in enumerate(others)])
    offered_text = np.concatenate(others)
    familiar = population.familiar(text)
    odd_own = [population.percentile(rank, kind) < UNUSUAL for rank, kind in zip(own, familiar, strict=True)]
    odd_offered = [
        population.percentile(rank, familiar[j]) < UNUSUAL for rank, j in zip(offered, offered_text, strict=True)
    ]
    calibrated = bool(population.ranks)
    found = {
        "auc": _auc(own, offered),
        "false_alarms": float(np.mean(odd_own)) if calibrated else float("nan"),
        "noticed": float(np.mean(odd_offered)) if calibrated else float("nan"),
        "window_auc": _window_auc(model, population, photos, text, [other[0] for other in others], seed),
        "tag_beats": _tag_beats(model, population, photos, image, rng),
    }
    for tag in ASKED:
        found |= _reading(model, population, photos, image, tag)
    return found


def _auc(higher: np.ndarray, lower: np.ndarray) -> float:
    labels = np.repeat([True, False], [len(higher), len(lower)])
    return float(roc_auc_score(labels, np.concatenate([higher, lower])))


def _window_auc(
    model: ExifLang,
    population: Population,
    photos: Sequence[Photo],
    text: np.ndarray,
    strangers: Sequence[int],
    seed: int,
) -> float:
    size = model.config.patch_size
    patches = [decode_patch(photo, size, np.random.default_rng([seed, i])) for i, photo in enumerate(photos)]
    with torch.inference_mode():
        parts = [model.encode_image(part.to(model.device)).cpu() for part in torch.stack(patches).split(64)]
    windows = torch.cat(parts).numpy()  # [photos, D]
    return _auc(population.rank(windows, text), population.rank(windows[strangers], text))


def _reading(
    model: ExifLang, population: Population, photos: Sequence[Photo], image: np.ndarray, tag: str
) -> dict[str, float]:
    """How often a tag's true value comes first, by both ways of `exif_check.ask`, and how sure the better one is.

    Of photos whose value is among the population's common ones; NaN without any.
    """
    values = population.values.get(tag, ())
    known = [i for i, photo in enumerate(photos) if photo.tags.get(tag) in values]
    if not known:
        return {f"{tag} first": float("nan"), f"{tag} sure": float("nan"), f"{tag} similar": float("nan")}
    true = np.array([values.index(photos[i].tags[tag]) for i in known])
    shares = population.read(image[known], tag, float(model.logit_scale.detach()))  # [known, values]
    similarity = image[known] @ embed_sentences(model, [exif_to_text({tag: value}) for value in values]).T
    return {
        f"{tag} first": float((shares.argmax(1) == true).mean()),
        f"{tag} sure": float(shares.max(1).mean()),
        f"{tag} similar": float((similarity.argmax(1) == true).mean()),
    }


def _tag_beats(
    model: ExifLang, population: Population, photos: Sequence[Photo], image: np.ndarray, rng: np.random.Generator
) -> float:
    wins = []
    for i in rng.permutation(len(photos))[:SWAPPED]:
        tags = {tag: value for tag, value in photos[i].tags.items() if exif_to_text({tag: value})}
        swaps = [
            {**tags, tag: other}
            for tag, value in tags.items()
            if value in population.values.get(tag, ())
            for other in [v for v in population.values[tag] if v != value][:SWAPS]
        ]
        if swaps:
            scores = embed_sentences(model, [exif_to_text(tags), *map(exif_to_text, swaps)]) @ image[i]
            wins.append(np.mean((scores[0] > scores[1:]) + 0.5 * (scores[0] == scores[1:])))
    return float(np.mean(wins)) if wins else float("nan")


def majority(population: Population, photos: Sequence[Photo], tag: str) -> float:
    """How often the population's most frequent value is the true one, among photos of its common values."""
    values = population.values.get(tag, ())
    known = [photo.tags[tag] for photo in photos if photo.tags.get(tag) in values]
    return float(np.mean([value == values[0] for value in known])) if known else float("nan")


def all_figures(
    models: Mapping[str, tuple[ExifLang, Population]], parts: Mapping[str, Sequence[Photo]]
) -> dict[str, Any]:
    """`Population.figures`: of each group of photos, what each model is measured at, and what a guess would be."""
    population = models["model"][1]
    return {
        "protocol": {"crops": CROPS, "offered": OFFERED, "unusual": UNUSUAL, "population": len(population.text)},
        "groups": {
            group: {
                "photos": len(photos),
                "cameras": len({plain_name(photo.camera) for photo in photos}),
                "guess": 0.5,
                "unusual": UNUSUAL,
                **{f"{tag} majority": majority(population, photos, tag) for tag in ASKED},
                **{name: measure(*pair, photos) for name, pair in models.items()},
            }
            for group, photos in parts.items()
        },
    }


def markdown(figures: Mapping[str, Any]) -> str:
    """The README's table."""
    lines = []
    for group, part in figures["groups"].items():
        methods = [name for name, found in part.items() if isinstance(found, Mapping)]
        lines += [f"| {part['photos']} photos of {part['cameras']} {group} | {' | '.join(methods)} | a guess |"]
        lines += ["|" + "---|" * (len(methods) + 2)]
        for key, label, beside in MEASURED:
            cells = [f"{part[name][key]:.2f}" for name in methods]
            guess = f"{part[beside]:.2f}" if beside in part else ""
            lines.append(f"| {label[0].lower()}{label[1:]} | **{cells[0]}** | {' | '.join(cells[1:])} | {guess} |")
        lines.append("")
    return "\n".join(lines).rstrip()


def shuffled_control() -> ExifLang:
    """The packaged recipe on sentences of other photos, trained unless it is there (a quarter of an hour)."""
    folder = project_path(CONTROL_DIR)
    recipe = Recipe.of(
        **(read_parameters(project_path("notebooks/params/base.yaml")) | CONTROL | {"model_dir": CONTROL_DIR})
    )
    recipe.run(recipe.dataset())
    return ExifLang.from_pretrained(str(folder))


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns 0, or 1 when something that it needs is missing."""
    parser = argparse.ArgumentParser(prog="python -m exiflang.exif_figures", description="Renews the EXIF figures.")
    parser.add_argument("--data", default="data/base", help="data set of the packaged weights")
    options = parser.parse_args(arguments)
    data_dir = project_path(options.data)
    try:
        folder = packaged_model()
        model, population = ExifLang.from_pretrained(str(folder)), Population.load(folder)
        if population is None:
            raise ValueError(f"{folder} has no population: python -m exiflang.population --model {folder} --data ...")
        torch.manual_seed(0)
        untrained = ExifLang(model.config, model.tokenizer).eval()
        shuffled = shuffled_control()
        models = {"model": (model, population)}
        models |= {
            name: (control, population_of(control, data_dir, CROPS))
            for name, control in {"shuffled EXIF": shuffled, "untrained": untrained}.items()
        }
        figures = all_figures(models, groups(data_dir))
    except (DataError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    replace(population, figures=figures).save(folder)
    write_json(project_path("reports/golden/exif.json"), {"model": NAME, **figures})
    table = markdown(figures)
    for page in (project_path("README.md"), folder / "README.md"):
        page.write_text(with_table(page.read_text(encoding="utf-8"), "exif", table), encoding="utf-8")
    print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
