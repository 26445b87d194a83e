"""Retrieval, on embeddings whose result is known."""

import numpy as np
import pytest
import torch
from PIL import Image

from exiflang.data.shards import DataError, Photo, Sample, read_photos
from exiflang.evaluation.retrieval import embed_photos, retrieval
from exiflang.exif.text import exif_to_text
from exiflang.models.config import ExifLangConfig
from exiflang.models.model import ExifLang
from exiflang.models.tokenizer import train_tokenizer
from tests.shard_writer import write_shards

# Retrieval


def photos_of(count: int, per_camera: int = 4, same: int = 1) -> list[Photo]:
    """`per_camera` photos of each camera; `same` neighbors share their sentence."""
    return [
        Photo(str(i), {"Make": "A", "Model": f"M{i // per_camera}", "ISOSpeedRatings": str(100 + i // same)}, [])
        for i in range(count)
    ]


def unit(count: int, dim: int, seed: int) -> np.ndarray:
    array = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return array / np.linalg.norm(array, axis=1, keepdims=True)


def test_perfect_embeddings_find_every_sentence():
    embeddings = unit(100, 16, 0)
    found = retrieval(embeddings, embeddings, photos_of(100))
    assert found == {
        "recall": 1.0,
        "chance": pytest.approx(1 / 64),
        "recall_camera": 1.0,
        "chance_camera": pytest.approx(1 / 4),
        "photos": 100,
        "among": 64,
        "cameras": 25,
    }


def test_random_embeddings_are_at_chance():
    found = retrieval(unit(400, 16, 0), unit(400, 16, 1), photos_of(400))
    assert found["recall"] == pytest.approx(found["chance"], abs=0.01)
    assert found["recall_camera"] == pytest.approx(0.25, abs=3 * np.sqrt(0.25 * 0.75 / 400))


@pytest.mark.parametrize("same", [1, 2, 4])
def test_constant_embeddings_are_at_chance_with_any_number_of_equal_sentences(same):
    constant = np.full((400, 8), 8**-0.5, np.float32)
    found = retrieval(constant, constant, photos_of(400, same=same))
    assert found["recall"] == pytest.approx(found["chance"], abs=0.01)
    assert found["recall_camera"] == pytest.approx(found["chance_camera"], abs=0.05)
    assert found["chance_camera"] == pytest.approx(same / 4)


def test_an_identical_sentence_counts_as_the_photos_own():
    """Each photo is nearest to the sentence of its neighbor, which is the same sentence."""
    embeddings = unit(40, 16, 0)
    swapped = embeddings.reshape(20, 2, 16)[:, ::-1].reshape(40, 16)
    assert retrieval(embeddings, swapped, photos_of(40, same=2))["recall"] == 1
    assert retrieval(embeddings, swapped, photos_of(40, same=1))["recall"] == 0


def test_ties_are_broken_at_random():
    """Every photo is as close to its own sentence as to that of the next photo in the list."""
    text = np.eye(200, dtype=np.float32)
    image = (text + np.roll(text, 1, axis=1)) / np.sqrt(2, dtype=np.float32)
    found = retrieval(image, text, photos_of(200, per_camera=100))
    assert found["recall_camera"] == pytest.approx(0.5, abs=0.15)


def test_chance_equals_the_loop_over_guesses():
    photos = [*photos_of(5, 3, same=2), *photos_of(3, 8)]
    embeddings = unit(8, 4, 0)
    sentences = [exif_to_text(photo.tags) for photo in photos]
    found = retrieval(embeddings, embeddings, photos)
    assert found["chance"] == pytest.approx(np.mean([[a == b for a in sentences] for b in sentences]))
    cameras = [[i for i in range(8) if photos[i].camera == camera] for camera in ("A M0", "A M1")]
    guesses = [np.mean([sentences[i] == sentences[j] for j in group]) for group in cameras for i in group]
    assert found["chance_camera"] == pytest.approx(np.mean(guesses)) and found["cameras"] == 2


def test_recall_camera_is_measured_within_the_camera():
    """All sentences of a camera have the same embedding: good among all photos, at chance within the camera."""
    cameras = np.repeat(unit(50, 16, 0), 8, axis=0)
    found = retrieval(cameras, cameras, photos_of(400, per_camera=8))
    assert found["recall"] > 10 * found["chance"]
    assert found["recall_camera"] == pytest.approx(1 / 8)


def test_one_photo():
    found = retrieval(unit(1, 4, 0), unit(1, 4, 1), photos_of(1))
    assert found == {"recall": 1.0, "chance": 1.0, "photos": 1, "among": 1, "cameras": 0}


def test_fewer_photos_than_requested():
    embeddings = unit(5, 8, 0)
    found = retrieval(embeddings, embeddings, photos_of(5), among=64)
    assert found["among"] == 5 and found["recall"] == 1 and found["chance"] == pytest.approx(0.2)
    assert found["cameras"] == 1  # the fifth photo is the only one of its camera


def test_retrieval_is_reproducible():
    image, text, photos = unit(90, 8, 0), unit(90, 8, 1), photos_of(90)
    assert retrieval(image, text, photos, 16, seed=3) == retrieval(image, text, photos, 16, seed=3)


def test_mismatched_embeddings_are_refused():
    good = unit(3, 4, 0)
    with pytest.raises(ValueError, match="embeddings of 0 images and 0 sentences for 0 photos"):
        retrieval(good[:0], good[:0], [])
    with pytest.raises(ValueError, match="embeddings of 3 images and 2 sentences for 3 photos"):
        retrieval(good, good[:2], photos_of(3))
    with pytest.raises(ValueError, match="NaN"):
        retrieval(good * np.nan, good, photos_of(3))


# Photos


def write_tiles(folder, tiles_per_photo: list[int], size: int = 48) -> list[Photo]:
    rng = np.random.default_rng(0)
    folder.mkdir()
    samples = []
    for i, count in enumerate(tiles_per_photo):
        for j in range(count):
            path = folder / "tile.png"
            Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(path)
            meta = {"photo": f"p{i}", "exif": f'{{"Image Make": "A", "Image Model": "M{i}"}}'}
            samples.append(Sample(f"{i:03d}_{j:03d}", path.read_bytes(), "png", meta))
    return read_photos(write_shards(samples, folder))[0]


def tiny_model() -> ExifLang:
    torch.manual_seed(0)
    return ExifLang(ExifLangConfig.preset("tiny"), train_tokenizer(["Make: A, Model: M0"], 300))


def test_a_photo_counts_once_whatever_its_number_of_tiles(tmp_path):
    photos = write_tiles(tmp_path / "shards", [1, 3, 9])
    model = tiny_model().train()
    image, text = embed_photos(model, photos, crops=3)
    assert not model.training
    assert image.shape == text.shape == (3, 32) and image.dtype == text.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(image, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(text, axis=1), 1, atol=1e-5)
    with torch.inference_mode():
        sentences = model.encode_exif([exif_to_text(photo.tags) for photo in photos])
    np.testing.assert_allclose(text, sentences, atol=1e-5)
    again, _ = embed_photos(model, photos, crops=3)
    np.testing.assert_array_equal(image, again)
    other, _ = embed_photos(model, photos, crops=3, seed=1)
    assert not np.array_equal(image, other)


def test_photos_may_need_several_batches_of_sentences(tmp_path):
    photos = write_tiles(tmp_path / "shards", [1] * 3) * 23
    image, text = embed_photos(tiny_model(), photos, crops=1)
    assert len(image) == len(text) == 69
    np.testing.assert_allclose(text[0], text[66], atol=1e-5)


def test_no_photos():
    with pytest.raises(ValueError, match="no photos to embed"):
        embed_photos(tiny_model(), [])


def test_the_error_names_a_tile_smaller_than_a_patch(tmp_path):
    photos = write_tiles(tmp_path / "shards", [1], size=20)
    with pytest.raises(DataError, match="photo p0 is 20 x 20 .*smaller"):
        embed_photos(tiny_model(), photos)
