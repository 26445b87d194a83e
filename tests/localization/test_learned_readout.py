"""The learned readout: its inputs, its output for any input, its file, and who uses it."""

import io
import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from exiflang.evaluation.baselines import MeanColor
from exiflang.evaluation.benchmarks import load_benchmark
from exiflang.evaluation.scoring import score_pictures
from exiflang.localization import learned_readout as module
from exiflang.localization.decision import Calibration, Record
from exiflang.localization.evidence import MEANINGS, NUMBERS, Evidence
from exiflang.localization.learned_readout import (
    FILE,
    MAPS,
    PICTURE,
    Inputs,
    LearnedReadout,
    model_readout,
    readout_inputs,
    readout_sha256,
)
from exiflang.localization.localizer import SpliceLocalizer
from exiflang.localization.relations import window_relations
from exiflang.models.config import ExifLangConfig
from exiflang.models.model import ExifLang
from exiflang.utils.files import file_sha256

GRIDS = [(1, 1), (1, 7), (9, 1), (2, 2), (5, 6)]


def fresh(width: int = 8, blocks: int = 2) -> LearnedReadout:
    torch.manual_seed(0)
    return LearnedReadout(width, blocks).eval()


def inputs_of(rows: int, cols: int, seed: int = 0, absent: tuple[str, ...] = ()) -> Inputs:
    rng = np.random.default_rng(seed)
    embeddings = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(rows, cols, 6))).float(), dim=2)
    maps = {name: rng.normal(size=(rows, cols)).astype(np.float32) for name in MEANINGS if name not in absent}
    numbers = rng.normal(size=len(NUMBERS)).astype(np.float32)
    return readout_inputs(window_relations(embeddings), Evidence(maps, dict.fromkeys(absent, "none"), numbers))


