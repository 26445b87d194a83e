"""What a file says about itself, as HTML fragments for the widget and the reports."""

from functools import partial

import numpy as np

from exiflang.headers.reference import COMPARED
from exiflang.inspection.file_words import (
    header_fields,
    rate_words,
    signature_notes,
    signature_rows,
    sorted_findings,
    statements,
)
from exiflang.inspection.inspector import Inspection
from exiflang.viz.html import fragment
from exiflang.viz.images import SHOWN, data_uri, shrink

#: Height in pixels of a picture beside its thumbnail.
HEIGHT = 240
_fragment = partial(fragment, "file.html.j2")
#: Fields of a header, in words.
NAMES = {"encoding": "key of tables and sampling", "sampling": "sampling and table of each component", **COMPARED}


def statement_table(inspection: Inspection) -> str:
    """The three statements on a picture side by side, see `file_words.statements`."""
    return _fragment("statement_table", statements(inspection))


def file_section(inspection: Inspection) -> str:
    """Header, findings and thumbnail of a picture's file."""
    file = inspection.picture.file
    return _fragment(
        "file_section",
        signature_rows(inspection),
        signature_notes(inspection),
        {NAMES[name]: value for name, value in header_fields(file.header).items()} if file.header else {},
        finding_list(inspection),
        thumbnail_pair(inspection),
    )


def finding_list(inspection: Inspection) -> str:
    """The findings on a picture's file, from the most severe down."""
    findings = sorted_findings(inspection.picture.file.findings)
    return _fragment("finding_list", [(finding, rate_words(finding)) for finding in findings])


def thumbnail_pair(inspection: Inspection) -> str:
    """The thumbnail in a picture's EXIF beside the picture, at the same height; "" if there is none."""
    thumbnail, image = inspection.picture.file.thumbnail, inspection.picture.image
    if thumbnail is None:
        return ""
    return _fragment("thumbnail_pair", data_uri(shrink(thumbnail), lossless=True), small_picture(image))


def small_picture(image: np.ndarray) -> str:
    """A picture, uint8 [H, W, 3], at most `HEIGHT` high, as a `data:` URL."""
    return data_uri(shrink(image, min(SHOWN, max(1, round(HEIGHT * max(image.shape) / image.shape[0])))))
