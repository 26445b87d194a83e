"""Strict notebook runner: parameters are checked, paths are absolute, each run writes a manifest.

`exiflang run demo` runs 01 -> 02 -> 03 (05_probe with --only 05_probe) and writes

    reports/runs/<id>/manifest.json       code, machine and parameters; SHA-256 of shards and weights; time and memory
    reports/runs/<id>/metrics.json        {notebook: its metrics}
    reports/runs/<id>/<notebook>.ipynb    executed copy
    reports/runs/<id>/<notebook>.html     the same as HTML
    reports/runs/<id>/<notebook>/         the notebook's `out_dir`: its own metrics.json and figures

A notebook declares `out_dir` in its `parameters` cell and ends with `write_json(Path(out_dir, "metrics.json"), {...})`.
A notebook that trains may also declare `training = {}`: a preset and `-p` name any field of `Recipe` like a parameter
of the cell, with the same checks, and the runner puts it into that mapping.
Three keys of that file have a meaning here: `files` (paths to hash into the manifest), `table` (list of rows; those of
the last notebook are printed at the end), and in 03_evaluate `check` ({name: number}, compared with the golden file).
"""

import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from exiflang.pipeline.html import write_html
from exiflang.pipeline.manifest import measured, new_manifest
from exiflang.pipeline.parameters import (
    PipelineError,
    UsageError,
    check_names,
    declared_parameters,
    injected_parameters,
    load_preset,
    project_path,
    resolve_parameters,
    spread_overrides,
)
from exiflang.utils.extras import extra
from exiflang.utils.files import file_sha256, write_json

STEPS = ("01_prepare_data", "02_train", "03_evaluate")
#: Everything a preset may configure: the steps, and notebooks that run only when requested.
NOTEBOOKS = (*STEPS, "05_probe")
KERNEL_ENVIRONMENT = {
    "PLOTLY_RENDERER": "plotly_mimetype",  # saves figures only as JSON: keeps notebooks small
    "SPYDER_TEXT_BARS": "1",  # any SPYDER* makes tqdm.auto draw text bars: visible in the terminal, no saved widget
    "TQDM_MININTERVAL": "0.5",
}


# ---- running


def run_notebook(path: str | Path, parameters: Mapping[str, Any], out_dir: str | Path) -> dict[str, Any]:
    """Run one notebook into `out_dir` (`<stem>.ipynb` and `<stem>/`), and return its metrics.

    The kernel runs in the project's root. Raises UsageError for an undeclared parameter or a value of the wrong type,
    PipelineError (executed copy kept) if a cell fails or metrics.json is not written.
    """
    path, run_dir = project_path(path), Path(out_dir).resolve()
    return _execute(path, resolve_parameters(path.stem, declared_parameters(path), parameters, run_dir), run_dir)


