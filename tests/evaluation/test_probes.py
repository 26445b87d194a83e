"""Linear probes: what they must detect, what they must not, and that nothing leaks between folds."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from exiflang.data.shards import Photo
from exiflang.evaluation import probes
from exiflang.evaluation.baselines import MeanColor
from exiflang.evaluation.benchmarks import load_benchmark
from exiflang.evaluation.layouts import BenchmarkError
from exiflang.evaluation.probe_data import center_crop, corners_and_middle, embed, reduced, source_groups
from exiflang.evaluation.probes import distortion_probe, exif_probes, probe, splice_probe
from exiflang.models.config import ExifLangConfig
from exiflang.models.model import ExifLang
from exiflang.viz.plots import plot_probes


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


# One probe


def test_separable_features_score_one():
    labels = np.repeat(["a", "b", "c"], 30)
    features = normal(90, 8) + 20 * np.eye(3, 8)[np.arange(90) // 30]
    found = probe(features, labels, np.arange(90))
    assert found["score"] == found["balanced"] == 1 and found["se"] == 0
    assert (found["n"], found["groups"], found["classes"]) == (90, 90, 3) and found["chance"] == pytest.approx(1 / 3)


def test_linear_labels_are_ranked_perfectly():
    found = probe(normal(80, 5), normal(80, 5) @ np.arange(5) + 7, np.arange(80), "rank")
    assert found["score"] > 0.99 and found["se"] < 0.01 and found["chance"] == 0
    assert "classes" not in found and found["n"] == found["groups"] == 80


def test_random_features_score_at_chance():
    labels = np.arange(600) % 4
    found = probe(normal(600, 16), labels, np.arange(600) // 4)
    assert found["score"] == pytest.approx(0.25, abs=3 * found["se"]) and 0.01 < found["se"] < 0.03
    assert found["balanced"] == pytest.approx(0.25, abs=0.06)
    ranked = probe(normal(600, 16), normal(600, seed=1), np.arange(600), "rank")
    assert ranked["score"] == pytest.approx(0, abs=0.12)


@pytest.mark.parametrize("kind", ["class", "rank"])
def test_groups_do_not_leak(kind):
    """Features that identify only the group, where each group has one random label."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(100), 8)
    label = rng.permutation(np.arange(100) % 2)[group].astype(float)
    features = rng.normal(size=(100, 200))[group] + 0.01 * rng.normal(size=(800, 200))
    honest = probe(features, label, group, kind)
    leaking = probe(features, label, np.arange(800), kind)
    chance, certain = {"class": (0.5, 0.95), "rank": (0.0, 0.85)}[kind]
    assert honest["score"] == pytest.approx(chance, abs=max(3 * honest["se"], 0.1))
    assert leaking["score"] >= certain


def test_the_standard_error_counts_groups_rather_than_items():
    """Eight copies of each item carry no more information than one."""
    features, labels = normal(100, 4), np.arange(100) % 2
    features[:, 0] += labels
    once = probe(features, labels, np.arange(100))
    copied = probe(np.repeat(features, 8, 0), np.repeat(labels, 8), np.repeat(np.arange(100), 8))
    assert once["se"] == pytest.approx(np.sqrt(once["score"] * (1 - once["score"]) / 99))  # binomial
    assert copied["se"] == pytest.approx(once["se"], rel=0.15)


def test_probe_equals_the_loop_over_groups():
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(6), 10)
    label = np.tile(np.arange(10) % 3, 6)  # all groups are alike: with six folds each group is a fold
    features = rng.normal(size=(60, 4)) + 0.8 * np.eye(3, 4)[label]
    hits = []
    for left_out in range(6):
        train, test = group != left_out, group == left_out
        scaler = StandardScaler().fit(features[train])
        fit = LogisticRegression(C=probes.C / 4, max_iter=1000).fit(scaler.transform(features[train]), label[train])
        hits.append(fit.predict(scaler.transform(features[test])) == label[test])
    found = probe(features, label, group, folds=6)
    assert found["score"] == pytest.approx(np.mean(hits)) and 0.4 < found["score"] < 1
    deviations = np.sum(np.array(hits) - np.mean(hits), axis=1)
    assert found["se"] == pytest.approx(np.sqrt(np.sum(deviations**2) * 6 / 5) / 60)
    assert found["balanced"] == pytest.approx(np.mean([np.concatenate(hits)[label == k].mean() for k in range(3)]))


def test_a_probe_is_reproducible_and_depends_on_the_seed():
    features, labels, groups = normal(90, 6), np.arange(90) % 3, np.arange(90)
    assert probe(features, labels, groups) == probe(features, labels, groups)
    assert probe(features, labels, groups) != probe(features, labels, groups, seed=1)


