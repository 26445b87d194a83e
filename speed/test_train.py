"""A step of training the paper's towers: `python -m pytest speed/test_train.py`."""

import statistics
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from exiflang.buckets import length_buckets
from exiflang.exif import exif_to_text
from exiflang.flops import StepFlops
from exiflang.model import ExifLang
from exiflang.model_config import ExifLangConfig
from exiflang.shards import find_shards, read_photos
from exiflang.train import distinct
from speed import loop, step

BATCH, ROUNDS, WARMUP_ROUNDS, PADDED = 32, 5, 1, 512  # at 64 the loop did not fit into 23 GiB
VOCABULARY = 350  # small, so that tags and values fall into pieces, as under a vocabulary of English text


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    shards = Path(__file__).parents[2] / "shared/photos"
    if not shards.is_dir():
        pytest.skip(f"needs the real photos of {shards}")
    return [exif_to_text(photo.tags) for photo in read_photos(find_shards(shards))[0]]


def word_pieces(sentences: list[str]) -> PreTrainedTokenizerFast:
    """In the manner of bert-base-uncased."""
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=VOCABULARY, special_tokens=list(special.values()), show_progress=False
    )
    tokenizer.train_from_iterator(sentences, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


@pytest.mark.benchmark(group="training step, the paper's towers")
@pytest.mark.parametrize("way", ["loop", "exact", "exact, bf16"])
def test_training_step(benchmark, sentences, way):
    processor = torch.cpu.get_capabilities()
    if way == "exact, bf16" and not (processor.get("avx512_bf16") or processor.get("amx_bf16")):
        pytest.skip("this processor does not multiply in bfloat16")
    torch.manual_seed(0)
    model = ExifLang(ExifLangConfig.preset("paper"), word_pieces(sentences)).train()
    patches = torch.randint(256, (BATCH, 3, 124, 124), dtype=torch.uint8)
    chosen = [sentences[i] for i in torch.randperm(len(sentences))[:BATCH].tolist()]
    different, _ = distinct(chosen)
    mask = model.tokenize(different)["attention_mask"]
    lengths = mask.sum(1).tolist()
    plain = way == "loop"
    buckets = [(BATCH, PADDED)] if plain else [(len(rows), end) for rows, end in length_buckets(mask)]
    benchmark.extra_info |= {
        "pairs": BATCH,
        "sentences": len(different),
        "median_tokens": statistics.median(lengths),
        "flops": StepFlops(model.config)(patches.shape, buckets),
    }
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, foreach=False, fused=not plain)

    def call() -> float:
        if plain:
            return loop.training_step(model, optimizer, patches, chosen, PADDED)
        return step.training_step(model, optimizer, patches, chosen, bf16="bf16" in way)

    assert benchmark.pedantic(call, rounds=ROUNDS, warmup_rounds=WARMUP_ROUNDS) > 0
