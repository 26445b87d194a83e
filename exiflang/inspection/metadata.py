"""Whether a file's metadata fit its pixels, which tags and windows do not, and what the pixels suggest instead."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from exiflang.exif.reader import canonical_tags
from exiflang.exif.tags import DATE_NAMES, TAGS, clean, is_private
from exiflang.exif.text import exif_to_text
from exiflang.inspection.text_bank import TextBank, embed_sentences
from exiflang.models.model import ExifLang

#: A tag's value is swapped for at most this many of its most common values.
SWAPS = 8
#: At most this many tags of a sentence are removed and swapped: longer sentences are truncated at 512 tokens anyway.
MOST_TAGS = 60
#: Common names of tags, in lower case, without spaces.
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
    """How well a picture of rows x cols windows fits its file's EXIF sentence.

    Attributes:
        sentence: the model's input.
        similarity: cosine of the picture's embedding and the sentence's.
        rank: fraction of the text bank's sentences that fit the picture worse, 0..1.
        percentile: fraction of authentic photos whose own sentence has a lower rank, 0..1, among those with familiar
            sentences if this one is familiar, else among the others; low = unusual. NaN if that was not measured.
        familiar: whether the sentence is close to one of the text bank's.
        photos: number of sentences in the text bank.
        misfit: float32 [rows, cols] in 0..1, fraction of the text bank's sentences that fit the window better: high =
            this window does not fit the file's metadata.
        tags: a row per tag of the sentence: `tag`, `value`; `removed`, the change of the rank without the tag;
            `swapped`, the largest change of the rank with a different common value, which is `best` ("" if none).
            A positive change means that the pixels fit better without the tag's value.
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
    """A picture's answer to a question about a tag.

    Attributes:
        tag: the canonical name, "" for free text.
        table: a row per candidate, likeliest first: `value`, `score` (see `kind`), `asked` (whether it was typed).
        kind: "probability" (among the common values in the text bank) or "similarity" (cosine).
        note: a sentence on the origin of the candidates.
    """

    tag: str
    table: pd.DataFrame
    kind: str
    note: str


def picture_embedding(embeddings: np.ndarray) -> np.ndarray:
    """A picture's embedding, the mean of its windows': [rows, cols, D] -> float32 [D], unit norm."""
    mean = embeddings.reshape(-1, embeddings.shape[-1]).mean(0)
    return (mean / max(float(np.linalg.norm(mean)), 1e-12)).astype(np.float32)


def metadata_fit(
    model: ExifLang, text_bank: TextBank, embeddings: np.ndarray, tags: Mapping[str, str]
) -> MetadataFit | None:
    """How well the windows of a picture, [rows, cols, D], fit its tags; None if no tag is allowed in a sentence."""
    tags = {tag: value for tag, value in tags.items() if exif_to_text({tag: value})}
    sentence = exif_to_text(tags)
    if not sentence:
        return None
    image = picture_embedding(embeddings)
    text = embed_sentences(model, [sentence])
    similarity, text = float(image @ text[0]), text_bank.placed(text, [tags])[0]
    rank, familiar = float(text_bank.rank(image, text)), bool(text_bank.familiar(text))
    return MetadataFit(
        sentence=sentence,
        similarity=similarity,
        rank=rank,
        percentile=text_bank.percentile(rank, familiar),
        familiar=familiar,
        photos=len(text_bank.text),
        misfit=(1 - text_bank.rank(embeddings, text)).astype(np.float32),
        tags=_tag_effects(model, text_bank, image, tags, rank),
    )


