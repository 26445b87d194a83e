"""Decisions on a learned readout's values: p-values against authentic pictures of the same kind, regions, reliability.

A picture's kind is its size class and its file's JPEG compression. Its score is its peak, the highest value of any
window; `Calibration.records` holds the peaks of authentic pictures of each kind. The p-value is conformal: the fraction
of authentic pictures, with the new one counted among them, that reach its score. If pictures come from the same source
as the calibration's, at most a fraction `p` of authentic ones get a p-value of `p` or less. Each camera has equal
weight, however many of its photos are in the calibration. A region is tested by its own peak in the same way, so
verdict and regions agree.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np

from exiflang.localization.evidence import NUMBERS, Evidence

# scipy is imported inside functions to keep importing the localizer fast.

#: Pictures with fewer pixels are "small": their windows are smaller than the model's training patches.
LARGE = 350_000
#: A JPEG is "coarse" if the mean of its ten smallest luma quantization steps exceeds this (quality below about 90).
COARSE = 3.2
_SIZES, _FILES = ("large", "small"), ("no JPEG", "fine JPEG", "coarse JPEG")
#: Names of the kinds.
KINDS = tuple(f"{size}, {file}" for size in _SIZES for file in _FILES)
#: A kind with fewer authentic photos is replaced by the most similar one (see `Calibration.nearest`).
FEWEST = 40
#: False-alarm rate of verdicts and masks.
FALSE_ALARMS = 0.05
#: Evidence maps that indicate tampering, with the sign that does.
TRACES = {"camera_traces": 1, "jpeg_history": 1, "former_history": 1, "grid_along": -1, "grid_beside": 1}


class Record(NamedTuple):
    """An authentic picture: the camera that took it, and the readout's highest value of any window."""

    camera: str
    peak: float


@dataclass(frozen=True)
class Decision:
    """The decision on a score.

    Attributes:
        p_value: fraction of authentic pictures that reach the peak, counting the picture itself: 0..1.
        p_limits: 95 % confidence limits of that fraction, from the number of cameras (Clopper and Pearson 1934).
        verdict: "spliced" if `p_value` is at most `false_alarms`; "not decidable" if there are too few cameras for any
            score to reach such a p-value; else "no splice found".
        false_alarms: the requested false-alarm rate.
        kind: the kind of authentic pictures it was compared with, one of `KINDS`.
        photos, cameras: their number.
    """

    p_value: float
    p_limits: tuple[float, float]
    verdict: str
    false_alarms: float
    kind: str
    photos: int
    cameras: int


@dataclass(frozen=True)
class Region:
    """A region that the readout considers tampered.

    Attributes:
        area: its fraction of the picture, 0..1.
        box: left, top, right, bottom in pixels, the last two exclusive.
        peak: its highest value.
        p_value: fraction of authentic pictures with a window as high as its peak, conformal.
        evidence: its distance from the rest of the picture in each available map of `TRACES`, in standard deviations
            of the rest; empty if the region is the whole picture.
    """

    area: float
    box: tuple[int, int, int, int]
    peak: float
    p_value: float
    evidence: dict[str, float] = field(repr=False)

    @property
    def strongest(self) -> str | None:
        """The map in which it differs most from the rest; None without evidence."""
        return max(self.evidence, key=lambda name: self.evidence[name], default=None)


