"""HEIF files other than AVIF, recognized by content: Pillow needs a plugin for them."""

from typing import BinaryIO

# Brands at the start of HEIF files, as in pillow-heif; mif1 and msf1 may also be AVIF.
_HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")


def is_heic(file: BinaryIO) -> bool:
    """Whether a file's brands (ISO/IEC 14496-12, 4.3) mark it as HEIF other than AVIF."""
    file.seek(0)
    head = file.read(256)
    brand, others = head[8:12], head[16 : int.from_bytes(head[:4], "big")]
    if head[4:8] != b"ftyp" or brand not in _HEIF:
        return False
    return brand not in (b"mif1", b"msf1") or (b"avif" not in others and b"avis" not in others)
