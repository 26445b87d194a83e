"""The text bank of a model: embeddings of the sentences of its training photos, and what they hold.

A cosine of a picture and a sentence means nothing by itself. Compared with the cosines of thousands of other photos'
sentences it becomes a rank; compared with the ranks of authentic photos, a percentile. The folder of a model holds what
both need, and no sentence: embeddings sorted by make, the number of photos of each make, the common values of each tag,
and a linear map that reads these values from embeddings.

`python -m exiflang.inspection.text_bank --model data/models/mine --data data/mine` adds them to a model of one's own.
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

from exiflang.data.shards import Photo, find_shards, read_photos
from exiflang.evaluation.retrieval import embed_photos
from exiflang.exif.tags import DATE_NAMES, is_private
from exiflang.exif.text import exif_to_text
from exiflang.models.model import ExifLang
from exiflang.utils.commands import run_command
from exiflang.utils.files import write_whole

FILE = "text_bank.safetensors"
#: A value is common if at least so many photos have it; a tag keeps at most so many of its common values.
COMMON, MOST_VALUES = 5, 40
#: A sentence is familiar if its cosine with a sentence of the text bank is at least this. Of held-out photos of cameras
#: that training saw 95 % have a familiar sentence, of photos of other cameras 2 to 5 %.
FAMILIAR = 0.82
#: Percentiles need at least so many authentic photos, familiar or unfamiliar.
FEWEST = 50
_FACTS = ("makes", "values", "ranks", "figures")


@dataclass(frozen=True, eq=False)
class TextBank:
    """Embeddings of N photos' sentences, and the values that their tags have.

    Attributes:
        text: float32 [N, D], unit norm, photos of one make side by side.
        makes: {make: photos}, in the order of `text`; "" for photos without one.
        values: {tag: its common values, the most frequent first}.
        reading: {tag: float32 [values, D]}: times the embedding of a sentence, about 1 for the value that it holds and
            about 0 for the others.
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
        """Share of the text bank's sentences that fit an image worse than `text` does: [..., D], [..., D] -> [...].

        Ties count half.
        """
        own = (image * text).sum(-1)[..., None]  # [..., 1]
        others = image @ self.text.T  # [..., N]
        return ((others < own).mean(-1) + (others <= own).mean(-1)) / 2

    def familiar(self, text: np.ndarray) -> np.ndarray:
        """Whether sentences are close to one of the text bank's (see `FAMILIAR`): [..., D] -> bool [...]."""
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

        The mean of the text bank's embeddings, weighted by the softmax of their similarity with the image at the
        model's `logit_scale`: the probability that contrastive training gives to each of them.
        """
        return softmax(scale * (image @ self.text.T), axis=-1) @ self.text  # [..., N] x [N, D]

    def read(self, image: np.ndarray, tag: str, scale: float) -> np.ndarray:
        """Estimated probability of each of a tag's `values`, for photos that have one: [..., D] -> [..., values].

        Raises `KeyError` for a tag without common values.
        """
        found = np.clip(self.expected_text(image, scale) @ self.reading[tag].T, 1e-4, None)
        return found / found.sum(-1, keepdims=True)

    def save(self, folder: str | Path) -> None:
        """Write `text_bank.safetensors` into a model's folder, in one step; embeddings become float16."""
        arrays = {"text": self.text} | {f"reading.{tag}": weights for tag, weights in self.reading.items()}
        facts = {name: getattr(self, name) for name in _FACTS}
        half = {name: np.ascontiguousarray(array, np.float16) for name, array in arrays.items()}
        packed = save(half, {"facts": json.dumps(facts)})  # one entry: several would come in any order
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
            with safe_open(path, framework="np") as file:
                facts = json.loads(file.metadata()["facts"])
                arrays = {name: file.get_tensor(name).astype(np.float32) for name in file.keys()}
            reading = {tag: arrays[f"reading.{tag}"] for tag in facts["values"]}
            found = cls(arrays["text"], reading=reading, **{name: facts[name] for name in _FACTS})
            found._check()
            return found
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            advice = "download the model again, or make the file with python -m exiflang.inspection.text_bank"
            raise ValueError(f"{path}: damaged ({error!r}): {advice}") from error

    def _check(self) -> None:
        number, dim = self.text.shape
        if number == 0 or sum(self.makes.values()) != number:
            raise ValueError(f"{number} sentences, but {sum(self.makes.values())} photos by make")
        if any(self.reading[tag].shape != (len(values), dim) for tag, values in self.values.items()):
            raise ValueError("values and readings of a tag differ in number")
        if not all(np.isfinite(array).all() for array in (self.text, *self.reading.values())):
            raise ValueError("NaN or infinity among the embeddings")