class Calibration:
    """Authentic pictures by kind. Raises `ValueError` for unknown kinds and for peaks that are NaN or infinite."""

    def __init__(self, records: Mapping[str, Sequence[Record]]):
        if unknown := sorted(records.keys() - set(KINDS)):
            raise ValueError(f"unknown kinds of pictures {unknown}: choose among {', '.join(KINDS)}")
        if not all(np.isfinite([record.peak for record in own]).all() for own in records.values()):
            raise ValueError("NaN or infinity among the values of authentic pictures: calibrate again")
        self.records = {kind: list(own) for kind, own in records.items()}

    @classmethod
    def of(cls, saved: Mapping[str, Any]) -> Self:
        """Create from the output of `to_dict`. Raises `ValueError` for anything else."""
        try:
            records = {kind: [Record(str(c), float(p)) for c, p in own] for kind, own in saved.items()}
        except (TypeError, AttributeError, ValueError, OverflowError) as error:
            raise ValueError(f"a calibration maps kinds to lists of [camera, peak] ({error})") from error
        return cls(records)

    def to_dict(self) -> dict[str, list[list[Any]]]:
        """JSON-ready: lists of [camera, peak] by kind, rounded to four digits."""
        return {kind: [[record.camera, round(record.peak, 4)] for record in own] for kind, own in self.records.items()}

    def nearest(self, kind: str) -> str | None:
        """The kind most similar to `kind` with at least `FEWEST` photos: preferably itself, then one of the same size.

        Among those, the closest JPEG compression is preferred. None if no kind has that many photos.
        """
        size, file = kind.split(", ")

        def unlike(other: str) -> tuple[bool, int]:
            other_size, other_file = other.split(", ")
            return other_size != size, abs(_FILES.index(other_file) - _FILES.index(file))

        enough = [known for known in KINDS if len(self.records.get(known, ())) >= FEWEST]
        return min(enough, key=unlike, default=None)

    def decide(self, peak: float, kind: str, false_alarms: float = FALSE_ALARMS) -> Decision:
        """Compare a picture's peak with authentic pictures of its kind. Raises `ValueError` for NaN."""
        if np.isnan(peak):
            raise ValueError("the picture's highest value is NaN: the readout or its inputs are broken")
        compared = self.nearest(kind)
        if compared is None:
            return Decision(1.0, (0.0, 1.0), "not decidable", false_alarms, kind, 0, 0)
        own = self.records[compared]
        reached, cameras = _votes(own, peak)
        p_value = (1 + reached) / (1 + cameras)
        verdict = "spliced" if p_value <= false_alarms else "no splice found"
        if 1 / (1 + cameras) > false_alarms:
            verdict = "not decidable"
        return Decision(p_value, _limits(reached, cameras), verdict, false_alarms, compared, len(own), cameras)

    def p_value(self, peak: float, kind: str) -> float:
        """Fraction of authentic pictures with a window as high as `peak`, conformal; 1 if there are none."""
        compared = self.nearest(kind)
        if compared is None:
            return 1.0
        reached, cameras = _votes(self.records[compared], peak)
        return (1 + reached) / (1 + cameras)

    def level(self, kind: str, false_alarms: float = FALSE_ALARMS) -> float | None:
        """The lowest peak whose `p_value` is at most `false_alarms`; None if none is."""
        compared = self.nearest(kind)
        if compared is None:
            return None
        peaks = sorted({-np.inf, *(record.peak for record in self.records[compared])})
        levels = np.nextafter(peaks, np.inf).tolist()  # p-values change only just above a peak
        first = bisect_left(levels, True, key=lambda level: self.p_value(level, kind) <= false_alarms)
        return levels[first] if first < len(levels) else None


def picture_kind(height: int, width: int, evidence: Evidence) -> str:
    """The picture's kind, one of `KINDS`."""
    numbers = dict(zip(NUMBERS, evidence.numbers.tolist(), strict=True))
    size = "large" if height * width >= LARGE else "small"
    if not numbers["is a JPEG file"]:
        return f"{size}, no JPEG"
    return f"{size}, {'coarse' if np.exp(numbers['log of its mean low step']) > COARSE else 'fine'} JPEG"


def _votes(records: Sequence[Record], peak: float) -> tuple[float, int]:
    """Sum over cameras of the fraction of their photos that reach `peak`, and the number of cameras."""
    _, camera = np.unique([record.camera for record in records], return_inverse=True)
    photos = np.bincount(camera)
    return float((np.bincount(camera, [record.peak >= peak for record in records]) / photos).sum()), len(photos)


