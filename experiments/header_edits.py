"""Photos edited by the programs that people edit with: Pillow, ImageMagick 6, GIMP 2.10, exiftool, exiv2.

GIMP's own defaults are what `gimp-file-save` writes: quality 90, 4:4:4, optimized and progressive.
"""

import io
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import cv2
import numpy as np
import PIL
from PIL import Image

QUALITIES = (75, 90, 98)
#: {edit: the program that encoded the pixels; "" for the camera}
EDITS = {
    "none": "",
    **{f"Pillow, {quality}": "Pillow" for quality in ("default", *QUALITIES)},
    "Pillow, half the size": "Pillow",
    "Pillow, optimized": "Pillow",
    "Pillow, progressive": "Pillow",
    "OpenCV, default": "OpenCV",
    **{f"ImageMagick, {quality}": "ImageMagick" for quality in ("default", *QUALITIES)},
    **{f"GIMP, {quality}": "GIMP" for quality in ("default", *QUALITIES)},
    "screenshot, PNG": "",
    "screenshot, JPEG as of Android": "Android",
    "exiftool, a tag": "",
    "exiftool, EXIF of another photo": "",
    "exiftool, EXIF removed and put back": "",
    "exiv2, a tag": "",
    "EXIF segment of another photo": "",
}
#: Command of each program, with the Debian package that has it.
_TOOLS = {
    "convert-im6.q16": "imagemagick-6.q16", "gimp-console-2.10": "gimp", "exiftool": "libimage-exiftool-perl",
    "exiv2": "exiv2",
}  # fmt: skip
_SCREEN = 1080, 2400
_CLEAN = ["-m", "-Software=", "-ProcessingSoftware=", "-XMP:all=", "-Comment="]
_SAVE = '(file-jpeg-save RUN-NONINTERACTIVE image layer "{to}" "{to}" {quality} 0 1 1 "" 2 1 0 0)'
_SAVE_AS_IS = '(gimp-file-save RUN-NONINTERACTIVE image layer "{to}" "{to}")'
_GIMP = """(let* ((image (car (gimp-file-load RUN-NONINTERACTIVE "{source}" "{source}")))
    (layer (car (gimp-image-get-active-drawable image)))) {saves} (gimp-image-delete image))"""


def edited(path: Path, other: Path, folder: Path) -> dict[str, tuple[bytes, bytes]]:
    """{edit: the file as the program wrote it, and without the Software tag, XMP and comments}; failed ones left out.

    other: the photo that gives its EXIF; folder: for files in between, emptied.
    """
    source, donor = folder / "source.jpg", folder / "donor.jpg"
    for file, photo in ((source, path), (donor, other)):
        file.write_bytes(photo.read_bytes())
    found = dict(_by_pillow(source.read_bytes())) | {"none": source.read_bytes()}
    _magick(source, folder)
    _gimp(source, folder)
    _metadata(source, donor, folder)
    for kind in EDITS:
        if (file := _file(folder, kind)).is_file():
            found[kind] = file.read_bytes()
            file.unlink()
    if segment := exif_segment(donor.read_bytes()):
        found["EXIF segment of another photo"] = with_exif(source.read_bytes(), segment)
    clean = _cleaned(found, folder / "clean")
    return {kind: (data, clean[kind]) for kind, data in found.items()}


def versions() -> dict[str, str]:
    """Versions of the programs. Raises `ValueError` if one is missing."""
    for tool, package in _TOOLS.items():
        if not shutil.which(tool):
            raise ValueError(f"{tool} is not installed: it is in Debian's package {package}")
    asked = {"ImageMagick": ["convert-im6.q16", "-version"], "GIMP": ["gimp-console-2.10", "--version"],
             "exiftool": ["exiftool", "-ver"], "exiv2": ["exiv2", "--version"]}  # fmt: skip
    said = {name: subprocess.run(command, capture_output=True, text=True).stdout for name, command in asked.items()}
    return {"Pillow": PIL.__version__} | {name: text.split("\n")[0][:60].strip() for name, text in said.items()}


def exif_segment(photo: bytes) -> bytes | None:
    """The EXIF segment of a JPEG file, with its marker."""
    return next((photo[start:end] for start, end in _exif_places(photo)), None)


