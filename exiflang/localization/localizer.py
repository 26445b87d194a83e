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

#: Calibrated heatmaps are masked above this share of authentic cells: 2 % of an authentic picture on average. Lower,
#: most authentic pictures would show a region; higher, the calibration's few pictures say too little.
MASK_THRESHOLD = 0.98

#: Share of the time that embeddings take; evidence takes the rest.
_EMBEDDING = 0.65


@dataclass(frozen=True)
class Comparison:
    """What comparisons of methods set and nobody else: the defaults are how pictures are localized.

    Args:
        fast: False switches off what takes less time to the same end: windows go one by one, through `model` itself.
        stride_multiple: of the windows' distance, where several models shall see the same windows; None: the model's
            `shared_stride`, so that one pass over the picture serves all windows, or 1 if it has none.
        colors_negated: whether the model sees color negatives, as the reference's tests did by mistake.
    """

    fast: bool = True
    stride_multiple: int | None = None
    colors_negated: bool = False


class SpliceLocalizer:
    """Finds regions of a picture whose camera traces do not agree with the rest of it.

    Args:
        model: an `ExifLang`, or any object with `encode_image`; a torch module is put in evaluation mode. None: the
            weights that come with the package.
        windows_per_side: windows on the picture's longer side, about (see `window_grid`).
        window_size: side of a window in pixels, at most the picture's; None: by the picture's size, at most the
            model's patch size (see `picture_window`), under the reference protocol always that.
        readout: "learned", "diffused_cut", "diffusion", "far_friends", "eigenvector", "mean_shift" (the paper's), or
            "mean_dissimilarity"; under the reference protocol also "sequential_mean_shift", but not the first. None:
            the first, or the second for a model that came without a learned readout; under the reference protocol the
            last.
        protocol: "default", or "reference": the choices of the paper's code (see `localization.reference`): its stride,
            its mean shift and `detection_score`, cells stretched over the picture, the mask by spectral clustering, no
            calibration.
        mode: "exact": each window is embedded as if it were alone; or "dense": from one pass over the picture, where
            windows overlap. Without padding in the image tower both are the same, to rounding (1e-5); with it, dense
            embeddings are approximations and the result is marked a `preview`.
        precision: of the image tower: "float32", "bf16", or "auto" (see `inference.for_inference`).
        batch_size: windows embedded at a time, where they are embedded one by one; bounds the memory. None: 32, which
            stay in a processor's cache, or 256 on a GPU.
        comparison: see `Comparison`; None: its defaults.

    An `ExifLang` is taken as it is when the localizer is made: changes to its image tower later on are not seen.

    Raises `ValueError` for a setting out of its range, `FileNotFoundError` if there is no model and none was packaged.
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
            raise ValueError(f"the model came without a learned readout ({FILE}): choose another, or train one")
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

            self.encoder = for_inference(self.model, precision)  # type: ignore[arg-type]  # only an ExifLang has a tower
        elif mode != "exact" or precision != "float32":
            raise ValueError("mode and precision are settings for an ExifLang, and of the fast ways only")

    @property
    def readout_names(self) -> tuple[str, ...]:
        """Names of the readouts that it can use, the learned one first."""
        return (*([LEARNED] if self.learned else []), *self.readouts)

    def embed(
        self, image: np.ndarray, calibrated: bool | None = None, progress: Callable[[float], None] = no_progress
    ) -> tuple[np.ndarray, int, int]:
        """Embeddings float32 [rows, cols, D] of a uint8 [H, W, 3] picture's windows, window and stride in pixels.

        calibrated: take the windows of a calibrated model, or those of one that is not; None: as the model is.
        progress: hears the share done, 0..1, and may raise to stop.
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
        """How windows of this size and distance are embedded."""
        step, field = shared_stride(self.model), getattr(self.model, "receptive_field", None)
        if self.comparison.fast and stride < window:  # without overlap, one by one is less work
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
        """What can be measured of a uint8 [H, W, 3] picture.

        history: of its file (see `read_history`), if that is a JPEG; without it it is read from the pixels.
        calibrated, progress: as in `embed`.
        """
        embeddings, window, stride = self.embed(image, calibrated, lambda share: progress(_EMBEDDING * share))
        evidence = gather_evidence(
            image, history, window, stride, lambda share: progress(_EMBEDDING + (1 - _EMBEDDING) * share)
        )
        return Observation(embeddings, window, stride, evidence, *image.shape[:2])

    def __call__(self, picture: Any, progress: Callable[[float], None] = no_progress) -> SpliceResult:
        """Analyze a picture: a path, bytes, a PIL image or a uint8 array [H, W, 3]; `progress` as in `embed`.

        Raises `ImageError` for what is not a picture. One window, or a picture of one color, gives a flat heatmap.
        """
        # Before the pixels: of a large picture both at once would take twice the memory.
        history = read_history(picture) if isinstance(picture, str | os.PathLike | bytes) else None
        image = load_image(picture)
        return self.read_out(self.observe(image, history, progress=progress))

    def values(self, observation: Observation, readout: str) -> tuple[np.ndarray, float]:
        """A readout's values of windows (the learned one) or cells, and its value of the picture.

        float32 [rows, cols] or [h, w], see `draw`, and a number; higher = more likely spliced.
        """
        seen = observation
        if readout == LEARNED and self.learned is not None:
            with torch.inference_mode(), torch.autocast("cpu", enabled=False):
                windows = self.learned(readout_inputs(seen.relations, seen.evidence)).numpy()
            return windows, float(windows.max())
        cells = self.readouts[readout]().fit_predict(seen.consistency)  # [h, w, h, w] -> [h, w]
        return cells, detection_score(cells, seen.consistency, readout)

    def draw(self, observation: Observation, values: np.ndarray, readout: str) -> np.ndarray:
        """A readout's values over the picture: float32 [rows, cols] or [h, w] → float32 [H, W]."""
        return self._drawing(observation, readout)(values)

    @property
    def decides(self) -> bool:
        """Whether its learned readout is calibrated for verdicts."""
        return self.learned is not None and self.learned.calibration is not None

    def decide(self, observation: Observation, detection: float, false_alarms: float = FALSE_ALARMS) -> Decision:
        """What the learned readout's value of a picture comes to. Raises `ValueError` if it is not calibrated."""
        if self.learned is None or self.learned.calibration is None:
            raise ValueError("there is no learned readout with a calibration: see exiflang.release")
        kind = picture_kind(observation.height, observation.width, observation.evidence)
        return self.learned.calibration.decide(detection, kind, false_alarms)

    def read_out(self, observation: Observation, false_alarms: float = FALSE_ALARMS) -> SpliceResult:
        """What the readout makes of an observation, with a verdict at a rate of false alarms; no network is asked."""
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
        """Mask and score of a readout made by hand, from its values of cells [h, w]."""
        if known := self.calibration.get(self.readout):
            heatmap = self._scaled(self.draw(seen, cells, self.readout))
            return heatmap > MASK_THRESHOLD, float(share_below(detection, known["scores"]))
        smaller = NormalizedCut().fit_predict(seen.consistency)
        return self.draw(seen, smaller, self.readout) > 0.5, detection

    def _scaled(self, raw: np.ndarray) -> np.ndarray:
        """The readout's values, float32 of any shape, brought to 0..1 in their place."""
        known = None if self.readout == LEARNED else self.calibration.get(self.readout)
        if not known:
            return to_heatmap(raw, self.readout, out=raw)
        for rows in stripes(*raw.shape):
            raw[rows] = share_below(raw[rows], known["cells"])
        return raw

    def _drawing(self, seen: Observation, readout: str) -> Callable[[np.ndarray], np.ndarray]:
        """What draws a readout's values over the picture, [rows, cols] or [h, w] → float32 [H, W]."""
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
    """The model, or the packaged one, in evaluation mode: else a window's embedding would depend on its batch."""
    if model is None:
        # transformers: seconds that other encoders need not wait
        from exiflang.models.model import ExifLang
        from exiflang.models.weights import packaged_model

        return ExifLang.from_pretrained(str(packaged_model()))
    if isinstance(model, nn.Module):
        model.eval()
    return model


def to_heatmap(raw: np.ndarray, readout: str, out: np.ndarray | None = None) -> np.ndarray:
    """The readout's values on a fixed scale of 0..1: of logits the probability, `-cosine` and `1 - cosine` span 2.

    float32 [H, W] → float32 [H, W]; out: where to write them, which may be `raw`.
    """
    out = np.empty_like(raw) if out is None else out
    if readout == LEARNED:
        return torch.sigmoid(torch.from_numpy(raw), out=torch.from_numpy(out)).numpy()
    low = 0.0 if readout in ("mean_shift", "mean_dissimilarity", SEQUENTIAL) else -1.0
    np.subtract(raw, np.float32(low), out=out)
    return np.clip(np.divide(out, 2, out=out), 0, 1, out=out)