def _limits(reached: float, cameras: int) -> tuple[float, float]:
    """95 % limits of the fraction of authentic pictures that reach a score, when `reached` of `cameras` did."""
    from scipy.stats import beta

    low = float(beta.ppf(0.025, reached, cameras - reached + 1)) if reached > 0 else 0.0
    high = float(beta.ppf(0.975, reached + 1, cameras - reached)) if reached < cameras else 1.0
    return low, high


def find_regions(
    values: np.ndarray,
    above: Callable[[float], np.ndarray],
    centers: tuple[np.ndarray, np.ndarray],
    traces: Mapping[str, np.ndarray],
    calibration: Calibration,
    kind: str,
    false_alarms: float = FALSE_ALARMS,
) -> tuple[np.ndarray, list[Region]]:
    """The mask, bool [H, W], and its regions, largest first.

    Let `level` be the lowest peak whose p-value is at most `false_alarms`. A region is a connected part of the picture
    above min(0, `level`) (a logit of 0 is even odds) that has a window of at least `level`. At most a fraction
    `false_alarms` of authentic pictures therefore shows any region.

    Args:
        values: logits of windows, float32 [rows, cols].
        above: gives the pixels at which the logits, drawn over the picture, exceed a level: bool [H, W].
        centers: row and column centers of windows, int pixels [rows], [cols].
        traces: maps [rows, cols] by the names of `TRACES`.
    """
    from scipy.ndimage import find_objects, label

    level = calibration.level(kind, false_alarms)
    if level is None or not float(values.max()) >= level:  # float32 would round the level
        return above(np.inf), []
    labels, _ = label(above(min(0.0, level)), output=np.uint16)  # half the default's memory
    mask = np.zeros(labels.shape, bool)
    of_window = labels[np.ix_(*centers)]  # [rows, cols]
    regions = []
    for number, place in enumerate(find_objects(labels), 1):
        inside = of_window == number
        peak = float(values[inside].max(initial=-np.inf))
        if peak < level:
            continue
        own = labels[place] == number
        mask[place] |= own
        box = (place[1].start, place[0].start, place[1].stop, place[0].stop)
        p_value = calibration.p_value(peak, kind)
        regions.append(Region(float(own.sum() / mask.size), box, peak, p_value, _apart(traces, inside)))
    return mask, sorted(regions, key=lambda region: -region.area)


def _apart(traces: Mapping[str, np.ndarray], inside: np.ndarray) -> dict[str, float]:
    """How far the windows inside are from the others, on average, in each map: in deviations, signed by `TRACES`."""
    apart = {}
    for name, sign in TRACES.items():
        if name in traces and not inside.all():
            rest = traces[name][~inside]
            apart[name] = float(sign * (traces[name][inside].mean() - rest.mean()) / (rest.std() + 1e-6))
    return apart


def reliability(maps: Mapping[str, np.ndarray], traces: Mapping[str, np.ndarray]) -> np.ndarray:
    """How reliable a window's evidence is: float32 [rows, cols] in 0..1.

    It is low where windows are flat, dark or clipped, which leaves no traces, and where camera traces and JPEG history
    disagree by more than two deviations. It does not indicate tampering.
    """
    texture = np.clip(maps["gradient"] / 0.008, 0, 1)
    light = np.clip((maps["brightness"] - 0.02) / 0.08, 0, 1)
    told = texture * light * (1 - maps["clipped"])
    kinds = [traces[name] for name in ("camera_traces", "jpeg_history") if name in traces]
    standard = [(values - values.mean()) / (values.std() + 1e-6) for values in kinds]
    if len(standard) == 2:
        told = told * (1 - np.clip((np.abs(standard[0] - standard[1]) - 2) / 3, 0, 1))
    return told.astype(np.float32)
