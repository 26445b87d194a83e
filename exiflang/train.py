"""One flat, resumable training loop on Accelerate (recipe: paper, section 3.3)."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DataLoaderConfiguration, skip_first_batches
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast, gather_object, set_seed
from safetensors.torch import save_file
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler
from tqdm.auto import tqdm
from transformers import get_scheduler

from exiflang.checkpointing import checkpointed
from exiflang.hardware import has_fast_bf16, matrix_rate
from exiflang.model import ExifLang
from exiflang.processing import Processing
from exiflang.run_folder import RunFolder, TrainingError
from exiflang.stream import StreamDataset, StreamLoader
from exiflang.train_config import TrainConfig
from exiflang.train_step import TrainStep


def collate(pairs: Sequence[tuple[Tensor, str]]) -> tuple[Tensor, list[str]]:
    """Pairs → patches uint8 or float [B, 3, P, P] or [B, V, 3, P, P], and B sentences.

    Raises `TrainingError` for anything that is not such a pair.
    """
    for pair in pairs:
        kinds = [type(part) for part in pair] if isinstance(pair, Sequence) else [type(pair)]
        if len(kinds) != 2 or not issubclass(kinds[0], Tensor) or not issubclass(kinds[1], str):
            names = ", ".join(kind.__name__ for kind in kinds)
            raise TrainingError(f"the data set gives ({names}): each item must be a pair (patch tensor, sentence str)")
    if len(shapes := {tuple(patch.shape) for patch, _ in pairs}) > 1:
        raise TrainingError(f"the data set gives patches of different shapes, {sorted(shapes)}: crop them to one size")
    return torch.stack([patch for patch, _ in pairs]), [sentence for _, sentence in pairs]


def train(
    model: ExifLang,
    dataset: Dataset,
    config: TrainConfig,
    out_dir: str | Path,
    *,
    sampler: Sampler[int] | None = None,
    processing: Processing | None = None,
    validate: Callable[[ExifLang], float] | None = None,
) -> list[dict[str, float]]:
    """Train `model` in place and save it into `out_dir`.

    Writes `log.jsonl` (a line a step: step, loss, lr, grad_norm, logit_scale, pairs_per_second and flops_per_second of
    all processes together, matrix_share, and validation where a step was judged), `checkpoint/` and `best/` while it
    runs, and at the end the weights: with `validate` the best ones, and the last ones beside them in `last/`. Called
    again with the same arguments it goes on from the last checkpoint, to the same result as without the interruption; a
    finished run is loaded, not repeated. Started in several processes (`accelerate launch`), each draws `batch_size`
    photos and all pairs are contrasted with all.

    `flops_per_second` counts what the model needs (see `StepFlops`). `matrix_share` is the share (0..1, but for chance)
    that this has, per process, of what the main process reaches on a large product of matrices alone.

    Args:
        model: with a tokenizer.
        dataset: map-style or iterable `torch.utils.data.Dataset` of `(patch, sentence)`, patch uint8 [3, P, P] (or
            float in 0..1), or [V, 3, P, P] for V views of one photo, and sentence a str. Its `set_epoch(int)` is called
            before each epoch, and its `fingerprint` (a str that changes with the data) keeps runs on other data out of
            `out_dir`, if it has them. A run resumes exactly if items depend on the epoch and their place in it alone:
            no global random numbers. A `StreamDataset` goes on where it was, and `out_dir/left_out.json` counts what
            it left out; each process reads shards of its own.
        config: see `TrainConfig`.
        out_dir: folder of this run.
        sampler: order of a map-style data set, e.g. a `CameraSampler`; None: shuffled.
        processing: what is done to a batch's patches and said in its sentences, see `Processing`.
        validate: judges a model in evaluation mode, higher is better, in the main process alone; it must not draw from
            global random numbers.

    Returns:
        The log, a dict a step.

    Raises:
        TrainingError: fewer items than a batch, items that are no pairs, another run's folder, a loss or gradient that
            is not finite (the batch is then in `out_dir/bad_batch.safetensors`), a full disk.
        ValueError: settings that do not fit the model or the data; `DataError` for a stream that cannot be read, or
            that goes on with other shards, processes or workers.
    """
    if (config.loss == "sigmoid") != (model.config.logit_bias is not None):
        raise ValueError("loss='sigmoid' needs a model with a logit_bias in its configuration, 'infonce' one without")
    folder = RunFolder(out_dir)
    precision = config.mixed_precision
    if precision == "auto":
        precision = "bf16" if has_fast_bf16("cuda" if torch.cuda.is_available() else "cpu") else "no"
    AcceleratorState._reset_state()  # it would hold this process to the precision of an earlier run
    accelerator = Accelerator(
        mixed_precision=precision,
        dataloader_config=DataLoaderConfiguration(
            dispatch_batches=False, use_seedable_sampler=True, data_seed=config.seed, non_blocking=True
        ),
        log_with=None if config.tracker == "none" else config.tracker,
        project_dir=str(folder.path),
    )
    if accelerator.is_main_process:
        folder.claim(_settings(model, dataset, config, sampler, processing))
    accelerator.wait_for_everyone()
    if folder.weights.exists():
        finished = ExifLang.from_pretrained(str(folder.path))
        model.load_state_dict(finished.state_dict())
        model.tokenizer = finished.tokenizer
        model.eval()
        return folder.read_log()

    set_seed(config.seed)
    decay = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    no_decay = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": config.weight_decay}, {"params": no_decay, "weight_decay": 0.0}],
        lr=config.learning_rate,
        betas=(0.9, config.beta2),
        eps=config.eps,
        fused=config.fast,
    )
    processes = accelerator.num_processes  # Accelerate advances a prepared schedule once for every process.
    schedule = get_scheduler(config.schedule, optimizer, config.warmup_steps * processes, config.steps * processes)
    averaged = model
    if config.ema:
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema), use_buffers=True)
        average.to(accelerator.device)
        accelerator.register_for_checkpointing(average)
        averaged = average.module
    if config.compile:
        options = {"fallback_random": True}  # dropout's numbers are then those without, and the same in both passes
        model.image_tower.compile(options=options)
        model.text_tower.compile(dynamic=True, options=options)  # lengths differ from batch to batch
    loader = _loader(dataset, sampler, config, accelerator)
    streamed = isinstance(loader, StreamLoader)
    wrapped, optimizer, loader, schedule = accelerator.prepare(model, optimizer, loader, schedule)
    done, first_epoch, done_in_epoch, best = 0, 0, 0, -math.inf
    if folder.checkpoint.exists():
        accelerator.load_state(str(folder.checkpoint))
        progress = folder.read_progress()
        done, first_epoch, done_in_epoch, best = (progress[key] for key in ("step", "epoch", "batch", "best"))
        if streamed:
            states = progress["stream"]  # one a process, if there are as many
            loader.load_state_dict(states[accelerator.process_index % len(states)])
    if accelerator.is_main_process:
        folder.rewind_log(done)
    accelerator.wait_for_everyone()
    history = folder.read_log()
    purge = {"tensorboard": {"purge_step": done}}  # steps that will be repeated
    accelerator.init_trackers("tensorboard", init_kwargs=purge if config.tracker == "tensorboard" else {})
    back_propagate = TrainStep(model, wrapped, accelerator, config)
    dtype = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    attainable = matrix_rate(accelerator.device, dtype)
    model.train()

    with (
        ExitStack() as opened,
        open(folder.log, "a", encoding="utf-8", buffering=1) as log,  # by lines: whoever watches sees each step
        tqdm(total=config.steps, initial=done, desc="train", disable=not accelerator.is_main_process) as bar,
    ):
        if config.gradient_checkpointing:
            for tower in model.towers.values():
                opened.enter_context(checkpointed(tower))
        saved_at = minutes()
        for epoch in count(first_epoch):
            if len(history) == config.steps:
                break
            for part in (dataset, loader):
                if hasattr(part, "set_epoch"):
                    part.set_epoch(epoch)
            skipped = 0 if streamed else done_in_epoch  # a stream goes on by itself
            batches = skip_first_batches(loader, skipped) if skipped else loader
            before, began = len(history), time.perf_counter()
            for batch, (patches, sentences) in enumerate(batches, start=done_in_epoch + 1):
                step = len(history) + 1
                if processing is not None:
                    rank = accelerator.process_index
                    patches, sentences = processing(patches, sentences, (config.seed, step), rank)
                if patches.ndim == 4:
                    patches = patches.unsqueeze(1)  # [B, 3, P, P] -> [B, 1, 3, P, P]
                optimizer.zero_grad()
                loss, flops = back_propagate(patches, sentences)
                # of all pairs, the same in every process
                value, flops = accelerator.reduce(torch.stack([loss, loss.new_tensor(flops)]), "mean").tolist()
                if not math.isfinite(value):
                    raise _diverged("loss", value, step, folder, patches, sentences, accelerator.process_index)
                norm = float(accelerator.clip_grad_norm_(model.parameters(), config.max_grad_norm))
                if not math.isfinite(norm) and accelerator.scaler is None:  # fp16's scaler skips such a step by itself
                    raise _diverged("gradient norm", norm, step, folder, patches, sentences, accelerator.process_index)
                optimizer.step()
                if config.ema:
                    average.update_parameters(model)
                rate = schedule.get_last_lr()[0]
                schedule.step()
                seconds, began = time.perf_counter() - began, time.perf_counter()
                row = {
                    "step": step,
                    "loss": value,
                    "lr": rate,
                    "grad_norm": norm,
                    "logit_scale": model.logit_scale.item(),
                    "pairs_per_second": config.batch_size * processes / seconds,
                    "flops_per_second": flops * processes / seconds,
                    "matrix_share": flops / seconds / attainable,
                }
                if validate is not None and (step % config.validate_every == 0 or step == config.steps):
                    row["validation"] = _judge(accelerator, averaged, validate)
                    if row["validation"] > best:
                        best = row["validation"]
                        if accelerator.is_main_process:
                            folder.save_best(averaged)
                    began = time.perf_counter()
                history.append(row)
                if accelerator.is_main_process:
                    log.write(json.dumps(row) + "\n")
                accelerator.log({key: number for key, number in row.items() if key != "step"}, step=step)
                bar.update()
                bar.set_postfix(loss=f"{value:.3f}")
                if step == config.steps:
                    break
                late = minutes() - saved_at >= config.checkpoint_minutes
                if broadcast(torch.tensor(late, device=accelerator.device)).item():  # all save, or none
                    progress = {"step": step, "epoch": epoch, "batch": batch, "best": best}
                    if streamed:
                        progress["stream"] = gather_object([loader.state_dict()])
                    folder.save_checkpoint(partial(_save_state, accelerator), progress, accelerator.is_main_process)
                    accelerator.wait_for_everyone()
                    saved_at = minutes()
            if len(history) == before and done_in_epoch == 0:
                raise TrainingError(
                    f"no whole batch of {config.batch_size} pairs in the data set (epoch {epoch}): "
                    "lower batch_size or give more photos"
                )
            done_in_epoch = 0

    if config.ema:
        model.load_state_dict(averaged.state_dict())
    model.eval()
    if validate is not None and config.steps:
        if accelerator.is_main_process:
            model.save_pretrained(str(folder.path / "last"))
        accelerator.wait_for_everyone()
        model.load_state_dict(ExifLang.from_pretrained(str(folder.best)).state_dict())
    left_out = sum(gather_object([loader.left_out]), Counter()) if streamed else None
    if accelerator.is_main_process:
        if streamed:
            folder.save_left_out(left_out)
        folder.finish(model)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return history


def _loader(
    dataset: Dataset, sampler: Sampler | None, config: TrainConfig, accelerator: Accelerator
) -> DataLoader | StreamLoader:
    """Batches of this process; a `DataLoader` has yet to be prepared, which shares it among processes."""
    if isinstance(dataset, StreamDataset):
        if sampler is not None:
            raise ValueError("a stream has its own order: leave out the sampler, or index the shards with PatchDataset")
        return StreamLoader(
            dataset,
            config.batch_size,
            collate,
            workers=config.workers,
            process_index=accelerator.process_index,
            processes=accelerator.num_processes,
            device=accelerator.device,
        )
    return DataLoader(
        dataset,
        batch_size=config.batch_size,
        # an empty data set cannot be shuffled
        shuffle=sampler is None and not isinstance(dataset, IterableDataset) and len(dataset) > 0,
        sampler=sampler,
        drop_last=True,
        collate_fn=collate,
        num_workers=config.workers,  # anew each epoch, not persistent: they must see what `set_epoch` did
        pin_memory=accelerator.device.type == "cuda",
        generator=torch.Generator(),  # its own: a resumed epoch must not take numbers from those of dropout
    )


def minutes() -> float:
    """A clock that only goes forward."""
    return time.monotonic() / 60


def _save_state(accelerator: Accelerator, folder: str) -> None:
    accelerator.save_state(folder)
    accelerator.wait_for_everyone()  # each process writes its own random state


def _judge(accelerator: Accelerator, model: ExifLang, validate: Callable[[ExifLang], float]) -> float:
    """The main process's verdict, known to all."""
    verdict = torch.zeros((), dtype=torch.float64, device=accelerator.device)
    if accelerator.is_main_process:
        training = model.training
        verdict += validate(model.eval())
        model.train(training)
    return broadcast(verdict).item()


