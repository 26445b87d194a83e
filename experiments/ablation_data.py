"""The ablation's data sets: real photos as prepared by the preset "base", simulated ones, and mixtures of both."""

import os
import shutil
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from exiflang.data.shards import DataError, find_shards
from exiflang.pipeline.parameters import declared_parameters, load_preset, project_path
from exiflang.pipeline.runner import NOTEBOOKS, STEPS
from exiflang.preparation.dataset import prepare
from exiflang.preparation.options import grouped
from exiflang.utils.files import read_json, write_json

#: Path of each, relative to the project's root. "real" is the preset's own folder, which both share.
FOLDERS = {"real": "data/base"} | {name: f"data/ablation/{name}" for name in ("third", "simulated", "both")}
GROUPS = ("heldout", "choose", "report")
SIMULATED = {"photos_per_camera": 40, "unseen_makes": 1, "splices": 0, "authentic": 0}


def data_set(name: str) -> Path:
    """The folder of a data set, created if it does not exist yet.

    "real": the output of `01_prepare_data` with the preset "base". "simulated": simulated cameras, with the same
    held-out fractions. "third": every third training photo of "real". "both": all training photos of "real" and
    "simulated". The last two have the same held-out photos as "real".

    Raises `DataError` if a folder was made from different photos, `KeyError` for an unknown name, and as `prepare`.
    """
    folder = project_path(FOLDERS[name])
    if name == "real":
        arguments = base_arguments()
        if (folder / "dataset.json").exists():  # its settings for simulated cameras do not apply to real photos
            made_with = read_json(folder / "dataset.json")["arguments"]
            arguments |= {name: made_with[name] for name in SIMULATED}
        prepare(str(project_path(arguments.pop("source"))), folder, **grouped(arguments))
    elif name == "simulated":
        shared = {key: base_arguments()[key] for key in ("seed", "heldout_share", "choose_share", "report_share")}
        prepare("simulated", folder, **grouped(SIMULATED | shared))
    elif name == "third":
        mix(folder, {"real": data_set("real")}, every_third)
    else:
        mix(folder, {"real": data_set("real"), "simulated": data_set("simulated")}, all_of_them)
    return folder


def base_arguments() -> dict[str, Any]:
    """The arguments that `01_prepare_data` passes to `prepare` with the preset "base", except `data_dir`."""
    declared = {stem: declared_parameters(f"notebooks/{stem}.ipynb") for stem in NOTEBOOKS}
    arguments = declared[STEPS[0]] | load_preset("base", declared)[STEPS[0]]
    return {name: value for name, value in arguments.items() if name not in ("data_dir", "out_dir")}


def mix(folder: Path, parts: Mapping[str, Path], fill: Callable[[Mapping[str, Path], Path], None]) -> None:
    """Create the data set `folder` unless it exists: training shards from `fill(parts, folder)`, the rest from "real".

    `dataset.json` stores the SHA-256 of the parts' shards. Raises `DataError` if the folder has different parts.
    """
    made_of = {name: read_json(part / "dataset.json")["shards"] for name, part in parts.items()}
    if folder.exists():
        if read_json(folder / "dataset.json") != made_of:
            raise DataError(f"{folder} was made from different photos: remove the folder to create it again")
        return
    draft = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(draft, ignore_errors=True)  # left over from a killed run
    (draft / "train").mkdir(parents=True)
    fill(parts, draft / "train")
    for group in GROUPS:
        shutil.copytree(parts["real"] / group, draft / group, copy_function=os.link)
    write_json(draft / "dataset.json", made_of)
    os.replace(draft, folder)


def every_third(parts: Mapping[str, Path], train: Path) -> None:
    """Write the tiles of the 1st, 4th, 7th ... training photo of "real", in the order of its shards, byte for byte."""
    shards = find_shards(parts["real"] / "train")
    photos: dict[str, None] = {}
    for shard in shards:
        with tarfile.open(shard) as tar:
            photos |= dict.fromkeys(map(_photo, tar.getnames()))
    kept = set(list(photos)[::3])
    for shard in shards:
        with tarfile.open(shard) as old, tarfile.open(train / shard.name, "w") as new:
            for member in old:
                if _photo(member.name) in kept:
                    new.addfile(member, old.extractfile(member))


def all_of_them(parts: Mapping[str, Path], train: Path) -> None:
    """Link the training shards of all parts, as hard links prefixed with the part's name."""
    for name, part in parts.items():
        for shard in find_shards(part / "train"):
            os.link(shard, train / f"{name}-{shard.name}")


def _photo(member: str) -> str:
    """The prefix of a tile's key that all tiles of a photo share: `<photo>_<tile>.jpg`."""
    return member.split("_")[0]
