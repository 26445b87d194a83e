"""Golden results: their spread, their tables, and a renewal that does not repeat finished runs."""

import json
import shutil

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from scipy.stats import t as student

from exiflang.models.weights import NAME, packaged_model
from exiflang.pipeline.parameters import PipelineError, declared_parameters, project_path
from exiflang.pipeline.runner import STEPS
from exiflang.utils.files import read_json
from experiments import golden, readout_figures
from experiments.tables import spread, with_table

# Reports with their own tables.
OTHERS = {
    *("ablation", "exif", "fuzz", "probe", "readout", "readout_ablation", "reference", "scale", "speed", "speed_gpu"),
    "unseen_cameras",
}
PRESETS = sorted({path.stem for path in project_path("reports/golden").glob("*.json")} - OTHERS)


def test_spread_is_the_prediction_interval_for_one_more_run():
    values = [0.70, 0.74, 0.72, 0.78, 0.71]
    found = spread(values)
    half = student.ppf(0.975, 4) * np.std(values, ddof=1) * np.sqrt(1 + 1 / 5)
    assert found["mean"] == pytest.approx(0.73)
    assert (found["low"], found["high"]) == (pytest.approx(0.73 - half), pytest.approx(0.73 + half))
    assert found["values"] == values


def test_spread_covers_95_percent_of_normal_samples():
    rng = np.random.default_rng(0)
    samples = rng.normal(0.5, 0.1, (2000, 6))
    inside = [low["low"] <= new <= low["high"] for *old, new in samples.tolist() for low in [spread(old)]]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.015)


def test_the_controls_override_parameters_of_the_notebooks():
    taken = set().union(*(declared_parameters(f"notebooks/{stem}.ipynb") for stem in STEPS))
    assert set().union(*golden.VARIANTS.values()) <= taken


