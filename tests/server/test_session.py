"""One connection fed by hand: no network, no loop that runs."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from tests.support.raw import Z64, oid_of
from ZODB.Connection import TransactionMetaData
from ZODB.MappingStorage import MappingStorage

from zeolith.protocol import messages as m
from zeolith.protocol.codecs import make_codec
from zeolith.protocol.greeting import Coding
from zeolith.protocol.limits import DEFAULT_LIMITS
from zeolith.protocol.messages import CLIENT_REQUESTS, SERVER_REQUESTS
from zeolith.protocol.peers import ClientPeer
from zeolith.server.inbox import Inbox
from zeolith.server.lobby import Lobby
from zeolith.server.options import ServerOptions
from zeolith.server.service import Pools, StorageService
from zeolith.server.transport import Connection
from zeolith.types import MAX_TID


class Wire:
    """A transport that keeps what is written, and the client's end of it."""

    def __init__(self, coding: Coding) -> None:
        self.coding = coding
        self.reader = make_codec(coding, CLIENT_REQUESTS, DEFAULT_LIMITS)
        self.connection: Connection
        self.writes: list[bytes] = []
        self.is_reading = True
        self.is_closed = False
        self.buffered = 0

    # -- what a connection calls -----------------------------------------------------------------

    def write(self, data: bytes) -> None:
        assert not self.is_closed
        self.writes.append(data)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 4711) if name == "peername" else default

    def set_write_buffer_limits(self, high: int) -> None:
        self.high = high

    def get_write_buffer_size(self) -> int:
        return self.buffered

    def pause_reading(self) -> None:
        assert self.is_reading
        self.is_reading = False

    def resume_reading(self) -> None:
        assert not self.is_reading
        self.is_reading = True

    def close(self) -> None:
        self.is_closed = True

    abort = close

    # -- what a test calls -----------------------------------------------------------------------

    def feed(self, *messages: Any) -> None:
        """Have notices, or calls as ``(msgid, request)``, arrive at once."""
        codec = make_codec(self.coding, SERVER_REQUESTS, DEFAULT_LIMITS)
        self.connection.data_received(
            b"".join(
                codec.call(*message) if type(message) is tuple else codec.notice(message)
                for message in messages
            )
        )

    def take(self) -> list[Any]:
        """Return the messages written since the last time: replies, requests of notices."""
        data = b"".join(self.writes)
        self.writes.clear()
        found: list[Any] = []
        while data:
            size = int.from_bytes(data[:4], "big")
            message = self.reader.decode(data[4 : 4 + size])
            found.append(message.request if isinstance(message, m.Notice) else message)
            data = data[4 + size :]
        return found


def _never_fails() -> None:
    raise AssertionError("no commit of these tests fails")


class Bed:
    """A server without a socket; the test delivers what other threads post."""

    def __init__(self, storage: Any, **options: Any) -> None:
        self.loop = asyncio.new_event_loop()
        self.options = ServerOptions(address=("127.0.0.1", 0), **options)
        self.inbox = Inbox()
        self.pools = Pools(self.options, self.inbox)
        self.service = StorageService(
            "1", storage, self.options, self.inbox, self.pools, _never_fails
        )
        self.service.prepare()
        self.service.open(self.loop)
        self.lobby = Lobby(self.loop, self.options, {"1": self.service})

    def connect(self, coding: Coding = Coding.PICKLE, register: bool = True) -> Wire:
        wire = Wire(coding)
        wire.connection = Connection(self.lobby)
        wire.connection.connection_made(wire)
        wire.writes.clear()
        wire.connection.data_received(ClientPeer().hello(coding))
        wire.writes.clear()  # the server's hello, in Zeolith's own protocol
        if register:
            wire.feed((1, m.Register("1", False)))
            wire.take()
        return wire

    def close(self) -> None:
        for connection in list(self.lobby.connections):
            connection.connection_lost(None)
        self.pools.close()
        assert self.service.close(10)
        self.loop.close()


