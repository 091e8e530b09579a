"""TLS on the server: the handshake, and the transport of a connection behind it.

The loops have both, too.  But they end a connection whose handshake has failed without sending what
the TLS layer wants to tell the peer: a client whose certificate is refused would see a connection
that ends, which is what it also sees of a server that restarts, and try again for ever.  Here the
alert leaves first, and it is the same on both loops.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from contextlib import suppress
from socket import SHUT_WR, socket
from typing import Any, Final

_RECEIVE_SIZE: Final = 16 * 1024
"""Bytes asked of the kernel at once in a handshake, and of the TLS layer after it: one record."""

_LINGER: Final = 1.0
"""Seconds that a peer gets to take the reason why it is not let in."""

_LEFTOVERS: Final = 16
"""Reads in which what it still says is thrown away meanwhile."""

_PIECE: Final = 64 * 1024
"""Bytes given to the TLS layer at once.  Its buffers grow with what they are given and never
shrink: an object of 100 MB, encrypted as a whole, would keep 140 MB until the connection ends."""

_MOST_OWED: Final = 4096
"""Bytes that the TLS layer may owe a peer who says nothing else.  Peers change their keys once in
many gigabytes, and get 30 bytes for it; who does nothing but that, and takes no answer, would have
us collect them."""


class Handshake:
    """A server's part of a TLS handshake.  Belongs to the loop's thread.

    :param context: TLS.
    :ivar tls: the TLS layer, for after the handshake.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=True)

    async def shake(self, loop: asyncio.AbstractEventLoop, sock: socket) -> None:
        """Shake hands over *sock*, which does not block.

        :raises ssl.SSLError: it failed, and the peer has been told.
        :raises OSError: the connection ended.
        """
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush(loop, sock)
                data = await loop.sock_recv(sock, _RECEIVE_SIZE)
                if not data:
                    raise ConnectionResetError("it left during the handshake") from None
                self.incoming.write(data)
            except ssl.SSLError:
                with suppress(OSError, TimeoutError):
                    await self._tell(loop, sock)
                raise
            else:
                await self._flush(loop, sock)
                if self.tls.session_reused:
                    self._check_end()
                return

    def _check_end(self) -> None:
        """Refuse who resumes a session with a certificate that has expired since it began.

        OpenSSL looks at certificates in full handshakes only.  A list that revokes one makes a new
        context, which knows no session.
        """
        certificate: Any = self.tls.getpeercert()
        if certificate and ssl.cert_time_to_seconds(certificate["notAfter"]) < time.time():
            raise ConnectionAbortedError(
                "it resumes a session, and its certificate has expired meanwhile"
            )

    async def _tell(self, loop: asyncio.AbstractEventLoop, sock: socket) -> None:
        """Send the peer what the TLS layer wants to tell it at the end."""
        async with asyncio.timeout(_LINGER):
            await self._flush(loop, sock)
            sock.shutdown(SHUT_WR)
            # To close with something unread would reset the connection, and the peer's system
            # would throw away what it has not read.
            for _ in range(_LEFTOVERS):
                if not await loop.sock_recv(sock, _RECEIVE_SIZE):
                    return

    async def _flush(self, loop: asyncio.AbstractEventLoop, sock: socket) -> None:
        if self.outgoing.pending:
            await loop.sock_sendall(sock, self.outgoing.read())


