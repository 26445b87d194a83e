"""Executed notebook -> one HTML file that loads nothing from anywhere.

nbconvert's own page fetches require.js, MathJax, mermaid and the widget manager from CDNs. Here those blocks are empty
and a Content-Security-Policy forbids every load: a report opened years later, or offline, shows the same page.
"""

from __future__ import annotations

from pathlib import Path

from exiflang.files import write_whole

PLOTLY_MIME = "application/vnd.plotly.v1+json"
WIDGET_MIME = "application/vnd.jupyter.widget-view+json"

# plotly's WebGL traces compile their shaders' wrappers at run time, hence 'unsafe-eval'; nothing may be fetched.
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
    """Converts the executed `notebook` (.ipynb) to the self-contained HTML file `target` and returns it.

    Figures saved as plotly JSON become interactive divs that share one inline plotly.js, without the cloud button; text
    is escaped by nbconvert. Widgets, which need a running kernel, are left out. The file is replaced in one step.
    """
    import nbformat
    from nbconvert import HTMLExporter

    target = Path(target)
    document = nbformat.read(notebook, as_version=4)
    document.metadata.pop("widgets", None)
    _inline_figures(document)
    page, _ = HTMLExporter(raw_template=_TEMPLATE).from_notebook_node(
        document, resources={"metadata": {"name": Path(notebook).stem}}
    )
    write_whole(target, page)
    return target


def _inline_figures(document) -> None:
    """Replaces plotly's JSON in the outputs of `document` by HTML; the first figure brings plotly.js for all."""
    from plotly.io import to_html

    needs_library = True
    for cell in document.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            data.pop(WIDGET_MIME, None)
            if PLOTLY_MIME not in data:
                continue
            figure = {key: data[PLOTLY_MIME].get(key) for key in ("data", "layout")}
            division = to_html(
                figure,
                config={"showSendToCloud": False, "displaylogo": False},
                include_plotlyjs=needs_library,
                full_html=False,
                validate=False,
            )
            data.clear()
            data["text/html"] = division
            needs_library = False
