"""Scores of pictures, on embeddings whose result is known."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from exiflang.evaluation import scoring
from exiflang.evaluation.benchmarks import load_benchmark
from exiflang.evaluation.layouts import BenchmarkError
from exiflang.evaluation.metrics import LOCALIZATION, localization_scores
from exiflang.evaluation.scoring import OVER, score_pictures, summarize_pictures
from exiflang.localization.localizer import SpliceLocalizer
from exiflang.localization.reference import MOST_CELLS
from exiflang.localization.windows import window_grid
from exiflang.models.config import ExifLangConfig
from exiflang.models.model import ExifLang

METRICS = LOCALIZATION["default"]


class ColorEncoder:
    def encode_image(self, patches):
        return F.normalize(patches.float().mean((2, 3)) - 127.5, dim=1)


class ConstantEncoder:
    def encode_image(self, patches):
        return F.normalize(torch.ones(len(patches), 4), dim=1)


def write_benchmark(folder, broken: bool = True, spliced: bool = True, authentic: bool = True):
    """An obvious splice, an authentic picture of one color and noise, and a file that is not a picture."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    mask = np.zeros((96, 128), bool)
    mask[20:50, 70:100] = True
    kinds = ["spliced"] * spliced + ["authentic"] * authentic
    for kind in kinds:
        here = mask if kind == "spliced" else np.zeros_like(mask)
        color = np.where(here[..., None], (60, 90, 200), (200, 110, 60))
        pixels = np.clip(color + rng.normal(0, 20, color.shape), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{kind}.png")
        Image.fromarray(here.astype(np.uint8) * 255).save(folder / "masks" / f"{kind}.png")
    if broken:
        (folder / "images" / "broken.png").write_bytes(b"no picture")
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / "masks" / "broken.png")
    return load_benchmark("folder", folder)


def test_mode_and_precision_are_passed_only_to_models(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(scoring, "SpliceLocalizer", lambda *a, **k: made.append(k) or SpliceLocalizer(*a, **k))
    encoders = {"model": ExifLang(ExifLangConfig.preset("tiny")), "color": ColorEncoder()}
    scores = score_pictures(encoders, write_benchmark(tmp_path), mode="dense", precision="bf16")
    assert set(scores["method"]) == {"model", "color"}
    assert [(k.get("mode"), k.get("precision")) for k in made] == [("dense", "bf16"), (None, None)]


def test_pictures_are_scored_by_each_encoder_and_readout(tmp_path):
    benchmark = write_benchmark(tmp_path)
    encoders = {"color": ColorEncoder(), "constant": ConstantEncoder()}
    scores = score_pictures(encoders, benchmark, ["far_friends", "mean_shift"], window_size=16)
    assert len(scores) == 2 * 2 * 2
    assert list(scores.columns) == [
        *("set", "name", "format", "spliced", "method", "readout", "protocol", "border", "detection", "p_value"),
        *METRICS,
    ]
    assert [name for name, _ in benchmark.skipped] == ["broken.png"] and "broken.png" in benchmark.skipped[0][1]
    authentic = scores[~scores["spliced"]]
    assert set(authentic["name"]) == {"authentic.png"} and authentic[METRICS].isna().all(axis=None)
    assert set(scores["format"]) == {"png"} and scores["detection"].notna().all()
    by_method = scores[scores["spliced"]].set_index(["method", "readout"])
    assert by_method.loc[("color", "far_friends"), "ap"] > 0.9
    share = 30 * 30 / (96 * 128)
    assert by_method.loc[("constant", "far_friends"), "ap"] == pytest.approx(share, abs=0.01)
    summary = summarize_pictures(scores).set_index(["method", "readout"])
    assert summary.loc[("color", "far_friends"), "detection_ap"] == 1
    assert summary.loc[("color", "far_friends"), ["pictures", "authentic"]].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("rows", "named"), [(slice(0, 93), "thin.png"), (slice(0, 96, 4), "thin.png"), (slice(60), "")]
)
def test_a_border_that_leaves_one_class_or_none_skips_the_picture(tmp_path, rows, named):
    write_benchmark(tmp_path, broken=False)
    mask = np.zeros((96, 128), np.uint8)
    mask[rows] = 255
    Image.fromarray(mask).save(tmp_path / "masks" / "thin.png")
    Image.open(tmp_path / "images" / "spliced.png").save(tmp_path / "images" / "thin.png")
    benchmark = load_benchmark("folder", tmp_path)
    scores = score_pictures({"color": ColorEncoder()}, benchmark, window_size=16, border=4)
    assert [name for name, _ in benchmark.skipped] == [named] * bool(named)
    assert set(scores["name"]) == {"spliced.png", "authentic.png", "thin.png"} - {named}
    assert all("a border of 4 pixels leaves no two classes" in reason for _, reason in benchmark.skipped)


