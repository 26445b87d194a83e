"""The inspector as users see it: 04_inspect in JupyterLab, in a real browser, and the resulting state of the kernel."""

import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from jupyter_client import BlockingKernelClient
from PIL import Image

from exiflang.localization.learned_readout import LearnedReadout
from exiflang.models.config import ExifLangConfig
from exiflang.models.model import ExifLang
from tests.inspection.by_hand import ByHand
from tests.lab import CHROMIUM, PATIENCE, copy_notebook, jupyterlab, run_notebook, screen_point

sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (apt-get install chromium)")

SIZE = (640, 448)  # of the picture, in pixels: windows of 32 pixels, 16 pixels apart
# Messages of JupyterLab itself, none of which concerns widgets.
ALLOWED = re.compile(r"Synchronizing|does not have a corresponding|Autoplay|ResizeObserver loop")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A root for JupyterLab: the notebook, a tiny model with a learned readout, a picture."""
    root = tmp_path_factory.mktemp("lab")
    torch.manual_seed(0)
    ExifLang(ExifLangConfig.preset("tiny")).save_pretrained(str(root / "model"))
    readout = LearnedReadout()
    readout.calibration = ByHand().calibration
    readout.save(root / "model")
    noise = np.random.default_rng(0).integers(0, 256, (*SIZE[::-1], 3), np.uint8)
    noise[100:300, 200:400] //= 3
    Image.fromarray(noise).save(root / "known.png")
    given = {"model_dir": str(root / "model"), "out_dir": str(root / "out"), "picture": str(root / "known.png")}
    copy_notebook(root, **given)
    return root


@pytest.fixture(scope="module")
def server(folder):
    with jupyterlab(folder) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


class Kernel:
    """Asks the notebook's kernel for values, after clicks in the page."""

    def __init__(self, connection: Path):
        self.client = BlockingKernelClient(connection_file=str(connection))
        self.client.load_connection_file()
        self.client.start_channels()
        self.client.wait_for_ready(PATIENCE / 1000)

    def ask(self, expression: str):
        reply = self.client.execute("", user_expressions={"it": f"__import__('json').dumps({expression})"}, reply=True,
                                    timeout=PATIENCE / 1000)  # fmt: skip
        answer = reply["content"]["user_expressions"]["it"]
        assert answer["status"] == "ok", answer
        return json.loads(answer["data"]["text/plain"][1:-1].encode().decode("unicode_escape"))

    def comes_to(self, expression: str, value, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while self.ask(expression) != value:
            if time.monotonic() > until:
                return False
            time.sleep(0.05)
        return True

    def wait_for(self, expression: str, value):
        assert self.comes_to(expression, value, PATIENCE / 1000), f"{expression}: {self.ask(expression)}, not {value}"


def click(page, kernel: Kernel, panel: int, row: int, col: int, trait: str) -> None:
    """Point at a window until the figure names it, and click; retry if the figure was being redrawn, which
    swallows a click."""
    window, stride = kernel.ask("[panel.inspection.result.window_size, panel.inspection.result.stride]")
    for _ in range(5):
        x, y = screen_point(page, panel, col * stride + window / 2, row * stride + window / 2)
        page.mouse.move(x + 3, y + 3)
        page.mouse.move(x, y)
        page.wait_for_selector(f".hoverlayer >> text=row, column {row}, {col}")
        page.mouse.down()
        page.mouse.up()
        if kernel.comes_to(f"panel.{trait}", [row, col], 3):
            return
    pytest.fail(f"five clicks on window {row}, {col} did not become panel.{trait}")


def test_an_investigator_clicks_through_the_notebook(server, folder, browser):
    context = browser.new_context(viewport={"width": 1280, "height": 720})
    page = context.new_page()
    complaints, addresses = [], []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: addresses.append(request.url))
    page.on("websocket", lambda socket: addresses.append(socket.url.replace("ws://", "http://")))

    inspector = run_notebook(page, server)
    (connection,) = (folder / "state" / "RUNTIME").glob("kernel-*.json")
    kernel = Kernel(connection)
    assert kernel.ask("panel.inspection.picture.name") == "known.png"
    assert page.evaluate(
        "document.querySelector('.exiflang-inspector .js-plotly-plot')._fullLayout.width"
        " > document.querySelector('.exiflang-inspector').clientWidth - 20"
    )

    # A click selects, on either panel; with shift it compares.
    click(page, kernel, 0, 3, 7, "selected")
    kernel.wait_for("panel.right_view", "similarity")
    click(page, kernel, 1, 12, 20, "selected")
    page.keyboard.down("Shift")
    click(page, kernel, 0, 5, 9, "compared")
    page.keyboard.up("Shift")
    assert kernel.ask("panel.selected") == [12, 20]
    inspector.get_by_text("cosine", exact=False).last.wait_for()

    # The keyboard does the same: fields, sliders, lists.
    field = inspector.get_by_label("A row")
    field.fill("6")
    field.press("Enter")
    kernel.wait_for("panel.selected", [6, 20])
    for number, name in enumerate(("threshold", "opacity")):
        before = kernel.ask(f"panel.{name}")
        handle = inspector.get_by_role("slider").nth(number)
        handle.focus()
        handle.press("ArrowRight")
        kernel.wait_for(f"panel.{name} > {before}", True)

    # The verdict follows the false-alarm rate, and the hatching its button.
    inspector.get_by_label("False alarms").select_option("1 %")
    kernel.wait_for("panel.inspection.result.verdict", "not decidable")
    inspector.get_by_text("needs 99 cameras", exact=False).wait_for()
    inspector.get_by_role("button", name="Hatch").click()
    kernel.wait_for("panel.hatching", False)

    # Zoom stays where it is when views, sliders and windows change.
    page.mouse.move(*screen_point(page, 0, 320, 224))
    page.mouse.wheel(0, -400)
    page.wait_for_function(
        "document.querySelector('.exiflang-inspector .js-plotly-plot')._fullLayout.xaxis.range[0] > 5"
    )
    ranges = """(() => { const f = document.querySelector('.exiflang-inspector .js-plotly-plot')._fullLayout;
        return [f.xaxis, f.yaxis, f.xaxis2, f.yaxis2].map(a => a.range.map(v => Math.round(v * 10))); })()"""
    page.wait_for_function(
        f"(() => {{ const now = JSON.stringify({ranges}), still = now == window.before; window.before = now;"
        " return still; })()",
        polling=400,
    )
    zoomed = page.evaluate(ranges)
    assert zoomed[:2] == zoomed[2:]
    inspector.get_by_label("Left").select_option("JPEG history")
    kernel.wait_for("panel.left_view", "jpeg_history")
    inspector.get_by_label("Left").select_option("Components")
    kernel.wait_for("panel.left_view", "components")
    click(page, kernel, 1, 14, 19, "selected")
    page.wait_for_function(
        "document.querySelector('.exiflang-inspector .js-plotly-plot')._fullLayout.coloraxis.showscale === false"
    )
    assert page.evaluate(ranges) == zoomed

    # A report does not access the network, and shows its pictures.
    inspector.get_by_role("tab", name="Export").click()
    inspector.get_by_label("To folder").fill(str(folder / "exported"))
    inspector.get_by_role("button", name="Report (HTML)").click()
    inspector.get_by_text("Written").wait_for()
    (report,) = (folder / "exported").glob("*.html")
    reader = browser.new_context(offline=True).new_page()
    reader.on("request", lambda request: addresses.append(request.url))
    reader.goto(report.as_uri())
    widths = reader.evaluate("[...document.images].map(image => image.naturalWidth)")
    assert len(widths) > 2 and min(widths) > 0

    local = (f"{server}/", "data:", "blob:", report.as_uri())
    assert [address for address in addresses if not address.startswith(local)] == []
    assert [complaint for complaint in complaints if not ALLOWED.search(complaint)] == []
    kernel.client.stop_channels()
    context.close()
