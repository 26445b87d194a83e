"""Image patches and EXIF sentences in one embedding space, to localise splices (EXIF as Language, CVPR 2023)."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Resolved on first use: `import exiflang` costs nothing, and modules without torch stay without it.
_HOMES = {
    "ExifLang": "model",
    "ExifLangConfig": "model_config",
    "HeatmapInspector": "widgets",
    "Inspector": "inspection",
    "SpliceLocalizer": "localize",
    "SpliceResult": "localize",
    "contrastive_loss": "loss",
    "exif_to_text": "exif",
    "load_benchmark": "benchmarks",
    "read_exif": "exif",
    "run_notebook": "pipeline",
    "run_pipeline": "pipeline",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'exiflang' has no attribute {name!r}")
    return getattr(import_module(f"exiflang.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
