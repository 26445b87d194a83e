"""How well headers tell the editor of a file, measured on photos edited by known programs.

`python -m experiments.edited_headers` counts the encodings that editors share in real photos into
exiflang/headers/encoders.json, edits whole photos with Pillow, ImageMagick 6, GIMP 2.10 and exiftool, and renews
reports/golden/edited_headers.json.
"""

import contextlib
import hashlib
import json
import math
import re
import sys
import tarfile
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer
from scipy.stats import binomtest
from tqdm.auto import tqdm

from exiflang.data.shards import Photo, find_shards, plain_name
from exiflang.exif.reader import canonical_tags, read_exif
from exiflang.exif.tags import ExifError
from exiflang.headers.encoders import FILE, libjpeg_quality, name_encoder
from exiflang.headers.jpeg_header import JpegHeader, compared_tags, read_header
from exiflang.headers.reference import HeaderFit, SignatureReference
from exiflang.models.weights import packaged_model
from exiflang.pipeline.parameters import project_path
from exiflang.utils.commands import run_command
from exiflang.utils.files import write_whole
from experiments.header_edits import EDITS, edited, exif_segment, versions, with_exif
from experiments.tables import publish, table

#: {editor: what its Software tag starts with}
EDITORS = {
    "Adobe Lightroom": "(Adobe )?(Photoshop )?Lightroom", "Adobe Photoshop": "Adobe Photoshop",
    "Bibble": "Bibble", "Capture One": "Capture One", "darktable": "darktable", "digiKam": "digiKam",
    "Canon Digital Photo Professional": "Digital Photo Professional", "GIMP": "GIMP", "Google Photos": "Google$",
    "Instagram": "Instagram", "Nikon ViewNX": "ViewNX", "Paint.NET": "Paint.NET", "Picasa": "Picasa",
    "RawTherapee": "RawTherapee", "Shotwell": "Shotwell", "Snapseed": "Snapseed", "picnik": "picnik",
    "Windows Photo Editor": "Windows Photo Editor", "Windows Photo Gallery": "Microsoft Windows Photo Gallery",
    "Windows Photo Viewer": "Microsoft Windows Photo Viewer",
}  # fmt: skip
#: An encoding belongs to an editor with at least so many photos, of so many camera models.
LEAST_PHOTOS, LEAST_CAMERAS = 3, 2
#: Camera models are split into so many parts; the encodings counted without a part are tested on it.
PARTS = 5
#: First years of ages that are told apart.
YEARS = range(1995, 2030, 5)
#: Photos of the reference that are compared with it, each left out.
SAMPLED = 500
UNUSUAL = 0.05


class Saved(NamedTuple):
    """A photo as it was published: its key in a signature reference, whether it is as the camera wrote it, its EXIF."""

    key: str
    original: bool
    tags: dict[str, str]
    header: JpegHeader

    @property
    def camera(self) -> str:
        return plain_name(Photo(self.key, self.tags, []).camera)

    @property
    def year(self) -> int:
        year = self.tags.get("DateTimeOriginal", "")[:4]
        return int(year) if year.isdecimal() else 0


class _Named(NamedTuple):
    """What was found on an edited file: the encoder's name and programs, `JpegHeader.packed_exif` before cleaning."""

    name: str
    programs: tuple[str, ...]
    packed: bool | None


def read_saved(shards: Iterable[Path]) -> list[Saved]:
    """One record a photo; of its header, a tile keeps tables and sampling."""
    found: dict[str, Saved] = {}
    for shard in shards:
        parts: defaultdict[str, dict[str, bytes]] = defaultdict(dict)
        with tarfile.open(shard) as tar:
            for member in tar:
                key, _, extension = member.name.rpartition(".")
                parts[key][extension] = (file := tar.extractfile(member)) and file.read() or b""
        for sample in parts.values():
            meta = json.loads(sample["json"])
            header = None if meta["photo"] in found else read_header(sample["jpg"])
            if header:
                printed = json.loads(meta["exif"])
                size = meta["original_width"], meta["original_height"]
                alone = JpegHeader(header.tables, header.sampling, *size, tags=compared_tags(printed))
                key = meta["photo"][:8]
                found[meta["photo"]] = Saved(key, meta["camera_original"], canonical_tags(printed), alone)
    return list(found.values())


