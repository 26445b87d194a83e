"""The text bank of a model: ranks compared with loops, readings of values, and its file, intact or damaged."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.numpy import load_file

from exiflang.data.shards import Photo
from exiflang.inspection import text_bank as module
from exiflang.inspection.text_bank import (
    FEWEST,
    FILE,
    TextBank,
    build_text_bank,
    calibrate_ranks,
    main,
    text_bank_of,
)
from exiflang.models.tokenizer import train_tokenizer
from tests.models.test_model import SENTENCES, tiny


@pytest.fixture(scope="module")
def model():
    return tiny(train_tokenizer(SENTENCES, vocab_size=320))


def photos(count: int = 24) -> list[Photo]:
    """Photos of three makes, with ISO 100 or 400; a serial number and a date, which no text bank may hold."""
    makes = ["Canon", "NIKON", "Apple"]
    return [
        Photo(
            str(i),
            {
                "Make": makes[i % 3],
                "Model": f"M{i}",
                "PhotographicSensitivity": "100" if i % 2 else "400",
                "BodySerialNumber": "1234",
                "DateTime": "2020:01:01 00:00:00",
            },
            [],
        )
        for i in range(count)
    ]


def unit(*shape: int, seed: int = 0) -> np.ndarray:
    found = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return found / np.linalg.norm(found, axis=-1, keepdims=True)


def made_of(text: np.ndarray, **more) -> TextBank:
    given = {"makes": {"A": len(text)}, "values": {}, "reading": {}, "ranks": {}, "figures": {}}
    return TextBank(text=text, **(given | more))


# Ranks


@given(arrays(np.int8, (5, 3), elements=st.integers(-2, 2)), arrays(np.int8, 3), arrays(np.int8, 3))
def test_rank_equals_the_loop_over_sentences(text, image, own):
    text, image, own = (array.astype(np.float32) for array in (text, image, own))
    worse = [(image @ other < image @ own) + 0.5 * (image @ other == image @ own) for other in text]
    assert made_of(text).rank(image, own) == pytest.approx(np.mean(worse))


def test_ranks_of_many_images_at_once():
    text_bank, image, text = made_of(unit(9, 4)), unit(2, 3, 4, seed=1), unit(4, seed=2)
    found = text_bank.rank(image, text)
    assert found.shape == (2, 3)
    assert found[1, 2] == text_bank.rank(image[1, 2], text)


def test_familiar_sentences_are_close_to_one_of_the_text_bank():
    text_bank = made_of(unit(6, 16))
    assert text_bank.familiar(text_bank.text).all()
    assert not text_bank.familiar(-text_bank.text.mean(0)).any()


def test_the_percentile_is_the_share_of_lower_authentic_ranks_or_nan():
    text_bank = made_of(unit(200, 8))
    image = unit(2 * FEWEST, 8, seed=1)
    calibrated = calibrate_ranks(text_bank, image, text_bank.text[: 2 * FEWEST])
    ranks = text_bank.rank(image, text_bank.text[: 2 * FEWEST])
    assert set(calibrated.ranks) == {"familiar"}
    middle = float(np.median(ranks))
    assert calibrated.percentile(middle, True) == pytest.approx(0.5, abs=0.02)
    assert calibrated.percentile(ranks.min(), True) < 0.05 < 0.95 < calibrated.percentile(ranks.max(), True)
    assert np.isnan(calibrated.percentile(middle, False))
    assert calibrate_ranks(text_bank, image[: FEWEST - 1], text_bank.text[: FEWEST - 1]).ranks == {}


def test_with_a_space_ranks_add_the_fit_of_tags(model):
    known = photos()
    text_bank = build_text_bank(model, known, unit(24, 32))
    image, tags = unit(5, 32, seed=1), [photo.tags for photo in known[:5]]
    text = unit(5, 32, seed=2)
    placed = text_bank.placed(text, tags)
    space = text_bank.space
    assert text_bank.places.shape == (24, space.tags.shape[1]) and placed.shape[1] == 32 + space.tags.shape[1]
    fit = (image * text).sum(1) + (space.place_images(image) * space.place_tags(tags)).sum(1)
    np.testing.assert_allclose(text_bank.fit(image, placed), fit, rtol=1e-4, atol=1e-6)
    others = image @ text_bank.text.T + space.place_images(image) @ text_bank.places.T
    np.testing.assert_allclose(text_bank.rank(image, placed), (others < fit[:, None]).mean(1), atol=0.03)
    assert (text_bank.familiar(placed) == text_bank.familiar(text)).all()
    assert made_of(text_bank.text).placed(text, tags) is text


def test_places_are_in_the_order_of_the_sentences(model):
    known = photos()
    text_bank = build_text_bank(model, known, unit(24, 32))
    shown = sorted(known, key=lambda photo: (photo.tags["Make"], photo.id))
    np.testing.assert_allclose(text_bank.places, text_bank.space.place_tags([photo.tags for photo in shown]), rtol=1e-5)


# Readings


def test_expected_text_is_a_softmax_mean_that_approaches_the_nearest_sentence():
    text_bank, image = made_of(unit(7, 5)), unit(5, seed=3)
    weights = np.exp(10 * text_bank.text @ image)
    np.testing.assert_allclose(text_bank.expected_text(image, 10), weights @ text_bank.text / weights.sum(), rtol=1e-5)
    nearest = text_bank.text[(text_bank.text @ image).argmax()]
    np.testing.assert_allclose(text_bank.expected_text(image, 1e4), nearest, atol=1e-4)


def test_common_values_and_their_reading(model):
    text_bank = build_text_bank(model, photos())
    assert text_bank.makes == {"Apple": 8, "Canon": 8, "NIKON": 8}
    assert text_bank.values == {"Make": ["Apple", "Canon", "NIKON"], "PhotographicSensitivity": ["100", "400"]}
    shares = text_bank.read(text_bank.text, "Make", 1e4)  # images with the embeddings of their sentences
    assert shares.shape == (24, 3)
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-5)
    assert (shares > 0).all()
    assert (shares.argmax(1) == np.repeat([0, 1, 2], 8)).mean() > 0.9
    with pytest.raises(KeyError):
        text_bank.read(text_bank.text, "Model", 1.0)  # each photo has its own value: none is common


def test_text_banks_of_no_photos_and_of_one(model):
    with pytest.raises(ValueError, match="no photos"):
        build_text_bank(model, [])
    alone = build_text_bank(model, photos(1), unit(1, 32))
    assert alone.space is None  # no tag has common values
    assert len(alone.text) == 1 and alone.values == {} and alone.makes == {"Canon": 1}
    assert build_text_bank(model, [Photo("0", {}, [])]).makes == {"": 1}


# The file


@pytest.mark.parametrize("with_space", [True, False])  # files of earlier versions have none
def test_a_loaded_text_bank_equals_the_saved_one_to_half_precision(model, tmp_path, with_space):
    text_bank = build_text_bank(model, photos(), unit(24, 32) if with_space else None)
    text = text_bank.placed(unit(60, 32, seed=1), [photos(1)[0].tags] * 60)
    text_bank = calibrate_ranks(text_bank, unit(60, 32), text)
    text_bank = dataclasses.replace(text_bank, figures={"groups": {"a": {"photos": 3}}})
    text_bank.save(tmp_path)
    text_bank.save(tmp_path)  # overwrites the first
    found = TextBank.load(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    np.testing.assert_allclose(found.text, text_bank.text, atol=1e-3)
    for name in ("makes", "values", "ranks", "figures"):
        assert getattr(found, name) == getattr(text_bank, name)
    assert found.reading.keys() == text_bank.reading.keys()
    assert (found.space is not None) == with_space
    if with_space:
        assert found.space.vector == text_bank.space.vector
        np.testing.assert_allclose(found.places, text_bank.places, atol=1e-3)
        image = unit(5, 32, seed=2)
        np.testing.assert_allclose(found.rank(image, text[:5]), text_bank.rank(image, text[:5]), atol=0.05)


def test_a_text_bank_holds_no_sentences_dates_or_serial_numbers(model, tmp_path):
    build_text_bank(model, photos(), unit(24, 32)).save(tmp_path)
    data = (tmp_path / FILE).read_bytes()
    for secret in (b"1234", b"2020", b"M1", b"Serial", b"DateTime"):
        assert secret not in data


def test_a_folder_without_a_text_bank_gives_none(tmp_path):
    assert TextBank.load(tmp_path) is None


def _cut(path):
    path.write_bytes(path.read_bytes()[:-50])


def _text(path):
    path.write_text("not safetensors")


def _other_counts(path):
    text_bank = TextBank.load(path.parent)
    dataclasses.replace(text_bank, makes={"Canon": 1}).save(path.parent)


def _nan(path):
    text_bank = TextBank.load(path.parent)
    text_bank.text[0, 0] = np.nan
    text_bank.save(path.parent)


def _other_places(path):
    text_bank = TextBank.load(path.parent)
    dataclasses.replace(text_bank, places=text_bank.places[1:]).save(path.parent)


def _other_space(path):
    text_bank = TextBank.load(path.parent)
    dataclasses.replace(text_bank, values={}, reading={}).save(path.parent)


def _no_facts(path):
    path.write_bytes(module.save(load_file(path)))


@pytest.mark.parametrize("damage", [_cut, _text, _other_counts, _nan, _other_places, _other_space, _no_facts])
def test_the_error_names_a_damaged_file(model, tmp_path, damage):
    build_text_bank(model, photos(), unit(24, 32)).save(tmp_path)
    damage(tmp_path / FILE)
    with pytest.raises(ValueError, match=rf"{FILE}: damaged .* python -m exiflang.inspection.text_bank"):
        TextBank.load(tmp_path)


def test_the_command_line_names_a_missing_model(tmp_path, capsys):
    assert main(["--model", str(tmp_path / "none"), "--data", str(tmp_path)]) == 1
    assert "no model found" in capsys.readouterr().err


def test_the_command_line_writes_the_file(model, tmp_path, capsys, monkeypatch):
    model.save_pretrained(str(tmp_path / "model"))
    monkeypatch.setattr(module, "text_bank_of", lambda model, data: build_text_bank(model, photos()))
    assert main(["--model", str(tmp_path / "model"), "--data", str(tmp_path)]) == 0
    assert "24 photos of 3 makes" in capsys.readouterr().out
    assert len(TextBank.load(tmp_path / "model").text) == 24


@pytest.mark.parametrize("exif", ["own", "shuffled"])
def test_every_second_training_photo_and_all_held_out_ones_calibrate(model, tmp_path, monkeypatch, exif):
    asked = []
    parts = {"train": photos(24), "heldout": photos(120), "choose": photos(3)}
    for name in parts:
        (tmp_path / name).mkdir()
    monkeypatch.setattr(module, "find_shards", lambda folder: [folder])
    monkeypatch.setattr(module, "read_photos", lambda shards: (list(parts[shards[0].name]), None))
    monkeypatch.setattr(
        module,
        "embed_photos",
        lambda model, photos, crops: asked.append(photos) or (unit(len(photos), 32), unit(len(photos), 32, seed=1)),
    )
    text_bank = text_bank_of(model, tmp_path, exif=exif)
    assert text_bank.ranks and text_bank.space is not None
    assert [[photo.id for photo in part][-4:] for part in asked] == [["20", "21", "22", "23"], ["118", "0", "1", "2"]]
    assert text_bank.makes == {"Apple": 8, "Canon": 8, "NIKON": 8}  # shuffled tags are the same tags
