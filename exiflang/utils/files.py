"""Atomic file writing, paths as text, and hashes."""

import hashlib
import json
import math
import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def absolute_path(path: str | Path) -> Path:
    """`path` relative to the working directory, with "~" expanded and ".." removed. It need not exist."""
    return Path(os.path.abspath(Path(path).expanduser()))


def printable(name: str | os.PathLike[str]) -> str:
    """A path, or text that contains one, as text safe for any file and terminal: non-UTF-8 bytes as "\\xe9"."""
    try:
        data = os.fsencode(name)
    except UnicodeEncodeError:  # half a surrogate pair, which no path contains
        data = os.fspath(name).encode("utf-8", "backslashreplace")
    return data.decode("utf-8", "backslashreplace")


@contextmanager
def utf8_path(path: str | os.PathLike[str]) -> Iterator[str]:
    """`path`, or a temporary link to it if it is not UTF-8, for libraries that accept no other paths."""
    if printable(path) == os.fspath(path):
        yield os.fspath(path)
        return
    with tempfile.TemporaryDirectory(prefix="exiflang-") as folder:
        link = Path(folder, "link")
        link.symlink_to(os.path.abspath(path))
        yield str(link)


def write_whole(path: str | Path, data: str | bytes) -> None:
    """Write a file (text as UTF-8) atomically: an interruption or a full disk leaves an older one unchanged."""
    path = Path(path)
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")  # unique: two may write the same file at once
    try:
        fresh.write_bytes(data.encode() if isinstance(data, str) else data)
        os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as strict JSON, atomically; numpy values as numbers and lists, NaN and infinity as null."""
    write_whole(path, json.dumps(_plain(value), indent=2, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """The content of a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def file_sha256(path: Path) -> str | None:
    """SHA-256 of a regular file, 64 hexadecimal digits; None for anything else, and for an unreadable file."""
    try:
        if not path.is_file():  # a pipe or a device would block forever
            return None
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
