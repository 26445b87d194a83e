"""The gallery of scored pictures: complete, sorted, escaped, self-contained; and the sheets of examples."""

import pandas as pd
import pytest
import torch

from exiflang.evaluation.baselines import MeanColor
from exiflang.evaluation.gallery import example_rows, method_steps, write_score_gallery
from exiflang.evaluation.score_run import score_benchmarks
from exiflang.evaluation.scoring import summarize_pictures
from exiflang.localization.localizer import SpliceLocalizer
from exiflang.models.config import ExifLangConfig
from exiflang.models.model import ExifLang
from tests.evaluation.test_score_run import ATTACK, run_of
from tests.evaluation.test_scoring import write_benchmark


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    torch.manual_seed(0)
    ExifLang(ExifLangConfig.preset("tiny")).save_pretrained(str(root / "model"))
    write_benchmark(root / "root" / "first")
    for part in ("images", "masks"):
        source = root / "root" / "first" / part / "spliced.png"
        source.rename(source.with_name(ATTACK.replace("/", "")))
    write_benchmark(root / "root" / "second", broken=False)
    found = score_benchmarks(run_of(root / "root", str(root / "model"), readouts=["far_friends", "mean_shift"]))
    return found, pd.concat([sets.scores() for sets in found.values()], ignore_index=True)


def test_each_picture_has_a_card_with_the_first_readouts_scores(scored, tmp_path):
    found, scores = scored
    page = write_score_gallery(tmp_path / "gallery.html", found, scores, summarize_pictures(scores))
    text = page.read_text(encoding="utf-8")
    assert text.count("<li data-name=") == 4 and text.count("data:image/jpeg;base64,") == 4
    model = scores[(scores["method"] == "model") & (scores["readout"] == "far_friends") & scores["spliced"]]
    for p_map in model["p_map"]:
        assert f'data-score="{p_map}"' in text
    assert text.count('data-score=""') == 2  # authentic pictures have none, and come last
    assert text.rindex(f'data-score="{model["p_map"].min()}"') < text.index('data-score=""')
    assert "1 could not be scored" in text and "first: broken.png" in text
    assert '<th scope="col">protocol</th>' in text and text.count("<td>spliced pictures</td>") == 2 * 2 * 3


def test_names_are_escaped_and_nothing_is_loaded(scored, tmp_path):
    found, scores = scored
    text = write_score_gallery(tmp_path / "g.html", found, scores, summarize_pictures(scores)).read_text()
    assert "<script>alert" not in text and "&lt;script&gt;alert" in text
    assert "default-src 'none'" in text and "http://" not in text and "https://" not in text


def test_examples_are_at_the_requested_quantiles(scored):
    found, scores = scored
    rows = example_rows(found, scores, SpliceLocalizer(MeanColor(), 6, readout="far_friends"), [0.0, 0.5])
    assert [row[0].label for row in rows] == [f"first {ATTACK.replace('/', '')}, png", "second spliced.png, png"]
    assert all(row[1].label.startswith("heatmap, p-mAP 0.") and row[2].image.dtype == "uint8" for row in rows)
    assert example_rows(found, scores, SpliceLocalizer(MeanColor(), readout="diffusion"), [0.5]) == []


def test_method_steps_show_each_map_with_its_score(scored):
    found, scores = scored
    rows, figures = method_steps(found, scores, SpliceLocalizer(MeanColor(), 6, readout="far_friends"))
    assert [len(row) for row in rows] == [3, 3] and f"1. first {ATTACK.replace('/', '')}" in rows[0][0].label
    assert all(panel.image.dtype == "uint8" and panel.image.ndim == 3 for row in rows for panel in row)
    assert list(figures.columns) == ["inside the region", "outside", "p-mAP"]
    assert list(figures.index)[1:] == ["eigenvector", "mean shift", "heatmap (far friends)"]
    assert figures["p-mAP"].between(0, 1).all()
    assert method_steps(found, scores, SpliceLocalizer(MeanColor(), readout="diffusion"))[0] == []
