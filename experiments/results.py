"""All golden figures as tables: what the documentation shows of reports/golden."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from experiments import (
    ablation,
    camera_pairs,
    edited_headers,
    exif_recipes,
    golden,
    header_check,
    linear_probes,
    localization_gap,
    metadata_check,
    metadata_rules,
    packaged_weights,
    readout_ablation,
    readout_figures,
    reference_protocol,
    tower_recipes,
    unseen_cameras,
)
from experiments.speed import report, scale
from experiments.tables import table


@dataclass(frozen=True)
class Result:
    """How a file of reports/golden is renewed, and what makes its tables in Markdown: {title or "": table}."""

    command: str
    tables: Callable[[Mapping[str, Any]], Mapping[str, str]]

    @classmethod
    def of(cls, command: str, markdown: Callable[[Mapping[str, Any]], str]) -> "Result":
        return cls(command, lambda found: {"": markdown(found)})


def _probes(found: Mapping[str, Any]) -> dict[str, str]:
    titles = {"real": "Real photos, packaged weights", "demo": "Simulated cameras, weights of `make reproduce`"}
    return {title: linear_probes.markdown(found[part]) for part, title in titles.items()}


def _fuzz(found: Mapping[str, Any]) -> str:
    """A row a format."""
    rows = [
        [kind, f"{n['files']:,}", f"{n['still decoding']:,}", f"{n['changed in their EXIF alone, still decoding']:,}"]
        for kind, n in found["formats"].items()
    ]
    worst = (
        f"{len(found['problems'])} problems; at most {found['slowest_cpu_seconds']} CPU seconds and "
        f"{found['largest_memory_added_mb']} MB for a file."
    )
    return table(["format", "mutated files", "still decoding", "of them changed in EXIF alone"], rows) + f"\n\n{worst}"


#: {name of the file in reports/golden: what it shows}
RESULTS = {
    "demo": Result.of("make golden", golden.markdown),
    "base": Result.of("make weights", lambda found: packaged_weights.NOTE + golden.markdown(found)),
    "readout": Result.of("make weights", readout_figures.markdown),
    "exif": Result.of("make weights", metadata_check.markdown),
    "headers": Result.of("make headers", header_check.markdown),
    "edited_headers": Result.of("make edits", edited_headers.markdown),
    "camera_pairs": Result.of("make pairs", camera_pairs.markdown),
    "probe": Result("make probes", _probes),
    "unseen_cameras": Result.of("make unseen", unseen_cameras.markdown),
    "exif_recipes": Result.of("make ablation", exif_recipes.markdown),
    "localization_gap": Result.of("make gap", localization_gap.markdown),
    "tower_recipes": Result.of("make towers", tower_recipes.markdown),
    "reference": Result.of("make reference", reference_protocol.markdown),
    "ablation": Result.of("make ablation", ablation.markdown),
    "readout_ablation": Result.of("make ablation", readout_ablation.markdown),
    "speed": Result.of("make bench", report.markdown),
    "scale": Result.of("make scale", scale.markdown),
    "metadata_rules": Result.of("make rules", metadata_rules.markdown),
    "fuzz": Result.of("make fuzz", _fuzz),
}
