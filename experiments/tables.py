"""Common functions of the scripts for golden figures: spread over seeds, tables, and inserting them in a page."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

from exiflang.pipeline.parameters import project_path
from exiflang.utils.files import write_json

#: Columns of localization tables.
SCORES = ("p_map", "ap", "auc", "ciou", "detection_ap")


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation (n - 1) and the range of one more run with 95 % probability.

    `low` and `high` are `mean ± t(0.975, n - 1) sd sqrt(1 + 1/n)`, the prediction interval of a normal sample; for a
    single value, both equal it. Raises `ValueError` if there are no values.
    """
    if not len(values):
        raise ValueError("no values to compute the spread of")
    n, mean = len(values), float(np.mean(values))
    sd = float(np.std(values, ddof=1)) if n > 1 else 0.0
    reach = float(student.ppf(0.975, n - 1)) * sd * (1 + 1 / n) ** 0.5 if n > 1 else 0.0
    return {"mean": mean, "sd": sd, "low": mean - reach, "high": mean + reach, "values": list(values)}


def figure(value: Mapping[str, Any], digits: int = 2) -> str:
    """The result of `spread` for a table: mean ± deviation, or a single value."""
    parts = ("mean", "sd") if len(value["values"]) > 1 else ("mean",)
    return " ± ".join(f"{value[part]:.{digits}f}" for part in parts)


def counted(pictures: Mapping[str, Mapping[str, int]]) -> str:
    """Number of pictures in each set, spliced + authentic."""
    return ", ".join(f"{n['spliced']} + {n['authentic']} {name}" for name, n in pictures.items())


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    head, *body = (f"| {' | '.join(cells)} |" for cells in (columns, *rows))
    return "\n".join([head, "|" + "---|" * len(columns), *body])


def with_table(readme: str, preset: str, table: str) -> str:
    """A page with the text between its two `golden:<preset>` comments replaced by `table`."""
    pattern = re.compile(rf"(<!-- golden:{preset} -->\n).*?(<!-- /golden:{preset} -->)", re.DOTALL)
    return pattern.sub(lambda match: f"{match[1]}\n{table}\n\n{match[2]}", readme)


def publish(name: str, golden: Mapping[str, Any], tables: Mapping[str, str], *pages: Path) -> None:
    """Write reports/golden/<name>.json, insert `tables` at the comments with their names in `pages`, print them."""
    write_json(project_path(f"reports/golden/{name}.json"), golden)
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for block, markdown in tables.items():
            text = with_table(text, block, markdown)
        page.write_text(text, encoding="utf-8")
    print(*tables.values(), sep="\n")
