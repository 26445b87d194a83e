"""What a model knows of metadata: ranks against loops, readings of values, and its file, whole or damaged."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.numpy import load_file
from test_model import SENTENCES, tiny

from exiflang import population as module
from exiflang.population import FEWEST, FILE, Population, build_population, calibrate_ranks, main, population_of
from exiflang.shards import Photo
from exiflang.tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def model():
    return tiny(train_tokenizer(SENTENCES, vocab_size=320))


def photos(count: int = 24) -> list[Photo]:
    """Of three makes; ISO 100 and 400 in turn; a serial number and a date, which no population may hold."""
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


def made_of(text: np.ndarray, **more) -> Population:
    given = {"makes": {"A": len(text)}, "values": {}, "reading": {}, "ranks": {}, "figures": {}}
    return Population(text=text, **(given | more))


# Ranks


@given(arrays(np.int8, (5, 3), elements=st.integers(-2, 2)), arrays(np.int8, 3), arrays(np.int8, 3))
def test_rank_equals_the_loop_over_sentences(text, image, own):
    text, image, own = (array.astype(np.float32) for array in (text, image, own))
    worse = [(image @ other < image @ own) + 0.5 * (image @ other == image @ own) for other in text]
    assert made_of(text).rank(image, own) == pytest.approx(np.mean(worse))


def test_ranks_of_many_images_at_once():
    population, image, text = made_of(unit(9, 4)), unit(2, 3, 4, seed=1), unit(4, seed=2)
    found = population.rank(image, text)
    assert found.shape == (2, 3)
    assert found[1, 2] == population.rank(image[1, 2], text)


def test_familiar_sentences_are_close_to_one_of_the_population():
    population = made_of(unit(6, 16))
    assert population.familiar(population.text).all()
    assert not population.familiar(-population.text.mean(0)).any()


def test_percentile_is_the_share_of_authentic_ranks_below_and_nan_where_unknown():
    population = made_of(unit(200, 8))
    image = unit(2 * FEWEST, 8, seed=1)
    calibrated = calibrate_ranks(population, image, population.text[: 2 * FEWEST])
    ranks = population.rank(image, population.text[: 2 * FEWEST])
    assert set(calibrated.ranks) == {"familiar"}
    middle = float(np.median(ranks))
    assert calibrated.percentile(middle, True) == pytest.approx(0.5, abs=0.02)
    assert calibrated.percentile(ranks.min(), True) < 0.05 < 0.95 < calibrated.percentile(ranks.max(), True)
    assert np.isnan(calibrated.percentile(middle, False))
    assert calibrate_ranks(population, image[: FEWEST - 1], population.text[: FEWEST - 1]).ranks == {}


# Readings


def test_expected_text_is_the_softmax_mean_and_the_nearest_sentence_at_a_high_scale():
    population, image = made_of(unit(7, 5)), unit(5, seed=3)
    weights = np.exp(10 * population.text @ image)
    np.testing.assert_allclose(
        population.expected_text(image, 10), weights @ population.text / weights.sum(), rtol=1e-5
    )
    nearest = population.text[(population.text @ image).argmax()]
    np.testing.assert_allclose(population.expected_text(image, 1e4), nearest, atol=1e-4)


def test_common_values_and_their_reading(model):
    population = build_population(model, photos())
    assert population.makes == {"Apple": 8, "Canon": 8, "NIKON": 8}
    assert population.values == {"Make": ["Apple", "Canon", "NIKON"], "PhotographicSensitivity": ["100", "400"]}
    shares = population.read(population.text, "Make", 1e4)  # images that are the sentences themselves
    assert shares.shape == (24, 3)
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-5)
    assert (shares > 0).all()
    assert (shares.argmax(1) == np.repeat([0, 1, 2], 8)).mean() > 0.9
    with pytest.raises(KeyError):
        population.read(population.text, "Model", 1.0)  # each photo has its own: none is common


def test_a_population_of_nobody_and_of_one(model):
    with pytest.raises(ValueError, match="no photos"):
        build_population(model, [])
    alone = build_population(model, photos(1))
    assert len(alone.text) == 1 and alone.values == {} and alone.makes == {"Canon": 1}
    assert build_population(model, [Photo("0", {}, [])]).makes == {"": 1}


# The file


def test_saved_and_loaded_it_is_the_same_to_half_precision(model, tmp_path):
    population = calibrate_ranks(build_population(model, photos()), unit(60, 32), unit(60, 32, seed=1))
    population = dataclasses.replace(population, figures={"groups": {"a": {"photos": 3}}})
    population.save(tmp_path)
    population.save(tmp_path)  # over the first
    found = Population.load(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    np.testing.assert_allclose(found.text, population.text, atol=1e-3)
    for name in ("makes", "values", "ranks", "figures"):
        assert getattr(found, name) == getattr(population, name)
    assert found.reading.keys() == population.reading.keys()


def test_it_holds_no_sentence_no_date_and_no_serial_number(model, tmp_path):
    build_population(model, photos()).save(tmp_path)
    data = (tmp_path / FILE).read_bytes()
    for secret in (b"1234", b"2020", b"M1", b"Serial", b"DateTime"):
        assert secret not in data


def test_a_folder_without_one_has_none(tmp_path):
    assert Population.load(tmp_path) is None


def _cut(path):
    path.write_bytes(path.read_bytes()[:-50])


def _text(path):
    path.write_text("not safetensors")


def _other_counts(path):
    population = Population.load(path.parent)
    dataclasses.replace(population, makes={"Canon": 1}).save(path.parent)


def _nan(path):
    population = Population.load(path.parent)
    population.text[0, 0] = np.nan
    population.save(path.parent)


def _no_facts(path):
    path.write_bytes(module.save(load_file(path)))


@pytest.mark.parametrize("damage", [_cut, _text, _other_counts, _nan, _no_facts])
def test_a_damaged_file_is_named(model, tmp_path, damage):
    build_population(model, photos()).save(tmp_path)
    damage(tmp_path / FILE)
    with pytest.raises(ValueError, match=rf"{FILE}: damaged .* python -m exiflang.population"):
        Population.load(tmp_path)


def test_command_line_names_what_is_missing(tmp_path, capsys):
    assert main(["--model", str(tmp_path / "none"), "--data", str(tmp_path)]) == 1
    assert "no model there" in capsys.readouterr().err


def test_command_line_writes_the_file(model, tmp_path, capsys, monkeypatch):
    model.save_pretrained(str(tmp_path / "model"))
    monkeypatch.setattr(module, "population_of", lambda model, data: build_population(model, photos()))
    assert main(["--model", str(tmp_path / "model"), "--data", str(tmp_path)]) == 0
    assert "24 photos of 3 makes" in capsys.readouterr().out
    assert len(Population.load(tmp_path / "model").text) == 24


def test_of_a_data_set_every_second_known_camera_and_all_others_calibrate(model, tmp_path, monkeypatch):
    asked = []
    parts = {"train": photos(24), "heldout": photos(5), "choose": photos(3)}
    for name in parts:
        (tmp_path / name).mkdir()
    monkeypatch.setattr(module, "find_shards", lambda folder: [folder])
    monkeypatch.setattr(module, "read_photos", lambda shards: (list(parts[shards[0].name]), None))
    monkeypatch.setattr(
        module,
        "embed_photos",
        lambda model, photos, crops: asked.append(photos) or (unit(60, 32), unit(60, 32, seed=1)),
    )
    assert population_of(model, tmp_path).ranks
    assert [photo.id for photo in asked[0]] == ["0", "2", "4", "0", "1", "2"]
