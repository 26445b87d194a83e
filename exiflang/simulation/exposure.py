"""The settings that photographer and camera choose for one photo, and the EXIF tags that record them."""

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import IFDRational

from exiflang.simulation.cameras import Camera


@dataclass(frozen=True)
class Settings:
    """The settings of one photo, from photographer and camera; pixels and EXIF both follow from them."""

    iso: int
    exposure_time: float  # seconds
    f_number: float
    focal_length: float  # mm
    exposure_bias: float  # EV
    flash: bool
    manual_white: bool
    light_source: int  # EXIF code: 0 unknown, 1 daylight, 3 tungsten, 4 flash, 10 cloudy
    quality: str  # "fine" or "normal"
    contrast: int  # EXIF code: 0 normal, 1 low, 2 high
    saturation: int
    sharpness: int
    scene_type: int  # EXIF code: 0 standard, 1 landscape, 2 portrait, 3 night
    moment: datetime


def draw_settings(camera: Camera, rng: np.random.Generator) -> Settings:
    """Settings of one photo: a light level, and the ISO, aperture and time that expose it (APEX, EXIF 2.32 annex C)."""
    iso = int(camera.isos[min(int(rng.exponential(1.2)), len(camera.isos) - 1)])
    light = float(rng.uniform(5, 15)) - 1.2 * np.log2(iso / 100)  # light value at ISO 100
    flash = bool(light < 7 and rng.random() < 0.6)
    low, high = camera.focal_range
    focal = low if rng.random() < 0.35 else float(np.exp(rng.uniform(np.log(low), np.log(high))))
    widest = max_aperture_at(camera, focal)
    f_number = float(np.round(widest * 2 ** (rng.integers(0, 5) / 2 * (light > 6)), 1))
    bias = float(rng.choice([-2, -1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2])) / 3
    manual = bool(rng.random() < 0.2)
    source = int(rng.choice([1, 3, 10])) if manual else (4 if flash else 0)
    codes = rng.choice([0, 0, 0, 0, 1, 2], 3)
    return Settings(
        iso=iso,
        exposure_time=1 / 60 if flash else float(f_number**2 / 2**light * 100 / iso * 2**bias),
        f_number=f_number,
        focal_length=float(np.round(focal, 1)),
        exposure_bias=bias,
        flash=flash,
        manual_white=manual,
        light_source=source,
        quality="fine" if rng.random() < 0.7 else "normal",
        contrast=int(codes[0]),
        saturation=int(codes[1]),
        sharpness=int(codes[2]),
        scene_type=int(rng.choice([0, 0, 0, 0, 1, 2])) if light > 4 else 3,
        moment=datetime(2012, 1, 1) + timedelta(seconds=int(rng.integers(0, 10 * 365 * 86400))),
    )


def zoom_position(camera: Camera, focal_length: float) -> float:
    """0 at the wide end, 1 at the long end, logarithmic."""
    low, high = camera.focal_range
    return float(np.clip(np.log(focal_length / low) / np.log(high / low), 0, 1))


def max_aperture_at(camera: Camera, focal_length: float) -> float:
    """Smallest f-number of the lens at a focal length: it loses up to one stop towards the long end."""
    return float(np.round(camera.max_aperture * 2 ** (0.5 * zoom_position(camera, focal_length)), 1))


def photo_exif(camera: Camera, settings: Settings, width: int, height: int) -> Image.Exif:
    """EXIF 2.32 tags that follow from camera and settings; the make's omitted tags are left out."""
    moment = settings.moment.strftime("%Y:%m:%d %H:%M:%S")
    widest = max_aperture_at(camera, settings.focal_length)
    base = {
        "Make": camera.make, "Model": camera.model, "Orientation": 1, "XResolution": IFDRational(camera.dpi),
        "YResolution": IFDRational(camera.dpi), "ResolutionUnit": 2, "Software": camera.software, "DateTime": moment,
        "YCbCrPositioning": camera.positioning,
    }  # fmt: skip
    sub = {
        "ExposureTime": _shutter(settings.exposure_time), "FNumber": IFDRational(round(settings.f_number * 10), 10),
        "ExposureProgram": camera.program, "ISOSpeedRatings": settings.iso, "ExifVersion": camera.exif_version,
        "DateTimeOriginal": moment, "CompressedBitsPerPixel": IFDRational(4 if settings.quality == "fine" else 2),
        "ExposureBiasValue": IFDRational(round(settings.exposure_bias * 3), 3),
        "MaxApertureValue": IFDRational(round(200 * np.log2(widest)), 100), "MeteringMode": camera.metering,
        "LightSource": settings.light_source, "Flash": 0x19 if settings.flash else 0x10,
        "FocalLength": IFDRational(round(settings.focal_length * 10), 10), "ExifImageWidth": width,
        "ExifImageHeight": height, "WhiteBalance": int(settings.manual_white),
        "FocalLengthIn35mmFilm": round(settings.focal_length * camera.crop_factor),
        "SceneCaptureType": settings.scene_type, "Contrast": settings.contrast, "Saturation": settings.saturation,
        "Sharpness": settings.sharpness,
        # identical for all photos of all cameras
        "ComponentsConfiguration": b"\x01\x02\x03\x00", "FlashPixVersion": b"0100", "ColorSpace": 1,
        "SensingMethod": 2, "FileSource": b"\x03", "ExposureMode": 0, "DigitalZoomRatio": IFDRational(1),
    }  # fmt: skip
    exif = Image.Exif()
    for tags, folder in ((base, exif), (sub, exif.get_ifd(ExifTags.IFD.Exif))):
        for tag, value in tags.items():
            if tag not in camera.omitted_tags:
                folder[ExifTags.Base[tag]] = value
    return exif


def _shutter(seconds: float) -> IFDRational:
    """Exposure time as cameras write it: 1/n below a third of a second, else tenths."""
    if seconds < 0.3:
        exact = 1 / seconds
        step = 10 ** max(0, int(np.log10(exact)) - 1)
        return IFDRational(1, max(1, round(exact / step) * step))
    return IFDRational(max(1, round(min(seconds, 30) * 10)), 10)
