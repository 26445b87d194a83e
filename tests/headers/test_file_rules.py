"""Rules on files: their segments, trailers, XMP, profiles, maker notes and Photoshop's resources."""

import io
from hashlib import md5

import pytest
from PIL import Image, ImageCms, PngImagePlugin

from exiflang.headers.blocks import read_blocks
from exiflang.headers.facts import Facts
from exiflang.headers.rules import RULES, apply
from exiflang.headers.xmp import MOST_STEPS, parse_xmp
from tests.headers.made import (
    RDF,
    encoded,
    exif_block,
    jpeg,
    photoshop_segment,
    picture_index,
    scene,
    segment,
    with_segments,
    xmp_packet,
    xmp_segment,
)

RULE = {rule.name: rule for rule in RULES}
PHOTO = jpeg(scene())
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
LAB = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
STEP = '<rdf:li stEvt:action="{}" stEvt:softwareAgent="{}" stEvt:when="2020-01-01T00:00:00"/>'
SOURCE = "http://cv.iptc.org/newscodes/digitalsourcetype/"


def xmp(properties: str = "", inside: str = "") -> bytes:
    return with_segments(PHOTO, xmp_segment(xmp_packet(properties, inside)))


def history(*steps: tuple[str, str]) -> str:
    return f"<xmpMM:History><rdf:Seq>{''.join(STEP.format(*step) for step in steps)}</rdf:Seq></xmpMM:History>"


def noted(note: bytes, make: str) -> bytes:
    return jpeg(scene(), exif=exif_block({"Make": make, "MakerNote": note}))


def source(name: str) -> bytes:
    return xmp(f'Iptc4xmpExt:DigitalSourceType="{SOURCE}{name}"')


CAPTIONS = b"\x1c\x02\x78\x00\x01x"
# rule: a file in which it finds something, a part of what it says, files in which it finds nothing
CASES = {
    "color_profile": (jpeg(scene(), exif=exif_block({"ColorSpace": 1}), icc_profile=LAB), "is another one",
                      [jpeg(scene(), exif=exif_block({"ColorSpace": 1}), icc_profile=SRGB),
                       jpeg(scene(), exif=exif_block({"ColorSpace": 1}))]),
    "maker_note": (noted(b"Nikon\0\2\x10", "Canon"), 'Canon as the make, but its maker note begins with "Nikon"',
                   [noted(b"Nikon\0\2\x10", "NIKON CORPORATION"), noted(b"OLYMP\0\1\0", "SEIKO EPSON CORP."),
                    noted(b"AOC\0MM", "SAMSUNG TECHWIN")]),
    "xmp_creator": (xmp('xmp:CreatorTool="Adobe Photoshop CS5 Macintosh"'), "names Adobe Photoshop",
                    [PHOTO, xmp('xmp:CreatorTool="Ver.1.00"')]),
    "xmp_history": (xmp(inside=history(("saved", "Adobe Photoshop CS5"), ("saved", "GIMP 2.10"), ("x", ""))),
                    "3 steps of editing (saved 2x, other 1x), by Adobe Photoshop and GIMP", [PHOTO, xmp()]),
    "xmp_derived": (xmp(inside='<xmpMM:DerivedFrom rdf:parseType="Resource"/>'), "derived from another",
                    [PHOTO, xmp()]),
    "xmp_camera_raw": (xmp('crs:HasCrop="True" crs:AlreadyApplied="True"'), "Lightroom, marked as applied, with a crop",
                       [PHOTO, xmp()]),
    "xmp_photoshop": (xmp(inside="<photoshop:ColorMode>3</photoshop:ColorMode>"), "(photoshop:ColorMode)",
                      [PHOTO, xmp('photoshop:DateCreated="2020"')]),
    "source_type": (source("compositeCapture"), "declares it a composite of captures",
                    [PHOTO, source("digitalCapture"), source("trainedAlgorithmicMedia")]),
    "source_generated": (source("trainedAlgorithmicMedia"), "declares it made by a generative model",
                         [PHOTO, source("digitalCapture"), source("digitalArt")]),
    "photoshop_resources": (with_segments(PHOTO, photoshop_segment({0x03ED: b"1234", 0x0404: CAPTIONS, 0x040C: b"x"})),
                            "2 resources", [PHOTO, with_segments(PHOTO, photoshop_segment({0x0404: CAPTIONS}))]),
    "caption_digest": (with_segments(PHOTO, photoshop_segment({0x0404: CAPTIONS, 0x0425: b"7" * 16})), "differ",
                       [with_segments(PHOTO, photoshop_segment({0x0404: CAPTIONS, 0x0425: md5(CAPTIONS).digest()}))]),
    "save_for_web": (with_segments(PHOTO, segment(0xEC, b"Ducky\0\1\0\4\0\0\0\x3c")), "Save for Web", [PHOTO]),
    "second_start": (with_segments(PHOTO, b"\xff\xd8"), "second start", [PHOTO]),
    "no_end": (PHOTO[:-2], "no end marker", [PHOTO, jpeg(scene(), progressive=True)]),
    "appended": (PHOTO + b"\0\0\0\x18ftypmp42" + b"7" * 90, "102 bytes follow the picture: a video",
                 [PHOTO, PHOTO + b"?"]),
    "unknown_trailer": (PHOTO + b"PK\x03\x04" + b"7" * 96, "100 bytes follow the picture: an archive",
                        [PHOTO, PHOTO + bytes(512), PHOTO + b"xxSEFT"]),
    "picture_index": (with_segments(PHOTO, picture_index([(9, 0), (50, 10**6)])), "lists 2 pictures, 1 of which",
                      [with_segments(PHOTO, picture_index([(9, 0)]))]),
}  # fmt: skip