class TlsTransport(asyncio.Protocol):
    """The transport of a connection with TLS, and the protocol of the plain one below it.

    It has those methods of :class:`asyncio.Transport` that connections use.  Belongs to the loop's
    thread.

    :param handshake: has been made.
    :param protocol: of the connection.
    """

    __slots__ = (
        "_error",
        "_has_ended",
        "_incoming",
        "_is_closing",
        "_outgoing",
        "_owed",
        "_plain",
        "_protocol",
        "_tls",
    )

    def __init__(self, handshake: Handshake, protocol: asyncio.Protocol) -> None:
        self._incoming, self._outgoing = handshake.incoming, handshake.outgoing
        self._tls = handshake.tls
        self._protocol = protocol
        self._plain: asyncio.Transport
        self._is_closing = False
        self._has_ended = False  # the peer has said that nothing more will come
        self._error: Exception | None = None
        self._owed = 0  # bytes that the peer was sent for what is no message

    # -- called by the event loop ----------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        # uvloop's transports are no subclass of asyncio's, whose methods they have.
        self._plain = transport
        protocol: Any = self._protocol
        protocol.connection_made(self)
        # Clients may send the first message together with the end of the handshake.
        self.data_received(b"")

    def data_received(self, data: bytes) -> None:
        if len(data) <= _PIECE:
            self._incoming.write(data)
            received = self._decrypt()
        else:
            received = self._decrypt_in_pieces(data)
        if self._outgoing.pending:
            self._pay()
        if received:
            self._owed = 0
            self._protocol.data_received(received)
        if self._error is not None:
            self._plain.abort()
        elif self._has_ended:
            self.close()

    def eof_received(self) -> None:
        """The peer has ended the connection: the loop closes it."""

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_closing = True
        self._protocol.connection_lost(self._error or exc)

    def _pay(self) -> None:
        """Send what the TLS layer owes the peer by itself: answers to updates of keys, an alert."""
        self._owed += self._outgoing.pending
        if self._owed > _MOST_OWED and self._error is None:
            self._error = ConnectionAbortedError("it does nothing but change the keys of TLS")
        owed = self._outgoing.read()
        if not self._plain.is_closing():
            self._plain.write(owed)

    def _decrypt_in_pieces(self, data: bytes) -> bytes:
        parts = []
        view = memoryview(data)
        for start in range(0, len(data), _PIECE):
            self._incoming.write(view[start : start + _PIECE])
            parts.append(self._decrypt())
            if self._error is not None or self._has_ended:
                break
        return b"".join(parts)

    def _decrypt(self) -> bytes:
        """Return what can be decrypted now."""
        parts = []
        try:
            # To ask for more than there is makes an exception, which takes longer than decrypting.
            while self._incoming.pending or self._tls.pending():
                part = self._tls.read(_RECEIVE_SIZE)
                if not part:
                    self._has_ended = True
                    break
                parts.append(part)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self._has_ended = True
        except ssl.SSLError as error:
            self._error = error
        return parts[0] if len(parts) == 1 else b"".join(parts)

    # -- called by the connection ----------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send *data*, now or as soon as the peer takes it."""
        # After an error in what came the TLS layer takes nothing more, while the connection
        # answers what came before it.
        if not data or self._is_closing or self._error is not None or self._plain.is_closing():
            return
        if len(data) <= _PIECE:
            self._tls.write(data)
            self._plain.write(self._outgoing.read())
            return
        view = memoryview(data)
        parts = []
        for start in range(0, len(data), _PIECE):
            self._tls.write(view[start : start + _PIECE])
            parts.append(self._outgoing.read())
        # At once: for each piece the loop would ask the system anew.
        self._plain.write(b"".join(parts))

    def close(self) -> None:
        """End the connection when everything is sent."""
        if self._is_closing:
            return
        self._is_closing = True
        # Says that nothing more will come; the peer need not answer that.
        with suppress(ssl.SSLError):
            self._tls.unwrap()
        if self._outgoing.pending and not self._plain.is_closing():
            self._plain.write(self._outgoing.read())
        self._plain.close()

    def abort(self) -> None:
        """End the connection at once."""
        self._is_closing = True
        self._plain.abort()

    def is_closing(self) -> bool:
        """Whether it has been closed, or is lost."""
        return self._is_closing or self._plain.is_closing()

    def pause_reading(self) -> None:
        """Take nothing more from the peer."""
        self._plain.pause_reading()

    def resume_reading(self) -> None:
        """Take from the peer again."""
        self._plain.resume_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set when writing is paused and resumed, in bytes as they are sent."""
        self._plain.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        """Return how many bytes the peer has not taken yet."""
        return self._plain.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what is known of the connection: also ``peercert`` and ``ssl_object``."""
        if name == "peercert":
            return self._tls.getpeercert()
        if name == "ssl_object":
            return self._tls
        return self._plain.get_extra_info(name, default)
