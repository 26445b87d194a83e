"""Trainings compared by splices they find: what the rows change, what is scored, and a run from end to end."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from exiflang.data.patches import PatchDataset
from exiflang.data.shards import find_shards
from exiflang.evaluation.benchmarks import BenchmarkImage
from exiflang.localization.localizer import Comparison, SpliceLocalizer
from exiflang.localization.relations import NAMES
from exiflang.models.tokenizer import train_tokenizer
from exiflang.pipeline.parameters import PipelineError
from exiflang.training.measured import measure, read_measured, write_measured
from exiflang.utils.files import read_json
from experiments import tower_recipes as module
from experiments.tower_recipes import (
    ALONE,
    ROWS,
    Distilled,
    FlatSpectrum,
    Row,
    SameModel,
    gather,
    localization,
    markdown,
    read_with,
    run,
    unevenness,
)
from tests.experiments.test_exif_recipes import SENTENCES, folder  # noqa: F401  (a fixture)
from tests.models.test_model import patches, tiny


def test_a_flat_spectrum_costs_nothing():
    simplex = torch.eye(8) - 1 / 8  # all its directions have the same variance
    assert unevenness(simplex) < 1e-3
    assert unevenness(torch.diag(torch.arange(1.0, 9.0))) > 0.1
    same = torch.ones(6, 4, requires_grad=True)
    value = unevenness(same + 1e-6 * torch.randn(6, 4, generator=torch.Generator().manual_seed(0)))
    value.backward()
    assert value.isfinite() and same.grad.isfinite().all()


def test_the_second_loss_is_added():
    model, views = tiny(train_tokenizer(SENTENCES, 60)), patches(6, 32)
    model.__class__ = FlatSpectrum
    tokens = model.tokenize(SENTENCES)
    model(views, **tokens)[0][:, 0].sum().backward()
    found = model.image_projection.weight.grad.clone()
    model.zero_grad()
    model.__class__ = FlatSpectrum.__base__
    image, _ = model(views, **tokens)
    (image[:, 0].sum() + module.FLATNESS * unevenness(image)).backward()
    torch.testing.assert_close(found, model.image_projection.weight.grad)


def test_a_student_is_as_sure_as_its_teachers():
    teacher, other, model = (tiny(train_tokenizer(SENTENCES, 60)).train() for _ in range(3))
    torch.nn.init.normal_(other.image_projection.weight)
    model.load_state_dict(teacher.state_dict())
    model.__class__ = Distilled
    tokens = model.tokenize(SENTENCES)
    gradients = []
    for teachers in ([teacher], [teacher, other]):
        model.learn_from(teachers)
        model.zero_grad()
        (0 * model(patches(6, 32), **tokens)[0].sum()).backward()
        gradients.append(model.image_projection.weight.grad.abs().max())
    assert gradients[0] < 1e-5 < gradients[1]
    assert not any("teacher" in name for name in model.state_dict())


def test_the_second_view_shows_another_photo_of_the_model(folder):  # noqa: F811
    data = SameModel(find_shards(folder / "train"), 64, views=2)
    data.index()
    plain = PatchDataset(find_shards(folder / "train"), 64, views=2)
    others = 0
    for i in range(len(data)):
        views, sentence = data[i]
        assert torch.equal(views[0], plain[i][0][0]) and sentence == plain[i][1]
        alike = [plain[k][0][1] for k in data.alike[data.photos[i].camera]]
        assert any(torch.equal(views[1], view) for view in alike)
        others += not torch.equal(views[1], plain[i][0][1])
        assert torch.equal(data[i][0], views)  # the same draw again
    assert others > len(data) / 4


class Only(list):
    """A benchmark."""

    def only(self, names):
        return Only(item for item in self if item.name in names)


def tower():
    return tiny(train_tokenizer(SENTENCES, 60), patch_size=64)


@pytest.fixture
def scored(tmp_path, monkeypatch):
    """The file of the only picture of a set, measured with `tower`."""
    mask = np.zeros((160, 200), bool)
    mask[20:90, 30:120] = True
    image = np.random.default_rng(0).integers(0, 256, (160, 200, 3), dtype=np.uint8)
    localizer = SpliceLocalizer(tower(), readout="diffused_cut", comparison=Comparison(stride_multiple=8))
    file = tmp_path / "a.npz"
    write_measured(file, measure(localizer.observe(image, calibrated=True), mask))
    monkeypatch.setattr(module, "SETS", {"forgeries": ""})
    monkeypatch.setattr(module, "known", lambda name: {"a.png": file})
    monkeypatch.setattr(module, "pictures_of", lambda name: Only([BenchmarkImage(image, mask, "a.png", True, {})]))
    return file


def test_only_the_relations_are_replaced(scored):
    seen = read_measured(scored)
    same = read_with(seen.embeddings.float().numpy(), seen)
    torch.testing.assert_close(same.picture, seen.picture, atol=0.02, rtol=0.02)  # the file holds halves
    other = read_with(np.random.default_rng(0).normal(size=seen.embeddings.shape).astype(np.float32), seen)
    for found in (same, other):
        assert torch.equal(found.maps[..., len(NAMES) :], seen.maps[..., len(NAMES) :])
        assert found.shares is seen.shares and found.maps.shape == seen.maps.shape
    assert not torch.allclose(other.maps, seen.maps)


def test_stored_evidence_scores_as_measured_anew(scored):
    """The picture is small, so larger windows are no different and the long way leads to the same place."""
    short, long = localization(tower(), 64), localization(tower(), 96)
    assert set(short) == {"forgeries/learned", f"forgeries/{ALONE}"}
    assert short == pytest.approx(long, abs=0.01)


@pytest.fixture
def small(folder, scored, tmp_path, monkeypatch):  # noqa: F811
    """Runs of two steps, in a folder of their own."""
    changes = {"preset": "tiny", "steps": 2, "batch_size": 4, "crop_sizes": [40], "mixed_precision": "no"}
    monkeypatch.setattr(module, "SCALE", module.SCALE | changes)
    monkeypatch.setattr(module, "FOLDERS", dict.fromkeys(module.FOLDERS, str(folder)))
    monkeypatch.setattr(module.ablation, "PROTOCOL", module.ablation.PROTOCOL | {"fit": str(folder), "crops": 1})
    monkeypatch.setattr(Row, "folder", lambda row, seed: tmp_path / f"{row.name}-{seed}")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_each_row_runs_once(small, row, monkeypatch):
    row = replace(row, tower=row.tower and {"embedding_size": 12})  # the tiny tower has two stages, not three
    run(row, 0)
    found = read_json(row.folder(0) / "metrics.json")["metrics"]
    assert {"forgeries/learned", f"forgeries/{ALONE}", "fit/heldout", "fit/unseen"} <= set(found)
    assert all(0 <= value <= 1 for value in found.values())
    monkeypatch.setattr(module, "trained", None)  # not called again
    run(row, 0)
    table = markdown(gather())
    assert f"| {row.name} | 1 |" in table and "2 steps of 4 photos" in table and "forgeries 1." in table


def test_without_a_finished_run_there_is_no_table(small):
    with pytest.raises(PipelineError, match="no run has finished"):
        gather()


def test_rows_have_distinct_names_and_folders():
    assert len({row.folder(0) for row in ROWS}) == len({row.name for row in ROWS}) == len(ROWS)
