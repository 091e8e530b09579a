"""What the link makes of servers, databases and defects that are not as they should be."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.POSException import ReadOnlyError

from tests.support.raw import FakeConnection, FakeServer, oid_of
from tests.support.waiting import Background, promptly, wait_until
from zeolith.client import connector, intake, link
from zeolith.client.connector import Candidate, Connector, Mode
from zeolith.client.states import State
from zeolith.client.watcher import watch
from zeolith.errors import ClientDisconnected, ServerRefused
from zeolith.protocol.faults import serialize_fault
from zeolith.protocol.messages import (
    GetInfo,
    GetInvalidations,
    InvalidateTransaction,
    LastTransaction,
    LoadBefore,
    NewOids,
    Ping,
    Register,
    TpcFinish,
    Vote,
)
from zeolith.types import MAX_TID

from .conftest import Attach, Open
from .scripted import tid

OID, OTHER = oid_of(1), oid_of(2)
INFO = {"length": 0, "size": 0, "interfaces": ()}


class Database:
    """Stands for ZODB's DB."""

    def __init__(self, storage: Any, on_invalidate: Callable[[], object]) -> None:
        self._on_invalidate = on_invalidate
        self.told: list[bytes] = []
        storage.registerDB(self)

    def invalidate(self, tid: bytes, oids: Any) -> None:
        self.told.append(tid)
        self._on_invalidate()

    def transform_record_data(self, data: bytes) -> bytes:
        return data

    untransform_record_data = transform_record_data


def threads_named(prefix: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(prefix)]


# -- looking for a server ----------------------------------------------------------------------


def test_a_call_that_costs_every_connection_its_life_is_given_up(
    fake: FakeServer, attach: Attach
) -> None:
    storage, first = attach(wait_timeout=0.3, min_disconnect_poll=0.02)
    count = 0
    is_over = threading.Event()

    def play() -> None:
        nonlocal count
        connection = first
        while not is_over.is_set():
            connection.expect(LoadBefore)
            connection.close()
            connection = fake.accept()
            count += 1
            connection.admit(tid(1))

    Background(play)
    with promptly(10), pytest.raises(ClientDisconnected):
        storage.loadBefore(OID, MAX_TID)
    is_over.set()
    # A connection that is lost at once is not replaced without a pause.
    assert count <= 60


