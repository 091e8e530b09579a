"""What systemd is told: ready, alive, stopping.

The protocol is one datagram of ``NAME=VALUE`` lines to the socket that ``NOTIFY_SOCKET`` names
(sd_notify(3)); a library would be longer than this.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import MutableMapping
from typing import Final

logger = logging.getLogger(__name__)

_PATIENCE: Final = 1.0
"""Seconds to wait for a service manager whose queue is full."""

_EXTENSION: Final = 60_000_000
"""Microseconds by which the time for starting is extended while an index is rebuilt."""


class Notifier:
    """Talks to the service manager if there is one.  Does nothing otherwise, and never fails.

    Reads its variables from *environ* and removes them, lest a child process speak for us.

    :ivar watchdog: seconds after which the manager takes a silent server for hung, or None.
    """

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        self._address = _address(environ.pop("NOTIFY_SOCKET", ""))
        self._socket: socket.socket | None = None
        self.watchdog = _watchdog(environ)
        self._is_stopping = False
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.settimeout(_PATIENCE)

    def starting(self, status: str) -> None:
        """Still starting: say what it waits for, and ask for more time."""
        self._send(f"STATUS={status}\nEXTEND_TIMEOUT_USEC={_EXTENSION}")

    def ready(self, status: str, loop: asyncio.AbstractEventLoop) -> None:
        """The server listens.  From now on *loop* shows that it turns, if anybody asked for that.

        Call it in the loop's thread.

        :param status: a line for ``systemctl status``.
        """
        self._send(f"READY=1\nSTATUS={status}")
        if self.watchdog is not None and self._socket is not None:
            self._socket.settimeout(0)  # the loop must not wait for the manager
            self._beat(loop, self.watchdog / 2)

    def stopping(self) -> None:
        """The server ends.  Any thread, any number of times; the first counts."""
        if not self._is_stopping:
            self._is_stopping = True
            self._send("STOPPING=1\nSTATUS=stopping")

    def close(self) -> None:
        """Say nothing more."""
        sock, self._socket = self._socket, None
        if sock is not None:
            sock.close()

    def _beat(self, loop: asyncio.AbstractEventLoop, interval: float) -> None:
        self._send("WATCHDOG=1")
        loop.call_later(interval, self._beat, loop, interval)

    def _send(self, text: str) -> None:
        sock = self._socket
        if sock is None:
            return
        try:
            sock.sendto(text.encode(), self._address)
        except BlockingIOError:
            pass  # its queue is full of our beats: it is the one that hangs
        except OSError as error:
            logger.warning("the service manager cannot be told %r: %s", text, error)


def _address(text: str) -> str:
    """Return the address for Python's sockets; empty if there is none that we can use."""
    if text.startswith("@"):
        return "\0" + text[1:]  # Linux's abstract names
    if text and not text.startswith("/"):
        logger.warning("NOTIFY_SOCKET: %r is no socket that can be used here", text)
        return ""
    return text


def _watchdog(environ: MutableMapping[str, str]) -> float | None:
    text = environ.pop("WATCHDOG_USEC", "")
    pid = environ.pop("WATCHDOG_PID", "")
    if not text or (pid and pid != str(os.getpid())):
        return None
    if not text.isdecimal() or int(text) == 0:
        logger.warning("WATCHDOG_USEC: %r is no number of microseconds", text)
        return None
    return int(text) / 1_000_000
