"""What XMP packets say of a file's history (XMP specification, parts 1 and 2)."""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

#: At most this many properties and steps are kept.
MOST_PROPERTIES, MOST_STEPS = 5000, 200
_RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
_SPACES = {
    "http://ns.adobe.com/xap/1.0/": "xmp", "http://ns.adobe.com/xap/1.0/mm/": "xmpMM",
    "http://ns.adobe.com/photoshop/1.0/": "photoshop", "http://ns.adobe.com/camera-raw-settings/1.0/": "crs",
    "http://iptc.org/std/Iptc4xmpExt/2008-02-29/": "iptc", "http://ns.adobe.com/exif/1.0/": "exif",
    "http://ns.adobe.com/tiff/1.0/": "tiff", "http://ns.adobe.com/xap/1.0/sType/ResourceEvent#": "stEvt",
}  # fmt: skip


class Step(NamedTuple):
    """A step of xmpMM:History, as written: what was done, by which program, and when."""

    action: str
    agent: str
    when: str


@dataclass(frozen=True)
class Xmp:
    """Properties "prefix:Name" -> text of those in `_SPACES`, "" for structures; steps of the history, oldest first.

    The text is as written: it can hold names and paths.
    """

    properties: dict[str, str] = field(repr=False)
    history: tuple[Step, ...] = field(repr=False)


def parse_xmp(packets: Iterable[bytes]) -> Xmp | None:
    """The properties of the packets that can be read; None if there are none."""
    properties: dict[str, str] = {}
    history: list[Step] = []
    for packet in packets:
        with contextlib.suppress(ParseError, DefusedXmlException, ValueError, LookupError):
            tree = fromstring(packet.strip(b" \0\r\n\t"), forbid_dtd=True)
            for element in tree.iter(f"{_RDF}Description"):
                for name, text in _properties(element):
                    if len(properties) < MOST_PROPERTIES:
                        properties.setdefault(name, text)
            history += islice(_steps(tree), MOST_STEPS)
    return Xmp(properties, tuple(history[:MOST_STEPS])) if properties or history else None


def _properties(element: Element) -> Iterator[tuple[str, str]]:
    """The properties of a description: its attributes, and its direct children."""
    for tag, text in [*element.attrib.items(), *((child.tag, child.text or "") for child in element)]:
        if name := _name(tag):
            yield name, text.strip()[:1000]


def _name(tag: object) -> str:
    space, _, name = str(tag).removeprefix("{").partition("}")
    return f"{_SPACES[space]}:{name}" if space in _SPACES else ""


def _steps(tree: Element) -> Iterator[Step]:
    for history in tree.iter("{http://ns.adobe.com/xap/1.0/mm/}History"):
        for item in (item for sequence in history for item in sequence):  # no deeper: hostile files nest them
            found = dict(_properties(item))
            for inner in item.findall(f"{_RDF}Description"):
                found |= dict(_properties(inner))
            step = Step(*(found.get(f"stEvt:{name}", "") for name in ("action", "softwareAgent", "when")))
            if any(step):
                yield step
