"""Trains a learned readout for a model: composites are measured once and cached; small networks are trained on them.

`02_train` calls this if `readout_pictures` is set. The folder holds `readout_config.json`, the settings; `readout/`,
with the measured pictures and checkpoints, while it runs; and finally the weights and `readout_log.jsonl`, with a line
per epoch and network. An interrupted run resumes; equal arguments give equal weights on the same machine.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm.auto import tqdm

from exiflang.data.composites import CompositeDataset
from exiflang.localization.learned_readout import FILE, LearnedReadout
from exiflang.models.weights import load_model, weights_sha256
from exiflang.training.measured import Measured, measure_pictures, read_measured
from exiflang.training.run_folder import TrainingError
from exiflang.utils.files import read_json, write_json, write_whole
from exiflang.utils.locks import hold
from exiflang.utils.processes import worker_pool

#: Every n-th picture is held out for validation.
VALIDATE = 12
#: In training, windows are compared with at most this many references, drawn again for each step, which halves the
#: time.
MOST_REFERENCES = 256
#: The moving average of weights spans at most one n-th of a run.
AVERAGED = 16
#: Maximum number of windows on either side of the ranked pairs.
MOST_RANKED = 160
#: Fraction of windows, those with the highest logits, whose mean predicts in the loss whether the picture is spliced.
HIGHEST = 0.02


@dataclass(frozen=True)
class ReadoutConfig:
    """Settings for training a readout.

    Args:
        epochs: passes over the pictures.
        batch_size: pictures per step.
        learning_rate: peak of a one-cycle schedule.
        ema: decay per step of the moving average of weights, which is the result; lowered in a run so short that the
            average would still contain its first steps.
        noise: random offset of each map of a picture, and of its numbers, in standard deviations over all pictures;
            without it, the network memorizes a thousand pictures.
        rank_weight: weight of the ranking loss of pairs of a tampered and an untampered window, relative to the
            per-window loss; it gives each picture equal weight, whatever its region's size or the readout's confidence.
        picture_weight: weight of the per-picture loss, which pushes down the highest windows of authentic pictures.
        networks: number of independently trained networks, whose mean is the readout.
        seed: for weights, order and flips.
    """

    epochs: int = 4
    batch_size: int = 8
    learning_rate: float = 2e-3
    ema: float = 0.995
    noise: float = 0.1
    rank_weight: float = 0.5
    picture_weight: float = 0.2
    networks: int = 2
    seed: int = 0


def train_readout(
    folder: str | Path, model: str, dataset: CompositeDataset, config: ReadoutConfig, workers: int = 1
) -> list[dict[str, Any]]:
    """Train a readout for a model, save it in `folder`, and return its log, one dict per epoch and network.

    An existing readout with the same settings is kept. model: see `load_model`; usually `folder` itself.
    workers: processes that generate and measure pictures, and train networks.

    Raises `TrainingError` if the folder holds a readout with different settings or is in use by another run, and for a
    data set without pictures; `OSError` or `ValueError` if the model does not exist or does not fit.
    """
    if not len(dataset):
        raise TrainingError("the data set has no pictures to train a readout on: its length must be at least 1")
    folder = Path(folder)
    log = folder / "readout_log.jsonl"
    if not (folder / FILE).exists():
        load_model(model)  # fails here, before anything is written, not in the workers
    settings = {"weights": weights_sha256(model) or model, "pictures": dataset.settings, "config": asdict(config)}
    finished = (folder / FILE).exists()  # its folder may be read-only
    with nullcontext() if finished else hold(folder / ".readout.lock", str(folder), TrainingError):
        _claim(folder, json.loads(json.dumps(settings)))
        if (folder / FILE).exists():
            shutil.rmtree(folder / "readout", ignore_errors=True)  # left over if a run was killed at its very end
            return _read_log(log)
        measured = measure_pictures(folder / "readout" / "pictures", model, dataset, workers)
        fresh = folder / "readout"
        readout, lines = fit_readout(fresh, measured, config, workers)
        write_whole(log, "".join(json.dumps(line) + "\n" for line in lines).encode())
        readout.save(fresh)
        (fresh / FILE).replace(folder / FILE)
        shutil.rmtree(fresh)
        return _read_log(log)


def fit_readout(
    folder: Path, measured: list[Path], config: ReadoutConfig, workers: int = 1
) -> tuple[LearnedReadout, list[dict[str, Any]]]:
    """A readout trained on the files of `measure_pictures`, and its log; checkpoints are in `folder`.

    Networks are trained independently, in separate processes if there are enough `workers`.
    """
    numbers = range(config.networks)
    if workers > 1 and config.networks > 1:
        with worker_pool(min(workers, config.networks)) as pool:
            list(pool.map(_fit_here, *zip(*((folder, measured, config, number) for number in numbers), strict=True)))
    runs = [_fit(folder, measured, config, number) for number in numbers]  # trained elsewhere: loaded
    readout = runs[0].fitted
    readout.networks = nn.ModuleList(run.fitted.networks[0] for run in runs)
    return readout, [line for run in runs for line in run.log]


def _fit(folder: Path, measured: list[Path], config: ReadoutConfig, number: int) -> _Run:
    """Train one network to the end, on one thread because its matrix products are too small for more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run = _Run(folder, measured, config, number)
        run.finish()
        return run
    finally:
        torch.set_num_threads(threads)


