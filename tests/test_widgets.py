"""The inspector by its traits: opened, clicked, compared, set otherwise, cancelled, exported, as a person would."""

import threading
from datetime import datetime

import numpy as np
import pytest
import traitlets
from test_inspection import folder, inspector  # noqa: F401
from test_picture import EXIF, encoded

from exiflang import windows
from exiflang.inspection import Inspector
from exiflang.localize import SpliceLocalizer
from exiflang.model import ExifLang
from exiflang.views import similarity_map
from exiflang.widgets import HeatmapInspector

EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "a.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    noise[30:80, 60:120] //= 4
    path.write_bytes(encoded(noise, exif=EXIF))
    return path


@pytest.fixture
def panel(folder, picture):  # noqa: F811
    made = HeatmapInspector(picture, inspector(folder))
    made.wait(60)
    return made


def test_before_a_picture_it_says_what_to_do(folder):  # noqa: F811
    made = HeatmapInspector(inspector=inspector(folder))
    assert made.inspection is None and not made.busy and "Open a picture" in made.status
    made.export("png")
    made.ask("Make")
    assert "No picture is open" in made.controls.exported.value and "No picture" in made.controls.answer.value
    made.threshold, made.opacity, made.left_view = 0.3, 0.1, "mask"  # nothing to draw yet


def test_a_picture_is_opened_and_explained(panel):
    assert panel.inspection.picture.name == "a.jpg" and not panel.busy and panel.status.startswith("Done")
    heat = panel.inspection.result.heatmap
    assert 0 < (heat > panel.threshold).mean() < 0.6
    assert "a.jpg" in panel.controls.about.value and "Score" in panel.controls.about.value
    assert "Canon" in panel.controls.tags.value and "The pixels fit" in panel.controls.fit.value


def test_a_click_selects_and_shows_what_is_like_the_window(panel):
    result = panel.inspection.result
    x, y = 2 * result.stride + result.window_size / 2, 1 * result.stride + result.window_size / 2
    panel._clicked(x + 1, y - 1, shift=False)
    assert panel.selected == (1, 2) and panel.right_view == "similarity"
    grid = panel.panels._trace(1, "windows")
    np.testing.assert_allclose(grid.z, similarity_map(result.embeddings, 1, 2), rtol=1e-5)
    assert [field.value for field in panel.controls.fields["selected"]] == [1, 2]


@pytest.mark.parametrize("way", ["shift", "toggle"])
def test_a_second_window_is_compared(panel, way):
    panel.choose(0, 1)
    panel.controls.compare.value = way == "toggle"
    panel._clicked(0, 0, shift=way == "shift")
    assert panel.selected == (0, 1) and panel.compared == (0, 0)
    embeddings = panel.inspection.result.embeddings
    assert f"{embeddings[0, 1] @ embeddings[0, 0]:.3f}" in panel.controls.cosine.value


def test_fields_select_by_keyboard(panel):
    panel.controls.fields["selected"][1].value = 2
    assert panel.selected[1] == 2 and "similarity" in (panel.left_view, panel.right_view)
    panel.controls.fields["compared"][0].value = 1
    assert panel.compared == (1, 0)


@pytest.mark.parametrize("place", [(99, 0), (0, 99), (-1, 0)])
def test_windows_that_are_not_there_cannot_be_selected(panel, place):
    before = panel.selected
    with pytest.raises(traitlets.TraitError, match="windows, counted from 0"):
        panel.selected = place
    assert panel.selected == before


def test_sliders_and_views_act_without_the_network(panel, monkeypatch):
    monkeypatch.setattr(SpliceLocalizer, "embed", lambda *given, **more: pytest.fail("encoded again"))
    panel.left_view = "mask"
    before = panel.panels.figure.layout.images[1].source
    panel.controls.sliders["threshold"].value = 0.2
    panel.controls.sliders["opacity"].value = 0.9
    assert panel.threshold == 0.2 and panel.opacity == 0.9
    assert panel.panels.figure.layout.images[1].source != before
    assert panel.panels.figure.layout.images[1].opacity == 0.9


def test_zoom_stays_when_views_change(panel):
    panel.panels.figure.layout.xaxis.range = [10, 60]
    panel.left_view = "components"
    panel.choose(1, 1)
    assert tuple(panel.panels.figure.layout.xaxis.range) == (10, 60)


