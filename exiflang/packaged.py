"""Where the weights that come with the package lie, in a checkout and in an installed wheel."""

from __future__ import annotations

from pathlib import Path

from exiflang.parameters import ROOT

NAME = "exiflang-base"

# In a wheel the checkout's folder is a part of the package, under a name that Python allows (see pyproject.toml).
_PLACES = (Path(__file__).resolve().parent / "base_weights", ROOT / "data" / "models" / NAME)


def packaged_model() -> Path:
    """The folder of `exiflang-base`: `config.json`, `model.safetensors`, the tokenizer and the model card.

    The same from any working folder. Raises `FileNotFoundError` if this copy of exiflang came without the weights.
    """
    for folder in _PLACES:
        if all((folder / name).is_file() for name in ("config.json", "model.safetensors")):
            return folder
    raise FileNotFoundError(
        f"the weights {NAME} are neither in {_PLACES[0]} nor in {_PLACES[1]}: install a release of exiflang, which "
        "holds them, or make them from a trained model with python -m exiflang.release; or give SpliceLocalizer a model"
    )
