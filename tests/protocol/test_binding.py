"""The hash of a server's certificate, for any way it may be signed."""

from __future__ import annotations

import datetime
import hashlib
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from zeolith.protocol.binding import end_point

NOW = datetime.datetime(2026, 1, 1)


def certificate(key: Any, algorithm: Any) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "server")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(5)
        .not_valid_before(NOW)
        .not_valid_after(NOW + datetime.timedelta(days=9))
    )
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.DER)


@pytest.fixture(scope="module")
def keys() -> dict[str, Any]:
    return {
        "rsa": rsa.generate_private_key(65537, 2048),
        "ec": ec.generate_private_key(ec.SECP256R1()),
        "ed": ed25519.Ed25519PrivateKey.generate(),
    }


@pytest.mark.parametrize(
    ("kind", "algorithm", "used"),
    [
        ("rsa", hashes.SHA256(), "sha256"),
        ("rsa", hashes.SHA384(), "sha384"),
        ("rsa", hashes.SHA512(), "sha512"),
        ("ec", hashes.SHA256(), "sha256"),
        ("ec", hashes.SHA384(), "sha384"),
        ("ec", hashes.SHA512(), "sha512"),
        ("ed", None, "sha256"),
    ],
)
def test_the_hash_is_that_of_the_signature(
    keys: dict[str, Any], kind: str, algorithm: Any, used: str
) -> None:
    der = certificate(keys[kind], algorithm)
    assert end_point(der) == hashlib.new(used, der).digest()


@given(st.binary(max_size=60))
def test_what_is_no_certificate_is_hashed_all_the_same(data: bytes) -> None:
    assert len(end_point(data)) in (32, 48, 64)


def test_a_certificate_that_is_cut_off(keys: dict[str, Any]) -> None:
    der = certificate(keys["ec"], hashes.SHA384())
    for size in range(len(der)):
        assert end_point(der[:size]) is not None
