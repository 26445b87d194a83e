"""A small folder browser for the machine that runs the kernel."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from exiflang.exif.tags import clean
from exiflang.utils.extras import extra
from exiflang.utils.files import absolute_path, printable
from exiflang.utils.folders import count_others, openable_extensions

with extra("notebook"):
    import ipywidgets as widgets

#: Limit on entries to read: nobody finds one picture among a million in a list.
MOST_READ = 5000


@dataclass(frozen=True)
class Listing:
    """Contents of a folder.

    Attributes:
        folder: its absolute path.
        entries: (label, path) of the parent folder, subfolders and pictures, each sorted by name; no hidden ones.
        note: a sentence if something is not listed, else "".
    """

    folder: Path
    entries: tuple[tuple[str, Path], ...]
    note: str


def list_folder(folder: str | Path) -> Listing:
    """Read a folder; if it is unreadable, the listing has only the parent folder and a note."""
    folder = absolute_path(folder)
    above = [("..", folder.parent)] if folder.parent != folder else []
    try:
        with os.scandir(folder) as found:
            read = [Path(entry) for entry in islice(found, MOST_READ + 1)]
    except OSError as error:
        return Listing(folder, tuple(above), f"This folder cannot be read: {error.strerror}.")
    note = f"Only {MOST_READ:,} of its entries were read: type the path instead." if len(read) > MOST_READ else ""
    seen = [path for path in read[:MOST_READ] if not path.name.startswith(".")]
    seen.sort(key=lambda path: path.name.casefold())
    # Unlike pathlib, os.path returns False for unreadable entries such as circular links.
    folders = [(f"{_label(path.name)}/", path) for path in seen if os.path.isdir(path)]
    extensions = openable_extensions()
    files = [path for path in seen if path.suffix.lower() in extensions and os.path.isfile(path)]
    listed = {*files, *(path for _, path in folders)}
    others = count_others([_label(path.name) for path in seen if path not in listed])
    if not note:
        empty = "" if folders or files else "No pictures here. "
        note = f"{empty}{others and f'{others}.'}".strip()
    return Listing(folder, (*above, *folders, *((_label(path.name), path) for path in files)), note)


def _label(name: str) -> str:
    return clean(printable(name), 120)


class FileBrowser(widgets.VBox):
    """A folder's contents, and a button that opens the selection: a folder in this list, a picture via `on_open`."""

    def __init__(self, on_open: Callable[[Path], None], folder: str | Path = "~"):
        self._on_open = on_open
        self.where, self.note = widgets.Label(), widgets.Label()
        self.names = widgets.Select(rows=8, layout={"width": "99%"})
        self.button = widgets.Button(description="Open", icon="folder-open", tooltip="Open the folder or picture")
        self.button.on_click(lambda _: self.open_chosen())
        super().__init__([self.where, self.names, widgets.HBox([self.button, self.note])])
        self.show(folder)

    def show(self, folder: str | Path) -> None:
        """List a folder."""
        listing = list_folder(folder)
        self.folder, self.where.value, self.note.value = (
            listing.folder,
            clean(printable(listing.folder), 300),
            listing.note,
        )
        self.names.options = listing.entries

    def open_chosen(self) -> None:
        """Same as clicking the button."""
        if (chosen := self.names.value) is not None:
            (self.show if chosen.is_dir() else self._on_open)(chosen)
