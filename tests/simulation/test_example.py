"""The example composite: reproducible, with EXIF, and the packaged weights find the cat."""

import numpy as np
from PIL import Image
from sklearn.metrics import average_precision_score

from exiflang.exif.reader import read_exif
from exiflang.inspection.inspector import Inspector
from exiflang.simulation.example import example_mask, example_picture


def test_the_example_is_a_reproducible_photo_with_exif(tmp_path):
    first, second = example_picture(tmp_path / "a" / "b"), example_picture(tmp_path)
    assert first.read_bytes() == second.read_bytes()
    assert read_exif(first)["Make"]
    with Image.open(first) as picture:
        assert picture.size == example_mask().shape[::-1]
    assert 0.05 < example_mask().mean() < 0.25


def test_the_packaged_weights_find_the_cat(tmp_path):
    found = Inspector()(example_picture(tmp_path))
    assert found.calibrated and found.picture.notes == ()
    assert average_precision_score(example_mask().ravel(), found.result.heatmap.ravel()) > 0.9
    inside = found.result.mask & example_mask()
    assert inside.sum() / (found.result.mask | example_mask()).sum() > 0.5
    assert found.fit is not None and np.isfinite(found.fit.percentile)
