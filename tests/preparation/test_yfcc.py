"""YFCC100M's dumps in all their forms: joined by id, sampled uniformly; unusable rows are counted."""

import bz2
from collections import Counter
from urllib.parse import quote_plus

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exiflang.data.shards import DataError
from exiflang.exif.reader import canonical_tags
from exiflang.preparation.options import Contents
from exiflang.preparation.sources import write_plan
from exiflang.preparation.yfcc import decode_exif, yfcc_photos
from exiflang.utils.storage import Store
from experiments.speed import yfcc_writer


def read(dataset, exif, **options):
    left_out = Counter()
    files = [[str(path) for path in (dump if isinstance(dump, list) else [dump])] for dump in (dataset, exif)]
    batches = yfcc_photos(*files, left_out, **{"min_tags": 1} | options)
    return [row for batch in batches for row in batch.to_pylist()], left_out


def dumps(folder, ending=""):
    return folder / f"yfcc100m_dataset{ending}", folder / f"yfcc100m_exif{ending}"


def row(photo="1", **changes):
    """A row of the dataset."""
    fields = {number: "x" for number in range(23)} | {0: photo, 14: f"http://a/{photo}.jpg", 16: "http://cc", 17: "5"}
    fields |= {20: "0a1b", 21: "jpg", 22: "0"} | {int(name[1:]): value for name, value in changes.items()}
    return "\t".join(fields.values())


def write(folder, dataset, exif, end="\n"):
    for path, lines in zip(dumps(folder), (dataset, exif), strict=True):
        path.write_bytes(
            b"".join((line if isinstance(line, bytes) else line.encode()) + end.encode() for line in lines)
        )
    return dumps(folder)


@pytest.mark.parametrize("columns", [23, 25])
@pytest.mark.parametrize("ending", ["", ".bz2"])
def test_all_photos_are_read_once_with_their_own_exif(tmp_path, columns, ending):
    paths = dumps(tmp_path, ending)
    truth = yfcc_writer.write(*paths, rows=3000, columns=columns)
    rows, left_out = read(*paths)
    assert {row["photo"]: row["url"] for row in rows} == truth.url
    assert {row["photo"]: row["licence"] for row in rows} == truth.licence
    assert {row["photo"]: decode_exif(row["exif"]) for row in rows} == truth.exif
    assert len(rows) == len(truth.url)
    assert left_out == {"video": truth.videos, "no EXIF": truth.bare}


def test_photos_with_few_tags_are_left_out_and_counted(tmp_path):
    truth = yfcc_writer.write(*dumps(tmp_path), rows=500)
    rows, left_out = read(*dumps(tmp_path), min_tags=11)
    enough = {row["photo"] for row in rows}
    assert {photo for photo, tags in truth.exif.items() if len(tags) >= 11} <= enough
    assert {photo for photo, tags in truth.exif.items() if len(tags) + 3 < 11}.isdisjoint(enough)
    assert len(rows) + left_out["fewer than 11 EXIF tags"] == len(truth.exif)
    assert all(row["exif"].count(":") >= 11 for row in rows)


def test_a_sample_is_uniform_and_depends_only_on_seed_and_ids(tmp_path):
    (tmp_path / "other").mkdir()
    paths, others = dumps(tmp_path), dumps(tmp_path / "other")
    truth = yfcc_writer.write(*paths, rows=4000)
    for path, other in zip(paths, others, strict=True):  # the same rows in a different order
        other.write_text("".join(sorted(path.read_text().splitlines(keepends=True), key=lambda line: line[::-1])))
    drawn, left_out = read(*paths, sample=1000)
    assert drawn == read(*others, sample=1000)[0]
    assert left_out["not drawn"] == len(truth.url) - 1000
    assert drawn[:100] == read(*paths, sample=100)[0]
    assert drawn != read(*paths, sample=1000, seed=1)[0]
    photos = sorted(truth.url)
    places = [photos.index(row["photo"]) * 10 // len(photos) for row in drawn]
    assert all(75 <= count <= 125 for count in Counter(places).values())  # 100 expected of each tenth, 3 sigma: 28
    everything = read(*paths, sample=10**9)
    assert everything == read(*paths)


def test_more_photos_than_fit_in_one_sorted_piece(tmp_path, monkeypatch):
    yfcc_writer.write(*dumps(tmp_path), rows=1000)
    expected = read(*dumps(tmp_path))
    monkeypatch.setattr("exiflang.preparation.yfcc.PIECE", 50)
    (tmp_path / "it's").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "it's"))
    assert read(*dumps(tmp_path)) == expected


