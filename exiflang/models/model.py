"""Two towers, one embedding space: image patches on one side, EXIF sentences on the other (paper, section 3.1)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike, fspath, makedirs
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.utils import cached_file, logging

from exiflang.exif.reference import REFERENCE_SENTENCE_VERSION, reference_sentence
from exiflang.exif.text import SENTENCE_VERSION, exif_to_text
from exiflang.models.config import ExifLangConfig
from exiflang.models.reference import load_tokenizer, read_reference_checkpoint
from exiflang.models.tokenizer import length_buckets
from exiflang.utils.files import utf8_path


def _tower(config: Mapping[str, Any] | None, side: str) -> PreTrainedModel:
    if not config or "model_type" not in config:
        raise ValueError(f"the {side} tower has no model_type: start from ExifLangConfig.preset('demo')")
    tower = AutoModel.from_config(AutoConfig.for_model(**config))
    width = {"image": "hidden_sizes", "text": "hidden_size"}[side]
    if not hasattr(tower.config, width):
        raise ValueError(f"{config['model_type']} cannot be the {side} tower: its configuration has no {width}")
    return tower


def _without_pooler(text_tower: PreTrainedModel) -> PreTrainedModel:
    """Drop BERT's unused pooler: the mean replaces it, and distributed training waits for every gradient."""
    if hasattr(text_tower, "pooler"):
        text_tower.pooler = nn.Identity()
    return text_tower


