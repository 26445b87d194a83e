"""A folder to read and write, on this machine or at an fsspec URL such as "s3://bucket/set"."""

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec

from exiflang.utils.files import absolute_path


def is_url(path: str | Path) -> bool:
    """Whether `path` is a URL with a scheme rather than a path."""
    return bool(re.match(r"[a-z][a-z0-9+.-]+://", str(path)))


def absolute_place(path: str | Path) -> str:
    """A URL unchanged, a path made absolute. Raises `ValueError` for an empty one: it would be the working folder."""
    if not str(path).strip():
        raise ValueError("an empty path: give a folder, a file or a URL")
    return str(path) if is_url(path) else str(absolute_path(path))


class Store:
    """Named files below one folder. Credentials and endpoints come from fsspec's configuration and environment.

    Args:
        root: path, or a URL of any protocol that fsspec knows ("s3://" needs the package s3fs).

    Names are relative, with "/" as separator. Files are written atomically. Raises `OSError` for a folder that cannot
    be reached, `ValueError` for an unknown protocol, `ImportError` for one whose package is missing.
    """

    def __init__(self, root: str | Path):
        self.root = str(root).rstrip("/")
        self.local = not is_url(self.root)
        self._fs, self._base = fsspec.core.url_to_fs(self.root)

    def _path(self, name: str) -> str:
        return f"{self._base}/{name}"

    def exists(self, name: str) -> bool:
        """Whether a file of that name exists now, regardless of cached listings."""
        with self._reached():
            return self._fs.isfile(self._path(name))

    def any(self) -> bool:
        """Whether the folder contains anything."""
        with self._reached():
            return self._fs.exists(self._base) and bool(self._fs.ls(self._base, detail=False))

    def names(self, folder: str = "") -> list[str]:
        """The names of all files directly in `folder`, sorted; [] if it does not exist."""
        path = self._path(folder) if folder else self._base
        with self._reached():
            found = self._fs.ls(path, detail=True) if self._fs.isdir(path) else []
        files = sorted(entry["name"].rsplit("/", 1)[-1] for entry in found if entry["type"] == "file")
        return [f"{folder}/{name}" if folder else name for name in files]

    def read(self, name: str) -> bytes:
        """The entire content of a file."""
        return self._fs.cat_file(self._path(name))

    def get(self, name: str, folder: Path) -> Path:
        """A local path of the file: its own, or that of a copy in `folder`."""
        if self.local:
            return Path(self._path(name))
        copy = folder / name.rsplit("/", 1)[-1]
        with self._reached():
            self._fs.get_file(self._path(name), str(copy))
        return copy

    def write(self, name: str, data: bytes) -> None:
        """Write a file atomically."""
        with self._whole(name) as path:
            self._fs.pipe_file(path, data)

    def put(self, file: Path, name: str) -> None:
        """Copy a local file here atomically."""
        with self._whole(name) as path:
            self._fs.put_file(str(file), path)

    def remove(self, *names: str) -> None:
        """Remove files and folders, if they exist."""
        for name in names:
            if self._fs.exists(self._path(name)):
                self._fs.rm(self._path(name), recursive=True)

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Discard cached listings; convert any exception of the file system into an `OSError`."""
        self._fs.invalidate_cache()
        try:
            yield
        except Exception as error:  # each file system has its own types
            reason = " ".join(str(error).split())[:200]
            raise OSError(f"{self.root}: cannot be reached ({reason}): check the address and your access") from error

    @contextmanager
    def _whole(self, name: str) -> Iterator[str]:
        """Where to write a file that appears as `name` once it is complete; object stores ensure this by themselves.

        On this machine it is a unique temporary file, because two workers may write the same name at once.
        """
        path = self._path(name)
        if not self.local:
            yield path
            return
        os.makedirs(os.path.dirname(path), exist_ok=True)
        draft = f"{path}.{secrets.token_hex(4)}.tmp"
        try:
            yield draft
            os.replace(draft, path)
        finally:
            Path(draft).unlink(missing_ok=True)