def test_another_readout_asks_no_network_another_number_of_windows_does(panel, monkeypatch):
    calls = []
    embed = SpliceLocalizer.embed
    monkeypatch.setattr(SpliceLocalizer, "embed", lambda *given, **more: calls.append(1) or embed(*given, **more))
    first = panel.inspection
    panel.controls.readout.value = "mean_shift"
    panel.wait(60)
    assert calls == [] and panel.inspection.settings["readout"] == "mean_shift"
    assert panel.inspection.result.embeddings is first.result.embeddings
    panel.controls.windows.value = 8
    panel.wait(60)
    assert calls == [1] and panel.inspection.settings["windows_per_side"] == 8
    assert panel.inspection.picture is first.picture  # the file was not read again


def test_what_cannot_be_read_is_said_and_the_old_picture_stays(panel, tmp_path):
    (tmp_path / "b.jpg").write_bytes(b"text")
    shown = panel.inspection
    for path, said in ((tmp_path / "b.jpg", "b.jpg: not a picture"), (tmp_path / "none.jpg", "no such file")):
        panel.open_picture(path)
        panel.wait(60)
        assert said in panel.status and said in panel.controls.said.value
        assert panel.inspection is shown and not panel.busy


def test_cancel_stops_and_the_old_picture_stays(panel, picture, monkeypatch):
    going, go_on, shown = threading.Event(), threading.Event(), panel.inspection

    def slow(self, image, progress=windows.no_progress, **more):
        going.set()
        go_on.wait(30)
        progress(0.5)
        pytest.fail("not cancelled")

    monkeypatch.setattr(SpliceLocalizer, "embed", slow)
    panel.open_picture(picture)
    assert going.wait(30) and panel.busy
    panel.controls.cancel.click()
    go_on.set()
    panel.wait(30)
    assert panel.status == "Cancelled." and not panel.busy and panel.inspection is shown


def test_an_upload_is_opened_and_not_kept(panel):
    data = encoded(exif=EXIF)
    file = {"name": "up.jpg", "type": "image/jpeg", "size": len(data), "content": memoryview(data)}
    panel.controls.upload.value = (file | {"last_modified": datetime(2020, 1, 1)},)
    panel.wait(60)
    assert panel.inspection.picture.name == "up.jpg" and panel.controls.upload.value == ()


def test_a_new_picture_forgets_the_second_window(panel, tmp_path):
    panel.compared = (1, 1)
    panel.open_picture(encoded(np.zeros((1, 1, 3), np.uint8), "PNG"), "one.png")
    panel.wait(60)
    assert panel.selected == (0, 0) and panel.compared is None
    assert "misfit" not in [name for _, name in panel.controls.views["left_view"].options]


def test_a_view_that_the_next_picture_lacks_gives_way(panel):
    panel.right_view = "misfit"
    panel.open_picture(encoded(kind="PNG"), "b.png")
    panel.wait(60)
    assert panel.right_view == "components" and "it carries none" in panel.controls.fit.value


def test_questions(panel):
    panel.ask("Make: Canon")
    assert "<b>Canon</b>" in panel.controls.answer.value
    panel.ask("GPSLatitude: 1")
    assert "ask another tag" in panel.controls.answer.value and "error" in panel.controls.answer.value
    panel.ask(EVIL)
    assert "<img" not in panel.controls.answer.value


def test_exports(panel, tmp_path):
    panel.controls.folder.value = str(tmp_path / "out")
    for kind in ("png", "npz", "html"):
        panel.controls.exports[kind].click()
        assert "Written" in panel.controls.exported.value
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".png", ".npz", ".html", ".json"}
    (tmp_path / "file").write_text("")
    panel.controls.folder.value = str(tmp_path / "file")
    assert panel.export("npz") is None and "cannot be written" in panel.controls.exported.value


def test_nothing_from_a_file_is_html(folder):  # noqa: F811
    made = HeatmapInspector(inspector=inspector(folder))
    made.open_picture(encoded(exif={0x010F: EVIL, 0x0110: EVIL}), EVIL + ".jpg")
    made.wait(60)
    own = made.controls
    shown = [own.about.value, own.fit.value, own.tags.value, own.said.value, own.cosine.value]
    assert any("&lt;img" in text for text in shown) and not any("<img" in text for text in shown)
    made.open_picture(EVIL)
    made.wait(60)
    assert "&lt;img" in own.said.value and "<img" not in own.said.value


def test_a_model_without_a_population_says_so(tmp_path, folder, picture):  # noqa: F811
    ExifLang.from_pretrained(str(folder)).save_pretrained(str(tmp_path / "bare"))
    bare = Inspector(SpliceLocalizer(ExifLang.from_pretrained(str(tmp_path / "bare")), windows_per_side=5))
    made = HeatmapInspector(picture, bare)
    made.wait(60)
    assert "cannot be asked" in made.controls.answer.value and made.controls.question.disabled
    assert "this model cannot tell" in made.controls.fit.value
