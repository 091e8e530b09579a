"""Both ends of the protocol, driven call by call: no thread, no retry, no cache.

:class:`RawClient` talks to a real server, :class:`FakeServer` to a real client.  Every message
that arrives is kept in order, which is what most rules are about.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeAlias

from tests.support.waiting import DEADLINE

from zeolith.errors import ProtocolViolation
from zeolith.protocol.additions import NAMES
from zeolith.protocol.framing import frame
from zeolith.protocol.greeting import Coding
from zeolith.protocol.hello import (
    NO_TERMS,
    Admission,
    Database,
    Terms,
    parse_admission,
    serialize_admission,
)
from zeolith.protocol.limits import DEFAULT_LIMITS
from zeolith.protocol.messages import (
    Call,
    Committed,
    Fault,
    GetInfo,
    GetInvalidations,
    Heartbeat,
    Info,
    InvalidateTransaction,
    LastTransaction,
    LoadBefore,
    Message,
    Notice,
    Ping,
    Register,
    Reply,
    Request,
    SetClientLabel,
    Store,
    StoreBlobChunk,
    StoreBlobEnd,
    StoreBlobStart,
    TpcBegin,
    TpcFinish,
    Vote,
)
from zeolith.protocol.peers import ClientPeer, Event, Greeted, Hello, ServerPeer, Violated, Welcomed
from zeolith.types import MAX_TID

Address: TypeAlias = tuple[str, int] | str
Z64 = bytes(8)


def oid_of(number: int) -> bytes:
    """Return the object id with that number."""
    return number.to_bytes(8, "big")


class RemoteFault(Exception):
    """The server answered with an error.

    :ivar name: its dotted class name on the wire.
    """

    def __init__(self, name: str, details: Any) -> None:
        super().__init__(name, details)
        self.name = name
        self.details = details


class Closed(Exception):
    """The other end has closed the connection."""


def connect(address: Address, timeout: float = DEADLINE) -> socket.socket:
    """Return a connected socket whose operations time out."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        sock.connect(address)
        if family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError:
        sock.close()
        raise
    return sock


