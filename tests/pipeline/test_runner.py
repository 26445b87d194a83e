"""The runner, on toy notebooks in a toy project."""

import errno
import hashlib
import json
import os
import re
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exiflang.pipeline import runner as pipeline
from exiflang.pipeline.__main__ import main
from exiflang.pipeline.parameters import (
    PipelineError,
    Typed,
    UsageError,
    declared_parameters,
    injected_parameters,
    load_preset,
    resolve_parameters,
)
from exiflang.pipeline.runner import golden_failures, run_notebook, run_pipeline
from exiflang.utils.files import write_json

PARAMETERS = """\
data_dir = "data/toy"  # str: folder of the data
seed = 0  # int: seed
rate = 0.5  # float: a rate
out_dir = "reports/here"  # str: where metrics.json goes
"""
LAST = """\
from pathlib import Path
from exiflang.utils.files import write_json
write_json(Path(out_dir, "metrics.json"), {"seed": seed, "rate": rate, "data_dir": data_dir, "cwd": str(Path.cwd())})
"""
PREPARE = """\
from pathlib import Path
from tqdm.auto import tqdm
from exiflang.utils.files import write_json
Path(data_dir).mkdir(parents=True, exist_ok=True)
for number in tqdm(range(3), desc="shards"):
    Path(data_dir, f"{number}.tar").write_bytes(b"shard")
write_json(Path(out_dir, "metrics.json"), {"files": [f"{data_dir}/0.tar"], "photos": 3})
"""
FIGURES = """\
import plotly.graph_objects as go
print("<script>alert('stream')</script>")
go.Figure(go.Bar(y=[1, 2], name="</script><script>alert('plotly')</script>")).show()
go.Figure(go.Bar(y=[3, 4])).show()
"""
EVALUATE = """\
from pathlib import Path
from exiflang.utils.files import write_json
rows = [{"method": "model", "p-mAP": 0.81234}, {"method": "mean color", "p-mAP": None}]
write_json(Path(out_dir, "metrics.json"), {"table": rows, "check": {"pmap": 0.5 + rate, "auc": float("nan")}})
"""


def write_notebook(path, *sources, parameters=PARAMETERS):
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    if parameters:
        cells.insert(0, nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)
    return path


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The folder of a toy project that replaces the real one."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "notebooks"
    write_notebook(folder / "01_prepare_data.ipynb", PREPARE)
    write_notebook(folder / "02_train.ipynb", FIGURES, LAST)
    write_notebook(folder / "03_evaluate.ipynb", EVALUATE)
    write_notebook(folder / "05_probe.ipynb", EVALUATE.replace("0.81234", "0.4321"))
    (folder / "params").mkdir()
    write_preset(tmp_path, "demo", "shared: {seed: 7}\n02_train: {rate: 1e-4}\n")
    return tmp_path


def write_preset(project, name, text):
    (project / "notebooks" / "params" / f"{name}.yaml").write_text(text)


def declared(project):
    return {path.stem: declared_parameters(path) for path in (project / "notebooks").glob("*.ipynb")}


# ---- parameters


def test_declared_parameters_are_literals_if_possible(project):
    path = write_notebook(project / "notebooks/x.ipynb", parameters="a = [1, 2]  # list\nb = 2 * 3  # int\nc = None\n")
    assert declared_parameters(path) == {"a": [1, 2], "b": "2 * 3", "c": None}
    assert declared_parameters(write_notebook(path, parameters="")) == {}
    with pytest.raises(UsageError, match="absent.ipynb: no such notebook"):
        declared_parameters("notebooks/absent.ipynb")


def test_misspelled_parameter_is_refused_with_close_matches_before_anything_runs(project):
    with pytest.raises(UsageError, match=r"'sed'; did you mean seed\? known: data_dir, seed, rate, out_dir"):
        run_notebook("notebooks/02_train.ipynb", {"sed": 1}, project / "run")
    with pytest.raises(UsageError, match="no notebook has a parameter 'sed'"):
        run_pipeline("demo", {"sed": 1})
    with pytest.raises(UsageError, match="no notebook '04_fly'"):
        run_pipeline("demo", only=["04_fly"])
    assert not (project / "run").exists()
    assert not (project / "reports").exists()


