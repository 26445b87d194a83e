"""One resumable training loop on Accelerate (recipe: paper, section 3.3): claim, build, resume, loop, finish."""

import dataclasses
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import ExitStack, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler
from tqdm.auto import tqdm

from exiflang.data.augmentation import Augmentation
from exiflang.data.streaming import StreamDataset, StreamLoader
from exiflang.models.model import ExifLang
from exiflang.training.config import TrainConfig
from exiflang.training.memory import checkpointed
from exiflang.training.optimizer import compile_towers, make_optimizer
from exiflang.training.run_folder import RunFolder, TrainingError
from exiflang.training.step import TrainStep
from exiflang.utils.extras import extra
from exiflang.utils.hardware import has_fast_bf16, matrix_rate

with extra("train"):
    from accelerate import Accelerator, DataLoaderConfiguration, skip_first_batches
    from accelerate.state import AcceleratorState
    from accelerate.utils import broadcast, gather_object, set_seed

DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def train(
    model: ExifLang,
    dataset: Dataset,
    config: TrainConfig,
    out_dir: str | Path,
    *,
    sampler: Sampler[int] | None = None,
    augmentation: Augmentation | None = None,
    validate: Callable[[ExifLang], float] | None = None,
) -> list[dict[str, float]]:
    """Train `model` in place, save it (the best weights if `validate` is given) in a `RunFolder`, and return the log.

    Called again with the same arguments, an interrupted run resumes from its last checkpoint, with the same result as
    an uninterrupted one; a finished run is loaded, not repeated. Across several processes (`accelerate launch`), each
    draws `batch_size` photos, and all pairs are contrasted with each other.

    Args:
        model: a model with a tokenizer.
        dataset: map-style or iterable, of `(patch, sentence)`: uint8 (or float in 0..1) [3, P, P], or [V, 3, P, P] for
            V views of one photo, and a str. If it has them, its `set_epoch(int)` is called before each epoch, and its
            `fingerprint` (a str that changes with the data) keeps `out_dir` from being reused with different data. A
            run resumes exactly if items depend only on epoch and index, not on global random state.
        sampler: order of a map-style data set, e.g. a `CameraSampler`; None: shuffled.
        augmentation: transforms a batch's patches and records this in its sentences.
        validate: computes a validation score of a model in evaluation mode, higher is better, in the main process only;
            it must not use global random numbers.

    The log has one dict per step, see `Run.step`. Raises `TrainingError` if there are fewer items than a batch, if
    items are not such pairs, if `out_dir` belongs to a different run or is in use, if a loss or gradient is not finite
    (the batch is saved as `out_dir/bad_batch.safetensors`) or the disk is full; `ValueError` for settings that do not
    fit the model or the data; `DataError` for a stream that cannot be read.
    """
    folder = RunFolder(out_dir)
    accelerator = _accelerator(model, config, folder)
    alone = accelerator.is_main_process and not folder.weights.exists()
    with folder.held() if alone else nullcontext():
        if accelerator.is_main_process:
            folder.claim(_settings(model, dataset, config, sampler, augmentation))
        accelerator.wait_for_everyone()
        if folder.weights.exists():
            folder.load_finished(model)
            return folder.read_log()
        run = Run(model, dataset, config, folder, accelerator, sampler, augmentation, validate)
        run.resume()
        run.loop()
        return run.finish()


