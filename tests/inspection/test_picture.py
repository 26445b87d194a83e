"""Opening suspicious files: the notes on them, whatever they are."""

import contextlib
import hashlib
import io
import struct
import sys
import time
import types
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from exiflang.inspection import picture as module
from exiflang.inspection.picture import open_picture
from exiflang.utils.images import ImageError, load_image

EXIF = {0x010F: "Canon", 0x0110: "EOS <b>7D</b>"}


def encoded(array=None, kind: str = "JPEG", exif: dict | None = None, sub: dict | None = None, **options) -> bytes:
    array = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8) if array is None else array
    image, file = Image.fromarray(array), io.BytesIO()
    block = Image.Exif()
    for code, value in (exif or {}).items():
        block[code] = value
    if sub:
        block.get_ifd(0x8769).update(sub)
    image.save(file, kind, **({"exif": block} if exif or sub else {}), **options)
    return file.getvalue()


def test_a_path_and_its_bytes_give_the_same_picture(tmp_path):
    data = encoded(exif=EXIF)
    (tmp_path / "a.jpg").write_bytes(data)
    by_path, by_bytes = open_picture(tmp_path / "a.jpg"), open_picture(data, "a.jpg")
    assert by_path.name == by_bytes.name == "a.jpg"
    assert by_path.sha256 == by_bytes.sha256 == hashlib.sha256(data).hexdigest()
    np.testing.assert_array_equal(by_path.image, by_bytes.image)
    assert by_path.tags == by_bytes.tags == {"Make": "Canon", "Model": "EOS <b>7D</b>"}
    assert (by_path.format, by_path.size, by_path.notes, by_path.hidden) == ("JPEG", len(data), (), 0)


def test_private_tags_are_counted_and_shown_only_on_request():
    data = encoded(exif=EXIF | {0x013B: "Jane Doe"}, sub={0xA431: "12345"})
    shy, open_ = open_picture(data), open_picture(data, private=True)
    assert shy.hidden == 2 and "Artist" not in shy.tags
    assert open_.hidden == 0 and open_.tags["Artist"] == "Jane Doe" and open_.tags["BodySerialNumber"] == "12345"


def test_damage_after_the_first_frame_is_noted():
    rng, file = np.random.default_rng(0), io.BytesIO()
    first, second = (Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)) for _ in range(2))
    first.save(file, "GIF", save_all=True, append_images=[second])
    data = file.getvalue()
    noted = [any("so their number is unknown" in note for note in open_picture(cut).notes) for cut in cuts(data)]
    assert any(noted) and not all(noted)


def cuts(data: bytes) -> Iterator[bytes]:
    """All prefixes of a file that contain its first frame."""
    for length in range(len(data)):
        with contextlib.suppress(ImageError):
            load_image(data[:length])
            yield data[:length]


@pytest.mark.parametrize("name", ["cut.gif", "float_pair.tif", "jpeg2000.tif", "no_size.tif"])
def test_pictures_whose_second_page_is_broken_are_read(shared, name):
    assert open_picture(shared / "cases" / "second_page" / name).image.size


def test_missing_exif_is_noted():
    assert "has no known EXIF" in open_picture(encoded(kind="PNG")).notes[0]


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_rotated_picture_is_shown_upright(orientation):
    found = open_picture(encoded(exif={0x0112: orientation}))
    assert found.image.shape == ((60, 40, 3) if orientation >= 5 else (40, 60, 3))
    assert any("upright" in note for note in found.notes)
    assert not any("upright" in note for note in open_picture(encoded(exif={0x0112: 1})).notes)


XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def segment(payload: bytes) -> bytes:
    """An APP1 segment of a JPEG."""
    return b"\xff\xe1" + (len(payload) + 2).to_bytes(2, "big") + payload


def chunk(kind: bytes, payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "big") + kind + payload + zlib.crc32(kind + payload).to_bytes(4, "big")


