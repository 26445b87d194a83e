"""Twelve fictional makes with four camera models each: all parameters that shape a simulated camera's traces.

Models of a make share its house style (demosaicing, tone curve, quantization tables, EXIF wording) and differ in
sensor, lens and strength of processing. All parameters are drawn from one fixed seed. No name is a real brand.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from exiflang.utils.dct import standard_tables

CFA_PATTERNS = ("RGGB", "BGGR", "GRBG", "GBRG")
DEMOSAICINGS = ("bilinear", "edge_aware", "vng", "malvar")
_SEED = 20230619

Tables = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class Camera:
    """One camera model. Lengths in pixels refer to the sensor; levels are fractions of full scale, 0..1."""

    make: str
    model: str
    software: str
    size: tuple[int, int]  # default output, (width, height)
    cfa: str  # one of CFA_PATTERNS
    demosaicing: str  # one of DEMOSAICINGS
    sensor_scale: float  # sensor pixels per output pixel; 1: no resampling in the camera
    lens_blur: float  # standard deviation of the point spread, pixels
    focal_range: tuple[float, float]  # mm
    crop_factor: float
    max_aperture: float  # f-number at the wide end
    falloff: float  # fraction of the cos^4 law left after in-camera correction
    distortion: tuple[float, float]  # Brown's k1 at the wide and at the long end, radius 1 at the corner
    chromatic: tuple[float, float]  # lateral shift of red and of blue at the corner, wide end, pixels
    isos: tuple[int, ...]
    shot_noise: float  # variance per unit of signal at ISO 100
    read_noise: float  # standard deviation at ISO 100
    white_gains: tuple[float, float]  # red and blue gains in daylight
    color_matrix: tuple[tuple[float, ...], ...]  # camera RGB to sRGB, rows sum to 1
    gamma: float
    contrast: float  # strength of the S curve
    saturation: float
    luma_denoise: float  # bilateral range in multiples of the expected noise; 0: none
    chroma_denoise: float  # Gaussian sigma at ISO 100, pixels
    sharpen: float  # unsharp amount at the setting "normal"
    sharpen_radius: float  # pixels of the output
    fine_tables: Tables  # JPEG quantization (luma, chroma), 64 steps each, row by row
    normal_tables: Tables
    subsampling: str  # "4:4:4", "4:2:2" or "4:2:0"
    dpi: int
    exif_version: bytes
    positioning: int  # YCbCrPositioning: 1 centered, 2 co-sited
    program: int  # usual ExposureProgram
    metering: int  # usual MeteringMode
    omitted_tags: frozenset[str]  # optional tags that this make does not write

    @property
    def name(self) -> str:
        return f"{self.make} {self.model}"

    def tables(self, quality: str) -> Tables:
        """Quantization tables of the quality level "fine" or "normal"."""
        return {"fine": self.fine_tables, "normal": self.normal_tables}[quality]


# The house style of each make: its name, patterns of model and software names, and the law of its quantization tables.
_MAKES = (
    ("Altamere", "AX-{}", "Ver.{major}.{minor:02d}", "annex_k"),
    ("BRENVIK CORPORATION", "B{}", "{model} V{major}.{minor}", "ramp"),
    ("Corvessa", "Corvessa C{}", "Firmware Version {major}.{minor}.{patch}", "flat"),
    ("DORNABY OPTICAL CO.,LTD", "D{}Z", "Digital Camera {model} Ver{major}.{minor:02d}", "annex_k"),
    ("Elstrand", "ELS {}", "v{major}{minor:02d}.{patch}", "power"),
    ("FENNIMAR", "FN-F{}", "{model}_{major}{minor}{patch}", "ramp"),
    ("Galdora Imaging", "Galdora G{}", "Galdora System {major}.{minor}", "power"),
    ("HEXLEY", "HX{}", "{major}.{minor:02d}", "annex_k"),
    ("Istrane", "Istrane i-{}", "Ver {major}.{minor}{patch}", "flat"),
    ("JORVALD", "J{}", "{model} v{major}.{minor:02d}", "power"),
    ("Kestrova Inc.", "Kes {}", "KS{major}{minor:02d}.{patch}", "ramp"),
    ("ONDIRA", "ONDIRA O-{}", "O-Engine {major}.{minor}", "flat"),
)
_OPTIONAL_TAGS = (
    "CompressedBitsPerPixel", "MaxApertureValue", "LightSource", "SensingMethod", "DigitalZoomRatio",
    "FocalLengthIn35mmFilm", "SceneCaptureType", "Contrast", "Saturation", "Sharpness", "FileSource",
)  # fmt: skip


def _table(law: str, strength: float, slope: float, chroma: bool) -> tuple[int, ...]:
    """64 quantization steps by one of four laws, 1..255; `strength` is the step at about half the frequency range."""
    u, v = np.meshgrid(np.arange(8), np.arange(8))
    radius = (u + v).ravel() / 7.0
    if law == "annex_k":
        base = np.array(standard_tables(50)[chroma]) / 60.0
    elif law == "ramp":
        base = 0.25 + slope * radius
    elif law == "flat":
        base = 0.75 + 0.5 * (radius > 0.6) * slope + 0.4 * (radius > 1.2)
    else:
        base = 0.15 + radius ** (1.0 + slope)
    steps = strength * base * (1.5 if chroma and law != "annex_k" else 1.0)
    return tuple(int(s) for s in np.clip(np.round(steps), 1, 255))


def _color_matrix(rng: np.random.Generator) -> tuple[tuple[float, ...], ...]:
    """Camera RGB to sRGB: strong diagonal, negative neighbors, rows that sum to 1 so that gray stays gray."""
    matrix = -rng.uniform(0.05, 0.40, (3, 3))
    np.fill_diagonal(matrix, 0.0)
    np.fill_diagonal(matrix, 1.0 - matrix.sum(axis=1))
    return tuple(tuple(float(round(value, 4)) for value in row) for row in matrix)


def _pick(rng: np.random.Generator, values: Sequence[Any], shares: Sequence[float] | None = None) -> Any:
    return values[int(rng.choice(len(values), p=shares))]


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _models_of(first: int) -> list[Camera]:
    """The four models of make number `first`; the number also distributes the demosaicing methods evenly."""
    make, pattern, wording, law = _MAKES[first]
    rng = np.random.default_rng((_SEED, first))
    demosaicings = (DEMOSAICINGS[first % 4], DEMOSAICINGS[(first + 1 + first // 4) % 4])
    style = {
        "gamma": rng.uniform(1.9, 2.6), "contrast": rng.uniform(0.0, 0.6), "saturation": rng.uniform(0.9, 1.3),
        "sharpen": _log_uniform(rng, 0.1, 4.0), "sharpen_radius": rng.uniform(0.5, 2.2),
        "luma_denoise": rng.uniform(0.0, 5.0), "chroma_denoise": rng.uniform(0.2, 3.5),
    }  # fmt: skip
    strength, slope = _log_uniform(rng, 1.5, 16.0), rng.uniform(0.4, 1.2)
    shared = {
        "subsampling": _pick(rng, ("4:2:0", "4:2:2", "4:4:4"), (0.4, 0.4, 0.2)),
        "dpi": _pick(rng, (72, 180, 300, 314)), "exif_version": _pick(rng, (b"0210", b"0220", b"0221", b"0230")),
        "positioning": _pick(rng, (1, 2)), "program": _pick(rng, (1, 2, 3)), "metering": _pick(rng, (2, 3, 5)),
        "omitted_tags": frozenset(tag for tag in _OPTIONAL_TAGS if rng.random() < 0.25),
    }  # fmt: skip
    letters = rng.permutation(list("ABDEHKMPRSTVX"))
    numbers = rng.choice(np.arange(2, 99), 4, replace=False) * int(_pick(rng, (1, 10, 5)))
    cameras = []
    for index in range(4):
        model = pattern.format(f"{numbers[index]}" + (str(letters[index]) if rng.random() < 0.4 else ""))
        version = {"major": int(rng.integers(1, 4)), "minor": int(rng.integers(0, 10)), "patch": int(rng.integers(10))}
        software = wording.format(model=model, **version)
        own = _hardware(rng, law, strength, slope) | _processing(rng, style)
        cameras.append(Camera(make, model, software, demosaicing=demosaicings[index % 2], **own, **shared))
    return cameras


def _hardware(rng: np.random.Generator, law: str, strength: float, slope: float) -> dict[str, Any]:
    """Quantization tables, picture, lens and sensor of one model, drawn in this order."""
    wide = float(np.round(rng.uniform(4.3, 18.0), 1))
    crop_factor = float(np.round(rng.uniform(26, 36) / wide, 2))
    steps = int(rng.integers(4, 7))
    fine = strength * _log_uniform(rng, 0.75, 1.33)
    normal = fine * rng.uniform(1.5, 2.0)
    scale = _pick(rng, (1.0, 1.0, 1.35, 1.7, 0.75, 0.6)) * rng.uniform(0.96, 1.04)
    return {
        "crop_factor": crop_factor,
        "fine_tables": tuple(_table(law, fine, slope, chroma) for chroma in (False, True)),
        "normal_tables": tuple(_table(law, normal, slope, chroma) for chroma in (False, True)),
        "sensor_scale": 1.0 if 0.95 < scale < 1.05 else round(float(scale), 3),
        "size": _pick(rng, ((512, 384), (544, 408), (576, 432), (600, 400), (640, 480))),
        "cfa": CFA_PATTERNS[int(rng.integers(4))],
        "lens_blur": float(rng.uniform(0.3, 1.3)),
        "focal_range": (wide, float(np.round(wide * rng.uniform(2.5, 12), 1))),
        "max_aperture": float(_pick(rng, (1.8, 2.0, 2.8, 2.8, 3.1, 3.5))),
        "falloff": float(rng.uniform(0.1, 1.0)),
        "distortion": (float(rng.uniform(-0.09, 0.0)), float(rng.uniform(-0.01, 0.03))),
        "chromatic": (float(rng.uniform(-1.5, 1.5)), float(rng.uniform(-1.8, 1.8))),
        "isos": (int(_pick(rng, (80, 100))), *(100 * 2**k for k in range(1, steps))),
        "shot_noise": _log_uniform(rng, 1e-5, 1.2e-3),
        "read_noise": _log_uniform(rng, 5e-4, 7e-3),
        "white_gains": (float(rng.uniform(1.5, 2.3)), float(rng.uniform(1.3, 2.0))),
        "color_matrix": _color_matrix(rng),
    }


def _processing(rng: np.random.Generator, style: dict[str, float]) -> dict[str, Any]:
    """Processing parameters of one model, which vary around its make's style."""
    return {
        "gamma": float(style["gamma"] + rng.normal(0, 0.06)),
        "contrast": float(np.clip(style["contrast"] + rng.normal(0, 0.06), 0, 0.8)),
        "saturation": float(style["saturation"] + rng.normal(0, 0.05)),
        "luma_denoise": float(max(0.0, style["luma_denoise"] + rng.normal(0, 0.5))),
        "chroma_denoise": float(max(0.0, style["chroma_denoise"] + rng.normal(0, 0.3))),
        "sharpen": style["sharpen"] * _log_uniform(rng, 0.6, 1.6),
        "sharpen_radius": float(np.clip(style["sharpen_radius"] + rng.normal(0, 0.15), 0.4, 2.4)),
    }


CAMERAS: tuple[Camera, ...] = tuple(camera for first in range(len(_MAKES)) for camera in _models_of(first))
