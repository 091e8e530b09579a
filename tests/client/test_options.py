"""Each keyword works, or is refused with an error that names it: none is ignored."""

from __future__ import annotations

import math
import re
import socket
import ssl
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.raw import FakeServer
from tests.support.waiting import Background, promptly
from zeolith.client.options import CACHE_SIZE, parse_addresses, refuse_blobs, refuse_cache
from zeolith.client.storage import ClientStorage
from zeolith.errors import ClientDisconnected, ConfigurationError

from .conftest import Attach, Open
from .scripted import tid


def named(value: object) -> str:
    """Return the name of a case, the same in every process that collects it."""
    return re.sub(" object at 0x[0-9a-f]+", "", str(value))[:60]


class OwnCache:
    """An application's cache that holds nothing."""

    def load(self, oid: bytes) -> None:
        return None

    def loadBefore(self, oid: bytes, tid: bytes) -> None:  # noqa: N802 - ZEO's name
        return None

    def store(self, *args: Any) -> None:
        pass

    def invalidate(self, oid: bytes, tid: bytes | None) -> None:
        pass

    def getLastTid(self) -> bytes | None:  # noqa: N802 - ZEO's name
        return None

    def setLastTid(self, tid: bytes) -> None:  # noqa: N802 - ZEO's name
        pass

    def clear(self) -> None:
        pass

    def close(self) -> None:
        pass

    def __len__(self) -> int:
        return 0