def _execute(path: Path, values: Mapping[str, Any], run_dir: Path) -> dict[str, Any]:
    with extra("notebook"):
        from nbclient.exceptions import DeadKernelError
        from papermill.exceptions import PapermillExecutionError

    copy, metrics = run_dir / path.name, run_dir / path.stem / "metrics.json"
    metrics.parent.mkdir(parents=True, exist_ok=True)
    metrics.unlink(missing_ok=True)
    try:
        _run_cells(path, values, copy)
    except PapermillExecutionError as error:
        reason = f"{error.ename}: {error.evalue}".strip().splitlines()[-1]
        raise PipelineError(f"{path.stem}, cell In [{error.exec_count}] failed: {reason}; see {copy}") from error
    except DeadKernelError as error:
        raise PipelineError(f"{path.stem}: the kernel died (out of memory?); see {copy}") from error
    except (RuntimeError, KeyError) as error:  # NoSuchKernel is a KeyError
        raise PipelineError(
            f"{path.stem}: the kernel python3 does not start ({error}): `jupyter kernelspec list` shows where "
            f"it is; it must use {sys.executable}: run `python -m ipykernel install --sys-prefix` to install it"
        ) from error
    try:
        return json.loads(metrics.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PipelineError(f"{path.stem} did not write {metrics}: its last cell must do so") from None
    except ValueError as error:
        raise PipelineError(f"{metrics}: not valid JSON: {error}") from error


def _run_cells(path: Path, values: Mapping[str, Any], copy: Path) -> None:
    """Run a notebook's cells in a new kernel. One that ends before the first cell is started a second time."""
    with extra("notebook"):
        import papermill
        from nbclient.exceptions import DeadKernelError
        from traitlets.config import Config

    run = partial(
        papermill.execute_notebook,
        str(path),
        str(copy),
        injected_parameters(path, values),
        kernel_name="python3",
        cwd=str(project_path(".")),
        progress_bar=False,  # the notebook's own bars reach the terminal instead
        stderr_file=sys.stderr,
        store_widget_state=False,
        coalesce_streams=True,
        config=Config(KernelManager={"transport_encryption": "auto"}),
    )
    with _environment(KERNEL_ENVIRONMENT):
        try:
            run()
        except DeadKernelError:
            raise
        except RuntimeError:  # a kernel's ports are chosen before it starts; another program may have taken one since
            run()


def run_pipeline(
    preset: str = "demo",
    overrides: Mapping[str, Any] | None = None,
    run_id: str | None = None,
    only: Iterable[str] = STEPS,
    runs_dir: str | Path = "reports/runs",
) -> Path:
    """Run the NOTEBOOKS that are in `only`, in order, and return the run's folder `runs_dir/run_id`.

    `overrides` ({parameter: value}) go to every notebook that declares them and take precedence over the preset. The
    default run_id is the preset and the time. Everything is checked before the first notebook starts, with UsageError.
    A failing notebook raises PipelineError; finished results are kept, and the manifest's status is "failed". `OSError`
    if nothing can be written.
    """
    run_id = run_id or f"{preset}-{time.strftime('%Y%m%d-%H%M%S')}"
    if not re.fullmatch(r"\w[\w.-]*", run_id):
        raise UsageError(f"run id {run_id!r}: letters, digits, '_', '-' and '.' only")
    run_dir = project_path(runs_dir) / run_id
    plan = _plan(preset, overrides or {}, set(only), run_dir)
    try:
        run_dir.mkdir(parents=True)
    except FileExistsError:
        raise UsageError(f"{run_dir} exists: choose another run id, or delete it") from None

    manifest = new_manifest(run_id, preset, dict(overrides or {}))
    metrics: dict[str, Any] = {}
    try:
        for number, (stem, (path, values)) in enumerate(plan.items(), 1):
            print(f"[{number}/{len(plan)}] {stem}", file=sys.stderr, flush=True)
            step = manifest["steps"][stem] = {"parameters": declared_parameters(path) | values}
            try:
                with measured(step):
                    metrics[stem] = _execute(path, values, run_dir)
            finally:
                if (run_dir / path.name).exists():
                    write_html(run_dir / path.name, run_dir / f"{stem}.html")
            manifest["files"] |= {str(path): _digest(path) for path in metrics[stem].pop("files", [])}
            write_json(run_dir / "metrics.json", metrics)
        manifest["status"] = "finished"
    except OSError as error:
        if error.errno and not error.filename:  # a full disk is reported without a file name
            error.filename = str(run_dir)
        raise
    finally:
        write_json(run_dir / "manifest.json", manifest)
    return run_dir


def _plan(
    preset: str, overrides: Mapping[str, Any], only: set[str], run_dir: Path
) -> dict[str, tuple[Path, dict[str, Any]]]:
    """{notebook: its path and the parameters to inject}, in order; all checks happen here."""
    check_names("no notebook", only, NOTEBOOKS)
    paths = {stem: project_path(f"notebooks/{stem}.ipynb") for stem in NOTEBOOKS}
    declared = {stem: declared_parameters(path) for stem, path in paths.items()}
    given = load_preset(preset, declared)
    steps = [stem for stem in NOTEBOOKS if stem in only]
    overridden = spread_overrides(overrides, {stem: declared[stem] for stem in steps}, where=", ".join(steps))
    return {
        stem: (paths[stem], resolve_parameters(stem, declared[stem], given[stem] | overridden[stem], run_dir))
        for stem in steps
    }


def _digest(path: str) -> str:
    digest = file_sha256(project_path(path))
    if digest is None:
        raise PipelineError(f"{project_path(path)}: in `files` of a metrics.json, but not readable")
    return digest


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


# ---- golden numbers


def load_golden(preset: str) -> dict[str, dict[str, float]]:
    """{metric: {"low": ..., "high": ...}} of reports/golden/<preset>.json; UsageError when there is none."""
    path = project_path(f"reports/golden/{preset}.json")
    try:
        return json.loads(path.read_text(encoding="utf-8"))["metrics"]
    except FileNotFoundError:
        raise UsageError(f"{path}: no golden numbers for this preset; a source checkout has them for demo") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f'{path}: expected {{"metrics": {{name: {{"low": ..., "high": ...}}}}}}: {error!r}') from error


def golden_failures(measured: Mapping[str, float | None], golden: Mapping[str, Mapping[str, float]]) -> list[str]:
    """One line per golden metric that is missing from `measured` or outside low..high (NaN and None are outside)."""
    failures = []
    for name, spread in golden.items():
        value, low, high = measured.get(name), spread["low"], spread["high"]
        if value is None or not low <= value <= high:
            found = "not measured" if value is None else f"{value:.4g}"
            failures.append(f"{name}: {found}, golden {low:.4g} to {high:.4g}")
    return failures
