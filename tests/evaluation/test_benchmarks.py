"""load_benchmark: which pictures count, which are skipped by name, and which layouts are refused."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from exiflang.evaluation import benchmarks
from exiflang.evaluation.benchmarks import Benchmark, load_benchmark
from exiflang.evaluation.layouts import LAYOUTS, BenchmarkError, Entry

SHARED = Path(__file__).parents[3] / "shared"
SQUARE = np.zeros((6, 8), dtype=np.uint8)
SQUARE[1:4, 2:5] = 255


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def save_picture(path, seed=0):
    save(path, np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8))


@pytest.fixture
def folder(tmp_path):
    """a: spliced, b: authentic with a black mask, c: no mask."""
    for seed, name in enumerate("abc"):
        save_picture(tmp_path / "images" / f"{name}.png", seed)
    save(tmp_path / "masks" / "a.png", SQUARE)
    save(tmp_path / "masks" / "b.png", SQUARE * 0)
    return tmp_path


def write_index(folder, *rows, header="name,kind,format"):
    (folder / "index.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")


def outcome(folder, name="folder"):
    """{name: spliced} for the pictures that count, {name: reason} for the skipped ones."""
    benchmark = load_benchmark(name, folder)
    counted = {item.name: item.spliced for item in benchmark}
    assert len(benchmark) == len(counted) + len(benchmark.skipped)
    return counted, dict(benchmark.skipped)


def test_a_folder_with_an_index(folder):
    write_index(folder, "a,spliced,jpg85", "b,authentic,png", "c,authentic,png")
    items = {item.name: item for item in load_benchmark("folder", str(folder))}
    assert [item.spliced for item in items.values()] == [True, False, False]
    np.testing.assert_array_equal(items["a"].mask, SQUARE > 127)
    assert items["a"].mask.dtype == bool and not items["c"].mask.any() and items["c"].mask.shape == (6, 8)
    assert items["a"].info == {"kind": "spliced", "format": "jpg85"}
    with Image.open(folder / "images" / "a.png") as image:
        np.testing.assert_array_equal(items["a"].image, np.asarray(image))


def test_a_folder_without_an_index_relies_on_masks(folder):
    counted, skipped = outcome(folder)
    assert counted == {"a.png": True, "b.png": False}
    assert skipped == {"c.png": "no mask; add it (all black for an authentic picture)"}


def test_an_index_saved_by_a_spreadsheet_is_read(folder):
    write_index(
        folder, " a , spliced ,png,extra,cells", "b.png,authentic", "c,authentic,", header="\ufeffname,kind,format"
    )
    counted, skipped = outcome(folder)
    assert counted == {"a": True, "b.png": False, "c": False} and not skipped


def test_contradictions_and_gaps_are_skipped_by_name(folder):
    write_index(folder, "a,authentic", "b,spliced", "c,spliced", "missing,spliced", header="name,kind")
    save_picture(folder / "images" / "unlisted.png")
    counted, skipped = outcome(folder)
    assert counted == {}
    assert "listed as authentic, but its mask shows tampered pixels" in skipped["a"]
    assert "listed as spliced, but its mask shows no tampered pixel" in skipped["b"]
    assert skipped["c"].startswith("no mask")
    assert "0 pictures named 'missing'" in skipped["missing"]
    assert "not listed in index.csv" in skipped["unlisted.png"]


def test_a_mask_that_covers_the_whole_picture_is_skipped(folder):
    save(folder / "masks" / "c.png", SQUARE * 0 + 255)
    counted, skipped = outcome(folder)
    assert counted == {"a.png": True, "b.png": False}
    assert list(skipped) == ["c.png"] and "covers the whole picture" in skipped["c.png"]


def test_a_mask_that_resizing_makes_all_of_the_picture_is_skipped(folder):
    save(folder / "masks" / "a.png", np.where(np.arange(SQUARE.shape[1]) == 1, 0, SQUARE * 0 + 255).astype(np.uint8))
    benchmark = load_benchmark("folder", folder, "resize 0.1")
    assert not any(item.mask.all() for item in benchmark)
    assert "covers the whole picture" in dict(benchmark.skipped)["a.png"]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("of_mask", [False, True])
def test_pictures_rotated_by_exif_without_their_mask_are_skipped(folder, orientation, of_mask):
    exif = Image.Exif()
    exif[0x0112] = orientation
    files = [folder / "images" / "a.png", *([folder / "masks" / "a.png"] if of_mask else [])]
    stored = np.array(Image.open(files[0]))
    for file in files:
        Image.open(file).save(file, exif=exif)
    benchmark = load_benchmark("folder", folder)
    items = {item.name: item for item in benchmark}
    if orientation > 1 and not of_mask:
        assert "rotates the picture and its mask differently" in dict(benchmark.skipped)["a.png"]
    else:  # the marked region stays the same
        np.testing.assert_array_equal(
            np.sort(items["a.png"].image[items["a.png"].mask], 0), np.sort(stored[SQUARE > 0], 0)
        )


def test_an_authentic_picture_may_be_rotated(folder):
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.open(folder / "images" / "b.png").save(folder / "images" / "b.png", exif=exif)
    assert outcome(folder)[0] == {"a.png": True, "b.png": False}


def test_invalid_index_rows_are_skipped(folder):
    write_index(folder, "a,spliced", "a.png,spliced", "b,genuine", ",spliced", header="name,kind")
    benchmark = load_benchmark("folder", folder)
    assert [item.name for item in benchmark] == ["a"]
    reasons = [reason for _, reason in benchmark.skipped]
    assert [name for name, _ in benchmark.skipped] == ["a.png", "b", "", "c.png"]
    assert "listed twice" in reasons[0] and "'genuine'; write one of authentic, spliced" in reasons[1]


@pytest.mark.parametrize("kind", ["spliced", "copy-move", "removal", "other"])
def test_every_kind_except_authentic_is_tampered(folder, kind):
    write_index(folder, f"a,{kind},x", "b,authentic,x", f"c,{kind},x", header="name,kind,set")
    items = {item.name: item for item in load_benchmark("folder", folder)}
    assert items["a"].spliced and items["a"].info == {"kind": kind, "set": "x", "format": "png"}
    assert not items["b"].spliced and "c" not in items  # without a mask


def test_a_folder_of_authentic_pictures_needs_neither_masks_nor_an_index(folder):
    counted, skipped = outcome(folder, "authentic")
    assert counted == {"a.png": False, "b.png": False, "c.png": False} and not skipped
    write_index(folder, "a,original", "b.png,published", header="name,class")
    infos = [item.info for item in load_benchmark("authentic", folder)]
    assert [info.get("class") for info in infos] == ["original", "published", None]
    write_index(folder, "a,original", header="picture,class")
    with pytest.raises(BenchmarkError, match="needs the columns name, has picture, class"):
        load_benchmark("authentic", folder)


@pytest.mark.parametrize(
    "name", ["../secret", "../images/a", "images/a.png", "/etc/passwd", "..", ".", "a/../a", "a\\b"]
)
def test_an_index_cannot_point_outside_the_folder(folder, name):
    save_picture(folder / "secret.png")
    write_index(folder, f"{name},authentic", f"{folder / 'secret.png'},authentic", header="name,kind")
    counted, skipped = outcome(folder)
    assert counted == {} and name in skipped and str(folder / "secret.png") in skipped


def test_bad_pictures_and_masks_are_skipped_not_replaced(folder):
    for name in ("cut", "size", "faint", "text"):
        save_picture(folder / "images" / f"{name}.png")
        save(folder / "masks" / f"{name}.png", SQUARE)
    cut = folder / "images" / "cut.png"
    cut.write_bytes(cut.read_bytes()[:60])
    save(folder / "masks" / "size.png", SQUARE[:, :-1])
    save(folder / "masks" / "faint.png", SQUARE // 255)
    (folder / "masks" / "text.png").write_text("no mask")
    counted, skipped = outcome(folder)
    assert list(counted) == ["a.png", "b.png"]
    assert "cut.png" in skipped["cut.png"] and "truncated" in skipped["cut.png"]
    assert "the mask is 7 x 6 and the picture 8 x 6" in skipped["size.png"]
    assert "brightest value is 1; write tampered pixels as 255" in skipped["faint.png"]
    assert "not a picture" in skipped["text.png"]


def test_files_that_are_not_pictures_are_reported_except_hidden_ones(folder):
    (folder / "images" / "Thumbs.db").write_bytes(b"\xd0\xcf")
    (folder / "images" / ".DS_Store").write_bytes(b"\x00")
    save(folder / "masks" / "Thumbs.png", SQUARE)
    assert "not a picture" in outcome(folder)[1]["Thumbs.db"]
    assert ".DS_Store" not in outcome(folder)[1]


@pytest.mark.parametrize("value, tampered", [(127, None), (128, True), (255, True), (0, False)])
def test_mask_threshold(folder, value, tampered):
    mask = np.full((6, 8), value, dtype=np.uint8)
    mask[0] = 255 if value == 127 else 0
    save(folder / "masks" / "c.png", mask)
    item = {item.name: item for item in load_benchmark("folder", folder)}["c.png"]
    assert item.mask[1:].all() == bool(tampered) and item.mask[0].any() == (value == 127)


@pytest.mark.parametrize("mode", ["1", "P", "RGB", "RGBA", "I;16"])
def test_masks_may_have_any_mode(folder, mode):
    image = Image.fromarray(SQUARE)
    image = Image.fromarray(SQUARE.astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
    image.save(folder / "masks" / "c.png")
    item = {item.name: item for item in load_benchmark("folder", folder)}["c.png"]
    np.testing.assert_array_equal(item.mask, SQUARE > 127)


def test_pictures_with_the_same_stem(folder):
    save_picture(folder / "images" / "a.bmp", 7)
    assert outcome(folder)[0] == {"a.bmp": True, "a.png": True, "b.png": False}
    write_index(folder, "a,spliced", "a.bmp,spliced", header="name,kind")
    counted, skipped = outcome(folder)
    assert counted == {} and "2 pictures named 'a'" in skipped["a"]
    write_index(folder, "a.png,spliced", "a.bmp,spliced", header="name,kind")
    assert outcome(folder)[0] == {"a.png": True, "a.bmp": True}
    save(folder / "masks" / "a.bmp", SQUARE)
    assert "2 masks with the same stem" in outcome(folder)[1]["a.png"]


def test_iteration_is_lazy_and_repeatable(folder, monkeypatch):
    read = []
    original = benchmarks.decode_image
    monkeypatch.setattr(benchmarks, "decode_image", lambda path: read.append(Path(path).name) or original(path))
    benchmark = load_benchmark("folder", folder)
    assert read == [] and len(benchmark) == 3
    next(iter(benchmark))
    assert set(read) == {"a.png"}
    runs = [[(item.name, item.image.sum()) for item in benchmark] for _ in range(2)]
    assert runs[0] == runs[1] and len(benchmark.skipped) == 1
    (folder / "images" / "a.png").unlink()
    assert [item.name for item in benchmark] == ["b.png"]
    assert [name for name, _ in benchmark.skipped] == ["a.png", "c.png"]


def test_items_do_not_share_their_info(folder):
    benchmark = load_benchmark("folder", folder)
    next(iter(benchmark)).info["format"] = "changed"
    assert next(iter(benchmark)).info["format"] == "png"


def casia(root):
    save_picture(root / "Au" / "Au_ani_0001.jpg")
    for folder, stem in (("Sp", "Sp_D_NRN_A_art0071_art0029_0478"), ("CM", "odd")):
        save_picture(root / "Tp" / folder / f"{stem}.jpg")
        save(root / "CASIA 1.0 groundtruth" / folder / f"{stem}_gt.png", SQUARE)
    return root


def test_casia_layout_and_names(tmp_path):
    items = list(load_benchmark("casia_1", casia(tmp_path)))
    assert [(item.name, item.spliced) for item in items] == [
        ("Au_ani_0001.jpg", False),
        ("Sp_D_NRN_A_art0071_art0029_0478.jpg", True),
        ("odd.jpg", True),
    ]
    assert items[1].info == {
        "format": "jpg",
        "kind": "spliced",
        "origin": "D",
        "operations": "NRN",
        "shape": "A",
        "sources": "art0071 art0029",
    }
    assert items[2].info == {"format": "jpg", "kind": "copy-move"}


def test_casia_pictures_without_masks_are_skipped(tmp_path):
    root = casia(tmp_path)
    (root / "CASIA 1.0 groundtruth" / "CM" / "odd_gt.png").unlink()
    counted, skipped = outcome(root, "casia_1")
    assert len(counted) == 2 and skipped["odd.jpg"].startswith("no mask")
    (root / "CASIA 1.0 groundtruth" / "CM").rmdir()
    with pytest.raises(BenchmarkError, match="groundtruth/CM: no such folder; put the masks of Tp/CM there"):
        load_benchmark("casia_1", root)


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_missing_and_empty_folders_are_refused(name, tmp_path):
    with pytest.raises(BenchmarkError, match="nowhere: no such folder"):
        load_benchmark(name, tmp_path / "nowhere")
    with pytest.raises(BenchmarkError, match="no pictures"):
        load_benchmark(name, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(BenchmarkError, match="file: no such folder"):
        load_benchmark(name, tmp_path / "file")


def test_the_error_for_an_unknown_benchmark_lists_the_known_ones(tmp_path):
    with pytest.raises(
        BenchmarkError, match="unknown benchmark 'colombia'; known: authentic, casia_1, casia_2, columbia, dso_1, fo"
    ):
        load_benchmark("colombia", tmp_path)


def test_a_folder_without_masks_or_an_index_is_refused(tmp_path):
    save_picture(tmp_path / "images" / "a.png")
    with pytest.raises(BenchmarkError, match="neither masks/ nor index.csv"):
        load_benchmark("folder", tmp_path)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "needs the columns name and kind, has none"),
        (b"picture,kind\na,spliced\n", "has picture, kind"),
        (b"name,kind\n\xff\xfe,spliced\n", "not a readable CSV file"),
        (b"name,kind\n" + b"x" * 200_000 + b",spliced\n", "not a readable CSV file"),
    ],
)
def test_an_unreadable_index_is_refused(folder, content, message):
    (folder / "index.csv").write_bytes(content)
    with pytest.raises(BenchmarkError, match=message):
        load_benchmark("folder", folder)


def test_names_and_subsets(folder):
    benchmark = load_benchmark("folder", folder)
    assert benchmark.names == ["a.png", "b.png", "c.png"]
    part = benchmark.only({"c.png", "a.png"})
    assert part.names == ["a.png", "c.png"] and part.name == "folder" and len(part) == 2
    assert [item.name for item in part] == ["a.png"] and [name for name, _ in part.skipped] == ["c.png"]
    assert len(benchmark.only([])) == 0 and list(benchmark.only([])) == []
    with pytest.raises(BenchmarkError, match="folder: no pictures named 'd.png'; see .names"):
        benchmark.only(["a.png", "d.png"])


@given(st.data())
def test_subsets_add_up_to_the_whole_in_order(data):
    entries = [Entry(str(number), None, problem="none") for number in range(data.draw(st.integers(0, 8)))]
    benchmark = Benchmark("made up", entries, count_note="a note")
    names = data.draw(st.permutations(benchmark.names))
    cut = data.draw(st.integers(0, len(names)))
    parts = [benchmark.only(names[:cut]), benchmark.only(names[cut:])]
    assert sorted(parts[0].names + parts[1].names) == benchmark.names
    assert all(part.names == sorted(part.names) and part.count_note == "a note" for part in parts)


def test_the_kind_is_derived_from_the_mask_without_an_index(folder):
    kinds = {item.name: item.info for item in load_benchmark("folder", folder)}
    assert kinds == {
        "a.png": {"kind": "spliced", "format": "png"},
        "b.png": {"kind": "authentic", "format": "png"},
    }


def test_counts_that_differ_from_the_published_ones_are_noted(tmp_path):
    root = casia(tmp_path)
    assert load_benchmark("casia_1", root).count_note == (
        "casia_1: 1 authentic and 2 spliced pictures listed, 800 and 921 published: "
        "figures are not comparable with published ones"
    )


def test_no_note_if_counts_match_the_published_ones(tmp_path):
    for folder, prefix in (("DSO-1", "normal-"), ("DSO-1", "splicing-"), ("DSO-1-Fake-Images-Masks", "splicing-")):
        for number in range(100):
            path = tmp_path / folder / f"{prefix}{number:02}.png"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"")
    (tmp_path / "DSO-1" / "Thumbs.db").write_bytes(b"")
    benchmark = load_benchmark("dso_1", tmp_path)
    assert benchmark.count_note == "" and len(benchmark) == 201
    (tmp_path / "DSO-1" / "normal-00.png").unlink()
    assert load_benchmark("dso_1", tmp_path).count_note.startswith("dso_1: 99 authentic and 100 spliced")


def test_no_note_if_no_counts_are_published(folder):
    assert load_benchmark("folder", folder).count_note == ""


@pytest.mark.parametrize(
    "name, sub, tampered, authentic", [("folder", "splices", 40, 20), ("casia_1", "casia_1", 40, 40)]
)
def test_shared_benchmarks_are_read_completely(name, sub, tampered, authentic):
    if not (SHARED / sub).is_dir():
        pytest.skip(f"shared/{sub} is not here")
    counted, skipped = outcome(SHARED / sub, name)
    assert skipped == {}
    assert sum(counted.values()) == tampered and len(counted) == tampered + authentic
