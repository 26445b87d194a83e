import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from exiflang.exif.reference import REFERENCE_SENTENCE_VERSION, reference_sentence
from exiflang.exif.tags import PRIVATE, TAGS, is_private
from exiflang.exif.text import exif_to_text
from exiflang.models.model import ExifLang
from exiflang.models.tokenizer import train_tokenizer
from tests.models.test_model import SENTENCES, tiny


def test_the_sentence_of_a_photo_of_the_dump():
    tags = {
        "Exif IFD0.Model": "Canon EOS 40D",
        "Exif IFD0.Make": "Canon",
        "Exif IFD0.X Resolution": "10748/91",
        "Exif SubIFD.ISO Speed Ratings": "400 0",
        "Exif SubIFD.Exposure Bias Value": "-1/3",
        "Exif SubIFD.Focal Length": "399/100",
        "Exif SubIFD.F-Number": "28/10",
        "Exif SubIFD.Date/Time Original": "2008:05:01 12:00:00",
        "Exif IFD0.Software": "longer than twenty chars",
    }
    assert reference_sentence(tags) == (
        "Model: CanonEOS40D, Make: Canon, X Resolution: 118, ISO Speed Ratings: 400, Exposure Bias Value: -1, "
        "Focal Length: 4.0, F-Number: 28/10, Date/Time Original: 20080501120000, Software: Unknown"
    )


@pytest.mark.parametrize(
    ("name", "value", "cleaned"),
    [
        ("Focal Plane X Resolution", "3888000/877", "4433"),
        ("Y Resolution", "72.9", "72"),
        ("X Resolution", "0/0", "0/0"),
        ("X Resolution", "7/0", "7/0"),
        ("X Resolution", "inf", "inf"),
        ("X Resolution", "9" * 30, "Unknown"),
        ("X Resolution", "", ""),
        ("Resolution Unit", "2", "2"),
        ("Exposure Bias Value", "1/3", "0"),
        ("Exposure Bias Value", "-2", "-2"),
        ("Focal Length", "50", "50.0"),
        ("Focal Length", "nan", "nan"),
        ("Focal Length 35", "50", "50"),
        ("ISO Speed Ratings", "", ""),
        ("ISO Speed Ratings", " ", ""),
        ("ISO Speed Ratings", "9" * 5000, "Unknown"),
        ("Software", "x" * 20, "x" * 20),
        ("Software", "x" * 21, "Unknown"),
        ("Software", "Ver. 1,0/b-2 (é日)", "Ver.1,0/b-2"),
        ("X Resolution", "１２", ""),
    ],
)
def test_values_are_cleaned_as_in_the_reference(name, value, cleaned):
    assert reference_sentence({name: value}) == f"{name}: {cleaned}"


def test_exif_names_are_spelled_as_in_the_dump():
    canonical = ["FNumber", "XResolution", "PhotographicSensitivity", "ExposureBiasValue", "FocalLengthIn35mmFilm",
                 "LightSource", "WhiteBalance", "YCbCrPositioning", "CFAPattern", "CompressedBitsPerPixel", "DateTime",
                 "PixelXDimension", "FocalPlaneYResolution", "Make", "Something Else", "Lens"]  # fmt: skip
    dump = ["F-Number", "X Resolution", "ISO Speed Ratings", "Exposure Bias Value", "Focal Length 35",
            "White Balance", "White Balance Mode", "YCbCr Positioning", "CFA Pattern", "Compressed Bits Per Pixel",
            "Date/Time", "Exif Image Width", "Focal Plane Y Resolution", "Make", "Something Else", "Lens"]  # fmt: skip
    assert reference_sentence(dict.fromkeys(canonical, "1")) == reference_sentence(dict.fromkeys(dump, "1"))


PERSONAL = [
    *PRIVATE,
    "GPSLatitude",
    "GPS.GPS Latitude",
    "GPS.Augmentation Method",
    "Exif IFD0.Windows XP Author",
    "Exif IFD0.Windows XP Title",
    "Exif SubIFD.Unique Image ID",
    "Exif SubIFD.User Comment",
    "Exif SubIFD.Body Serial Number",
    "Canon Makernote.Owner Name",
    "JpegComment.JPEG Comment",
    "IPTC.By-line",
    "Xmp.Location",
]


@pytest.mark.parametrize("name", PERSONAL)
def test_personal_and_location_tags_are_left_out(name):
    assert reference_sentence({name: "x", "Make": "Sony"}) == "Make: Sony"


names = st.sampled_from([tag.name for tag in TAGS] + PERSONAL + ["X Resolution", "Exposure Bias Value", ".", ""])
numbers = st.from_regex(r"[+-]?[0-9]*[/.]?[0-9]*", fullmatch=True)


@given(st.dictionaries(names, st.one_of(st.text(), numbers)))
def test_any_strings_give_a_clean_sentence(tags):
    pairs = [pair.split(": ", 1) for pair in reference_sentence(tags).split(", ") if pair]
    assert len(pairs) == sum(name not in PERSONAL for name in tags)
    assert all(re.fullmatch(r"[a-zA-Z0-9.,/-]*", value) and not is_private(name) for name, value in pairs)


def test_a_model_writes_the_sentences_it_was_trained_on(tmp_path):
    tokenizer = train_tokenizer(SENTENCES, vocab_size=320)
    theirs, ours = tiny(tokenizer, sentence_version=REFERENCE_SENTENCE_VERSION), tiny(tokenizer)
    tags = {"XResolution": "145/2", "Make": "NIKON CORPORATION"}
    for model, written in ((theirs, reference_sentence), (ours, exif_to_text)):
        assert torch.equal(model.encode_exif([tags]), model.encode_exif([written(tags)]))
    assert not torch.equal(theirs.encode_exif([tags]), ours.encode_exif([tags]))
    assert torch.equal(theirs.encode_exif(SENTENCES), ours.encode_exif(SENTENCES))
    theirs.save_pretrained(tmp_path)
    loaded = ExifLang.from_pretrained(tmp_path)
    assert loaded.config.sentence_version == 0
    torch.testing.assert_close(loaded.encode_exif([tags]), theirs.encode_exif([tags]))