@pytest.fixture
def bed(mapping: MappingStorage) -> Iterator[Bed]:
    found = Bed(mapping, output_limit=1000)
    yield found
    found.close()


def tid(number: int) -> bytes:
    return b"\x7e" + number.to_bytes(7, "big")


REVEALING = [
    m.Ping(),
    m.LastTransaction(),
    m.ServerStatus(),
    m.GetInvalidations(Z64),
    m.SetClientLabel("x"),
    m.TpcAbort(1),
    m.Vote(1),  # a fault
]


@pytest.mark.parametrize("request_", REVEALING, ids=lambda request: type(request).__name__)
def test_r1_whatever_is_written_comes_after_what_was_published(
    bed: Bed, coding: Coding, request_: Any
) -> None:
    """A thread has published, and the loop has not come round to it."""
    wire = bed.connect(coding)
    bed.service.publisher.publish(tid(1), [oid_of(1)])
    bed.service.publisher.publish(tid(2), [oid_of(2)])
    wire.feed((7, request_))
    first, second, answer = wire.take()
    assert (first.tid, list(first.oids)) == (tid(1), [oid_of(1)])
    assert (second.tid, list(second.oids)) == (tid(2), [oid_of(2)])
    assert answer.msgid == 7
    if isinstance(request_, m.LastTransaction):
        assert answer.value == tid(2)


@pytest.mark.parametrize("is_alone", [True, False])
@pytest.mark.parametrize("is_missing", [True, False])
def test_r1_loads_come_after_what_was_published(
    bed: Bed, mapping: MappingStorage, coding: Coding, is_alone: bool, is_missing: bool
) -> None:
    meta = TransactionMetaData()
    mapping.tpc_begin(meta)
    mapping.store(oid_of(1), Z64, b"x", "", meta)
    mapping.tpc_vote(meta)
    mapping.tpc_finish(meta)
    wire = bed.connect(coding)
    bed.service.publisher.publish(tid(1), [oid_of(1)])
    key = m.LoadBefore(oid_of(2 if is_missing else 1), MAX_TID)
    calls = [(key, key)] if is_alone else [(key, key), (8, m.Ping())]
    wire.feed(*((tuple(msgid) if msgid is key else msgid, request) for msgid, request in calls))
    invalidation, answer, *rest = wire.take()
    assert invalidation.tid == tid(1)
    assert answer.msgid == tuple(key)
    assert isinstance(answer, m.Fault) is is_missing
    assert len(rest) == len(calls) - 1


def test_r1_a_reply_between_two_publications_is_between_their_invalidations(bed: Bed) -> None:
    """Replies that are collected for one write keep their places."""
    wire = bed.connect()
    publisher = bed.service.publisher
    publisher.publish(tid(1), [oid_of(1)])
    drain = publisher.drain
    count = 0

    def publish_between() -> None:
        nonlocal count
        drain()
        count += 1
        if count == 1:
            publisher.publish(tid(2), [oid_of(2)])

    publisher.drain = publish_between  # type: ignore[method-assign]
    wire.feed((1, m.Ping()), (2, m.Ping()))
    assert [getattr(message, "tid", None) or message.msgid for message in wire.take()] == [
        tid(1),
        1,
        tid(2),
        2,
    ]


def test_r4_nothing_is_written_while_a_transaction_is_finished(bed: Bed) -> None:
    wire, other = bed.connect(), bed.connect()
    publisher = bed.service.publisher
    publisher.is_held = True
    publisher.publish(tid(1), [oid_of(1)])
    wire.feed((1, m.Ping()), m.SetClientLabel("x"), (2, m.LastTransaction()))
    late = bed.connect(register=False)
    late.feed((3, m.Register("1", True)))
    assert wire.take() == other.take() == late.take() == []
    # Requests that come meanwhile wait too, and then reading stops.
    wire.feed((4, m.Ping()))
    assert not wire.is_reading
    publisher.is_held = False
    bed.service._settle()
    assert [getattr(message, "tid", None) or message.msgid for message in wire.take()] == [
        tid(1),
        1,
        2,
        4,
    ]
    assert wire.is_reading
    assert [message.tid for message in other.take()] == [tid(1)]
    # Who registers now knows of it already.
    assert late.take() == [m.Reply(3, tid(1))]


