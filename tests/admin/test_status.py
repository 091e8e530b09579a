"""``zeolith status`` against servers of both kinds, and against what is none."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from tests.support.certificates import DAY, Certificates
from tests.support.hosts import Hosts
from tests.support.processes import ServerProcess, free_port, running_server
from tests.support.raw import RawClient, oid_of
from tests.support.tlscontexts import client_context, server_context
from ZODB.MappingStorage import MappingStorage

from zeolith import __version__
from zeolith.admin.asking import NotAnswering, Refused, Target
from zeolith.admin.status import fetch_status
from zeolith.admin.statustext import MISSING, render_connections, render_status
from zeolith.admin.tables import align, duration, printable, size
from zeolith.cli.main import main
from zeolith.config.address import format_address
from zeolith.protocol.framing import frame
from zeolith.protocol.messages import SetClientLabel, Vote


@pytest.fixture(scope="module")
def zeo() -> Iterator[Any]:
    """A server of ZEO 6.2, with a storage that has a transaction and one that has none."""
    hosts = Hosts()
    storage = "<mappingstorage>\n</mappingstorage>"
    try:
        server = hosts.start("zeo", {"1": storage, "empty": storage})
        with RawClient(server.address) as client:
            client.commit({oid_of(1): (bytes(8), b"x")})
        yield server
    finally:
        hosts.close()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


@pytest.fixture
def server(stack: ExitStack) -> Any:
    """A server with two storages, one of which has a transaction."""
    found = stack.enter_context(running_server({"1": MappingStorage(), "two": MappingStorage()}))
    with RawClient(found.address) as client:
        client.commit({oid_of(1): (bytes(8), b"x")})
    return found


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the command; return exit status, output and errors."""

    def run(*arguments: str) -> tuple[int, str, str]:
        status = main(["status", *arguments])
        found = capsys.readouterr()
        return status, found.out, found.err

    return run


def value(text: str, key: str) -> str:
    """Return the first value in a table of keys and values."""
    (found, *_) = [line for line in text.splitlines() if line.startswith(key + "  ")]
    return found.removeprefix(key).strip()


# -- a server of ours ----------------------------------------------------------------------------


def test_table(run: Any, server: Any) -> None:
    address = format_address(server.address)
    status, text, errors = run(address)
    assert (status, errors) == (0, "")
    assert value(text, "server").startswith(f"Zeolith {__version__}, ")
    assert value(text, "address") == address
    assert value(text, "connections").startswith("0 now, ")
    assert value(text, "storage") == "1"
    assert value(text, "objects") == "1"
    assert value(text, "commit lock") == "free"
    assert value(text, "counted").startswith("0 loads, 1 stores, 1 commits, 0 aborts, ")
    assert value(text, "packing") == "no, and none since the start"
    assert value(text, "last transaction").endswith(")")
    assert "storage           two" in text
    assert "number" not in text.split()


def test_connections(run: Any, server: Any, stack: ExitStack) -> None:
    holder, waiter = (stack.enter_context(RawClient(server.address)) for _ in range(2))
    for client, label in ((holder, "app one"), (waiter, "app two")):
        client.call(SetClientLabel(label))
        client.begin()
    holder.vote()
    waiter.ask(Vote(1))
    found = fetch_status(Target(server.address))
    while not found.storages["1"]["commits"]["waiting"]:
        found = fetch_status(Target(server.address))
    status, text, _ = run(format_address(server.address), "-c")
    assert status == 0
    assert value(text, "commit lock").startswith("app one 127.0.0.1:")
    assert value(text, "commit lock").endswith(" s, 1 waiting")
    assert value(text, "  waits for it").startswith("app two 127.0.0.1:")
    heading, *rows = text[text.index("\nnumber") + 1 :].splitlines()
    places = {name: heading.index(name) for name in ("label", "address", "user", "storage")}
    for row, label in zip(rows, ("app one", "app two")):
        assert row[places["label"] : places["address"]].strip() == label
        assert row[places["address"] : places["user"]].startswith("127.0.0.1:")
        assert row[places["user"] : places["storage"]].strip() == "-"
    assert "voted for 0." in rows[0]
    assert "voting for 0." in rows[1]


def test_limit(run: Any, server: Any, stack: ExitStack) -> None:
    for _ in range(3):
        stack.enter_context(RawClient(server.address))
    status, text, _ = run(format_address(server.address), "-c", "--limit", "1")
    assert status == 0
    assert text.rstrip().endswith("and 2 more")


def test_json(run: Any, server: Any, stack: ExitStack) -> None:
    stack.enter_context(RawClient(server.address))
    status, text, _ = run(format_address(server.address), "--json")
    assert status == 0
    told = json.loads(text)
    assert set(told) == {"server", "storages", "connections", "left_out"}
    assert told["server"]["version"] == __version__
    assert told["storages"]["1"]["counters"]["commits"] == 1
    assert len(told["connections"]) == 1
    assert told["left_out"] == 0


