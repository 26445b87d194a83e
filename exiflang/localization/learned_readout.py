"""Small networks that map relations of windows and evidence on them to one logit per window.

The readout averages two networks, which is more accurate than either. In each of a network's four blocks, a window
attends to similar windows of the whole picture, at two temperatures, and to its neighbors. A network can therefore
distinguish a small region from a large one, and a flat wall from tampering, which no fixed formula does. It never gets
embeddings or pixels, and its inputs look alike for any encoder.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from exiflang.localization.decision import Calibration
from exiflang.localization.evidence import MEANINGS, NUMBERS, Evidence
from exiflang.localization.relations import EIGENVECTORS, NAMES, Relations
from exiflang.localization.relations import MAPS as RELATIONS
from exiflang.utils.files import file_sha256, utf8_path, write_whole

#: File name in a model's folder.
FILE = "readout.safetensors"
#: Limits for a file: width, and number of blocks in all networks together.
MOST_WIDTH, MOST_BLOCKS = 1024, 64
#: The name of this readout.
LEARNED = "learned"
#: Maps whose scale depends on the number of blocks; a tenth of their values is about 1.
_HISTORIES = ("jpeg_history", "former_history")
#: Names of the input maps and numbers, in order; weight files with different names are rejected.
MAPS = (*NAMES, *MEANINGS, *(f"{name}, standardized" for name in MEANINGS), "border")
PICTURE = (
    *(f"deviation of {name}" for name in RELATIONS),
    *(f"eigenvalue {k}" for k in range(1, EIGENVECTORS + 1)),
    "log of the number of windows",
    *NUMBERS,
    *(f"log of the deviation of {name}" for name in MEANINGS),
)


@dataclass(frozen=True, eq=False)
class Inputs:
    """Input of the network for a picture of n = rows x cols windows, m of them references.

    Attributes:
        maps: float32 [rows, cols, len(MAPS)].
        picture: float32 [len(PICTURE)].
        cosine: float32 [n, m], between centered embeddings of windows and references.
        references: int64 [m], indices of the references.
    """

    maps: Tensor
    picture: Tensor
    cosine: Tensor
    references: Tensor


def readout_inputs(relations: Relations, evidence: Evidence) -> Inputs:
    """Assemble the network's input from the relations of windows and the evidence on them.

    Absent evidence maps are 0, the mean of a standardized map.
    """
    rows, cols = relations.maps.shape[:2]
    none = np.zeros((rows, cols), np.float32)
    plain = torch.from_numpy(np.stack([evidence.maps.get(name, none) for name in MEANINGS], axis=2))
    deviation = plain.std((0, 1), correction=0)
    standard = (plain - plain.mean((0, 1))) / (deviation + 1e-6)
    scale = torch.tensor([0.1 if name in _HISTORIES else 1.0 for name in MEANINGS])
    maps = torch.cat([relations.maps, plain * scale, standard, _border(rows, cols)[..., None]], 2)
    picture = torch.cat([relations.picture, torch.from_numpy(evidence.numbers), (deviation + 1e-3).log()])
    return Inputs(maps, picture, relations.cosine, relations.references)


def _border(rows: int, cols: int) -> Tensor:
    """Distance to the picture's border as a fraction of its shorter side: [rows, cols]."""
    down = torch.minimum(torch.arange(1.0, rows + 1), torch.arange(float(rows), 0, -1))  # [rows]
    across = torch.minimum(torch.arange(1.0, cols + 1), torch.arange(float(cols), 0, -1))  # [cols]
    return torch.minimum(down[:, None], across[None]) / (min(rows, cols) + 1)


