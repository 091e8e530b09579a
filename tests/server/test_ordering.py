"""R1 on storages whose loads run on worker threads, and on servers behind servers."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import Any

import pytest
from tests.server.conftest import Connect, Serve
from tests.support.raw import Z64, RawClient, oid_of
from tests.support.storages import gate
from tests.support.waiting import wait_until
from ZODB.MappingStorage import MappingStorage

from zeolith import ClientStorage
from zeolith.protocol import messages as m
from zeolith.types import MAX_TID


class SlowStorage(MappingStorage):
    """A subclass: the server takes it for slow and loads on worker threads."""


@pytest.fixture
def slow() -> SlowStorage:
    return SlowStorage()


def positions(client: RawClient, msgid: Any) -> tuple[int, list[int]]:
    """Return where the answer to *msgid* is in the inbox, and where the invalidations are."""
    answer = next(
        at
        for at, message in enumerate(client.inbox)
        if isinstance(message, m.Reply) and message.msgid == msgid
    )
    invalidations = [
        at
        for at, message in enumerate(client.inbox)
        if isinstance(message, m.Notice) and isinstance(message.request, m.InvalidateTransaction)
    ]
    return answer, invalidations


def test_r1_an_answer_that_became_old_on_its_worker_is_asked_for_again(
    slow: SlowStorage, serve: Serve, raw: Connect, loop: str
) -> None:
    """It would reach the client after the invalidation, as the current state."""
    server = serve(slow, loop=loop)
    writer, reader = raw(server.address), raw(server.address)
    first = writer.commit({oid_of(1): (Z64, b"old")})
    with gate(slow, "loadBefore", after=True, when=lambda oid, tid: True) as loaded:
        # The server keeps the storage's method; the gate must be under it.
        access = server._services["1"].access
        with hook_attribute(access, "load_before", slow.loadBefore):
            msgid = reader.ask(m.LoadBefore(oid_of(1), MAX_TID))
            loaded.wait_reached()
            second = writer.commit({oid_of(1): (first, b"new")})
            loaded.open()
            assert reader.answer(msgid) == (b"new", second, None)
    answer, invalidations = positions(reader, msgid)
    assert len(invalidations) == 2
    assert invalidations[1] < answer
    assert server.statistics()["1"]["reloads"] == 1


def test_r1_an_answer_about_something_else_is_kept(
    slow: SlowStorage, serve: Serve, raw: Connect
) -> None:
    server = serve(slow)
    writer, reader = raw(server.address), raw(server.address)
    first = writer.commit({oid_of(1): (Z64, b"one"), oid_of(2): (Z64, b"two")})
    access = server._services["1"].access
    with (
        gate(slow, "loadBefore", after=True) as loaded,
        hook_attribute(access, "load_before", slow.loadBefore),
    ):
        msgid = reader.ask(m.LoadBefore(oid_of(1), MAX_TID))
        loaded.wait_reached()
        writer.commit({oid_of(2): (first, b"new")})
        loaded.open()
        assert reader.answer(msgid) == (b"one", first, None)
    assert server.statistics()["1"]["reloads"] == 0


def test_r1_an_answer_during_a_finish_waits_for_its_invalidation(
    slow: SlowStorage, serve: Serve, raw: Connect, loop: str
) -> None:
    """The worker reads what is visible already, before the loop hears of the commit."""
    server = serve(slow, loop=loop)
    writer, reader, other = raw(server.address), raw(server.address), raw(server.address)
    first = writer.commit({oid_of(1): (Z64, b"old")})
    access = server._services["1"].access
    with (
        gate(slow, "loadBefore") as loading,
        hook_attribute(access, "load_before", slow.loadBefore),
        gate(slow, "tpc_finish", after=True) as finishing,
    ):
        msgid = reader.ask(m.LoadBefore(oid_of(1), MAX_TID))
        loading.wait_reached()
        writer.begin()
        writer.store(oid_of(1), b"new", first)
        writer.vote()
        finish = writer.ask(m.TpcFinish(1))
        finishing.wait_reached()
        loading.open()
        # Nothing may be told while the finish lasts; a second client's question shows that the
        # loop goes on, and that it too has to wait.
        ping = other.ask(m.Ping())
        wait_until(lambda: server._services["1"]._held, "something is held back")
        assert reader.invalidations() == []
        finishing.open()
        tid = writer.answer(finish)
        assert reader.answer(msgid) == (b"new", tid, None)
        other.answer(ping)
    answer, invalidations = positions(reader, msgid)
    assert invalidations[-1] < answer
    answer, invalidations = positions(other, ping)
    assert invalidations[-1] < answer


def test_r1_a_change_made_elsewhere_is_told_before_ones_own(
    serve: Serve, raw: Connect, loop: str
) -> None:
    """It waits to be announced when the transaction behind it is answered."""
    storage = MappingStorage()
    server = serve(storage, loop=loop)
    writer = raw(server.address)
    first = writer.commit({oid_of(1): (Z64, b"old")})
    elsewhere = (int.from_bytes(first, "big") + 1).to_bytes(8, "big")
    with gate(storage, "tpc_finish") as finishing:
        writer.begin()
        writer.store(oid_of(1), b"new", first)
        writer.vote()
        finish = writer.ask(m.TpcFinish(1))
        finishing.wait_reached()
        server._services["1"].publisher.publish(elsewhere, [oid_of(2)])
        finishing.open()
        assert writer.answer(finish) > elsewhere
    answer, (invalidation,) = positions(writer, finish)
    assert invalidation < answer


class hook_attribute:  # noqa: N801 - reads as what it is: a context manager
    """Set an attribute for a while."""

    def __init__(self, target: Any, name: str, value: Any) -> None:
        self._target, self._name, self._value = target, name, value

    def __enter__(self) -> None:
        self._old = getattr(self._target, self._name)
        setattr(self._target, self._name, self._value)

    def __exit__(self, *exc: object) -> None:
        setattr(self._target, self._name, self._old)


def test_missing_objects_on_slow_storages(slow: SlowStorage, serve: Serve, raw: Connect) -> None:
    client = raw(serve(slow).address)
    tid = client.commit({oid_of(1): (Z64, b"x")})
    assert client.load(oid_of(1), tid) is None
    with pytest.raises(Exception, match="POSKeyError"):
        client.load(oid_of(2))
    # With a message id that is not the key.
    msgid = client.next_id()
    client.send((msgid, m.LoadBefore(oid_of(1), MAX_TID)))
    assert client.answer(msgid) == (b"x", tid, None)


def test_r8_calls_on_workers_are_limited(slow: SlowStorage, serve: Serve, raw: Connect) -> None:
    """Beyond the limit requests wait, and none is lost."""
    server = serve(slow, max_outstanding=4, load_workers=2)
    client = raw(server.address)
    tid = client.commit({oid_of(1): (Z64, b"x")})
    keys = [m.LoadBefore(oid_of(1), MAX_TID[:-1] + bytes([n])) for n in range(100)]
    for key in keys:
        client.ask(key)
    for key in keys:
        assert client.answer(tuple(key)) == (b"x", tid, None)


# -- a server whose storage is a client of another server --------------------------------------


@pytest.fixture
def chain(stack: ExitStack, serve: Serve) -> tuple[Any, Any]:
    """A server, and another one that serves a client of the first."""
    back = serve(MappingStorage())
    front = serve(ClientStorage(back.address, wait_timeout=20))
    return back, front


def heard(client: RawClient) -> list[Any]:
    client.ping()
    return client.invalidations()


def test_fan_out_passes_changes_on(chain: tuple[Any, Any], raw: Connect) -> None:
    back, front = chain
    writer, reader, other = raw(back.address), raw(front.address), raw(front.address)
    first = writer.commit({oid_of(1): (Z64, b"one")})
    wait_until(lambda: heard(reader), "the change has come through")
    assert reader.invalidations() == [(first, [oid_of(1)])]
    assert reader.load(oid_of(1)) == (b"one", first, None)
    # And the other way: through the front server into the database of the back one.
    second = reader.commit({oid_of(1): (first, b"two")})
    other.ping()
    assert other.invalidations()[-1] == (second, [oid_of(1)])
    writer.ping()
    wait_until(lambda: heard(writer), "the change has come back")
    assert writer.load(oid_of(1)) == (b"two", second, None)


def test_r1_fan_out_under_load(chain: tuple[Any, Any], raw: Connect) -> None:
    """No answer reveals a transaction that was not announced, and none is older than what was."""
    back, front = chain
    writer, reader = raw(back.address), raw(front.address)
    stop = threading.Event()
    last = writer.commit({oid_of(1): (Z64, b"x")})
    wait_until(lambda: heard(reader), "the first change is here")

    def write() -> None:
        serial = last
        for _ in range(150):
            serial = writer.commit({oid_of(1): (serial, b"x")})
        stop.set()

    thread = threading.Thread(target=write)
    thread.start()
    announced = last
    count = 0
    try:
        while not stop.is_set():
            reader.inbox.clear()
            reader.taken = 0
            found = reader.load(oid_of(1))
            for message in reader.inbox:
                if isinstance(message, m.Notice):
                    assert isinstance(message.request, m.InvalidateTransaction)
                    announced = message.request.tid
                elif isinstance(message, m.Reply):
                    # The object is all that ever changes: its tid is the last announced.
                    assert found[1] == announced
                    count += 1
    finally:
        thread.join()
    assert count > 0
