"""Weights by name: the packaged ones, a folder, a hub id, or the authors' checkpoint."""

from pathlib import Path

from exiflang.models.model import ExifLang
from exiflang.utils.files import absolute_path, file_sha256

NAME = "exiflang-base"
#: File suffixes of checkpoints that `torch.save` writes.
CHECKPOINTS = (".pth", ".pt", ".ckpt", ".bin")

_PACKAGE = Path(__file__).resolve().parents[1]
# A wheel holds the checkout's weights folder inside the package, under a valid Python name (see pyproject.toml).
_PLACES = (_PACKAGE / "base_weights", _PACKAGE.parent / "data" / "models" / NAME)


def packaged_model() -> Path:
    """The folder of `exiflang-base`: `config.json`, `model.safetensors`, the tokenizer and the model card.

    It does not depend on the working directory. Raises `FileNotFoundError` if exiflang was installed without weights.
    """
    for folder in _PLACES:
        if all((folder / name).is_file() for name in ("config.json", "model.safetensors")):
            return folder
    raise FileNotFoundError(
        f"the weights {NAME} are neither in {_PLACES[0]} nor in {_PLACES[1]}: install a release of exiflang, which "
        "includes them, or build them with python -m exiflang.release from a model; or pass SpliceLocalizer a model"
    )


def load_model(name: str) -> ExifLang:
    """Load the model called `name`, in evaluation mode.

    "" selects the packaged weights; a file with a suffix in `CHECKPOINTS` is a checkpoint of the paper's authors (see
    `ExifLang.from_reference_checkpoint`); a folder holds `config.json` and `model.safetensors`; anything else is a hub
    id.

    Raises `OSError` if there is no such model and `ValueError` if it does not match this package.
    """
    if not name:
        return ExifLang.from_pretrained(str(packaged_model()))
    path = absolute_path(name)
    if path.suffix in CHECKPOINTS:
        return ExifLang.from_reference_checkpoint(path)
    return ExifLang.from_pretrained(str(path) if path.is_dir() else name)


def weights_sha256(name: str) -> str | None:
    """SHA-256 of the weights that `load_model` loads; None for a hub id."""
    path = absolute_path(name) if name else packaged_model()
    return file_sha256(path / "model.safetensors" if path.is_dir() else path)
