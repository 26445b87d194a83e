import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from exiflang.data.sampler import CameraSampler
from exiflang.data.shards import DataError
from exiflang.models.model import ExifLang
from exiflang.pipeline.parameters import declared_parameters, injected_parameters, project_path
from exiflang.pipeline.runner import run_notebook
from exiflang.training.__main__ import main, read_parameters
from exiflang.training.config import TrainConfig
from exiflang.training.recipe import Recipe, launch
from exiflang.utils.launch import LaunchError
from tests.preparation.flat import prepare

TINY = {
    "preset": "tiny",
    "vocab_size": 400,
    "steps": 3,
    "batch_size": 4,
    "warmup_steps": 1,
    "mixed_precision": "no",
    "tracker": "none",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "photos"
    shares = {"choose_share": 0.2, "report_share": 0.1}
    prepare("simulated", folder, photos_per_camera=1, unseen_makes=8, splices=0, authentic=0, workers=1, **shares)
    return folder


def recipe(data: Path, folder: Path, **changes) -> Recipe:
    return Recipe.of(**{**TINY, "data_dir": str(data), "model_dir": str(folder), **changes})


def test_flat_parameters_there_and_back():
    made = Recipe.of(steps=7, ema=0.5, tag_dropout="1e-1", crop_sizes=[40])
    assert made.training == TrainConfig(steps=7, ema=0.5) and made.tag_dropout == 0.1 and made.crop_sizes == [40]
    assert Recipe.of(**made.flat()) == made


def test_the_notebook_takes_every_parameter_and_declares_few():
    declared = declared_parameters("notebooks/02_train.ipynb")
    assert declared.keys() - {"out_dir", "processes"} == Recipe().flat().keys()
    further = {name for name in declared if "training" in injected_parameters("notebooks/02_train.ipynb", {name: 0})}
    assert len(declared) - len(further) <= 12
    assert {name: Recipe().flat()[name] for name in further} == {name: declared[name] for name in further}


def test_an_unknown_parameter_is_named_with_the_nearest():
    with pytest.raises(ValueError, match=r"no parameter 'stepz'; did you mean steps\? known: data_dir, .*seed"):
        Recipe.of(stepz=7)


@pytest.mark.parametrize("name", ["tiny", "demo", "base", "paper"])
def test_presets_are_configurations(name):
    parameters = read_parameters(project_path(f"notebooks/params/{name}.yaml"))
    assert Recipe.of(**parameters).training.steps == parameters["steps"]


def test_everything_at_once(data, tmp_path):
    everything = {
        "crop_sizes": [24, 32],
        "processing_probability": 1.0,
        "common_jpeg": 1.0,
        "tag_dropout": 0.5,
        "shuffle_tags": True,
        "cache_tiles": True,
        "balance": 0.5,
        "same_make": 0.5,
        "image_weight": 0.5,
        "ema": 0.5,
        "loss": "sigmoid",
        "chunk_size": 2,
        "validate_every": 2,
    }
    made = recipe(data, tmp_path / "model", **everything)
    assert isinstance(made.sampler(made.dataset()), CameraSampler)
    log = made.run(made.dataset())
    assert len(log) == 3 and all(math.isfinite(row["loss"]) for row in log)
    assert [row["step"] for row in log if "validation" in row] == [2, 3]
    validate = made.validation()
    best = validate(ExifLang.from_pretrained(str(tmp_path / "model")))
    assert best == max(row["validation"] for row in log if "validation" in row)
    assert {photo.camera for photo in validate.args[0]}.isdisjoint(photo.camera for photo in made.dataset().photos)


def test_nothing_switched_on_is_the_papers_recipe(data, tmp_path):
    made = recipe(data, tmp_path / "model")
    assert made.augmentation() is None and made.sampler(made.dataset()) is None
    patch, sentence = made.dataset()[0]
    assert patch.shape == (3, 32, 32) and sentence in made.dataset().sentences


@pytest.mark.parametrize(
    ("second_view", "sentence", "score"),
    [(1, 1, 1.0), (-1, -1, 0.0), (1, -1, 0.5), (-1, 1, 0.5), (0, 0, 0.5)],
)
def test_the_score_is_the_mean_of_exif_and_patches(data, tmp_path, monkeypatch, second_view, sentence, score):
    """Of an encoder that knows each camera, the other side being the same, its opposite, or nothing."""
    validate = recipe(data, tmp_path).validation()
    cameras, which = np.unique([photo.camera for photo in validate.args[0]], return_inverse=True)
    known = np.eye(len(cameras), dtype=np.float32)[which]
    views = {0: known, 1: second_view * known}
    monkeypatch.setattr("exiflang.training.recipe.embed_photos", lambda *_, seed, **__: (views[seed], sentence * known))
    assert validate(model=None) == pytest.approx(score)


def test_the_score_on_a_model_is_the_same_each_time(data, tmp_path):
    validate = recipe(data, tmp_path).validation()
    model = recipe(data, tmp_path).model(["Make: X, Model: Y"])
    assert 0 <= validate(model) == validate(model) <= 1


def test_the_temperature_is_learned_unless_fixed(data, tmp_path):
    learned, fixed = (recipe(data, tmp_path, fixed_temperature=fixed).model(["Make: X"]) for fixed in (False, True))
    assert learned.log_logit_scale.requires_grad and not fixed.log_logit_scale.requires_grad


@pytest.mark.parametrize(
    ("preset", "image", "text", "side"),
    [
        ("paper", "", "", "image"),
        ("paper-albert", "random", "", "text"),
        ("paper-roberta", "", "random", "image"),
        ("tiny", "random", "", "text"),
        ("tiny", "", "random", "image"),
    ],
)
def test_towers_without_weights_must_be_wanted(tmp_path, preset, image, text, side):
    made = recipe(tmp_path, tmp_path, preset=preset, image_tower=image, text_tower=text)
    with pytest.raises(ValueError, match=f"{side}_tower is '': give a folder or hub id .* or 'random'"):
        made.model(["Make: X"])


def test_random_towers_by_name_are_those_from_scratch(tmp_path):
    words = ["Make: X, Model: Y"]
    scratch = recipe(tmp_path, tmp_path).model(words)
    named = recipe(tmp_path, tmp_path, image_tower="random", text_tower="random").model(words)
    assert named.config.to_dict() == scratch.config.to_dict()
    assert all(torch.equal(value, named.state_dict()[key]) for key, value in scratch.state_dict().items())
    assert len(named.tokenizer) == named.text_tower.config.vocab_size


@pytest.mark.parametrize("preset", ["paper", "paper-albert", "paper-roberta"])
def test_the_papers_towers_from_scratch(tmp_path, preset):
    with torch.device("meta"):
        made = recipe(tmp_path, tmp_path, preset=preset, image_tower="random", text_tower="random").model(["Make: X"])
    text = made.text_tower.config
    assert (text.vocab_size, text.pad_token_id) == (len(made.tokenizer), made.tokenizer.pad_token_id)
    assert made.config.logit_scale == 100 and not made.log_logit_scale.requires_grad


def test_one_tower_pretrained_and_one_random(tmp_path):
    words = ["Make: X, Model: Y"]
    tiny = recipe(tmp_path, tmp_path).model(words)
    tiny.image_tower.save_pretrained(tmp_path / "image")
    tiny.text_tower.save_pretrained(tmp_path / "text")
    tiny.tokenizer.save_pretrained(tmp_path / "text")
    seeing = recipe(tmp_path, tmp_path, seed=1, image_tower=str(tmp_path / "image"), text_tower="random").model(words)
    reading = recipe(tmp_path, tmp_path, seed=1, image_tower="random", text_tower=str(tmp_path / "text")).model(words)

    def same(model, side):
        theirs = tiny.towers[side].parameters()
        return all(torch.equal(*pair) for pair in zip(model.towers[side].parameters(), theirs, strict=True))

    assert same(seeing, "image") and not same(seeing, "text")
    assert same(reading, "text") and not same(reading, "image")
    assert seeing.encode_exif(words).shape == reading.encode_exif(words).shape == (1, 32)


def test_no_unseen_cameras_no_validation(data, tmp_path):
    assert recipe(tmp_path, tmp_path).validation() is None
    with pytest.raises(DataError, match="train"):
        recipe(tmp_path, tmp_path).dataset()


# Processes of their own


def test_two_processes_through_papermill(data, tmp_path):
    given = {**TINY, "data_dir": str(data), "model_dir": str(tmp_path / "model"), "processes": 2}
    metrics = run_notebook("notebooks/02_train.ipynb", given, tmp_path / "run")
    assert metrics["steps"] == 3 and metrics["files"] == [str(tmp_path / "model/model.safetensors")]
    assert (tmp_path / "run/02_train.ipynb").exists()


KILLED = """
import sys
from exiflang.training.__main__ import read_parameters
from exiflang.training.recipe import Recipe, launch
from pathlib import Path
launch(Recipe.of(**read_parameters(Path(sys.argv[1]))), 2)
"""


def test_two_killed_processes_go_on_inside_the_epoch(tmp_path):
    """To the same weights as two that nobody killed."""
    data, changes = tmp_path / "photos", {"steps": 20, "batch_size": 2, "checkpoint_minutes": 0.0, "ema": 0.5}
    prepare("simulated", data, photos_per_camera=5, unseen_makes=8, splices=0, authentic=0, workers=1)
    made = recipe(data, tmp_path / "killed", **changes)
    epoch = len(made.dataset()) // (2 * 2)
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(made.flat()))
    command = [sys.executable, "-c", KILLED, str(config)]
    process = subprocess.Popen(command, cwd=project_path("."), start_new_session=True)
    log, deadline = tmp_path / "killed/log.jsonl", time.monotonic() + 600
    while not (log.exists() and log.read_bytes().count(b"\n") >= 3):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = json.loads((tmp_path / "killed/checkpoint/progress.json").read_text())
    assert done["step"] < 20 and 0 < done["batch"] < epoch

    resumed, whole = launch(made, 2), launch(recipe(data, tmp_path / "whole", **changes), 2)
    assert [row["loss"] for row in resumed] == [row["loss"] for row in whole]
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("killed", "whole")]
    assert weights[0] == weights[1]


