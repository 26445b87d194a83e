"""Metadata against pixels: fits computed by hand, effects of single tags, questions in all spellings."""

import dataclasses

import numpy as np
import pytest

from exiflang.exif.text import exif_to_text
from exiflang.inspection.metadata import MOST_TAGS, ask, metadata_fit, picture_embedding
from exiflang.inspection.text_bank import build_text_bank, embed_sentences
from exiflang.models.tokenizer import train_tokenizer
from tests.inspection.test_text_bank import photos, unit
from tests.models.test_model import SENTENCES, tiny

TAGS = {"Make": "Canon", "Model": "M3", "PhotographicSensitivity": "400"}


@pytest.fixture(scope="module")
def model():
    return tiny(train_tokenizer(SENTENCES, vocab_size=320))


@pytest.fixture(scope="module")
def text_bank(model):
    return build_text_bank(model, photos())


@pytest.fixture(scope="module", params=[False, True], ids=["sentences", "sentences and tags"])
def either(model, request):
    """A text bank without and with a space of tags."""
    return build_text_bank(model, photos(), unit(24, 32, seed=5) if request.param else None)


def windows(rows: int = 3, cols: int = 4, seed: int = 0) -> np.ndarray:
    return unit(rows, cols, 32, seed=seed)


def test_the_picture_embedding_is_the_mean_direction():
    embeddings = windows()
    mean = embeddings.reshape(-1, 32).mean(0)
    np.testing.assert_allclose(picture_embedding(embeddings), mean / np.linalg.norm(mean), rtol=1e-5)
    assert np.isfinite(picture_embedding(np.zeros((1, 1, 32), np.float32))).all()


def test_the_fit_is_that_of_the_sentence(model, either):
    embeddings = windows()
    fit = metadata_fit(model, either, embeddings, TAGS | {"Artist": "Me"})
    text = embed_sentences(model, [fit.sentence])
    assert fit.sentence == exif_to_text(TAGS)
    assert fit.similarity == pytest.approx(picture_embedding(embeddings) @ text[0], abs=1e-6)
    text = either.placed(text, [TAGS])[0]
    assert fit.rank == pytest.approx(either.rank(picture_embedding(embeddings), text))
    assert np.isnan(fit.percentile) and fit.photos == 24
    assert fit.misfit.shape == (3, 4) and fit.misfit.dtype == np.float32
    assert fit.misfit[1, 2] == pytest.approx(1 - either.rank(embeddings[1, 2], text))


def test_misfit_is_low_for_matching_windows_and_high_for_others(model, text_bank):
    text = embed_sentences(model, [exif_to_text(TAGS)])[0]
    others = text_bank.text.mean(0) / np.linalg.norm(text_bank.text.mean(0))
    embeddings = np.stack([text, others - text * (others @ text)])[None]  # [1, 2, D]
    misfit = metadata_fit(model, text_bank, embeddings, TAGS).misfit
    assert misfit[0, 0] < 0.2 < 0.8 < misfit[0, 1]


def test_effects_of_tags_are_those_of_the_changed_sentences(model, either):
    embeddings = windows(seed=5)
    fit, image = metadata_fit(model, either, embeddings, TAGS), picture_embedding(windows(seed=5))

    def rank(tags):
        return either.rank(image, either.placed(embed_sentences(model, [exif_to_text(tags)]), [tags])[0])

    rows = fit.tags.set_index("tag")
    assert list(rows.index) == list(TAGS)
    without = {tag: value for tag, value in TAGS.items() if tag != "Model"}
    assert rows.loc["Model", "removed"] == pytest.approx(rank(without) - fit.rank)
    assert rows.loc["Model", "best"] == "" and np.isnan(rows.loc["Model", "swapped"])  # Model has no common values
    rises = {make: rank(TAGS | {"Make": make}) - fit.rank for make in ("Apple", "NIKON")}
    assert rows.loc["Make", "swapped"] == pytest.approx(max(rises.values()))
    assert rises[rows.loc["Make", "best"]] == pytest.approx(max(rises.values()))


def test_a_single_tag_cannot_be_removed(model, text_bank):
    row = metadata_fit(model, text_bank, windows(), {"Make": "Canon"}).tags.iloc[0]
    assert np.isnan(row["removed"]) and row["best"] in ("Apple", "NIKON")