@pytest.fixture
def nobody() -> Iterator[tuple[str, int]]:
    """An address at which nobody listens, nor anybody else can meanwhile."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    # What would have no effect.
    ({"blob_cache_size_check": 5}, "blob_cache_size_check", "without blob_dir"),
    ({"blob_cache_size_check": "x"}, "blob_cache_size_check", "without blob_dir"),
    ({"blob_dir": "b", "blob_cache_size_check": 5}, "blob_cache_size_check", "blob_cache_size"),
    (
        {"blob_dir": "b", "shared_blob_dir": True, "blob_cache_size_check": 5},
        "blob_cache_size_check",
        "server",
    ),
    ({"blob_cache_size": 5}, "blob_cache_size", "without blob_dir"),
    (
        {"blob_dir": "b", "shared_blob_dir": True, "blob_cache_size": 5},
        "blob_cache_size",
        "shared",
    ),
    ({"cache": OwnCache(), "cache_size": 5}, "cache_size", "cache of your own"),
    ({"cache": OwnCache(), "cache_size": "x"}, "cache_size", "cache of your own"),
    ({"cache": OwnCache(), "var": "v"}, "var", "cache of your own"),
    # What is no value for it.
    *(
        (
            {"blob_dir": "b", "blob_cache_size": 1000, "blob_cache_size_check": value},
            "blob_cache_size_check",
            "percentage",
        )
        for value in (-1, 100, "5", 0.5, True)
    ),
    *(
        ({"blob_dir": "b", "blob_cache_size": value}, "blob_cache_size", "number of bytes")
        for value in (-1, "10MB", 1.5, True)
    ),
    *(
        ({"cache_size": value}, "cache_size", "number of bytes")
        for value in (-1, "20MB", 1.5, True, None)
    ),
    *(
        ({option: value}, option, "number of seconds")
        for option in (
            *("wait_timeout", "min_disconnect_poll", "max_disconnect_poll", "dead_server_timeout"),
        )
        for value in ("abc", "5", True, b"5")
    ),
    *(
        ({option: value}, option, "not a time to wait")
        for option in (
            *("wait_timeout", "min_disconnect_poll", "max_disconnect_poll", "dead_server_timeout"),
        )
        for value in (math.nan, math.inf, -1, -0.5, threading.TIMEOUT_MAX * 2)
    ),
    ({"min_disconnect_poll": 0}, "min_disconnect_poll", "not above 0"),
    *(
        ({"dead_server_timeout": value}, "dead_server_timeout", "agreed upon .* 0 to wait for ever")
        for value in (0.5, 86_401)
    ),
    *(
        ({"compression": value}, "compression", "not true, false or None")
        for value in ("on", 1, 0, "zstd")
    ),
    ({"min_disconnect_poll": 3, "max_disconnect_poll": 2}, "min_disconnect_poll", "at most"),
    ({"client_label": 5}, "client_label", "not a text"),
    (
        {"ssl": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), "ssl_server_hostname": 5},
        "ssl_server_hostname",
        "not a text",
    ),
]


@pytest.mark.parametrize(("keywords", "option", "problem"), REFUSED, ids=named)
def test_what_cannot_be_used_is_refused_at_once_rule_r9(
    keywords: dict[str, Any],
    option: str,
    problem: str,
    nobody: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with promptly(5), pytest.raises(ConfigurationError, match=problem) as caught:
        ClientStorage(nobody, wait=False, **keywords)
    assert caught.value.option == option


@pytest.mark.parametrize(
    "keywords",
    [
        {"blob_cache_size_check": None},
        {"blob_cache_size_check": 10},
        {"blob_dir": "b", "blob_cache_size_check": 10},
        {"blob_dir": "b", "shared_blob_dir": True, "blob_cache_size_check": 10},
        {"blob_dir": "b", "blob_cache_size": 0, "blob_cache_size_check": 0},
        {"blob_dir": "b", "blob_cache_size": 1000, "blob_cache_size_check": 99},
        {"cache": OwnCache(), "cache_size": 20 << 20},
        {"cache_size": 0},
        {"wait_timeout": 0},
        *({"dead_server_timeout": value} for value in (None, 60, 0, 1, 86_400)),
        *({"compression": value} for value in (None, True, False)),
        {"wait_timeout": 7, "min_disconnect_poll": 20},
        {"client_label": "", "client": "", "name": ""},
    ],
    ids=named,
)
def test_defaults_may_be_written_out_and_bounds_reached(
    keywords: dict[str, Any], nobody: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ClientStorage(nobody, wait=False, **keywords).close()


def test_configurations_can_be_checked_without_making_anything(tmp_path: Path) -> None:
    blobs = tmp_path / "blobs"
    with pytest.raises(ConfigurationError, match="blob_cache_size_check"):
        refuse_blobs(str(blobs), False, None, 5)
    with pytest.raises(ConfigurationError, match="blob_cache_size: '1GB'"):
        refuse_blobs(str(blobs), False, "1GB")  # type: ignore[arg-type]
    refuse_blobs(str(blobs), False, 1000, 5)
    refuse_cache(None, CACHE_SIZE, None, "1", str(tmp_path / "missing"))
    assert not list(tmp_path.iterdir())


# -- addresses ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("addr", "expected"),
    [
        (8100, [("127.0.0.1", 8100)]),
        (("db", 8100), [("db", 8100)]),
        (("", 8100), [("127.0.0.1", 8100)]),
        ((None, 8100), [("127.0.0.1", 8100)]),
        ("/run/zeo.sock", ["/run/zeo.sock"]),
        ("zeo.sock", ["zeo.sock"]),
        ("./db:8100", ["./db:8100"]),
        ("/run/db:8100", ["/run/db:8100"]),
        ([8100, "zeo.sock"], [("127.0.0.1", 8100), "zeo.sock"]),
        (["/run/zeo.sock", 8100], ["/run/zeo.sock", ("127.0.0.1", 8100)]),
        ([("db1", 1), ("db2", 2)], [("db1", 1), ("db2", 2)]),
        ((("db1", 1), ("db2", 2)), [("db1", 1), ("db2", 2)]),
    ],
    ids=str,
)
def test_addresses(addr: Any, expected: list[Any]) -> None:
    assert parse_addresses(addr) == expected


@pytest.mark.parametrize(
    ("addr", "hint"),
    [
        ("127.0.0.1:8100", r"write \('127\.0\.0\.1', 8100\); a socket .* '\./127\.0\.0\.1:8100'"),
        ("db.example.com:8100", r"write \('db\.example\.com', 8100\)"),
        ("[::1]:8100", r"write \('::1', 8100\)"),
        (":8100", r"write \('', 8100\)"),
        ("8100", r"write 8100; a socket"),
        (["db", 8100], r"write a tuple: \('db', 8100\); a socket .* '\./db'"),
        ([("db", 8100), "db2:8100"], r"write \('db2', 8100\)"),
        (True, "is not an address"),
        (("db", True), "is not an address"),
        ([True], "is not an address"),
        (0, "is not an address"),
        (65536, "is not an address"),
        (("db", "8100"), "write 8100"),
        (b"zeo.sock", "is not an address"),
        (None, "is not an address"),
        ([], "is not an address"),
        ("", "is not an address"),
    ],
    ids=str,
)
def test_what_is_no_address_is_said_at_once(addr: Any, hint: str) -> None:
    with pytest.raises(ConfigurationError, match=hint) as caught:
        parse_addresses(addr)
    assert caught.value.option == "addr"


# -- waiting for the server --------------------------------------------------------------------


@pytest.mark.parametrize(
    "keywords",
    [
        {"wait_for_server_on_startup": False},
        {"wait": False},
        {"wait": False, "wait_for_server_on_startup": True},
    ],
    ids=str,
)
def test_who_does_not_wait_gets_a_storage_without_a_server(
    nobody: Any, client: Open, keywords: dict[str, Any]
) -> None:
    with promptly(5):
        storage = client(nobody, wait_timeout=30, **keywords)
    assert not storage.is_connected()


@pytest.mark.parametrize(
    "keywords",
    [
        {},
        {"wait_for_server_on_startup": True},
        {"wait": True},
        {"wait": True, "wait_for_server_on_startup": False},
        {"wait": None, "wait_for_server_on_startup": None},
    ],
    ids=str,
)
def test_who_waits_learns_that_there_is_none(
    nobody: Any, client: Open, keywords: dict[str, Any]
) -> None:
    with pytest.raises(ClientDisconnected, match="timed out"):
        client(nobody, wait_timeout=0.1, **keywords)


def test_who_waits_gets_a_storage_when_the_server_is_there(fake: FakeServer, client: Open) -> None:
    opening = Background(lambda: client(fake.address, wait_for_server_on_startup=True))
    connection = fake.accept()
    assert opening.is_alive()
    connection.admit(tid(1))
    storage = opening.result()
    assert isinstance(storage, ClientStorage)
    assert storage.is_connected()


# -- the cache's file --------------------------------------------------------------------------


def test_the_cache_lives_in_the_directory_var(
    attach: Attach, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system's directory for temporary files is not there, and is not needed."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    var = tmp_path / "var"
    var.mkdir()
    storage, _ = attach(var=str(var))
    storage._cache.store(b"\0" * 8, tid(1), None, b"data")
    assert storage.load(b"\0" * 8) == (b"data", tid(1))


def test_without_var_it_lives_in_the_systems_directory(
    nobody: Any, client: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(ConfigurationError, match="cannot make a file"):
        client(nobody, wait=False)


def test_a_var_that_is_not_there_is_named(nobody: Any, client: Open, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="missing") as caught:
        client(nobody, wait=False, var=str(tmp_path / "missing"))
    assert caught.value.option == "var"
