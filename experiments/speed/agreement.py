"""How closely the fast modes agree with the plain one, and the accuracy loss of dense windows."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from exiflang import ExifLang, SpliceLocalizer
from exiflang.evaluation.benchmarks import Benchmark
from exiflang.evaluation.scoring import score_pictures, summarize_pictures
from exiflang.localization.localizer import Comparison
from exiflang.simulation.cameras import CAMERAS
from exiflang.simulation.splices import make_splice
from exiflang.utils.images import load_image

WAYS: Mapping[str, Mapping[str, Any]] = {
    "exact": {},
    "exact, bf16": {"precision": "bf16"},
    "dense": {"mode": "dense"},
    "dense, bf16": {"mode": "dense", "precision": "bf16"},
}


def compare_ways(model: ExifLang, size: tuple[int, int]) -> pd.DataFrame:
    """A row per mode, from a simulated composite of `size` (width, height): the minimum `cosine` of window embeddings
    with those of the plain mode, the `correlation` of heatmaps, and whether the result is marked as a `preview`.
    """
    image = load_image(make_splice(CAMERAS[0], CAMERAS[1], seed=0, size=size).data)
    plain = SpliceLocalizer(model, comparison=Comparison(fast=False))(image)
    rows = []
    for way, options in WAYS.items():
        found = SpliceLocalizer(model, **options)(image)
        cosine = (found.embeddings * plain.embeddings).sum(2).min()
        correlation = np.corrcoef(found.raw.ravel(), plain.raw.ravel())[0, 1]
        rows.append({"way": way, "cosine": cosine, "correlation": correlation, "preview": found.preview})
    return pd.DataFrame(rows)


def score_ways(model: ExifLang, benchmark: Benchmark) -> pd.DataFrame:
    """A row per mode, in float32: `p_map` over the spliced pictures of `benchmark`, and their number."""
    rows = []
    for way in ("exact", "dense"):
        scores = score_pictures(
            {"model": model}, benchmark, ["diffused_cut"], calibrated=bool(model.config.calibration), mode=way
        )
        summary = summarize_pictures(scores).iloc[0]
        rows.append({"way": way, "p_map": summary["p_map"], "pictures": int(summary["pictures"])})
    return pd.DataFrame(rows)
