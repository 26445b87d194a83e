"""Galleries: every file of a folder is listed once, no work is done twice, and the page sorts all pictures."""

import os
import shutil
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest

from exiflang.inspection import gallery
from exiflang.inspection.gallery import gallery_page, make_gallery, summary
from exiflang.inspection.inspector import Inspector
from exiflang.pipeline.__main__ import main
from exiflang.utils.folders import find_pictures
from tests.dng import dng
from tests.inspection.by_hand import learned
from tests.inspection.test_report import ATTACK, Page, inspector_of, photo, read_json, save_model


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return save_model(tmp_path_factory.mktemp("model") / "knowing", calibrated=True, text_bank=True)


@pytest.fixture
def folder(tmp_path):
    """Four pictures, two of them identical, and two files that are not pictures."""
    root = tmp_path / "pictures & more"
    (root / "deep").mkdir(parents=True)
    (root / "b.jpg").write_bytes(photo(seed=1, make=ATTACK))
    (root / "copy.jpeg").write_bytes(photo(seed=2))
    (root / "deep" / "copy.jpg").write_bytes(photo(seed=2))
    (root / "deep" / f"{ATTACK.replace('/', '')} #1%.JPG").write_bytes(photo(seed=3, exif=False))
    (root / "broken.png").write_bytes(b"no picture")
    (root / "empty.gif").write_bytes(b"")
    (root / "notes.txt").write_text("not looked at")
    return root


@pytest.fixture
def inspected(monkeypatch) -> list[str]:
    """The names of the pictures that were analyzed."""
    names, inspect = [], Inspector.inspect

    def count(self, picture, *arguments):
        names.append(picture.name)
        return inspect(self, picture, *arguments)

    monkeypatch.setattr(Inspector, "inspect", count)
    return names


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_picture_has_a_card_and_bad_files_are_listed(folder, model, tmp_path):
    page = make_gallery(folder, tmp_path / "out", inspector_of(model))
    index, html = read_json(page.with_suffix(".json")), Page(page.read_text(encoding="utf-8"))
    assert [entry["name"] for entry in index["pictures"]] == [
        "b.jpg", "copy.jpeg", f"deep/{ATTACK} #1%.JPG", "deep/copy.jpg",
    ]  # fmt: skip
    assert [(entry["name"], entry["reason"].split(",")[0]) for entry in index["left_out"]] == [
        ("broken.png", "not a picture"), ("empty.gif", "not a picture"),
    ]  # fmt: skip
    assert not any("thumbnail" in entry for entry in index["pictures"])
    cards = html.of("li")[:4]
    assert len({card["data-name"] for card in cards}) == 4
    assert [float(card["data-score"]) for card in cards] == sorted(
        (e["score"] for e in index["pictures"]), reverse=True
    )
    assert "broken.png" in html.text and "2 could not be read" in html.text
    assert (
        index["passed_over"] == "1 file skipped, not a picture by extension: notes.txt"
        and index["passed_over"] in html.text
    )
    assert summary(page)[-2:] == ["could not be read: 2", index["passed_over"]]
    assert ATTACK in html.text and ATTACK not in page.read_text(encoding="utf-8")
    links = [link["href"] for link in html.of("a") if link["href"].startswith("pictures/")]
    assert len(links) == 4 and len(set(links)) == 3  # identical pictures share one
    for link in links:
        Page((page.parent / link).read_text(encoding="utf-8"))
    without = next(entry for entry in index["pictures"] if ATTACK in entry["name"])
    assert without["percentile"] is None and without["make"] == without["model"] == ""


def test_a_second_run_does_no_work_and_gives_the_same_page(folder, model, tmp_path, inspected):
    out = tmp_path / "out"
    make_gallery(folder, out, inspector_of(model))
    assert len(inspected) == 3
    before = contents(out)
    make_gallery(folder, out, inspector_of(model))
    assert len(inspected) == 3 and contents(out) == before


def test_a_gallery_inside_its_folder_does_not_include_itself(folder, model):
    first, again = (make_gallery(folder, folder / "out", inspector_of(model)).read_bytes() for _ in range(2))
    assert first == again


