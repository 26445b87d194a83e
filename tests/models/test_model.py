import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AlbertModel, DistilBertModel, RobertaModel

from exiflang.exif.text import exif_to_text
from exiflang.models.config import CLIP_MEAN, CLIP_STD, ExifLangConfig
from exiflang.models.model import ExifLang
from exiflang.models.tokenizer import train_tokenizer

SENTENCES = [
    "Make: Canon, Model: Canon EOS 40D, ISOSpeedRatings: 400, Flash: No Flash",
    "Make: NIKON CORPORATION, Model: NIKON D90, ISOSpeedRatings: 200, Flash: Fired",
    "Make: Canon, Model: Canon PowerShot A620, FNumber: 4, WhiteBalance: Auto",
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(SENTENCES, vocab_size=320)


def tiny(tokenizer, **changes) -> ExifLang:
    torch.manual_seed(0)
    config = ExifLangConfig.preset("tiny", **changes)
    config.text_config = config.text_config | {"vocab_size": len(tokenizer)}
    return ExifLang(config, tokenizer).eval()


@pytest.fixture(scope="module")
def model(tokenizer) -> ExifLang:
    return tiny(tokenizer)


def patches(count: int, height: int, width: int | None = None) -> torch.Tensor:
    shape = (count, 3, height, width or height)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(height))


# Pictures


@pytest.mark.parametrize("pooling", ["mean", "mean_std"])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 2), (8, 8), (32, 32), (64, 64), (124, 124), (40, 65)])
def test_windows_of_any_size_have_unit_norm(tokenizer, pooling, size):
    embedding = tiny(tokenizer, pooling=pooling).encode_image(patches(3, *size))
    assert embedding.shape == (3, 32) and embedding.dtype == torch.float32
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(3))


@pytest.mark.parametrize("value", [0, 255])
def test_flat_pictures_have_an_embedding_and_a_gradient(tokenizer, value):
    model = tiny(tokenizer)
    embedding = model.encode_image(torch.full((2, 3, 32, 32), value, dtype=torch.uint8))
    embedding[:, 0].sum().backward()
    assert embedding.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.image_tower.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bytes_and_floats_give_the_same_embedding(model, dtype):
    picture = patches(2, 32)
    assert torch.equal(model.encode_image(picture), model.encode_image(picture.to(dtype) / 255))


def test_memory_layout_and_batch_composition_do_not_matter(model):
    picture = patches(4, 32)
    whole = model.encode_image(picture)
    torch.testing.assert_close(model.encode_image(picture.to(memory_format=torch.channels_last)), whole)
    torch.testing.assert_close(torch.cat([model.encode_image(one[None]) for one in picture]), whole)


def test_an_empty_batch_gives_an_empty_result(model):
    assert model.encode_image(torch.zeros(0, 3, 32, 32)).shape == (0, 32)
    assert model.encode_exif([]).shape == (0, 32)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (patches(1, 8).float(), "divide by 255"),
        (torch.full((1, 3, 8, 8), -0.01), "0..1"),
        (torch.full((1, 3, 8, 8), math.nan), "without NaN"),
        (torch.zeros(1, 3, 8, 8).index_fill(3, torch.tensor([5]), math.nan), "without NaN"),
        (torch.full((1, 3, 8, 8), math.inf), "0..1"),
        (torch.zeros(3, 8, 8), r"\[B, 3, H, W\], not \[3, 8, 8\]"),
        (torch.zeros(1, 8, 8, 3), r"not \[1, 8, 8, 3\]"),
        (torch.zeros(1, 1, 8, 8), r"not \[1, 1, 8, 8\]"),
        (torch.zeros(1, 3, 0, 8), r"not \[1, 3, 0, 8\]"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.int64), "uint8 or float, not torch.int64"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.bool), "not torch.bool"),
        (np.zeros((1, 3, 8, 8), np.uint8), "tensor .*not ndarray"),
    ],
)
def test_invalid_pictures_are_refused(model, bad, message):
    with pytest.raises(ValueError, match=message):
        model.encode_image(bad)


