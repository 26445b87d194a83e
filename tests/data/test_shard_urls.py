"""Which shards a pattern names: ranges and choices in braces, globs and folders, locally and at a URL."""

import itertools
import re
from pathlib import Path

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exiflang.data.shard_urls import expand_shards, shard_sizes
from exiflang.data.shards import DataError


def touch(folder: Path, *names: str) -> list[str]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x" * len(name))
    return [str(folder / name) for name in names]


@pytest.fixture
def far():
    memory = fsspec.filesystem("memory")
    for name in ("00000.tar", "00001.tar", "00010.tar", "readme.txt", "deep/00002.tar"):
        memory.pipe(f"/places/{name}", name.encode())
    yield "memory://places"
    memory.rm("/places", recursive=True)


def web(pattern: str) -> list[str]:
    """Nothing is requested from a web server when each shard is named, so this expands only the braces."""
    return [place.removeprefix("https://a.example/") for place in expand_shards(f"https://a.example/{pattern}.tar")]


plain = st.text("abc01/-", max_size=4)
choices = st.lists(plain, min_size=2, max_size=4)
ranges = st.tuples(st.integers(0, 120), st.integers(0, 12), st.integers(1, 5))


@given(st.lists(st.one_of(plain, choices, ranges), max_size=4))
def test_braces_expand_to_the_product_of_their_parts(parts):
    """The oracle: the Cartesian product of the expansions of all parts."""
    pattern, meant = "", []
    for part in parts:
        if isinstance(part, str):
            pattern, meant = pattern + part, [*meant, [part]]
        elif isinstance(part, list):
            pattern, meant = pattern + "{" + ",".join(part) + "}", [*meant, part]
        else:
            first, more, width = part
            pattern += f"{{{first:0{width}d}..{first + more:0{width}d}}}"
            meant.append([f"{number:0{width}d}" for number in range(first, first + more + 1)])
    names = {"".join(found) + ".tar" for found in itertools.product(*meant)}
    assert web(pattern) == sorted(names)


@given(st.text("{}ab,.019", max_size=12))
def test_any_text_is_expanded_or_refused(text):
    try:
        found = web(f"x{text}")
    except DataError as error:
        assert f"x{text}" in str(error)
    else:
        assert found and not any(sign in place for place in found for sign in "{}")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("{08..11}", ["08", "09", "10", "11"]),
        ("{8..11}", ["10", "11", "8", "9"]),
        ("{0..1}", ["0", "1"]),
        ("{00000..00000}", ["00000"]),
        ("{a,b{1..2}}", ["a", "b1", "b2"]),
        ("{a,a}", ["a"]),
        ("x{,y}", ["x", "xy"]),
    ],
)
def test_brace_expansion_examples(pattern, expected):
    assert web(pattern) == [f"{name}.tar" for name in expected]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{1..5001}", "more than 5,000"),
        ("{0..999999999999999999}", "more than 5,000"),
        ("{0..99}{0..24}{0..2}", "more than 5,000"),
        ("{a,b}" * 200, "more than 5,000"),
        ("{5..1}", "runs backwards"),
        ("{a}", "neither a range"),
        ("{}", "neither a range"),
        ("{1..2..3}", "neither a range"),
        ("{-1..2}", "neither a range"),
        ("{a..c}", "neither a range"),
        ("{0..1", "unbalanced braces"),
        ("0..1}", "unbalanced braces"),
        ("}{", "unbalanced braces"),
        ("{" * 100_000, "unbalanced braces"),
    ],
)
def test_malformed_and_excessive_braces_are_refused(monkeypatch, pattern, message):
    monkeypatch.setattr("exiflang.data.shard_urls.MAX_SHARDS", 5000)
    with pytest.raises(DataError, match=message):
        web(pattern)


