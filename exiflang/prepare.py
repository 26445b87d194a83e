"""A source of photos → a data set: training shards, shards of held-out photos, and splices to be tested with."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from exiflang.exif import ExifError, read_exif
from exiflang.images import ImageError, load_image
from exiflang.shards import (
    IMAGE_EXTENSIONS,
    DataError,
    Photo,
    Sample,
    ShardWriter,
    find_shards,
    plain_name,
    read_member,
    read_photos,
)
from exiflang.simulate import CAMERAS, Camera, simulate_photos, write_splices
from exiflang.tiles import cut_tiles

PICTURE_EXTENSIONS = {".jpg", ".jpeg", ".jpe", ".png", ".webp", ".tif", ".tiff", ".heic", ".heif"}
MAX_PHOTO_BYTES = 300_000_000


@dataclass
class LeftOut:
    """Photos that did not make it, counted by reason, the first few of each named."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, name: str) -> None:
        self.counts[reason] += 1
        if len(named := self.examples.setdefault(reason, [])) < 20:
            named.append(name)


def prepare(
    source: str,
    data_dir: str | Path,
    *,
    seed: int = 0,
    photos_per_camera: int = 40,
    unseen_makes: int = 3,
    splices: int = 60,
    authentic: int = 30,
    heldout_share: float = 0.15,
    choose_share: float = 0.0,
    report_share: float = 0.0,
    tile_size: int = 256,
    tiles_per_photo: int = 2,
    min_tags: int = 10,
    workers: int = 2,
) -> dict[str, Any]:
    """Write the data set of `source` into `data_dir`, unless it is there already, and return its description.

    `data_dir/train/*.tar` and `heldout/*.tar` hold tiles (see `data`); the held-out photos are of cameras that are
    trained on. `choose/*.tar` and `report/*.tar`, where asked for, hold all photos of cameras that training never sees:
    one group to choose the training step by, the other to report figures on. For simulated cameras `splices/unseen/`
    and `splices/seen/` hold composites of cameras that training never and that it does see, in the layout that
    `load_benchmark("folder", ...)` reads. `dataset.json` describes all of it, counts each split's photos and cameras,
    and appears last.

    Args:
        source: "simulated"; a folder of photos with EXIF, searched through; or a folder of tar shards in img2dataset's
            layout, whose tiles are copied unchanged.
        data_dir: where to write; holds one data set, made by one set of arguments.
        seed: draws photos, tiles, and which makes of simulated cameras are held out.
        photos_per_camera, unseen_makes, splices, authentic: of the simulated cameras; spliced and authentic pictures of
            unseen cameras, and half as many of seen ones.
        heldout_share: share of each camera's photos that training does not see.
        choose_share, report_share: shares of the cameras for these two groups; a few cameras may by chance give an
            empty one. Only names are compared (see `camera_group`): a camera sold as "EOS 350D" here and as "EOS
            DIGITAL REBEL XT" there counts as two, which may come to lie in two groups.
        tile_size, tiles_per_photo: side in pixels (a multiple of 32) and number of tiles cut from a photo.
        min_tags: photos with fewer EXIF tags are left out.
        workers: processes that render simulated photos.

    Raises:
        DataError: nothing usable in the source, or `data_dir` holds another data set, a damaged one or other files.
        ValueError: an argument out of its range.
    """
    source = str(source)
    arguments = {key: value for key, value in locals().items() if key not in ("data_dir", "workers")}
    data_dir = Path(data_dir).resolve()
    if (data_dir / "dataset.json").exists():
        return _present(data_dir, arguments)
    if not 0 < heldout_share < 1:
        raise ValueError(f"heldout_share is {heldout_share}: it must lie between 0 and 1")
    if not (choose_share >= 0 and report_share >= 0 and choose_share + report_share < 1):
        raise ValueError(
            f"choose_share and report_share are {choose_share} and {report_share}: they must be 0 or more and leave "
            "some cameras to train on"
        )
    if splices < 0 or authentic < 0:
        raise ValueError(f"splices and authentic must be 0 or more, not {splices} and {authentic}")
    if data_dir.exists() and (not data_dir.is_dir() or any(data_dir.iterdir())):
        raise DataError(f"{data_dir} holds other files and no data set: choose another data_dir or empty it")
    draft = data_dir.with_name(f".{data_dir.name}.part")
    shutil.rmtree(draft, ignore_errors=True)  # of a run that was killed
    try:
        description = {"arguments": arguments} | _write(draft, workers, **arguments)
        (draft / "dataset.json").write_text(json.dumps(description, indent=1), encoding="utf-8")
        os.replace(draft, data_dir)  # an empty folder may stand there
    finally:
        shutil.rmtree(draft, ignore_errors=True)  # gone already unless something failed
    return description