def test_label_and_group_names_do_not_matter():
    features, labels, groups = normal(60, 6), np.arange(60) % 2, np.arange(60) // 2 // 3
    named = probe(features, np.array(["no", "yes"], object)[labels], [f"g{i:02d}" for i in groups])
    assert named == probe(features, labels.tolist(), groups)


def test_constant_features_score_at_chance():
    assert probe(np.ones((40, 3)), np.arange(40) % 2, np.arange(40))["score"] == pytest.approx(0.5, abs=0.1)
    assert probe(np.ones((40, 3)), np.arange(40), np.arange(40), "rank")["score"] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "regression"}, "kind is 'regression'"),
        ({"labels": [0, 1]}, r"features \[12, 2\] for 2 labels and 12 groups"),
        ({"groups": [0, 1]}, "2 groups"),
        ({"features": np.zeros(12)}, r"features \[12\]"),
        ({"features": np.zeros((0, 2)), "labels": [], "groups": []}, "nothing to probe"),
        ({"features": np.zeros((12, 0))}, "nothing to probe"),
        ({"features": np.full((12, 2), np.nan)}, "NaN"),
        ({"kind": "rank", "labels": [np.inf] * 12}, "infinity"),
        ({"labels": [5] * 12}, "all labels are 5"),
        ({"groups": [0, 1, 2] * 4}, "3 groups for 4 folds"),
        ({"folds": 1}, "for 1 folds"),
        ({"labels": [0] * 9 + [1] * 3}, "label 1 is in 3 groups, fewer than 4 folds"),
    ],
)
def test_invalid_input_is_refused(change, message):
    given = {"features": normal(12, 2), "labels": np.arange(12) % 2, "groups": np.arange(12), "folds": 4} | change
    with pytest.raises(ValueError, match=message):
        probe(**given)


# EXIF


def photos_of(cameras: int, each: int) -> list[Photo]:
    """Cameras of two alternating makes; flash and sensitivity vary by photo."""
    return [
        Photo(
            f"{camera}/{i}",
            {"Make": "AB"[camera % 2], "Model": f"M{camera}", "Flash": str(i % 2)}
            | {"PhotographicSensitivity": str(100 * 2 ** (i % 4)), "ExposureTime": f"1/{2 ** (i % 5)}"},
            [],
        )
        for camera in range(cameras)
        for i in range(each)
    ]


def test_each_tag_is_read_from_informative_features():
    photos = photos_of(10, 8)
    informed = np.array(
        [[p.make == "A", p.tags["Flash"] == "1", float(p.tags["PhotographicSensitivity"])] for p in photos]
    )
    table = exif_probes(
        {"informed": informed, "noise": normal(80, 3)}, photos, ("Make", "Model", "Flash", "PhotographicSensitivity")
    )
    score = table.set_index(["tag", "grouping", "method"])["score"]
    assert len(table) == 7 * 2 and ("Model", "camera", "informed") not in score
    for grouping in ("camera", "photo"):
        assert score["Make", grouping, "informed"] == score["Flash", grouping, "informed"] == 1
        assert score["PhotographicSensitivity", grouping, "informed"] > 0.9
        assert score["Flash", grouping, "noise"] < 0.75
    counts = table.set_index(["tag", "grouping", "method"]).loc[("Model", "photo", "informed")]
    assert counts["classes"] == 10 and counts["groups"] == 80 and counts["chance"] == pytest.approx(0.1)
    assert table.loc[table["tag"] == "Flash", "kind"].eq("class").all()
    assert table.loc[table["tag"] == "PhotographicSensitivity", "kind"].eq("rank").all()


def test_camera_features_predict_the_make_only_of_known_cameras():
    photos = photos_of(40, 6)
    camera = np.array([int(photo.tags["Model"][1:]) for photo in photos])
    rng = np.random.default_rng(0)
    features = rng.normal(size=(40, 80))[camera] + 0.01 * rng.normal(size=(240, 80))
    score = exif_probes({"camera": features}, photos, ["Make"]).set_index("grouping")["score"]
    assert score["photo"] > 0.95 and score["camera"] < 0.75


def test_rare_values_and_photos_without_the_tag_are_counted():
    photos = photos_of(10, 2)
    photos[0].tags["Flash"] = "once"
    del photos[1].tags["Flash"]
    row = exif_probes({"a": normal(20, 2)}, photos, ["Flash"]).set_index("grouping").loc["photo"]
    assert (row["n"], row["left_out"], row["values_left_out"], row["classes"]) == (18, 2, 1, 2)


