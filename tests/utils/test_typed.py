"""Text is not taken for True, nor a bool for a number, whether values come from notebooks, YAML or a call."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exiflang.evaluation.score_run import ScoreRun
from exiflang.exif.reader import canonical_tags
from exiflang.inspection.inspector import Inspector
from exiflang.inspection.picture import open_picture
from exiflang.preparation.options import Contents, Limits, grouped
from exiflang.training.config import TrainConfig
from exiflang.training.recipe import Recipe
from exiflang.utils.typed import typed, unknown_name

ANYTHING = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers())


@given(ANYTHING, st.sampled_from([bool, int, str]))
def test_values_must_have_the_type_and_a_bool_is_not_a_number(value, kind):
    if type(value) is kind:
        assert typed("x", value, kind) is value
    else:
        with pytest.raises(ValueError, match="^x is .*: it must be "):
            typed("x", value, kind)


@pytest.mark.parametrize(
    "value, hint, taken",
    [
        ("1e-4", float, 1e-4),
        (3, float, 3.0),
        (None, int | None, None),
        (64, int | None, 64),
        ((1, 2), list[int], [1, 2]),
        ([], list[str], []),
        ([1, "a"], list, [1, "a"]),
        (Path("/x/trip #2"), str, "/x/trip #2"),
        ({"a": 1}, dict, {"a": 1}),
    ],
)
def test_convertible_values_are_accepted(value, hint, taken):
    assert typed("x", value, hint) == taken


@pytest.mark.parametrize(
    "value, hint, message",
    [
        ("false", bool, "x is 'false': it must be True or False"),
        (1, bool, "x is 1: it must be True or False"),
        (True, float, "x is True: it must be a number"),
        ("many", float, "x is 'many': it must be a number"),
        ("64", int | None, "x is '64': it must be a whole number"),
        (False, str, r"x is False: it must be text \(quote yes, no and numbers in YAML\)"),
        ("columbia", list[str], "x is 'columbia': it must be a list"),
        ([64, "96"], list[int], r"x\[1\] is '96': it must be a whole number"),
    ],
)
def test_values_of_another_type_are_refused(value, hint, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        typed("x", value, hint)


@pytest.mark.parametrize(
    "names, said",
    [
        (["steps", "seed"], ""),
        (["seed", "step"], "'step'; did you mean steps? known: steps, seed"),
        (["x"], "'x'; known: steps, seed"),
        ([3], "'3'; known: steps, seed"),
    ],
)
def test_an_unknown_name_is_reported_with_the_nearest_one(names, said):
    assert unknown_name(names, ["steps", "seed"]) == said
    assert unknown_name(["x"], []) == "'x'; known: none"


@pytest.mark.parametrize(
    "made, name",
    [
        (lambda: grouped({"private": "false"}), "private"),
        (lambda: grouped({"allow_private": "no"}), "allow_private"),
        (lambda: grouped({"seed": "0"}), "seed"),
        (lambda: Contents(private="false"), "private"),
        (lambda: Limits(allow_private="no"), "allow_private"),
        (lambda: Recipe.of(cache_tiles="false"), "cache_tiles"),
        (lambda: Recipe.of(compile="no"), "compile"),
        (lambda: Recipe.of(mixed_precision=False), "mixed_precision"),
        (lambda: Recipe(fixed_temperature="False"), "fixed_temperature"),
        (lambda: TrainConfig(steps=True), "steps"),
        (lambda: ScoreRun("columbia", ".", "scores"), "benchmarks"),
        (lambda: ScoreRun([], ".", "scores", baselines="false"), "baselines"),
        (lambda: Inspector(None, private="false"), "private"),
        (lambda: canonical_tags({}, private="false"), "private"),
        (lambda: open_picture(Path(__file__).parents[2] / "reports/golden/gallery.png", private="false"), "private"),
    ],
)
def test_every_entry_point_names_a_value_of_the_wrong_type(made, name):
    with pytest.raises(ValueError, match=f"^{name} is .*: it must be "):
        made()
