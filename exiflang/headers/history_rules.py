"""Rules on what a file says of its own editing: names of programs, XMP's history, Photoshop's resources."""

from collections import Counter
from hashlib import md5

from exiflang.exif.tags import clean
from exiflang.headers.editors import name_editor
from exiflang.headers.facts import Facts
from exiflang.headers.findings import Rule

#: What stEvt:action may say (XMP specification, part 2, 1.2.1, ResourceEvent).
_ACTIONS = ("converted", "copied", "created", "cropped", "derived", "edited", "filtered", "formatted", "managed",
            "printed", "published", "resized", "saved", "version_updated")  # fmt: skip
#: Ends of IPTC's digital source types that stand for generated pictures, and what they say.
_GENERATED = {
    "trainedalgorithmicmedia": "made by a generative model",
    "compositewithtrainedalgorithmicmedia": "a composite with parts made by a generative model",
    "compositesynthetic": "a composite with synthetic parts",
    "algorithmicallyenhanced": "enhanced by an algorithm",
    "algorithmicmedia": "made by an algorithm",
    "virtualrecording": "a recording of a virtual scene",
    "digitalart": "digital art", "digitalcreation": "made by a person with a computer",
    "composite": "a composite", "compositecapture": "a composite of captures", "softwareimage": "made by software",
    "screencapture": "a screen capture", "humanedits": "edited by a person", "minorhumanedits": "edited by a person",
    "datadrivenmedia": "drawn from data",
}  # fmt: skip
_BY_MODEL = ("trainedalgorithmicmedia", "compositewithtrainedalgorithmicmedia")


def source_words(address: str) -> tuple[str, bool]:
    """What a digital source type of IPTC's vocabulary says, "" if it is a capture; whether a model made the picture."""
    name = address.rstrip("/").rpartition("/")[2].casefold()
    return _GENERATED.get(name, ""), name in _BY_MODEL


def _editor(facts: Facts) -> str | None:
    """Tags that the program writes which saved the file: cameras write their firmware there."""
    said = [(tag, facts.text(tag)) for tag in ("Software", "ProcessingSoftware", "HostComputer")]
    if not any(text for _, text in said):
        return None
    for tag, text in said:
        if editor := name_editor(text):
            return f"Its EXIF names {editor} as {tag}."
    return ""


def _without(facts: Facts) -> str | None:
    """Of a file without XMP there is nothing to say, of tags alone it is unknown."""
    return "" if facts.photo else None


def _creator(facts: Facts) -> str | None:
    if facts.xmp is None:
        return _without(facts)
    editor = name_editor(facts.xmp.properties.get("xmp:CreatorTool", ""))
    return f"Its XMP names {editor} as the program that made the file." if editor else ""


def _history(facts: Facts) -> str | None:
    """Steps, without what they hold of names, paths and ids."""
    if facts.xmp is None:
        return _without(facts)
    steps = facts.xmp.history
    if not steps:
        return ""
    done = Counter(step.action if step.action in _ACTIONS else "other" for step in steps)
    said = ", ".join(f"{action.replace('_', ' ')} {number}x" for action, number in done.items())
    editors = list(dict.fromkeys(filter(None, (name_editor(step.agent) for step in steps))))
    by = f", by {' and '.join(editors[:3])}" if editors else ""
    return f"Its XMP lists {len(steps)} step{'s' if len(steps) > 1 else ''} of editing ({said}){by}."


def _derived(facts: Facts) -> str | None:
    if facts.xmp is None:
        return _without(facts)
    return "Its XMP says that it was derived from another file." if "xmpMM:DerivedFrom" in facts.xmp.properties else ""


def _raw_settings(facts: Facts) -> str | None:
    """Camera Raw's settings: it also develops JPEG files."""
    if facts.xmp is None:
        return _without(facts)
    settings = {name: text for name, text in facts.xmp.properties.items() if name.startswith("crs:")}
    if not settings:
        return ""
    applied = settings.get("crs:AlreadyApplied", "").casefold() == "true"
    cropped = settings.get("crs:HasCrop", "").casefold() == "true"
    return (
        f"Its XMP has settings of Adobe Camera Raw or Lightroom, {'' if applied else 'not '}marked as applied"
        f"{', with a crop' if cropped else ''}."
    )


