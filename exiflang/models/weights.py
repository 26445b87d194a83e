"""Weights by name: those that come with the package, a folder, a hub id, or the authors' checkpoint."""

from pathlib import Path

from exiflang.models.model import ExifLang
from exiflang.utils.files import absolute_path, file_sha256

NAME = "exiflang-base"
#: Endings of what `torch.save` writes.
CHECKPOINTS = (".pth", ".pt", ".ckpt", ".bin")

_PACKAGE = Path(__file__).resolve().parents[1]
# In a wheel the checkout's folder is a part of the package, under a name that Python allows (see pyproject.toml).
_PLACES = (_PACKAGE / "base_weights", _PACKAGE.parent / "data" / "models" / NAME)


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


def load_model(name: str) -> ExifLang:
    """The model that `name` says, in evaluation mode.

    "" stands for the packaged weights; a file that ends in one of `CHECKPOINTS` is a checkpoint of the paper's authors
    (see `ExifLang.from_reference_checkpoint`), a folder holds `config.json` and `model.safetensors`; anything else is
    taken for a hub id.

    Raises what those do: `OSError` for what is not there, `ValueError` for what does not fit.
    """
    if not name:
        return ExifLang.from_pretrained(str(packaged_model()))
    path = absolute_path(name)
    if path.suffix in CHECKPOINTS:
        return ExifLang.from_reference_checkpoint(path)
    return ExifLang.from_pretrained(str(path) if path.is_dir() else name)


def weights_sha256(name: str) -> str | None:
    """SHA-256 of the weights that `load_model` takes; None of those of a hub id."""
    path = absolute_path(name) if name else packaged_model()
    return file_sha256(path / "model.safetensors" if path.is_dir() else path)