@dataclasses.dataclass
class Run:
    """A training run in progress; see `train` for its arguments."""

    model: ExifLang
    dataset: Dataset
    config: TrainConfig
    folder: RunFolder
    accelerator: Accelerator
    sampler: Sampler[int] | None
    augmentation: Augmentation | None
    validate: Callable[[ExifLang], float] | None

    def __post_init__(self) -> None:
        model, config, accelerator = self.model, self.config, self.accelerator
        set_seed(config.seed)
        optimizer, schedule = make_optimizer(model, config, accelerator.num_processes)
        self.average: AveragedModel | None = None
        if config.ema:  # averages the weights and batch norm's statistics
            average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema), use_buffers=True)
            self.average = average.to(accelerator.device)
            accelerator.register_for_checkpointing(self.average)
        self.result: Any = model if self.average is None else self.average.module  # the model to validate and save
        if config.compile:
            compile_towers(model)
        loader = _loader(self.dataset, self.sampler, config, accelerator)
        wrapped, self.optimizer, self.loader, self.schedule = accelerator.prepare(model, optimizer, loader, schedule)
        self.back_propagate = TrainStep(model, wrapped, accelerator, config)

    def resume(self) -> None:
        """Resume from the last checkpoint, or start."""
        self.progress = self.folder.resume(self.accelerator, self.loader)
        self.rows = self.folder.read_log()
        # tensorboard only: drops later steps, which will be repeated
        options = {"tensorboard": {"purge_step": self.progress.step}}
        self.accelerator.init_trackers("tensorboard", init_kwargs=options)

    def loop(self) -> None:
        """Run the remaining steps, with validation and checkpoints."""
        self.attainable = matrix_rate(self.accelerator.device, DTYPES[self.accelerator.mixed_precision])
        self.model.train()
        main, steps = self.accelerator.is_main_process, self.config.steps
        with (
            ExitStack() as opened,
            open(self.folder.log, "a", encoding="utf-8", buffering=1) as log,  # line-buffered, for tail -f
            tqdm(total=steps, initial=self.progress.step, desc="train", disable=not main) as bar,
        ):
            for tower in self.model.towers.values() if self.config.gradient_checkpointing else ():
                opened.enter_context(checkpointed(tower))
            self.saved_at = minutes()
            for patches, sentences in islice(self.batches(), steps - self.progress.step):
                row = self.step(patches, sentences)
                due = row["step"] % self.config.validate_every == 0 or row["step"] == steps
                if self.validate is not None and due:
                    row["validation"] = self.score(self.validate)
                self.rows.append(row)
                if main:
                    log.write(json.dumps(row) + "\n")
                self.accelerator.log({key: number for key, number in row.items() if key != "step"}, step=row["step"])
                bar.update()
                bar.set_postfix(loss=f"{row['loss']:.3f}")
                if row["step"] < steps:
                    self.checkpoint()

    def batches(self) -> Iterator[tuple[Tensor, list[str]]]:
        """Endless batches, epoch after epoch, starting at `progress`, which is updated."""
        while True:
            for part in (self.dataset, self.loader):
                if hasattr(part, "set_epoch"):
                    part.set_epoch(self.progress.epoch)
            behind = 0 if isinstance(self.loader, StreamLoader) else self.progress.batch  # a stream resumes by itself
            self.began = time.perf_counter()
            for batch in skip_first_batches(self.loader, behind) if behind else self.loader:
                self.progress.batch += 1
                yield batch
            if self.progress.batch == 0:
                raise TrainingError(
                    f"less than one batch of {self.config.batch_size} pairs in the data set (epoch "
                    f"{self.progress.epoch}): lower batch_size or add photos"
                )
            self.progress.epoch, self.progress.batch = self.progress.epoch + 1, 0

    def step(self, patches: Tensor, sentences: list[str]) -> dict[str, float]:
        """Take one step on a batch of this process, and return its log entry.

        Keys: step (from 1), loss, lr, grad_norm (before clipping), logit_scale; pairs_per_second and flops_per_second
        (the model's, see `StepFlops`) over all processes; and matrix_share: flops of one process relative to the main
        process's rate on a large matrix product (0..1, up to noise).
        """
        config, accelerator = self.config, self.accelerator
        self.progress.step += 1
        if self.augmentation is not None:
            seed = (config.seed, self.progress.step)
            patches, sentences = self.augmentation(patches, sentences, seed, accelerator.process_index)
        if patches.ndim == 4:
            patches = patches.unsqueeze(1)  # [B, 3, P, P] -> [B, 1, 3, P, P]
        self.optimizer.zero_grad()
        loss, flops = self.back_propagate(patches, sentences)
        # over all pairs, equal in every process
        value, flops = accelerator.reduce(torch.stack([loss, loss.new_tensor(flops)]), "mean").tolist()
        self.must_be_finite("loss", value, patches, sentences)
        norm = float(accelerator.clip_grad_norm_(self.model.parameters(), config.max_grad_norm))
        if accelerator.scaler is None:  # fp16's scaler skips such steps itself
            self.must_be_finite("gradient norm", norm, patches, sentences)
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.model)
        rate = self.schedule.get_last_lr()[0]
        self.schedule.step()
        seconds, self.began = time.perf_counter() - self.began, time.perf_counter()
        return {
            "step": self.progress.step,
            "loss": value,
            "lr": rate,
            "grad_norm": norm,
            "logit_scale": self.model.logit_scale.item(),
            "pairs_per_second": config.batch_size * accelerator.num_processes / seconds,
            "flops_per_second": flops * accelerator.num_processes / seconds,
            "matrix_share": flops / seconds / self.attainable,
        }

    def must_be_finite(self, what: str, value: float, patches: Tensor, sentences: list[str]) -> None:
        """Unless `value` is finite, save the batch and raise `TrainingError`."""
        if math.isfinite(value):
            return
        step, folder = self.progress.step, self.folder
        place = folder.path / f"bad_batch{self.accelerator.process_index or ''}.safetensors"
        notes = {"sentences": json.dumps(sentences), "step": str(step)}
        save_file({"patches": patches.cpu().contiguous()}, place, notes)
        kept = f"the last checkpoint is in {folder.checkpoint}" if folder.checkpoint.exists() else "no checkpoint yet"
        advice = "lower learning_rate, or use mixed_precision 'no', in an empty folder"
        raise TrainingError(f"the {what} is {value} at step {step}; its batch is in {place}: {advice}; {kept}")

    def score(self, validate: Callable[[ExifLang], float]) -> float:
        """The main process's validation score, broadcast to all; saves the weights if they are the best so far."""
        found = torch.zeros((), dtype=torch.float64, device=self.accelerator.device)
        if self.accelerator.is_main_process:
            training = self.result.training
            found += validate(self.result.eval())
            self.result.train(training)
        score = broadcast(found).item()
        if score > self.progress.best:
            self.progress.best = score
            if self.accelerator.is_main_process:
                self.folder.save_best(self.result)
        self.began = time.perf_counter()
        return score

    def checkpoint(self) -> None:
        """Save everything the run needs to resume, if a checkpoint is due."""
        late = minutes() - self.saved_at >= self.config.checkpoint_minutes
        if not broadcast(torch.tensor(late, device=self.accelerator.device)).item():  # all processes save, or none
            return
        if isinstance(self.loader, StreamLoader):
            self.progress.stream = gather_object([self.loader.state_dict()])
        self.folder.save_checkpoint(self.accelerator, self.progress)
        self.saved_at = minutes()

    def finish(self) -> list[dict[str, float]]:
        """Write the result to `model` and to the folder; returns the log."""
        model, folder, main = self.model, self.folder, self.accelerator.is_main_process
        model.load_state_dict(self.result.state_dict())
        model.eval()
        if self.validate is not None and self.config.steps:
            if main:
                model.save_pretrained(str(folder.path / "last"))
            self.accelerator.wait_for_everyone()
            model.load_state_dict(ExifLang.from_pretrained(str(folder.best)).state_dict())
        if isinstance(self.loader, StreamLoader):
            left_out: Counter[str] = sum(gather_object([self.loader.left_out]), Counter())
            if main:
                folder.save_left_out(left_out)
        if main:
            folder.finish(model)
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()
        return self.rows