def test_two_processes_train_one_model(data, tmp_path):
    """As one process with twice the batch does, but for batch norm and the order of the photos."""
    made = recipe(data, tmp_path / "model", validate_every=3, ema=0.5)
    log = launch(made, 2)
    assert [row["step"] for row in log] == [1, 2, 3] and "validation" in log[-1]
    assert log[0]["loss"] == pytest.approx(math.log(8), rel=0.5)  # all eight pairs are told apart
    assert ExifLang.from_pretrained(str(tmp_path / "model")).tokenizer is not None
    assert not (tmp_path / "model" / "checkpoint").exists()
    assert launch(made, 2) == log  # finished


def test_processes_that_fail_say_why(data, tmp_path):
    with pytest.raises(LaunchError, match="less than one batch of 4000 pairs"):
        launch(recipe(data, tmp_path / "model", batch_size=4000), 2)


def test_the_command_line_trains_and_refuses(data, tmp_path, capsys):
    config = tmp_path / "run.yaml"
    parameters = {**TINY, "data_dir": str(data), "model_dir": str(tmp_path / "model")}
    config.write_text(yaml.safe_dump({"shared": {"seed": 1}, "02_train": parameters}))
    command = [sys.executable, "-m", "exiflang.training", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=project_path("."))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "model" / "model.safetensors").exists()
    for text, message in (
        ("steps: -1", "steps is -1"),
        ("stepz: 1", "no parameter 'stepz'; did you mean steps?"),
        ("- 1", "not a YAML mapping"),
        ("{", "not valid YAML"),
    ):
        config.write_text(text)
        assert main(["--config", str(config)]) == 1
        assert message in capsys.readouterr().err
    assert main(["--config", str(tmp_path / "none.yaml")]) == 1
    assert "none.yaml" in capsys.readouterr().err
