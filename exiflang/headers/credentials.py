"""Content Credentials (C2PA): a signed record of a file's origin, verified without network by c2pa, an extra."""

import contextlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from exiflang.exif.tags import clean
from exiflang.headers.blocks import JpegBlocks
from exiflang.utils.extras import extra
from exiflang.utils.images import DAMAGE

_TYPES = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG": "image/png", b"RIFF": "image/webp", b"II*\0": "image/tiff",
          b"MM\0*": "image/tiff"}  # fmt: skip
#: A manifest store begins with this box (C2PA specification, 11.1; ISO/IEC 19566-5): type, identifier, label.
_BOX = b"jumdc2pa\x00\x11\x00\x10\x80\x00\x00\xaa\x008\x9bq\x03c2pa\0"
#: Codes of failure that mean: the file or the record was changed after it was signed.
_CHANGED = ("mismatch", "assertion.missing", "claim.missing")
_MOST = 100


@dataclass(frozen=True)
class Credentials:
    """Content Credentials of a file.

    Attributes:
        generator: the program or camera that made the claim, as it says; "" if unknown.
        state: "valid": signed and unchanged, by whomever; "changed": the file or the record was changed after signing;
            "invalid" for other reasons; "unverified".
        reason: why it was not verified or is not valid.
        sources: digital source types of its actions, known only once it was read by c2pa.
    """

    generator: str
    state: Literal["valid", "changed", "invalid", "unverified"]
    reason: str = ""
    sources: tuple[str, ...] = ()


def read_credentials(photo: bytes, blocks: JpegBlocks | None) -> Credentials | None:
    """The Content Credentials in a file; None if there are none."""
    store = blocks.jumbf if blocks else photo
    if (place := store.find(_BOX)) < 0:
        return None
    generator = _claim_generator(store[place:])
    try:
        with extra("c2pa"):
            import c2pa
    except ModuleNotFoundError as error:
        return Credentials(generator, "unverified", str(error))
    kind = next((kind for start, kind in _TYPES.items() if photo.startswith(start)), "image/heif")
    if kind == "image/heif" and b"avif" in photo[8:40]:
        kind = "image/avif"
    try:
        settings = c2pa.Settings.from_dict({"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}})
        with c2pa.Reader(kind, io.BytesIO(photo), context=c2pa.Context(settings=settings)) as reader:
            found = json.loads(reader.json())
    except (c2pa.C2paError, *DAMAGE):
        return Credentials(generator, "unverified", "they cannot be read")
    with contextlib.suppress(*DAMAGE):
        return _judged(found, generator)
    return Credentials(generator, "unverified", "they cannot be read")


def _judged(found: Mapping[str, Any], generator: str) -> Credentials:
    """From c2pa's manifest store."""
    manifest = found["manifests"][found["active_manifest"]]
    infos = manifest.get("claim_generator_info") or [{}]
    generator = clean(str(infos[0].get("name") or manifest.get("claim_generator") or generator))
    actions = [
        action
        for assertion in manifest.get("assertions", ())[:_MOST]
        if str(assertion.get("label", "")).startswith("c2pa.actions")
        for action in assertion["data"].get("actions", ())[:_MOST]
    ]
    sources = tuple(str(action["digitalSourceType"]) for action in actions if "digitalSourceType" in action)
    codes = [str(status["code"]) for status in found.get("validation_status", ())]
    if found.get("validation_state") in ("Valid", "Trusted"):
        return Credentials(generator, "valid", "", sources)
    changed = any(part in code for code in codes for part in _CHANGED)
    return Credentials(generator, "changed" if changed else "invalid", clean(", ".join(codes)), sources)


def _claim_generator(store: bytes) -> str:
    """The claim's `claim_generator`, or the name in its `claim_generator_info`: text strings of CBOR (RFC 8949)."""
    for start, key in ((b"\x6fclaim_generator", b""), (b"\x74claim_generator_info", b"\x64name")):
        place = store.find(start)
        place = store.find(key, place, place + 300) if place >= 0 else -1
        if place >= 0:
            text = store[place + len(key or start) :][:200]
            size, begin = (text[1], 2) if text[:1] == b"\x78" and len(text) > 1 else (text[0] - 0x60 if text else 0, 1)
            if 0 < size <= len(text) - begin:
                return clean(text[begin : begin + size].decode("utf-8", "replace"))
    return ""
