"""Twelve fictional makes with four camera models each: everything that makes the traces of a simulated camera.

Models of a make share its house style (demosaicing, tone curve, quantisation tables, EXIF wording) and differ in
sensor, lens and strength of processing. All of it is drawn from one fixed seed. No name is a real brand.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CFA_PATTERNS = ("RGGB", "BGGR", "GRBG", "GBRG")
DEMOSAICINGS = ("bilinear", "edge_aware", "vng", "malvar")
_SEED = 20230619

# Annex K of ITU-T T.81, in natural (row by row) order.
_ANNEX_K_LUMA = np.array([
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
], dtype=np.float64)  # fmt: skip
_ANNEX_K_CHROMA = np.array([
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99,
    47, 66, 99, 99, 99, 99, 99, 99,
] + [99] * 32, dtype=np.float64)  # fmt: skip

Tables = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class Camera:
    """One camera model. Lengths in pixels are those of the sensor; levels are shares of full scale, 0..1."""

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
    falloff: float  # share of the cos^4 law left after the camera's own correction
    distortion: tuple[float, float]  # Brown's k1 at the wide and at the long end, radius 1 at the corner
    chromatic: tuple[float, float]  # lateral shift of red and of blue at the corner, wide end, pixels
    isos: tuple[int, ...]
    shot_noise: float  # variance per unit of signal at ISO 100
    read_noise: float  # standard deviation at ISO 100
    white_gains: tuple[float, float]  # red and blue gains in daylight
    colour_matrix: tuple[tuple[float, ...], ...]  # camera RGB to sRGB, rows sum to 1
    gamma: float
    contrast: float  # strength of the S curve
    saturation: float
    luma_denoise: float  # bilateral range in multiples of the expected noise; 0: none
    chroma_denoise: float  # Gaussian sigma at ISO 100, pixels
    sharpen: float  # unsharp amount at the setting "normal"
    sharpen_radius: float  # pixels of the output
    fine_tables: Tables  # JPEG quantisation (luma, chroma), 64 steps each, row by row
    normal_tables: Tables
    subsampling: str  # "4:4:4", "4:2:2" or "4:2:0"
    dpi: int
    exif_version: bytes
    positioning: int  # YCbCrPositioning: 1 centred, 2 co-sited
    program: int  # usual ExposureProgram
    metering: int  # usual MeteringMode
    omitted_tags: frozenset[str]  # optional tags that this make does not write

    @property
    def name(self) -> str:
        return f"{self.make} {self.model}"

    def tables(self, quality: str) -> Tables:
        """Quantisation tables of the quality level "fine" or "normal"."""
        return {"fine": self.fine_tables, "normal": self.normal_tables}[quality]


@dataclass(frozen=True)
class _Make:
    """House style of a make: what its models have in common."""

    name: str
    prefix: str
    software: str
    law: str


_MAKES = (
    _Make("Altamere", "AX-", "Ver.{major}.{minor:02d}", "annex_k"),
    _Make("BRENVIK CORPORATION", "B", "{model} V{major}.{minor}", "ramp"),
    _Make("Corvessa", "Corvessa C", "Firmware Version {major}.{minor}.{patch}", "flat"),
    _Make("DORNABY OPTICAL CO.,LTD", "D{model_tail}Z", "Digital Camera {model} Ver{major}.{minor:02d}", "annex_k"),
    _Make("Elstrand", "ELS ", "v{major}{minor:02d}.{patch}", "power"),
    _Make("FENNIMAR", "FN-F", "{model}_{major}{minor}{patch}", "ramp"),
    _Make("Galdora Imaging", "Galdora G", "Galdora System {major}.{minor}", "power"),
    _Make("HEXLEY", "HX", "{major}.{minor:02d}", "annex_k"),
    _Make("Istrane", "Istrane i-", "Ver {major}.{minor}{patch}", "flat"),
    _Make("JORVALD", "J", "{model} v{major}.{minor:02d}", "power"),
    _Make("Kestrova Inc.", "Kes ", "KS{major}{minor:02d}.{patch}", "ramp"),
    _Make("ONDIRA", "ONDIRA O-", "O-Engine {major}.{minor}", "flat"),
)
_OPTIONAL_TAGS = (
    "CompressedBitsPerPixel", "MaxApertureValue", "LightSource", "SensingMethod", "DigitalZoomRatio",
    "FocalLengthIn35mmFilm", "SceneCaptureType", "Contrast", "Saturation", "Sharpness", "FileSource",
)  # fmt: skip


def _table(law: str, strength: float, slope: float, chroma: bool) -> tuple[int, ...]:
    """64 quantisation steps by one of four laws, 1..255; `strength` is the step at about half the frequency range."""
    u, v = np.meshgrid(np.arange(8), np.arange(8))
    radius = (u + v).ravel() / 7.0
    if law == "annex_k":
        base = (_ANNEX_K_CHROMA if chroma else _ANNEX_K_LUMA) / 60.0
    elif law == "ramp":
        base = 0.25 + slope * radius
    elif law == "flat":
        base = 0.75 + 0.5 * (radius > 0.6) * slope + 0.4 * (radius > 1.2)
    else:
        base = 0.15 + radius ** (1.0 + slope)
    steps = strength * base * (1.5 if chroma and law != "annex_k" else 1.0)
    return tuple(int(s) for s in np.clip(np.round(steps), 1, 255))


def _colour_matrix(rng: np.random.Generator) -> tuple[tuple[float, ...], ...]:
    """Camera RGB to sRGB: strong diagonal, negative neighbours, rows that sum to 1 so that grey stays grey."""
    matrix = -rng.uniform(0.05, 0.40, (3, 3))
    np.fill_diagonal(matrix, 0.0)
    np.fill_diagonal(matrix, 1.0 - matrix.sum(axis=1))
    return tuple(tuple(float(round(value, 4)) for value in row) for row in matrix)


def _pick(rng: np.random.Generator, values, shares=None):
    return values[int(rng.choice(len(values), p=shares))]


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _models_of(make: _Make, rng: np.random.Generator, first: int) -> list[Camera]:
    """The four models of one make; `first` numbers the make's first model, to spread demosaicings evenly."""
    demosaicings = (DEMOSAICINGS[first % 4], DEMOSAICINGS[(first + 1 + first // 4) % 4])
    gamma, contrast, saturation = rng.uniform(1.9, 2.6), rng.uniform(0.0, 0.6), rng.uniform(0.9, 1.3)
    sharpen, radius = _log_uniform(rng, 0.1, 4.0), rng.uniform(0.5, 2.2)
    denoise, chroma_denoise = rng.uniform(0.0, 5.0), rng.uniform(0.2, 3.5)
    strength, slope = _log_uniform(rng, 1.5, 16.0), rng.uniform(0.4, 1.2)
    subsampling = _pick(rng, ("4:2:0", "4:2:2", "4:4:4"), (0.4, 0.4, 0.2))
    dpi, exif_version = _pick(rng, (72, 180, 300, 314)), _pick(rng, (b"0210", b"0220", b"0221", b"0230"))
    positioning, program, metering = _pick(rng, (1, 2)), _pick(rng, (1, 2, 3)), _pick(rng, (2, 3, 5))
    omitted = frozenset(tag for tag in _OPTIONAL_TAGS if rng.random() < 0.25)
    letters = rng.permutation(list("ABDEHKMPRSTVX"))
    numbers = rng.choice(np.arange(2, 99), 4, replace=False) * int(_pick(rng, (1, 10, 5)))
    cameras = []
    for index in range(4):
        tail = f"{numbers[index]}" + (str(letters[index]) if rng.random() < 0.4 else "")
        model = make.prefix.format(model_tail=tail) if "{" in make.prefix else make.prefix + tail
        version = {"major": int(rng.integers(1, 4)), "minor": int(rng.integers(0, 10)), "patch": int(rng.integers(10))}
        wide = float(np.round(rng.uniform(4.3, 18.0), 1))
        crop_factor = float(np.round(rng.uniform(26, 36) / wide, 2))
        steps = int(rng.integers(4, 7))
        fine = strength * _log_uniform(rng, 0.75, 1.33)
        normal = fine * rng.uniform(1.5, 2.0)
        scale = _pick(rng, (1.0, 1.0, 1.35, 1.7, 0.75, 0.6)) * (rng.uniform(0.96, 1.04))
        cameras.append(
            Camera(
                make=make.name,
                model=model,
                software=make.software.format(model=model, **version),
                size=_pick(rng, ((512, 384), (544, 408), (576, 432), (600, 400), (640, 480))),
                cfa=CFA_PATTERNS[int(rng.integers(4))],
                demosaicing=demosaicings[index % 2],
                sensor_scale=1.0 if 0.95 < scale < 1.05 else round(float(scale), 3),
                lens_blur=float(rng.uniform(0.3, 1.3)),
                focal_range=(wide, float(np.round(wide * rng.uniform(2.5, 12), 1))),
                crop_factor=crop_factor,
                max_aperture=float(_pick(rng, (1.8, 2.0, 2.8, 2.8, 3.1, 3.5))),
                falloff=float(rng.uniform(0.1, 1.0)),
                distortion=(float(rng.uniform(-0.09, 0.0)), float(rng.uniform(-0.01, 0.03))),
                chromatic=(float(rng.uniform(-1.5, 1.5)), float(rng.uniform(-1.8, 1.8))),
                isos=tuple(int(_pick(rng, (80, 100))) if k == 0 else 100 * 2**k for k in range(steps)),
                shot_noise=_log_uniform(rng, 1e-5, 1.2e-3),
                read_noise=_log_uniform(rng, 5e-4, 7e-3),
                white_gains=(float(rng.uniform(1.5, 2.3)), float(rng.uniform(1.3, 2.0))),
                colour_matrix=_colour_matrix(rng),
                gamma=float(gamma + rng.normal(0, 0.06)),
                contrast=float(np.clip(contrast + rng.normal(0, 0.06), 0, 0.8)),
                saturation=float(saturation + rng.normal(0, 0.05)),
                luma_denoise=float(max(0.0, denoise + rng.normal(0, 0.5))),
                chroma_denoise=float(max(0.0, chroma_denoise + rng.normal(0, 0.3))),
                sharpen=sharpen * _log_uniform(rng, 0.6, 1.6),
                sharpen_radius=float(np.clip(radius + rng.normal(0, 0.15), 0.4, 2.4)),
                fine_tables=(_table(make.law, fine, slope, False), _table(make.law, fine, slope, True)),
                normal_tables=(_table(make.law, normal, slope, False), _table(make.law, normal, slope, True)),
                subsampling=subsampling,
                dpi=dpi,
                exif_version=exif_version,
                positioning=positioning,
                program=program,
                metering=metering,
                omitted_tags=omitted,
            )
        )
    return cameras


def _build() -> tuple[Camera, ...]:
    cameras = []
    for first, make in enumerate(_MAKES):
        cameras += _models_of(make, np.random.default_rng((_SEED, first)), first)
    return tuple(cameras)


CAMERAS: tuple[Camera, ...] = _build()