def _photoshop_xmp(facts: Facts) -> str | None:
    if facts.xmp is None:
        return _without(facts)
    found = sorted(name for name in facts.xmp.properties if name in _BY_PHOTOSHOP)
    return f"Its XMP has properties that Photoshop writes ({', '.join(found)})." if found else ""


#: Not "photoshop:DateCreated", which other programs and cameras write.
_BY_PHOTOSHOP = ("photoshop:ColorMode", "photoshop:DocumentAncestors", "photoshop:History", "photoshop:ICCProfile",
                 "photoshop:LegacyIPTCDigest", "photoshop:TextLayers")  # fmt: skip


def _source_type(facts: Facts) -> str | None:
    said, by_model = _said_source(facts)
    return f"Its XMP declares it {said}." if said and not by_model else _without(facts)


def _generated(facts: Facts) -> str | None:
    said, by_model = _said_source(facts)
    return f"Its XMP declares it {said}." if by_model else _without(facts)


def _said_source(facts: Facts) -> tuple[str, bool]:
    return source_words(facts.xmp.properties.get("iptc:DigitalSourceType", "") if facts.xmp else "")


def _photoshop(facts: Facts) -> str | None:
    """Photoshop's resources; a block that only carries IPTC captions can be from other programs."""
    if facts.blocks is None:
        return None
    own = len(facts.blocks.photoshop.keys() - {_IPTC, _DIGEST})
    return f"It has {own} resource{'s' if own > 1 else ''} of Adobe Photoshop." if own else ""


_IPTC, _DIGEST = 0x0404, 0x0425


def _caption_digest(facts: Facts) -> str | None:
    """Photoshop stores the MD5 sum of the IPTC captions that it wrote; zeros if there were none."""
    resources = facts.blocks.photoshop if facts.blocks else {}
    digest = resources.get(_DIGEST, b"")
    if len(digest) != 16 or not any(digest) or _IPTC not in resources:
        return None
    same = digest == md5(resources[_IPTC], usedforsecurity=False).digest()
    return "" if same else "Its IPTC captions differ from those that Photoshop took a digest of."


def _web_save(facts: Facts) -> str | None:
    if facts.blocks is None:
        return None
    return "Photoshop's function Save for Web wrote it." if facts.blocks.bodies(0xEC, b"Ducky") else ""


def _private_tool(facts: Facts) -> str | None:
    """The creator tool as written, which can hold paths: only on request."""
    if facts.xmp is None or not facts.private:
        return _without(facts)
    tool = clean(facts.xmp.properties.get("xmp:CreatorTool", ""))
    return f'Its XMP names "{tool}" as the program that made the file.' if tool and not name_editor(tool) else ""


_XMP, _IPTC_TYPES = "XMP specification, part 2", "IPTC Photo Metadata Standard, Digital Source Type"
_ADOBE = "Adobe Photoshop File Formats Specification, Image Resource Blocks"
RULES = (
    Rule("editor", "notable", "EXIF 2.32, 4.6.4 D, Software", _editor),
    Rule("xmp_creator", "notable", f"{_XMP}, 1.2.1, xmp:CreatorTool", _creator, by_tags=False),
    Rule("xmp_creator_text", "info", f"{_XMP}, xmp:CreatorTool", _private_tool, by_tags=False),
    Rule("xmp_history", "notable", f"{_XMP}, xmpMM:History", _history, by_tags=False),
    Rule("xmp_derived", "notable", f"{_XMP}, xmpMM:DerivedFrom", _derived, by_tags=False),
    Rule("xmp_camera_raw", "notable", f"{_XMP}, Camera Raw namespace", _raw_settings, by_tags=False),
    Rule("xmp_photoshop", "notable", f"{_XMP}, Photoshop namespace", _photoshop_xmp, by_tags=False),
    Rule("source_type", "notable", _IPTC_TYPES, _source_type, by_tags=False),
    Rule("source_generated", "strong", _IPTC_TYPES, _generated, by_tags=False),
    Rule("photoshop_resources", "notable", _ADOBE, _photoshop, by_tags=False),
    Rule("caption_digest", "notable", f"{_ADOBE}, 0x0425", _caption_digest, by_tags=False),
    Rule("save_for_web", "notable", "ITU-T T.81, B.2.4.6, APP12 Ducky", _web_save, by_tags=False),
)
