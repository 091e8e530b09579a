"""``zeolith://`` URIs: what they mean, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zodburi.resolvers

import zeolith
from tests.support.certificates import Certificates
from tests.support.documents import table_keys
from tests.support.sites import ROOT, Site
from zeolith.client.storage import ClientStorage
from zeolith.errors import ConfigurationError
from zeolith.uris import KEYS, TLS_KEYS, resolve


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Collect the keywords of client storages that would have been made."""
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr("zeolith.client.storage.ClientStorage", lambda **kw: calls.append(kw))
    return calls


@pytest.fixture
def port() -> Iterator[int]:
    address, stop = zeolith.server()
    yield int(address[1])
    stop()


@pytest.mark.parametrize(
    ("uri", "addresses"),
    [
        ("zeolith://db.example:8100", [("db.example", 8100)]),
        ("zeolith://db.example:8100/", [("db.example", 8100)]),
        ("zeolith://db.example/", [("db.example", 9991)]),
        ("zeolith://d%62.example:8100/", [("db.example", 8100)]),
        ("zeolith://:8100/", [("", 8100)]),
        ("zeolith://[::1]:8100/", [("::1", 8100)]),
        ("zeolith://[::1]/", [("::1", 9991)]),
        ("zeolith://one:1,two,three:3/?wait=0", [("one", 1), ("two", 9991), ("three", 3)]),
        ("zeolith:///run/zeo.sock", ["/run/zeo.sock"]),
        ("zeolith:///run/a%20b.sock?storage=x", ["/run/a b.sock"]),
    ],
)
def test_addresses(given: list[dict[str, Any]], uri: str, addresses: list[Any]) -> None:
    resolve(uri)[0]()
    assert given[0]["addr"] == addresses


