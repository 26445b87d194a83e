"""Sentences → tokens, by byte-level BPE trained on EXIF sentences, and → buckets of similar length."""

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

MOST, LEAST = 8, 16  # most buckets, and fewest sentences in each: a GPU prefers few, large kernel launches


def train_tokenizer(sentences: Sequence[str], vocab_size: int = 3000) -> PreTrainedTokenizerFast:
    """Train byte-level BPE on EXIF sentences; no token spans two `tag: value` pairs.

    A frequent `tag: value` becomes one token, a rare one several, and no value is out of vocabulary. The 256 bytes and
    two special tokens are always included, so the tokenizer may have more than `vocab_size` tokens: use its `len`.
    Raises `ValueError` if there are no sentences.
    """
    if isinstance(sentences, str):
        raise ValueError("train_tokenizer takes a list of sentences, not one str")
    if not sentences:
        raise ValueError("no sentences to train a tokenizer on: the training shards contain no EXIF")
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
    # Every sentence, even an empty one, starts with a token, because pooling takes a mean over tokens.
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", cls_token="[CLS]")


def length_buckets(attention_mask: Tensor) -> list[tuple[Tensor, int]]:
    """Split U > 0 sentences into equal buckets by length: mask [U, T] -> (rows, int64 [u]; length, 1..T) per bucket.

    No sentence of a bucket has attended tokens beyond its length. Positions before that do not move, so left padding,
    which some tokenizers use, is kept.
    """
    positions = torch.arange(1, attention_mask.shape[1] + 1, device=attention_mask.device)
    lengths, order = (attention_mask.ne(0) * positions).amax(1).clamp(min=1).sort()  # [U, T] -> [U], [U]
    count = max(1, min(MOST, len(order) // LEAST))
    parts = zip(order.tensor_split(count), lengths.cpu().tensor_split(count), strict=True)
    return [(rows, int(own[-1])) for rows, own in parts]