def orientations(*entries: tuple[int, int, bytes]) -> bytes:
    """An EXIF block that holds only Orientation entries, each with a type, a count and a value."""
    fields = b"".join(struct.pack("<HHI4s", 0x0112, kind, count, value) for kind, count, value in entries)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + fields + bytes(4)


def raw_profile(block: bytes, name: bytes = b"exif") -> bytes:
    """EXIF as ImageMagick and exiv2 write it into PNG."""
    return b"Raw profile type %s\0" % name + b"\n%s\n%8d\n%s\n" % (name, len(block), block.hex().encode())


def odd_places() -> dict[str, tuple[bytes, str]]:
    """Pictures with an orientation in unusual forms or places, applied or not -> the expected note."""
    jpeg, png, block = encoded(), encoded(kind="PNG"), orientations((3, 1, b"\6"))
    by_exif, by_xmp, not_applied = "according to its EXIF", "according to its XMP", "(right-top) was not applied"
    key, text = raw_profile(block).split(b"\0")
    compressed = key + b"\0\0" + zlib.compress(text)
    return {
        "XMP": (jpeg[:2] + segment(b"http://ns.adobe.com/xap/1.0/\0" + XMP) + jpeg[2:], by_xmp),
        "an empty segment first": (jpeg[:2] + segment(b"Exif\0\0") + segment(block) + jpeg[2:], by_exif),
        "BYTE": (jpeg[:2] + segment(orientations((1, 1, b"\6"))) + jpeg[2:], not_applied),
        "ASCII": (jpeg[:2] + segment(orientations((2, 2, b"6"))) + jpeg[2:], not_applied),
        "twice": (jpeg[:2] + segment(orientations((3, 1, b"\1"), (3, 1, b"\6"))) + jpeg[2:], not_applied),
        "raw profile": (png[:33] + chunk(b"tEXt", raw_profile(block)) + png[33:], by_exif),
        "compressed raw profile": (png[:33] + chunk(b"zTXt", compressed) + png[33:], by_exif),
        "older raw profile": (png[:33] + chunk(b"tEXt", raw_profile(block, b"APP1")) + png[33:], not_applied),
        "EXIF behind the pixels": (png[:-12] + chunk(b"eXIf", block[6:]) + png[-12:], by_exif),
        "TIFF": (encoded(kind="TIFF", exif={0x0112: 6}), by_exif),
        "compressed TIFF": (encoded(kind="TIFF", exif={0x0112: 6}, compression="tiff_lzw"), by_exif),
        "TIFF's XMP": (encoded(kind="TIFF", tiffinfo={700: XMP}), by_xmp),
        "WebP": (encoded(kind="WEBP", exif={0x0112: 6}), by_exif),
        "AVIF": (encoded(kind="AVIF", exif={0x0112: 6}), "according to its container"),
    }


@pytest.mark.parametrize("name", odd_places())
def test_notes_on_rotation_match_what_was_done(name):
    data, said = odd_places()[name]
    found = open_picture(data)
    turned = found.image.shape[:2] == (60, 40)
    assert (
        turned
        == any("shown and analyzed upright" in note for note in found.notes)
        == said.startswith("according to its")
    )
    assert any(said in note for note in found.notes)
    assert ("Orientation" in found.tags) == any("EXIF" in note for note in found.notes if said in note)
    assert bool(found.tags) != any("has no known EXIF" in note for note in found.notes)


def test_the_orientation_of_a_heif_container_overrides_its_exif():
    pytest.importorskip("pillow_heif").register_heif_opener()
    found = open_picture(encoded(kind="HEIF", exif={0x0112: 6}))
    assert found.tags["Orientation"] == "right-top" and "is ignored: the container of a HEIF file" in " ".join(
        found.notes
    )


@pytest.mark.parametrize("case", ["orientation", "png_raw_profile"])
def test_given_pictures_with_unusual_orientation(shared, case):
    for path in sorted((shared / "cases" / case).iterdir()):
        found = open_picture(path)
        with Image.open(path) as stored:
            turned = found.image.shape[:2] != (stored.height, stored.width)
        assert turned == any("shown and analyzed upright" in note for note in found.notes)
        assert bool(found.tags) != any("has no known EXIF" in note for note in found.notes)


