"""Loads asked for many at a time: in slices, in order, and no more of them than there may be."""

from __future__ import annotations

import itertools
import threading
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
from tests.server.conftest import Connect, Serve
from tests.server.test_ordering import SlowStorage, hook_attribute
from tests.support.proxy import UP, Proxy
from tests.support.raw import Z64, RawClient, oid_of
from tests.support.storages import Gate, gate
from tests.support.waiting import Background, promptly, wait_until
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage

from zeolith import ClientStorage
from zeolith.protocol import messages as m
from zeolith.protocol.greeting import Coding
from zeolith.protocol.limits import DEFAULT_LIMITS, MAX_LOADS
from zeolith.protocol.loadrequests import LoadedMany, LoadMany
from zeolith.protocol.peers import ClientPeer
from zeolith.server import bulk
from zeolith.server.handlers import HANDLERS
from zeolith.types import MAX_TID

OBJECTS = 300


@pytest.fixture
def own(raw: Connect) -> Connect:
    """Open raw clients that speak Zeolith's own protocol."""
    return lambda *args, **kw: raw(*args, coding=Coding.OWN, **kw)


def data_of(number: int) -> bytes:
    return b"%d:" % number + bytes(number % 200)


def fill(client: RawClient, count: int = OBJECTS) -> bytes:
    """Commit objects 1 to *count*."""
    return client.commit({oid_of(number): (Z64, data_of(number)) for number in range(1, count + 1)})


def oids_to(count: int) -> tuple[bytes, ...]:
    return tuple(map(oid_of, range(1, count + 1)))


Answers = dict[bytes, Any]


def answers(client: RawClient, tid: bytes = MAX_TID) -> Answers:
    """Return what *client* has been told of objects before *tid*: none may be told of twice."""
    found: list[tuple[bytes, Any]] = []
    for message in client.inbox:
        if isinstance(message, m.Notice) and isinstance(message.request, LoadedMany):
            asked, records = message.request
            if asked == tid:
                found += [(oid, (data, start, end)) for oid, start, end, data in records]
        elif isinstance(message, m.Reply | m.Fault):
            oid, asked = message.msgid if isinstance(message.msgid, tuple) else (b"", b"")
            if asked == tid:
                found.append((oid, message.value if isinstance(message, m.Reply) else message.name))
    assert len(dict(found)) == len(found)
    return dict(found)


def receive_all(client: RawClient, count: int, tid: bytes = MAX_TID) -> Answers:
    """Receive until *count* objects have been answered."""
    while len(found := answers(client, tid)) < count:
        known = len(client.inbox)
        while len(client.inbox) == known:
            client.receive()
    return found


@pytest.fixture(params=[FileStorage, MappingStorage, SlowStorage])
def storage(request: pytest.FixtureRequest, tmp_path: Any) -> Any:
    """Whoever serves it closes it."""
    if request.param is FileStorage:
        return FileStorage(str(tmp_path / "Data.fs"))
    return request.param()


def test_each_object_is_answered_as_if_asked_for_alone(
    storage: Any, serve: Serve, own: Connect, loop: str
) -> None:
    server = serve(storage, loop=loop)
    client = own(server.address)
    first = fill(client)
    second = client.commit({oid_of(5): (first, b"changed"), oid_of(7): (first, bytes(200_000))})
    missing = oid_of(100_000)
    client.send(LoadMany(MAX_TID, (*oids_to(OBJECTS), missing)))
    found = receive_all(client, OBJECTS + 1)
    client.send(LoadMany(second, (*oids_to(OBJECTS), missing)))
    before = receive_all(client, OBJECTS + 1, second)
    client.send(LoadMany(first, (oid_of(1), oid_of(2))))
    assert receive_all(client, 2, first) == {oid_of(1): None, oid_of(2): None}
    assert found.pop(missing) == before.pop(missing) == "ZODB.POSException.POSKeyError"
    for oid in oids_to(OBJECTS):
        assert found[oid] == client.load(oid, MAX_TID)
        assert before[oid] == client.load(oid, second)
    assert found[oid_of(5)] == (b"changed", second, None)
    assert before[oid_of(5)] == (data_of(5), first, second)


