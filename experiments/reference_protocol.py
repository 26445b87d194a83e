"""Effect of each choice in the reference code, changed one at a time on the same pictures with the same weights.

`python -m experiments.reference_protocol` measures the packaged weights on the sets of notebooks/params/base.yaml, and
updates reports/golden/reference.json and its table.
"""

import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

import pandas as pd
import yaml

from exiflang.evaluation.score_run import ScoreRun
from exiflang.evaluation.scoring import OVER, score_pictures
from exiflang.localization.reference import SEQUENTIAL
from exiflang.models.model import ExifLang
from exiflang.models.weights import NAME, load_model
from exiflang.pipeline.parameters import project_path
from exiflang.utils.commands import run_command
from experiments.tables import publish, table

#: Variants to compare: name -> how pictures are scored. The first is the reference's protocol without its bug.
WAYS: dict[str, dict[str, Any]] = {
    "reference": {"protocol": "reference", "readouts": [SEQUENTIAL]},
    "all rows moved at once": {"protocol": "reference", "readouts": ["mean_shift"]},
    "colors negated": {"protocol": "reference", "readouts": [SEQUENTIAL], "colors_negated": True},
    "windows and places of the default": {"readouts": ["mean_shift"], "calibrated": True},
    "default": {"readouts": ["diffused_cut"], "calibrated": True},
}


def compare(model: ExifLang, run: ScoreRun) -> dict[str, Any]:
    """`{set: {way: {"p_map", "se", "difference", "difference_se", "largest", "pictures"}}}`.

    p-mAP over the spliced pictures with its standard error, and its per-picture difference from the first variant: the
    mean, that mean's standard error, and the largest difference of a single picture.
    """
    found = {}
    for name, scored in run.found().items():
        ways = {
            way: score_pictures({"model": model}, scored.benchmark, **how).query("spliced").set_index("name")["p_map"]
            for way, how in WAYS.items()
        }
        found[name] = {way: _compared(p_map, next(iter(ways.values()))) for way, p_map in ways.items()}
    return found


def _compared(p_map: pd.Series, first: pd.Series) -> dict[str, float]:
    difference = p_map - first
    return {
        "p_map": p_map.mean(),
        "se": p_map.sem(),
        "difference": difference.mean(),
        "difference_se": difference.sem(),
        "largest": difference.abs().max(),
        "pictures": len(p_map),
    }


def markdown(found: Mapping[str, Any]) -> str:
    """The table: a row per variant; for each set, p-mAP and its difference from the first variant."""
    sets = found["sets"]
    counts = [f"{next(iter(ways.values()))['pictures']} spliced pictures of {name}" for name, ways in sets.items()]
    columns = [column for name in sets for column in (f"{name}: p_map", "difference (largest for one picture)")]
    first = next(iter(WAYS))
    rows = []
    for way in WAYS:
        cells = []
        for ways in sets.values():
            row = ways[way]
            apart = f"{row['difference']:+.3f} ± {row['difference_se']:.3f} ({row['largest']:.2f})"
            cells += [f"{row['p_map']:.3f} ± {row['se']:.3f}", "" if way == first else apart]
        rows.append([way, *cells])
    text = f"{found['model']}, windows of its own size; {', '.join(counts)}."
    return f"{text}\n\n{table(['protocol', *columns], rows)}"


def renew() -> None:
    """Update reports/golden/reference.json and print its table."""
    preset = yaml.safe_load(project_path("notebooks/params/base.yaml").read_text(encoding="utf-8"))["03_evaluate"]
    localized = [name for name in preset["benchmarks"] if name != "authentic"]
    run = ScoreRun(localized, preset["root"], "data/scores")
    found = {"model": NAME, "metric": "p_map", "over": OVER, "sets": compare(load_model(""), run)}
    publish("reference", found, {"reference": markdown(found)})


#: Command line; returns the exit code, see `run_command`.
main = partial(run_command, renew)

if __name__ == "__main__":
    sys.exit(main())
