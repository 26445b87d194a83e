"""Splice benchmarks on disk -> one lazy iterator of (picture, mask, name), and a list of every skipped picture.

A bad picture neither aborts a benchmark nor is replaced by a different one: it goes to ``.skipped``.
"""

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from exiflang.evaluation.laundering import NETWORKS, Launder, list_laundered, parse_laundering, resize_mask
from exiflang.evaluation.layouts import LAYOUTS, BenchmarkError, Entry, MaskReader, checked
from exiflang.localization.evidence import FileHistory, read_history
from exiflang.utils.files import printable
from exiflang.utils.images import PICTURE_EXTENSIONS, ImageError, decode_image

# Published numbers of authentic and spliced pictures.
_PUBLISHED = {
    "columbia": (183, 180),
    "dso_1": (100, 100),
    "in_the_wild": (0, 201),
    "realistic_tampering": (220, 220),
    "casia_1": (800, 921),
    "casia_2": (7491, 5123),
}


@dataclass(frozen=True, eq=False)
class BenchmarkImage:
    """One picture of a benchmark."""

    image: np.ndarray  # uint8 [H, W, 3], upright RGB
    mask: np.ndarray  # bool [H, W], true = tampered
    name: str  # unique in its benchmark
    spliced: bool
    info: dict[str, str]  # format (of the file), kind (authentic, ...), mask ("resized" if so), other recorded facts
    history: FileHistory | None = None  # of the file, if it is a JPEG and was not laundered on the fly


class Benchmark:
    """A sized iterable of ``BenchmarkImage``; each iteration reads all pictures, one at a time, in the same order.

    ``len`` counts the listed pictures, ``names`` holds their names. After an iteration, ``skipped`` holds (name,
    reason) of skipped ones, and ``len(benchmark) == items + len(benchmark.skipped)``. ``count_note``: empty, or one
    sentence stating that the number of listed pictures differs from the published one.
    """

    def __init__(self, name: str, entries: list[Entry], launder: Launder | None = None, count_note: str = ""):
        self.name = name
        self.count_note = count_note
        self.skipped: list[tuple[str, str]] = []
        self._entries = entries
        self._launder = launder

    @property
    def names(self) -> list[str]:
        return [entry.name for entry in self._entries]

    def only(self, names: Collection[str]) -> "Benchmark":
        """The benchmark restricted to these names, in its own order, with the note on the full set.

        Raises BenchmarkError for an unknown name.
        """
        wanted = set(names)
        if unknown := sorted(wanted - set(self.names)):
            raise BenchmarkError(f"{self.name}: no pictures named {', '.join(map(repr, unknown[:3]))}; see .names")
        entries = [entry for entry in self._entries if entry.name in wanted]
        return Benchmark(self.name, entries, self._launder, self.count_note)

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[BenchmarkImage]:
        self.skipped.clear()
        for entry in self._entries:
            try:
                item = _read(entry, self._launder)
            except (ImageError, BenchmarkError) as error:
                self.skipped.append((entry.name, str(error)))
            else:
                yield item


def load_benchmark(name: str, root: str | os.PathLike, laundering: str | None = None) -> Benchmark:
    """The benchmark ``name`` (a key of ``LAYOUTS``) in the folder ``root``.

    - ``laundering``: "facebook", "whatsapp" or "wechat": the copies in ``root`` as returned by a social network, see
      ``laundering.list_laundered``; "jpeg 75", "resize 0.5" and so on: each picture is recompressed or resized after
      reading, see ``laundering.parse_laundering``.

    Lists the files without reading pictures. Raises BenchmarkError for an unknown name or laundering, a missing or
    empty folder, or a folder with a different layout.
    """
    if name not in LAYOUTS:
        raise BenchmarkError(f"unknown benchmark {name!r}; known: {', '.join(sorted(LAYOUTS))}")
    copies = laundering in NETWORKS
    launder = None if copies or laundering is None else parse_laundering(laundering)
    root = Path(root)
    if not root.is_dir():
        raise BenchmarkError(f"{root}: no such folder; give the folder of the benchmark {name!r}")
    entries = checked(list_laundered(name, root, str(laundering)) if copies else LAYOUTS[name](root), root)
    if not entries:
        raise BenchmarkError(f"{root}: contains no pictures of the benchmark {name!r}; check the path")
    title = name if laundering is None else f"{name}, {laundering}"
    return Benchmark(title, entries, launder, "" if copies else _count_note(name, entries))


def _count_note(name: str, entries: list[Entry]) -> str:
    # files such as Thumbs.db are reported as skipped, but are not part of the published count
    kinds = [entry.spliced for entry in entries if Path(entry.name).suffix.lower() in PICTURE_EXTENSIONS]
    listed = kinds.count(False), kinds.count(True)
    published = _PUBLISHED.get(name, listed)
    if listed == published:
        return ""
    return (
        f"{name}: {listed[0]} authentic and {listed[1]} spliced pictures listed, "
        f"{published[0]} and {published[1]} published: figures are not comparable with published ones"
    )


def _read(entry: Entry, launder: Launder | None) -> BenchmarkImage:
    if entry.problem or entry.image is None:
        raise BenchmarkError(entry.problem)
    decoded = decode_image(entry.image)
    image, mask, turn = decoded.pixels, np.zeros(decoded.pixels.shape[:2], dtype=bool), decoded.turn
    if entry.mask:
        mask, turn = _read_mask(entry.mask, entry.read_mask)
    if mask.any() and turn != decoded.turn:
        raise BenchmarkError(
            f"{entry.mask}: EXIF or XMP rotates the picture and its mask differently, so they may not match; give "
            "both the same Orientation"
        )
    resized = entry.fit_mask and mask.shape != image.shape[:2]
    if resized:
        mask = resize_mask(mask, *image.shape[:2])
    if mask.shape != image.shape[:2]:
        sizes = " and the picture ".join(f"{width} x {height}" for height, width in (mask.shape, image.shape[:2]))
        raise BenchmarkError(f"{entry.mask}: the mask is {sizes}; give a mask of the picture's size")
    spliced = bool(mask.any())
    if entry.spliced not in (None, spliced):
        expected, shows = ("spliced", "no tampered pixel") if entry.spliced else ("authentic", "tampered pixels")
        raise BenchmarkError(f"{entry.mask}: the picture is listed as {expected}, but its mask shows {shows}; fix one")
    if launder:
        image, mask = launder(image, mask)
        if spliced and not mask.any():
            raise BenchmarkError(f"{entry.mask}: no tampered pixel is left after resizing; use a larger factor")
    if mask.all():
        raise BenchmarkError(f"{entry.mask}: the mask covers the whole picture, so there is nothing to localize")
    info = {"format": printable(entry.image.suffix.lstrip(".").lower()), "kind": "spliced" if spliced else "authentic"}
    info |= entry.info | ({"mask": "resized"} if resized else {})
    return BenchmarkImage(image, mask, entry.name, spliced, info, None if launder else read_history(entry.image))


def _read_mask(path: Path, read_mask: MaskReader) -> tuple[np.ndarray, Image.Transpose | None]:
    """The mask, and the transpose that turned it upright."""
    decoded = decode_image(path)
    try:
        return read_mask(decoded.pixels), decoded.turn
    except BenchmarkError as error:
        raise BenchmarkError(f"{path}: {error}") from error
