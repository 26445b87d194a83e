"""Whether img2dataset has compressed a shard's photos anew, which overwrites the traces that training looks for."""

from __future__ import annotations

import hashlib
import json
import tarfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from exiflang.shards import IMAGE_EXTENSIONS, MAX_JSON_BYTES, MAX_TILE_BYTES, Place, read_member

SHARDS, SAMPLES = 3, 50  # that are looked at: it is one setting of a whole download
MOST = {"picture": MAX_TILE_BYTES, "json": MAX_JSON_BYTES}
HASHES = ("sha256", "sha512", "md5")  # the file's as it was fetched, under this name in its JSON


def warn_of_reencoding(shards: Sequence[str | Path]) -> None:
    """Warn if the pictures of the first shard that says so are not the files that were fetched.

    img2dataset writes a hash of the fetched file and its size in pixels into the JSON. Samples that have neither, or
    are tiles of a `photo`, do not say; a shard that cannot be read raises no warning. Paths of this machine only.
    """
    for shard in shards[:SHARDS]:
        found = [changed for meta, data in _first_samples(Path(shard)) if (changed := _changed(meta, data)) is not None]
        if any(found):
            share = f"{sum(found)} of the first {len(found)} pictures"
            warnings.warn(
                f"{shard}: {share} are not the files that were fetched, but were resized or compressed anew, and the "
                "traces of the camera's own compression are gone: fetch again with img2dataset's "
                "disable_all_reencoding=True and resize_mode='no'",
                stacklevel=3,
            )
        if found:
            return


def _changed(meta: Mapping[str, Any], data: bytes) -> bool | None:
    """Whether a picture is another than the one fetched; None if its JSON does not say."""
    if "photo" in meta:  # smaller than the photo, since it is a piece of it
        return None
    sizes = [meta.get(name) for name in ("width", "height", "original_width", "original_height")]
    resized = None if None in sizes else sizes[:2] != sizes[2:]
    for name in HASHES:
        if isinstance(meta.get(name), str):
            return bool(resized) or hashlib.new(name, data, usedforsecurity=False).hexdigest() != meta[name].lower()
    return resized


def _first_samples(shard: Path) -> Iterator[tuple[dict[str, Any], bytes]]:
    """JSON and picture of the first samples that have both."""
    places: dict[str, dict[str, Place]] = {"picture": {}, "json": {}}
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in islice(tar, 3 * SAMPLES):  # a picture, its JSON and its caption
                key, _, extension = member.name.rpartition(".")
                kind = "picture" if extension.lower() in IMAGE_EXTENSIONS else extension.lower()
                if member.isreg() and kind in places and 0 <= member.size <= MOST[kind]:
                    places[kind][key] = (shard, member.offset_data, member.size)
        both = [key for key in places["json"] if key in places["picture"]]
        for key in both[:SAMPLES]:
            meta = json.loads(read_member(*places["json"][key]))
            if isinstance(meta, dict):
                yield meta, read_member(*places["picture"][key])
    except (OSError, tarfile.TarError, ValueError, OverflowError, RecursionError):
        return  # whoever indexes the shard says what is wrong with it
