"""The socket of one connection, plain or encrypted, behind four operations.

A wire blocks: it belongs to threads that have nothing better to do than wait for the server.  One
thread at a time may ``send`` and one at a time may ``receive``, both at once; :class:`.Channel`
holds the locks.  ``abort`` may be called by anybody: it makes both return.
"""

from __future__ import annotations

import select
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol, TypeAlias

from ..errors import IncompatiblePeer
from ..protocol.binding import end_point
from .strangers import describe_plain

Address: TypeAlias = "tuple[str, int] | str"
"""``(host, port)`` for TCP, a path for a Unix socket."""

RECEIVE_SIZE = 64 * 1024
"""Bytes asked of the kernel at once: enough for a batch of prefetched objects.  Memory of this size
comes from the allocator's pool; from 128 KB on the C library would map and unmap pages for each
read, which takes longer than reading."""

RECORD_SIZE = 16 * 1024
"""Bytes asked of the TLS layer at once: it hands out one record at a time."""

PIECE_SIZE = 64 * 1024
"""Bytes given to the TLS layer at once.  Its buffers grow with what they are given and never
shrink: an object of 100 MB, encrypted as a whole, would keep 140 MB until the connection ends."""

MOST_OWED = 4096
"""Bytes that the TLS layer may owe a server that says nothing else.  Servers change their keys once
in many gigabytes, if ever, and get 30 bytes for it."""

KEEPALIVE_PROBES = 4
"""A silent peer is probed after half of the time after which it is given up, and then so many times
in the other half."""


class TlsClosed(ConnectionResetError):
    """A server that speaks TLS has ended the connection before it said anything else."""


class Wire(Protocol):
    """What a channel needs of a connection."""

    def send(self, data: bytes) -> None:
        """Send all of *data*.  Raises OSError."""

    def receive(self) -> bytes:
        """Wait for bytes and return them; ``b""`` at the end of the stream.  Raises OSError."""

    def is_readable(self, timeout: float | None) -> bool:
        """Whether ``receive`` would not block, waiting up to *timeout* seconds for that."""

    def is_writable(self) -> bool:
        """Whether there is room for a short message, so that ``send`` would not wait for it."""

    def set_timeout(self, timeout: float | None) -> None:
        """Limit the waiting of ``send`` and ``receive`` (seconds, None: no limit)."""

    def abort(self) -> None:
        """End the connection; blocked calls return.  Any thread, any number of times."""

    def close(self) -> None:
        """Release the socket.  Only when no call is under way."""

    @property
    def peer_name(self) -> Address:
        """Address of the server as the socket knows it."""


