"""The text bank of a model: embeddings of its training photos' sentences, and statistics of their tags.

The cosine of a picture and a sentence has no meaning by itself. Its rank among the cosines with thousands of other
photos' sentences has; comparing that with the ranks of authentic photos gives a percentile. A model's folder holds the
data for both, but no sentences: embeddings sorted by make, the number of photos of each make, the common values of each
tag, a linear map that predicts these values from embeddings, and a space that pictures and tags share (see
`tag_space`), in which the fit of cameras that training never saw is measured better.

`python -m exiflang.inspection.text_bank --model data/models/mine --data data/mine` adds a text bank to your own model.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from scipy.special import softmax
from transformers.utils import cached_file

from exiflang.data.shards import Photo, find_shards, plain_name, read_photos
from exiflang.evaluation.retrieval import embed_photos
from exiflang.exif.tags import DATE_NAMES, is_private
from exiflang.exif.text import exif_to_text
from exiflang.inspection.tag_space import TagSpace, TagVector, fit_tag_space
from exiflang.models.model import ExifLang
from exiflang.utils.commands import run_command
from exiflang.utils.files import utf8_path, write_whole

FILE = "text_bank.safetensors"
#: A value is common if at least this many photos have it; a tag keeps at most this many of its common values.
COMMON, MOST_VALUES = 5, 40
#: A sentence is familiar if its cosine with a sentence of the text bank is at least this: true for 95 % of held-out
#: photos from cameras in the training set, and for 2 to 5 % of photos from other cameras.
FAMILIAR = 0.82
#: Percentiles need at least this many authentic photos, separately for familiar and unfamiliar ones.
FEWEST = 50
_FACTS = ("makes", "values", "ranks", "figures")


@dataclass(frozen=True, eq=False)
class TextBank:
    """Embeddings of N photos' sentences, and the values of their tags.

    Attributes:
        text: float32 [N, D], unit norm, grouped by make.
        makes: {make: number of photos}, in the order of `text`; "" for photos without one.
        values: {tag: its common values, most frequent first}.
        reading: {tag: float32 [values, D]}: its product with a sentence's embedding is about 1 for the sentence's value
            and about 0 for the others.
        ranks: {"familiar" or "unfamiliar": the percentiles 1 to 99 of the ranks of authentic photos}.
        figures: accuracy measured on held-out photos, for display; {} if it was not measured.
        space: the space that pictures and tags share; None in files of earlier versions, where cosines alone rank.
        places: float32 [N, K], where the photos' tags lie in it.
    """

    text: np.ndarray
    makes: Mapping[str, int]
    values: Mapping[str, Sequence[str]]
    reading: Mapping[str, np.ndarray]
    ranks: Mapping[str, Sequence[float]]
    figures: Mapping[str, Any]
    space: TagSpace | None = None
    places: np.ndarray | None = None

    def placed(self, text: np.ndarray, tags: Sequence[Mapping[str, str]]) -> np.ndarray:
        """Embeddings of sentences and the places of their tags: [n, D] -> [n, D + K], or [n, D] without `space`."""
        return text if self.space is None else np.concatenate([text, self.space.place_tags(tags)], axis=-1)

    def fit(self, image: np.ndarray, text: np.ndarray) -> np.ndarray:
        """How well sentences fit images, the cosine of the embeddings plus that of the places: see `rank`."""
        return (self._placed_images(image) * text).sum(-1)

    def rank(self, image: np.ndarray, text: np.ndarray) -> np.ndarray:
        """Fraction of the text bank's sentences that fit an image worse than `text`: [..., D], [..., D + K] -> [...].

        `text` comes from `placed`. Ties count half.
        """
        known = self.text if self.places is None else np.concatenate([self.text, self.places], axis=-1)
        own = self.fit(image, text)[..., None]  # [..., 1]
        others = self._placed_images(image) @ known.T  # [..., N]
        return ((others < own).mean(-1) + (others <= own).mean(-1)) / 2

    def _placed_images(self, image: np.ndarray) -> np.ndarray:
        return image if self.space is None else np.concatenate([image, self.space.place_images(image)], axis=-1)

    def familiar(self, text: np.ndarray) -> np.ndarray:
        """Whether sentences are close to one of the text bank's (see `FAMILIAR`): [..., D or D + K] -> bool [...]."""
        return (text[..., : self.text.shape[1]] @ self.text.T).max(-1) >= FAMILIAR

    def percentile(self, rank: float, familiar: bool) -> float:
        """Fraction of authentic photos with a lower rank, among familiar or among unfamiliar ones; NaN if unknown.

        Ties count half, because a good model gives many photos the highest rank.
        """
        known = self.ranks.get("familiar" if familiar else "unfamiliar")
        if not known:
            return float("nan")
        return float(np.searchsorted(known, rank, "left") + np.searchsorted(known, rank, "right")) / 2 / len(known)

    def expected_text(self, image: np.ndarray, scale: float) -> np.ndarray:
        """Embedding of the sentence expected for an image: [..., D] -> [..., D].

        The mean of the text bank's embeddings, weighted by the softmax of their similarity to the image at the model's
        `logit_scale`, which is the probability that the contrastive objective assigns to each of them.
        """
        return softmax(scale * (image @ self.text.T), axis=-1) @ self.text  # [..., N] x [N, D]

    def read(self, image: np.ndarray, tag: str, scale: float) -> np.ndarray:
        """Estimated probability of each of a tag's `values`, for photos that have one: [..., D] -> [..., values].

        Raises `KeyError` for a tag without common values.
        """
        found = np.clip(self.expected_text(image, scale) @ self.reading[tag].T, 1e-4, None)
        return found / found.sum(-1, keepdims=True)

    def save(self, folder: str | Path) -> None:
        """Write `text_bank.safetensors` to a model's folder, atomically; embeddings become float16."""
        arrays = {"text": self.text} | {f"reading.{tag}": weights for tag, weights in self.reading.items()}
        facts = {name: getattr(self, name) for name in _FACTS}
        if self.space is not None and self.places is not None:
            arrays |= {"space.image": self.space.image, "space.tags": self.space.tags, "places": self.places}
            facts["numbers"] = self.space.vector.numbers
        half = {name: np.ascontiguousarray(array, np.float16) for name, array in arrays.items()}
        packed = save(half, {"facts": json.dumps(facts)})  # a single entry, because the order of several is random
        write_whole(Path(folder) / FILE, packed)

    @classmethod
    def load(cls, name: str | Path) -> TextBank | None:
        """The text bank of a model, by its folder or hub id; None if it has none.

        Raises `ValueError` for a damaged file.
        """
        path = cached_file(str(name), FILE, _raise_exceptions_for_missing_entries=False)
        if path is None:
            return None
        try:
            with utf8_path(path) as readable, safe_open(readable, framework="np") as file:
                facts = json.loads(file.metadata()["facts"])
                arrays = {name: file.get_tensor(name).astype(np.float32) for name in file.keys()}
            reading = {tag: arrays[f"reading.{tag}"] for tag in facts["values"]}
            found = cls(arrays["text"], reading=reading, **{name: facts[name] for name in _FACTS})
            if "numbers" in facts:
                vector = TagVector(found.values, facts["numbers"])
                space = TagSpace(vector, arrays["space.image"], arrays["space.tags"])
                found = replace(found, space=space, places=arrays["places"])
            found._check()
            return found
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            advice = "download the model again, or create the file with python -m exiflang.inspection.text_bank"
            raise ValueError(f"{path}: damaged ({error!r}): {advice}") from error

    def _check(self) -> None:
        number, dim = self.text.shape
        if number == 0 or sum(self.makes.values()) != number:
            raise ValueError(f"{number} sentences, but {sum(self.makes.values())} photos by make")
        if any(self.reading[tag].shape != (len(values), dim) for tag, values in self.values.items()):
            raise ValueError("the numbers of values and readings of a tag differ")
        if not all(np.isfinite(array).all() for array in (self.text, *self.reading.values())):
            raise ValueError("embeddings contain NaN or infinity")
        if self.space is not None and self.places is not None:
            self.space.check(dim)
            if self.places.shape != (number, self.space.tags.shape[1]) or not np.isfinite(self.places).all():
                raise ValueError("the places of the sentences' tags are not whole")


