"""Training data of a readout: composites, generated, measured by a model's localizer, and cached in files."""

from __future__ import annotations

import io
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from exiflang.data.composites import CompositeDataset
from exiflang.localization.evidence import WindowMeans, read_history
from exiflang.localization.learned_readout import Inputs, readout_inputs
from exiflang.localization.localizer import SpliceLocalizer
from exiflang.localization.relations import reference_windows, smooth_unit
from exiflang.localization.result import Observation
from exiflang.models.weights import load_model
from exiflang.utils.files import write_whole
from exiflang.utils.images import load_image
from exiflang.utils.processes import worker_pool


@dataclass(frozen=True, eq=False)
class Measured:
    """Cached measurements of a composite of rows x cols windows.

    Attributes:
        maps: float32 [rows, cols, M], and `picture`: float32 [P], as in `Inputs`.
        embeddings: float16 [rows, cols, D].
        shares: float32 [rows, cols], tampered fraction of each window, 0..1.
    """

    maps: Tensor
    picture: Tensor
    embeddings: Tensor
    shares: Tensor

    def turned(self, rng: np.random.Generator) -> Measured:
        """A randomly flipped and transposed version."""
        windows = [self.maps, self.embeddings, self.shares]
        for axis in (0, 1):
            if rng.random() < 0.5:
                windows = [values.flip(axis) for values in windows]
        if rng.random() < 0.5:
            windows = [values.transpose(0, 1) for values in windows]
        return Measured(windows[0], self.picture, windows[1], windows[2])

    def inputs(self, most: int | None = None) -> Inputs:
        """Input of a network; with `most`, at most that many references, drawn at random."""
        references = reference_windows(*self.shares.shape)
        if most is not None and len(references) > most:
            references = references[torch.randperm(len(references))[:most].sort().values]
        centered = smooth_unit(self.embeddings.float())[1]
        return Inputs(self.maps, self.picture, centered @ centered[references].T, references)


_KEPT = tuple(entry.name for entry in fields(Measured))


def measure_pictures(place: Path, model: str, dataset: CompositeDataset, workers: int = 1) -> list[Path]:
    """The files of all pictures of a data set in the folder `place`; missing ones are generated and measured."""
    place.mkdir(parents=True, exist_ok=True)
    files = [place / f"{number:05d}.npz" for number in range(len(dataset))]
    missing = [number for number, file in enumerate(files) if not file.exists()]
    if not missing:
        return files
    with worker_pool(workers, _start, model, dataset) as pool:
        done = pool.map(_measure, missing, [files[number] for number in missing], chunksize=4)
        for _ in tqdm(done, total=len(missing), unit=" pictures"):
            pass
    return files


_worker: dict[str, Any] = {}


def _start(model: str, dataset: CompositeDataset) -> None:
    """Set up a process: one thread, the model, the data set."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    _worker.update(localizer=SpliceLocalizer(load_model(model), readout="diffused_cut"), dataset=dataset)


def _measure(number: int, file: Path) -> None:
    """Generate and measure picture `number`, and write it for `read_measured`."""
    composite = _worker["dataset"][number]
    image = load_image(composite.data)
    seen = _worker["localizer"].observe(image, read_history(composite.data), calibrated=True)
    write_measured(file, measure(seen, composite.mask))


def measure(seen: Observation, mask: np.ndarray) -> Measured:
    """The training data of an observed picture whose tampered pixels, bool [H, W], are known."""
    inputs = readout_inputs(seen.relations, seen.evidence)
    shares = WindowMeans(seen.height, seen.width, seen.window, seen.stride)(mask)
    embeddings = torch.from_numpy(seen.embeddings).half()
    return Measured(inputs.maps, inputs.picture, embeddings, torch.from_numpy(shares))


def write_measured(file: Path, picture: Measured) -> None:
    """Write a measured picture to a file."""
    packed = io.BytesIO()
    np.savez(packed, **{name: getattr(picture, name).numpy() for name in _KEPT})
    write_whole(file, packed.getvalue())


def read_measured(file: Path) -> Measured:
    """Read a file written by `write_measured`."""
    with np.load(file) as arrays:
        return Measured(**{name: torch.from_numpy(arrays[name]) for name in _KEPT})
