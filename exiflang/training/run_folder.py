"""The folder of a training run: its settings, log, checkpoint, and best and final weights.

Everything is written to a temporary name and renamed when complete, so a kill or a full disk leaves the old state.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from torch.utils.data import DataLoader

from exiflang.data.streaming import StreamLoader
from exiflang.models.model import ExifLang
from exiflang.utils.commands import RunError
from exiflang.utils.files import printable, read_json, write_json, write_whole
from exiflang.utils.locks import hold

if TYPE_CHECKING:
    from accelerate import Accelerator


class TrainingError(RunError):
    """Training cannot start or continue; the message says why and what to do."""


@dataclass
class Progress:
    """Progress of a run; each checkpoint stores it as `progress.json`.

    Attributes:
        step: optimizer steps done.
        epoch, batch: the current epoch, and its batches done.
        best: best validation score so far.
        stream: each process's `StreamLoader.state_dict()`, if the data set is a stream.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    best: float = -math.inf
    stream: list[dict[str, Any]] | None = None


class RunFolder:
    """Output folder of a run.

    `path` holds `train_config.json`; `log.jsonl`, one line per step; `checkpoint/` while it runs; `best/` and `last/`
    if the run validates; for a run on a stream, `left_out.json`, counts of the photos it skipped; and finally the
    model. The weights file is written last and marks the run as complete.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.log, self.checkpoint, self.best = (self.path / name for name in ("log.jsonl", "checkpoint", "best"))
        self.weights, self.left_out = self.path / "model.safetensors", self.path / "left_out.json"

    def held(self) -> AbstractContextManager[None]:
        """A lock that keeps other runs out of the folder. Raises `TrainingError` if it is in use."""
        return hold(self.path / ".lock", str(self.path), TrainingError)

    def claim(self, settings: Mapping[str, Any]) -> None:
        """Write the settings, and clean up after a killed run.

        Raises `TrainingError` if the folder holds a checkpoint or weights of a run with different settings, and if its
        path is not UTF-8, which checkpoints and TensorBoard's files must have.
        """
        if (text := printable(self.path)) != str(self.path):
            raise TrainingError(f"{text}: not UTF-8, as the path of a training run must be: choose a different folder")
        self.path.mkdir(parents=True, exist_ok=True)
        for place in (self.checkpoint, self.best):
            settle(place)
        file, mine = self.path / "train_config.json", json.dumps(settings, default=str, indent=1)
        if not (self.weights.exists() or self.checkpoint.exists()):
            file.write_text(mine, encoding="utf-8")
        elif not file.exists() or file.read_text(encoding="utf-8") != mine:
            advice = "choose a different folder, or clear it"
            raise TrainingError(f"{self.path} holds a run with different settings ({file.name}): {advice}")

    def read_log(self) -> list[dict[str, float]]:
        """The log, one dict per step."""
        return [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]

    def resume(self, accelerator: Accelerator, loader: DataLoader | StreamLoader) -> Progress:
        """Load the last checkpoint, if any, into the objects `accelerator` prepared, and truncate the log to it.

        Raises `DataError` if a stream would resume with different shards, or numbers of processes or workers.
        """
        progress = Progress()
        if self.checkpoint.exists():
            accelerator.load_state(str(self.checkpoint))
            progress = Progress(**read_json(self.checkpoint / "progress.json"))
            if isinstance(loader, StreamLoader) and progress.stream:
                # One state per process, if the number of processes is unchanged.
                loader.load_state_dict(progress.stream[accelerator.process_index % len(progress.stream)])
        if accelerator.is_main_process:
            self._rewind_log(progress.step)
        accelerator.wait_for_everyone()
        return progress

    def _rewind_log(self, steps: int) -> None:
        """Truncate the log to its first `steps` lines, atomically; the last line of the file may be incomplete."""
        lines = self.log.read_text(encoding="utf-8").splitlines(keepends=True)[:steps] if steps else []
        write_whole(self.log, "".join(lines))

    def save_checkpoint(self, accelerator: Accelerator, progress: Progress) -> None:
        """Save the state of every process, after which the main one replaces the old checkpoint.

        Raises `TrainingError` when the disk is full; the last checkpoint then remains intact.
        """
        fresh = self.checkpoint.with_name("checkpoint.new")
        with self._room():
            accelerator.save_state(str(fresh))
            accelerator.wait_for_everyone()  # each process writes its own random state
            if accelerator.is_main_process:
                (fresh / "progress.json").write_text(json.dumps(asdict(progress)), encoding="utf-8")
                swap(fresh, self.checkpoint)
        accelerator.wait_for_everyone()

    def save_left_out(self, left_out: Mapping[str, int]) -> None:
        """Save counts of the photos a stream skipped, by reason. Raises `TrainingError` when the disk is full."""
        with self._room():
            write_json(self.left_out, left_out)

    def read_left_out(self) -> dict[str, int]:
        """The counts given to `save_left_out`; {} if there are none."""
        return read_json(self.left_out) if self.left_out.exists() else {}

    def save_best(self, model: ExifLang) -> None:
        """Save the current model as the best so far. Raises `TrainingError` when the disk is full."""
        with self._room():
            model.save_pretrained(str(self.best.with_name("best.new")))
            swap(self.best.with_name("best.new"), self.best)

    def finish(self, model: ExifLang) -> None:
        """Write the finished model and delete the checkpoint. Raises `TrainingError` when the disk is full."""
        draft = self.path / "finished"
        with self._room():
            model.save_pretrained(str(draft))
        for path in sorted(draft.iterdir(), key=lambda path: path.name == self.weights.name):
            path.replace(self.path / path.name)
        draft.rmdir()
        shutil.rmtree(self.checkpoint, ignore_errors=True)

    def load_finished(self, model: ExifLang) -> None:
        """Load the weights and the tokenizer of the finished run into `model`, in evaluation mode."""
        finished = ExifLang.from_pretrained(str(self.path))
        model.load_state_dict(finished.state_dict())
        model.tokenizer = finished.tokenizer
        model.eval()

    @contextmanager
    def _room(self) -> Iterator[None]:
        try:
            yield
        except (OSError, SafetensorError, RuntimeError) as error:  # torch.save raises the last
            for part in ("checkpoint.new", "best.new", "finished"):
                shutil.rmtree(self.path / part, ignore_errors=True)
            kept = f"{self.checkpoint} is intact" if self.checkpoint.exists() else "there is no checkpoint yet"
            advice = "free some disk space and start the same run again; it resumes from there"
            raise TrainingError(f"{self.path}: cannot be written ({error}): {kept}; {advice}") from error


def swap(fresh: Path, place: Path) -> None:
    """Replace `place` by a complete new file or folder; between the two renames, the old one is `<place>.old`."""
    old = place.with_name(f"{place.name}.old")
    if place.exists():
        place.rename(old)
    fresh.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def settle(place: Path) -> None:
    """Clean up after a kill in `swap`: restore the old state if the new one was not yet in place."""
    fresh, old = place.with_name(f"{place.name}.new"), place.with_name(f"{place.name}.old")
    if not place.exists() and old.exists():
        old.rename(place)
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
