"""The command `exiflang`: command-line arguments → one call of the package.

Each command imports its rooms itself, so that `--help` waits for neither torch nor pandas. `train`, `evaluate` and
`release` come from their own rooms, where `python -m` (and `accelerate launch`) starts them too.
"""

from typing import Annotated, Any, Literal

import typer

import exiflang
from exiflang.evaluation.__main__ import evaluate
from exiflang.release.__main__ import release
from exiflang.training.__main__ import train
from exiflang.utils.commands import PLAIN, Pairs, PairsCommand, run_command

app = typer.Typer(**PLAIN)


@app.callback(invoke_without_command=True, epilog="Example: exiflang inspect suspect.jpg")
def top(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Image patches and EXIF sentences in one embedding space, to localize splices (EXIF as Language, CVPR 2023).

    Exit codes: 0 done, 1 the run failed, 2 bad usage, 130 interrupted.
    """
    if context.invoked_subcommand is None:
        print(f"exiflang {exiflang.__version__}" if version else context.get_help())
        raise typer.Exit(0 if version else 2)


@app.command(epilog="Example: exiflang inspect ~/photos --out ~/report")
def inspect(
    picture: Annotated[str, typer.Argument(help="A picture, or a folder of pictures.")],
    out: Annotated[str | None, typer.Option(help="Folder to write (default: a new one in reports/runs).")] = None,
    model: Annotated[str | None, typer.Option(help="Weights: folder, hub id or *.pth (default: packaged).")] = None,
    readout: Annotated[str | None, typer.Option(help="E.g. mean_shift, the paper's (default: the model's).")] = None,
    windows_per_side: Annotated[int | None, typer.Option(help="On the longer side, roughly (default: 30).")] = None,
    window_size: Annotated[int | None, typer.Option(help="In pixels (default: depends on the picture's size).")] = None,
    mode: Annotated[str | None, typer.Option(help="exact, or dense: one pass, faster (default: exact).")] = None,
    precision: Annotated[str | None, typer.Option(help="float32 (default), bf16, or auto: the faster one.")] = None,
    false_alarms: Annotated[float, typer.Option(help="Accepted share of authentic pictures called spliced.")] = 0.05,
    signatures: Annotated[str | None, typer.Option(help="Your own reference of JPEG headers, see reference.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Show GPS positions, serial numbers and names.")] = False,
) -> None:
    """Report inconsistent regions in a picture.

    A report is a self-contained HTML file and a JSON file next to it. For a folder, a gallery links to the reports of
    its pictures. Prints the findings; the last line is the page to open.
    """
    from exiflang.inspection.gallery import summary
    from exiflang.pipeline.reports import inspect_pictures

    settings: dict[str, Any] = {"readout": readout, "windows_per_side": windows_per_side, "window_size": window_size}
    settings |= {"mode": mode, "precision": precision, "model_dir": model, "false_alarms": false_alarms}
    settings |= {"signatures": signatures}
    page = inspect_pictures(picture, out, settings, private)
    print(*summary(page), page, sep="\n")


@app.command(epilog="Example: exiflang compare suspect.jpg reference.jpg --out report")
def compare(
    suspect: Annotated[str, typer.Argument(help="The picture in question.")],
    reference: Annotated[str, typer.Argument(help="A photo that the claimed camera took, as it wrote it.")],
    out: Annotated[str | None, typer.Option(help="Folder to write (default: a new one in reports/runs).")] = None,
    model: Annotated[str | None, typer.Option(help="Weights: folder, hub id or *.pth (default: packaged).")] = None,
    readout: Annotated[str | None, typer.Option(help="E.g. mean_shift, the paper's (default: the model's).")] = None,
    windows_per_side: Annotated[int | None, typer.Option(help="On the longer side, roughly (default: 30).")] = None,
    signatures: Annotated[str | None, typer.Option(help="Your own reference of JPEG headers, see reference.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Show GPS positions, serial numbers and names.")] = False,
) -> None:
    """Compare a picture with a reference photo.

    Compares JPEG headers, the cameras by EXIF, and pixels, in a self-contained HTML file and a JSON file next to it.
    Prints the result; the last line is the page to open.
    """
    from exiflang.inspection.gallery import summary
    from exiflang.pipeline.reports import compare_pictures

    settings = {"readout": readout, "windows_per_side": windows_per_side, "model_dir": model, "signatures": signatures}
    page = compare_pictures(suspect, reference, out, settings, private)
    print(*summary(page), page, sep="\n")


@app.command(epilog="Example: exiflang note report/pictures/a-0123abcd.html --status suspicious")
def note(
    report: Annotated[str, typer.Argument(help="The page of a picture's report, or its JSON file.")],
    status: Annotated[
        Literal["open", "cleared", "suspicious"] | None, typer.Option(help="Your conclusion (default: unchanged).")
    ] = None,
    note: Annotated[str | None, typer.Option(help="Replaces the note; may have several lines.")] = None,
) -> None:
    """Set the status of a picture and a note on it.

    Both are kept in the report, also when the picture is inspected again, and a gallery shows them the next time that
    it is made. Prints them; the last line is the page of the report.
    """
    from pathlib import Path

    from exiflang.inspection.review import change_review

    page = Path(report).expanduser()
    review = change_review(page, status, note)
    print(*[line for line in (review.status, review.note) if line], page.with_suffix(".html"), sep="\n")


@app.command(epilog="Example: exiflang prepare ~/photos data/mine --choose-share 0.1")
def prepare(
    context: typer.Context,
    source: Annotated[
        str, typer.Argument(help='Folder of photos, tar shards or YFCC100M\'s dumps; list of URLs; or "simulated".')
    ],
    data_dir: Annotated[str, typer.Argument(help="Folder or URL to write; holds one data set.")],
    seed: Annotated[int, typer.Option(help="Random seed for photos and tiles.")] = 0,
    heldout_share: Annotated[float, typer.Option(help="Share of each camera's photos held out.")] = 0.15,
    choose_share: Annotated[float, typer.Option(help="Share of cameras set aside to choose the step.")] = 0.0,
    report_share: Annotated[float, typer.Option(help="Share of cameras set aside to report figures.")] = 0.0,
    tiles_per_photo: Annotated[int, typer.Option(help="Tiles cut from each photo.")] = 2,
    min_tags: Annotated[int, typer.Option(help="Leave out photos with fewer EXIF tags.")] = 10,
    min_share: Annotated[float, typer.Option(help="Share of photos below which a tag counts as rare.")] = 0.05,
    sample: Annotated[int, typer.Option(help="Photos drawn from YFCC100M's dumps; 0: all.")] = 0,
    photos_per_shard: Annotated[int, typer.Option(help="Photos per shard job.")] = 1000,
    private: Annotated[bool, typer.Option("--private", help="Keep GPS, serial numbers, names in the shards.")] = False,
    workers: Annotated[int, typer.Option(help="Processes on this machine.")] = 2,
    scheduler: Annotated[str, typer.Option(help="Address of a running Dask scheduler to use instead.")] = "",
    per_host: Annotated[int, typer.Option(help="Simultaneous downloads per host and worker.")] = 4,
    allow_private: Annotated[bool, typer.Option("--allow-private", help="Download from private addresses.")] = False,
) -> None:
    """Turn photos into training shards.

    The shards hold tiles cut without recompression, each with its photo's EXIF. To resume an interrupted run, repeat
    the command.
    """
    from exiflang.preparation.dataset import prepare as prepare_dataset
    from exiflang.preparation.options import grouped
    from exiflang.utils.storage import absolute_place

    options = {name: value for name, value in context.params.items() if name not in ("source", "data_dir")}
    place = source if source == "simulated" else absolute_place(source)
    made = prepare_dataset(place, absolute_place(data_dir), **grouped(options))
    for split, number in made["photos"].items():
        print(f"{data_dir}/{split}: {number} photos of {made['cameras'][split]} cameras")
    for reason, number in made["left_out"].items():
        print(f"left out, {reason}: {number}")


app.command(epilog="Example: exiflang train --config notebooks/params/base.yaml")(train)
app.command(epilog="Example: exiflang evaluate --config scores.yaml")(evaluate)
app.command(epilog="Example: exiflang release --model data/models/mine --data data/mine --out handout")(release)


@app.command(cls=PairsCommand, epilog="Example: exiflang run demo -p source ~/photos -p data_dir data/mine")
def run(
    preset: Annotated[str, typer.Argument(help="notebooks/params/<preset>.yaml: tiny, demo, base, paper, or yours.")],
    overrides: Pairs = None,
    only: Annotated[list[str] | None, typer.Option(metavar="NOTEBOOK", help="Run only this; may be repeated.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Fail if a metric leaves its golden range.")] = False,
    out: Annotated[str | None, typer.Option(help="Folder of runs (default: reports/runs).")] = None,
) -> None:
    """Run the notebooks with the parameters of a preset.

    Runs 01, 02 and 03 unless --only is given, and prints the table of the last one. Notebooks come from the
    nearest folder, from the current one upward, that contains notebooks/params.
    """
    from exiflang.pipeline.__main__ import run_preset

    run_preset(preset, overrides, only, check, out)


reference = typer.Typer(epilog="Example: exiflang reference add ~/photos mine.json", **PLAIN)
app.add_typer(reference, name="reference", help="Collect JPEG headers of your own photos.")


@reference.command(
    epilog="Example: exiflang reference add ~/photos mine.json && exiflang inspect a.jpg --signatures mine.json"
)
def add(
    source: Annotated[str, typer.Argument(help="Photos as cameras wrote them, shards, or another reference.")],
    file: Annotated[str, typer.Argument(metavar="FILE", help="The reference to extend, or a new one (JSON).")],
) -> None:
    """Add the JPEG headers of photos to a reference of your own.

    It holds make, model, software and the choices of the encoder: no pixels, places, serial numbers or names. A photo
    that it has already counts once.
    """
    from exiflang.headers.collect import add_signatures

    reference, left_out = add_signatures(source, file)
    print(f"{file}: {len(reference.photos):,} photos of {reference.cameras:,} cameras")
    for reason, number in left_out.items():
        print(f"left out, {reason}: {number}")


@app.command(epilog="Example: exiflang notebooks mine && cd mine && exiflang run tiny")
def notebooks(folder: Annotated[str, typer.Argument(metavar="DIR", help="A new or an empty folder.")]) -> None:
    """Copy the notebooks and presets into a folder to work in."""
    from exiflang.pipeline.notebooks import copy_notebooks

    print(copy_notebooks(folder))


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code, see `run_command`."""
    return run_command(app, arguments, "exiflang")
