"""Does the metadata of a file fit its pixels, which tags and which windows do not, and what do the pixels suggest?"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from exiflang.exif import canonical_tags, exif_to_text
from exiflang.exif_tags import DATE_NAMES, TAGS, clean, is_private
from exiflang.model import ExifLang
from exiflang.population import Population, embed_sentences

#: A tag is swapped for at most so many of its most common values.
SWAPS = 8
#: A tag of a longer sentence has its turn only if it is among its first ones: the sentence is cut at 512 tokens anyway.
MOST_TAGS = 60
# How people call them.
_SPOKEN = {
    "iso": "PhotographicSensitivity",
    "isospeed": "PhotographicSensitivity",
    "isospeedratings": "PhotographicSensitivity",
    "aperture": "FNumber",
    "fstop": "FNumber",
    "shutter": "ExposureTime",
    "shutterspeed": "ExposureTime",
    "exposure": "ExposureTime",
    "camera": "Model",
    "lens": "LensModel",
}
_BY_SPELLING = {tag.name.casefold(): tag.name for tag in TAGS} | _SPOKEN


@dataclass(frozen=True, eq=False)
class MetadataFit:
    """How a picture of rows x cols windows fits its file's sentence.

    Attributes:
        sentence: as the model reads it.
        similarity: cosine of the picture's embedding and the sentence's.
        rank: share of the population's sentences that fit the picture worse, 0..1.
        percentile: share of authentic photos, with metadata as familiar as this, whose own fits worse, 0..1; low: odd.
            NaN if the population does not know.
        familiar: whether the population has sentences of this kind.
        photos: how many sentences the population has.
        misfit: float32 [rows, cols] in 0..1, share of the population's sentences that fit the window better: high =
            this window does not fit the file's metadata.
        tags: a row a tag of the sentence: `tag`, `value`; `removed`, how much higher the rank is without it;
            `swapped`, the largest rise of the rank by another common value, which is `best` ("" if there is none).
            A rise says that the pixels fit better without the tag's value.
    """

    sentence: str = field(repr=False)
    similarity: float
    rank: float
    percentile: float
    familiar: bool
    photos: int
    misfit: np.ndarray = field(repr=False)
    tags: pd.DataFrame = field(repr=False)


@dataclass(frozen=True, eq=False)
class Answer:
    """What a picture suggests when it is asked for a tag.

    Attributes:
        tag: the canonical name, "" if free texts were given.
        table: a row a candidate, the likeliest first: `value`, `score` (see `kind`), `asked` (whether it was typed).
        kind: "probability" (of the values that are common in the population) or "similarity" (cosine).
        note: a sentence on how the candidates came about.
    """

    tag: str
    table: pd.DataFrame
    kind: str
    note: str


def picture_embedding(embeddings: np.ndarray) -> np.ndarray:
    """One embedding of a picture: the mean of its windows', [rows, cols, D] -> float32 [D], unit norm."""
    mean = embeddings.reshape(-1, embeddings.shape[-1]).mean(0)
    return (mean / max(float(np.linalg.norm(mean)), 1e-12)).astype(np.float32)


def metadata_fit(
    model: ExifLang, population: Population, embeddings: np.ndarray, tags: Mapping[str, str]
) -> MetadataFit | None:
    """How the windows of a picture, [rows, cols, D], fit its tags; None if no tag may enter a sentence."""
    tags = {tag: value for tag, value in tags.items() if exif_to_text({tag: value})}
    sentence = exif_to_text(tags)
    if not sentence:
        return None
    image = picture_embedding(embeddings)
    text = embed_sentences(model, [sentence])[0]
    rank, familiar = float(population.rank(image, text)), bool(population.familiar(text))
    return MetadataFit(
        sentence=sentence,
        similarity=float(image @ text),
        rank=rank,
        percentile=population.percentile(rank, familiar),
        familiar=familiar,
        photos=len(population.text),
        misfit=(1 - population.rank(embeddings, text)).astype(np.float32),
        tags=_tag_effects(model, population, image, tags, rank),
    )