def test_a_tag_with_too_little_variation_has_no_score():
    photos = photos_of(10, 2)
    for photo in photos:
        photo.tags["ExposureTime"] = "0"  # has no logarithm
        photo.tags["Orientation"] = "1"
    tags = ["Flash", "Sharpness", "Orientation", "FNumber", "ExposureTime"]
    table = exif_probes({"a": normal(20, 2)}, photos, tags).set_index(["tag", "grouping"])
    assert table.loc[[tag for tag in tags if tag != "Flash"], "score"].isna().all()
    assert table.loc[("FNumber", "camera"), ["n", "left_out"]].tolist() == [0, 20]
    assert len(plot_probes(table.reset_index(), ["tag", "grouping"]).data[-1].x) == 2


def test_the_figure_has_a_color_per_method_and_shows_chance():
    table = exif_probes({"a": normal(40, 2), "b": normal(40, 3)}, photos_of(10, 4), ["Make", "Flash"])
    figure = plot_probes(table, ["tag", "grouping"])
    assert [trace.name for trace in figure.data] == ["a", "b", "chance"]
    assert list(figure.data[0].y) == ["Make, camera", "Make, photo", "Flash, camera", "Flash, photo"]
    assert list(figure.data[1].x) == table.loc[table["method"] == "b", "score"].tolist()
    assert list(figure.data[2].x) == [0.5] * 4


def test_no_photos():
    with pytest.raises(ValueError, match="no photos"):
        exif_probes({"a": normal(0, 2)}, [])


# Splices


def test_pictures_of_one_source_are_one_group():
    pictures = [
        ("Au_ani_0001.jpg", {}),
        ("Sp_D_NRN_A_ani0001_art0029_0478.jpg", {"sources": "ani0001 art0029"}),
        ("Sp_D_NRN_A_art0029_nat0003_0479.jpg", {"sources": "art0029 nat0003"}),
        ("Au_nat_0003.jpg", {}),
        ("Sp_S_NRN_A_cha0041_cha0041_0514.jpg", {"sources": "cha0041 cha0041"}),
        ("Au_cha_00041.jpg", {}),
        ("odd.png", {}),
        ("odd.jpg", {"format": "jpg"}),
    ]
    groups = source_groups(pictures)
    assert len(set(groups[:4])) == 1
    assert len({groups[0], *groups[4:]}) == 5
    assert len(source_groups([])) == 0


def test_sources_are_parsed_from_the_names_of_both_casia_editions():
    names = ["Au_ani_00018.jpg", "Tp_D_CND_M_N_ani00018_sec00096_00138.tif", "Au_sec_00096.bmp", "Au_sec_30096.jpg"]
    groups = source_groups([(name, {}) for name in names])
    assert len(set(groups[:3])) == 1 and groups[3] != groups[0]
    same = source_groups(
        [("Sp_D_NRN_A_art0071_art0029_0478.jpg", {}), ("Au_art_0029.jpg", {}), ("my_art_0029.jpg", {})]
    )
    assert same[0] == same[1] != same[2]


