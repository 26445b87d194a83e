"""A folder to read and write, on this machine or at an fsspec URL such as "s3://bucket/set"."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec

from exiflang.parameters import project_path


def is_url(place: str | Path) -> bool:
    """Whether `place` is a URL with a scheme rather than a path."""
    return bool(re.match(r"[a-z][a-z0-9+.-]+://", str(place)))


def absolute_place(place: str | Path) -> str:
    """A URL as it stands, a path as an absolute one (see `project_path`)."""
    return str(place) if is_url(place) else str(project_path(place))


class Store:
    """Named files below one folder. Credentials and end points come from fsspec's configuration and environment.

    Args:
        root: path, or a URL of any protocol that fsspec knows ("s3://" needs the package s3fs).

    Names are relative, with "/" between. A file appears under its name whole or not at all. Raises `OSError` for a
    place that cannot be reached, `ValueError` for a protocol that is not known, `ImportError` for one whose package is
    missing.
    """

    def __init__(self, root: str | Path):
        self.root = str(root).rstrip("/")
        self.local = not is_url(self.root)
        self._fs, self._base = fsspec.core.url_to_fs(self.root)

    def _path(self, name: str) -> str:
        return f"{self._base}/{name}"

    def exists(self, name: str) -> bool:
        """Whether there is a file of that name now, whatever was seen before."""
        with self._reached():
            return self._fs.isfile(self._path(name))

    def any(self) -> bool:
        """Whether there is anything at all."""
        with self._reached():
            return self._fs.exists(self._base) and bool(self._fs.ls(self._base, detail=False))

    def names(self, folder: str = "") -> list[str]:
        """The names of all files directly in `folder`, sorted; [] if it is not there."""
        place = self._path(folder) if folder else self._base
        with self._reached():
            found = self._fs.ls(place, detail=True) if self._fs.isdir(place) else []
        files = sorted(entry["name"].rsplit("/", 1)[-1] for entry in found if entry["type"] == "file")
        return [f"{folder}/{name}" if folder else name for name in files]

    def read(self, name: str) -> bytes:
        """The whole file."""
        return self._fs.cat_file(self._path(name))

    def get(self, name: str, folder: Path) -> Path:
        """A path at which the file can be read: its own, or that of a copy in `folder`."""
        if self.local:
            return Path(self._path(name))
        copy = folder / name.rsplit("/", 1)[-1]
        with self._reached():
            self._fs.get_file(self._path(name), str(copy))
        return copy

    def write(self, name: str, data: bytes) -> None:
        """Write a file in one step."""
        if self.local:
            with self._fresh(name) as fresh:
                fresh.write_bytes(data)
        else:  # object stores show an object when it is complete
            self._fs.pipe_file(self._path(name), data)

    def put(self, file: Path, name: str) -> None:
        """Copy a file of this machine here in one step."""
        if self.local:
            with self._fresh(name) as fresh:
                shutil.copyfile(file, fresh)
        else:
            self._fs.put_file(str(file), self._path(name))

    def remove(self, *names: str) -> None:
        """Remove files and folders, if they are there."""
        for name in names:
            if self._fs.exists(self._path(name)):
                self._fs.rm(self._path(name), recursive=True)

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Looks anew, not into what was listed before; whatever a file system raises becomes an `OSError`."""
        self._fs.invalidate_cache()
        try:
            yield
        except Exception as error:  # each has errors of its own
            place = f"{self.root}: cannot be reached ({' '.join(str(error).split())[:200]})"
            raise OSError(f"{place}: check the address and your access") from error

    @contextmanager
    def _fresh(self, name: str) -> Iterator[Path]:
        """A path to write to that becomes `name`; of its own, since two workers may write the same file at once."""
        path = Path(self._path(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
        try:
            yield fresh
            os.replace(fresh, path)
        finally:
            fresh.unlink(missing_ok=True)
