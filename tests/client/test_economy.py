"""Where compression is worth it."""

from __future__ import annotations

import ssl
from typing import Any

import pytest

from zeolith.client import economy
from zeolith.client.connector import Connector, Mode
from zeolith.client.economy import check_compression, prefers_compression
from zeolith.credentials import to_credentials
from zeolith.errors import ConfigurationError
from zeolith.protocol.checksums import ALGORITHMS
from zeolith.protocol.hello import Terms


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        (("192.0.2.7", 8100), True),
        (("2001:db8::1", 8100), True),
        (("fe80::1%eth0", 8100), True),
        (("::ffff:192.0.2.7", 8100), True),
        (("127.0.0.1", 8100), False),
        (("127.1.2.3", 8100), False),
        (("::1", 8100), False),
        (("::ffff:127.0.0.1", 8100), False),
        ("/run/zeo.sock", False),
        (("memory", 1), False),
    ],
    ids=str,
)
def test_not_within_one_host(peer: Any, expected: bool) -> None:
    assert prefers_compression(peer, False) is expected


def test_not_over_tls_because_lengths_tell() -> None:
    assert not prefers_compression(("192.0.2.7", 8100), True)


def test_not_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(economy, "is_available", lambda: False)
    assert not prefers_compression(("192.0.2.7", 8100), False)
    assert check_compression(None) is None
    assert check_compression(False) is False
    with pytest.raises(ConfigurationError, match=r"not installed; install zeolith\[zstd\]"):
        check_compression(True)


class Wire:
    def __init__(self, peer_name: Any) -> None:
        self.peer_name = peer_name


@pytest.mark.parametrize("is_encrypted", [False, True])
@pytest.mark.parametrize("host", ["127.0.0.1", "192.0.2.7"])
@pytest.mark.parametrize("asked", [None, True, False])
def test_the_hello_says_so(asked: bool | None, host: str, is_encrypted: bool) -> None:
    """Who asks for it gets it, and who refuses does not, wherever the server is."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if is_encrypted else None
    credentials = to_credentials(context)
    make: Any = None
    connector = Connector([], "1", Mode.WRITABLE, 1.0, credentials, None, make, 60.0, asked)
    wire: Any = Wire((host, 1))
    expected = host != "127.0.0.1" and not is_encrypted if asked is None else asked
    assert connector._terms(wire) == Terms(60.0, expected, ALGORITHMS)
