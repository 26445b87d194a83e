"""Training a readout from a model's folder to its file: interrupted, resumed, repeated, and with other settings."""

import io
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score

from exiflang.data.composites import Composite, CompositeDataset
from exiflang.localization.evidence import WindowMeans
from exiflang.localization.learned_readout import FILE, LearnedReadout, readout_inputs
from exiflang.localization.localizer import SpliceLocalizer
from exiflang.models.config import ExifLangConfig
from exiflang.models.model import ExifLang
from exiflang.training import measured as measuring
from exiflang.training import readout as module
from exiflang.training.measured import Measured, measure_pictures, read_measured
from exiflang.training.readout import (
    ReadoutConfig,
    fit_readout,
    train_readout,
    validate,
)
from exiflang.training.run_folder import TrainingError
from exiflang.utils.images import load_image
from exiflang.utils.locks import hold

CONFIG = ReadoutConfig(epochs=3, batch_size=4, ema=0.5)


class SmallPictures:
    """Pictures of 64 x 48 pixels, most of them with a patch of noise: what `CompositeDataset` is to a run."""

    def __init__(self, length: int = 16, seed: int = 0):
        self.length, self.settings = length, {"length": length, "seed": seed}

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Composite:
        rng = np.random.default_rng([self.settings["seed"], index])
        picture = np.full((48, 64, 3), rng.integers(60, 200, 3), float) + rng.normal(0, 3, (48, 64, 3))
        mask = np.zeros((48, 64), bool)
        if index % 4:
            mask[:, : rng.integers(20, 44)] = True
            picture[mask] += rng.normal(0, 40, (mask.sum(), 3))
        file = io.BytesIO()
        Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(file, "PNG" if index % 2 else "JPEG")
        return Composite(file.getvalue(), mask)


class InThisProcess:
    """A process pool that starts no process."""

    def __init__(self, workers, start, *arguments):
        start(*arguments)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        measuring._worker.clear()

    def map(self, function, *jobs, chunksize):
        return map(function, *jobs)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    ExifLang(ExifLangConfig.preset("tiny")).save_pretrained(folder)
    return str(folder)


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    monkeypatch.setattr(measuring, "worker_pool", InThisProcess)


