"""The ablation of the learned readout: hidden inputs, one training, scores of windows, and the tables."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from exiflang.localization.learned_readout import MAPS, PICTURE
from exiflang.pipeline.parameters import PipelineError
from exiflang.training.measured import Measured, read_measured, write_measured
from exiflang.training.readout import ReadoutConfig
from experiments import readout_ablation as module
from experiments.readout_ablation import INPUTS, ROWS, Row, figures, gather, hidden, markdown, result_of, window_scores


def measured(seed: int, tampered: bool = True) -> Measured:
    rng = np.random.default_rng(seed)
    shares = np.zeros((5, 6), np.float32)
    shares[1:3, 1:4] = tampered
    maps = rng.normal(size=(5, 6, len(MAPS))).astype(np.float32) + shares[..., None]
    picture, embeddings = rng.normal(size=len(PICTURE)).astype(np.float32), rng.normal(size=(5, 6, 8))
    return Measured(*map(torch.from_numpy, (maps, picture, embeddings.astype(np.float16), shares)))


def test_all_inputs_except_border_and_size_can_be_hidden():
    everything = hidden(measured(0), list(INPUTS))
    left = [name for name, kept in zip(MAPS, everything.maps.abs().amax((0, 1)) > 0, strict=True) if kept]
    assert left == ["border"]
    left = [name for name, kept in zip(PICTURE, everything.picture != 0, strict=True) if kept]
    assert left == ["log of the number of windows"] and not everything.embeddings.any()


@pytest.mark.parametrize("kind", INPUTS)
def test_only_the_hidden_inputs_of_a_row_are_zero(kind):
    picture = measured(0)
    found = hidden(picture, [kind])
    for names, before, after in ((MAPS, picture.maps, found.maps), (PICTURE, picture.picture, found.picture)):
        for k, name in enumerate(names):
            gone = any(
                known == name or f"{known}, " in name or f"deviation of {known}" in name for known in INPUTS[kind]
            )
            assert torch.equal(after[..., k], before[..., k] * (not gone)), name
    assert bool(found.embeddings.any()) == (kind != "relations") and found.shares is picture.shares
    assert torch.equal(hidden(picture, ()).maps, picture.maps)


def test_scores_of_windows():
    shares = np.float32([[0, 0.2], [0.9, 0.6]])
    values = np.float32([[0, 1], [3, 2]])
    assert window_scores(values, shares) == {"ap": 1.0, "p_map": 1.0}
    found = window_scores(-values, shares)
    assert found["ap"] == pytest.approx((1 / 3 + 2 / 4) / 2) and found["p_map"] == 1.0
    assert window_scores(values, shares * 0) == {}
    assert window_scores(values, shares / 4)["ap"] == 1.0  # no window is half tampered: the one tampered most counts
    assert window_scores(np.float32([[2]]), np.float32([[1]])) == {"ap": 1.0, "p_map": 1.0}


def test_rows_have_distinct_folders():
    assert len({module.run_folder(row, 0) for row in ROWS}) == len(ROWS)
    assert len({row.made for row in ROWS}) == 7  # packaged: the mixture and four with one kind; two other towers


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with measured composites and two measured benchmarks."""
    rows = (Row("all of it"), Row("evidence only", ("relations",)))
    monkeypatch.setattr(module, "project_path", lambda path: tmp_path / path)
    monkeypatch.setattr(module, "ROWS", rows)
    monkeypatch.setattr(module, "SEEDS", 2)
    monkeypatch.setattr(module, "PICTURES", 12)
    monkeypatch.setattr(module, "CONFIG", ReadoutConfig(epochs=1, networks=1))
    monkeypatch.setattr(module, "recorded_strata", lambda name, part: part.set_index("name")[["format"]])
    rows[0].made.mkdir(parents=True)
    for number in range(12):
        write_measured(rows[0].made / f"{number:05d}.npz", measured(number, bool(number % 3)))
    benchmarks = {}
    for name in module.SETS:
        (tmp_path / name).mkdir()
        benchmarks[name] = {f"{k}.png": tmp_path / name / f"{k}.npz" for k in range(4)}
        for k, file in enumerate(benchmarks[name].values()):
            write_measured(file, measured(100 + k, k > 0))
            scores = {"detection": float(k)} | ({"ap": 0.4, "p_map": 0.5} if k else {})
            file.with_suffix(".json").write_text(json.dumps(dict.fromkeys(module.HAND_MADE, scores)))
    return benchmarks


def test_a_training_is_scored_and_not_repeated(project, monkeypatch):
    row = module.ROWS[1]
    assert result_of(row, 0) == {}
    module.run(row, 0, project)
    found = result_of(row, 0)
    assert found["localization"].keys() == {
        f"{name}, {part}" for name in module.SETS for part in ("all", "format .png")
    }
    assert found["detection"].keys() == set(module.SETS)
    assert [path.name for path in module.run_folder(row, 0).iterdir()] == ["metrics.json"]
    monkeypatch.setattr(module, "fit_readout", lambda *_: pytest.fail("trained again"))
    module.run(row, 0, project)
    monkeypatch.setattr(module, "CONFIG", ReadoutConfig(epochs=2, networks=1))
    with pytest.raises(PipelineError, match="different settings"):
        result_of(row, 0)


def test_a_row_trains_without_its_hidden_inputs(project, monkeypatch):
    seen = []
    monkeypatch.setattr(
        module, "fit_readout", lambda folder, files, config: seen.extend(map(read_measured, files)) or 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        module.run(module.ROWS[1], 0, project)
    assert len(seen) == 12 and not any(picture.embeddings.any() for picture in seen)


def test_tables_hold_finished_rows_and_the_hand_made_readouts(project):
    module.run(module.ROWS[0], 0, project)
    module.run(module.ROWS[0], 1, project)
    found = gather(project)
    assert list(found["rows"]) == ["all of it", "diffused cut", "eigenvector"]
    assert len(found["rows"]["all of it"]["detection"]["splices"]["values"]) == 2
    assert json.loads(json.dumps(found)) == found
    lines = markdown(found).splitlines()
    assert "| diffused cut | 1 |" + " 0.50 |" * 4 + " 1.00 |" * 4 in lines and "format .png" in markdown(found)


def test_results_are_means_over_spliced_pictures(monkeypatch):
    monkeypatch.setattr(module, "recorded_strata", lambda name, part: part.set_index("name")[[]])
    rows = [{"set": "a", "name": f"{k}", "p_map": k / 4 if k else np.nan, "detection": float(k)} for k in range(3)]
    assert figures(pd.DataFrame(rows)) == {"localization": {"a, all": 0.375}, "detection": {"a": 1.0}}
