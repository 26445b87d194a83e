"""The packaged weights are found from any folder, in a checkout and from a wheel; without them the error says so."""

import io
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from exiflang.data.shards import Sample
from exiflang.exif.tags import is_private
from exiflang.inspection.text_bank import TextBank
from exiflang.localization.clustering import READOUTS
from exiflang.localization.localizer import SpliceLocalizer
from exiflang.models import weights
from exiflang.models.config import ExifLangConfig
from exiflang.models.model import ExifLang
from exiflang.models.tokenizer import train_tokenizer
from exiflang.models.weights import packaged_model
from exiflang.pipeline.parameters import project_path
from exiflang.release.packaging import FILES, MOST_BYTES
from tests.shard_writer import write_shards

CALIBRATION = {"diffused_cut": {"cells": [-0.5, 0.0], "scores": [0.01, 0.02], "pictures": 3}}
# Localizes, exports from the inspector and trains, with relative paths -> files that were opened for writing.
USE_OF_A_WHEEL = """
import io, json, os, runpy, sys

written = set()

def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], str) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        written.add(os.path.abspath(arguments[0]))
    elif event in ("os.mkdir", "os.rename"):
        written.add(os.path.abspath(os.fspath(arguments[event == "os.rename"])))

sys.addaudithook(watch)
import numpy as np
import yaml
from PIL import Image
import exiflang
from exiflang import HeatmapInspector, Inspector, SpliceLocalizer

pixels = np.random.default_rng(0).integers(0, 256, (80, 100, 3), dtype=np.uint8)
localizer = SpliceLocalizer(windows_per_side=6)
result = localizer(pixels)
Image.fromarray(pixels).save("picture.png")
panel = HeatmapInspector("picture.png", Inspector(SpliceLocalizer(windows_per_side=6)))
panel.wait()
assert panel.export("png"), panel.controls.exported.value

settings = {"preset": "tiny", "vocab_size": 300, "steps": 1, "batch_size": 4, "tracker": "none"}
with open("run.yaml", "w") as out:
    yaml.safe_dump(settings | {"data_dir": "photos", "model_dir": "models/mine"}, out)
sys.argv = ["training", "--config", "run.yaml"]
try:
    runpy.run_module("exiflang.training", run_name="__main__")
except SystemExit as end:
    assert end.code == 0
said = {
    "package": exiflang.__file__,
    "weights": localizer.model.config.name_or_path,
    "heatmap": result.heatmap.shape,
    "most": float(result.heatmap.max()),
    "written": sorted(written - {"/dev/null"}),
}
print(json.dumps(said))
"""
LOAD = """
import numpy as np
import exiflang
from exiflang import SpliceLocalizer
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
    """The two folders that are searched for weights, empty."""
    folders = [tmp_path / "wheel", tmp_path / "checkout"]
    monkeypatch.setattr(weights, "_PLACES", folders)
    return folders


def test_the_error_without_weights_lists_the_folders_and_what_to_do(places):
    for ask in (packaged_model, SpliceLocalizer):
        with pytest.raises(FileNotFoundError, match="install a release .* python -m exiflang.release") as error:
            ask()
        assert all(str(place) in str(error.value) for place in places)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_an_incomplete_folder_is_ignored(places, name):
    save_tiny(places[0])
    (places[0] / name).unlink()
    with pytest.raises(FileNotFoundError):
        packaged_model()


def test_invalid_settings_are_refused_before_weights_are_searched(places):
    with pytest.raises(ValueError, match="unknown readout"):
        SpliceLocalizer(readout="far_frends")


@pytest.mark.parametrize("place", [0, 1])
def test_the_packaged_model_is_the_default_from_any_folder(places, place, tmp_path, monkeypatch):
    save_tiny(places[place])
    monkeypatch.chdir(tmp_path)
    localizer = SpliceLocalizer(windows_per_side=6)
    assert packaged_model() == places[place] and localizer.calibration == CALIBRATION
    result = localizer(np.random.default_rng(0).integers(0, 256, (80, 100, 3), dtype=np.uint8))
    assert 0 <= result.heatmap.min() and result.heatmap.max() < 1 and 0 < result.score < 1


def test_places_do_not_depend_on_the_working_directory():
    assert all(place.is_absolute() for place in weights._PLACES)
    assert weights._PLACES[1] == project_path("data/models/exiflang-base")


@pytest.fixture(scope="module")
def base() -> Path:
    folder = project_path("data/models/exiflang-base")
    if not (folder / "model.safetensors").exists():
        pytest.skip(f"needs the packaged weights, {folder}: python -m exiflang.release makes them")
    return folder


def copy_tree(folder: Path) -> Path:
    """Copy what a wheel is built from, without weights."""
    folder.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(project_path(name), folder)
    for name in ("exiflang", "notebooks"):
        shutil.copytree(project_path(name), folder / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb*"))
    return folder


@dataclass(frozen=True)
class Installed:
    """A wheel, built from an sdist, in a venv that sees this environment's packages but not the checkout."""

    python: Path
    package: Path


def samples(number: int) -> list[Sample]:
    file = io.BytesIO()
    Image.new("RGB", (100, 80)).save(file, "JPEG")
    meta = {"exif": json.dumps({"Image Make": "Canon"}), "width": 100, "height": 80}
    return [Sample(f"{n:05d}", file.getvalue(), "jpg", meta | {"photo": str(n)}) for n in range(number)]


