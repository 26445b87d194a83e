"""Picture → windows → embeddings → votes of windows for cells → heatmap, mask, score (paper, section 3.4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import nn

from exiflang.calibration import share_below
from exiflang.clustering import READOUTS, NormalizedCut, detection_score
from exiflang.images import load_image
from exiflang.packaged import packaged_model
from exiflang.reference_protocol import (
    REFERENCE_READOUTS,
    SEQUENTIAL,
    negate_colours,
    reference_grid,
    stretch_cells,
)
from exiflang.windows import (
    ImageEncoder,
    embed_densely,
    embed_in_one_pass,
    embed_windows,
    no_progress,
    picture_window,
    shared_stride,
    window_grid,
)

#: Calibrated heatmaps are masked above this share of authentic cells: 2 % of an authentic picture on average. Lower,
#: most authentic pictures would show a region; higher, the calibration's few pictures say too little.
FOREIGN = 0.98


@dataclass(frozen=True, eq=False)
class SpliceResult:
    """What the localiser found in one picture of H x W pixels, rows x cols windows and h x w cells.

    Attributes:
        heatmap: float32 [H, W] in 0..1, high = foreign: the share of authentic pictures' cells below, if the model is
            calibrated for the readout, else the readout's fixed scale.
        raw: float32 [H, W], the readout's own values, which the heatmap maps to 0..1 (same order).
        mask: bool [H, W]: heatmap above `FOREIGN` if calibrated, else the smaller of two spectral clusters of cells.
        score: higher = more likely spliced: the share of authentic pictures below, in 0..1, if calibrated, else
            `detection_score` itself. (Nothing is calibrated under the reference protocol.)
        consistency: float32 [h, w, h, w], dissimilarity `1 - cosine` voted to cells, 0..2.
        embeddings: float32 [rows, cols, D], unit norm.
        pca: float32 [h, w, 3] in 0..1, three whitened principal components of the embeddings, voted to cells.
        window_size, stride: in pixels.
        preview: whether the embeddings are approximations (see `SpliceLocalizer`, mode "dense").
    """

    heatmap: np.ndarray = field(repr=False)
    raw: np.ndarray = field(repr=False)
    mask: np.ndarray = field(repr=False)
    score: float
    consistency: np.ndarray = field(repr=False)
    embeddings: np.ndarray = field(repr=False)
    pca: np.ndarray = field(repr=False)
    window_size: int
    stride: int
    preview: bool


def _spread_sum(array: np.ndarray, spread: int, axis: int) -> np.ndarray:
    """Each entry adds itself to `spread` cells along `axis`, which grows by `spread - 1`."""
    shape = list(array.shape)
    shape[axis] += spread - 1
    total = np.zeros(shape, array.dtype)
    for shift in range(spread):
        place = [slice(None)] * array.ndim
        place[axis] = slice(shift, shift + array.shape[axis])
        total[tuple(place)] += array
    return total


def vote(values: np.ndarray, spread: int, pairs: bool = False) -> np.ndarray:
    """Average the windows' values over the cells they cover: each window votes for `spread` cells a side.

    `values` is [rows, cols, ...] → [h, w, ...] with `h = rows + spread - 1`. With `pairs`, responses of pairs of
    windows [rows, cols, rows, cols] → [h, w, h, w], in the closed form `(M' S M) / (c c' + 1e-4)`, where `M` is the
    0/1 membership of windows in cells and `c` its column sums; `M` is a box along each axis, hence separable.
    """
    axes = (0, 1, 2, 3) if pairs else (0, 1)
    total = np.asarray(values, np.float32)
    for axis in axes:
        total = _spread_sum(total, spread, axis)
    count = np.ones(values.shape[:2], np.float32)
    for axis in (0, 1):
        count = _spread_sum(count, spread, axis)  # [h, w]
    if pairs:
        return total / (count[:, :, None, None] * count + np.float32(1e-4))
    return total / count.reshape(count.shape + (1,) * (total.ndim - 2))


def resize_cells(
    cells: np.ndarray,
    height: int,
    width: int,
    window: int,
    stride: int,
    scale: float = 1.0,
) -> np.ndarray:
    """Draw cells at their true place: [h, w] → float32 [H, W], bilinear between their centres.

    Cells are `stride` pixels wide. Those of a window lie in its middle: a window is rarely a multiple of its stride.
    `scale`: of what is drawn, H x W, to the picture whose pixels `window` and `stride` count.
    """
    margin = (window - max(1, window // stride) * stride) / 2
    y, x = (((np.arange(side) + 0.5) / scale - margin) / stride for side in (height, width))  # in cells
    return _interpolate(_interpolate(cells.astype(np.float32), y - 0.5, 0), x - 0.5, 1)


def _interpolate(array: np.ndarray, place: np.ndarray, axis: int) -> np.ndarray:
    """Linear interpolation of [h, w] along `axis` at `place` (in cells), constant beyond the ends."""
    last = array.shape[axis] - 1
    place = np.clip(place, 0, last)
    low = place.astype(int)
    share = np.expand_dims((place - low).astype(np.float32), 1 - axis)
    before, after = array.take(low, axis), array.take(np.minimum(low + 1, last), axis)
    after -= before  # in place: these are as large as the picture
    after *= share
    before += after
    return before


def principal_components(embeddings: np.ndarray, spread: int) -> np.ndarray:
    """Three whitened components of [rows, cols, D], voted to cells, clipped at 3 deviations: float32 [h, w, 3] in 0..1.

    A component that the windows do not have (fewer than four windows, one colour) is 0.5 everywhere.
    """
    rows, cols, dim = embeddings.shape
    flat = embeddings.reshape(rows * cols, dim)
    components = np.zeros((rows * cols, 3), np.float32)
    wanted = min(3, rows * cols - 1, dim)
    if wanted > 0 and np.ptp(flat, axis=0).max() > 1e-5:
        solver = "arpack" if wanted < min(flat.shape) else "full"  # three components of hundreds
        pca = PCA(wanted, whiten=True, svd_solver=solver, random_state=0)
        found = pca.fit_transform(flat)  # [rows * cols, D] -> [rows * cols, wanted]
        # Whitening would blow the rounding errors of an empty component up to full contrast.
        components[:, :wanted] = np.where(pca.explained_variance_ratio_ > 1e-6, found, 0)
    return np.clip(vote(components.reshape(rows, cols, 3), spread) / 6 + 0.5, 0, 1)


class SpliceLocalizer:
    """Finds regions of a picture whose camera traces do not agree with the rest of it.

    Args:
        model: an `ExifLang`, or any object with `encode_image`; a torch module is put in evaluation mode. None: the
            weights that come with the package.
        windows_per_side: windows on the picture's longer side, about (see `window_grid`).
        window_size: side of a window in pixels, at most the picture's; None: by the picture's size, at most the
            model's patch size (see `picture_window`), under the reference protocol always that.
        readout: "diffused_cut", "diffusion", "far_friends", "eigenvector", "mean_shift" (the paper's), or
            "mean_dissimilarity"; under the reference protocol also "sequential_mean_shift". None: the first, under the
            reference protocol the last.
        batch_size: windows embedded at a time, where they are embedded one by one; bounds the memory. None: 32, which
            stay in a processor's cache, or 256 on a GPU.
        stride_multiple: of the windows' distance; None: the model's `shared_stride`, so that one pass over the picture
            serves all windows, or 1 if it has none.
        mode: "exact": each window is embedded as if it were alone; or "dense": from one pass over the picture, where
            windows overlap. Without padding in the image tower both are the same, to rounding (1e-5); with it, dense
            embeddings are approximations and the result is marked a `preview`.
        precision: of the image tower: "float32", "bf16", or "auto" (see `inference.for_inference`).
        compiled: whether `torch.compile` compiles the image tower at its first picture.
        fast: False switches off what takes less time to the same end: windows go one by one, through `model` itself.
        protocol: "default", or "reference": the choices of the paper's code (see `reference_protocol`): its stride, its
            mean shift and `detection_score`, cells stretched over the picture, the mask by spectral clustering, no
            calibration.
        colours_negated: whether the model sees colour negatives, as the reference's tests did by mistake: for ablation.

    An `ExifLang` is taken as it is when the localiser is made: changes to its image tower later on are not seen.

    Raises `ValueError` for a setting out of its range, `FileNotFoundError` if there is no model and none was packaged.
    """

    def __init__(
        self,
        model: ImageEncoder | None = None,
        windows_per_side: int = 30,
        window_size: int | None = None,
        readout: str | None = None,
        batch_size: int | None = None,
        stride_multiple: int | None = None,
        mode: str = "exact",
        precision: str = "float32",
        compiled: bool = False,
        fast: bool = True,
        protocol: str = "default",
        colours_negated: bool = False,
    ):
        if protocol not in ("default", "reference"):
            raise ValueError(f"unknown protocol {protocol!r}: choose 'default' or 'reference'")
        reference = protocol == "reference"
        self.readouts = REFERENCE_READOUTS if reference else READOUTS
        readout = readout or (SEQUENTIAL if reference else "diffused_cut")
        if readout not in self.readouts:
            raise ValueError(f"unknown readout {readout!r}: choose one of {', '.join(self.readouts)}")
        if mode not in ("exact", "dense"):
            raise ValueError(f"unknown mode {mode!r}: choose 'exact' or 'dense'")
        counts = {"windows_per_side": windows_per_side, "window_size": window_size}
        counts |= {"batch_size": batch_size, "stride_multiple": stride_multiple}
        if wrong := [name for name, count in counts.items() if count is not None and count < 1]:
            raise ValueError(f"{' and '.join(wrong)} must be at least 1")
        if model is None:
            from exiflang.model import ExifLang  # transformers: seconds that other encoders need not wait

            model = ExifLang.from_pretrained(str(packaged_model()))
        if isinstance(model, nn.Module):
            model.eval()  # else batch norm makes a window's embedding depend on its batch
        config = getattr(model, "config", None)
        self.model, self.windows_per_side, self.readout, self.batch_size = model, windows_per_side, readout, batch_size
        self.window_size = window_size or getattr(config, "patch_size", 64)
        self.by_picture_size = window_size is None
        self.stride_multiple = stride_multiple or shared_stride(model) or 1
        self.mode, self.precision, self.fast = mode, precision, fast
        self.protocol, self.colours_negated = protocol, colours_negated
        self.calibration = {} if reference else getattr(config, "calibration", None) or {}
        self.encoder = model
        if fast and hasattr(model, "image_tower"):
            from exiflang.inference import for_inference

            self.encoder = for_inference(model, precision, compiled)
        elif mode != "exact" or precision != "float32" or compiled:
            raise ValueError("mode, precision and compiled are settings for an ExifLang, and of the fast ways only")

    def embed(
        self, image: np.ndarray, calibrated: bool | None = None, progress: Callable[[float], None] = no_progress
    ) -> tuple[np.ndarray, int, int]:
        """Embeddings float32 [rows, cols, D] of a uint8 [H, W, 3] picture's windows, window and stride in pixels.

        calibrated: take the windows of a calibrated model, or those of one that is not; None: as the model is.
        progress: hears the share done, 0..1, and may raise to stop.
        """
        window, stride = self._windows(*image.shape[:2], bool(self.calibration) if calibrated is None else calibrated)
        if self.colours_negated:
            image = negate_colours(image)
        embedder = self._embedder(window, stride)
        return embedder(self.encoder, image, window, stride, progress=progress), window, stride

    def _windows(self, height: int, width: int, calibrated: bool) -> tuple[int, int]:
        """Window and stride in pixels."""
        size = self.window_size
        if self.protocol == "reference":
            return reference_grid(height, width, size, self.windows_per_side)
        if self.by_picture_size:
            size = picture_window(height, width, size, calibrated)
        return window_grid(height, width, size, self.windows_per_side, self.stride_multiple)

    def _embedder(self, window: int, stride: int) -> Callable[..., np.ndarray]:
        """How windows of this size and distance are embedded."""
        step = shared_stride(self.model)
        if self.fast and stride < window:  # without overlap, one by one is less work
            if step and stride % step == 0 and window >= self.model.receptive_field:
                return embed_in_one_pass
            if self.mode == "dense" and step is None:
                return embed_densely
        on_gpu = getattr(self.model, "device", torch.device("cpu")).type != "cpu"
        return partial(embed_windows, batch_size=self.batch_size or (256 if on_gpu else 32))

    def consistency(self, image: np.ndarray, calibrated: bool | None = None) -> np.ndarray:
        """Dissimilarity of the cells of a uint8 [H, W, 3] picture, by the windows of `embed`: float32 [h, w, h, w]."""
        embeddings, window, stride = self.embed(image, calibrated)
        return cell_consistency(embeddings, max(1, window // stride))

    def __call__(self, picture, progress: Callable[[float], None] = no_progress) -> SpliceResult:
        """Analyse a picture: a path, bytes, a PIL image or a uint8 array [H, W, 3]; `progress` as in `embed`.

        Raises `ImageError` for what is not a picture. One window, or a picture of one colour, gives a flat heatmap.
        """
        image = load_image(picture)
        return self.read_out(*self.embed(image, progress=progress), *image.shape[:2])

    def read_out(self, embeddings: np.ndarray, window: int, stride: int, height: int, width: int) -> SpliceResult:
        """What the readout makes of `embed`'s answer for a picture of so many pixels; no network is asked."""
        spread = max(1, window // stride)
        consistency = cell_consistency(embeddings, spread)
        cells = self.readouts[self.readout]().fit_predict(consistency)  # [h, w, h, w] -> [h, w]
        raw = self.draw(cells, height, width, window, stride)
        score = detection_score(cells, consistency, self.readout)
        if known := self.calibration.get(self.readout):
            heatmap = np.empty_like(raw)
            for row in range(0, height, 256):  # float64 shares of a large picture would take most of the memory
                heatmap[row : row + 256] = share_below(raw[row : row + 256], known["cells"])
            mask = heatmap > FOREIGN
            score = float(share_below(score, known["scores"]))
        else:
            heatmap = to_heatmap(raw, self.readout)
            smaller = NormalizedCut().fit_predict(consistency)
            mask = self.draw(smaller, height, width, window, stride) > 0.5
        return SpliceResult(
            heatmap=heatmap,
            raw=raw,
            mask=mask,
            score=score,
            consistency=consistency,
            embeddings=embeddings,
            pca=principal_components(embeddings, spread),
            window_size=window,
            stride=stride,
            preview=self._embedder(window, stride) is embed_densely,
        )

    def draw(self, cells: np.ndarray, height: int, width: int, window: int, stride: int) -> np.ndarray:
        """Cells [h, w] over a picture of so many pixels: float32 [H, W], bilinear, in the protocol's way."""
        if self.protocol == "reference":
            return stretch_cells(cells, height, width)
        return resize_cells(cells, height, width, window, stride)


def cell_consistency(embeddings: np.ndarray, spread: int) -> np.ndarray:
    """Dissimilarity of windows voted to cells: unit [rows, cols, D] → float32 [h, w, h, w], `1 - cosine`, 0..2."""
    rows, cols, dim = embeddings.shape
    flat = embeddings.reshape(rows * cols, dim)
    response = 1 - np.clip(flat @ flat.T, -1, 1)  # [rows * cols, rows * cols]
    return vote(response.reshape(rows, cols, rows, cols), spread, pairs=True)


def to_heatmap(raw: np.ndarray, readout: str) -> np.ndarray:
    """The readout's values on a fixed scale of 0..1: `-cosine` (-1..1) or `1 - cosine` (0..2) both span 2."""
    low = 0.0 if readout in ("mean_shift", "mean_dissimilarity", SEQUENTIAL) else -1.0
    return np.clip((raw - low) / 2, 0, 1).astype(np.float32)
