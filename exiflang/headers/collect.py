"""Photos, shards or another reference -> a signature reference."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from tqdm.auto import tqdm

from exiflang.data.shards import Photo, find_shards, index_photos, read_member
from exiflang.exif.reader import read_exif
from exiflang.exif.tags import ExifError
from exiflang.headers.jpeg_header import JpegHeader, compared_tags, read_header
from exiflang.headers.reference import Signature, SignatureError, SignatureReference
from exiflang.utils.folders import find_pictures
from exiflang.utils.locks import hold

#: A larger file is left out.
MOST_BYTES = 256 << 20


def header_of_photo(photo: Photo) -> JpegHeader | None:
    """The header of a photo in shards, indexed with its JSON; None if it is unknown.

    `prepare` records it in the JSON. In other shards, a tile that was cut without recompression has the photo's tables
    and sampling, and its JSON may have the photo's size and exifread's tags. A photo that its JSON calls edited
    (`camera_original` false) counts as unknown: its header tells nothing of the camera.
    """
    meta = photo.meta
    if isinstance(meta.get("header"), dict):
        with contextlib.suppress(ValueError):  # from another version, or damaged
            return JpegHeader.of_record(meta["header"])
        return None
    if meta.get("camera_original") is False or "photo" not in meta:
        return None  # without `photo`, the picture may have been resized or recompressed after the download
    tile = read_header(read_member(*photo.tiles[0]))
    sides = [meta.get(name) for name in ("original_width", "original_height")]
    width, height = (side if isinstance(side, int) else None for side in sides)
    tags = compared_tags(meta["exif"]) or None
    return tile and JpegHeader(tile.tables, tile.sampling, width, height, tags=tags)


def collect_signatures(source: str | Path) -> tuple[SignatureReference, Counter[str]]:
    """The calibrated reference of a source, and the numbers of photos left out by reason.

    source: a folder of photos as the cameras wrote them; a folder of shards, or of a data set written by `prepare`, all
    of whose splits are read; or the file of another reference.

    Raises `SignatureError` if it has no usable photo, `DataError` for damaged shards, `OSError` if it cannot be read.
    """
    source = Path(source)
    if source.is_file():
        return SignatureReference.load(source), Counter()
    if not source.is_dir():
        raise SignatureError(f"{source}: no such file or folder; check the path")
    left_out: Counter[str] = Counter()
    folders = [
        folder for folder in (source, *sorted(source.iterdir())) if folder.is_dir() and any(folder.glob("*.tar"))
    ]
    found = _of_shards(folders, left_out) if folders else _of_files(source, left_out)
    photos = {key: signature for key, signature in found if signature.make_key}
    if not photos:
        reasons = "; ".join(f"{number} times {reason}" for reason, number in left_out.items()) or "no picture at all"
        raise SignatureError(f"{source}: no JPEG photo with a make in its EXIF ({reasons})")
    return SignatureReference(photos).calibrated(), left_out


def add_signatures(source: str | Path, file: str | Path) -> tuple[SignatureReference, Counter[str]]:
    """Add a source's photos to a reference file, which is created if it is missing; returns its new content.

    Raises the errors of `collect_signatures`, and `OSError` if the file cannot be written.
    """
    found, left_out = collect_signatures(source)
    file = Path(file)
    with hold(file.with_name(f".{file.name}.lock"), str(file), SignatureError, work="add"):
        if file.exists():
            found = SignatureReference.load(file).merged(found)
        found.save(file)
    return found, left_out


def _of_shards(folders: list[Path], left_out: Counter[str]) -> Iterator[tuple[str, Signature]]:
    for folder in folders:
        for shard in tqdm(find_shards(folder), desc=folder.name, unit=" shards", delay=2):
            photos, unused = index_photos([shard], metas=True)
            left_out.update({reason: len(names) for reason, names in unused.items()})
            for photo in photos:
                header = header_of_photo(photo)
                if header is None:
                    left_out["header unknown, or edited"] += 1
                elif not photo.tags.get("Make"):
                    left_out["no make in its EXIF"] += 1
                else:
                    yield _digest(photo.id.encode()), Signature.of(header, photo.tags)


def _of_files(folder: Path, left_out: Counter[str]) -> Iterator[tuple[str, Signature]]:
    files, closed, _ = find_pictures(folder)
    left_out.update(reason for _, reason in closed)
    for path in tqdm(files, unit=" photos", delay=2):
        try:
            data = path.read_bytes() if path.stat().st_size <= MOST_BYTES else b""
            header, exif = read_header(data), read_exif(data)
        except OSError as error:
            left_out[f"cannot be read: {error.strerror}"] += 1
        except ExifError:
            left_out["broken EXIF, or not a picture"] += 1
        else:
            if header is None:
                left_out["not a JPEG, or a damaged header"] += 1
            elif not exif.get("Make"):
                left_out["no make in its EXIF"] += 1
            else:
                yield _digest(data), Signature.of(header, exif)


def _digest(data: bytes) -> str:
    return sha256(data).hexdigest()[:8]
