"""What a pair of towers looks like, and the presets: tiny, demo, base, padded and the paper's three."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from exiflang.exif.text import SENTENCE_VERSION
from exiflang.models.trace_resnet import TraceResNetConfig

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

# In a small tower dropout costs more time than it gains, and on a CPU plain attention is twice as fast as the fused.
SMALL_TEXT = {"model_type": "distilbert", "dropout": 0.0, "attention_dropout": 0.0, "attn_implementation": "eager"}

# Camera traces: small patches, whose residuals the image tower sees beside the pixels.
_TRACES: dict[str, Any] = {"patch_size": 64, "pooling": "mean_std", "residual_gain": 60.0}

# Around either of the towers that keep full resolution at their start.
_TRACE_RESNET: dict[str, Any] = {
    "text_config": {**SMALL_TEXT, "dim": 128, "n_layers": 2, "n_heads": 4, "hidden_dim": 512},
    "embed_dim": 256,
    **_TRACES,
}

# ResNet-50 with its last layer replaced by 2048 -> 768, a text tower without a projection, CLIP's trained scale.
_PAPER: dict[str, Any] = {
    "image_config": {"model_type": "resnet"},
    "embed_dim": 768,
    "patch_size": 124,
    "pixel_mean": CLIP_MEAN,
    "pixel_std": CLIP_STD,
    "logit_scale": 100.0,
    "learn_logit_scale": False,
}

# The paper's alternatives, of the sizes of albert-base-v2 and roberta-base: the defaults are those of other sizes.
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
    # Camera traces live in the finest pixels: towers that keep full resolution at their start. Without padding one pass
    # over a picture holds the features of all its windows, each of which counts its margin.
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
    # Deeper, with a field that spans its windows.
    "padded": {
        "image_config": {"model_type": TraceResNetConfig.model_type, "num_channels": 6, "depths": [0, 2, 2]},
        **_TRACE_RESNET,
    },
    "paper": {"text_config": {"model_type": "distilbert"}, **_PAPER},
    "paper-albert": {"text_config": _ALBERT, **_PAPER},
    # RoBERTa counts positions from the padding on: that of `train_tokenizer`, a pretrained tower comes with its own.
    "paper-roberta": {"text_config": {**_ROBERTA, "pad_token_id": 0}, **_PAPER},
}


@strict
class ExifLangConfig(PreTrainedConfig):
    """What a pair of towers looks like.

    Args:
        image_config, text_config: configurations of any `transformers` image backbone that returns a feature map and
            of any text encoder that returns hidden states, as a dict with `model_type`.
        embed_dim: size D of the common space. The text tower is projected only if its width differs from it.
        patch_size: side in pixels of the training crop, and of the window unless the localizer says otherwise.
        pooling: "mean", or "mean_std" (mean and standard deviation of the feature map over its cells).
        pixel_mean, pixel_std: statistics of pixels in 0..1 that are subtracted and divided out inside the model.
        residual_gain: above 0, the image tower sees 6 channels: the pixels, and beside them what is left of them after
            their mean over 3 x 3 is taken off, times this gain and squashed by tanh. Camera traces are a hundredth of
            the contrast of a scene; a small network finds them much sooner so (Fridrich and Kodovsky 2012 start from
            such residuals, Zhou et al. 2018 feed them to a network beside the pixels).
        logit_scale: initial (or fixed) inverse temperature; `learn_logit_scale` makes it a parameter, at most 100.
        logit_bias: initial bias of the sigmoid loss, a parameter, e.g. -10; None: the model has none.
        calibration: what raw values mean, `{readout: {"cells", "scores", "pictures"}}` (see localization.calibration).
        sentence_version: version of the EXIF sentences that the weights were trained on: `exif.SENTENCE_VERSION`, or 0
            for the paper's own (`exif.reference.reference_sentence`).
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
            raise ValueError("pixel_mean and pixel_std must be three numbers each, one a channel, pixel_std above 0")
        if self.calibration is not None:
            check_calibration(self.calibration)

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Self:
        """Configuration "tiny", "demo", "base", "padded", "paper" (DistilBERT), "paper-albert" or "paper-roberta".

        `changes` replace fields.

        Raises `ValueError` for unknown names.
        """
        if name not in PRESETS:
            raise ValueError(f"unknown preset {name!r}: choose one of {', '.join(PRESETS)}")
        return cls(**{**PRESETS[name], **changes})


def check_calibration(calibration: Any) -> None:
    """Raise `ValueError` unless this is what `calibrate` gives: `{readout: {"cells", "scores", "pictures"}}`."""
    if not isinstance(calibration, Mapping) or not calibration:
        raise ValueError(f"calibration is {calibration!r}: give what calibrate() returns, or None")
    for readout, entry in calibration.items():
        if not isinstance(entry, Mapping) or entry.keys() != {"cells", "scores", "pictures"}:
            raise ValueError(f"calibration of {readout!r} must have cells, scores and pictures, as calibrate() returns")
        for name in ("cells", "scores"):
            if not _are_knots(entry[name]):
                raise ValueError(f"calibration of {readout!r}: {name} must be two or more rising, finite numbers")


def _are_knots(knots: Any) -> bool:
    try:
        knots = np.asarray(knots, np.float64)
    except (TypeError, ValueError):
        return False
    return knots.ndim == 1 and len(knots) > 1 and bool(np.isfinite(knots).all() and (np.diff(knots) > 0).all())
