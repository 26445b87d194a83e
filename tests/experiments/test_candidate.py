"""The candidate tower: what is trained, what it is compared by, and what is said without one."""

from dataclasses import replace

import pytest
import torch

from exiflang.models.model import ExifLang
from exiflang.pipeline.parameters import PipelineError
from exiflang.utils.files import file_sha256
from experiments import candidate, candidate_training
from experiments.readout_ablation import ROWS
from tests.experiments.test_exif_recipes import folder  # noqa: F401  (a fixture)
from tests.experiments.test_tower_recipes import scored, small, tower  # noqa: F401  (fixtures)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The candidate's folder, which does not exist yet."""
    place = tmp_path / "exiflang-next"
    for module in (candidate, candidate_training):
        monkeypatch.setattr(module, "PLACE", str(place))
    return place


def test_a_candidate_is_trained_once(small, place, monkeypatch):  # noqa: F811
    toy = replace(candidate_training.CANDIDATE, changes={}, tower={"embedding_size": 12})
    monkeypatch.setattr(candidate_training, "CANDIDATE", toy)
    monkeypatch.setattr(candidate_training, "data_set", lambda name: None)
    candidate_training.train()
    model = ExifLang.from_pretrained(str(place))
    assert type(model) is ExifLang and model.config.image_config["embedding_size"] == 12
    digest = file_sha256(place / "model.safetensors")
    candidate_training.train()
    assert file_sha256(place / "model.safetensors") == digest


def test_both_towers_get_the_same_readout(place):
    with pytest.raises(PipelineError, match=r"exiflang-next: no candidate; .*candidate_training.py trains one"):
        candidate.towers()
    tower().save_pretrained(place)
    (packaged, own), (other, model) = candidate.towers().values()
    assert packaged == ROWS[0] and not own and model == str(place)
    assert other.made != packaged.made
    assert replace(other, name=packaged.name, tower=packaged.tower) == packaged
    torch.manual_seed(1)
    ExifLang(tower().config, tower().tokenizer).save_pretrained(place)
    assert candidate.towers()["candidate"][0].tower != other.tower  # nothing of an earlier candidate is used


def test_each_tower_is_timed_equally_often(place, monkeypatch):
    monkeypatch.setattr(candidate, "REPEATS", 2)
    tower().save_pretrained(place)
    times = candidate.seconds({"one": str(place), "other": str(place)})
    assert {name: len(own) for name, own in times.items()} == {"one": 2, "other": 2}
    assert all(taken > 0 for own in times.values() for taken in own)


def test_the_table_has_a_row_for_each_tower():
    spread = {"mean": 0.5, "sd": 0.01, "values": [0.49, 0.51]}
    row = dict.fromkeys(candidate.SETS, spread) | dict.fromkeys(candidate.COLUMNS, 0.25)
    found = candidate.markdown({"rows": {"packaged": row, "candidate": row}})
    assert found.count("| 0.500 ± 0.010 ") == 2 * len(candidate.SETS)
    assert found.splitlines()[-1].startswith("| candidate |") and "seconds at 1 MP" in found
