"""The Python blocks of README and docs run as printed, one after the other, and what their commands name exists."""

import re

import numpy as np
import torch
from PIL import Image

from exiflang import ExifLang, ExifLangConfig
from exiflang.models.tokenizer import train_tokenizer
from exiflang.pipeline.parameters import declared_parameters, project_path
from exiflang.pipeline.runner import NOTEBOOKS

PAGES = [project_path("README.md"), *sorted(project_path("docs").glob("[!_]*/*.md"))]
TEXT = "\n".join(path.read_text(encoding="utf-8") for path in PAGES)
# A block after such a comment needs something that tests do not have.
NOT_RUN = re.compile(r"<!-- not run: .*? -->\n```python\n.*?```", re.DOTALL)


def test_python_blocks_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tokenizer = train_tokenizer(["Make: Canon"])
    config = ExifLangConfig.preset("tiny")
    config.text_config |= {"vocab_size": len(tokenizer)}
    ExifLang(config, tokenizer).save_pretrained("data/models/demo")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[271] = "Canon"
    for name in ("suspect.jpg", "photo.jpg"):
        picture.save(name, exif=exif)

    for folder, ending in (("4cam_auth", "tif"), ("4cam_splc", "tif"), ("4cam_splc/edgemask", "jpg")):
        (tmp_path / "benchmarks/columbia" / folder).mkdir(parents=True)
        name = "one_edgemask" if ending == "jpg" else "one"
        scene = np.zeros((192, 256, 3), np.uint8) if ending == "jpg" else np.asarray(picture.resize((256, 192))).copy()
        scene[60:120, 80:160, 1] = 255  # green: the spliced region of a mask, a patch of a picture
        Image.fromarray(scene).save(tmp_path / "benchmarks/columbia" / folder / f"{name}.{ending}")

    names = {"patches": torch.zeros(2, 3, 32, 32, dtype=torch.uint8)}
    for path in PAGES:
        for block in re.findall(r"```python\n(.*?)```", NOT_RUN.sub("", path.read_text(encoding="utf-8")), re.DOTALL):
            exec(compile(block, path.name, "exec"), names)

    assert names["tags"]["Make"] == "Canon"
    said = capsys.readouterr().out
    assert names["result"].heatmap.shape == (96, 128) and "(96, 128)" in said
    assert re.search(r"one.tif 0\.\d+\n", said) and "183 and 180 published" in said
    assert len(names["log"]) == 20 and (tmp_path / "data/models/mine/model.safetensors").exists()


def test_parameters_and_presets_named_in_commands_exist():
    known = set().union(*(declared_parameters(f"notebooks/{stem}.ipynb") for stem in NOTEBOOKS))
    given = re.findall(r" -p (\w+) ", TEXT)
    presets = re.findall(r"(?:--preset|exiflang run) (\w+)", TEXT)
    assert given and set(given) <= known | {"name"}
    assert {"demo", "base", "paper"} <= set(presets)
    assert all(project_path(f"notebooks/params/{preset}.yaml").exists() for preset in presets)


def test_named_make_targets_exist():
    targets = re.findall(r"^(\w+):", project_path("Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    named = re.findall(r"`make (\w+)", TEXT) + re.findall(r"^make (\w+)", TEXT, re.MULTILINE)
    assert named and set(named) - {"TORCH_INDEX"} <= set(targets)


def test_files_named_in_docs_and_notebooks_exist():
    notebooks = sorted(project_path("notebooks").glob("*.ipynb"))
    texts = [TEXT, *(path.read_text(encoding="utf-8") for path in notebooks)]
    named = {name for text in texts for name in re.findall(r"\b(?:exiflang|experiments|tests)/[\w/]+\.\w+", text)}
    assert named and not [name for name in sorted(named) if not project_path(name).exists()]


def test_readme_is_short():
    assert len(PAGES[0].read_text(encoding="utf-8").splitlines()) <= 150
