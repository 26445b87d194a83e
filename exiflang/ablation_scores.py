"""What a run of the ablation is scored by: splices found in benchmarks, and EXIF of real photos told apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from exiflang.ablation_data import GROUPS
from exiflang.benchmarks import BenchmarkError, load_benchmark
from exiflang.evaluate import embed_photos, exif_fit
from exiflang.model import ExifLang
from exiflang.parameters import project_path
from exiflang.scoring import p_map_by_kind, score_pictures, summarise_pictures
from exiflang.shards import find_shards, read_photos
from exiflang.windows import ImageEncoder

METRICS = ("p_map", "ap", "auc", "ciou", "detection_ap")


def localisation(encoder: ImageEncoder, protocol: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, Any]]:
    """Scores of an encoder in each benchmark: `{"<benchmark>/<readout>/<metric>": value}`, and counts of pictures.

    p-mAP of the first readout also by kind: `<benchmark>/<readout>/p_map/<kind>`. Raises `BenchmarkError` for a
    picture that cannot be read: the rows would not be scored on the same ones.
    """
    metrics: dict[str, float] = {}
    pictures: dict[str, dict[str, int]] = {}
    for name, (layout, folder) in protocol["benchmarks"].items():
        benchmark = load_benchmark(layout, project_path(folder))
        scores = score_pictures(
            {"encoder": encoder},
            benchmark,
            protocol["readouts"],
            protocol["windows_per_side"],
            info=("format", "donor_scale"),
            calibrated=True,
        )
        if benchmark.skipped:
            raise BenchmarkError(f"{folder}: {benchmark.skipped[0]} cannot be scored: mend it or leave it out for all")
        for row in summarise_pictures(scores).to_dict("records"):
            metrics |= {f"{name}/{row['readout']}/{metric}": row[metric] for metric in METRICS}
            pictures[name] = {"spliced": row["pictures"], "authentic": row["authentic"]}
        first = protocol["readouts"][0]
        for kind, p_map in p_map_by_kind(scores[scores["readout"] == first]).items():
            metrics[f"{name}/{first}/p_map/{kind}"] = float(np.mean(p_map))
            pictures[name][kind] = len(p_map)
    return metrics, pictures


def exif(model: ExifLang, protocol: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, int]]:
    """AUC of own against other cameras' sentences, `{"fit/<group>": value}`, and how many photos each group has.

    Groups: "heldout" (photos of seen cameras), "choose" and "report" (unseen ones), and "unseen": these two in one.
    """
    folder = project_path(protocol["fit"])
    photos = {group: read_photos(find_shards(folder / group))[0] for group in GROUPS}
    embedded = {group: embed_photos(model, photos[group], protocol["crops"]) for group in GROUPS}
    fits = {group: exif_fit(*embedded[group], photos[group])["auc"] for group in GROUPS}
    both = [np.concatenate([embedded["choose"][side], embedded["report"][side]]) for side in (0, 1)]
    fits["unseen"] = exif_fit(*both, photos["choose"] + photos["report"])["auc"]
    return {f"fit/{group}": auc for group, auc in fits.items()}, {group: len(own) for group, own in photos.items()}
