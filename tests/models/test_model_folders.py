import json
import os
import socket

import pytest
import torch
from transformers import (
    AlbertConfig,
    AlbertModel,
    DistilBertConfig,
    DistilBertModel,
    ResNetConfig,
    ResNetModel,
    RobertaConfig,
    RobertaModel,
)

from exiflang.exif.text import SENTENCE_VERSION
from exiflang.models.config import ExifLangConfig
from exiflang.models.model import ExifLang
from exiflang.models.tokenizer import train_tokenizer
from exiflang.models.weights import load_model
from tests.models.test_model import SENTENCES, patches, tiny


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(SENTENCES, vocab_size=320)


@pytest.fixture(scope="module")
def model(tokenizer) -> ExifLang:
    return tiny(tokenizer)


def lasting(tokenizer) -> dict:
    """The state of a tokenizer except the padding and truncation of its last call."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    return {key: value for key, value in state.items() if key not in ("padding", "truncation")}


def test_a_round_trip_changes_nothing(model, tmp_path, capfd):
    model.save_pretrained(tmp_path)
    assert "shards" not in capfd.readouterr().err
    loaded = ExifLang.from_pretrained(str(tmp_path))
    assert not any(part.training for part in loaded.modules())
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())
    assert lasting(loaded.tokenizer) == lasting(model.tokenizer)
    strange = [*SENTENCES, "", "Make: [PAD]日本", "Make: x, " * 900]
    # Equal weights at other addresses may use a different kernel: results are equal up to rounding.
    torch.testing.assert_close(loaded.encode_image(patches(2, 32)), model.encode_image(patches(2, 32)))
    torch.testing.assert_close(loaded.encode_exif(strange), model.encode_exif(strange))
    again = tmp_path / "again"
    loaded.save_pretrained(again)
    assert lasting(ExifLang.from_pretrained(again).tokenizer) == lasting(model.tokenizer)
    for name in ("config.json", "model.safetensors"):
        assert (again / name).read_bytes() == (tmp_path / name).read_bytes()


def test_a_folder_may_have_a_name_that_is_not_utf_8(model, tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9") / "model"
    model.save_pretrained(folder)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in folder.iterdir()}
    loaded = load_model(str(folder))
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())
    assert lasting(loaded.tokenizer) == lasting(model.tokenizer) and loaded.name_or_path == str(folder)
    with pytest.raises(OSError, match="no model found"):
        load_model(str(folder.parent))


def test_weights_for_another_sentence_version_are_refused(model, tmp_path):
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["sentence_version"] == SENTENCE_VERSION
    (tmp_path / "config.json").write_text(json.dumps(config | {"sentence_version": SENTENCE_VERSION + 1}))
    with pytest.raises(ValueError, match=rf"version {SENTENCE_VERSION + 1}; this package writes version"):
        ExifLang.from_pretrained(tmp_path)


def test_missing_weights_are_not_replaced_by_random_ones(model, tmp_path):
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["n_layers"] = 2
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"missing or unexpected: .*text_tower\.transformer\.layer\.1"):
        ExifLang.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"patch_syze": 1}))
    with pytest.raises(ValueError, match="patch_syze"):
        ExifLang.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["missing", "deep/er/missing", "."])
def test_a_missing_folder_is_reported_without_using_the_network(tmp_path, monkeypatch, name):
    def refuse(*_):
        raise AssertionError("asked the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    path = str(tmp_path / name)
    with pytest.raises(OSError, match="no model found: give a folder with config.json") as error:
        ExifLang.from_pretrained(path)
    assert path in str(error.value)


IMAGE = ResNetConfig(embedding_size=8, hidden_sizes=[8, 24], depths=[1, 1], layer_type="basic")
SMALL_BERT = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
TEXTS = {
    "distilbert": (DistilBertModel, DistilBertConfig(dim=32, n_layers=1, n_heads=2, hidden_dim=64, vocab_size=320)),
    "albert": (AlbertModel, AlbertConfig(embedding_size=16, vocab_size=320, **SMALL_BERT)),
    "roberta": (RobertaModel, RobertaConfig(max_position_embeddings=130, vocab_size=320, **SMALL_BERT)),
}


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("image")
    ResNetModel(IMAGE).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("name", TEXTS)
def test_pretrained_towers(tokenizer, image_folder, tmp_path, name):
    kind, config = TEXTS[name]
    text = kind(config)
    text.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    preset = ExifLangConfig.preset("paper", embed_dim=16)
    model = ExifLang.from_towers(preset, image_folder, str(tmp_path))
    assert not model.training and model.config.patch_size == 124
    assert model.image_projection.weight.shape == (16, 24) and model.text_projection.weight.shape == (16, 32)
    for ours, theirs in ((model.text_tower, text), (model.image_tower, ResNetModel.from_pretrained(image_folder))):
        assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in ours.state_dict().items())
    limit = {"roberta": 128}.get(name, 512)  # RoBERTa's first two positions are taken by the padding id
    assert model.tokenize(["Make: X, " * 400])["input_ids"].shape == (1, limit)
    sentences = ["Make: X, " * 400, "Make: Canon", "Make: Canon, Model: Canon EOS 40D"]
    embedding = model.encode_exif(sentences)
    torch.testing.assert_close(model.encode_exif(sentences[1:2]), embedding[1:2], atol=1e-5, rtol=1e-4)
    saved = tmp_path / "joint"
    model.save_pretrained(saved)
    assert str(tmp_path) not in (saved / "config.json").read_text()
    loaded = ExifLang.from_pretrained(saved)
    torch.testing.assert_close(loaded.encode_exif(sentences), embedding)
    torch.testing.assert_close(loaded.encode_image(patches(2, 48)), model.encode_image(patches(2, 48)))


@pytest.mark.parametrize("pretrained", ["image", "text", "neither"])
def test_random_towers_are_created_on_request(tokenizer, image_folder, tmp_path, pretrained):
    text = DistilBertModel(TEXTS["distilbert"][1])
    text.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    config = ExifLangConfig.preset("paper", embed_dim=16)
    sizes = {"image_config": IMAGE.to_diff_dict() | {"depths": [1, 2]}, "text_config": TEXTS["distilbert"][1].to_dict()}
    config.update(sizes | {"text_config": sizes["text_config"] | {"n_layers": 2}})
    given = {"image": image_folder, "text": str(tmp_path)}
    names = {side: folder if side == pretrained else "random" for side, folder in given.items()}
    model = ExifLang.from_towers(config, names["image"], names["text"], tokenizer)
    assert not model.training and model.tokenizer is not None
    assert len(model.image_tower.encoder.stages[1].layers) == (1 if pretrained == "image" else 2)
    assert len(model.text_tower.transformer.layer) == (1 if pretrained == "text" else 2)
    theirs = {"image": ResNetModel.from_pretrained(image_folder), "text": text, "neither": torch.nn.Identity()}
    ours = model.towers.get(pretrained, torch.nn.Identity()).state_dict()
    assert all(torch.equal(value, ours[key]) for key, value in theirs[pretrained].state_dict().items())
    assert model.encode_exif(SENTENCES).shape == model.encode_image(patches(3, 48)).shape == (3, 16)


@pytest.mark.parametrize("nothing", ["", None])
def test_towers_are_never_random_by_default(nothing):
    config = ExifLangConfig.preset("tiny")
    with pytest.raises(ValueError, match=f"image_tower is {nothing!r}: give a folder or hub id .* or 'random'"):
        ExifLang.from_towers(config, nothing, "random")
    with pytest.raises(ValueError, match=f"text_tower is {nothing!r}"):
        ExifLang.from_towers(config, "random", nothing)


def test_swapped_or_missing_towers_are_refused(tokenizer, image_folder, tmp_path):
    DistilBertModel(TEXTS["distilbert"][1]).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="distilbert cannot be the image tower: .* no hidden_sizes"):
        ExifLang.from_towers(ExifLangConfig.preset("tiny"), str(tmp_path), str(tmp_path))
    with pytest.raises(OSError, match="absent"):
        ExifLang.from_towers(ExifLangConfig.preset("tiny"), image_folder, str(tmp_path / "absent"))
