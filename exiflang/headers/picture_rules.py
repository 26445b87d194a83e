"""Rules on what the metadata say of the picture: size, thumbnail, orientation, colors, and the camera's maker note."""

from exiflang.headers.facts import Facts
from exiflang.headers.findings import Rule


def _size(facts: Facts) -> str | None:
    """The EXIF's size in pixels, in either orientation."""
    said = facts.positive("PixelXDimension", "PixelYDimension")
    if said is None or facts.size is None:
        return None
    if sorted(said) == sorted(facts.size):
        return ""
    return (
        f"EXIF states {said[0]:.0f} x {said[1]:.0f} pixels, but the picture has {facts.size[0]} x {facts.size[1]}: it "
        "was cropped, rescaled or edited after the camera wrote it, or its EXIF is from a different picture."
    )


def _stored_size(facts: Facts) -> str | None:
    """TIFF's tags of the size, which some phones and editors write into a JPEG's EXIF."""
    said = facts.positive("ImageWidth", "ImageLength")
    if said is None or facts.size is None:
        return None
    if sorted(said) == sorted(facts.size):
        return ""
    return (
        f"Its tags ImageWidth and ImageLength state {said[0]:.0f} x {said[1]:.0f} pixels, but the picture has "
        f"{facts.size[0]} x {facts.size[1]}."
    )


def _part(facts: Facts) -> str | None:
    match = facts.match
    if match is None:
        return None
    if match.kind != "part":
        return ""
    return (
        f"Its thumbnail shows more than the picture, which fills {match.across:.0%} of the thumbnail's width and "
        f"{match.down:.0%} of its height."
    )


def _other(facts: Facts) -> str | None:
    match = facts.match
    if match is None:
        return None
    return "Its thumbnail shows something other than the picture." if match.kind == "other" else ""


def _changed(facts: Facts) -> str | None:
    match = facts.match
    if match is None:
        return None
    return "Its thumbnail shows the picture, but differs from it in a part." if match.kind == "changed" else ""


def _turned(facts: Facts) -> str | None:
    match = facts.match
    if match is None or match.kind == "other":
        return None
    return f"Its thumbnail shows the picture turned by {match.turn} degrees." if match.turn else ""


def _thumbnail_orientation(facts: Facts) -> str | None:
    """The thumbnail's own tag, which few writers give, against the picture's."""
    small, large = facts.text("Thumbnail Orientation"), facts.text("Orientation")
    if not small or not large:
        return None
    if small == large:
        return ""
    return f'Its EXIF gives "{large}" as orientation of the picture, and "{small}" as that of the thumbnail.'


def _interoperability(facts: Facts) -> str | None:
    """R98 stands for sRGB, R03 for Adobe RGB, which ColorSpace calls uncalibrated."""
    space, index = facts.text("ColorSpace"), facts.text("InteroperabilityIndex")[:3]
    if not space or index not in ("R98", "R03"):
        return None
    differ = index == "R03" if space in ("sRGB", "1") else index == "R98" and space in ("Adobe RGB", "2")
    return f"Its EXIF gives {space} as color space, but {index} as rules of interoperability." if differ else ""


def _profile(facts: Facts) -> str | None:
    """An sRGB picture has no other profile; an uncalibrated one may have any."""
    space, profile = facts.text("ColorSpace"), facts.profile
    if space not in ("sRGB", "1") or profile is None:
        return None
    if not profile or any(name in profile.casefold() for name in _SRGB):
        return ""
    # A monitor's profile can hold its owner's name.
    known = facts.private or any(name in profile.casefold() for name in _PROFILES)
    called = f'"{profile}"' if known else "another one"
    return f"Its EXIF gives sRGB as color space, but its ICC profile is {called}."


#: Parts of the descriptions of profiles for sRGB, as many programs call it, and of other common ones.
_SRGB = ("srgb", "61966", "c2ci")
_PROFILES = ("adobe rgb", "prophoto", "display p3", "dci-p3", "dci p3", "rec. 2020", "bt.2020", "gray gamma",
             "dot gain", "apple rgb", "colormatch", "ecirgb", "wide gamut", "swop", "fogra")  # fmt: skip


#: How maker notes begin, and words of the makes that write them: some makers build cameras for others, or merged.
_NOTES = {
    b"Nikon\0": "nikon", b"OLYMP\0": "olympus om epson sony polaroid", b"OLYMPUS\0": "olympus om",
    b"OM SYSTEM": "olympus om", b"EPSON\0": "epson seiko", b"SANYO\0": "sanyo", b"FUJIFILM": "fuji",
    b"SONY DSC": "sony", b"SONY CAM": "sony", b"SONY MOBILE": "sony", b"Panasonic\0": "panasonic leica matsushita",
    b"LEICA": "leica panasonic", b"AOC\0": "pentax asahi samsung ricoh", b"PENTAX": "pentax ricoh samsung asahi",
    b"SAMSUNG\0": "samsung", b"QVC\0": "casio", b"KDK": "kodak", b"Apple iOS\0": "apple", b"SIGMA\0": "sigma foveon",
    b"FOVEON\0": "sigma foveon", b"Ricoh": "ricoh pentax", b"RICOH": "ricoh pentax", b"MINOL": "minolta konica",
    b"MLT0": "minolta konica", b"KYOCERA": "kyocera contax yashica", b"HUAWEI": "huawei honor",
    b"DJI": "dji hasselblad",
}  # fmt: skip


def _maker_note(facts: Facts) -> str | None:
    """The signature at the start of a maker note against the make; many makers, Canon among them, write none."""
    note, make = facts.maker_note, facts.text("Make")
    start = next((start for start in _NOTES if note and note.startswith(start)), None)
    if start is None or not make:
        return None
    if any(word in make.casefold() for word in _NOTES[start].split()):
        return ""
    signature = start.rstrip(b"\0").decode("ascii")
    return f'Its EXIF names {make} as the make, but its maker note begins with "{signature}".'


_THUMBNAIL = "EXIF 2.32, 4.5.5, thumbnail data"
RULES = (
    Rule("size", "strong", "EXIF 2.32, 4.6.5 C, PixelXDimension", _size),
    Rule("stored_size", "notable", "EXIF 2.32, 4.6.4 A, ImageWidth", _stored_size),
    Rule("thumbnail_part", "strong", _THUMBNAIL, _part, by_tags=False),
    Rule("thumbnail_other", "strong", _THUMBNAIL, _other, by_tags=False),
    Rule("thumbnail_changed", "notable", _THUMBNAIL, _changed, by_tags=False),
    Rule("thumbnail_turned", "info", _THUMBNAIL, _turned, by_tags=False),
    Rule("thumbnail_orientation", "info", "EXIF 2.32, 4.6.4 A, Orientation", _thumbnail_orientation, by_tags=False),
    Rule("interoperability", "notable", "EXIF 2.32, 4.6.7, InteroperabilityIndex", _interoperability),
    Rule("color_profile", "notable", "EXIF 2.32, 4.6.5 B, ColorSpace; ICC.1", _profile, by_tags=False),
    Rule("maker_note", "strong", "EXIF 2.32, 4.6.5 D, MakerNote", _maker_note, by_tags=False),
)