def _tag_effects(
    model: ExifLang, population: Population, image: np.ndarray, tags: Mapping[str, str], rank: float
) -> pd.DataFrame:
    """`MetadataFit.tags`: the sentence without each tag, and with other values of it."""
    variants = []  # (tag, other value or "" for none, sentence)
    for tag in list(tags)[:MOST_TAGS]:
        rest = {other: value for other, value in tags.items() if other != tag}
        variants.append((tag, "", exif_to_text(rest)))
        others = [value for value in population.values.get(tag, ()) if value != tags[tag]][:SWAPS]
        variants += [(tag, value, exif_to_text({**rest, tag: value})) for value in others]
    texts = embed_sentences(model, [sentence for _, _, sentence in variants])  # [variants, D]
    rises = population.rank(image, texts) - rank
    rows = []
    for tag in dict.fromkeys(tag for tag, _, _ in variants):
        own = {value: rises[i] for i, (name, value, _) in enumerate(variants) if name == tag}
        removed = float(own.pop(""))
        removed = removed if len(tags) > 1 else float("nan")  # nothing is left of the only one
        best = max(own, key=own.get, default="")
        swapped = float(own[best]) if own else float("nan")
        rows.append({"tag": tag, "value": tags[tag], "removed": removed, "best": best, "swapped": swapped})
    return pd.DataFrame(rows, columns=["tag", "value", "removed", "best", "swapped"])


def ask(model: ExifLang, population: Population, embeddings: np.ndarray, question: str) -> Answer:
    """Rank candidates for what is typed, by the windows of a picture, [rows, cols, D].

    question: a tag ("Make"), a fragment ("Flash: Flash fired"), or several fragments, one a line or with ";" between.
        Names are EXIF's, in any case and spacing, or "ISO", "aperture", "shutter speed", "camera", "lens".

    A tag with common values is answered by probabilities of those: of the sentences that the picture suggests, what do
    they say of it? Anything else is compared with the picture as it stands: a weaker way.

    Raises `ValueError` for an empty question, and for a tag that no sentence may hold.
    """
    fragments = [clean(part, 300) for part in re.split(r"[;\n]", question) if clean(part, 300)]
    if not fragments:
        raise ValueError('type a tag or a piece of EXIF, e.g. "Make", "Make: Canon" or "ISO: 3200"')
    pairs = [_canonical(fragment) for fragment in fragments]
    image = picture_embedding(embeddings)
    tags = {tag for tag, _ in pairs}
    if len(tags) == 1 and (tag := tags.pop()) in population.values:
        asked = {value for _, value in pairs if value}
        if asked <= set(population.values[tag]):
            shares = population.read(image, tag, float(model.logit_scale.detach()))
            note = (
                f"Of the {len(shares)} values of {tag} that are common in the model's {len(population.text):,} photos."
            )
            return Answer(tag, _ranked(population.values[tag], shares, asked), "probability", note)
        values = list(dict.fromkeys([*asked, *population.values[tag]]))
        sentences = [exif_to_text({tag: value}) for value in values]
        note = f"{tag} is not known with that value: the plain similarity of each fragment, a weaker way."
        return Answer(tag, _ranked(values, embed_sentences(model, sentences) @ image, asked), "similarity", note)
    texts = [f"{tag}: {value}" if value else tag for tag, value in pairs]
    note = "The plain similarity of each text with the picture, a weak way: compare them with each other only."
    return Answer("", _ranked(texts, embed_sentences(model, texts) @ image, set(texts)), "similarity", note)


def _canonical(fragment: str) -> tuple[str, str]:
    """(tag, value) of "ISO speed: 3200", both in canonical form where EXIF knows them; value "" for a tag alone."""
    name, _, value = (part.strip() for part in fragment.partition(":"))
    if is_private(name):
        raise ValueError(
            f"{name}: names, places and serial numbers are no part of what the model reads; ask another tag"
        )
    tag = _BY_SPELLING.get("".join(filter(str.isalnum, name)).casefold(), name)
    if tag in DATE_NAMES:
        raise ValueError(f"{tag}: dates are no part of what the model reads; ask another tag")
    return tag, canonical_tags({tag: value}).get(tag, value)


def _ranked(values, scores: np.ndarray, asked: set[str]) -> pd.DataFrame:
    table = pd.DataFrame({"value": list(values), "score": np.asarray(scores, float)})
    table["asked"] = table["value"].isin(asked)
    return table.sort_values("score", ascending=False, kind="stable", ignore_index=True)