def _diverged(
    what: str, value: float, step: int, folder: RunFolder, patches: Tensor, sentences: list[str], process: int
) -> TrainingError:
    place = folder.path / f"bad_batch{process or ''}.safetensors"
    save_file({"patches": patches.cpu().contiguous()}, place, {"sentences": json.dumps(sentences), "step": str(step)})
    kept = f"the last checkpoint is in {folder.checkpoint}" if folder.checkpoint.exists() else "no checkpoint yet"
    advice = "lower learning_rate, or use mixed_precision 'no', in an empty folder"
    return TrainingError(f"the {what} is {value} at step {step}, its batch is in {place}: {advice}; {kept}")


def _settings(
    model: ExifLang, dataset: Dataset, config: TrainConfig, sampler: Sampler | None, processing: Processing | None
) -> dict[str, Any]:
    """What makes this run this run."""
    fields = {name: getattr(model.config, name) for name in type(model.config).__annotations__}
    data = getattr(dataset, "fingerprint", None)
    chosen = dataclasses.asdict(config)
    for name in ("fast", "gradient_checkpointing", "compile"):  # else runs from before there was a choice differ
        if chosen[name] == getattr(TrainConfig, name):
            del chosen[name]
    settings = {"train": chosen, "model": fields, "data": data}
    if sampler is not None:
        settings["sampler"] = getattr(sampler, "settings", type(sampler).__name__)
    if processing is not None:
        settings["processing"] = dataclasses.asdict(processing)
    return settings


if __name__ == "__main__":
    import sys

    from exiflang.recipe import main  # which builds on this module

    sys.exit(main())