def build_text_bank(model: ExifLang, photos: Sequence[Photo], image: np.ndarray | None = None) -> TextBank:
    """Build an uncalibrated text bank from n training photos.

    It has a `space` if `image`, their embeddings [n, D], is given and some tag has common values.
    Raises `ValueError` if there are none.
    """
    if not photos:
        raise ValueError("no photos for a text bank")
    order = sorted(range(len(photos)), key=lambda i: (photos[i].tags.get("Make", ""), photos[i].id))
    photos = [photos[i] for i in order]
    text = embed_sentences(model, [exif_to_text(photo.tags) for photo in photos])
    from sklearn.linear_model import Ridge  # slow to import, only needed for building

    values, reading = _common_values(photos), {}
    for tag in values:
        held = np.array([[photo.tags.get(tag) == value for value in values[tag]] for photo in photos], np.float32)
        reading[tag] = Ridge(alpha=1.0, fit_intercept=False).fit(text, held).coef_  # [N, values] -> [values, D]
    makes = Counter(photo.tags.get("Make", "") for photo in photos)
    text_bank = TextBank(text, dict(makes), values, reading, {}, {})
    if image is None or not values:
        return text_bank
    tags = [photo.tags for photo in photos]
    space = fit_tag_space(image[order], tags, [plain_name(photo.camera) for photo in photos], values)
    return replace(text_bank, space=space, places=space.place_tags(tags))


