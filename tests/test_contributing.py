"""The recipes of CONTRIBUTING.md run as printed, and what it names exists."""

import json
import re
import textwrap

import pyarrow.parquet as pq
import pytest

from exiflang import SpliceLocalizer
from exiflang.evaluation import layouts
from exiflang.evaluation.baselines import MeanColor
from exiflang.localization import clustering
from exiflang.pipeline.parameters import project_path
from exiflang.preparation import sources
from exiflang.preparation.options import Contents
from exiflang.utils.storage import Store
from tests.evaluation import test_layouts as layout_tests
from tests.localization import test_clustering as clustering_tests
from tests.preparation import test_remote_sources as source_tests

GUIDE = project_path("CONTRIBUTING.md").read_text(encoding="utf-8")


def recipe(heading: str, *modules: object) -> list[dict]:
    """What each Python block of a recipe defines when run in the namespace of its module."""
    section = GUIDE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found = []
    for code, module in zip(re.findall(r"```python\n(.*?)```", section, re.DOTALL), modules, strict=True):
        names = vars(module) | {"json": json} | (found[0] if found else {})
        exec(compile(textwrap.dedent(code), "CONTRIBUTING.md", "exec"), names)
        found.append({name: value for name, value in names.items() if name not in vars(module)})
    return found


def test_the_readout_recipe_runs(monkeypatch):
    made, tests = recipe("Add a readout", clustering, clustering_tests)
    tests["test_median_dissimilarity_equals_the_median_of_each_row"]()
    monkeypatch.setitem(clustering.READOUTS, "median_dissimilarity", made["MedianDissimilarity"])
    assert "median_dissimilarity" in SpliceLocalizer(MeanColor()).readout_names
    clustering_tests.test_the_spliced_block_has_the_highest_values("median_dissimilarity", 0)
    clustering_tests.test_flat_input_gives_a_flat_finite_map("median_dissimilarity", 0.5, (3, 4))
    clustering_tests.test_maps_rotate_with_the_picture("median_dissimilarity")


def test_the_source_recipe_runs(tmp_path, monkeypatch):
    made, tests = recipe("Add a photo source", sources, source_tests)
    monkeypatch.setattr(sources, "LIST_EXTENSIONS", (".jsonl",))
    monkeypatch.setattr(sources, "_url_list", made["_json_lines"])
    (tmp_path / "list.jsonl").write_text('{"url": "http://a/b.jpg?key=secret"}\n{"url": "http://a/c.jpg"}\n')
    plan = sources.write_plan(str(tmp_path / "list.jsonl"), Store(tmp_path / "part"), 0, Contents())
    assert (plan["kind"], plan["parts"]) == ("urls", 1)
    rows = pq.read_table(tmp_path / "part/plan/00000.parquet").to_pylist()
    assert [row["place"] for row in rows] == [b"http://a/b.jpg?key=secret", b"http://a/c.jpg"]
    assert [row["name"] for row in rows] == ["http://a/b.jpg", "http://a/c.jpg"]
    damaged = tests["test_a_damaged_line_is_reported"]
    for number, line in enumerate(damaged.pytestmark[0].args[1]):
        (tmp_path / str(number)).mkdir()
        damaged(tmp_path / str(number), line)


@pytest.mark.parametrize(
    "check",
    [
        layout_tests.test_pictures_and_masks_of_each_layout,
        layout_tests.test_a_missing_mask_is_reported,
        layout_tests.test_a_broken_picture_is_reported_and_not_replaced,
        layout_tests.test_a_mask_of_the_wrong_size_is_reported,
    ],
    ids=lambda check: check.__name__,
)
def test_the_layout_recipe_runs(tmp_path, monkeypatch, check):
    made, tests = recipe("Add a benchmark layout", layouts, layout_tests)
    monkeypatch.setitem(layouts.LAYOUTS, "my_set", made["_my_set"])
    check(tmp_path, tests["my_set"])


def test_files_targets_and_names_exist():
    named = set(re.findall(r"`((?:exiflang|tests|notebooks|\.github)/[\w/.]+\.\w+)`", GUIDE))
    assert len(named) > 10 and [name for name in sorted(named) if not project_path(name).exists()] == []
    targets = re.findall(r"^(\w+):", project_path("Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(re.findall(r"\bmake (install|test|wheel|weights)\b", GUIDE)) <= set(targets)
    assert all(name in GUIDE for name in ("READOUTS", "LAYOUTS", "WRITERS", "_PUBLISHED", "_NAMES", "_rows"))
