"""The README's tables of an ablation: a row a training, mean ± deviation over seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from exiflang.golden import figure

KINDS = {"png": "PNG", "jpg95": "JPEG 95", "jpg85": "JPEG 85", "native": "native scale", "rescaled": "rescaled"}


def markdown(found: Mapping[str, Any]) -> str:
    """Both tables with the protocol above them, of what `ablation.gather` returns.

    The first: localisation and detection in both benchmarks, and how well EXIF fits. The second: p-mAP of the first
    readout by the format of the last save, and by whether the foreign region was rescaled. Rows without a finished run
    are left out.
    """
    first, *others = found["protocol"]["readouts"]
    columns = {f"splices/{readout}/p_map": f"splices p_map, {_plain(readout)}" for readout in (first, *others)}
    columns |= {f"splices/{first}/{metric}": metric for metric in ("ap", "ciou", "auc", "detection_ap")}
    columns |= {f"casia_1/{first}/p_map": "casia_1 p_map"}
    columns |= {"fit/heldout": "EXIF, seen cameras", "fit/unseen": "EXIF, unseen"}
    pictures = found["protocol"]["pictures"]["splices"]
    kinds = {f"splices/{first}/p_map/{kind}": f"{KINDS[kind]} ({pictures.get(kind, 0)})" for kind in KINDS}
    return "\n\n".join([_protocol(found["protocol"]), _table(found["rows"], columns), _table(found["rows"], kinds)])


def _protocol(protocol: Mapping[str, Any]) -> str:
    recipe, photos = protocol["recipe"], protocol["photos"]
    counts = [f"{n['spliced']} + {n['authentic']} {name}" for name, n in protocol["pictures"].items()]
    text = (
        f"{recipe['steps']} steps of {recipe['batch_size']} photos, patches of "
        f"{' and '.join(map(str, recipe['crop_sizes']))} px, no step chosen. Pictures, spliced + authentic: "
        f"{', '.join(counts)}; about {protocol['windows_per_side']} windows on the longer side, of a calibrated "
        "model's size, for the tower without padding a multiple of 8 px apart. *ap*, *ciou*, *auc*, *detection_ap* "
        f"(splices) and casia_1 by {_plain(protocol['readouts'][0])}."
    )
    if photos:
        unseen = photos["choose"] + photos["report"]
        text += " EXIF: area under the curve of own against other cameras' sentences, "
        text += f"{photos['heldout']} photos of seen and {unseen} of unseen cameras."
    return text


def _table(rows: Mapping[str, Any], columns: Mapping[str, str]) -> str:
    lines = ["| training | seeds | " + " | ".join(columns.values()) + " |", "|" + "---|" * (2 + len(columns))]
    for name, row in rows.items():
        if row["seeds"]:
            cells = [figure(row["metrics"][key]) if key in row["metrics"] else "" for key in columns]
            lines.append(f"| {name} | {len(row['seeds'])} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _plain(readout: str) -> str:
    return readout.replace("_", " ")
