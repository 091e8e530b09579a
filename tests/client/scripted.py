"""A server for link tests: answers from a script, over real sockets, one thread a connection."""

from __future__ import annotations

import queue
import socket
import threading
from typing import Any

from ZODB.POSException import ReadOnlyError, Unsupported

from zeolith.protocol.additions import ChangesSince, VerifyMany
from zeolith.protocol.faults import serialize_fault
from zeolith.protocol.greeting import Coding
from zeolith.protocol.hello import Admission, Database, serialize_admission
from zeolith.protocol.messages import (
    Call,
    GetInfo,
    GetInvalidations,
    InvalidateTransaction,
    LastTransaction,
    LoadBefore,
    Notice,
    Ping,
    Register,
    Request,
)
from zeolith.protocol.peers import Hello, ServerPeer


def tid(number: int) -> bytes:
    """Return a transaction id."""
    return number.to_bytes(8, "big")


class ScriptedServer:
    """Serves one storage named '1' whose answers are this object's attributes."""

    def __init__(self) -> None:
        self.last_tid: bytes | None = tid(10)
        self.missed: tuple[bytes, list[bytes]] | None = None
        self.stale: list[bytes] | None = None
        """What a verification finds; None: it cannot be done here."""
        self.changes: Any = None
        """The answer to a question for changes; None: there comes none."""
        self.database: Database | None = None
        self.is_read_only = False
        self.greets = True
        self.before_get_info: list[Request] = []
        """Notices sent just before the answer to get_info."""
        self.objects: dict[bytes, tuple[bytes, bytes, bytes | None]] = {}
        self.requests: queue.SimpleQueue[Request] = queue.SimpleQueue()
        self.holding = False
        """Answer no loads."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()
        self._connections: list[tuple[socket.socket, ServerPeer]] = []
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def _start(self, function: Any, *args: Any) -> None:
        thread = threading.Thread(target=function, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            peer = ServerPeer(Coding.MSGPACK)
            self._connections.append((sock, peer))
            self._start(self._serve, sock, peer)

    def _serve(self, sock: socket.socket, peer: ServerPeer) -> None:
        try:
            if self.greets:
                sock.sendall(peer.greeting())
            while data := sock.recv(65536):
                for event in peer.receive(data):
                    if isinstance(event, Hello) and event.introduction is not None:
                        sock.sendall(peer.welcome())
                    elif isinstance(event, Call):
                        self._answer(sock, peer, event)
                    elif isinstance(event, Notice):
                        self.requests.put(event.request)
        except OSError:
            pass  # the client or the test closed the connection
        finally:
            sock.close()

    def _answer(self, sock: socket.socket, peer: ServerPeer, call: Call) -> None:
        assert peer.codec is not None
        request = call.request
        self.requests.put(request)
        try:
            value = self._value(sock, peer, request)
        except (ReadOnlyError, Unsupported, ValueError) as error:
            sock.sendall(peer.codec.fault(call.msgid, *serialize_fault(error)))
        else:
            is_silent = isinstance(request, ChangesSince) and value is None
            if not is_silent and not (self.holding and isinstance(request, LoadBefore)):
                sock.sendall(peer.codec.reply(call.msgid, value))

    def _value(self, sock: socket.socket, peer: ServerPeer, request: Request) -> Any:
        if isinstance(request, Register):
            if request.storage != "1":
                raise ValueError(f"unknown storage: {request.storage!r}")
            if self.is_read_only and not request.read_only:
                raise ReadOnlyError
            peer.registered()
            assert peer.codec is not None
            is_own = peer.codec.coding is Coding.OWN
            admission = Admission(self.last_tid, self.database)
            return serialize_admission(admission) if is_own else self.last_tid
        if isinstance(request, GetInfo):
            assert peer.codec is not None
            for notice in self.before_get_info:
                sock.sendall(peer.codec.notice(notice))
            return {"length": 1, "size": 2, "supportsUndo": True, "interfaces": ()}
        if isinstance(request, GetInvalidations):
            return self.missed
        if isinstance(request, ChangesSince):
            return self.changes
        if isinstance(request, VerifyMany):
            if self.stale is None:
                raise Unsupported("verify_many")
            return self.last_tid, b"".join(self.stale)
        if isinstance(request, LoadBefore):
            return self.objects.get(request.oid)
        assert isinstance(request, (Ping, LastTransaction)), request
        return self.last_tid if isinstance(request, LastTransaction) else None

    def invalidate(self, number: int, *oids: bytes) -> None:
        """Send an invalidation to everybody."""
        for sock, peer in self._connections:
            if peer.codec is not None:
                sock.sendall(peer.codec.notice(InvalidateTransaction(tid(number), list(oids))))

    def drop_connections(self) -> None:
        """End all connections."""
        connections, self._connections = self._connections, []
        for sock, _ in connections:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it has ended already

    def close(self) -> None:
        """Stop listening and end all connections."""
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._listener.close()
        self.drop_connections()
        for thread in list(self._threads):
            thread.join(10)