def with_exif(photo: bytes, segment: bytes) -> bytes:
    """A JPEG file with another EXIF segment in place of its own, or behind the start of the file."""
    start, end = next(_exif_places(photo), (2, 2))
    return photo[:start] + segment + photo[end:]


def _exif_places(photo: bytes) -> Iterator[tuple[int, int]]:
    offset = 2
    while photo[offset : offset + 1] == b"\xff" and photo[offset + 1 : offset + 2] not in (b"\xda", b"\xd9", b""):
        end = offset + 2 + int.from_bytes(photo[offset + 2 : offset + 4], "big")
        if photo[offset + 1] == 0xE1 and photo[offset + 4 : offset + 10] == b"Exif\0\0":
            yield offset, end
        offset = end


def _by_pillow(photo: bytes) -> Iterator[tuple[str, bytes]]:
    with Image.open(io.BytesIO(photo)) as opened:
        opened.load()
        exif = {"exif": opened.info["exif"]} if "exif" in opened.info else {}
        image = opened.convert("RGB")
    yield "Pillow, default", _saved(image, **exif)
    for quality in QUALITIES:
        yield f"Pillow, {quality}", _saved(image, quality=quality, **exif)
    yield "Pillow, optimized", _saved(image, optimize=True, **exif)
    yield "Pillow, progressive", _saved(image, progressive=True, **exif)
    yield "OpenCV, default", cv2.imencode(".jpg", np.asarray(image)[..., ::-1])[1].tobytes()
    half = image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC)
    yield "Pillow, half the size", _saved(half, **exif)
    screen = image.copy()
    screen.thumbnail(_SCREEN)
    png = io.BytesIO()
    screen.save(png, "PNG")
    yield "screenshot, PNG", png.getvalue()
    # As Skia, the library that Android encodes with: 4:2:0, optimized Huffman tables.
    yield "screenshot, JPEG as of Android", _saved(screen, quality=90, optimize=True)


def _saved(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def _file(folder: Path, kind: str) -> Path:
    return folder / f"{kind.replace(' ', '_').replace(',', '')}.jpg"


def _magick(source: Path, folder: Path) -> None:
    for quality in ("default", *QUALITIES):
        asked = [] if quality == "default" else ["-quality", f"{quality}"]
        _run("convert-im6.q16", f"{source}", *asked, f"{_file(folder, f'ImageMagick, {quality}')}")


def _gimp(source: Path, folder: Path) -> None:
    saves = [_SAVE_AS_IS.format(to=_file(folder, "GIMP, default"))]
    saves += [_SAVE.format(to=_file(folder, f"GIMP, {quality}"), quality=quality / 100) for quality in QUALITIES]
    script = _GIMP.format(source=source, saves=" ".join(saves))
    _run("gimp-console-2.10", "-i", "-d", "-f", "-b", script, "-b", "(gimp-quit 0)")


def _metadata(source: Path, donor: Path, folder: Path) -> None:
    edits: Mapping[str, list[str]] = {
        "exiftool, a tag": ["exiftool", "-Artist=Someone"],
        "exiftool, EXIF of another photo": ["exiftool", "-EXIF:all=", "-tagsFromFile", f"{donor}", "-EXIF:all"],
        "exiftool, EXIF removed and put back": ["exiftool", "-all=", "-tagsFromFile", f"{source}", "-EXIF:all"],
        "exiv2, a tag": ["exiv2", "-Mset Exif.Image.Artist Someone", "modify"],
    }
    for kind, command in edits.items():
        shutil.copyfile(source, _file(folder, kind))
        quiet = ["-q", "-q", "-m", "-overwrite_original"] if command[0] == "exiftool" else []
        if _run(*command, *quiet, f"{_file(folder, kind)}"):
            _file(folder, kind).unlink()


def _cleaned(files: Mapping[str, bytes], folder: Path) -> dict[str, bytes]:
    folder.mkdir()
    for kind, data in files.items():
        _file(folder, kind).write_bytes(data)
    _run("exiftool", "-q", "-q", "-overwrite_original", "-ext", "jpg", *_CLEAN, f"{folder}")
    clean = {kind: _file(folder, kind).read_bytes() for kind in files}
    shutil.rmtree(folder)
    return clean


def _run(*command: str) -> int:
    return subprocess.run(command, capture_output=True, timeout=300).returncode