def count_signatures(photos: Sequence[Saved]) -> dict[str, Any]:
    """The content of `encoders.FILE`."""
    own = [photo for photo in photos if photo.original]
    of_cameras = {photo.header.encoding for photo in own}
    cameras: defaultdict[str, defaultdict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for photo in photos:
        editor = next(
            (name for name, start in EDITORS.items() if re.match(start, photo.tags.get("Software", ""))), None
        )
        if not photo.original and editor and photo.header.encoding not in of_cameras:
            cameras[photo.header.encoding][editor].append(photo.camera)
    counted = {
        encoding: {
            editor: [len(of), len(set(of))]
            for editor, of in sorted(editors.items(), key=lambda item: -len(item[1]))
            if len(of) >= LEAST_PHOTOS and len(set(of)) >= LEAST_CAMERAS
        }
        for encoding, editors in sorted(cameras.items())
    }
    return {
        "camera_photos": len(own),
        "of_libjpeg": sum(libjpeg_quality(photo.header) is not None for photo in own),
        "encodings": {encoding: editors for encoding, editors in counted.items() if editors},
    }


def false_names(photos: Sequence[Saved]) -> list[dict[str, Any]]:
    """By age, how many photos as cameras wrote them get an editor's name, by encodings counted on other models."""
    part = {camera: number % PARTS for number, camera in enumerate(sorted({photo.camera for photo in photos}))}
    named: defaultdict[str, list[bool]] = defaultdict(list)
    for number in range(PARTS):
        known = count_signatures([photo for photo in photos if part[photo.camera] != number])
        for photo in photos:
            if photo.original and part[photo.camera] == number:
                encoder = name_encoder(photo.header, known)
                first = photo.year - photo.year % 5
                age = f"{first} to {first + 4}" if first in YEARS else "no date, or a wrong one"
                for group in (age, "all"):
                    named[group].append(bool(encoder and encoder.programs))
    return [{"years": age, **rate(sum(of), len(of))} for age, of in sorted(named.items())]


def rate(found: int, files: int) -> dict[str, Any]:
    """A fraction with its 95 % limits (Clopper and Pearson)."""
    if not files:
        return {"found": 0, "files": 0, "low": 0.0, "high": 1.0}
    limits = binomtest(found, files).proportion_ci(method="exact")
    return {"found": found, "files": files, "low": float(limits.low), "high": float(limits.high)}


def measure_edits(paths: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """For each edit: how many files name the right program, that program alone, and have a packed EXIF."""
    rows: defaultdict[str, list[_Named]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        for number, path in enumerate(tqdm(paths, desc="photos")):
            other = paths[(number + 1) % len(paths)]
            for kind, (before, after) in edited(path, other, Path(folder)).items():
                header, raw = read_header(after), read_header(before)
                encoder = name_encoder(header) if header else None
                name, programs = (encoder.name, encoder.programs) if encoder else ("none", ())
                rows[kind].append(_Named(name, programs, raw.packed_exif if raw else None))
    return {kind: _counted(kind, rows[kind]) for kind in EDITS}


def _counted(kind: str, rows: Sequence[_Named]) -> dict[str, Any]:
    program = EDITS[kind]
    packed = [row.packed for row in rows if row.packed is not None]
    found = {"program": program, "files": len(rows), "packed": rate(sum(packed), len(packed))}
    found["any"] = rate(sum(bool(row.programs) for row in rows), len(rows))
    if program:
        found["named"] = rate(sum(program in row.programs for row in rows), len(rows))
        found["alone"] = sum(row.programs == (program,) for row in rows)
    names = Counter(re.sub(r"quality \d+", "quality N", row.name) for row in rows)
    return found | {"names": dict(names.most_common(5))}


def measure_swaps(paths: Sequence[Path], reference: SignatureReference) -> dict[str, dict[str, Any]]:
    """The check of header against EXIF, with each photo's own EXIF and that of each photo of another camera."""
    photos = {path: path.read_bytes() for path in paths}
    fresh = [p for p in paths if hashlib.sha256(photos[p]).hexdigest()[:8] not in reference.photos]
    own: list[bytes] = []
    swapped: list[bytes] = []
    for path in fresh:
        camera = _camera(photos[path])
        for other in paths:
            segment = exif_segment(photos[other])
            if segment and (path == other or _camera(photos[other]) != camera):
                (own if path == other else swapped).append(with_exif(photos[path], segment))
    return {
        "whole photos, own": _fitted(_claims(own), reference),
        "whole photos, another camera's": _fitted(_claims(swapped), reference),
    }


def measure_sampled_swaps(photos: Sequence[Saved], reference: SignatureReference) -> dict[str, dict[str, Any]]:
    """The same on photos of the reference, each left out of it: by tables, sampling and tags."""
    rng = np.random.default_rng(0)
    known = [photo for photo in photos if photo.original and photo.key in reference.photos]
    rows: defaultdict[str, list[HeaderFit | None]] = defaultdict(list)
    for number in rng.permutation(len(known))[:SAMPLED]:
        photo = known[number]
        other = known[rng.choice([i for i, of in enumerate(known) if of.camera != photo.camera])]
        rest = {key: signature for key, signature in reference.photos.items() if key != photo.key}
        left = SignatureReference(rest, reference.ranks)
        rows["sampled photos, own"].append(left.fit(photo.header, photo.tags))
        swapped = replace(photo.header, tags=other.header.tags)
        rows["sampled photos, another camera's"].append(left.fit(swapped, other.tags))
    return {kind: _summed([fit for fit in fits if fit]) for kind, fits in rows.items()}


def _camera(photo: bytes) -> str:
    try:
        return plain_name(Photo("", read_exif(photo), []).camera)
    except ExifError:
        return ""


def _claims(files: Sequence[bytes]) -> Iterator[tuple[JpegHeader, dict[str, str]]]:
    for data in files:
        header = read_header(data)
        with contextlib.suppress(ExifError):
            if header:
                yield header, read_exif(data)


def _fitted(claims: Iterable[tuple[JpegHeader, dict[str, str]]], reference: SignatureReference) -> dict[str, Any]:
    return _summed([fit for claim in claims if (fit := reference.fit(*claim))])


def _summed(fits: Sequence[HeaderFit]) -> dict[str, Any]:
    unusual = np.array([fit.percentile < UNUSUAL for fit in fits], bool)
    never = np.array([math.isnan(fit.percentile) for fit in fits], bool)
    return {
        "unusual": rate(int(unusual.sum()), len(fits)),
        "never seen": rate(int(never.sum()), len(fits)),
        "unusual of seen": rate(int(unusual[~never].sum()), int((~never).sum())),
    }


def _share(found: Mapping[str, Any]) -> str:
    if not found["files"]:
        return ""
    share = found["found"] / found["files"]
    return f"{found['found']} of {found['files']:,} ({share:.1%}; {found['low']:.1%} to {found['high']:.1%})"


def markdown(golden: Mapping[str, Any]) -> str:
    """The tables."""
    edits = []
    for kind, found in golden["edits"].items():
        named = _share(found["named"]) if "named" in found else ""
        alone = str(found["alone"]) if "named" in found else ""
        most = "; ".join(f"{name} ({number})" for name, number in list(found["names"].items())[:2])
        edits.append([kind, found["program"], named, alone, _share(found["any"]), _share(found["packed"]), most])
    columns = ["edit", "encoder", "named rightly", "as the only one", "any named", "EXIF rewritten", "names given"]
    swaps = [[kind, *map(_share, found.values())] for kind, found in golden["swapped"].items()]
    ages = [[row["years"], _share(row)] for row in golden["false names"]]
    count = golden["signatures"]
    return "\n\n".join(
        [
            "**Edited photos**, Software tag, XMP and comments removed (95 % limits in brackets):",
            table(columns, edits),
            "**Authentic photos** that get an editor's name by tables and sampling alone. A fifth of the camera models "
            f"at a time is tested with the encodings of the others; all models give {count['encodings']} encodings of "
            f"{count['editors']} editors:",
            table(["taken", "named"], ages),
            "**Header against EXIF**, percentile below 5 %:",
            table(["EXIF", "unusual", "encoding never seen", "unusual, of encodings seen"], swaps),
        ]
    )


def renew(shared: Annotated[str, typer.Option(help="Folder of photos/ and camera_photos/.")] = "../shared") -> None:
    """Update encoders.json and reports/golden/edited_headers.json."""
    folder = project_path(shared)
    saved = read_saved(find_shards(folder / "photos"))
    known = count_signatures(saved)
    write_whole(FILE, json.dumps(known, indent=1) + "\n")
    paths = [path for path in sorted((folder / "camera_photos").iterdir()) if read_header(path.read_bytes())]
    reference = SignatureReference.of_model(packaged_model())
    if reference is None:
        raise ValueError(f"{packaged_model()} has no signature reference: create one with exiflang reference")
    editors = {editor for names in known["encodings"].values() for editor in names}
    golden = {
        "protocol": {"photos": len(paths), "saved": len(saved), "unusual": UNUSUAL, "parts": PARTS, **versions()},
        "signatures": {"encodings": len(known["encodings"]), "editors": len(editors), **_without_table(known)},
        "edits": measure_edits(paths),
        "false names": false_names(saved),
        "swapped": measure_swaps(paths, reference) | measure_sampled_swaps(saved, reference),
    }
    publish("edited_headers", golden, {"edited_headers": markdown(golden)})


def _without_table(known: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in known.items() if name != "encodings"}


#: Command line; returns the exit code, see `run_command`.
main = partial(run_command, renew)

if __name__ == "__main__":
    sys.exit(main())