def _present(data_dir: Path, arguments: dict[str, Any]) -> dict[str, Any]:
    try:
        found = json.loads((data_dir / "dataset.json").read_text(encoding="utf-8"))
        made_with = {"choose_share": 0.0, "report_share": 0.0} | found["arguments"]  # older sets do not name them
        same, shards = made_with == json.loads(json.dumps(arguments)), list(found["shards"])
    except (ValueError, TypeError, LookupError) as error:
        raise DataError(f"{data_dir}/dataset.json is damaged: remove the folder, it is then made anew") from error
    if not same:
        raise DataError(f"{data_dir} holds a data set made with other arguments: choose another data_dir or clear it")
    if gone := [name for name in shards if not (data_dir / name).is_file()]:
        raise DataError(f"{data_dir}/{gone[0]} is missing: remove the folder, it is then made anew")
    return found


def _write(
    folder: Path,
    workers: int,
    *,
    source: str,
    seed: int,
    photos_per_camera: int,
    unseen_makes: int,
    splices: int,
    authentic: int,
    heldout_share: float,
    choose_share: float,
    report_share: float,
    tile_size: int,
    tiles_per_photo: int,
    min_tags: int,
) -> dict[str, Any]:
    left_out = LeftOut()
    rng = np.random.default_rng(seed)
    group_of = partial(camera_group, seed=seed, choose_share=choose_share, report_share=report_share)
    unseen: list[Camera] = []
    if source == "simulated":
        seen, unseen = split_makes(unseen_makes, seed)
        trained = [camera for camera in seen if group_of(camera.name) == "train"]
        if len(trained) < 2:
            raise ValueError(
                f"choose_share {choose_share} and report_share {report_share} leave {len(trained)} of {len(seen)} "
                "simulated cameras to train on: lower them"
            )
        photos = ((name, data) for name, _, data in simulate_photos(seen, photos_per_camera, seed, workers))
        samples = _cut(photos, tile_size, tiles_per_photo, min_tags, rng, left_out)
    else:
        samples = _samples_from(Path(source), tile_size, tiles_per_photo, min_tags, rng, left_out)
    apart = [group for group, share in (("choose", choose_share), ("report", report_share)) if share]
    counts, cameras = _write_split(samples, folder, heldout_share, apart, group_of)
    if not counts["train"]:
        if any(counts.values()):
            raise DataError(f"{source}: all of its cameras are set apart: lower choose_share and report_share")
        reasons = "; ".join(
            f"{number} left out: {reason}, e.g. {', '.join(left_out.examples.get(reason, [])[:3]) or 'unnamed'}"
            for reason, number in left_out.counts.items()
        )
        raise DataError(f"{source}: no photo that can be used ({reasons or 'no photo found'})")
    if source == "simulated" and splices + authentic:
        write_splices(folder / "splices" / "unseen", unseen, splices, authentic, seed, workers)
        write_splices(folder / "splices" / "seen", trained, (splices + 1) // 2, (authentic + 1) // 2, seed + 1, workers)
    return {
        "photos": counts,
        "cameras": cameras,
        "unseen_cameras": [camera.name for camera in unseen],
        "left_out": dict(left_out.counts),
        "left_out_examples": left_out.examples,
        "shards": {
            str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.glob("*/*.tar"))
        },
    }


def split_makes(unseen_makes: int, seed: int) -> tuple[list[Camera], list[Camera]]:
    """The simulated cameras that training sees, and all cameras of `unseen_makes` makes drawn by `seed`."""
    makes = sorted({camera.make for camera in CAMERAS})
    if not 1 <= unseen_makes < len(makes):
        raise ValueError(f"unseen_makes is {unseen_makes}: it must be 1 to {len(makes) - 1}")
    held = set(np.random.default_rng([seed, len(makes)]).choice(makes, unseen_makes, replace=False).tolist())
    return [c for c in CAMERAS if c.make not in held], [c for c in CAMERAS if c.make in held]


def camera_group(camera: str, *, seed: int, choose_share: float, report_share: float) -> str:
    """ "train", "choose" or "report": what the photos of a camera are for.

    Drawn by a hash of `seed` and the camera's make and model (`Photo.camera`), so that a camera stays in its group when
    photos are added to the source. Spellings that differ by case, spaces or punctuation are one camera. Photos that
    name no model may be of any camera, so that they are no evidence of an unseen one: "train".
    """
    name = plain_name(camera)
    if name.endswith("unknown"):
        return "train"
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
    drawn = int.from_bytes(digest) / 2**64
    return "report" if drawn < report_share else "choose" if drawn < report_share + choose_share else "train"


