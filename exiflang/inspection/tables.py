"""Regions, metadata and their fit to the pixels, as HTML fragments for the widget, the notebook and the reports."""

from collections.abc import Mapping
from functools import partial
from math import isnan
from typing import Any

from exiflang.inspection.inspector import Inspection
from exiflang.inspection.metadata import Answer
from exiflang.inspection.verdict import evidence_of, percent, region_facts
from exiflang.viz.html import fragment

#: Number of candidates to show in an answer, besides those that were typed.
SHOWN = 8
#: A percentile below this is called unusual; that applies to one authentic photo in twenty.
UNUSUAL = 0.05
#: Key of a result, its label (also in the model card), and the key of its value at chance.
MEASURED = (
    ("auc", "Own EXIF against that of another camera (AUC)", "guess"),
    ("false_alarms", "Authentic photos called unusual", "unusual"),
    ("noticed", "Photos with another camera's EXIF called unusual", "unusual"),
    ("Make first", "True make ranked most likely", "Make majority"),
    ("Make sure", "Mean probability of the most likely make", ""),
    ("Make similar", "True make ranked most similar, asked as a short text", "Make majority"),
    ("Flash first", "True state of the flash ranked most likely", "Flash majority"),
    ("PhotographicSensitivity first", "True ISO speed ranked most likely", "PhotographicSensitivity majority"),
    ("window_auc", "Windows of another camera detected by their misfit (AUC)", "guess"),
    ("tag_beats", "True value of a tag fits better than another common one", "guess"),
)
_fragment = partial(fragment, "metadata.html.j2")


def region_table(inspection: Inspection) -> str:
    """The regions that were found, largest first, or why there are none."""
    decision = inspection.result.decision
    rows = [
        {
            "place": f"{region['place']} {tuple(region['box'])}",
            "area": percent(region["area"]),
            "evidence": evidence_of(region),
            "p_value": f"{region['p_value']:.3f}",
        }
        for region in region_facts(inspection)
    ]
    return fragment(
        "regions.html.j2", "region_table", rows, decision, percent(decision.false_alarms) if decision else ""
    )


def fit_summary(inspection: Inspection) -> str:
    """A paragraph on whether the metadata fit the picture."""
    return _fragment("fit_summary", inspection.picture, inspection.fit, UNUSUAL)


def metadata_table(inspection: Inspection) -> str:
    """The file's tags, and each one's effect on the fit: see `MetadataFit.tags`.

    Bar lengths are relative to the largest change, or to one percentage point if all changes are smaller.
    """
    rows = inspection.fit.tags.to_dict("records") if inspection.fit else []
    effects = {row["tag"]: [(row["removed"], ""), (row["swapped"], row["best"])] for row in rows}
    changes = [abs(change) for pair in effects.values() for change, _ in pair if not isnan(change)]
    return _fragment("metadata_table", inspection.picture, effects, max(changes, default=0.0))


def answer_table(answer: Answer) -> str:
    """The most likely candidates of an answer, and the ranks of those that were typed."""
    table = answer.table
    shown = table[(table.index < SHOWN) | table["asked"]]
    return _fragment("answer_table", answer, list(shown.itertuples()))


def figures_table(figures: Mapping[str, Any]) -> str:
    """The measured accuracy of the metadata check, `TextBank.figures`, or a remark that it was not measured."""
    return _fragment("figures_table", figures.get("groups", {}), MEASURED)
