"""Splice benchmarks on disk -> one lazy iterator of (picture, mask, name), with every picture left out named.

A benchmark never aborts on one bad picture and never puts another in its place: the picture goes to ``.skipped``.
"""

import csv
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from exiflang.images import ImageError, load_image


class BenchmarkError(ValueError):
    """A benchmark that cannot be read at all; the message says what is missing and where it should lie."""


@dataclass(frozen=True, eq=False)
class Item:
    """One picture of a benchmark."""

    image: np.ndarray  # uint8 [H, W, 3], upright RGB
    mask: np.ndarray  # bool [H, W], true = foreign
    name: str  # unique in its benchmark
    spliced: bool
    info: dict[str, str]  # e.g. format, kind; whatever the benchmark records of the picture


@dataclass(frozen=True)
class _Entry:
    """A picture before it is read. ``problem``: why it cannot be scored, known from the folder alone."""

    name: str
    image: Path | None
    mask: Path | None = None
    spliced: bool | None = None  # None: the mask alone says it
    info: dict[str, str] = field(default_factory=dict)
    problem: str = ""


class Benchmark:
    """A sized iterable of ``Item``; each iteration reads the pictures anew, one at a time, in the same order.

    ``len`` counts the pictures listed. After an iteration ``skipped`` holds (name, reason) of those left out, so that
    ``len(benchmark) == items + len(benchmark.skipped)``.
    """

    def __init__(self, name: str, entries: list[_Entry]):
        self.name = name
        self.skipped: list[tuple[str, str]] = []
        self._entries = entries

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Item]:
        self.skipped.clear()
        for entry in self._entries:
            try:
                item = _read(entry)
            except (ImageError, BenchmarkError) as error:
                self.skipped.append((entry.name, str(error)))
            else:
                yield item


def load_benchmark(name: str, root: str | os.PathLike) -> Benchmark:
    """The benchmark ``name`` (a key of ``BENCHMARKS``) that lies in the folder ``root``.

    Lists the files, reads no picture. Raises BenchmarkError for an unknown name, a missing or empty folder, or a folder
    of another layout.
    """
    if name not in BENCHMARKS:
        raise BenchmarkError(f"unknown benchmark {name!r}; known: {', '.join(sorted(BENCHMARKS))}")
    root = Path(root)
    if not root.is_dir():
        raise BenchmarkError(f"{root}: no such folder; give the folder that holds the benchmark {name!r}")
    entries = BENCHMARKS[name](root)
    if not entries:
        raise BenchmarkError(f"{root}: holds no pictures of the benchmark {name!r}; check the path")
    return Benchmark(name, entries)


def _folder(root: Path) -> list[_Entry]:
    """``images/<stem>.*`` with ``masks/<stem>.*`` (above 127 = foreign) and, if there is one, ``index.csv``.

    ``index.csv`` has the columns ``name`` (a file name or stem in ``images/``) and ``kind`` (``spliced`` or
    ``authentic``); other columns go to ``info``. A picture that it calls authentic needs no mask. A row without its
    picture, a row that its mask contradicts and a picture that no row lists are skipped by name.

    Without an index the mask decides: a mask all black means authentic. A picture without a mask is skipped, never
    taken for authentic, because a lost mask would quietly turn a splice into an authentic picture.
    """
    pictures, masks = _files_by_stem(root / "images"), _files_by_stem(root / "masks")
    if not pictures:
        raise BenchmarkError(f"{root}: no pictures in images/; expected images/, masks/ and perhaps index.csv")
    index = root / "index.csv"
    if index.is_file():
        return _indexed(_read_index(index), pictures, masks)
    if not masks:
        raise BenchmarkError(f"{root}: neither masks/ nor index.csv says which pictures are spliced; add one of them")
    return [
        _with_mask(_Entry(path.name, path, info={"format": _format(path)}), masks.get(stem, []))
        for stem, paths in pictures.items()
        for path in paths
    ]


def _read_index(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="")
            rows = [{key: value.strip() for key, value in row.items() if key is not None} for row in reader]
            columns = reader.fieldnames or []
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise BenchmarkError(f"{path}: not a readable CSV file ({error}); save it as UTF-8 CSV") from error
    if "name" not in columns or "kind" not in columns:
        raise BenchmarkError(f"{path}: needs the columns name and kind, has {', '.join(columns) or 'none'}")
    return rows


def _indexed(rows: list[dict[str, str]], pictures: dict[str, list[Path]], masks: dict[str, list[Path]]) -> list[_Entry]:
    # Names are only looked up among the files of images/, never joined to a path: no row can leave the folder.
    by_name = dict(pictures) | {path.name: [path] for paths in pictures.values() for path in paths}
    entries, listed = [], set()
    for row in rows:
        name, kind = row["name"], row["kind"]
        found = by_name.get(name, [])
        path = found[0] if len(found) == 1 else None
        info = {"format": _format(path) if path else ""} | {k: v for k, v in row.items() if k != "name"}
        entry = _Entry(name, path, spliced=kind == "spliced", info=info)
        if path is None:
            problem = f"index.csv: {len(found)} pictures named {name!r} in images/; list it by its file name"
        elif kind not in ("spliced", "authentic"):
            problem = f"index.csv: kind is {kind!r}; write spliced or authentic"
        elif path in listed:
            problem = f"index.csv: {name!r} is listed twice; delete one of the rows"
        else:
            problem = ""
        listed.update(found)
        entries.append(replace(entry, problem=problem) if problem else _with_mask(entry, masks.get(path.stem, [])))
    unlisted = [path for paths in pictures.values() for path in paths if path not in listed]
    return entries + [_Entry(path.name, path, problem="not listed in index.csv; add a row") for path in unlisted]


