"""Scores of pictures and of retrieval, on embeddings whose result is known."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from exiflang import evaluate
from exiflang.benchmarks import BenchmarkError, load_benchmark
from exiflang.evaluate import LOCALISATION, embed_photos, retrieval, score_pictures, summarise_pictures
from exiflang.exif import exif_to_text
from exiflang.localize import SpliceLocalizer
from exiflang.metrics import localisation_scores
from exiflang.model import ExifLang
from exiflang.model_config import ExifLangConfig
from exiflang.shards import DataError, Photo, Sample, read_photos, write_shards
from exiflang.tokenizer import train_tokenizer
from exiflang.windows import window_grid


class ColourEncoder:
    def encode_image(self, patches):
        return F.normalize(patches.float().mean((2, 3)) - 127.5, dim=1)


class ConstantEncoder:
    def encode_image(self, patches):
        return F.normalize(torch.ones(len(patches), 4), dim=1)


# Pictures


def write_benchmark(folder, broken: bool = True, spliced: bool = True, authentic: bool = True):
    """A splice in plain sight, an authentic picture of one colour and noise, and a file that is no picture."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    mask = np.zeros((96, 128), bool)
    mask[20:50, 70:100] = True
    kinds = ["spliced"] * spliced + ["authentic"] * authentic
    for kind in kinds:
        here = mask if kind == "spliced" else np.zeros_like(mask)
        colour = np.where(here[..., None], (60, 90, 200), (200, 110, 60))
        pixels = np.clip(colour + rng.normal(0, 20, colour.shape), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{kind}.png")
        Image.fromarray(here.astype(np.uint8) * 255).save(folder / "masks" / f"{kind}.png")
    if broken:
        (folder / "images" / "broken.png").write_bytes(b"no picture")
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / "masks" / "broken.png")
    return load_benchmark("folder", folder)


