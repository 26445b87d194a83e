"""The README's pictures of the inspector: `make screenshots` renews reports/golden/inspect-{light,dark}.png."""

import re
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from exiflang.pipeline.parameters import project_path
from exiflang.simulation.example import example_mask
from tests.lab import CHROMIUM, copy_notebook, jupyterlab, run_notebook, screen_point

#: The smallest screen that the inspector is designed for.
SCREEN = {"width": 1280, "height": 720}


def screenshot(theme: str, target: Path) -> None:
    """The example with a window of its host chosen, in a theme of JupyterLab."""
    with tempfile.TemporaryDirectory() as root, sync_playwright() as playwright:
        copy_notebook(Path(root), out_dir=f"{root}/out")
        with jupyterlab(Path(root), theme) as server:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = browser.new_page(viewport=SCREEN)
            inspector = run_notebook(page, server)
            height, width = example_mask().shape
            page.mouse.click(*screen_point(page, 0, 0.3 * width, 0.72 * height))
            page.wait_for_timeout(1000)
            page.keyboard.down("Shift")
            page.mouse.click(*screen_point(page, 0, 0.68 * width, 0.28 * height))
            page.keyboard.up("Shift")
            inspector.get_by_text(re.compile(r"^cosine -?\d")).wait_for()
            page.mouse.move(5, 5)
            page.wait_for_timeout(1000)  # hover labels fade
            page.screenshot(path=target)
            browser.close()


if __name__ == "__main__":
    for name in ("light", "dark"):
        screenshot(f"JupyterLab {name.title()}", project_path(f"reports/golden/inspect-{name}.png"))
