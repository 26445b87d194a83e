"""All of one picture at once: what depends on what, with and without a population, with and without EXIF."""

import numpy as np
import pytest
from test_localize import ColourEncoder
from test_model import SENTENCES, tiny
from test_picture import EXIF, encoded
from test_population import photos

import exiflang
from exiflang.images import ImageError
from exiflang.inspection import Inspector
from exiflang.localize import SpliceLocalizer
from exiflang.model import ExifLang
from exiflang.population import build_population
from exiflang.tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model's folder with its population."""
    folder = tmp_path_factory.mktemp("model")
    model = tiny(train_tokenizer(SENTENCES, vocab_size=320))
    model.save_pretrained(str(folder))
    build_population(model, photos()).save(folder)
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
        "windows_per_side": 5,
        "window_size": None,
        "mode": "exact",
        "precision": "float32",
    }


def test_without_exif_or_without_a_population_there_is_no_fit(folder, tmp_path):
    assert inspector(folder)(encoded(kind="PNG")).fit is None
    ExifLang.from_pretrained(str(folder)).save_pretrained(str(tmp_path))
    assert inspector(tmp_path)(encoded(exif=EXIF)).fit is None
    assert Inspector(SpliceLocalizer(ColourEncoder(), window_size=16))(encoded(exif=EXIF)).fit is None


def test_what_is_found_equals_the_localizers_own(folder):
    inspect = inspector(folder)
    data = encoded(exif=EXIF)
    found, alone = inspect(data), inspect.localizer(data)
    np.testing.assert_array_equal(found.result.heatmap, alone.heatmap)
    assert found.result.score == alone.score


def test_progress_is_told_and_can_stop_the_work(folder):
    heard = []
    inspector(folder)(encoded(), progress=heard.append)
    assert heard[0] == 0 and heard[-1] == 1 and heard == sorted(heard)

    def stop(share):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        inspector(folder)(encoded(), progress=stop)


def test_another_readout_asks_no_network_another_number_of_windows_does(folder):
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


def test_what_is_no_picture_is_named(folder):
    with pytest.raises(ImageError, match="a.txt"):
        inspector(folder)(b"text", "a.txt")


def test_a_damaged_population_is_named_at_once(folder, tmp_path):
    ExifLang.from_pretrained(str(folder)).save_pretrained(str(tmp_path))
    (tmp_path / "population.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match="population.safetensors: damaged"):
        inspector(tmp_path)


def test_the_packaged_weights_inspect_without_settings():
    found = Inspector()(encoded(exif=EXIF))
    assert found.calibrated and 0 <= found.fit.percentile <= 1 and found.settings["model"] == "exiflang-base"
