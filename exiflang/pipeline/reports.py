"""Reports from command-line parameters, which are checked like those of a notebook."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from exiflang.inspection.comparison import compare, write_comparison
from exiflang.inspection.gallery import make_reports
from exiflang.inspection.inspector import Inspector
from exiflang.inspection.report import Provenance
from exiflang.localization.decision import FALSE_ALARMS
from exiflang.localization.localizer import SpliceLocalizer
from exiflang.models.weights import load_model
from exiflang.pipeline.parameters import PipelineError, UsageError, check_parameters
from exiflang.utils.images import ImageError

#: Allowed parameters with example values for their types: those of `SpliceLocalizer`, false-alarm rate, model folder.
PARAMETERS = {"windows_per_side": 30, "window_size": 64, "readout": "", "mode": "", "precision": "", "model_dir": ""}
PARAMETERS |= {"false_alarms": FALSE_ALARMS, "signatures": ""}


def inspect_pictures(source: str, out_dir: str | None, parameters: Mapping[str, Any], private: bool = False) -> Path:
    """Report on a picture, or on each picture of a folder with a gallery; return the page to open.

    out_dir: folder to write; None: one in reports/runs, named after the time.
    parameters: any of `PARAMETERS`, with `model_dir` as for `load_model`; None means the default.
    private: show GPS, serial numbers, names and comments.

    Raises `UsageError` for an unknown parameter or an invalid value, `PipelineError` if nothing can be read or written.
    """
    inspector = _inspector(parameters, private)
    return _written(out_dir, lambda folder: make_reports(Path(source).expanduser(), folder, inspector))


def compare_pictures(
    suspect: str, reference: str, out_dir: str | None, parameters: Mapping[str, Any], private: bool = False
) -> Path:
    """Compare a suspect with a reference photo of the camera that it claims; return the page to open.

    The other arguments and errors are those of `inspect_pictures`.
    """
    inspector = _inspector(parameters, private)

    def write(folder: Path) -> Path:
        compared = compare(inspector, Path(suspect).expanduser(), Path(reference).expanduser())
        return write_comparison(compared, folder, Provenance.of(inspector))

    return _written(out_dir, write)


def _written(out_dir: str | None, write: Callable[[Path], Path]) -> Path:
    out_dir = out_dir or f"reports/runs/inspect-{time.strftime('%Y%m%d-%H%M%S')}"
    try:
        return write(Path(out_dir).expanduser())
    except ImageError as error:
        raise PipelineError(str(error)) from error
    except OSError as error:
        raise PipelineError(f"{out_dir}: cannot be written ({error}); choose another folder with --out") from error


def _inspector(parameters: Mapping[str, Any], private: bool) -> Inspector:
    given = {name: value for name, value in parameters.items() if value is not None}
    values = check_parameters("inspect", PARAMETERS, given)
    folder, rate = values.pop("model_dir", ""), values.pop("false_alarms", FALSE_ALARMS)
    signatures = values.pop("signatures", None)
    try:
        return Inspector(SpliceLocalizer(load_model(folder), **values), private, rate, signatures)
    except (ValueError, OSError, SafetensorError) as error:
        raise UsageError(f"inspect: {error}") from error