def write_pictures(folder, count: int = 24, spliced_is_red: bool = True) -> None:
    """Spliced and authentic in turn, small and large in turn; spliced ones are red if asked for."""
    rng = np.random.default_rng(0)
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for i in range(count):
        size = ((60, 300), (300, 250))[i // 2 % 2]
        image = rng.integers(0, 100, (*size, 3), dtype=np.uint8)
        image[..., 0] += 100 * np.uint8(i % 2 and spliced_is_red)
        Image.fromarray(image).save(folder / f"images/{i:02d}.png")
        mask = np.zeros(size, np.uint8)
        mask[:20, :20] = 255 * (i % 2)
        Image.fromarray(mask).save(folder / f"masks/{i:02d}.png")


def test_spliced_pictures_are_detected_from_informative_features(tmp_path):
    write_pictures(tmp_path)
    (tmp_path / "images/broken.png").write_bytes(b"no picture")
    (tmp_path / "masks/broken.png").write_bytes(b"no picture")
    benchmark = load_benchmark("folder", tmp_path)
    table = splice_probe({"color": MeanColor()}, benchmark)
    assert table["view"].tolist() == ["center crop", "resized"] and set(table["method"]) == {"color"}
    assert table["score"].tolist() == [1, 1] and table["n"].tolist() == [24, 24]
    assert table["chance"].tolist() == [0.5, 0.5] and table["groups"].tolist() == [24, 24]
    assert [name for name, _ in benchmark.skipped] == ["broken.png"]


def test_pictures_with_common_sources_are_never_in_different_folds(tmp_path):
    """Pairs of a splice and its source: sources could be recognized, but a group holds both kinds."""
    folders = [tmp_path / name for name in ("Au", "Tp/Sp", "CASIA 1.0 groundtruth/Sp")]
    for folder in folders:
        folder.mkdir(parents=True)
    for i in range(10):
        picture = Image.fromarray(np.random.default_rng(i).integers(0, 256, (48, 64, 3), dtype=np.uint8))
        picture.save(folders[0] / f"Au_ani_{i:04d}.png")
        stem = f"Sp_S_NNN_A_ani{i:04d}_ani{i:04d}_{i:04d}"
        picture.save(folders[1] / f"{stem}.png")
        mask = np.zeros((48, 64), np.uint8)
        mask[:9] = 255
        Image.fromarray(mask).save(folders[2] / f"{stem}_gt.png")
    table = splice_probe({"color": MeanColor()}, load_benchmark("casia_1", tmp_path))
    assert table["groups"].tolist() == [10, 10] and table["n"].tolist() == [20, 20]
    assert table["score"].tolist() == [0.5, 0.5]  # both pictures of a pair look the same, and one of them is spliced


def test_a_benchmark_that_cannot_be_read_says_why(tmp_path):
    write_pictures(tmp_path, 1)
    (tmp_path / "images/00.png").write_bytes(b"no picture")
    with pytest.raises(BenchmarkError, match="no picture to probe among 1 .*00.png"):
        splice_probe({"color": MeanColor()}, load_benchmark("folder", tmp_path))


def test_views_of_small_and_large_pictures():
    image = np.random.default_rng(0).integers(0, 256, (100, 301, 3), dtype=np.uint8)
    np.testing.assert_array_equal(center_crop(image), image[:, 38:262])
    assert center_crop(image[:1, :1]).shape == (1, 1, 3)
    assert reduced(image).shape == reduced(image[:1, :1]).shape == (224, 224, 3)
    assert (reduced(np.full((300, 300, 3), 77, np.uint8)) == 77).all()


def test_a_network_is_set_to_evaluation_mode():
    torch.manual_seed(0)
    model = ExifLang(ExifLangConfig.preset("tiny")).train()
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    (embedding,) = embed(model, image[None])
    assert not model.training and embedding.dtype == np.float32
    assert np.linalg.norm(embedding) == pytest.approx(1, abs=1e-5)
    np.testing.assert_array_equal(embedding, embed(model, image[None])[0])


# Distortion


class Spread:
    """Encodes the size of a dark disc and nothing else."""

    def encode_image(self, patches):
        dark = (patches.float().mean(1) < 128).float()  # [B, 3, H, W] -> [B, H, W]
        return torch.stack([dark.mean((1, 2)), dark[:, patches.shape[2] // 2].mean(1)], dim=1)  # [B, 2]


def discs(count: int = 5) -> list[np.ndarray]:
    y, x = np.mgrid[:450, :450] - 224.5
    dark = [np.hypot(y, x) < 125 + i / 10 for i in range(count)]
    return [np.repeat(np.where(disc[..., None], 0, 255).astype(np.uint8), 3, axis=2) for disc in dark]


def test_only_an_encoder_that_sees_distortion_predicts_it():
    table = distortion_probe({"spread": Spread(), "blind": Blind()}, discs(), strengths=16, folds=4)
    score = table.set_index(["view", "asked", "method"])["score"]
    assert len(table) == 8 and table["n"].eq(80).all() and table["groups"].eq(5).all()
    assert score["whole", "order", "spread"] > 0.98 and score["whole", "order", "blind"] == 0
    assert score["whole", "bin", "spread"] > 0.15 and score["whole", "bin", "blind"] < 0.1
    assert table.loc[table["asked"] == "bin", "chance"].tolist() == [0.05] * 4


class Blind:
    def encode_image(self, patches):
        return torch.ones(len(patches), 3)


def test_corners_and_middle_are_returned_in_order():
    image = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    windows = corners_and_middle(image)
    assert windows.shape == (5, 64, 64, 3)
    for window, (y, x) in zip(windows, [(0, 0), (0, 160), (160, 0), (160, 160), (80, 80)], strict=True):
        np.testing.assert_array_equal(window, image[y : y + 64, x : x + 64])


def test_distortion_probe_is_reproducible_and_depends_on_the_seed():
    given = {"spread": Spread()}, discs(), 20, 2
    table = distortion_probe(*given, seed=1)
    pd.testing.assert_frame_equal(table, distortion_probe(*given, seed=1))
    assert not table.equals(distortion_probe(*given, seed=0))


@pytest.mark.parametrize(("count", "strengths"), [(0, 20), (5, 0)])
def test_the_distortion_probe_needs_pictures_and_strengths(count, strengths):
    with pytest.raises(ValueError, match=f"{count} pictures and {strengths} strengths"):
        distortion_probe({"spread": Spread()}, discs(count), strengths)


def test_too_few_pictures_for_every_bin_are_refused():
    with pytest.raises(ValueError, match="is in 1 groups, fewer than 5 folds"):
        distortion_probe({"spread": Spread()}, discs(5), strengths=4)
