"""Executed notebook -> one self-contained HTML file.

nbconvert's own page fetches require.js, MathJax, mermaid and the widget manager from CDNs. Here those blocks are empty,
formulas are MathML, and a Content-Security-Policy forbids all requests: a report opened offline or years later shows
the same page.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from exiflang.utils.extras import extra
from exiflang.utils.files import write_whole

if TYPE_CHECKING:
    from nbformat import NotebookNode

PLOTLY_MIME = "application/vnd.plotly.v1+json"
WIDGET_MIME = "application/vnd.jupyter.widget-view+json"

# Code, which may contain dollar signs; a display formula; an inline formula.
_FORMULA = re.compile(r"(```.*?```|`[^`]*`)|\$\$(.+?)\$\$|(?<![\\$])\$(?=\S)([^$\n]*[^\s\\$])\$(?!\d)", re.DOTALL)

# plotly's WebGL traces compile shader wrappers at run time, hence 'unsafe-eval'; all requests are forbidden.
_TEMPLATE = """{%- extends 'lab/index.html.j2' -%}
{%- block html_head_js -%}
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; \
style-src 'unsafe-inline'; img-src data: blob:; font-src data:; worker-src blob:">
{%- endblock html_head_js -%}
{%- block jupyter_widgets -%}{%- endblock jupyter_widgets -%}
{%- block html_head_js_mathjax -%}{%- endblock html_head_js_mathjax -%}
{%- block html_head_js_mermaidjs -%}{%- endblock html_head_js_mermaidjs -%}
"""


def write_html(notebook: str | Path, target: str | Path) -> Path:
    """Convert the executed `notebook` (.ipynb) to the self-contained HTML file `target` and return its path.

    Figures share one inline plotly.js, without the cloud button; formulas are MathML; nbconvert escapes text.
    Widgets, which need a running kernel, are left out. The file is replaced atomically.
    """
    with extra("notebook"):
        import nbformat
        from nbconvert import HTMLExporter

    target = Path(target)
    document = nbformat.read(notebook, as_version=4)
    document.metadata.pop("widgets", None)
    with_html_figures(document)
    for cell in document.cells:
        if cell.cell_type == "markdown":
            cell.source = with_mathml(cell.source)
    resources = {"metadata": {"name": Path(notebook).stem}}
    page, _ = HTMLExporter(raw_template=_TEMPLATE).from_notebook_node(document, resources=resources)
    write_whole(target, page)
    return target


def with_html_figures(document: NotebookNode, plotlyjs: str | bool = True) -> None:
    """Turn figures saved as plotly's JSON into interactive HTML, and drop widgets.

    plotlyjs: URL of plotly.js; True: the first figure includes it for all.
    """
    with extra("notebook"):
        from plotly.io import to_html

    options = {"config": {"showSendToCloud": False, "displaylogo": False}, "full_html": False, "validate": False}
    for data in [output.get("data", {}) for cell in document.cells for output in cell.get("outputs", [])]:
        data.pop(WIDGET_MIME, None)
        if figure := data.get(PLOTLY_MIME):
            data.clear()
            shown = {key: figure.get(key) for key in ("data", "layout")}
            data["text/html"], plotlyjs = to_html(shown, include_plotlyjs=plotlyjs, **options), False


def with_mathml(markdown: str) -> str:
    """Replace the formulas of a Markdown text, `$...$` and `$$...$$`, by MathML; code and wrong formulas stay."""
    with extra("notebook"):
        from latex2mathml import exceptions
        from latex2mathml.converter import convert

    # Only `Exception` is a base class of them all.
    wrong = tuple(kind for kind in vars(exceptions).values() if isinstance(kind, type) and issubclass(kind, Exception))

    def drawn(found: re.Match[str]) -> str:
        code, block, inline = found.groups()
        try:
            return code or convert(block or inline, display="block" if block else "inline")
        except wrong:
            return found[0]

    return _FORMULA.sub(drawn, markdown)
