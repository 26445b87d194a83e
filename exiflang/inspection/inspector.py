"""Everything that 04_inspect, its widget and the reports show about one picture."""

from __future__ import annotations

import os
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import exiflang
from exiflang.headers.reference import HeaderFit, SignatureReference
from exiflang.inspection.metadata import MetadataFit, metadata_fit
from exiflang.inspection.picture import Picture, open_picture
from exiflang.inspection.text_bank import TextBank
from exiflang.localization.decision import FALSE_ALARMS
from exiflang.localization.localizer import SpliceLocalizer
from exiflang.localization.result import Observation, SpliceResult
from exiflang.localization.windows import no_progress
from exiflang.utils.typed import typed

#: Settings whose changes only need the readout to be repeated on the same observation.
_REREAD = {"readout": None, "false_alarms": None}


@dataclass(frozen=True, eq=False)
class Inspection:
    """A picture, the localizer's result, and how well its metadata fit.

    Attributes:
        picture, result: see `Picture` and `SpliceResult`.
        fit: None if the file has no usable EXIF, or the model no text bank.
        header_fit: None if the file is no JPEG or names no make, or there is no signature reference.
        calibrated: whether heatmap and score are fractions of authentic cells and pictures.
        settings: everything the result depends on: model, version of exiflang, readout, false alarms, windows, mode,
            precision.
        seen: the localizer's observation of the picture, for use with a different readout.
    """

    picture: Picture
    result: SpliceResult = field(repr=False)
    fit: MetadataFit | None = field(repr=False)
    header_fit: HeaderFit | None = field(repr=False)
    calibrated: bool
    settings: dict[str, Any]
    seen: Observation = field(repr=False)


class Inspector:
    """Opens pictures and inspects them with one localizer.

    Raises `ValueError` for a damaged text bank and for an invalid rate.

    Args:
        localizer: None: one with the packaged weights.
        private: show GPS, serial numbers and names.
        false_alarms: rate of verdicts and masks of a learned readout, between 0 and 1.
        signatures: file of a signature reference of your own, see `exiflang reference`; its photos add to those of the
            model's.
    """

    def __init__(
        self,
        localizer: SpliceLocalizer | None = None,
        private: bool = False,
        false_alarms: float = FALSE_ALARMS,
        signatures: str | os.PathLike | None = None,
    ):
        false_alarms = typed("false_alarms", false_alarms, float)
        if not 0 < false_alarms < 1:
            raise ValueError(f"false_alarms is {false_alarms}: it must be between 0 and 1")
        self.localizer = localizer or SpliceLocalizer()
        self.private, self.false_alarms = typed("private", private, bool), false_alarms
        self.model: Any = self.localizer.model
        place = getattr(self.model, "name_or_path", "")  # a folder or a hub id; "" if the model was created in memory
        self.name = place or type(self.model).__name__
        self.text_bank = TextBank.load(place) if place else None
        self.signatures = SignatureReference.of_model(place) if place else None
        if signatures:
            own = SignatureReference.load(signatures)
            self.signatures = self.signatures.merged(own) if self.signatures else own.calibrated()

    def __call__(
        self, source: str | os.PathLike | bytes, name: str = "", progress: Callable[[float], None] = no_progress
    ) -> Inspection:
        """Inspect a path, or the bytes of a file called `name`; `progress` as in `SpliceLocalizer.embed`.

        Raises `ImageError` if it is not a picture.
        """
        return self._look(open_picture(source, name, self.private), progress)

    def _look(self, picture: Picture, progress: Callable[[float], None]) -> Inspection:
        return self.inspect(picture, self.localizer.observe(picture.image, picture.history, progress=progress))

    def inspect(self, picture: Picture, seen: Observation) -> Inspection:
        """The inspection of a picture that the localizer has already observed."""
        result = self.localizer.read_out(seen, self.false_alarms)
        fit = metadata_fit(self.model, self.text_bank, seen.embeddings, picture.tags) if self.text_bank else None
        calibrated = result.decision is not None or self.localizer.readout in self.localizer.calibration
        header, header_fit = picture.file.header, None
        if header and self.signatures:
            header_fit = self.signatures.fit(header, picture.tags)
        return Inspection(picture, result, fit, header_fit, calibrated, self.settings, seen)

    def with_settings(self, false_alarms: float | None = None, **settings: Any) -> Inspector:
        """An inspector that shares the model but has a different false-alarm rate, or a localizer with different
        `windows_per_side`, `readout` or `mode`."""
        changed = copy(self)
        changed.false_alarms = self.false_alarms if false_alarms is None else false_alarms
        changed.localizer = copy(self.localizer)
        vars(changed.localizer).update(settings)
        return changed

    def again(self, shown: Inspection, progress: Callable[[float], None] = no_progress) -> Inspection:
        """Inspect a picture again, reusing its observation if the changed settings allow it (see `_REREAD`)."""
        if self.settings | _REREAD == shown.settings | _REREAD:
            return self.inspect(shown.picture, shown.seen)
        return self._look(shown.picture, progress)

    @property
    def settings(self) -> dict[str, Any]:
        """Everything results depend on, for the record."""
        localizer = self.localizer
        return {
            "model": os.path.basename(str(self.name)),
            "exiflang": exiflang.__version__,
            "readout": localizer.readout,
            "false_alarms": self.false_alarms,
            "windows_per_side": localizer.windows_per_side,
            "window_size": None if localizer.by_picture_size else localizer.window_size,
            "mode": localizer.mode,
            "precision": localizer.precision,
        }