def test_mode_and_precision_reach_the_models_alone(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(evaluate, "SpliceLocalizer", lambda *a, **k: made.append(k) or SpliceLocalizer(*a, **k))
    encoders = {"model": ExifLang(ExifLangConfig.preset("tiny")), "colour": ColourEncoder()}
    scores = score_pictures(encoders, write_benchmark(tmp_path), mode="dense", precision="bf16")
    assert set(scores["method"]) == {"model", "colour"}
    assert [(k.get("mode"), k.get("precision")) for k in made] == [("dense", "bf16"), (None, None)]


def test_pictures_are_scored_by_each_encoder_and_readout(tmp_path):
    benchmark = write_benchmark(tmp_path)
    encoders = {"colour": ColourEncoder(), "constant": ConstantEncoder()}
    scores = score_pictures(encoders, benchmark, ["far_friends", "mean_shift"], window_size=16)
    assert len(scores) == 2 * 2 * 2
    assert list(scores.columns) == ["name", "format", "spliced", "method", "readout", "detection", *LOCALISATION]
    assert [name for name, _ in benchmark.skipped] == ["broken.png"] and "broken.png" in benchmark.skipped[0][1]
    authentic = scores[~scores["spliced"]]
    assert set(authentic["name"]) == {"authentic.png"} and authentic[LOCALISATION].isna().all(axis=None)
    assert set(scores["format"]) == {"png"} and scores["detection"].notna().all()
    by_method = scores[scores["spliced"]].set_index(["method", "readout"])
    assert by_method.loc[("colour", "far_friends"), "ap"] > 0.9
    share = 30 * 30 / (96 * 128)
    assert by_method.loc[("constant", "far_friends"), "ap"] == pytest.approx(share, abs=0.01)
    summary = summarise_pictures(scores).set_index(["method", "readout"])
    assert summary.loc[("colour", "far_friends"), "detection_ap"] == 1
    assert summary.loc[("colour", "far_friends"), ["pictures", "authentic"]].tolist() == [1, 1]


def test_scores_equal_those_of_the_localizer(tmp_path):
    benchmark = write_benchmark(tmp_path, broken=False, authentic=False)
    row = score_pictures({"colour": ColourEncoder()}, benchmark, ["diffusion"], 20, 16).iloc[0]
    (item,) = benchmark
    result = SpliceLocalizer(ColourEncoder(), 20, 16, "diffusion")(item.image)
    expected = localisation_scores(item.mask, result.heatmap)
    assert {name: row[name] for name in LOCALISATION} == pytest.approx(expected)
    assert row["detection"] == pytest.approx(result.score)


def test_what_a_benchmark_says_of_its_pictures_comes_along(tmp_path):
    write_benchmark(tmp_path, broken=False)
    (tmp_path / "index.csv").write_text("name,kind,donor_scale\nspliced,spliced,0.75\nauthentic,authentic,\n")
    benchmark = load_benchmark("folder", tmp_path)
    scores = score_pictures({"colour": ColourEncoder()}, benchmark, window_size=16, info=("donor_scale", "camera"))
    assert scores["donor_scale"].tolist() == ["0.75", ""] and scores["camera"].tolist() == [None, None]
    assert list(scores.columns)[:4] == ["name", "donor_scale", "camera", "spliced"]


def test_pictures_are_scored_by_the_windows_of_a_calibrated_model(tmp_path):
    benchmark = write_benchmark(tmp_path, broken=False, authentic=False)
    (item,) = benchmark
    localizer = SpliceLocalizer(ColourEncoder(), 20)
    assert localizer.embed(item.image, True)[1] != localizer.embed(item.image)[1]
    rows = [score_pictures({"colour": ColourEncoder()}, benchmark, windows_per_side=20, calibrated=c) for c in (0, 1)]
    assert rows[0].iloc[0]["auc"] == score_pictures({"c": ColourEncoder()}, benchmark, windows_per_side=20)["auc"][0]
    assert rows[0].iloc[0]["auc"] != rows[1].iloc[0]["auc"]


def test_all_encoders_look_through_the_windows_that_one_of_them_shares(tmp_path):
    """Windows 8 px apart for all: a tower without padding needs it, and figures of others stand beside its own."""

    class Spy(ColourEncoder):
        windows = 0

        def encode_image(self, patches):
            self.windows += len(patches)
            return super().encode_image(patches)

    benchmark = write_benchmark(tmp_path, broken=False, authentic=False)  # of one picture, 96 x 128
    config = ExifLangConfig.preset("base")
    config.text_config = config.text_config | {"vocab_size": 30}
    alone, beside = Spy(), Spy()
    score_pictures({"alone": alone}, benchmark, windows_per_side=20, window_size=40)
    score_pictures({"model": ExifLang(config), "beside": beside}, benchmark, windows_per_side=20, window_size=40)
    assert window_grid(96, 128, 40, 20) == (40, 5) and alone.windows == 12 * 18
    assert window_grid(96, 128, 40, 20, 8) == (40, 8) and beside.windows == 8 * 12


def test_more_pictures_than_may_wait(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate.os, "cpu_count", lambda: None)  # unknown: one worker, two waiting
    for i in range(3):
        write_benchmark(tmp_path / "all" / str(i), broken=False)
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir(), masks.mkdir()
    for path in sorted((tmp_path / "all").glob("*/*/*.png")):
        path.rename(tmp_path / path.parent.name / f"{path.parent.parent.name}_{path.name}")
    scores = score_pictures({"colour": ColourEncoder()}, load_benchmark("folder", tmp_path), window_size=16)
    assert list(scores["name"]) == [f"{i}_{kind}.png" for i in range(3) for kind in ("authentic", "spliced")]


def test_no_readable_picture_is_an_error_with_its_reason(tmp_path):
    benchmark = write_benchmark(tmp_path, spliced=False, authentic=False)
    with pytest.raises(BenchmarkError, match="no picture to score among 1 .*broken.png"):
        score_pictures({"colour": ColourEncoder()}, benchmark)


def test_unknown_readout_is_refused_before_any_work(tmp_path):
    with pytest.raises(ValueError, match=r"unknown readouts \['far_frends'\]"):
        score_pictures({"colour": ColourEncoder()}, write_benchmark(tmp_path), ["far_frends"])


def test_broken_weights_are_an_error(tmp_path):
    class Broken:
        def encode_image(self, patches):
            return torch.full((len(patches), 2), torch.nan)

    with pytest.raises(ValueError, match="embeddings are broken"):
        score_pictures({"broken": Broken()}, write_benchmark(tmp_path))


def score_rows(method: str, p_map: list, detection: list) -> list[dict]:
    return [
        dict.fromkeys(LOCALISATION, value)
        | {"name": str(i), "format": "png", "spliced": not math.isnan(value), "method": method}
        | {"readout": "far_friends", "detection": score}
        for i, (value, score) in enumerate(zip(p_map, detection, strict=True))
    ]


def test_summary_by_hand():
    rows = score_rows("b", [0.2, 0.4, 0.9, math.nan], [0.9, 0.8, 0.1, 0.5])
    rows += score_rows("a", [0.5, 0.5, 0.5, math.nan], [0.1, 0.1, 0.1, 0.1])
    rows[0]["auc"] = math.nan  # undefined: all of the picture is foreign
    summary = summarise_pictures(pd.DataFrame(rows))
    assert list(summary["method"]) == ["b", "a"]  # as first met
    b = summary.iloc[0]
    assert b["p_map"] == pytest.approx(0.5) and b["auc"] == pytest.approx(0.65)
    assert b["p_map_se"] == pytest.approx(np.sqrt((0.09 + 0.01 + 0.16) / 2 / 3))
    assert b["detection_ap"] == pytest.approx((1 + 1 + 3 / 4) / 3)
    assert (b["pictures"], b["authentic"]) == (3, 1)
    assert summary.iloc[1]["detection_ap"] == pytest.approx(3 / 4) and summary.iloc[1]["p_map_se"] == 0


def test_detection_without_authentic_pictures_is_nan():
    summary = summarise_pictures(pd.DataFrame(score_rows("a", [0.5], [0.3]))).iloc[0]
    assert math.isnan(summary["detection_ap"]) and math.isnan(summary["p_map_se"])
    assert summary["p_map"] == 0.5 and (summary["pictures"], summary["authentic"]) == (1, 0)


def test_summary_without_spliced_pictures_is_nan():
    summary = summarise_pictures(pd.DataFrame(score_rows("a", [math.nan, math.nan], [0.3, 0.4]))).iloc[0]
    assert np.isnan(summary[[*LOCALISATION, "p_map_se", "detection_ap"]].astype(float)).all()
    assert (summary["pictures"], summary["authentic"]) == (0, 2)


# Retrieval


def photos_of(count: int, per_camera: int = 4, same: int = 1) -> list[Photo]:
    """`per_camera` photos of each camera; `same` neighbours share their sentence."""
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
def test_constant_embeddings_are_at_chance_however_many_sentences_are_equal(same):
    constant = np.full((400, 8), 8**-0.5, np.float32)
    found = retrieval(constant, constant, photos_of(400, same=same))
    assert found["recall"] == pytest.approx(found["chance"], abs=0.01)
    assert found["recall_camera"] == pytest.approx(found["chance_camera"], abs=0.05)
    assert found["chance_camera"] == pytest.approx(same / 4)


def test_an_equal_sentence_counts_as_the_own():
    """Each photo is nearest to the sentence of its neighbour, which is the same sentence."""
    embeddings = unit(40, 16, 0)
    swapped = embeddings.reshape(20, 2, 16)[:, ::-1].reshape(40, 16)
    assert retrieval(embeddings, swapped, photos_of(40, same=2))["recall"] == 1
    assert retrieval(embeddings, swapped, photos_of(40, same=1))["recall"] == 0


def test_a_tie_is_broken_at_random():
    """Every photo is as near to its own sentence as to the next photo's, in the order of the list."""
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


def test_recall_is_within_the_camera():
    """Sentences of one camera are all alike: found among photos, a guess within the camera."""
    cameras = np.repeat(unit(50, 16, 0), 8, axis=0)
    found = retrieval(cameras, cameras, photos_of(400, per_camera=8))
    assert found["recall"] > 10 * found["chance"]
    assert found["recall_camera"] == pytest.approx(1 / 8)


def test_one_photo():
    found = retrieval(unit(1, 4, 0), unit(1, 4, 1), photos_of(1))
    assert found == {"recall": 1.0, "chance": 1.0, "photos": 1, "among": 1, "cameras": 0}


def test_fewer_photos_than_asked_for():
    embeddings = unit(5, 8, 0)
    found = retrieval(embeddings, embeddings, photos_of(5), among=64)
    assert found["among"] == 5 and found["recall"] == 1 and found["chance"] == pytest.approx(0.2)
    assert found["cameras"] == 1  # the fifth photo is alone with its camera


def test_retrieval_repeats():
    image, text, photos = unit(90, 8, 0), unit(90, 8, 1), photos_of(90)
    assert retrieval(image, text, photos, 16, seed=3) == retrieval(image, text, photos, 16, seed=3)


def test_what_retrieval_refuses():
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


def test_a_photo_counts_once_however_many_tiles_it_has(tmp_path):
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


def test_more_photos_than_a_batch_of_sentences(tmp_path):
    photos = write_tiles(tmp_path / "shards", [1] * 3) * 23
    image, text = embed_photos(tiny_model(), photos, crops=1)
    assert len(image) == len(text) == 69
    np.testing.assert_allclose(text[0], text[66], atol=1e-5)


def test_no_photos():
    with pytest.raises(ValueError, match="no photos to embed"):
        embed_photos(tiny_model(), [])


def test_a_tile_smaller_than_a_patch_is_named(tmp_path):
    photos = write_tiles(tmp_path / "shards", [1], size=20)
    with pytest.raises(DataError, match="photo p0 is 20 x 20 .*smaller"):
        embed_photos(tiny_model(), photos)
