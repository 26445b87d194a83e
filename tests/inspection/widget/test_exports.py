"""Exports of an inspection: pictures, arrays and files."""

import numpy as np
import pytest
from PIL import Image

from exiflang.inspection.widget.exports import save_arrays, save_picture, shown_picture
from tests.inspection.by_hand import decided
from tests.inspection.test_views import inspected
from tests.localization.test_localizer import pasted


@pytest.fixture(scope="module")
def inspection():
    return inspected(pasted()[0])


MARKS = {"A": (1, 2), "B": None}


def test_the_picture_shows_both_views(inspection):
    clear = shown_picture(inspection, ("heatmap", "mask"), 2.0, 0.0, MARKS, False)
    assert clear.width > 2 * 400
    pixels = np.asarray(clear)
    bare = inspection.picture.image
    assert (
        np.abs(pixels[250:300, :200].astype(int) - bare[250:300, :200]) == 0
    ).mean() > 0.95  # opacity 0 shows the picture
    full = np.asarray(shown_picture(inspection, ("heatmap", "mask"), 2.0, 1.0, MARKS, False))
    assert (full[250:300, -300:] == 0).mean() > 0.9  # nothing above the threshold: a black mask


def test_unreliable_areas_of_a_heatmap_are_hatched_on_request():
    flat = inspected(np.zeros((300, 400, 3), np.uint8))
    for view, changed in (("heatmap", True), ("mask", False)):
        plain, hatched = (shown_picture(flat, [view], 2.0, 0.5, MARKS, lines) for lines in (False, True))
        assert (np.asarray(plain) != np.asarray(hatched)).any() == changed


def test_the_exported_mask_is_that_of_the_regions(tmp_path):
    found = decided(pasted()[0])
    with np.load(save_arrays(found, tmp_path, 0.5)) as saved:
        np.testing.assert_array_equal(saved["mask"], found.result.mask)


def test_exported_arrays_are_those_of_the_result(inspection, tmp_path):
    path = save_arrays(inspection, tmp_path / "a" / "b", 0.4)
    with np.load(path) as found:
        assert set(found) == {"heatmap", "raw", "reliability", "embeddings", "pca", "consistency", "window_size",
                              "stride", "score", "mask", "threshold", *inspection.result.evidence.maps}  # fmt: skip
        np.testing.assert_array_equal(found["heatmap"], inspection.result.heatmap)
        np.testing.assert_array_equal(found["mask"], inspection.result.heatmap > 0.4)
        assert found["score"] == inspection.result.score and found["threshold"] == 0.4
        assert "misfit" not in found  # the picture has no EXIF
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_files_are_named_after_picture_and_content_and_can_be_overwritten(inspection, tmp_path):
    for _ in range(2):
        path = save_picture(inspection, tmp_path, ("heatmap", "components"), 0.5, 0.5, MARKS, True)
    assert path.name == f"a-{inspection.picture.sha256[:8]}.png"
    with Image.open(path) as picture:
        assert picture.format == "PNG"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_picture_of_one_pixel_is_exported(tmp_path):
    tiny = inspected(np.zeros((1, 1, 3), np.uint8))
    assert shown_picture(tiny, ("heatmap", "similarity"), 0.5, 0.5, {"A": (0, 0), "B": (0, 0)}, True).width >= 600
    save_arrays(tiny, tmp_path, 0.5)
