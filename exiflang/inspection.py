"""Everything that is shown of one picture: what 04_inspect, its widget and the reports draw."""

from __future__ import annotations

import os
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import exiflang
from exiflang.exif_check import MetadataFit, metadata_fit
from exiflang.localize import SpliceLocalizer, SpliceResult
from exiflang.picture import Picture, open_picture
from exiflang.population import Population
from exiflang.windows import no_progress


@dataclass(frozen=True, eq=False)
class Inspection:
    """A picture, what the localiser found in it, and how its metadata fit.

    Attributes:
        picture, result: see there.
        fit: None if the file has no usable EXIF, or the model no population.
        calibrated: whether heatmap and score are shares of authentic pictures.
        settings: what the result depends on: model, version of exiflang, readout, windows, mode, precision.
    """

    picture: Picture
    result: SpliceResult = field(repr=False)
    fit: MetadataFit | None = field(repr=False)
    calibrated: bool
    settings: dict[str, Any]


class Inspector:
    """Opens pictures and inspects them with one localiser. Raises `ValueError` for a population that is damaged.

    Args:
        localizer: None: the weights that come with the package.
        private: show GPS, serial numbers and names.
    """

    def __init__(self, localizer: SpliceLocalizer | None = None, private: bool = False):
        self.localizer = localizer or SpliceLocalizer()
        self.private = private
        self.model = self.localizer.model
        place = getattr(self.model, "name_or_path", "")  # a folder or a hub id; "" if the model was made in memory
        self.name = place or type(self.model).__name__
        self.population = Population.load(place) if place else None

    def __call__(
        self, source: str | os.PathLike | bytes, name: str = "", progress: Callable[[float], None] = no_progress
    ) -> Inspection:
        """Inspect a path, or the bytes of a file called `name`; `progress` as in `SpliceLocalizer.embed`.

        Raises `ImageError` for what is no picture.
        """
        picture = open_picture(source, name, self.private)
        return self.inspect(picture, *self.localizer.embed(picture.image, progress=progress))

    def inspect(self, picture: Picture, embeddings, window: int, stride: int) -> Inspection:
        """What follows from the embeddings that `SpliceLocalizer.embed` gives for the picture."""
        result = self.localizer.read_out(embeddings, window, stride, *picture.image.shape[:2])
        fit = metadata_fit(self.model, self.population, embeddings, picture.tags) if self.population else None
        return Inspection(picture, result, fit, self.localizer.readout in self.localizer.calibration, self.settings)

    def with_settings(self, **settings: Any) -> Inspector:
        """One that shares the model, with other settings of the localiser: windows_per_side, readout or mode."""
        changed = copy(self)
        changed.localizer = copy(self.localizer)
        vars(changed.localizer).update(settings)
        return changed

    def again(self, shown: Inspection, progress: Callable[[float], None] = no_progress) -> Inspection:
        """Inspect a picture anew; if no more than the readout is another one, by the embeddings that are there."""
        if self.settings | {"readout": ""} == shown.settings | {"readout": ""}:
            result = shown.result
            return self.inspect(shown.picture, result.embeddings, result.window_size, result.stride)
        return self.inspect(shown.picture, *self.localizer.embed(shown.picture.image, progress=progress))

    @property
    def settings(self) -> dict[str, Any]:
        """What results depend on, for records."""
        localizer = self.localizer
        return {
            "model": os.path.basename(str(self.name)),
            "exiflang": exiflang.__version__,
            "readout": localizer.readout,
            "windows_per_side": localizer.windows_per_side,
            "window_size": None if localizer.by_picture_size else localizer.window_size,
            "mode": localizer.mode,
            "precision": localizer.precision,
        }