@pytest.mark.parametrize(
    "tags", [{}, {"BodySerialNumber": "12"}, {"DateTime": "2020:01:01 00:00:00"}, {"GPSLatitude": "1"}]
)
def test_there_is_no_fit_without_a_usable_tag(model, text_bank, tags):
    assert metadata_fit(model, text_bank, windows(), tags) is None


def test_private_tags_never_enter_the_sentence(model, text_bank):
    fit = metadata_fit(model, text_bank, windows(), TAGS | {"GPSLatitude": "1 2 3", "Artist": "Me"})
    assert "Me" not in fit.sentence and "GPS" not in fit.sentence and len(fit.tags) == 3


def test_a_file_with_thousands_of_tags_is_bounded(model, text_bank):
    tags = {f"Tag{i}": "x" * 100 for i in range(500)}
    assert len(metadata_fit(model, text_bank, windows(), tags).tags) == MOST_TAGS


def test_one_window(model, text_bank):
    assert metadata_fit(model, text_bank, windows(1, 1), TAGS).misfit.shape == (1, 1)


# Questions


@pytest.mark.parametrize("question", ["Make", "make", "Make:", " MAKE : Canon ", "Make: Canon\nMake: NIKON"])
def test_a_known_tag_is_answered_with_probabilities_of_its_values(model, text_bank, question):
    answer = ask(model, text_bank, windows(), question)
    assert (answer.tag, answer.kind) == ("Make", "probability")
    assert sorted(answer.table["value"]) == ["Apple", "Canon", "NIKON"]
    assert answer.table["score"].sum() == pytest.approx(1)
    assert answer.table["score"].is_monotonic_decreasing
    assert answer.table["asked"].sum() == question.count(": C") + question.count(": N")


@pytest.mark.parametrize("name", ["ISO", "ISO Speed", "iso speed ratings", "PhotographicSensitivity"])
def test_common_names_of_tags_are_understood(model, text_bank, name):
    answer = ask(model, text_bank, windows(), f"{name}: 400")
    assert answer.tag == "PhotographicSensitivity"
    assert answer.table.set_index("value").loc["400", "asked"]


def test_values_are_accepted_in_any_exif_spelling(model, text_bank):
    answer = ask(model, text_bank, windows(), "ISO: 400.0")
    assert answer.kind == "probability" and list(answer.table[answer.table["asked"]]["value"]) == ["400"]


def test_an_unknown_value_is_compared_with_the_known_ones_by_similarity(model, text_bank):
    answer = ask(model, text_bank, windows(), "Make: Zenit")
    assert answer.kind == "similarity" and set(answer.table["value"]) == {"Zenit", "Apple", "Canon", "NIKON"}
    text = embed_sentences(model, ["Make: Zenit"])[0]
    score = answer.table.set_index("value").loc["Zenit", "score"]
    assert score == pytest.approx(text @ picture_embedding(windows()), abs=1e-6)


def test_arbitrary_texts_are_compared_with_each_other(model, text_bank):
    answer = ask(model, text_bank, windows(), "Flash: Flash fired; Model: X; a cat")
    assert (answer.tag, answer.kind, len(answer.table)) == ("", "similarity", 3)
    assert answer.table["asked"].all()
    assert "Flash: Flash fired" in set(answer.table["value"])


@pytest.mark.parametrize("question", ["", "  ", ";\n;", "\0"])
def test_an_empty_question_says_what_to_type(model, text_bank, question):
    with pytest.raises(ValueError, match="type a tag"):
        ask(model, text_bank, windows(), question)


@pytest.mark.parametrize("question", ["GPSLatitude: 1", "Artist", "Serial Number: 3", "DateTime: 2020:01:01"])
def test_private_tags_and_dates_cannot_be_asked(model, text_bank, question):
    with pytest.raises(ValueError, match="ask about another tag"):
        ask(model, text_bank, windows(), question)


def test_a_hostile_question_is_treated_as_text(model, text_bank):
    answer = ask(model, text_bank, windows(), "<script>: " + "[PAD]" * 5000)
    assert len(answer.table) == 1 and len(answer.table["value"][0]) <= 301


def test_a_text_bank_without_values_answers_by_similarity(model, text_bank):
    bare = dataclasses.replace(text_bank, values={}, reading={})
    assert ask(model, bare, windows(), "Make: Canon").kind == "similarity"
