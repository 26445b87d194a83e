"""Sentences → tokens, by byte-level BPE learned from EXIF sentences, and → buckets of much the same length."""

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

MOST, LEAST = 8, 16  # buckets, and sentences in each: a GPU wants few launches, and enough to do in each


def train_tokenizer(sentences: Sequence[str], vocab_size: int = 3000) -> PreTrainedTokenizerFast:
    """Byte-level BPE over EXIF sentences whose tokens never cross from one `tag: value` to the next.

    A frequent `tag: value` thereby becomes one token, a rare one several, and no value is out of vocabulary. The 256
    bytes and two special tokens are always there, so that the tokenizer may have more than `vocab_size` tokens: see its
    `len`. Raises `ValueError` if there are no sentences.
    """
    if isinstance(sentences, str):
        raise ValueError("train_tokenizer takes a list of sentences, not one str")
    if not sentences:
        raise ValueError("no sentences to train a tokenizer on: the training shards hold no EXIF")
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(", ", behavior="merged_with_previous"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    special = ["[PAD]", "[CLS]"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(sentences, trainer)
    # Every sentence, even an empty one, starts with a token: a mean over no token has no meaning.
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", cls_token="[CLS]")


def length_buckets(attention_mask: Tensor) -> list[tuple[Tensor, int]]:
    """Split U > 0 sentences into even buckets by length: a mask [U, T] -> each one's rows, int64 [u], and length, 1..T.

    From that length on no sentence of the bucket is attended to. What comes before keeps its position: padding on the
    left, which a tokenizer may prefer, stays.
    """
    positions = torch.arange(1, attention_mask.shape[1] + 1, device=attention_mask.device)
    lengths, order = (attention_mask.ne(0) * positions).amax(1).clamp(min=1).sort()  # [U, T] -> [U], [U]
    count = max(1, min(MOST, len(order) // LEAST))
    parts = zip(order.tensor_split(count), lengths.cpu().tensor_split(count), strict=True)
    return [(rows, int(own[-1])) for rows, own in parts]
