"""The inspector without a browser: its traits, what its controls do, and the pure functions underneath."""

import io
import re
import threading
from datetime import datetime

import ipywidgets as widgets
import numpy as np
import pytest
import torch
import traitlets
from PIL import Image

from exiflang import HeatmapInspector, Inspector, SpliceLocalizer
from exiflang.inspection.views import window_centers
from exiflang.inspection.widget.controls import readout_options, view_options
from exiflang.inspection.widget.exports import shown_picture
from exiflang.inspection.widget.panels import MOST, picture_uri
from exiflang.models.config import ExifLangConfig
from exiflang.models.model import ExifLang
from exiflang.models.weights import packaged_model
from exiflang.utils.files import read_json
from exiflang.viz.images import MARGIN, outlines
from tests.inspection.by_hand import learned


def noise(width=160, height=112, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return ExifLang(ExifLangConfig.preset("tiny")).eval()


@pytest.fixture
def picture(tmp_path):
    noise().save(tmp_path / "one.png")
    return tmp_path / "one.png"


@pytest.fixture
def inspector(model):
    return Inspector(SpliceLocalizer(model, windows_per_side=10))


@pytest.fixture
def panel(inspector, picture, tmp_path):
    made = HeatmapInspector(picture, inspector)
    made.controls.folder.value = str(tmp_path / "exports")
    made.wait()
    return made


@pytest.fixture(scope="module")
def with_exif(tmp_path_factory):
    """An inspector with the packaged weights, and a picture with EXIF that they know."""
    path = tmp_path_factory.mktemp("exif") / "two.jpg"
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "Canon <b>", "Canon EOS 5D"
    noise(256, 192).save(path, exif=exif)
    packaged_model()
    return Inspector(), path


def seen(panel, index, part="windows"):
    """A trace of the left (0) or right (1) panel."""
    return panel.panels._trace(index, part)


def click(panel, index, x, y, shift=False):
    """Send the event that plotly sends for a click."""
    keys = {"alt": False, "ctrl": False, "meta": False, "shift": shift, "button": 0, "buttons": 1}
    points = {"trace_indexes": [4 * index], "point_indexes": [[0, 0]], "xs": [x], "ys": [y]}
    event = {"event_type": "plotly_click", "points": points, "device_state": keys, "selector": None}
    panel.panels.figure._js2py_pointsCallback = event


# ---- pure functions


def test_picture_uris_stay_small():
    assert len(picture_uri(np.zeros((40, 40, 3), np.uint8))) < 2000
    assert len(picture_uri(np.array(noise(320, 240)))) <= MOST < len(picture_uri(np.array(noise(1024, 1024))))


def test_offered_readouts_and_views(panel):
    options = readout_options(panel.inspector.localizer.readout_names)
    assert [name for _, name in options][:2] == ["diffused_cut", "mean_shift"] and "learned" not in dict(options)
    assert readout_options(("mean_shift", "diffused_cut", "learned"))[:2] == [
        ("learned (default)", "learned"), ("mean_shift (the paper's)", "mean_shift"),
    ]  # fmt: skip
    assert "misfit" not in dict(map(reversed, view_options(panel.inspection)))


# ---- the inspector


def test_an_opened_picture_is_shown(panel):
    assert panel.status.startswith("Done in") and not panel.busy
    assert panel.inspection.picture.name == "one.png"
    rows, cols = panel.inspection.result.embeddings.shape[:2]
    for index in (0, 1):
        assert seen(panel, index).z.shape == (rows, cols)
        assert len(seen(panel, index).x) == cols + 1
    assert all(image.source for image in panel.panels.figure.layout.images)
    assert panel.panels.figure.layout.coloraxis.showscale and not panel.panels.figure.layout.coloraxis2.showscale
    assert seen(panel, 0).z[panel.selected] == seen(panel, 0).z.max()
    assert "160 x 112" in panel.controls.about.value and "has no known EXIF" in panel.controls.about.value
    assert panel.controls.bar.layout.display == panel.controls.cancel.layout.display == "none"


def test_clicks_select_and_compare(panel):
    down, across = window_centers(panel.inspection)
    click(panel, 0, across[2], down[1])
    assert panel.selected == (1, 2) and panel.right_view == "similarity"
    assert seen(panel, 1).z[1, 2] == pytest.approx(1, abs=1e-5)
    assert np.allclose(seen(panel, 0, "A").x[0], across[2] - panel.inspection.result.window_size / 2)
    click(panel, 1, across[4], down[3], shift=True)
    assert panel.compared == (3, 4) and panel.selected == (1, 2)
    embeddings = panel.inspection.result.embeddings
    assert f"{embeddings[1, 2] @ embeddings[3, 4]:.3f}" in panel.controls.cosine.value
    panel.controls.compare.value = True
    click(panel, 1, across[0], down[0])
    assert panel.compared == (0, 0) and panel.selected == (1, 2)
    panel.controls.compare.value = False
    click(panel, 1, across[0], down[0])
    assert panel.selected == (0, 0)


def test_row_and_column_fields_select_and_compare(panel):
    row, col = panel.controls.fields["selected"]
    panel.selected = (2, 3)
    assert (row.value, col.value) == (2, 3)
    col.value = 1
    assert panel.selected == (2, 1) and "similarity" in (panel.left_view, panel.right_view)
    panel.controls.fields["compared"][0].value = 2
    assert panel.compared == (2, 0)
    assert col.max == panel.inspection.result.embeddings.shape[1] - 1


def test_a_window_outside_the_grid_is_refused(panel):
    before = panel.selected
    with pytest.raises(traitlets.TraitError, match="counted from 0"):
        panel.selected = (99, 0)
    assert panel.selected == before


def test_threshold_and_opacity_do_not_run_the_model(panel, monkeypatch):
    monkeypatch.setattr(panel.inspector.localizer, "embed", None)
    heat = panel.inspection.result.heatmap
    panel.left_view = "mask"
    panel.threshold = float(np.median(heat))
    assert len(seen(panel, 1, "outline").x) == sum(len(part) + 1 for part in outlines(heat, panel.threshold))
    assert 0 < seen(panel, 0).z.mean() < 1
    panel.controls.sliders["opacity"].value = 0.25
    assert panel.opacity == 0.25
    assert [image.opacity for image in panel.panels.figure.layout.images] == [None, 0.25, None] * 2


def counted(panel, monkeypatch):
    calls = []
    kind = type(panel.inspector.localizer)
    embed = kind.embed
    monkeypatch.setattr(kind, "embed", lambda *args, **more: calls.append(1) or embed(*args, **more))
    return calls


def test_a_new_readout_reuses_embeddings_and_new_windows_do_not(panel, monkeypatch):
    calls = counted(panel, monkeypatch)
    before, place = panel.inspection, panel.selected
    panel.left_view = "similarity"
    panel.panels.figure.layout.xaxis.range = [10, 60]  # zoomed
    panel.panels.figure.layout.xaxis.autorange = False
    panel.controls.readout.value = "mean_shift"
    panel.wait()
    assert calls == [] and panel.inspection.result.embeddings is before.result.embeddings
    assert panel.inspection.settings["readout"] == "mean_shift"
    assert (panel.selected, panel.left_view) == (place, "similarity")
    panel.controls.windows.value = 16
    panel.wait()
    assert calls == [1] and panel.inspection.settings["windows_per_side"] == 16
    assert panel.inspection.picture is before.picture
    assert panel.panels.figure.layout.xaxis.range == (10, 60) and not panel.panels.figure.layout.xaxis.autorange
    panel.controls.mode.value = "dense"
    panel.wait()
    assert calls == [1, 1] and panel.inspection.settings["mode"] == "dense"


def test_hatching_can_be_switched_off(panel):
    def hatched() -> list:
        return [panel.panels._image(index, "hatching").visible for index in (0, 1)]

    assert panel.hatching and hatched() == [True, False]
    panel.controls.hatching.value = False
    assert not panel.hatching and hatched() == [False, False]
    panel.hatching, panel.right_view = True, "heatmap"
    assert hatched() == [True, True]


@pytest.fixture
def verdicts(model, picture):
    """An inspector with a learned readout that has opened a picture."""
    localizer = learned(SpliceLocalizer(model, windows_per_side=10))
    panel = HeatmapInspector(picture, Inspector(localizer))
    panel.wait()
    return panel


def test_changing_the_false_alarm_rate_does_not_run_the_network(verdicts, monkeypatch):
    calls = counted(verdicts, monkeypatch)
    own, shown = verdicts.controls, verdicts.inspection
    assert not own.false_alarms.disabled and own.false_alarms.value == 0.05
    assert verdicts.left_view == "heatmap" and verdicts.threshold == 0.5
    assert "p-value" in own.about.value and "small, no JPEG" in own.about.value
    assert "Regions are not decidable" not in own.regions.value
    verdicts.threshold = 0.3
    own.false_alarms.value = 0.01
    verdicts.wait()
    assert calls == [] and verdicts.inspection.seen is shown.seen and verdicts.threshold == 0.5
    assert verdicts.inspection.result.verdict == "not decidable" and "needs 99 cameras" in own.about.value
    assert "Regions are not decidable" in own.regions.value and len(seen(verdicts, 0, "outline").x) == 0
    own.readout.value = "diffused_cut"
    verdicts.wait()
    assert calls == [] and "no regions" in own.regions.value and verdicts.inspection.result.decision is None


def test_a_custom_rate_is_offered_and_needs_a_learned_readout(model, picture):
    panel = HeatmapInspector(picture, Inspector(SpliceLocalizer(model, windows_per_side=10), false_alarms=0.02))
    panel.wait()
    assert panel.controls.false_alarms.value == 0.02 and panel.controls.false_alarms.disabled
    assert panel.inspection.settings["false_alarms"] == 0.02


def test_evidence_is_offered_and_drawn(panel):
    assert "jpeg_history" in dict(map(reversed, view_options(panel.inspection)))
    panel.left_view = "jpeg_history"
    np.testing.assert_array_equal(seen(panel, 0).z, panel.inspection.result.evidence.maps["jpeg_history"])
    assert "earlier JPEG compression" in panel.controls.meanings["left_view"].value


def test_a_new_picture_resets_the_zoom(panel, tmp_path):
    panel.compared = (0, 0)
    panel.panels.figure.layout.xaxis.autorange = False
    noise(112, 160, seed=1).save(tmp_path / "tall.png")
    panel.controls.path.value = f"  {tmp_path / 'tall.png'} "
    panel.controls.open.click()
    panel.wait()
    assert panel.inspection.picture.name == "tall.png" and panel.compared is None
    assert panel.panels.figure.layout.xaxis.autorange is True
    assert panel.panels.figure.layout.images[1].sizey == 160


def test_enter_opens_the_path(panel):
    shown = panel.inspection
    panel.controls.path.value = "/nowhere.png"
    pressed = {"method": "custom", "content": {"event": "submit"}}
    panel.controls.path._handle_msg({"content": {"data": pressed}, "buffers": []})
    panel.wait()
    assert "no such file" in panel.status and panel.inspection is shown


@pytest.mark.parametrize("path", ["", "/no/<b>such.png", "broken.png"])
def test_a_picture_that_cannot_be_opened_is_reported_and_the_old_one_stays(panel, tmp_path, path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG and nothing else")
    shown = panel.inspection
    panel.open_picture(str(tmp_path / path) if path == "broken.png" else path)
    panel.wait()
    assert panel.inspection is shown and not panel.busy
    assert panel.status and 'class="error"' in panel.controls.said.value and "<b>" not in panel.controls.said.value


def test_a_slow_analysis_reports_the_remaining_time(panel, tmp_path, monkeypatch):
    noise(seed=2).save(tmp_path / "slow.png")
    monkeypatch.setattr("exiflang.inspection.widget.opening._PATIENCE", 0.0)
    said = []
    panel.observe(lambda change: said.append(change.new), "status")
    panel.open_picture(tmp_path / "slow.png")
    panel.wait()
    told = [re.fullmatch(r"Analyzing \.\.\. about (\d+) s left", text) for text in said]
    assert any(told) and said[-1].startswith("Done in ")


def test_analysis_is_canceled_by_its_button_and_by_another_picture(panel, tmp_path, monkeypatch):
    noise(seed=2).save(tmp_path / "slow.png")
    going, shown = threading.Event(), panel.inspection
    kind, embed = type(panel.inspector.localizer), type(panel.inspector.localizer).embed

    def slow(self, image, calibrated, progress):
        while not free.is_set():
            going.set()
            progress(0.5)
        return embed(self, image, calibrated, progress)

    free = threading.Event()
    monkeypatch.setattr(kind, "embed", slow)
    panel.open_picture(tmp_path / "slow.png")
    assert going.wait(10) and panel.busy and panel.controls.cancel.layout.display == ""
    panel.controls.cancel.click()
    panel.wait(10)
    assert panel.status == "Canceled." and panel.inspection is shown and not panel.busy
    going.clear()
    panel.open_picture(tmp_path / "slow.png")
    assert going.wait(10)
    panel.controls.readout.value = "far_friends"  # applies to the picture being opened, not to the one shown
    free.set()
    panel.wait(10)
    assert panel.inspection.picture.name == "slow.png"
    assert panel.inspection.settings["readout"] == "far_friends"


def test_an_upload_is_opened_and_forgotten(panel):
    file = io.BytesIO()
    noise(seed=3).save(file, "PNG")
    sent = {"name": "<i>up</i>.png", "type": "image/png", "size": 1, "last_modified": datetime.now()}
    panel.controls.upload.value = (sent | {"content": memoryview(file.getvalue())},)
    panel.wait()
    assert panel.inspection.picture.name == "<i>up</i>.png" and panel.controls.upload.value == ()
    assert "<i>" not in panel.controls.about.value and "&lt;i&gt;up" in panel.controls.about.value


def test_before_the_first_picture(inspector):
    empty = HeatmapInspector(inspector=inspector)
    assert empty.inspection is None and "Open a picture" in empty.status
    click(empty, 0, 1, 1)
    empty.threshold, empty.left_view, empty.selected = 0.5, "mask", (3, 3)
    empty.controls.readout.value = "mean_shift"
    assert empty.export("png") is None and "No picture" in empty.controls.exported.value
    empty.ask("Make")
    assert "No picture" in empty.controls.answer.value and not empty.busy


def test_only_views_available_for_a_picture_are_offered(with_exif, picture, tmp_path):
    inspector, path = with_exif
    panel = HeatmapInspector(path, inspector)
    panel.wait()
    panel.left_view, panel.right_view = "misfit", "mask"
    assert np.isfinite(seen(panel, 0).z).all()
    assert "&lt;b&gt;" in panel.controls.tags.value and "Canon <b>" not in panel.controls.tags.value
    panel.ask("Make")
    assert "probability" in panel.controls.answer.value
    panel.ask("")
    assert 'class="error"' in panel.controls.answer.value
    panel.controls.folder.value = str(tmp_path)
    with np.load(panel.export("npz")) as exported:
        assert "misfit" in exported
    panel.open_picture(picture)
    panel.wait()
    assert (panel.left_view, panel.right_view) == ("heatmap", "mask")
    with pytest.raises(traitlets.TraitError):
        panel.left_view = "misfit"


def test_without_a_text_bank_nothing_can_be_asked(panel):
    assert panel.controls.ask.disabled and "no EXIF text bank" in panel.controls.answer.value


def test_exports_match_what_is_shown(panel, tmp_path):
    panel.compared = (0, 1)
    paths = {kind: panel.export(kind) for kind in ("png", "npz", "html")}
    assert sorted(path.suffix for path in (tmp_path / "exports").iterdir()) == [".html", ".json", ".npz", ".png"]
    assert str(paths["html"]) in panel.controls.exported.value
    with np.load(paths["npz"]) as found:
        assert found["heatmap"].shape == found["mask"].shape == (112, 160)
        assert (found["mask"] == (panel.inspection.result.heatmap > panel.threshold)).all()
        assert found["embeddings"].shape[:2] == panel.inspection.result.embeddings.shape[:2]
    with Image.open(paths["png"]) as drawn:
        assert drawn.width > 2 * 160


def test_an_export_that_cannot_be_written_is_reported(panel, tmp_path):
    (tmp_path / "file").touch()
    panel.controls.folder.value = str(tmp_path / "file")
    assert panel.export("npz") is None
    assert "cannot be written" in panel.controls.exported.value


def test_an_export_has_one_panel_per_view(panel):
    one, two = (
        shown_picture(panel.inspection, ["mask"] * count, 2.0, 0.0, {"A": (0, 0), "B": None}, True) for count in (1, 2)
    )
    assert two.width == 2 * one.width + MARGIN and two.height == one.height


def test_the_state_for_a_reloaded_page_matches_what_is_shown(panel):
    panel.threshold = 0.2
    state = panel.panels.figure.get_state()
    assert state["_widget_layout"]["images"][0]["source"].startswith("data:image/jpeg")
    assert np.array_equal(state["_widget_data"][0]["z"], seen(panel, 0).z)


EVIL = "<img src=x onerror=alert(1)>"


def test_questions_are_answered_or_refused_with_a_reason(with_exif):
    inspector, path = with_exif
    made = HeatmapInspector(path, inspector)
    made.wait()
    made.ask("Make: Canon")
    assert "<b>Canon</b>" in made.controls.answer.value
    made.ask("GPSLatitude: 1")
    assert "ask about another tag" in made.controls.answer.value and "error" in made.controls.answer.value
    made.ask(EVIL)
    assert "<img" not in made.controls.answer.value


def test_content_of_files_is_escaped(with_exif, tmp_path):
    exif = Image.Exif()
    exif[0x010F] = exif[0x0110] = EVIL
    file = io.BytesIO()
    noise().save(file, "JPEG", exif=exif)
    made = HeatmapInspector(inspector=with_exif[0])
    made.open_picture(file.getvalue(), EVIL + ".jpg")
    made.wait()
    own = made.controls
    shown = [own.about.value, own.fit.value, own.tags.value, own.said.value, own.cosine.value]
    assert any("&lt;img" in text for text in shown) and not any("<img" in text for text in shown)
    made.open_picture(EVIL)
    made.wait()
    assert "&lt;img" in own.said.value and "<img" not in own.said.value


def test_the_file_is_checked_in_its_own_tab(with_exif):
    made = HeatmapInspector(with_exif[1], with_exif[0])
    made.wait()
    said = made.controls.file.value
    for part in (
        "Does the header agree with the EXIF?",
        "Findings",
        "quantization tables and sampling",
        "no thumbnail",
    ):
        assert part in said
    tabs = next(part for part in made.children if isinstance(part, widgets.Tab))
    assert tabs.titles == ("Regions", "EXIF", "File", "Ask", "Note", "Export")


def test_a_note_is_saved_with_the_report_and_found_again(panel, picture, tmp_path):
    own = panel.controls
    own.review.value, own.note.value = "suspicious", f"sky {EVIL}\nlooks pasted"
    own.save_note.click()
    (path,) = (tmp_path / "exports").glob("*.json")
    assert read_json(path)["review"]["note"] == f"sky {EVIL}\nlooks pasted" and "Saved: " in own.saved.value
    assert EVIL not in path.with_suffix(".html").read_text()
    own.readout.value = "mean_shift"
    own.note.value = "not yet saved"
    panel.wait()
    assert own.note.value == "not yet saved"
    panel.export("html")  # anew, for the other readout, with what was typed
    assert (read_json(path)["review"]["status"], read_json(path)["review"]["note"]) == ("suspicious", "not yet saved")
    own.folder.value = str(tmp_path / "elsewhere")
    assert (own.review.value, own.note.value) == ("open", "")
    own.folder.value = str(tmp_path / "exports")
    panel.export("html")
    noise(seed=5).save(tmp_path / "other.png")
    panel.open_picture(tmp_path / "other.png")
    panel.wait()
    assert (own.review.value, own.note.value) == ("open", "")
    panel.open_picture(picture)
    panel.wait()
    assert (own.review.value, own.note.value) == ("suspicious", "not yet saved")
    own.note.value = "typed here"
    own.folder.value = str(tmp_path / "elsewhere")
    assert own.note.value == "typed here"


def test_a_note_that_cannot_be_saved_is_said(panel, inspector, tmp_path):
    assert HeatmapInspector(inspector=inspector).save_note() is None
    panel.controls.note.value = "x" * 10_001
    assert panel.save_note() is None and "shorten it to 10,000" in panel.controls.saved.value
    (tmp_path / "file").touch()
    panel.controls.folder.value = str(tmp_path / "file")
    assert panel.save_note() is None and "cannot be written" in panel.controls.saved.value
