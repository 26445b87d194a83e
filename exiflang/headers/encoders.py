"""Known encoders by their JPEG headers.

Two sources: how libjpeg and the programs on it write a file (measured on files made with each), and the tables that
named editors' photos share and no camera's own photo has (`encoders.json`, counted by `experiments.edited_headers`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from exiflang.headers.jpeg_header import JpegHeader
from exiflang.utils.dct import standard_tables
from exiflang.utils.files import read_json

#: {"camera_photos": photos as cameras wrote them, "of_libjpeg": those of them with libjpeg's tables,
#: "encodings": {`JpegHeader.encoding`, of none of these photos: {editor: [photos, camera models]}}}
FILE = Path(__file__).with_name("encoders.json")
#: Sampling factors of luma (with those of chroma 1x1) in the usual words.
_SAMPLING = {"1x1": "4:4:4", "2x1": "4:2:2", "1x2": "4:4:0", "2x2": "4:2:0", "4x1": "4:1:1"}
_OTHERS = "other programs can write the same"


@dataclass(frozen=True)
class Encoder:
    """A known encoder: its name, and a sentence on what it is known to write.

    Attributes:
        programs: editors, web sites or devices that write such headers, the likeliest first; () if no more is known
            than the library, which many cameras use as well.
    """

    name: str
    sentence: str
    programs: tuple[str, ...] = ()


def name_encoder(header: JpegHeader, signatures: Mapping[str, Any] | None = None) -> Encoder | None:
    """The known encoder that writes such a header; None if there is none.

    signatures: content of another file like `encoders.json`.
    """
    known = read_signatures() if signatures is None else signatures
    quality = libjpeg_quality(header)
    return (
        _said(header)
        or _adobe(header, known)
        or (_libjpeg(header, quality) if quality else None)
        or _measured(header, known)
        or (_library_alone(header, quality, known) if quality else None)
    )


@cache
def read_signatures() -> Mapping[str, Any]:
    """The packaged signatures of editors."""
    return read_json(FILE)


def libjpeg_quality(header: JpegHeader) -> int | None:
    """The quality at which libjpeg has the header's tables, the highest if several; None for other tables."""
    return _qualities().get(header.tables)


@cache
def _qualities() -> dict[tuple[tuple[int, ...], ...], int]:
    found: dict[tuple[tuple[int, ...], ...], int] = {}
    for quality in range(1, 101):
        luma, chroma = standard_tables(quality)
        found[(luma,)] = found[luma, chroma] = quality
    return found


def _sampling(header: JpegHeader) -> str:
    first, *others = (part.partition(":")[0] for part in header.sampling.split())
    if not others:
        return "gray"
    return _SAMPLING.get(first, first) if set(others) == {"1x1"} else header.sampling


def _said(header: JpegHeader) -> Encoder | None:
    """By a comment in which a program names itself."""
    if not header.comments:
        return None
    named = header.comments[0]
    return Encoder(named, f"A comment in the file says that {named} wrote it.", (named,))


def _adobe(header: JpegHeader, known: Mapping[str, Any]) -> Encoder | None:
    """By the segments that Adobe's programs write; where the tables tell which of these, that is left to them."""
    kinds = set(header.markers or ())
    if "APP12 Ducky" in kinds:
        name = "Adobe, Save for Web"
        return Encoder(name, "The segment Ducky is written by Save for Web in Adobe's programs.", ("Adobe Photoshop",))
    if not {"APP13 Photoshop", "APP14 Adobe"} <= kinds or libjpeg_quality(header):
        return None
    programs = tuple(known["encodings"].get(header.encoding, ())) or ("Adobe Photoshop", "Adobe Lightroom")
    sentence = "Adobe's programs write the segments Photoshop and Adobe with tables of their own, as here."
    return Encoder(" or ".join(programs), sentence, programs)


def _libjpeg(header: JpegHeader, quality: int) -> Encoder | None:
    """By the choices that programs on libjpeg leave to it or make for it."""
    programs = _programs(header, quality)
    if not programs:
        return None
    how = _how(header, quality)
    sentence = f"{how}: as {' or '.join(programs)} writes; {_OTHERS}."
    return Encoder(f"libjpeg quality {quality}, like {' or '.join(programs)}", sentence, programs)


def _programs(header: JpegHeader, quality: int) -> tuple[str, ...]:
    if not header.jfif or header.jfif[:2] != (1, 1) or not header.separate_tables or header.restart:
        return ()
    tail = [name for name in header.markers or () if not name.startswith(("APP", "COM"))]
    if tail != ["DQT", "SOF2" if header.progressive else "SOF0", "DHT", "SOS"]:
        return ()
    sampling, unit = _sampling(header), header.jfif[2]
    if header.huffman == "optimized" and header.progressive:
        return ("GIMP",) if sampling in ("4:4:4", "gray") and unit else ()
    if header.huffman == "optimized":
        if unit:  # GIMP before 2.10 was not progressive by default; ImageMagick keeps the density of its source
            return ("ImageMagick", "GIMP")
        # Skia, Android's library, writes no density and has 4:2:0 by default.
        return ("ImageMagick", "Android") if sampling == "4:2:0" else ("ImageMagick",)
    return ("Pillow",) if sampling in ("4:2:0", "gray") and header.jfif[2:] == (0, 1, 1) else ()


def _how(header: JpegHeader, quality: int) -> str:
    parts = [f"libjpeg quality {quality}", _sampling(header)]
    if header.huffman:
        parts.append(f"{header.huffman} Huffman tables")
    if header.progressive:
        parts.append("progressive")
    return ", ".join(parts)


def _measured(header: JpegHeader, known: Mapping[str, Any]) -> Encoder | None:
    """By the tables and sampling that photos saved by a named editor share, and no camera's own photo has."""
    editors = known["encodings"].get(header.encoding)
    if not editors:
        return None
    names = " or ".join(editors)
    counts = " and ".join(f"{photos} photos saved by {name}" for name, (photos, _) in editors.items())
    sentence = (
        f"These quantization tables and this sampling are those of {counts}, and of none of {known['camera_photos']:,} "
        f"photos as cameras wrote them; {_OTHERS}."
    )
    return Encoder(names, sentence, tuple(editors))


def _library_alone(header: JpegHeader, quality: int, known: Mapping[str, Any]) -> Encoder:
    cameras = f"{known['of_libjpeg']:,} of {known['camera_photos']:,} photos as cameras wrote them"
    sentence = f"{_how(header, quality)}: tables that many programs write, and {cameras} have."
    return Encoder(f"libjpeg quality {quality}", sentence)