def _fit_here(folder: Path, measured: list[Path], config: ReadoutConfig, number: int) -> None:
    """Entry point of a worker process, whose result is in the checkpoint."""
    _fit(folder, measured, config, number)


def _claim(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings to a folder; raises if it holds a readout, finished or not, with different settings."""
    place = folder / "readout_config.json"
    folder.mkdir(parents=True, exist_ok=True)
    if not ((folder / FILE).exists() or (folder / "readout").exists()):
        write_json(place, settings)
    elif not place.exists() or read_json(place) != settings:
        advice = f"choose a different folder, or remove {FILE} and the folder readout from it"
        raise TrainingError(f"{folder} holds a readout with different settings ({place.name}): {advice}")


def _read_log(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


class _Run:
    """Training of one network, from its checkpoint on; the log has one dict per epoch."""

    def __init__(self, folder: Path, files: list[Path], config: ReadoutConfig, number: int):
        self.place, self.config, self.number = folder / f"network-{number}.pt", config, number
        validating = range(VALIDATE // 2, len(files), VALIDATE)
        self.validation = [files[number] for number in validating]
        self.files = [file for number, file in enumerate(files) if number not in validating]
        self.steps = max(1, len(self.files) // config.batch_size)
        torch.manual_seed(self._seed())
        self.readout, self.of_picture = LearnedReadout(networks=1), nn.Linear(1, 1)
        nn.init.ones_(self.of_picture.weight)  # higher windows make a tampered picture likelier
        self.learns = [*self.readout.parameters(), *self.of_picture.parameters()]
        self.optimizer = torch.optim.AdamW(self.learns, config.learning_rate, weight_decay=0.02)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, config.learning_rate, total_steps=config.epochs * self.steps, pct_start=0.15
        )
        decay = min(config.ema, max(0.0, 1 - AVERAGED / (config.epochs * self.steps)))
        self.averaged = AveragedModel(self.readout, multi_avg_fn=get_ema_multi_avg_fn(decay))
        self.parts = {
            "readout": self.readout,
            "of_picture": self.of_picture,
            "averaged": self.averaged,
            "optimizer": self.optimizer,
            "schedule": self.schedule,
        }
        self.log: list[dict[str, Any]] = []

    @property
    def fitted(self) -> LearnedReadout:
        """The readout with the averaged weights so far."""
        return cast("LearnedReadout", self.averaged.module).eval()  # torch types it as a plain Module

    def finish(self) -> None:
        """Train to the end."""
        self._resume()
        if not self.log:
            self._standardize()
        for epoch in range(len(self.log), self.config.epochs):
            loss = self._epoch(epoch)
            found = validate(self.fitted, self.validation)
            self.log.append({"network": self.number, "epoch": epoch, "loss": loss, **found})
            self._keep()

    def _seed(self, *more: int) -> int:
        """A seed for torch that a resumed run reproduces."""
        return int(np.random.default_rng([self.config.seed, self.number, *more]).integers(2**62))

    def _standardize(self) -> None:
        """Set mean and deviation of all maps and numbers, weighting pictures equally."""
        some = [read_measured(file) for file in self.files]
        maps = torch.cat([picture.maps.flatten(0, 1)[::7] for picture in some])
        pictures = torch.stack([picture.picture for picture in some])
        for module in (self.readout, self.averaged.module):
            for name, values in (("maps", maps), ("picture", pictures)):
                getattr(module, f"{name}_mean").copy_(values.mean(0))
                getattr(module, f"{name}_deviation").copy_(values.std(0, correction=0) + 1e-4)

    def _epoch(self, epoch: int) -> float:
        """One pass over the pictures; returns the mean loss."""
        torch.manual_seed(self._seed(epoch))
        rng = np.random.default_rng(self._seed(epoch, 1))
        order = rng.permutation(len(self.files))
        size, total = self.config.batch_size, 0.0
        self.readout.train()
        for step in tqdm(range(self.steps), unit=" steps", desc=f"epoch {epoch + 1} of {self.config.epochs}"):
            part = [self.files[i] for i in order[step * size : (step + 1) * size]]
            losses = [self._loss(read_measured(file).turned(rng)) for file in part]
            loss = torch.stack(losses).mean()
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.learns, 1.0)
            self.optimizer.step()
            self.schedule.step()
            self.averaged.update_parameters(self.readout)
            total += float(loss.detach())
        return total / self.steps

    def _loss(self, picture: Measured) -> Tensor:
        """Cross-entropy of windows against their tampered fractions, of ranked pairs, and of the picture."""
        inputs, noise, readout, config = picture.inputs(MOST_REFERENCES), self.config.noise, self.readout, self.config
        maps = inputs.maps + noise * torch.randn(inputs.maps.shape[2]) * readout.maps_deviation
        numbers = inputs.picture + noise * torch.randn(len(inputs.picture)) * readout.picture_deviation
        windows = readout(replace(inputs, maps=maps, picture=numbers))
        highest = windows.flatten().topk(max(1, round(HIGHEST * windows.numel()))).values
        whole = self.of_picture(highest.mean()[None])[0]
        shares, cross_entropy = picture.shares, F.binary_cross_entropy_with_logits
        tampered = (shares.max() > 0).float()
        loss = cross_entropy(windows, shares) + config.picture_weight * cross_entropy(whole, tampered)
        inside, outside = (windows.flatten()[_drawn(those)] for those in (shares > 0.5, shares < 0.5))
        if len(inside) and len(outside):
            loss = loss + config.rank_weight * F.softplus(outside[None] - inside[:, None]).mean()
        return loss

    def _resume(self) -> None:
        """Resume from the checkpoint, if there is one."""
        if not self.place.exists():
            return
        state = torch.load(self.place, weights_only=True)
        for name, part in self.parts.items():
            part.load_state_dict(state[name])  # type: ignore[attr-defined]  # all five have it
        self.log = state["log"]

    def _keep(self) -> None:
        """Write a checkpoint, including the log."""
        packed = io.BytesIO()
        states = {name: part.state_dict() for name, part in self.parts.items()}  # type: ignore[attr-defined]
        torch.save({"log": self.log, **states}, packed)
        write_whole(self.place, packed.getvalue())


def _drawn(windows: Tensor) -> Tensor:
    """Indices of at most `MOST_RANKED` of the windows that are true, drawn at random: int64 [k]."""
    found = windows.flatten().nonzero()[:, 0]
    return found[torch.randperm(len(found))[:MOST_RANKED]]


@torch.inference_mode()
def validate(readout: LearnedReadout, files: list[Path]) -> dict[str, float]:
    """Validation scores on pictures that were not trained on.

    window_ap: mean AP of windows, over spliced pictures; detection_ap: AP of pictures. Undefined scores are omitted.
    """
    from sklearn.metrics import average_precision_score

    readout.eval()
    windows, scores, tampered = [], [], []
    for file in files:
        picture = read_measured(file)
        logits = readout(picture.inputs())
        truth = (picture.shares > 0.5).numpy().ravel()
        scores.append(float(logits.max()))
        tampered.append(bool(picture.shares.max() > 0))
        if truth.any() and not truth.all():
            windows.append(average_precision_score(truth, logits.numpy().ravel()))
    found = {"window_ap": float(np.mean(windows))} if windows else {}
    if len(set(tampered)) == 2:
        found["detection_ap"] = float(average_precision_score(tampered, scores))
    return found
