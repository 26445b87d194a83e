"""Optional packages, and the extra that provides a missing one."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Import optional packages in this block: `with extra("data"): import duckdb`.

    Raises `ModuleNotFoundError` for a missing one, naming the extra of exiflang that provides it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'{error.name} is not installed: pip install "exiflang[{name}]"', name=error.name, path=error.path
        ) from error