def test_scores_match_the_localizer(tmp_path):
    benchmark = write_benchmark(tmp_path, broken=False, authentic=False)
    how = {"windows_per_side": 20, "window_size": 16}
    row = score_pictures({"color": ColorEncoder()}, benchmark, ["diffusion"], **how).iloc[0]
    (item,) = benchmark
    result = SpliceLocalizer(ColorEncoder(), 20, 16, "diffusion")(item.image)
    expected = localization_scores(item.mask, result.heatmap)
    assert {name: row[name] for name in METRICS} == pytest.approx(expected)
    assert row["detection"] == pytest.approx(result.score)


def test_info_columns_of_a_benchmark_are_kept(tmp_path):
    write_benchmark(tmp_path, broken=False)
    (tmp_path / "index.csv").write_text("name,kind,donor_scale\nspliced,spliced,0.75\nauthentic,authentic,\n")
    benchmark = load_benchmark("folder", tmp_path)
    scores = score_pictures({"color": ColorEncoder()}, benchmark, window_size=16, info=("donor_scale", "camera"))
    assert scores["donor_scale"].tolist() == ["0.75", ""] and scores["camera"].tolist() == [None, None]
    assert list(scores.columns)[1:5] == ["name", "donor_scale", "camera", "spliced"]


def test_pictures_are_scored_with_the_windows_of_a_calibrated_model(tmp_path):
    benchmark = write_benchmark(tmp_path, broken=False, authentic=False)
    (item,) = benchmark
    localizer = SpliceLocalizer(ColorEncoder(), 20)
    assert localizer.embed(item.image, True)[1] != localizer.embed(item.image)[1]
    rows = [score_pictures({"color": ColorEncoder()}, benchmark, windows_per_side=20, calibrated=c) for c in (0, 1)]
    assert rows[0].iloc[0]["auc"] == score_pictures({"c": ColorEncoder()}, benchmark, windows_per_side=20)["auc"][0]
    assert rows[0].iloc[0]["auc"] != rows[1].iloc[0]["auc"]


def test_all_encoders_use_the_windows_that_one_of_them_requires(tmp_path):
    """All use windows 8 px apart: a tower without padding needs them, and its scores are compared with the others'."""

    class Spy(ColorEncoder):
        windows = 0

        def encode_image(self, patches):
            self.windows += len(patches)
            return super().encode_image(patches)

    benchmark = write_benchmark(tmp_path, broken=False, authentic=False)  # one picture of 96 x 128
    config = ExifLangConfig.preset("base")
    config.text_config = config.text_config | {"vocab_size": 30}
    alone, beside = Spy(), Spy()
    score_pictures({"alone": alone}, benchmark, windows_per_side=20, window_size=40)
    score_pictures({"model": ExifLang(config), "beside": beside}, benchmark, windows_per_side=20, window_size=40)
    assert window_grid(96, 128, 40, 20) == (40, 5) and alone.windows == 12 * 18
    assert window_grid(96, 128, 40, 20, 8) == (40, 8) and beside.windows == 8 * 12


def test_more_pictures_than_fit_in_the_queue(tmp_path, monkeypatch):
    monkeypatch.setattr(scoring.os, "cpu_count", lambda: None)  # unknown: one worker, two waiting
    for i in range(3):
        write_benchmark(tmp_path / "all" / str(i), broken=False)
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir(), masks.mkdir()
    for path in sorted((tmp_path / "all").glob("*/*/*.png")):
        path.rename(tmp_path / path.parent.name / f"{path.parent.parent.name}_{path.name}")
    scores = score_pictures({"color": ColorEncoder()}, load_benchmark("folder", tmp_path), window_size=16)
    assert list(scores["name"]) == [f"{i}_{kind}.png" for i in range(3) for kind in ("authentic", "spliced")]


def test_the_error_without_readable_pictures_gives_the_reason(tmp_path):
    benchmark = write_benchmark(tmp_path, spliced=False, authentic=False)
    with pytest.raises(BenchmarkError, match="no picture to score among 1 .*broken.png"):
        score_pictures({"color": ColorEncoder()}, benchmark)


def test_unknown_readout_is_refused_before_any_work(tmp_path):
    with pytest.raises(ValueError, match=r"unknown readouts \['far_frends'\]"):
        score_pictures({"color": ColorEncoder()}, write_benchmark(tmp_path), ["far_frends"])


def test_nan_embeddings_are_an_error(tmp_path):
    class Broken:
        def encode_image(self, patches):
            return torch.full((len(patches), 2), torch.nan)

    with pytest.raises(ValueError, match="embeddings are broken"):
        score_pictures({"broken": Broken()}, write_benchmark(tmp_path))


def score_rows(method: str, p_map: list, detection: list) -> list[dict]:
    return [
        dict.fromkeys(METRICS, value)
        | {"name": str(i), "format": "png", "spliced": not math.isnan(value), "method": method}
        | {"readout": "far_friends", "detection": score, "set": "made", "protocol": "default", "border": 0}
        | {"p_value": math.nan}
        for i, (value, score) in enumerate(zip(p_map, detection, strict=True))
    ]


