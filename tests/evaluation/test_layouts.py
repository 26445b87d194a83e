"""The published folder layouts: which mask belongs to which picture, how masks are read, and problems by name."""

import io
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import binary_dilation

from exiflang.evaluation.benchmarks import load_benchmark
from exiflang.evaluation.layouts import LAYOUTS, BenchmarkError, bright, checked, dark, green, not_black

SQUARE = np.zeros((6, 8), dtype=bool)
SQUARE[1:4, 2:5] = True
WHITE = SQUARE.astype(np.uint8) * 255


def save(path, pixels=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    if pixels is None:
        pixels = np.random.default_rng(len(path.name)).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def save_exactly(path, pixels):
    """Save as PNG whatever the extension: readers go by content, and a JPEG would change the pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, "PNG")


def read(name, root):
    benchmark = load_benchmark(name, root)
    items = {item.name: item for item in benchmark}
    assert len(items) + len(benchmark.skipped) == len(benchmark) == len(set(benchmark.names))
    return items, dict(benchmark.skipped)


def columbia(root):
    save(root / "4cam_auth" / "a.tif")
    save(root / "4CAM_SPLC" / "s.TIF")
    painted = np.where(SQUARE[..., None], (0, 200, 0), (255, 0, 0)).astype(np.uint8)
    save_exactly(root / "4CAM_SPLC" / "EdgeMask" / "S_edgemask.JPG", painted)
    return {"a.tif": False, "s.TIF": True}


def dso_1(root):
    save(root / "dso-1" / "normal-01.png")
    save(root / "dso-1" / "Splicing-01.PNG")
    save(root / "DSO-1-Fake-Images-Masks" / "splicing-01.png", 255 - WHITE)
    return {"normal-01.png": False, "Splicing-01.PNG": True}


def in_the_wild(root):
    save(root / "Images" / "w.JPG")
    save(root / "masks" / "w.png", WHITE)
    return {"w.JPG": True}


def realistic_tampering(root):
    for kind in ("pristine", "tampered-realistic"):
        save(root / "canon_60d" / kind / "DSC_1.TIF")
    save(root / "canon_60d" / "ground-truth" / "DSC_1.PNG", SQUARE.astype(np.uint8))
    return {"canon_60d/pristine/DSC_1.TIF": False, "canon_60d/tampered-realistic/DSC_1.TIF": True}


def scene_completion(root):
    save(root / "h.jpg")
    save_exactly(root / "h_MASK.jpg", WHITE)
    save(root / "gas_mask.png")
    save(root / "gas_mask_mask.png", WHITE)
    return {"gas_mask.png": True, "h.jpg": True}


def casia_2(root):
    save(root / "Au" / "Au_1.jpg")
    for name in ("Tp_D_1.tif", "Tp_S_1.tif"):
        save(root / "Tp" / name)
        save(root / "CASIA 2 Groundtruth" / f"{name[:-4]}_gt.png", WHITE)
    return {"Au_1.jpg": False, "Tp_D_1.tif": True, "Tp_S_1.tif": True}


WRITERS = [columbia, dso_1, in_the_wild, realistic_tampering, scene_completion, casia_2]
by_layout = pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)


def a_mask(root, name):
    """Some mask of the benchmark, found through its own entries."""
    return next(entry.mask for entry in LAYOUTS[name](root) if entry.mask)


@by_layout
def test_pictures_and_masks_of_each_layout(tmp_path, write):
    expected = write(tmp_path)
    items, skipped = read(write.__name__, tmp_path)
    assert skipped == {} and {name: item.spliced for name, item in items.items()} == expected
    for item in items.values():
        np.testing.assert_array_equal(item.mask, SQUARE & item.spliced)
        assert item.mask.dtype == bool and item.image.shape == (6, 8, 3)
        assert item.info["format"] == item.name.rpartition(".")[2].lower()
        assert (item.info["kind"] == "authentic") != item.spliced


@by_layout
def test_a_missing_mask_is_reported(tmp_path, write):
    expected = write(tmp_path)
    lost = a_mask(tmp_path, write.__name__)
    lost.unlink()
    items, skipped = read(write.__name__, tmp_path)
    (reason,) = skipped.values()
    assert reason.startswith("no mask; add it as ") and len(items) == len(expected) - 1


@by_layout
def test_a_broken_picture_is_reported_and_not_replaced(tmp_path, write):
    expected = write(tmp_path)
    broken = next(entry.image for entry in LAYOUTS[write.__name__](tmp_path) if entry.spliced)
    broken.write_bytes(broken.read_bytes()[:70])
    items, skipped = read(write.__name__, tmp_path)
    (reason,) = skipped.values()
    assert str(broken) in reason and items.keys() | skipped.keys() == expected.keys()


@by_layout
def test_a_mask_of_the_wrong_size_is_reported(tmp_path, write):
    expected = write(tmp_path)
    mask = a_mask(tmp_path, write.__name__)
    with Image.open(mask) as image:
        narrow = np.asarray(image)[:, 1:]
    save_exactly(mask, narrow)
    items, skipped = read(write.__name__, tmp_path)
    (reason,) = skipped.values()
    assert f"{mask}: the mask is 7 x 6 and the picture 8 x 6" in reason and len(items) == len(expected) - 1


@by_layout
def test_broken_and_empty_masks_are_reported(tmp_path, write):
    write(tmp_path)
    mask = a_mask(tmp_path, write.__name__)
    save_exactly(mask, np.full((6, 8), 255 if write is dso_1 else 0, dtype=np.uint8))
    (reason,) = read(write.__name__, tmp_path)[1].values()
    assert "listed as spliced, but its mask shows no tampered pixel" in reason
    mask.write_bytes(b"no mask")
    (reason,) = read(write.__name__, tmp_path)[1].values()
    assert f"{mask}: not a picture" in reason


@by_layout
def test_two_masks_for_one_picture_are_reported(tmp_path, write):
    write(tmp_path)
    mask = a_mask(tmp_path, write.__name__)
    save(mask.with_suffix(".bmp"), WHITE)
    (reason,) = read(write.__name__, tmp_path)[1].values()
    assert "2 masks with the same stem" in reason


@pytest.mark.parametrize(
    "write, folder, pictures",
    [
        (columbia, "4CAM_SPLC/EdgeMask", "4CAM_SPLC"),
        (dso_1, "DSO-1-Fake-Images-Masks", "dso-1"),
        (in_the_wild, "masks", "Images"),
        (realistic_tampering, "canon_60d/ground-truth", "canon_60d/tampered-realistic"),
        (casia_2, "CASIA 2 Groundtruth", "Tp"),
    ],
)
def test_a_missing_folder_of_masks_is_refused(tmp_path, write, folder, pictures):
    write(tmp_path)
    (tmp_path / folder).rename(tmp_path / "elsewhere")
    with pytest.raises(BenchmarkError, match=f"no such folder; put the masks of .*{pictures} there, e.g. "):
        load_benchmark(write.__name__, tmp_path)


def test_columbia_green_survives_jpeg(tmp_path):
    """Discs in both greens among both reds and black, and a gray and a white field that are not tampered."""
    rows, columns = np.mgrid[:240, :320]
    truth = ((rows - 80) ** 2 + (columns - 100) ** 2 < 45**2) | ((rows - 150) ** 2 + (columns - 220) ** 2 < 60**2)
    painted = np.zeros((240, 320, 3), dtype=np.uint8)
    painted[:, :, 0] = np.where(columns < 160, 200, 255)
    painted[200:] = 0
    painted[:20, :40], painted[:20, 40:80] = 128, 255
    painted[truth] = (0, 200, 0)
    painted[truth & (columns >= 220)] = (0, 255, 0)
    for quality in (60, 75, 90):
        saved = io.BytesIO()
        Image.fromarray(painted).save(saved, "JPEG", quality=quality)
        mask = tmp_path / "4cam_splc" / "edgemask" / "s_edgemask.jpg"
        mask.parent.mkdir(parents=True, exist_ok=True)
        mask.write_bytes(saved.getvalue())
        save(tmp_path / "4cam_splc" / "s.tif", painted)
        (item,) = load_benchmark("columbia", tmp_path)
        assert (item.mask & truth).sum() / (item.mask | truth).sum() > 0.98
        near = binary_dilation(truth, iterations=4)
        assert not (item.mask & ~near).any()


def test_each_reader_thresholds_its_own_colors():
    gray = np.array([[0, 1, 127, 128, 255]], dtype=np.uint8)[..., None].repeat(3, axis=2)  # [1, 5, 3]
    assert bright(gray).tolist() == [[False, False, False, True, True]]
    assert not_black(gray).tolist() == [[False, True, True, True, True]]
    assert dark(gray).tolist() == [[True, True, True, False, False]]
    colors = [(0, 200, 0), (0, 255, 0), (200, 0, 0), (255, 0, 0), (0, 0, 0), (0, 90, 0), (255, 255, 255)]
    assert green(np.array([colors], dtype=np.uint8)).tolist() == [[True, True] + [False] * 5]


@given(st.integers(0, 255), st.integers(1, 5), st.integers(1, 5))
def test_readers_return_one_boolean_per_pixel(value, height, width):
    mask = np.full((height, width, 3), value, dtype=np.uint8)
    mask[0, 0] = 255
    for reader in (bright, not_black, dark, green):
        assert reader(mask).shape == (height, width) and reader(mask).dtype == bool
    np.testing.assert_array_equal(bright(mask), ~dark(mask))


def test_faint_masks_count_only_in_realistic_tampering(tmp_path):
    realistic_tampering(tmp_path / "rt")
    assert read("realistic_tampering", tmp_path / "rt")[1] == {}
    scene_completion(tmp_path / "hays")
    save_exactly(tmp_path / "hays" / "h_MASK.jpg", WHITE // 255)
    skipped = read("scene_completion", tmp_path / "hays")[1]
    assert "h_MASK.jpg: the mask's brightest value is 1; write tampered pixels as 255" in skipped["h.jpg"]


def test_scene_completion_ignores_jpeg_artifacts(tmp_path):
    truth = np.zeros((40, 40), dtype=bool)
    truth[10:25, 7:30] = True
    save(tmp_path / "h.jpg", np.zeros((40, 40, 3), dtype=np.uint8))
    save(tmp_path / "h_mask.jpg", truth.astype(np.uint8) * 255)
    (item,) = load_benchmark("scene_completion", tmp_path)
    np.testing.assert_array_equal(item.mask, truth)


def test_a_mask_without_its_picture_is_reported(tmp_path):
    scene_completion(tmp_path)
    (tmp_path / "h.jpg").unlink()
    assert read("scene_completion", tmp_path)[1].keys() == {"h_MASK.jpg"}


def test_casia_2_kinds_and_both_spellings_of_its_masks(tmp_path):
    casia_2(tmp_path)
    truth = tmp_path / "CASIA 2 Groundtruth"
    kinds = {"Au_1.jpg": "authentic", "Tp_D_1.tif": "spliced", "Tp_S_1.tif": "copy-move"}
    assert {item.name: item.info["kind"] for item in load_benchmark("casia_2", tmp_path)} == kinds
    truth.rename(tmp_path / "casia2.0_groundtruth")
    assert {item.name: item.info["kind"] for item in load_benchmark("casia_2", tmp_path)} == kinds
    truth.mkdir()
    with pytest.raises(BenchmarkError, match="contains both CASIA 2 Groundtruth and casia2.0_groundtruth; keep one"):
        load_benchmark("casia_2", tmp_path)


def test_dso_1_reports_unknown_files(tmp_path):
    dso_1(tmp_path)
    (tmp_path / "dso-1" / "Thumbs.db").write_bytes(b"\xd0")
    assert read("dso_1", tmp_path)[1] == {"Thumbs.db": "named neither normal-* nor splicing-*; remove it"}


def test_pictures_with_the_same_name_are_distinguished_by_folder(tmp_path):
    columbia(tmp_path)
    save(tmp_path / "4cam_auth" / "s.TIF")
    items, skipped = read("columbia", tmp_path)
    assert {name: item.spliced for name, item in items.items()} == {
        "a.tif": False,
        "4cam_auth/s.TIF": False,
        "4CAM_SPLC/s.TIF": True,
    }
    assert skipped == {}


def test_names_that_differ_only_in_case_are_ambiguous(tmp_path):
    save(tmp_path / "images" / "w.jpg")
    save(tmp_path / "images" / "W.jpg")
    if len(os.listdir(tmp_path / "images")) < 2:
        pytest.skip("this file system does not tell upper from lower case")
    save(tmp_path / "masks" / "w.png", WHITE)
    items, skipped = read("in_the_wild", tmp_path)
    assert items == {} and all("w.png: the mask of both W and w" in reason for reason in skipped.values())
    save(tmp_path / "masks" / "W.png", WHITE)
    skipped = read("in_the_wild", tmp_path)[1]
    assert len(skipped) == 2 and all("2 masks with the same stem" in reason for reason in skipped.values())


def test_an_index_spells_names_that_are_not_utf_8_as_printed(tmp_path):
    name = os.fsdecode(b"caf\xe9.PNG")
    save(tmp_path / "images" / name)
    save(tmp_path / "masks" / name, WHITE)
    for row in ("caf\\xe9", "caf\\xe9.PNG", "Caf\\xE9.png"):
        (tmp_path / "index.csv").write_text(f"name,kind\n{row},spliced\n", encoding="utf-8")
        assert [read("folder", tmp_path)[0].keys(), read("folder", tmp_path)[1]] == [{row}, {}]


def test_index_rows_match_pictures_in_any_case(tmp_path):
    save(tmp_path / "images" / "A.PNG")
    save(tmp_path / "Masks" / "a.png", WHITE)
    for row in ("a", "a.png", "A.PNG", "A"):
        (tmp_path / "index.csv").write_text(f"name,kind\n{row},spliced\n", encoding="utf-8")
        items, skipped = read("folder", tmp_path)
        assert items.keys() == {row} and skipped == {}
    (tmp_path / "index.csv").write_text("name,kind\na,spliced\na,authentic\n", encoding="utf-8")
    assert read("folder", tmp_path) == ({}, {"a": "index.csv: 'a' is listed twice; delete one of the rows"})


@by_layout
def test_links_out_of_the_folder_are_not_followed(tmp_path, write):
    secret = save(tmp_path / "secret.png", WHITE)
    root = tmp_path / "root"
    expected = write(root)
    mask = a_mask(root, write.__name__)
    mask.unlink()
    mask.symlink_to(secret)
    items, skipped = read(write.__name__, root)
    assert list(skipped.values()) == [f"{mask}: a link to outside of {root}; put the file itself there"]
    assert len(items) == len(expected) - 1
    inside = save(
        root / "elsewhere" / "mask.png", 255 - WHITE if write is dso_1 else np.dstack([WHITE * 0, WHITE, WHITE * 0])
    )
    mask.unlink()
    mask.symlink_to(inside)
    assert read(write.__name__, root)[1] == {}


def test_linked_folders_and_dangling_links_are_reported(tmp_path):
    columbia(tmp_path / "there")
    root = tmp_path / "here"
    root.mkdir()
    (root / "4cam_auth").symlink_to(tmp_path / "there" / "4cam_auth")
    assert "a link to outside of" in read("columbia", root)[1]["a.tif"]
    (tmp_path / "link").symlink_to(tmp_path / "there")
    assert read("columbia", tmp_path / "link")[1] == {}
    (tmp_path / "there" / "4cam_auth" / "lost.tif").symlink_to(tmp_path / "there" / "nowhere.tif")
    assert "lost.tif: no such file" in read("columbia", tmp_path / "there")[1]["lost.tif"]


def test_checking_leaves_valid_entries_unchanged(tmp_path):
    casia_2(tmp_path)
    entries = LAYOUTS["casia_2"](tmp_path)
    assert checked(entries, tmp_path) == entries


def test_real_casia_pictures_keep_their_size(shared):
    root = shared / "casia_1"
    if not root.is_dir():
        pytest.skip(f"{root} is not here")
    sizes = {}
    for path in [*(root / "Au").iterdir(), *(root / "Tp" / "Sp").iterdir()]:
        with Image.open(path) as image:
            sizes[path.name] = image.size
    assert {item.name: item.image.shape[1::-1] for item in load_benchmark("casia_1", root)} == sizes