def test_an_interrupted_run_is_resumed(folder, model, tmp_path, inspected, monkeypatch):
    out, write = tmp_path / "out", gallery.write_report

    def once(*arguments):
        if len(inspected) > 1:
            raise KeyboardInterrupt
        return write(*arguments)

    monkeypatch.setattr(gallery, "write_report", once)
    with pytest.raises(KeyboardInterrupt):
        make_gallery(folder, out, inspector_of(model))
    assert not (out / "index.html").exists()
    monkeypatch.setattr(gallery, "write_report", write)
    index = read_json(make_gallery(folder, out, inspector_of(model)).with_suffix(".json"))
    assert inspected.count("b.jpg") == 1 and len(index["pictures"]) == 4


@pytest.mark.parametrize("damage", ["settings", "private", "weights", "picture", "json", "truncated", "page"])
def test_outdated_or_damaged_entries_are_made_again(folder, model, tmp_path, inspected, damage):
    for path in (folder / "copy.jpeg", folder / "deep"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    out, mine = tmp_path / "out", tmp_path / "model"
    shutil.copytree(model, mine)
    make_gallery(folder, out, inspector_of(str(mine)))
    (report,) = (out / "pictures").glob("*.json")
    settings = {"readout": "far_friends"} if damage == "settings" else {}
    if damage == "weights":
        (mine / "text_bank.safetensors").unlink()
    if damage == "picture":
        (folder / "b.jpg").write_bytes(photo(seed=9))
    if damage == "json":
        report.write_text("[]")
    if damage == "truncated":
        report.write_text(report.read_text()[:100])
    if damage == "page":
        report.with_suffix(".html").unlink()
    make_gallery(folder, out, inspector_of(str(mine), private=damage == "private", **settings))
    assert inspected == ["b.jpg", "b.jpg"]
    assert read_json(out / "index.json")["origin"]["private"] is (damage == "private")


def test_folders_without_readable_pictures_exit_with_1(tmp_path, model, capsys):
    folder, command = tmp_path / "none", ["-p", "model_dir", model, "--out", str(tmp_path / "out")]
    folder.mkdir()
    assert main(["--inspect", str(folder), *command]) == 1
    assert "none: no pictures in it (.3fr, .apng, .arw, .avif" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    (folder / "notes.txt").write_bytes(b"of a trip")
    assert main(["--inspect", str(folder), *command]) == 1
    assert "; 1 file skipped, not a picture by extension: notes.txt" in capsys.readouterr().err
    (folder / "bad.jpg").write_bytes(b"bad")
    assert main(["--inspect", str(folder), *command]) == 1
    assert "none of its 1 pictures can be read; see " in capsys.readouterr().err
    assert "bad.jpg" in (tmp_path / "out" / "index.html").read_text()
    (folder / "good.jpg").write_bytes(photo())
    assert main(["--inspect", str(folder), *command]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out" / "index.html")


def test_links_and_special_files_are_listed_safely(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "folder.jpg").mkdir(parents=True)
    outside.mkdir()
    (outside / "secret.jpg").write_bytes(photo())
    (root / "a.jpg").write_bytes(photo())
    (root / "link.jpg").symlink_to(root / "a.jpg")
    (root / "out.jpg").symlink_to(outside / "secret.jpg")
    (root / "folder").symlink_to(outside)
    (root / "broken.jpg").symlink_to(root / "absent.jpg")
    (root / "loop.jpg").symlink_to(root / "loop.jpg")
    found, left_out, others = find_pictures(root)
    assert [path.name for path in found] == ["a.jpg", "broken.jpg", "link.jpg", "loop.jpg"]
    links = [(root / "folder", "a link to a folder"), (root / "out.jpg", "a link that leads out of the folder")]
    assert left_out == links and others == []
    assert find_pictures(root, outside=True)[:2] == ([*found, root / "out.jpg"], links[:1])


def test_pipes_and_broken_links_are_skipped_without_revealing_paths(tmp_path, model):
    root = tmp_path / "private name" / "root"
    root.mkdir(parents=True)
    (root / "a.jpg").write_bytes(photo())
    os.mkfifo(root / "pipe.jpg")
    (root / "broken.jpg").symlink_to(root / "absent.jpg")
    page = make_gallery(root, tmp_path / "out", inspector_of(model))
    left_out = read_json(page.with_suffix(".json"))["left_out"]
    assert [entry["name"] for entry in left_out] == ["broken.jpg", "pipe.jpg"]
    for path in (tmp_path / "out").rglob("*.*"):
        assert "private name" not in path.read_text(encoding="utf-8")


def test_raw_files_have_cards_and_a_damaged_one_is_named(tmp_path, model):
    root, raw = tmp_path / "pictures", dng(np.random.default_rng(0).random((320, 320, 3)))
    root.mkdir()
    (root / "a.DNG").write_bytes(raw)
    (root / "b.dng").write_bytes(raw[:1000])
    index = read_json(make_gallery(root, tmp_path / "out", inspector_of(model)).with_suffix(".json"))
    assert [(entry["name"], entry["make"]) for entry in index["pictures"]] == [("a.DNG", "Maker")]
    assert [entry["name"] for entry in index["left_out"]] == ["b.dng"]
    assert index["left_out"][0]["reason"].startswith("a camera's raw file (DNG), but LibRaw does not read it (")


def test_names_that_are_not_utf_8_are_distinguished(tmp_path, model, capsysbinary):
    root, out = (tmp_path / os.fsdecode(name) for name in (b"f\xf6lder", b"\xf6ut"))
    root.mkdir()
    for number, name in enumerate((b"caf\xe8.jpg", b"caf\xe9.jpg")):
        (root / os.fsdecode(name)).write_bytes(photo(seed=number))
    for name in (b"br\xf6ken.jpg", b"n\xf6te.txt"):
        (root / os.fsdecode(name)).write_bytes(b"none")
    command = ["--inspect", str(root), "-p", "model_dir", model, "--out", str(out)]
    assert main(command) == main(command) == 0
    page = Path(os.fsdecode(capsysbinary.readouterr().out.splitlines()[-1]))
    index, html = read_json(page.with_suffix(".json")), page.read_text(encoding="utf-8")
    assert index["folder"] == "f\\xf6lder"
    assert [entry["name"] for entry in index["pictures"]] == ["caf\\xe8.jpg", "caf\\xe9.jpg"]
    assert [(entry["name"], entry["reason"][:13]) for entry in index["left_out"]] == [
        ("br\\xf6ken.jpg", "not a picture")
    ]
    assert index["passed_over"].endswith(": n\\xf6te.txt") and "caf\\xe9.jpg" in html
    report = page.parent / unquote(index["pictures"][1]["report"])
    assert read_json(report.with_suffix(".json"))["name"] == "caf\\xe9.jpg"


def test_other_errors_stop_the_run(folder, model, tmp_path, monkeypatch):
    monkeypatch.setattr(Inspector, "inspect", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make_gallery(folder, tmp_path / "out", inspector_of(model))


# ---- the page

ORIGIN = {"settings": {"model": "tiny", "window_size": None}, "model_files": {"a": "0"}, "private": False}
ORIGIN |= {"signatures": {"key": "0123456789ab", "photos": 3693}}


def entries(count: int) -> list[dict]:
    """Synthetic pictures: scores and names in different orders, every fifth without a percentile."""
    same = {"thumbnail": "data:,", "make": "", "model": "", "calibrated": True, "made": "2026", "unreliable_share": 0.1}
    same |= {"verdict": None, "p_value": None, "regions": 0}
    header = [("never seen", None), ("unusual for the claimed camera", 0.01), ("not decidable", None)]
    kinds = ("strong", "notable", "info", "weak")
    return [
        {
            **same,
            "name": f"{number}.jpg",
            "report": f"pictures/{number}.html",
            "score": number * 37 % count / count,
            "mask_share": number / count,
            "percentile": None if number % 5 == 0 else number * 11 % count / count,
            "familiar": number % 2 == 0,
            **dict(zip(("header", "header_percentile"), header[number % 3], strict=True)),
            "findings": (found := {kind: number // 4**place % 4 for place, kind in enumerate(kinds)}),
            "severity": next((kind for kind, count in found.items() if count), None),
            "status": ("open", "cleared", "suspicious")[number % 7 % 3],
            "note": "",
        }
        for number in range(count)
    ]


def test_cards_show_verdicts_and_a_summary_counts_them(folder, model, tmp_path):
    inspector = inspector_of(model)
    learned(inspector.localizer)
    page = make_gallery(folder, tmp_path / "out", inspector)
    index = read_json(page.with_suffix(".json"))["pictures"]
    assert {entry["verdict"] for entry in index} <= {"spliced", "no splice found"}
    text = Page(page.read_text(encoding="utf-8")).text
    assert page.read_text(encoding="utf-8").count("<dt>Verdict") == 4 and "A p-value is the fraction" in text
    assert sum(int(line.split(": ")[1]) for line in summary(page)[:-1]) == 4 + 2  # two could not be read
    report = page.parent / index[0]["report"]
    assert summary(report)[0] == read_json(report.with_suffix(".json"))["meaning"]
    assert summary(make_gallery(folder, tmp_path / "plain", inspector_of(model))) == [
        "could not be read: 2",
        "1 file skipped, not a picture by extension: notes.txt",
    ]


def test_all_cards_are_in_the_page_and_visible_without_scripts():
    page = Page(gallery_page("many", entries(250), [], "", ORIGIN))
    cards = [card for card in page.of("li") if "data-name" in card]
    assert len(cards) == 250 and not any("hidden" in card for card in cards)
    assert all(image["loading"] == "lazy" and image["decoding"] == "async" for image in page.of("img"))
    assert page.of("ol")[0]["data-page"] == "200"
    assert "hidden" in page.of("form")[0]
    assert (
        Page(gallery_page("none", [], [{"name": "a", "reason": "b"}], "", ORIGIN)).text.count("1 could not be read")
        == 2
    )


def test_the_page_sorts_filters_and_paginates_all_pictures(tmp_path):
    browsers = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or pytest.skip("needs chromium")
    (tmp_path / "index.html").write_text(gallery_page("many", many := entries(250), [], "", ORIGIN), encoding="utf-8")
    by_key = {
        "score": lambda entry: entry["score"],
        "mask": lambda entry: entry["mask_share"],
        "name": lambda entry: int(entry["name"].split(".")[0]),
        "fit": lambda entry: (entry["percentile"] is not None, entry["percentile"]),
        "findings": lambda entry: list(entry["findings"].values()),
    }
    with browsers.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        wrong = []
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto((tmp_path / "index.html").as_uri())

        def seen() -> list[str]:
            return page.eval_on_selector_all("#cards > li:not([hidden])", "cards => cards.map(c => c.dataset.name)")

        for key, value in by_key.items():
            for order, down in (("-1", True), ("1", False)):
                page.select_option("#key", key)
                page.select_option("#order", order)
                with_value = sorted((e for e in many if key != "fit" or e["percentile"] is not None), key=value)
                wanted = [entry["name"] for entry in (reversed(with_value) if down else with_value)]
                shown = seen()
                assert len(shown) == 200 and shown[: len(wanted)] == wanted[:200], (key, order)
                page.click("#pages button:nth-child(2)")
                assert len(seen()) == 50 and not set(seen()) & set(shown)
        assert page.inner_text("#shown") == "201 to 250 of 250"
        page.select_option("#key", "header")  # ascending: unseen headers first, then by percentile
        order = [{entry["name"]: entry["header"] for entry in many}[name] for name in seen()]
        assert order == sorted(order, key=["never seen", "unusual for the claimed camera", "not decidable"].index)
        for key in ("status", "header", "severity"):
            value = page.eval_on_selector(f"[data-filter={key}]", "list => list.options[2].value")
            page.select_option(f"[data-filter={key}]", value)
            assert set(seen()) == {entry["name"] for entry in many if entry[key] == value}
            page.select_option(f"[data-filter={key}]", "")
        assert page.locator("[data-filter=verdict]").count() == 0  # no picture has one
        page.fill("#filter", "24")
        assert set(seen()) == {entry["name"] for entry in many if "24" in entry["name"]}
        assert page.locator("#pages button").count() == 0
        page.fill("#filter", "no such")
        assert seen() == [] and page.inner_text("#shown") == "none"
        browser.close()
    assert wrong == []