_CASIA_NAME = re.compile(
    r"(?:Sp|CM)_(?P<origin>[DS])_(?P<operations>[A-Z]{3})_(?P<shape>[A-Z])"
    r"_(?P<first>[a-z]{3}\d{4})_(?P<second>[a-z]{3}\d{4})_\d+"
)


def _casia_1(root: Path) -> list[_Entry]:
    """CASIA 1.0: ``Au/*``, ``Tp/{Sp,CM}/*``, ``CASIA 1.0 groundtruth/{Sp,CM}/<stem>_gt.png``.

    ``info``: ``format``; ``kind``: ``authentic``, ``spliced`` or ``copy-move`` (``Item.spliced`` is true of both); and
    of a regular name such as ``Sp_D_NRN_A_art0071_art0029_0478`` its codes as they stand: ``origin`` (D: two pictures,
    S: one), ``operations``, ``shape``, and ``sources``, of which either may be the host.
    """
    entries = [
        _Entry(path.name, path, spliced=False, info={"format": _format(path), "kind": "authentic"})
        for path in _files(root / "Au")
    ]
    for folder, kind in (("Sp", "spliced"), ("CM", "copy-move")):
        tampered = _files(root / "Tp" / folder)
        truth = root / "CASIA 1.0 groundtruth" / folder
        if tampered and not truth.is_dir():
            raise BenchmarkError(f"{truth}: no such folder; the masks of Tp/{folder} belong there, as <stem>_gt.png")
        masks = _files_by_stem(truth)
        for path in tampered:
            info = {"format": _format(path), "kind": kind} | _casia_codes(path.stem)
            entry = _Entry(path.name, path, spliced=True, info=info)
            entries.append(_with_mask(entry, masks.get(f"{path.stem}_gt", [])))
    return entries


def _casia_codes(stem: str) -> dict[str, str]:
    match = _CASIA_NAME.fullmatch(stem)
    if match is None:
        return {}
    codes = match.groupdict()
    return {key: codes[key] for key in ("origin", "operations", "shape")} | {
        "sources": f"{codes['first']} {codes['second']}"
    }


#: name -> lister of a folder; the protocol of each is its docstring
BENCHMARKS: dict[str, Callable[[Path], list[_Entry]]] = {"folder": _folder, "casia_1": _casia_1}


def _with_mask(entry: _Entry, masks: list[Path]) -> _Entry:
    if len(masks) > 1:
        return replace(entry, problem=f"{len(masks)} masks of one stem, such as {masks[0]}; keep one of them")
    if masks:
        return replace(entry, mask=masks[0])
    if entry.spliced is False:
        return entry
    return replace(entry, problem="no mask; add it (all black for an authentic picture)")


def _read(entry: _Entry) -> Item:
    if entry.problem:
        raise BenchmarkError(entry.problem)
    image = load_image(entry.image)
    mask = np.zeros(image.shape[:2], dtype=bool) if entry.mask is None else _read_mask(entry.mask)
    if mask.shape != image.shape[:2]:
        sizes = " and the picture ".join(f"{width} x {height}" for height, width in (mask.shape, image.shape[:2]))
        raise BenchmarkError(f"{entry.mask}: the mask is {sizes}; give a mask of the picture's size")
    spliced = bool(mask.any())
    if entry.spliced not in (None, spliced):
        expected, shows = ("spliced", "no foreign pixel") if entry.spliced else ("authentic", "foreign pixels")
        raise BenchmarkError(f"{entry.mask}: the picture is listed as {expected}, its mask shows {shows}; mend one")
    return Item(image, mask, entry.name, spliced, dict(entry.info))


def _read_mask(path: Path) -> np.ndarray:
    """bool [H, W]: any channel above 127 is foreign."""
    values = load_image(path).max(axis=2)  # [H, W, 3] -> [H, W]
    brightest = int(values.max())
    if 0 < brightest <= 127:
        raise BenchmarkError(f"{path}: the mask's brightest value is {brightest}; write foreign pixels as 255")
    return values > 127


def _files(folder: Path) -> list[Path]:
    """Every file but hidden ones, by name: one that is no picture shall be named, not overlooked."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def _files_by_stem(folder: Path) -> dict[str, list[Path]]:
    by_stem = defaultdict(list)
    for path in _files(folder):
        by_stem[path.stem].append(path)
    return dict(by_stem)


def _format(path: Path) -> str:
    return path.suffix.lstrip(".").lower()
