"""Known encoders by their JPEG headers."""

from dataclasses import dataclass

from exiflang.headers.jpeg_header import JpegHeader


@dataclass(frozen=True)
class Encoder:
    """A known encoder: its name, and a sentence on what it is known to write."""

    name: str
    sentence: str


def name_encoder(header: JpegHeader) -> Encoder | None:
    """The known encoder that writes such a header; None if there is none."""
    return None
