"""The command `exiflang`: help, exit codes, one line for each error, Ctrl-C, and what each command passes on."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from tqdm import tqdm
from typer.main import get_command
from typer.testing import CliRunner

from exiflang import __version__
from exiflang.cli import app, main
from exiflang.models.config import ExifLangConfig
from exiflang.models.model import ExifLang
from exiflang.pipeline import notebooks as pipeline_notebooks
from exiflang.pipeline.parameters import PipelineError, project_root
from exiflang.preparation.options import grouped
from exiflang.utils.commands import RunError
from tests.evaluation.test_scoring import write_benchmark

ROOT = Path(__file__).parents[1]
COMMANDS = ("inspect", "compare", "note", "prepare", "train", "evaluate", "release", "run", "notebooks", "reference")
# A shell starts background jobs with Ctrl-C ignored, which the processes that these tests start would inherit.
_START = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); from exiflang.cli import main"
EXIFLANG = [sys.executable, "-c", f"{_START}; sys.exit(main())"]


def exiflang(*arguments: str, **how) -> subprocess.Popen:
    """The command in its own process."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [*EXIFLANG, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **how
    )


def failure(capsys) -> str:
    """What stderr says, which must be a one-line error."""
    said = capsys.readouterr().err
    assert re.fullmatch(r"error: .+\n", said), said
    return said


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    ExifLang(ExifLangConfig.preset("tiny")).save_pretrained(str(folder))
    return str(folder)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ---- help


def test_help_lists_the_commands_and_completion():
    said = CliRunner().invoke(app, ["--help"]).output
    assert re.findall(r"^  (\w+)  +[A-Z]", said.partition("Commands:")[2], re.MULTILINE) == list(COMMANDS)
    assert "..." not in said.partition("Commands:")[2].replace("[ARGS]...", "")  # each says what it does in one line
    assert "--install-completion" in said and "Exit codes: 0 done, 1 the run failed, 2 bad usage" in said


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_has_an_example_that_parses(command):
    answer = CliRunner().invoke(app, [command, "--help"], terminal_width=1000)
    assert answer.exit_code == 0
    example = re.search(rf"Example: exiflang ({command} .*)", answer.output)[1]
    assert all(option.help for option in get_command(app).commands[command].params)
    words = example.partition(" && ")[0].split()
    get_command(app).commands[command].make_context(command, words[1:])


def test_help_and_version_import_nothing_heavy():
    code = (
        "import sys; from exiflang.cli import main;"
        "codes = [main(['--version']), main(['--help']), main(['run', '--help'])];"
        "heavy = {'torch', 'pandas', 'numpy', 'papermill', 'transformers', 'accelerate', 'rich'} & set(sys.modules);"
        "print('heavy:', sorted(heavy), codes)"
    )
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout.startswith(f"exiflang {__version__}\n")
    assert answer.stdout.endswith("heavy: [] [0, 0, 0]\n") and answer.stderr == ""


def test_without_a_command_it_shows_its_help(capsys):
    assert main([]) == 2
    assert "Commands:" in capsys.readouterr().out


