"""The oracle finds what is in the embeddings and nothing else, and the table sets it beside the readout."""

import numpy as np
import pytest
import torch

from exiflang.evaluation.benchmarks import BenchmarkImage
from exiflang.localization.learned_readout import LEARNED, MAPS, PICTURE
from exiflang.training.measured import Measured, read_measured, write_measured
from experiments import localization_gap as module
from experiments.localization_gap import (
    EVIDENCE,
    ORACLE,
    ORACLES,
    UNTRAINED,
    gather,
    markdown,
    moved,
    oracle,
    score,
    scores_of_set,
)
from experiments.readout_ablation import window_scores
from tests.localization.test_learned_readout import fresh


def picture(seed: int, distance: float, rows: int = 20, cols: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings [rows, cols, 8] and shares [rows, cols]; a region lies `distance` deviations off in one direction."""
    rng = np.random.default_rng(seed)
    shares = np.zeros((rows, cols), np.float32)
    shares[3:12, 5:18] = 1
    return rng.normal(size=(rows, cols, 8)) + distance * shares[..., None] * np.eye(8)[0], shares


def measured(seed: int, distance: float) -> Measured:
    embeddings, shares = picture(seed, distance)
    rng = np.random.default_rng(seed)
    maps, about = rng.normal(size=(*shares.shape, len(MAPS))), rng.normal(size=len(PICTURE))
    arrays = (maps.astype(np.float32), about.astype(np.float32), embeddings.astype(np.float16), shares)
    return Measured(*map(torch.from_numpy, arrays))


def test_the_oracle_finds_another_camera():
    embeddings, shares = picture(0, 4.0)
    assert window_scores(oracle(embeddings, shares > 0.5), shares)["ap"] > 0.98


@pytest.mark.parametrize("seed", range(3))
def test_the_oracle_does_not_recite_the_mask(seed):
    """It is fitted to other blocks than it scores: without a difference it finds no region."""
    embeddings, shares = picture(seed, 0.0)
    assert window_scores(oracle(embeddings, shares > 0.5), shares)["ap"] < 0.45  # 0.24 of the windows are spliced


def test_a_region_elsewhere_is_not_found():
    embeddings, shares = picture(0, 4.0)
    elsewhere = moved(shares)
    assert elsewhere.sum() == shares.sum() and not (elsewhere * shares)[:10].any()
    values = oracle(embeddings, elsewhere > 0.5)
    assert window_scores(values, elsewhere)["ap"] < window_scores(oracle(embeddings, shares > 0.5), shares)["ap"] - 0.3


@pytest.mark.parametrize("region", [(0, 0), (2, 2), (20, 24)])
def test_no_discriminant_without_enough_of_both(region):
    embeddings, shares = picture(0, 4.0)
    spliced = np.zeros(shares.shape, bool)
    spliced[: region[0], : region[1]] = True
    assert oracle(embeddings, spliced) is None


def test_one_window_has_no_discriminant():
    assert oracle(np.ones((1, 1, 8)), np.ones((1, 1), bool)) is None


def test_all_ways_stand_beside_each_other(tmp_path, monkeypatch):
    files = {"a.png": tmp_path / "0.npz", "b.jpg": tmp_path / "1.npz", "c.jpg": tmp_path / "2.npz"}
    for seed, file in enumerate(files.values()):
        one = measured(seed, 4.0)
        shares = one.shares * (seed < 2)  # the last is authentic
        write_measured(file, Measured(one.maps, one.picture, one.embeddings, shares))
    pictures = [BenchmarkImage(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), bool), name, True, {}) for name in files]
    monkeypatch.setattr(module, "pictures_of", lambda name: Only(pictures))
    readout = fresh()
    scores = scores_of_set("splices", files, readout, Untrained())
    assert list(scores["name"]) == list(files) and list(scores["spliced"]) == [True, True, False]
    assert scores.loc[2, [LEARNED, *ORACLES]].isna().all()
    first = scores.loc[0, [LEARNED, *ORACLES]].to_dict()
    assert first == score(readout, read_measured(files["a.png"]), Untrained().embed(None)[0])
    assert first[ORACLE] > 0.95 and first[UNTRAINED] < 0.5
    alone = {f"splices, {part}": {"mean": 0.5} for part in ("all", "format .png", "format .jpg")}
    monkeypatch.setattr(module, "read_json", lambda path: {"rows": {"evidence only": {"localization": alone}}})
    monkeypatch.setattr(module, "recorded_strata", lambda name, scores: scores.set_index("name")[["format"]])
    found = gather({"splices": scores})
    assert set(found) == set(alone)
    assert found["splices, all"]["pictures"] == found["splices, all"]["compared"] == 2
    assert found["splices, format .png"][ORACLE] == pytest.approx(first[ORACLE])
    assert found["splices, all"][EVIDENCE] == 0.5
    lines = markdown({"strata": found}).splitlines()
    assert len(lines) == 5 and lines[0].startswith("| pictures | spliced | evidence alone | learned | compared |")


class Only(list):
    """A benchmark."""

    def only(self, names):
        return Only(item for item in self if item.name in names)


class Untrained:
    """A localizer whose embeddings know nothing of the region."""

    def embed(self, image, calibrated=None):
        return picture(7, 0.0)[0], 64, 16
