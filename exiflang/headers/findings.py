"""A statement about a file: the rule that found it, its severity, and the standard that it rests on."""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["strong", "notable", "info"]
#: From the most severe down.
SEVERITIES: tuple[Severity, ...] = ("strong", "notable", "info")
#: A finding is weak if more than this fraction of authentic files have it.
WEAK = 0.02


@dataclass(frozen=True)
class Finding:
    """A finding on a file.

    Attributes:
        rule: name of the rule, e.g. "size".
        severity: "strong": an unedited camera file does not have this; "notable": rare in such files; "info": a fact.
        sentence: in plain English; without private data, unless they were asked for.
        source: the standard that the rule rests on, e.g. "EXIF 2.32, 4.6.5".
        rate: fraction of authentic files with this finding, NaN if it was not measured; see `photos`.
        photos: number of authentic files to which the rule could apply.
    """

    rule: str
    severity: Severity
    sentence: str
    source: str
    rate: float = float("nan")
    photos: int = 0

    @property
    def weak(self) -> bool:
        """Whether too many authentic files have it for it to say much."""
        return self.rate > WEAK