# ---- exit codes: 2 for bad usage, 1 for a failed run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fly"], "No such command 'fly'; see exiflang --help"),
        (["--fly"], "No such option: --fly"),
        (["inspect"], "Missing argument 'picture'; see exiflang inspect --help"),
        (["inspect", "a.jpg", "--window-size", "many"], "--window-size"),
        (["inspect", "a.jpg", "b.jpg"], "unexpected extra argument"),
        (["prepare", "photos"], "Missing argument 'data_dir'"),
        (["train"], "Missing option '--config'"),
        (["evaluate"], "Missing option '--config'"),
        (["run"], "Missing argument 'preset'"),
        (["run", "demo", "-p", "seed"], "'-p' requires 2 arguments"),
        (["run", "demo", "--check", "--only", "02_train"], "--check needs 03_evaluate"),
        (
            ["run", "demo"],
            "no notebooks/params here or above: go to such a folder, or make one: exiflang notebooks DIR",
        ),
        (["notebooks"], "Missing argument 'DIR'"),
        (["inspect", "a.jpg", "--readout", "magic"], "unknown readout 'magic': choose one of"),
        (["inspect", "a.jpg", "--windows-per-side", "0"], "windows_per_side must be at least 1"),
        (["inspect", "a.jpg", "--mode", "fast"], "unknown mode 'fast'"),
        (["inspect", "a.jpg", "--precision", "int8"], "unknown precision 'int8'"),
        (["inspect", "a.jpg", "--false-alarms", "1"], "false_alarms is 1.0: it must be between 0 and 1"),
        (["inspect", "a.jpg", "--model", "absent"], "absent: no model found"),
    ],
)
def test_bad_usage_prints_one_line_and_exits_with_2(folder, model, capsys, arguments, message):
    if arguments[:1] == ["inspect"] and "--model" not in arguments:
        arguments = [*arguments, "--model", model]
    assert main(arguments) == 2
    assert message in failure(capsys)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "absent.jpg"], "absent.jpg: no such file"),
        (["prepare", "absent", "data"], "absent"),
        (["prepare", "", "data"], "an empty path: give a folder, a file or a URL"),
        (["prepare", "simulated", " "], "an empty path: give a folder, a file or a URL"),
        (["prepare", "simulated", "data", "--workers", "0"], "workers is 0: it must be at least 1"),
        (["prepare", "simulated", "data", "--heldout-share", "2"], "heldout_share is 2.0: it must lie between 0 and 1"),
        (["train", "--config", "absent.yaml"], "error: absent.yaml: No such file or directory"),
        (["evaluate", "--config", "absent.yaml"], "error: absent.yaml: No such file or directory"),
        (["release"], "data/base/dataset.json: cannot be read"),
    ],
)
def test_a_failed_run_prints_one_line_and_exits_with_1(folder, model, capsys, arguments, message):
    assert main([*arguments, "--model", model] if arguments[0] == "inspect" else arguments) == 1
    assert message in failure(capsys)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("command", ["train", "evaluate"])
@pytest.mark.parametrize(("text", "message"), [("- 1", "not a YAML mapping"), ("{", "not valid YAML"), ("a: 1", "'a'")])
def test_a_wrong_configuration_is_reported(folder, capsys, command, text, message):
    Path("run.yaml").write_text(text)
    assert main([command, "--config", "run.yaml"]) == 1
    assert message in failure(capsys)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RunError("no photos\nsee the log"), "error: no photos see the log\n"),
        (PipelineError("02_train failed"), "error: 02_train failed\n"),
        (ImportError('needs dask: pip install "exiflang[data]"'), 'error: needs dask: pip install "exiflang[data]"\n'),
        (
            PermissionError(13, "Permission denied", "data/x"),
            "error: data/x: Permission denied; choose a writable location, or change its permissions\n",
        ),
    ],
)
def test_errors_of_a_run_are_reported_in_one_line(folder, monkeypatch, capsys, error, message):
    def fail(*given, **options):
        raise error

    monkeypatch.setattr("exiflang.preparation.dataset.prepare", fail)
    assert main(["prepare", "simulated", "data"]) == 1
    assert failure(capsys) == message


def test_bugs_are_not_caught(folder, monkeypatch):
    monkeypatch.setattr("exiflang.preparation.dataset.prepare", lambda *given, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["prepare", "simulated", "data"])


# ---- Ctrl-C


