"""Pages that follow from the code, written before Sphinx reads its sources: results, tutorials, reference.

They lie in docs/_generated and are not committed, so that they can never disagree with the code.
"""

import json
import shutil
import subprocess
import sys
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any

import nbformat
import papermill
import yaml
from method_figure import method_figure
from plotly.offline import get_plotlyjs
from sphinx.application import Sphinx
from sphinx.util import logging

from exiflang.pipeline.html import with_html_figures
from exiflang.pipeline.runner import run_notebook, run_pipeline
from experiments.results import RESULTS

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent
OUT = DOCS / "_generated"
TUTORIALS = ("01_prepare_data", "02_train", "03_evaluate", "04_inspect")
ROOMS = [
    f"exiflang.{room}"
    for room in "exif headers simulation preparation data models localization training evaluation inspection release "
    "viz pipeline".split()
]
logger = logging.getLogger(__name__)


def write_pages(app: Sphinx) -> None:
    """Write docs/_generated anew."""
    shutil.rmtree(OUT, ignore_errors=True)
    for folder in ("results", "reference", "tutorials"):
        (OUT / folder).mkdir(parents=True)
    for name, result in RESULTS.items():
        _write(f"results/{name}.md", result_tables(name, result))
    for room in ROOMS:
        _write(f"reference/{room}.md", room_api(room))
    _write("reference/api.md", API + "\n".join([*ROOMS, "```"]))
    _write("reference/cli.md", command_line())
    _write("reference/parameters.md", parameters())
    _write("method.html", method_figure())
    write_tutorials(Path(app.config.exiflang_run or finished_run()))
    (DOCS / "_static" / "plotly.min.js").write_text(get_plotlyjs(), encoding="utf-8")
    font = files("ziamath") / "fonts" / "STIXTwoMath-Regular.ttf"
    (DOCS / "_static" / "STIXTwoMath-Regular.ttf").write_bytes(font.read_bytes())


def _write(name: str, text: str) -> None:
    (OUT / name).write_text(text.rstrip() + "\n", encoding="utf-8")


def result_tables(name: str, result: Any) -> str:
    """The tables of reports/golden/<name>.json, with the command that renews them and the day it last did."""
    path = ROOT / "reports" / "golden" / f"{name}.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    day = subprocess.run(["git", "log", "-1", "--format=%cs", "--", path], cwd=ROOT, capture_output=True, text=True)
    date = f", {day.stdout.strip()}" if day.stdout.strip() else ""
    source = f"*`{result.command}` writes `reports/golden/{name}.json`{date}.*"
    titled = [f"## {title}\n\n{table}" if title else table for title, table in result.tables(found).items()]
    return "\n\n".join([source, *titled])


API = """# API

Each room of the package and its public names; `from exiflang import ...` has the ones that most people need.

```{toctree}
:maxdepth: 2

"""


def room_api(room: str) -> str:
    """The public names of a room, from their docstrings."""
    module = import_module(room)
    parts = [f"# {room}", f"```{{eval-rst}}\n.. automodule:: {room}\n   :no-index:\n```"]
    for name in sorted(module.__all__, key=str.lower):
        if callable(found := getattr(module, name)):
            parts.append(f"```{{eval-rst}}\n{_directive(found)}\n```")
    return "\n\n".join(parts)


def _directive(found: Any) -> str:
    """What documents a class or a function where it is defined."""
    path = f"{found.__module__}.{found.__qualname__}"
    return f".. autoclass:: {path}\n   :members:" if isinstance(found, type) else f".. autofunction:: {path}"


def command_line() -> str:
    """`exiflang --help` and that of each command."""
    made = subprocess.run(
        [
            sys.executable,
            "-m",
            "typer",
            "exiflang.cli",
            "utils",
            "docs",
            "--name",
            "exiflang",
            "--title",
            "Command line",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return made.stdout


def parameters() -> str:
    """A table of each notebook's parameters, from its cell."""
    parts = ["# Parameters of the notebooks", (DOCS / "reference" / "parameters_intro.md").read_text(encoding="utf-8")]
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        rows = ["| name | type | default | meaning |", "|---|---|---|---|"]
        for name, found in papermill.inspect_notebook(str(path)).items():
            kind, _, meaning = found["help"].partition(": ")
            default = found["default"].replace("|", "\\|")
            rows.append(f"| `{name}` | {kind} | `{default}` | {meaning.replace('|', chr(92) + '|')} |")
        parts.append(f"## {path.stem}\n\n" + "\n".join(rows))
    return "\n\n".join(parts)


def finished_run() -> Path:
    """The newest finished run of 01, 02 and 03 in reports/runs, with 04; the tiny preset runs if there is none."""
    run = newest_run()
    if run is None:
        logger.info("no finished run in reports/runs: running the tiny preset")
        run = Path(run_pipeline("tiny", {}))
    if not (run / "04_inspect.ipynb").exists():
        run_notebook("notebooks/04_inspect.ipynb", {"interactive": False}, run)
    return run


def newest_run() -> Path | None:
    runs = sorted((ROOT / "reports" / "runs").glob("*/manifest.json"), key=lambda path: path.stat().st_mtime)
    for path in reversed(runs):
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest["status"] == "finished" and (path.parent / "03_evaluate.ipynb").exists():
            return path.parent
    return None


def write_tutorials(run: Path) -> None:
    """The executed notebooks of a run; those that it does not have as they are, without results."""
    manifest = run / "manifest.json"
    preset = json.loads(manifest.read_text(encoding="utf-8"))["preset"] if manifest.exists() else "none"
    for name in TUTORIALS:
        executed = run / f"{name}.ipynb"
        document = nbformat.read(executed if executed.exists() else ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
        with_html_figures(document, plotlyjs="../../_static/plotly.min.js")
        note = _origin(name, preset) if executed.exists() else NOT_EXECUTED
        document.cells.insert(1, nbformat.v4.new_markdown_cell(f":::{{note}}\n{note}\n:::"))
        document.metadata.pop("widgets", None)
        nbformat.write(document, OUT / "tutorials" / f"{name}.ipynb")


NOT_EXECUTED = "This page shows the notebook as it is, without results: run it in JupyterLab."


def _origin(name: str, preset: str) -> str:
    settings = yaml.safe_load((ROOT / "notebooks" / "params" / f"{preset}.yaml").read_text(encoding="utf-8"))
    few = " It only shows that everything runs: its figures mean nothing." if preset == "tiny" else ""
    used = f"the preset `{preset}`.{few}" if name in settings else "the packaged weights."
    return f"This is an executed copy of `notebooks/{name}.ipynb`, with {used}"


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_config_value("exiflang_run", "", "env")
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