def build_text_bank(model: ExifLang, photos: Sequence[Photo]) -> TextBank:
    """The text bank of training photos, not calibrated yet. Raises `ValueError` for no photos."""
    if not photos:
        raise ValueError("no photos for a text bank")
    photos = sorted(photos, key=lambda photo: (photo.tags.get("Make", ""), photo.id))
    text = embed_sentences(model, [exif_to_text(photo.tags) for photo in photos])
    from sklearn.linear_model import Ridge  # seconds, which who only reads a text bank need not wait for

    values, reading = _common_values(photos), {}
    for tag in values:
        held = np.array([[photo.tags.get(tag) == value for value in values[tag]] for photo in photos], np.float32)
        reading[tag] = Ridge(alpha=1.0, fit_intercept=False).fit(text, held).coef_  # [N, values] -> [values, D]
    makes = Counter(photo.tags.get("Make", "") for photo in photos)
    return TextBank(text, dict(makes), values, reading, {}, {})


def _common_values(photos: Sequence[Photo]) -> dict[str, list[str]]:
    """{tag: its common values, the most frequent first}, for tags that a sentence may hold and that vary."""
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
    """The text bank with the ranks of n authentic photos: their embeddings and those of their sentences, [n, D] each.

    Familiar and unfamiliar sentences are calibrated apart, where there are at least `FEWEST` of them.
    """
    ranks, familiar = text_bank.rank(image, text), text_bank.familiar(text)
    kinds = {"familiar": ranks[familiar], "unfamiliar": ranks[~familiar]}
    shares = np.arange(1, 100) / 100
    known = {kind: np.quantile(part, shares).tolist() for kind, part in kinds.items() if len(part) >= FEWEST}
    return replace(text_bank, ranks=known)


def text_bank_of(model: ExifLang, data_dir: str | Path, crops: int = 8) -> TextBank:
    """The text bank of a model's data set, as `prepare` has written it, calibrated on every second photo of its
    `heldout` (cameras that training has seen) and all of its `choose` (cameras it has not), if there is one.

    Raises `DataError` for shards that are missing or damaged.
    """
    data_dir = Path(data_dir)
    text_bank = build_text_bank(model, read_photos(find_shards(data_dir / "train"))[0])
    photos = read_photos(find_shards(data_dir / "heldout"))[0][::2]
    if (data_dir / "choose").is_dir():
        photos += read_photos(find_shards(data_dir / "choose"))[0]
    return calibrate_ranks(text_bank, *embed_photos(model, photos, crops))


def add_text_bank(
    model: Annotated[Path, typer.Option(help="Folder of a trained model; the file is written into it.")],
    data: Annotated[Path, typer.Option(help="Folder of the data set that it was trained on.")],
) -> None:
    """Add a text bank of EXIF to a model's folder."""
    text_bank = text_bank_of(ExifLang.from_pretrained(str(model)), data)
    text_bank.save(model)
    print(f"{model / FILE}: {len(text_bank.text):,} photos of {len(text_bank.makes)} makes")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code, see `run_command`."""
    return run_command(add_text_bank, arguments, "python -m exiflang.inspection.text_bank")


if __name__ == "__main__":
    sys.exit(main())
