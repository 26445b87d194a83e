"""What pixels, EXIF and JPEG header say about each other, in words and as JSON-ready data.

Three statements stand side by side, each with how far it can be trusted; they are never mixed into one number.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from math import isnan
from typing import Any, NamedTuple

from exiflang.headers.findings import SEVERITIES, Finding
from exiflang.headers.jpeg_header import JpegHeader
from exiflang.headers.reference import COMPARED, HeaderFit, Signature
from exiflang.inspection.inspector import Inspection
from exiflang.inspection.metadata import MetadataFit
from exiflang.inspection.tables import UNUSUAL
from exiflang.inspection.verdict import percent

#: Verdicts on a header.
NEVER, ODD, FITS, OPEN = "never seen", "unusual for the claimed camera", "fits the claimed camera", "not decidable"
#: From the most suspicious to the least.
HEADER_VERDICTS = (NEVER, ODD, FITS, OPEN)
#: At most this many makes are listed.
MOST_MAKES = 8
#: Fields of a header for JSON and for display: its tables and tags are too long.
_SHOWN = ("encoding", "sampling", "width", "height", *(name for name in COMPARED if name != "size"))


class Statement(NamedTuple):
    """An answer to one question about a picture, the reason for it, and how far it can be trusted."""

    question: str
    verdict: str
    reason: str
    trust: str


class SignatureRow(NamedTuple):
    """A property of a header, its value, and how many photos of the claimed model, of its make and of any share it."""

    what: str
    value: str
    of_model: str
    of_make: str
    of_any: str


def statements(inspection: Inspection) -> list[Statement]:
    """The three statements: pixels against pixels, pixels against EXIF, header against EXIF."""
    return [
        Statement("Do the pixels agree with each other?", *_pixels(inspection)),
        Statement("Do the pixels agree with the EXIF?", *_exif(inspection.fit, bool(inspection.picture.tags))),
        Statement("Does the header agree with the EXIF?", *_header(inspection)),
    ]


def _pixels(inspection: Inspection) -> tuple[str, str, str]:
    decision, score = inspection.result.decision, inspection.result.score
    if decision:
        reason = f"{percent(decision.p_value)} of authentic pictures score as high."
        compared = f"Compared with {decision.photos:,} photos of {decision.cameras:,} cameras"
        return decision.verdict, reason, f"{compared}; false-alarm rate {percent(decision.false_alarms)}."
    if inspection.calibrated:
        return f"score {score:.2f}", f"Higher than {percent(score)} of authentic pictures.", "A score, not a verdict."
    return f"score {score:.3f}", "Higher is more likely spliced.", "Not calibrated: compare it only with other scores."


def _exif(fit: MetadataFit | None, has_tags: bool) -> tuple[str, str, str]:
    if fit is None:
        reason = "this model cannot check it" if has_tags else "the file has no EXIF that the model uses"
        return OPEN, f"Not checked: {reason}.", ""
    if isnan(fit.percentile):
        return OPEN, f"Not calibrated: the EXIF of {percent(fit.rank)} of other photos fits worse.", ""
    verdict = "unusual" if fit.percentile < UNUSUAL else "nothing unusual"
    reason = f"{percent(fit.percentile)} of authentic photos fit their own EXIF less well."
    if not fit.familiar:
        return verdict, reason, "Unreliable: EXIF of this kind was not in training."
    return verdict, reason, f"Calibrated: {percent(UNUSUAL)} of authentic photos with such EXIF are called unusual."


def header_verdict(fit: HeaderFit | None) -> str:
    """One of `HEADER_VERDICTS`."""
    if fit is None:
        return OPEN
    if isnan(fit.ratio):
        return NEVER
    if isnan(fit.percentile):
        return OPEN
    return ODD if fit.percentile < UNUSUAL else FITS


def _header(inspection: Inspection) -> tuple[str, str, str]:
    fit, verdict = inspection.header_fit, header_verdict(inspection.header_fit)
    if fit is None:
        return verdict, f"Not compared: {_why_not(inspection)}.", ""
    among = f"{fit.photos:,} photos of {fit.cameras:,} cameras"
    if verdict == NEVER:
        which = "these" if fit.known_camera else "other"
        return (
            verdict,
            f"None of the {among} has these tables.",
            f"The same is true of {percent(fit.never_seen)} of authentic photos of {which} cameras.",
        )
    own, name = (fit.of_model, "the claimed model") if fit.known_camera else (fit.of_make, "the claimed make")
    share = f"{_count(own)} of {name} encode like this, {_count(fit.of_any)} of all."
    if not own[1]:
        share = f"no photo of {name} is known; {_count(fit.of_any)} of all cameras encode like this."
    if verdict == OPEN:
        return verdict, share[0].upper() + share[1:], f"Not calibrated: too few photos ({among})."
    reason = f"{percent(fit.percentile)} of authentic headers fit their EXIF less well; {share}"
    other = "" if fit.known_camera else ", none of the claimed model, so similar EXIF counts"
    return verdict, reason, f"Compared with {among}{other}; false-alarm rate {percent(UNUSUAL)}."


def _why_not(inspection: Inspection) -> str:
    """Why there is no `header_fit`."""
    picture = inspection.picture
    if picture.file.header is None:
        if picture.format in ("JPEG", "MPO"):
            return "the JPEG header cannot be read"
        return f"this is not a JPEG file but {picture.format}"
    if not Signature.of(picture.file.header, picture.tags).make_key:
        return "the EXIF names no make"
    return "this model has no signature reference"


def _count(photos: tuple[int, int]) -> str:
    return f"{photos[0]:,} of {photos[1]:,} photos" if photos[1] else "no photos to compare"


def signature_rows(inspection: Inspection) -> list[SignatureRow]:
    """The header's encoding, then each field that no photo of the claimed model has; [] without a comparison."""
    header, fit = inspection.picture.file.header, inspection.header_fit
    if header is None or fit is None:
        return []
    shares = [_count(photos) for photos in (fit.of_model, fit.of_make, fit.of_any)]
    encoding = f"{header.encoding}, sampling {header.sampling}"
    rows = [SignatureRow("quantization tables and sampling", encoding, *shares)]
    for name, value in fit.unlike.items():
        none = f"none of {fit.of_model[1]:,}"
        rows.append(SignatureRow(COMPARED[name], field_words(name, value), none, "not counted", "not counted"))
    return rows


