"""What an administrator is told of a running server, over real sockets."""

from __future__ import annotations

import json
import logging
import os
import random
import ssl
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trustme
from tests.support.raw import RawClient, connect, fault_of, oid_of
from tests.support.storages import gate
from tests.support.tlscontexts import client_context, server_context
from tests.support.waiting import Background, promptly, wait_until
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage

from zeolith import __version__
from zeolith.admin.asking import NotAnswering, Refused, Target, ask_zeolith
from zeolith.protocol.additions import CacheReport
from zeolith.protocol.framing import frame
from zeolith.protocol.greeting import STATUS_PROBE, Coding
from zeolith.protocol.inquiry import PREFIX, StatusInquiry, parse_answer, serialize_inquiry
from zeolith.protocol.messages import LoadBefore, SetClientLabel, Vote
from zeolith.server.overview import tls_user
from zeolith.types import MAX_TID

RUOK_KEYS = {
    "connections", "loads", "stores", "commits", "aborts", "active_txns", "lock_time", "conflicts",
    "conflicts_resolved", "start", "waiting", "timeout-thread-is-alive", "last-transaction",
}  # fmt: skip


def look(server: Any, storage: str | None = None, connections: int = 100) -> dict[str, Any]:
    """Return the server's answer."""
    return ask_zeolith(Target(server.address), StatusInquiry(storage, connections))


def label(client: RawClient, text: str) -> None:
    client.call(SetClientLabel(text))


def by_label(answer: dict[str, Any], text: str) -> dict[str, Any]:
    (found,) = [entry for entry in answer["connections"] if entry["label"] == text]
    assert isinstance(found, dict)
    return found


def ruok(server: Any) -> dict[str, Any]:
    with connect(server.address) as sock, sock.makefile("rb") as stream:
        stream.read(int.from_bytes(stream.read(4), "big"))
        sock.sendall(frame(STATUS_PROBE))
        data = stream.read()
    return parse_answer(data[4:])


# -- what is told --------------------------------------------------------------------------------


def test_the_server(serve: Any, raw: Any, mapping: MappingStorage, loop: str) -> None:
    before = time.time()
    server = serve(mapping, loop=loop)
    raw(server.address)
    told = look(server)["server"]
    assert told["version"] == __version__
    assert told["pid"] == os.getpid()
    assert tuple(told["address"]) == server.address
    assert told["monitor_address"] is None
    assert told["loop"] == loop
    assert (told["tls"], told["read_only"], told["is_closing"]) == (False, False, False)
    assert before - 1 <= told["started"] <= told["now"] <= time.time()
    assert (told["connections"], told["accepted"]) == (1, 2)


def test_a_storage(serve: Any, raw: Any, files: FileStorage, loop: str) -> None:
    server = serve(files, loop=loop)
    told = look(server)["storages"]["1"]
    assert told["objects"] == 0
    assert told["last_transaction"] == {"tid": "0" * 16, "time": None}
    before = time.time()
    tid = raw(server.address).commit({oid_of(1): (bytes(8), b"x" * 50)})
    told = look(server)["storages"]["1"]
    assert told["objects"] == 1
    assert told["size"] == files.getSize()
    assert told["last_transaction"]["tid"] == tid.hex()
    assert before - 1 <= told["last_transaction"]["time"] <= time.time() + 1
    assert told["outage"] == ""
    assert told["read_only"] is False
    assert told["verifying"] == 0
    assert told["packing"]["is_running"] is False
    assert told["commits"] == {"holders": [], "waiting": []}
    assert set(told["extras"]) == {
        *("timeouts", "slow_clients", "silent_clients", "reloads"),
        *("resolutions", "failed_resolutions", "resolver_restarts"),
    }
    assert (told["counters"]["commits"], told["counters"]["stores"]) == (1, 1)


