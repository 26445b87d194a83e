"""One batch, forward and backward: what `train` repeats, and what is timed as a training step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from exiflang.buckets import length_buckets
from exiflang.flops import StepFlops
from exiflang.gradient_cache import cached_backward, pair_chunks
from exiflang.model import ExifLang
from exiflang.negatives import sentence_ids
from exiflang.objective import batch_loss
from exiflang.train_config import TrainConfig


def distinct(sentences: Sequence[str]) -> tuple[list[str], Tensor]:
    """The U distinct sentences in order of appearance, and of each of the B which it is: int64 [B]."""
    index: dict[str, int] = {}
    which = [index.setdefault(sentence, len(index)) for sentence in sentences]
    return list(index), torch.tensor(which)


class TrainStep:
    """Back-propagates the loss of batches; `config` says which loss, and whether in chunks or all at once.

    Args:
        model: with a tokenizer.
        wrapped: the same as `accelerator.prepare` gave it back.
    """

    def __init__(self, model: ExifLang, wrapped: nn.Module, accelerator: Accelerator, config: TrainConfig):
        self.model, self.wrapped, self.accelerator, self.config = model, wrapped, accelerator, config
        self._flops = StepFlops(model.config)

    def __call__(self, patches: Tensor, sentences: Sequence[str]) -> tuple[Tensor, int]:
        """Add a batch's gradients to `.grad`: patches [B, V, 3, P, P], V views of each photo, and B sentences.

        Returns the loss, a scalar without a graph whose mean over processes is that of all pairs (see `global_loss`),
        and the floating point operations that the model needs for this batch (see `StepFlops`).
        """
        device = self.accelerator.device
        different, which = distinct(sentences)
        tokens, ids = self.model.tokenize(different), sentence_ids(different)[which].to(device)
        mask = tokens["attention_mask"]
        buckets = [(len(rows), end) for rows, end in length_buckets(mask)] if self.config.fast else [mask.shape]
        flops = self._flops(patches.shape, buckets)
        chunk = patches, {key: value.to(device) for key, value in tokens.items()}, which.to(device)
        bias = [] if self.model.config.logit_bias is None else [self.model.logit_bias]
        scalars = [self.model.logit_scale, *bias]

        def objective(image: Tensor, text: Tensor, *scalars: Tensor) -> Tensor:
            return batch_loss(image, text, *scalars, sentence=ids, image_weight=self.config.image_weight)

        if self.config.chunk_size:
            loss = cached_backward(
                self.model,
                self._encode,
                pair_chunks(*chunk, self.config.chunk_size),
                objective,
                scalars,
                backward=self.accelerator.backward,
                no_sync=lambda: self.accelerator.no_sync(self.wrapped),
            )
        else:
            loss = objective(*self._encode(chunk), *scalars)
            self.accelerator.backward(loss)
        return loss.detach(), flops

    def _encode(self, chunk: tuple[Tensor, dict[str, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Patches [b, V, 3, P, P] and tokens of the u sentences which[b] -> image [b, V, D], text [b, D]."""
        patches, tokens, which = chunk
        with self.accelerator.autocast():
            image, text = self.wrapped(patches.flatten(0, 1), **tokens, bucketed=self.config.fast)  # [b * V, D], [u, D]
        return image.unflatten(0, patches.shape[:2]), text[which]