def test_small_objects_share_a_message_and_large_ones_have_their_own(
    mapping: MappingStorage, serve: Serve, own: Connect
) -> None:
    client = own(serve(mapping).address)
    sizes = {1: 300, 2: 30_000, 3: 30_000, 4: 30_000, 5: 70_000, 6: 1, 7: 0}
    client.commit({oid_of(number): (Z64, bytes(size)) for number, size in sizes.items()})
    client.send(LoadMany(MAX_TID, oids_to(7)))
    found = receive_all(client, 7)
    assert {oid: len(value[0]) for oid, value in found.items()} == {
        oid_of(number): size for number, size in sizes.items()
    }
    assert together(client) == [[1, 2, 3], [4], [6, 7]]


def together(client: RawClient) -> list[list[int]]:
    """Return which objects came in one message."""
    return [
        [int.from_bytes(record[0]) for record in message.request.records]
        for message in client.inbox
        if isinstance(message, m.Notice) and isinstance(message.request, LoadedMany)
    ]


class SmallClient(RawClient):
    """A raw client that takes messages of up to 2,000 bytes."""

    def _greet(self, coding: Coding) -> None:
        self.peer = ClientPeer(replace(DEFAULT_LIMITS, max_message_size=2_000))
        super()._greet(coding)


def test_a_client_that_takes_little_at_once(
    mapping: MappingStorage, serve: Serve, own: Connect, stack: ExitStack
) -> None:
    server = serve(mapping)
    sizes = {1: 900, 2: 900, 3: 900, 4: 1_950, 5: 1_975, 6: 1_976, 7: 3_000, 8: 10, 9: 10}
    own(server.address).commit(
        {oid_of(number): (Z64, bytes(size)) for number, size in sizes.items()}
    )
    client = stack.enter_context(SmallClient(server.address, coding=Coding.OWN))
    client.send(LoadMany(MAX_TID, oids_to(9)))
    found = receive_all(client, 9)
    for number in (6, 7):
        assert found.pop(oid_of(number)) == "zeolith.errors.MessageTooLarge"
    assert all(len(found[oid][0]) == sizes[int.from_bytes(oid)] for oid in found)
    assert [len(some) for some in together(client)] == [2, 1, 1, 2]


