"""Training on a stream: a run goes on to the same bits, in one process or two; a recipe says where to stream from."""

import json
import os
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest

from exiflang.data.sampler import CameraSampler
from exiflang.data.shards import DataError, read_photos
from exiflang.data.streaming import StreamDataset
from exiflang.exif.text import TagVocabulary
from exiflang.models.model import ExifLang
from exiflang.training.loop import train
from exiflang.training.recipe import Recipe
from exiflang.training.run_folder import RunFolder
from tests.data.test_streaming import samples, scratched_shards, stream, whole_shards
from tests.shard_writer import write_shards
from tests.training.test_loop import same_weights, settings, small_model, timeless


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> list[str]:
    return whole_shards(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def scratched(tmp_path_factory) -> list[str]:
    return scratched_shards(tmp_path_factory.mktemp("scratched"))


class Interrupted(Exception):
    pass


def interrupted(run, after: int) -> None:
    """Stop `run` behind its n-th checkpoint, and once more one further."""
    save = RunFolder.save_checkpoint
    for saves in (after, 1):
        left = iter(range(saves - 1, -2, -1))

        def stop(self, *arguments, left=left):
            save(self, *arguments)
            if next(left) == 0:
                raise Interrupted

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(RunFolder, "save_checkpoint", stop)
            with pytest.raises(Interrupted):
                run()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_equals_an_undisturbed_one(scratched, tmp_path, workers):
    config = settings(steps=8, batch_size=3, workers=workers)
    expected, resumed = small_model(), small_model(seed=1)
    log = train(expected, stream(scratched), config, tmp_path / "whole")
    interrupted(lambda: train(small_model(), stream(scratched), config, tmp_path / "run"), after=3)
    assert timeless(train(resumed, stream(scratched), config, tmp_path / "run")) == timeless(log)
    assert same_weights(resumed, expected)
    left_out = [RunFolder(tmp_path / name).read_left_out() for name in ("whole", "run")]
    assert left_out[0] == left_out[1] and left_out[0]["broken tile"] > 1


TWO = """
import json, sys, torch
from tests.training.test_stream_training import *
from accelerate import Accelerator
Accelerator.end_training = lambda self: None  # it would part the processes for good
shards, folder = sys.argv[1].split(","), Path(sys.argv[2])
config = settings(steps=5, batch_size=3, workers=int(sys.argv[3]))
run = lambda name, data: train(small_model(), data, config, folder / name)
seen = []
class Watched(StreamDataset):
    def read(self, *arguments):
        seen.append(arguments[:2])
        return super().read(*arguments)
log = run("whole", Watched(shards, 16))
interrupted(lambda: run("run", stream(shards, seed=0)), after=2)
assert timeless(run("run", stream(shards, seed=0))) == timeless(log)
class Partly(StreamDataset):
    sentences = [f"Make: read by {os.environ['RANK']}"]
told = Recipe(shards=shards[0]).sentences(Partly(shards, 16))
(folder / f"{os.environ['RANK']}.json").write_text(json.dumps([seen, told]))
torch.distributed.destroy_process_group()
"""


def test_two_processes_read_apart_and_go_on_exactly(scratched, tmp_path):
    script, environment = tmp_path / "two.py", {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    script.write_text(TWO)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    command += [",".join(scratched), str(tmp_path), "0"]
    done = subprocess.run(
        command,
        env=os.environ | environment | {"ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    seen, told = zip(*(json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)), strict=True)
    assert seen == ([[0, 2]], [[1, 2]])
    assert told == (["Make: read by 0"],) * 2  # else each would have a tokenizer of its own
    left_out = [RunFolder(tmp_path / name).read_left_out() for name in ("whole", "run")]
    assert left_out[0] == left_out[1] != {}
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "run")]
    assert weights[0] == weights[1]


def test_other_shards_do_not_go_on_with_a_run(shards, tmp_path):
    config = settings(steps=4, batch_size=3)
    interrupted(lambda: train(small_model(), stream(shards), config, tmp_path), after=1)
    with pytest.raises(Exception, match="holds a run with different settings"):
        train(small_model(), stream(shards[1:]), config, tmp_path)
    progress = tmp_path / "checkpoint/progress.json"
    found = json.loads(progress.read_text())
    found["stream"][0]["processes"] = 2
    progress.write_text(json.dumps(found))
    with pytest.raises(DataError, match="processes 2, now it is 1"):
        train(small_model(), stream(shards), config, tmp_path)


def test_a_stream_has_its_own_order(shards, tmp_path):
    sampler = CameraSampler(read_photos(shards)[0], 3)
    with pytest.raises(ValueError, match="a stream has a fixed order"):
        train(small_model(), stream(shards), settings(), tmp_path, sampler=sampler)


# The recipe


@pytest.mark.parametrize(
    "unfit", [{"exif": "shuffled"}, {"balance": 0.5}, {"same_make": 0.5}, {"cache_tiles": True}], ids=str
)
def test_what_needs_all_photos_does_not_stream(unfit):
    with pytest.raises(ValueError, match=f"streamed shards do not go with {next(iter(unfit))}.*all photos known"):
        Recipe.of(shards="data/demo/train", **unfit)
    with pytest.raises(ValueError, match="streamed shards do not go with"):
        Recipe.of(data_dir="s3://bucket/set", **unfit)
    Recipe.of(**unfit)


def test_a_recipe_that_streams(tmp_path):
    write_shards(samples(12, broken=(4,), size=40), tmp_path / "train", per_shard=6)
    given = {"preset": "tiny", "vocab_size": 400, "steps": 7, "batch_size": 4, "warmup_steps": 1, "tracker": "none"}
    recipe = Recipe.of(
        **given,
        mixed_precision="no",
        tag_dropout=0.5,
        image_weight=0.5,
        data_dir=str(tmp_path / "none"),
        model_dir=str(tmp_path / "model"),
        shards=f"{tmp_path}/train/{{00000..00003}}.tar",
    )
    assert isinstance(recipe.dataset(), StreamDataset) and recipe.dataset().views == 2
    assert recipe.left_out() == {}
    log = recipe.run()
    assert len(log) == 7 and recipe.left_out()["broken tile"] >= 2
    assert recipe.run() == log  # finished
    assert recipe.left_out().keys() == {"broken tile"}


def test_a_tokenizer_is_trained_on_what_the_first_process_has_read(tmp_path, monkeypatch):
    write_shards(samples(6, size=40), tmp_path / "train")
    monkeypatch.setattr("exiflang.training.recipe.broadcast_object_list", lambda own: [["Make: Zebra"] * 9])
    place, given = str(tmp_path / "model"), {"preset": "tiny", "steps": 1, "batch_size": 3, "tracker": "none"}
    Recipe.of(**given, mixed_precision="no", shards=str(tmp_path / "train"), model_dir=place).run()
    assert ExifLang.from_pretrained(place).tokenizer.tokenize("Make: Zebra") == ["Make:ĠZebra"]


def test_a_data_set_at_a_url_is_streamed(tmp_path):
    for shard in write_shards(samples(6, size=40), tmp_path / "train"):
        fsspec.filesystem("memory").pipe_file(f"/recipe/train/{shard.name}", shard.read_bytes())
    dataset = Recipe.of(data_dir="memory://recipe", preset="tiny").dataset()
    assert dataset.shards == ["memory://recipe/train/00000.tar"]


@pytest.mark.parametrize("shards", ["", "train"])
def test_rare_tags_stay_out_of_sentences(tmp_path, shards):
    write_shards(samples(6, size=40), tmp_path / "train")
    vocabulary = TagVocabulary().fit([{"Make": "a", "Model": "b"}, {"Make": "a"}, {"Make": "a", "GPSAltitude": "1"}])
    (tmp_path / "tags.json").write_text(json.dumps(vocabulary.to_dict() | {"kept": vocabulary.tags}))
    recipe = {"data_dir": str(tmp_path), "preset": "tiny", "shards": shards and str(tmp_path / shards)}
    all_tags = Recipe.of(**recipe).dataset()
    assert "Make: Canon, Model: EOS 0" in all_tags.sentences
    common = Recipe.of(**recipe, min_share=0.49).dataset()
    assert set(common.sentences) == {"Make: Canon"}
    assert common.fingerprint != all_tags.fingerprint
    assert Recipe.of(**recipe, min_share=0.3).dataset().sentences == all_tags.sentences
    (tmp_path / "tags.json").write_text("{}")
    with pytest.raises(DataError, match="tags.json: .* rare tags cannot be dropped: set min_share to 0"):
        Recipe.of(**recipe, min_share=0.3).dataset()
