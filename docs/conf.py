"""Sphinx configuration: `make docs` builds these pages into docs/_build/html.

Everything is served from the built folder: formulas are MathML, figures use the plotly.js next to the pages.
"""

import sys
import tomllib
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS / "_ext"), str(DOCS.parent)]

settings = tomllib.loads((DOCS.parent / "pyproject.toml").read_text(encoding="utf-8"))

project = "exiflang"
author = "exiflang contributors"
copyright = author
release = version = settings["project"]["version"]

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "mathml", "generated"]
exclude_patterns = ["_build", "_generated/results", "_generated/method.html", "reference/parameters_intro.md"]

myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # notebooks are executed by papermill
nb_ipywidgets_js: dict[str, str] = {}  # would be loaded from a CDN
html_math_renderer = "mathml"
smartquotes = False  # would bend those of code

# Docstrings mark code by single backticks.
default_role = "code"
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False

html_theme = "pydata_sphinx_theme"
html_title = "exiflang"
html_static_path = ["_static"]
html_css_files = ["exiflang.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "navbar_align": "left",
    "show_toc_level": 2,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "tango",
    "pygments_dark_style": "monokai",
}
if repository := settings["tool"]["exiflang"]["repository"]:
    binder = repository.replace("https://github.com/", "https://mybinder.org/v2/gh/") + "/main"
    html_theme_options["external_links"] = [
        {"name": "Repository", "url": repository},
        {"name": "Try it on Binder", "url": f"{binder}?urlpath=lab/tree/notebooks/04_inspect.ipynb"},
    ]