TRAIN = """\
from pathlib import Path
from exiflang.utils.files import write_json
write_json(Path(out_dir, "metrics.json"), {"steps": steps, "training": training})
"""
TRAINS = 'steps = 7  # int: steps\ntraining = {}  # dict: the rest\nout_dir = ""  # str: of metrics.json\n'


def test_training_parameters_are_collected_in_a_mapping(project):
    write_notebook(project / "notebooks/02_train.ipynb", TRAIN, parameters=TRAINS)
    write_preset(project, "demo", "02_train: {ema: 9e-1, tag_dropout: 0.25, steps: 3}\n")
    run = run_pipeline("demo", {"tag_dropout": 0.5, "crop_sizes": Typed("[40, 64]")}, "run", only=["02_train"])
    found = json.loads((run / "metrics.json").read_text())["02_train"]
    assert found["steps"] == 3  # the notebook's own parameter
    assert found["training"].items() >= {"ema": 0.9, "tag_dropout": 0.5, "crop_sizes": [40, 64]}.items()
    given = json.loads((run / "manifest.json").read_text())["steps"]["02_train"]["parameters"]
    assert given.items() >= {"steps": 3, "ema": 0.9, "loss": "infonce"}.items() and "training" not in given


def test_unknown_training_parameters_are_refused_before_anything_runs(project):
    path = write_notebook(project / "notebooks/02_train.ipynb", TRAIN, parameters=TRAINS)
    write_preset(project, "demo", "02_train: {steps: 3}\n")
    with pytest.raises(UsageError, match=r"parameter 'tag_drop'; did you mean tag_dropout .*known: .*steps"):
        run_pipeline("demo", {"tag_drop": 0.5})
    with pytest.raises(UsageError, match="02_train: ema is 'slow': it must be a number, like 0.0"):
        run_notebook(path, {"ema": "slow"}, project / "run")
    write_preset(project, "demo", "02_train: {cropsizes: [40]}\n")
    with pytest.raises(UsageError, match=r"demo.yaml: 02_train has no parameter 'cropsizes'; did you mean crop_sizes"):
        run_pipeline("demo")
    assert not (project / "run").exists() and not (project / "reports").exists()


def test_a_notebook_without_training_gets_no_training_parameters(project):
    path = project / "notebooks/01_prepare_data.ipynb"
    assert "ema" not in declared_parameters(path)
    assert injected_parameters(path, {"seed": 1}) == {"seed": 1}


@pytest.mark.parametrize(
    ("default", "value", "taken"),
    [(0.5, "1e-4", 1e-4), (0.5, 2, 2.0), (1, 2, 2), ("a", "b", "b"), (True, False, False), (None, None, None)]
    + [(None, "any", "any"), ([1], [2, 3], [2, 3]), ((1, 2), [3, 4], [3, 4]), ({}, {"a": 1}, {"a": 1})],
)
def test_values_of_the_declared_type_are_accepted(tmp_path, default, value, taken):
    values = resolve_parameters("x", {"p": default, "out_dir": ""}, {"p": value}, tmp_path)
    assert values == {"p": taken, "out_dir": str(tmp_path / "x")}
    assert type(values["p"]) is type(taken)


@pytest.mark.parametrize(
    ("default", "value"),
    [(0.5, "fast"), (0.5, True), (1, 1.5), (1, "1"), (1, True), (True, 1), ("a", 1), ([1], "a")]
    + [(3, None), ("a", None), (True, None), (0.5, None), ([1], None)],
)
def test_values_of_another_type_are_refused(tmp_path, default, value):
    with pytest.raises(UsageError, match=f"^x: p is {re.escape(repr(value))}: it must be .*, like "):
        resolve_parameters("x", {"p": default, "out_dir": ""}, {"p": value}, tmp_path)


@pytest.mark.parametrize("text", ["/x/trip #2", "#mine", "~", "", "null", "yes", "1e-3", "[a", "a: b", " a ", "'a'"])
def test_text_parameters_are_not_parsed(tmp_path, text):
    values = resolve_parameters("x", {"p": "simulated", "out_dir": ""}, {"p": Typed(text)}, tmp_path)
    assert values["p"] == text and type(values["p"]) is str


