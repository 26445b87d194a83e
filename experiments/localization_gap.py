"""What holds localization back: what the tower's embeddings could tell, and what the readout makes of them.

`python -m experiments.localization_gap` measures the benchmarks with the packaged weights, scores five ways of reading
the same windows, and updates reports/golden/localization_gap.json and its table:

- *evidence alone*: the row of `experiments.readout_ablation`, whose readout does not see the tower;
- *learned*: the packaged readout;
- *oracle*: a linear discriminant between spliced and other windows of the very picture, fitted with its mask to other
  parts of the picture than those it scores. No readout has that mask: the distance to it is what a better readout
  could gain, and what is missing beyond it only a better tower could;
- *oracle of another region*: the same for the mask moved elsewhere in the picture: what content gives away;
- *oracle, untrained*: the first oracle on embeddings of a tower with random weights: what needs no training.
"""

import os
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from tqdm.auto import tqdm

from exiflang.localization.learned_readout import FILE, LEARNED, LearnedReadout
from exiflang.localization.localizer import SpliceLocalizer
from exiflang.models.weights import load_model, packaged_model
from exiflang.pipeline.parameters import project_path
from exiflang.training.measured import Measured, read_measured
from exiflang.utils.commands import run_command
from exiflang.utils.files import file_sha256, read_json
from experiments.readout_ablation import (
    measured_benchmark,
    scores_of,
    spliced_windows,
    untrained_tower,
    window_scores,
)
from experiments.readout_figures import SETS, pictures_of, recorded_strata, strata
from experiments.tables import publish, table

#: Windows of a block, on either side, that is scored as a whole; parts of the cross-validation.
BLOCK, FOLDS = 4, 5
EVIDENCE, BESIDE = "evidence alone", "learned, there"
ORACLE, CONTROL, UNTRAINED = "oracle", "oracle of another region", "oracle, untrained"
ORACLES = (ORACLE, CONTROL, UNTRAINED)


def oracle(embeddings: np.ndarray, spliced: np.ndarray) -> np.ndarray | None:
    """How much each window resembles the spliced ones in other blocks: [h, w, D] and bool [h, w] -> float [h, w].

    None if too few blocks have both kinds of windows for `FOLDS` parts.
    """
    h, w = spliced.shape
    block = np.arange(h)[:, None] // BLOCK * w + np.arange(w) // BLOCK  # [h, w]
    truth, groups = spliced.ravel(), block.ravel()
    if min(len(np.unique(groups[truth == kind])) for kind in (True, False)) < FOLDS:
        return None
    parts = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    if any(len(np.unique(truth[fitted])) < 2 for fitted, _ in parts.split(truth, truth, groups)):
        return None
    discriminant = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    windows = embeddings.reshape(h * w, -1)
    found = cross_val_predict(discriminant, windows, truth, groups=groups, cv=parts, method="decision_function")
    return found.reshape(h, w)


def moved(shares: np.ndarray) -> np.ndarray:
    """The region wrapped around by half of the picture in both directions."""
    return np.roll(shares, (shares.shape[0] // 2, shares.shape[1] // 2), (0, 1))


def score(readout: LearnedReadout, picture: Measured, untrained: np.ndarray) -> dict[str, float]:
    """p-mAP over the windows of a spliced picture, by way; `untrained`: their other embeddings [rows, cols, D]."""
    shares, embeddings = picture.shares.numpy(), picture.embeddings.float().numpy()
    scores = {LEARNED: scores_of(readout, picture)["p_map"]}
    ways = {ORACLE: (embeddings, shares), CONTROL: (embeddings, moved(shares)), UNTRAINED: (untrained, shares)}
    for way, (windows, truth) in ways.items():
        if (values := oracle(windows, spliced_windows(truth))) is not None:
            scores[way] = window_scores(values, truth)["p_map"]
    return scores


def scores_of_set(
    name: str, files: Mapping[str, Path], readout: LearnedReadout, untrained: SpliceLocalizer
) -> pd.DataFrame:
    """A row for each measured picture of a set, with its `score` if it is spliced."""
    rows = {item: dict[str, float]() for item in files}
    spliced = {item: seen for item, file in files.items() if (seen := read_measured(file)).shares.max() > 0}
    for item in tqdm(pictures_of(name).only(list(spliced)), total=len(spliced), desc=name, unit=" pictures"):
        embeddings, *_ = untrained.embed(item.image, calibrated=True)
        rows[item.name] = score(readout, spliced[item.name], embeddings)
    scores = pd.DataFrame(list(rows.values())).assign(name=list(files), format=[Path(item).suffix for item in files])
    return scores.assign(spliced=scores[LEARNED].notna())


def gather(scores: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """{"<set>, <stratum>": {"pictures", "compared", and a way's p-mAP}}, from `scores_of_set` by set.

    `compared`: pictures in which all oracles could be fitted. The figures of "learned, there" and of the oracles are
    means over these, the others over all spliced pictures.
    """
    alone = read_json(project_path("reports/golden/readout_ablation.json"))["rows"]["evidence only"]["localization"]
    found = {}
    for name, own in scores.items():
        for stratum, part in strata(own, recorded_strata(name, own)):
            there = part.dropna(subset=list(ORACLES))
            means = {way: there[way].mean() for way in ORACLES} | {BESIDE: there[LEARNED].mean()}
            counts = {"pictures": len(part), "compared": len(there)}
            key = f"{name}, {stratum}"
            found[key] = counts | {EVIDENCE: alone[key]["mean"], LEARNED: part[LEARNED].mean()} | means
    return found


def markdown(found: Mapping[str, Any]) -> str:
    """The table, a row for each stratum."""
    rows = [
        [key, str(row["pictures"]), *(f"{row[way]:.2f}" for way in (EVIDENCE, LEARNED)), str(row["compared"])]
        + [f"{row[way]:.2f}" for way in (BESIDE, *ORACLES)]
        for key, row in found["strata"].items()
    ]
    return table(["pictures", "spliced", EVIDENCE, LEARNED, "compared", BESIDE, *ORACLES], rows)


def renew() -> None:
    """Update reports/golden/localization_gap.json and its table."""
    os.environ["OMP_NUM_THREADS"] = "1"
    folder = packaged_model()
    readout = LearnedReadout.load(folder / FILE)
    untrained = SpliceLocalizer(load_model(str(untrained_tower())), readout="diffused_cut")
    scores = {name: scores_of_set(name, measured_benchmark(name, "packaged", ""), readout, untrained) for name in SETS}
    protocol = {"weights": file_sha256(folder / "model.safetensors"), "readout": file_sha256(folder / FILE)}
    protocol |= {"block": BLOCK, "folds": FOLDS, "localization": "over windows of spliced pictures"}
    found = {"protocol": protocol, "strata": gather(scores)}
    publish("localization_gap", found, {"localization_gap": markdown(found)})


#: Command line; returns the exit code, see `run_command`.
main = partial(run_command, renew)

if __name__ == "__main__":
    sys.exit(main())