@pytest.fixture(scope="module")
def pictures(model, tmp_path_factory) -> Path:
    """The measured pictures of `SmallPictures()`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "worker_pool", InThisProcess)
        place = tmp_path_factory.mktemp("pictures")
        measure_pictures(place, model, SmallPictures())
    return place


@pytest.fixture(scope="module")
def trained(model, pictures, tmp_path_factory) -> Path:
    """A finished run that nothing has interrupted."""
    return run(tmp_path_factory.mktemp("trained") / "run", model, pictures)[0]


def begin(folder: Path, pictures: Path, model: str) -> Path:
    """A folder whose pictures have been measured already."""
    settings = {"weights": module.weights_sha256(model), "pictures": SmallPictures().settings}
    folder.mkdir(parents=True)
    module._claim(folder, json.loads(json.dumps(settings | {"config": module.asdict(CONFIG)})))
    shutil.copytree(pictures, folder / "readout" / "pictures")
    return folder


def run(folder: Path, model: str, pictures: Path) -> tuple[Path, list[dict]]:
    return folder, train_readout(begin(folder, pictures, model), model, SmallPictures(), CONFIG)


# Measured pictures


def test_measured_pictures_are_what_a_localizer_sees(model, pictures):
    localizer = SpliceLocalizer(ExifLang.from_pretrained(model))
    for number in (1, 4):
        composite = SmallPictures()[number]
        found = read_measured(pictures / f"{number:05d}.npz")
        history = measuring.read_history(composite.data)
        assert (history is None) == bool(number % 2)
        seen = localizer.observe(load_image(composite.data), history, calibrated=True)
        expected = readout_inputs(seen.relations, seen.evidence)
        torch.testing.assert_close(found.maps, expected.maps)
        torch.testing.assert_close(found.picture, expected.picture)
        torch.testing.assert_close(found.inputs().cosine, expected.cosine, atol=5e-2, rtol=0)  # of float16
        assert torch.equal(found.inputs().references, expected.references)
        shares = WindowMeans(48, 64, seen.window, seen.stride)(composite.mask)
        np.testing.assert_array_equal(found.shares, shares)
        assert found.embeddings.dtype == torch.float16 and 0 <= found.shares.min() and found.shares.max() <= 1.00001


def test_a_missing_picture_is_made_again_and_the_others_are_kept(model, pictures, tmp_path):
    place = shutil.copytree(pictures, tmp_path / "pictures")
    before = {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in place.iterdir()}
    (place / "00003.npz").unlink()
    (place / "00005.npz.tmp").write_bytes(b"half")  # what a killed process leaves
    files = measure_pictures(place, model, SmallPictures())
    assert [file.name for file in files] == sorted(before)
    for file in files:
        assert file.read_bytes() == before[file.name][1]
        assert (file.stat().st_mtime_ns == before[file.name][0]) == (file.name != "00003.npz")


def test_nothing_is_started_where_nothing_is_missing(pictures, monkeypatch):
    monkeypatch.setattr(measuring, "worker_pool", lambda *_, **__: pytest.fail("a process was started"))
    assert len(measure_pictures(pictures, "no model needed", SmallPictures())) == 16


def test_pictures_turn_as_a_whole():
    rng = np.random.default_rng(0)
    shares = torch.arange(12.0).view(3, 4)
    measured = Measured(shares[..., None] * torch.ones(5), torch.ones(7), shares[..., None].half(), shares)
    seen = set()
    for _ in range(60):
        turned = measured.turned(rng)
        assert turned.maps.shape == (*turned.shares.shape, 5) and turned.picture is measured.picture
        for k in range(5):
            assert torch.equal(turned.maps[..., k], turned.shares)
        assert torch.equal(turned.embeddings[..., 0].float(), turned.shares)
        seen.add(tuple(turned.shares.flatten().tolist()))
    assert len(seen) == 8


# Runs


def test_a_run_from_a_model_to_a_readout_that_it_uses(model, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    log = train_readout(folder, str(folder), SmallPictures(), CONFIG)
    assert [(line["network"], line["epoch"]) for line in log] == [(n, epoch) for n in (0, 1) for epoch in (0, 1, 2)]
    assert log[2]["loss"] < log[0]["loss"] != log[3]["loss"] > log[5]["loss"]
    assert all(np.isfinite(line["loss"]) and 0 <= line["window_ap"] <= 1 for line in log)
    assert not (folder / "readout").exists()
    localizer = SpliceLocalizer(ExifLang.from_pretrained(folder))
    assert localizer.readout == "learned" and localizer.learned.calibration is None
    assert np.isfinite(localizer(SmallPictures()[1].data).raw).all()


def test_other_processes_can_be_given_the_work():
    start, measure, dataset = pickle.loads(
        pickle.dumps((measuring._start, measuring._measure, CompositeDataset([], [], 3)))
    )
    assert (start, measure) == (measuring._start, measuring._measure) and len(dataset) == 3


def test_the_data_set_of_composites_fits(model, tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "_measure", lambda number, file: file.write_bytes(b""))
    files = measure_pictures(tmp_path, model, CompositeDataset([], [], 3))
    assert [file.name for file in files] == ["00000.npz", "00001.npz", "00002.npz"]


def test_equal_arguments_give_equal_weights(trained, model, pictures, tmp_path):
    again, log = run(tmp_path / "again", model, pictures)
    assert (again / FILE).read_bytes() == (trained / FILE).read_bytes()
    assert (again / "readout_log.jsonl").read_bytes() == (trained / "readout_log.jsonl").read_bytes()


@pytest.mark.parametrize("network", [0, 1])
@pytest.mark.parametrize("part", ["_epoch", "_loss", "_keep"])
def test_an_interrupted_run_equals_an_uninterrupted_one(trained, model, pictures, tmp_path, part, network):
    """Between two epochs, amid an epoch, and before its checkpoint is written."""
    folder = begin(tmp_path / "run", pictures, model)
    whole, calls = getattr(module._Run, part), []
    a_network = {"_epoch": 3, "_loss": 36, "_keep": 3}[part]  # 12 pictures an epoch
    allowed = {"_epoch": 1, "_loss": 18, "_keep": 1}[part] + network * a_network

    def interrupted(*arguments):
        calls.append(part)
        if len(calls) > allowed:
            raise KeyboardInterrupt
        return whole(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module._Run, part, interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_readout(folder, model, SmallPictures(), CONFIG)
    assert not (folder / FILE).exists() and (folder / "readout" / f"network-{network}.pt").exists()
    torch.manual_seed(99)  # the random numbers of whoever asks do not matter
    log = train_readout(folder, model, SmallPictures(), CONFIG)
    assert len(log) == 6
    assert (folder / FILE).read_bytes() == (trained / FILE).read_bytes()
    assert (folder / "readout_log.jsonl").read_bytes() == (trained / "readout_log.jsonl").read_bytes()


def test_networks_in_processes_of_their_own_are_the_same(trained, pictures, tmp_path, monkeypatch):
    files, threads = sorted(pictures.iterdir()), torch.get_num_threads()
    readout, log = fit_readout(tmp_path, files, CONFIG, workers=2)
    expected = LearnedReadout.load(trained / FILE).state_dict()
    torch.testing.assert_close(readout.state_dict(), expected, rtol=0, atol=0)
    assert [json.dumps(line) for line in log] == (trained / "readout_log.jsonl").read_text().splitlines()
    assert torch.get_num_threads() == threads


def test_a_run_killed_after_its_last_epoch_is_finished(trained, model, pictures, tmp_path):
    folder = begin(tmp_path / "run", pictures, model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LearnedReadout, "save", lambda *_: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception):
            train_readout(folder, model, SmallPictures(), CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module._Run, "_epoch", lambda *_: pytest.fail("trained again"))
        assert len(train_readout(folder, model, SmallPictures(), CONFIG)) == 6
    assert (folder / FILE).read_bytes() == (trained / FILE).read_bytes()


def test_what_a_run_killed_at_its_very_end_has_left_is_removed(trained, model, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "run")
    (folder / "readout" / "pictures").mkdir(parents=True)
    assert len(train_readout(folder, model, SmallPictures(), CONFIG)) == 6
    assert not (folder / "readout").exists()


def test_a_second_call_returns_the_log_without_work(trained, model, monkeypatch):
    monkeypatch.setattr(module, "measure_pictures", lambda *_: pytest.fail("pictures were measured"))
    before = (trained / FILE).stat().st_mtime_ns
    log = train_readout(trained, model, SmallPictures(), CONFIG)
    assert [line["epoch"] for line in log] == [0, 1, 2] * 2 and (trained / FILE).stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "dataset, config",
    [(SmallPictures(), ReadoutConfig(epochs=4)), (SmallPictures(15), CONFIG), (SmallPictures(seed=1), CONFIG)],
)
def test_other_settings_are_refused(trained, model, tmp_path, dataset, config):
    half = tmp_path / "half"
    (half / "readout").mkdir(parents=True)
    shutil.copy(trained / "readout_config.json", half)
    for folder in (trained, half):
        with pytest.raises(TrainingError, match=f"different settings .*: choose .*, or remove {FILE}") as error:
            train_readout(folder, model, dataset, config)
        assert str(folder) in str(error.value)


def test_other_weights_are_refused(trained, tmp_path):
    torch.manual_seed(1)
    ExifLang(ExifLangConfig.preset("tiny")).save_pretrained(tmp_path)
    with pytest.raises(TrainingError, match="different settings"):
        train_readout(trained, str(tmp_path), SmallPictures(), CONFIG)


def test_a_readout_of_unknown_settings_is_not_overwritten(trained, model, tmp_path):
    shutil.copy(trained / FILE, tmp_path)
    with pytest.raises(TrainingError, match="different settings"):
        train_readout(tmp_path, model, SmallPictures(), CONFIG)


def test_a_second_run_in_one_folder_is_refused(model, tmp_path):
    with hold(tmp_path / "run" / ".readout.lock", "", ValueError):
        with pytest.raises(TrainingError, match=r"run: another run is using it \(process"):
            train_readout(tmp_path / "run", model, SmallPictures(), CONFIG)
        assert [path.name for path in (tmp_path / "run").iterdir()] == [".readout.lock"]


def test_a_model_that_is_not_there_leaves_nothing_behind(tmp_path):
    with pytest.raises(OSError):
        train_readout(tmp_path / "run", str(tmp_path / "no model"), SmallPictures(), CONFIG)
    assert list(tmp_path.iterdir()) == []


def test_settings_may_change_before_anything_was_made(model, tmp_path, monkeypatch):
    (tmp_path / "readout_config.json").write_text("{}")
    monkeypatch.setattr(module, "measure_pictures", lambda *_: pytest.fail("begins"))
    with pytest.raises(pytest.fail.Exception, match="begins"):
        train_readout(tmp_path, model, SmallPictures(), CONFIG)
    assert json.loads((tmp_path / "readout_config.json").read_text())["weights"] == module.weights_sha256(model)


def test_without_pictures_it_says_so(model, tmp_path):
    with pytest.raises(TrainingError, match="no pictures to train a readout on"):
        train_readout(tmp_path, model, SmallPictures(0), CONFIG)


@pytest.mark.parametrize("length", [1, 3])
def test_fewer_pictures_than_a_batch(model, tmp_path, length):
    log = train_readout(tmp_path, model, SmallPictures(length), ReadoutConfig(epochs=1, batch_size=8))
    assert len(log) == 2 and np.isfinite(log[0]["loss"]) and "window_ap" not in log[0]


@pytest.mark.parametrize("epochs, decay", [(1, 0.0), (8, 1 - 16 / 24), (2000, 0.995)])
def test_short_runs_forget_their_first_weights(pictures, tmp_path, epochs, decay):
    run = module._Run(tmp_path, sorted(pictures.iterdir()), ReadoutConfig(epochs=epochs, batch_size=4), 0)
    before = run.averaged.module.networks[0].head.bias.item()
    run.averaged.update_parameters(run.readout)  # the first is taken as it is
    with torch.no_grad():
        run.readout.networks[0].head.bias += 1
    run.averaged.update_parameters(run.readout)
    assert run.averaged.module.networks[0].head.bias.item() == pytest.approx(before + 1 - decay, abs=1e-5)


# Loss


@pytest.mark.parametrize("tampered", [True, False])
def test_the_loss_equals_its_definition(pictures, tmp_path, tampered):
    files = sorted(pictures.iterdir())
    config = ReadoutConfig(noise=0.0, rank_weight=0.7, picture_weight=0.3)
    run = module._Run(tmp_path, files, config, 0)
    picture = read_measured(files[1 if tampered else 0])
    with torch.inference_mode():
        windows = run.readout(picture.inputs())
        highest = windows.flatten().sort().values[-max(1, round(0.02 * windows.numel())) :]
        whole = run.of_picture.weight * highest.mean() + run.of_picture.bias
        found = run._loss(picture)
    logits, shares = windows.flatten().double().tolist(), picture.shares.flatten().double().tolist()

    def cross_entropy(logit: float, share: float) -> float:
        return np.log1p(np.exp(-logit)) * share + np.log1p(np.exp(logit)) * (1 - share)

    expected = np.mean([cross_entropy(z, s) for z, s in zip(logits, shares, strict=True)])
    expected += 0.3 * cross_entropy(whole.item(), float(tampered))
    inside = [z for z, s in zip(logits, shares, strict=True) if s > 0.5]
    outside = [z for z, s in zip(logits, shares, strict=True) if s < 0.5]
    assert bool(inside) == tampered and len(outside) > 0
    if tampered:
        expected += 0.7 * np.mean([np.log1p(np.exp(low - high)) for high in inside for low in outside])
    assert found.item() == pytest.approx(expected, rel=1e-5)


# Validation


def test_validation_equals_its_definition(pictures):
    torch.manual_seed(0)
    readout = LearnedReadout(8, 1)
    files = sorted(pictures.iterdir())[:6]
    found = validate(readout, files)
    windows, scores, tampered = [], [], []
    with torch.inference_mode():
        for file in files:
            picture = read_measured(file)
            logits = readout(picture.inputs())
            scores.append(logits.max().item())
            tampered.append(bool(picture.shares.any()))
            truth = picture.shares.numpy() > 0.5
            if truth.any() and not truth.all():
                windows.append(average_precision_score(truth.ravel(), logits.numpy().ravel()))
    assert found["window_ap"] == pytest.approx(np.mean(windows))
    assert found["detection_ap"] == pytest.approx(average_precision_score(tampered, scores))


def test_validation_without_pictures_says_nothing():
    assert validate(LearnedReadout(8, 1), []) == {}
