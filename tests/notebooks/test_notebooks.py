"""The notebooks: run with the tiny preset, then run again by nbval, which must produce the same outputs."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import torch

from exiflang.data.shards import Sample
from exiflang.models.config import ExifLangConfig
from exiflang.models.model import ExifLang
from exiflang.models.tokenizer import train_tokenizer
from exiflang.pipeline.parameters import project_path
from exiflang.pipeline.runner import KERNEL_ENVIRONMENT, STEPS, run_notebook, run_pipeline
from exiflang.simulation.cameras import CAMERAS
from exiflang.simulation.render import render_photo
from exiflang.simulation.splices import write_splices
from exiflang.utils.hardware import has_fast_bf16
from tests.shard_writer import write_shards

NOTEBOOKS = project_path("notebooks")
# For 06_speed: each part once, at its smallest size.
SPEED = {
    "rounds": 1,
    "curve_rounds": 1,
    "only": "votes or components or cut or on_a_gpu",
    "picture_size": [512, 384],
    "megapixels": [0.05],
    "windows_per_side": [5],
    "batch_sizes": [64],
    "tokens": [8],
    "reference": "tiny",
}


def nbval(copies: list[Path]) -> subprocess.CompletedProcess:
    """Run the executed `copies` again, in order and without the settings of this pytest, and compare their outputs."""
    root = Path(__file__).parents[2]
    (copies[0].parent / "notebooks" / "params").mkdir(parents=True, exist_ok=True)  # makes it the project of the copies
    command = [sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir", str(copies[0].parent), "-q"]
    command += ["-p", "no:cacheprovider", "-p", "tests.nbval_plotly", "--nbval", "--nbval-current-env"]
    command += ["--nbval-kernel-startup-timeout=600"]
    command += ["--nbval-sanitize-with", str(NOTEBOOKS / "sanitize.cfg"), *map(str, copies)]
    environment = os.environ | KERNEL_ENVIRONMENT | {"PYTHONPATH": str(root)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1200)


def test_a_tiny_run_and_its_repetition_give_the_same_outputs(tmp_path):
    folders = {"data_dir": tmp_path / "data", "model_dir": tmp_path / "model"}
    overrides = {name: str(folder) for name, folder in folders.items()}
    run = run_pipeline("tiny", overrides, run_id="tiny", runs_dir=tmp_path / "runs")
    first = json.loads((run / "metrics.json").read_text())

    # On a finished run, nbval would find all results and compute nothing.
    for folder in [*folders.values(), *(run / stem for stem in STEPS)]:
        shutil.rmtree(folder)
        folder.mkdir()
    second = nbval([run / f"{stem}.ipynb" for stem in STEPS])

    assert second.returncode == 0, second.stdout + second.stderr
    again = json.loads((run / STEPS[-1] / "metrics.json").read_text())
    assert again["check"] == first[STEPS[-1]]["check"]


def test_nbval_detects_changed_numbers_and_ignores_bars_times_and_figures(tmp_path):
    def notebook(number, seconds, rate):
        cells = [
            ("print('loss', 0.5)", nbformat.v4.new_output("stream", name="stdout", text=f"loss {number}\n")),
            ("print('took 1.5 s')", nbformat.v4.new_output("stream", name="stdout", text=f"took {seconds} s\n")),
            (
                "from tqdm.auto import tqdm\nfor _ in tqdm(range(2)):\n    list(tqdm(range(2), leave=False))",
                nbformat.v4.new_output("stream", name="stderr", text=f"100%|####| 2/2 [00:01<00:00, {rate}it/s]\n"),
            ),
            (
                "import plotly.graph_objects as go\ngo.Figure(go.Bar(y=[2])).show()",
                nbformat.v4.new_output("display_data", {"application/vnd.plotly.v1+json": {"data": [], "layout": {}}}),
            ),
        ]
        made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source, _ in cells])
        for count, (cell, (_, output)) in enumerate(zip(made.cells, cells, strict=True), 1):
            cell.execution_count, cell.outputs = count, [output]
        return made

    nbformat.write(notebook(number=0.5, seconds=7, rate=99.0), tmp_path / "same.ipynb")
    nbformat.write(notebook(number=0.6, seconds=1.5, rate=1.0), tmp_path / "other.ipynb")

    answer = nbval([tmp_path / "same.ipynb", tmp_path / "other.ipynb"])
    assert "1 failed, 7 passed" in answer.stdout, answer.stdout + answer.stderr
    assert "other.ipynb::Cell 0" in answer.stdout


def test_speed_and_its_repetition_give_the_same_outputs_except_times(tmp_path):
    torch.manual_seed(0)
    ExifLang(ExifLangConfig.preset("tiny")).save_pretrained(str(tmp_path / "model"))
    write_splices(tmp_path / "splices", CAMERAS[:2], 1, authentic=0, seed=0, size=(256, 192))
    folders = {"model_dir": str(tmp_path / "model"), "splices_dir": str(tmp_path / "splices")}
    found = run_notebook("notebooks/06_speed.ipynb", SPEED | folders, tmp_path)
    assert {"votes", "normalized cut", "principal components"} <= {row["group"] for row in found["rows"]}
    assert found["skipped"] == ([] if torch.cuda.is_available() else ["there is no CUDA GPU"])
    assert {row["model"] for row in found["agreement"]} == {"packaged", "padded", "tiny, random weights"}
    assert len(found["modes"]) == 4
    assert {row["curve"] for row in found["curves"]} == {"megapixels", "windows per side", "batch", "tokens"}
    in_bf16 = {row["curve"] for row in found["curves"] if row["way"] == "bf16"}
    assert in_bf16 == ({"batch"} if has_fast_bf16("cpu") else set())

    second = nbval([tmp_path / "06_speed.ipynb"])
    assert second.returncode == 0, second.stdout + second.stderr


def test_probes_and_their_repetition_give_the_same_outputs(tmp_path):
    torch.manual_seed(0)
    ExifLang(ExifLangConfig.preset("tiny"), train_tokenizer(["Make: A, Model: M0"], 300)).save_pretrained(
        str(tmp_path / "model")
    )
    write_splices(tmp_path / "data/splices/seen", CAMERAS[:4], 4, authentic=4, seed=0, size=(192, 144), workers=1)
    samples = [
        Sample(f"{i:03d}", render_photo(CAMERAS[i % 4], i, (96, 64)), "jpg", {"photo": str(i), "exif": tags(i)})
        for i in range(12)
    ]
    write_shards(samples, tmp_path / "data/heldout")
    folders = {"data_dir": str(tmp_path / "data"), "model_dir": str(tmp_path / "model")}
    small = {"control_dir": folders["model_dir"], "folds": 2, "crops": 1, "strengths": 10, "pictures": 4}
    found = run_notebook("notebooks/05_probe.ipynb", folders | small, tmp_path)
    assert {row["method"] for row in found["table"]} >= {"model", "untrained", "shuffled EXIF", "mean color"}
    assert {name.split("/")[0] for name in found["check"]} == {"exif", "splices", "distortion"}
    assert found["check"]["distortion/whole/bin/model"] <= 1 and found["protocol"]["pictures"] == 4
    assert (tmp_path / "05_probe/probes.csv").is_file()

    second = nbval([tmp_path / "05_probe.ipynb"])
    assert second.returncode == 0, second.stdout + second.stderr


def tags(number: int) -> str:
    """EXIF as in shards: two alternating makes, sometimes with flash."""
    camera = number % 4
    found = {"Image Make": "AB"[camera % 2], "Image Model": f"M{camera}", "EXIF Flash": "01"[number // 4 % 2]}
    return json.dumps(found | {"EXIF FNumber": str(2 + number % 3)})


@pytest.mark.parametrize("packaged", [False, True], ids=["tiny", "packaged"])
def test_inspect_and_its_repetition_give_the_same_outputs(tmp_path, packaged):
    torch.manual_seed(0)
    ExifLang(ExifLangConfig.preset("tiny")).save_pretrained(str(tmp_path / "model"))
    given = {"interactive": False, "windows_per_side": 12, "window": [99, 0]}  # outside the grid: its last row is used
    found = run_notebook(
        "notebooks/04_inspect.ipynb", given | ({} if packaged else {"model_dir": str(tmp_path / "model")}), tmp_path
    )
    assert found["calibrated"] == packaged and 0 <= found["mask_share"] <= 1
    assert bool(found["fit"]) == packaged and bool(found["answers"]) == packaged
    assert (tmp_path / "04_inspect" / found["report"]).is_file()
    copy = tmp_path / "04_inspect.ipynb"
    assert copy.stat().st_size < 1e6 and "widgets" not in nbformat.read(copy, 4).metadata

    second = nbval([tmp_path / "04_inspect.ipynb"])
    assert second.returncode == 0, second.stdout + second.stderr


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_committed_notebooks_are_thin(path):
    cells = nbformat.read(path, as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    lines = [line for cell in code for line in cell.source.splitlines()]
    parameters = [cell for cell in code if "parameters" in cell.metadata.get("tags", [])]

    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert not [line for line in lines if line.lstrip().startswith(("def ", "class "))]
    assert len(lines) <= 120
    assert len(parameters) == 1
    assert all("#" in line for line in parameters[0].source.splitlines() if "=" in line)  # type and meaning
