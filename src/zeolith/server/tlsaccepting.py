"""Accepting connections with TLS.

Each is a task of the loop's until its handshake has ended, which is cancelled at the end like any
other.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from typing import Any, Final

from ..credentials import Credentials
from .crowd import Crowd, Entry
from .origins import origin
from .refusals import Refusals, label
from .tally import Limit, Tally
from .tlstransport import Handshake, TlsTransport

logger = logging.getLogger(__name__)

_AT_ONCE: Final = 100
"""Connections accepted before others get their turn."""

_PAUSE: Final = 1.0
"""Seconds to wait when the system has no room for another connection."""

_FULL: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class TlsAcceptor:
    """Accepts what comes to one listening socket.  Belongs to the loop's thread.

    :param listener: not blocking; whoever made it closes it after :meth:`close`.
    :param factory: makes the protocol of a connection.
    :param credentials: TLS, asked for the context of each connection.
    :param patience: seconds that a handshake may take.
    :param crowd: the places there are: who gets none is closed before its handshake.
    :param tally: counts handshakes that have taken too long.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listener: socket.socket,
        factory: Callable[[Entry], asyncio.Protocol],
        credentials: Credentials,
        patience: float,
        crowd: Crowd,
        tally: Tally,
    ) -> None:
        self._crowd = crowd
        self._tally = tally
        self._loop = loop
        self._listener = listener
        self._factory = factory
        self._credentials = credentials
        self._patience = patience
        self._handshakes: dict[asyncio.Task[None], socket.socket | None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._refusals = Refusals(loop)
        self._resume()

    def close(self) -> None:
        """Accept nothing more; give up the handshakes that are going on."""
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._listener.fileno())
        for task in self._handshakes:
            task.cancel()
        self._refusals.close()

    def _resume(self) -> None:
        self._timer = None
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                sock, peername = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                logger.error("no connection can be accepted: %s", error.strerror)
                self._loop.remove_reader(self._listener.fileno())
                self._timer = self._loop.call_later(_PAUSE, self._resume)
                return
            sock.setblocking(False)
            self._begin(sock, peername)

    def _begin(self, sock: socket.socket, peername: Any) -> None:
        entry = self._crowd.enter(origin(peername), label(peername), sock.close)
        if entry is None:
            sock.close()
            return
        task = self._loop.create_task(self._shake_hands(sock, peername, entry))
        entry.evict = task.cancel
        self._handshakes[task] = sock
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        sock = self._handshakes.pop(task)
        if sock is not None:
            sock.close()  # it has not got as far as a connection

    async def _shake_hands(self, sock: socket.socket, peername: Any, entry: Entry) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            handshake = await self._handshake(sock)
            self._handshakes[task] = None  # from now on it belongs to the loop
            await self._loop.connect_accepted_socket(
                lambda: TlsTransport(handshake, self._factory(entry)), sock
            )
        except ConnectionResetError as error:
            # It has left by itself, as whoever only looks whether somebody listens.
            entry.leave()
            logger.debug("no TLS connection: %s", error)
        except OSError as error:
            entry.leave()
            self._refusals.note(peername, error)
        except Exception:
            entry.leave()
            logger.exception("error while a connection was accepted")
            sock.close()  # asyncio leaves it to us if it has not come to make a transport

    async def _handshake(self, sock: socket.socket) -> Handshake:
        try:
            async with asyncio.timeout(self._patience):
                handshake = Handshake(self._credentials.context)
                await handshake.shake(self._loop, sock)
        except TimeoutError:
            self._tally.hit(Limit.REGISTER_TIMEOUT)
            raise TimeoutError(f"no TLS handshake within {self._patience:g} s") from None
        return handshake