def signature_notes(inspection: Inspection) -> list[str]:
    """Sentences on a header: the encoder, the makes that share its encoding, and whether it was rotated."""
    fit, encoder = inspection.header_fit, inspection.picture.file.encoder
    notes = [f"Encoder: {encoder.name}. {encoder.sentence}"] if encoder else []
    if fit and fit.rotated:
        notes.append(
            "No photo has this encoding, but that of the picture turned by 90 degrees: it was rotated without being "
            "compressed again. The counts are those of the turned encoding."
        )
    if fit and fit.makes:
        more = len(fit.makes) - MOST_MAKES
        named = ", ".join(make or "no make" for make in fit.makes[:MOST_MAKES]) + (f" and {more} more" * (more > 0))
        notes.append(f"Makes with this encoding, most photos first: {named}.")
    return notes


def header_fields(header: JpegHeader) -> dict[str, str]:
    """The fields of a header that are compared, by name, in words."""
    fields = {name: getattr(header, name) for name in COMPARED}
    first = {"encoding": header.encoding, "sampling": header.sampling}
    return first | {name: field_words(name, value) for name, value in fields.items()}


def field_words(name: str, value: Any) -> str:
    """The value of a field of `COMPARED`, in words."""
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name == "size":
        return f"{value[1]} x {value[0]}"
    if name == "thumbnail":
        return f"{value[0]} x {value[1]}, tables {value[2]}" if value else "none"
    if name == "markers":
        return ", ".join(value)
    return str(value) or "none"


def sorted_findings(findings: Iterable[Finding]) -> list[Finding]:
    """From the most severe down; of the same severity, weak ones last."""
    return sorted(findings, key=lambda finding: (SEVERITIES.index(finding.severity), finding.weak))


def rate_words(finding: Finding) -> str:
    """How many authentic photos have a finding."""
    if isnan(finding.rate) or not finding.photos:
        return "not measured"
    if finding.weak:
        return f"weak: in {percent(finding.rate)} of {finding.photos:,} authentic photos"
    return f"in {round(finding.rate * finding.photos):,} of {finding.photos:,} authentic photos"


def finding_counts(findings: Sequence[Finding]) -> dict[str, int]:
    """Number of findings of each severity, from the most severe down; weak ones count as "weak" alone."""
    kinds = ["weak" if finding.weak else finding.severity for finding in findings]
    return {kind: kinds.count(kind) for kind in (*SEVERITIES, "weak")}


def file_facts(inspection: Inspection) -> dict[str, Any]:
    """What the file says about itself, for JSON."""
    file, fit = inspection.picture.file, inspection.header_fit
    return {
        "header": file.header and {name: getattr(file.header, name) for name in _SHOWN},
        "encoder": file.encoder and asdict(file.encoder),
        "header_verdict": header_verdict(fit),
        "header_fit": fit and asdict(fit),
        "findings": [asdict(finding) | {"weak": finding.weak} for finding in sorted_findings(file.findings)],
        "finding_counts": finding_counts(file.findings),
        "has_thumbnail": file.thumbnail is not None,
        "statements": [statement._asdict() for statement in statements(inspection)],
    }
