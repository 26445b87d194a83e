"""How often the rules on metadata find something in authentic files.

Rules on tags are counted in photos of the shards that are as their camera wrote them. These were chosen by their size
in pixels and by known editors' names, so that "size" finds nothing in them by design, and "editor" little. All other
rules are counted in whole files without a sign of editing.

`python -m experiments.metadata_rules` updates reports/golden/metadata_rules.json and exiflang/headers/rates.json, which
findings quote. Needs the real photos of ../shared, which are not published.
"""

import json
import sys
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from scipy.stats import binomtest

from exiflang.data.shards import find_shards, plain_name
from exiflang.headers.facts import Facts
from exiflang.headers.findings import WEAK
from exiflang.headers.rules import RATES, RULES, apply
from exiflang.pipeline.parameters import project_path
from exiflang.utils.commands import run_command
from exiflang.utils.files import write_json
from exiflang.utils.images import ImageError, decode_image
from experiments.tables import publish, table

#: A file in which one of these finds something is not authentic for the others.
EDITED = ("size", "editor", "xmp_creator", "xmp_history", "xmp_derived", "xmp_camera_raw", "xmp_photoshop",
          "photoshop_resources", "save_for_web", "no_end")  # fmt: skip
FOLDERS = ("camera_photos", "badfiles")
#: Files of these folders that are no authentic ones, and how that is known besides the rules.
LEFT_OUT = {
    "35-empty.jpg": "cropped: no setting of this camera gives 2164 x 1626 pixels",
    "corrupted.jpg": "a part of its pixels is lost",
}
Said = Mapping[str, str | None]


def tagged_photos(folder: Path) -> Iterator[Facts]:
    """The tags of each photo in a folder of shards that is as its camera wrote it."""
    seen = set()
    for shard in find_shards(folder):
        with tarfile.open(shard) as tar:
            for member in tar:
                if not member.name.endswith(".json") or (file := tar.extractfile(member)) is None:
                    continue
                row = json.load(file)
                if row["camera_original"] and row["photo"] not in seen:
                    seen.add(row["photo"])
                    yield Facts.of_tags(json.loads(row["exif"]), (row["original_width"], row["original_height"]))


def whole_files(shared: Path) -> Iterator[Facts]:
    """The picture files of `FOLDERS` that can be decoded."""
    for folder in FOLDERS:
        for path in sorted((shared / folder).iterdir()):
            if path.name in LEFT_OUT:
                continue
            try:
                photo = path.read_bytes()
                yield Facts.of_file(photo, decode_image(photo).pixels)
            except ImageError:
                continue


def say(facts: Facts) -> tuple[str, Said]:
    """The photo's camera, and what each rule says of it."""
    camera = plain_name(facts.text("Make") + facts.text("Model"))
    return camera, {rule.name: apply(rule, facts) for rule in RULES}


def count(photos: Iterable[tuple[str, Said]], rule: str, unedited: bool = False) -> dict[str, Any]:
    """In how many photos to which it applies a rule finds something, with 95 % limits (Clopper and Pearson, 1934)."""
    found, cameras = [], set()
    for camera, said in photos:
        if said[rule] is None or (unedited and any(said[name] for name in EDITED if name != rule)):
            continue
        found.append(bool(said[rule]))
        cameras.add(camera)
    counted: dict[str, Any] = {"photos": len(found), "cameras": len(cameras), "found": sum(found)}
    if found:
        limits = binomtest(sum(found), len(found)).proportion_ci(0.95, "exact")
        counted |= {"low": float(limits.low), "high": float(limits.high)}
    return counted


def measure(tagged: list[tuple[str, Said]], files: list[tuple[str, Said]]) -> dict[str, dict[str, Any]]:
    """For each rule, its counts; rules on tags that no photo in the shards has are counted in whole files."""
    found = {}
    for rule in RULES:
        counted = count(tagged if rule.by_tags else (), rule.name)
        in_files = not counted["photos"]
        if in_files:
            counted = count(files, rule.name, unedited=True)
        counted["from"] = "files" if in_files else "tags"
        found[rule.name] = {"severity": rule.severity, "source": rule.source, **counted}
    return found


def markdown(golden: Mapping[str, Any]) -> str:
    """A row a rule."""
    rows = []
    for name, rule in golden["rules"].items():
        photos, found = rule["photos"], rule["found"]
        rate, limits = "", ""
        if photos:
            weak = " (weak)" if found / photos > WEAK else ""
            rate = f"{found / photos:.2%}{weak}"
            limits = f"at most {min(3 / photos, 1):.2%}" if not found else f"{rule['low']:.2%} to {rule['high']:.2%}"
        counts = [f"{photos:,}", f"{rule['cameras']:,}", f"{found:,}", rate, limits, rule["from"]]
        rows.append([name, rule["severity"], *counts, rule["source"]])
    columns = ["rule", "severity", "photos", "cameras", "found in", "rate", "95 % limits", "counted in", "source"]
    return table(columns, rows)


def renew(shared: Annotated[str, typer.Option(help="Folder with the real photos.")] = "../shared") -> None:
    """Update reports/golden/metadata_rules.json and exiflang/headers/rates.json."""
    folder = project_path(shared)
    tagged = [say(facts) for facts in tagged_photos(folder / "photos")]
    files = [say(facts) for facts in whole_files(folder)]
    rules = measure(tagged, files)
    numbers = {name: {key: rule[key] for key in ("photos", "found")} for name, rule in rules.items()}
    write_json(RATES, numbers)
    golden = {"tags": len(tagged), "files": len(files), "rules": rules}
    publish("metadata_rules", golden, {"": markdown(golden)})


#: Command line; returns the exit code, see `run_command`.
main = partial(run_command, renew)

if __name__ == "__main__":
    sys.exit(main())