def test_unusable_rows_are_counted(tmp_path):
    exif = [f"{number}\tExif+IFD0.Make:Canon" for number in range(1, 9)]
    dataset = [
        row("1"),
        row("1", f14="http://b/1.jpg"),
        row("2", f22="1"),
        row("3") + "\tone more",
        "",
        "4",
        row("five"),
        row("6", f20="", f14=""),
        row("7", f20="../../etc"),
        row("8", f14="http%3A%2F%2Fa%2F8.jpg", f21=""),
        row("9"),
        b"\xff\xfe" + row("10").encode(),
        row("11") + "\x01",
        row("12", f6="\"quoted'", f7="ü\\N"),
    ]
    rows, left_out = read(*write(tmp_path, dataset, [*exif, "9\t", "12\tA.B:1,C.D:2", "13\tA.B:1", "", "14"]))
    assert {row["photo"]: row["url"] for row in rows} == {
        "1": "https://live.staticflickr.com/5/1_0a1b_o.jpg",
        "7": "http://a/7.jpg",
        "8": "http://a/8.jpg",
        "12": "https://live.staticflickr.com/5/12_0a1b_o.jpg",
    }
    assert left_out == {
        "row that has neither 23 nor 25 columns": 2,
        "row with control characters": 1,
        "video": 1,
        "no id or no address": 3,
        "listed again": 1,
        "no EXIF": 1,
    }


def test_column_counts_and_line_endings_may_be_mixed(tmp_path):
    newer = row("2").split("\t")
    newer = ["17", newer[0], "hash", *newer[1:]]
    paths = write(tmp_path, [row("1"), "\t".join(newer)], ["1\tA.B:1", "2\tA.B:1"], end="\r\n")
    rows, _ = read(*paths)
    assert {row["photo"]: row["exif"] for row in rows} == {"1": "A.B:1", "2": "A.B:1"}


def test_a_photo_with_repeated_exif_is_read_once(tmp_path):
    exif = ["1\tA.B:1", "1\tA.B:1,C.D:2", "2\tA.B:1", "1\tA.B:1", "1\t"] * 30
    rows, left_out = read(*write(tmp_path, [row("1"), row("2")], exif))
    assert sorted((row["photo"], row["exif"]) for row in rows) == [("1", "A.B:1,C.D:2"), ("2", "A.B:1")]
    assert not left_out


def test_dumps_may_be_compressed_in_pieces(tmp_path):
    paths = dumps(tmp_path)
    yfcc_writer.write(*paths, rows=300)
    expected = read(*paths)
    packed = dumps(tmp_path, ".bz2")
    for path, target in zip(paths, packed, strict=True):
        data = path.read_bytes()
        target.write_bytes(bz2.compress(data[:9999]) + bz2.compress(data[9999:]))
    assert read(*packed) == expected


@pytest.mark.parametrize("damage", [lambda data: data[:-200], lambda data: data[:50], lambda data: b"no bz2" + data])
@pytest.mark.parametrize("which", [0, 1])
def test_the_error_names_a_damaged_dump(tmp_path, damage, which):
    paths = dumps(tmp_path, ".bz2")
    yfcc_writer.write(*paths, rows=300)
    paths[which].write_bytes(damage(paths[which].read_bytes()))
    with pytest.raises(DataError, match=rf"{paths[which].name}: cannot be read to its end .*: download it again"):
        read(*paths)


def test_the_error_names_a_dump_with_an_endless_row(tmp_path, monkeypatch):
    monkeypatch.setattr("exiflang.preparation.yfcc.BLOCK", 1 << 16)
    paths = write(tmp_path, [row("1")], ["1\t" + "A.B:1," * 100_000])
    with pytest.raises(DataError, match="yfcc100m_exif: cannot be read"):
        read(*paths)


def test_empty_dumps_give_no_photos(tmp_path):
    assert read(*write(tmp_path, [], [])) == ([], Counter())
    assert read(*write(tmp_path, [row("1")], [])) == ([], Counter({"no EXIF": 1}))
    assert read(*write(tmp_path, [], ["1\tA.B:1"])) == ([], Counter())
    with pytest.raises(DataError, match="gone: cannot be read"):
        read(tmp_path / "gone", tmp_path / "gone")


def test_stopping_early_leaves_nothing_behind(tmp_path, monkeypatch):
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    paths = dumps(tmp_path)
    yfcc_writer.write(*paths, rows=300)
    photos = yfcc_photos(*([str(path)] for path in paths), Counter())
    next(photos)
    assert list((tmp_path / "scratch").iterdir())
    photos.close()
    assert not list((tmp_path / "scratch").iterdir())


@given(st.dictionaries(st.text(min_size=1).filter(str.strip), st.text(min_size=1)))
def test_encoded_tags_are_decoded(tags):
    field = ",".join(f"{quote_plus(name)}:{quote_plus(value)}" for name, value in tags.items())
    assert decode_exif(field) == tags


@pytest.mark.parametrize(
    ("field", "tags"),
    [
        ("", {}),
        (",,:,", {}),
        ("a", {}),
        ("a:", {}),
        (":b", {}),
        ("a:1,a:2", {"a": "1"}),
        ("a:,a:2", {"a": "2"}),
        ("a:%zz%", {"a": "%zz%"}),
        ("a:%ff", {"a": "\ufffd"}),
        ("a%2Cb:c%3Ad", {"a,b": "c:d"}),
        ("a:b:c", {"a": "b:c"}),
    ],
)
def test_malformed_fields_are_decoded(field, tags):
    assert decode_exif(field) == tags


