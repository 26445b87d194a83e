"""Executed notebook -> one HTML file that loads nothing from anywhere.

nbconvert's own page fetches require.js, MathJax, mermaid and the widget manager from CDNs. Here those blocks are empty
and a Content-Security-Policy forbids every load: a report opened years later, or offline, shows the same page.
"""

from pathlib import Path

from exiflang.utils.extras import extra
from exiflang.utils.files import write_whole

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
    """Convert the executed `notebook` (.ipynb) to the self-contained HTML file `target` and returns it.

    Figures saved as plotly JSON become interactive divs that share one inline plotly.js, without the cloud button; text
    is escaped by nbconvert. Widgets, which need a running kernel, are left out. The file is replaced in one step.
    """
    with extra("notebook"):
        import nbformat
        from nbconvert import HTMLExporter
        from plotly.io import to_html

    target = Path(target)
    document = nbformat.read(notebook, as_version=4)
    document.metadata.pop("widgets", None)
    options = {"config": {"showSendToCloud": False, "displaylogo": False}, "full_html": False, "validate": False}
    library = True  # the first figure brings plotly.js for all
    for data in [output.get("data", {}) for cell in document.cells for output in cell.get("outputs", [])]:
        data.pop(WIDGET_MIME, None)
        if figure := data.get(PLOTLY_MIME):
            data.clear()
            shown = {key: figure.get(key) for key in ("data", "layout")}
            data["text/html"], library = to_html(shown, include_plotlyjs=library, **options), False
    resources = {"metadata": {"name": Path(notebook).stem}}
    page, _ = HTMLExporter(raw_template=_TEMPLATE).from_notebook_node(document, resources=resources)
    write_whole(target, page)
    return target
