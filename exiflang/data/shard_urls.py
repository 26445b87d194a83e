"""The shards named by a folder, a glob or a range in braces, local or at a URL, and a local path to each of them."""

import glob
import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import fsspec

from exiflang.data.shards import DataError, find_shards
from exiflang.utils.files import absolute_path
from exiflang.utils.storage import Store, is_url

MAX_SHARDS = 1_000_000
T = TypeVar("T")


def expand_shards(shards: str) -> list[str]:
    """The locations of the shards that `shards` names, sorted and unique: absolute paths or URLs.

    `shards` is a folder, a path or a glob, or a URL of any of these that fsspec supports; braces such as
    "{00000..00123}" and "{a,b}" are expanded. Shards named individually on a web server are assumed to exist, since it
    may not support listing.

    Raises `DataError` if nothing matches, a shard is missing, there are more than 1,000,000, or a location cannot be
    reached.
    """
    if not shards.strip():
        raise DataError("no shards named: give a folder, a glob or a URL")
    if not is_url(shards) and os.path.exists(absolute_path(shards)):  # a name that contains special characters
        return _local(shards)
    patterns = _expand_braces(shards)
    found = _listed(patterns) if is_url(shards) else [shard for pattern in patterns for shard in _local(pattern)]
    if not found:
        raise DataError(f"{shards}: no .tar shard there: check the address")
    if len(found) > MAX_SHARDS:
        raise DataError(f"{shards}: names more than {MAX_SHARDS:,} shards: make larger ones")
    return sorted(set(found))


def shard_sizes(shards: Sequence[str]) -> list[int | None]:
    """The size of each shard in bytes; None on a web server, which may not report it. Raises `DataError` as above."""
    found: list[int | None] = []
    for folder, within in groupby(shards, key=lambda shard: shard.rpartition("/")[0] or "/"):
        names = [shard.rpartition("/")[2] for shard in within]
        sizes = dict.fromkeys(names) if _is_web(folder) else _sizes(folder)
        if missing := [name for name in names if name not in sizes]:
            raise DataError(f"{folder}/{missing[0]}: no such shard: check the name, or download what is missing")
        found += [sizes[name] for name in names]
    return found


def fetch_shard(shard: str, folder: Path) -> Path:
    """A local path of a shard: its own, or that of a copy in `folder`. Raises `DataError`."""
    parent, _, name = shard.rpartition("/")
    return _reach(shard, lambda: Store(parent).get(name, folder)) if is_url(shard) else Path(shard)


def _expand_braces(pattern: str) -> list[str]:
    """Expand innermost braces first, in all patterns at once: they have the same groups."""
    patterns = [pattern]
    while any(sign in patterns[0] for sign in "{}"):
        expanded: list[str] = []
        for text in patterns:
            if not (group := re.search(r"\{([^{}]*)\}", text)):
                raise DataError(f"{pattern}: unbalanced braces: write e.g. {{00000..00123}} or {{a,b}}")
            parts = _alternatives(group[1], pattern)
            if len(expanded) + len(parts) > MAX_SHARDS:
                raise DataError(f"{pattern}: names more than {MAX_SHARDS:,} shards: make larger ones, or use a glob")
            expanded += [text[: group.start()] + part + text[group.end() :] for part in parts]
        patterns = expanded
    return patterns


def _alternatives(group: str, pattern: str) -> Sequence[str]:
    """The alternatives in braces: "08..10" → "08", "09", "10"; "a,b" → "a", "b"."""
    if found := re.fullmatch(r"([0-9]{1,18})\.\.([0-9]{1,18})", group):
        first, last = int(found[1]), int(found[2])
        padded = any(len(end) > 1 and end.startswith("0") for end in found.groups())
        width = max(map(len, found.groups())) if padded else 1
        if 0 <= last - first < MAX_SHARDS:
            return [f"{number:0{width}d}" for number in range(first, last + 1)]
        reason = f"more than {MAX_SHARDS:,} shards" if last > first else "a range that runs backwards"
        raise DataError(f"{pattern}: {{{group}}} is {reason}")
    if "," not in group:
        raise DataError(f"{pattern}: {{{group}}} is neither a range like {{00000..00123}} nor a choice like {{a,b}}")
    return group.split(",")


def _local(pattern: str) -> list[str]:
    path = absolute_path(pattern)
    if path.is_dir():
        return [str(shard) for shard in find_shards(path)]
    if path.exists():
        return [str(path)]
    if not glob.has_magic(str(path)):
        raise DataError(f"{path}: no such shard or folder: check the path, or run notebooks/01_prepare_data first")
    found = glob.glob(str(path), recursive=True)
    return [name for name in found if name.endswith(".tar") and os.path.isfile(name)]


def _listed(patterns: Sequence[str]) -> list[str]:
    """The shards at URLs: those of a glob or a folder, and those named individually, which must exist."""
    named = [url for url in patterns if not _has_magic(url) and urlsplit(url).path.endswith(".tar")]
    shard_sizes(sorted(named))
    found = list(named)
    for url in set(patterns) - set(named):
        if _has_magic(url):
            fs, path = _reach(url, partial(fsspec.core.url_to_fs, url))
            names = _reach(url, partial(fs.glob, path))
            found += [str(fs.unstrip_protocol(name)) for name in names if name.endswith(".tar")]
        else:
            folder = url.rstrip("/")
            found += [f"{folder}/{name}" for name in _sizes(folder) if name.endswith(".tar")]
    return found


def _sizes(folder: str) -> dict[str, int]:
    """Name and size of each file directly in a folder, in one request: a store may hold 100,000."""
    fs, path = _reach(folder, partial(fsspec.core.url_to_fs, folder))
    fs.invalidate_cache()
    found = _reach(folder, lambda: fs.ls(path, detail=True) if fs.isdir(path) else [])
    return {entry["name"].rsplit("/", 1)[-1]: entry["size"] for entry in found if entry["type"] != "directory"}


def _is_web(url: str) -> bool:
    return url.startswith(("http://", "https://"))


def _has_magic(url: str) -> bool:
    return bool(re.search(r"[*\[]" if _is_web(url) else r"[*?\[]", url))


def _reach(location: str, ask: Callable[[], T]) -> T:
    """The result of `ask`. Raises `DataError` for any exception: each file system has its own types."""
    try:
        return ask()
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{location}: cannot be read ({reason}): check the address and your access") from error
