"""Names of files that are no UTF-8 become text that anything takes; a command prints paths as they are."""

import os
from pathlib import Path

import pytest

from exiflang.utils.commands import run_command
from exiflang.utils.files import printable
from exiflang.viz.html import render


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("plain.jpg", "plain.jpg"),
        ("Café 日本 😀.jpg", "Café 日本 😀.jpg"),
        (os.fsdecode(b"caf\xe9.jpg"), "caf\\xe9.jpg"),
        (Path(os.fsdecode(b"\xff/a")), "\\xff/a"),
        ("half a pair \ud800", "half a pair \\ud800"),
        ("", ""),
    ],
)
def test_names_become_printable(name, text):
    assert printable(name) == text and printable(text) == text


def test_a_command_prints_a_path_as_it_is_and_errors_as_text(capsysbinary):
    path = os.fsdecode(b"/caf\xe9.html")

    def command(fail: bool = False) -> None:
        print(path)
        if fail:
            raise ValueError(f"{path}: is wrong")

    assert run_command(command, []) == 0 and run_command(command, ["--fail"]) == 1
    said = capsysbinary.readouterr()
    assert said.out == b"/caf\xe9.html\n" * 2 and said.err == b"error: /caf\\xe9.html: is wrong\n"


def test_pages_of_html_are_utf_8_whatever_is_in_them():
    left_out = [{"name": "a", "reason": os.fsdecode(b"caf\xe9")}]
    page = render(
        "gallery.html.j2",
        title="",
        entries=[],
        left_out=left_out,
        passed_over="",
        origin={"settings": {}, "model_files": {}, "private": False},
        made="",
        page=1,
    )
    assert page.encode() and "caf\\xe9" in page
