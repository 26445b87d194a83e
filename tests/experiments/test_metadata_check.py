"""Results of the metadata check: perfect models score perfectly, and useless ones at chance."""

import json

import numpy as np
import pytest

from exiflang.inspection.tables import MEASURED
from exiflang.inspection.text_bank import build_text_bank, calibrate_ranks
from exiflang.models.tokenizer import train_tokenizer
from exiflang.pipeline.parameters import project_path
from experiments import metadata_check as exif_figures
from experiments.metadata_check import all_figures, majority, markdown, measure
from tests.inspection.test_text_bank import photos, unit
from tests.models.test_model import SENTENCES, tiny


@pytest.fixture(scope="module")
def model():
    return tiny(train_tokenizer(SENTENCES, vocab_size=320))


@pytest.fixture(scope="module")
def text_bank(model):
    return build_text_bank(model, photos(60))


@pytest.fixture
def pixels(monkeypatch):
    """Photos whose image and text embeddings are set by the test."""

    def of(image: np.ndarray, text: np.ndarray):
        monkeypatch.setattr(exif_figures, "embed_photos", lambda *given: (image, text))
        monkeypatch.setattr(exif_figures, "_window_auc", lambda *given: 0.5)

    return of


def test_images_embedded_as_their_sentences_are_perfect(model, text_bank, pixels):
    pixels(text_bank.text, text_bank.text)
    own = sorted(photos(60), key=lambda photo: (photo.tags["Make"], photo.id))  # in the order of the text bank
    found = measure(model, calibrate_ranks(text_bank, text_bank.text, text_bank.text), own)
    assert found["auc"] > 0.95 and found["tag_beats"] > 0.95
    assert found["false_alarms"] == 0  # all share the highest rank


def test_random_images_are_at_chance(model, text_bank, pixels):
    pixels(unit(60, 32, seed=9), text_bank.text)
    found = measure(model, text_bank, photos(60))
    assert found["auc"] == pytest.approx(0.5, abs=0.1)
    assert np.isnan(found["false_alarms"]) and np.isnan(found["noticed"])
    assert 0 <= found["Make first"] <= 0.7 and np.isnan(found["Flash first"])


def test_window_auc_of_identical_patches_is_one_half(model, text_bank, monkeypatch):
    import torch

    monkeypatch.setattr(exif_figures, "decode_patch", lambda photo, size, rng: torch.full((3, size, size), 7).byte())
    same = exif_figures._window_auc(model, text_bank, photos(6), text_bank.text[:6], [3, 4, 5, 0, 1, 2], 0)
    assert same == 0.5  # all patches are alike


def test_majority_is_taken_from_the_text_bank_and_common_values(text_bank):
    assert majority(text_bank, photos(60), "Make") == pytest.approx(1 / 3)
    assert np.isnan(majority(text_bank, photos(60), "Flash"))


def test_all_results_and_their_table(model, text_bank, pixels):
    pixels(text_bank.text[:12], text_bank.text[:12])
    figures = all_figures({"model": (model, text_bank), "untrained": (model, text_bank)}, {"seen": photos(12)})
    table = markdown(figures)
    assert "12 photos of 12 seen" in table and "| model | untrained | chance |" in table
    assert table.count("\n") == 1 + len(MEASURED)
    assert json.loads(json.dumps(figures))["groups"]["seen"]["photos"] == 12


def test_the_golden_file_the_model_card_and_the_weights_agree():
    golden = json.loads(project_path("reports/golden/exif.json").read_text())
    folder = project_path("data/models/exiflang-base")
    assert markdown(golden) in (folder / "README.md").read_text(encoding="utf-8")
    figures = exif_figures.TextBank.load(folder).figures
    assert figures["groups"] == golden["groups"] and figures["protocol"] == golden["protocol"]
    seen, other = golden["groups"].values()
    assert seen["model"]["auc"] > 0.9 and other["model"]["auc"] > 0.6
    assert abs(seen["shuffled EXIF"]["auc"] - 0.5) < 0.05
    assert seen["untrained"]["auc"] < seen["model"]["auc"]  # its space is learned from true tags
