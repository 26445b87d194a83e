"""From a training run to a folder for publication: float16, calibration, model card, and atomic writes."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

from exiflang.data.shards import DataError
from exiflang.inspection.text_bank import TextBank
from exiflang.localization.clustering import READOUTS
from exiflang.localization.localizer import SpliceLocalizer
from exiflang.models.config import ExifLangConfig
from exiflang.models.model import ExifLang
from exiflang.pipeline.parameters import project_path
from exiflang.release import authentic
from exiflang.release import packaging as module
from exiflang.release.__main__ import main
from exiflang.release.authentic import AuthenticPictures, middle
from exiflang.release.model_card import RunRecord, model_card, plain
from exiflang.release.packaging import FILES, ReleaseError, half_weights, release
from exiflang.training.recipe import Recipe
from exiflang.utils.locks import hold
from experiments.tables import with_table
from tests.preparation.flat import prepare

FEW = {"LARGE": (160, 128), "SMALL": (96, 64), "SIMULATED": 2, "PHOTO_MOSAICS": 1}


def jpeg(seed: int, size: tuple[int, int], model: str = "EOS 40D") -> bytes:
    small = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    tags = Image.Exif()
    tags[0x010F], tags[0x0110], tags[0x0131], tags[0x0112] = "Canon", model, "Firmware 1.0", 1
    buffer = io.BytesIO()
    Image.fromarray(small).resize(size).save(buffer, "JPEG", exif=tags)
    return buffer.getvalue()


def album(folder: Path, count: int, size: tuple[int, int]) -> Path:
    folder.mkdir(parents=True)
    for i in range(count):
        (folder / f"{i:02d}.jpg").write_bytes(jpeg(i, size, "EOS 40D" if i % 4 else "EOS 60D"))
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, Path]:
    """A finished run and the data set that it was trained on."""
    folder = tmp_path_factory.mktemp("trained")
    source = album(folder / "photos", 20, (160, 128))
    data, model = folder / "data", folder / "model"
    prepare(str(source), data, heldout_share=0.5, tile_size=64, tiles_per_photo=2, min_tags=3)
    fixed = {
        "preset": "tiny",
        "vocab_size": 300,
        "mixed_precision": "no",
        "tracker": "none",
        "processing_probability": 0.0,
    }
    Recipe.of(data_dir=str(data), model_dir=str(model), steps=3, batch_size=4, ema=0.5, **fixed).run()
    return model, data


@pytest.fixture(autouse=True)
def small(monkeypatch) -> None:
    """Few and small pictures, since these tests do not depend on their number."""
    for name, value in FEW.items():
        monkeypatch.setattr(authentic, name, value)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Three photos, the last in portrait orientation, and three unusable files."""
    folder = album(tmp_path_factory.mktemp("whole") / "whole", 2, (200, 150))
    (folder / "deeper").mkdir()
    (folder / "deeper" / "portrait.JPG").write_bytes(jpeg(9, (150, 200)))
    (folder / "broken.jpg").write_bytes(b"no photo")
    (folder / "half.jpg").write_bytes(jpeg(1, (200, 150))[:900])
    (folder / "thumbnail.jpg").write_bytes(jpeg(1, (95, 64)))
    (folder / "notes.txt").write_text("no photo, and not called one")
    return folder


@pytest.fixture(scope="module")
def released(trained, photos, tmp_path_factory) -> module.Released:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in FEW.items():
            patch.setattr(authentic, name, value)
        return release(*trained, tmp_path_factory.mktemp("out") / "exiflang-base", [photos], hardware="a | machine")


# Float16


