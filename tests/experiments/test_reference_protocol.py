"""The cost of the reference's choices, compared picture by picture."""

import json

import pandas as pd
import pytest
import torch

from exiflang.evaluation.score_run import ScoreRun
from exiflang.models.config import ExifLangConfig
from exiflang.models.model import ExifLang
from experiments import reference_protocol as reference_figures
from experiments import tables
from experiments.reference_protocol import WAYS, compare, main, markdown
from tests.evaluation.test_scoring import write_benchmark


def test_differences_are_taken_within_pictures():
    row = reference_figures._compared(pd.Series({"b": 0.5, "a": 0.25}), pd.Series({"a": 0.5, "b": 0.25}))
    assert row == pytest.approx(
        {"p_map": 0.375, "se": 0.125, "difference": 0.0, "difference_se": 0.25, "largest": 0.25, "pictures": 2}
    )


def test_each_variant_is_scored_on_each_set(tmp_path, monkeypatch, capsys):
    torch.manual_seed(0)
    model = ExifLang(ExifLangConfig.preset("tiny")).eval()
    write_benchmark(tmp_path / "made", authentic=False)
    found = compare(model, ScoreRun(["made"], str(tmp_path), str(tmp_path / "scores")))
    assert found.keys() == {"made"} and found["made"].keys() == WAYS.keys()
    first, negated = found["made"]["reference"], found["made"]["colors negated"]
    assert first["difference"] == 0 and first["pictures"] == 1 and 0 < negated["largest"] < 1

    table = markdown({"model": "tiny", "sets": found})
    assert table.count("\n| ") == len(WAYS) + 1 and "1 spliced pictures of made" in table

    (tmp_path / "notebooks/params").mkdir(parents=True)
    (tmp_path / "reports/golden").mkdir(parents=True)
    preset = tmp_path / "notebooks/params/base.yaml"
    preset.write_text(json.dumps({"03_evaluate": {"benchmarks": ["made"], "root": str(tmp_path)}}))
    for module in (reference_figures, tables):
        monkeypatch.setattr(module, "project_path", lambda path: tmp_path / path)
    monkeypatch.setattr(reference_figures, "load_model", lambda name: model)
    assert main([]) == 0
    assert "| colors negated |" in capsys.readouterr().out
    written = json.loads((tmp_path / "reports/golden/reference.json").read_text())
    assert written["sets"]["made"]["reference"]["p_map"] == pytest.approx(first["p_map"])
    preset.write_text(json.dumps({"03_evaluate": {"benchmarks": ["lost"], "root": str(tmp_path)}}))
    assert main([]) == 1 and "no such folder" in capsys.readouterr().err
