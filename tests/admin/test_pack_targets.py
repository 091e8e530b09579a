"""What people write to say which storages are to be packed, and to what time."""

from __future__ import annotations

import time

import pytest

from zeolith.admin.packtarget import PackTarget, pack_time, parse_server, parse_socket
from zeolith.errors import ConfigurationError


@pytest.mark.parametrize(
    ("text", "address", "storage"),
    [
        ("example.org:8100", ("example.org", 8100), "1"),
        ("example.org:8100:main", ("example.org", 8100), "main"),
        ("10.0.0.1:8100:a:b", ("10.0.0.1", 8100), "a:b"),
        ("[::1]:8100", ("::1", 8100), "1"),
        ("[::1]:8100:main", ("::1", 8100), "main"),
        (":8100", ("127.0.0.1", 8100), "1"),
        ("8100", ("127.0.0.1", 8100), "1"),
        ("/var/zeo.sock", "/var/zeo.sock", "1"),
        ("./zeo.sock:main", "./zeo.sock", "main"),
    ],
)
def test_servers(text: str, address: object, storage: str) -> None:
    assert parse_server(text) == PackTarget(address, storage)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", ["", "example.org", "example.org:x", "host:99999", "::1:8100", "[::1]", "host:8100:"]
)
def test_what_is_no_server(text: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_server(text)


def test_sockets() -> None:
    assert parse_socket("zeo.sock") == PackTarget("zeo.sock", "1")
    assert parse_socket("/a/zeo.sock:main") == PackTarget("/a/zeo.sock", "main")
    with pytest.raises(ConfigurationError, match="names no socket"):
        parse_socket(":main")


def test_a_target_says_what_it_is() -> None:
    assert str(PackTarget(("::1", 8100), "main")) == "storage main of [::1]:8100"


NOW = time.mktime((2026, 3, 29, 14, 30, 15, 0, 0, -1))


def test_times() -> None:
    assert pack_time(0, None, NOW) == NOW
    assert pack_time(1.5, None, NOW) == NOW - 1.5 * 86400
    for text, clock in (("3", (3, 0, 0)), ("03:05", (3, 5, 0)), ("23:59:58", (23, 59, 58))):
        assert time.localtime(pack_time(0, text, NOW))[:6] == (2026, 3, 29, *clock)
    assert pack_time(2, "14:30:15", NOW) == NOW - 2 * 86400


@pytest.mark.parametrize("text", ["", "24", "12:60", "1:2:3:4", "x", "-1", "+1", "1:", "１"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is no time of day"):
        pack_time(0, text, NOW)


def test_a_time_before_all_databases() -> None:
    with pytest.raises(ConfigurationError, match="there was no database yet"):
        pack_time(30_000, None, NOW)
