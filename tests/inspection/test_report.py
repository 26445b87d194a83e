"""Reports on one picture: what they show, what they hide, and that content of a file is always escaped."""

import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

import exiflang
from exiflang.data.shards import Photo
from exiflang.headers.jpeg_header import read_header
from exiflang.headers.reference import Signature, SignatureReference
from exiflang.inspection import gallery
from exiflang.inspection.inspector import Inspector
from exiflang.inspection.report import Provenance, report_facts, report_name, report_page, write_report
from exiflang.inspection.text_bank import build_text_bank, calibrate_ranks, embed_sentences
from exiflang.localization.localizer import SpliceLocalizer
from exiflang.models.config import ExifLangConfig
from exiflang.models.model import ExifLang
from exiflang.models.tokenizer import train_tokenizer
from exiflang.pipeline.__main__ import main
from exiflang.utils.files import file_sha256
from exiflang.utils.images import ImageError
from tests.inspection.by_hand import learned

ATTACK = "<img src=x onerror=alert(1)>"
CALIBRATION = {"diffused_cut": {"cells": [-0.5, 0.0], "scores": [0.01, 0.02], "pictures": 3}}


def save_model(folder, calibrated=False, text_bank=False) -> str:
    """Save a tiny model with random weights, with a calibration and a text bank if asked for."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(["Make: Canon, Model: Canon EOS 40D"], vocab_size=300)
    config = ExifLangConfig.preset("tiny", **({"calibration": CALIBRATION} if calibrated else {}))
    config.text_config = config.text_config | {"vocab_size": len(tokenizer)}
    model = ExifLang(config, tokenizer).eval()
    model.save_pretrained(str(folder))
    if text_bank:
        photos = [Photo(str(i), {"Make": ("Canon", "Nikon")[i % 2], "Model": str(i % 7)}, []) for i in range(60)]
        known = build_text_bank(model, photos)
        text = embed_sentences(model, [f"Make: Canon, Model: {i}" for i in range(60)])
        replace(calibrate_ranks(known, known.text, text), figures={}).save(folder)
    return str(folder)


def inspector_of(folder: str, private: bool = False, **settings) -> Inspector:
    return Inspector(SpliceLocalizer(ExifLang.from_pretrained(folder), windows_per_side=6, **settings), private)


def photo(height=48, width=64, make="Canon", seed=0, exif=True, tags: Image.Exif | None = None) -> bytes:
    """A JPEG of noise, with a make, a position and a serial number in its EXIF, unless other tags are given."""
    given, tags = tags, tags or Image.Exif()
    if exif and given is None:
        tags.update({0x010F: make, 0x0110: "Canon EOS 40D"})
        tags.get_ifd(0x8769)[0xA431] = "SN-4711"
        tags.get_ifd(0x8825).update({1: "N", 2: (51.0, 30.0, 0.0)})
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", exif=tags.tobytes())
    return file.getvalue()


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)


class Page(HTMLParser):
    """The tags of a page with their attributes, and its text; checks that it loads nothing."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page)
        assert self.of("meta")[1]["content"].startswith("default-src 'none'; img-src data:")
        for tag, attributes in self.tags:
            assert not any(name.startswith("on") for name in attributes), (tag, attributes)
            assert tag not in ("link", "iframe", "object", "embed")
            assert attributes.get("src", "data:").startswith("data:")
            assert not re.match(r"\w+:|//", attributes.get("href", "#"))
        assert not re.search(r"@import|url\(|import\(|fetch\(", page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def of(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return save_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def knowing(tmp_path_factory) -> str:
    return save_model(tmp_path_factory.mktemp("model") / "knowing", calibrated=True, text_bank=True)


def report_of(inspector: Inspector, data: bytes, name: str, folder):
    path = write_report(inspector(data, name), folder, Provenance.of(inspector))
    return Page(path.read_text(encoding="utf-8")), read_json(path.with_suffix(".json")), path


def test_a_report_states_results_settings_and_versions(knowing, tmp_path):
    data = photo()
    page, facts, path = report_of(inspector_of(knowing), data, "a photo.jpg", tmp_path / "new" / "folder")
    assert path.name == f"a_photo-{facts['sha256'][:8]}.html"
    assert sorted(p.suffix for p in path.parent.iterdir()) == [".html", ".json"]  # and no temporary file
    assert (facts["name"], facts["format"], facts["size"]) == ("a photo.jpg", "JPEG", len(data))
    assert (facts["width"], facts["height"]) == (64, 48)
    assert facts["calibrated"] is True and 0 <= facts["score"] <= 1 and facts["threshold"] == 0.98
    assert facts["versions"] == {"exiflang": exiflang.__version__, "torch": str(torch.__version__)}
    assert facts["origin"]["settings"]["windows_per_side"] == 6
    weights = file_sha256(tmp_path / knowing / "model.safetensors")
    assert facts["origin"]["model_files"]["model.safetensors"] == weights
    for said in (facts["sha256"], weights, facts["meaning"], "JPEG, 64 × 48 pixels", "Canon EOS 40D", facts["made"]):
        assert said in " ".join(page.text.split()), said
    assert [label["id"] for label in page.of("input") if label["type"] == "radio"] == [
        "over-heatmap", "over-mask", "over-components", "over-misfit", "over-nothing",
    ]  # fmt: skip
    assert all(image["alt"] for image in page.of("img"))


def test_json_holds_the_heatmap_per_window_and_the_fit(knowing, tmp_path):
    inspector = inspector_of(knowing)
    _, facts, _ = report_of(inspector, photo(), "a.jpg", tmp_path)
    result = inspector(photo(), "a.jpg").result
    assert np.shape(facts["heatmap"]) == np.shape(facts["fit"]["misfit"]) == result.embeddings.shape[:2]
    assert facts["windows"] == {"size": result.window_size, "stride": result.stride, "preview": False}
    middle = result.window_size // 2
    assert facts["heatmap"][0][0] == pytest.approx(float(result.heatmap[middle, middle]), abs=1e-4)
    assert facts["mask_share"] == pytest.approx(result.mask.mean())
    assert {row["tag"] for row in facts["fit"]["tags"]} == {"Make", "Model"}
    assert 0 <= facts["fit"]["rank"] <= 1


def test_a_report_shows_verdict_regions_and_evidence(model, tmp_path):
    inspector = inspector_of(model)
    learned(inspector.localizer)
    page, facts, _ = report_of(inspector, photo(300, 400), "a.jpg", tmp_path)
    result = inspector(photo(300, 400), "a.jpg").result
    assert facts["decision"] | {"own_kind": "small, coarse JPEG"} == facts["decision"]
    assert facts["decision"]["p_value"] == result.p_value and facts["decision"]["verdict"] == result.verdict
    assert [region["box"] for region in facts["regions"]] == [list(region.box) for region in result.regions]
    assert facts["mask_share"] == pytest.approx(result.mask.mean()) and 0 <= facts["unreliable_share"] <= 1
    assert set(facts["evidence"]["maps"]) == set(result.evidence.maps) and facts["evidence"]["absent"] == {}
    assert all(m["least"] <= m["middle"] <= m["largest"] for m in facts["evidence"]["maps"].values())
    told = " ".join(page.text.split())
    for said in (facts["meaning"], result.verdict, "JPEG history", "A p-value is the fraction", "a block grid unlike"):
        assert said in told
    assert [image["alt"] for image in page.of("img") if image.get("class") == "hatching"]
    assert "hatching" in [entry.get("id") for entry in page.of("input")]


def test_a_report_tells_what_the_file_says_about_itself(model, tmp_path):
    inspector = inspector_of(model)
    inspector.signatures = SignatureReference(
        {f"{number:08}": Signature.of(read_header(photo()), {"Make": "Nikon", "Model": "D1"}) for number in range(3)}
    ).calibrated()
    page, facts, _ = report_of(inspector, photo(), "a.jpg", tmp_path)
    told, file = " ".join(page.text.split()), facts["file"]
    for said in (
        "Three questions",
        "Header and claimed camera",
        "3 of 3 photos",
        "Makes with this encoding, most photos",
    ):
        assert said in told, said
    assert file["header"]["sampling"] and "tables" not in file["header"] and file["has_thumbnail"] is False
    assert file["header_fit"]["of_any"] == [3, 3] and file["header_fit"]["makes"] == ["Nikon"]
    assert facts["origin"]["signatures"]["photos"] == 3 and "3 photos, " in told
    assert report_of(inspector_of(model), photo(), "a.jpg", tmp_path)[1]["file"]["header_fit"] is None


def test_missing_evidence_is_explained_in_page_and_json(model, tmp_path):
    page, facts, _ = report_of(inspector_of(model), photo(20, 20), "a.jpg", tmp_path)
    assert facts["decision"] is None and facts["regions"] == []
    reason = facts["evidence"]["absent"]["jpeg_history"]
    assert f"nothing to show: {reason}" in page.text and "jpeg_history" not in facts["evidence"]["maps"]


@pytest.mark.parametrize("with_verdict", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (20, 2000)])
def test_pictures_of_any_shape(model, tmp_path, shape, with_verdict):
    inspector = inspector_of(model)
    if with_verdict:
        learned(inspector.localizer)
    page, facts, _ = report_of(inspector, photo(*shape), "thin.jpg", tmp_path)
    assert bool(facts["decision"]) == with_verdict
    assert (facts["height"], facts["width"]) == shape
    assert page.of("img")


def test_without_exif_text_bank_or_calibration_the_report_says_so(model, tmp_path):
    page, facts, _ = report_of(inspector_of(model), photo(exif=False), "bare.jpg", tmp_path)
    assert facts["fit"] is None and facts["tags"] == {} and facts["hidden"] == 0
    assert any("no known EXIF" in note for note in facts["notes"])
    assert "This model is not calibrated" in page.text and "own scale" in page.text
    assert "authentic pictures' cells" not in page.text
    assert "over-misfit" not in [entry.get("id") for entry in page.of("input")]


def test_markup_in_exif_and_names_is_escaped(knowing, tmp_path):
    page, facts, path = report_of(inspector_of(knowing), photo(make=ATTACK), f"{ATTACK}.jpg", tmp_path)
    assert facts["tags"]["Make"] == ATTACK and facts["name"] == f"{ATTACK}.jpg"
    assert all(image["src"].startswith("data:") for image in page.of("img"))
    assert ATTACK in page.text and ATTACK not in path.read_text(encoding="utf-8")
    assert path.name.startswith("img_src_x_onerror_alert_1-")


def test_private_tags_are_counted_and_shown_only_on_request(model, tmp_path):
    page, facts, hidden = report_of(inspector_of(model), photo(), "a.jpg", tmp_path / "hidden")
    assert facts["hidden"] >= 2 and facts["origin"]["private"] is False
    assert f"{facts['hidden']} private tags" in page.text
    for file in (hidden, hidden.with_suffix(".json")):
        assert not re.search("SN-4711|GPSLatitude", file.read_text(encoding="utf-8"))
    page, facts, _ = report_of(inspector_of(model, private=True), photo(), "a.jpg", tmp_path / "shown")
    assert "SN-4711" in page.text and "think before you share it" in page.text
    assert facts["hidden"] == 0 and "SN-4711" in facts["tags"].values()


def test_the_page_depends_only_on_inspection_and_date(model):
    inspector = inspector_of(model)
    inspection, origin = inspector(photo(), "a.jpg"), Provenance.of(inspector)
    facts = report_facts(inspection, origin, "2026-01-02")
    assert report_page(inspection, facts, {}) == report_page(inspection, facts, {})
    assert "Report created 2026-01-02." in report_page(inspection, facts, {})


def test_the_page_of_a_large_picture_is_small_enough_to_send(model, tmp_path):
    smooth = np.add.outer(np.arange(3000), np.arange(4000)) // 28
    file = io.BytesIO()
    Image.fromarray(smooth.astype(np.uint8)).convert("RGB").save(file, "PNG")
    _, facts, path = report_of(inspector_of(model, window_size=512), file.getvalue(), "large.png", tmp_path)
    assert facts["width"] == 4000 and path.stat().st_size < 1_000_000


@pytest.mark.parametrize(
    "name, stem",
    [
        ("a.jpg", "a"),
        ("../../etc/passwd", "passwd"),
        (".hidden.jpg", "hidden"),
        ("..", "picture"),
        ("...jpg", "picture"),
        ("", "picture"),
        ("a b\n%2F#?.jpg", "a_b_2F"),
        ("Größe.jpg", "Größe"),
        ("\udcff.jpg", "xff"),
        ("x" * 300 + ".jpg", "x" * 50),
    ],
)
def test_report_names_are_safe_as_file_names_and_in_urls(name, stem):
    assert report_name(name, "0123456789abcdef") == f"{stem}-01234567"


def test_file_sha256_is_none_without_a_file(tmp_path):
    assert file_sha256(tmp_path) is file_sha256(tmp_path / "absent") is None


# ---- command line


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jpg").write_bytes(photo())
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    return tmp_path


def test_command_line_prints_the_path_of_the_report(files, model, capsys):
    command = ["--inspect", "a.jpg", "-p", "model_dir", model, "-p", "windows_per_side", "5"]
    assert main([*command, "-p", "window_size", "16", "--out", "here"]) == 0
    page = files / capsys.readouterr().out.strip()
    assert page.parent == files / "here" and page.name.startswith("a-")
    assert read_json(page.with_suffix(".json"))["origin"]["settings"]["windows_per_side"] == 5
    assert main([*command, "--private"]) == 0
    page = files / capsys.readouterr().out.strip()
    assert re.fullmatch(r"reports/runs/inspect-\d{8}-\d{6}", str(page.parent.relative_to(files)))
    assert read_json(page.with_suffix(".json"))["origin"]["private"] is True


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["-p", "readuot", "diffusion"], "no parameter 'readuot'; did you mean readout?"),
        (["-p", "out_dir", "x"], "inspect has no parameter 'out_dir'"),
        (["-p", "readout", "magic"], "unknown readout 'magic': choose one of"),
        (["-p", "windows_per_side", "many"], "windows_per_side is 'many': it must be a whole number, like 30"),
        (["-p", "window_size", "null"], "window_size is None: it must be a whole number, like 64"),
        (["-p", "windows_per_side", "0"], "windows_per_side must be at least 1"),
        (["-p", "window_size", "2.5"], "window_size is 2.5: it must be a whole number"),
        (["-p", "mode", "fast"], "unknown mode 'fast'"),
        (["-p", "precision", "int8"], "unknown precision 'int8'"),
        (["-p", "model_dir", "absent"], "absent: no model found"),
        (["-p", "false_alarms", "2"], "false_alarms is 2.0: it must be between 0 and 1"),
        (["--only", "02_train"], "omit --only, --check and --preset"),
        (["--check"], "omit --only, --check and --preset"),
        (["--preset", "tiny"], "omit --only, --check and --preset"),
    ],
)
def test_usage_errors_are_reported_before_anything_is_read(files, model, capsys, arguments, message):
    given = arguments if "model_dir" in arguments else ["-p", "model_dir", model, *arguments]
    assert main(["--inspect", "a.jpg", "--out", "here", *given]) == 2
    assert message in capsys.readouterr().err
    assert not (files / "here").exists()


