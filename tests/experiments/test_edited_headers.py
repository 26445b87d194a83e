"""The measurement of header checks on edited photos, and what it found."""

import io
import json
import tarfile

import pytest
from PIL import Image

from exiflang.headers.encoders import read_signatures
from exiflang.headers.jpeg_header import JpegHeader
from exiflang.pipeline.parameters import project_path
from exiflang.utils.dct import standard_tables
from experiments.edited_headers import Saved, count_signatures, false_names, markdown, rate, read_saved
from experiments.header_edits import exif_segment, with_exif

ODD = tuple(range(1, 65))


def photo(number: int, camera: str, software: str = "", original: bool = False, step: int = 0) -> Saved:
    tags = {"Make": "Maker", "Model": camera, "Software": software, "DateTimeOriginal": "2012:03:04 05:06:07"}
    table = tuple(value + step for value in ODD)
    return Saved(f"{number:08x}", original, tags, JpegHeader((table, table), "2x2:0 1x1:1 1x1:1", 64, 48))


EDITED = [photo(number, f"M{number % 2}", "GIMP 2.10.6") for number in range(3)]


def test_an_encoding_belongs_to_an_editor_with_enough_photos_of_enough_cameras():
    own = [photo(9, "M9", original=True, step=5)]
    [(encoding, editors)] = count_signatures(EDITED + own)["encodings"].items()
    assert encoding == EDITED[0].header.encoding and editors == {"GIMP": [3, 2]}
    assert not count_signatures(EDITED[:2])["encodings"]
    assert not count_signatures([*EDITED[:2], photo(2, "M0", "Firmware 1.0")])["encodings"]
    assert not count_signatures([EDITED[0], EDITED[2], EDITED[0]])["encodings"]  # one camera model


def test_what_a_camera_wrote_belongs_to_no_editor():
    known = count_signatures([*EDITED, photo(9, "M9", original=True)])
    assert known == {"camera_photos": 1, "of_libjpeg": 0, "encodings": {}}


def test_false_names_are_counted_without_the_own_camera():
    photos = [*EDITED, photo(9, "M9", original=True), photo(10, "M8", original=True, step=3)]
    found = {row["years"]: row for row in false_names(photos)}
    assert set(found) == {"2010 to 2014", "all"}
    assert found["all"]["files"] == 2 and found["all"]["found"] == 1


def test_a_rate_has_its_limits():
    found = rate(1, 20)
    assert found["low"] == pytest.approx(0.00127, abs=1e-4) and found["high"] == pytest.approx(0.2487, abs=1e-4)
    assert rate(0, 0) == {"found": 0, "files": 0, "low": 0.0, "high": 1.0}


def test_photos_are_read_once_with_tables_sampling_and_tags(tmp_path):
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG", quality=90)
    exif = {"Image Make": "Maker", "Image Model": "M1", "EXIF DateTimeOriginal": "2012:03:04 05:06:07"}
    meta = {"photo": "0123456789abcdef", "camera_original": True, "original_width": 640, "original_height": 480}
    with tarfile.open(tmp_path / "00000.tar", "w") as tar:
        for key in ("a", "b"):
            for name, data in ((f"{key}.jpg", file.getvalue()), (f"{key}.json", meta | {"exif": json.dumps(exif)})):
                content = data if isinstance(data, bytes) else json.dumps(data).encode()
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    [saved] = read_saved([tmp_path / "00000.tar"])
    assert (saved.key, saved.camera, saved.year, saved.original) == ("01234567", "makerm1", 2012, True)
    assert saved.header.tables == standard_tables(90) and saved.header.width == 640
    assert saved.header.huffman is None and saved.header.tags


def test_the_exif_segment_moves_between_files():
    files = []
    for model in ("A", "B"):
        exif, file = Image.Exif(), io.BytesIO()
        exif[0x0110] = model
        Image.new("RGB", (16, 16)).save(file, "JPEG", exif=exif)
        files.append(file.getvalue())
    first, second = files
    segment = exif_segment(second)
    assert segment and exif_segment(with_exif(first, segment)) == segment
    plain = with_exif(first, b"")
    assert exif_segment(plain) is None and exif_segment(with_exif(plain, segment)) == segment


def test_the_golden_file_holds_what_was_aimed_at():
    golden = json.loads(project_path("reports/golden/edited_headers.json").read_text(encoding="utf-8"))
    for kind, found in golden["edits"].items():
        if found["program"] in ("ImageMagick", "GIMP", "Pillow") and kind not in (
            "Pillow, optimized",
            "Pillow, progressive",
        ):
            assert found["named"]["found"] >= 0.9 * found["named"]["files"] > 0, kind
    assert golden["signatures"]["camera_photos"] == read_signatures()["camera_photos"]
    [every] = [row for row in golden["false names"] if row["years"] == "all"]
    assert every["high"] < 0.01
    assert "GIMP, 98" in markdown(golden)
