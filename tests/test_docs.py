"""The documentation builds without warnings, needs no network, and shows formulas and all golden results."""

import functools
import http.server
import re
import subprocess
import sys
import threading

import pytest
from playwright.sync_api import sync_playwright

from exiflang.pipeline.parameters import project_path
from experiments.results import RESULTS
from tests.lab import CHROMIUM


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The pages, with notebooks that have not been run as tutorials."""
    out = tmp_path_factory.mktemp("docs")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "-q", "-b", "html"]
    command += ["-D", f"exiflang_run={out / 'no run'}", "-d", str(out / "doctrees"), "docs", str(out / "html")]
    done = subprocess.run(command, cwd=project_path("."), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out / "html"


def test_every_golden_file_is_shown(built):
    assert set(RESULTS) == {path.stem for path in project_path("reports/golden").glob("*.json")}
    pages = "".join(path.read_text(encoding="utf-8") for path in (built / "results").glob("*.html"))
    pages = re.sub(r"<[^>]+>", "", pages)  # highlighted code has a tag around each word
    for name, result in RESULTS.items():
        assert f"reports/golden/{name}.json" in pages and result.command in pages


def test_no_page_loads_anything_from_elsewhere(built):
    loads = re.compile(r"""<(?:script|img|iframe|link)\b[^>]*?\b(?:src|href)=["'](?:https?:)?//[^"']+""")
    for path in built.rglob("*.html"):
        found = [tag for tag in loads.findall(path.read_text(encoding="utf-8")) if 'rel="canonical"' not in tag]
        assert not found, path


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (apt-get install chromium)")
def test_formulas_are_drawn_without_network(built):
    handler = functools.partial(QuietHandler, directory=str(built))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, sync_playwright() as driver:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page, asked = browser.new_page(), []
        page.on("request", lambda request: asked.append(request.url))
        here = f"http://127.0.0.1:{server.server_address[1]}/"
        page.goto(f"{here}explanation/method.html")
        formula = page.locator("div.math math").first
        box = formula.bounding_box()
        drawn = formula.locator("mo, mi").count()
        figure = page.locator(".method svg").bounding_box()
        browser.close()
        server.shutdown()
    assert box and box["height"] > 15 and box["width"] > 60 and drawn > 5
    assert figure and figure["width"] > 300
    assert asked and all(address.startswith((here, "data:")) for address in asked)


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_) -> None:
        pass