# Sentences


def test_sentences_have_unit_norm(model):
    embedding = model.encode_exif([*SENTENCES, "", "日本 🙂 \x00 \ud7ff", "x" * 10_000])
    assert embedding.shape == (6, 32) and embedding.dtype == torch.float32
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(6))


def test_tags_are_embedded_as_their_sentence(model):
    tags = {"Make": "Canon", "Model": "Canon EOS 40D", "ISOSpeedRatings": "400"}
    from_tags, from_text = model.encode_exif([tags]), model.encode_exif([exif_to_text(tags)])
    assert torch.equal(from_tags, from_text)
    assert torch.equal(model.encode_exif([{}]), model.encode_exif([""]))
    assert not torch.equal(from_tags, model.encode_exif([{}]))


@pytest.mark.parametrize("single", ["Make: Canon", {"Make": "Canon"}])
def test_a_single_sentence_must_be_wrapped_in_a_list(model, single):
    with pytest.raises(ValueError, match=r"wrap a single one in \[ \]"):
        model.encode_exif(single)


@pytest.mark.parametrize("strange", [None, 5, b"Make: Canon", ["Make: Canon"]])
def test_values_that_are_not_exif_are_refused(model, strange):
    with pytest.raises(ValueError, match=rf"not {type(strange).__name__}"):
        model.encode_exif(["Make: Canon", strange])


def test_a_long_sentence_is_truncated(model):
    long = ", ".join(f"Tag{i}: {i}" for i in range(2000))
    tokens = model.tokenize([long, "Make: Canon"])
    limit = model.text_tower.config.max_position_embeddings
    assert tokens["input_ids"].shape == tokens["attention_mask"].shape == (2, limit)
    cut = model.encode_tokens(tokens["input_ids"][:1], tokens["attention_mask"][:1])
    torch.testing.assert_close(model.encode_exif([long]), cut)


@given(st.lists(st.sampled_from(SENTENCES + ["", "Make: X", "é" * 40]), min_size=1, max_size=5))
@settings(max_examples=15)
def test_padding_does_not_change_an_embedding(model, sentences):
    with torch.no_grad():
        together = model.encode_exif(sentences)
        alone = torch.cat([model.encode_exif([sentence]) for sentence in sentences])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)


def test_the_masked_mean_equals_a_loop(model):
    tokens = model.tokenize(SENTENCES)
    hidden = model.text_tower(**tokens).last_hidden_state
    for row, (states, mask) in enumerate(zip(hidden, tokens["attention_mask"], strict=True)):
        mean = sum(state for state, kept in zip(states, mask, strict=True) if kept) / int(mask.sum())
        expected = mean / mean.norm()  # the tiny text tower is as wide as the embedding, so there is no projection
        torch.testing.assert_close(model.encode_tokens(**tokens)[row], expected, atol=1e-6, rtol=1e-5)


def test_forward_runs_both_towers(model):
    picture, tokens = patches(2, 32), model.tokenize(SENTENCES)
    image, text = model(picture, **tokens)
    assert torch.equal(image, model.encode_image(picture)) and torch.equal(text, model.encode_exif(SENTENCES))


def test_without_a_tokenizer_only_pictures_can_be_embedded(tokenizer, tmp_path):
    model = tiny(tokenizer)
    model.tokenizer = None
    with pytest.raises(ValueError, match="no tokenizer: set model.tokenizer"):
        model.encode_exif(["Make: Canon"])
    model.save_pretrained(tmp_path)
    loaded = ExifLang.from_pretrained(tmp_path)
    assert loaded.tokenizer is None
    torch.testing.assert_close(loaded.encode_image(patches(1, 32)), model.encode_image(patches(1, 32)))