def _common_values(photos: Sequence[Photo]) -> dict[str, list[str]]:
    """{tag: its common values, most frequent first}, for tags that are allowed in sentences and that vary."""
    counts: dict[str, Counter[str]] = {}
    for photo in photos:
        for tag, value in photo.tags.items():
            if not is_private(tag) and tag not in DATE_NAMES:
                counts.setdefault(tag, Counter())[value] += 1
    common = {}
    for tag, count in counts.items():
        values = sorted((value for value in count if count[value] >= COMMON), key=lambda value: (-count[value], value))
        if len(values) > 1:
            common[tag] = values[:MOST_VALUES]
    return common


def embed_sentences(model: ExifLang, sentences: Sequence[str]) -> np.ndarray:
    """Embeddings of sentences: float32 [N, D], unit norm."""
    with torch.inference_mode():
        parts = [model.encode_exif(sentences[first : first + 64]).cpu() for first in range(0, len(sentences), 64)]
    return torch.cat(parts).numpy() if parts else np.zeros((0, model.config.embed_dim), np.float32)


def calibrate_ranks(text_bank: TextBank, image: np.ndarray, text: np.ndarray) -> TextBank:
    """The text bank calibrated on n authentic photos, by embeddings of pictures [n, D] and `placed` sentences.

    Familiar and unfamiliar sentences are calibrated separately, if there are at least `FEWEST` of them.
    """
    ranks, familiar = text_bank.rank(image, text), text_bank.familiar(text)
    kinds = {"familiar": ranks[familiar], "unfamiliar": ranks[~familiar]}
    shares = np.arange(1, 100) / 100
    known = {kind: np.quantile(part, shares).tolist() for kind, part in kinds.items() if len(part) >= FEWEST}
    return replace(text_bank, ranks=known)


def text_bank_of(model: ExifLang, data_dir: str | Path, crops: int = 8, exif: str = "own") -> TextBank:
    """Build the text bank from a model's data set, as written by `prepare`, and calibrate it on every second photo of
    `heldout` (cameras in the training set) and all photos of `choose` (other cameras), if that exists.

    exif: "own", or "shuffled": the control in which each training photo has another one's tags.

    Raises `DataError` for missing or damaged shards.
    """
    data_dir = Path(data_dir)
    training = read_photos(find_shards(data_dir / "train"))[0]
    image, _ = embed_photos(model, training, crops)
    if exif == "shuffled":
        order = np.random.default_rng(0).permutation(len(training))
        given = dict(zip(order, np.roll(order, 1), strict=True))  # one cycle: nobody keeps their own
        training = [replace(photo, tags=training[given[i]].tags) for i, photo in enumerate(training)]
    text_bank = build_text_bank(model, training, image)
    photos = read_photos(find_shards(data_dir / "heldout"))[0][::2]
    if (data_dir / "choose").is_dir():
        photos += read_photos(find_shards(data_dir / "choose"))[0]
    image, text = embed_photos(model, photos, crops)
    return calibrate_ranks(text_bank, image, text_bank.placed(text, [photo.tags for photo in photos]))


def add_text_bank(
    model: Annotated[Path, typer.Option(help="Folder of a trained model; the file is written to it.")],
    data: Annotated[Path, typer.Option(help="Folder of the data set that it was trained on.")],
) -> None:
    """Add an EXIF text bank to a model's folder."""
    text_bank = text_bank_of(ExifLang.from_pretrained(str(model)), data)
    text_bank.save(model)
    print(f"{model / FILE}: {len(text_bank.text):,} photos of {len(text_bank.makes)} makes")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code, see `run_command`."""
    return run_command(add_text_bank, arguments, "python -m exiflang.inspection.text_bank")


if __name__ == "__main__":
    sys.exit(main())
