"""The packaged weights are found from any folder, in a checkout and from a wheel; without them the error says so."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from exiflang import packaged
from exiflang.clustering import READOUTS
from exiflang.exif_tags import is_private
from exiflang.localize import SpliceLocalizer
from exiflang.model import ExifLang
from exiflang.model_config import ExifLangConfig
from exiflang.packaged import packaged_model
from exiflang.parameters import ROOT, project_path
from exiflang.population import Population
from exiflang.release import FILES, MOST_BYTES
from exiflang.tokenizer import train_tokenizer

torch.set_num_threads(1)

CALIBRATION = {"diffused_cut": {"cells": [-0.5, 0.0], "scores": [0.01, 0.02], "pictures": 3}}
LOAD = """
import numpy as np
import exiflang
from exiflang.localize import SpliceLocalizer
localizer = SpliceLocalizer(windows_per_side=6)
result = localizer(np.random.default_rng(0).integers(0, 256, (80, 100, 3), dtype=np.uint8))
text = localizer.model.encode_exif(["Make: Canon"])
print(exiflang.__file__, localizer.model.config.name_or_path)
print(result.heatmap.shape, result.heatmap.max() < 1, text.shape)
"""


def save_tiny(folder: Path) -> None:
    torch.manual_seed(0)
    tokenizer = train_tokenizer(["Make: Canon, Model: Canon EOS 40D"], vocab_size=300)
    config = ExifLangConfig.preset("tiny", calibration=CALIBRATION)
    config.text_config = config.text_config | {"vocab_size": len(tokenizer)}
    ExifLang(config, tokenizer).save_pretrained(str(folder))


@pytest.fixture
def places(tmp_path, monkeypatch) -> list[Path]:
    """The two places where weights are looked for, empty."""
    folders = [tmp_path / "wheel", tmp_path / "checkout"]
    monkeypatch.setattr(packaged, "_PLACES", folders)
    return folders


def test_without_weights_the_error_names_the_places_and_what_to_do(places):
    for ask in (packaged_model, SpliceLocalizer):
        with pytest.raises(FileNotFoundError, match="install a release .* python -m exiflang.release") as error:
            ask()
        assert all(str(place) in str(error.value) for place in places)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_half_a_folder_is_none(places, name):
    save_tiny(places[0])
    (places[0] / name).unlink()
    with pytest.raises(FileNotFoundError):
        packaged_model()


def test_a_setting_out_of_its_range_is_refused_before_weights_are_sought(places):
    with pytest.raises(ValueError, match="unknown readout"):
        SpliceLocalizer(readout="far_frends")


@pytest.mark.parametrize("place", [0, 1])
def test_no_model_means_the_packaged_one_from_any_folder(places, place, tmp_path, monkeypatch):
    save_tiny(places[place])
    monkeypatch.chdir(tmp_path)
    localizer = SpliceLocalizer(windows_per_side=6)
    assert packaged_model() == places[place] and localizer.calibration == CALIBRATION
    result = localizer(np.random.default_rng(0).integers(0, 256, (80, 100, 3), dtype=np.uint8))
    assert 0 <= result.heatmap.min() and result.heatmap.max() < 1 and 0 < result.score < 1


def test_places_do_not_depend_on_the_working_folder():
    assert all(place.is_absolute() for place in packaged._PLACES)
    assert packaged._PLACES[1] == ROOT / "data/models/exiflang-base"


def build_wheel(source: Path, out: Path) -> Path:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*command, "-w", str(out), str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = out.glob("*.whl")
    return wheel


def copy_tree(folder: Path) -> Path:
    """What a wheel is built from, without weights."""
    folder.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(project_path(name), folder)
    shutil.copytree(project_path("exiflang"), folder / "exiflang", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def test_an_unpacked_wheel_localizes_with_its_own_weights(tmp_path):
    tree = copy_tree(tmp_path / "tree")
    save_tiny(tree / "data/models/exiflang-base")
    (tree / "data/models/exiflang-base/README.md").write_text("a card")
    (tree / "data/models/exiflang-base/photo.jpg").write_text("no part of the model")
    site = tmp_path / "site"
    with zipfile.ZipFile(build_wheel(tree, tmp_path / "out")) as wheel:
        wheel.extractall(site)
    packed = {path.name for path in (site / "exiflang/base_weights").iterdir()}
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= packed <= FILES
    assert not list(site.rglob("data")) and not list(site.rglob("tests"))
    assert (site / "exiflang/templates/report.html.j2").is_file()

    shutil.rmtree(tree)
    environment = os.environ | {"PYTHONPATH": str(site)}
    command = [sys.executable, "-W", "error", "-c", LOAD]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    weights = site / "exiflang/base_weights"
    assert done.stdout.split()[:2] == [str(site / "exiflang/__init__.py"), str(weights)]
    assert "(80, 100) True torch.Size([1, 32])" in done.stdout


def test_an_editable_install_takes_the_checkouts_weights(tmp_path):
    tree, hooks = copy_tree(tmp_path / "tree"), tmp_path / "hooks"
    save_tiny(tree / "data/models/exiflang-base")
    hooks.mkdir()
    build = "import sys, setuptools.build_meta as build; build.build_editable(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(hooks)], cwd=tree, check=True, capture_output=True)
    with zipfile.ZipFile(next(hooks.glob("*.whl"))) as wheel:
        wheel.extractall(hooks)
    (start,) = hooks.glob("*.pth")
    command = [sys.executable, "-W", "error", "-c", f"{start.read_text().strip()}\n{LOAD}"]
    # the hook comes last: the environment's own must not answer first
    command[-1] = (
        f"import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'Editable' not in str(f)]\n{command[-1]}"
    )
    environment = os.environ | {"PYTHONPATH": str(hooks)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = [str(tree / "exiflang/__init__.py"), str(tree / "data/models/exiflang-base")]
    assert done.stdout.split()[:2] == expected


# The weights themselves


@pytest.fixture(scope="module")
def base() -> Path:
    folder = project_path("data/models/exiflang-base")
    if not (folder / "model.safetensors").exists():
        pytest.skip(f"needs the packaged weights, {folder}: python -m exiflang.release makes them")
    return folder


def test_the_packaged_folder_is_small_and_complete(base):
    files = list(base.iterdir())
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in files} <= FILES
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES


def test_the_packaged_files_tell_nothing_of_where_they_were_made(base):
    for path in (base / "README.md", base / "config.json", base / "tokenizer_config.json"):
        text = path.read_text(encoding="utf-8")
        assert not any(word in text for word in ("/work", "/home", "/root", "/tmp", "GPS", "SerialNumber"))


def test_the_packaged_population_holds_no_sentence_and_nothing_private(base):
    population = Population.load(base)
    assert len(population.text) > 1000 and {"familiar", "unfamiliar"} == population.ranks.keys() and population.figures
    assert not [tag for tag in population.values if is_private(tag) or "Date" in tag]
    data = (base / "population.safetensors").read_bytes()
    assert b"Make: " not in data and b"GPS" not in data


def test_the_packaged_model_is_calibrated_and_answers(base, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    localizer = SpliceLocalizer()
    model = localizer.model
    assert localizer.calibration.keys() == READOUTS.keys()
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert json.loads((base / "config.json").read_text())["sentence_version"] == model.config.sentence_version
    result = localizer(np.random.default_rng(0).integers(0, 256, (256, 384, 3), dtype=np.uint8))
    assert 0 <= result.heatmap.min() and result.heatmap.max() < 1 and 0 < result.score < 1
    own, other = model.encode_exif(["Make: Canon, Model: Canon EOS 40D", "Make: NIKON, Model: D90"])
    assert own @ other < 0.99
