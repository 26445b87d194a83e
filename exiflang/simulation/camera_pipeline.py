"""From a scene to the pixels of a simulated camera: optics, sensor, demosaicing and in-camera processing."""

import math
from typing import Any

import cv2
import numpy as np

from exiflang.simulation.cameras import Camera
from exiflang.simulation.exposure import Settings, max_aperture_at, zoom_position

MARGIN = 8  # sensor pixels rendered around the picture, cut off after all filters have run
_LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)
_CURVE_STEPS = 1 << 14
_LIGHT_TINTS = {0: (1.0, 1.0), 1: (1.0, 1.0), 3: (1.12, 0.85), 4: (0.97, 1.04), 10: (0.95, 1.07)}  # red, blue cast left


def scene_size(camera: Camera, width: int, height: int) -> tuple[int, int]:
    """Width and height in pixels of the scene needed for a photo of `width` x `height` pixels."""
    wide, high = (2 * math.ceil(n * camera.sensor_scale / 2) + 2 * MARGIN for n in (width, height))
    return wide, high


def develop(
    camera: Camera, settings: Settings, rng: np.random.Generator, scene: np.ndarray, width: int, height: int
) -> np.ndarray:
    """Develop a scene of `scene_size`, float32 [H, W, 3], linear light in 0..2, into uint8 [height, width, 3]."""
    light = expose(camera, settings, through_lens(camera, settings, scene))
    mosaic = sense(camera, settings, light, rng)
    linear = to_srgb(camera, settings, demosaic(mosaic, camera.cfa, camera.demosaicing), rng)
    return finish(camera, settings, linear, width, height)


def through_lens(camera: Camera, settings: Settings, scene: np.ndarray) -> np.ndarray:
    """Brown's radial distortion (1971), lateral chromatic aberration, cos^4 falloff and blur; [H, W, 3] to [H, W, 3].

    Radius 1 is the corner. Chromatic shifts are the camera's at the wide end and fade to a third at the long end.
    """
    height, width = scene.shape[:2]
    zoom = zoom_position(camera, settings.focal_length)
    k1 = (1 - zoom) * camera.distortion[0] + zoom * camera.distortion[1]
    corner = np.hypot(width, height) / 2
    x = (np.arange(width, dtype=np.float32) - (width - 1) / 2)[None, :]
    y = (np.arange(height, dtype=np.float32) - (height - 1) / 2)[:, None]
    radius2 = (x * x + y * y) / np.float32(corner**2)  # [H, W]
    shifts = (camera.chromatic[0], 0.0, camera.chromatic[1])
    picture = np.empty_like(scene)
    for channel, shift in enumerate(shifts):
        # The division by 1 + max(k1, 0) keeps sampling inside the scene at the corners.
        factor = (1 + k1 * radius2) / np.float32(1 + max(k1, 0)) + np.float32(shift * (1 - zoom * 2 / 3) / corner)
        map_x, map_y = x * factor + np.float32((width - 1) / 2), y * factor + np.float32((height - 1) / 2)
        picture[..., channel] = cv2.remap(
            np.ascontiguousarray(scene[..., channel]), map_x, map_y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101
        )
    picture = cv2.GaussianBlur(picture, (0, 0), camera.lens_blur)
    tangent2 = radius2 * np.float32((21.63 / (settings.focal_length * camera.crop_factor)) ** 2)
    strength = camera.falloff * (max_aperture_at(camera, settings.focal_length) / settings.f_number) ** 0.5
    shading = 1 - np.float32(strength) * (1 - (1 + tangent2) ** -2)  # cos^4 = (1 + tan^2)^-2
    if settings.flash:
        shading /= 1 + np.float32(0.6) * radius2
    return np.maximum(picture, 0) * shading[..., None]


def expose(camera: Camera, settings: Settings, light: np.ndarray) -> np.ndarray:
    """Scales the light so that metering puts the picture's mean at a mid level, shifted by the exposure bias."""
    mean = float(np.minimum(light @ _LUMA, 1.0).mean())
    return light * np.float32(np.clip(0.19 / max(mean, 1e-4), 0.2, 5.0) * 2**settings.exposure_bias)


def noise_deviation(camera: Camera, iso: int, signal: Any) -> Any:
    """Standard deviation of raw noise at a signal in 0..1, of any shape: its variance is linear (see `sense`)."""
    gain = iso / 100
    return np.sqrt(camera.shot_noise * gain * signal + camera.read_noise**2 * gain)


