"""Listings of folders in the inspector, whatever is in them."""

import os

import pytest

from exiflang.inspection.widget import file_browser
from exiflang.inspection.widget.file_browser import FileBrowser, list_folder


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "Sub").mkdir()
    (tmp_path / "Sub" / "c.webp").write_bytes(b"")
    for name in ("b.JPG", "a.png", "notes.txt", ".hidden.jpg"):
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def names(listing) -> list[str]:
    return [name for name, _ in listing.entries]


def test_folders_come_before_pictures_and_hidden_files_are_left_out(folder):
    listing = list_folder(folder)
    assert names(listing) == ["..", "Sub/", "a.png", "b.JPG"]
    assert listing.note == "1 file skipped, not a picture by extension: notes.txt."
    assert dict(listing.entries)[".."] == folder.parent and listing.folder == folder


def test_the_root_has_no_parent_entry():
    assert ".." not in names(list_folder("/"))


@pytest.mark.parametrize("name", ["none", "a.png"])
def test_an_unreadable_folder_has_a_parent_entry_and_a_note(folder, name):
    listing = list_folder(folder / name)
    assert names(listing) == [".."] and "cannot be read" in listing.note


def test_an_empty_folder_says_so(tmp_path):
    assert list_folder(tmp_path).note == "No pictures here."
    for number in range(9):
        (tmp_path / f"{number}.psd").write_bytes(b"")
    said = "9 files skipped, not pictures by extension: 0.psd, 1.psd, 2.psd, 3.psd, 4.psd, ..."
    assert list_folder(tmp_path).note == f"No pictures here. {said}."


def test_a_huge_folder_is_read_up_to_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(file_browser, "MOST_READ", 3)
    for i in range(5):
        (tmp_path / f"{i}.jpg").write_bytes(b"")
    listing = list_folder(tmp_path)
    assert len(listing.entries) == 4 and "Only 3" in listing.note


def test_circular_links_and_unusual_names_are_listed(tmp_path):
    os.symlink(tmp_path / "loop.jpg", tmp_path / "loop.jpg")
    (tmp_path / "a\nb\x1b.jpg").write_bytes(b"")
    (label,) = names(list_folder(tmp_path))[1:]
    assert label.isprintable()
    (tmp_path / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"")
    (tmp_path / os.fsdecode(b"f\xf6lder")).mkdir()
    assert names(list_folder(tmp_path))[1::2] == ["f\\xf6lder/", "caf\\xe9.jpg"]


def test_open_enters_folders_and_opens_pictures(folder):
    opened = []
    browser = FileBrowser(opened.append, folder)
    browser.names.value = folder / "Sub"
    browser.button.click()
    assert browser.folder == folder / "Sub" and opened == []
    browser.names.value = folder / "Sub" / "c.webp"
    browser.button.click()
    assert opened == [folder / "Sub" / "c.webp"]
    browser.names.value = folder
    browser.open_chosen()
    assert browser.folder == folder


def test_open_without_a_selection_does_nothing(tmp_path):
    opened = []
    browser = FileBrowser(opened.append, tmp_path)
    browser.names.value = None
    browser.button.click()
    assert opened == [] and browser.folder == tmp_path and names(list_folder(tmp_path)) == [".."]
