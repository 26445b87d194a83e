"""Picture → windows → embeddings and evidence → readout → heatmap, mask, score, verdict (paper, section 3.4)."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from exiflang.localization.calibration import share_below
from exiflang.localization.clustering import READOUTS, NormalizedCut, detection_score
from exiflang.localization.consistency import principal_components, resize_cells, resize_windows, windows_above
from exiflang.localization.decision import (
    FALSE_ALARMS,
    Decision,
    Region,
    find_regions,
    picture_kind,
    reliability,
)
from exiflang.localization.evidence import FileHistory, gather_evidence, read_history
from exiflang.localization.learned_readout import FILE, LEARNED, model_readout, readout_inputs, warn_without_readout
from exiflang.localization.reference import REFERENCE_READOUTS, SEQUENTIAL, negate_colors, reference_grid, stretch_cells
from exiflang.localization.result import Observation, SpliceResult
from exiflang.localization.windows import (
    ImageEncoder,
    embed_densely,
    embed_in_one_pass,
    embed_windows,
    no_progress,
    picture_window,
    shared_stride,
    stripes,
    window_grid,
)
from exiflang.utils.images import load_image

#: Mask threshold of a calibrated heatmap: on average, 2 % of an authentic picture's cells exceed it. With a lower one,
#: most authentic pictures would show a region; a higher one would need more pictures in the calibration.
MASK_THRESHOLD = 0.98

#: Fraction of the run time spent on embeddings; the rest goes to evidence.
_EMBEDDING = 0.65


@dataclass(frozen=True)
class Comparison:
    """Settings for experiments that compare methods; otherwise, use the defaults.

    Args:
        fast: False turns off the optimizations: `model` itself embeds windows one by one, with the same results.
        stride_multiple: the stride is rounded to a multiple of this, so that several models get the same windows; None:
            the model's `shared_stride`, with which one pass over the picture serves all windows, or 1 if it has none.
        colors_negated: whether the model gets color negatives, as in the reference code's tests by mistake.
    """

    fast: bool = True
    stride_multiple: int | None = None
    colors_negated: bool = False


class SpliceLocalizer:
    """Finds regions of a picture whose camera traces are inconsistent with the rest.

    Args:
        model: an `ExifLang`, or any object with `encode_image`; a torch module is put in evaluation mode. None: the
            packaged weights.
        windows_per_side: approximate number of windows on the picture's longer side (see `window_grid`).
        window_size: side of a window in pixels, at most the picture's; None: derived from the picture's size, at most
            the model's patch size (see `picture_window`); under the reference protocol, always the patch size.
        readout: "learned", "diffused_cut", "diffusion", "far_friends", "eigenvector", "mean_shift" (the paper's), or
            "mean_dissimilarity"; under the reference protocol also "sequential_mean_shift", but not "learned". None:
            "learned", or "diffused_cut" for a model without a learned readout; under the reference protocol,
            "sequential_mean_shift".
        protocol: "default", or "reference", which follows the paper's code (see `localization.reference`): its stride,
            mean shift and `detection_score`, cells stretched over the picture, a mask by spectral clustering, and no
            calibration.
        mode: "exact" embeds each window in isolation; "dense" derives overlapping windows from one pass over the
            picture. If the image tower does not pad, both give the same embeddings up to rounding (1e-5); if it pads,
            dense embeddings are approximate and the result is marked as a `preview`.
        precision: of the image tower: "float32", "bf16", or "auto" (see `inference.for_inference`).
        batch_size: number of windows embedded at a time, where they are embedded one by one; limits memory. None: 32,
            which fit in a processor's cache, or 256 on a GPU.
        comparison: see `Comparison`; None: its defaults.

    The localizer copies the image tower of an `ExifLang` when created; later changes to that tower have no effect.

    Raises `ValueError` for an invalid setting, and `FileNotFoundError` without a model if no weights are packaged.
    """

    def __init__(
        self,
        model: ImageEncoder | None = None,
        windows_per_side: int = 30,
        window_size: int | None = None,
        readout: str | None = None,
        protocol: str = "default",
        mode: str = "exact",
        precision: str = "float32",
        batch_size: int | None = None,
        comparison: Comparison | None = None,
    ):
        reference = protocol == "reference"
        self.readouts = REFERENCE_READOUTS if reference else READOUTS
        readouts = (None, *self.readouts) if reference else (None, LEARNED, *self.readouts)
        _choose("protocol", protocol, ("default", "reference"))
        _choose("readout", readout, readouts)
        _choose("mode", mode, ("exact", "dense"))
        counts = {"windows_per_side": windows_per_side, "window_size": window_size, "batch_size": batch_size}
        if wrong := [name for name, count in counts.items() if count is not None and count < 1]:
            raise ValueError(f"{' and '.join(wrong)} must be at least 1")
        self.model = _ready(model)
        self.learned = None if reference else model_readout(self.model)
        if readout == LEARNED and self.learned is None:
            raise ValueError(f"the model has no learned readout ({FILE}): choose a different readout, or train one")
        if readout is None and not reference and self.learned is None:
            warn_without_readout(self.model)
        self.readout = readout or (SEQUENTIAL if reference else LEARNED if self.learned else "diffused_cut")
        self.windows_per_side, self.batch_size = windows_per_side, batch_size
        self.comparison = comparison or Comparison()
        self.protocol, self.mode, self.precision = protocol, mode, precision
        config = getattr(self.model, "config", None)
        self.window_size: int = getattr(config, "patch_size", 64) if window_size is None else window_size
        self.by_picture_size = window_size is None
        self.calibration = {} if reference else getattr(config, "calibration", None) or {}
        if unknown := sorted(self.calibration.keys() - READOUTS.keys()):
            raise ValueError(
                f"the model is calibrated for unknown readouts {unknown}: choose among {', '.join(READOUTS)}"
            )
        self.encoder = self.model
        if self.comparison.fast and hasattr(self.model, "image_tower"):
            from exiflang.models.inference import for_inference

            self.encoder = for_inference(self.model, precision)  # type: ignore[arg-type]  # only ExifLang has one
        elif mode != "exact" or precision != "float32":
            raise ValueError("mode and precision need an ExifLang and comparison.fast: leave both at their defaults")

    @property
    def readout_names(self) -> tuple[str, ...]:
        """Names of the available readouts, the learned one first."""
        return (*([LEARNED] if self.learned else []), *self.readouts)

    def embed(
        self, image: np.ndarray, calibrated: bool | None = None, progress: Callable[[float], None] = no_progress
    ) -> tuple[np.ndarray, int, int]:
        """Embeddings float32 [rows, cols, D] of a uint8 [H, W, 3] picture's windows, window and stride in pixels.

        calibrated: size windows as for a calibrated model, or for an uncalibrated one; None: as the model is.
        progress: called with the fraction done, 0..1; it may raise to stop.
        """
        height, width = image.shape[:2]
        window, stride = self._windows(height, width, bool(self.calibration) if calibrated is None else calibrated)
        if self.comparison.colors_negated:
            image = negate_colors(image)
        embedder = self._embedder(window, stride)
        return embedder(self.encoder, image, window, stride, progress=progress), window, stride

    def _windows(self, height: int, width: int, calibrated: bool) -> tuple[int, int]:
        """Window and stride in pixels."""
        size = self.window_size
        if self.protocol == "reference":
            return reference_grid(height, width, size, self.windows_per_side)
        if self.by_picture_size:
            size = picture_window(height, width, size, calibrated)
        multiple = self.comparison.stride_multiple or shared_stride(self.model) or 1
        return window_grid(height, width, size, self.windows_per_side, multiple)

    def _embedder(self, window: int, stride: int) -> Callable[..., np.ndarray]:
        """The function that embeds windows of this size and stride."""
        step, field = shared_stride(self.model), getattr(self.model, "receptive_field", None)
        if self.comparison.fast and stride < window:  # without overlap, one by one is cheaper
            if step and field and stride % step == 0 and window >= field:
                return embed_in_one_pass
            if self.mode == "dense" and step is None:
                return embed_densely
        on_gpu = getattr(self.model, "device", torch.device("cpu")).type != "cpu"
        return partial(embed_windows, batch_size=self.batch_size or (256 if on_gpu else 32))

    def observe(
        self,
        image: np.ndarray,
        history: FileHistory | None = None,
        calibrated: bool | None = None,
        progress: Callable[[float], None] = no_progress,
    ) -> Observation:
        """Measure embeddings and evidence of a uint8 [H, W, 3] picture.

        history: of its file (see `read_history`), if it is a JPEG; None: computed from the pixels.
        calibrated, progress: as in `embed`.
        """
        embeddings, window, stride = self.embed(image, calibrated, lambda share: progress(_EMBEDDING * share))
        evidence = gather_evidence(
            image, history, window, stride, lambda share: progress(_EMBEDDING + (1 - _EMBEDDING) * share)
        )
        return Observation(embeddings, window, stride, evidence, *image.shape[:2])

    def __call__(self, picture: Any, progress: Callable[[float], None] = no_progress) -> SpliceResult:
        """Analyze a picture: a path, bytes, a PIL image or a uint8 array [H, W, 3]; `progress` as in `embed`.

        Raises `ImageError` if it is not a picture. A single window, or a picture of one color, gives a flat heatmap.
        """
        # Before the pixels: for a large picture, both at once would take twice the memory.
        history = read_history(picture) if isinstance(picture, str | os.PathLike | bytes) else None
        image = load_image(picture)
        return self.read_out(self.observe(image, history, progress=progress))

    def values(self, observation: Observation, readout: str) -> tuple[np.ndarray, float]:
        """A readout's values per window or cell, see `draw`, and for the whole picture.

        float32 [rows, cols] (learned readout) or [h, w], and a number; higher = more likely spliced.
        """
        seen = observation
        if readout == LEARNED and self.learned is not None:
            with torch.inference_mode(), torch.autocast("cpu", enabled=False):
                windows = self.learned(readout_inputs(seen.relations, seen.evidence)).numpy()
            return windows, float(windows.max())
        cells = self.readouts[readout]().fit_predict(seen.consistency)  # [h, w, h, w] -> [h, w]
        return cells, detection_score(cells, seen.consistency, readout)

    def draw(self, observation: Observation, values: np.ndarray, readout: str) -> np.ndarray:
        """Draw a readout's values over the picture: float32 [rows, cols] or [h, w] → float32 [H, W]."""
        return self._drawing(observation, readout)(values)

    @property
    def decides(self) -> bool:
        """Whether the learned readout is calibrated, as verdicts require."""
        return self.learned is not None and self.learned.calibration is not None

    def decide(self, observation: Observation, detection: float, false_alarms: float = FALSE_ALARMS) -> Decision:
        """Decide on the learned readout's value for a picture. Raises `ValueError` if it is not calibrated."""
        if self.learned is None or self.learned.calibration is None:
            raise ValueError("no calibrated learned readout: exiflang.release calibrates one")
        kind = picture_kind(observation.height, observation.width, observation.evidence)
        return self.learned.calibration.decide(detection, kind, false_alarms)

    def read_out(self, observation: Observation, false_alarms: float = FALSE_ALARMS) -> SpliceResult:
        """Apply the readout to an observation, with a verdict at a false-alarm rate; embeddings are not recomputed."""
        seen = observation
        values, detection = self.values(seen, self.readout)
        decision, regions, score = None, list[Region](), detection
        if self.readout != LEARNED:
            mask, score = self._hand_made(seen, values, detection)
        else:

            def above(level: float) -> np.ndarray:
                return windows_above(level, values, **self._place(seen))

            if self.learned and (known := self.learned.calibration):
                decision = self.decide(seen, detection, false_alarms)
                score = 1 - decision.p_value
                kind, traces = decision.kind, seen.traces
                mask, regions = find_regions(values, above, seen.centers, traces, known, kind, false_alarms)
            else:
                mask = above(0.0)
        return SpliceResult(
            values=values,
            draw=self._drawing(seen, self.readout),
            scale=self._scaled,
            mask=mask,
            score=score,
            detection=detection,
            decision=decision,
            regions=regions,
            evidence=seen.evidence,
            reliability=reliability(seen.evidence.maps, seen.traces),
            consistency=seen.consistency,
            embeddings=seen.embeddings,
            pca=principal_components(seen.embeddings, max(1, seen.window // seen.stride)),
            window_size=seen.window,
            stride=seen.stride,
            preview=self._embedder(seen.window, seen.stride) is embed_densely,
        )

    def _hand_made(self, seen: Observation, cells: np.ndarray, detection: float) -> tuple[np.ndarray, float]:
        """Mask and score of a handcrafted readout, from its values of cells [h, w]."""
        if known := self.calibration.get(self.readout):
            heatmap = self._scaled(self.draw(seen, cells, self.readout))
            return heatmap > MASK_THRESHOLD, float(share_below(detection, known["scores"]))
        smaller = NormalizedCut().fit_predict(seen.consistency)
        return self.draw(seen, smaller, self.readout) > 0.5, detection

    def _scaled(self, raw: np.ndarray) -> np.ndarray:
        """Map the readout's values, float32 of any shape, to 0..1 in place."""
        known = None if self.readout == LEARNED else self.calibration.get(self.readout)
        if not known:
            return to_heatmap(raw, self.readout, out=raw)
        for rows in stripes(*raw.shape):
            raw[rows] = share_below(raw[rows], known["cells"])
        return raw

    def _drawing(self, seen: Observation, readout: str) -> Callable[[np.ndarray], np.ndarray]:
        """The function that draws a readout's values over the picture, [rows, cols] or [h, w] → float32 [H, W]."""
        if self.protocol == "reference":
            return partial(stretch_cells, height=seen.height, width=seen.width)
        return partial(resize_windows if readout == LEARNED else resize_cells, **self._place(seen))

    @staticmethod
    def _place(seen: Observation) -> dict[str, Any]:
        return {"height": seen.height, "width": seen.width, "window": seen.window, "stride": seen.stride}


def _choose(name: str, value: str | None, known: Sequence[str | None]) -> None:
    if value not in known:
        raise ValueError(f"unknown {name} {value!r}: choose one of {', '.join(filter(None, known))}")


def _ready(model: ImageEncoder | None) -> ImageEncoder:
    """The model, or the packaged one, in evaluation mode: otherwise, embeddings would depend on the batch."""
    if model is None:
        # imports transformers, which takes seconds and is not needed for other encoders
        from exiflang.models.model import ExifLang
        from exiflang.models.weights import packaged_model

        return ExifLang.from_pretrained(str(packaged_model()))
    if isinstance(model, nn.Module):
        model.eval()
    return model


def to_heatmap(raw: np.ndarray, readout: str, out: np.ndarray | None = None) -> np.ndarray:
    """Map a readout's values to 0..1: logits to probabilities, `-cosine` and `1 - cosine` linearly by their range of 2.

    float32 [H, W] → float32 [H, W]; out: output array, which may be `raw`.
    """
    out = np.empty_like(raw) if out is None else out
    if readout == LEARNED:
        return torch.sigmoid(torch.from_numpy(raw), out=torch.from_numpy(out)).numpy()
    low = 0.0 if readout in ("mean_shift", "mean_dissimilarity", SEQUENTIAL) else -1.0
    np.subtract(raw, np.float32(low), out=out)
    return np.clip(np.divide(out, 2, out=out), 0, 1, out=out)
