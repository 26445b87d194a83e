"""The data set of composites: pictures that depend only on their number, all kinds of them, and their sources."""

import io
import pickle

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from exiflang.data import composites as module
from exiflang.data.composites import AUTHENTIC, SHARES, Composite, CompositeDataset, resized
from exiflang.data.shards import DataError, Photo
from exiflang.simulation.composites import FILLS, SHAPES
from exiflang.utils.images import ImageError, load_image


def jpeg(seed: int, width: int, height: int, quality: int = 90) -> bytes:
    noise = np.random.default_rng(seed).normal(0, 300, (height, width, 3))
    picture = np.clip(128 + gaussian_filter(noise, (2, 2, 0)), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return file.getvalue()


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> list:
    """Three small photos, one of them in portrait orientation."""
    folder = tmp_path_factory.mktemp("photos")
    for number, size in enumerate([(384, 256), (300, 420), (500, 400)]):
        (folder / f"{number}.jpg").write_bytes(jpeg(number, *size))
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def tiles(tmp_path_factory) -> list[Photo]:
    """Photos of two cameras with tiles for a mosaic, and of one with too few, in one file."""
    shard, photos = tmp_path_factory.mktemp("tiles") / "0.tar", []
    with shard.open("wb") as file:
        for number in range(6):
            located = []
            for tile in range(6):
                data = jpeg(10 * number + tile, 100 + tile, 112)
                located.append((shard, file.tell(), len(data)))
                file.write(data)
            model = ("EOS 40D", "EOS 60D")[number % 2] if number < 5 else "EOS R"
            photos.append(Photo(f"photo {number}", {"Make": "Canon", "Model": model}, located))
    return photos


def whole(photos, length: int = 40, seed: int = 0) -> CompositeDataset:
    return CompositeDataset(photos, [], length, seed, {"whole": 1.0})


def checked(composite: Composite) -> np.ndarray:
    """The picture of a composite, whose mask must fit it."""
    picture = load_image(composite.data)
    assert composite.mask.dtype == bool and composite.mask.shape == picture.shape[:2]
    assert not composite.mask.all()
    return picture


def test_a_picture_depends_only_on_its_number_and_the_seed(photos):
    first, second, other = whole(photos), whole(photos), whole(photos, seed=1)
    for number in (7, 0, 7):
        assert first[number].data == second[number].data
        np.testing.assert_array_equal(first[number].mask, second[number].mask)
    assert pickle.loads(pickle.dumps(first))[3].data == second[3].data  # as worker processes receive it
    assert whole(photos, length=9)[3].data == second[3].data
    assert len({first[3].data, first[4].data, other[3].data}) == 3


def test_masks_fit_and_shares_are_as_documented(photos):
    dataset = whole(photos, 200)
    shares, kinds = [], set()
    for number in range(len(dataset)):
        composite = dataset[number]
        checked(composite)
        shares.append(composite.mask.mean())
        kinds.add(Image.open(io.BytesIO(composite.data)).format)
    spliced = np.array([share for share in shares if share])
    assert 1 - len(spliced) / len(shares) == pytest.approx(AUTHENTIC, abs=0.09)
    assert kinds == {"PNG", "JPEG"}
    assert spliced.min() > 0.001 and spliced.max() < 0.8
    assert np.median(spliced) < 0.25 and (spliced > 0.25).mean() > 0.1


def test_all_kinds_of_edits_are_drawn():
    edits = [module._draw_edit((320, 240), True, np.random.default_rng(seed)) for seed in range(300)]
    assert {edit.shape for edit in edits} == set(SHAPES) and {edit.fill for edit in edits} == set(FILLS)
    assert {edit.regions for edit in edits} == {1, 2, 3} and {edit.mirrored for edit in edits} == {True, False}
    assert any(edit.feather for edit in edits) and any(edit.scale != 1 for edit in edits)
    assert all(0.01 < edit.area[0] < edit.area[1] <= 0.65 for edit in edits)


def test_each_mosaic_uses_one_camera_and_one_grid(tiles):
    dataset = CompositeDataset([], tiles, 5, shares={"mosaic": 1.0})
    assert len(dataset.mosaics) == 2  # the third has too few tiles
    mosaic = dataset._mosaic(dataset.mosaics[0], np.random.default_rng(0))
    assert mosaic.shape == (3 * 96, 4 * 96, 3)  # of the smallest side, a multiple of a block of subsampled chroma
    own = [load_image(path.read_bytes()[at : at + size]) for p in dataset.mosaics[0] for path, at, size in p.tiles]
    corners = {tile[:96, :96].tobytes() for tile in own}
    cells = mosaic.reshape(3, 96, 4, 96, 3).swapaxes(1, 2).reshape(12, 96, 96, 3)
    assert len({cell.tobytes() for cell in cells}) == 12 and {cell.tobytes() for cell in cells} <= corners
    for number in range(5):
        checked(dataset[number])


def test_single_tiles_serve_as_photos(tiles):
    dataset = CompositeDataset([], tiles, 20, shares={"tile": 1.0})
    assert len(dataset.tiles) == 3
    sizes = {checked(dataset[number]).shape[1] for number in range(20)}
    assert max(sizes) <= 105 and len(sizes) > 1
    own = {load_image(path.read_bytes()[at : at + size]).tobytes() for p in tiles for path, at, size in p.tiles}
    rng = np.random.default_rng(0)
    for _ in range(9):
        first, second = dataset._two_photos(320, rng)
        assert {first.tobytes(), second.tobytes()} <= own and first.tobytes() != second.tobytes()


@pytest.mark.parametrize("side, alone", [(63, False), (64, True)])
def test_small_tiles_are_used_only_in_mosaics(tmp_path, side, alone):
    shard, photos = tmp_path / "0.tar", []
    with shard.open("wb") as file:
        for number in range(24):
            data = jpeg(number, side, side)
            photos.append(Photo(f"{number}", {"Model": f"{number % 2}"}, [(shard, file.tell(), len(data))]))
            file.write(data)
    dataset = CompositeDataset([], photos, 60, shares={"tile": 0.5, "mosaic": 0.5})
    assert dataset.shares.keys() == ({"tile", "mosaic"} if alone else {"mosaic"})
    for number in range(60):
        checked(dataset[number])


def test_simulated_photos_need_no_files():
    dataset = CompositeDataset([], [], 31)
    assert dataset.shares == {"simulated": SHARES["simulated"]}
    checked(dataset[30])  # the smallest size, which is fast


def test_kinds_without_a_source_are_left_out(photos, tiles):
    assert CompositeDataset(photos, tiles, 1).shares == SHARES
    assert CompositeDataset(photos[:1], tiles[:1], 1).shares.keys() == {"simulated"}
    assert CompositeDataset(photos, [], 1, shares={"whole": 1.0, "mosaic": 1.0, "simulated": 0.0}).shares == {
        "whole": 1.0
    }


@pytest.mark.parametrize("shares", [{}, {"whole": 1.0}, {"whole": 0.5, "mosaic": 0.5}, {"simulated": 0.0}])
def test_the_error_without_a_source_says_what_to_give(shares):
    with pytest.raises(ValueError, match="give two photos, or tiles of two cameras, or a share of simulated"):
        CompositeDataset([], [], 1, shares=shares)


def test_unknown_kinds_are_refused():
    with pytest.raises(ValueError, match="unknown kinds of source \\['generated'\\]: choose among whole, tile"):
        CompositeDataset([], [], 1, shares={"generated": 1.0})


def test_indices_out_of_range_raise_index_error(photos):
    dataset = whole(photos, 2)
    assert len(dataset) == 2 and len(list(iter(dataset))) == 2
    for number in (-1, 2, 10**9):
        with pytest.raises(IndexError):
            dataset[number]
    assert len(whole(photos, 0)) == 0


def test_settings_depend_on_the_sources_but_not_on_their_order(photos, tiles):
    plain = CompositeDataset(photos, tiles, 5).settings
    assert CompositeDataset(photos[::-1], tiles[::-1], 5).settings == plain
    assert plain.keys() == {"length", "seed", "photos", "tiles", "shares"}
    others = [
        CompositeDataset(photos[:2], tiles, 5),
        CompositeDataset(photos, tiles[:4], 5),
        CompositeDataset(photos, tiles, 6),
        CompositeDataset(photos, tiles, 5, 1),
        CompositeDataset(photos, tiles, 5, 0, {"whole": 1.0}),
    ]
    assert all(other.settings != plain for other in others)


def test_the_error_names_a_broken_photo_or_tile(tmp_path, tiles):
    for name in ("one.jpg", "two.jpg"):
        (tmp_path / name).write_bytes(b"damaged")
    with pytest.raises(ImageError, match="(one|two).jpg: not a picture"):
        whole(sorted(tmp_path.iterdir()))[0]
    gone = [Photo(photo.id, photo.tags, [(tmp_path / "gone.tar", 0, 9)] * 6) for photo in tiles]
    with pytest.raises(DataError, match="gone.tar"):
        CompositeDataset([], gone, 1, shares={"mosaic": 1.0})[0]


def test_photos_smaller_than_a_picture_give_smaller_pictures(tmp_path):
    for number in range(2):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(number, 90, 70))
    dataset = whole(sorted(tmp_path.iterdir()), 12)
    for number in range(12):
        picture = checked(dataset[number])
        assert picture.shape[0] <= 70 and picture.shape[1] <= 90


@pytest.mark.parametrize("scale, shape", [(0.001, (1, 1)), (0.5, (32, 48)), (1.0, (64, 96)), (1.5, (96, 144))])
def test_resized(scale, shape):
    flat = np.full((64, 96, 3), 77, np.uint8)
    assert resized(flat, scale).shape == (*shape, 3) and (resized(flat, scale) == 77).all()


def test_authentic_pictures_include_unmodified_files(photos, tiles):
    files = {path.read_bytes() for path in photos}
    dataset = whole(photos, 100)
    untouched = [composite for composite in map(dataset.__getitem__, range(100)) if composite.data in files]
    assert 1 <= len(untouched) <= 20 and not any(composite.mask.any() for composite in untouched)
    for composite in untouched:
        checked(composite)
    mosaics = CompositeDataset([], tiles, 100, shares={"mosaic": 1.0})
    for number in range(100):
        checked(mosaics[number])  # without photos, none are drawn
