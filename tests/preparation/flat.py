"""`prepare` with its options in one flat mapping, as presets and notebooks have them."""

from pathlib import Path
from typing import Any

from exiflang.preparation import dataset
from exiflang.preparation.options import grouped


def prepare(source: str, data_dir: str | Path, **options: Any) -> dict[str, Any]:
    return dataset.prepare(source, data_dir, **grouped(options))
