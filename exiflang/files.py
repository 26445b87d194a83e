"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: str | Path, data: str | bytes) -> None:
    """Write a file (text as UTF-8) in one step: a kill or a full disk leaves an older one as it was."""
    path = Path(path)
    fresh = path.with_name(f"{path.name}.tmp")
    fresh.write_bytes(data.encode() if isinstance(data, str) else data)
    os.replace(fresh, path)