def _write_split(
    samples: Iterator[tuple[str, list[Sample]]],
    folder: Path,
    heldout_share: float,
    apart: Sequence[str] = (),
    group_of: Callable[[str], str] = lambda camera: "train",
) -> tuple[dict[str, int], dict[str, int]]:
    """Send the photos of cameras whose group is set `apart` to a folder of its name, `heldout_share` of each other
    camera's photos, evenly spaced, to `heldout/`, the rest to `train/`; count photos and cameras of each.

    The first photo of a camera is always trained on, so that no held-out photo is of an unseen camera.
    """
    of_camera: Counter[str] = Counter()
    counts = dict.fromkeys(("train", "heldout", *apart), 0)
    cameras: dict[str, set[str]] = {split: set() for split in counts}
    with ExitStack() as stack:
        writers = {split: stack.enter_context(ShardWriter(folder / split)) for split in counts}
        for camera, tiles in samples:
            split = group_of(camera)
            if split == "train":
                of_camera[camera] += 1
                due = int(of_camera[camera] * heldout_share) > int((of_camera[camera] - 1) * heldout_share)
                split = "heldout" if due else "train"
            counts[split] += 1
            cameras[split].add(plain_name(camera))
            for tile in tiles:
                writers[split].write(tile)
    return counts, {split: len(names) for split, names in cameras.items()}


def _samples_from(source: Path, size: int, count: int, min_tags: int, rng, left_out: LeftOut) -> Iterator:
    if not source.is_dir():
        raise DataError(f"{source}: no such folder; source is 'simulated', or a folder of photos or of tar shards")
    if any(source.glob("*.tar")):
        return _copied(find_shards(source), min_tags, left_out)
    files = sorted(path for path in source.rglob("*") if path.suffix.lower() in PICTURE_EXTENSIONS and path.is_file())
    if not files:
        raise DataError(f"{source}: no photos in it ({', '.join(sorted(PICTURE_EXTENSIONS))}) and no tar shards")
    return _cut(_read(files, source, left_out), size, count, min_tags, rng, left_out)


def _read(files: list[Path], root: Path, left_out: LeftOut) -> Iterator[tuple[str, bytes]]:
    for path in tqdm(files, unit=" photos"):
        name = str(path.relative_to(root))
        try:
            if path.stat().st_size > MAX_PHOTO_BYTES:
                left_out.add(f"larger than {MAX_PHOTO_BYTES // 10**6} MB", name)
                continue
            data = path.read_bytes()
        except OSError as error:
            left_out.add(f"cannot be read: {error.strerror}", name)
            continue
        yield name, data


def _cut(photos, size: int, count: int, min_tags: int, rng, left_out: LeftOut) -> Iterator[tuple[str, list[Sample]]]:
    """(name, file bytes) of photos → (camera, its tiles) of those that can be used."""
    for number, (name, data) in enumerate(photos):
        try:
            tags = read_exif(data)
            tiles = cut_tiles(data, count, size, rng, name) if len(tags) >= min_tags else []
        except (ExifError, ImageError) as error:
            left_out.add("broken or too small", f"{name}: {error}")
            continue
        if not tiles:
            left_out.add(f"fewer than {min_tags} EXIF tags" if tags else "no EXIF", name)
            continue
        meta = {"exif": json.dumps(tags), "width": size, "height": size, "photo": f"{number:08d}"}
        yield (
            Photo(name, tags, []).camera,
            [
                Sample(f"{number:08d}_{i:02d}", tile.data, tile.extension, {**meta, "x": tile.x, "y": tile.y})
                for i, tile in enumerate(tiles)
            ],
        )


def _copied(shards: list[Path], min_tags: int, left_out: LeftOut) -> Iterator[tuple[str, list[Sample]]]:
    """Photos of existing shards → (camera, tiles), the pictures' bytes unchanged, the EXIF in canonical form."""
    photos, unread = read_photos(shards)
    for reason, number in unread.items():
        left_out.counts[reason] += number
    for number, photo in enumerate(tqdm(photos, unit=" photos")):
        if len(photo.tags) < min_tags:
            left_out.add(f"fewer than {min_tags} EXIF tags", photo.id)
            continue
        tiles = []
        for i, (shard, offset, length) in enumerate(photo.tiles):
            data = read_member(shard, offset, length)
            try:
                height, width = load_image(data).shape[:2]
            except ImageError as error:
                left_out.add("broken tile", f"{photo.id}: {error}")
                continue
            meta = {"exif": json.dumps(photo.tags), "width": width, "height": height, "photo": photo.id}
            tiles.append(Sample(f"{number:08d}_{i:02d}", data, _extension(data), meta))
        if tiles:
            yield photo.camera, tiles


def _extension(data: bytes) -> str:
    jpg, _, png, webp = IMAGE_EXTENSIONS
    return jpg if data[:2] == b"\xff\xd8" else png if data[:4] == b"\x89PNG" else webp
