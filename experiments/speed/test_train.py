"""A training step of the paper's towers on sentences of real photos: a plain one against that of `train`."""

import statistics

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from exiflang.data.shards import find_shards, read_photos
from exiflang.exif.text import exif_to_text
from exiflang.models.config import ExifLangConfig
from exiflang.models.model import ExifLang
from exiflang.pipeline.parameters import project_path
from exiflang.training.config import TrainConfig
from exiflang.training.step import StepFlops, TrainStep
from experiments.speed import loop
from experiments.speed.marks import bf16, gpu

PADDED = 512  # tokens per sentence in the loop
BATCH, GPU_BATCH = 32, 1024  # with 64 sentences of 512 tokens, attention stored for backward takes over 24 GB
VOCABULARY = 350  # small, so that tags and values are split into pieces, as with an English vocabulary


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    shards = project_path("../shared/photos")
    if not shards.is_dir():
        pytest.skip("needs the real photos in ../shared/photos")
    return [exif_to_text(photo.tags) for photo in read_photos(find_shards(shards))[0]]


def word_pieces(sentences: list[str]) -> PreTrainedTokenizerFast:
    """A tokenizer like that of bert-base-uncased."""
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=VOCABULARY, special_tokens=list(special.values()), show_progress=False
    )
    tokenizer.train_from_iterator(sentences, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


@pytest.mark.parametrize(
    "way",
    [
        "loop",
        "exact",
        pytest.param("exact, bf16", marks=bf16),
        pytest.param("GPU, bf16", marks=gpu),
    ],
)
def test_training_step(measure, sentences, way):
    torch.manual_seed(0)
    device, batch = ("cuda", GPU_BATCH) if "GPU" in way else ("cpu", BATCH)
    model = ExifLang(ExifLangConfig.preset("paper"), word_pieces(sentences)).train().to(device)
    patches = torch.randint(256, (batch, 3, 124, 124), dtype=torch.uint8).to(device)
    chosen = [sentences[i] for i in torch.randperm(len(sentences))[:batch].tolist()]
    lengths = model.tokenize(chosen)["attention_mask"].sum(1).tolist()
    noted = {"pairs": batch, "sentences": len(set(chosen)), "median_tokens": statistics.median(lengths)}
    group = f"training step of {batch} pairs, the paper's towers"
    plain = way == "loop"
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, foreach=False, fused=not plain)
    if plain:
        flops = StepFlops(model.config)(patches.shape, [(batch, PADDED)])
        measure(group, loop.training_step, model, optimizer, patches, chosen, PADDED, flops=flops, **noted)
        return

    AcceleratorState._reset_state(reset_partial_state=True)  # from the previous row, possibly on a different device
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision="bf16" if "bf16" in way else "no")
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    back_propagate = TrainStep(model, wrapped, accelerator, TrainConfig())

    def step() -> int:
        optimizer.zero_grad()
        loss, flops = back_propagate(patches.unsqueeze(1), chosen)
        optimizer.step()
        loss.item()  # waits for the GPU
        return flops

    measure(group, step, flops=step(), **noted)