def test_summary_by_hand():
    rows = score_rows("b", [0.2, 0.4, 0.9, math.nan], [0.9, 0.8, 0.1, 0.5])
    rows += score_rows("a", [0.5, 0.5, 0.5, math.nan], [0.1, 0.1, 0.1, 0.1])
    rows[0]["auc"] = math.nan  # undefined: the whole picture is tampered
    summary = summarize_pictures(pd.DataFrame(rows))
    assert list(summary["method"]) == ["b", "a"]  # in order of first appearance
    b = summary.iloc[0]
    assert b["p_map"] == pytest.approx(0.5) and b["auc"] == pytest.approx(0.65)
    assert b["p_map_se"] == pytest.approx(np.sqrt((0.09 + 0.01 + 0.16) / 2 / 3))
    assert b["detection_ap"] == pytest.approx((1 + 1 + 3 / 4) / 3)
    assert (b["pictures"], b["authentic"]) == (3, 1)
    assert summary.iloc[1]["detection_ap"] == pytest.approx(3 / 4) and summary.iloc[1]["p_map_se"] == 0


def test_detection_without_authentic_pictures_is_nan():
    summary = summarize_pictures(pd.DataFrame(score_rows("a", [0.5], [0.3]))).iloc[0]
    assert math.isnan(summary["detection_ap"]) and math.isnan(summary["p_map_se"])
    assert summary["p_map"] == 0.5 and (summary["pictures"], summary["authentic"]) == (1, 0)


def test_pictures_with_p_values_up_to_0_05_are_flagged():
    scores = pd.DataFrame(score_rows("a", [0.5, 0.5, 0.5, math.nan, math.nan], [0.3] * 5))
    assert summarize_pictures(scores)[["flagged", "false_alarms"]].isna().all(axis=None)
    summary = summarize_pictures(scores.assign(p_value=[0.01, 0.05, 0.051, 0.04, 1])).iloc[0]
    assert (summary["flagged"], summary["false_alarms"]) == (pytest.approx(2 / 3), 0.5)
    alone = summarize_pictures(scores.assign(p_value=0.01)[:3]).iloc[0]
    assert alone["flagged"] == 1 and math.isnan(alone["false_alarms"])


def test_summary_without_spliced_pictures_is_nan():
    summary = summarize_pictures(pd.DataFrame(score_rows("a", [math.nan, math.nan], [0.3, 0.4]))).iloc[0]
    assert np.isnan(summary[[*METRICS, "p_map_se", "detection_ap"]].astype(float)).all()
    assert (summary["pictures"], summary["authentic"]) == (0, 2)


def test_a_summary_includes_the_protocol(tmp_path):
    benchmark = write_benchmark(tmp_path, broken=False)
    default = score_pictures({"color": ColorEncoder()}, benchmark, window_size=16, border=3)
    how = {"windows_per_side": 10, "window_size": 16, "protocol": "reference"}
    reference = score_pictures({"color": ColorEncoder()}, benchmark, ["sequential_mean_shift"], **how)
    summary = summarize_pictures(pd.concat([default, reference]))
    said = ["set", "over", "pictures", "authentic", "protocol", "border", "readout"]
    assert summary[said].values.tolist() == [
        ["folder", OVER, 1, 1, "default", 3, "far_friends"],
        ["folder", OVER, 1, 1, "reference", 0, "sequential_mean_shift"],
    ]
    assert summary.loc[0, METRICS].notna().all() and math.isnan(summary.loc[0, "mcc"])
    assert summary.loc[1, LOCALIZATION["reference"]].notna().all() and math.isnan(summary.loc[1, "best_mcc"])


def test_reference_scores_are_computed_on_the_raw_map(tmp_path):
    benchmark = write_benchmark(tmp_path, broken=False, authentic=False)
    how = {"windows_per_side": 8, "window_size": 16, "protocol": "reference"}
    row = score_pictures({"color": ColorEncoder()}, benchmark, ["sequential_mean_shift"], **how).iloc[0]
    (item,) = benchmark
    result = SpliceLocalizer(ColorEncoder(), 8, 16, protocol="reference")(item.image)
    expected = localization_scores(item.mask, result.raw, "reference")
    assert {name: row[name] for name in expected} == pytest.approx(expected)
    assert row["detection"] == pytest.approx(result.score)


def test_a_picture_that_the_protocol_cannot_handle_is_skipped_by_name(tmp_path):
    benchmark = write_benchmark(tmp_path)
    Image.new("RGB", (100, 100)).save(tmp_path / "images" / "authentic.png")
    Image.new("L", (100, 100)).save(tmp_path / "masks" / "authentic.png")
    how = {"readouts": ["mean_shift"], "windows_per_side": 30, "window_size": 64, "protocol": "reference"}
    scores = score_pictures({"color": ColorEncoder()}, benchmark, **how | {"windows_per_side": 4})
    assert len(scores) == 2
    with pytest.raises(BenchmarkError, match=f"more than {MOST_CELLS:,}"):
        score_pictures({"color": ColorEncoder()}, benchmark.only(["authentic.png"]), **how)
    with pytest.raises(ValueError, match="unknown readouts"):
        score_pictures({"color": ColorEncoder()}, benchmark, ["sequential_mean_shift"])