def test_a_defect_in_the_background_thread_does_not_end_it(
    client: Open, fake: FakeServer, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    has_failed = threading.Event()

    def fail_once(*args: Any) -> None:
        if not has_failed.is_set():
            has_failed.set()
            raise RuntimeError("a defect")
        watch(*args)

    monkeypatch.setattr(link, "watch", fail_once)
    opening = Background(lambda: client(fake.address))
    for _ in range(2):
        fake.accept().admit(tid(1))
    storage: Any = opening.result()
    assert has_failed.is_set()
    wait_until(storage.is_connected)
    assert "a defect" in caplog.text


def test_an_unknown_error_of_a_server_may_mend(fake: FakeServer, client: Open) -> None:
    opening = Background(lambda: client(fake.address))
    starting = fake.accept()
    starting.greet()
    starting.fault(starting.expect(Register), "some.storage.StillOpening", ("wait",))
    fake.accept().admit(tid(1))
    opening.result()


def test_a_refusal_is_not_raised_twice_as_the_same_object(fake: FakeServer, client: Open) -> None:
    storage = client(fake.address, wait=False, min_disconnect_poll=20, max_disconnect_poll=20)
    connection = fake.accept()
    connection.greet()
    connection.fault(
        connection.expect(Register), *serialize_fault(ValueError("unknown storage: '1'"))
    )
    wait_until(lambda: storage._link._failure is not None)
    refusals = []
    for _ in range(2):
        with pytest.raises(ServerRefused, match="unknown storage") as caught:
            storage.ping()
        refusals.append(caught.value)
    first, second = refusals
    # Tracebacks, and the frames in them, would pile up on it.
    assert first is not second
    assert first.__cause__ is second.__cause__ is not None


@pytest.mark.parametrize("is_reversed", [False, True])
def test_of_several_failures_one_that_may_mend_is_reported(is_reversed: bool) -> None:
    refusal = ServerRefused("one:1", "unknown storage")
    failures = [ConnectionRefusedError("restarting"), refusal, refusal]
    results: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for failure in reversed(failures) if is_reversed else failures:
        results.put(failure)
    with pytest.raises(ConnectionRefusedError):
        connector._pick(results, 3, Mode.WRITABLE)


def test_if_all_refuse_that_is_reported() -> None:
    results: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for number in range(2):
        results.put(ServerRefused(f"host:{number}", "unknown storage"))
    with pytest.raises(ServerRefused):
        connector._pick(results, 2, Mode.WRITABLE)


def test_sockets_that_were_tried_are_not_kept(
    fake: FakeServer, attach: Attach, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        nobody = listener.getsockname()
    found = socket.getaddrinfo(fake.address[0], fake.address[1], type=socket.SOCK_STREAM)
    nowhere = [(*found[0][:4], nobody)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kw: nowhere + found)
    storage, _ = attach()
    assert storage.is_connected()
    assert storage._link._connector._sockets == set()


def test_a_name_that_is_none_is_refused_at_once(client: Open) -> None:
    with promptly(10), pytest.raises(ServerRefused):
        client(("x" * 70 + ".example", 8100), wait_timeout=60)


# -- verifying ---------------------------------------------------------------------------------


def test_invalidations_before_the_verification_are_bounded_rule_r8(
    fake: FakeServer, client: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "MAX_HELD", 5)
    opening = Background(lambda: client(fake.address, wait_timeout=5))
    flooding = fake.accept()
    flooding.greet()
    flooding.reply(flooding.expect(Register), tid(1))
    flooding.peer.registered()
    flooding.expect(GetInfo)
    for number in (2, 3):
        flooding.notify(InvalidateTransaction(tid(number), [OID, OTHER]))
    fake.accept().admit(tid(3))
    storage: Any = opening.result()
    assert storage.lastTransaction() == tid(3)


def test_closing_does_not_wait_for_a_server_that_does_not_answer(
    fake: FakeServer, client: Open
) -> None:
    storage = client(fake.address, wait=False)
    connection = fake.accept()
    connection.greet()
    connection.reply(connection.expect(Register), tid(1))
    connection.peer.registered()
    connection.expect(GetInfo)
    with promptly(5):
        storage.close()


# -- the database ------------------------------------------------------------------------------


def test_the_database_may_close_the_storage_from_the_thread_that_reads(attach: Attach) -> None:
    storage, server = attach()
    Database(storage, storage.close)
    pinging = Background(storage.ping)
    while server.next_call().request != Ping():
        pass
    server.notify(InvalidateTransaction(tid(2), [OID]))
    with promptly(5), pytest.raises(ClientDisconnected):
        pinging.result()


def test_a_commit_that_the_database_does_not_take_is_told_again_rule_r3(
    fake: FakeServer, attach: Attach
) -> None:
    storage, server = attach()
    database = Database(storage, lambda: None)
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    storage.store(OID, bytes(8), b"data", "", meta)

    def fail(tid: bytes) -> None:
        raise RuntimeError("a defect")

    def commit() -> None:
        storage.tpc_vote(meta)
        storage.tpc_finish(meta, fail)

    committing = Background(commit)
    vote: Any = server.next()
    while not isinstance(vote.request, Vote):
        vote = server.next()
    server.reply(vote, [])
    server.reply(server.expect(TpcFinish), tid(2))
    with pytest.raises(RuntimeError, match="a defect"):
        committing.result()
    assert storage.lastTransaction() == tid(1)
    again = fake.accept()
    again.greet()
    again.reply(again.expect(Register), tid(2))
    again.peer.registered()
    question = again.expect(GetInvalidations)
    assert question.request.tid == tid(1)
    again.reply(question, (tid(2), [OID]))
    again.reply(again.expect(GetInfo), INFO)
    wait_until(storage.is_connected)
    assert database.told == [tid(2)]
    assert storage.lastTransaction() == tid(2)


def test_reserved_ids_are_not_used_with_another_run_of_the_server(
    fake: FakeServer, attach: Attach
) -> None:
    """It may have given them to another client."""
    storage, server = attach()
    allocating = Background(storage.new_oid)
    server.reply(server.expect(NewOids), [oid_of(11), oid_of(12), oid_of(13)])
    assert allocating.result() == oid_of(11)
    assert storage.new_oid() == oid_of(12)
    server.close()
    again = fake.accept()
    again.admit(tid(1))
    wait_until(storage.is_connected)
    allocating = Background(storage.new_oid)
    again.reply(again.expect(NewOids), [oid_of(21)])
    assert allocating.result() == oid_of(21)


# -- read-only fallback ------------------------------------------------------------------------


def admit_read_only(fake: FakeServer, last_tid: bytes) -> FakeConnection:
    connection = fake.accept()
    connection.greet()
    connection.fault(connection.expect(Register), *serialize_fault(ReadOnlyError()))
    register = connection.expect(Register)
    assert register.request.read_only
    connection.reply(register, last_tid)
    connection.peer.registered()
    connection.reply(connection.expect(GetInfo), INFO)
    return connection


def test_a_better_server_is_not_older_for_having_been_found_earlier(
    fake: FakeServer, client: Open
) -> None:
    """It admits us; before we change over, the present one tells of one more transaction."""
    opening = Background(
        lambda: client(fake.address, read_only_fallback=True, database_behind="refuse")
    )
    fallback = admit_read_only(fake, tid(1))
    storage: Any = opening.result()
    loading = Background(lambda: storage.loadBefore(OID, MAX_TID))
    fallback.reply(fallback.expect(LoadBefore), (b"data", tid(1), None))
    loading.result()
    better = fake.accept()
    better.greet()
    register = better.expect(Register)
    fallback.notify(InvalidateTransaction(tid(2), [OTHER]))
    wait_until(lambda: storage.lastTransaction() == tid(2))
    better.reply(register, tid(1))
    better.peer.registered()
    better.reply(better.expect(LastTransaction), tid(2))
    better.reply(better.expect(GetInfo), INFO)
    wait_until(lambda: storage.is_connected() and not storage.isReadOnly())
    assert storage.loadBefore(OID, MAX_TID) == (b"data", tid(1), None)


def test_the_search_for_a_better_server_ends_with_the_storage(
    fake: FakeServer, client: Open
) -> None:
    opening = Background(
        lambda: client(
            fake.address,
            name="searching",
            read_only_fallback=True,
            min_disconnect_poll=100,
            max_disconnect_poll=100,
        )
    )
    admit_read_only(fake, tid(1))
    storage: Any = opening.result()
    (searching,) = wait_until(lambda: threads_named("zeolith upgrade searching"))
    storage.close()
    searching.join(5)
    assert not searching.is_alive()


def test_a_better_server_found_after_the_end_is_let_go(
    fake: FakeServer, client: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    find, stop = Connector.connect, Connector.stop
    closing: list[Background] = []
    found: list[Candidate] = []
    is_over = threading.Event()

    def find_late(self: Connector, mode: Mode | None = None) -> Candidate:
        candidate = find(self, mode)
        if mode is not None:
            closing.append(Background(storage.close))
            wait_until(lambda: storage._link.state is State.CLOSED)
            found.append(candidate)
        return candidate

    def stop_late(self: Connector) -> None:
        assert is_over.wait(20)
        stop(self)

    monkeypatch.setattr(Connector, "connect", find_late)
    monkeypatch.setattr(Connector, "stop", stop_late)
    opening = Background(lambda: client(fake.address, name="late", read_only_fallback=True))
    admit_read_only(fake, tid(1))
    storage: Any = opening.result()
    (searching,) = wait_until(lambda: threads_named("zeolith upgrade late"))
    better = fake.accept()
    better.greet()
    better.reply(better.expect(Register), tid(1))
    searching.join(20)
    is_over.set()
    closing[0].result()
    wire: Any = found[0].channel.wire
    assert wire._sock.fileno() == -1


class CacheOfUnknownAge:
    """An application's own cache: it holds something, but no last transaction."""

    def __init__(self) -> None:
        self.current: dict[bytes, tuple[bytes, bytes]] = {OID: (b"who knows", tid(1))}

    def load(self, oid: bytes) -> tuple[bytes, bytes] | None:
        return self.current.get(oid)

    def loadBefore(self, oid: bytes, tid: bytes) -> Any:  # noqa: N802 - ZEO's name
        data, start = self.current.get(oid, (b"", tid))
        return (data, start, None) if start < tid else None

    def store(self, oid: bytes, start: bytes, end: bytes | None, data: bytes) -> None:
        if end is None:
            self.current[oid] = data, start

    def invalidate(self, oid: bytes, tid: bytes | None) -> None:
        self.current.pop(oid, None)

    def getLastTid(self) -> bytes | None:  # noqa: N802 - ZEO's name
        return None

    def setLastTid(self, tid: bytes) -> None:  # noqa: N802 - ZEO's name
        pass

    def clear(self) -> None:
        self.current.clear()

    def close(self) -> None:
        pass

    def __len__(self) -> int:
        return len(self.current)


def test_a_cache_that_does_not_know_its_age_is_dropped_rule_r6(attach: Attach) -> None:
    storage, server = attach(cache=CacheOfUnknownAge())
    loading = Background(lambda: storage.loadBefore(OID, MAX_TID))
    server.reply(server.expect(LoadBefore), (b"current", tid(1), None))
    assert loading.result() == (b"current", tid(1), None)
    assert storage.loadBefore(OID, MAX_TID) == (b"current", tid(1), None)