def test_every_key_reaches_the_client(given: list[dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "password").write_text("secret\n")
    uri = (
        "zeolith://h:1/?storage=main&name=mine&client=app&var=/tmp&blob_dir=b&client_label=web"
        f"&username=u&password_file={tmp_path}/password&realm=ZEO&database_behind=refuse"
        "&wait=no&wait_for_server_on_startup=0&read_only=false&read_only_fallback=On"
        "&shared_blob_dir=f&shared_cache=t&drop_cache_rather_verify=1&server_sync=true"
        "&compression=yes&debug=0&cache_size=10MB&blob_cache_size=1gb&blob_cache_size_check=20"
        "&wait_timeout=1m&min_disconnect_poll=0.5&max_disconnect_poll=2&dead_server_timeout=0"
    )
    factory, left_over = resolve(uri)
    assert left_over == {}
    factory()
    assert given == [
        {
            "addr": [("h", 1)],
            "storage": "main",
            "name": "mine",
            "client": "app",
            "var": "/tmp",
            "blob_dir": "b",
            "client_label": "web",
            "username": "u",
            "password_file": f"{tmp_path}/password",
            "realm": "ZEO",
            "database_behind": "refuse",
            "wait": False,
            "wait_for_server_on_startup": False,
            "read_only": False,
            "read_only_fallback": True,
            "shared_blob_dir": False,
            "shared_cache": True,
            "drop_cache_rather_verify": True,
            "server_sync": True,
            "compression": True,
            "debug": False,
            "cache_size": 10 << 20,
            "blob_cache_size": 1 << 30,
            "blob_cache_size_check": 20,
            "wait_timeout": 60.0,
            "min_disconnect_poll": 0.5,
            "max_disconnect_poll": 2.0,
            "dead_server_timeout": 0.0,
        }
    ]


def test_every_key_of_zodburis_own_resolver_is_taken() -> None:
    theirs = zodburi.resolvers.ClientStorageURIResolver
    keys = {*theirs._int_args, *theirs._string_args, *theirs._bytesize_args}
    assert len(keys) > 20
    assert keys - KEYS.keys() == {"demostorage"}


def test_keys_of_the_database_are_left_over() -> None:
    uri = "zeolith://h/?connection_pool_size=3&database_name=x&colour=red&wait=0"
    expected = {"connection_pool_size": "3", "database_name": "x", "colour": "red"}
    assert resolve(uri)[1] == expected


def test_a_demo_storage(port: int) -> None:
    for value in ("", "=1"):
        storage = resolve(f"zeolith://127.0.0.1:{port}/?demostorage{value}")[0]()
        assert type(storage).__name__ == "DemoStorage"
        assert isinstance(storage.base, ClientStorage)
        storage.close()
    storage = resolve(f"zeolith://127.0.0.1:{port}/?demostorage=0")[0]()
    assert isinstance(storage, ClientStorage)
    storage.close()


def test_tls(tmp_path: Path) -> None:
    made = Certificates(tmp_path)
    address, stop = zeolith.server(
        zeo_conf=f"<zeo>\naddress 127.0.0.1:0\n<ssl>\ncertificate {made.issue('localhost')}\n"
        f"authenticate {made.root}\n</ssl>\n</zeo>"
    )
    uri = (
        f"zeolith://127.0.0.1:{address[1]}/?wait_timeout=5&ssl_authenticate={made.root}"
        f"&ssl_certificate={made.issue('client')}&ssl_server_hostname="
    )
    try:
        resolve(uri + "localhost.example")[0]().close()
        with pytest.raises(zeolith.errors.ServerRefused, match=r"other\.example"):
            resolve(uri + "other.example")[0]()
        resolve(uri + "other.example&ssl_check_hostname=0")[0]().close()
    finally:
        stop()


def test_tls_with_the_systems_authorities(given: list[dict[str, Any]]) -> None:
    resolve("zeolith://h/?ssl=1")[0]()
    assert given[0]["ssl"].context.check_hostname
    resolve("zeolith://h/?ssl=0")[0]()
    assert "ssl" not in given[1]


@pytest.mark.parametrize(
    ("uri", "text"),
    [
        ("zeolith:", "address: is missing; write zeolith://HOST:PORT/ or zeolith:///PATH"),
        ("zeolith:/run/zeo.sock", "address: is missing"),
        ("zeolith:///", "address: is missing"),
        ("zeo://h/", "address: is missing"),
        ("zeolith://h:x/", "address: 'x' is not a port number"),
        ("zeolith://h:0/", "address: port 0 cannot be connected to"),
        ("zeolith://[::1/", "address: Invalid IPv6 URL"),
        ("zeolith://8100/", "if it is a port, write zeolith://127.0.0.1:8100/"),
        ("zeolith://one,/", "address: one of the hosts is empty"),
        ("zeolith://h/run/zeo.sock", "path: '/run/zeo.sock' has no effect behind a host"),
        ("zeolith://u:secret@h/", "address: has a user before the host; write username=NAME"),
        ("zeolith://h/#x", "fragment: 'x' means nothing"),
        ("zeolith://h/?wait=1&wait=0", "wait: is given more than once"),
        ("zeolith://h/?wait=maybe", "wait: 'maybe' is neither true nor false"),
        ("zeolith://h/?cache_size=big", "cache_size: 'big' is not a size"),
        ("zeolith://h/?cache_size=-1", "cache_size: '-1' is not a size"),
        ("zeolith://h/?wait_timeout=soon", "wait_timeout: 'soon' is not a number of seconds"),
        ("zeolith://h/?blob_dir=b&blob_cache_size=1&blob_cache_size_check=x", "blob_cache_size_c"),
        ("zeolith://h/?blob_cache_size=1", "blob_cache_size: has no effect without blob_dir"),
        ("zeolith://h/?debug=1", "debug: is not used; set the level"),
        ("zeolith://h/?read_only=1&read_only_fallback=1", "read_only_fallback: contradicts"),
        ("zeolith://h/?username=u", "username: needs a password"),
        ("zeolith://h/?ssl=0&ssl_key=k", "ssl: is off, and there are other keys of TLS"),
        ("zeolith://h/?ssl_authenticate=/missing", "ssl_authenticate: /missing cannot be used"),
        ("zeolith://h/?ssl_server_hostname=x", "ssl_server_hostname: has no effect without ssl"),
        ("zeolith://h/?ssl_certificate=%00", "ssl: a file cannot be used: embedded null byte"),
        (f"zeolith://h/?ssl_authenticate={'a' * 300}", "ssl: a file cannot be used: [Errno 36]"),
        (f"zeolith://h/?cache_size={'9' * 5000}", "cache_size: has more digits than a number can"),
        ("zeolith://h/?demostorage=maybe", "demostorage: 'maybe' is neither true nor false"),
    ],
)
def test_what_is_refused(uri: str, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        resolve(uri)
    assert str(caught.value).startswith("zeolith:// URI, ")
    assert text in str(caught.value)
    assert "secret" not in str(caught.value)


def test_zodburi_finds_it_without_any_zeo(port: int, tmp_path: Path) -> None:
    """By the entry point, where no package is called ZEO; unknown keys are zodburi's to refuse."""
    site = Site(tmp_path / "site")
    program = f"""if True:
        import sys, ZODB, zodburi
        uri = 'zeolith://127.0.0.1:{port}/?wait_timeout=5&connection_cache_size=77'
        factory, keywords = zodburi.resolve_uri(uri)
        db = ZODB.DB(factory(), **keywords)
        print(keywords['cache_size'], 'ZEO' in sys.modules)
        db.close()
        try:
            zodburi.resolve_uri('zeolith://h/?colour=red')
        except KeyError as error:
            print(error)
        """
    printed = site.run("-c", program, cwd=tmp_path).stdout.splitlines()
    assert printed[0] == "77 False"
    assert "colour" in printed[1]


def test_the_document_has_every_key() -> None:
    expected = {*KEYS, *(f"ssl_{name}" for name in TLS_KEYS), "ssl", "demostorage"}
    assert table_keys(ROOT / "docs" / "uris.md") == expected