def test_an_error_of_the_storage_is_that_object_s_only(
    mapping: MappingStorage, serve: Serve, own: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(mapping)
    client = own(server.address)
    fill(client, 100)

    def load(oid: bytes, tid: bytes) -> Any:
        if oid == oid_of(50):
            raise RuntimeError("a defect")
        return mapping.loadBefore(oid, tid)

    with hook_attribute(server._services["1"].access, "load_before", load):
        client.send(LoadMany(MAX_TID, oids_to(100)))
        found = receive_all(client, 100)
    assert found.pop(oid_of(50)).endswith("RuntimeError")
    assert all(value[0] == data_of(int.from_bytes(oid)) for oid, value in found.items())
    assert "unexpected error" in caplog.text


@pytest.mark.parametrize("loads", ["loop", "workers"])
def test_a_record_that_is_none_is_that_object_s_only(
    mapping: MappingStorage,
    serve: Serve,
    own: Connect,
    caplog: pytest.LogCaptureFixture,
    loads: str,
) -> None:
    server = serve(mapping, loads=loads)
    client = own(server.address)
    fill(client, 100)
    strange = {oid_of(3): ("text", Z64, None), oid_of(4): (None, Z64, None)}

    def load(oid: bytes, tid: bytes) -> Any:
        return strange.get(oid) or mapping.loadBefore(oid, tid)

    with hook_attribute(server._services["1"].access, "load_before", load):
        client.send(LoadMany(MAX_TID, oids_to(100)))
        found = receive_all(client, 100)
    for oid in strange:
        assert found.pop(oid).endswith(("ValueError", "TypeError"))
    assert all(value[0] == data_of(int.from_bytes(oid)) for oid, value in found.items())
    assert "cannot be sent" in caplog.text


def test_what_is_asked_is_counted(mapping: MappingStorage, serve: Serve, own: Connect) -> None:
    server = serve(mapping)
    client = own(server.address)
    fill(client)
    client.send(LoadMany(MAX_TID, oids_to(OBJECTS)))
    receive_all(client, OBJECTS)
    assert client.call(m.ServerStatus())["loads"] == OBJECTS


# -- order and fairness ------------------------------------------------------------------------


def test_others_are_answered_between_slices(
    mapping: MappingStorage,
    serve: Serve,
    own: Connect,
    loop: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = serve(mapping, loop=loop)
    greedy, other = own(server.address), own(server.address)
    fill(greedy)
    loaded: list[bytes] = []
    asked: list[int] = []

    def ping(session: Any, msgid: Any, request: Any) -> None:
        asked.append(len(loaded))
        session.reply(msgid, None)

    with Gate() as reached:

        def load(oid: bytes, tid: bytes) -> Any:
            loaded.append(oid)
            if len(loaded) == bulk.SLICE_OBJECTS + 1:
                reached()
            return mapping.loadBefore(oid, tid)

        with hook_attribute(server._services["1"].access, "load_before", load):
            greedy.send(LoadMany(MAX_TID, oids_to(OBJECTS)))
            reached.wait_reached()
            monkeypatch.setitem(HANDLERS, m.Ping, ping)
            msgid = other.ask(m.Ping())
            reached.open()
            other.answer(msgid)
            receive_all(greedy, OBJECTS)
    assert asked[0] <= 3 * bulk.SLICE_OBJECTS < OBJECTS


def test_r1_many_answers_do_not_overtake_what_they_reveal(
    mapping: MappingStorage, serve: Serve, own: Connect, loop: str
) -> None:
    """They are asked for while a transaction is being finished on another thread."""
    server = serve(mapping, loop=loop)
    writer, observer = own(server.address), own(server.address)
    first = fill(writer, 100)
    writer.begin()
    for number in (1, 70):
        writer.store(oid_of(number), b"new", first)
    writer.vote()
    with gate(mapping, "tpc_finish", after=True) as finished:
        finish = writer.ask(m.TpcFinish(1))
        finished.wait_reached()
        observer.send(LoadMany(MAX_TID, oids_to(100)))
        # The server may answer with the old state now, or hold the answers back.
        threading.Event().wait(0.1)
        finished.open()
        second = writer.answer(finish)
    found = receive_all(observer, 100)
    assert found[oid_of(1)] == found[oid_of(70)] == (b"new", second, None)
    (at,) = [
        at
        for at, message in enumerate(observer.inbox)
        if isinstance(message, m.Notice)
        and isinstance(message.request, m.InvalidateTransaction)
        and message.request.tid == second
    ]
    assert all(
        not isinstance(message.request, LoadedMany)
        for message in observer.inbox[:at]
        if isinstance(message, m.Notice)
    )


def stale(client: RawClient) -> list[bytes]:
    """Return the objects of which an old revision came as current after its invalidation, or a new
    one before."""
    found = []
    known = client.tid
    changed: dict[bytes, bytes] = {}
    for message in client.inbox:
        if not isinstance(message, m.Notice):
            continue
        if isinstance(message.request, m.InvalidateTransaction):
            known = message.request.tid
            changed.update(dict.fromkeys(message.request.oids, known))
        elif isinstance(message.request, LoadedMany):
            for oid, start, end, _data in message.request.records:
                if max(start, end or Z64) > known or (
                    end is None and start < changed.get(oid, Z64)
                ):
                    found.append(oid)
    return found


def test_r1_a_transaction_in_the_middle_of_a_slice(serve: Serve, own: Connect, loop: str) -> None:
    """A storage that the server was told to read on the loop changes meanwhile, as one that is
    shared with others does: what was read of it before is old when it is announced."""
    shared = SlowStorage()
    server = serve(shared, loop=loop, loads="loop")
    client = own(server.address)
    first = fill(client, 20)
    second = (int.from_bytes(first) + 1).to_bytes(8)
    service = server._services["1"]
    changed: dict[bytes, Any] = {}

    def load(oid: bytes, tid: bytes) -> Any:
        if oid == oid_of(10) and not changed:
            for number in (1, 10):
                changed[oid_of(number)] = b"new", second, None
            service.publisher.publish(second, list(changed))
        return changed.get(oid) or shared.loadBefore(oid, tid)

    with hook_attribute(service.access, "load_before", load):
        client.send(LoadMany(MAX_TID, oids_to(20)))
        found = receive_all(client, 20)
    assert stale(client) == []
    assert client.invalidations()[-1] == (second, [oid_of(1), oid_of(10)])
    assert found[oid_of(1)] == found[oid_of(10)] == (b"new", second, None)
    assert service.stats.reloads == 20


def test_r1_parts_with_invalidations_between_them(
    files: FileStorage, serve: Serve, own: Connect, loop: str
) -> None:
    """A writer commits all the time while many are loaded, again and again."""
    server = serve(files, loop=loop)
    writer, reader = own(server.address), own(server.address)
    serials = dict.fromkeys(oids_to(OBJECTS), fill(writer))
    numbers = itertools.cycle(range(1, OBJECTS + 1))
    is_over = threading.Event()

    def write() -> None:
        while not is_over.is_set():
            some = [oid_of(next(numbers)) for _ in range(7)]
            tid = writer.commit({oid: (serials[oid], b"x" * 300) for oid in some})
            serials.update(dict.fromkeys(some, tid))

    writing = Background(write)
    between = 0
    for turn in range(30):
        # Later than all that is committed, and never the same.
        tid = b"\x7e" + turn.to_bytes(7)
        reader.send(LoadMany(tid, oids_to(OBJECTS)))
        receive_all(reader, OBJECTS, tid)
        between += len(reader.invalidations())
    is_over.set()
    writing.result()
    assert between
    assert stale(reader) == []


def test_a_client_that_leaves_while_a_transaction_is_finished(
    mapping: MappingStorage, serve: Serve, own: Connect
) -> None:
    server = serve(mapping)
    client, other = own(server.address), own(server.address)
    fill(client, 100)
    with gate(mapping, "tpc_finish") as finishing:
        other.begin()
        other.store(oid_of(200), b"data")
        other.vote()
        other.ask(m.TpcFinish(1))
        finishing.wait_reached()
        client.send(LoadMany(MAX_TID, oids_to(100)))
        client.close()
        wait_until(lambda: len(server._services["1"].publisher) == 1)
        finishing.open()
    wait_until(lambda: not server._services["1"].publisher.is_held)


# -- bounds ------------------------------------------------------------------------------------


@pytest.mark.parametrize("loads", ["loop", "workers"])
def test_r8_a_slow_consumer_is_read_for_no_faster_than_it_takes(
    files: FileStorage, serve: Serve, own: Connect, loop: str, loads: str
) -> None:
    server = serve(files, loop=loop, output_mark=1 << 16, loads=loads)
    writer = own(server.address)
    for first in range(1, 1_001, 100):
        writer.commit({oid_of(first + n): (Z64, bytes(20_000)) for n in range(100)})
    slow = own(server.address, receive_buffer=65_536)
    slow.send(LoadMany(MAX_TID, oids_to(1_000)))
    connection = wait_until(
        lambda: next((c for c in list(server._lobby.connections) if c.is_paused), None)
    )
    assert connection is not None
    with promptly(5):
        for _ in range(50):
            writer.ping()
    # 20 MB were asked for: what has been read of them is what fits into the system's buffers.
    assert connection.unsent < 1 << 20
    assert 500 < connection.session.bulk.waiting < 1_000
    assert len(receive_all(slow, 1_000)) == 1_000
    wait_until(lambda: connection.session.bulk.waiting == 0)


def test_r8_who_asks_for_too_much_is_not_listened_to(
    mapping: MappingStorage, serve: Serve, own: Connect, loop: str
) -> None:
    server = serve(mapping, loop=loop)
    client, other = own(server.address), own(server.address)
    fill(client, 100)
    oids = (oid_of(1),) * MAX_LOADS
    with gate(mapping, "tpc_finish") as finishing:
        other.begin()
        other.store(oid_of(200), b"data")
        other.vote()
        finish = other.ask(m.TpcFinish(1))
        finishing.wait_reached()
        for turn in range(7):
            client.send(LoadMany(b"\x7e" + turn.to_bytes(7), oids))
        sessions = [c.session for c in server._lobby.connections]
        wait_until(lambda: max(s.bulk.waiting for s in sessions) > bulk.MAX_WAITING)
        session = max(sessions, key=lambda s: s.bulk.waiting)
        client.ask(m.Ping())
        for _ in range(10):
            # The loop goes round; who is admitted already would have to wait for the finish.
            own(server.address, storage=None).close()
        assert session.bulk.waiting == 5 * MAX_LOADS
        finishing.open()
        other.answer(finish)
    client.ping()
    wait_until(lambda: session.bulk.waiting == 0)


def test_slow_loads_have_a_window(serve: Serve, own: Connect, loop: str) -> None:
    slow = SlowStorage()
    server = serve(slow, loop=loop, load_workers=4)
    client, other = own(server.address), own(server.address)
    fill(client, 100)
    with (
        gate(slow, "loadBefore") as loading,
        hook_attribute(server._services["1"].access, "load_before", slow.loadBefore),
    ):
        client.send(LoadMany(MAX_TID, oids_to(100)))
        loading.wait_reached()
        other.ping()
        wait_until(lambda: server._services["1"].stats.loads == bulk.WINDOW)
        other.ping()
        assert server._services["1"].stats.loads == bulk.WINDOW
        loading.open()
        assert len(receive_all(client, 100)) == 100


def test_a_slow_storage_is_told_of_what_will_be_loaded(
    serve: Serve, own: Connect, loop: str, caplog: pytest.LogCaptureFixture
) -> None:
    slow = SlowStorage()
    told: list[tuple[bytes, ...]] = []
    loaded: list[bytes] = []

    def prefetch(oids: tuple[bytes, ...], tid: bytes) -> None:
        assert tid == MAX_TID
        assert not set(oids) & set(loaded)
        told.append(oids)
        if len(told) == 2:
            raise RuntimeError("not now")

    def load(oid: bytes, tid: bytes) -> Any:
        loaded.append(oid)
        return SlowStorage.loadBefore(slow, oid, tid)

    slow.prefetch = prefetch
    slow.loadBefore = load
    client = own(serve(slow, loop=loop).address)
    fill(client, 600)
    client.send(LoadMany(MAX_TID, oids_to(600)))
    assert len(receive_all(client, 600)) == 600
    assert [len(some) for some in told] == [bulk.AHEAD, bulk.AHEAD, 600 - 2 * bulk.AHEAD]
    assert [oid for some in told for oid in some] == list(oids_to(600))
    assert "cannot fetch ahead: RuntimeError: not now" in caplog.text


def test_prefetching_goes_through_a_server_in_between(
    files: FileStorage, serve: Serve, own: Connect, stack: ExitStack, loop: str
) -> None:
    above = serve(files, loop=loop)
    fill(own(above.address), 200)
    proxy = stack.enter_context(Proxy(above.address))
    between = ClientStorage(proxy.address, wait_timeout=20)
    client = own(serve(between, loop=loop).address)
    client.send(LoadMany(MAX_TID, oids_to(200)))
    found = receive_all(client, 200)
    assert all(found[oid][0] == data_of(int.from_bytes(oid)) for oid in oids_to(200))
    asked = [frame.name for frame in proxy.frames() if frame.direction is UP]
    assert asked.count("load_many") == 1
    assert "loadBefore" not in asked


def test_a_client_that_leaves_is_forgotten(serve: Serve, own: Connect, loop: str) -> None:
    slow = SlowStorage()
    server = serve(slow, loop=loop)
    client, other = own(server.address), own(server.address)
    fill(other, 100)
    with (
        gate(slow, "loadBefore") as loading,
        hook_attribute(server._services["1"].access, "load_before", slow.loadBefore),
    ):
        client.send(LoadMany(MAX_TID, oids_to(100)))
        loading.wait_reached()
        client.close()
        wait_until(lambda: len(server._services["1"].publisher) == 1)
        loading.open()
        other.ping()
    wait_until(lambda: server._services["1"].pools.loads.is_idle)
    assert server._services["1"].stats.loads == bulk.WINDOW


def test_zeo_s_clients_cannot_ask(mapping: MappingStorage, serve: Serve, raw: Connect) -> None:
    server = serve(mapping)
    client = raw(server.address, coding=Coding.MSGPACK)
    assert client.peer.codec is not None
    with pytest.raises(KeyError):
        client.send(LoadMany(MAX_TID, (oid_of(1),)))
