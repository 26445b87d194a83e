"""A person's status and note: kept with the report, shown on its page and in the gallery, and changed from outside."""

import re

import pytest

from exiflang.cli import main
from exiflang.inspection.gallery import make_gallery
from exiflang.inspection.report import Provenance, write_report
from exiflang.inspection.review import MOST_CHARACTERS, Review, change_review, clean_note, kept_review
from tests.inspection.test_report import ATTACK, Page, inspector_of, photo, read_json, save_model


@pytest.fixture(scope="module")
def inspector(tmp_path_factory):
    return inspector_of(save_model(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture(scope="module")
def inspection(inspector):
    return inspector(photo(), "a.jpg")


@pytest.fixture
def report(inspector, inspection, tmp_path):
    return write_report(inspection, tmp_path, Provenance.of(inspector))


def review_of(page):
    return read_json(page.with_suffix(".json"))["review"]


def test_a_new_report_is_open(report):
    assert review_of(report) == {"status": "open", "note": "", "changed": ""}
    assert "Review: open" in Page(report.read_text()).text


def test_a_change_reaches_page_and_json_and_nothing_else(report):
    page, facts = report.read_text(), read_json(report.with_suffix(".json"))
    note = f"{ATTACK} <!-- /review -->\nsecond line \\1 & more"
    change_review(report.with_suffix(".json"), "suspicious", note)
    changed, block = report.read_text(), re.compile("<!-- review -->.*<!-- /review -->", re.DOTALL)
    assert Page(changed) and ATTACK not in changed and changed.count("<!-- /review -->") == 1
    assert block.sub("", changed) == block.sub("", page)
    assert f"Review: suspicious\n  {note}\n" in re.sub(r"\n +", "\n  ", Page(changed).text)
    new = read_json(report.with_suffix(".json"))
    assert new.pop("review")["note"] == note and new == {key: facts[key] for key in facts if key != "review"}
    first = review_of(report)["changed"]
    assert change_review(report, note=note) == Review("suspicious", note, first)  # nothing new
    assert change_review(report, note="").note == "" and review_of(report)["status"] == "suspicious"


def test_a_report_that_is_made_anew_keeps_it(inspector, inspection, report):
    change_review(report, "cleared", "my own photo")
    known = review_of(report)
    other = inspector.with_settings(readout="mean_shift")
    assert write_report(other.again(inspection), report.parent, Provenance.of(other)) == report
    assert review_of(report) == known and "my own photo" in report.read_text()
    assert kept_review(report.with_suffix(".json"), "1" * 64) == Review()  # of another picture


def test_a_gallery_shows_it_and_keeps_it(inspector, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(2):
        (folder / f"{number}.jpg").write_bytes(photo(seed=number))
    index = make_gallery(folder, tmp_path / "out", inspector)
    report = tmp_path / "out" / read_json(index.with_suffix(".json"))["pictures"][0]["report"]
    change_review(report, "suspicious", f"look again {ATTACK}")
    for settings in ({}, {"readout": "mean_shift"}):
        make_gallery(folder, tmp_path / "out", inspector.with_settings(**settings))
        entries = read_json(index.with_suffix(".json"))["pictures"]
        assert [entry["status"] for entry in entries] == ["suspicious", "open"]
        page = Page(index.read_text())
        assert f"look again {ATTACK}" in page.text
        assert {"data-filter": "status"} in page.of("select")
        assert sorted(card["data-is-status"] for card in page.of("li") if "data-name" in card) == ["open", "suspicious"]


def test_notes_are_clean_lines_and_not_endless():
    assert clean_note("\r\n a\x1b[31mb \u202etxt\r\nnext\tone\x00\n\n") == " a [31mb  txt\nnext one"
    assert clean_note("²\nß") == "²\nß" and clean_note("\udcff") == ""
    assert len(clean_note("x" * MOST_CHARACTERS)) == MOST_CHARACTERS
    with pytest.raises(ValueError, match="the note has 10,001 characters: shorten it to 10,000"):
        Review().with_changes(note="x" * 10_001)
    with pytest.raises(ValueError, match="unknown status 'guilty': choose one of open, cleared, suspicious"):
        Review().with_changes("guilty")


@pytest.mark.parametrize("damaged", [None, 3, [], {}, {"status": "x", "note": "", "changed": ""},
                                     {"status": "open", "note": 3, "changed": ""}])  # fmt: skip
def test_a_damaged_review_is_a_new_one(damaged):
    assert Review.of({"review": damaged}) == Review()


def test_the_command_shows_and_changes_it(report, capsys):
    assert main(["note", str(report), "--status", "cleared", "--note", "by me\nand you"]) == 0
    assert review_of(report)["note"] == "by me\nand you"
    capsys.readouterr()
    assert main(["note", str(report.with_suffix(".json"))]) == 0
    assert capsys.readouterr().out.splitlines() == ["cleared", "by me", "and you", str(report)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "x.json: No such file or directory; check the path"),
        ("{", "x.json: damaged, or not a report: inspect the picture again"),
        ("[]", "x.json: not the report of a picture"),
        ('{"pictures": []}', "x.json: not the report of a picture: name one in the folder pictures of a gallery"),
        ('{"sha256": "", "heatmap": []}', "x.html: has no place for a review: inspect the picture again"),
    ],
)
def test_what_is_no_report_is_refused_in_one_line(tmp_path, monkeypatch, capsys, content, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.html").write_text("<p>a page")
    if content is not None:
        (tmp_path / "x.json").write_text(content)
    assert main(["note", "x.html", "--status", "cleared"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {message}") and said.count("\n") == 1
    assert (tmp_path / "x.html").read_text() == "<p>a page"