class Block(nn.Module):
    """A window, averages over similar windows, and its neighborhood → two-layer perceptron, with a skip connection."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.around = nn.Conv2d(width, width, 5, padding=2, groups=width, padding_mode="replicate")
        self.mlp = nn.Sequential(nn.Linear(4 * width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor, like: Tensor, liker: Tensor, references: Tensor, rows: int) -> Tensor:
        """[n, W] → [n, W]; `like`, `liker`: weights of the references, float32 [n, m], rows sum to 1."""
        y = self.norm(x)
        around = self.around(y.T.unflatten(1, (rows, -1))[None])[0].flatten(1).T  # [n, W]
        return x + self.mlp(torch.cat([y, like @ y[references], liker @ y[references], around], 1))


class Network(nn.Module):
    """Standardized maps and numbers of a picture → logits; `blocks` hidden blocks of `width` channels."""

    def __init__(self, width: int, blocks: int):
        super().__init__()
        self.of_window, self.of_picture = nn.Linear(len(MAPS), width), nn.Linear(len(PICTURE), width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 1)

    def forward(self, inputs: Inputs, like: Tensor, liker: Tensor) -> Tensor:
        """Logits of windows, float32 [rows, cols]; `like` and `liker` as in `Block`."""
        rows = len(inputs.maps)
        x = self.of_window(inputs.maps.flatten(0, 1)) + self.of_picture(inputs.picture)  # [n, W]
        for block in self.blocks:
            x = block(x, like, liker, inputs.references, rows)
        return self.head(self.norm(x))[:, 0].view(rows, -1)


class LearnedReadout(nn.Module):
    """Inputs of a picture → logits of tampering: the mean over networks that differ in their initial weights.

    `calibration`: peaks of its logits on authentic pictures; None: not calibrated.
    """

    maps_mean: Tensor
    maps_deviation: Tensor
    picture_mean: Tensor
    picture_deviation: Tensor

    def __init__(self, width: int = 48, blocks: int = 4, networks: int = 2):
        super().__init__()
        self.width, self.depth = width, blocks
        self.calibration: Calibration | None = None
        self.networks = nn.ModuleList(Network(width, blocks) for _ in range(networks))
        for name, size in (("maps", len(MAPS)), ("picture", len(PICTURE))):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_deviation", torch.ones(size))

    def forward(self, inputs: Inputs) -> Tensor:
        """Logits of windows, float32 [rows, cols]."""
        maps = ((inputs.maps - self.maps_mean) / self.maps_deviation).clamp(-5, 5)
        picture = ((inputs.picture - self.picture_mean) / self.picture_deviation).clamp(-5, 5)
        standard = replace(inputs, maps=maps, picture=picture)
        like, liker = F.softmax(4 * inputs.cosine, 1), F.softmax(12 * inputs.cosine, 1)
        return torch.stack([network(standard, like, liker) for network in self.networks]).mean(0)

    def save(self, folder: str | Path) -> None:
        """Write `FILE` to a model's folder."""
        facts: dict[str, Any] = {"maps": MAPS, "picture": PICTURE}
        facts |= {"width": self.width, "blocks": self.depth, "networks": len(self.networks)}
        facts["calibration"] = self.calibration.to_dict() if self.calibration is not None else None
        write_whole(Path(folder) / FILE, save(self.state_dict(), {"facts": json.dumps(facts)}))

    @classmethod
    def load(cls, path: str | Path) -> LearnedReadout:
        """Load a file written by `save`, in evaluation mode. Raises `ValueError` if it is damaged."""
        advice = "download the model again, or train a readout with this version of exiflang"
        try:
            with utf8_path(path) as readable, safe_open(readable, framework="pt") as file:
                facts: dict[str, Any] = json.loads(file.metadata()["facts"])
                weights = {name: file.get_tensor(name) for name in file.keys()}
            if (facts["maps"], facts["picture"]) != (list(MAPS), list(PICTURE)):
                raise ValueError("its input maps are different")
            if not all(bool(value.isfinite().all()) for value in weights.values()):
                raise ValueError("NaN or infinity among the weights")
            width, blocks, networks = (int(facts[name]) for name in ("width", "blocks", "networks"))
            if width > MOST_WIDTH or networks * blocks > MOST_BLOCKS:  # before allocating memory
                raise ValueError(f"{networks} networks of {blocks} blocks of width {width}")
            readout = cls(width, blocks, networks)
            readout.load_state_dict(weights)
            readout.calibration = Calibration.of(saved) if (saved := facts["calibration"]) is not None else None
        except (
            OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RuntimeError, SafetensorError
        ) as error:  # fmt: skip
            raise ValueError(f"{path}: damaged, or from a different version ({error}): {advice}") from error
        return readout.eval()


def model_readout(model: Any) -> LearnedReadout | None:
    """The learned readout in the folder or hub repository that a model was loaded from; None if there is none.

    A model created in memory has none. Raises `ValueError` if the file is damaged.
    """
    path = _readout_file(model)
    return LearnedReadout.load(path) if path else None


def warn_without_readout(model: Any) -> None:
    """Warn, once per model path, that a fallback replaces the learned readout."""
    if place := getattr(model, "name_or_path", ""):
        _warn_once(place)


def readout_sha256(model: Any) -> str | None:
    """SHA-256 of the file that `model_readout` loads; None if there is none."""
    path = _readout_file(model)
    return file_sha256(path) if path else None


def _readout_file(model: Any) -> Path | None:
    place = getattr(model, "name_or_path", "")
    if not place:
        return None
    from transformers.utils import cached_file

    path = cached_file(
        place, FILE, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
    )
    return None if path is None else Path(path)


@cache
def _warn_once(place: str) -> None:
    logging.getLogger(__name__).warning(
        f"{place} has no {FILE}: falling back to diffused_cut, which is less accurate; to train a learned readout, set "
        "readout_pictures in notebooks/02_train"
    )
