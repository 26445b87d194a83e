"""The golden file of the packaged weights: metrics of one run, p-mAP by kind of picture, and time."""

import hashlib
import json

import numpy as np
import pandas as pd
import pytest

from exiflang.pipeline.parameters import PipelineError
from experiments import packaged_weights as golden_weights
from experiments import tables
from experiments.golden import markdown


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """A finished run of 03_evaluate and weights in `tmp_path`, where `golden_weights` finds them."""
    run = tmp_path / "run"
    (run / "03_evaluate").mkdir(parents=True)
    report = {
        "check": {"pasted/model/far_friends/p_map": 0.5, "retrieval/recall": 0.25, "retrieval/fit_report": 0.625},
        "table": [{"set": "pasted", "pictures": 3, "authentic": 1}],
        "protocol": {"pixels": "all"},
        "retrieval": {"among": 64, "photos": 70, "chance": 1 / 64},
    }
    (run / "metrics.json").write_text(json.dumps({"03_evaluate": report}))
    rows = [("png", 1.0, 0.2), ("png", 0.5, 0.4), ("jpg95", 1.0, 0.9), ("png", np.nan, np.nan)]
    scores = pd.DataFrame(rows, columns=["format", "donor_scale", "p_map"]).assign(
        set="pasted", spliced=[True] * 3 + [False]
    )
    others = [scores.assign(p_map=1.0, method="model", readout="mean_shift"), scores.assign(method="mean color")]
    scores = scores.assign(method="model", readout="far_friends")
    pd.concat([scores, *(part.fillna({"readout": "far_friends"}) for part in others)]).to_parquet(
        run / "03_evaluate/scores.parquet"
    )
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "README.md").write_text("<!-- golden:base -->\n<!-- /golden:base -->\n")
    (tmp_path / "reports/golden").mkdir(parents=True)
    monkeypatch.setattr(golden_weights, "packaged_model", lambda: tmp_path)
    monkeypatch.setattr(tables, "project_path", lambda path: tmp_path / path)
    return run


def test_kinds_are_scored_by_the_model_and_the_first_readout(finished):
    found = golden_weights.gather(finished)
    assert {name: (kind["pictures"], kind["mean"]) for name, kind in found["kinds"].items()} == {
        "pasted, all": (3, pytest.approx(0.5)),
        "pasted, jpg95": (1, 0.9),
        "pasted, png": (2, pytest.approx(0.3)),
        "pasted, native": (2, pytest.approx(0.55)),
        "pasted, rescaled": (1, 0.4),
    }
    assert found["kinds"]["pasted, png"]["se"] == pytest.approx(0.1)
    assert found["weights"] == hashlib.sha256(b"weights").hexdigest()
    assert found["metrics"]["retrieval/fit_report"]["mean"] == 0.625


def test_timings_are_medians_over_fresh_processes(monkeypatch):
    monkeypatch.setattr(golden_weights, "FIRST_HEATMAP", "print(1.5, 2.5)")
    found = golden_weights.first_heatmap()
    assert found["load"] == {"median": 1.5, "values": [1.5] * golden_weights.REPEATS}
    assert found["load_and_heatmap"]["median"] == 2.5 and found["cores"] >= 1


def test_the_error_for_weights_that_fail_to_load_gives_the_reason(monkeypatch):
    monkeypatch.setattr(golden_weights, "FIRST_HEATMAP", "raise FileNotFoundError('the weights are gone')")
    with pytest.raises(PipelineError, match="the weights are gone"):
        golden_weights.first_heatmap()


def test_the_file_and_the_readme_are_renewed_together(finished, tmp_path, monkeypatch, capsys):
    asked = {}

    def run_pipeline(preset, overrides, only):
        asked.update(overrides, preset=preset, only=list(only))
        return finished

    monkeypatch.setattr(golden_weights, "run_pipeline", run_pipeline)
    monkeypatch.setattr(golden_weights, "first_heatmap", lambda: {"load": {"median": 1.0}})
    assert golden_weights.main([]) == 0
    assert asked == {"preset": "base", "model_dir": "data/models/exiflang-base", "only": ["03_evaluate"]}
    found = json.loads((tmp_path / "reports/golden/base.json").read_text())
    assert found["first_heatmap_seconds"]["load"]["median"] == 1.0
    assert markdown(found) in (tmp_path / "README.md").read_text()
    assert "| pasted, png | 2 | 0.30 ± 0.10 |" in capsys.readouterr().out


def test_a_kind_with_one_picture_has_no_standard_error(finished):
    assert "| pasted, jpg95 | 1 | 0.90 |" in markdown(golden_weights.gather(finished))