def test_replies_to_what_came_together_are_one_write(bed: Bed) -> None:
    wire = bed.connect()
    wire.feed(*((number, m.Ping()) for number in range(10)))
    assert len(wire.writes) == 1
    assert [message.msgid for message in wire.take()] == list(range(10))


def test_r8_requests_wait_while_the_client_does_not_read(bed: Bed) -> None:
    wire = bed.connect()
    assert wire.high == bed.options.output_mark
    wire.connection.pause_writing()
    wire.feed((1, m.Ping()), (2, m.Ping()))
    assert (wire.take(), wire.is_reading) == ([], False)
    # A loop may still have something that it had read before.
    wire.feed((3, m.Ping()))
    assert (wire.take(), wire.is_reading) == ([], False)
    wire.connection.resume_writing()
    assert [message.msgid for message in wire.take()] == [1, 2, 3]
    assert wire.is_reading


def test_r8_what_nobody_asked_for_is_limited(bed: Bed, caplog: pytest.LogCaptureFixture) -> None:
    wire, other = bed.connect(), bed.connect()
    wire.connection.pause_writing()
    wire.buffered = 1000
    bed.service.publisher.publish(tid(1), [oid_of(1)])
    bed.service.publisher.drain()
    assert not wire.is_closed
    wire.buffered = 1001
    bed.service.publisher.publish(tid(2), [oid_of(1)])
    bed.service.publisher.drain()
    assert wire.is_closed
    assert len(other.take()) == 2
    assert "does not read" in caplog.text
    assert "127.0.0.1:4711" in caplog.text
    assert bed.service.stats.slow_clients == 1


def test_a_notice_that_fails_without_a_transaction_ends_the_connection(
    bed: Bed, caplog: pytest.LogCaptureFixture
) -> None:
    wire = bed.connect()
    wire.feed((1, m.Ping()), m.Store(oid_of(1), Z64, b"x", 1), (2, m.Ping()))
    assert wire.is_closed
    # What came before is answered, what came after is not.
    assert [message.msgid for message in wire.take()] == [1]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "no transaction is in progress" in record.getMessage()


