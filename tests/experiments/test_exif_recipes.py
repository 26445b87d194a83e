"""Trainings compared by EXIF of unseen cameras: what the rows change, their second loss, and a run from end to end."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from exiflang.data.shards import find_shards, read_photos
from exiflang.exif.text import exif_to_text
from exiflang.inspection.tag_space import TagVector
from exiflang.models.tokenizer import train_tokenizer
from exiflang.pipeline.parameters import PipelineError
from exiflang.preparation.dataset import prepare
from exiflang.preparation.options import grouped
from exiflang.utils.files import read_json
from experiments import exif_recipes as module
from experiments.exif_recipes import ROWS, Row, TagHeads, TagTower, add_signature, drop_names, gather, markdown, run
from tests.models.test_model import patches, tiny

TAGS = [{"Make": "Canon", "FNumber": "4"}, {"Make": "NIKON", "FNumber": "2.8"}, {"Make": "Canon", "FNumber": "8"}]
VALUES = {"Make": ["Canon", "NIKON"], "FNumber": ["4"]}
SENTENCES = [exif_to_text(tags) for tags in TAGS]


def grown(kind):
    """A tiny model with what `kind` adds to it."""
    model = tiny(train_tokenizer(SENTENCES, 60))
    model.__class__ = kind
    model.learn(TagVector.of(VALUES, TAGS), TAGS)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("photos") / "data"
    options = {"photos_per_camera": 4, "unseen_makes": 9, "splices": 0, "authentic": 0, "workers": 1}
    prepare("simulated", place, **grouped(options | {"heldout_share": 0.5, "choose_share": 0.3, "report_share": 0.2}))
    return place


@pytest.fixture
def small(folder, tmp_path, monkeypatch):
    """Runs of two steps on that data, in a folder of their own."""
    changes = {"preset": "tiny", "steps": 2, "batch_size": 4, "crop_sizes": [32], "mixed_precision": "no"}
    monkeypatch.setattr(module, "SCALE", module.SCALE | changes)
    monkeypatch.setattr(module, "CROPS", 1)
    monkeypatch.setattr(module, "FOLDERS", {"real": str(folder)})
    monkeypatch.setattr(Row, "folder", lambda row, seed: tmp_path / f"{ROWS.index(row)}-{seed}")
    values = {"Make": ["Fennimar"], "Flash": ["Flash fired"]}
    monkeypatch.setattr(module, "common_values", lambda: values)


def test_names_leave_every_second_sentence(small):
    dataset = ROWS[0].recipe(0).dataset()
    before = list(dataset.sentences)
    drop_names(dataset)
    named = ["Make: " in sentence or "Model: " in sentence for sentence in dataset.sentences]
    assert not any(named[::2]) and all(named[1::2]) and dataset.sentences[1::2] == before[1::2]
    assert all(
        sentence.split(", ")[-1] == old.split(", ")[-1] for sentence, old in zip(dataset.sentences, before, strict=True)
    )


def test_a_header_becomes_one_word(small):
    dataset = ROWS[0].recipe(0).dataset()
    before = list(dataset.sentences)
    add_signature(dataset)
    for sentence, old in zip(dataset.sentences, before, strict=True):
        assert sentence.startswith(old + ", JPEG: ") and "," not in sentence[len(old) + 2 :]


def test_heads_add_the_gradient_of_their_loss():
    model, views = grown(TagHeads), patches(6, 32)
    tokens = model.tokenize([f"Photo: {i}, {sentence}" for i, sentence in zip((2, 0, 1), SENTENCES, strict=True)])
    assert tokens["photo"].tolist() == [2, 0, 1]
    image, _ = model(views, **tokens)
    image.square().sum().backward()
    found = [p.grad.clone() for p in (model.heads.weight, model.image_projection.weight)]
    model.zero_grad()
    image, _ = model(views, **model.tokenize(SENTENCES))
    wanted = model.targets[[2, 2, 0, 0, 1, 1]]
    second = F.mse_loss(model.heads(image * model.config.embed_dim**0.5), wanted)
    (image.square().sum() + second).backward()
    for gradient, parameter in zip(found, (model.heads.weight, model.image_projection.weight), strict=True):
        torch.testing.assert_close(gradient, parameter.grad)


def test_numbers_of_photos_change_no_embedding():
    model = grown(TagHeads)
    numbered = model.encode_exif([f"Photo: {i}, {sentence}" for i, sentence in enumerate(SENTENCES)])
    torch.testing.assert_close(numbered, model.encode_exif(TAGS))


def test_a_tag_tower_reads_tags_in_any_order():
    model = grown(TagTower)
    found = model.encode_exif([*SENTENCES, "FNumber: 4, Make: Canon", ""])
    assert found.shape == (5, model.config.embed_dim)
    torch.testing.assert_close(found[3], found[0])
    torch.testing.assert_close(found.norm(dim=1), torch.ones(5))
    assert not torch.allclose(found[0], found[2])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_each_row_runs_once(small, row, monkeypatch):
    run(row, 0)
    found = read_json(row.folder(0) / "metrics.json")
    assert set(found["metrics"]) == {f"{g}/{way} space" for g in ("seen", "choose", "report") for way in ("own", "tag")}
    assert all(0 <= value <= 1 for value in found["metrics"].values())
    monkeypatch.setattr(module, "trained", None)  # not called again
    run(row, 0)
    table = markdown(gather())
    assert f"| {row.name} | 1 |" in table and "2 steps of 4 photos" in table


def test_without_a_finished_run_there_is_no_table(small):
    with pytest.raises(PipelineError, match="no run has finished"):
        gather()


def test_the_mean_over_seeds_is_shown(small, monkeypatch):
    for seed, value in enumerate((0.5, 0.75)):
        metrics = {f"{g}/{way} space": value for g in ("seen", "choose", "report") for way in ("own", "tag")}
        ROWS[0].folder(seed).mkdir()
        module.write_json(ROWS[0].folder(seed) / "metrics.json", {"metrics": metrics, "settings": {}, "hardware": "x"})
    assert "| 2 | 0.62 ± 0.18 |" in markdown(gather()) and np.isclose(np.std([0.5, 0.75], ddof=1), 0.1768, atol=1e-4)


def test_the_data_has_cameras_of_all_groups(folder):
    for group in ("heldout", "choose", "report"):
        assert len(read_photos(find_shards(folder / group))[0]) > 1
