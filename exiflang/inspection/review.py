"""What a person concludes about a picture, a status and a note: in its report's JSON and page, and in the gallery."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from exiflang.utils.files import printable, read_json, write_json, write_whole
from exiflang.viz.html import fragment

#: Statuses of a review; "open" is that of a new report.
STATUSES = ("open", "cleared", "suspicious")
#: A note may have at most this many characters.
MOST_CHARACTERS = 10_000
_BLOCK = re.compile(r"<!-- review -->.*?<!-- /review -->", re.DOTALL)


@dataclass(frozen=True)
class Review:
    """A person's conclusion: one of `STATUSES`, a note, and the time of the last change ("": never)."""

    status: str = STATUSES[0]
    note: str = ""
    changed: str = ""

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Review:
        """The review in a report's JSON; a new one if there is none, or if it is damaged."""
        try:
            known = facts["review"]
            return cls(_status(known["status"]), clean_note(known["note"]), clean_note(known["changed"]))
        except (LookupError, TypeError, AttributeError, ValueError):
            return cls()

    def with_changes(self, status: str | None = None, note: str | None = None) -> Review:
        """A changed review; None keeps what it was, and "" removes the note. Raises `ValueError` for a bad value."""
        status = self.status if status is None else _status(status)
        note = self.note if note is None else clean_note(note)
        if (status, note) == (self.status, self.note):
            return self
        return Review(status, note, datetime.now().astimezone().isoformat(" ", "seconds"))

    @property
    def record(self) -> dict[str, str]:
        """For JSON."""
        return asdict(self)


def _status(status: str) -> str:
    if status not in STATUSES:
        raise ValueError(f"unknown status {printable(str(status))!r}: choose one of {', '.join(STATUSES)}")
    return status


def clean_note(note: str) -> str:
    """Printable lines of a note, without the empty ones around it. Raises `ValueError` if it is too long."""
    lines = ("".join(sign if sign.isprintable() else " " for sign in line).rstrip() for line in note.splitlines())
    note = "\n".join(lines).strip("\n")
    if len(note) > MOST_CHARACTERS:
        raise ValueError(f"the note has {len(note):,} characters: shorten it to {MOST_CHARACTERS:,}")
    return note


def review_block(review: Review) -> str:
    """The part of a report's page that `change_review` replaces."""
    return fragment("review.html.j2", "review_block", review)


def change_review(report: str | Path, status: str | None = None, note: str | None = None) -> Review:
    """Change the review in a report, given by its page or its JSON file, and return the new one.

    The rest of the report stays as it is. A gallery shows the change the next time that it is made. Raises `ValueError`
    for a bad value and for a file that is not a report, `OSError` if it cannot be read or written.
    """
    path, page = (Path(report).with_suffix(suffix) for suffix in (".json", ".html"))
    facts = _read(path)
    old = Review.of(facts)
    new = old.with_changes(status, note)
    if new != old:
        text, found = _BLOCK.subn(lambda _: review_block(new), page.read_text(encoding="utf-8"), count=1)
        if not found:
            raise ValueError(f"{page}: has no place for a review: inspect the picture again")
        write_whole(page, text)
        write_json(path, facts | {"review": new.record})
    return new


def _read(path: Path) -> dict[str, Any]:
    try:
        facts = read_json(path)
    except ValueError as error:
        raise ValueError(f"{path}: damaged, or not a report: inspect the picture again") from error
    if not isinstance(facts, dict) or not {"sha256", "heatmap"} <= facts.keys():
        raise ValueError(f"{path}: not the report of a picture: name one in the folder pictures of a gallery")
    return facts


def kept_review(path: Path, sha256: str) -> Review:
    """The review in a report's JSON file, if that exists and is about this picture; else a new one."""
    try:
        facts = read_json(path)
    except (OSError, ValueError):
        return Review()
    return Review.of(facts) if isinstance(facts, dict) and facts.get("sha256") == sha256 else Review()