@pytest.mark.parametrize("error", [KeyError("x"), OSError(28, "full"), RuntimeError("defect")])
def test_errors_are_answered_and_only_surprises_have_a_traceback(
    bed: Bed, mapping: MappingStorage, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(oid: bytes, before: bytes) -> None:
        raise error

    bed.service.access.load_before = fail
    wire = bed.connect()
    wire.feed((1, m.LoadBefore(oid_of(1), MAX_TID)), (2, m.Ping()))
    fault, reply = wire.take()
    assert fault.name.endswith(f".{type(error).__name__}")
    assert reply.msgid == 2
    tracebacks = [record for record in caplog.records if record.exc_info]
    assert len(tracebacks) == isinstance(error, RuntimeError)
    assert bool(caplog.records) == (not isinstance(error, KeyError))


def test_an_answer_that_no_coding_carries(bed: Bed, caplog: pytest.LogCaptureFixture) -> None:
    wire = bed.connect()
    session = wire.connection.session
    assert session is not None
    session.reply(5, object())
    (fault,) = wire.take()
    assert isinstance(fault, m.Fault)
    assert fault.msgid == 5
    assert "object" in caplog.text


def test_nothing_is_written_to_the_lost(bed: Bed) -> None:
    wire = bed.connect()
    session = wire.connection.session
    assert session is not None
    wire.connection.connection_lost(ConnectionResetError("gone"))
    session.reply(1, None)
    session.fault(2, KeyError())
    session.send(b"x")
    assert wire.writes == []
    assert len(bed.service.publisher) == 0
    # For the end of the test, which loses all that are left.
    assert bed.lobby.connections == {}


def test_r4_nothing_is_said_for_a_storage_out_of_service(bed: Bed) -> None:
    """Neither what waited for the failed commit, nor what threads find later."""
    wire = bed.connect()
    session = wire.connection.session
    assert session is not None
    settled: list[str] = []
    bed.service.publisher.is_held = True
    session.send(b"early")
    bed.service.when_settled(lambda: settled.append("early"))
    bed.service.withdraw("it failed")
    session.send(b"late")
    session.reply(7, "late")
    bed.service.when_settled(lambda: settled.append("late"))
    assert wire.writes == []
    assert wire.is_closed
    # So that newcomers hear of it.
    assert settled == ["early"]
    assert bed.service.is_idle
    newcomer = bed.connect(register=False)
    newcomer.feed((1, m.Register("1", False)))
    (fault,) = newcomer.take()
    assert isinstance(fault, m.Fault)
    assert "it failed" in str(fault.details)


# -- silence -----------------------------------------------------------------------------------


def test_signs_are_those_since_the_last_look(bed: Bed) -> None:
    wire = bed.connect(Coding.OWN)
    connection = wire.connection
    connection.take_signs()
    assert connection.take_signs() == (False, False)
    wire.feed((1, m.Ping()))
    assert connection.take_signs() == (True, True)
    wire.connection.data_received(b"\0")  # a part of a message is one, too
    assert connection.take_signs() == (True, False)
    wire.take()
    connection.beat()
    assert wire.take() == [m.Heartbeat()]
    assert connection.take_signs() == (False, True)


def test_who_does_not_read_has_enough_to_and_whom_we_do_not_read_from_is_not_silent(
    bed: Bed,
) -> None:
    wire = bed.connect(Coding.OWN)
    connection = wire.connection
    connection.take_signs()
    connection.pause_writing()
    assert connection.take_signs() == (False, True)
    wire.feed((1, m.Ping()))
    assert not wire.is_reading
    assert connection.take_signs() == (True, True)
    assert connection.take_signs() == (True, True)
    connection.resume_writing()
    connection.take_signs()
    assert connection.take_signs() == (False, False)


@pytest.mark.parametrize("register", [True, False])
def test_the_end_of_a_silent_client(
    bed: Bed, register: bool, caplog: pytest.LogCaptureFixture
) -> None:
    wire = bed.connect(Coding.OWN, register)
    wire.connection.fall_silent(120.0)
    assert wire.is_closed
    wire.connection.fall_silent(120.0)
    (record,) = caplog.records
    assert "nothing has been heard of it for 120 s" in record.getMessage()
    assert bed.service.stats.silent_clients == register
    assert wire.connection.liveness is not None
    assert bed.connect(Coding.MSGPACK).connection.liveness is None


@pytest.mark.parametrize("error", [OSError(9, "Bad file descriptor"), ValueError("negative")])
def test_dropping_what_the_system_has_closed_already(bed: Bed, error: Exception) -> None:
    """The end of the connection is still to be reported, and its socket is not there any more."""

    class ClosedSocket:
        family = socket.AF_INET

        def setsockopt(self, level: int, option: int, value: object) -> None:
            if option == socket.SO_LINGER:
                raise error

    class EndingWire(Wire):
        def get_extra_info(self, name: str, default: Any = None) -> Any:
            return ClosedSocket() if name == "socket" else super().get_extra_info(name, default)

    wire = EndingWire(Coding.PICKLE)
    wire.connection = Connection(bed.lobby)
    wire.connection.connection_made(wire)
    wire.connection.abort()
    assert wire.is_closed
