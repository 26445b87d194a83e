"""Laundered benchmarks: copies on disk with masks of a different size, and JPEG saving and resizing on the fly."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from exiflang.evaluation.benchmarks import load_benchmark
from exiflang.evaluation.laundering import NETWORKS, parse_laundering, resize, resize_mask, save_as_jpeg
from exiflang.evaluation.layouts import BenchmarkError
from exiflang.utils.images import ImageError

LARGE = np.zeros((12, 16), dtype=bool)
LARGE[2:8, 4:10] = True
SMALL = LARGE[::2, ::2]
LOST = "no tampered pixel is left after resizing; use a larger factor"


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def wild(tmp_path):
    """In-the-Wild with one picture of 16 x 12."""
    save(tmp_path / "images" / "a.png", picture(12, 16))
    save(tmp_path / "masks" / "a.png", LARGE.astype(np.uint8) * 255)
    return tmp_path


COPIES = {
    "columbia": ("Columbia_Facebook", "Columbia_GT", "{}_gt.png"),
    "dso_1": ("DSO_facebook", "DSO-1_gt", "{}_GT.png"),
    "in_the_wild": ("In-the-Wild_FACEBOOK", "ITW_GT", "{}.png"),
    "scene_completion": ("Hays_Facebook", "hays_GT", "{}_mask.png"),
    "realistic_tampering": ("RT_Facebook", "Realistic_Tampering_GT", "{}_gt.png"),
    "casia_1": ("CASIA_Facebook", "casia_1_GT", "{}_gt.png"),
    "casia_2": ("CASIA2_Facebook", "casia_2_GT", "{}_gt.png"),
}


@pytest.mark.parametrize("name", COPIES)
@pytest.mark.parametrize("network", NETWORKS)
def test_masks_are_resized_to_copies_from_social_networks(tmp_path, name, network):
    copies, truth, mask = COPIES[name]
    folder = tmp_path / copies.lower().replace("facebook", network.title())
    for stem, size in (("same", LARGE), ("shrunk", SMALL)):
        save(folder / f"{stem}.jpg", picture(*size.shape))
        save(tmp_path / truth / mask.format(stem), LARGE.astype(np.uint8) * 255)
    save(folder / "lost.jpg", picture(12, 16))
    benchmark = load_benchmark(name, tmp_path, network)
    for _ in range(2):  # iterating twice gives the same
        items = {item.name: item for item in benchmark}
        assert {name: item.info.pop("mask", None) for name, item in items.items()} == {
            "same.jpg": None,
            "shrunk.jpg": "resized",
        }
        assert [skipped for skipped, _ in benchmark.skipped] == ["lost.jpg"]
    assert benchmark.name == f"{name}, {network}" and benchmark.count_note == ""
    np.testing.assert_array_equal(items["same.jpg"].mask, LARGE)
    np.testing.assert_array_equal(items["shrunk.jpg"].mask, SMALL)
    assert all(item.spliced and item.info == {"format": "jpg", "kind": "spliced"} for item in items.values())


@pytest.mark.parametrize("name, stem", [("casia_1", "Sp_S_NNN_A_1"), ("casia_1", "CM_1"), ("casia_2", "tp_s_1")])
def test_copies_of_casia_keep_their_kind(tmp_path, name, stem):
    for this in (stem, "Tp_D_2"):
        save(tmp_path / f"{name}_Wechat" / f"{this}.jpg", picture(12, 16))
        save(tmp_path / f"{name}_GT" / f"{this}_gt.png", LARGE.astype(np.uint8) * 255)
    kinds = {item.name: item.info["kind"] for item in load_benchmark(name, tmp_path, "wechat")}
    assert kinds == {f"{stem}.jpg": "copy-move", "Tp_D_2.jpg": "spliced"}


def test_a_region_that_vanishes_in_a_copy_is_skipped_by_name(tmp_path):
    mask = np.zeros((12, 16), dtype=np.uint8)
    mask[0, 0] = 255
    save(tmp_path / "ITW_Wechat" / "a.png", picture(3, 4))
    save(tmp_path / "ITW_GT" / "a.png", mask)
    benchmark = load_benchmark("in_the_wild", tmp_path, "wechat")
    assert list(benchmark) == []
    assert "its mask shows no tampered pixel" in benchmark.skipped[0][1]


def test_missing_and_duplicate_copies_are_refused(tmp_path):
    with pytest.raises(BenchmarkError, match="one folder dso_whatsapp or dso1_whatsapp .case-insensitive.; found none"):
        load_benchmark("dso_1", tmp_path, "whatsapp")
    (tmp_path / "DSO_Whatsapp").mkdir()
    with pytest.raises(BenchmarkError, match="one folder dso_gt or dso1_gt .case-insensitive.; found none"):
        load_benchmark("dso_1", tmp_path, "whatsapp")
    (tmp_path / "DSO_GT").mkdir()
    with pytest.raises(BenchmarkError, match="no pictures"):
        load_benchmark("dso_1", tmp_path, "whatsapp")
    (tmp_path / "DSO-1_WhatsApp").mkdir()
    with pytest.raises(BenchmarkError, match="found DSO-1_WhatsApp and DSO_Whatsapp"):
        load_benchmark("dso_1", tmp_path, "whatsapp")
    with pytest.raises(BenchmarkError, match="no laundered copies of 'folder' are published"):
        load_benchmark("folder", tmp_path, "whatsapp")


def test_copies_of_another_benchmark_are_not_used(tmp_path):
    save(tmp_path / "CASIA2_Facebook" / "a.jpg", picture(12, 16))
    save(tmp_path / "CASIA2_GT" / "a_gt.png", LARGE.astype(np.uint8) * 255)
    with pytest.raises(BenchmarkError, match="found none"):
        load_benchmark("casia_1", tmp_path, "facebook")
    assert len(list(load_benchmark("casia_2", tmp_path, "facebook"))) == 1


@pytest.mark.parametrize("quality", [1, 75, 100])
def test_jpeg_on_the_fly_matches_pillow(wild, quality):
    benchmark = load_benchmark("in_the_wild", wild, f"jpeg {quality}")
    (item,) = benchmark
    saved = io.BytesIO()
    Image.fromarray(picture(12, 16)).save(saved, "JPEG", quality=quality, subsampling=2)
    with Image.open(saved) as image:
        np.testing.assert_array_equal(item.image, np.asarray(image))
    np.testing.assert_array_equal(item.mask, LARGE)
    assert item.mask.dtype == bool and benchmark.name == f"in_the_wild, jpeg {quality}" and "mask" not in item.info


def test_resizing_on_the_fly_matches_pillow(wild):
    benchmark = load_benchmark("in_the_wild", wild, "resize 0.5")
    (item,) = benchmark
    expected = Image.fromarray(picture(12, 16)).resize((8, 6), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(item.image, np.asarray(expected))
    np.testing.assert_array_equal(item.mask, SMALL)
    assert item.mask.dtype == bool and benchmark.name == "in_the_wild, resize 0.5" and "mask" not in item.info
    assert "0 and 201 published" in benchmark.count_note


def test_a_region_that_vanishes_in_resizing_is_skipped_by_name(wild):
    benchmark = load_benchmark("in_the_wild", wild, "resize 0.01")
    mask = np.zeros((12, 16), dtype=np.uint8)
    mask[0, 0] = 255
    save(wild / "masks" / "a.png", mask)
    assert list(benchmark) == [] and benchmark.skipped == [("a.png", f"{wild / 'masks' / 'a.png'}: {LOST}")]


def test_a_subset_is_laundered_like_the_whole(wild):
    benchmark = load_benchmark("in_the_wild", wild, "jpeg 30")
    (whole,), (part,) = benchmark, benchmark.only(["a.png"])
    np.testing.assert_array_equal(whole.image, part.image)
    assert not np.array_equal(part.image, picture(12, 16))


BAD = [
    "",
    "jpeg",
    "jpeg 0",
    "jpeg 101",
    "jpeg 7.5",
    "jpeg -5",
    "jpeg  75",
    "JPEG 75",
    "resize",
    "resize 0",
    "resize 4.01",
]
BAD += [
    "resize -1",
    "resize nan",
    "resize inf",
    "resize 1e-1",
    "resize " + "9" * 400,
    "telegram",
    "jpeg 75\n",
    75,
    ["jpeg"],
]


@pytest.mark.parametrize("text", BAD)
def test_unknown_launderings_are_refused(wild, text):
    with pytest.raises(BenchmarkError, match="unknown laundering .*: give facebook, whatsapp, wechat, 'jpeg Q' with"):
        load_benchmark("in_the_wild", wild, text)


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0.001, 4).map(lambda factor: f"{factor:.3f}"))
def test_picture_and_mask_are_resized_to_the_same_size(height, width, factor):
    image, mask = parse_laundering(f"resize {factor}")(picture(height, width), np.ones((height, width), dtype=bool))
    expected = tuple(max(1, round(side * float(factor))) for side in (height, width))
    assert image.shape == (*expected, 3) and mask.shape == expected
    assert image.dtype == np.uint8 and mask.dtype == bool and mask.all()


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 100))
def test_jpeg_keeps_size_and_mask(height, width, quality):
    mask = np.zeros((height, width), dtype=bool)
    image, same = parse_laundering(f"jpeg {quality}")(picture(height, width), mask)
    assert image.shape == (height, width, 3) and image.dtype == np.uint8 and same is mask


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 5))
def test_masks_are_enlarged_exactly_by_integer_factors(height, width, factor):
    mask = np.random.default_rng(height * width).random((height, width)) < 0.5
    grown = resize_mask(mask, height * factor, width * factor)
    np.testing.assert_array_equal(grown, mask.repeat(factor, axis=0).repeat(factor, axis=1))


def test_impossible_sizes_are_refused():
    with pytest.raises(ImageError, match="28000 x 28000 would be more than 178,956,970 pixels; use a smaller factor"):
        resize(picture(1, 1), np.zeros((7000, 7000), dtype=bool), 4)
    with pytest.raises(ImageError, match="a side of 65501 pixels exceeds JPEG's 65500"):
        save_as_jpeg(picture(1, 65501), np.zeros((1, 65501), dtype=bool), 75)
    assert save_as_jpeg(picture(1, 65500), np.zeros((1, 65500), dtype=bool), 75)[0].shape == (1, 65500, 3)