def test_a_tokenizer_larger_than_the_text_tower_is_refused(tokenizer):
    config = ExifLangConfig.preset("tiny")
    config.text_config = config.text_config | {"vocab_size": len(tokenizer) - 1}
    with pytest.raises(ValueError, match=rf"has {len(tokenizer)} tokens .* vocabulary is {len(tokenizer) - 1}"):
        ExifLang(config, tokenizer).encode_exif(["Make: Canon"])


# Tokenizer


values = st.text(min_size=1, max_size=12)
sentences = st.lists(st.tuples(st.sampled_from(["Make", "Model", "Föö", "ISO"]), values), min_size=1, max_size=5).map(
    lambda pairs: ", ".join(f"{tag}: {value}" for tag, value in pairs)
)


@given(sentences)
@settings(max_examples=60)
def test_no_token_spans_two_tags(tokenizer, sentence):
    assert all(",Ġ" not in piece[:-2] for piece in tokenizer.tokenize(sentence))  # byte-level BPE prints a space as Ġ


@given(sentences)
@settings(max_examples=60)
def test_no_value_is_out_of_vocabulary(tokenizer, sentence):
    encoded = tokenizer(sentence, split_special_tokens=True)["input_ids"]
    assert encoded[0] == tokenizer.cls_token_id and all(0 <= token < len(tokenizer) for token in encoded)
    text = tokenizer.backend_tokenizer.normalizer.normalize_str(sentence)
    assert tokenizer.backend_tokenizer.decoder is None  # there is no decoder, but all bytes are there in order
    characters = "".join(tokenizer.convert_ids_to_tokens(encoded[1:]))
    assert len(characters) == len(text.encode())


def test_frequent_tags_become_one_token():
    tokenizer = train_tokenizer(SENTENCES * 5, vocab_size=600)
    pieces = ["Make:ĠCanon,Ġ", "Model:ĠCanonĠEOSĠ40D,Ġ", "ISOSpeedRatings:Ġ400,Ġ", "Flash:ĠNoĠFlash"]
    assert tokenizer.tokenize(SENTENCES[0]) == pieces


def test_special_tokens_in_exif_are_treated_as_text(model):
    tokens = model.tokenize(["Make: [PAD][CLS]"])["input_ids"][0]
    assert (tokens == model.tokenizer.pad_token_id).sum() == 0
    assert (tokens == model.tokenizer.cls_token_id).sum() == 1


def test_the_tokenizer_depends_only_on_the_sentences(tokenizer):
    first, again = (json.loads(train_tokenizer(SENTENCES, 320).backend_tokenizer.to_str()) for _ in range(2))
    assert first == again
    assert first["model"] == json.loads(tokenizer.backend_tokenizer.to_str())["model"]


def test_the_vocabulary_always_contains_all_bytes():
    assert len(train_tokenizer(["a"], vocab_size=1)) == 2 + 256


@pytest.mark.parametrize(("bad", "message"), [([], "contain no EXIF"), ("Make: Canon", "a list of sentences")])
def test_a_tokenizer_without_sentences_is_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        train_tokenizer(bad)


# Configuration


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patchsize": 32}, r"unknown configuration fields \['patchsize'\]: choose among .*patch_size"),
        ({"pooling": "max"}, "choose 'mean' or 'mean_std'"),
        ({"patch_size": "64"}, "patch_size is '64': it must be a whole number"),
        ({"embed_dim": 0}, "embed_dim is 0"),
        ({"logit_scale": 0.0}, "above 0 and at most 100"),
        ({"logit_scale": 1000.0}, "above 0 and at most 100"),
        ({"logit_scale": math.nan}, "above 0 and at most 100"),
        ({"pixel_mean": (0.5,)}, "one number per RGB channel"),
        ({"pixel_std": (1.0, 1.0, 0.0)}, "above 0"),
    ],
)
def test_a_wrong_configuration_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ExifLangConfig.preset("tiny", **changes)
    with pytest.raises(ValueError, match=message):
        ExifLangConfig(**changes)


