"""The signature reference: counts and ratios against an oracle, never seen, rotated, merged, stored, damaged."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exiflang.headers.jpeg_header import JpegHeader
from exiflang.headers.reference import (
    MAKE,
    MODEL,
    PRIOR,
    SHARP,
    Signature,
    SignatureError,
    SignatureReference,
)
from exiflang.utils.dct import standard_tables

TAGS = ("Image Make", "Image Model", "EXIF ExposureTime")


def header(quality: int = 75, sampling: str = "2x1:0 1x1:1 1x1:1", tags=TAGS, **fields) -> JpegHeader:
    return JpegHeader(standard_tables(quality), sampling, 640, 480, tags=tags, **fields)


def exif(make: str = "Canon", model: str = "A1", **tags: str) -> dict[str, str]:
    return {"Make": make, "Model": model, **tags}


def reference(*photos: tuple[JpegHeader, dict[str, str]]) -> SignatureReference:
    return SignatureReference({f"{number:08x}": Signature.of(*photo) for number, photo in enumerate(photos)})


CAMERAS = reference(
    *[(header(75), exif())] * 3, (header(80), exif()), (header(75), exif(model="A2")),
    *[(header(90), exif("NIKON CORPORATION", "D1"))] * 4, (header(75), exif("Nikon", "D2")),
)  # fmt: skip


def test_counts_of_model_make_and_all_photos():
    fit = CAMERAS.fit(header(75), exif())
    assert (fit.of_model, fit.of_make, fit.of_any) == ((3, 4), (4, 5), (5, 10))
    assert (fit.photos, fit.cameras, fit.known_camera) == (10, 4, True)
    assert fit.makes == ("Canon", "Nikon")


def test_makes_are_compared_by_their_first_word_and_models_by_letters_and_digits():
    fit = CAMERAS.fit(header(90), exif("Nikon", "d-1"))
    assert (fit.of_model, fit.of_make) == ((4, 4), (4, 5))


def oracle(photos: SignatureReference, own: JpegHeader, claimed: dict[str, str]) -> float:
    """The formula of the module, photo by photo."""
    wanted, per_model = Signature.of(own, claimed), {}
    for photo in photos.photos.values():
        per_model[photo.camera_key] = per_model.get(photo.camera_key, 0) + 1
    total = same = given_total = given_same = 0.0
    for photo in photos.photos.values():
        weight = 1 / per_model[photo.camera_key]
        mine, other = set(wanted.tags), set(photo.tags)
        alike = weight * math.exp(SHARP * (len(mine & other) / len(mine | other) - 1))
        alike *= MAKE if photo.make_key == wanted.make_key else 1
        alike *= MODEL if photo.camera_key == wanted.camera_key else 1
        total, given_total = total + weight, given_total + alike
        if photo.encoding == wanted.encoding:
            same, given_same = same + weight, given_same + alike
    base = same / total
    return math.log10(((given_same + PRIOR * base) / (given_total + PRIOR) + 1e-5) / (base + 1e-5))


@given(st.data())
def test_the_ratio_is_that_of_the_formula(data):
    tags = st.lists(st.sampled_from([*TAGS, "EXIF Flash", "EXIF FNumber"]), min_size=1, unique=True).map(tuple)
    quality, make, model = st.sampled_from([75, 80, 90]), st.sampled_from(["Canon", "Sony"]), st.sampled_from("ABC")
    photo = st.builds(lambda q, t, make, model: (header(q, tags=t), exif(make, model)), quality, tags, make, model)
    known = reference(*data.draw(st.lists(photo, min_size=1, max_size=12)))
    own, claimed = data.draw(photo)
    fit = known.fit(own, claimed)
    if fit.of_any[0]:
        assert fit.ratio == pytest.approx(oracle(known, own, claimed), abs=1e-9)
    else:
        assert math.isnan(fit.ratio)


def test_an_encoding_of_the_claimed_camera_fits_better_than_another_makes():
    assert CAMERAS.fit(header(75), exif()).ratio > 0 > CAMERAS.fit(header(90), exif()).ratio


def test_tags_of_similar_cameras_speak_for_an_unknown_one():
    other = ("Image Software", "EXIF Flash")
    known = reference((header(75), exif("Canon", "A1")), (header(90, tags=other), exif("Sony", "S1")))
    assert known.fit(header(75), exif("Leica", "L1")).ratio > known.fit(header(90), exif("Leica", "L1")).ratio


def test_an_encoding_that_no_photo_has_is_never_seen():
    fit = CAMERAS.fit(header(33), exif())
    assert math.isnan(fit.ratio) and math.isnan(fit.percentile)
    assert fit.of_any == (0, 10) and not fit.rotated and fit.makes == ()


def test_how_many_authentic_photos_have_an_encoding_of_their_own():
    """Against a loop over photos and models."""
    for known in (CAMERAS, reference((header(75), exif()))):
        photos = list(known.photos.values())
        shares = {True: [], False: []}
        for camera in {photo.camera_key for photo in photos}:
            own = [photo for photo in photos if photo.camera_key == camera]
            others = {photo.encoding for photo in photos if photo.camera_key != camera}
            shares[True].append(np.mean([sum(p.encoding == photo.encoding for p in photos) == 1 for photo in own]))
            shares[False].append(np.mean([photo.encoding not in others for photo in own]))
        for is_known, found in shares.items():
            assert known.never_seen(is_known) == pytest.approx(np.mean(found))
    assert CAMERAS.fit(header(33), exif()).never_seen == CAMERAS.never_seen(True)
    assert CAMERAS.fit(header(33), exif("Leica", "L1")).never_seen == CAMERAS.never_seen(False)


def test_a_picture_rotated_without_recompression_is_recognized():
    turned = tuple(tuple(np.reshape(table, (8, 8)).T.ravel().tolist()) for table in standard_tables(75))
    fit = CAMERAS.fit(replace(header(), tables=turned, sampling="1x2:0 1x1:1 1x1:1"), exif())
    assert fit.rotated and fit.of_model == (3, 4) and fit.ratio > 0


@pytest.mark.parametrize("claimed", [{}, {"Make": ""}, {"Model": "A1"}, {"Make": "???"}])
def test_no_fit_without_a_make(claimed):
    assert CAMERAS.fit(header(), claimed) is None


def test_no_fit_without_photos():
    assert SignatureReference({}).fit(header(), exif()) is None


def test_fields_unlike_all_photos_of_the_model_are_listed_where_known():
    known = reference((header(huffman="standard"), exif()), (header(huffman=None, restart=4), exif()))
    fit = known.fit(header(huffman="optimized", restart=0, progressive=True), exif())
    assert fit.unlike == {"huffman": "optimized", "restart": 0}  # nothing is known of `progressive`
    assert known.fit(header(huffman="standard"), exif()).unlike == {}


def test_unknown_tags_say_nothing():
    assert CAMERAS.fit(header(tags=None), exif()).ratio > 0


def many(seed: int = 0) -> SignatureReference:
    rng = np.random.default_rng(seed)
    photos = []
    for make in ("Canon", "Nikon", "Sony", "Leica"):
        own = rng.permutation(range(60, 95))[:3]
        for model in range(6):
            photos += [(header(int(rng.choice(own))), exif(make, f"M{model}")) for _ in range(rng.integers(1, 5))]
    return reference(*photos)


def test_percentiles_of_authentic_photos_are_uniform_and_other_cameras_rank_lower():
    known = many().calibrated()
    assert set(known.ranks) == {"known", "new"}
    own = [known.fit(header_of(photo), exif(photo.make, photo.model)) for photo in known.photos.values()]
    false = [known.fit(header_of(photo), exif("Pentax", "new")) for photo in known.photos.values()]
    assert np.mean([fit.percentile for fit in own]) > 0.5 > np.mean([fit.percentile for fit in false])


def header_of(photo: Signature) -> JpegHeader:
    return next(header(quality) for quality in range(60, 95) if header(quality).encoding == photo.encoding)


def test_without_calibration_there_is_no_percentile():
    assert math.isnan(CAMERAS.fit(header(), exif()).percentile)


def test_merging_counts_each_photo_once():
    first, second = many(0), many(1)
    both = first.merged(second)
    assert both.photos.keys() == first.photos.keys() | second.photos.keys()
    assert first.merged(first).photos == first.photos


def test_storing_keeps_everything(tmp_path):
    known = many().calibrated()
    photos = {**known.photos, "ffffffff": Signature.of(header(tags=None, thumbnail=(160, 120, "abc")), exif())}
    known = SignatureReference(photos, known.ranks)
    known.save(tmp_path / "a.json")
    read = SignatureReference.load(tmp_path / "a.json")
    assert read.photos == known.photos and read.ranks == known.ranks
    known.save(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b"\xff\xfe", b'{"format": 99}', b'{"format": 1, "tag_names": [], "tag_sets": [[3]]}']
)
def test_other_files_are_refused_by_name(tmp_path, content):
    path = tmp_path / "own.json"
    path.write_bytes(content)
    with pytest.raises(SignatureError, match="own.json: .*create it again"):
        SignatureReference.load(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SignatureError, match="none.json: cannot be read"):
        SignatureReference.load(tmp_path / "none.json")


def test_the_packaged_reference_holds_no_private_data():
    from exiflang.headers.reference import FILE
    from exiflang.models.weights import packaged_model

    path = packaged_model() / FILE
    assert path.stat().st_size < 2_000_000
    known = SignatureReference.load(path)
    assert len(known.photos) == 3693 and known.cameras == 345
    names = " ".join(json.loads(path.read_bytes())["tag_names"]).casefold()
    assert not any(word in names for word in ("gps", "serial", "owner", "artist", "copyright", "comment"))
