"""The decision on a picture, in words and as JSON-ready data: score, verdict, regions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import ceil
from typing import Any

import numpy as np

from exiflang.inspection.inspector import Inspection
from exiflang.localization.decision import FEWEST, Decision, Region, picture_kind

#: A reliability below this is reported as unreliable.
UNRELIABLE = 0.3
#: Evidence stands out if it is at least this many standard deviations from the rest of the picture.
STANDS_OUT = 1.0
#: Number of regions listed in lines of text.
SPOKEN = 5


def meaning_of_score(inspection: Inspection) -> str:
    """The meaning of the score, in a few sentences, or the verdict if there is one."""
    score, decision = inspection.result.score, inspection.result.decision
    if decision:
        height, width = inspection.picture.image.shape[:2]
        return _verdict(decision, picture_kind(height, width, inspection.result.evidence))
    if not inspection.calibrated:
        scale = "This model is not calibrated: compare its scores only with each other."
        return f"Score {score:.3f}: higher is more likely spliced. {scale}"
    how_many = "few" if score >= 0.95 else "some" if score >= 0.8 else "many"
    return (
        f"Score {score:.2f}: higher than {100 * score:.0f} % of authentic pictures; {how_many} of them score as high."
    )


def _verdict(decision: Decision, own_kind: str) -> str:
    rate, low, high = percent(decision.false_alarms), *decision.p_limits
    if not decision.photos:
        return f"Not decidable: fewer than {FEWEST} authentic photos of any kind are available for comparison."
    p_value = f"p-value {decision.p_value:.3f}, 95 % confidence limits {low:.3f} to {high:.3f}"
    found = f"{percent(decision.p_value)} of authentic pictures score as high ({p_value})"
    said = {
        "spliced": f"Spliced: {found}, no more than the false-alarm rate of {rate}.",
        "no splice found": f"No splice found: {found}, more than the false-alarm rate of {rate}.",
    }.get(decision.verdict)
    if said is None:
        needed = ceil(1 / decision.false_alarms - 1 - 1e-9)
        few = f"that needs {needed:,} cameras for comparison, but there are {decision.cameras:,}"
        said = f"Not decidable at a false-alarm rate of {rate}: {few} ({p_value})."
    other = "" if own_kind == decision.kind else f", because there are too few of its own kind ({own_kind})"
    return f"{said} Compared with {decision.photos:,} photos of {decision.cameras:,} cameras ({decision.kind}){other}."


def percent(share: float) -> str:
    """0..1 as a percentage, with a decimal unless it is 0."""
    return f"{100 * share:.1f}".removesuffix(".0") + " %"


def decision_facts(inspection: Inspection) -> dict[str, Any] | None:
    """The decision for JSON; `own_kind` is the picture's kind, `kind` that of the pictures it was compared with."""
    if inspection.result.decision is None:
        return None
    height, width = inspection.picture.image.shape[:2]
    own = picture_kind(height, width, inspection.result.evidence)
    return asdict(inspection.result.decision) | {"own_kind": own}


def region_facts(inspection: Inspection) -> list[dict[str, Any]]:
    """The regions for JSON and tables: the fields of `Region`, `place` in words, `strongest` ("" if nothing stands
    out), and `reliability`, its mean over the region, 0..1."""
    result, (height, width) = inspection.result, inspection.picture.image.shape[:2]
    facts = []
    for region in result.regions:
        left, top, right, bottom = region.box
        down, across = inspection.seen.centers
        inside = result.mask[np.ix_(down, across)]  # of windows
        inside &= np.outer((down >= top) & (down < bottom), (across >= left) & (across < right))
        trusted = float(result.reliability[inside].mean())
        place = place_in_words(region.box, height, width)
        facts.append(asdict(region) | {"place": place, "strongest": _strongest(region), "reliability": trusted})
    return facts


def _strongest(region: Region) -> str:
    strongest = region.strongest
    return strongest if strongest and region.evidence[strongest] >= STANDS_OUT else ""


def place_in_words(box: Sequence[int], height: int, width: int) -> str:
    """Ninth of the picture that contains the center of a box (left, top, right, bottom): "upper left", "center", ..."""
    left, top, right, bottom = box
    row = min(2, 3 * (top + bottom) // (2 * height))
    col = min(2, 3 * (left + right) // (2 * width))
    if row == 1:
        return ("left", "center", "right")[col]
    return f"{('upper', '', 'lower')[row]} {('left', 'middle', 'right')[col]}"


def spoken(kind: str) -> str:
    """The name of a kind of evidence, for use in a sentence."""
    return kind.replace("_", " ").replace("jpeg", "JPEG")


def evidence_of(region: Mapping[str, Any]) -> str:
    """The strongest evidence on a region of `region_facts`, and a warning if it is unreliable."""
    if strongest := region["strongest"]:
        apart = region["evidence"][strongest]
        said = f"{spoken(strongest)}, {'more than 100' if apart > 100 else f'{apart:.1f}'} deviations from the rest"
    else:
        said = "no single kind of evidence stands out"
    return said + ("; the evidence is unreliable there" if region["reliability"] < UNRELIABLE else "")


def region_lines(regions: Sequence[Mapping[str, Any]]) -> list[str]:
    """The largest regions of `region_facts`, one line each."""
    lines = [
        f"Region {region['place']} {tuple(region['box'])}: {percent(region['area'])} of the picture, "
        f"p-value {region['p_value']:.3f}; {evidence_of(region)}."
        for region in regions[:SPOKEN]
    ]
    more = len(regions) - SPOKEN
    return lines + ([f"{more} more region{'s' if more > 1 else ''}, smaller."] if more > 0 else [])
