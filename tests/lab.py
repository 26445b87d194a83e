"""JupyterLab with a notebook in a real browser, isolated from this machine's settings and network."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat

from exiflang.pipeline.parameters import project_path

CHROMIUM = shutil.which("chromium")
TOKEN = "only-for-this-test"


def copy_notebook(root: Path, **given: object) -> None:
    """Put 04_inspect into a folder, with other parameters."""
    (root / "notebooks" / "params").mkdir(parents=True, exist_ok=True)  # which makes it the project
    notebook = nbformat.read(project_path("notebooks/04_inspect.ipynb"), as_version=4)
    parameters = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    parameters.source += "".join(f"\n{name} = {value!r}" for name, value in given.items())
    nbformat.write(notebook, root / "04_inspect.ipynb")


@contextmanager
def jupyterlab(root: Path, theme: str = "JupyterLab Light") -> Iterator[str]:
    """Run a server in a folder, on a free port, and yield its address. It keeps its own state in `root/state`."""
    state = root / "state"
    environment = os.environ | {f"JUPYTER_{kind}_DIR": str(state / kind) for kind in ("CONFIG", "DATA", "RUNTIME")}
    environment |= {"JUPYTERLAB_SETTINGS_DIR": str(state / "settings"), "IPYTHONDIR": str(state / "ipython")}
    environment |= {"JUPYTERLAB_WORKSPACES_DIR": str(state / "workspaces"), "JUPYTER_PLATFORM_DIRS": "1"}
    settings = state / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    no_news = {"fetchNews": "false", "checkForUpdates": False}  # nor ask whether to
    (settings / "notification.jupyterlab-settings").write_text(json.dumps(no_news))
    (settings / "themes.jupyterlab-settings").write_text(json.dumps({"theme": theme}))
    notebooks = state / "settings" / "@jupyterlab" / "notebook-extension"
    notebooks.mkdir()
    all_cells = {"windowingMode": "defer"}  # else a cell out of sight has no outputs
    (notebooks / "tracker.jupyterlab-settings").write_text(json.dumps(all_cells))
    options = ["--no-browser", "--allow-root", "--ServerApp.port=0", f"--IdentityProvider.token={TOKEN}"]
    options += [f"--ServerApp.root_dir={root}", "--LabApp.extension_manager=readonly", "--LabApp.news_url=None"]
    options += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    with (root / "server.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyter", "lab", *options], env=environment, stdout=log, stderr=log, cwd=root
        )
    try:
        until = time.monotonic() + 300
        while not (found := list((state / "RUNTIME").glob("jpserver-*.json"))):
            assert process.poll() is None and time.monotonic() < until, (root / "server.log").read_text()
            time.sleep(0.1)
        yield json.loads(found[0].read_text())["url"].rstrip("/")
    finally:
        process.terminate()
        process.wait(30)


#: Milliseconds that a page may take to show something: enough for a busy machine.
PATIENCE = 300_000


def run_notebook(page, server: str):
    """Open the notebook on the whole screen, run it, and return the inspector when its picture is there."""
    page.set_default_timeout(PATIENCE)
    page.goto(f"{server}/doc/tree/04_inspect.ipynb?token={TOKEN}")
    page.wait_for_selector("text=Python 3 (ipykernel)")
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status='idle']")
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.locator("#jp-mainmenu-run").get_by_text("Run All Cells", exact=True).click()
    inspector = page.locator(".exiflang-inspector")
    inspector.get_by_text("Done in").wait_for(state="attached")
    # Until all cells have run, the kernel handles no clicks, and new outputs shift the page.
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status='idle']")
    inspector.evaluate("element => element.scrollIntoView()")
    page.wait_for_function(
        "document.querySelectorAll('.exiflang-inspector .js-plotly-plot .imagelayer image').length == 5"
    )
    return inspector


def screen_point(page, panel: int, x: float, y: float) -> tuple[float, float]:
    """Where a pixel of the picture is on the screen."""
    return tuple(
        page.evaluate(
            """([panel, x, y]) => {
                const plot = document.querySelector(".exiflang-inspector .js-plotly-plot");
                const box = plot.getBoundingClientRect();
                const [across, down] = panel ? ["xaxis2", "yaxis2"] : ["xaxis", "yaxis"];
                const a = plot._fullLayout[across], d = plot._fullLayout[down];
                return [box.left + a._offset + a.d2p(x), box.top + d._offset + d.d2p(y)];
            }""",
            [panel, x, y],
        )
    )
