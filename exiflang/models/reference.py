"""Converts the weights of the paper's authors to this package's model."""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

# Left over from CLIP, a loss and older versions of transformers: the reference code saves but never uses them.
LEFTOVERS = frozenset(
    "positional_embedding ln_final.weight ln_final.bias token_embedding.weight text_projection logit_scale sink_temp "
    "transformer.embeddings.position_ids".split()
)
# How many batches a batch norm has seen: nothing depends on it where its momentum is fixed, and half precision ends
# below it.
_COUNTER = "num_batches_tracked"
_SHOWN = 20


def read_reference_checkpoint(path: str | PathLike[str], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read weights as the authors released them, or pruned to the two towers, as PhotoHolmes distributes them.

    The authors' file is a dict with the weights under "model" (`wrapper_75_new.pth`); the pruned file is the weights
    alone. Only tensors and plain containers are unpickled, so a file cannot run code.

    `path` is a file that `torch.save` wrote, `like` the `state_dict()` of the target model. Raises `OSError` if the
    file cannot be read, and `ValueError` if it is not a checkpoint, holds objects other than tensors, or has weights
    that `convert` rejects.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise type(error)(f"{path}: cannot be read ({error.strerror or error}); check path and permissions") from error
    except Exception as error:  # on arbitrary bytes, torch raises many types
        raise ValueError(
            f"{path}: not a checkpoint that can be read safely: give a complete file that torch.save wrote. Objects "
            "other than tensors are rejected because they could run code: ask the file's owner for the weights alone "
            f"({_first_line(error)})"
        ) from error
    weights = found.get("model", found) if isinstance(found, Mapping) else found
    if not isinstance(weights, Mapping) or not any(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(
            f"{path}: holds no weights: expected a dict of tensors, or one under its key 'model', as in the authors' "
            "wrapper_75_new.pth"
        )
    try:
        return convert(weights, like)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def convert(weights: Mapping[str, Any], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the authors' weights to this package's names, with the shapes and dtypes of `like` (float32).

    `visual.*` uses torchvision's names for ResNet-50, with `fc` 2048 -> 768; `transformer.*` those of
    `DistilBertModel`; each with or without the prefix "model.". `LEFTOVERS` and batch-norm counters are ignored, and
    so is the logit scale, which is fixed at 100.

    Raises `ValueError` listing the keys that are missing, unexpected, not a float tensor, of the wrong shape, or NaN
    or infinite.
    """
    modules = _image_modules()
    found, unexpected = {}, []
    for key, value in weights.items():
        name = str(key).removeprefix("model.")
        if name in LEFTOVERS or name.endswith(_COUNTER):
            continue
        ours = _our_name(name, modules)
        if ours not in like or ours in found:
            unexpected.append(key)
        else:
            found[ours] = (key, value)
    wanted = (name for name in like if name != "log_logit_scale" and not name.endswith(_COUNTER))
    wrong = {
        "unexpected": unexpected,
        "missing (in our naming)": [name for name in wanted if name not in found],
        "not a tensor of floats": [key for key, value in found.values() if not _is_float(value)],
        "wrong shape": [
            f"{key} {list(value.shape)} instead of {list(like[name].shape)}"
            for name, (key, value) in found.items()
            if _is_float(value) and value.shape != like[name].shape
        ],
    }
    if any(wrong.values()):
        raise ValueError(
            "not the weights of the paper's ResNet-50 and DistilBERT: "
            + "; ".join(f"{problem}: {_few(keys)}" for problem, keys in wrong.items() if keys)
            + ". Give the file as the authors released it, or pruned to visual.* and transformer.*"
        )
    converted = {name: value.to(like[name].dtype) for name, (_, value) in found.items()}
    if broken := [found[name][0] for name, value in converted.items() if not value.isfinite().all()]:
        raise ValueError(f"NaN or infinite values in {_few(broken)}: the file is damaged, get a new copy")
    return converted


def load_tokenizer(name: str | PathLike[str]) -> PreTrainedTokenizerBase:
    """Load a text tower's tokenizer from a folder or a hub id. Raises `OSError` if there is none."""
    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise OSError(
            f"{name}: no tokenizer found: give a folder with tokenizer.json, or a hub id that can be reached (the "
            f"paper's is distilbert-base-uncased) ({_first_line(error)})"
        ) from error


def _our_name(name: str, image_modules: Mapping[str, str]) -> str:
    """`visual.layer1.0.conv2.weight` -> `image_tower.encoder...`; "" if neither tower has such a weight."""
    side, _, rest = name.partition(".")
    if side == "transformer":
        return f"text_tower.{rest}"
    module, _, tensor = rest.rpartition(".")
    return f"{image_modules[module]}.{tensor}" if side == "visual" and module in image_modules else ""


def _image_modules() -> dict[str, str]:
    """Torchvision's layer names of ResNet-50 -> ours."""
    names = {
        "conv1": "image_tower.embedder.embedder.convolution",
        "bn1": "image_tower.embedder.embedder.normalization",
        "fc": "image_projection",
    }
    for stage, depth in enumerate((3, 4, 6, 3)):
        for block in range(depth):
            theirs = f"layer{stage + 1}.{block}"
            ours = f"image_tower.encoder.stages.{stage}.layers.{block}"
            for step in range(3):
                names[f"{theirs}.conv{step + 1}"] = f"{ours}.layer.{step}.convolution"
                names[f"{theirs}.bn{step + 1}"] = f"{ours}.layer.{step}.normalization"
            names[f"{theirs}.downsample.0"] = f"{ours}.shortcut.convolution"
            names[f"{theirs}.downsample.1"] = f"{ours}.shortcut.normalization"
    return names


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _few(keys: Sequence[Any]) -> str:
    more = f" and {len(keys) - _SHOWN} more, {len(keys)} in all" if len(keys) > _SHOWN else ""
    return ", ".join(str(key) for key in keys[:_SHOWN]) + more
