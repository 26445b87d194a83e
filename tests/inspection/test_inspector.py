"""Inspecting one picture: which results depend on which settings, with and without a text bank and EXIF."""

import numpy as np
import pytest

import exiflang
from exiflang.inspection.inspector import Inspector
from exiflang.inspection.text_bank import build_text_bank
from exiflang.localization.localizer import SpliceLocalizer
from exiflang.models.model import ExifLang
from exiflang.models.tokenizer import train_tokenizer
from exiflang.utils.images import ImageError
from tests.inspection.by_hand import learned
from tests.inspection.test_picture import EXIF, encoded
from tests.inspection.test_text_bank import photos
from tests.localization.test_localizer import ColorEncoder
from tests.models.test_model import SENTENCES, tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model's folder with its text bank."""
    folder = tmp_path_factory.mktemp("model")
    model = tiny(train_tokenizer(SENTENCES, vocab_size=320))
    model.save_pretrained(str(folder))
    build_text_bank(model, photos()).save(folder)
    return folder


def inspector(folder, **settings) -> Inspector:
    return Inspector(SpliceLocalizer(ExifLang.from_pretrained(str(folder)), windows_per_side=5, **settings))


def test_a_photo_with_exif_has_everything(folder):
    found = inspector(folder)(encoded(exif=EXIF), "a.jpg")
    assert found.picture.name == "a.jpg" and found.fit.photos == 24 and not found.calibrated
    assert found.fit.misfit.shape == found.result.embeddings.shape[:2]
    assert found.settings == {
        "model": folder.name,
        "exiflang": exiflang.__version__,
        "readout": "diffused_cut",
        "false_alarms": 0.05,
        "windows_per_side": 5,
        "window_size": None,
        "mode": "exact",
        "precision": "float32",
    }


def test_without_exif_or_without_a_text_bank_there_is_no_fit(folder, tmp_path):
    assert inspector(folder)(encoded(kind="PNG")).fit is None
    ExifLang.from_pretrained(str(folder)).save_pretrained(str(tmp_path))
    assert inspector(tmp_path)(encoded(exif=EXIF)).fit is None
    assert Inspector(SpliceLocalizer(ColorEncoder(), window_size=16))(encoded(exif=EXIF)).fit is None


def test_results_equal_those_of_the_localizer(folder):
    inspect = inspector(folder)
    data = encoded(exif=EXIF)
    found, alone = inspect(data), inspect.localizer(data)
    np.testing.assert_array_equal(found.result.heatmap, alone.heatmap)
    assert found.result.score == alone.score


def test_progress_is_reported_and_can_stop_the_work(folder):
    heard = []
    inspector(folder)(encoded(), progress=heard.append)
    assert heard[0] == 0 and heard[-1] == 1 and heard == sorted(heard)
    assert len([share for share in heard if 0.6 < share < 1]) > 3  # evidence reports progress, too

    def stop(share):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        inspector(folder)(encoded(), progress=stop)


def test_changing_the_readout_reuses_embeddings_and_changing_windows_does_not(folder):
    first = inspector(folder)
    shown = first(encoded(exif=EXIF))
    other = first.with_settings(readout="mean_shift").again(shown)
    assert other.result.embeddings is shown.result.embeddings and other.settings["readout"] == "mean_shift"
    np.testing.assert_array_equal(
        other.result.raw, inspector(folder, readout="mean_shift")(encoded(exif=EXIF)).result.raw
    )
    wider = first.with_settings(windows_per_side=8).again(shown)
    assert wider.picture is shown.picture and wider.result.embeddings.shape != shown.result.embeddings.shape
    assert first.settings["readout"] == "diffused_cut" and first.settings["windows_per_side"] == 5


def test_changing_the_false_alarm_rate_reuses_embeddings(folder, monkeypatch):
    first = inspector(folder)
    learned(first.localizer)
    shown = first(encoded(exif=EXIF))
    monkeypatch.setattr(SpliceLocalizer, "observe", None)
    other = first.with_settings(0.001)
    found = other.again(shown)
    assert found.seen is shown.seen and found.settings["false_alarms"] == 0.001
    assert (shown.result.decision.false_alarms, found.result.verdict) == (0.05, "not decidable")
    assert other.with_settings(readout="far_friends").again(shown).result.decision is None
    assert first.false_alarms == 0.05


@pytest.mark.parametrize("rate", [0, 1, -1, float("nan")])
def test_a_false_alarm_rate_must_be_between_0_and_1(folder, rate):
    with pytest.raises(ValueError, match="false_alarms is .* between 0 and 1"):
        Inspector(SpliceLocalizer(ColorEncoder()), false_alarms=rate)


def test_the_error_names_a_file_that_is_not_a_picture(folder):
    with pytest.raises(ImageError, match="a.txt"):
        inspector(folder)(b"text", "a.txt")


def test_a_damaged_text_bank_is_reported_immediately(folder, tmp_path):
    ExifLang.from_pretrained(str(folder)).save_pretrained(str(tmp_path))
    (tmp_path / "text_bank.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match="text_bank.safetensors: damaged"):
        inspector(tmp_path)


def test_the_packaged_weights_inspect_without_settings():
    found = Inspector()(encoded(exif=EXIF))
    assert found.calibrated and 0 <= found.fit.percentile <= 1 and found.settings["model"] == "exiflang-base"