def noise(height: int = 90, width: int = 120, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


CALIBRATION = Calibration({"large, no JPEG": [Record("Canon A", 2.5), Record("Canon B", 3.0)]})


@pytest.fixture
def folder(tmp_path):
    """A model's folder without a readout."""
    torch.manual_seed(0)
    ExifLang(ExifLangConfig.preset("tiny")).save_pretrained(tmp_path)
    return tmp_path


# Inputs


@pytest.mark.parametrize("grid", GRIDS)
def test_inputs_have_the_documented_shapes(grid):
    inputs = inputs_of(*grid)
    n = grid[0] * grid[1]
    assert inputs.maps.shape == (*grid, len(MAPS)) and inputs.picture.shape == (len(PICTURE),)
    assert inputs.cosine.shape == (n, n) and inputs.references.tolist() == list(range(n))
    assert all(values.dtype == torch.float32 for values in (inputs.maps, inputs.picture, inputs.cosine))
    assert inputs.maps.isfinite().all() and inputs.picture.isfinite().all()


def test_names_of_inputs_are_unique():
    assert len(set(MAPS)) == len(MAPS) and len(set(PICTURE)) == len(PICTURE)


def test_evidence_is_given_raw_and_standardized():
    inputs = inputs_of(5, 6)
    rng = np.random.default_rng(0)
    rng.normal(size=(5, 6, 6))
    for name in MEANINGS:
        values = rng.normal(size=(5, 6))
        scale = 0.1 if "history" in name else 1
        np.testing.assert_allclose(inputs.maps[..., MAPS.index(name)], scale * values, atol=1e-5)
        standard = (values - values.mean()) / values.std()
        np.testing.assert_allclose(inputs.maps[..., MAPS.index(f"{name}, standardized")], standard, atol=1e-4)
        told = inputs.picture[PICTURE.index(f"log of the deviation of {name}")]
        assert told == pytest.approx(np.log(values.std() + 1e-3), abs=1e-5)


def test_missing_maps_are_zero():
    inputs = inputs_of(3, 4, absent=("jpeg_history", "grid_along"))
    for name in ("jpeg_history", "grid_along", "jpeg_history, standardized", "grid_along, standardized"):
        assert not inputs.maps[..., MAPS.index(name)].any()


@pytest.mark.parametrize("rows, cols", [(1, 1), (1, 4), (3, 3), (4, 7)])
def test_border_equals_its_loop(rows, cols):
    expected = [
        [min(y + 1, rows - y, x + 1, cols - x) / (min(rows, cols) + 1) for x in range(cols)] for y in range(rows)
    ]
    np.testing.assert_allclose(inputs_of(rows, cols).maps[..., MAPS.index("border")], expected, rtol=1e-6)


# Output


@pytest.mark.parametrize("grid", GRIDS)
def test_logits_of_windows(grid):
    with torch.inference_mode():
        windows, again = fresh()(inputs_of(*grid)), fresh()(inputs_of(*grid))
    assert windows.shape == grid and windows.isfinite().all()
    assert torch.equal(windows, again)


def loop_block(block: module.Block, x: torch.Tensor, inputs: Inputs, rows: int) -> torch.Tensor:
    """Window by window."""
    cols = len(x) // rows
    y = block.norm(x)
    plane = torch.nn.functional.pad(y.T.reshape(1, -1, rows, cols), (2, 2, 2, 2), mode="replicate")[0]
    kernel = block.around.weight[:, 0]  # [W, 5, 5]
    out = []
    for i in range(len(x)):
        row, col = divmod(i, cols)
        around = (plane[:, row : row + 5, col : col + 5] * kernel).sum((1, 2)) + block.around.bias
        seen = [y[i]]
        for sharpness in (4, 12):
            weights = torch.exp(sharpness * inputs.cosine[i])
            seen.append(sum(w * y[j] for w, j in zip(weights, inputs.references, strict=True)) / weights.sum())
        out.append(x[i] + block.mlp(torch.cat([*seen, around])))
    return torch.stack(out)


@pytest.mark.parametrize("grid", [(1, 1), (1, 7), (4, 5)])
def test_the_network_equals_its_loop(grid):
    readout, inputs = fresh(), inputs_of(*grid)
    expected = torch.zeros(grid)
    with torch.inference_mode():
        for net in readout.networks:
            x = net.of_window(inputs.maps.flatten(0, 1).clamp(-5, 5)) + net.of_picture(inputs.picture.clamp(-5, 5))
            for block in net.blocks:
                x = loop_block(block, x, inputs, grid[0])
            expected += net.head(net.norm(x))[:, 0].view(grid) / len(readout.networks)
        torch.testing.assert_close(readout(inputs), expected, atol=1e-5, rtol=1e-4)


def test_the_output_is_the_mean_over_networks():
    readout, inputs = fresh(), inputs_of(4, 5)
    with torch.inference_mode():
        windows = readout(inputs)
        networks, said = list(readout.networks), []
        for network in networks:
            readout.networks = nn.ModuleList([network])
            said.append(readout(inputs))
    first, second = said
    assert not torch.equal(first, second)
    torch.testing.assert_close(windows, (first + second) / 2)


def test_inputs_are_standardized_by_buffers():
    readout, inputs = fresh(), inputs_of(4, 5)
    with torch.inference_mode():
        plain = readout(inputs)
        readout.maps_mean += 3
        readout.maps_deviation *= 2
        moved = readout(Inputs(inputs.maps * 2 + 3, inputs.picture, inputs.cosine, inputs.references))
    torch.testing.assert_close(moved, plain, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("value", [1e38, -1e38, np.inf, -np.inf, 0.0])
def test_extreme_inputs_give_finite_logits(value):
    inputs = inputs_of(3, 4)
    inputs.maps[:] = value
    inputs.picture[:] = value
    with torch.inference_mode():
        assert fresh()(inputs).isfinite().all()


# Its file


@pytest.mark.parametrize("calibration", [None, CALIBRATION, Calibration({})])
def test_a_round_trip_changes_nothing(tmp_path, calibration):
    torch.manual_seed(0)
    readout = LearnedReadout(12, 3, 1).eval()
    readout.maps_mean += 0.5
    readout.calibration = calibration
    readout.save(tmp_path)
    loaded = LearnedReadout.load(tmp_path / FILE)
    assert not loaded.training and (loaded.width, loaded.depth, len(loaded.networks)) == (12, 3, 1)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in readout.state_dict().items())
    assert (loaded.calibration is None) == (calibration is None)
    if calibration is not None:
        assert loaded.calibration.records == calibration.records
    inputs = inputs_of(3, 4)
    with torch.inference_mode():
        assert torch.equal(loaded(inputs), readout(inputs))
    again = tmp_path / "again"
    again.mkdir()
    loaded.save(again)
    assert (again / FILE).read_bytes() == (tmp_path / FILE).read_bytes()


def rewritten(path, facts: dict | None = None, weights: dict | None = None) -> None:
    """Rewrite the file with other facts or weights."""
    with safe_open(path, framework="pt") as file:
        old = json.loads(file.metadata()["facts"])
    save_file(load_file(path) | (weights or {}), path, {"facts": json.dumps(old | (facts or {}))})


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "cut in its header": lambda path: path.write_bytes(path.read_bytes()[:50]),
    "no safetensors": lambda path: path.write_bytes(b"\xff" * 4000),
    "missing": lambda path: path.unlink(),
    "without facts": lambda path: save_file(load_file(path), path),
    "facts that are not JSON": lambda path: save_file(load_file(path), path, {"facts": "{"}),
    "facts that are a list": lambda path: save_file(load_file(path), path, {"facts": "[]"}),
    "other maps": lambda path: rewritten(path, {"maps": [*MAPS[:-1], "edge"]}),
    "fewer numbers": lambda path: rewritten(path, {"picture": PICTURE[:-1]}),
    "other width": lambda path: rewritten(path, {"width": 16}),
    "infinite width": lambda path: rewritten(path, {"width": float("inf")}),
    "negative width": lambda path: rewritten(path, {"width": -8}),
    "no width": lambda path: rewritten(path, {"width": None}),
    "more networks than there are": lambda path: rewritten(path, {"networks": 3}),
    "a million networks": lambda path: rewritten(path, {"networks": 10**6}),
    "no network": lambda path: rewritten(path, {"networks": 0}),
    "fewer blocks": lambda path: rewritten(path, {"blocks": 1}),
    "NaN": lambda path: rewritten(path, weights={"maps_mean": torch.full((len(MAPS),), torch.nan)}),
    "infinity": lambda path: rewritten(path, weights={"networks.0.head.bias": torch.full((1,), torch.inf)}),
    "another shape": lambda path: rewritten(path, weights={"networks.0.head.bias": torch.zeros(2)}),
    "a weight too many": lambda path: rewritten(path, weights={"other": torch.zeros(2)}),
    "another calibration": lambda path: rewritten(path, {"calibration": {"large, no JPEG": [[1]]}}),
    "a calibration of other kinds": lambda path: rewritten(path, {"calibration": {"huge": []}}),
    "a calibration that is a list": lambda path: rewritten(path, {"calibration": [1]}),
    "a calibration of NaN": lambda path: rewritten(path, {"calibration": {"large, no JPEG": [["a", float("nan"), 1]]}}),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_error_for_a_damaged_file_says_what_to_do(tmp_path, damage):
    fresh().save(tmp_path)
    DAMAGE[damage](tmp_path / FILE)
    with pytest.raises(ValueError, match="damaged, or from a different version") as error:
        LearnedReadout.load(tmp_path / FILE)
    assert str(tmp_path / FILE) in str(error.value) and "download the model again, or train a readout" in str(
        error.value
    )


# Who uses it


def test_a_model_uses_the_readout_of_its_folder(folder, caplog):
    readout = fresh()
    readout.save(folder)
    model = ExifLang.from_pretrained(folder)
    localizer = SpliceLocalizer(model, windows_per_side=8)
    assert localizer.readout == "learned" and localizer.readout_names[0] == "learned"
    assert readout_sha256(model) == file_sha256(folder / FILE)
    result = localizer(noise())
    assert result.heatmap.shape == result.mask.shape == (90, 120) and np.isfinite(result.raw).all()
    np.testing.assert_allclose(result.heatmap, 1 / (1 + np.exp(-result.raw)), atol=1e-5)
    assert result.decision is None and result.score == result.detection  # not calibrated
    assert not caplog.records


def test_a_calibrated_readout_gives_verdicts(folder):
    readout = fresh()
    kinds = [Record(f"camera {i}", float(i)) for i in range(60)]
    readout.calibration = Calibration({"small, no JPEG": kinds})
    readout.save(folder)
    result = SpliceLocalizer(ExifLang.from_pretrained(folder), windows_per_side=8)(noise())
    assert result.verdict in ("spliced", "no splice found") and result.score == 1 - result.p_value
    assert result.decision.kind == "small, no JPEG" and result.decision.cameras == 60


@pytest.mark.parametrize("height, width", [(1, 1), (1, 40), (16, 16), (23, 50)])
def test_tiny_pictures(folder, height, width):
    fresh().save(folder)
    result = SpliceLocalizer(ExifLang.from_pretrained(folder))(noise(height, width))
    assert result.heatmap.shape == (height, width)
    assert np.isfinite(result.heatmap).all() and np.isfinite(result.score)


def test_a_model_without_a_learned_readout_falls_back_and_warns_once(folder, caplog):
    module._warn_once.cache_clear()
    model = ExifLang.from_pretrained(folder)
    with caplog.at_level(logging.WARNING):
        first, second = SpliceLocalizer(model), SpliceLocalizer(model)
    assert first.readout == second.readout == "diffused_cut" and "learned" not in first.readout_names
    assert [FILE in record.getMessage() and str(folder) in record.getMessage() for record in caplog.records] == [True]
    assert readout_sha256(model) is None


@pytest.mark.parametrize("options", [{"readout": "diffused_cut"}, {"protocol": "reference"}])
def test_there_is_no_warning_if_another_readout_is_requested(folder, caplog, options):
    module._warn_once.cache_clear()
    SpliceLocalizer(ExifLang.from_pretrained(folder), **options)
    assert not caplog.records


@pytest.mark.parametrize("model", [MeanColor(), ExifLang(ExifLangConfig.preset("tiny"))], ids=["baseline", "in memory"])
def test_models_without_a_folder_have_no_learned_readout_and_no_warning(model, caplog):
    module._warn_once.cache_clear()
    assert model_readout(model) is None and readout_sha256(model) is None
    assert SpliceLocalizer(model).readout == "diffused_cut" and not caplog.records


def test_a_hub_model_in_an_unreachable_repository_has_no_learned_readout():
    class FromTheHub:
        name_or_path = "no-such-owner/no-such-model"

    assert model_readout(FromTheHub()) is None


def test_the_reference_protocol_never_uses_the_learned_readout(folder):
    fresh().save(folder)
    localizer = SpliceLocalizer(ExifLang.from_pretrained(folder), protocol="reference")
    assert localizer.readout == "sequential_mean_shift" and "learned" not in localizer.readout_names
    with pytest.raises(ValueError, match="unknown readout 'learned'"):
        SpliceLocalizer(ExifLang.from_pretrained(folder), protocol="reference", readout="learned")


@pytest.mark.parametrize("model", [MeanColor(), ExifLang(ExifLangConfig.preset("tiny"))], ids=["baseline", "in memory"])
def test_requesting_a_missing_learned_readout_is_an_error(model):
    with pytest.raises(ValueError, match="has no learned readout .readout.safetensors.: choose a different"):
        SpliceLocalizer(model, readout="learned")


def test_a_damaged_readout_is_an_error_without_fallback(folder):
    (folder / FILE).write_bytes(b"damaged")
    with pytest.raises(ValueError, match=FILE):
        SpliceLocalizer(ExifLang.from_pretrained(folder))


def test_broken_embeddings_are_an_error():
    class Broken(MeanColor):
        def encode_image(self, patches):
            return super().encode_image(patches) * torch.nan

    localizer = SpliceLocalizer(Broken())
    localizer.learned, localizer.readout = fresh(), "learned"
    with pytest.raises(ValueError, match="embeddings contain NaN"):
        localizer(noise())


def test_a_photo_read_from_a_file_has_the_history_of_the_file(folder):
    """The learned readout is given the JPEG file: its values differ from those for the pixels alone."""
    fresh().save(folder)
    localizer = SpliceLocalizer(ExifLang.from_pretrained(folder), windows_per_side=8)
    file = io.BytesIO()
    Image.fromarray(noise()).save(file, "JPEG", quality=60)
    of_file, of_pixels = localizer(file.getvalue()), localizer(Image.open(file))
    assert of_file.evidence.numbers[0] == 1 and of_pixels.evidence.numbers[0] == 0
    assert np.abs(of_file.raw - of_pixels.raw).max() > 1e-4


def test_baselines_use_the_readout_of_the_model(folder, tmp_path):
    fresh().save(folder)
    root = tmp_path / "set"
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    mask = np.zeros((90, 120), np.uint8)
    mask[20:60, 30:80] = 255
    Image.fromarray(noise()).save(root / "images" / "000.png")
    Image.fromarray(mask).save(root / "masks" / "000.png")
    benchmark = load_benchmark("folder", root)
    encoders = {"model": ExifLang.from_pretrained(folder), "baseline": MeanColor()}
    scores = score_pictures(encoders, benchmark, ["learned", "far_friends"], windows_per_side=8)
    assert scores["method"].tolist() == ["model"] * 2 + ["baseline"] * 2
    assert scores["readout"].tolist() == ["learned", "far_friends"] * 2
    assert scores["p_map"].notna().all() and scores["detection"].notna().all()
    with pytest.raises(ValueError, match="unknown readouts \\['learned'\\]"):
        score_pictures({"baseline": MeanColor()}, benchmark, ["learned"])


def test_lower_precision_applies_only_to_the_model(folder):
    """Evidence, relations and the readout stay in float32, whatever the precision of the embeddings."""
    fresh().save(folder)
    localizer = SpliceLocalizer(ExifLang.from_pretrained(folder), windows_per_side=8)
    plain, again = localizer.observe(noise()), localizer.observe(noise())
    expected = localizer.values(plain, "learned")
    with torch.autocast("cpu", torch.bfloat16):
        found = localizer.values(again, "learned")
        evidence = localizer.observe(noise()).evidence
        by_hand = SpliceLocalizer(localizer.model, windows_per_side=8, readout="diffused_cut")
        assert np.isfinite(by_hand(noise()).reliability).all()
    np.testing.assert_array_equal(found[0], expected[0])
    assert found[1] == expected[1]
    for name, values in plain.evidence.maps.items():
        np.testing.assert_array_equal(evidence.maps[name], values)
