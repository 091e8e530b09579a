"""Addresses as people write them."""

from __future__ import annotations

import pytest

from zeolith.config.address import Address, format_address, local_address, parse_address
from zeolith.errors import ConfigurationError


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("8100", ("127.0.0.1", 8100)),
        ("  8100 ", ("127.0.0.1", 8100)),
        ("0", ("127.0.0.1", 0)),
        ("65535", ("127.0.0.1", 65535)),
        ("localhost:8100", ("localhost", 8100)),
        ("0.0.0.0:8100", ("0.0.0.0", 8100)),
        ("db.example.org:8100", ("db.example.org", 8100)),
        ("[::1]:8100", ("::1", 8100)),
        ("[::]:8100", ("::", 8100)),
        ("[fe80::1%eth0]:8100", ("fe80::1%eth0", 8100)),
        ("*:8100", ("", 8100)),
        (":8100", ("", 8100)),
        ("/run/zeo.sock", "/run/zeo.sock"),
        ("./zeo.sock", "./zeo.sock"),
        ("var/zeo:8100", "var/zeo:8100"),
    ],
)
def test_forms(text: str, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is empty"),
        ("   ", "is empty"),
        ("localhost", "'localhost' has no port"),
        ("zeo.sock", "'zeo.sock' has no port"),
        ("-1", "'-1' has no port"),
        ("localhost:", "'' is not a port number"),
        ("localhost:http", "'http' is not a port number"),
        ("localhost:-1", "'-1' is not a port number"),
        ("localhost:8_100", "'8_100' is not a port number"),
        ("localhost: 8100", "' 8100' is not a port number"),
        ("localhost:\u0668", "'\u0668' is not a port number"),
        ("local host:8100", "'local host:8100' has a blank in it"),
        ("65536", "port 65536 is too large"),
        ("localhost:99999", "port 99999 is too large"),
        ("::1:8100", "'::1:8100' is ambiguous"),
        ("[::1]", "'[::1]' is ambiguous"),
        ("[localhost]:8100", "[localhost] is not an IPv6 address"),
        ("/" + "x" * 200, "the socket path is 201 bytes long"),
        ("/" + "ü" * 60, "the socket path is 121 bytes long"),
    ],
)
def test_everything_else_is_refused_with_a_way_out(text: str, problem: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_address(text, "--address")
    assert caught.value.option == "--address"
    assert problem in caught.value.problem
    assert caught.value.remedy


@pytest.mark.parametrize(
    "text",
    ["127.0.0.1:8100", "localhost:0", "[::1]:8100", "*:8100", "/run/zeo.sock", "./zeo.sock"],
)
def test_formatting_gives_back_what_was_parsed(text: str) -> None:
    assert format_address(parse_address(text)) == text


def test_a_bare_port_is_shown_with_its_host() -> None:
    assert format_address(parse_address("8100")) == "127.0.0.1:8100"


@pytest.mark.parametrize(
    ("address", "local"),
    [
        (("", 1), ("127.0.0.1", 1)),
        (("0.0.0.0", 1), ("127.0.0.1", 1)),
        (("::", 1), ("::1", 1)),
        (("db.example.org", 1), ("db.example.org", 1)),
        ("/run/zeo.sock", "/run/zeo.sock"),
    ],
)
def test_how_a_client_on_the_same_machine_connects(address: Address, local: Address) -> None:
    assert local_address(address) == local
