"""What a model knows of metadata: the sentences of the photos it was trained on, as embeddings, and what they hold.

A cosine of a picture and a sentence means nothing by itself. Beside those of thousands of other photos' sentences it
becomes a rank, and beside the ranks of authentic photos a percentile. The folder of a model carries both, and no
sentence: embeddings sorted by make, the number of each make, the common values of each tag, and a linear reading of
them from text embeddings.

`python -m exiflang.population --model data/models/mine --data data/mine` adds them to a model of one's own.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from sklearn.linear_model import Ridge
from transformers.utils import cached_file

from exiflang.evaluate import embed_photos
from exiflang.exif import exif_to_text
from exiflang.exif_tags import DATE_NAMES, is_private
from exiflang.files import write_whole
from exiflang.model import ExifLang
from exiflang.parameters import project_path
from exiflang.shards import DataError, Photo, find_shards, read_photos

FILE = "population.safetensors"
#: A value is common if so many photos have it; a tag keeps its most common ones.
COMMON, MOST_VALUES = 5, 40
#: Sentences at least this close to one of the population are of a kind that the model knows. Of held-out
#: photos of cameras that training saw 95 % are, of those of other cameras 2 to 5 %.
FAMILIAR = 0.82
#: Fewer authentic photos of a kind say too little of what is rare among them.
FEWEST = 50
_FACTS = ("makes", "values", "ranks", "figures")


@dataclass(frozen=True, eq=False)
class Population:
    """Embeddings of N photos' sentences and what is known of their values.

    Attributes:
        text: float32 [N, D], unit norm, photos of one make side by side.
        makes: {make: photos}, in the order of `text`; "" for photos without one.
        values: {tag: its common values, the most frequent first}.
        reading: {tag: float32 [values, D]}: times an embedding of a sentence, about 1 for the value it holds, else 0.
        ranks: {"familiar" or "unfamiliar": the percentiles 1 to 99 of the ranks of authentic photos}.
        figures: what was measured with it on photos set apart, for people to read; {} if nothing was.
    """

    text: np.ndarray
    makes: Mapping[str, int]
    values: Mapping[str, Sequence[str]]
    reading: Mapping[str, np.ndarray]
    ranks: Mapping[str, Sequence[float]]
    figures: Mapping[str, Any]

    def rank(self, image: np.ndarray, text: np.ndarray) -> np.ndarray:
        """Share of the population's sentences that fit an image worse than `text` does: [..., D], [..., D] -> [...].

        Ties count half.
        """
        own = (image * text).sum(-1)[..., None]  # [..., 1]
        others = image @ self.text.T  # [..., N]
        return ((others < own).mean(-1) + (others <= own).mean(-1)) / 2

    def familiar(self, text: np.ndarray) -> np.ndarray:
        """Whether sentences are of a kind that the population has: [..., D] -> bool [...]."""
        return (text @ self.text.T).max(-1) >= FAMILIAR

    def percentile(self, rank: float, familiar: bool) -> float:
        """Share of authentic photos, with sentences as familiar as this one, that have a lower rank; NaN if unknown.

        Ties count half: a good model puts many photos on the highest rank.
        """
        known = self.ranks.get("familiar" if familiar else "unfamiliar")
        if not known:
            return float("nan")
        return float(np.searchsorted(known, rank, "left") + np.searchsorted(known, rank, "right")) / 2 / len(known)

    def expected_text(self, image: np.ndarray, scale: float) -> np.ndarray:
        """The sentence that an image leads one to expect: [..., D] -> [..., D].

        The mean of the population's embeddings, weighted by the softmax of their similarity with the image at the
        model's `logit_scale`: the probability that contrastive training gives to each of them.
        """
        logits = scale * (image @ self.text.T)  # [..., N]
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        return (weights / weights.sum(-1, keepdims=True)) @ self.text  # [..., N] x [N, D]

    def read(self, image: np.ndarray, tag: str, scale: float) -> np.ndarray:
        """Estimated probability of each of a tag's `values`, for photos that have one: [..., D] -> [..., values].

        Raises `KeyError` for a tag without common values.
        """
        found = np.clip(self.expected_text(image, scale) @ self.reading[tag].T, 1e-4, None)
        return found / found.sum(-1, keepdims=True)

    def save(self, folder: str | Path) -> None:
        """Write `population.safetensors` into a model's folder, in one step; embeddings become float16."""
        arrays = {"text": self.text} | {f"reading.{tag}": weights for tag, weights in self.reading.items()}
        facts = {name: getattr(self, name) for name in _FACTS}
        half = {name: np.ascontiguousarray(array, np.float16) for name, array in arrays.items()}
        packed = save(half, {"facts": json.dumps(facts)})  # one entry: several would come in any order
        write_whole(Path(folder) / FILE, packed)

    @classmethod
    def load(cls, name: str | Path) -> Population | None:
        """The population of a model, by its folder or hub id; None if it has none.

        Raises `ValueError` for a damaged file.
        """
        path = cached_file(str(name), FILE, _raise_exceptions_for_missing_entries=False)
        if path is None:
            return None
        try:
            with safe_open(path, framework="np") as file:
                facts = json.loads(file.metadata()["facts"])
                arrays = {name: file.get_tensor(name).astype(np.float32) for name in file.keys()}
            reading = {tag: arrays[f"reading.{tag}"] for tag in facts["values"]}
            found = cls(arrays["text"], reading=reading, **{name: facts[name] for name in _FACTS})
            found._check()
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            raise ValueError(
                f"{path}: damaged ({error!r}): fetch the model anew, or make it with python -m exiflang.population"
            ) from error
        return found

    def _check(self) -> None:
        number, dim = self.text.shape
        shapes = {tag: (len(values), dim) for tag, values in self.values.items()}
        if number == 0 or sum(self.makes.values()) != number:
            raise ValueError(f"{number} sentences, but {sum(self.makes.values())} photos by make")
        if any(self.reading[tag].shape != shape for tag, shape in shapes.items()):
            raise ValueError("values and readings of a tag differ in number")
        if not all(np.isfinite(array).all() for array in (self.text, *self.reading.values())):
            raise ValueError("NaN or infinity among the embeddings")


