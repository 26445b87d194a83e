"""A suspect beside a reference photo: what is the same, what is not, and what cannot be told."""

import numpy as np
import pytest
from PIL import Image

from exiflang.cli import main
from exiflang.inspection.comparison import compare, write_comparison
from exiflang.inspection.gallery import make_gallery
from exiflang.inspection.pairs import PairRanks, pair_ranks
from exiflang.inspection.report import Provenance
from tests.inspection.test_picture import encoded
from tests.inspection.test_report import ATTACK, Page, inspector_of, photo, read_json, save_model


@pytest.fixture
def model(tmp_path) -> str:
    return save_model(tmp_path / "model")


def test_two_photos_of_one_camera_have_the_same_header(model):
    found = compare(inspector_of(model), photo(seed=1), photo(seed=2))
    assert found.summary[:2] == [
        "Headers: the same in all fields.", "Cameras: the EXIF names the same make and model.",
    ]  # fmt: skip
    assert {row.same for row in found.header} == {True} and found.header[0].suspect == found.header[0].reference
    assert [(row.name, row.same) for row in found.camera] == [("Make", True), ("Model", True), ("Software", None)]
    assert -1 <= found.cosine <= 1 and "not calibrated" in found.summary[2]
    assert compare(inspector_of(model), photo(), photo()).cosine == pytest.approx(1, abs=1e-5)


def test_what_differs_is_named(model):
    found = compare(inspector_of(model), photo(make="NIKON"), photo(height=64, width=48 + 16 * 2, exif=True))
    assert found.summary[0] == "Headers: different in size in pixels."
    assert found.summary[1] == "Cameras: the EXIF names different ones."
    bare = compare(inspector_of(model), photo(exif=False), encoded(kind="PNG"))
    assert bare.header == () and "not comparable" in bare.summary[0] and "not comparable" in bare.summary[1]


def test_page_and_json_hold_both_pictures(model, tmp_path):
    inspector = inspector_of(model)
    page = write_comparison(compare(inspector, photo(make=ATTACK), photo(seed=2)), tmp_path, Provenance.of(inspector))
    text, facts = page.read_text(encoding="utf-8"), read_json(page.with_suffix(".json"))
    assert ATTACK not in text and ATTACK in Page(text).text
    assert text.count("Does the header agree with the EXIF?") == 2
    assert page.stem == f"picture-{facts['suspect']['sha256'][:8]}-{facts['reference']['sha256'][:8]}"
    assert facts["suspect"]["tags"]["Make"] == ATTACK and facts["pairs"] is None and "heatmap" not in facts["suspect"]
    assert [row["same"] for row in facts["camera"]] == [False, True, None]


def test_a_cosine_is_ranked_among_pairs_if_the_model_knows_some(model):
    angles = np.radians([0, 10, 90, 100])
    ranks = pair_ranks(np.stack([np.cos(angles), np.sin(angles)], 1), ["a", "a", "b", "b"])
    assert ranks.below(0.5) == {"same": 0.0, "different": 1.0, "photos": 4, "cameras": 2}
    assert ranks.below(1.0)["same"] == 1.0 and len(ranks.same) == len(ranks.different) == 99
    assert PairRanks.of_model(model) is None
    ranks.save(model)
    assert PairRanks.of_model(model) == ranks
    said = compare(inspector_of(model), photo(), photo()).summary[2]
    assert said.endswith("100 % of pairs of different models (4 photos of 2 models).")
    for cameras in (["a", "a", "a", "a"], ["a", "b", "c", "d"]):
        with pytest.raises(ValueError, match="two photos of one camera"):
            pair_ranks(np.eye(4), cameras)


@pytest.mark.parametrize(
    "damage", ["", "[]", '{"same": 1}', '{"same": ["x"], "different": [], "photos": 1, "cameras": 1}']
)
def test_a_damaged_calibration_is_named(model, damage, tmp_path):
    (tmp_path / "model" / "pairs.json").write_text(damage)
    with pytest.raises(ValueError, match="pairs.json: damaged"):
        PairRanks.of_model(model)


def test_the_command_prints_the_result_and_the_page(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(photo())
    command = ["--model", model, "--windows-per-side", "5", "--out", "here"]
    assert main(["compare", "a.jpg", "b.jpg", *command]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Headers: the same in all fields." and len(lines) == 4
    assert (tmp_path / lines[-1]).is_file()
    (tmp_path / "broken.jpg").write_bytes(b"none")
    for pair in (["a.jpg", "broken.jpg"], ["absent.jpg", "a.jpg"]):
        assert main(["compare", *pair, *command]) == 1
        said = capsys.readouterr().err
        assert said.startswith("error: ") and said.count("\n") == 1 and max(pair, key=len) in said


# ---- privacy


SECRETS = ("SN-4711", "LENS-99", "Erika Mustermann", "GPSLatitude", "31.7717", "317717", "owner@example.org")


def private_photo(seed: int = 0) -> bytes:
    """A photo with a position, serial numbers and names."""
    tags = Image.Exif()
    tags.update({0x010F: "Canon", 0x0110: "Canon EOS 40D", 0x013B: "Erika Mustermann", 0x8298: "owner@example.org"})
    tags.get_ifd(0x8769).update({0xA431: "SN-4711", 0xA435: "LENS-99", 0xA430: "Erika Mustermann"})
    tags.get_ifd(0x8825).update({1: "N", 2: (51.0, 31.7717, 0.0), 3: "E", 4: (7.0, 0.0, 0.0)})
    return photo(seed=seed, tags=tags)


@pytest.mark.parametrize("private", [False, True])
def test_private_data_reach_no_output_unless_asked_for(model, tmp_path, private):
    folder, out, inspector = tmp_path / "photos", tmp_path / "out", inspector_of(model, private)
    folder.mkdir()
    for number in range(2):
        (folder / f"{number}.jpg").write_bytes(private_photo(number))
    make_gallery(folder, out, inspector)
    write_comparison(compare(inspector, folder / "0.jpg", folder / "1.jpg"), out, Provenance.of(inspector))
    files = [path for path in out.rglob("*") if path.is_file()]
    assert len(files) == 2 + 4 + 2
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert private or not [secret for secret in SECRETS if secret in text], path
    if private:
        told = "".join(path.read_text(encoding="utf-8") for path in files)
        assert "SN-4711" in told and "Erika Mustermann" in told
