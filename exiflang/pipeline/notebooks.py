"""The notebooks and presets of a wheel or a checkout → a working folder."""

import shutil
from pathlib import Path

from exiflang.pipeline.parameters import UsageError
from exiflang.utils.files import absolute_path

_PACKAGE = Path(__file__).resolve().parents[1]
#: In a wheel they are inside the package (see pyproject.toml), in a checkout next to it.
_PLACES = (_PACKAGE / "notebooks", _PACKAGE.parent / "notebooks")
_FILES = ("*.ipynb", "sanitize.cfg", "params/*.yaml")


def copy_notebooks(folder: str | Path) -> Path:
    """Copy the notebooks and presets into `folder`/notebooks, and return that path; `folder` becomes a project.

    Raises `UsageError` for a folder that is not empty, which stays unchanged, and if there are no notebooks to copy.
    """
    folder = absolute_path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is not an empty folder: choose another one; nothing was overwritten")
    source = next((place for place in _PLACES if (place / "params").is_dir()), None)
    if source is None:
        raise UsageError(f"no notebooks in {_PLACES[0]} nor in {_PLACES[1]}: install a release of exiflang")
    for pattern in _FILES:
        for path in sorted(source.glob(pattern)):
            target = folder / "notebooks" / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    return folder / "notebooks"
