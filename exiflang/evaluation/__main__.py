"""`python -m exiflang.evaluation --config scores.yaml`; `accelerate launch` starts it in each process."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from exiflang.utils.commands import print_table, run_command


def evaluate(config: Annotated[Path, typer.Option(help="YAML: benchmarks, root, scores_dir, model, ...")]) -> None:
    """Score benchmarks and print a table. An interrupted run resumes.

    On several GPUs or machines: accelerate launch -m exiflang.evaluation --config scores.yaml
    """
    import pandas as pd

    from exiflang.evaluation.score_run import ScoreRun
    from exiflang.evaluation.scoring import summarize_pictures
    from exiflang.utils.launch import follow_launcher, read_mapping, this_process

    follow_launcher()
    run = ScoreRun.of(**read_mapping(config))
    run.run()
    this_process().wait_for_everyone()
    if this_process().is_main_process:
        scores = pd.concat([found.scores() for found in run.found().values()], ignore_index=True)
        print_table(summarize_pictures(scores))


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code, see `run_command`."""
    return run_command(evaluate, arguments, "python -m exiflang.evaluation")


if __name__ == "__main__":
    sys.exit(main())
