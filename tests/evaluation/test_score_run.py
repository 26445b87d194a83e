"""Scores of benchmarks on disk: nothing scored twice, nothing lost, the same with one process or two."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from exiflang.evaluation import score_run
from exiflang.evaluation.__main__ import main
from exiflang.evaluation.gallery import write_score_gallery
from exiflang.evaluation.layouts import BenchmarkError
from exiflang.evaluation.metrics import LOCALIZATION
from exiflang.evaluation.score_run import ScoreRun, score_benchmarks
from exiflang.evaluation.scoring import summarize_pictures
from exiflang.models.config import ExifLangConfig
from exiflang.models.model import ExifLang
from exiflang.models.weights import load_model, weights_sha256
from exiflang.utils.launch import LaunchError, launch_module, read_mapping
from exiflang.utils.locks import hold
from tests.evaluation.test_scoring import write_benchmark

ATTACK = '"><script>alert(1)</script>.png'


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    ExifLang(ExifLangConfig.preset("tiny")).save_pretrained(str(folder))
    return str(folder)


@pytest.fixture
def root(tmp_path):
    """Two folders of pictures, one of them with a broken picture."""
    write_benchmark(tmp_path / "root" / "first")
    write_benchmark(tmp_path / "root" / "second", broken=False)
    return tmp_path / "root"


@pytest.fixture
def seen(monkeypatch) -> list[str]:
    """The names of the pictures that a network looked at."""
    names: list[str] = []
    real = score_run.score_each

    def spy(encoders, benchmark, *args, **how):
        for picture in real(encoders, benchmark, *args, **how):
            names.append(f"{benchmark.name}/{picture.item.name}")
            yield picture

    monkeypatch.setattr(score_run, "score_each", spy)
    return names


def run_of(root, model, **changes) -> ScoreRun:
    parameters = {"benchmarks": ["first", "second"], "root": str(root), "scores_dir": str(root.parent / "scores")}
    return ScoreRun.of(**parameters | {"model": model, "windows_per_side": 6, "baselines": True} | changes)


def all_scores(found) -> pd.DataFrame:
    return pd.concat([scored.scores() for scored in found.values()], ignore_index=True)


def test_all_pictures_are_scored_once_and_the_broken_one_is_reported(root, model, seen):
    found = score_benchmarks(run_of(root, model))
    assert seen == ["first/authentic.png", "first/spliced.png", "second/authentic.png", "second/spliced.png"]
    assert [name for name, _ in found["first"].skipped()] == ["broken.png"] and found["second"].skipped() == []
    scores = all_scores(found)
    assert len(scores) == 2 * 2 * 3 and set(scores["method"]) == {"model", "mean color", "residual statistics"}
    assert set(scores["readout"]) == {"diffused_cut"} and set(scores["kind"]) == {"spliced", "authentic"}
    summary = summarize_pictures(scores)
    assert summary["pictures"].tolist() == [1] * 6 and summary[LOCALIZATION["default"]].notna().all(axis=None)

    again = score_benchmarks(run_of(root, model))
    assert len(seen) == 4  # nothing is scored again
    pd.testing.assert_frame_equal(all_scores(again), scores)


def test_a_killed_run_resumes_where_it_stopped(root, model, seen, monkeypatch):
    whole = all_scores(score_benchmarks(run_of(root, model, scores_dir=str(root / "whole"))))
    seen.clear()
    keep = score_run.ScoredSet.keep

    def killed(self, picture):
        keep(self, picture)
        if len(seen) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(score_run.ScoredSet, "keep", killed)
    with pytest.raises(KeyboardInterrupt):
        score_benchmarks(run_of(root, model))
    (root.parent / "scores" / "first" / "half.json.tmp").write_text('{"rows": [')  # what a killed run may leave behind
    monkeypatch.setattr(score_run.ScoredSet, "keep", keep)
    resumed = score_benchmarks(run_of(root, model))
    assert sorted(seen) == sorted(set(seen)) and len(seen) == 4
    pd.testing.assert_frame_equal(all_scores(resumed), whole)


def test_two_processes_give_the_same_scores_as_one(root, model):
    one = all_scores(score_benchmarks(run_of(root, model, scores_dir=str(root / "one"))))
    two = score_benchmarks(run_of(root, model), processes=2)
    pd.testing.assert_frame_equal(all_scores(two), one)
    assert [name for name, _ in two["first"].skipped()] == ["broken.png"]


def test_failed_processes_report_the_reason(root, model):
    with pytest.raises(LaunchError, match="2 processes failed:\nerror: .*nowhere: no model found"):
        score_benchmarks(run_of(root, str(root / "nowhere")), processes=2)
    with pytest.raises(BenchmarkError, match="no such folder"):
        score_benchmarks(run_of(root, model, benchmarks=["nowhere"]), processes=2)


def test_a_repaired_picture_is_scored_on_the_next_run(root, model, seen):
    score_benchmarks(run_of(root, model, benchmarks=["first"]))
    spliced = (root / "first" / "images" / "spliced.png").read_bytes()
    (root / "first" / "images" / "broken.png").write_bytes(spliced)
    found = score_benchmarks(run_of(root, model, benchmarks=["first"]))
    assert seen[2:] == ["first/broken.png"] and found["first"].skipped() == []
    assert len(found["first"].scores()) == 3 * 3


def test_scores_of_other_settings_or_weights_are_not_mixed(root, model, tmp_path):
    score_benchmarks(run_of(root, model))
    for change in ({"border": 2}, {"protocol": "reference"}, {"baselines": False}, {"readouts": ["far_friends"]}):
        with pytest.raises(BenchmarkError, match="holds scores with different settings; choose a different scores_dir"):
            score_benchmarks(run_of(root, model, **change))
    torch.manual_seed(1)
    ExifLang(ExifLangConfig.preset("tiny")).save_pretrained(str(tmp_path / "other"))
    with pytest.raises(BenchmarkError, match="different settings"):
        score_benchmarks(run_of(root, str(tmp_path / "other")))
    shutil.copytree(root, tmp_path / "elsewhere")
    with pytest.raises(BenchmarkError, match="different settings"):
        score_benchmarks(run_of(tmp_path / "elsewhere", model))
    more = score_benchmarks(run_of(root, model, benchmarks=["second", "first jpeg 80"]))  # each set has its own folder
    assert list(more) == ["second", "first jpeg 80"]
    assert set(more["first jpeg 80"].scores()["set"]) == {"first jpeg 80"}


def test_a_concurrent_run_in_the_same_folder_is_refused(root, model):
    run = run_of(root, model)
    with hold(root.parent / "scores" / "second" / ".lock", "", ValueError):
        with pytest.raises(BenchmarkError, match=r"scores/second: another run is using it \(process"):
            score_benchmarks(run)
    score_benchmarks(run)
    assert not list((root.parent / "scores").rglob(".lock"))


def test_heatmaps_and_thumbnails_are_kept(root, model):
    found = score_benchmarks(run_of(root, model, benchmarks=["second"]))["second"]
    for name in found.benchmark.names:
        with Image.open(found.place(name, "-heatmap.png")) as heatmap, Image.open(found.place(name, ".jpg")) as both:
            assert (heatmap.mode, heatmap.size, both.size) == ("I;16", (128, 96), (256, 96))
            assert np.ptp(np.asarray(heatmap)) > 0


def test_the_reference_protocol_uses_its_own_mean_shift(root, model):
    run = run_of(root, model, protocol="reference", benchmarks=["second"], baselines=False)
    scores = score_benchmarks(run)["second"].scores()
    assert set(scores["protocol"]) == {"reference"} and set(scores["readout"]) == {"sequential_mean_shift"}
    assert scores[scores["spliced"]]["mcc"].notna().all()


def test_sets_without_readable_or_spliced_pictures(root, model):
    write_benchmark(root / "broken", spliced=False, authentic=False)
    write_benchmark(root / "authentic", spliced=False, broken=False)
    found = score_benchmarks(run_of(root, model, benchmarks=["broken", "authentic"]))
    with pytest.raises(BenchmarkError, match="broken: no picture to score among 1 .*broken.png"):
        found["broken"].scores()
    assert summarize_pictures(found["authentic"].scores())["p_map"].isna().all()


@pytest.mark.parametrize(
    ("benchmarks", "message"),
    [
        (["first", "first"], "contain a duplicate"),
        (["../first"], "give names of folders"),
        (["first;rm"], "give names of folders"),
        (["first blur 3"], "unknown laundering"),
        (["third"], "no such folder"),
        (["columbia"], "no such folder"),
    ],
)
def test_wrong_benchmarks_are_refused(root, model, benchmarks, message):
    with pytest.raises(BenchmarkError, match=message):
        score_benchmarks(run_of(root, model, benchmarks=benchmarks))


def test_wrong_parameters_are_refused():
    with pytest.raises(ValueError, match=r"unknown parameters \['modell'\], missing \['root'\]"):
        ScoreRun.of(benchmarks=[], scores_dir="x", modell="y")


def test_command_line(root, model, tmp_path, capsys):
    config = tmp_path / "scores.yaml"
    parameters = {"benchmarks": ["second"], "root": str(root), "scores_dir": str(tmp_path / "s"), "model": model}
    config.write_text(json.dumps(parameters | {"windows_per_side": 4}))
    assert main(["--config", str(config)]) == 0
    assert len(list((tmp_path / "s" / "second").glob("*-heatmap.png"))) == 2
    config.write_text(json.dumps(parameters | {"model": str(tmp_path / "none")}))
    assert main(["--config", str(config)]) == 1
    assert "no model found" in capsys.readouterr().err
    for text in ("a list", "- 1", "a: [", ""):
        config.write_text(text)
        with pytest.raises(ValueError, match="YAML"):
            read_mapping(config)
    with pytest.raises(LaunchError, match=r"No module named exiflang.nothing_of_the_kind\s*$"):
        launch_module("exiflang.nothing_of_the_kind", {}, 1)


def test_models_are_loaded_by_name(model, tmp_path):
    assert load_model("").config.calibration and len(weights_sha256("")) == 64
    assert load_model(model).config.embed_dim == 32 and weights_sha256(model) != weights_sha256("")
    with pytest.raises(OSError, match="no model found"):
        load_model(str(tmp_path / "nowhere"))
    with pytest.raises(OSError, match=r"none\.pth: cannot be read"):
        load_model(str(tmp_path / "none.pth"))
    (tmp_path / "bad.pth").write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match=r"bad\.pth: not a checkpoint that can be read"):
        load_model(str(tmp_path / "bad.pth"))
    assert weights_sha256(str(tmp_path / "bad.pth")) and weights_sha256("some/hub-id") is None


def test_pictures_whose_names_are_not_utf_8_are_scored_and_reported(root, model, tmp_path):
    odd = os.fsdecode(b"caf\xe9.png")
    for part in ("images", "masks"):
        (root / "first" / part / "spliced.png").rename(root / "first" / part / odd)
        (root / "first" / part / "broken.png").rename(root / "first" / part / os.fsdecode(b"br\xf6ken.png"))
    strange = tmp_path / os.fsdecode(b"r\xfct")
    root.rename(strange)
    run = run_of(strange, model, scores_dir=str(tmp_path / os.fsdecode(b"sc\xf6res")))
    found = score_benchmarks(run, processes=2)
    assert found["first"].scores()["name"].unique().tolist() == ["authentic.png", "caf\\xe9.png"]
    ((name, reason),) = found["first"].skipped()
    assert name == "br\\xf6ken.png" and "r\\xfct/first/images/br\\xf6ken.png: not a picture" in reason
    scores = all_scores(found)
    scores.to_parquet(tmp_path / "scores.parquet")
    page = write_score_gallery(tmp_path / "g.html", found, scores, summarize_pictures(scores)).read_text("utf-8")
    assert "caf\\xe9.png" in page and "br\\xf6ken.png: not a picture" in page


def test_a_hostile_name_cannot_escape_the_folder_of_scores(root, model):
    for part in ("images", "masks"):
        source = root / "second" / part / "spliced.png"
        source.rename(source.with_name(ATTACK.replace("/", "")))
    found = score_benchmarks(run_of(root, model, benchmarks=["second"], baselines=False))["second"]
    assert {path.parent for path in Path(root.parent / "scores").rglob("*") if path.is_file()} == {found.folder}
    assert found.record(ATTACK.replace("/", ""))["rows"]
