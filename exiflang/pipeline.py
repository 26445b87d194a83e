"""Strict notebook runner: parameters are checked, paths are absolute, each run leaves a manifest.

`python -m exiflang.pipeline --preset demo` runs 01 -> 02 -> 03 (05_probe by --only 05_probe) and writes

    reports/runs/<id>/manifest.json       what ran, on what, with what; SHA-256 of shards and weights; time and memory
    reports/runs/<id>/metrics.json        {notebook: its metrics}
    reports/runs/<id>/<notebook>.ipynb    executed copy
    reports/runs/<id>/<notebook>.html     the same, for reading
    reports/runs/<id>/<notebook>/         the notebook's `out_dir`: its own metrics.json and figures

A notebook declares `out_dir` in its `parameters` cell and ends by `write_json(Path(out_dir, "metrics.json"), {...})`.
Three keys of that file mean something here: `files` (paths to hash into the manifest), `table` (list of rows; those of
the last notebook are printed at the end), and in 03_evaluate `check` ({name: number}, compared with the golden file).

`python -m exiflang.pipeline --inspect PATH` runs no notebook: it turns a picture, or a folder of pictures, into reports
that can be sent (see `gallery` and `report`).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from exiflang.files import file_sha256, write_json
from exiflang.html import write_html
from exiflang.manifest import measured, new_manifest
from exiflang.parameters import (
    PipelineError,
    UsageError,
    declared_parameters,
    load_preset,
    project_path,
    resolve_parameters,
    spread_overrides,
    unknown_name,
)

STEPS = ("01_prepare_data", "02_train", "03_evaluate")
#: All that a preset may speak of: the steps, and what runs only when it is named.
NOTEBOOKS = (*STEPS, "05_probe")
KERNEL_ENVIRONMENT = {
    "PLOTLY_RENDERER": "plotly_mimetype",  # figures as JSON alone: a saved notebook stays small
    "SPYDER_TEXT_BARS": "1",  # any SPYDER* makes tqdm.auto draw text bars: seen in the terminal, no widget saved
    "TQDM_MININTERVAL": "0.5",
}


# ---- running


def run_notebook(path: str | Path, parameters: Mapping[str, Any], out_dir: str | Path) -> dict[str, Any]:
    """Runs one notebook into `out_dir` (`<stem>.ipynb` and `<stem>/`) and returns its metrics.

    The kernel works in the project's root. Raises UsageError for a parameter that the notebook does not declare or a
    value of another type, PipelineError (executed copy kept) when a cell fails or metrics.json is not written.
    """
    path, run_dir = project_path(path), Path(out_dir).resolve()
    return _execute(path, resolve_parameters(path.stem, declared_parameters(path), parameters, run_dir), run_dir)


def _execute(path: Path, values: Mapping[str, Any], run_dir: Path) -> dict[str, Any]:
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    copy, metrics = run_dir / path.name, run_dir / path.stem / "metrics.json"
    metrics.parent.mkdir(parents=True, exist_ok=True)
    metrics.unlink(missing_ok=True)
    try:
        with _environment(KERNEL_ENVIRONMENT):
            papermill.execute_notebook(
                str(path),
                str(copy),
                dict(values),
                kernel_name="python3",
                cwd=str(project_path(".")),
                progress_bar=False,  # the notebook's own bars reach the terminal instead
                stderr_file=sys.stderr,
                store_widget_state=False,
                coalesce_streams=True,
                config=Config(KernelManager={"transport_encryption": "auto"}),
            )
    except PapermillExecutionError as error:
        reason = f"{error.ename}: {error.evalue}".strip().splitlines()[-1]
        raise PipelineError(f"{path.stem}, cell In [{error.exec_count}] failed: {reason}\nsee {copy}") from error
    except DeadKernelError as error:
        raise PipelineError(f"{path.stem}: the kernel died (out of memory?)\nsee {copy}") from error
    try:
        return json.loads(metrics.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PipelineError(f"{path.stem} wrote no {metrics}: its last cell must") from None
    except ValueError as error:
        raise PipelineError(f"{metrics}: not valid JSON: {error}") from error


def run_pipeline(
    preset: str = "demo",
    overrides: Mapping[str, Any] | None = None,
    run_id: str | None = None,
    only: Iterable[str] = STEPS,
    runs_dir: str | Path = "reports/runs",
) -> Path:
    """Runs those of NOTEBOOKS that are in `only`, in order, and returns the run's folder `runs_dir/run_id`.

    `overrides` ({parameter: value}) go to every notebook that declares them and win over the preset. The default run_id
    is the preset and the time. Everything is checked before the first notebook starts: UsageError; a failing notebook
    raises PipelineError, all that was finished is kept, and the manifest's status is "failed".
    """
    only = set(only)
    for stem in only - set(NOTEBOOKS):
        raise unknown_name("no notebook", stem, NOTEBOOKS)
    run_id = run_id or f"{preset}-{time.strftime('%Y%m%d-%H%M%S')}"
    if not re.fullmatch(r"\w[\w.-]*", run_id):
        raise UsageError(f"run id {run_id!r}: letters, digits, '_', '-' and '.' only")
    run_dir = project_path(runs_dir) / run_id
    notebooks = {stem: project_path(f"notebooks/{stem}.ipynb") for stem in NOTEBOOKS}
    declared = {stem: declared_parameters(path) for stem, path in notebooks.items()}
    values = load_preset(preset, declared)
    steps = [stem for stem in NOTEBOOKS if stem in only]
    overridden = spread_overrides(overrides or {}, {stem: declared[stem] for stem in steps}, where=", ".join(steps))
    values = {
        stem: resolve_parameters(stem, declared[stem], values[stem] | overridden[stem], run_dir) for stem in steps
    }
    try:
        run_dir.mkdir(parents=True)
    except FileExistsError:
        raise UsageError(f"{run_dir} exists: choose another run id, or delete it") from None

    manifest = new_manifest(run_id, preset, dict(overrides or {}))
    merged: dict[str, Any] = {}
    try:
        for number, stem in enumerate(steps, 1):
            print(f"[{number}/{len(steps)}] {stem}", file=sys.stderr, flush=True)
            step = manifest["steps"][stem] = {"parameters": declared[stem] | values[stem]}
            try:
                with measured(step):
                    merged[stem] = _execute(notebooks[stem], values[stem], run_dir)
            finally:
                if (run_dir / f"{stem}.ipynb").exists():
                    write_html(run_dir / f"{stem}.ipynb", run_dir / f"{stem}.html")
            manifest["files"] |= {str(path): _digest(path) for path in merged[stem].pop("files", [])}
            write_json(run_dir / "metrics.json", merged)
        manifest["status"] = "finished"
    finally:
        write_json(run_dir / "manifest.json", manifest)
    return run_dir


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
        raise UsageError(f"{path}: no golden numbers for this preset; `make golden` measures the demo's") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f'{path}: expected {{"metrics": {{name: {{"low": ..., "high": ...}}}}}}: {error!r}') from error


def golden_failures(measured: Mapping[str, float | None], golden: Mapping[str, Mapping[str, float]]) -> list[str]:
    """One line for each golden metric that `measured` misses or has outside low..high (NaN and None are outside)."""
    failures = []
    for name, spread in golden.items():
        value = measured.get(name)
        if value is None:
            failures.append(f"{name}: not measured, golden {spread['low']:.4g} to {spread['high']:.4g}")
        elif not spread["low"] <= value <= spread["high"]:
            failures.append(f"{name}: {value:.4g}, golden {spread['low']:.4g} to {spread['high']:.4g}")
    return failures


# ---- command line


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns 0, 1 (a notebook failed, --check found a metric outside its spread, or --inspect nothing to
    read) or 2 (usage)."""
    parser = argparse.ArgumentParser(
        prog="python -m exiflang.pipeline", description="Runs the notebooks, or makes reports of pictures."
    )
    parser.add_argument("--preset", help="notebooks/params/<preset>.yaml (default: demo)")
    parser.add_argument(
        "-p",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        dest="overrides",
        help="override a parameter of every notebook that declares it, or one of --inspect; the value is YAML",
    )
    parser.add_argument("--only", action="append", choices=NOTEBOOKS, help="run this notebook only (may be repeated)")
    parser.add_argument("--check", action="store_true", help="fail when a metric leaves its golden spread")
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="folder of runs (default: reports/runs); with --inspect, of the reports (default: one in reports/runs)",
    )
    parser.add_argument("--inspect", metavar="PATH", help="make a report of a picture, or of each in a folder")
    parser.add_argument("--private", action="store_true", help="with --inspect: show GPS, serial numbers and names")
    options = parser.parse_args(arguments)
    try:
        overrides = {name: _yaml_value(name, text) for name, text in options.overrides}
        if options.inspect is not None:
            print(_inspect(options, overrides))
            return 0
        if options.private:
            raise UsageError("--private goes with --inspect")
        preset = options.preset or "demo"
        if options.check and STEPS[-1] not in (options.only or STEPS):
            raise UsageError(f"--check needs {STEPS[-1]}")
        golden = load_golden(preset) if options.check else {}
        run_dir = run_pipeline(preset, overrides, only=options.only or STEPS, runs_dir=options.out or "reports/runs")
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    reports = json.loads((run_dir / "metrics.json").read_text(encoding="utf-8"))
    if table := reports[max(reports)].get("table"):
        import pandas

        print(pandas.DataFrame(table).to_string(index=False, float_format="{:.3f}".format, na_rep="-"))
    print(run_dir)
    failures = golden_failures(reports.get(STEPS[-1], {}).get("check", {}), golden)
    for failure in failures:
        print(f"outside its golden spread: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _inspect(options: argparse.Namespace, parameters: Mapping[str, Any]) -> Path:
    """The page that --inspect makes. Paths are taken from the current folder, as any command takes them."""
    if options.only or options.check or options.preset:
        raise UsageError("--inspect runs no notebook: leave --only, --check and --preset away")
    from exiflang.gallery import make_reports  # torch and transformers, which a run's own process does without

    out_dir = options.out or f"reports/runs/inspect-{time.strftime('%Y%m%d-%H%M%S')}"
    return make_reports(options.inspect, out_dir, parameters, options.private)


def _yaml_value(name: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"-p {name} {text!r}: not valid YAML ({error}); quote it twice: '\"{text}\"'") from error


if __name__ == "__main__":
    sys.exit(main())
