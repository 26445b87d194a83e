"""What makes training faster or smaller changes nothing but rounding."""

import json
import shutil

import pytest
import torch
from safetensors import safe_open

from exiflang.models.config import ExifLangConfig
from exiflang.models.model import ExifLang
from exiflang.models.tokenizer import length_buckets
from exiflang.training.loop import train
from exiflang.training.run_folder import TrainingError
from tests.training.test_loop import CAMERAS, Photos, photo, same_weights, settings, small_model


class Many(Photos):
    """As many sentences as photos, of many lengths."""

    def __getitem__(self, index):
        patch, sentence = photo(index, self.epoch)
        return patch, sentence + ", Lens: Canon" * (index % 7) + f", Number: {index}"


def plain_model() -> ExifLang:
    """Without dropout, whose random numbers fall on other tokens."""
    model = small_model()
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    return model


def assert_same_run(found: tuple[list[dict], ExifLang], expected: tuple[list[dict], ExifLang]) -> None:
    (log, model), (plain_log, plain) = found, expected
    for key in ("loss", "grad_norm", "logit_scale"):
        assert [row[key] for row in log] == pytest.approx([row[key] for row in plain_log], rel=1e-3)
    torch.testing.assert_close(model.state_dict(), plain.state_dict(), rtol=1e-3, atol=1e-4)


def run(folder, **changes) -> tuple[list[dict], ExifLang]:
    model = plain_model()
    return train(model, Many(80), settings(steps=4, batch_size=40, **changes), folder), model


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> tuple[list[dict], ExifLang]:
    """The plain run."""
    return run(tmp_path_factory.mktemp("plain"), fast=False)


def test_fast_is_the_same_run(tmp_path, expected):
    assert_same_run(run(tmp_path), expected)


@pytest.mark.parametrize("fast", [True, False])
def test_one_switch_turns_all_of_it_off(tmp_path, monkeypatch, fast):
    buckets, fused = [], []

    class Optimizer(torch.optim.AdamW):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            fused.append(self.defaults["fused"])

    def spy(mask):
        buckets.append(length_buckets(mask))
        return buckets[-1]

    monkeypatch.setattr(torch.optim, "AdamW", Optimizer)
    monkeypatch.setattr("exiflang.models.model.length_buckets", spy)
    run(tmp_path, fast=fast)
    assert fused == [fast] and [len(found) for found in buckets] == ([2] * 4 if fast else [])


def test_a_folder_from_before_there_was_a_choice_is_gone_on_with(tmp_path):
    log, _ = run(tmp_path)
    assert "fast" not in json.loads((tmp_path / "train_config.json").read_text())["train"]
    assert run(tmp_path)[0] == log
    with pytest.raises(TrainingError, match="different settings"):
        run(tmp_path, fast=False)


@pytest.mark.parametrize("chunk_size", [0, 25])
def test_gradient_checkpointing_is_the_same_run(tmp_path, chunk_size):
    kept = run(tmp_path / "kept", chunk_size=chunk_size)
    again = run(tmp_path / "again", chunk_size=chunk_size, gradient_checkpointing=True)
    assert_same_run(again, kept)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # torch's own
def test_compiled_towers_are_the_same_run_and_leave_no_trace_in_files(tmp_path):
    """With dropout, whose random numbers are the same too, and with averaged weights that are validated."""
    image = ExifLangConfig.preset("tiny").image_config | {"hidden_sizes": [8], "depths": [1]}  # compiled in less time
    config = {"steps": 2, "ema": 0.5, "validate_every": 2}
    runs = {}
    for compiled in (True, False):
        folder, model = tmp_path / str(compiled), small_model(image_config=image)

        def validate(averaged: ExifLang, folder=folder) -> float:
            with safe_open(folder / "checkpoint" / "model.safetensors", "pt") as file:
                assert set(file.keys()) == set(averaged.state_dict())
            return averaged.encode_exif(CAMERAS)[:, 0].sum().item()

        runs[compiled] = train(model, Photos(), settings(**config, compile=compiled), folder, validate=validate), model
        assert same_weights(ExifLang.from_pretrained(folder), model)
    assert_same_run(runs[True], runs[False])
    assert runs[True][0][-1]["validation"] == pytest.approx(runs[False][0][-1]["validation"], abs=1e-4)


def test_compiled_checkpointing_is_refused():
    with pytest.raises(ValueError, match="choose one of them"):
        settings(compile=True, gradient_checkpointing=True)
