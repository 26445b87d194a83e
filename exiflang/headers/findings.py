"""A statement about a file: the rule that found it, its severity, and the standard that it rests on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from exiflang.headers.facts import Facts

Severity = Literal["strong", "notable", "info"]
#: From the most severe down.
SEVERITIES: tuple[Severity, ...] = ("strong", "notable", "info")
#: Fraction of authentic files above which a finding tells little.
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
        """Whether more than a fiftieth of authentic files have this, too."""
        return self.rate > WEAK


@dataclass(frozen=True)
class Rule:
    """A statement that holds for authentic files, and how to check it.

    Attributes:
        name: lower case, with underscores.
        severity, source: see `Finding`.
        check: facts -> a sentence, "" if there is nothing to say, None if the rule cannot apply.
        by_tags: whether tags and the picture's size are all that it looks at.
    """

    name: str
    severity: Severity
    source: str
    check: Callable[[Facts], str | None]
    by_tags: bool = True