@pytest.mark.parametrize(("said", "odd"), [((60, 40), False), ((40, 60), False), ((4000, 3000), True)])
def test_a_size_in_exif_that_differs_from_the_picture_is_noted(said, odd):
    found = open_picture(encoded(exif=EXIF, sub={0xA002: said[0], 0xA003: said[1]}))
    assert found.notes == ()
    findings = [finding for finding in found.file.findings if finding.rule == "size"]
    assert [finding.severity for finding in findings] == ["strong"] * odd
    assert all("EXIF states 4000 x 3000 pixels, but the picture has 60 x 40" in f.sentence for f in findings)


def test_the_first_frame_of_an_animation_is_used():
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue", "lime")]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    found = open_picture(file.getvalue())
    assert any("3 frames" in note for note in found.notes)
    assert tuple(found.image[0, 0]) == (255, 0, 0)


@pytest.mark.parametrize(("pages", "said"), [(3, "has 3 frames"), (999, "has 999 frames"), (50_000, "at least 1,000")])
def test_pages_of_a_tiff_are_counted_up_to_a_limit(pages, said):
    data = encoded(np.zeros((8, 8), np.uint8), "TIFF")
    at = struct.unpack("<I", data[4:8])[0]
    size = 2 + 12 * struct.unpack("<H", data[at : at + 2])[0]
    page, chained = data[at : at + size], bytearray(data)
    for _ in range(pages - 1):
        chained[at + size : at + size + 4] = struct.pack("<I", len(chained))
        at = len(chained)
        chained += page + bytes(4)
    began = time.process_time()
    assert said in " ".join(open_picture(bytes(chained)).notes)
    assert time.process_time() - began < 5


def test_cmyk_and_one_pixel_pictures():
    file = io.BytesIO()
    Image.new("CMYK", (5, 4)).save(file, "JPEG")
    assert open_picture(file.getvalue()).image.shape == (4, 5, 3)
    assert open_picture(encoded(np.zeros((1, 1, 3), np.uint8), "PNG")).image.shape == (1, 1, 3)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (encoded(kind="JPEG2000"), "EXIF cannot be read: EXIF of JPEG 2000 is not looked for"),
        (encoded(kind="TIFF", big_tiff=True), "EXIF cannot be read: EXIF of BigTIFF is not looked for"),
        (encoded(kind="PPM"), "has no known EXIF"),
        (encoded(kind="BMP"), "has no known EXIF"),
    ],
)
def test_formats_whose_exif_is_not_read_get_the_true_reason(data, said):
    found = open_picture(data)
    assert len(found.notes) == 1 and said in found.notes[0] and "leave the file out" not in found.notes[0]


def test_skipped_metadata_is_noted():
    png = encoded(kind="PNG")
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(1_500_000)))
    notes = " ".join(open_picture(png[:33] + text + png[33:]).notes)
    assert "too large to read and were skipped" in notes and "frames" not in notes
    assert "skipped" not in " ".join(open_picture(png).notes)


@pytest.mark.parametrize("fault", [ZeroDivisionError, RecursionError, MemoryError, KeyError, OSError])
@pytest.mark.parametrize(
    ("reader", "said"),
    [
        ("exifread.process_file", "Its EXIF cannot be read"),
        ("jpeglib.read_dct", "Its JPEG coefficients cannot be read"),
        ("PIL.JpegImagePlugin.JpegImageFile.n_frames", "so their number is unknown"),
    ],
)
def test_failures_that_do_not_affect_pixels_become_notes(monkeypatch, reader, said, fault):
    def fail(*arguments, **options):
        raise fault("of a damaged file")

    data = encoded(exif=EXIF)
    monkeypatch.setattr(reader, property(fail) if reader.endswith("n_frames") else fail, raising=False)
    found = open_picture(data)
    assert found.image.shape == (40, 60, 3) and said in " ".join(found.notes)


