"""Rules on a file's metadata: what an unedited camera file does not say of itself."""

import contextlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from exiflang.headers import (
    credential_rules,
    exposure_rules,
    file_rules,
    history_rules,
    picture_rules,
    time_rules,
)
from exiflang.headers.facts import Facts
from exiflang.headers.findings import SEVERITIES, Finding, Rule
from exiflang.utils.files import read_json
from exiflang.utils.images import DAMAGE

#: All rules, in the order in which findings of equal severity are told.
RULES: tuple[Rule, ...] = (
    *picture_rules.RULES,
    *credential_rules.RULES,
    *history_rules.RULES,
    *file_rules.RULES,
    *exposure_rules.RULES,
    *time_rules.RULES,
)
#: How often each rule finds something in authentic files: {rule: {"photos": n, "found": k, ...}}.
RATES = Path(__file__).with_name("rates.json")


def check_metadata(photo: bytes, pixels: np.ndarray, private: bool = False) -> tuple[Finding, ...]:
    """Findings on a picture file with its upright pixels, uint8 [H, W, 3], from the most severe down.

    private: sentences may quote private data. Never raises for damaged metadata: what cannot be read is not checked.
    """
    facts = Facts.of_file(photo, pixels, private)
    said = ((rule, apply(rule, facts)) for rule in RULES)
    findings = [finding_of(rule, sentence) for rule, sentence in said if sentence]
    return tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity)))


def apply(rule: Rule, facts: Facts) -> str | None:
    """What the rule says; None also if the metadata that it looks at are damaged."""
    with contextlib.suppress(*DAMAGE):
        return rule.check(facts)
    return None


def finding_of(rule: Rule, sentence: str) -> Finding:
    """A finding of the rule, with its rate in authentic files."""
    rate = _rates().get(rule.name, {})
    photos = rate.get("photos", 0)
    fraction = rate["found"] / photos if photos else float("nan")
    return Finding(rule.name, rule.severity, sentence, rule.source, fraction, photos)


@cache
def _rates() -> Mapping[str, Any]:
    return read_json(RATES) if RATES.is_file() else {}
