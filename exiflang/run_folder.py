"""The folder of a training run: whose it is, its log, its checkpoint, its best and its finished weights.

Everything is written beside its place and swapped in by renames: a kill, or a disk that is full, leaves what was there.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from exiflang.model import ExifLang


class TrainingError(RuntimeError):
    """Training that cannot start or go on; the message says why and what to do."""


class RunFolder:
    """`path` holds `train_config.json`, `log.jsonl`, `checkpoint/` while it runs, `best/` if steps are judged, and at
    the end the weights of the model, whose file comes last and says that the run is whole. A run on a stream also says
    in `left_out.json` what the stream has left out."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.log, self.checkpoint, self.best = (self.path / name for name in ("log.jsonl", "checkpoint", "best"))
        self.weights, self.left_out = self.path / "model.safetensors", self.path / "left_out.json"

    def claim(self, settings: Mapping[str, Any]) -> None:
        """Refuse a folder that holds the checkpoint or the weights of other settings; tidy up after a kill.

        Raises `TrainingError`.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        for place in (self.checkpoint, self.best):
            settle(place)
        place, mine = self.path / "train_config.json", json.dumps(settings, default=str, indent=1)
        if not (self.weights.exists() or self.checkpoint.exists()):
            place.write_text(mine, encoding="utf-8")
        elif not place.exists() or place.read_text(encoding="utf-8") != mine:
            advice = "choose another folder, or clear it"
            raise TrainingError(f"{self.path} holds a run with other settings ({place.name}): {advice}")

    def read_log(self) -> list[dict[str, float]]:
        """The log, a dict a step."""
        return [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]

    def rewind_log(self, steps: int) -> None:
        """Cut the log to its first `steps` lines, the last of which may be half, in one rename."""
        lines = self.log.read_text(encoding="utf-8").splitlines(keepends=True)[:steps] if steps else []
        fresh = self.log.with_name("log.new")
        fresh.write_text("".join(lines), encoding="utf-8")
        fresh.replace(self.log)

    def save_checkpoint(self, write: Callable[[str], object], progress: Mapping[str, Any], main: bool) -> None:
        """Let every process `write(folder)` its state, and the `main` one put it in the old checkpoint's place.

        Raises `TrainingError` when the disk is full; the last checkpoint is then whole.
        """
        fresh = self.checkpoint.with_name("checkpoint.new")
        with self._room():
            write(str(fresh))
            if main:
                (fresh / "progress.json").write_text(json.dumps(progress), encoding="utf-8")
                swap(fresh, self.checkpoint)

    def read_progress(self) -> dict[str, Any]:
        """What was given to `save_checkpoint` as progress."""
        return json.loads((self.checkpoint / "progress.json").read_text(encoding="utf-8"))

    def save_left_out(self, left_out: Mapping[str, int]) -> None:
        """Count what was left out by streaming, by reason. Raises `TrainingError` when the disk is full."""
        with self._room():
            self.left_out.write_text(json.dumps(left_out, indent=1), encoding="utf-8")

    def read_left_out(self) -> dict[str, int]:
        """What was given to `save_left_out`; {} if nothing was."""
        return json.loads(self.left_out.read_text(encoding="utf-8")) if self.left_out.exists() else {}

    def save_best(self, model: ExifLang) -> None:
        """Put the model as it is in the place of the best so far. Raises `TrainingError` when the disk is full."""
        with self._room():
            model.save_pretrained(str(self.best.with_name("best.new")))
            swap(self.best.with_name("best.new"), self.best)

    def finish(self, model: ExifLang) -> None:
        """Write the finished model and drop the checkpoint. Raises `TrainingError` when the disk is full."""
        draft = self.path / "finished"
        with self._room():
            model.save_pretrained(str(draft))
        for path in sorted(draft.iterdir(), key=lambda path: path.name == self.weights.name):
            path.replace(self.path / path.name)
        draft.rmdir()
        shutil.rmtree(self.checkpoint, ignore_errors=True)

    @contextmanager
    def _room(self) -> Iterator[None]:
        try:
            yield
        except (OSError, SafetensorError, RuntimeError) as error:  # torch.save raises the last
            for part in ("checkpoint.new", "best.new", "finished"):
                shutil.rmtree(self.path / part, ignore_errors=True)
            kept = f"{self.checkpoint} is whole" if self.checkpoint.exists() else "there is no checkpoint yet"
            advice = "make room and start the same run again, it goes on from there"
            raise TrainingError(f"{self.path}: cannot be written ({error}): {kept}; {advice}") from error


def swap(fresh: Path, place: Path) -> None:
    """Put a whole new file or folder into its place; between the two renames the old one is `<place>.old`."""
    old = place.with_name(f"{place.name}.old")
    if place.exists():
        place.rename(old)
    fresh.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def settle(place: Path) -> None:
    """Tidy up after a kill in `swap`: the old state counts if the new one had not taken its place."""
    fresh, old = place.with_name(f"{place.name}.new"), place.with_name(f"{place.name}.old")
    if not place.exists() and old.exists():
        old.rename(place)
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
