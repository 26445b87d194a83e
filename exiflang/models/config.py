"""Configuration of a pair of towers, and the presets: tiny, demo, base, padded and the paper's three."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from exiflang.exif.text import SENTENCE_VERSION
from exiflang.models.trace_resnet import TraceResNetConfig

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

# In a small tower, dropout does not pay for its time; on a CPU, eager attention is twice as fast as the fused kernel.
SMALL_TEXT = {"model_type": "distilbert", "dropout": 0.0, "attention_dropout": 0.0, "attn_implementation": "eager"}

# For camera traces: small patches, with the noise residual as extra channels.
_TRACES: dict[str, Any] = {"patch_size": 64, "pooling": "mean_std", "residual_gain": 60.0}

# Shared by both presets whose image tower starts at full resolution.
_TRACE_RESNET: dict[str, Any] = {
    "text_config": {**SMALL_TEXT, "dim": 128, "n_layers": 2, "n_heads": 4, "hidden_dim": 512},
    "embed_dim": 256,
    **_TRACES,
}

# ResNet-50 with its last layer replaced by 2048 -> 768, no text projection, and the logit scale CLIP converged to.
_PAPER: dict[str, Any] = {
    "image_config": {"model_type": "resnet"},
    "embed_dim": 768,
    "patch_size": 124,
    "pixel_mean": CLIP_MEAN,
    "pixel_std": CLIP_STD,
    "logit_scale": 100.0,
    "learn_logit_scale": False,
}

# The paper's alternative text towers, sized like albert-base-v2 and roberta-base; the library defaults differ.
_ALBERT = {"model_type": "albert", "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}
_ROBERTA = {"model_type": "roberta", "max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5}


def _small_resnet(embedding_size: int, hidden_sizes: list[int], depths: list[int]) -> dict[str, Any]:
    sizes = {"embedding_size": embedding_size, "hidden_sizes": hidden_sizes, "depths": depths}
    return {"model_type": "resnet", "num_channels": 6, **sizes, "layer_type": "basic"}


PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {
        **_TRACES,
        "image_config": _small_resnet(8, [8, 16], [1, 1]),
        "text_config": {**SMALL_TEXT, "dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64},
        "embed_dim": 32,
        "patch_size": 32,
    },
    "demo": {
        **_TRACES,
        "image_config": _small_resnet(32, [32, 64, 128], [2, 2, 2]),
        "text_config": {**SMALL_TEXT, "dim": 128, "n_layers": 1, "n_heads": 4, "hidden_dim": 256},
        "embed_dim": 128,
    },
    # Camera traces are in the finest pixels, so these towers start at full resolution. Without padding, one pass over a
    # picture yields the exact features of all its windows.
    "base": {
        "image_config": {
            "model_type": TraceResNetConfig.model_type,
            "num_channels": 6,
            "hidden_sizes": [48, 128, 256],
            "depths": [0, 1, 0],
            "padded": False,
        },
        **_TRACE_RESNET,
    },
    # Deeper, with a receptive field that spans its windows.
    "padded": {
        "image_config": {"model_type": TraceResNetConfig.model_type, "num_channels": 6, "depths": [0, 2, 2]},
        **_TRACE_RESNET,
    },
    "paper": {"text_config": {"model_type": "distilbert"}, **_PAPER},
    "paper-albert": {"text_config": _ALBERT, **_PAPER},
    # RoBERTa counts positions from the padding id. This one is `train_tokenizer`'s; a pretrained tower brings its own.
    "paper-roberta": {"text_config": {**_ROBERTA, "pad_token_id": 0}, **_PAPER},
}


@strict
class ExifLangConfig(PreTrainedConfig):
    """Configuration of a pair of towers.

    Args:
        image_config, text_config: configurations of any `transformers` image backbone that returns a feature map and
            of any text encoder that returns hidden states, as a dict with `model_type`.
        embed_dim: size D of the joint space. The text tower gets a projection only if its width is not D.
        patch_size: side of the training crop in pixels, and of the window unless the localizer overrides it.
        pooling: "mean", or "mean_std" (mean and standard deviation of the feature map over its cells).
        pixel_mean, pixel_std: statistics of pixels in 0..1, by which the model normalizes its input.
        residual_gain: above 0, the image tower gets 6 channels: the pixels, and their residual after subtracting a
            3 x 3 mean, times this gain, through tanh. Camera traces have a hundredth of the contrast of a scene; with
            the residual, a small network learns them much sooner (Fridrich and Kodovsky 2012 start from such residuals;
            Zhou et al. 2018 feed them to a network together with the pixels).
        logit_scale: initial (or fixed) inverse temperature; `learn_logit_scale` makes it a parameter, at most 100.
        logit_bias: initial bias of the sigmoid loss, a parameter, e.g. -10; None: the model has none.
        calibration: quantiles of raw values, `{readout: {"cells", "scores", "pictures"}}` (localization.calibration).
        sentence_version: format version of the EXIF sentences used in training: `exif.SENTENCE_VERSION`, or 0 for the
            paper's format (`exif.reference.reference_sentence`).
    """

    model_type = "exiflang"

    image_config: dict | None = None
    text_config: dict | None = None
    embed_dim: int = 128
    patch_size: int = 64
    pooling: str = "mean"
    pixel_mean: list | tuple = (0.5, 0.5, 0.5)
    pixel_std: list | tuple = (0.25, 0.25, 0.25)
    residual_gain: int | float = 0.0
    logit_scale: int | float = 20.0
    learn_logit_scale: bool = True
    logit_bias: int | float | None = None
    calibration: dict | None = None
    sentence_version: int = SENTENCE_VERSION

    def __post_init__(self, **others: Any) -> None:
        super().__post_init__(**others)
        if unknown := sorted(key for key in others if not hasattr(PreTrainedConfig(), key)):
            known = sorted(type(self).__annotations__)
            raise ValueError(f"unknown configuration fields {unknown}: choose among {known}")
        if self.pooling not in ("mean", "mean_std"):
            raise ValueError(f"pooling is {self.pooling!r}: choose 'mean' or 'mean_std'")
        for name, value in (("embed_dim", self.embed_dim), ("patch_size", self.patch_size)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}: it must be a whole number of at least 1")
        if not 0 < self.logit_scale <= 100:
            raise ValueError(f"logit_scale is {self.logit_scale}: it must be above 0 and at most 100")
        if not self.residual_gain >= 0:
            raise ValueError(f"residual_gain is {self.residual_gain}: it must be 0 or above")
        if len(self.pixel_mean) != 3 or len(self.pixel_std) != 3 or min(self.pixel_std) <= 0:
            raise ValueError("pixel_mean and pixel_std must have one number per RGB channel, with pixel_std above 0")
        if self.calibration is not None:
            check_calibration(self.calibration)

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Self:
        """Configuration "tiny", "demo", "base", "padded", "paper" (DistilBERT), "paper-albert" or "paper-roberta".

        `changes` override fields.

        Raises `ValueError` for unknown names.
        """
        if name not in PRESETS:
            raise ValueError(f"unknown preset {name!r}: choose one of {', '.join(PRESETS)}")
        return cls(**{**PRESETS[name], **changes})


def check_calibration(calibration: Any) -> None:
    """Raise `ValueError` unless this has the form `calibrate` returns: `{readout: {"cells", "scores", "pictures"}}`."""
    if not isinstance(calibration, Mapping) or not calibration:
        raise ValueError(f"calibration is {calibration!r}: pass the dict that calibrate() returns, or None")
    for readout, entry in calibration.items():
        if not isinstance(entry, Mapping) or entry.keys() != {"cells", "scores", "pictures"}:
            raise ValueError(f"calibration of {readout!r} must have cells, scores and pictures, as calibrate() returns")
        for name in ("cells", "scores"):
            if not _are_knots(entry[name]):
                raise ValueError(f"calibration of {readout!r}: {name} must be two or more finite, increasing numbers")


def _are_knots(knots: Any) -> bool:
    try:
        knots = np.asarray(knots, np.float64)
    except (TypeError, ValueError):
        return False
    return knots.ndim == 1 and len(knots) > 1 and bool(np.isfinite(knots).all() and (np.diff(knots) > 0).all())
