import os
import signal
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest

from exiflang.training.loop import train
from tests.training.test_loop import Photos, Stream, same_weights, settings, small_model, timeless

LONG = settings(steps=20)
# Each kills itself by the first item that it draws after nine steps: at the end of the third epoch of three batches.
KILLED = """
import sys
from tests.training.test_train_resume import *

def draw(item):
    if Path(sys.argv[2], "log.jsonl").read_bytes().count(b"\\n") >= 9:
        os.kill(os.getpid(), signal.SIGKILL)
    return item

class KillingPhotos(Photos):
    def __getitem__(self, index):
        return draw(super().__getitem__(index))

class KillingStream(Stream):
    def __iter__(self):
        return map(draw, super().__iter__())

train(small_model(), {"map": KillingPhotos, "stream": KillingStream}[sys.argv[1]](), LONG, sys.argv[2])
"""


@pytest.fixture(scope="module")
def killed_runs(tmp_path_factory) -> dict[str, Path]:
    """Two runs in processes of their own, killed."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in ("map", "stream")}
    processes = [
        subprocess.Popen([sys.executable, "-c", KILLED, kind, str(folder)], env=environment, stderr=subprocess.PIPE)
        for kind, folder in folders.items()
    ]
    for process in processes:
        errors = process.communicate()[1].decode()
        assert process.returncode == -signal.SIGKILL, errors[-2000:]
    return folders


@pytest.mark.parametrize("kind", ["map", "stream"])
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path, killed_runs, kind):
    killed = killed_runs[kind]
    assert (killed / "checkpoint").exists() and not (killed / "model.safetensors").exists()
    data = {"map": Photos, "stream": Stream}[kind]
    resumed, uninterrupted = small_model(seed=1), small_model()
    log = train(resumed, data(), LONG, killed)
    expected = train(uninterrupted, data(), LONG, tmp_path)
    assert timeless(log) == timeless(expected)
    assert same_weights(resumed, uninterrupted)
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (killed / name).read_bytes() == (tmp_path / name).read_bytes()
    assert {path.name for path in killed.iterdir()} == {path.name for path in tmp_path.iterdir()}


class Interrupted(Exception):
    pass


class Breaks(Photos):
    """Raises once so many items are drawn."""

    def __init__(self, after: int):
        super().__init__()
        self.left = after

    def __getitem__(self, index):
        self.left -= 1
        if self.left < 0:
            raise Interrupted
        return super().__getitem__(index)


@pytest.fixture
def a_minute_a_step(monkeypatch):
    """The clock that decides on checkpoints is looked at once a step, and once more after each checkpoint."""
    ticks = count()
    monkeypatch.setattr("exiflang.training.loop.minutes", lambda: next(ticks))


@pytest.mark.parametrize("every", [0, 1, 2, 3])
def test_interruptions_wherever_they_come(tmp_path, a_minute_a_step, every):
    """Twice, at any place in an epoch of three batches; a resumed run may be interrupted before its next checkpoint."""
    config = settings(steps=10, checkpoint_minutes=every)
    expected, whole = small_model(), tmp_path / "whole"
    log = train(expected, Photos(), config, whole)
    for after in (50, 12):
        with pytest.raises(Interrupted):
            train(small_model(), Breaks(after), config, tmp_path / "run")
    resumed = small_model()
    assert timeless(train(resumed, Photos(), config, tmp_path / "run")) == timeless(log)
    assert same_weights(resumed, expected)


@pytest.mark.parametrize("place", ["old only", "new beside old", "half a line"])
def test_a_kill_while_the_checkpoint_is_swapped(tmp_path, place):
    config = settings(steps=10)
    expected, run = small_model(), tmp_path / "run"
    log = train(expected, Photos(), config, tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(small_model(), Breaks(50), config, run)
    if place == "old only":
        (run / "checkpoint").rename(run / "checkpoint.old")
    elif place == "new beside old":
        (run / "checkpoint.new").mkdir()
        (run / "checkpoint.new" / "model.safetensors").write_bytes(b"half")
    else:
        with open(run / "log.jsonl", "a") as file:
            file.write('{"step": 9, "lo')
    resumed = small_model()
    assert timeless(train(resumed, Photos(), config, run)) == timeless(log)
    assert same_weights(resumed, expected)
    assert not list(run.glob("checkpoint*"))
