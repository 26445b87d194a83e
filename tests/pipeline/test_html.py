"""Reports are self-contained: a page fetches nothing, and text from a picture's EXIF is escaped."""

import re
from html.parser import HTMLParser

import nbformat
import pytest

from exiflang.pipeline.html import with_mathml, write_html
from exiflang.pipeline.parameters import project_path


class Loads(HTMLParser):
    """Collects every address that a page would load automatically, and the texts of its scripts."""

    def __init__(self, page):
        super().__init__()
        self.addresses, self.scripts, self._in_script = [], [], False
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self._in_script = tag == "script"
        self.addresses += [attributes["src"]] if attributes.get("src") else []
        self.addresses += [attributes["href"]] if tag == "link" else []

    def handle_data(self, data):
        if self._in_script:
            self.scripts.append(data)

    def handle_endtag(self, tag):
        self._in_script = False


def test_html_loads_nothing_and_embeds_the_plotting_library_once(tmp_path):
    mime = "application/vnd.plotly.v1+json"
    figure = {"data": [{"type": "bar", "y": [1], "name": "</script><script>alert('figure')</script>"}], "layout": {}}
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "a widget"}
    outputs = [
        nbformat.v4.new_output("display_data", {mime: figure}),
        nbformat.v4.new_output("display_data", {mime: figure}),
        nbformat.v4.new_output("display_data", widget),
        nbformat.v4.new_output("stream", name="stdout", text="Make: <script>alert('stream')</script>"),
        nbformat.v4.new_output("execute_result", {"text/plain": "'<img src=http://x/y.png>'"}, execution_count=1),
    ]
    cell = nbformat.v4.new_code_cell("1", outputs=outputs, execution_count=1)
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "n.ipynb")

    page = write_html(tmp_path / "n.ipynb", tmp_path / "n.html").read_text()
    loads = Loads(page)
    scripts = "".join(loads.scripts)
    assert loads.addresses == []
    styles = "".join(re.findall(r"<style.*?</style>", page, flags=re.DOTALL))
    assert not re.search(r"@import|url\(\s*['\"]?(https?:)?//", styles)
    own = "".join(script for script in loads.scripts if "plotly.js v" not in script[:300])
    assert not re.search(r"cdnjs|unpkg\.com|jsdelivr|import\(", own)
    assert "default-src 'none'" in page
    assert scripts.count("Plotly.newPlot(") == 2
    assert sum("plotly.js v" in script[:300] for script in loads.scripts) == 1
    assert scripts.count('"showSendToCloud": false') == 2
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert('stream')" in page
    assert "a widget" in page
    assert "<title>n</title>" in page


@pytest.mark.parametrize(
    "text",
    [
        "costs $5, not $6",
        "no formula",
        "`$HOME`",
        "```sh\necho $HOME $PATH\n```",
        r"an escaped \$x\$",
        "$ 5 and 6 $",
        r"a wrong $\frac{$ formula",
        "",
    ],
)
def test_text_without_formulas_is_unchanged(text):
    assert with_mathml(text) == text


def test_formulas_become_mathml():
    drawn = with_mathml("let $x_i \\ge 0$ and\n\n$$\n\\frac{1}{n} \\sum_i x_i\n$$\n\nin `$code$`")
    assert drawn.count("<math ") == 2 and "$code$" in drawn and drawn.count("$") == 2
    assert 'display="inline"' in drawn and 'display="block"' in drawn and "<mfrac>" in drawn


@pytest.mark.parametrize("path", sorted(project_path("notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_every_formula_of_the_notebooks_becomes_mathml(path):
    texts = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown"]
    drawn = [with_mathml(text) for text in texts]
    assert "<math " in "".join(drawn)
    assert [text for text in drawn if "$" in re.sub(r"`[^`]*`", "", text)] == []


def test_formulas_in_a_page_are_rendered(tmp_path):
    cells = [nbformat.v4.new_markdown_cell("with $p \\le \\alpha$ it is")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "n.ipynb")
    page = write_html(tmp_path / "n.ipynb", tmp_path / "n.html").read_text()
    assert "<mi>&#x003B1;</mi>" in page or "<mi>α</mi>" in page
    assert "with <math" in page and "$p" not in page