def test_private_requires_inspect(capsys):
    assert main(["--private"]) == 2
    assert "--private goes with --inspect" in capsys.readouterr().err


def test_damaged_weights_are_a_usage_error(files, model, capsys):
    (files / "damaged").mkdir()
    for name in ("config.json", "tokenizer.json"):
        (files / "damaged" / name).write_bytes((files / model / name).read_bytes())
    (files / "damaged" / "model.safetensors").write_bytes(b"\0" * 20)
    assert main(["--inspect", "a.jpg", "-p", "model_dir", "damaged"]) == 2
    assert "error: inspect: " in capsys.readouterr().err


@pytest.mark.parametrize("name, message", [("broken.jpg", "broken.jpg: not a picture"), ("absent.jpg", "no such file")])
def test_an_unreadable_picture_exits_with_1(files, model, capsys, name, message):
    assert main(["--inspect", name, "-p", "model_dir", model, "--out", "here"]) == 1
    assert message in capsys.readouterr().err


def test_an_unwritable_folder_exits_with_1(files, model, capsys):
    assert main(["--inspect", "a.jpg", "-p", "model_dir", model, "--out", "broken.jpg/here"]) == 1
    assert "broken.jpg/here: cannot be written" in capsys.readouterr().err


def test_other_errors_are_not_caught(files, model, monkeypatch):
    def fail(*arguments):
        raise ZeroDivisionError

    monkeypatch.setattr(gallery, "write_report", fail)
    with pytest.raises(ZeroDivisionError):
        main(["--inspect", "a.jpg", "-p", "model_dir", model])
    with pytest.raises(ImageError):
        inspector_of(model)(b"no picture")
