"""Files and their names: names that are not UTF-8 become printable, and concurrent writers do not collide."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from exiflang.utils.commands import run_command
from exiflang.utils.files import printable, write_whole
from exiflang.utils.locks import hold
from exiflang.viz.html import render


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("plain.jpg", "plain.jpg"),
        ("Café 日本 😀.jpg", "Café 日本 😀.jpg"),
        (os.fsdecode(b"caf\xe9.jpg"), "caf\\xe9.jpg"),
        (Path(os.fsdecode(b"\xff/a")), "\\xff/a"),
        ("half a surrogate pair \ud800", "half a surrogate pair \\ud800"),
        ("", ""),
    ],
)
def test_names_become_printable(name, text):
    assert printable(name) == text and printable(text) == text


def test_a_command_prints_paths_unchanged_and_errors_as_text(capsysbinary):
    path = os.fsdecode(b"/caf\xe9.html")

    def command(fail: bool = False) -> None:
        print(path)
        if fail:
            raise ValueError(f"{path}: is wrong")

    assert run_command(command, []) == 0 and run_command(command, ["--fail"]) == 1
    said = capsysbinary.readouterr()
    assert said.out == b"/caf\xe9.html\n" * 2 and said.err == b"error: /caf\\xe9.html: is wrong\n"


def test_html_pages_are_always_utf_8():
    left_out = [{"name": "a", "reason": os.fsdecode(b"caf\xe9")}]
    page = render(
        "gallery.html.j2",
        title="",
        entries=[],
        left_out=left_out,
        passed_over="",
        origin={"settings": {}, "model_files": {}, "private": False, "signatures": {}},
        made="",
        page=1,
        choices={},
    )
    assert page.encode() and "caf\\xe9" in page


def test_concurrent_writers_of_one_file_do_not_collide(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: write_whole(tmp_path / "file", str(number % 10) * 10_000), range(400)))
    (path,) = tmp_path.iterdir()
    assert len(path.read_text()) == 10_000 and len(set(path.read_text())) == 1


# ---- locks


def test_a_lock_is_exclusive_and_removed_afterwards(tmp_path):
    lock = tmp_path / "new" / ".lock"
    with hold(lock, "folder", ValueError), ThreadPoolExecutor(1) as pool:
        with pytest.raises(ValueError, match=rf"^folder: another run is using it \(process {os.getpid()} on .*: wait"):
            pool.submit(hold(lock, "folder", ValueError).__enter__).result()
    assert not lock.exists()
    with hold(lock, "folder", ValueError):
        pass


def test_the_lock_of_a_killed_process_is_released(tmp_path):
    lock = tmp_path / ".lock"
    script = "import sys, time; from pathlib import Path; from exiflang.utils.locks import hold\n"
    script += "with hold(Path(sys.argv[1]), 'f', ValueError, 'work'): print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", script, str(lock)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=f"process {other.pid} on "), hold(lock, "f", ValueError, "other work"):
            pass
        other.kill()
    with hold(lock, "f", ValueError):
        assert f'"pid": {os.getpid()}' in lock.read_text()
    assert not lock.exists()


def test_holders_with_the_same_work_take_turns(tmp_path, capsys):
    inside, most = [], []

    def work(number):
        with hold(tmp_path / ".lock", "f", ValueError, {"same": 1}):
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.4)
            inside.remove(number)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    assert most == [1] * 6 and "f: waiting for process" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