def patches(seed: int) -> torch.Tensor:
    return torch.randint(0, 256, (8, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def with_statistics(preset: str) -> ExifLang:
    """A model whose batch norm statistics come from pictures."""
    torch.manual_seed(0)
    model = ExifLang(ExifLangConfig.preset(preset)).train()
    with torch.no_grad():
        for seed in range(20):
            model.encode_image(patches(seed))
    return model.eval()


@pytest.mark.parametrize("preset", ["tiny", "demo", "base", "padded"])
def test_float16_weights_take_half_the_bytes_and_give_the_same_embeddings(preset, tmp_path):
    model = with_statistics(preset)
    model.save_pretrained(str(tmp_path), state_dict=half_weights(model))
    whole = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    assert (tmp_path / "model.safetensors").stat().st_size < 0.52 * whole + 20_000
    loaded = ExifLang.from_pretrained(str(tmp_path))
    assert {value.dtype for value in loaded.parameters()} == {torch.float32}
    tokens = {"input_ids": torch.arange(60).reshape(4, 15), "attention_mask": torch.ones(4, 15, dtype=torch.int64)}
    with torch.inference_mode():
        torch.testing.assert_close(loaded.encode_image(patches(99)), model.encode_image(patches(99)), atol=1e-3, rtol=0)
        torch.testing.assert_close(loaded.encode_tokens(**tokens), model.encode_tokens(**tokens), atol=1e-3, rtol=0)


def test_running_statistics_beyond_float16_are_kept(tmp_path):
    model = with_statistics("tiny")
    for name, buffer in model.named_buffers():
        if "running" in name:
            buffer[:3] = torch.tensor([1e-9, 3e-6, 7e4])
    model.save_pretrained(str(tmp_path), state_dict=half_weights(model))
    loaded = dict(ExifLang.from_pretrained(str(tmp_path)).named_buffers())
    assert all(torch.equal(loaded[name], buffer) for name, buffer in model.named_buffers())


@pytest.mark.parametrize("value", [7e4, 1e-9, float("nan")])
def test_weights_that_float16_cannot_hold_stay_in_float32(value):
    model = with_statistics("tiny")
    with torch.no_grad():
        model.image_projection.weight.fill_(value)
    assert half_weights(model)["image_projection.weight"].dtype == torch.float32
    assert half_weights(model)["text_tower.embeddings.word_embeddings.weight"].dtype == torch.float16


def test_weights_are_loaded_as_float32_by_default(tmp_path):
    model = with_statistics("tiny")
    model.save_pretrained(str(tmp_path), state_dict=half_weights(model))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"dtype": "float16"}))
    assert {weight.dtype for weight in ExifLang.from_pretrained(str(tmp_path)).parameters()} == {torch.float32}
    for asked in ({"dtype": torch.float16}, {"dtype": "auto"}):
        loaded = ExifLang.from_pretrained(str(tmp_path), **asked)
        assert {weight.dtype for weight in loaded.parameters()} == {torch.float16}


# Calibration pictures


@settings(max_examples=60)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 30), st.integers(1, 30))
def test_the_middle_is_cropped_and_never_resampled(height, width, one, other):
    longer, shorter = max(one, other), min(one, other)
    picture = np.arange(height * width * 3).reshape(height, width, 3)
    cut = middle(picture, longer, shorter)
    assert sorted(cut.shape[:2]) <= sorted((longer, shorter)) and max(cut.shape[:2]) <= longer
    rows, cols = cut.shape[:2]
    assert rows == min(height, shorter if width >= height else longer) and cols <= width
    top, left = (height - rows) // 2, (width - cols) // 2
    np.testing.assert_array_equal(cut, picture[top : top + rows, left : left + cols])
    assert abs((height - rows - top) - top) <= 1 and abs((width - cols - left) - left) <= 1


def test_pictures_are_counted_by_kind_size_and_reason(photos, trained):
    pictures = AuthenticPictures([photos], trained[1] / "heldout")
    shapes = [picture.shape for picture in pictures]
    assert dict(pictures.counts) == {
        ("whole photos", "large"): 3,
        ("whole photos", "small"): 1,
        ("simulated photos", "large"): 2,
        ("simulated photos", "small"): 2,
        ("mosaics of one camera", "large"): 1,
        ("mosaics of one photo", "small"): 1,
    }
    assert sorted(name for name, _ in pictures.left_out) == [
        "whole/broken.jpg", "whole/half.jpg", "whole/thumbnail.jpg",
    ]  # fmt: skip
    assert all(reason for _, reason in pictures.left_out)
    assert len(shapes) == sum(pictures.counts.values()) and len(pictures) >= len(shapes) + len(pictures.left_out)
    assert shapes.count((128, 160, 3)) == 5 and shapes.count((160, 128, 3)) == 1  # the photo in portrait orientation
    assert shapes.count((64, 96, 3)) == 4


def test_pictures_are_reproducible(photos, trained):
    drawn = AuthenticPictures([photos], trained[1] / "heldout")
    first, again = list(drawn), list(drawn)
    for other in (again, list(AuthenticPictures([photos], trained[1] / "heldout"))):
        assert all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_too_few_tiles_give_no_mosaic(tmp_path, monkeypatch):
    monkeypatch.setattr(authentic, "SIMULATED", 1)
    fixed = {"heldout_share": 0.5, "tile_size": 64, "tiles_per_photo": 1, "min_tags": 3}
    prepare(str(album(tmp_path / "photos", 4, (160, 128))), tmp_path / "data", **fixed)
    pictures = AuthenticPictures([], tmp_path / "data" / "heldout")
    assert len(list(pictures)) == 2 and {kind for kind, _ in pictures.counts} == {"simulated photos"}


