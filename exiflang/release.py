"""Trained weights -> a folder to hand out: calibrated, float16, with its population and a model card.

`python -m exiflang.release --model data/models/base --data data/base --out data/models/exiflang-base` makes the weights
that come with the package.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor

from exiflang.authentic import AuthenticPictures
from exiflang.calibration import calibrate
from exiflang.clustering import READOUTS
from exiflang.localize import SpliceLocalizer
from exiflang.machine import this_machine
from exiflang.model import ExifLang
from exiflang.model_card import Origin, model_card
from exiflang.packaged import NAME
from exiflang.parameters import project_path
from exiflang.population import FILE as POPULATION
from exiflang.population import Population, population_of
from exiflang.run_folder import RunFolder, settle, swap
from exiflang.shards import DataError

#: The weights travel in the wheel and in the repository.
MOST_BYTES = 30_000_000
FILES = {"README.md", "config.json", "model.safetensors", POPULATION}
FILES |= {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}


class ReleaseError(RuntimeError):
    """Weights that cannot be released; the message says why and what to do."""


@dataclass(frozen=True)
class Released:
    """What `release` has made: the folder, its size in bytes, calibration pictures and those left out with a reason."""

    folder: Path
    size: int
    pictures: int
    left_out: list[tuple[str, str]]


def half_weights(model: ExifLang) -> dict[str, Tensor]:
    """The weights of a float32 model, kernels and matrices in float16 where they survive it to a thousandth.

    All else stays as it is: vectors are few bytes, and batch norm divides by its running variance. One that overflows
    (above 65504), or that is so small that float16 has too few steps for it, stays too.
    """
    return {name: _halved(value) for name, value in model.state_dict().items()}


def _halved(value: Tensor) -> Tensor:
    if value.ndim < 2 or not value.is_floating_point():
        return value
    half = value.half()
    return half if (half.float() - value).abs().max() <= 1e-3 * value.abs().max() else value


def release(
    model_dir: str | Path,
    data_dir: str | Path,
    out: str | Path,
    photos: Sequence[str | Path] = (),
    hardware: str | None = None,
    seed: int = 0,
) -> Released:
    """Calibrate the model of a finished training run for all readouts and write it into `out`: float16, with the
    population of its photos and a model card.

    `from_pretrained` makes float32 of it again. The folder is written beside its place and swapped in: a kill or a full
    disk leaves an older one whole. Equal arguments give equal `config.json` and `model.safetensors` on one machine.

    Args:
        model_dir: as `train` has written it.
        data_dir: the data set that it was trained on, as `prepare` has written it; its held-out tiles calibrate, the
            sentences of its photos are the population.
        out: the folder to write; its name is the model's.
        photos: folders of whole authentic photos to calibrate on, none of which the model is scored on.
        hardware: what the model was trained on, in words; None: this machine.
        seed: draws the calibration's pictures.

    Raises:
        ReleaseError: a file of the run or the data set is missing or damaged, a folder above `MOST_BYTES`, one
            that holds other files, or one that cannot be written.
        DataError: photos or shards that cannot be used.
        OSError, ValueError: `model_dir` holds no model, or one that does not fit its configuration.
    """
    out = Path(out)
    _refuse_other_files(out)
    origin = _origin(Path(model_dir), Path(data_dir), hardware or this_machine())
    model = ExifLang.from_pretrained(str(model_dir))
    model.load_state_dict(half_weights(model))  # calibrated as it will be handed out
    pictures = AuthenticPictures(photos, Path(data_dir) / "heldout", seed)
    _card(out.name, model, origin, pictures)  # what it lacks is found now, not after minutes of calibration
    model.config.calibration = calibrate(SpliceLocalizer(model), pictures, sorted(READOUTS))
    size = _write(model, population_of(model, data_dir), _card(out.name, model, origin, pictures), out)
    return Released(out, size, sum(pictures.counts.values()), pictures.left_out)


def _refuse_other_files(out: Path) -> None:
    """What is written over an existing folder replaces all of it."""
    if not out.exists():
        return
    if not out.is_dir() or (others := sorted({path.name for path in out.iterdir()} - FILES)):
        what = f"holds {others[0]}, which no release writes" if out.is_dir() else "is a file"
        raise ReleaseError(f"{out} {what}: choose another folder, or empty it")


def _origin(model_dir: Path, data_dir: Path, hardware: str) -> Origin:
    try:
        return Origin(
            json.loads((data_dir / "dataset.json").read_text(encoding="utf-8")),
            json.loads((model_dir / "train_config.json").read_text(encoding="utf-8")),
            RunFolder(model_dir).read_log(),
            hardware,
        )
    except OSError as error:
        advice = "give the folder of a finished training run, and that of its data set"
        raise ReleaseError(f"{error.filename}: cannot be read ({error.strerror}): {advice}") from error
    except ValueError as error:
        raise ReleaseError(f"{data_dir} or {model_dir}: damaged JSON ({error}): prepare or train again") from error


def _card(name: str, model: ExifLang, origin: Origin, pictures: AuthenticPictures) -> str:
    try:
        return model_card(
            name,
            model.config,
            model.num_parameters(),
            origin,
            pictures.counts,
            len(pictures.left_out),
        )
    except (LookupError, TypeError, ValueError) as error:
        files = "dataset.json, train_config.json or log.jsonl"
        advice = "make them again with this version of exiflang"
        raise ReleaseError(f"{files} lacks what the model card tells ({error!r}): {advice}") from error


def _write(model: ExifLang, population: Population, card: str, out: Path) -> int:
    """Write the folder, beside its place first; returns its size in bytes."""
    fresh = out.with_name(f"{out.name}.new")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        settle(out)
        model.save_pretrained(str(fresh), state_dict=half_weights(model))
        (fresh / "model.safetensors").chmod(0o644)  # safetensors keeps it to its owner
        population.save(fresh)
        (fresh / "README.md").write_text(card, encoding="utf-8")
        size = sum(path.stat().st_size for path in fresh.iterdir())
        if size > MOST_BYTES:
            raise ReleaseError(
                f"{out.name} would have {size / 1e6:.0f} MB, at most {MOST_BYTES / 1e6:.0f} MB fit into the package: "
                "train a smaller preset"
            )
        swap(fresh, out)
    except (OSError, SafetensorError) as error:
        raise ReleaseError(f"{out}: cannot be written ({error}): make room, or choose another folder") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)  # gone already unless something failed
    return size


def main(arguments: list[str] | None = None) -> int:
    """Command line of `python -m exiflang.release`; returns 0, or 1 when nothing could be released."""
    parser = argparse.ArgumentParser(prog="python -m exiflang.release", description="Packages trained weights.")
    parser.add_argument("--model", default="data/models/base", help="folder of a finished training run")
    parser.add_argument("--data", default="data/base", help="folder of the data set that it was trained on")
    parser.add_argument("--out", default=f"data/models/{NAME}", help="folder to write")
    parser.add_argument("--photos", nargs="*", default=[], help="folders of authentic photos that no score is taken on")
    parser.add_argument("--hardware", help="what it was trained on, in words (default: this machine)")
    options = parser.parse_args(arguments)
    try:
        made = release(
            project_path(options.model),
            project_path(options.data),
            project_path(options.out),
            [project_path(folder) for folder in options.photos],
            options.hardware,
        )
    except (ReleaseError, DataError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name, reason in made.left_out:
        print(f"left out: {name}: {reason}")
    print(f"{made.folder}: {made.size / 1e6:.1f} MB, calibrated on {made.pictures} authentic pictures")
    return 0


if __name__ == "__main__":
    sys.exit(main())
