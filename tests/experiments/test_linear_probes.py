"""The golden file of the probes, gathered from finished runs, and its tables."""

import json

import pytest

from exiflang.pipeline.parameters import PipelineError
from experiments import linear_probes as probe_figures
from experiments import tables
from experiments.linear_probes import main, markdown

MAKE = {"what": "exif/heldout/Make/camera", "chance": 0.25, "n": 40, "groups": 9}
CASIA = {"what": "splices/casia_1/resized", "chance": 0.5, "n": 8, "groups": 7}
ROWS = [
    MAKE | {"method": "model", "score": 0.5, "se": 0.04},
    MAKE | {"method": "untrained", "score": 0.3, "se": 0.1},
    CASIA | {"method": "model", "score": 0.61, "se": 0.05},
    CASIA | {"method": "mean color", "score": 0.4, "se": 0.05},
]


def test_markdown_has_a_row_per_probe_and_a_column_per_method():
    assert markdown({"rows": ROWS}).splitlines() == [
        "| probe | model | untrained | mean color | chance | of |",
        "|---|---|---|---|---|---|",
        "| exif, heldout, Make, camera | **0.50 ± 0.04** | 0.30 |  | 0.25 | 40 in 9 groups |",
        "| splices, casia 1, resized | **0.61 ± 0.05** |  | 0.40 | 0.50 | 8 in 7 groups |",
    ]


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A fake pipeline that writes what 05_probe leaves behind; yields its calls."""
    calls = []

    def fake(preset, overrides=None, only=()):
        calls.append((preset, overrides or {}, list(only)))
        folder = tmp_path / f"run-{len(calls)}"
        folder.mkdir(exist_ok=True)
        report = {"table": ROWS, "protocol": {"folds": 5}}
        (folder / "metrics.json").write_text(json.dumps({"05_probe": report}))
        return folder

    (tmp_path / "reports/golden").mkdir(parents=True)
    monkeypatch.setattr(probe_figures, "run_pipeline", fake)
    for module in (probe_figures, tables):
        monkeypatch.setattr(module, "project_path", lambda path: tmp_path / path)
    monkeypatch.setattr(probe_figures, "shuffled_control", lambda: calls.append("control"))
    return calls


def test_only_missing_runs_are_made(runs, tmp_path, capsys):
    assert main([]) == 0
    probe = ["05_probe"]
    control = {"model_dir": "data/models/demo-shuffled", "exif": "shuffled"}
    packaged = {"model_dir": "data/models/exiflang-base"}
    assert runs == [
        *[("base", {}, ["01_prepare_data"]), "control", ("base", packaged, probe)],
        *[("demo", {}, ["01_prepare_data", "02_train"]), ("demo", control, ["02_train"]), ("demo", {}, probe)],
    ]
    golden = json.loads((tmp_path / "reports/golden/probe.json").read_text())
    assert golden["demo"] == golden["real"] == {"protocol": {"folds": 5}, "rows": ROWS}
    assert capsys.readouterr().out.count("**0.50 ± 0.04**") == 2

    runs.clear()
    (tmp_path / "data/base/heldout").mkdir(parents=True)
    for model in ("demo", "demo-shuffled"):
        (tmp_path / "data/models" / model).mkdir(parents=True)
        (tmp_path / "data/models" / model / "model.safetensors").write_bytes(b"")
    assert main([]) == 0
    assert runs == ["control", ("base", packaged, probe), ("demo", {}, probe)]


def test_a_failed_run_is_reported(runs, monkeypatch, capsys):
    def fails(*arguments, **more):
        raise PipelineError("05_probe, cell In [3] failed")

    monkeypatch.setattr(probe_figures, "run_pipeline", fails)
    assert main([]) == 1 and "error: 05_probe, cell In [3] failed" in capsys.readouterr().err