def _tag_effects(
    model: ExifLang, text_bank: TextBank, image: np.ndarray, tags: Mapping[str, str], rank: float
) -> pd.DataFrame:
    """`MetadataFit.tags`: compares the sentence without each tag, and with other values of it."""
    variants = []  # (tag, other value or "" for none, all tags)
    for tag in list(tags)[:MOST_TAGS]:
        rest = {other: value for other, value in tags.items() if other != tag}
        variants.append((tag, "", rest))
        others = [value for value in text_bank.values.get(tag, ()) if value != tags[tag]][:SWAPS]
        variants += [(tag, value, {**rest, tag: value}) for value in others]
    changed = [variant for _, _, variant in variants]
    texts = embed_sentences(model, [exif_to_text(variant) for variant in changed])  # [variants, D]
    rises = text_bank.rank(image, text_bank.placed(texts, changed)) - rank
    rows = []
    for tag in dict.fromkeys(tag for tag, _, _ in variants):
        own = {value: rises[i] for i, (name, value, _) in enumerate(variants) if name == tag}
        removed = float(own.pop(""))
        removed = removed if len(tags) > 1 else float("nan")  # without its only tag, no sentence is left
        best = max(own, key=lambda value: own[value], default="")
        swapped = float(own[best]) if own else float("nan")
        rows.append({"tag": tag, "value": tags[tag], "removed": removed, "best": best, "swapped": swapped})
    return pd.DataFrame(rows, columns=["tag", "value", "removed", "best", "swapped"])


def ask(model: ExifLang, text_bank: TextBank, embeddings: np.ndarray, question: str) -> Answer:
    """Rank candidates for a question, by the windows of a picture, [rows, cols, D].

    question: a tag ("Make"), a fragment ("Flash: Flash fired"), or several fragments on separate lines or separated by
        ";". Names are EXIF's, in any case and spacing, or "ISO", "aperture", "shutter speed", "camera", "lens".

    For a tag with common values, the answer is their probabilities, estimated from the sentence expected for the
    picture (`TextBank.read`). Any other text is compared with the picture by cosine, which is less informative.

    Raises `ValueError` for an empty question, and for a tag that is not allowed in a sentence.
    """
    fragments = [clean(part, 300) for part in re.split(r"[;\n]", question) if clean(part, 300)]
    if not fragments:
        raise ValueError('type a tag or an EXIF fragment, e.g. "Make", "Make: Canon" or "ISO: 3200"')
    pairs = [_canonical(fragment) for fragment in fragments]
    image = picture_embedding(embeddings)
    tags = {tag for tag, _ in pairs}
    if len(tags) == 1 and (tag := tags.pop()) in text_bank.values:
        asked = {value for _, value in pairs if value}
        if asked <= set(text_bank.values[tag]):
            shares = text_bank.read(image, tag, float(model.logit_scale.detach()))
            note = f"The {len(shares)} common values of {tag} in the model's {len(text_bank.text):,} training photos."
            return Answer(tag, _ranked(text_bank.values[tag], shares, asked), "probability", note)
        values = list(dict.fromkeys([*asked, *text_bank.values[tag]]))
        sentences = [exif_to_text({tag: value}) for value in values]
        note = f"The model has not learned {tag} with that value: these are plain similarities, a weaker indication."
        return Answer(tag, _ranked(values, embed_sentences(model, sentences) @ image, asked), "similarity", note)
    texts = [f"{tag}: {value}" if value else tag for tag, value in pairs]
    note = "Plain similarities of each text with the picture, a weak indication: compare them only with each other."
    return Answer("", _ranked(texts, embed_sentences(model, texts) @ image, set(texts)), "similarity", note)


def _canonical(fragment: str) -> tuple[str, str]:
    """(tag, value) of "ISO speed: 3200", both in canonical form if they are EXIF's; value "" for a bare tag."""
    name, _, value = (part.strip() for part in fragment.partition(":"))
    if is_private(name):
        raise ValueError(f"{name}: the model does not use names, locations or serial numbers; ask about another tag")
    tag = _BY_SPELLING.get("".join(filter(str.isalnum, name)).casefold(), name)
    if tag in DATE_NAMES:
        raise ValueError(f"{tag}: the model does not use dates; ask about another tag")
    return tag, canonical_tags({tag: value}).get(tag, value)


def _ranked(values: Sequence[str], scores: np.ndarray, asked: set[str]) -> pd.DataFrame:
    table = pd.DataFrame(
        {"value": values, "score": scores.astype(float), "asked": [value in asked for value in values]}
    )
    return table.sort_values("score", ascending=False, kind="stable", ignore_index=True)