@pytest.mark.parametrize(
    ("default", "text", "taken"),
    [
        (1, "2", 2),
        (0.5, "1e-4", 1e-4),
        (True, "no", False),
        ([1], "[2, a]", [2, "a"]),
        (None, "~", None),
        (None, "7", 7),
    ],
)
def test_other_parameters_are_parsed_as_yaml(tmp_path, default, text, taken):
    assert resolve_parameters("x", {"p": default, "out_dir": ""}, {"p": Typed(text)}, tmp_path)["p"] == taken


def test_paths_become_absolute_and_other_text_is_unchanged(project):
    defaults = {"data_dir": "data", "out_dir": "", "source": "simulated", "empty_dir": ""}
    assert resolve_parameters("x", defaults, {"source": "../photos"}, project / "run") == {
        "data_dir": str(project / "data"),
        "out_dir": str(project / "run" / "x"),
        "source": str(project.parent / "photos"),
    }
    assert resolve_parameters("x", defaults, {"source": "a/b"}, project)["source"] == "a/b"


def test_the_error_names_a_path_that_is_not_utf_8(tmp_path):
    defaults, odd = {"source": "", "out_dir": ""}, os.fsdecode(b"/caf\xe9")
    with pytest.raises(UsageError, match=r"x: source is /caf\\xe9, which is not UTF-8"):
        resolve_parameters("x", defaults, {"source": odd}, tmp_path)
    with pytest.raises(UsageError, match=r"x: out_dir is /caf\\xe9/x, which is not UTF-8"):
        resolve_parameters("x", defaults, {}, Path(odd))


def test_out_dir_is_set_only_by_the_runner(tmp_path):
    with pytest.raises(UsageError, match="out_dir is set by the runner"):
        resolve_parameters("x", {"out_dir": ""}, {"out_dir": "/tmp"}, tmp_path)
    with pytest.raises(UsageError, match="x declares no out_dir"):
        resolve_parameters("x", {}, {}, tmp_path)


def test_a_preset_shares_values_and_those_of_a_notebook_win(project):
    write_preset(project, "p", "shared: {seed: 1, rate: 0.1}\n02_train: {rate: 0.2}\n03_evaluate:\n")
    assert load_preset("p", declared(project)) == {
        "01_prepare_data": {"seed": 1, "rate": 0.1},
        "02_train": {"seed": 1, "rate": 0.2},
        "03_evaluate": {"seed": 1, "rate": 0.1},
        "05_probe": {"seed": 1, "rate": 0.1},
    }
    write_preset(project, "empty", "")
    assert set(map(len, load_preset("empty", declared(project)).values())) == {0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("02_trian: {seed: 1}", r"p.yaml: no notebook '02_trian'; did you mean 02_train\?"),
        ("02_train: {sead: 1}", r"p.yaml: 02_train has no parameter 'sead'; did you mean seed\?"),
        ("shared: {sead: 1}", r"p.yaml, shared: no notebook has a parameter 'sead'"),
        ("02_train: [1]", "p.yaml: expected 'notebook: {parameter: value}'"),
        ("- 1", "p.yaml: expected"),
        ("a: [", "p.yaml: not valid YAML"),
    ],
)
def test_a_wrong_preset_is_refused(project, text, message):
    write_preset(project, "p", text)
    with pytest.raises(UsageError, match=message):
        load_preset("p", declared(project))


def test_the_error_for_an_unknown_preset_lists_the_known_ones(project):
    with pytest.raises(UsageError, match=r"'dem'; did you mean demo\? known: demo"):
        load_preset("dem", declared(project))


# ---- running


