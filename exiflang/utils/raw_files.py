"""Camera raw files, recognized by content: most are TIFF files whose first page is only a thumbnail."""

import contextlib
import struct
import warnings
from typing import BinaryIO

from PIL.TiffImagePlugin import ImageFileDirectory_v2

#: Extensions that mark a raw file if its content does not.
RAW_EXTENSIONS = frozenset(
    ".3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .iiq .kdc .mef .mos .mrw .nef .nrw .orf .pef .raf .rw2 .rwl .sr2 .srf "
    ".srw .x3f".split()
)
DEVELOP = "develop it losslessly to TIFF or PNG, or inspect the JPEG that the camera made"

# Offset, signature and name of raw formats.
_BEGINNINGS = [
    (8, b"CR", "CR2"), (4, b"ftypcrx ", "CR3"), (6, b"HEAPCCDR", "CRW"), (0, b"IIU\0", "RW2"), (0, b"IIRO", "ORF"),
    (0, b"IIRS", "ORF"), (0, b"MMOR", "ORF"), (0, b"FUJIFILMCCD-RAW", "RAF"), (0, b"FOVb", "X3F"), (0, b"\0MRM", "MRW"),
]  # fmt: skip
_TIFF = (b"II*\0", b"MM\0*", b"II\0*", b"MM*\0", b"II+\0", b"MM\0+")
_KIND_OF_PAGE, _PHOTOMETRIC, _SUB_PAGES, _DNG_VERSION = 254, 262, 330, 50706
_COLOR_FILTERS, _LINEAR_RAW = 32803, 34892


def raw_reason(file: BinaryIO) -> str:
    """Why the first image of a file is not its main picture, as in raw files; "" if it is."""
    file.seek(0)
    head = file.read(16)
    for at, begin, kind in _BEGINNINGS:
        if head.startswith(begin, at) and (kind != "CR2" or head[:4] in _TIFF):
            return f"a camera's raw file ({kind})"
    if head[:4] not in _TIFF:
        return ""
    # Pillow warns of broken files and raises these: decoding the pixels will then report the error.
    broken = (SyntaxError, ValueError, OSError, TypeError, LookupError, OverflowError, struct.error)
    with warnings.catch_warnings(action="ignore"), contextlib.suppress(*broken):
        return _tiff_reason(file, head)
    return ""


def _tiff_reason(file: BinaryIO, head: bytes) -> str:
    page = ImageFileDirectory_v2(head if b"+" in head[:4] else head[:8])
    file.seek(page.next)
    page.load(file)
    if _DNG_VERSION in page:
        return "a camera's raw file (DNG)"
    if page.get(_PHOTOMETRIC) in (_COLOR_FILTERS, _LINEAR_RAW):
        return "a camera's raw file"
    reduced = page.get(_KIND_OF_PAGE, 0)
    if isinstance(reduced, int) and reduced & 1 and (_SUB_PAGES in page or page.next):
        where = "a SubIFD" if _SUB_PAGES in page else "a later one"
        return f"its first page is a thumbnail and the picture is in {where}, as in a camera's raw file"
    return ""
