"""The ablation: its rows, its data sets, runs that finish, fail and resume, and the tables of finished runs."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from exiflang.data.shards import DataError, find_shards, read_photos
from exiflang.evaluation.layouts import BenchmarkError
from exiflang.evaluation.scoring import p_map_by_kind
from exiflang.pipeline.parameters import PipelineError
from exiflang.training.recipe import Recipe
from experiments import ablation, ablation_data, tables
from experiments.ablation import ROWS, Row, gather, markdown, ordered, run, run_all, run_folder, settings, unfinished
from experiments.ablation_data import FOLDERS, GROUPS, all_of_them, base_arguments, data_set, every_third, mix
from tests.preparation.flat import prepare

SHARES = {"heldout_share": 0.5, "choose_share": 0.3, "report_share": 0.3}


def photos_of(folder: Path) -> list[str]:
    return [photo.id for photo in read_photos(find_shards(folder))[0]]


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> Path:
    """A stand-in for the real photos, whose names differ from those of `simulated`."""
    folder = tmp_path_factory.mktemp("photos")
    source, data = folder / "source", folder / "real"
    prepare("simulated", source, photos_per_camera=2, unseen_makes=8, splices=0, authentic=0, workers=1, tile_size=64)
    for shard in find_shards(source / "train"):
        shard.write_bytes(shard.read_bytes().replace(b'"photo": "0', b'"photo": "r'))
    prepare(str(source / "train"), data, **SHARES)
    return data


@pytest.fixture(scope="module")
def simulated(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos") / "simulated"
    prepare("simulated", folder, photos_per_camera=1, unseen_makes=11, splices=0, authentic=0, workers=1, tile_size=64)
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """A benchmark of two spliced pictures and an authentic one, each a few windows in size."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    mask = np.zeros((64, 80), np.uint8)
    mask[10:40, 10:40] = 255
    for name in ("images", "masks"):
        (folder / name).mkdir()
    rows = [("a", "spliced", "png", "1.0"), ("b", "spliced", "jpg85", "0.6"), ("c", "authentic", "png", "")]
    for name, kind, *_ in rows:
        Image.fromarray(rng.integers(0, 256, (64, 80, 3), dtype=np.uint8)).save(folder / "images" / f"{name}.png")
        Image.fromarray(mask * (kind == "spliced")).save(folder / "masks" / f"{name}.png")
    with (folder / "index.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("name", "kind", "format", "donor_scale"), *rows])
    return folder


def wanted(real: Path, pictures: Path, encoder: str = "model", **changes) -> dict:
    """The settings of a run that takes seconds."""
    tiny = {"preset": "tiny", "vocab_size": 400, "steps": 2, "batch_size": 4, "tracker": "none"}
    protocol = ablation.PROTOCOL | {
        "benchmarks": {"splices": ["folder", str(pictures)], "casia_1": ["folder", str(pictures)]},
        "windows_per_side": 4,
        "fit": str(real),
        "crops": 1,
    }
    recipe = {**tiny, "data_dir": str(real), **changes} if encoder == "model" else {}
    return {"encoder": encoder, "recipe": recipe, "protocol": protocol}


# Rows


def test_each_row_changes_known_parameters_and_differs_from_the_full_recipe():
    made = [settings(row, 0) for row in ROWS]
    full = made[0]["recipe"]
    for row, found in zip(ROWS, made, strict=True):
        if found["encoder"] == "model":
            assert Recipe.of(**found["recipe"], model_dir="unused").training.seed == 0
            assert all(full.get(name, vars(Recipe()).get(name)) != value for name, value in row.changes.items()), row
    assert len({json.dumps(found) for found in made}) == len(ROWS) == len({row.slug for row in ROWS})
    assert [row.name for row in ROWS if not row.changes and row.data == "real"][0] == "full recipe"


def test_the_scale_overrides_the_preset_and_rows_override_the_scale():
    assert settings(ROWS[0], 0)["recipe"].items() >= ablation.SCALE.items()
    (untrained,) = [row for row in ROWS if row.name == "untrained"]
    assert settings(untrained, 1)["recipe"]["steps"] == 0 and settings(untrained, 1)["recipe"]["seed"] == 1


def test_all_rows_run_with_the_first_seed_before_the_next():
    rows = [Row("a", seeds=3), Row("b"), Row("c", seeds=1)]
    found = [(row.name, seed) for row, seed in ordered(rows)]
    assert found == [("a", 0), ("b", 0), ("c", 0), ("a", 1), ("b", 1), ("a", 2)]


def test_slugs_are_folder_names():
    assert Row("EXIF contrast alone (paper's objective)").slug == "exif-contrast-alone-paper-s-objective"


# Data sets


def test_the_real_photos_are_those_of_the_preset():
    arguments = base_arguments()
    assert arguments["source"] == "../shared/photos" and arguments["choose_share"] == 0.08
    assert FOLDERS["real"] == settings(ROWS[0], 0)["recipe"]["data_dir"] == "data/base"


def test_real_photos_are_shared_with_the_preset_despite_arguments_for_simulated_ones(real, monkeypatch):
    arguments = json.loads((real / "dataset.json").read_text())["arguments"] | {"photos_per_camera": 7, "authentic": 9}
    monkeypatch.setitem(FOLDERS, "real", str(real))
    monkeypatch.setattr(ablation_data, "base_arguments", lambda: dict(arguments))
    assert data_set("real") == real
    arguments["choose_share"] = 0.1
    with pytest.raises(DataError, match="made with other arguments"):
        data_set("real")


def test_a_third_of_the_photos_is_selected_reproducibly(real, tmp_path):
    for name in ("a", "b"):
        mix(tmp_path / name, {"real": real}, every_third)
    assert photos_of(tmp_path / "a/train") == photos_of(real / "train")[::3]
    for shard in find_shards(tmp_path / "a/train"):
        assert shard.read_bytes() == (tmp_path / "b/train" / shard.name).read_bytes()
    tiles = [photo.tiles for photo in read_photos(find_shards(tmp_path / "a/train"))[0]]
    assert tiles and all(len(own) == 2 for own in tiles)
    for group in GROUPS:
        assert photos_of(tmp_path / "a" / group) == photos_of(real / group)


def test_a_mixture_has_the_photos_of_both_sets_and_no_held_out_ones(real, simulated, tmp_path):
    mix(tmp_path / "both", {"real": real, "simulated": simulated}, all_of_them)
    found = photos_of(tmp_path / "both/train")
    assert found == photos_of(real / "train") + photos_of(simulated / "train")
    apart = {photo for group in GROUPS for photo in photos_of(real / group)}
    assert apart and apart.isdisjoint(found)


def test_a_mixture_is_made_once_and_only_from_its_parts(real, tmp_path):
    draft = tmp_path / ".third.part"
    draft.mkdir()
    (draft / "left").touch()  # left behind by a killed run
    mix(tmp_path / "third", {"real": real}, every_third)
    assert not draft.exists() and not (tmp_path / "third/left").exists()
    mix(tmp_path / "third", {"real": real}, None)  # already complete
    (tmp_path / "third/dataset.json").write_text("{}")
    with pytest.raises(DataError, match=r"third was made from different photos: remove the folder"):
        mix(tmp_path / "third", {"real": real}, every_third)


# Runs


def test_a_run_trains_scores_and_is_not_repeated(real, pictures, tmp_path, monkeypatch):
    ours = wanted(real, pictures, image_weight=0.5, ema=0.5)
    assert unfinished(tmp_path / "run", ours) == "not run yet"
    run(tmp_path / "run", ours)
    assert unfinished(tmp_path / "run", ours) == ""
    found = json.loads((tmp_path / "run/metrics.json").read_text())
    counts = {"spliced": 2, "authentic": 1, "png": 1, "jpg85": 1, "native": 1, "rescaled": 1}
    assert found["pictures"] == {"splices": counts, "casia_1": counts}
    assert found["photos"] == {group: len(photos_of(real / group)) for group in ("train", *GROUPS)}
    names = {f"{name}/{readout}/ap" for name in ("splices", "casia_1") for readout in ablation.PROTOCOL["readouts"]}
    names |= {"splices/diffused_cut/p_map/rescaled", "fit/heldout", "fit/choose", "fit/report", "fit/unseen"}
    assert names <= found["metrics"].keys() and all(0 <= value <= 1 for value in found["metrics"].values())
    assert found["cpu_seconds"]["training"] > 0 and "pictures" in (tmp_path / "run/log.txt").read_text()

    monkeypatch.setattr(ablation, "_measured", None)
    run(tmp_path / "run", ours)
    with pytest.raises(PipelineError, match="run with different settings: delete the folder"):
        run(tmp_path / "run", wanted(real, pictures, image_weight=0.25, ema=0.5))


def test_a_baseline_is_scored_without_training(real, pictures, tmp_path):
    run(tmp_path / "run", wanted(real, pictures, "mean color"))
    found = json.loads((tmp_path / "run/metrics.json").read_text())
    assert "splices/far_friends/p_map" in found["metrics"] and "fit/heldout" not in found["metrics"]
    assert not found["photos"] and not (tmp_path / "run/model").exists()


def test_an_unreadable_picture_ends_the_run(real, pictures, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    for part in ("images", "masks"):
        os.link(pictures / part / "a.png", tmp_path / part / "a.png")
    (tmp_path / "images/broken.png").write_bytes(b"no picture")
    with pytest.raises(BenchmarkError, match=r"broken.png.*cannot be scored"):
        run(tmp_path / "run", wanted(real, tmp_path, "mean color"))
    assert unfinished(tmp_path / "run", {}).startswith("failed")


def test_a_failed_run_is_reported_and_the_others_continue(real, pictures, tmp_path):
    folders = [tmp_path / name for name in ("fails", "works")]
    recipes = [wanted(real, pictures, batch_size=4000), wanted(real, pictures, "mean color")]
    (failure,) = run_all(list(zip(folders, recipes, strict=True)), workers=1)
    assert failure.startswith("fails: TrainingError: less than one batch of 4000")
    assert unfinished(folders[0], recipes[0]).startswith("failed")
    log = (folders[0] / "log.txt").read_text()
    assert "in _measured" in log and "TrainingError: less than one batch of 4000" in log
    assert unfinished(folders[1], recipes[1]) == ""

    run(folders[0], wanted(real, pictures, "mean color"))  # repaired
    assert unfinished(folders[0], recipes[1]) == ""


# Scores


def test_pictures_are_split_by_format_and_by_the_donors_scale():
    rows = [("png", "1.0", 0.2), ("png", "0.75", 0.4), ("jpg95", "1", 0.6), ("jpg95", "1.25", 0.8)]
    frame = pd.DataFrame(rows, columns=["format", "donor_scale", "p_map"]).assign(spliced=True)
    authentic = pd.DataFrame({"format": ["png"], "donor_scale": [""], "p_map": [np.nan], "spliced": [False]})
    expected = {"png": [0.2, 0.4], "jpg95": [0.6, 0.8], "native": [0.2, 0.6], "rescaled": [0.4, 0.8]}
    assert p_map_by_kind(pd.concat([frame, authentic])) == expected
    for unknown in (None, ""):  # CASIA does not record scales
        assert p_map_by_kind(frame.assign(donor_scale=unknown)) == {"png": [0.2, 0.4], "jpg95": [0.6, 0.8]}


def test_the_real_splices_record_the_scale_of_their_donors(shared):
    index = pd.read_csv(shared / "splices/index.csv", dtype=str, keep_default_na=False)
    found = p_map_by_kind(index.assign(spliced=index["kind"] == "spliced", p_map=0.5))
    counts = {kind: len(values) for kind, values in found.items()}
    assert counts == {"jpg85": 12, "jpg95": 14, "png": 14, "native": 25, "rescaled": 15}


# Tables


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two rows and a baseline, in a separate project; `finish` writes what a run would leave behind."""
    rows = (Row("full recipe"), Row("untrained", {"steps": 0}), Row("mean color", seeds=1))
    (tmp_path / "reports/golden").mkdir(parents=True)
    home = ablation.project_path
    monkeypatch.setattr(ablation, "ROWS", rows)
    for module in (ablation, tables):
        monkeypatch.setattr(module, "project_path", lambda p: home(p) if "params" in str(p) else tmp_path / p)

    def finish(index: int, seed: int, score: float, **changes) -> None:
        row = rows[index]
        metrics = {f"splices/{readout}/p_map": score for readout in ablation.PROTOCOL["readouts"]}
        metrics |= {f"splices/diffused_cut/{name}": score for name in ("ap", "ciou", "auc", "detection_ap")}
        metrics |= {"splices/diffused_cut/p_map/png": score + 0.1, "splices/diffused_cut/p_map/native": score - 0.1}
        metrics |= {"casia_1/diffused_cut/p_map": score}
        photos = {}
        if row.name != "mean color":
            metrics |= {"fit/heldout": 0.9, "fit/unseen": 0.6}
            photos = {"train": 9, "heldout": 3, "choose": 4, "report": 5}
        done = {
            "settings": settings(row, seed) | changes,
            "metrics": metrics,
            "pictures": {"splices": {"spliced": 4, "authentic": 2, "png": 1, "native": 3}},
            "photos": photos,
            "cpu_seconds": {"training": 10.0, "evaluation": 5.0},
            "hardware": "a machine",
        }
        run_folder(row, seed).mkdir(parents=True)
        (run_folder(row, seed) / "metrics.json").write_text(json.dumps(done))

    return finish


def test_missing_runs_are_listed_with_the_reason(runs):
    runs(0, 0, 0.5)
    runs(1, 0, 0.25, encoder="another")
    run_folder(ablation.ROWS[1], 1).mkdir()
    found = gather()
    assert [(gap["row"], gap["seed"], gap["reason"].split(":")[0]) for gap in found["missing"]] == [
        ("full recipe", 1, "not run yet"),
        ("untrained", 0, "run with different settings"),
        ("untrained", 1, "failed, or in progress"),
        ("mean color", 0, "not run yet"),
    ]
    assert found["rows"]["full recipe"]["seeds"] == [0] and found["rows"]["untrained"]["seeds"] == []
    assert found["rows"]["full recipe"]["photos"] == 9 and "metrics" not in found["rows"]["untrained"]
    assert found["protocol"]["photos"] == {"heldout": 3, "choose": 4, "report": 5}
    assert json.loads(json.dumps(found)) == found


def test_tables_show_finished_rows_and_their_seeds(runs):
    runs(0, 0, 0.5)
    runs(0, 1, 0.7)
    runs(2, 0, 0.3)
    lines = markdown(gather()).splitlines()
    assert "4 + 2 splices" in lines[0] and "3 photos of seen and 9 of unseen cameras" in lines[0]
    rows = [line for line in lines if line.startswith(("| full", "| untrained", "| mean"))]
    assert rows[0] == "| full recipe | 2 |" + " 0.60 ± 0.14 |" * 8 + " 0.90 ± 0.00 | 0.60 ± 0.00 |"
    assert rows[1] == "| mean color | 1 |" + " 0.30 |" * 8 + "  |  |"
    assert rows[2] == "| full recipe | 2 | 0.70 ± 0.14 |  |  | 0.50 ± 0.14 |  |"
    assert rows[3] == "| mean color | 1 | 0.40 |  |  | 0.20 |  |" and len(rows) == 4
    assert any("PNG (1)" in line and "native scale (3)" in line for line in lines)


def test_tables_of_baselines_do_not_mention_exif(runs):
    runs(2, 0, 0.3)
    assert "EXIF:" not in markdown(gather())


def test_the_command_gathers_into_json_and_a_table(runs, tmp_path, capsys):
    assert ablation.main(["--table"]) == 1
    assert "no run has finished; full recipe, seed 0: not run yet" in capsys.readouterr().err
    runs(0, 0, 0.5)
    assert ablation.main(["--table"]) == 0
    found = json.loads((tmp_path / "reports/golden/ablation.json").read_text())
    assert markdown(found) in capsys.readouterr().out


def test_missing_pictures_are_an_error_before_anything_runs(runs, tmp_path, capsys):
    assert ablation.main(["--only", "untrained"]) == 1
    assert "splices: no such folder" in capsys.readouterr().err
    assert ablation.main(["--only", "trained"]) == 2
    assert "no row 'trained'; did you mean untrained" in capsys.readouterr().err
    assert not (tmp_path / "reports/runs").exists()
