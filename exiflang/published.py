"""Published figures, and a model's own beside them."""

from __future__ import annotations

import pandas as pd

#: Zheng, Shrivastava, Owens (CVPR 2023), their released checkpoint; cIoU by the formula of their code, see
#: `metrics.ciou_legacy`. Columbia and DSO-1 are scored on spliced pictures only.
PAPER: dict[str, dict[str, float]] = {
    "columbia": {"p_map": 0.94, "ciou_legacy": 0.96, "detection_ap": 0.98},
    "dso_1": {"p_map": 0.62, "ciou_legacy": 0.82, "detection_ap": 0.66},
    "realistic_tampering": {"p_map": 0.23, "ciou_legacy": 0.72, "detection_ap": 0.53},
    "in_the_wild": {"p_map": 0.54, "ciou_legacy": 0.80},
    "scene_completion": {"p_map": 0.31, "ciou_legacy": 0.61},
}
#: Columns of the paper's table: ours, then the published figure.
METRICS = ("p_map", "ciou_legacy", "detection_ap")


def paper_table(summary: pd.DataFrame) -> pd.DataFrame:
    """The paper's table: a row a set and readout of "model", each metric of `METRICS` beside the published one.

    `summary`: of `summarise_pictures`. `p_map_all` counts authentic pictures too, with an AP of 0, as the reference's
    code does for Realistic Tampering. A set that was not published, or laundered, has NaN beside it.
    """
    rows = []
    for row in summary[summary["method"] == "model"].to_dict("records"):
        pictures = row["pictures"] + row["authentic"]
        shown = {key: row[key] for key in ("set", "readout", "protocol", "over", "pictures", "authentic")}
        for metric in METRICS:
            shown |= {metric: row[metric], f"{metric}, paper": PAPER.get(row["set"], {}).get(metric, float("nan"))}
        rows.append(shown | {"p_map_all": row["p_map"] * row["pictures"] / pictures if row["pictures"] else 0.0})
    return pd.DataFrame(rows)
