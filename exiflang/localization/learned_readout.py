"""Small networks that decide what relations of windows and evidence mean: one logit a window.

Two of them are asked, and the mean of what they say is right more often than either. Each of four blocks sees a window
beside the average of what is like it all over the picture, twice, and beside what is around it. So it can tell a small
region from a large one, and a flat wall from a tampered one, which no fixed formula does. It never sees an embedding or
a pixel: what it reads looks alike for any encoder.
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
from exiflang.utils.files import file_sha256, write_whole

#: In a model's folder.
FILE = "readout.safetensors"
#: What a file may ask for: of blocks in all networks.
MOST_WIDTH, MOST_BLOCKS = 1024, 64
#: Its name among readouts.
LEARNED = "learned"
#: Maps whose values depend on the number of blocks; a tenth of them is about 1.
_HISTORIES = ("jpeg_history", "former_history")
#: Maps and numbers of the input, in order; weights of other names are refused.
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
    """What the network reads of a picture of n = rows x cols windows, m of them references.

    Attributes:
        maps: float32 [rows, cols, len(MAPS)].
        picture: float32 [len(PICTURE)].
        cosine: float32 [n, m], of centered embeddings to the references.
        references: int64 [m].
    """

    maps: Tensor
    picture: Tensor
    cosine: Tensor
    references: Tensor


def readout_inputs(relations: Relations, evidence: Evidence) -> Inputs:
    """What the network reads of the relations of windows and the evidence on them.

    Maps of evidence that are absent are 0, as they are in the mean once standardized.
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
    """Distance to the picture's border in shares of its shorter side: [rows, cols]."""
    down = torch.minimum(torch.arange(1.0, rows + 1), torch.arange(float(rows), 0, -1))  # [rows]
    across = torch.minimum(torch.arange(1.0, cols + 1), torch.arange(float(cols), 0, -1))  # [cols]
    return torch.minimum(down[:, None], across[None]) / (min(rows, cols) + 1)


class Block(nn.Module):
    """A window beside what is like it all over the picture and what is around it → two-layer perceptron, skip."""

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
    """Maps and numbers of a picture, standardized → logits; `width` of the hidden layers, `blocks` of them."""

    def __init__(self, width: int, blocks: int):
        super().__init__()
        self.of_window, self.of_picture = nn.Linear(len(MAPS), width), nn.Linear(len(PICTURE), width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 1)

    def forward(self, inputs: Inputs, like: Tensor, liker: Tensor) -> Tensor:
        """Logits of windows, float32 [rows, cols]; weights as `Block` has them."""
        rows = len(inputs.maps)
        x = self.of_window(inputs.maps.flatten(0, 1)) + self.of_picture(inputs.picture)  # [n, W]
        for block in self.blocks:
            x = block(x, like, liker, inputs.references, rows)
        return self.head(self.norm(x))[:, 0].view(rows, -1)


class LearnedReadout(nn.Module):
    """Inputs of a picture → logits of being tampered with: the mean over networks that differ in their first weights.

    `calibration`: what its logits are on authentic pictures; None: nobody has measured that yet.
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
        """Write `FILE` into a model's folder."""
        facts: dict[str, Any] = {"maps": MAPS, "picture": PICTURE}
        facts |= {"width": self.width, "blocks": self.depth, "networks": len(self.networks)}
        facts["calibration"] = self.calibration.to_dict() if self.calibration is not None else None
        write_whole(Path(folder) / FILE, save(self.state_dict(), {"facts": json.dumps(facts)}))

    @classmethod
    def load(cls, path: str | Path) -> LearnedReadout:
        """From a file that `save` has written, in evaluation mode. Raises `ValueError` for a damaged one."""
        advice = "download the model again, or train a readout with this version of exiflang"
        try:
            with safe_open(str(path), framework="pt") as file:
                facts: dict[str, Any] = json.loads(file.metadata()["facts"])
                weights = {name: file.get_tensor(name) for name in file.keys()}
            if (facts["maps"], facts["picture"]) != (list(MAPS), list(PICTURE)):
                raise ValueError("it reads other maps")
            if not all(bool(value.isfinite().all()) for value in weights.values()):
                raise ValueError("NaN or infinity among the weights")
            width, blocks, networks = (int(facts[name]) for name in ("width", "blocks", "networks"))
            if width > MOST_WIDTH or networks * blocks > MOST_BLOCKS:  # before room is made for them
                raise ValueError(f"{networks} networks of {blocks} blocks of width {width}")
            readout = cls(width, blocks, networks)
            readout.load_state_dict(weights)
            readout.calibration = Calibration.of(saved) if (saved := facts["calibration"]) is not None else None
        except (
            OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RuntimeError, SafetensorError
        ) as error:  # fmt: skip
            raise ValueError(f"{path}: damaged, or of another version ({error}): {advice}") from error
        return readout.eval()


def model_readout(model: Any) -> LearnedReadout | None:
    """The learned readout in the folder or hub repository that a model came from; None if there is none.

    A model that was made in memory has none. Raises `ValueError` for a damaged file.
    """
    path = _readout_file(model)
    return LearnedReadout.load(path) if path else None


def warn_without_readout(model: Any) -> None:
    """Log, once for each place that a model came from, that another readout stands in for the learned one."""
    if place := getattr(model, "name_or_path", ""):
        _warn_once(place)


def readout_sha256(model: Any) -> str | None:
    """SHA-256 of the file of `model_readout`; None without one."""
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
        f"{place} has no {FILE}: diffused_cut is used instead, which finds less; to train a learned readout, set "
        "readout_pictures in notebooks/02_train"
    )
