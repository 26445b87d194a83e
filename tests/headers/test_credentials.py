"""Content Credentials: signed on the spot, changed, or not verified."""

import io
import json
import socket
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from exiflang.headers.facts import Facts
from exiflang.headers.rules import RULES, apply
from tests.headers.made import encoded, jpeg, scene, segment, with_segments

RULE = {rule.name: rule for rule in RULES if rule.name.startswith("credentials")}
_UUID = "00110010800000aa00389b71"


def box(kind: bytes, *content: bytes) -> bytes:
    data = b"".join(content)
    return (8 + len(data)).to_bytes(4, "big") + kind + data


def description(name: bytes, label: bytes) -> bytes:
    return box(b"jumd", name + bytes.fromhex(_UUID), b"\3", label + b"\0")


def manifest_segment(claim: bytes = b"\xa1\x6fclaim_generator\x6bTest Camera") -> bytes:
    """An unsigned manifest store of one claim (C2PA specification, 11.1), in CBOR."""
    inner = box(b"jumb", description(b"c2cl", b"c2pa.claim"), box(b"cbor", claim))
    store = box(b"jumb", description(b"c2pa", b"c2pa"), box(b"jumb", description(b"c2ma", b"urn:uuid:1"), inner))
    return segment(0xEB, b"JP" + (1).to_bytes(2, "big") + (1).to_bytes(4, "big") + store)


def said(photo: bytes) -> dict[str, str]:
    facts = Facts.of_file(photo, scene())
    return {name: text for name in RULE if (text := apply(RULE[name], facts))}


def certificate(name: str, key: Any, issuer: str, issuing: Any) -> x509.Certificate:
    authority, now = key is issuing, datetime.now(UTC)
    named = [x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, text)]) for text in (name, issuer)]
    builder = x509.CertificateBuilder(*reversed(named), key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(1)).not_valid_after(now + timedelta(9))
    usage = x509.KeyUsage(not authority, False, False, False, False, authority, authority, False, False)
    builder = builder.add_extension(x509.BasicConstraints(authority, None), True).add_extension(usage, True)
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuing.public_key())
    builder = builder.add_extension(identifier, False)
    if not authority:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), False)
    return builder.sign(issuing, hashes.SHA256())


def signed(photo: bytes, kind: str, source: str) -> bytes:
    c2pa = pytest.importorskip("c2pa")
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    chain = [certificate("Signer", keys[1], "Root", keys[0]), certificate("Root", keys[0], "Root", keys[0])]
    secret = keys[1].private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pem = b"".join(link.public_bytes(serialization.Encoding.PEM) for link in chain)
    action = {"action": "c2pa.created", "digitalSourceType": f"http://cv.iptc.org/newscodes/digitalsourcetype/{source}"}
    manifest = {
        "claim_generator_info": [{"name": "Test Camera", "version": "1.0"}],
        "assertions": [{"label": "c2pa.actions", "data": {"actions": [action]}}],
    }
    out = io.BytesIO()
    info = c2pa.C2paSignerInfo(alg=b"es256", sign_cert=pem, private_key=secret, ta_url=None)
    with c2pa.Builder(json.dumps(manifest)) as builder, c2pa.Signer.from_info(info) as signer:
        builder.sign(signer, kind, io.BytesIO(photo), out)
    return out.getvalue()


@pytest.fixture
def offline(monkeypatch):
    def refuse(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_signed_file_and_what_it_declares(kind):
    photo = signed(encoded(scene(), kind), f"image/{kind.lower()}", "trainedAlgorithmicMedia")
    assert said(photo) == {
        "credentials": 'It has Content Credentials (C2PA) by "Test Camera": signed, and unchanged since; '
        "who signed was not checked.",
        "credentials_generated": "Its Content Credentials declare it made by a generative model.",
    }


@pytest.mark.usefixtures("offline")
def test_a_capture_is_no_generated_picture_and_a_change_is_found():
    photo = signed(jpeg(scene()), "image/jpeg", "digitalCapture")
    assert set(said(photo)) == {"credentials"}
    changed = bytearray(photo)
    changed[-40] ^= 1
    assert set(said(bytes(changed))) == {"credentials", "credentials_changed"}


@pytest.mark.parametrize(
    ("claim", "name"),
    [
        (b"\xa1\x6fclaim_generator\x6bTest Camera", '"Test Camera"'),
        (b"\xa1\x74claim_generator_info\x81\xa1\x64name\x78\x1e" + b"x" * 30, f'"{"x" * 30}"'),
        (b"\xa1\x6fclaim_generator\x78", "(C2PA):"),
        (b"\xa1\x6fclaim_generator", "(C2PA):"),
        (b"", "(C2PA):"),
    ],
)
def test_without_c2pa_they_are_told_but_not_verified(claim, name, monkeypatch):
    monkeypatch.setitem(sys.modules, "c2pa", None)
    found = said(with_segments(jpeg(scene()), manifest_segment(claim)))
    assert set(found) == {"credentials"}
    assert name in found["credentials"]
    assert 'not verified: c2pa is not installed: pip install "exiflang[c2pa]"' in found["credentials"]


def test_a_store_that_cannot_be_read_is_told():
    pytest.importorskip("c2pa")
    assert "cannot be read" in said(with_segments(jpeg(scene()), manifest_segment()))["credentials"]


def test_other_files_have_none():
    assert said(jpeg(scene())) == said(with_segments(jpeg(scene()), segment(0xEB, b"JP\0\1\0\0\0\1"))) == {}