def collate(pairs: Sequence[tuple[Tensor, str]]) -> tuple[Tensor, list[str]]:
    """Pairs → patches uint8 or float [B, 3, P, P] or [B, V, 3, P, P], and B sentences.

    Raises `TrainingError` if an item is not such a pair.
    """
    for pair in pairs:
        kinds = [type(part) for part in pair] if isinstance(pair, Sequence) else [type(pair)]
        if len(kinds) != 2 or not issubclass(kinds[0], Tensor) or not issubclass(kinds[1], str):
            names = ", ".join(kind.__name__ for kind in kinds)
            raise TrainingError(f"the data set gives ({names}): each item must be a pair (patch tensor, sentence str)")
    if len(shapes := {tuple(patch.shape) for patch, _ in pairs}) > 1:
        raise TrainingError(f"the data set gives patches of different shapes, {sorted(shapes)}: crop them to one size")
    return torch.stack([patch for patch, _ in pairs]), [sentence for _, sentence in pairs]


def minutes() -> float:
    """A monotonic clock."""
    return time.monotonic() / 60


def _accelerator(model: ExifLang, config: TrainConfig, folder: RunFolder) -> Accelerator:
    if (config.loss == "sigmoid") != (model.config.logit_bias is not None):
        raise ValueError("loss='sigmoid' needs a model whose configuration has a logit_bias, 'infonce' one without it")
    precision = config.mixed_precision
    if precision == "auto":
        precision = "bf16" if has_fast_bf16("cuda" if torch.cuda.is_available() else "cpu") else "no"
    AcceleratorState._reset_state()  # or the precision of an earlier run would persist
    return Accelerator(
        mixed_precision=precision,
        dataloader_config=DataLoaderConfiguration(
            dispatch_batches=False, use_seedable_sampler=True, data_seed=config.seed, non_blocking=True
        ),
        log_with=None if config.tracker == "none" else config.tracker,
        project_dir=str(folder.path),
    )


def _loader(
    dataset: Dataset, sampler: Sampler | None, config: TrainConfig, accelerator: Accelerator
) -> DataLoader | StreamLoader:
    """Batches of this process; a `DataLoader` must still be prepared, which splits it among processes."""
    if isinstance(dataset, StreamDataset):
        if sampler is not None:
            raise ValueError("a stream has a fixed order: omit the sampler, or index the shards with PatchDataset")
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
        # shuffling fails for an empty data set
        shuffle=sampler is None and not isinstance(dataset, IterableDataset) and len(cast(Sized, dataset)) > 0,
        sampler=sampler,
        drop_last=True,
        collate_fn=collate,
        num_workers=config.workers,  # not persistent: new workers see the result of `set_epoch`
        pin_memory=accelerator.device.type == "cuda",
        generator=torch.Generator(),  # separate, so that resuming does not shift dropout's random numbers
    )


def _settings(
    model: ExifLang, dataset: Dataset, config: TrainConfig, sampler: Sampler | None, augmentation: Augmentation | None
) -> dict[str, Any]:
    """The settings that identify the run."""
    fields = {name: getattr(model.config, name) for name in type(model.config).__annotations__}
    data = getattr(dataset, "fingerprint", None)
    later = ("fast", "gradient_checkpointing", "compile")  # missing in runs older than these settings
    chosen = {k: v for k, v in dataclasses.asdict(config).items() if k not in later or v != getattr(TrainConfig, k)}
    settings = {"train": chosen, "model": fields, "data": data}
    if sampler is not None:
        settings["sampler"] = getattr(sampler, "settings", type(sampler).__name__)
    if augmentation is not None:
        settings["augmentation"] = dataclasses.asdict(augmentation)
    return settings
