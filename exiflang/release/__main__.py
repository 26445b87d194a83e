"""`python -m exiflang.release`: a run's weights → a release folder."""

import sys
from typing import Annotated

import typer

from exiflang.utils.commands import run_command


def release(
    model: Annotated[str, typer.Option(help="Folder of a finished training run.")] = "data/models/base",
    data: Annotated[str, typer.Option(help="Folder of the data set that it was trained on.")] = "data/base",
    out: Annotated[str, typer.Option(help="Folder to write.")] = "data/models/exiflang-base",
    photos: Annotated[
        list[str] | None,
        typer.Option(metavar="DIR", help="Authentic photos not used for scoring; may be repeated."),
    ] = None,
    hardware: Annotated[str | None, typer.Option(help="Training hardware, in words (default: this machine).")] = None,
) -> None:
    """Package trained weights for release.

    Calibrates them and writes float16 weights, a text bank and a model card.
    """
    from exiflang.release.packaging import release

    made = release(model, data, out, photos or [], hardware)
    for name, reason in made.left_out:
        print(f"left out: {name}: {reason}")
    print(f"{made.folder}: {made.size / 1e6:.1f} MB, calibrated on {made.pictures} authentic pictures")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code, see `run_command`."""
    return run_command(release, arguments, "python -m exiflang.release")


if __name__ == "__main__":
    sys.exit(main())
