"""Raw files made on the spot: LibRaw shows the scene, and does no harm to the process that asks."""

import io
import signal
import sys
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from exiflang.inspection.picture import open_picture
from exiflang.preparation.tiles import cut_tiles
from exiflang.utils import develop_raw, images
from exiflang.utils.develop_raw import RawError, RawSizeError, develop
from exiflang.utils.images import ImageError, count_frames, decode_image, load_image
from tests import fuzzing
from tests.dng import dng

BROKEN_FOLDER = {"t330": (4, 9)}


def scene() -> np.ndarray:
    """Linear light [64, 96, 3]: red at the top left, gray from dark to light below."""
    light = np.full((64, 96, 3), 0.02)
    light[:32, :48] = (0.6, 0.1, 0.1)
    light[32:] = np.linspace(0, 1, 96)[:, None]
    return light


def srgb(light: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1."""
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 1e-9) ** (1 / 2.4) - 0.055)


def test_a_raw_file_shows_its_scene(tmp_path):
    path = tmp_path / "a.dng"
    path.write_bytes(dng(scene()))
    found, expected = decode_image(path), srgb(scene())
    assert found.format == "RAW" and found.turn is None and not found.bare
    assert found.pixels.shape == (64, 96, 3) and found.pixels.dtype == np.uint8 and found.pixels.flags.c_contiguous
    for part in (np.s_[4:28, 4:44], np.s_[4:28, 52:92], np.s_[36:60, 4:92]):  # away from the edges
        np.testing.assert_allclose(found.pixels[part], expected[part], atol=4)
    np.testing.assert_array_equal(load_image(path.read_bytes()), found.pixels)
    assert count_frames(path.read_bytes()) == 1


@pytest.mark.parametrize("neutral", [(0.5, 1.0, 0.625), (1.0, 0.5, 0.5)])
def test_the_white_balance_of_the_camera_makes_gray_gray(neutral):
    gray = load_image(dng(np.full((48, 64, 3), 0.2), neutral))[8:-8, 8:-8].astype(int)
    assert np.ptp(gray, axis=2).max() <= 3


@pytest.mark.parametrize(("orientation", "quarters"), [(1, 0), (3, 2), (6, -1), (8, 1)])
def test_a_turned_raw_file_is_upright(orientation, quarters):
    found, stored = load_image(dng(scene(), t274=(3, orientation))), load_image(dng(scene()))
    np.testing.assert_array_equal(found, np.rot90(stored, quarters))


def test_a_raw_file_without_color_filters_is_gray():
    found = load_image(dng(scene(), t262=(3, 34892)))
    assert found.shape == (64, 96, 3) and not np.ptp(found, axis=2).any()


def test_a_report_says_that_it_was_developed():
    size = {0xA002: 100, 0xA003: 70}  # of the whole sensor, say
    found = open_picture(dng(scene(), t274=(3, 6), t34665=size), "a.dng")
    notes = " ".join(found.notes)
    assert found.format == "RAW" and found.image.shape == (96, 64, 3) and found.history is None
    assert found.tags["Make"] == "Maker" and found.tags["PixelXDimension"] == "100"
    assert "A camera's raw file, developed by LibRaw 0." in notes and "(right-top) was left to LibRaw" in notes
    assert len(found.notes) == 2


@pytest.mark.parametrize("tags", [BROKEN_FOLDER, BROKEN_FOLDER | {"t262": (3, 2), "t277": (3, 3)}])
def test_a_thumbnail_is_never_taken_for_the_picture(tags):
    with pytest.raises(ImageError, match="LibRaw does not read it"):
        load_image(dng(scene(), t254=(4, 1), **tags))


@pytest.mark.parametrize("length", [600, 2000, -100])
def test_a_damaged_raw_file_is_named(length, tmp_path):
    path = tmp_path / "a.dng"
    path.write_bytes(dng(scene())[:length])
    with pytest.raises(ImageError, match=r"a.dng: a camera's raw file.*, but LibRaw does not read it \(.+\); develop"):
        load_image(path)


def test_size_is_checked_before_pixels_are_read():
    many = dng(scene(), t256=(4, 20_000), t257=(4, 20_000), t278=(4, 20_000))
    with pytest.raises(ImageError, match="more than 178,956,970 pixels"):
        load_image(many)
    few = dng(scene(), t256=(4, 6000), t257=(4, 5000), t278=(4, 5000))
    with pytest.raises(ImageError, match=r"declares 6,000 x 5,000 pixels in \d+,\d+ bytes: damaged, empty"):
        load_image(few)
    with pytest.raises(RawSizeError):
        develop(dng(scene()), 64 * 96 - 1)


HARM = {
    "import os; os.kill(os.getpid(), 11)": "crashed: damaged",
    "pass": "crashed: damaged",
    "print('P' * 12)": "declares|more than",
    f"import os; os.kill(os.getpid(), {signal.SIGXCPU:d})": "stopped: more than 300 seconds",
}


@pytest.mark.parametrize("code", HARM)
@pytest.mark.parametrize("by_path", [True, False])
def test_a_crash_costs_only_that_file(code, by_path, monkeypatch, tmp_path):
    (tmp_path / "harm.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(develop_raw, "_MODULE", "harm")
    data = dng(scene())
    (tmp_path / "a.dng").write_bytes(data)
    with pytest.raises(ImageError, match=HARM[code]):
        load_image(tmp_path / "a.dng" if by_path else data)


def test_mutated_raw_files_give_a_picture_or_an_image_error():
    seeds = [dng(scene()), dng(scene(), t262=(3, 34892)), dng(scene(), t274=(3, 6), t34665={0x829A: 0.01})]
    outcomes = Counter(
        fuzzing.judge(fuzzing.mutated(seeds[i % 3], np.random.default_rng(i), 0, 700), {"picture": fuzzing.look})
        for i in range(60)
    )
    assert set(outcomes) == {"picture fine", "picture refused"} and min(outcomes.values()) >= 10


def test_memory_is_limited(monkeypatch):
    monkeypatch.setattr(develop_raw, "MOST_BYTES", 160 << 20)
    large = dng(np.zeros((4000, 4000, 3), np.float32))
    with pytest.raises(RawError):
        develop(large, images.MAX_PIXELS)


def test_without_rawpy_both_ways_out_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "rawpy", None)
    with pytest.raises(ImageError, match=r"^a.dng: a camera's raw file \(DNG\); .*exiflang\[raw\].*, or develop it"):
        open_picture(dng(scene()), "a.dng")


def test_no_tiles_are_cut_from_a_raw_file():
    with pytest.raises(ImageError, match=r"^a.dng: a camera's raw file \(DNG\); data sets take the JPEG"):
        cut_tiles(dng(scene()), 1, 32, np.random.default_rng(0), "a.dng")


def test_a_developed_copy_is_no_raw_file():
    file = io.BytesIO()
    Image.fromarray(load_image(dng(scene()))).save(file, "TIFF")
    assert decode_image(file.getvalue()).format == "TIFF"