def build_population(model: ExifLang, photos: Sequence[Photo]) -> Population:
    """The population of the photos that a model was trained on, not calibrated yet. Raises `ValueError` for none."""
    if not photos:
        raise ValueError("no photos for a population")
    photos = sorted(photos, key=lambda photo: (photo.tags.get("Make", ""), photo.id))
    text = embed_sentences(model, [exif_to_text(photo.tags) for photo in photos])
    values, reading = _common_values(photos), {}
    for tag in values:
        held = np.array([[photo.tags.get(tag) == value for value in values[tag]] for photo in photos])  # [N, values]
        reading[tag] = (
            Ridge(alpha=1.0, fit_intercept=False).fit(text, held.astype(np.float32)).coef_.reshape(len(values[tag]), -1)
        )
    makes = Counter(photo.tags.get("Make", "") for photo in photos)
    return Population(text, dict(makes), values, reading, {}, {})


def _common_values(photos: Sequence[Photo]) -> dict[str, list[str]]:
    """{tag: its common values, the most frequent first}, for tags that a sentence may hold and that vary."""
    counts: dict[str, Counter[str]] = {}
    for photo in photos:
        for tag, value in photo.tags.items():
            if not is_private(tag) and tag not in DATE_NAMES:
                counts.setdefault(tag, Counter())[value] += 1
    common = {
        tag: [value for value in sorted(count, key=lambda value: (-count[value], value)) if count[value] >= COMMON]
        for tag, count in counts.items()
    }
    return {tag: values[:MOST_VALUES] for tag, values in common.items() if len(values) > 1}


def embed_sentences(model: ExifLang, sentences: Sequence[str], at_once: int = 64) -> np.ndarray:
    """Embeddings of sentences: float32 [N, D], unit norm."""
    with torch.inference_mode():
        parts = [
            model.encode_exif(sentences[first : first + at_once]).cpu() for first in range(0, len(sentences), at_once)
        ]
    return torch.cat(parts).numpy() if parts else np.zeros((0, model.config.embed_dim), np.float32)


def calibrate_ranks(population: Population, image: np.ndarray, text: np.ndarray) -> Population:
    """The population with the ranks of authentic photos: their embeddings and those of their sentences, [n, D] each.

    Of a kind, familiar or not, with less than `FEWEST` photos nothing is told.
    """
    ranks, familiar = population.rank(image, text), population.familiar(text)
    kinds = {"familiar": ranks[familiar], "unfamiliar": ranks[~familiar]}
    shares = np.arange(1, 100) / 100
    known = {kind: np.quantile(part, shares).tolist() for kind, part in kinds.items() if len(part) >= FEWEST}
    return replace(population, ranks=known)


def population_of(model: ExifLang, data_dir: str | Path, crops: int = 8) -> Population:
    """The population of a model's data set, as `prepare` has written it, calibrated on every second photo of its
    `heldout` (cameras that training has seen) and all of its `choose` (cameras it has not), if there is one.

    Raises `DataError` for shards that are missing or damaged.
    """
    data_dir = Path(data_dir)
    population = build_population(model, read_photos(find_shards(data_dir / "train"))[0])
    photos = read_photos(find_shards(data_dir / "heldout"))[0][::2]
    if (data_dir / "choose").is_dir():
        photos += read_photos(find_shards(data_dir / "choose"))[0]
    return calibrate_ranks(population, *embed_photos(model, photos, crops))


def main(arguments: list[str] | None = None) -> int:
    """Command line of `python -m exiflang.population`; returns 0, or 1 when nothing could be made."""
    parser = argparse.ArgumentParser(prog="python -m exiflang.population", description="What a model knows of EXIF.")
    parser.add_argument("--model", required=True, help="folder of a trained model; the file is written into it")
    parser.add_argument("--data", required=True, help="folder of the data set that it was trained on")
    options = parser.parse_args(arguments)
    try:
        folder = project_path(options.model)
        population = population_of(ExifLang.from_pretrained(str(folder)), project_path(options.data))
        population.save(folder)
    except (DataError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{folder / FILE}: {len(population.text):,} photos of {len(population.makes)} makes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
