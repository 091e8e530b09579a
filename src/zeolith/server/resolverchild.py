"""The process that resolves conflicts for a server.

Resolving unpickles what clients have sent and runs the code of their application: it may take for
ever, take all memory, or end the process it runs in.  Here it cannot end the server.  It has the
rights of the server's user all the same.

Run as ``python -m zeolith.server.resolverchild FD BYTES`` with one end of a pair of sockets and the
limit of its memory.  The process ends when the other end is closed, or its standard input, which
the system does for a server that dies.
"""

from __future__ import annotations

import fcntl
import logging
import os
import resource
import select
import signal
import socket
import sys
import traceback
from typing import Any, Final

from ZODB.ConflictResolution import ConflictResolvingStorage, _class_cache
from ZODB.POSException import ConflictError

from .conflicts import Records, class_of
from .resolverwire import (
    MAX_TEXT,
    NO_MEMORY,
    REQUEST_SIZE,
    Kind,
    parse_request_head,
    serialize_answer,
)

_NOT_IMPORTABLE: Final = 1  # in ZODB's cache of classes


class Revisions(ConflictResolvingStorage):
    """Looks like a storage to ZODB's conflict resolution: it has the states of one object.

    :param states: tid → record.
    """

    def __init__(self, states: dict[bytes, bytes]) -> None:
        self._states = states

    def loadSerial(self, oid: bytes, serial: bytes) -> bytes:  # noqa: N802 - ZODB's name
        """Return a state."""
        return self._states[serial]


class Reasons(logging.Handler):
    """Keeps what ZODB's conflict resolution logs, which is the only place where it says more than
    that there is a conflict.

    :ivar error: what the application's code raised last, if it did.
    :ivar text: why the last conflict was not resolved.
    """

    def __init__(self) -> None:
        super().__init__()
        self.error: BaseException | None = None
        self.text = ""

    @property
    def is_out_of_memory(self) -> bool:
        """Whether that was the limit of this process's memory."""
        return isinstance(self.error, MemoryError)

    def clear(self) -> None:
        """Forget."""
        self.error, self.text = None, ""

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            self.error = record.exc_info[1]
            self.text = "".join(traceback.format_exception(self.error))
        elif record.name == "ZODB.ConflictResolution":
            self.text = record.getMessage()


def resolve(
    oid: bytes, committed: bytes, read: bytes, records: Records, reasons: Reasons
) -> tuple[Kind, bytes]:
    """Resolve a conflict; return the answer.

    :raises MemoryError: there was not enough.
    """
    storage = Revisions({committed: records.committed, read: records.old})
    reasons.clear()
    try:
        data: bytes = storage.tryToResolveConflict(
            oid, committed, read, records.new, records.committed
        )
    except ConflictError:
        if reasons.is_out_of_memory:
            raise MemoryError from reasons.error
        if _is_missing(records.new):
            return Kind.MISSING, b""
        kind = Kind.UNRESOLVED if reasons.error is None else Kind.FAILED
        return kind, reasons.text.encode("utf-8", "backslashreplace")[-MAX_TEXT:]
    return Kind.RESOLVED, data


def _is_missing(record: bytes) -> bool:
    """Whether the class of *record* has just been found to be none that can be imported."""
    module, _, name = class_of(record).rpartition(".")
    # ZODB has tried, and remembers what came of it.
    return _class_cache.get((module, name)) is _NOT_IMPORTABLE


def _listen_to_reasons() -> Reasons:
    reasons = Reasons()
    logger = logging.getLogger("ZODB.ConflictResolution")
    logger.addHandler(reasons)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    return reasons


def _read(sock: socket.socket, size: int) -> bytes:
    """Return *size* bytes; end the process if there is nobody to send them."""
    data = bytearray(size)
    view, got = memoryview(data), 0
    while got < size:
        count = sock.recv_into(view[got:])
        if not count:
            os._exit(0)
        got += count
    return bytes(data)


def _tie_to_server() -> None:
    """End with the server, also in the middle of an endless loop.

    The server holds the other end of our standard input and never writes.  When it is gone the
    system signals that, and nobody has to look.
    """
    # What the server blocks or ignores is inherited.
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in (signal.SIGIO, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    # To the group: what the application's code starts is to end, too.
    fcntl.fcntl(0, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([0], [], [], 0)[0]:
        os._exit(0)  # it was gone before


def limit_memory(size: int) -> None:
    """Let this process have *size* bytes of address space, or as many as it may if they are less.

    A core file of it would hold an application's data: there is none.
    """
    for what, value in ((resource.RLIMIT_AS, size), (resource.RLIMIT_CORE, 0)):
        _, hard = resource.getrlimit(what)
        allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(what, (allowed, allowed))


def serve(sock: socket.socket, reasons: Reasons) -> None:
    """Answer requests until the other end is closed, which ends the process.

    :raises MemoryError: there was not enough.
    """
    sock.sendall(serialize_answer(Kind.READY))
    while True:
        oid, committed, read, lengths = parse_request_head(_read(sock, REQUEST_SIZE))
        records = Records(*(_read(sock, length) for length in lengths))
        kind, body = resolve(oid, committed, read, records, reasons)
        del records
        sock.sendall(serialize_answer(kind, body))
        reasons.clear()  # a traceback holds on to the application's objects


def main(arguments: list[str]) -> Any:
    """Never returns: whatever threads the application has started, the process ends here."""
    status = 1
    try:
        _tie_to_server()
        sock = socket.socket(fileno=int(arguments[0]))
        reasons = _listen_to_reasons()
        limit_memory(int(arguments[1]))
        serve(sock, reasons)
    except MemoryError:
        status = NO_MEMORY
    finally:
        os._exit(status)


if __name__ == "__main__":
    main(sys.argv[1:])