def _at_least(pixels: Tensor, side: int) -> Tensor:
    """Pad [B, C, H, W] to at least `side` in height and width by replicating its border pixels."""
    missing = [max(0, side - pixels.shape[axis]) for axis in (3, 2)]
    border = [n for short in missing for n in (short // 2, short - short // 2)]
    return F.pad(pixels, border, mode="replicate") if any(missing) else pixels


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Silence the progress bars of `transformers` for short operations."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


class ExifLang(PreTrainedModel):
    """Joint embedding of image patches and EXIF sentences.

    `ExifLang(config)` has random weights; `ExifLang.from_pretrained(folder or hub id)` loads trained weights and their
    tokenizer; `ExifLang.from_towers` starts from pretrained towers; `ExifLang.from_reference_checkpoint`
    loads the weights of the paper's authors.
    """

    config: ExifLangConfig
    config_class = ExifLangConfig
    base_model_prefix = "exiflang"
    main_input_name = "patches"

    def __init__(self, config: ExifLangConfig, tokenizer: PreTrainedTokenizerBase | None = None):
        super().__init__(config)
        self.tokenizer = tokenizer
        self.image_tower = _tower(config.image_config, "image")
        self.text_tower = _without_pooler(_tower(config.text_config, "text"))
        seen, given = getattr(self.image_tower.config, "num_channels", 3), 6 if config.residual_gain else 3
        if seen != given:
            raise ValueError(
                f"the image tower takes {seen} channels but gets {given}: set num_channels in image_config to "
                "3, or to 6 with a residual_gain above 0"
            )
        channels = self.image_tower.config.hidden_sizes[-1] * (2 if config.pooling == "mean_std" else 1)
        width = self.text_tower.config.hidden_size
        self.image_projection = nn.Linear(channels, config.embed_dim)
        self.text_projection = nn.Linear(width, config.embed_dim) if width != config.embed_dim else nn.Identity()
        log_scale = torch.tensor(float(config.logit_scale)).log()
        self.log_logit_scale = nn.Parameter(log_scale, requires_grad=config.learn_logit_scale)
        if config.logit_bias is not None:
            self.logit_bias = nn.Parameter(torch.tensor(float(config.logit_bias)))
        self.post_init()

    @property
    def towers(self) -> dict[str, PreTrainedModel]:
        """The two towers by side, "image" and "text"."""
        return {"image": self.image_tower, "text": self.text_tower}

    @property
    def logit_scale(self) -> Tensor:
        """Inverse temperature, a scalar of at most 100 (CLIP's clamp)."""
        return self.log_logit_scale.exp().clamp(max=100.0)

    @property
    def receptive_field(self) -> int | None:
        """Side in pixels of the receptive field of one feature cell; None if the image tower pads.

        Without padding, the features of a patch are a slice of the features of the whole picture.
        """
        config = self.image_tower.config
        if getattr(config, "padded", True):
            return None
        return config.receptive_field + (2 if self.config.residual_gain else 0)  # the residual's 3 x 3 mean

    def encode_image(self, patches: Tensor) -> Tensor:
        """Embed patches: uint8 0..255 or float 0..1, [B, 3, H, W] -> float32 [B, D] of unit norm.

        If the tower does not pad and a patch is smaller than its receptive field, the border pixels are replicated.

        Raises `ValueError` for any other shape or dtype, and for float pixels outside 0..1 (the reference code fed
        0..255 to a converter that expected 0..1, and so tested on color negatives).
        """
        if isinstance(patches, Tensor) and patches.ndim == 4 and len(patches) == 0:
            return torch.zeros(0, self.config.embed_dim, device=patches.device)
        return self.pool(self.image_features(patches))

    def image_features(self, patches: Tensor) -> Tensor:
        """The image tower's feature map, with the input as in `encode_image`: [B, 3, H, W] -> [B, C, h, w]."""
        if not isinstance(patches, Tensor) or patches.ndim != 4 or patches.shape[1] != 3 or 0 in patches.shape:
            found = list(patches.shape) if isinstance(patches, Tensor) else type(patches).__name__
            raise ValueError(f"patches must be a tensor [B, 3, H, W], not {found}")
        if patches.dtype == torch.uint8:
            pixels = patches.float() / 255
        elif patches.is_floating_point():
            pixels = patches.float()
            if not (pixels.amin() >= 0 and pixels.amax() <= 1):
                raise ValueError("float patches must be in 0..1 without NaN: divide by 255, or pass uint8")
        else:
            raise ValueError(f"patches must be uint8 or float, not {patches.dtype}")
        channels = self._channels(_at_least(pixels, self.receptive_field or 1))
        channels = channels.to(self.image_tower.dtype, memory_format=torch.channels_last)
        return self.image_tower(channels).last_hidden_state

    def _channels(self, pixels: Tensor) -> Tensor:
        """Input channels of the tower, from pixels in 0..1: [B, 3, H, W] -> [B, 3 or 6, H, W], or [.., H - 2, W - 2].

        For a padded tower, the residual at the border uses replicated pixels; without padding, the border is cropped.
        """
        mean = torch.tensor(self.config.pixel_mean, device=pixels.device).view(1, 3, 1, 1)
        std = torch.tensor(self.config.pixel_std, device=pixels.device).view(1, 3, 1, 1)
        if not self.config.residual_gain:
            return (pixels - mean) / std
        if self.receptive_field is None:
            around = F.pad(pixels, (1, 1, 1, 1), mode="replicate")
        else:
            around, pixels = pixels, pixels[..., 1:-1, 1:-1]
        residual = pixels - F.avg_pool2d(around, 3, stride=1)
        return torch.cat([(pixels - mean) / std, torch.tanh(residual * self.config.residual_gain)], dim=1)

    def pool(self, features: Tensor) -> Tensor:
        """Features of patches -> embeddings: [B, C, h, w] -> float32 [B, D] of unit norm."""
        mean = features.mean((2, 3), dtype=torch.float32)  # [B, C, h, w] -> [B, C]
        return self.project(mean, lambda: features.float().var((2, 3), unbiased=False))

    def project(self, mean: Tensor, variance: Callable[[], Tensor]) -> Tensor:
        """Pooled features -> embeddings: float32 [B, C] -> [B, D] of unit norm.

        `variance` returns float32 [B, C]; it is called only if the configuration's `pooling` is "mean_std".
        """
        pooled = mean
        if self.config.pooling == "mean_std":
            pooled = torch.cat([mean, (variance() + 1e-5).sqrt()], dim=1)  # [B, C] -> [B, 2C]
        return F.normalize(self.image_projection(pooled).float(), dim=1)  # [B, 2C] -> [B, D]

    def encode_tokens(self, input_ids: Tensor, attention_mask: Tensor, bucketed: bool = True) -> Tensor:
        """Embed tokenized sentences: int64 [B, T] and their mask -> float32 [B, D] of unit norm.

        Mean of the last hidden states over the mask, as in the paper's code, then the projection, if there is one. With
        `bucketed`, sentences are encoded in buckets of similar length; the embeddings are the same up to rounding (and
        dropout's random numbers). Otherwise, all are encoded at once with their original padding.
        """
        if len(input_ids) == 0:
            return torch.zeros(0, self.config.embed_dim, device=input_ids.device)
        if not bucketed:
            return self._encode_padded(input_ids, attention_mask)
        buckets = length_buckets(attention_mask)
        parts = [self._encode_padded(input_ids[rows, :end], attention_mask[rows, :end]) for rows, end in buckets]
        order = torch.cat([rows for rows, _ in buckets])
        return torch.cat(parts)[order.argsort()]  # [B, D], in the original order

    def _encode_padded(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.text_tower(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weight = attention_mask.unsqueeze(-1).to(hidden.dtype)  # [B, T] -> [B, T, 1]
        pooled = (hidden * weight).sum(1) / weight.sum(1).clamp(min=1)  # [B, T, W] -> [B, W]
        return F.normalize(self.text_projection(pooled).float(), dim=1)  # [B, W] -> [B, D]

    def tokenize(self, sentences: Sequence[str]) -> dict[str, Tensor]:
        """Sentences -> `input_ids` and `attention_mask`, int64 [B, T], padded to the longest, truncated to the limit.

        Raises `ValueError` if there is no tokenizer, or if it has more tokens than the text tower has embeddings.
        """
        if self.tokenizer is None:
            raise ValueError(
                "this model has no tokenizer: set model.tokenizer to its text tower's, e.g. a new one from exiflang."
                "models.tokenizer.train_tokenizer(sentences), or that of distilbert-base-uncased for the paper's tower"
            )
        config = self.text_tower.config
        if len(self.tokenizer) > config.vocab_size:
            raise ValueError(
                f"the tokenizer has {len(self.tokenizer)} tokens but the text tower's vocabulary is "
                f"{config.vocab_size}: set vocab_size in text_config to len(tokenizer)"
            )
        limit = getattr(config, "max_position_embeddings", 512)
        if config.model_type == "roberta":  # its positions start after the padding id
            limit -= config.pad_token_id + 1
        tokens = self.tokenizer(
            list(sentences),
            padding=True,
            truncation=True,
            max_length=limit,
            return_tensors="pt",
            split_special_tokens=True,  # a literal "[PAD]" in the EXIF is plain text
        )
        return {key: tokens[key] for key in ("input_ids", "attention_mask")}

    def encode_exif(self, exif: Sequence[str | Mapping[str, str]]) -> Tensor:
        """Embed B EXIF records, each a sentence or a `{tag: value}` dict -> float32 [B, D] of unit norm.

        Sentences are used unchanged. Tags are formatted as in training: by `exif_to_text`, or by `reference_sentence`
        for the paper's format (`sentence_version` 0).
        """
        if isinstance(exif, (str, Mapping)):
            raise ValueError("encode_exif takes a list of sentences or tag dictionaries: wrap a single one in [ ]")
        if strange := [type(item).__name__ for item in exif if not isinstance(item, (str, Mapping))]:
            raise ValueError(f"encode_exif takes sentences (str) or {{tag: value}}, not {strange[0]}")
        written = reference_sentence if self.config.sentence_version == REFERENCE_SENTENCE_VERSION else exif_to_text
        sentences = [item if isinstance(item, str) else written(item) for item in exif]
        if not sentences:
            return torch.zeros(0, self.config.embed_dim, device=self.device)
        tokens = self.tokenize(sentences)
        return self.encode_tokens(tokens["input_ids"].to(self.device), tokens["attention_mask"].to(self.device))

    def forward(
        self, patches: Tensor, input_ids: Tensor, attention_mask: Tensor, bucketed: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Patches [B, 3, P, P] and U tokenized sentences [U, T] -> image [B, D] and text [U, D] embeddings."""
        text = self.encode_tokens(input_ids, attention_mask, bucketed)  # text first: on a GPU it waits for the lengths
        return self.encode_image(patches), text

    @classmethod
    def from_towers(
        cls, config: ExifLangConfig, image_tower: str, text_tower: str, tokenizer: PreTrainedTokenizerBase | None = None
    ) -> Self:
        """Initialize each tower from a folder or hub id that `AutoModel.from_pretrained` accepts, or from "random".

        A pretrained tower's configuration replaces the one in `config`, and a pretrained text tower brings its own
        tokenizer; a random one uses `tokenizer`, whose length must equal its `vocab_size`. Projections are random. The
        paper starts from a ResNet-50 trained on ImageNet and from `distilbert-base-uncased`.

        Raises `OSError` if there is no such folder or id, and `ValueError` if the model cannot serve as that tower or
        a tower's argument is empty: random weights must be requested explicitly.
        """
        towers, fields = {}, config.to_dict()
        for side, name in (("image", image_tower), ("text", text_tower)):
            if not name:
                advice = "give a folder or hub id of pretrained weights, or 'random'"
                raise ValueError(f"{side}_tower is {name!r}: {advice}")
            if name != "random":
                tower = towers[f"{side}_tower"] = AutoModel.from_pretrained(name)
                local = {"_name_or_path", "transformers_version"}
                own = tower.config.to_diff_dict().items()
                fields[f"{side}_config"] = {key: value for key, value in own if key not in local}
        if "text_tower" in towers:
            _without_pooler(towers["text_tower"])
            tokenizer = load_tokenizer(text_tower)
        model = cls(ExifLangConfig(**fields), tokenizer)
        for side, tower in towers.items():
            setattr(model, side, tower)
        return model.eval()

    @classmethod
    def from_reference_checkpoint(cls, path: str | PathLike[str], tokenizer: str | None = None) -> Self:
        """Load the weights of the paper's authors, in evaluation mode: see `read_reference_checkpoint`.

        `tokenizer` is a folder or hub id with the tokenizer of `distilbert-base-uncased`; None: the model embeds
        pictures only. Tags are formatted as in the paper. Raises `OSError` or `ValueError` if either cannot be used.
        """
        words = None if tokenizer is None else load_tokenizer(tokenizer)
        model = cls(ExifLangConfig.preset("paper", sentence_version=REFERENCE_SENTENCE_VERSION), words)
        state = model.state_dict()
        model.load_state_dict(state | read_reference_checkpoint(path, state))
        return model.eval()

    @classmethod
    def from_pretrained(  # type: ignore[override]  # a shorter name
        cls, name: str | PathLike[str], *args: Any, **kwargs: Any
    ) -> Self:
        """Load `config.json`, `model.safetensors` and the tokenizer from a folder or a hub id, in evaluation mode.

        Weights are float32 in memory, whatever their dtype in the file, unless `dtype` requests a different one.

        Raises `OSError` if there is no such folder or id, and `ValueError` if weights are missing (none are initialized
        at random) or unexpected, or were trained on a version of the EXIF sentences this package does not write.
        """
        if not kwargs.keys() & {"dtype", "torch_dtype"}:
            kwargs["dtype"] = torch.float32  # otherwise transformers uses the file's dtype
        try:
            with _no_progress_bar(), utf8_path(name) as place:
                loaded: Any = super().from_pretrained(place, *args, output_loading_info=True, **kwargs)
        except OSError as error:
            raise OSError(
                f"{name}: no model found: give a folder with config.json and model.safetensors, as train() writes "
                f"it, or a hub id that can be reached ({error})"
            ) from error
        model, found = loaded  # as output_loading_info asks for
        model.name_or_path = fspath(name)  # not that of a link
        if wrong := sorted(found["missing_keys"]) + sorted(found["unexpected_keys"]):
            raise ValueError(f"{name}: the weights do not match config.json; missing or unexpected: {', '.join(wrong)}")
        if model.config.sentence_version not in (REFERENCE_SENTENCE_VERSION, SENTENCE_VERSION):
            raise ValueError(
                f"{name}: trained on EXIF sentences of version {model.config.sentence_version}; this package writes "
                f"version {SENTENCE_VERSION}: install the exiflang release that the weights came with, or retrain"
            )
        where = {key: kwargs[key] for key in ("revision", "token", "cache_dir", "local_files_only") if key in kwargs}
        with utf8_path(name) as place:
            if cached_file(place, "tokenizer.json", _raise_exceptions_for_missing_entries=False, **where):
                model.tokenizer = PreTrainedTokenizerFast.from_pretrained(place, **where)
        return model

    def save_pretrained(  # type: ignore[override]  # a shorter name
        self, folder: str | PathLike[str], *args: Any, **kwargs: Any
    ) -> None:
        """Write `config.json`, `model.safetensors` and the tokenizer to `folder`."""
        makedirs(folder, exist_ok=True)
        with _no_progress_bar(), utf8_path(folder) as place:
            super().save_pretrained(place, *args, **kwargs)
            if self.tokenizer is not None:
                self.tokenizer.save_pretrained(place)
