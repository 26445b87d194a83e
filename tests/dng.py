"""A small raw file made on the spot: DNG as its specification (1.4) has it, with a color filter array."""

import io

import numpy as np
from PIL import TiffImagePlugin

#: XYZ under D65 -> linear sRGB (IEC 61966-2-1).
_TO_CAMERA = [3.2404542, -1.5371385, -0.4985314, -0.9692660, 1.8760108, 0.0415560, 0.0556434, -0.2040259, 1.0572252]
_BYTE, _ASCII, _SHORT, _LONG, _RATIONAL, _SIGNED = 1, 2, 3, 4, 5, 10
WHITE = 65535


def dng(scene: np.ndarray, neutral: tuple[float, float, float] = (0.5, 1.0, 0.625), **tags: object) -> bytes:
    """A DNG file of linear light, float [H, W, 3] in 0..1; even H and W.

    The camera sees as sRGB does, but its channels are darker by `neutral`, which is the white balance that the file
    tells. In `tags`, `t274=(3, 6)` sets a tag to a type and a value, and `t34665={0x9003: ...}` adds a folder of tags.
    """
    mosaic = np.empty(scene.shape[:2])
    for y, x, channel in ((0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 2)):
        mosaic[y::2, x::2] = scene[y::2, x::2, channel] * neutral[channel]
    pixels = np.round(mosaic * WHITE).astype("<u2").tobytes()
    height, width = mosaic.shape
    matrix = [TiffImagePlugin.IFDRational(round(value * 10_000), 10_000) for value in _TO_CAMERA]
    balance = [TiffImagePlugin.IFDRational(round(value * 1000), 1000) for value in neutral]
    entries = {
        254: (_LONG, 0), 256: (_LONG, width), 257: (_LONG, height), 258: (_SHORT, 16), 259: (_SHORT, 1),
        262: (_SHORT, 32803), 271: (_ASCII, "Maker"), 272: (_ASCII, "Camera One"), 273: (_LONG, 0), 274: (_SHORT, 1),
        277: (_SHORT, 1), 278: (_LONG, height), 279: (_LONG, len(pixels)), 33421: (_SHORT, (2, 2)),
        33422: (_BYTE, bytes([0, 1, 1, 2])), 50706: (_BYTE, bytes([1, 4, 0, 0])), 50708: (_ASCII, "Maker Camera One"),
        50717: (_LONG, WHITE), 50721: (_SIGNED, tuple(matrix)), 50728: (_RATIONAL, tuple(balance)), 50778: (_SHORT, 21),
    }  # fmt: skip
    entries |= {int(name[1:]): value for name, value in tags.items() if not isinstance(value, dict)}
    folder = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, (kind, value) in entries.items():
        folder.tagtype[tag], folder[tag] = kind, value
    for name, value in tags.items():
        if isinstance(value, dict):
            folder[int(name[1:])] = value
    file = io.BytesIO()
    folder.save(file)  # adds its end to the offset of the pixels
    return file.getvalue() + pixels
