"""Pictures of a benchmark before they are read: which mask belongs to each, how it is read, and what is amiss.

No picture is opened here. Folders, extensions and stems are found whatever their case; where that leaves a choice, the
entry has a problem. Names come from the listing of a folder alone, and no entry leads out of the benchmark's folder.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np


class BenchmarkError(ValueError):
    """A benchmark that cannot be read at all; the message says what is missing and where it should lie."""


def bright(mask: np.ndarray) -> np.ndarray:
    """Foreign where any channel is above 127: uint8 [H, W, 3] -> bool [H, W].

    Raises BenchmarkError for a mask that has values above 0 but none above 127.
    """
    values = mask.max(axis=2)  # [H, W, 3] -> [H, W]
    brightest = int(values.max())
    if 0 < brightest <= 127:
        raise BenchmarkError(f"the mask's brightest value is {brightest}; write foreign pixels as 255")
    return values > 127


def not_black(mask: np.ndarray) -> np.ndarray:
    """Foreign where any channel is above 0: uint8 [H, W, 3] -> bool [H, W]."""
    return mask.any(axis=2)


def dark(mask: np.ndarray) -> np.ndarray:
    """Foreign where no channel is above 127: uint8 [H, W, 3] -> bool [H, W]."""
    return mask.max(axis=2) <= 127


def green(mask: np.ndarray) -> np.ndarray:
    """Foreign where a JPEG was painted (0, 200, 0) or (0, 255, 0): uint8 [H, W, 3] -> bool [H, W].

    100 is half-way from black to the darker green. Next to red, chroma of half the resolution mixes the two, so green
    need only prevail; by 16, lest the error of a JPEG colour what is grey.
    """
    red, level, blue = np.moveaxis(mask.astype(np.int16), 2, 0)
    return (level > 100) & (level > np.maximum(red, blue) + 16)


@dataclass(frozen=True)
class Entry:
    """A picture before it is read. ``problem``: why it cannot be scored, known from the folder alone."""

    name: str  # unique in its benchmark
    image: Path | None
    mask: Path | None = None
    spliced: bool | None = None  # None: the mask alone says it
    info: dict[str, str] = field(default_factory=dict)
    foreign: Callable[[np.ndarray], np.ndarray] = bright  # the mask's uint8 [H, W, 3] -> bool [H, W]
    fit_mask: bool = False  # a mask of another size is resized to the picture
    problem: str = ""


def tampered(
    pictures: list[Path],
    masks: Path,
    mask_stem: str,
    foreign: Callable[[np.ndarray], np.ndarray] = bright,
    *,
    kind: str = "spliced",
) -> list[Entry]:
    """Entries of tampered pictures; the mask of each lies in the folder ``masks`` as ``mask_stem`` of its stem.

    Raises BenchmarkError if there are pictures but no such folder.
    """
    if pictures and not masks.is_dir():
        place = "/".join(pictures[0].parent.parts[-2:])
        pattern = mask_stem.format("<stem>")
        raise BenchmarkError(
            f"{masks}: no such folder; the masks of {place} belong there, as {pattern}.png or the like"
        )
    by_stem = by_stem_of(files(masks))
    return [
        with_mask(
            Entry(path.name, path, spliced=True, info={"format": format_of(path), "kind": kind}, foreign=foreign),
            by_stem,
            mask_stem.format(path.stem),
        )
        for path in pictures
    ]


def authentic(pictures: list[Path]) -> list[Entry]:
    return [
        Entry(path.name, path, spliced=False, info={"format": format_of(path), "kind": "authentic"})
        for path in pictures
    ]


def with_mask(entry: Entry, masks: dict[str, list[Path]], stem: str) -> Entry:
    found = masks.get(stem.casefold(), [])
    if len(found) > 1:
        return replace(entry, problem=f"{len(found)} masks of one stem, such as {found[0]}; keep one of them")
    if found:
        return replace(entry, mask=found[0])
    if entry.spliced is False:
        return entry
    wanted = f"it as {stem}.*" if entry.spliced else "it (all black for an authentic picture)"
    return replace(entry, problem=f"no mask; add {wanted}")


def checked(entries: list[Entry], root: Path) -> list[Entry]:
    """The entries with unique names, and a problem where a file lies outside of ``root`` or a mask has two owners."""
    named = Counter(entry.name for entry in entries)
    owners = defaultdict(set)
    for entry in entries:
        owners[entry.mask].add(entry.image and entry.image.stem)
    inside = os.path.join(os.path.realpath(root), "")

    def problem(entry: Entry) -> str:
        for path in (entry.image, entry.mask):
            if path and not os.path.realpath(path).startswith(inside):
                return f"{path}: a link that leaves {root}; put the file itself there"
        if entry.mask and len(owners[entry.mask]) > 1:
            pictures = " and ".join(sorted(owners[entry.mask]))
            return f"{entry.mask}: the mask of {pictures} alike; let their names differ by more than case"
        return entry.problem

    return [
        replace(
            entry,
            name=path_from(root, entry.image) if named[entry.name] > 1 else entry.name,
            problem=problem(entry),
        )
        for entry in entries
    ]


def subfolder(folder: Path, *names: str) -> Path:
    """The folder in ``folder`` of one of these names, whatever the case; ``folder / names[0]`` if there is none.

    Raises BenchmarkError if there are several.
    """
    wanted = {name.casefold() for name in names}
    listed = sorted(folder.iterdir()) if folder.is_dir() else []
    found = [path for path in listed if path.name.casefold() in wanted and path.is_dir()]
    if len(found) > 1:
        raise BenchmarkError(f"{folder}: holds both {found[0].name} and {found[1].name}; keep one of them")
    return found[0] if found else folder / names[0]


def files(folder: Path) -> list[Path]:
    """All but folders and hidden files, by name: a file that is no picture shall be named, not overlooked."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if not path.is_dir() and not path.name.startswith("."))


def by_stem_of(paths: list[Path]) -> dict[str, list[Path]]:
    by_stem = defaultdict(list)
    for path in paths:
        by_stem[path.stem.casefold()].append(path)
    return dict(by_stem)


def starts_with(path: Path, *starts: str) -> bool:
    return path.name.casefold().startswith(tuple(start.casefold() for start in starts))


def path_from(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def format_of(path: Path) -> str:
    return path.suffix.lstrip(".").lower()
