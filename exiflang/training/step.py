"""One batch, forward and backward: the training step of `train` and of the benchmarks."""

import math
from collections.abc import Iterable, Sequence
from copy import deepcopy
from functools import cache

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from exiflang.models.config import ExifLangConfig
from exiflang.models.model import ExifLang
from exiflang.models.tokenizer import length_buckets
from exiflang.training.config import TrainConfig
from exiflang.training.losses import batch_loss, sentence_ids
from exiflang.training.memory import cached_backward, pair_chunks
from exiflang.utils.extras import extra

with extra("train"):
    from accelerate import Accelerator


class StepFlops:
    """Counts the floating-point operations of a model's training steps, on a copy on the meta device.

    Only matrix products, convolutions and attention count, with a multiply-add as two. A step counts as three forward
    passes, the backward pass as two of them; recomputation to save memory does not count.
    """

    def __init__(self, config: ExifLangConfig):
        with torch.device("meta"):
            self._model = ExifLang(deepcopy(config)).eval()
        self._image, self._text = cache(self._count_image), cache(self._count_text)

    def __call__(self, patches: Sequence[int], buckets: Iterable[tuple[int, int]]) -> int:
        """Count a step from the patches' shape [..., 3, P, P] and pairs (number of sentences, their padded length)."""
        image = math.prod(patches[:-3]) * self._image(*patches[-2:])
        return 3 * (image + sum(count * self._text(tokens) for count, tokens in buckets))

    def _count_image(self, height: int, width: int) -> int:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            self._model.encode_image(torch.zeros(1, 3, height, width, dtype=torch.uint8, device="meta"))
        return counter.get_total_flops()

    def _count_text(self, tokens: int) -> int:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            # no mask, because values on the meta device cannot be read
            hidden = self._model.text_tower(torch.ones(1, tokens, dtype=torch.int64, device="meta")).last_hidden_state
            self._model.text_projection(hidden[:, 0])  # [1, T, W] -> [1, D]
        return counter.get_total_flops()


def distinct(sentences: Sequence[str]) -> tuple[list[str], Tensor]:
    """The U distinct sentences in order of appearance, and the index of each of the B sentences: int64 [B]."""
    index: dict[str, int] = {}
    which = [index.setdefault(sentence, len(index)) for sentence in sentences]
    return list(index), torch.tensor(which)


class TrainStep:
    """Backpropagates the loss of batches, in chunks or all at once; `config` sets both.

    Args:
        model: a model with a tokenizer.
        wrapped: the same model, as returned by `accelerator.prepare`.
    """

    def __init__(self, model: ExifLang, wrapped: nn.Module, accelerator: Accelerator, config: TrainConfig):
        self.model, self.wrapped, self.accelerator, self.config = model, wrapped, accelerator, config
        self._flops = StepFlops(model.config)

    def __call__(self, patches: Tensor, sentences: Sequence[str]) -> tuple[Tensor, int]:
        """Add a batch's gradients to `.grad`: patches [B, V, 3, P, P], V views of each photo, and B sentences.

        Returns the loss, a scalar without a graph whose mean over processes is that of all pairs (see `global_loss`),
        and the model's floating-point operations for this batch (see `StepFlops`).
        """
        device = self.accelerator.device
        different, which = distinct(sentences)
        tokens, ids = self.model.tokenize(different), sentence_ids(different)[which].to(device)
        mask = tokens["attention_mask"]
        buckets = [(len(mask), mask.shape[1])]
        if self.config.fast:
            buckets = [(len(rows), end) for rows, end in length_buckets(mask)]
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
        """Patches [b, V, 3, P, P], tokens of u sentences, indices [b] into them -> image [b, V, D], text [b, D]."""
        patches, tokens, which = chunk
        with self.accelerator.autocast():
            image, text = self.wrapped(patches.flatten(0, 1), **tokens, bucketed=self.config.fast)  # [b * V, D], [u, D]
        return image.unflatten(0, patches.shape[:2]), text[which]