def test_unknown_presets_and_unnamed_towers_are_refused():
    with pytest.raises(ValueError, match="unknown preset 'huge': choose one of tiny, demo, base, padded, paper"):
        ExifLangConfig.preset("huge")
    with pytest.raises(ValueError, match="image tower has no model_type"):
        ExifLang(ExifLangConfig())


def test_presets_are_not_modified_by_their_users():
    config = ExifLangConfig.preset("tiny")
    config.embed_dim = 7
    config.text_config = config.text_config | {"vocab_size": 9}
    ExifLang(config)
    assert ExifLangConfig.preset("tiny").embed_dim == 32
    assert "vocab_size" not in ExifLangConfig.preset("tiny").text_config


@pytest.mark.parametrize("name", ["tiny", "demo"])
def test_presets_add_projections_if_widths_differ(tokenizer, name):
    config = ExifLangConfig.preset(name, embed_dim=24)
    config.text_config = config.text_config | {"vocab_size": len(tokenizer)}
    model = ExifLang(config, tokenizer).eval()
    assert model.encode_exif(["Make: X"]).shape == model.encode_image(patches(1, 16)).shape == (1, 24)


@pytest.mark.parametrize(
    ("preset", "text", "parameters"),
    [  # as published, without the poolers' 768 x 768 + 768
        ("paper", DistilBertModel, 66_362_880),
        ("paper-albert", AlbertModel, 11_683_584 - 590_592),
        ("paper-roberta", RobertaModel, 124_645_632 - 590_592),
    ],
)
def test_paper_presets_have_the_published_towers(preset, text, parameters):
    with torch.device("meta"):
        model = ExifLang(ExifLangConfig.preset(preset))
    assert model.image_projection.weight.shape == (768, 2048) and model.image_projection.bias.shape == (768,)
    assert isinstance(model.text_projection, torch.nn.Identity)
    assert [len(stage.layers) for stage in model.image_tower.encoder.stages] == [3, 4, 6, 3]  # ResNet-50
    assert isinstance(model.text_tower, text) and model.text_tower.config.hidden_size == 768
    assert sum(p.numel() for p in model.text_tower.parameters()) == parameters
    assert sum(p.numel() for p in model.image_tower.parameters()) == 23_508_032  # torchvision's 25,557,032 minus fc
    config = model.config
    assert (config.patch_size, config.pooling, config.logit_scale) == (124, "mean", 100.0)
    assert tuple(config.pixel_mean) == CLIP_MEAN and tuple(config.pixel_std) == CLIP_STD
    assert not model.log_logit_scale.requires_grad


