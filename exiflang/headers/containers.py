"""XMP, ICC profile and maker note of a picture file of any format, by Pillow."""

import contextlib
import io
import warnings
from collections.abc import Callable
from typing import TypeVar

from PIL import Image, ImageCms

from exiflang.exif.tags import clean
from exiflang.headers.blocks import MOST_BYTES, JpegBlocks
from exiflang.utils.images import DAMAGE, turn_upright

# Those that can have tags; pixels are not decoded.
_FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "AVIF", "HEIF")
_T = TypeVar("_T")


def _read(photo: bytes, use: Callable[[Image.Image], _T]) -> _T | None:
    """The result of `use` on a picture file; None if it is damaged, or in a format without tags."""
    with warnings.catch_warnings(action="ignore"), contextlib.suppress(*DAMAGE, ImageCms.PyCMSError):
        known = [name for name in _FORMATS if name != "HEIF" or name in Image.OPEN]  # with a plugin
        with Image.open(io.BytesIO(photo), formats=known) as image:
            return use(image)
    return None


def read_xmp_packets(photo: bytes, blocks: JpegBlocks | None) -> list[bytes]:
    """The XMP packets of a file, each of at most `MOST_BYTES`."""
    if blocks is not None:
        return blocks.xmp
    packet = _read(photo, lambda image: image.info.get("xmp"))
    if isinstance(packet, str):
        packet = packet.encode()
    return [packet] if isinstance(packet, bytes) and len(packet) <= MOST_BYTES else []


def profile_description(photo: bytes) -> str | None:
    """What the ICC profile calls itself, "" without one; None if it cannot be read."""

    def describe(image: Image.Image) -> str | None:
        profile = image.info.get("icc_profile")
        if not profile:
            return ""
        if len(profile) > MOST_BYTES:
            return None
        return clean(ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile))))

    return _read(photo, describe)


def maker_note(photo: bytes) -> bytes | None:
    """The EXIF's maker note; None if there is none that can be read."""
    note = _read(photo, lambda image: image.getexif().get_ifd(0x8769).get(0x927C))
    return note if isinstance(note, bytes) else None


def turn_of(photo: bytes) -> Image.Transpose | None:
    """How the stored pixels are turned upright; None: not at all."""
    return _read(photo, turn_upright)