def test_hostile_fields_are_decoded_quickly():
    assert len(decode_exif("x" * 10**7)) == 0
    assert len(decode_exif(",".join(f"{number}:1" for number in range(10**6)))) < 10**6
    assert decode_exif("%" * 10**6 + ":1") == {}


def test_a_field_and_a_file_give_the_same_tags():
    field = "Exif+IFD0.Make:Canon,Exif+SubIFD.F-Number:F2.8,Exif+SubIFD.Exposure+Time:1%2F125+sec,GPS.GPS+Latitude:48"
    own = {"Image Make": "Canon", "EXIF FNumber": "14/5", "EXIF ExposureTime": "1/125"}
    assert canonical_tags(decode_exif(field)) == canonical_tags(own)


def test_dumps_become_a_plan(tmp_path):
    truth = yfcc_writer.write(*dumps(tmp_path, ".bz2"), rows=200)
    store = Store(tmp_path / "set")
    plan = write_plan(str(tmp_path), store, 0, Contents(photos_per_shard=30, sample=100, min_tags=1))
    assert (plan["kind"], plan["parts"]) == ("urls", 4)
    assert plan["rows_left_out"]["not drawn"] == len(truth.url) - 100


def split(folder, rows=200, ending=""):
    """Dumps in a folder; the one of photos is in three parts, split in the middle of a line."""
    dataset, exif = dumps(folder)
    truth = yfcc_writer.write(dataset, exif, rows=rows)
    lines = dataset.read_text().splitlines()
    dataset.unlink()
    for number in range(3):
        data = "\n".join(lines[number * 70 : (number + 1) * 70]).encode()
        path = folder / f"yfcc100m_dataset-{number}{ending}"
        path.write_bytes(bz2.compress(data) if ending else data)
    return truth


@pytest.mark.parametrize("ending", ["", ".bz2"])
def test_all_parts_of_a_dump_and_no_other_files_are_read(tmp_path, ending):
    truth = split(tmp_path, ending=ending)
    names = [f"yfcc100m_dataset-{number}{ending}" for number in range(3)] + ["yfcc100m_exif"]
    others = ["README", "yfcc100m_dataset-0.md5", "yfcc100m_dataset.README", "yfcc100m_autotags.bz2"]
    for name in others:
        (tmp_path / name).write_text("d41d8cd9  yfcc100m_dataset-0.bz2\n")
    (tmp_path / "yfcc100m_dataset-3").write_bytes(b"")
    (tmp_path / "yfcc100m_exif.bz2").write_bytes(b"half of it")
    plan = write_plan(str(tmp_path), Store(tmp_path / "set"), 0, Contents(min_tags=1))
    table = pq.read_table(tmp_path / "set" / "plan" / "00000.parquet").to_pylist()
    assert {row["photo"]: row["place"].decode() for row in table} == truth.url and len(table) == len(truth.url)
    assert plan["dumps"] == names
    assert plan["left_out_examples"] == {
        "no dump by its name": sorted(others),
        "an empty file": ["yfcc100m_dataset-3"],
        "the same dump as yfcc100m_exif": ["yfcc100m_exif.bz2"],
    }


def test_the_error_names_a_damaged_part(tmp_path):
    split(tmp_path, ending=".bz2")
    part = tmp_path / "yfcc100m_dataset-1.bz2"
    part.write_bytes(part.read_bytes()[:-100])
    with pytest.raises(DataError, match="dataset-1.bz2: cannot be read to its end"):
        read([tmp_path / f"yfcc100m_dataset-{number}.bz2" for number in range(3)], tmp_path / "yfcc100m_exif")


def test_the_error_names_a_missing_part_or_dump(tmp_path):
    split(tmp_path)
    (tmp_path / "yfcc100m_dataset-1").unlink()
    with pytest.raises(DataError, match="part 1 of yfcc100m_dataset is missing, the next is .*-2: download it"):
        write_plan(str(tmp_path), Store(tmp_path / "set"), 0, Contents())
    (tmp_path / "yfcc100m_dataset-2").unlink()
    (tmp_path / "yfcc100m_exif").rename(tmp_path / "yfcc100m_exif.txt")
    with pytest.raises(
        DataError, match="no yfcc100m_exif next to .* 1 left out: no dump by its name, e.g. yfcc100m_exif.txt"
    ):
        write_plan(str(tmp_path), Store(tmp_path / "set"), 0, Contents())


def test_a_dump_in_three_parts_as_published(shared, tmp_path):
    plan = write_plan(str(shared / "cases" / "yfcc_split" / "dumps"), Store(tmp_path), 0, Contents(min_tags=1))
    assert len(pq.read_table(tmp_path / "plan" / "00000.parquet")) == 30 and len(plan["dumps"]) == 4
