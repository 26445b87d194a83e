"""The documentation's table of formats: what is read from each, and that exiftool reads the same."""

import io
import json
import re
import shutil
import subprocess
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

from exiflang.inspection.picture import open_picture
from exiflang.pipeline.parameters import project_path
from exiflang.utils.images import load_image
from tests.dng import dng

PAGE = project_path("docs/howto/inspect.md").read_text(encoding="utf-8")
TABLE = PAGE.partition("| format | EXIF | what turns it upright |\n|---|---|---|\n")[2].partition("\n\n")[0]
ROWS = {
    name: (exif, turned)
    for line in TABLE.splitlines()
    for names, exif, turned in [re.findall(r"[^|]+", line.replace("| ", "|").replace(" |", "|"))]
    for name in re.findall(r"\b[A-Z][\w]*\b", re.sub(r"\(.*?\)", "", names))
}
#: Pillow writes no EXIF into these.
WITHOUT = ("JPEG2000", "GIF", "BMP", "PPM")
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def picture(kind: str, **metadata) -> bytes:
    """80 x 60 pixels."""
    if kind == "DNG":
        scene = np.random.default_rng(0).random((60, 80, 3))
        return dng(scene, t271=(2, "Canon"), t274=(3, 6 if metadata else 1))
    if kind == "HEIF":
        if not find_spec("pillow_heif"):
            pytest.skip("needs pillow-heif")
        import pillow_heif

        pillow_heif.register_heif_opener()
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind.upper(), **metadata)
    return file.getvalue()


def tags() -> bytes:
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Canon", 6
    return exif.tobytes()


def test_the_table_has_every_format():
    assert set(ROWS) == {"JPEG", "MPO", "PNG", "WebP", "TIFF", "HEIF", "AVIF", "DNG", *WITHOUT}


@pytest.mark.parametrize("kind", ROWS)
def test_each_format_is_read_as_the_table_says(kind):
    exif, turned = ROWS[kind]
    data = picture(kind) if kind in WITHOUT else picture(kind, exif=tags())
    found, said = open_picture(data), " ".join(open_picture(data).notes)
    assert found.tags.get("Make") == ("Canon" if exif.startswith("read") else None)
    assert ("not looked for" in said) == (exif == "not looked for") and ("no known EXIF" in said) == (exif == "none")
    if turned.startswith("EXIF"):
        assert found.image.shape == (80, 60, 3) and "according to its EXIF" in said
    elif turned == "its container":
        assert found.image.shape == (80, 60, 3) and "container" in said
    elif turned == "LibRaw":
        assert found.image.shape == (80, 60, 3) and "left to LibRaw" in said
    else:
        assert found.image.shape == (60, 80, 3) and "upright" not in said


@pytest.mark.parametrize("kind", [kind for kind, (_, turned) in ROWS.items() if turned == "EXIF, else XMP"])
def test_xmp_rotates_the_formats_that_the_table_says(kind):
    if kind == "PNG":
        from PIL.PngImagePlugin import PngInfo

        text = PngInfo()
        text.add_itxt("XML:com.adobe.xmp", XMP.decode())
        data = picture(kind, pnginfo=text)
    elif kind == "TIFF":
        data = picture(kind, tiffinfo={700: XMP})
    else:
        data = picture(kind, xmp=XMP)
    assert load_image(data).shape == (80, 60, 3)
    assert "according to its XMP" in " ".join(open_picture(data).notes)


@pytest.mark.skipif(not shutil.which("exiftool"), reason="needs exiftool (Debian: libimage-exiftool-perl)")
@pytest.mark.parametrize("kind", ROWS)
def test_exiftool_reads_the_same(tmp_path, kind):
    path = tmp_path / "picture"
    path.write_bytes(picture(kind) if kind in WITHOUT else picture(kind, exif=tags()))
    answer = subprocess.run(["exiftool", "-j", "-Make", "-EXIF:Orientation", path], capture_output=True, check=True)
    theirs, ours = json.loads(answer.stdout)[0], open_picture(path)
    assert ours.tags.get("Make") == theirs.get("Make")
    assert ("Orientation" in ours.tags) == ("Orientation" in theirs)
    if ROWS[kind][1].startswith("EXIF"):
        assert theirs["Orientation"] == "Rotate 90 CW"
