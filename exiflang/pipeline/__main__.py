"""`python -m exiflang.pipeline`: `exiflang run`, and with --inspect `exiflang inspect`."""

import json
import sys
from collections.abc import Iterable
from typing import Annotated

import typer

from exiflang.pipeline.parameters import PipelineError, Typed, UsageError
from exiflang.utils.commands import Pairs, print_table, run_command

# The functions import the runner, and torch for reports, so that `--help` does not wait for them.


def pipeline(
    preset: Annotated[str | None, typer.Option(help="notebooks/params/<preset>.yaml (default: demo).")] = None,
    overrides: Pairs = None,
    only: Annotated[list[str] | None, typer.Option(metavar="NOTEBOOK", help="Run only this; may be repeated.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Fail if a metric leaves its golden range.")] = False,
    out: Annotated[str | None, typer.Option(help="Folder of runs, or of reports (default: reports/runs).")] = None,
    inspect: Annotated[str | None, typer.Option(help="Report on a picture, or on each one in a folder.")] = None,
    private: Annotated[bool, typer.Option("--private", help="With --inspect: show GPS, serials, names.")] = False,
) -> None:
    """Run the notebooks, or make reports of pictures."""
    if inspect is None:
        if private:
            raise UsageError("--private goes with --inspect")
        run_preset(preset or "demo", overrides, only, check, out)
        return
    if only or check or preset:
        raise UsageError("--inspect runs no notebook: omit --only, --check and --preset")
    from exiflang.pipeline.reports import inspect_pictures

    print(inspect_pictures(inspect, out, typed(overrides), private))


def run_preset(
    preset: str, overrides: Pairs = None, only: Iterable[str] | None = None, check: bool = False, out: str | None = None
) -> None:
    """Run the notebooks of a preset, then print the last one's table and the run's folder.

    Raises what `run_pipeline` does, and with `check` also `PipelineError` for a metric outside its golden range.
    """
    from exiflang.pipeline.runner import STEPS, golden_failures, load_golden, run_pipeline

    steps = only or STEPS
    if check and STEPS[-1] not in steps:
        raise UsageError(f"--check needs {STEPS[-1]}")
    values, golden = typed(overrides), load_golden(preset) if check else {}
    run_dir = run_pipeline(preset, values, only=steps, runs_dir=out or "reports/runs")
    reports = json.loads((run_dir / "metrics.json").read_text(encoding="utf-8"))
    if table := reports[max(reports)].get("table"):
        print_table(table)
    print(run_dir)
    if failures := golden_failures(reports.get(STEPS[-1], {}).get("check", {}), golden):
        raise PipelineError(f"outside its golden range: {'; '.join(failures)}")


def typed(overrides: Pairs) -> dict[str, Typed]:
    """{name: text} of each `-p NAME VALUE`; the last value of a name wins."""
    return {name: Typed(text) for name, text in overrides or []}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code, see `run_command`."""
    return run_command(pipeline, arguments, "python -m exiflang.pipeline")


if __name__ == "__main__":
    sys.exit(main())
