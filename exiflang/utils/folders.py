"""The contents of a folder: pictures by extension, left-out files with the reason, and all other files."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from exiflang.utils.develop_raw import can_develop
from exiflang.utils.files import printable
from exiflang.utils.images import PICTURE_EXTENSIONS
from exiflang.utils.raw_files import DEVELOP, RAW_EXTENSIONS

OTHERS_NAMED = 5  # files other than pictures that a message lists

logger = logging.getLogger(__name__)


def openable_extensions() -> frozenset[str]:
    """Extensions of the files that can be inspected: pictures and, with rawpy, cameras' raw files."""
    return PICTURE_EXTENSIONS | (RAW_EXTENSIONS if can_develop() else frozenset())


def find_pictures(
    folder: Path, *, outside: bool = False, extensions: frozenset[str] = PICTURE_EXTENSIONS
) -> tuple[list[Path], list[tuple[Path, str]], list[Path]]:
    """Pictures in a folder and its subfolders, by extension; (path, reason) of those left out; all other files.

    Links are followed to files within the folder, or to any file with `outside`, but never to folders. Results are
    sorted, but the other files begin with one of each extension, so that a short list covers every kind.
    """
    found, left_out, others, root = [], [], [], Path(os.path.realpath(folder))

    def closed(error: OSError) -> None:
        left_out.append((Path(error.filename), f"cannot be opened: {error.strerror}"))

    for parent, folders, names in os.walk(folder, onerror=closed):
        links = [path for name in folders if (path := Path(parent, name)).is_symlink()]
        left_out += [(path, "a link to a folder") for path in links]
        for path in (Path(parent, name) for name in names):
            if path.suffix.lower() in RAW_EXTENSIONS - extensions:
                left_out.append((path, f"a camera's raw file; {DEVELOP}"))
            elif path.suffix.lower() not in extensions:
                others.append(path)
            elif outside or Path(os.path.realpath(path)).is_relative_to(root):
                found.append(path)
            else:
                left_out.append((path, "a link that leads out of the folder"))
    first = {path.suffix.lower(): path for path in sorted(others, reverse=True)}
    return sorted(found), sorted(left_out), sorted(others, key=lambda path: (path != first[path.suffix.lower()], path))


def only_pictures(folder: Path, *, outside: bool = False) -> list[Path]:
    """The pictures of `find_pictures`; the log lists the files left out."""
    found, left_out, others = find_pictures(folder, outside=outside)
    for path, reason in left_out:
        logger.warning("%s: left out, %s", printable(path), reason)
    if others:
        names = [printable(path.relative_to(folder)) for path in others]
        logger.warning("%s: %s", printable(folder), count_others(names))
    return found


def count_others(names: Sequence[str]) -> str:
    """One line that counts the other files of a folder and names the first few; "" for none."""
    many = "files skipped, not pictures by extension" if len(names) > 1 else "file skipped, not a picture by extension"
    more = ", ..." if len(names) > OTHERS_NAMED else ""
    return f"{len(names):,} {many}: {', '.join(names[:OTHERS_NAMED])}{more}" if names else ""