def test_ctrl_c_exits_with_130(folder, monkeypatch, capsys):
    def interrupted(*given, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("exiflang.preparation.dataset.prepare", interrupted)
    assert main(["prepare", "simulated", "data"]) == 130
    assert capsys.readouterr().err == ""


def test_ctrl_c_while_workers_run_leaves_no_traceback(folder):
    process = exiflang("prepare", "simulated", "data", start_new_session=True)
    said = ""
    while "photos" not in said:  # the bar
        said += process.stderr.read(1)
    os.killpg(process.pid, signal.SIGINT)
    rest = process.communicate(timeout=300)[1]  # a busy machine is slow
    assert process.returncode == 130
    assert "Traceback" not in said + rest and "Error" not in said + rest
    with pytest.raises(ProcessLookupError):
        for _ in range(100):  # the workers are gone too
            os.killpg(process.pid, 0)
            time.sleep(0.1)


# ---- what each command passes on


def test_inspect_writes_a_report(folder, model, monkeypatch, capsys):
    monkeypatch.setattr("exiflang.inspection.gallery.tqdm", lambda **given: tqdm(**given | {"delay": 0}))
    pixels = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("a.jpg")
    command = ["inspect", "a.jpg", "--model", model, "--windows-per-side", "5", "--readout", "far_friends"]
    command += ["--false-alarms", "0.1"]
    assert main([*command, "--out", "here", "--private"]) == 0
    told = capsys.readouterr()
    meaning, page = told.out.splitlines()
    page = Path(page)
    assert meaning.startswith("Score ") and page.parent == Path("here") and "100%" in told.err
    origin = json.loads(page.with_suffix(".json").read_text())["origin"]
    assert (origin["settings"]["windows_per_side"], origin["settings"]["readout"]) == (5, "far_friends")
    assert origin["private"] is True and origin["settings"]["false_alarms"] == 0.1
    assert main([*command, "--window-size", "32", "--mode", "dense", "--precision", "bf16"]) == 0
    page = Path(capsys.readouterr().out.splitlines()[-1])
    assert re.fullmatch(r"reports/runs/inspect-\d{8}-\d{6}", page.parent.as_posix())
    settings = json.loads(page.with_suffix(".json").read_text())["origin"]["settings"]
    assert (settings["window_size"], settings["mode"], settings["precision"]) == (32, "dense", "bf16")


def test_prepare_passes_its_options_on(folder, monkeypatch, capsys):
    asked = {}

    def spy(*given, **options):
        asked.update(options, given=given)
        return {"photos": {"train": 5, "heldout": 1}, "cameras": {"train": 2, "heldout": 1}, "left_out": {"no EXIF": 3}}

    monkeypatch.setattr("exiflang.preparation.dataset.prepare", spy)
    options = {"seed": 3, "heldout_share": 0.2, "choose_share": 0.1, "report_share": 0.1, "tiles_per_photo": 4}
    options |= {
        "min_tags": 5,
        "min_share": 0.1,
        "sample": 9,
        "photos_per_shard": 7,
        "workers": 1,
        "scheduler": "tcp://a",
    }
    typed = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    assert main(["prepare", "photos", "s3://bucket/x", *typed, "--per-host", "2", "--allow-private", "--private"]) == 0
    assert asked.pop("given") == (str(folder / "photos"), "s3://bucket/x")
    assert asked == grouped(options | {"private": True, "per_host": 2, "allow_private": True})
    assert capsys.readouterr().out == (
        "s3://bucket/x/train: 5 photos of 2 cameras\ns3://bucket/x/heldout: 1 photos of 1 cameras\n"
        "left out, no EXIF: 3\n"
    )
    assert main(["prepare", "simulated", "x"]) == 0
    assert asked["given"] == ("simulated", str(folder / "x"))


def test_train_takes_only_its_own_parts_of_a_preset(folder, monkeypatch):
    asked = {}
    run = SimpleNamespace(run=lambda: asked.update(run=True), run_readout=lambda: asked.update(readout=True))
    monkeypatch.setattr("exiflang.training.recipe.Recipe.of", lambda **given: asked.update(given) or run)
    preset = {"shared": {"seed": 1}, "02_train": {"steps": 2}, "03_evaluate": {"crops": 3}}
    Path("run.yaml").write_text(yaml.safe_dump(preset))
    assert main(["train", "--config", "run.yaml"]) == 0
    assert asked == {"seed": 1, "steps": 2, "run": True, "readout": True}


def test_evaluate_scores_and_prints_a_table(folder, model, capsys):
    write_benchmark(folder / "root" / "first", broken=False)
    parameters = {"benchmarks": ["first"], "root": "root", "scores_dir": "scores", "model": model}
    Path("scores.yaml").write_text(yaml.safe_dump(parameters | {"windows_per_side": 4}))
    assert main(["evaluate", "--config", "scores.yaml"]) == 0
    heads, values = (line.split() for line in capsys.readouterr().out.splitlines())
    assert {"set", "method", "readout", "p_map"} <= set(heads) and values[:2] == ["first", "model"]


def test_release_passes_its_options_on(folder, monkeypatch, capsys):
    asked = []

    def spy(*given):
        asked.extend(given)
        return SimpleNamespace(folder="out", size=2_500_000, pictures=7, left_out=[("a.jpg", "no EXIF")])

    monkeypatch.setattr("exiflang.release.packaging.release", spy)
    given = ["--model", "m", "--data", "d", "--out", "out", "--photos", "p", "--photos", "q", "--hardware", "a laptop"]
    assert main(["release", *given]) == 0
    assert asked == ["m", "d", "out", ["p", "q"], "a laptop"]
    assert capsys.readouterr().out == "left out: a.jpg: no EXIF\nout: 2.5 MB, calibrated on 7 authentic pictures\n"


def test_run_passes_its_options_on_and_checks(folder, monkeypatch, capsys):
    asked = {}

    def spy(preset, overrides, only, runs_dir):
        asked.update(preset=preset, overrides=overrides, only=only, runs_dir=runs_dir)
        metrics = {"03_evaluate": {"table": [{"method": "model", "p_map": 0.5}], "check": {"p_map": 0.5}}}
        Path("metrics.json").write_text(json.dumps(metrics))
        return folder

    monkeypatch.setattr("exiflang.pipeline.runner.run_pipeline", spy)
    monkeypatch.setattr("exiflang.pipeline.runner.load_golden", lambda preset: {"p_map": {"low": 0.6, "high": 0.7}})
    given = ["run", "demo", "-p", "rate", "-1e-4", "-p", "names", "[a, b]", "--only", "03_evaluate", "--out", "runs"]
    assert main(given) == 0
    assert asked == {
        "preset": "demo",
        "overrides": {"rate": "-1e-4", "names": "[a, b]"},
        "only": ["03_evaluate"],
        "runs_dir": "runs",
    }
    assert capsys.readouterr().out == f"method  p_map\n model  0.500\n{folder}\n"
    assert main([*given, "--check"]) == 1
    assert "error: outside its golden range: p_map: 0.5, golden 0.6 to 0.7" in failure(capsys)


# ---- notebooks


def test_notebooks_creates_a_project_and_overwrites_nothing(folder, monkeypatch, capsys):
    assert main(["notebooks", "mine"]) == 0
    assert capsys.readouterr().out == f"{folder / 'mine' / 'notebooks'}\n"
    tracked = {
        path.relative_to(ROOT)
        for pattern in ("*.ipynb", "sanitize.cfg", "params/*.yaml")
        for path in (ROOT / "notebooks").glob(pattern)
    }
    made = {path.relative_to(folder / "mine") for path in (folder / "mine").rglob("*") if path.is_file()}
    assert made == tracked and len(made) == 11
    assert all((folder / "mine" / path).read_bytes() == (ROOT / path).read_bytes() for path in made)
    monkeypatch.chdir(folder / "mine" / "notebooks")
    assert project_root() == folder / "mine"

    monkeypatch.chdir(folder)
    Path("file").write_text("")
    for taken in ("mine", "file", "."):
        assert main(["notebooks", taken]) == 2
        assert "is not an empty folder" in failure(capsys)
    Path("empty").mkdir()
    assert main(["notebooks", "empty"]) == 0


def test_notebooks_are_found_in_a_wheel_and_reported_when_missing(folder, monkeypatch, capsys):
    wheel, absent = folder / "exiflang" / "notebooks", folder / "absent"
    (wheel / "params").mkdir(parents=True)
    (wheel / "params" / "demo.yaml").write_text("shared: {}")
    monkeypatch.setattr(pipeline_notebooks, "_PLACES", (wheel, absent))
    assert main(["notebooks", "mine"]) == 0 and Path("mine/notebooks/params/demo.yaml").is_file()
    capsys.readouterr()
    monkeypatch.setattr(pipeline_notebooks, "_PLACES", (absent, absent))
    assert main(["notebooks", "yours"]) == 2
    assert "install a release of exiflang" in failure(capsys) and not Path("yours").exists()