def test_the_pipeline_writes_a_complete_record(project, capsys):
    run = run_pipeline("demo", {"rate": 0.25}, run_id="first")

    assert run == project / "reports/runs/first"
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["01_prepare_data"] == {"photos": 3}
    assert metrics["02_train"] == {"seed": 7, "rate": 0.25, "data_dir": str(project / "data/toy"), "cwd": str(project)}
    assert metrics["03_evaluate"]["check"] == {"pmap": 0.75, "auc": None}

    manifest = json.loads((run / "manifest.json").read_text())
    shard = str(project / "data/toy/0.tar")
    assert manifest["files"] == {shard: hashlib.sha256(b"shard").hexdigest()}
    assert manifest["status"] == "finished"
    assert (manifest["preset"], manifest["overrides"]) == ("demo", {"rate": 0.25})
    assert manifest["git"] == {"sha": None, "dirty": False}  # the toy project is not a repository
    assert manifest["packages"]["numpy"] == np.__version__
    assert list(manifest["steps"]) == list(pipeline.STEPS)
    for stem, step in manifest["steps"].items():
        assert set(step["parameters"]) == {"data_dir", "seed", "rate", "out_dir"}, stem
        assert step["seconds"] > 0
        assert step["peak_memory_mb"] > 10
    assert not list(run.rglob("*.tmp"))

    # Progress bars are shown during the run and leave one line in the copy, without a widget.
    assert "shards:" in capsys.readouterr().err
    copy = nbformat.read(run / "01_prepare_data.ipynb", as_version=4)
    (bar,) = [output for cell in copy.cells for output in cell.get("outputs", [])]
    assert re.fullmatch(r"shards: 100%\|.*\n", bar.text)
    assert "widgets" not in copy.metadata
    assert (run / "02_train.ipynb").stat().st_size < 50_000

    with pytest.raises(UsageError, match="first exists"):
        run_pipeline("demo", run_id="first")
    with pytest.raises(UsageError, match="letters, digits"):
        run_pipeline("demo", run_id="../first")


def test_a_failing_notebook_reports_the_cell_and_keeps_the_copy(project):
    write_notebook(project / "notebooks/02_train.ipynb", "import warnings", "open('absent/photos.tar')", LAST)
    with pytest.raises(PipelineError, match=r"02_train, cell In \[\d\] failed: FileNotFoundError: .*absent/photos.tar"):
        run_pipeline("demo", run_id="broken")
    run = project / "reports/runs/broken"
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["status"] == "failed"
    assert list(manifest["steps"]) == ["01_prepare_data", "02_train"]
    assert "FileNotFoundError" in (run / "02_train.html").read_text()
    assert list(json.loads((run / "metrics.json").read_text())) == ["01_prepare_data"]


def test_a_notebook_that_writes_no_metrics_is_an_error(project):
    write_notebook(project / "notebooks/x.ipynb", "pass")
    with pytest.raises(PipelineError, match="x did not write .*metrics.json: its last cell must"):
        run_notebook("notebooks/x.ipynb", {}, project / "run")


# ---- records


def test_write_json_is_strict_and_atomic(tmp_path):
    path = tmp_path / "m.json"
    value = {"a": np.float32(0.5), "b": np.arange(2), "c": float("nan"), "d": (np.inf, None), 1: tmp_path, "e": True}
    write_json(path, value)
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == {
        "a": 0.5, "b": [0, 1], "c": None, "d": [None, None], "1": str(tmp_path), "e": True,
    }  # fmt: skip
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert path.read_bytes() == before


@given(st.floats(-1, 1), st.floats(-1, 1), st.one_of(st.none(), st.floats()))
def test_the_golden_check_fails_exactly_outside_the_spread(one, other, value):
    low, high = sorted([one, other])
    inside = value is not None and low <= value <= high
    assert (golden_failures({"m": value}, {"m": {"low": low, "high": high}}) == []) == inside


def test_the_golden_check_covers_all_golden_names_and_no_others():
    golden = {"m": {"mean": 1.0, "sd": 0.1, "low": 0.8, "high": 1.2}}
    assert golden_failures({"m": 1.0, "new": 9.0}, golden) == []
    assert golden_failures({}, golden) == ["m: not measured, golden 0.8 to 1.2"]
    assert golden_failures({"m": 2}, golden) == ["m: 2, golden 0.8 to 1.2"]
    assert golden_failures({"m": 2}, {}) == []


# ---- command line


def test_the_command_line_prints_the_table_and_checks_the_golden_spread(project, capsys):
    golden = project / "reports/golden/demo.json"
    golden.parent.mkdir(parents=True)
    golden.write_text(json.dumps({"metrics": {"pmap": {"low": 0.7, "high": 0.8}}}))
    command = ["--only", "03_evaluate", "--check", "--out", "runs"]

    assert main([*command, "-p", "rate", "0.25"]) == 0
    answer = capsys.readouterr()
    assert re.search(r"method +p-mAP\n +model +0.812\nmean color +-\n", answer.out)
    (run,) = (project / "runs").iterdir()
    assert answer.out.splitlines()[-1] == str(run)
    assert re.fullmatch(r"demo-\d{8}-\d{6}", run.name)
    run.rename(project / "kept")

    assert main([*command, "-p", "rate", "4e-1"]) == 1
    assert "outside its golden range: pmap: 0.9, golden 0.7 to 0.8" in capsys.readouterr().err