def test_the_number_of_photos_is_limited(photos, trained, monkeypatch):
    monkeypatch.setattr(authentic, "MOST_PHOTOS", 2)
    pictures = AuthenticPictures([photos, photos], trained[1] / "heldout")
    list(pictures)
    assert pictures.counts["whole photos", "large"] + len(pictures.left_out) == 2


def test_folders_without_photos_are_refused(tmp_path, trained):
    with pytest.raises(DataError, match="missing: no such folder"):
        AuthenticPictures([tmp_path / "missing"], trained[1] / "heldout")
    with pytest.raises(DataError, match="no photos in it"):
        AuthenticPictures([tmp_path], trained[1] / "heldout")
    with pytest.raises(DataError, match="no .tar shard there"):
        AuthenticPictures([], tmp_path)


def test_files_that_are_not_pictures_are_logged(photos, trained, caplog):
    (photos / "notes.txt").touch()
    AuthenticPictures([photos], trained[1] / "heldout")
    (photos / "notes.txt").unlink()
    assert "1 file skipped, not a picture by extension: notes.txt" in caplog.text


def test_real_files_that_break_decoders_are_left_out(shared, trained, monkeypatch):
    monkeypatch.setattr(authentic, "SIMULATED", 0)
    pictures = AuthenticPictures([shared / "badfiles"], trained[1] / "heldout")
    assert all(picture.dtype == np.uint8 for picture in pictures)
    assert pictures.left_out


# The released folder


def test_a_released_model_is_calibrated_and_works(released, trained):
    folder = released.folder
    assert {path.name for path in folder.iterdir()} <= FILES
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in folder.iterdir())
    assert released.size == sum(path.stat().st_size for path in folder.iterdir())
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    model = ExifLang.from_pretrained(str(folder))
    assert model.config.calibration.keys() == READOUTS.keys()
    assert {entry["pictures"] for entry in model.config.calibration.values()} == {released.pictures} == {10}
    picture = np.random.default_rng(0).integers(0, 256, (100, 130, 3), dtype=np.uint8)
    for readout in READOUTS:
        result = SpliceLocalizer(model, readout=readout)(picture)
        assert 0 <= result.heatmap.min() and result.heatmap.max() < 1 and 0 < result.score < 1
    before = ExifLang.from_pretrained(str(trained[0]))
    assert before.config.calibration is None
    sentences = ["Make: Canon, Model: EOS 40D", ""]
    torch.testing.assert_close(model.encode_exif(sentences), before.encode_exif(sentences), atol=1e-3, rtol=0)
    assert load_file(folder / "model.safetensors")["image_projection.weight"].dtype == torch.float16
    trained_on = json.loads((trained[1] / "dataset.json").read_text())["photos"]["train"]
    assert TextBank.load(folder).makes == {"Canon": trained_on}


def test_unusable_photos_are_named_and_counted(released):
    assert sorted(name for name, _ in released.left_out)[0] == "whole/broken.jpg"
    assert "3 could not be used" in (released.folder / "README.md").read_text()


def test_a_second_release_replaces_the_first_with_the_same_bytes(released, trained, photos, capsys):
    names = ("config.json", "model.safetensors", "README.md", "tokenizer.json", "text_bank.safetensors")
    before = {name: (released.folder / name).read_bytes() for name in names}
    release(*trained, released.folder, [photos], hardware="a | machine")
    assert "pictures" in capsys.readouterr().err  # the bar
    assert {name: (released.folder / name).read_bytes() for name in names} == before
    assert [path.name for path in released.folder.parent.iterdir()] == [released.folder.name]


def test_a_released_folder_is_not_released_again(released, trained, tmp_path):
    with pytest.raises(ReleaseError, match=r"train_config.json: cannot be read .* finished training run"):
        release(released.folder, trained[1], tmp_path / "out")


# Failures


@pytest.fixture
def quick(monkeypatch) -> None:
    """Skip the calibration."""
    known = {"diffusion": {"cells": [-0.5, 0.0], "scores": [0.01, 0.02], "pictures": 3}}
    monkeypatch.setattr(module, "calibrate", lambda *_: known)


def full(*_, **__):
    raise OSError(28, "No space left on device")