class RawClient:
    """A client's end of one connection to a server, driven by one thread.

    :param storage: the storage to register with; None: stop after the greeting.
    :param receive_buffer: bytes of the socket's receive buffer; small ones make a stuck reader.
    :param terms: what it says in a hello of Zeolith's own protocol.

    :ivar inbox: every message received so far, in order.
    :ivar taken: messages of the inbox that :meth:`next` has returned.
    """

    def __init__(
        self,
        address: Address,
        storage: str | None = "1",
        *,
        coding: Coding = Coding.PICKLE,
        read_only: bool = False,
        receive_buffer: int | None = None,
        tls: ssl.SSLContext | None = None,
        terms: Terms = NO_TERMS,
    ) -> None:
        self.inbox: list[Message] = []
        self.taken = 0
        self.tid = Z64
        self.database: Database | None = None
        self._msgid = 0
        self.peer = ClientPeer(terms=terms)
        self.socket = connect(address)
        try:
            if receive_buffer is not None:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            if tls is not None:
                self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
            self._greet(coding)
            if storage is not None:
                admission = parse_admission(self.call(Register(storage, read_only)))
                assert admission.tid is not None
                self.tid, self.database = admission.tid, admission.database
                self.peer.registered()
        except BaseException:
            self.close()
            raise

    def _greet(self, coding: Coding) -> None:
        events: list[Event] = []
        while not events:
            events = self.peer.receive(self._recv())
        (event,) = events
        if isinstance(event, Violated):
            raise event.error
        assert isinstance(event, Greeted)
        self.greeting = event.greeting
        self.socket.sendall(self.peer.hello(coding))

    @property
    def is_zeo(self) -> bool:
        """Whether ZEO's protocol is spoken, not Zeolith's own."""
        assert self.peer.codec is not None
        return self.peer.codec.coding is not Coding.OWN

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    # -- sending -------------------------------------------------------------------------------

    def send(self, *messages: Request | tuple[int, Request]) -> None:
        """Send requests in one write: notices, or calls as ``(msgid, request)``."""
        self.socket.sendall(b"".join(map(self.encode, messages)))

    def encode(self, message: Any) -> bytes:
        """Return the frame of a notice, or of a call given as ``(msgid, request)``."""
        assert self.peer.codec is not None
        if type(message) is tuple:
            return self.peer.codec.call(*message)
        return self.peer.codec.notice(message)

    def next_id(self) -> int:
        self._msgid += 1
        return self._msgid

    def ask(self, request: Request) -> Any:
        """Send a call without waiting for its answer; return its message id."""
        if isinstance(request, LoadBefore):
            assert self.peer.codec is not None
            self.socket.sendall(self.peer.codec.load_before(request.oid, request.tid))
            return tuple(request)
        msgid = self.next_id()
        self.send((msgid, request))
        return msgid

    def call(self, request: Request) -> Any:
        """Send a call, receive until its answer is there, return its value.

        :raises RemoteFault: the answer is an error.
        :raises Closed: the connection ended first.
        """
        return self.answer(self.ask(request))

    # -- receiving -----------------------------------------------------------------------------

    def _recv(self) -> bytes:
        try:
            data = self.socket.recv(1 << 18)
        except (ConnectionError, ssl.SSLError) as error:
            raise Closed from error
        if not data:
            raise Closed
        return data

    def receive(self) -> None:
        """Read once from the socket and put what it means into the inbox."""
        for event in self.peer.receive(self._recv()):
            if isinstance(event, Violated):
                raise event.error
            if isinstance(event, Welcomed):
                continue
            assert isinstance(event, (Call, Notice, Reply, Fault, Heartbeat))
            if isinstance(event, Reply) and isinstance(event.value, Committed):
                # As in ZEO's protocol, so that a test can be about all of them.
                tid, length, size = event.value
                self.inbox.append(Notice(Info({"length": length, "size": size})))
                event = Reply(event.msgid, tid)
            self.inbox.append(event)

    def next(self) -> Message:
        """Return the next message that has not been returned yet."""
        while self.taken == len(self.inbox):
            self.receive()
        self.taken += 1
        return self.inbox[self.taken - 1]

    def answer(self, msgid: Any) -> Any:
        """Receive until the answer to *msgid* is there; return its value."""
        at = 0
        while True:
            for message in self.inbox[at:]:
                if isinstance(message, Reply) and message.msgid == msgid:
                    return message.value
                if isinstance(message, Fault) and message.msgid == msgid:
                    raise RemoteFault(message.name, message.details)
            at = len(self.inbox)
            self.receive()

    def wait_closed(self) -> None:
        """Receive until the server closes the connection."""
        with suppress(Closed):
            while True:
                self.receive()

    def infos(self) -> list[dict[str, Any]]:
        """Return what the server said of its size so far."""
        return [
            message.request.info
            for message in self.inbox
            if isinstance(message, Notice) and isinstance(message.request, Info)
        ]

    def invalidations(self) -> list[tuple[bytes, list[bytes]]]:
        """Return the invalidations received so far, in order, as ``(tid, oids)``."""
        return [
            (message.request.tid, list(message.request.oids))
            for message in self.inbox
            if isinstance(message, Notice) and isinstance(message.request, InvalidateTransaction)
        ]

    # -- transactions --------------------------------------------------------------------------

    def begin(self, txn: int = 1) -> None:
        """Send a ``tpc_begin``."""
        self.send(TpcBegin(txn, b"", b"", {}, None, " "))

    def store(self, oid: bytes, data: bytes, serial: bytes = Z64, txn: int = 1) -> None:
        """Send a store."""
        self.send(Store(oid, serial, data, txn))

    def store_blob(
        self, oid: bytes, record: bytes, blob: bytes, serial: bytes = Z64, txn: int = 1
    ) -> None:
        """Send a blob's record and its contents."""
        parts = [blob[start : start + 59000] for start in range(0, len(blob), 59000)]
        self.send(
            Store(oid, serial, record, txn),
            StoreBlobStart(),
            *map(StoreBlobChunk, parts),
            StoreBlobEnd(oid, serial, record, txn),
        )

    def vote(self, txn: int = 1) -> Any:
        """Vote and wait for the answer."""
        return self.call(Vote(txn))

    def finish(self, txn: int = 1) -> bytes:
        """Finish and return the transaction's id."""
        tid = self.call(TpcFinish(txn))
        assert isinstance(tid, bytes)
        return tid

    def commit(self, records: dict[bytes, tuple[bytes, bytes]], txn: int = 1) -> bytes:
        """Commit ``{oid: (serial, data)}`` and return the transaction's id."""
        self.begin(txn)
        self.send(*(Store(oid, serial, data, txn) for oid, (serial, data) in records.items()))
        self.vote(txn)
        return self.finish(txn)

    def load(self, oid: bytes, before: bytes = MAX_TID) -> Any:
        """Return ``(data, start, end)`` or None."""
        return self.call(LoadBefore(oid, before))

    def ping(self) -> None:
        """Make sure that everything the server has sent before is in the inbox."""
        self.call(Ping())