def test_the_counters_are_those_of_ruok(serve: Any, raw: Any, mapping: MappingStorage) -> None:
    """Whose keys stay exactly ZEO's: monitors read them."""
    server = serve({"1": mapping, "other": MappingStorage()})
    raw(server.address)
    told = ruok(server)
    assert {name: set(counters) for name, counters in told.items()} == {
        "1": RUOK_KEYS,
        "other": RUOK_KEYS,
    }
    storages = look(server)["storages"]
    assert {name: storage["counters"] for name, storage in storages.items()} == told


def test_a_connection(serve: Any, raw: Any, mapping: MappingStorage, loop: str) -> None:
    server = serve(mapping, loop=loop)
    first = raw(server.address)
    label(first, "küche")
    raw(server.address, read_only=True)
    raw(server.address, None)
    wait_until(lambda: len(look(server)["connections"]) == 3)
    first.begin()
    first.ping()
    writer, reader, newcomer = look(server)["connections"]
    assert (writer["number"], writer["label"], writer["storage"]) == (1, "küche", "1")
    assert writer["address"] == f"127.0.0.1:{first.socket.getsockname()[1]}"
    assert (writer["read_only"], writer["user"], writer["unsent"]) == (False, "", 0)
    assert writer["transaction"]["stage"] == "collecting"
    assert writer["transactions"] == 1
    assert 0 <= writer["transaction"]["age"] <= writer["age"]
    assert 0 <= writer["idle"] <= writer["age"]
    assert (reader["number"], reader["label"], reader["transaction"]) == (2, "", None)
    assert reader["read_only"] is True
    assert (newcomer["number"], newcomer["storage"], newcomer["read_only"]) == (3, None, None)


def test_a_client_that_talks_is_not_idle(serve: Any, raw: Any, mapping: MappingStorage) -> None:
    server = serve(mapping)
    quiet, busy, beating = raw(server.address), raw(server.address), raw(server.address)
    for client, name in ((quiet, "quiet"), (busy, "busy"), (beating, "beating")):
        label(client, name)

    def is_told_apart() -> bool:
        busy.ping()
        beating.socket.sendall(beating.peer.codec.heartbeat())
        answer = look(server)
        idle = {name: by_label(answer, name)["idle"] for name in ("quiet", "busy", "beating")}
        return bool(min(idle["quiet"], idle["beating"]) > 0.05 + idle["busy"])

    wait_until(is_told_apart)


def test_what_a_client_says_of_its_cache(serve: Any, raw: Any, mapping: MappingStorage) -> None:
    server = serve(mapping)
    client = raw(server.address, coding=Coding.OWN)
    label(client, "one")
    assert by_label(look(server), "one")["cache"] is None
    for n in (1, 2):
        client.send(CacheReport(n, 10, 20, 30, 40))
    client.ping()
    told = {"hits": 2, "misses": 10, "records": 20, "used": 30, "capacity": 40}
    assert by_label(look(server), "one")["cache"] == told
    raw(server.address, None)
    wait_until(lambda: len(look(server)["connections"]) == 2)
    assert look(server)["connections"][1]["cache"] is None


def test_what_waits_for_a_client(serve: Any, raw: Any, mapping: MappingStorage) -> None:
    server = serve(mapping, output_mark=1000)
    writer = raw(server.address)
    writer.commit({oid_of(1): (bytes(8), b"x" * 500_000)})
    stuck = raw(server.address, receive_buffer=4096)
    label(stuck, "stuck")
    for _ in range(20):
        stuck.ask(LoadBefore(oid_of(1), MAX_TID))
    wait_until(lambda: by_label(look(server), "stuck")["unsent"] > 100_000)