def test_the_probe_runs_if_named_and_prints_its_own_table(project, capsys):
    assert main(["--only", "05_probe", "--out", "runs"]) == 0
    answer = capsys.readouterr()
    assert re.search(r"model +0.432", answer.out)
    (run,) = (project / "runs").iterdir()
    assert list(json.loads((run / "metrics.json").read_text())) == ["05_probe"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-p", "sed", "1"], "did you mean seed?"),
        (["-p", "seed", "[1"], "seed: '[1' is not valid YAML"),
        (["-p", "seed", "~"], "seed is None: it must be a whole number, like 0"),
        (["-p", "seed", "many"], "seed is 'many': it must be a whole number, like 0"),
        (["--preset", "nightly"], "no preset in"),
        (["--check"], "demo.json: no golden numbers for this preset"),
        (["--check", "--only", "02_train"], "--check needs 03_evaluate"),
    ],
)
def test_usage_errors_are_reported_without_a_traceback(project, capsys, arguments, message):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not (project / "reports").exists()


def test_the_error_names_a_damaged_golden_file(project, capsys):
    path = project / "reports/golden/demo.json"
    path.parent.mkdir(parents=True)
    path.write_text("[]")
    assert main(["--check"]) == 2
    assert "demo.json: expected" in capsys.readouterr().err


def test_a_failing_notebook_exits_with_1(project, capsys):
    write_notebook(project / "notebooks/01_prepare_data.ipynb", "raise ValueError('no photos in data')")
    assert main(["--only", "01_prepare_data"]) == 1
    assert "error: 01_prepare_data, cell In [" in (message := capsys.readouterr().err)
    assert "ValueError: no photos in data" in message


# ---- unwritable outputs, kernels that do not start


def only_line(capsys) -> str:
    """The only line on stderr that reports an error."""
    said = capsys.readouterr().err
    assert "Traceback" not in said
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    return line


def test_the_error_names_an_output_folder_that_is_a_file(project, capsys):
    (project / "taken").write_text("mine")
    assert main(["--only", "01_prepare_data", "--out", "taken"]) == 1
    assert re.search(r"taken/demo-\S+: Not a directory; a file exists where a folder is needed", only_line(capsys))
    assert (project / "taken").read_text() == "mine"


def test_the_error_for_a_full_disk_says_what_to_do(project, capsys, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pipeline, "write_html", full)
    assert main(["--only", "01_prepare_data", "--out", "runs"]) == 1
    said = only_line(capsys)
    assert re.search(r"runs/demo-\S+: No space left on device; free some space, and run it again", said)


def install_kernel(project, monkeypatch, *command):
    kernel = project / "jupyter/kernels/python3"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text(json.dumps({"argv": command, "display_name": "x", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(project / "jupyter"))


def test_a_kernel_that_does_not_start_is_reported_in_one_line(project, capsys, monkeypatch):
    install_kernel(project, monkeypatch, "/bin/false")
    assert main(["--only", "01_prepare_data"]) == 1
    said = only_line(capsys)
    assert "01_prepare_data: the kernel python3 does not start (Kernel died" in said and "kernelspec list" in said


def test_a_kernel_that_dies_before_the_first_cell_is_started_again(project, monkeypatch):
    """As if another program had taken one of its ports."""
    kernel = f'{sys.executable} -m ipykernel_launcher -f "$0"'
    install_kernel(project, monkeypatch, "/bin/sh", "-c", f"mkdir started || exec {kernel}", "{connection_file}")
    assert run_notebook("notebooks/01_prepare_data.ipynb", {}, project / "run")["photos"] == 3
    assert (project / "started").is_dir()


def test_a_notebook_whose_kernel_dies_later_runs_once(project):
    cell = "import os\nos.mkdir('began')\nos.kill(os.getpid(), 9)\n"
    write_notebook(project / "notebooks/x.ipynb", cell, parameters='out_dir = ""  # str: of metrics.json\n')
    with pytest.raises(PipelineError, match="x: the kernel died"):
        run_notebook("notebooks/x.ipynb", {}, project / "run")
    assert (project / "began").is_dir()
