"""A small browser of folders on the machine that the kernel runs on."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from exiflang.exif.tags import clean
from exiflang.utils.extras import extra
from exiflang.utils.files import absolute_path, printable
from exiflang.utils.folders import count_others
from exiflang.utils.images import PICTURE_EXTENSIONS

with extra("notebook"):
    import ipywidgets as widgets

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


def list_folder(folder: str | Path) -> Listing:
    """Read a folder; of one that cannot be read there are the folder above and a note."""
    folder = absolute_path(folder)
    above = [("..", folder.parent)] if folder.parent != folder else []
    try:
        with os.scandir(folder) as found:
            read = [Path(entry) for entry in islice(found, MOST_READ + 1)]
    except OSError as error:
        return Listing(folder, tuple(above), f"This folder cannot be read: {error.strerror}.")
    note = f"Only {MOST_READ:,} of its entries were read: type the path." if len(read) > MOST_READ else ""
    seen = [path for path in read[:MOST_READ] if not path.name.startswith(".")]
    seen.sort(key=lambda path: path.name.casefold())
    # os.path, unlike pathlib, says no of what cannot be looked at, such as a link in a circle.
    folders = [(f"{_label(path.name)}/", path) for path in seen if os.path.isdir(path)]
    files = [path for path in seen if path.suffix.lower() in PICTURE_EXTENSIONS and os.path.isfile(path)]
    listed = {*files, *(path for _, path in folders)}
    others = count_others([_label(path.name) for path in seen if path not in listed])
    if not note:
        empty = "" if folders or files else "No pictures here. "
        note = f"{empty}{others and f'{others}.'}".strip()
    return Listing(folder, (*above, *folders, *((_label(path.name), path) for path in files)), note)


def _label(name: str) -> str:
    return clean(printable(name), 120)


class FileBrowser(widgets.VBox):
    """A list of what is in a folder, and a button that opens what is chosen: a folder here, a picture by `on_open`."""

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
        """Do what the button does."""
        if (chosen := self.names.value) is not None:
            (self.show if chosen.is_dir() else self._on_open)(chosen)