class FakeConnection:
    """The server's end of one connection from a client under test.

    :ivar inbox: every message received so far, in order.
    """

    def __init__(self, sock: socket.socket, coding: Coding = Coding.PICKLE) -> None:
        self.inbox: list[Message] = []
        self._unread: deque[Message] = deque()
        self.socket = sock
        sock.settimeout(DEADLINE)
        self.peer = ServerPeer(coding, DEFAULT_LIMITS)
        self.database: Database | None = None
        """Which one the client is told that it is."""

    def close(self) -> None:
        self.socket.close()

    def reset(self) -> None:
        """Close so that the client's end sees a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.socket.close()

    def greet(self, is_zeo: bool = False) -> None:
        """Send the greeting, of ZEO's server or of ours, and receive the client's choice."""
        self.socket.sendall(frame(b"Z5") if is_zeo else self.peer.greeting())
        while self.peer.codec is None:
            self._receive()

    def _receive(self) -> None:
        try:
            data = self.socket.recv(1 << 18)
        except ConnectionError as error:
            raise Closed from error
        if not data:
            raise Closed
        for event in self.peer.receive(data):
            if isinstance(event, Violated):
                raise event.error
            if isinstance(event, (Call, Notice, Reply, Fault, Heartbeat)):
                self.inbox.append(event)
                self._unread.append(event)
            else:
                assert isinstance(event, Hello)
                if event.introduction is not None:
                    self.send(self.peer.welcome())

    def next(self) -> Message:
        """Return the next message from the client."""
        while not self._unread:
            self._receive()
        return self._unread.popleft()

    def next_call(self) -> Call:
        """Return the next message, which is a call."""
        message = self.next()
        assert isinstance(message, Call), message
        return message

    def next_call_named(self, name: str) -> Call:
        """Return the next call, which has that wire name."""
        call = self.next_call()
        assert NAMES[type(call.request)] == name, call
        return call

    def expect(self, cls: type[Any]) -> Any:
        """Return the client's next call of that class; answers and skips what is routine.

        Routine are pings, heartbeats, labels and questions for the last transaction.
        """
        while True:
            message = self.next()
            if isinstance(message, (Call, Notice)):
                request = message[-1]
                if isinstance(request, cls):
                    return message
                if isinstance(message, Notice) and isinstance(request, SetClientLabel):
                    continue
                if isinstance(message, Call) and isinstance(request, (Ping, SetClientLabel)):
                    self.reply(message, None)
                    continue
                raise AssertionError(f"expected {cls.__name__}, the client sent {message!r}")
            assert isinstance(message, Heartbeat), message

    def admission(self, tid: bytes) -> Any:
        """Return what answers a registration."""
        assert self.peer.codec is not None
        is_own = self.peer.codec.coding is Coding.OWN
        return serialize_admission(Admission(tid, self.database)) if is_own else tid

    def reply_bytes(self, call: Call, value: Any) -> bytes:
        """Return the frame of an answer."""
        assert self.peer.codec is not None
        return self.peer.codec.reply(call.msgid, value)

    def notice_bytes(self, request: Request) -> bytes:
        """Return the frame of a notice."""
        assert self.peer.codec is not None
        return self.peer.codec.notice(request)

    def reply(self, call: Call, value: Any) -> None:
        """Answer a call."""
        self.send(self.reply_bytes(call, value))

    def fault(self, call: Call, name: str, details: Any = ()) -> None:
        """Answer a call with an error."""
        assert self.peer.codec is not None
        self.send(self.peer.codec.fault(call.msgid, name, details))

    def notify(self, request: Request) -> None:
        """Send a notice."""
        self.send(self.notice_bytes(request))

    def send(self, *frames: bytes) -> None:
        """Send frames in one write."""
        self.socket.sendall(b"".join(frames))

    def admit(
        self, tid: bytes, info: dict[str, Any] | None = None, *, is_zeo: bool = False
    ) -> None:
        """Play the server's part until the client is ready.

        :param tid: the database's last transaction.
        :param is_zeo: greet as ZEO's server does.
        """
        self.greet(is_zeo)
        self.admit_registered(tid, info)

    def admit_registered(self, tid: bytes, info: dict[str, Any] | None = None) -> None:
        """As :meth:`admit`, after the greeting."""
        self.reply(self.expect(Register), self.admission(tid))
        self.peer.registered()
        while True:
            message = self.next()
            if isinstance(message, Call):
                request = message.request
                if isinstance(request, GetInvalidations):
                    self.reply(message, (tid, []))
                elif isinstance(request, LastTransaction):
                    self.reply(message, tid)
                elif isinstance(request, GetInfo):
                    self.reply(message, DEFAULT_INFO if info is None else info)
                    return
                else:
                    self.reply(message, None)


DEFAULT_INFO: dict[str, Any] = {
    "length": 1,
    "size": 100,
    "name": "fake",
    "supportsUndo": False,
    "supports_record_iternext": False,
    "interfaces": (),
}


class FakeServer:
    """A listening socket whose connections the test plays the server for."""

    def __init__(self, path: str | None = None) -> None:
        if path is None:
            self._listener = socket.create_server(("127.0.0.1", 0))
            self.address: Address = self._listener.getsockname()[:2]
        else:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(path)
            self._listener.listen()
            self.address = os.path.abspath(path)
        self._listener.settimeout(DEADLINE)
        self._connections: list[FakeConnection] = []

    def accept(self, coding: Coding = Coding.PICKLE) -> FakeConnection:
        """Return the next connection, before any byte is exchanged."""
        sock, _ = self._listener.accept()
        connection = FakeConnection(sock, coding)
        self._connections.append(connection)
        return connection

    def close(self) -> None:
        self._listener.close()
        for connection in self._connections:
            connection.close()

    def __enter__(self) -> FakeServer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def fault_of(action: Callable[[], object]) -> str:
    """Return the class name, without its module, of the error that the server answers with."""
    try:
        action()
    except RemoteFault as fault:
        return fault.name.rpartition(".")[2]
    return "no error"


def is_refused(action: Callable[[], object]) -> bool:
    """Whether the server ends the connection over *action* (or has ended it already)."""
    try:
        action()
    except (Closed, ConnectionError, ProtocolViolation):
        return True
    return False