def test_spread_of_one_value_and_of_none():
    assert spread([0.5]) == {"mean": 0.5, "sd": 0.0, "low": 0.5, "high": 0.5, "values": [0.5]}
    with pytest.raises(ValueError, match="no values"):
        spread([])


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A fake pipeline that writes what a run leaves behind and records its calls; golden files go to `tmp_path`."""
    calls = []

    def fake(preset, overrides, run_id, steps):
        calls.append((run_id, tuple(steps), dict(overrides)))
        folder = tmp_path / "reports/runs" / run_id
        folder.mkdir(parents=True)
        score = 0.7 + 0.01 * overrides["seed"] - (0.3 if overrides.get("steps") == 0 else 0)
        names = ["unseen/model/diffusion/p_map", "retrieval/recall", "retrieval/recall_camera"]
        if overrides.get("baselines", True):
            names.append("unseen/mean color/diffusion/p_map")
        report = {
            "check": dict.fromkeys(names, score),
            "table": [{"set": "unseen", "pictures": 3, "authentic": 1}],
            "protocol": {"pixels": "all pixels"},
            "retrieval": {"among": 64, "photos": 70, "chance": 1 / 64, "cameras": 9, "chance_camera": 0.25},
        }
        (folder / "metrics.json").write_text(json.dumps({"03_evaluate": report}))
        steps_seconds = {stem: {"seconds": 1.0} for stem in steps}
        (folder / "manifest.json").write_text(json.dumps({"status": "finished", "steps": steps_seconds}))
        return folder

    monkeypatch.setattr(golden, "run_pipeline", fake)
    monkeypatch.setattr(golden, "project_path", lambda path: tmp_path / path)
    return calls


def measured(*seeds):
    for seed in seeds:
        for variant in golden.VARIANTS:
            golden.run("demo", seed, variant)
    return golden.gather("demo", seeds)


def test_measure_runs_each_seed_and_variant_once_and_gathers(runs):
    found = measured(0, 1)
    assert len(runs) == 6
    assert [overrides["exif"] for _, _, overrides in runs if "exif" in overrides] == ["shuffled"] * 2
    assert found["metrics"]["unseen/model/diffusion/p_map"]["values"] == pytest.approx([0.70, 0.71])
    assert found["controls"]["untrained"]["unseen/model/diffusion/p_map"]["mean"] == pytest.approx(0.405)
    data = {overrides["data_dir"] for _, _, overrides in runs}
    models = {overrides["model_dir"] for _, _, overrides in runs}
    assert (len(data), len(models)) == (2, 6)  # variants share the seed's data, never weights

    measured(0, 1)
    assert len(runs) == 6


def test_a_failed_run_is_named_and_not_used_as_a_result(runs, tmp_path):
    measured(0)
    manifest = tmp_path / "reports/runs/golden-demo-0-shuffled/manifest.json"
    manifest.write_text(json.dumps({"status": "failed", "steps": {}}))
    with pytest.raises(PipelineError, match="golden-demo-0-shuffled"):
        measured(0)


def test_markdown_has_a_row_per_method_and_the_controls(runs):
    lines = golden.markdown(measured(0, 1)).splitlines()
    methods = [line.split("|")[3].strip() for line in lines if line.startswith("| unseen")]
    assert methods == ["model", "mean color", "shuffled EXIF", "untrained"]
    assert any("0.70 ± 0.01" in line or "0.71 ± 0.01" in line for line in lines)
    assert lines[-1].startswith("| recall@1 among the photos of one camera |") and lines[-1].endswith("| 0.250 |")


def test_markdown_lists_the_learned_readout_first_and_only_known_columns(runs):
    found = measured(0)
    assert "flagged" not in golden.markdown(found)
    found["metrics"]["unseen/model/learned/flagged"] = spread([0.5])
    head, _, learned, model, *_ = golden.markdown(found).splitlines()[2:]
    assert head.endswith("| method | p_map | flagged |")
    assert learned.endswith("| learned | model |  | **0.50** |") and model.endswith("| **0.70** |  |")


def test_markdown_shows_the_fit_of_exif_if_it_was_measured(runs):
    found = measured(0)
    for group in (found["metrics"], *found["controls"].values()):
        group["retrieval/fit_report"] = spread([0.625])
    expected = "| the same, cameras set aside for reporting | 0.62 | 0.62 | 0.62 | 0.500 |"
    assert golden.markdown(found).splitlines()[-1] == expected


def test_with_table_replaces_only_its_own_section():
    readme = (
        "a\n<!-- golden:demo -->\nstale\n<!-- /golden:demo -->\nb\n<!-- golden:real -->\nkept\n<!-- /golden:real -->\n"
    )
    changed = with_table(readme, "demo", "| new \\1 |")
    assert "stale" not in changed and "| new \\1 |" in changed and "kept" in changed
    assert with_table(changed, "demo", "| new \\1 |") == changed


def test_readme_and_model_card_show_the_committed_results():
    base, readout = (read_json(project_path(f"reports/golden/{name}.json")) for name in ("base", "readout"))
    card = (packaged_model() / "README.md").read_text(encoding="utf-8")
    assert golden.markdown(base) in card and readout_figures.markdown(readout) in card
    assert readout_figures.headline(readout) in project_path("README.md").read_text(encoding="utf-8")


def test_the_model_index_holds_the_committed_results(tmp_path):
    found, committed = read_json(project_path("reports/golden/readout.json")), packaged_model() / "README.md"
    data = ModelCard.load(committed).data
    assert data.model_name == NAME and data.eval_results == readout_figures.hub_results(found)
    assert {result.metric_type for result in data.eval_results} == {
        "p_map", "average_precision", "recall", "false_positive_rate",
    }  # fmt: skip
    copy = tmp_path / "README.md"
    shutil.copyfile(committed, copy)
    readout_figures.write_model_index(copy, found)
    assert copy.read_bytes() == committed.read_bytes()


def test_new_results_replace_the_model_index(tmp_path):
    share = {"share": 0.25, "low": 0.0, "high": 0.9, "pictures": 4}
    found = {
        "protocol": {"false_alarms": 0.05, "localization": "spliced pictures"},
        "localization": {"pasted": {"all": {"learned": 0.12345}}},
        "detection": {
            "pasted": {"spliced": 3, "authentic": 4, "flagged": share, "ap": {"learned": 0.987}},
            "authentic, measured": {"spliced": 0, "authentic": 4, "false_alarms": share},
        },
    }
    card = tmp_path / "README.md"
    card.write_text("---\nlicense: mit\nmodel-index: [stale]\n---\n\n# Title\n\n---\nbody\n")
    readout_figures.write_model_index(card, found)
    _, front, body = card.read_text().split("---\n", 2)
    front = yaml.safe_load(front)
    assert front["license"] == "mit" and body == "\n# Title\n\n---\nbody\n"
    (index,) = front["model-index"]
    metrics = {
        (part["dataset"]["type"], one["type"]): one["value"] for part in index["results"] for one in part["metrics"]
    }
    assert metrics == {
        ("pasted", "p_map"): 0.123,
        ("pasted", "average_precision"): 0.99,
        ("pasted", "recall"): 0.25,
        ("authentic-measured", "false_positive_rate"): 0.25,
    }