def test_one_storage(run: Any, server: Any) -> None:
    address = format_address(server.address)
    status, text, _ = run(address, "--storage", "two", "--json")
    assert status == 0
    assert list(json.loads(text)["storages"]) == ["two"]
    status, text, errors = run(address, "--storage", "three")
    assert (status, text) == (1, "")
    assert "no storage 'three'" in errors


def test_a_storage_out_of_service(run: Any, server: Any) -> None:
    server._services["two"].outage = "storage 'two' is out of service"
    address = format_address(server.address)
    status, text, _ = run(address)
    assert status == 0
    assert value(text, "OUTAGE") == "storage 'two' is out of service"
    assert run(address, "--storage", "1")[0] == 0
    assert run(address, "--storage", "two")[0] == 1


def test_the_address_from_a_configuration(run: Any, tmp_path: Path) -> None:
    with ServerProcess(tmp_path, config="monitor-address 0") as process:
        status, text, _ = run("-C", str(tmp_path / "zeo.conf"))
        assert status == 0
        assert value(text, "address") == format_address(process.address)
        assert value(text, "monitor").startswith("127.0.0.1:")
        assert process.process is not None
        assert value(text, "process") == str(process.process.pid)
        host, port = value(text, "monitor").split(":")
        with socket.create_connection((host, int(port))) as sock, sock.makefile() as report:
            assert "Storage: 1" in report.read()
        # Looking leaves nothing in the log.
        assert "WARNING" not in process.log()
        assert "asks" not in process.log()
        assert process.stop() == 0


def test_tls(run: Any, tmp_path: Path) -> None:
    authority = trustme.CA()
    paths = {name: str(tmp_path / f"{name}.pem") for name in ("ca", "server", "client")}
    authority.cert_pem.write_to_path(paths["ca"])
    for name, identity in (("server", "localhost"), ("client", "ann@example.org")):
        authority.issue_cert(identity).private_key_and_cert_chain_pem.write_to_path(paths[name])
    context = server_context(paths["server"], paths["ca"])
    with running_server(MappingStorage(), ssl=context) as server:
        port = str(server.address[1])
        trusted = ("--certificate", paths["client"], "--authenticate", paths["ca"])
        status, text, _ = run(f"localhost:{port}", *trusted)
        assert status == 0
        assert value(text, "server").endswith(", TLS")
        own = client_context(paths["client"], paths["ca"])
        with RawClient(server.address, tls=own):
            named = (port, *trusted, "--server-hostname", "localhost", "-c")
            status, text, _ = run(*named)
        assert status == 0
        assert "ann@example.org" in text
        status, _, errors = run(port, *trusted)
        assert status == 1
        assert "TLS: " in errors
        status, _, errors = run(port, "--timeout", "0.2")
        assert status == 1
        assert "if it demands TLS" in errors
        status, _, errors = run(f"localhost:{port}", "--authenticate", paths["ca"])
        assert status == 1
    with running_server(MappingStorage()) as server:
        status, _, errors = run(f"localhost:{server.address[1]}", *trusted)
        assert status == 1
        assert "does not use TLS" in errors


def test_tls_with_nothing_but_the_configuration(run: Any, tmp_path: Path) -> None:
    """The server's own certificate does for both sides."""
    ours = Certificates(tmp_path)
    own = ours.issue("server", "db.example.org", end=20 * DAY)
    section = f"<ssl>\ncertificate {own}\nauthenticate {ours.root}\n</ssl>"
    with ServerProcess(tmp_path, config=section) as process:
        conf = str(tmp_path / "zeo.conf")
        status, text, _ = run("-C", conf)
        assert status == 0
        assert ", in 19 d" in value(text, "certificate")
        # What is given counts: this certificate names another host.
        status, _, errors = run("-C", conf, "--certificate", own, "--authenticate", ours.root)
        assert status == 1
        assert "connect by a name that it bears" in errors
        named = ("--server-hostname", "db.example.org", "--authenticate", ours.root)
        status, _, errors = run("-C", conf, *named)
        assert status == 1
        assert "does not accept this client's certificate: there is none" in errors
        (tmp_path / "word").write_text("open sesame\n")
        locked = ours.encrypt(own, b"open sesame")
        keys = ("--certificate", locked, "--password-file", str(tmp_path / "word"))
        assert run("-C", conf, *named, *keys)[0] == 0
        status, _, errors = run("-C", conf, *named, "--certificate", locked)
        assert status == 2
        assert "the private key is encrypted" in errors
        unlisted = ("--crl", Certificates(tmp_path, "other").revoke([]))
        status, _, errors = run("-C", conf, *named, *keys, *unlisted)
        assert status == 1
        assert "no revocation list" in errors
        assert process.stop() == 0


