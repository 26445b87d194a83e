"""Canonical tags → one sentence, and the vocabulary of common tags (paper, section 3.1)."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields

from exiflang.exif.tags import DATE_NAMES, ExifError, _position, clean, is_private

SENTENCE_VERSION = 1  # stored in a model's config.json: any change to a sentence requires new weights


# ------------------------------------- canonical tags -> sentence -------------------------------------
def exif_to_text(tags: Mapping[str, str]) -> str:
    """One sentence in canonical order, ", ".join("tag: value"); "" when no tag remains.

    A value cannot break the grammar: ", " inside it becomes "; ", so splitting at ", " and then at the first ": "
    recovers the tags. Private tags (GPS, serial numbers, names, comments, unique ids) are never included, nor are dates
    and time offsets, which would make each sentence unique. (`reference_sentence` gives the paper's own wording.)

    Args:
        tags: tag -> value, usually from `read_exif`; names unknown to EXIF come last, alphabetically.
    """
    words = []
    for name in sorted(tags, key=_position):
        tag = clean(re.sub("[:,]", " ", name))
        value = clean(tags[name]).replace(", ", "; ")
        if tag and value and not is_private(tag) and tag not in DATE_NAMES:
            words.append(f"{tag}: {value}")
    return ", ".join(words)


@dataclass
class TagVocabulary:
    """The tags common enough to learn: those in at least `min_share` of the photos it was fitted on.

    Args:
        min_share: 0..1. The paper uses 0.49 (about 44 tags of YFCC100M); 0.05 suits the default sentence.
        min_tags: photos with fewer tags are skipped by `fit`. The paper requires 11.
        photos, shares: set by `fit`: number of photos counted; tag -> share of them (0..1), most common first, private
            tags left out.
    """

    min_share: float = 0.05
    min_tags: int = 1
    photos: int = 0
    shares: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.min_share <= 1:
            raise ValueError(f"min_share must be between 0 and 1, not {self.min_share}")

    @property
    def tags(self) -> list[str]:
        """The tags kept, in canonical order."""
        return sorted((tag for tag, share in self.shares.items() if share >= self.min_share), key=_position)

    def fit(self, photos: Iterable[Mapping[str, str]]) -> "TagVocabulary":
        """Count the tags of photos; ExifError if no photo has `min_tags` tags."""
        counts: Counter[str] = Counter()
        self.photos = 0
        for tags in photos:
            if len(tags) >= self.min_tags:
                self.photos += 1
                counts.update(tag for tag in tags if not is_private(tag))
        if not self.photos:
            raise ExifError(f"no photo has {self.min_tags} EXIF tags or more: use original camera files")
        common_first = sorted(counts, key=lambda tag: (-counts[tag], _position(tag)))
        self.shares = {tag: counts[tag] / self.photos for tag in common_first}
        return self

    def transform(self, tags: Mapping[str, str]) -> dict[str, str]:
        """Only the kept tags, in their order; ExifError before `fit`."""
        if not self.photos:
            raise ExifError("this TagVocabulary is empty: call fit(photos) first")
        return {tag: value for tag, value in tags.items() if self.shares.get(tag, -1) >= self.min_share}

    def to_dict(self) -> dict:
        """The vocabulary as JSON-compatible data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, state: Mapping) -> "TagVocabulary":
        """The vocabulary that `to_dict` wrote; ExifError names missing or unknown keys."""
        if wrong := set(state) ^ {field.name for field in fields(cls)}:
            raise ExifError(f"not a tag vocabulary: missing or unknown {sorted(wrong)}; write it with to_dict()")
        return cls(**{**state, "photos": int(state["photos"]), "shares": dict(state["shares"])})
