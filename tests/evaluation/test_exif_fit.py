"""A photo's own sentence against those of other cameras: embeddings with known results, and plain loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exiflang.data.shards import Photo
from exiflang.evaluation.retrieval import exif_fit
from tests.evaluation.test_retrieval import photos_of, unit


def by_loops(image, text, photos) -> tuple[float, float, int]:
    """Pooled and mean AUC: the share of pairs (own, other) in the right order, ties count half; number of negatives."""
    similarity = image @ text.T
    n = len(photos)
    pairs = [[similarity[i, j] for j in range(n) if photos[i].camera != photos[j].camera] for i in range(n)]
    others = [value for row in pairs for value in row]
    pooled = np.mean([(similarity[i, i] > o) + 0.5 * (similarity[i, i] == o) for i in range(n) for o in others])
    each = [np.mean([(similarity[i, i] > o) + 0.5 * (similarity[i, i] == o) for o in pairs[i]]) for i in range(n)]
    return pooled, np.mean(each), len(others)


@pytest.mark.parametrize(("count", "per_camera"), [(2, 1), (7, 3), (20, 4), (12, 11)])
@pytest.mark.parametrize("levels", [None, 3])
def test_auc_equals_the_loop_over_pairs(count, per_camera, levels):
    image, text, photos = unit(count, 4, 0), unit(count, 4, 1), photos_of(count, per_camera)
    if levels:  # coarse: many ties
        image, text = np.round(image * levels), np.round(text * levels)
    found = exif_fit(image, text, photos)
    auc, macro, negatives = by_loops(image, text, photos)
    assert (found["auc"], found["macro"]) == pytest.approx((auc, macro))
    assert found["negatives"] == negatives and found["photos"] == count
    assert found["cameras"] == -(-count // per_camera)


@given(st.lists(st.integers(0, 3), min_size=2, max_size=8), st.data())
def test_auc_with_any_cameras_and_ties(cameras, data):
    if len(set(cameras)) < 2:
        cameras = [*cameras, 4]
    photos = [Photo(str(i), {"Make": "A", "Model": str(camera)}, []) for i, camera in enumerate(cameras)]
    values = st.lists(st.integers(-2, 2), min_size=len(photos), max_size=len(photos))
    text = np.array([data.draw(values) for _ in photos], np.float32)
    image = np.eye(len(photos), dtype=np.float32)
    found = exif_fit(image, text, photos)
    assert (found["auc"], found["macro"], found["negatives"]) == pytest.approx(by_loops(image, text, photos))


def test_perfect_random_constant_and_opposite_embeddings():
    photos, good = photos_of(60), unit(60, 32, 0)
    assert exif_fit(good, good, photos) == {"auc": 1, "macro": 1, "photos": 60, "cameras": 15, "negatives": 60 * 56}
    assert exif_fit(good, unit(60, 32, 1), photos)["auc"] == pytest.approx(0.5, abs=0.15)
    constant = np.full((60, 4), 0.5, np.float32)
    assert exif_fit(constant, constant, photos)["auc"] == exif_fit(constant, constant, photos)["macro"] == 0.5
    assert exif_fit(good, -good, photos)["auc"] == 0


def test_sentences_of_the_same_camera_are_not_negatives():
    """Embeddings that encode only the camera are perfect by this measure, and by no other."""
    cameras = np.repeat(unit(15, 32, 0), 4, axis=0)
    assert exif_fit(cameras, cameras, photos_of(60))["auc"] == 1


def test_an_offset_per_photo_lowers_only_the_pooled_auc():
    image, photos = np.eye(4, dtype=np.float32), photos_of(4, 1)
    similarity = 2 * np.arange(4)[:, None] + np.eye(4)  # photo i is at 2 i from every sentence, its own one nearer
    found = exif_fit(image, similarity.T.astype(np.float32), photos)
    assert found["macro"] == 1 and found["auc"] == pytest.approx((3 + 6 + 9 + 12) / 48)


def test_two_spellings_of_a_camera_count_as_one():
    photos = [
        Photo("0", {"Make": "SONY", "Model": "DSC-W1"}, []),
        Photo("1", {"Make": "Sony", "Model": "DSC W1"}, []),
        Photo("2", {"Make": "Canon", "Model": "1"}, []),
    ]
    found = exif_fit(unit(3, 4, 0), unit(3, 4, 1), photos)
    assert (found["cameras"], found["negatives"]) == (2, 4)
    with pytest.raises(ValueError, match="all 2 photos are from one camera: give photos from two or more"):
        exif_fit(unit(2, 4, 0), unit(2, 4, 1), photos[:2])


def test_mismatched_embeddings_are_refused():
    good = unit(3, 4, 0)
    with pytest.raises(ValueError, match="embeddings of 0 images and 0 sentences for 0 photos"):
        exif_fit(good[:0], good[:0], [])
    with pytest.raises(ValueError, match="embeddings of 3 images and 2 sentences for 3 photos"):
        exif_fit(good, good[:2], photos_of(3, 1))
    with pytest.raises(ValueError, match="NaN"):
        exif_fit(good * np.nan, good, photos_of(3, 1))
    with pytest.raises(ValueError, match="all 1 photos are from one camera"):
        exif_fit(good[:1], good[:1], photos_of(1))