def test_tls_of_a_server_that_asks_nobody(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = Certificates(tmp_path)
    context = server_context(ours.issue("server", "127.0.0.1"), client_certificates="none")
    with running_server(MappingStorage(), ssl=context) as server:
        port = str(server.address[1])
        status, _, errors = run(port, "--tls")
        assert status == 1
        assert "nobody whom this client trusts" in errors
        monkeypatch.setenv("SSL_CERT_FILE", ours.root)
        status, text, _ = run(port, "--tls")
        assert status == 0
        # A context that somebody else has made tells nothing of its files.
        assert "certificate" not in text


# -- a server of ZEO -----------------------------------------------------------------------------


def test_zeo(run: Any, zeo: Any) -> None:
    address = format_address(zeo.address)
    status, text, _ = run(address, "-c")
    assert status == 0
    assert value(text, "server") == "ZEO"
    assert value(text, "storage") == "1"
    assert value(text, "commit lock") == "free, 0 waiting"
    assert value(text, "counted").startswith("0 loads, 1 stores, 1 commits, ")
    assert text.rstrip().endswith(MISSING)
    status, text, _ = run(address, "--json", "--storage", "1")
    told = json.loads(text)
    assert told["server"] is None
    assert told["connections"] is None
    assert list(told["storages"]) == ["1"]
    assert told["storages"]["1"]["counters"]["commits"] == 1
    assert run(address, "--storage", "three")[0] == 1


# -- no server -----------------------------------------------------------------------------------


@contextmanager
def talker(*pieces: bytes, waits: bool = False) -> Iterator[str]:
    """Listen; say *pieces* to whoever comes, the first at once and each other when he has said
    something, too; then close, or when the test ends."""
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def talk() -> None:
            sock, _ = listener.accept()
            with sock:
                for number, piece in enumerate(pieces):
                    if number:
                        sock.recv(1000)
                    sock.sendall(piece)
                if waits:
                    ended.wait(30)

        thread = threading.Thread(target=talk)
        thread.start()
        yield str(listener.getsockname()[1])
        ended.set()
        thread.join()


def test_nobody_listens(run: Any, tmp_path: Path) -> None:
    for address in (str(free_port()), str(tmp_path / "none.sock"), "host.invalid:8100"):
        status, text, errors = run(address)
        assert (status, text) == (1, "")
        assert "cannot connect: " in errors


@pytest.mark.parametrize(
    ("pieces", "problem"),
    [
        ((), "closed the connection"),
        ((frame(b"Z5 zeolith"),), "closed the connection"),
        ((frame(b"Z5"), b"\0\0"), "closed the connection"),
        ((frame(b"HTTP/1.1"),), "does not speak"),
        ((b"HTTP/1.1 400 Bad Request\r\n",), "does not speak"),
        ((frame(b"Z5"), frame(b"[1]")), "does not speak"),
        ((frame(b"Z5 zeolith"), frame(b"[" * 100_000)), "does not speak"),
        ((frame(b"Z5 zeolith") + frame(b"{}"),), "does not speak"),
        ((frame(b"Z5 zeolith"), frame(b"{}") + b"\0"), "does not speak"),
        ((frame(b"Z5 zeolith"), b"\xff\xff\xff\xff"), "does not speak"),
        ((frame(b"Z5 zeolith"), frame(b'{"server": {}}')), "newer"),
        ((frame(b"Z5"), frame(b'{"1": 5}')), "newer"),
    ],
)
def test_something_else_answers(run: Any, pieces: tuple[bytes, ...], problem: str) -> None:
    with talker(*pieces) as address:
        status, text, errors = run(address)
    assert (status, text) == (1, "")
    # Whoever closes while something he was sent is unread resets the connection.
    assert problem in errors or (problem.startswith("closed") and "reset" in errors)


def test_nobody_answers(run: Any) -> None:
    with talker(waits=True) as address:
        status, _, errors = run(address, "--timeout", "0.1")
    assert status == 1
    assert "no answer within 0.1 s" in errors


def test_a_drip_does_not_stretch_the_deadline() -> None:
    """The time-out is for the whole, not for each byte."""
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip() -> None:
            sock, _ = listener.accept()
            with sock:
                try:
                    sock.sendall(b"\0\0\0\x40")
                    while not stop.wait(0.02):
                        sock.sendall(b"Z")
                except OSError:
                    pass

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            with pytest.raises(NotAnswering, match="no answer within"):
                fetch_status(Target(listener.getsockname()[:2], timeout=0.3))
        finally:
            stop.set()
            thread.join()


@pytest.mark.parametrize(
    "arguments",
    [
        ["a", "b"],
        ["nonsense"],
        ["99999"],
        ["--limit", "5"],
        ["-c", "--limit", "5000"],
        ["--key", "file"],
        ["--tls", "./zeo.sock"],
        ["--certificate", "/does/not/exist"],
        ["8100", "-C", "zeo.conf"],
        ["-C", "/does/not/exist.conf"],
        ["--timeout", "0"],
        ["./zeo.sock", "--authenticate", "file"],
    ],
    ids=" ".join,
)
def test_wrong_usage(run: Any, arguments: list[str]) -> None:
    status, text, errors = run(*arguments)
    assert (status, text) == (2, "")
    assert errors
    assert "Traceback" not in errors


def test_a_refusal_is_no_silence(server: Any) -> None:
    with pytest.raises(Refused):
        fetch_status(Target(server.address), "three")


# -- the text ------------------------------------------------------------------------------------


def test_text_of_a_pack(server: Any) -> None:
    found = fetch_status(Target(server.address))
    state = found.storages["1"]["packing"] = {
        "is_running": True, "what": "pack", "started": 0.0, "seconds": 75.0, "phase": "copy",
        "done": 5, "total": 10, "fraction": 0.725, "last": None,
    }  # fmt: skip
    text = render_status(found, connections=False)
    assert value(text, "packing") == "pack: copy, 72% done, for 1 min 15 s"
    last = {"what": "pack", "to": 0, "ended": 0, "seconds": 2, "error": None, "before": 2_500_000}
    state.update(is_running=False, last={**last, "after": 900})
    assert value(render_status(found, connections=False), "packing").endswith(
        " after 2.0 s: 2.5 MB before, 900 B after"
    )
    state["last"] = {**last, "error": "OSError: disk\x1b[2J"}
    assert value(render_status(found, connections=False), "packing").endswith(
        ", FAILED: OSError: disk?[2J"
    )


def test_nothing_in_a_table_reaches_the_terminal_raw() -> None:
    connection = {
        "number": 1, "label": "a\nb\x1b[2J", "address": "x", "user": "\r", "storage": "s\t",
        "read_only": True, "age": 1.0, "idle": 0.0, "transaction": {"stage": "\x07", "age": 0.0},
        "unsent": 0,
    }  # fmt: skip
    lines = render_connections([connection], 0)
    assert len(lines) == 2
    assert all(line.isprintable() for line in lines)
    assert render_connections([]) == ["no connections"]
    assert printable("ü\x9b") == "ü?"


@pytest.mark.parametrize(
    ("transactions", "text"),
    [({}, "voting for 2.0 s"), ({"transactions": 1}, "voting for 2.0 s"),
     ({"transactions": 3}, "voting for 2.0 s, 3 in all")],
)  # fmt: skip
def test_the_transactions_of_a_client(transactions: dict[str, int], text: str) -> None:
    connection = {
        "number": 1, "label": "one", "address": "x", "user": "", "storage": "1",
        "read_only": False, "age": 5.0, "idle": 0.0,
        "transaction": {"stage": "voting", "age": 2.0}, "unsent": 7, **transactions,
    }  # fmt: skip
    _, row = render_connections([connection])
    cells = [cell.strip() for cell in re.split(r" {2,}", row)]
    assert cells[-4] == text


@pytest.mark.parametrize(
    ("cache", "hits", "used"),
    [
        (None, "-", "-"),
        ({"hits": 0, "misses": 0, "used": 0}, "-", "0 B"),
        ({"hits": 0, "misses": 3, "used": 700}, "0.0%", "700 B"),
        ({"hits": 2, "misses": 1, "used": 1_500_000}, "66.7%", "1.5 MB"),
        ({"hits": 5, "misses": 0, "used": 10}, "100.0%", "10 B"),
    ],
)
def test_the_cache_of_a_client(cache: dict[str, int] | None, hits: str, used: str) -> None:
    connection = {
        "number": 1, "label": "one", "address": "x", "user": "", "storage": "1",
        "read_only": True, "age": 1.0, "idle": 0.0, "transaction": None, "cache": cache,
        "unsent": 7,
    }  # fmt: skip
    heading, row = render_connections([connection])
    assert heading.split()[-3:] == ["hits", "cache", "unsent"]
    cells = [cell.strip() for cell in re.split(r" {2,}", row)]
    assert cells[-3:] == [hits, used, "7 B"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (9.96, "10.0 s"), (59.9, "59 s"), (200, "3 min 20 s"), (7200, "2 h 0 min"),
     (190_000, "2 d 4 h")],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (3e12, "3.0 TB")]
)
def test_sizes(count: float, text: str) -> None:
    assert size(count) == text


def test_columns() -> None:
    assert align([("a", "b"), ("long", "1"), ("x", "22")], frozenset({1})) == [
        "a      b",
        "long   1",
        "x     22",
    ]
