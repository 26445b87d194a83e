"""All that a file says about itself, apart from its pixels."""

from dataclasses import dataclass, field

import numpy as np

from exiflang.headers.encoders import Encoder, name_encoder
from exiflang.headers.findings import Finding
from exiflang.headers.jpeg_header import JpegHeader, read_header
from exiflang.headers.rules import check_metadata
from exiflang.headers.thumbnail import read_thumbnail


@dataclass(frozen=True, eq=False)
class FileCheck:
    """What a file says about itself.

    Attributes:
        header: None if it is not a JPEG, or its header cannot be read.
        encoder: the known encoder that writes such headers; None if there is none.
        findings: from the most severe down.
        thumbnail: uint8 [h, w, 3], that of the EXIF, turned like the picture; None if there is none that can be read.
    """

    header: JpegHeader | None
    encoder: Encoder | None
    findings: tuple[Finding, ...]
    thumbnail: np.ndarray | None = field(repr=False)


def check_file(photo: bytes, pixels: np.ndarray, private: bool = False) -> FileCheck:
    """Check a picture file, with its upright pixels, uint8 [H, W, 3].

    private: findings may state GPS positions, serial numbers and names. Never raises for damaged metadata: what cannot
    be read is not checked.
    """
    header = read_header(photo)
    encoder = name_encoder(header) if header else None
    return FileCheck(header, encoder, check_metadata(photo, pixels, private), read_thumbnail(photo))