@pytest.fixture(scope="module")
def installed(base, tmp_path_factory) -> Installed:
    folder = tmp_path_factory.mktemp("wheel")
    tree = copy_tree(folder / "tree")
    shutil.copytree(base, tree / "data/models/exiflang-base")
    (tree / "data/models/exiflang-base/photo.jpg").write_text("no part of the model")
    build = "import sys, setuptools.build_meta as build; build.build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(folder)], cwd=tree, check=True, capture_output=True)
    shutil.rmtree(tree)
    (sdist,) = folder.glob("*.tar.gz")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    alone = ["--no-deps", "--no-index"]
    subprocess.run([*pip, "wheel", *alone, "--no-build-isolation", "-w", str(folder), str(sdist)], check=True)
    (wheel,) = folder.glob("*.whl")

    venv.create(folder / "venv", with_pip=False)
    (site,) = folder.glob("venv/lib/python*/site-packages")
    python = folder / "venv/bin/python"
    subprocess.run([*pip, "--python", str(python), "install", "--ignore-installed", *alone, str(wheel)], check=True)
    # A folder named in a .pth is searched, but its own .pth, which would find the checkout, are not read.
    (site / "environment.pth").write_text(sysconfig.get_path("purelib"))
    return Installed(python, site / "exiflang")


def test_a_wheel_contains_exactly_the_package(installed):
    def names(folder: Path) -> set[str]:
        paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
        return {str(path) for path in paths if not {"__pycache__", ".ipynb_checkpoints"} & set(path.parts)}

    found = names(installed.package)
    weights = {name for name in found if name.startswith("base_weights/")}
    notebooks = {name for name in found if name.startswith("notebooks/")}
    assert found - weights - notebooks == names(project_path("exiflang"))
    assert weights == {f"base_weights/{name}" for name in names(project_path("data/models/exiflang-base"))}
    assert {name.removeprefix("base_weights/") for name in weights} <= FILES
    assert notebooks == {f"notebooks/{name}" for name in names(project_path("notebooks"))}
    assert {"py.typed", "__init__.pyi", "viz/templates/report.html.j2"} <= found
    assert {"notebooks/sanitize.cfg", "notebooks/04_inspect.ipynb", "notebooks/params/demo.yaml"} <= found


def test_a_wheel_works_and_writes_only_into_the_working_directory(installed, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    write_shards(samples(8), work / "photos/train")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HOME": str(work), "TMPDIR": str(work), "PYTHONDONTWRITEBYTECODE": "1"}
    environment |= {"TORCHINDUCTOR_CACHE_DIR": str(work / "inductor")}  # torch creates it on import
    done = subprocess.run(
        [str(installed.python), "-c", USE_OF_A_WHEEL], cwd=work, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["package"] == str(installed.package / "__init__.py")
    assert said["weights"] == str(installed.package / "base_weights")
    assert said["heatmap"] == [80, 100] and 0 <= said["most"] < 1
    written = [Path(name) for name in said["written"]]
    assert [path for path in written if work not in path.parents] == []
    assert list((work / "reports").rglob("*.png")) and (work / "models/mine/model.safetensors").is_file()


def test_an_editable_install_uses_the_weights_of_the_checkout(tmp_path):
    tree, hooks = copy_tree(tmp_path / "tree"), tmp_path / "hooks"
    save_tiny(tree / "data/models/exiflang-base")
    hooks.mkdir()
    build = "import sys, setuptools.build_meta as build; build.build_editable(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(hooks)], cwd=tree, check=True, capture_output=True)
    with zipfile.ZipFile(next(hooks.glob("*.whl"))) as wheel:
        wheel.extractall(hooks)
    (start,) = hooks.glob("*.pth")
    command = [sys.executable, "-W", "error", "-c", f"{start.read_text().strip()}\n{LOAD}"]
    # the hook comes last, so that the environment's own does not take precedence
    command[-1] = (
        f"import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'Editable' not in str(f)]\n{command[-1]}"
    )
    environment = os.environ | {"PYTHONPATH": str(hooks)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = [str(tree / "exiflang/__init__.py"), str(tree / "data/models/exiflang-base")]
    assert done.stdout.split()[:2] == expected


# The weights themselves


def test_the_packaged_folder_is_small_and_complete(base):
    files = list(base.iterdir())
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in files} <= FILES
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES


def test_the_packaged_files_reveal_no_paths_or_private_data(base):
    for path in (base / "README.md", base / "config.json", base / "tokenizer_config.json"):
        text = path.read_text(encoding="utf-8")
        assert not any(word in text for word in ("/work", "/home", "/root", "/tmp", "GPS", "SerialNumber"))


def test_the_packaged_text_bank_holds_no_sentences_or_private_data(base):
    text_bank = TextBank.load(base)
    assert len(text_bank.text) > 1000 and {"familiar", "unfamiliar"} == text_bank.ranks.keys() and text_bank.figures
    assert not [tag for tag in text_bank.values if is_private(tag) or "Date" in tag]
    data = (base / "text_bank.safetensors").read_bytes()
    assert b"Make: " not in data and b"GPS" not in data


def test_the_packaged_model_is_calibrated_and_works(base, monkeypatch, tmp_path):
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
