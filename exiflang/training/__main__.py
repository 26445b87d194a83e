"""`python -m exiflang.training --config run.yaml`; `accelerate launch` starts it in each process."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from exiflang.utils.commands import run_command

# torch is imported inside functions to keep `--help` fast.


def train(config: Annotated[Path, typer.Option(help="YAML: 02_train's parameters, or a preset.")]) -> None:
    """Train a model and, if configured, a readout for it. An interrupted run resumes.

    On several GPUs or machines: accelerate launch -m exiflang.training --config run.yaml
    """
    from exiflang.training.recipe import Recipe
    from exiflang.utils.launch import follow_launcher, this_process

    follow_launcher()
    recipe = Recipe.of(**read_parameters(config))
    recipe.run()
    if this_process().is_main_process:
        recipe.run_readout()


def read_parameters(path: Path) -> Mapping[str, Any]:
    """A flat YAML mapping, or a preset's `shared` and `02_train` sections. Raises `ValueError` for anything else."""
    from exiflang.utils.launch import read_mapping

    found = read_mapping(path)
    if "02_train" in found:
        return {**found.get("shared", {}), **found["02_train"]}
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code, see `run_command`."""
    return run_command(train, arguments, "python -m exiflang.training")


if __name__ == "__main__":
    sys.exit(main())