def kill(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize("failure, error", [(full, ReleaseError), (kill, KeyboardInterrupt)])
@pytest.mark.parametrize("place", ["tokenizer", "card", "swap"])
def test_a_failed_write_leaves_the_old_folder_intact(trained, tmp_path, monkeypatch, quick, failure, error, place):
    out = tmp_path / "exiflang-base"
    release(*trained, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with monkeypatch.context() as patch:
        if place == "tokenizer":
            patch.setattr("transformers.PreTrainedTokenizerFast.save_pretrained", failure)
        elif place == "card":
            patch.setattr(Path, "write_text", failure)
        else:
            patch.setattr(module, "swap", failure)
        with pytest.raises(error):
            release(*trained, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_a_concurrent_release_into_the_same_folder_is_refused(trained, tmp_path, quick):
    model, data = trained
    with hold(tmp_path / ".out.lock", "", ValueError):
        with pytest.raises(ReleaseError, match=r"out: another run is using it \(process"):
            release(model, data, tmp_path / "out")
        assert [path.name for path in tmp_path.iterdir()] == [".out.lock"]


def test_the_next_release_recovers_from_a_kill_between_renames(trained, tmp_path, quick):
    out = tmp_path / "exiflang-base"
    release(*trained, out)
    before = (out / "config.json").read_bytes()
    out.rename(tmp_path / "exiflang-base.old")
    (tmp_path / "exiflang-base.new").mkdir()
    release(*trained, out)
    assert (out / "config.json").read_bytes() == before and [path.name for path in tmp_path.iterdir()] == [out.name]


def test_other_files_are_never_replaced(trained, tmp_path):
    run = {path.name for path in trained[0].iterdir()}
    with pytest.raises(ReleaseError, match="holds log.jsonl, which no release writes"):
        release(*trained, trained[0])
    assert {path.name for path in trained[0].iterdir()} == run
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ReleaseError, match="is a file"):
        release(*trained, tmp_path / "file")


def test_a_folder_too_large_for_the_package_is_refused(trained, tmp_path, monkeypatch, quick):
    monkeypatch.setattr(module, "MOST_BYTES", 10_000)
    with pytest.raises(ReleaseError, match="0 MB, at most 0 MB fit"):
        release(*trained, tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name, content, match",
    [
        ("dataset.json", None, "dataset.json: cannot be read"),
        ("dataset.json", "{", "damaged JSON"),
        ("dataset.json", '{"photos": {}}', "lacks what the model card needs"),
        ("dataset.json", "[]", "lacks what the model card needs"),
    ],
)
def test_missing_facts_are_reported_before_calibrating(trained, tmp_path, monkeypatch, name, content, match):
    monkeypatch.setattr(module, "calibrate", kill)
    data = tmp_path / "data"
    data.mkdir()
    (data / "heldout").symlink_to(trained[1] / "heldout")
    if content is not None:
        (data / name).write_text(content)
    with pytest.raises(ReleaseError, match=match):
        release(trained[0], data, tmp_path / "out")


# The model card


def read_card(text: str) -> tuple[dict, str]:
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


def test_the_card_states_the_facts(released, trained):
    front, body = read_card((released.folder / "README.md").read_text(encoding="utf-8"))
    assert front["license"] == "mit" and front["library_name"] == "exiflang" and front["model_name"] == "exiflang-base"
    assert front["pipeline_tag"] == "image-segmentation" and "hf upload USER/exiflang-base data/models/" in body
    assert re.findall(r"^## (.*)$", body, re.MULTILINE) == [
        "Use", "Data", "Recipe", "Hardware and time", "Calibration", "Figures", "Metadata", "Limits", "Publish",
        "License",
    ]  # fmt: skip
    photos = json.loads((trained[1] / "dataset.json").read_text())["photos"]
    assert "Tiles of 20 photos" in body and f"| train | {photos['train']} | 2 | trained on |" in body
    assert "| steps | 3 |" in body and "| ema | 0.5 |" in body and "| batch_size" not in body  # escaped
    assert "a \\| machine. 3 steps of 4 photos at " in body
    assert "| whole photos | 3 | 1 |" in body and "10 pictures in total." in body
    assert "None have been measured" in body and "many of them carry no open license" in body
    assert str(trained[0].parent) not in body and "whole/" not in body and "/" not in front["model_name"]


ORIGIN = RunRecord(
    {"arguments": {"source": "simulated"}, "photos": {"train": 1200}, "cameras": {"train": 36}},
    {
        "train": dict.fromkeys(
            ("learning_rate", "warmup_steps", "schedule", "weight_decay", "loss", "image_weight", "ema"), 0
        )
        | {"steps": 2, "batch_size": 90, "mixed_precision": "no", "seed": 0},
        "augmentation": {"sizes": [64, 96], "processing_probability": 0.5},
        "sampler": "Bal|anced",
    },
    [
        {"pairs_per_second": 0.1, "validation": 0.7},
        {"pairs_per_second": 0.1, "validation": 0.6},
    ],
    "2 cores",
)
ORIGIN.log[0]["step"], ORIGIN.log[1]["step"] = 1, 2


def card(name: str = "mine", origin: RunRecord = ORIGIN) -> str:
    return model_card(name, ExifLangConfig.preset("tiny"), 1234567, origin, {("whole photos", "small"): 3}, 0)


@pytest.mark.parametrize(
    "name", ["a|b<script>alert(1)</script>", "*x* [y](z) `c` _d_ ~e~ $f$", "one\n# two\n---", '": {']
)
def test_names_cannot_break_the_card(name):
    origin = RunRecord(ORIGIN.dataset, ORIGIN.settings, ORIGIN.log, name)
    front, body = read_card(card(name, origin))
    assert front["model_name"] == name
    body = re.sub(r"<!-- /?golden:(base|exif) -->", "", body)
    assert "<" not in body and body.count("\n# ") == 1 and body.count("\n---") == 0
    title = re.search(r"^# (.*)$", body, re.MULTILINE)[1]
    assert title == plain(name) and not re.search(r"(?<!\\)[|*`_\[\]~$]", title)
    tables = re.findall(r"(?:^\|.*\|\n)+", body, re.MULTILINE)
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


def test_the_card_of_a_validated_run_on_simulated_photos():
    body = read_card(card())[1]
    assert "Tiles of 1,200 simulated photos" in body and "are simulated, by the package itself" in body
    assert "0.5 hours of training. These weights are those of step 1" in body and "cameras set apart: 0.700" in body
    assert "| augmentation sizes | \\[64, 96\\] |" in body and "| sampler | Bal\\|anced |" in body
    assert "| whole photos | 0 | 3 |" in body and "could not be used" not in body
    assert "Not trained" in card(origin=RunRecord(ORIGIN.dataset, ORIGIN.settings, [], "2 cores"))


def sections(body: str) -> dict[str, str]:
    return dict(part.split("\n", 1) for part in body.split("\n## ")[1:])


def test_the_packaged_card_matches_the_template():
    packaged = (project_path("data/models/exiflang-base") / "README.md").read_text(encoding="utf-8")
    made = model_card(
        "exiflang-base", ExifLangConfig.preset("tiny"), 1, ORIGIN, {("whole photos", "small"): 3}, 0, True
    )
    (front, body), (expected_front, expected_body) = read_card(packaged), read_card(made)
    assert front.pop("model-index") and front == expected_front
    found, expected = sections(body), sections(expected_body)
    assert list(found) == list(expected)
    for heading in ("Use", "Limits", "Publish"):
        assert found[heading] == expected[heading]


def test_results_are_inserted_into_the_card():
    assert card().count("None have been measured") == 2
    body = read_card(with_table(with_table(card(), "base", "| p_map |"), "exif", "| auc |"))[1]
    assert body.index("## Figures") < body.index("| p_map |") < body.index("## Metadata") < body.index("| auc |")
    assert "None have been measured" not in body


def test_the_code_in_the_card_runs(released, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("exiflang.models.weights._PLACES", [released.folder])
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)).save("suspect.jpg")
    (code,) = re.findall(r"```python\n(.*?)```", (released.folder / "README.md").read_text(), re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    assert "(96, 128)" in capsys.readouterr().out


# The command


def test_the_command_releases_a_model_or_reports_an_error(trained, photos, tmp_path, quick, capsys):
    model, data = map(str, trained)
    given = ["--model", model, "--data", data, "--out", str(tmp_path / "out"), "--photos", str(photos)]
    assert main([*given, "--hardware", "a pocket calculator"]) == 0
    assert f"{tmp_path / 'out'}: 0." in capsys.readouterr().out
    text = (tmp_path / "out" / "README.md").read_text()
    assert "a pocket calculator" in text
    assert main(["--model", str(tmp_path / "missing"), "--data", data, "--out", str(tmp_path / "new")]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "missing" in said and "Traceback" not in said