def test_at_most_max_shards_are_allowed(monkeypatch, tmp_path):
    monkeypatch.setattr("exiflang.data.shard_urls.MAX_SHARDS", 3)
    assert len(web("{0..2}")) == len(web("{a,b,c}")) == 3
    touch(tmp_path, *(f"{i}.tar" for i in range(4)))
    with pytest.raises(DataError, match="more than 3 shards"):
        expand_shards(f"{tmp_path}/*.tar")


def test_folders_globs_and_names(tmp_path):
    first = touch(tmp_path / "a", "00000.tar", "00001.tar")
    second = touch(tmp_path / "b", "00000.tar")
    touch(tmp_path / "a", ".hidden.tar", "00000.json")
    assert expand_shards(str(tmp_path / "a")) == first
    assert expand_shards(f"{tmp_path}/a/") == first
    assert expand_shards(f"{tmp_path}/{{a,b}}") == first + second
    assert expand_shards(f"{tmp_path}/*/*.tar") == first + second
    assert expand_shards(f"{tmp_path}/**/00000*") == [first[0], *second]
    assert expand_shards(f"{tmp_path}/a/{{00001..00001}}.tar") == first[1:]
    assert expand_shards(second[0]) == second
    assert expand_shards(f"{tmp_path}/a/{{0000?,00001}}.tar") == first
    assert shard_sizes(first + second) == [9, 9, 9]


def test_special_characters_in_the_name_of_an_existing_folder(tmp_path):
    made = touch(tmp_path / "set {a} [1]*", "00000.tar")
    assert expand_shards(str(tmp_path / "set {a} [1]*")) == made


def test_relative_paths_refer_to_the_working_directory(tmp_path, monkeypatch):
    made = touch(tmp_path / "here" / "set", "00000.tar")
    monkeypatch.chdir(tmp_path / "here")
    assert expand_shards("set") == made
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=re.escape(str(tmp_path / "set"))):
        expand_shards("set")


@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_pattern_is_refused(text):
    with pytest.raises(DataError, match="no shards named"):
        expand_shards(text)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone", "no such shard or folder"),
        ("gone.tar", "no such shard or folder"),
        ("set/{00000..00002}.tar", "00001.tar: no such shard"),
        ("set/*.zip", r"no .tar shard there"),
        ("empty", "no .tar shard there"),
        ("gaps", "shard 00001.tar is missing"),
    ],
)
def test_missing_shards_are_reported(tmp_path, name, message):
    touch(tmp_path, "set/00000.tar", "gaps/00000.tar", "gaps/00002.tar", "empty/readme.txt")
    with pytest.raises(DataError, match=message):
        expand_shards(f"{tmp_path}/{name}")


def test_urls(far):
    assert [place[-9:] for place in expand_shards(far)] == ["00000.tar", "00001.tar", "00010.tar"]
    assert expand_shards(far + "/") == [f"{far}/00000.tar", f"{far}/00001.tar", f"{far}/00010.tar"]
    assert expand_shards(f"{far}/{{00000..00001}}.tar") == [f"{far}/00000.tar", f"{far}/00001.tar"]
    for pattern, count in {"/0000?.tar": 2, "/*": 3, "/**/*.tar": 4, "/deep": 1, "/{deep/,}0*": 4}.items():
        assert len(expand_shards(far + pattern)) == count
    assert shard_sizes([f"{far}/00000.tar", f"{far}/deep/00002.tar"]) == [9, 14]


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("memory://nowhere", "no .tar shard there"),
        ("memory://nowhere/*.tar", "no .tar shard there"),
        ("memory://places/{00000..00002}.tar", "00002.tar: no such shard"),
        ("gopher://a/b.tar", "cannot be read .*gopher"),
        ("gopher://a/*.tar", "cannot be read .*gopher"),
        ("http://127.0.0.1:9/*.tar", "cannot be read .*check the address|no .tar shard there"),
        ("http://127.0.0.1:9/set", "cannot be read .*check the address|no .tar shard there"),
    ],
)
def test_missing_shards_at_a_url_are_reported(far, place, message):
    with pytest.raises(DataError, match=message):
        expand_shards(place)
