"""What holds localization back: what the tower's embeddings could tell, and what the readout makes of them.

`python -m experiments.localization_gap` measures the benchmarks with the packaged weights, scores four ways of reading
the same windows, and updates reports/golden/localization_gap.json and its table:

- *evidence alone*: the row of `experiments.readout_ablation`, whose readout does not see the tower;
- *learned*: the packaged readout;
- *oracle*: a linear discriminant between spliced and other windows of the very picture, fitted with its mask to other
  parts of the picture than those it scores. No readout has that mask: the distance to it is what a better readout
  could gain, and what is missing beyond it only a better tower could;
- *oracle of another region*: the same for the mask moved elsewhere in the picture, which shows what content gives away.
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
from exiflang.models.weights import packaged_model
from exiflang.pipeline.parameters import project_path
from exiflang.training.measured import read_measured
from exiflang.utils.commands import run_command
from exiflang.utils.files import file_sha256, read_json
from experiments.readout_ablation import measured_benchmark, scores_of, spliced_windows, window_scores
from experiments.readout_figures import SETS, recorded_strata, strata
from experiments.tables import publish, table

#: Windows of a block, on either side, that is scored as a whole; parts of the cross-validation.
BLOCK, FOLDS = 4, 5
EVIDENCE, ORACLE, CONTROL, BESIDE = "evidence alone", "oracle", "oracle of another region", "learned, there"


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


def score(readout: LearnedReadout, file: Path) -> dict[str, float]:
    """p-mAP over the windows of a measured picture, by way; {} for an authentic one."""
    picture = read_measured(file)
    shares, embeddings = picture.shares.numpy(), picture.embeddings.float().numpy()
    if not shares.max() > 0:
        return {}
    scores = {LEARNED: scores_of(readout, picture)["p_map"]}
    for way, truth in {ORACLE: shares, CONTROL: moved(shares)}.items():
        if (values := oracle(embeddings, spliced_windows(truth))) is not None:
            scores[way] = window_scores(values, truth)["p_map"]
    return scores


def gather(readout: LearnedReadout, measured: Mapping[str, Mapping[str, Path]]) -> dict[str, Any]:
    """{"<set>, <stratum>": {"pictures", "compared", and a way's p-mAP}}.

    `compared`: pictures in which both oracles could be fitted. The figures of "learned, there" and of the oracles are
    means over these, the others over all spliced pictures.
    """
    alone = read_json(project_path("reports/golden/readout_ablation.json"))["rows"]["evidence only"]["localization"]
    found = {}
    for name, files in measured.items():
        rows = [score(readout, file) for file in tqdm(files.values(), desc=name, unit=" pictures")]
        scores = pd.DataFrame(rows).assign(name=list(files), format=[Path(item).suffix for item in files])
        scores = scores.assign(spliced=scores[LEARNED].notna())
        for stratum, part in strata(scores, recorded_strata(name, scores)):
            both = part.dropna(subset=[ORACLE, CONTROL])
            means = {way: both[way].mean() for way in (ORACLE, CONTROL)} | {BESIDE: both[LEARNED].mean()}
            counts = {"pictures": len(part), "compared": len(both)}
            key = f"{name}, {stratum}"
            found[key] = counts | {EVIDENCE: alone[key]["mean"], LEARNED: part[LEARNED].mean()} | means
    return found


def markdown(found: Mapping[str, Any]) -> str:
    """The table, a row for each stratum."""
    rows = [
        [key, str(row["pictures"]), *(f"{row[way]:.2f}" for way in (EVIDENCE, LEARNED)), str(row["compared"])]
        + [f"{row[way]:.2f}" for way in (BESIDE, ORACLE, CONTROL)]
        for key, row in found["strata"].items()
    ]
    return table(["pictures", "spliced", EVIDENCE, LEARNED, "compared", BESIDE, ORACLE, CONTROL], rows)


def renew() -> None:
    """Update reports/golden/localization_gap.json and its table."""
    os.environ["OMP_NUM_THREADS"] = "1"
    folder = packaged_model()
    measured = {name: measured_benchmark(name, "packaged", "") for name in SETS}
    protocol = {"weights": file_sha256(folder / "model.safetensors"), "readout": file_sha256(folder / FILE)}
    protocol |= {"block": BLOCK, "folds": FOLDS, "localization": "over windows of spliced pictures"}
    found = {"protocol": protocol, "strata": gather(LearnedReadout.load(folder / FILE), measured)}
    publish("localization_gap", found, {"localization_gap": markdown(found)})


#: Command line; returns the exit code, see `run_command`.
main = partial(run_command, renew)

if __name__ == "__main__":
    sys.exit(main())
