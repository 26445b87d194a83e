"""Figures of the metadata check: perfect and useless models get what they deserve."""

import json

import numpy as np
import pytest
from test_model import SENTENCES, tiny
from test_population import photos, unit

from exiflang import exif_figures
from exiflang.exif_figures import all_figures, majority, markdown, measure
from exiflang.parameters import project_path
from exiflang.population import build_population, calibrate_ranks
from exiflang.tables import MEASURED
from exiflang.tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def model():
    return tiny(train_tokenizer(SENTENCES, vocab_size=320))


@pytest.fixture(scope="module")
def population(model):
    return build_population(model, photos(60))


@pytest.fixture
def pixels(monkeypatch):
    """Photos whose image embeddings are given by the test, patches by those of noise."""

    def of(image: np.ndarray, text: np.ndarray):
        monkeypatch.setattr(exif_figures, "embed_photos", lambda *given: (image, text))
        monkeypatch.setattr(exif_figures, "_window_auc", lambda *given: 0.5)

    return of


def test_images_that_are_their_sentences_are_told_perfectly(model, population, pixels):
    pixels(population.text, population.text)
    own = sorted(photos(60), key=lambda photo: (photo.tags["Make"], photo.id))  # as the population is sorted
    found = measure(model, calibrate_ranks(population, population.text, population.text), own)
    assert found["auc"] > 0.95 and found["tag_beats"] > 0.95
    assert found["false_alarms"] == 0  # all share the highest rank


def test_images_of_nothing_are_at_chance(model, population, pixels):
    pixels(unit(60, 32, seed=9), population.text)
    found = measure(model, population, photos(60))
    assert found["auc"] == pytest.approx(0.5, abs=0.1)
    assert np.isnan(found["false_alarms"]) and np.isnan(found["noticed"])
    assert 0 <= found["Make first"] <= 0.7 and np.isnan(found["Flash first"])


def test_windows_of_real_patches(model, population, monkeypatch):
    import torch

    monkeypatch.setattr(exif_figures, "decode_patch", lambda photo, size, rng: torch.full((3, size, size), 7).byte())
    same = exif_figures._window_auc(model, population, photos(6), population.text[:6], [3, 4, 5, 0, 1, 2], 0)
    assert same == 0.5  # all patches are alike


def test_majority_is_of_the_population_and_counts_common_values_alone(population):
    assert majority(population, photos(60), "Make") == pytest.approx(1 / 3)
    assert np.isnan(majority(population, photos(60), "Flash"))


def test_all_figures_and_their_table(model, population, pixels):
    pixels(population.text[:12], population.text[:12])
    figures = all_figures({"model": (model, population), "untrained": (model, population)}, {"seen": photos(12)})
    table = markdown(figures)
    assert "12 photos of 12 seen" in table and "| model | untrained | a guess |" in table
    assert table.count("\n") == 1 + len(MEASURED)
    assert json.loads(json.dumps(figures))["groups"]["seen"]["photos"] == 12


def test_the_golden_file_the_readme_and_the_weights_agree():
    golden = json.loads(project_path("reports/golden/exif.json").read_text())
    assert markdown(golden) in project_path("README.md").read_text()
    folder = project_path("data/models/exiflang-base")
    figures = exif_figures.Population.load(folder).figures
    assert figures["groups"] == golden["groups"] and figures["protocol"] == golden["protocol"]
    seen, other = golden["groups"].values()
    assert seen["model"]["auc"] > 0.9 and other["model"]["auc"] > 0.6
    assert all(abs(seen[control]["auc"] - 0.5) < 0.05 for control in ("shuffled EXIF", "untrained"))