def test_the_commit_queue(serve: Any, raw: Any, mapping: MappingStorage, loop: str) -> None:
    server = serve(mapping, loop=loop)
    holder, waiter, another = (raw(server.address) for _ in range(3))
    for client, name in ((holder, "holder"), (waiter, "waiter"), (another, "another")):
        label(client, name)
        client.begin()
    holder.vote()
    waiter.ask(Vote(1))
    wait_until(lambda: look(server)["storages"]["1"]["commits"]["waiting"])
    another.ask(Vote(1))
    wait_until(lambda: len(look(server)["storages"]["1"]["commits"]["waiting"]) == 2)
    answer = look(server)
    commits = answer["storages"]["1"]["commits"]
    (held,) = commits["holders"]
    assert (held["label"], held["phase"]) == ("holder", "voted")
    assert held["address"] == by_label(answer, "holder")["address"]
    assert held["number"] == by_label(answer, "holder")["number"]
    assert [turn["label"] for turn in commits["waiting"]] == ["waiter", "another"]
    assert 0 <= commits["waiting"][1]["seconds"] <= commits["waiting"][0]["seconds"]
    assert commits["waiting"][0]["seconds"] <= held["seconds"]
    assert by_label(answer, "holder")["transaction"]["stage"] == "voted"
    assert by_label(answer, "waiter")["transaction"]["stage"] == "voting"
    assert answer["storages"]["1"]["counters"]["waiting"] == 2
    holder.finish()
    wait_until(lambda: len(look(server)["storages"]["1"]["commits"]["waiting"]) == 1)
    (held,) = look(server)["storages"]["1"]["commits"]["holders"]
    assert held["label"] == "waiter"


def test_the_server_answers_while_a_commit_is_written(
    serve: Any, raw: Any, mapping: MappingStorage
) -> None:
    server = serve(mapping)
    client = raw(server.address)
    client.begin()
    client.vote()
    with gate(mapping, "tpc_finish") as stop:
        finish = Background(client.finish)
        stop.wait_reached()
        with promptly():
            (turn,) = look(server)["storages"]["1"]["commits"]["holders"]
        assert turn["phase"] == "finishing"
        stop.open()
        finish.result()


def test_a_storage_out_of_service(serve: Any, raw: Any, mapping: MappingStorage) -> None:
    server = serve({"1": mapping, "2": MappingStorage()})
    client = raw(server.address)
    client.begin()
    client.vote()

    def fail(*arguments: object) -> None:
        raise OSError("no space")

    mapping.tpc_finish = fail
    assert fault_of(client.finish) == "OSError"
    storages = wait_until(
        lambda: (told := look(server)["storages"])["1"]["outage"] and told, "the storage leaves"
    )
    assert "out of service" in storages["1"]["outage"]
    assert storages["2"]["outage"] == ""


# -- how much is told ----------------------------------------------------------------------------


def test_a_number_of_connections_at_most(serve: Any, raw: Any, mapping: MappingStorage) -> None:
    server = serve(mapping)
    clients = [raw(server.address) for _ in range(6)]
    clients[4].begin()
    clients[4].ping()
    answer = look(server, connections=3)
    assert [entry["number"] for entry in answer["connections"]] == [5, 1, 2]
    assert answer["left_out"] == 3
    assert answer["server"]["connections"] == 6
    answer = look(server, connections=0)
    assert (answer["connections"], answer["left_out"]) == ([], 6)


def test_one_storage(serve: Any, raw: Any, mapping: MappingStorage) -> None:
    server = serve({"1": mapping, "two": MappingStorage()})
    raw(server.address), raw(server.address, "two")
    answer = look(server, "two")
    assert list(answer["storages"]) == ["two"]
    assert [entry["storage"] for entry in answer["connections"]] == ["two"]
    assert answer["left_out"] == 0
    with pytest.raises(Refused, match=r"'three'.* there are: 1, two"):
        look(server, "three")


def test_probes_leave_no_noise(
    serve: Any, mapping: MappingStorage, caplog: pytest.LogCaptureFixture, loop: str
) -> None:
    server = serve(mapping, loop=loop)
    caplog.set_level(logging.DEBUG, "zeolith")
    caplog.clear()
    look(server)
    ruok(server)
    connect(server.address).close()
    messages = [record.getMessage() for record in caplog.records]
    wait_until(lambda: any("left before" in record.getMessage() for record in caplog.records))
    assert any("asks" in message for message in messages)
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


# -- who is told ---------------------------------------------------------------------------------