@pytest.mark.parametrize("preset", ["paper", "paper-albert", "paper-roberta"])
def test_all_parameters_of_the_papers_text_towers_have_gradients(tokenizer, preset):
    sizes = {"n_layers": 1, "dim": 24, "n_heads": 2, "hidden_dim": 8, "vocab_size": len(tokenizer)}
    if preset != "paper":
        sizes |= {"num_hidden_layers": 1, "hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 8}
    config = ExifLangConfig.preset(preset, image_config=ExifLangConfig.preset("tiny").image_config, residual_gain=1.0)
    config.text_config = config.text_config | sizes
    model = ExifLang(config, tokenizer)
    model.encode_exif(SENTENCES)[:, 0].sum().backward()
    assert all(parameter.grad is not None for parameter in model.text_tower.parameters())
    limit = {"paper-roberta": 513}.get(preset, 512)
    assert model.eval().tokenize(["Make: X, " * 400])["input_ids"].shape == (1, limit)
    together = model.encode_exif(["Make: X, " * 400, "Make: X"])
    torch.testing.assert_close(together[1:], model.encode_exif(["Make: X"]), atol=1e-5, rtol=1e-4)


def test_the_logit_scale_is_learned_or_fixed(tokenizer):
    learned, fixed = tiny(tokenizer), tiny(tokenizer, learn_logit_scale=False, logit_scale=100)
    assert learned.logit_scale.item() == pytest.approx(20) and learned.log_logit_scale.requires_grad
    assert fixed.logit_scale.item() == pytest.approx(100) and not fixed.log_logit_scale.requires_grad
    learned.log_logit_scale.data.fill_(50.0)
    assert learned.logit_scale.item() == 100


def test_the_image_tower_sees_pixels_and_their_residual(model):
    seen = {}
    hook = model.image_tower.register_forward_pre_hook(lambda _, given: seen.update(pixels=given[0]))
    picture = patches(1, 6)
    model.encode_image(picture)
    hook.remove()

    levels = (picture[0].double() / 255).numpy()
    config, padded = model.config, np.pad(levels, ((0, 0), (1, 1), (1, 1)), mode="edge")
    for channel, y, x in np.ndindex(3, 6, 6):
        value = levels[channel, y, x]
        residual = np.tanh(config.residual_gain * (value - padded[channel, y : y + 3, x : x + 3].mean()))
        standard = (value - config.pixel_mean[channel]) / config.pixel_std[channel]
        assert seen["pixels"][0, channel, y, x].item() == pytest.approx(standard, abs=1e-5)
        assert seen["pixels"][0, 3 + channel, y, x].item() == pytest.approx(residual, abs=1e-4)


def without_padding() -> ExifLang:
    config = ExifLangConfig.preset("base")
    config.text_config = config.text_config | {"vocab_size": 30, "dim": 16, "n_layers": 1, "hidden_dim": 16}
    torch.manual_seed(0)
    return ExifLang(config).eval()


def test_without_padding_the_border_of_a_patch_is_used_only_for_its_residual():
    model, seen = without_padding(), {}
    assert model.receptive_field == model.image_tower.config.receptive_field + 2 == 35
    hook = model.image_tower.register_forward_pre_hook(lambda _, given: seen.update(pixels=given[0]))
    picture = patches(1, 40)
    model.encode_image(picture)
    hook.remove()

    levels = (picture[0].double() / 255).numpy()
    assert seen["pixels"].shape == (1, 6, 38, 38)
    for channel, y, x in [(0, 0, 0), (1, 37, 0), (2, 20, 37)]:
        around = levels[channel, y : y + 3, x : x + 3]
        residual = np.tanh(model.config.residual_gain * (around[1, 1] - around.mean()))
        assert seen["pixels"][0, 3 + channel, y, x].item() == pytest.approx(residual, abs=1e-4)
        standard = (around[1, 1] - model.config.pixel_mean[channel]) / model.config.pixel_std[channel]
        assert seen["pixels"][0, channel, y, x].item() == pytest.approx(standard, abs=1e-5)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (34, 40), (50, 3)])
def test_without_padding_a_small_patch_is_extended(height, width):
    model = without_padding()
    small = torch.randint(256, (2, 3, height, width), dtype=torch.uint8)
    rows, columns = max(0, 35 - height), max(0, 35 - width)
    border = ((0, 0), (0, 0), (rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2))
    large = torch.from_numpy(np.pad(small.numpy(), border, mode="edge"))
    with torch.no_grad():
        torch.testing.assert_close(model.encode_image(small), model.encode_image(large), rtol=0, atol=1e-6)


def test_a_flat_patch_has_no_residual_and_the_paper_uses_none(model):
    seen = {}
    hook = model.image_tower.register_forward_pre_hook(lambda _, given: seen.update(pixels=given[0]))
    model.encode_image(torch.full((1, 3, 5, 5), 77, dtype=torch.uint8))
    hook.remove()
    assert seen["pixels"][:, 3:].abs().max() < 1e-4
    assert ExifLangConfig.preset("paper").residual_gain == 0


@pytest.mark.parametrize(("gain", "channels"), [(0.0, 6), (10.0, 3)])
def test_residual_and_channels_must_agree(gain, channels):
    config = ExifLangConfig.preset("tiny", residual_gain=gain)
    config.image_config = config.image_config | {"num_channels": channels}
    with pytest.raises(ValueError, match="set num_channels"):
        ExifLang(config)
