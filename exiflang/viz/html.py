"""HTML pages and fragments from templates; all content from files is escaped."""

from functools import cache
from math import isnan
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from exiflang.utils.files import printable

#: Cards per gallery page.
PAGE = 200


@cache
def _templates() -> Environment:
    loader = PackageLoader("exiflang.viz")
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.tests["nan"] = isnan
    return made


def render(template: str, **values: Any) -> str:
    """Render a page of `viz/templates`; values are escaped, except fragments and those a template marks safe."""
    return printable(_templates().get_template(template).render(values))


def fragment(template: str, macro: str, *values: Any) -> str:
    """The output of a template's macro; every value is escaped, and other templates insert the output unchanged."""
    return getattr(_templates().get_template(template).module, macro)(*values)