class PlainWire:
    """A connected stream socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        # Bound once: both run for every request.
        self.send = sock.sendall
        self._recv = sock.recv
        peer = sock.getpeername()
        self.peer_name: Address = peer if isinstance(peer, str) else (peer[0], peer[1])

    def receive(self, size: int = RECEIVE_SIZE) -> bytes:
        return self._recv(size)

    def fill(self, view: memoryview) -> int:
        """Wait for bytes and put them into *view*; return how many, 0 at the end of the stream."""
        return self._sock.recv_into(view)

    def send_parts(self, *parts: bytes | memoryview) -> None:
        """Send all *parts*, without making one of them."""
        sent = self._sock.sendmsg(parts)
        for part in parts:
            if sent < len(part):
                self.send(memoryview(part)[sent:])
            sent = max(sent - len(part), 0)

    def is_readable(self, timeout: float | None) -> bool:
        return _poll(self._sock.fileno(), select.POLLIN, timeout)

    def is_writable(self) -> bool:
        return _poll(self._sock.fileno(), select.POLLOUT, 0)

    def set_timeout(self, timeout: float | None) -> None:
        self._sock.settimeout(timeout)

    def abort(self) -> None:
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._sock.close()


class TlsWire:
    """The same over TLS.

    The record layer runs on memory buffers and the socket is read and written here, so that a
    thread waiting for the server holds no lock another one needs to send, and so that what the
    socket shows as readable is all there is to read.

    :param sock: connected, with the timeout for the hand-shake set.
    :raises ssl.SSLError: the hand-shake failed (the socket is left to the caller).
    :raises TlsClosed: the server ended the connection instead (likewise).
    :raises IncompatiblePeer: the server does not speak TLS (likewise).
    """

    def __init__(
        self, sock: socket.socket, context: ssl.SSLContext, server_hostname: str | None
    ) -> None:
        self._plain = PlainWire(sock)
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname=server_hostname)
        # OpenSSL objects are not for two threads at once.  Held for computing only, never while
        # waiting for the network.
        self._computing = threading.Lock()
        self._sending = threading.Lock()
        # What there is to decrypt after the last byte: None as long as more may come.
        self._end: bytes | None = None
        self._handshake()

    @property
    def peer_name(self) -> Address:
        return self._plain.peer_name

    def binding(self) -> bytes | None:
        """Return what ties a log-in to this connection; None if the server showed nothing."""
        certificate = self._tls.getpeercert(True)
        return None if certificate is None else end_point(certificate)

    def _handshake(self) -> None:
        has_answered = False
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                try:
                    data = self._plain.receive()
                except ConnectionError as error:
                    if has_answered:
                        raise TlsClosed(str(error)) from error
                    raise
                if not data:
                    problem = "the server closed the connection during the TLS hand-shake"
                    kind = TlsClosed if has_answered else ConnectionResetError
                    raise kind(problem) from None
                if not has_answered:
                    # OpenSSL has several errors for that, and not the same in all versions.
                    has_answered = True
                    stranger = describe_plain(data)
                    if stranger is not None:
                        raise IncompatiblePeer(stranger) from None
                self._in.write(data)
            except ssl.SSLError:
                # The peer is told why (a TLS alert) before the caller is.
                with suppress(OSError):
                    self._flush()
                raise
            else:
                self._flush()
                return

    def _flush(self) -> None:
        if self._out.pending:
            self._plain.send(self._out.read())

    def send(self, data: bytes) -> None:
        if len(data) > PIECE_SIZE:
            self._send_in_pieces(data)
            return
        with self._sending:
            with self._computing:
                self._tls.write(data)
                encrypted = self._out.read()
            self._plain.send(encrypted)

    def _send_in_pieces(self, data: bytes) -> None:
        view = memoryview(data)
        with self._sending:
            for start in range(0, len(data), PIECE_SIZE):
                with self._computing:
                    self._tls.write(view[start : start + PIECE_SIZE])
                    encrypted = self._out.read()
                self._plain.send(encrypted)

    def receive(self) -> bytes:
        while True:
            with self._computing:
                data = self._decrypt()
                owed = self._out.pending
            if owed > MOST_OWED:
                raise ConnectionAbortedError("the server does nothing but change the keys of TLS")
            if data is not None:
                if self._out.pending:
                    self._answer()
                return data
            received = self._plain.receive()
            with self._computing:
                if received:
                    self._in.write(received)
                else:
                    self._in.write_eof()

    def _answer(self) -> None:
        """Send what the record layer owes the peer: a key update, an alert.

        It travels with the next request unless the line is free now: waiting for a sender here
        could wait for a server that waits for us to read.
        """
        if self._sending.acquire(blocking=False):
            try:
                with self._computing:
                    encrypted = self._out.read()
                self._plain.send(encrypted)
            except OSError:
                # What has been received counts all the same; the end shows at the next call.
                self.abort()
            finally:
                self._sending.release()

    def _decrypt(self) -> bytes | None:
        """Return all bytes that can be decrypted now, ``b""`` at the end, None if none."""
        parts: list[bytes] = []
        try:
            # To ask for more than there is makes an exception, which takes longer than decrypting.
            while self._in.pending or self._tls.pending() or self._in.eof:
                part = self._tls.read(RECORD_SIZE)
                if not part:
                    break
                parts.append(part)
            else:
                return b"".join(parts) if parts else self._end
        except ssl.SSLWantReadError:
            return b"".join(parts) if parts else None
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            pass
        self._end = b""
        return b"".join(parts)

    def is_readable(self, timeout: float | None) -> bool:
        return self._plain.is_readable(timeout)

    def is_writable(self) -> bool:
        return self._plain.is_writable()

    def set_timeout(self, timeout: float | None) -> None:
        self._plain.set_timeout(timeout)

    def abort(self) -> None:
        self._plain.abort()

    def close(self) -> None:
        self._plain.close()


def _poll(fileno: int, event: int, timeout: float | None) -> bool:
    if fileno < 0:
        return True  # closed: let whoever uses it find out
    # Looked up at each call: gevent may have replaced it since this module was imported.
    poller = select.poll()
    poller.register(fileno, event)
    return bool(poller.poll(None if timeout is None else max(0.0, timeout) * 1000))


def open_socket(
    address: Address,
    timeout: float,
    made: Callable[[socket.socket], None],
    dead_server_timeout: float | None = None,
) -> socket.socket:
    """Return a socket connected to *address*, with *timeout* (seconds) set on it.

    An empty host means this host.

    :param dead_server_timeout: seconds after which the system gives up a peer that the network
        does not reach any more; None: it decides by itself, after hours.

    :param made: called with each socket before it is connected, so that somebody else may end the
        attempt by shutting the socket down.
    :raises OSError: nobody listens there, or not in time.
    """
    if isinstance(address, str):
        return _connect(socket.AF_UNIX, socket.SOCK_STREAM, 0, address, timeout, made, None)
    host, port = address
    failure = OSError(f"{host} has no address")
    for family, kind, protocol, _, where in socket.getaddrinfo(
        host or "127.0.0.1", port, type=socket.SOCK_STREAM
    ):
        try:
            return _connect(family, kind, protocol, where, timeout, made, dead_server_timeout)
        except OSError as error:
            failure = error
    raise failure


def _connect(
    family: int,
    kind: int,
    protocol: int,
    where: Any,
    timeout: float,
    made: Callable[[socket.socket], None],
    dead_server_timeout: float | None,
) -> socket.socket:
    sock = socket.socket(family, kind, protocol)
    try:
        made(sock)
        if family != socket.AF_UNIX:
            _set_options(sock, dead_server_timeout)
        sock.settimeout(timeout)
        sock.connect(where)
    except BaseException:
        sock.close()
        raise
    return sock


def _set_options(sock: socket.socket, dead_server_timeout: float | None) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if dead_server_timeout is None:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", max(int(dead_server_timeout / 2), 1)),
        ("TCP_KEEPINTVL", max(int(dead_server_timeout / 2 / KEEPALIVE_PROBES), 1)),
        ("TCP_KEEPCNT", KEEPALIVE_PROBES),
        # What the peer's kernel does not acknowledge hides its end from keep-alive.
        ("TCP_USER_TIMEOUT", int(dead_server_timeout * 1000)),
    ):
        option = getattr(socket, name, None)  # not every platform has all of them
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