class Certificates:
    """An authority's certificates, on disk."""

    def __init__(self, directory: Path) -> None:
        authority = trustme.CA()
        self.authority = str(directory / "ca.pem")
        authority.cert_pem.write_to_path(self.authority)
        self.server = self._issue(authority, directory / "server.pem", "localhost")
        self.client = self._issue(
            authority, directory / "client.pem", "ann@example.org", common_name="Ann\x1b[2J"
        )

    def _issue(self, authority: trustme.CA, path: Path, name: str, **more: Any) -> str:
        authority.issue_cert(name, **more).private_key_and_cert_chain_pem.write_to_path(path)
        return str(path)


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


def test_tls_shows_who_it_is(
    serve: Any, raw: Any, mapping: MappingStorage, certificates: Certificates, loop: str
) -> None:
    server = serve(
        mapping, ssl=server_context(certificates.server, certificates.authority), loop=loop
    )
    context = client_context(certificates.client, certificates.authority)
    raw(server.address, tls=context)
    answer = ask_zeolith(Target(server.address, context, "localhost"), StatusInquiry())
    assert answer["server"]["tls"] is True
    (entry,) = answer["connections"]
    assert entry["user"] == "Ann?[2J, ann@example.org"


def test_r8_a_name_in_a_certificate_is_short_and_one_line() -> None:
    certificate = {"subject": ((("commonName", "a\nb" + 1000 * "x"),),)}
    connection: Any = SimpleNamespace(extra_info={"peercert": certificate}.get)
    assert tls_user(connection) == "a?b" + 197 * "x"


def test_r9_without_a_certificate_nothing_is_told(
    serve: Any, mapping: MappingStorage, certificates: Certificates, loop: str
) -> None:
    server = serve(
        mapping,
        ssl=server_context(certificates.server, certificates.authority),
        loop=loop,
        register_timeout=0.5,
    )
    nobody = client_context(None, certificates.authority)
    with pytest.raises(NotAnswering):
        ask_zeolith(Target(server.address, nobody, "localhost"), StatusInquiry())
    with pytest.raises(NotAnswering):
        look(server)
    with connect(server.address) as sock:
        try:
            sock.sendall(frame(serialize_inquiry(StatusInquiry())))
            data = sock.recv(1000)
        except (ConnectionError, ssl.SSLError):
            data = b""
    assert b"storages" not in data
    assert b"Z5" not in data


# -- what cannot hurt ----------------------------------------------------------------------------


def test_garbage_hurts_nobody(
    serve: Any, raw: Any, mapping: MappingStorage, caplog: pytest.LogCaptureFixture, loop: str
) -> None:
    server = serve(mapping, loop=loop)
    good = raw(server.address)
    choice = random.Random(7)
    texts = [
        b"",
        b"{",
        b"[" * 4000,
        b'{"a":' * 700,
        b'{"ask": "status", "connections": ' + b"9" * 4000 + b"}",
        b'{"ask": "status"}' + b" " * 5000,
        json.dumps({"ask": "status", "storage": "x" * 5000}).encode(),
        *(choice.randbytes(choice.randrange(60)) for _ in range(50)),
    ]
    caplog.clear()
    for text in texts:
        with connect(server.address) as sock:
            try:
                sock.sendall(frame(PREFIX + text))
                while sock.recv(1000):
                    pass
            except ConnectionError:
                pass
    good.ping()
    assert len(look(server)["connections"]) == 1
    assert not [record for record in caplog.records if record.levelno > logging.WARNING]
    assert not [record for record in caplog.records if record.exc_info]
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert all("protocol violated" in record.getMessage() for record in warnings)
    assert len(warnings) == len(texts)


def test_a_prober_that_does_not_read_hurts_nobody(
    serve: Any, raw: Any, mapping: MappingStorage, monkeypatch: pytest.MonkeyPatch, loop: str
) -> None:
    from zeolith.server import transport

    monkeypatch.setattr(transport, "_LINGER", 0.2)
    server = serve(mapping, loop=loop)
    good = raw(server.address)
    with connect(server.address) as sock:
        sock.sendall(frame(serialize_inquiry(StatusInquiry())))
        with promptly():
            good.ping()
            look(server)
        wait_until(lambda: len(look(server)["connections"]) == 1)