def facts_of(photo: bytes, private: bool = False) -> Facts:
    return Facts.of_file(photo, scene(), private)


def test_every_rule_on_files_is_tested():
    elsewhere = {name for name in RULE if name.startswith(("thumbnail_", "credentials"))} | {"xmp_creator_text"}
    assert {rule.name for rule in RULES if not rule.by_tags} - elsewhere == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_a_rule_tells_files(name):
    odd, said, fitting = CASES[name]
    assert said in apply(RULE[name], facts_of(odd))
    assert [apply(RULE[name], facts_of(photo)) for photo in fitting] == [""] * len(fitting)
    assert apply(RULE[name], Facts.of_tags({"EXIF FNumber": "8"})) is None


@pytest.mark.parametrize(
    ("after", "kind"),
    [(jpeg(scene(16, 16)), "another JPEG"), (b"7z\xbc\xaf\x27\x1c.", "an archive"), (b"hello", "of no known kind")],
)
def test_what_follows_the_picture_is_named(after, kind):
    assert kind in apply(RULE["unknown_trailer"], facts_of(PHOTO + after))
    assert apply(RULE["appended"], facts_of(PHOTO + after)) == ""


def test_pictures_of_an_index_are_no_unknown_trailer():
    second = jpeg(scene(32, 32))
    base = 2 + 4 + 4  # after the start, the segment's head and its name
    empty = with_segments(PHOTO, picture_index([(1, 1), (1, 1)]))
    photo = with_segments(PHOTO, picture_index([(len(empty), 0), (len(second), len(empty) - base)])) + second
    assert read_blocks(photo).pictures == [(0, len(empty)), (len(empty), len(second))]
    assert "more pictures that its index names" in apply(RULE["appended"], facts_of(photo))
    assert apply(RULE["unknown_trailer"], facts_of(photo)) == apply(RULE["picture_index"], facts_of(photo)) == ""


def test_pillows_own_multi_picture_file_is_whole():
    frames = [Image.fromarray(scene(64, 64, seed)) for seed in range(3)]
    file = io.BytesIO()
    frames[0].save(file, "MPO", save_all=True, append_images=frames[1:])
    facts = facts_of(file.getvalue())
    assert len(facts.blocks.pictures) == 3
    assert apply(RULE["picture_index"], facts) == ""
    assert "more pictures" in apply(RULE["appended"], facts)


def test_an_extension_of_xmp_is_read():
    packet = xmp_packet(inside=history(("saved", "GIMP")))
    head = b"http://ns.adobe.com/xmp/extension/\0" + b"A" * 32 + len(packet).to_bytes(4, "big")
    parts = [packet[:200], packet[200:]]
    more = [segment(0xE1, head + (200 * i).to_bytes(4, "big") + part) for i, part in enumerate(parts)]
    facts = facts_of(with_segments(PHOTO, xmp_segment(xmp_packet()), *more))
    assert "1 step of editing" in apply(RULE["xmp_history"], facts)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "AVIF"])
def test_tags_and_xmp_of_other_formats_are_read(kind):
    packet = xmp_packet('xmp:CreatorTool="GIMP 2.10"')
    options = (
        {"tiffinfo": {700: packet}} if kind == "TIFF" else {"xmp": packet, "exif": exif_block({"Software": "GIMP"})}
    )
    if kind == "PNG":
        options["pnginfo"] = info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", options.pop("xmp").decode())
    facts = facts_of(encoded(scene(), kind, **options))
    assert "names GIMP" in apply(RULE["xmp_creator"], facts)
    assert apply(RULE["no_end"], facts) is apply(RULE["unknown_trailer"], facts) is None
    if kind != "TIFF":
        assert "names GIMP" in apply(RULE["editor"], facts)


def test_xmp_is_bounded_and_hostile_xml_is_not_read():
    many = parse_xmp([xmp_packet(inside=history(*[("saved", "GIMP")] * (MOST_STEPS + 50)))])
    assert many is not None and len(many.history) == MOST_STEPS
    bomb = b'<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;">]>' + xmp_packet('xmp:CreatorTool="&c;"')
    assert parse_xmp([bomb]) is None
    assert parse_xmp([b"<a", b"", b"\xff\xfe<", xmp_packet()[:-9]]) is None
    nested = f'<xmpMM:History xmlns:xmpMM="http://ns.adobe.com/xap/1.0/mm/" xmlns:rdf="{RDF}">'
    deep = nested * 20_000 + "</xmpMM:History>" * 20_000
    assert parse_xmp([deep.encode()]) is None
    huge = [segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + b"A" * 65_000)] * 90
    assert facts_of(with_segments(PHOTO, *huge)).xmp is None


def test_a_profile_without_a_known_name_is_quoted_on_request_only():
    photo = CASES["color_profile"][0]
    assert '"' in apply(RULE["color_profile"], facts_of(photo, private=True))
    tool = xmp('xmp:CreatorTool="C:/Users/jane/tool.exe"')
    assert apply(RULE["xmp_creator_text"], facts_of(tool)) == ""
    assert "jane" in apply(RULE["xmp_creator_text"], facts_of(tool, private=True))