def cfa_offsets(cfa: str) -> dict[str, list[tuple[int, int]]]:
    """Color -> its (row, column) positions in the 2 x 2 cell of a pattern such as "RGGB"."""
    positions: dict[str, list[tuple[int, int]]] = {"R": [], "G": [], "B": []}
    for index, color in enumerate(cfa):
        positions[color].append(divmod(index, 2))
    return positions


def sense(camera: Camera, settings: Settings, light: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Light [H, W, 3] to a noisy raw mosaic, float32 [H, W] in 0..1.

    Poisson-Gaussian noise in its heteroscedastic normal form: Foi, Trimeche, Katkovnik and Egiazarian, "Practical
    Poissonian-Gaussian noise modeling and fitting for single-image raw-data", IEEE TIP 2008.
    """
    gains = np.array([camera.white_gains[0], 1.0, camera.white_gains[1]])
    to_raw = np.linalg.inv(np.array(camera.color_matrix)) / gains[:, None]
    raw = cv2.transform(light, to_raw.astype(np.float32))
    mosaic = np.empty(light.shape[:2], np.float32)
    for channel, color in enumerate("RGB"):
        for row, col in cfa_offsets(camera.cfa)[color]:
            mosaic[row::2, col::2] = raw[row::2, col::2, channel]
    np.clip(mosaic, 0, 1, out=mosaic)
    mosaic += noise_deviation(camera, settings.iso, mosaic) * rng.standard_normal(mosaic.shape, dtype=np.float32)
    return np.clip(mosaic, 0, 1, out=mosaic)


def demosaic(mosaic: np.ndarray, cfa: str, method: str) -> np.ndarray:
    """Raw mosaic, float32 [H, W] in 0..1, to camera RGB, float32 [H, W, 3].

    "bilinear", "edge_aware" and "vng" (Chang, Cheung and Pang 1999) are OpenCV's; "malvar" is Malvar, He and Cutler,
    "High-quality linear interpolation for demosaicing of Bayer-patterned color images", ICASSP 2004.
    """
    if method == "malvar":
        return _malvar(mosaic, cfa)
    if method == "vng":
        # OpenCV's VNG is 8-bit only: compand with a square root, as many cameras do for raw data.
        code = getattr(cv2, f"COLOR_Bayer{cfa}2RGB_VNG")
        rgb = cv2.demosaicing(np.round(np.sqrt(mosaic) * 255).astype(np.uint8), code).astype(np.float32) / 255
        return rgb * rgb
    code = getattr(cv2, f"COLOR_Bayer{cfa}2RGB" + ("_EA" if method == "edge_aware" else ""))
    return cv2.demosaicing(np.round(mosaic * 65535).astype(np.uint16), code).astype(np.float32) / 65535


# The filters of the paper, in eighths.
_MALVAR_GREEN = np.array(
    [[0, 0, -1, 0, 0], [0, 0, 2, 0, 0], [-1, 2, 4, 2, -1], [0, 0, 2, 0, 0], [0, 0, -1, 0, 0]], np.float32
)
_MALVAR_ROW = np.array(  # red at green in a red row, blue at green in a blue row; transposed for columns
    [[0, 0, 0.5, 0, 0], [0, -1, 0, -1, 0], [-1, 4, 5, 4, -1], [0, -1, 0, -1, 0], [0, 0, 0.5, 0, 0]], np.float32
)
_MALVAR_CROSS = np.array(  # red at blue and blue at red
    [[0, 0, -1.5, 0, 0], [0, 2, 0, 2, 0], [-1.5, 0, 6, 0, -1.5], [0, 2, 0, 2, 0], [0, 0, -1.5, 0, 0]], np.float32
)


def _malvar(mosaic: np.ndarray, cfa: str) -> np.ndarray:
    def filtered(kernel: np.ndarray) -> np.ndarray:
        return cv2.filter2D(mosaic, -1, kernel / 8, borderType=cv2.BORDER_REFLECT_101)

    green, by_row, by_col, cross = map(filtered, (_MALVAR_GREEN, _MALVAR_ROW, _MALVAR_ROW.T, _MALVAR_CROSS))
    positions = cfa_offsets(cfa)
    (red,), (blue,) = positions["R"], positions["B"]
    rgb = np.repeat(mosaic[..., None], 3, axis=2)  # [H, W] -> [H, W, 3]
    for channel, (own, other) in ((0, (red, blue)), (2, (blue, red))):
        for row, col in positions["G"]:
            source = by_row if row == own[0] else by_col
            rgb[row::2, col::2, channel] = source[row::2, col::2]
        rgb[other[0] :: 2, other[1] :: 2, channel] = cross[other[0] :: 2, other[1] :: 2]
        rgb[own[0] :: 2, own[1] :: 2, 1] = green[own[0] :: 2, own[1] :: 2]
    return np.clip(rgb, 0, 1, out=rgb)


def to_srgb(camera: Camera, settings: Settings, raw: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """White balance, with automatic balance's residual error or a preset light's cast, then the color matrix."""
    red_cast, blue_cast = _LIGHT_TINTS[settings.light_source]
    error = np.exp(rng.normal(0, 0.03, 2))
    gains = (camera.white_gains[0] * red_cast * error[0], 1.0, camera.white_gains[1] * blue_cast * error[1])
    balanced = np.minimum(raw * np.array(gains, np.float32), 1.0)
    return np.clip(cv2.transform(balanced, np.array(camera.color_matrix, np.float32)), 0, 1)


def tone_curve(camera: Camera, contrast_setting: int) -> np.ndarray:
    """Lookup table of 2**14 levels, linear 0..1 to encoded 0..1: a power law followed by an S curve."""
    encoded = np.linspace(0, 1, _CURVE_STEPS) ** (1 / camera.gamma)
    strength = np.clip(camera.contrast + {0: 0.0, 1: -0.25, 2: 0.25}[contrast_setting], -0.3, 0.9)
    smooth = encoded * encoded * (3 - 2 * encoded)
    return ((1 - strength) * encoded + strength * smooth).astype(np.float32)


def finish(camera: Camera, settings: Settings, linear: np.ndarray, width: int, height: int) -> np.ndarray:
    """Tone curve, saturation, denoising of luma and chroma, resampling and sharpening: to uint8 [height, width, 3].

    Luma is denoised with a bilateral filter (Tomasi and Manduchi 1998) matched to the noise expected at this ISO,
    chroma with a Gaussian; sharpening is an unsharp mask of limited amplitude. Both follow the photo's settings.
    """
    curve = tone_curve(camera, settings.contrast)
    encoded = np.take(curve, (linear * (_CURVE_STEPS - 1)).astype(np.uint16))  # [H, W, 3]
    ycc = cv2.cvtColor(encoded, cv2.COLOR_RGB2YCrCb)
    luma: np.ndarray = np.ascontiguousarray(ycc[..., 0])
    chroma: np.ndarray = ycc[..., 1:] - np.float32(0.5)

    stops = np.log2(settings.iso / 100)
    if camera.luma_denoise > 0.3:
        spread = camera.luma_denoise * max(noise_deviation(camera, settings.iso, 0.18), 0.004)
        luma = cv2.bilateralFilter(luma, 5, spread, 0.8 + 0.2 * max(stops, 0))
    blur = camera.chroma_denoise * (1 + 0.25 * max(stops, 0))
    if blur > 0.3:
        chroma = cv2.GaussianBlur(chroma, (0, 0), blur)
    chroma = chroma * np.float32(camera.saturation * {0: 1.0, 1: 0.75, 2: 1.3}[settings.saturation])

    luma, chroma = (_to_output(camera, plane, width, height) for plane in (luma, chroma))
    amount = camera.sharpen * {0: 1.0, 1: 0.6, 2: 1.5}[settings.sharpness]
    detail = luma - cv2.GaussianBlur(luma, (0, 0), camera.sharpen_radius)
    luma = luma + np.float32(amount) * np.clip(detail, -0.15, 0.15)
    ycc = np.dstack([luma, chroma + np.float32(0.5)])
    return np.clip(np.round(cv2.cvtColor(ycc, cv2.COLOR_YCrCb2RGB) * 255), 0, 255).astype(np.uint8)


def _to_output(camera: Camera, plane: np.ndarray, width: int, height: int) -> np.ndarray:
    """Crop the margin; if sensor and output sizes differ, resample: area averaging down, bicubic up."""
    inner = plane[MARGIN:-MARGIN, MARGIN:-MARGIN]
    if camera.sensor_scale == 1:
        return inner[:height, :width]
    kernel = cv2.INTER_AREA if camera.sensor_scale > 1 else cv2.INTER_CUBIC
    return cv2.resize(inner, (width, height), interpolation=kernel)
