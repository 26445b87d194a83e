"""Values from YAML, papermill or a call → the expected types, or one message.

Neither text nor numbers are accepted for a switch: the text "false" would count as true.
"""

import contextlib
import dataclasses
import difflib
import os
from collections.abc import Collection, Iterable
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

_SAID = {bool: "True or False", int: "a whole number", float: "a number", list: "a list"}
_SAID[str] = "text (quote yes, no and numbers in YAML)"


def typed(name: str, value: Any, hint: Any) -> Any:
    """`value` if it matches `hint`: bool, int, float, str, a list, or one of these or None.

    A number may be text where a float is expected, since YAML reads 1e-4 as text; a path may replace its text. The
    items of a list are checked too. Values of other types pass. Raises `ValueError`, which calls the value `name`.
    """
    kinds = [kind for kind in get_args(hint) if kind is not NoneType] if NoneType in get_args(hint) else [hint]
    if value is None and NoneType in get_args(hint):
        return value
    kind = get_origin(kinds[0]) or kinds[0]
    if kind not in _SAID:
        return value
    if kind is float and not isinstance(value, bool):
        with contextlib.suppress(TypeError, ValueError):
            return float(value)
    if kind is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    fits = isinstance(value, list | tuple) if kind is list else isinstance(value, kind)
    if not fits or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{name} is {value!r}: it must be {_SAID[kind]}")
    if kind is list:
        of = get_args(kinds[0]) or (Any,)
        return [typed(f"{name}[{place}]", item, *of) for place, item in enumerate(value)]
    return value


def unknown_name(names: Iterable[object], known: Collection[str]) -> str:
    """The first of `names` that is not known, quoted, with its nearest spellings and all that are; "" for none."""
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=3)
            hint = f"did you mean {' or '.join(close)}? " if close else ""
            return f"{str(name)!r}; {hint}known: {', '.join(known) or 'none'}"
    return ""


def check_fields(instance: Any) -> None:
    """Check that each field of a dataclass has its annotated type; see `typed`."""
    hints = get_type_hints(type(instance))
    for field in dataclasses.fields(instance):
        value = typed(field.name, getattr(instance, field.name), hints[field.name])
        object.__setattr__(instance, field.name, value)  # also works for frozen classes
