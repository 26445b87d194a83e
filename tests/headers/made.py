"""Picture files made on the spot, with chosen tags, thumbnail, segments and trailers."""

import io
import struct
from typing import Any

import numpy as np
from PIL import ExifTags, Image
from scipy.ndimage import gaussian_filter

from exiflang.exif.tags import TAGS

_PICTURE_TAGS = ("Make", "Model", "Software", "DateTime", "Orientation", "HostComputer", "ImageWidth", "ImageLength",
                 "Artist", "Copyright", "ImageDescription", "ProcessingSoftware")  # fmt: skip
RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
SPACES = {
    "xmp": "http://ns.adobe.com/xap/1.0/", "xmpMM": "http://ns.adobe.com/xap/1.0/mm/",
    "photoshop": "http://ns.adobe.com/photoshop/1.0/", "crs": "http://ns.adobe.com/camera-raw-settings/1.0/",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/", "dc": "http://purl.org/dc/elements/1.1/",
    "stEvt": "http://ns.adobe.com/xap/1.0/sType/ResourceEvent#",
    "stRef": "http://ns.adobe.com/xap/1.0/sType/ResourceRef#",
}  # fmt: skip


def scene(height: int = 96, width: int = 128, seed: int = 0) -> np.ndarray:
    """Smooth random colors, uint8 [height, width, 3]."""
    noise = np.random.default_rng(seed).normal(size=(height, width, 3))
    smooth = gaussian_filter(noise, (height / 24, height / 24, 0))
    return np.clip(128 + 60 * smooth / smooth.std(), 0, 255).astype(np.uint8)


def jpeg(pixels: np.ndarray, **options: Any) -> bytes:
    return encoded(pixels, "JPEG", **options)


def encoded(pixels: np.ndarray, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def exif_block(tags: dict[str, Any], thumbnail: bytes = b"", thumbnail_orientation: int = 0) -> bytes:
    """The payload of an APP1 segment."""
    exif = Image.Exif()
    for name, value in tags.items():
        if name.startswith("GPS"):
            exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS[name].value] = value
        elif name == "InteroperabilityIndex":
            exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.IFD.Interop.value] = {1: value}
        elif name in _PICTURE_TAGS:
            exif[_code(name)] = value
        else:
            exif.get_ifd(ExifTags.IFD.Exif)[_code(name)] = value
    block = exif.tobytes()
    return block if not thumbnail else _with_thumbnail(block, thumbnail, thumbnail_orientation)


def _code(name: str) -> int:
    return next((tag.code for tag in TAGS if tag.name == name), None) or ExifTags.Base[name].value


def _with_thumbnail(block: bytes, thumbnail: bytes, orientation: int) -> bytes:
    """A second directory behind the first one (EXIF 2.32, 4.5.5)."""
    tiff = bytearray(block.removeprefix(b"Exif\0\0"))
    order = "<" if tiff[:2] == b"II" else ">"
    (first,) = struct.unpack_from(f"{order}I", tiff, 4)
    (count,) = struct.unpack_from(f"{order}H", tiff, first)
    struct.pack_into(f"{order}I", tiff, first + 2 + 12 * count, len(tiff))
    place = len(tiff) + 2 + 12 * (3 + bool(orientation)) + 4
    entries = [(0x0103, 3, 6)] + [(0x0112, 3, orientation)] * bool(orientation)
    entries += [(0x0201, 4, place), (0x0202, 4, len(thumbnail))]
    tiff += struct.pack(f"{order}H", len(entries))
    for tag, kind, value in entries:
        body = struct.pack(f"{order}HH" if kind == 3 else f"{order}I", value, *[0] * (kind == 3))
        tiff += struct.pack(f"{order}HHI", tag, kind, 1) + body
    return b"Exif\0\0" + bytes(tiff) + bytes(4) + thumbnail


def segment(marker: int, payload: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(payload) + 2) + payload


def with_segments(photo: bytes, *segments: bytes) -> bytes:
    return photo[:2] + b"".join(segments) + photo[2:]


def xmp_packet(properties: str = "", inside: str = "") -> bytes:
    spaces = " ".join(f'xmlns:{name}="{space}"' for name, space in SPACES.items())
    return (
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{RDF}" {spaces}><rdf:Description rdf:about="" '
        f"{properties}>{inside}</rdf:Description></rdf:RDF></x:xmpmeta>"
    ).encode()


def xmp_segment(packet: bytes) -> bytes:
    return segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + packet)


def photoshop_segment(resources: dict[int, bytes]) -> bytes:
    blocks = (
        b"8BIM" + struct.pack(">HH", number, 0) + struct.pack(">I", len(data)) + data + bytes(len(data) % 2)
        for number, data in resources.items()
    )
    return segment(0xED, b"Photoshop 3.0\0" + b"".join(blocks))


def picture_index(places: list[tuple[int, int]]) -> bytes:
    """A multi-picture index of (size, offset from the index) (CIPA DC-007, 5.2.3)."""
    entries = b"".join(struct.pack("<IIIHH", 0, size, offset, 0, 0) for size, offset in places)
    folder = struct.pack("<HHHI4sHHIIHHIII", 3, 0xB000, 7, 4, b"0100", 0xB001, 4, 1, len(places), 0xB002, 7,
                         len(entries), 50, 0)  # fmt: skip
    return segment(0xE2, b"MPF\0II*\0" + struct.pack("<I", 8) + folder + entries)
