"""The EXIF's thumbnail: how it is read, and what it shows of the picture."""

import numpy as np
import pytest
from PIL import Image

from exiflang.headers.facts import Facts
from exiflang.headers.rules import RULES, apply
from exiflang.headers.thumbnail import MOST_PIXELS, match_thumbnail, read_thumbnail
from exiflang.utils.images import decode_image
from tests.headers.made import exif_block, jpeg, scene

RULE = {rule.name: rule for rule in RULES}


def scaled(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((width, height)))


def said(picture: np.ndarray, thumbnail: np.ndarray, **tags) -> dict[str, str | None]:
    photo = jpeg(picture, quality=90, exif=exif_block(tags or {"Make": "A"}, jpeg(thumbnail, quality=85)))
    facts = Facts.of_file(photo, decode_image(photo).pixels)
    return {name: text for name in RULE if name.startswith("thumbnail_") and (text := apply(RULE[name], facts))}


def test_a_thumbnail_is_turned_like_the_picture():
    stored = jpeg(scene(48, 64, 3), quality=95)
    for orientation, turned in ((1, (48, 64)), (6, (64, 48)), (3, (48, 64))):
        photo = jpeg(scene(), exif=exif_block({"Orientation": orientation}, stored))
        found = read_thumbnail(photo)
        assert found is not None and found.dtype == np.uint8 and found.shape == (*turned, 3)
        assert match_thumbnail(found, decode_image(photo).pixels) is not None


LARGE = jpeg(np.zeros((2100, 2000), np.uint8), quality=1, optimize=True)


@pytest.mark.parametrize("stored", [b"", b"\xff\xd8\xff\xd9", jpeg(scene(32, 32))[:200], LARGE, b"GIF89a" * 9])
def test_a_thumbnail_that_cannot_be_read_or_is_too_large_is_none(stored):
    assert 2100 * 2000 > MOST_PIXELS
    photo = jpeg(scene(), exif=exif_block({"Make": "A"}, stored))
    assert read_thumbnail(photo) is None
    assert apply(RULE["thumbnail_other"], Facts.of_file(photo, scene())) is None
    assert read_thumbnail(b"no picture") is None


@pytest.mark.parametrize("size", [(480, 640), (640, 480), (400, 600), (360, 640)])
def test_a_thumbnail_of_the_picture_is_no_finding(size):
    picture = scene(*size)
    height, width = size
    assert said(picture, scaled(picture, round(120 * width / height), 120)) == {}
    if width > height:  # with bars, or the middle alone
        bars = np.zeros((120, 160, 3), np.uint8)
        inside = round(160 * height / width)
        bars[(120 - inside) // 2 :][:inside] = scaled(picture, 160, inside)
        assert said(picture, bars) == {}
        across = round(height * 4 / 3)
        assert said(picture, scaled(picture[:, (width - across) // 2 :][:, :across], 160, 120)) == {}


@pytest.mark.parametrize("share", [0.45, 0.6, 0.8])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_crop_is_found_with_its_size(share, seed):
    whole = scene(480, 640, seed)
    height, width = round(480 * share), round(640 * share)
    top, left = (480 - height) // 3, (640 - width) // 4
    found = said(whole[top : top + height, left : left + width], scaled(whole, 160, 120))
    assert set(found) == {"thumbnail_part"}
    numbers = [int(word.rstrip("%")) for word in found["thumbnail_part"].split() if word.endswith("%")]
    assert len(numbers) == 2 and all(abs(number - 100 * share) <= 4 for number in numbers)


def test_an_older_picture_is_found():
    for seed in range(4):
        assert set(said(scene(480, 640, seed), scaled(scene(480, 640, 40 + seed), 160, 120))) == {"thumbnail_other"}


def test_a_change_in_one_place_is_found():
    whole = scene(480, 640)
    changed = whole.copy()
    changed[100:260, 200:400] = 255 - scene(160, 200, 9)
    changed[100:260, 200:400, :] = np.where(changed[100:260, 200:400].mean() > 128, 0, 255)
    assert set(said(changed, scaled(whole, 160, 120))) == {"thumbnail_changed"}


def test_a_turned_picture_is_told():
    whole = scene(480, 640)
    found = said(np.ascontiguousarray(np.rot90(whole)), scaled(whole, 160, 120))
    assert found == {"thumbnail_turned": "Its thumbnail shows the picture turned by 270 degrees."}


@pytest.mark.parametrize("height", [1, 15, 40])
def test_small_and_uniform_pictures_are_not_compared(height):
    gray = np.full((height, 60, 3), 128, np.uint8)
    assert match_thumbnail(gray, scene()) is None
    assert match_thumbnail(scene(), gray) is None
    assert match_thumbnail(scene(200, 17), scene(16, 300)) is not None


def test_an_orientation_of_its_own_is_told():
    stored = jpeg(scene(48, 64))
    for own, told in ((6, True), (1, False)):
        photo = jpeg(scene(), exif=exif_block({"Orientation": 1}, stored, own))
        found = apply(RULE["thumbnail_orientation"], Facts.of_file(photo, scene()))
        assert ("as that of the thumbnail" in found) == told
    photo = jpeg(scene(), exif=exif_block({"Orientation": 1}, stored))
    assert apply(RULE["thumbnail_orientation"], Facts.of_file(photo, scene())) is None


def test_a_real_crop_is_found(shared):
    photo = (shared / "badfiles" / "35-empty.jpg").read_bytes()
    facts = Facts.of_file(photo, decode_image(photo).pixels)
    assert "fills 70% of the thumbnail's width" in apply(RULE["thumbnail_part"], facts)
