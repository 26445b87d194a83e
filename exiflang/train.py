"""One flat, resumable training loop on Accelerate (recipe: paper, section 3.3)."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import torch
from accelerate import Accelerator, DataLoaderConfiguration, skip_first_batches
from accelerate.utils import set_seed
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset
from tqdm.auto import tqdm
from transformers import get_scheduler

from exiflang.loss import contrastive_loss
from exiflang.model import ExifLang


class TrainingError(RuntimeError):
    """Training that cannot start or go on; the message says why and what to do."""


@dataclass
class TrainConfig:
    """How to train.

    Args:
        steps: optimiser steps in all; 0 saves the model as it is.
        batch_size: pairs per step and process, at least 2: one pair has nothing to be told apart from.
        learning_rate, weight_decay, beta2, eps: of AdamW; beta1 is 0.9.
        warmup_steps: linear warm-up, before the schedule takes over; both advance at every step.
        schedule: any name that `transformers.get_scheduler` knows, e.g. "cosine" or "constant_with_warmup".
        mixed_precision: "no", "bf16", "fp16", or "auto": bf16 where the hardware multiplies in it, else "no".
        max_grad_norm: gradients are clipped to this norm.
        workers: processes that load patches; 0 loads in this one.
        checkpoint_every: steps between checkpoints, from which an interrupted run goes on.
        seed: of everything random here.
    """

    steps: int = 1000
    batch_size: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    beta2: float = 0.98
    eps: float = 1e-6
    warmup_steps: int = 50
    schedule: str = "cosine"
    mixed_precision: str = "auto"
    max_grad_norm: float = 1.0
    workers: int = 0
    checkpoint_every: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        least_of = {"steps": 0, "batch_size": 2, "warmup_steps": 0, "workers": 0, "checkpoint_every": 1}
        for name, least in least_of.items():
            if not isinstance(getattr(self, name), int) or getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)!r}: it must be a whole number of at least {least}")


def collate(pairs: Sequence[tuple[Tensor, str]]) -> tuple[Tensor, Tensor, list[str]]:
    """Pairs → patches [B, 3, P, P], each pair's index into the distinct sentences [B], and those U sentences.

    Raises `TrainingError` for anything that is not such a pair.
    """
    for pair in pairs:
        kinds = [type(part) for part in pair] if isinstance(pair, Sequence) else [type(pair)]
        if len(kinds) != 2 or not issubclass(kinds[0], Tensor) or not issubclass(kinds[1], str):
            names = ", ".join(kind.__name__ for kind in kinds)
            raise TrainingError(f"the data set gives ({names}): each item must be a pair (patch tensor, sentence str)")
    if len(shapes := {tuple(patch.shape) for patch, _ in pairs}) > 1:
        raise TrainingError(f"the data set gives patches of different shapes, {sorted(shapes)}: crop them to one size")
    index: dict[str, int] = {}
    which = [index.setdefault(sentence, len(index)) for _, sentence in pairs]
    return torch.stack([patch for patch, _ in pairs]), torch.tensor(which), list(index)


def train(model: ExifLang, dataset: Dataset, config: TrainConfig, out_dir: str | Path) -> list[dict[str, float]]:
    """Train `model` in place and save it into `out_dir`.

    Writes `log.jsonl` (a line a step: step, loss, lr, grad_norm, logit_scale, pairs_per_second), `checkpoint/` while
    it runs, and at the end the weights. Called again with the same arguments it goes on from the last checkpoint, to
    the same result as without the interruption; a finished run is loaded, not repeated.

    Args:
        model: with a tokenizer.
        dataset: map-style or iterable `torch.utils.data.Dataset` of `(patch, sentence)`, patch uint8 [3, P, P] (or
            float in 0..1) and sentence a str. Its `set_epoch(int)` is called before each epoch, and its `fingerprint`
            (a str that changes with the data) keeps runs on other data out of `out_dir`, if it has them. A run
            resumes exactly if items depend on the epoch and their place in it alone: no global random numbers.
        config: see `TrainConfig`.
        out_dir: folder of this run.

    Returns:
        The log, a dict a step.

    Raises:
        TrainingError: fewer items than a batch, items that are no pairs, another run's folder, a loss or gradient that
            is not finite.
    """
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    _claim(out_dir, model, dataset, config)
    log_path, checkpoint = out_dir / "log.jsonl", out_dir / "checkpoint"
    if (out_dir / "model.safetensors").exists():
        finished = ExifLang.from_pretrained(str(out_dir))
        model.load_state_dict(finished.state_dict())
        model.tokenizer = finished.tokenizer
        model.eval()
        return _read_log(log_path)

    set_seed(config.seed)
    loader_config = DataLoaderConfiguration(dispatch_batches=False, use_seedable_sampler=True, data_seed=config.seed)
    precision = config.mixed_precision if config.mixed_precision != "auto" else ("bf16" if _has_fast_bf16() else "no")
    accelerator = Accelerator(mixed_precision=precision, dataloader_config=loader_config)
    loader = DataLoader(
        dataset,
        batch_size=config.batch_size,
        shuffle=not isinstance(dataset, IterableDataset) and len(dataset) > 0,  # an empty one cannot be shuffled
        drop_last=True,
        collate_fn=collate,
        num_workers=config.workers,
        generator=torch.Generator(),  # its own: a resumed epoch must not take numbers from those of dropout
    )
    decay = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    no_decay = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": config.weight_decay}, {"params": no_decay, "weight_decay": 0.0}],
        lr=config.learning_rate,
        betas=(0.9, config.beta2),
        eps=config.eps,
    )
    processes = accelerator.num_processes  # Accelerate advances a prepared schedule once for every process.
    schedule = get_scheduler(config.schedule, optimizer, config.warmup_steps * processes, config.steps * processes)
    wrapped, optimizer, loader, schedule = accelerator.prepare(model, optimizer, loader, schedule)
    _drop_unfinished(checkpoint)
    history: list[dict[str, float]] = []
    first_epoch, done_in_epoch = 0, 0
    if checkpoint.exists():
        accelerator.load_state(str(checkpoint))
        state = json.loads((checkpoint / "progress.json").read_text())
        history = _rewind_log(log_path, state["step"])
        first_epoch, done_in_epoch = state["epoch"], state["batch"]
    else:
        log_path.unlink(missing_ok=True)
    model.train()

    with (
        open(log_path, "a", encoding="utf-8", buffering=1) as log,  # by lines: whoever watches sees each step
        tqdm(total=config.steps, initial=len(history), desc="train", disable=not accelerator.is_main_process) as bar,
    ):
        for epoch in count(first_epoch):
            if len(history) == config.steps:
                break
            for part in (dataset, loader):
                if hasattr(part, "set_epoch"):
                    part.set_epoch(epoch)
            batches = skip_first_batches(loader, done_in_epoch) if done_in_epoch else loader
            before, began = len(history), time.perf_counter()
            for batch, (patches, which, sentences) in enumerate(batches, start=done_in_epoch + 1):
                tokens = {key: value.to(accelerator.device) for key, value in model.tokenize(sentences).items()}
                with accelerator.autocast():
                    image, text = wrapped(patches, **tokens)  # [B, D], [U, D]
                loss = contrastive_loss(image, text[which], model.logit_scale, which)
                if not math.isfinite(loss.item()):
                    raise _diverged("loss", loss.item(), len(history) + 1, checkpoint)
                optimizer.zero_grad()
                accelerator.backward(loss)
                norm = float(accelerator.clip_grad_norm_(model.parameters(), config.max_grad_norm))
                if not math.isfinite(norm) and accelerator.scaler is None:  # fp16's scaler skips such a step by itself
                    raise _diverged("gradient norm", norm, len(history) + 1, checkpoint)
                optimizer.step()
                rate = schedule.get_last_lr()[0]
                schedule.step()
                seconds, began = time.perf_counter() - began, time.perf_counter()
                row = {
                    "step": len(history) + 1,
                    "loss": loss.item(),
                    "lr": rate,
                    "grad_norm": norm,
                    "logit_scale": model.logit_scale.item(),
                    "pairs_per_second": config.batch_size * processes / seconds,
                }
                history.append(row)
                log.write(json.dumps(row) + "\n")
                bar.update()
                bar.set_postfix(loss=f"{row['loss']:.3f}")
                if len(history) == config.steps:
                    break
                if len(history) % config.checkpoint_every == 0:
                    _save_checkpoint(accelerator, checkpoint, {"step": len(history), "epoch": epoch, "batch": batch})
            if len(history) == before and done_in_epoch == 0:
                raise TrainingError(
                    f"no whole batch of {config.batch_size} pairs in the data set (epoch {epoch}): "
                    "lower batch_size or give more photos"
                )
            done_in_epoch = 0

    model.eval()
    if accelerator.is_main_process:
        model.save_pretrained(str(out_dir / "finished"))
        for path in (out_dir / "finished").iterdir():  # The weights' own file comes last: it says the run is whole.
            if path.name != "model.safetensors":
                path.replace(out_dir / path.name)
        (out_dir / "finished" / "model.safetensors").replace(out_dir / "model.safetensors")
        (out_dir / "finished").rmdir()
        shutil.rmtree(checkpoint, ignore_errors=True)
    accelerator.wait_for_everyone()
    return history


def _has_fast_bf16() -> bool:
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    processor = torch.cpu.get_capabilities()
    return processor.get("avx512_bf16", False) or processor.get("amx_bf16", False)


def _diverged(what: str, value: float, step: int, checkpoint: Path) -> TrainingError:
    kept = f"the last checkpoint is in {checkpoint}" if checkpoint.exists() else "no checkpoint was written yet"
    advice = "lower learning_rate, or use mixed_precision 'no', in an empty folder"
    return TrainingError(f"the {what} is {value} at step {step}: {advice}; {kept}")


def _claim(out_dir: Path, model: ExifLang, dataset: Dataset, config: TrainConfig) -> None:
    """Refuse a folder that holds the checkpoint or the weights of other settings."""
    path = out_dir / "train_config.json"
    fields = {name: getattr(model.config, name) for name in type(model.config).__annotations__}
    settings = {"train": dataclasses.asdict(config), "model": fields, "data": getattr(dataset, "fingerprint", None)}
    mine = json.dumps(settings, default=str, indent=1)
    trained = any((out_dir / name).exists() for name in ("model.safetensors", "checkpoint", "checkpoint.old"))
    if not trained:
        path.write_text(mine, encoding="utf-8")
    elif not path.exists() or path.read_text(encoding="utf-8") != mine:
        advice = "choose another folder, or clear it"
        raise TrainingError(f"{out_dir} holds a run with other settings ({path.name}): {advice}")


def _read_log(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _rewind_log(path: Path, steps: int) -> list[dict[str, float]]:
    """Cut the log to its first `steps` lines, the last of which may be half, in one rename; return them parsed."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)[:steps]
    fresh = path.with_name("log.new")
    fresh.write_text("".join(lines), encoding="utf-8")
    fresh.replace(path)
    return _read_log(path)


def _save_checkpoint(accelerator: Accelerator, checkpoint: Path, progress: dict[str, int]) -> None:
    """Write beside, then swap by two renames: a kill leaves the old state or the new one, never half of one."""
    fresh, old = checkpoint.with_name("checkpoint.new"), checkpoint.with_name("checkpoint.old")
    accelerator.save_state(str(fresh))
    if accelerator.is_main_process:
        (fresh / "progress.json").write_text(json.dumps(progress), encoding="utf-8")
        if checkpoint.exists():
            checkpoint.rename(old)
        fresh.rename(checkpoint)
        shutil.rmtree(old, ignore_errors=True)
    accelerator.wait_for_everyone()


def _drop_unfinished(checkpoint: Path) -> None:
    """Tidy up after a kill in `_save_checkpoint`: the old state counts if the new one had not taken its place."""
    fresh, old = checkpoint.with_name("checkpoint.new"), checkpoint.with_name("checkpoint.old")
    if not checkpoint.exists() and old.exists():
        old.rename(checkpoint)
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
