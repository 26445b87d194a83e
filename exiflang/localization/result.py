"""Measurements of a picture, and the localizer's result."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from exiflang.localization.consistency import cell_consistency
from exiflang.localization.decision import TRACES, Decision, Region
from exiflang.localization.evidence import Evidence
from exiflang.localization.relations import MAPS, Relations, window_relations


@dataclass(frozen=True, eq=False)
class Observation:
    """Measurements of a picture of H x W pixels, before any readout.

    Attributes:
        embeddings: float32 [rows, cols, D], unit norm, of windows.
        window, stride: their side and spacing in pixels.
        evidence: on the same windows.
        height, width: of the picture, in pixels.
    """

    embeddings: np.ndarray = field(repr=False)
    window: int
    stride: int
    evidence: Evidence
    height: int
    width: int

    @cached_property
    def consistency(self) -> np.ndarray:
        """Dissimilarity of cells, float32 [h, w, h, w], see `cell_consistency`."""
        return cell_consistency(self.embeddings, max(1, self.window // self.stride))

    @cached_property
    def relations(self) -> Relations:
        """Relations between the windows."""
        return window_relations(torch.from_numpy(self.embeddings))

    @cached_property
    def traces(self) -> dict[str, np.ndarray]:
        """Maps of windows, float32 [rows, cols], that indicate tampering: the available ones of `decision.TRACES`."""
        camera_traces = self.relations.maps[..., MAPS.index("diffused far friends")].numpy()
        return {"camera_traces": camera_traces} | {k: v for k, v in self.evidence.maps.items() if k in TRACES}

    @property
    def centers(self) -> tuple[np.ndarray, np.ndarray]:
        """Centers of the rows and columns of windows, in whole pixels: int64 [rows], [cols]."""
        rows, cols = self.embeddings.shape[:2]
        return np.arange(rows) * self.stride + self.window // 2, np.arange(cols) * self.stride + self.window // 2


@dataclass(frozen=True, eq=False)
class SpliceResult:
    """The localizer's findings on one picture of H x W pixels, rows x cols windows and h x w cells.

    Attributes:
        values: float32, the readout's values: [rows, cols] logits of windows (learned readout) or [h, w] of cells.
        draw: draws them over the picture, see `raw`.
        scale: maps them to 0..1 in place, see `heatmap`.
        mask: bool [H, W]. For the learned readout, its `regions`; for others, the heatmap above
            `localizer.MASK_THRESHOLD` if calibrated, else the smaller of two spectral clusters of cells.
        score: higher = more likely spliced: the fraction of authentic pictures below, in 0..1, if calibrated, else
            the picture's raw value. (The reference protocol has no calibration.)
        detection: the picture's value before calibration, in the same order: for the learned readout, the highest
            logit of any window.
        decision: verdict on the score, with confidence limits; None if the readout is not calibrated for verdicts.
        regions: regions that authentic pictures rarely show, largest first; empty without a `decision`.
        evidence: named maps float32 [rows, cols], see `localization.evidence`, and reasons for absent ones.
        reliability: float32 [rows, cols] in 0..1, of each window's evidence (see `decision.reliability`).
        consistency: float32 [h, w, h, w], dissimilarity `1 - cosine` averaged over each cell's windows, 0..2.
        embeddings: float32 [rows, cols, D], unit norm.
        pca: float32 [h, w, 3] in 0..1, three whitened principal components of the embeddings, averaged per cell.
        window_size, stride: in pixels.
        preview: whether the embeddings are approximations (see `SpliceLocalizer`, mode "dense").
    """

    values: np.ndarray = field(repr=False)
    draw: Callable[[np.ndarray], np.ndarray] = field(repr=False)
    scale: Callable[[np.ndarray], np.ndarray] = field(repr=False)
    mask: np.ndarray = field(repr=False)
    score: float
    detection: float
    decision: Decision | None
    regions: list[Region]
    evidence: Evidence = field(repr=False)
    reliability: np.ndarray = field(repr=False)
    consistency: np.ndarray = field(repr=False)
    embeddings: np.ndarray = field(repr=False)
    pca: np.ndarray = field(repr=False)
    window_size: int
    stride: int
    preview: bool

    @cached_property
    def heatmap(self) -> np.ndarray:
        """float32 [H, W] in 0..1, high = spliced; drawn on first use.

        For the learned readout, the probability that each pixel is tampered; for other readouts, the fraction of
        authentic cells below, if the model is calibrated, else the value on a fixed scale.
        """
        return self.scale(self.raw)

    @property
    def raw(self) -> np.ndarray:
        """The `values` over the picture, float32 [H, W], which the heatmap maps to 0..1 in the same order.

        Redrawn on each access, since storing it would take most of the memory for a large picture.
        """
        return self.draw(self.values)

    @property
    def p_value(self) -> float | None:
        """Fraction of authentic pictures of the same kind that reach the score; None without a `decision`."""
        return self.decision.p_value if self.decision else None

    @property
    def verdict(self) -> str | None:
        """ "spliced", "no splice found" or "not decidable" at the decision's false-alarm rate; None without one."""
        return self.decision.verdict if self.decision else None
