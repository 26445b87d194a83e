"""Authentic pictures of each kind, and the calibration of a readout on them."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from exiflang.evaluation.baselines import MeanColor
from exiflang.localization.decision import KINDS, LARGE, picture_kind
from exiflang.localization.evidence import gather_evidence, read_history
from exiflang.localization.learned_readout import LearnedReadout
from exiflang.localization.localizer import SpliceLocalizer
from exiflang.release.authentic_records import QUALITIES, authentic_calibration, picture_of_kind
from exiflang.simulation.composites import encode_picture
from exiflang.utils.images import load_image


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    soft = gaussian_filter(np.random.default_rng(seed).normal(0, 60, (height // 4 + 1, width // 4 + 1)), 1)
    gray = np.clip(128 + soft, 0, 255).astype(np.uint8).repeat(4, 0).repeat(4, 1)[:height, :width]
    return np.repeat(gray[..., None], 3, axis=2)


def kind_of(data: bytes) -> str:
    """The kind according to the size of the picture and the quantization steps of its file."""
    image = load_image(data)
    return picture_kind(*image.shape[:2], gather_evidence(image[:8, :8], read_history(data), 8, 8))


def localizer(learned: bool = True) -> SpliceLocalizer:
    torch.manual_seed(0)
    made = SpliceLocalizer(MeanColor(), windows_per_side=6)
    made.learned = LearnedReadout(8, 1).eval() if learned else None
    return made


# Pictures


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("height, width", [(800, 1100), (1100, 800), (768, 1024), (500, 720)])
def test_pictures_have_the_requested_kind(kind, height, width):
    for seed in range(4):
        data = picture_of_kind(photo(height, width), kind, np.random.default_rng(seed))
        assert kind_of(data) == kind
        made = load_image(data)
        assert (made.shape[0] > made.shape[1]) == (height > width) and max(made.shape) <= 1024


@pytest.mark.parametrize("file", QUALITIES)
def test_each_quality_belongs_to_its_kind(file):
    for quality in range(*QUALITIES[file]):
        assert kind_of(encode_picture(photo(16, 16), f"jpeg{quality}")) == f"small, {file}"


@pytest.mark.parametrize("height, width", [(300, 400), (1, 1), (200, 3000), (64, 9000)])
def test_small_photos_give_no_large_pictures(height, width):
    for seed in range(4):
        for kind in KINDS:
            data = picture_of_kind(photo(height, width), kind, np.random.default_rng(seed))
            assert (data is None) == kind.startswith("large")
            assert data is None or kind_of(data) == kind


def test_a_photo_that_is_just_large_enough():
    side = int(np.ceil(np.sqrt(LARGE)))
    for seed in range(6):
        data = picture_of_kind(photo(side, side), KINDS[0], np.random.default_rng(seed))
        # Reduced, or cropped to 4 : 3 of 1024 pixels, it may be too small, but never of another kind.
        assert data is None or kind_of(data) == KINDS[0]


def test_half_of_the_pictures_are_cropped_on_the_grid_of_the_photo():
    image = photo(800, 1100)
    image[..., 0], image[..., 1] = np.indices((800, 1100)) % 251  # which reveals the original position of a pixel
    cuts = 0
    for seed in range(12):
        made = load_image(picture_of_kind(image, "small, no JPEG", np.random.default_rng(seed)))
        if (np.diff(made[:9, 0, 0].astype(int)) % 251 == 1).all() and (made[0, :, 0] == made[0, 0, 0]).all():
            cuts += 1
            corners = [
                (top, left)
                for top in range(int(made[0, 0, 0]), 800, 251)
                for left in range(int(made[0, 0, 1]), 1100, 251)
                if top % 16 == left % 16 == 0
                and np.array_equal(image[top : top + made.shape[0], left : left + made.shape[1]], made)
            ]
            assert len(corners) == 1
    assert 2 < cuts < 10


def test_a_picture_depends_only_on_the_random_numbers():
    first, second = (picture_of_kind(photo(400, 500), KINDS[-1], np.random.default_rng(3)) for _ in range(2))
    assert first == second != picture_of_kind(photo(400, 500), KINDS[-1], np.random.default_rng(4))


# The calibration


@pytest.fixture(scope="module")
def albums() -> list[tuple[str, np.ndarray, Path | None]]:
    photos = (photo(600, 800, 0), photo(300, 400, 1), photo(300, 300, 2))
    return list(zip(("Canon", "Nikon", "Canon"), photos, (None, None, None), strict=True))


def test_each_photo_is_used_once_in_each_kind_that_its_size_allows(albums):
    calibration = authentic_calibration(localizer(), albums)
    assert set(calibration.records) == set(KINDS)
    for kind, records in calibration.records.items():
        expected = ["Canon"] if kind.startswith("large") else ["Canon", "Nikon", "Canon"]
        assert [record.camera for record in records] == expected
        assert all(np.isfinite(record.peak) for record in records)


def test_records_are_the_scores_of_the_readout(albums):
    own = localizer()
    own.readout = "learned"
    calibration = authentic_calibration(own, albums[1:2])
    for place, kind in enumerate(KINDS):
        data = picture_of_kind(albums[1][1], kind, np.random.default_rng([0xAC, 0, place]))
        if data is None:
            assert calibration.records[kind] == []
            continue
        (record,) = calibration.records[kind]
        seen = own.observe(load_image(data), read_history(data), calibrated=True)
        values, score = own.values(seen, "learned")
        assert record.peak == score == float(values.max())


def test_every_other_file_is_used_unchanged_in_its_own_kind(albums, tmp_path):
    file = tmp_path / "camera.jpg"
    file.write_bytes(encode_picture(albums[0][1], "jpeg95"))
    photos = [("Canon", load_image(file), file), ("Nikon", load_image(file), file)]
    own = localizer()
    untouched = own.observe(load_image(file), read_history(file), calibrated=True)
    score = own.values(untouched, "learned")[1]
    records = authentic_calibration(own, photos).records
    assert all([record.camera for record in found] == ["Canon", "Nikon"] for found in records.values())
    assert {kind for kind, found in records.items() if found[0].peak == score} == {"large, fine JPEG"}
    assert all(found[1].peak != score for found in records.values())


def test_the_calibration_is_reproducible(albums):
    first, second = (authentic_calibration(localizer(), iter(albums[1:])).to_dict() for _ in range(2))
    assert first == second


def test_without_photos_nothing_is_calibrated():
    calibration = authentic_calibration(localizer(), [])
    assert calibration.nearest(KINDS[0]) is None


def test_calibrating_without_a_learned_readout_is_an_error(albums):
    with pytest.raises(ValueError, match="no learned readout to calibrate: train one first"):
        authentic_calibration(localizer(learned=False), albums)


def test_uncompressed_photos_stay_uncompressed():
    data = picture_of_kind(photo(400, 500), "small, no JPEG", np.random.default_rng(0))
    assert Image.open(io.BytesIO(data)).format == "PNG" and read_history(data) is None
