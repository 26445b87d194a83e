"""Camera's raw files, told by their content: most are TIFF files of which the first page is but a thumbnail."""

import contextlib
from typing import BinaryIO

from PIL.TiffImagePlugin import ImageFileDirectory_v2

#: What is taken for a raw file by its name, if its content does not tell.
RAW_EXTENSIONS = frozenset(
    ".3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .iiq .kdc .mef .mos .mrw .nef .nrw .orf .pef .raf .rw2 .rwl .sr2 .srf "
    ".srw .x3f".split()
)
DEVELOP = "develop it losslessly to TIFF or PNG, or inspect the JPEG that the camera made"

# Place and bytes that begin a raw file of a kind.
_BEGINNINGS = [
    (8, b"CR", "CR2"), (4, b"ftypcrx ", "CR3"), (6, b"HEAPCCDR", "CRW"), (0, b"IIU\0", "RW2"), (0, b"IIRO", "ORF"),
    (0, b"IIRS", "ORF"), (0, b"MMOR", "ORF"), (0, b"FUJIFILMCCD-RAW", "RAF"), (0, b"FOVb", "X3F"), (0, b"\0MRM", "MRW"),
]  # fmt: skip
_TIFF = (b"II*\0", b"MM\0*", b"II\0*", b"MM*\0", b"II+\0", b"MM\0+")
_KIND_OF_PAGE, _PHOTOMETRIC, _SUB_PAGES, _DNG_VERSION = 254, 262, 330, 50706
_COLOR_FILTERS, _LINEAR_RAW = 32803, 34892


def raw_reason(file: BinaryIO) -> str:
    """Why the first picture of a file is not its picture, as in raw files; "" if it is."""
    file.seek(0)
    head = file.read(16)
    for at, begin, kind in _BEGINNINGS:
        if head.startswith(begin, at) and (kind != "CR2" or head[:4] in _TIFF):
            return f"a camera's raw file ({kind})"
    if head[:4] not in _TIFF:
        return ""
    # What Pillow raises on broken ones: then whoever reads the pixels says what is wrong.
    with contextlib.suppress(SyntaxError, ValueError, OSError, TypeError, LookupError, OverflowError):
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
        return f"its first page is a thumbnail and the picture lies in {where}, as in a camera's raw file"
    return ""
