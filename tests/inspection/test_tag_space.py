"""The space of pictures and tags: vectors of tags, maps that find a common cause, and their checks."""

import numpy as np
import pytest

from exiflang.inspection.tag_space import TagSpace, TagVector, correlate, fit_tag_space, logarithm

VALUES = {"Make": ["Canon", "NIKON"], "Flash": ["fired", "not fired"]}


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1/4", -2),
        ("8", 3),
        ("0.5", -1),
        ("0", None),
        ("-1", None),
        ("1/0", None),
        ("", None),
        ("nan", None),
        ("?", None),
    ],
)
def test_logarithm_of_canonical_values(text, number):
    assert logarithm(text) == number


def test_a_vector_says_which_tags_there_are_and_their_common_values():
    tags = [{"Make": "Canon", "FNumber": "2"}, {"Make": "Leica", "FNumber": "8"}, {"Flash": "fired"}]
    vector = TagVector.of(VALUES, tags)
    assert vector.numbers == {"FNumber": [2.0, 1.0]}
    # Make, Canon, NIKON, Flash, fired, not fired, aperture
    assert vector(tags).tolist() == [[1, 1, 0, 0, 0, 0, -1], [1, 0, 0, 0, 0, 0, 1], [0, 0, 0, 1, 1, 0, 0]]
    assert vector([{"FNumber": "1000"}])[0, -1] == 3  # clipped


def cause(count: int, seed: int = 0):
    """Embeddings and tags with the same cause: ISO speed."""
    rng = np.random.default_rng(seed)
    speed = rng.integers(0, 6, count)
    image = rng.normal(size=(count, 8)).astype(np.float32)
    image[:, 0] += 2 * speed
    tags = [
        {"Make": str(rng.choice(["Canon", "NIKON"])), "PhotographicSensitivity": str(100 * 2**number)}
        for number in speed
    ]
    return image, tags


def test_own_tags_fit_better_than_others_in_photos_of_other_cameras():
    image, tags = cause(400)
    space = fit_tag_space(image, tags, [f"camera {i % 20}" for i in range(400)], VALUES)
    fresh, own = cause(200, seed=1)
    fits = space.place_images(fresh) @ space.place_tags(own).T
    np.testing.assert_allclose(np.linalg.norm(space.place_images(fresh), axis=1), 1, rtol=1e-5)
    assert (np.diag(fits)[:, None] > fits).mean() > 0.65
    by_window = space.place_images(np.stack([fresh[:2], fresh[2:4]]))
    np.testing.assert_allclose(by_window[1], space.place_images(fresh[2:4]), rtol=1e-5)


def test_without_a_common_cause_nothing_fits():
    image, tags = cause(400)
    rng = np.random.default_rng(2)
    space = fit_tag_space(rng.permutation(image), tags, [f"camera {i % 20}" for i in range(400)], VALUES)
    fresh, own = cause(200, seed=1)
    fits = space.place_images(fresh) @ space.place_tags(own).T
    assert (np.diag(fits)[:, None] > fits).mean() == pytest.approx(0.5, abs=0.1)


def test_a_common_camera_weighs_less_than_its_photos():
    rng = np.random.default_rng(0)
    image, vectors = rng.normal(size=(2, 100, 3))
    few = correlate(np.vstack([image, image[:1]]), np.vstack([vectors, vectors[:1]]), ["A"] * 50 + ["B"] * 50 + ["C"])
    many = correlate(
        np.vstack([image, *[image[:1]] * 16]),
        np.vstack([vectors, *[vectors[:1]] * 16]),
        ["A"] * 50 + ["B"] * 50 + ["C"] * 16,
    )
    assert few[0].shape == many[0].shape == (4, 3)
    assert not np.allclose(np.abs(few[0]), np.abs(many[0]))
    assert correlate(image[:1], vectors[:1], ["A"])[0].shape == (4, 3)  # a single photo: no direction, but no error


def test_maps_that_are_not_whole_are_refused():
    space = fit_tag_space(*cause(40), ["A"] * 40, VALUES)
    space.check(8)
    with pytest.raises(ValueError, match="do not belong together"):
        space.check(9)
    with pytest.raises(ValueError, match="NaN"):
        TagSpace(space.vector, space.image * np.nan, space.tags).check(8)
