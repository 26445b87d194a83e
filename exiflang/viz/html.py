"""Pages and fragments of HTML from templates; whatever comes from a file is escaped."""

from functools import cache
from math import isnan
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from exiflang.utils.files import printable

#: Cards on a page of a gallery.
PAGE = 200


@cache
def _templates() -> Environment:
    loader = PackageLoader("exiflang.viz")
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.tests["nan"] = isnan
    return made


def render(template: str, **values: Any) -> str:
    """A page of `viz/templates`; every value is escaped, but for fragments and what a template calls safe."""
    return printable(_templates().get_template(template).render(values))


def fragment(template: str, macro: str, *values: Any) -> str:
    """What a macro of a template gives; every value is escaped, and other templates take the whole as it is."""
    return getattr(_templates().get_template(template).module, macro)(*values)
