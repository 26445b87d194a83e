"""A small browser of folders on the machine that the kernel runs on."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import ipywidgets as widgets

from exiflang.exif_tags import clean

SUFFIXES = frozenset(".jpg .jpeg .jpe .png .tif .tiff .webp .gif .bmp .jp2 .avif .heic .ppm".split())
#: A folder is read so far: a list is no way to find one picture among a million.
MOST_READ = 5000


@dataclass(frozen=True)
class Listing:
    """What is in a folder.

    Attributes:
        folder: absolute.
        entries: (label, path) of the folder above, of subfolders and of pictures, each by name; no hidden ones.
        note: a sentence if something is missing here, else "".
    """

    folder: Path
    entries: tuple[tuple[str, Path], ...]
    note: str


def list_folder(folder: str | os.PathLike) -> Listing:
    """Read a folder; one that cannot be read has the folder above, and a note."""
    folder = Path(os.path.abspath(Path(folder).expanduser()))
    above = [("..", folder.parent)] if folder.parent != folder else []
    try:
        with os.scandir(folder) as found:
            read = list(islice(found, MOST_READ + 1))
    except OSError as error:
        return Listing(folder, tuple(above), f"This folder cannot be read: {error.strerror}.")
    note = f"Only {MOST_READ:,} of its entries were read: type the path." if len(read) > MOST_READ else ""
    seen = sorted(
        (entry for entry in read[:MOST_READ] if not entry.name.startswith(".")), key=lambda entry: entry.name.casefold()
    )
    folders = [(f"{clean(entry.name, 120)}/", Path(entry.path)) for entry in seen if _is(entry.is_dir)]
    pictures = [
        (clean(entry.name, 120), Path(entry.path))
        for entry in seen
        if os.path.splitext(entry.name)[1].lower() in SUFFIXES and _is(entry.is_file)
    ]
    if not note and not folders and not pictures:
        note = "No pictures here."
    return Listing(folder, (*above, *folders, *pictures), note)


def _is(kind: Callable[[], bool]) -> bool:
    try:
        return kind()
    except OSError:  # a link in a circle
        return False


class FileBrowser(widgets.VBox):
    """A list of what is in a folder, and a button that opens what is chosen: a folder here, a picture by `on_open`."""

    def __init__(self, on_open: Callable[[Path], None], folder: str | os.PathLike = "~"):
        self._on_open = on_open
        self.where, self.note = widgets.Label(), widgets.Label()
        self.names = widgets.Select(rows=8, layout={"width": "99%"})
        self.button = widgets.Button(description="Open", icon="folder-open", tooltip="Open the folder or picture")
        self.button.on_click(lambda _: self.open_chosen())
        super().__init__([self.where, self.names, widgets.HBox([self.button, self.note])])
        self.show(folder)

    def show(self, folder: str | os.PathLike) -> None:
        """List a folder."""
        listing = list_folder(folder)
        self.folder, self.where.value, self.note.value = listing.folder, clean(str(listing.folder), 300), listing.note
        self.names.options = listing.entries

    def open_chosen(self) -> None:
        """Do what the button does."""
        chosen = self.names.value
        if chosen is None:
            return
        if chosen.is_dir():
            self.show(chosen)
        else:
            self._on_open(chosen)