def test_broken_exif_is_noted_and_the_pixels_are_shown():
    data = bytearray(encoded(exif=EXIF))
    place = data.index(b"Exif\0\0") + 6
    data[place : place + 2] = b"XX"
    found = open_picture(bytes(data))
    assert found.image.shape == (40, 60, 3) and found.tags == {}
    assert len(found.notes) == 1 and "EXIF cannot be read" in found.notes[0]


@pytest.mark.parametrize("data", [b"", b"text", encoded()[:200], encoded(kind="PNG")[:100]])
def test_the_error_names_a_file_that_is_not_a_picture(data, tmp_path):
    with pytest.raises(ImageError, match=r"^broken.jpg: "):
        open_picture(data, "broken.jpg")
    (tmp_path / "broken.jpg").write_bytes(data)
    with pytest.raises(ImageError, match=r"^broken.jpg: "):
        open_picture(tmp_path / "broken.jpg")


def test_missing_files_folders_and_too_large_files_are_refused(tmp_path, monkeypatch):
    for path in (tmp_path / "none.jpg", tmp_path):
        with pytest.raises(ImageError, match="no such file"):
            open_picture(path)
    (tmp_path / "a.jpg").write_bytes(encoded())
    monkeypatch.setattr(module, "MOST_BYTES", 100)
    with pytest.raises(ImageError, match="larger than 0 MB"):
        open_picture(tmp_path / "a.jpg")


def test_a_hostile_name_becomes_one_printable_line():
    name = open_picture(encoded(), "a\n\x1b[31m" + "b" * 5000 + ".jpg").name
    assert name.isprintable() and len(name) <= 200


HEIC = b"\0\0\0\x1cftypheic" + bytes(100)
HEVC_BRANDS = [b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"]


@pytest.mark.parametrize("brand", HEVC_BRANDS)
def test_the_error_for_heic_without_its_plugin_says_what_to_install(monkeypatch, brand):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError, match=r"a.heic: HEIC needs a plugin: .*pip install .exiflang\[heif\]"):
        open_picture(HEIC.replace(b"heic", brand), "a.heic")


@pytest.mark.parametrize("brand", HEVC_BRANDS)
def test_heif_with_any_brand_is_read_with_its_exif(brand):
    pytest.importorskip("pillow_heif").register_heif_opener()
    data = encoded(kind="HEIF", exif=EXIF)
    found = open_picture(data[:8] + brand + b"\0\0\0\1" + data[16:])
    assert found.image.shape == (40, 60, 3) and found.tags["Make"] == "Canon" and found.format == "HEIF"


@pytest.mark.parametrize(("brand", "frames"), [(b"avif", 1), (b"mif1", 1), (b"avis", 2), (b"msf1", 2)])
def test_avif_with_any_brand_is_read_without_the_plugin(monkeypatch, brand, frames):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    second = [Image.new("RGB", (60, 40))] * (frames - 1)
    data = encoded(kind="AVIF", exif=EXIF, save_all=True, append_images=second)
    found = open_picture(data[:8] + brand + data[12:])
    assert found.image.shape == (40, 60, 3) and found.tags["Make"] == "Canon" and found.format == "AVIF"
    assert any("2 frames" in note for note in found.notes) == (frames == 2)


def test_heic_is_read_by_its_plugin_if_installed(monkeypatch):
    asked = []
    plugin = types.SimpleNamespace(register_heif_opener=lambda: asked.append(1))
    monkeypatch.setitem(sys.modules, "pillow_heif", plugin)
    with pytest.raises(ImageError, match="not a picture"):  # this plugin does not read anything
        open_picture(HEIC, "a.heic")
    assert asked


def test_real_broken_files_are_opened_or_named_in_an_error(shared):
    for path in sorted((shared / "badfiles").iterdir()):
        try:
            assert open_picture(path).image.ndim == 3
        except ImageError as error:
            assert str(error).startswith(path.name)
