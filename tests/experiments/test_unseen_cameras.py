"""Ways to tell whether EXIF fits: pairs, limits by camera, headers, and a table."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from exiflang.data.shards import Photo
from exiflang.inspection.text_bank import build_text_bank
from exiflang.models.tokenizer import train_tokenizer
from experiments import unseen_cameras as module
from experiments.unseen_cameras import OFFERED, Header, Pairs, header_vectors, markdown, measure, signature
from tests.inspection.test_text_bank import unit
from tests.models.test_model import SENTENCES, tiny


def jpeg(quality: int = 90, **options) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, options.pop("format", "JPEG"), quality=quality, **options)
    return buffer.getvalue()


def of_camera(number: int, camera: int) -> Photo:
    make = "Canon" if camera % 2 else "NIKON"
    return Photo(str(number), {"Make": make, "Model": f"M{camera}", "Software": f"{make} 1.0"}, [(camera,)])


@pytest.fixture(autouse=True)
def few_resamplings(monkeypatch):
    monkeypatch.setattr(module, "RESAMPLINGS", 30)


@pytest.fixture
def headers(monkeypatch):
    """Canon writes quality 95 without subsampling, NIKON 80 with it; a photo's location is the number of its camera."""
    monkeypatch.setattr(module, "read_member", lambda camera: jpeg(95, subsampling=0) if camera % 2 else jpeg(80))
    return [of_camera(i, i % 20) for i in range(100)]


def test_pairs_are_the_own_exif_and_that_of_other_cameras():
    pairs = Pairs.of([f"camera {i // 3}" for i in range(90)])
    own = pairs.i == pairs.j
    assert own.sum() == 90 and len(own) == 90 * (1 + OFFERED)
    assert (pairs.camera[pairs.i] == pairs.camera[pairs.j])[own].all()
    assert not (pairs.camera[pairs.i] == pairs.camera[pairs.j])[~own].any()


def test_limits_hold_the_curve_and_few_cameras_widen_them():
    rng = np.random.default_rng(0)
    widths = []
    for of_each in (1, 30):
        pairs = Pairs.of([f"camera {i // of_each}" for i in range(120)])
        luck = rng.normal(size=pairs.camera.max() + 1)
        found = pairs.auc((pairs.i == pairs.j) * luck[pairs.camera[pairs.i]] + 0.1 * rng.normal(size=len(pairs.i)))
        assert found["low"] <= found["auc"] <= found["high"]
        widths.append(found["high"] - found["low"])
    assert widths[0] < widths[1]
    assert pairs.auc((pairs.i == pairs.j).astype(float)) == {"auc": 1, "low": 1, "high": 1}


def test_a_signature_tells_tables_sampling_and_progression():
    plain = signature(jpeg())
    assert len(plain) == 130 and plain[:2] == (3, 0)  # 4:2:0
    assert signature(jpeg(subsampling=0))[0] == 1 and signature(jpeg(progressive=True))[1] == 1
    assert signature(jpeg(70))[2:] != plain[2:]
    assert signature(jpeg(format="PNG")) == (0,) * 130
    vectors = header_vectors([plain, signature(jpeg(format="PNG"))])
    assert vectors.shape == (2, 134) and np.isfinite(vectors).all() and vectors[0, 3] == 2 and not vectors[1, 1:].any()


def test_headers_tell_makes_that_they_go_with_and_not_if_shuffled(headers):
    values = {"Make": ["Canon", "NIKON"], "Software": ["Canon 1.0", "NIKON 1.0"]}
    found = Header.of(headers, values)
    pairs = Pairs.of([photo.camera for photo in headers])
    canon, nikon = (found.log_ratio(signature(jpeg(95, subsampling=0)), make) for make in ("canon", "nikon"))
    assert canon > 0 > nikon
    assert found.log_ratio(signature(jpeg(50)), "leica") == pytest.approx(0)
    for fits in found.fits(headers, pairs).values():
        assert pairs.auc(fits)["auc"] > 0.7  # half of the others are of the same make
    for fits in Header.of(headers, values, shuffled=True).fits(headers, pairs).values():
        assert pairs.auc(fits)["auc"] < 0.7


def test_all_ways_are_measured_and_shown(headers, monkeypatch):
    model = tiny(train_tokenizer(SENTENCES, vocab_size=320))
    image = unit(len(headers), 32)
    text_bank = build_text_bank(model, headers, image)
    monkeypatch.setattr(
        module, "embed_photos", lambda model, photos, crops: (image[: len(photos)], unit(len(photos), 32, seed=1))
    )
    header = Header.of(headers, text_bank.values)
    models = {"model": (model, text_bank), "untrained": (model, text_bank)}
    groups = {"seen": headers[:40], "report": headers[:60]}
    ways = measure(models, {"model": header}, headers, groups)
    assert list(ways) == [
        "sentence",
        "sentence, relative to other pictures",
        "tags",
        "sentence and tags (the check)",
        "header, by make",
        "header, by all tags",
        "header and pixels",
    ]
    assert ways["tags"].keys() == {"model", "untrained"} and ways["header and pixels"].keys() == {"model"}
    counts = {"seen": {"photos": 40, "cameras": 20}, "report": {"photos": 60, "cameras": 20}}
    shown = markdown(json.loads(json.dumps({"groups": counts, "ways": ways})))
    assert "60 photos of 20 cameras" in shown and shown.count("\n") == 1 + 4 * 2 + 3
