"""What is told of metadata, as fragments of HTML: for the widget, the notebook and the reports.

Whatever comes from a file is escaped. Colours are inherited, so that the fragments suit any theme.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import isnan
from typing import Any

from exiflang.exif_check import Answer
from exiflang.inspection import Inspection

#: Candidates that are shown of an answer, besides those that were typed.
SHOWN = 8
#: A percentile below this is called unusual: one authentic photo in twenty lies there too.
UNUSUAL = 0.05
_CELL = "padding:2px 10px 2px 0;text-align:left;vertical-align:top"
_RISE, _FALL = "#d1701e", "#4a7fb5"  # readable on white and on black, and told apart by the colour-blind


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> str:
    """A table of cells that are HTML already."""
    title = f'<caption style="text-align:left;padding:4px 0">{caption}</caption>' if caption else ""
    heads = "".join(f'<th scope="col" style="{_CELL}">{cell}</th>' for cell in head)
    lines = "".join("<tr>" + "".join(f'<td style="{_CELL}">{cell}</td>' for cell in row) + "</tr>" for row in rows)
    return (
        f'<table style="border-collapse:collapse;font-size:13px">{title}'
        f"<thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table>"
    )


def _bar(value: float, largest: float, text: str) -> str:
    """A bar from a middle line, to the right if the value is positive, as long as its share of the largest.

    If all are less than a percentage point, so are their bars short.
    """
    share = abs(value) / max(largest, 0.01) * 48
    left, colour = (50.0, _RISE) if value > 0 else (50.0 - share, _FALL)
    return (
        '<span style="white-space:nowrap"><span style="display:inline-block;position:relative;width:90px;height:10px;'
        'border-left:0;background:linear-gradient(currentColor,currentColor) 50%/1px 100% no-repeat">'
        f'<span style="position:absolute;left:{left:.1f}%;width:{share:.1f}%;height:100%;background:{colour}"></span>'
        f"</span> {text}</span>"
    )


def _points(value: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    return f"{100 * value:+.1f}".replace("-", "−")


def fit_summary(inspection: Inspection) -> str:
    """Whether the metadata fit the picture, in a paragraph."""
    fit = inspection.fit
    if fit is None:
        why = "it carries none that the model reads" if not inspection.picture.tags else "this model cannot tell"
        return f"<p>EXIF against pixels: not checked, {why}.</p>"
    kind = (
        "The model knows EXIF of this kind."
        if fit.familiar
        else "The model has seen no EXIF of this kind, so that its word counts for little."
    )
    if isnan(fit.percentile):
        verdict = "How authentic photos do was not measured for this model."
    else:
        verdict = (
            f"Of authentic photos with EXIF of such a kind, {100 * fit.percentile:.0f} % fit their own less well: "
            + ("<b>unusual</b>." if fit.percentile < UNUSUAL else "nothing unusual.")
        )
    better = (
        f"The pixels fit this file's EXIF better than that of {100 * fit.rank:.1f} % of {fit.photos:,} other photos."
    )
    return f"<p>{better} {verdict} {kind}</p>"


def metadata_table(inspection: Inspection) -> str:
    """The file's tags, and what each has to do with the fit: see `MetadataFit.tags`."""
    picture, fit = inspection.picture, inspection.fit
    hidden = f"{picture.hidden} private tags (places, names, serial numbers) are not shown." if picture.hidden else ""
    if not picture.tags:
        return f"<p>No EXIF to show. {hidden}</p>"
    effects = {} if fit is None else {row["tag"]: row for row in fit.tags.to_dict("records")}
    known = [abs(row[key]) for row in effects.values() for key in ("removed", "swapped") if not isnan(row[key])]
    largest = max(known, default=0.0)
    rows = []
    for tag, value in picture.tags.items():
        cells = [escape(tag), escape(value)]
        if effects:
            row = effects.get(tag)
            cells += ["", ""] if row is None else [_effect(row["removed"], largest), _swap(row, largest)]
        rows.append(cells)
    head = ["Tag", "Value"] + (["Fit without it", "Fit with another value"] if effects else [])
    caption = (
        "Orange: the pixels fit better without the tag, or with the other value; blue: worse (in percentage points of "
        "other photos' EXIF that fits worse). A single tag says little."
        if effects
        else ""
    )
    return _table(head, rows, caption) + (f"<p>{hidden}</p>" if hidden else "")


def _effect(value: float, largest: float) -> str:
    return "" if isnan(value) else _bar(value, largest, _points(value))


def _swap(row: Mapping[str, Any], largest: float) -> str:
    return "" if isnan(row["swapped"]) else f"{_effect(row['swapped'], largest)} {escape(row['best'])}"


def answer_table(answer: Answer) -> str:
    """The likeliest candidates of an answer, and where those that were typed stand."""
    table = answer.table
    shown = table[(table.index < SHOWN) | table["asked"]]
    rows = []
    for place, row in shown.iterrows():
        value = f"<b>{escape(row['value'])}</b>" if row["asked"] else escape(row["value"])
        score = f"{100 * row['score']:.1f} %" if answer.kind == "probability" else f"{row['score']:.3f}"
        rows.append([str(place + 1), value, score])
    head = ["", escape(answer.tag) or "Text", answer.kind]
    return _table(head, rows, escape(answer.note))


def figures_table(figures: Mapping[str, Any]) -> str:
    """How far the check of metadata can be trusted, as measured: `Population.figures`; says so if nothing was."""
    if not figures:
        return "<p>How far this can be trusted was not measured for this model.</p>"
    groups = figures["groups"]
    head = [
        "Measured on photos set apart",
        *(escape(f"{name}, {part['photos']} photos") for name, part in groups.items()),
    ]
    rows = [
        [escape(label), *(_figure(part["model"].get(key), part.get(beside)) for part in groups.values())]
        for key, label, beside in MEASURED
    ]
    return _table(head, rows, "A guess, or what one would expect, stands in brackets.")


#: Key of a figure, what it says, and the key of what a guess would give.
MEASURED = (
    ("auc", "Own EXIF told from that of another camera (area under the curve)", "guess"),
    ("false_alarms", "Authentic photos called unusual", "unusual"),
    ("noticed", "Photos with EXIF of another camera called unusual", "unusual"),
    ("Make first", "The true make is the likeliest", "Make majority"),
    ("Make sure", "Mean probability of the likeliest make", ""),
    ("Make similar", "The true make is the most similar, asked as a mere fragment", "Make majority"),
    ("Flash first", "The true state of the flash is the likeliest", "Flash majority"),
    ("PhotographicSensitivity first", "The true ISO speed is the likeliest", "PhotographicSensitivity majority"),
    ("window_auc", "A window of another camera told by its misfit (area under the curve)", "guess"),
    ("tag_beats", "A tag's true value fits better than another common one", "guess"),
)


def _figure(value: float | None, beside: float | None) -> str:
    shown = "" if value is None else f"{value:.2f}"
    return shown if beside is None else f"{shown} ({beside:.2f})"
