"""Weights by name: those that come with the package, a folder, a hub id, or the authors' checkpoint."""

from __future__ import annotations

from pathlib import Path

from exiflang.files import file_sha256
from exiflang.model import ExifLang
from exiflang.packaged import packaged_model
from exiflang.parameters import project_path

#: Endings of what `torch.save` writes.
CHECKPOINTS = (".pth", ".pt", ".ckpt", ".bin")


def load_model(name: str) -> ExifLang:
    """The model that `name` says, in evaluation mode.

    "" stands for the packaged weights; a file that ends in one of `CHECKPOINTS` is a checkpoint of the paper's authors
    (see `ExifLang.from_reference_checkpoint`), a folder holds `config.json` and `model.safetensors`; anything else is
    taken for a hub id. Relative paths are taken from the project's root.

    Raises what those do: `OSError` for what is not there, `ValueError` for what does not fit.
    """
    if not name:
        return ExifLang.from_pretrained(str(packaged_model()))
    path = project_path(name)
    if path.suffix in CHECKPOINTS:
        return ExifLang.from_reference_checkpoint(path)
    return ExifLang.from_pretrained(str(path) if path.is_dir() else name)


def weights_sha256(name: str) -> str | None:
    """SHA-256 of the weights that `load_model` takes; None of those of a hub id."""
    path = project_path(name) if name else packaged_model()
    return file_sha256(path / "model.safetensors" if path.is_dir() else Path(path))
