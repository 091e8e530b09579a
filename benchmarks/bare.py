"""The floor: a blocking socket in front of a FileStorage, with no protocol to speak of.

A request is an object id and a tid; the answer is the size of the record, its tid, the record.
Nothing is checked, nothing is cached and nobody is told of changes, so no real server can be
quicker by doing less.
"""

from __future__ import annotations

import signal
import socket
import sys
import threading
from struct import Struct
from typing import Any

from ZODB.FileStorage import FileStorage

_ANSWER = Struct(">I8s")
_REQUEST_SIZE = 16


def _receive(sock: socket.socket, size: int) -> bytes:
    data = sock.recv(size)
    while len(data) < size:
        more = sock.recv(size - len(data)) if data else b""
        if not more:
            raise ConnectionError("the peer has gone")
        data += more
    return data


class BareClient:
    """Loads objects from a bare server.  For one thread."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._sock = socket.create_connection(address)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _answer(self) -> tuple[bytes, bytes, None]:
        # One large read usually brings the whole answer.
        data = self._sock.recv(65536)
        while len(data) < _ANSWER.size:
            data += _receive(self._sock, _ANSWER.size - len(data))
        size, tid = _ANSWER.unpack_from(data)
        missing = _ANSWER.size + size - len(data)
        if missing > 0:
            data += _receive(self._sock, missing)
        return data[_ANSWER.size :], tid, None

    def loadBefore(self, oid: bytes, tid: bytes) -> tuple[bytes, bytes, None]:  # noqa: N802
        """Return the revision of *oid* before *tid*."""
        self._sock.sendall(oid + tid)
        return self._answer()

    def load_many(self, oids: list[bytes], tid: bytes) -> int:
        """Ask for *oids* in one write; return the number of bytes of their records."""
        self._sock.sendall(b"".join(oid + tid for oid in oids))
        total = 0
        with self._sock.makefile("rb") as stream:
            for _ in oids:
                size, _tid = _ANSWER.unpack(stream.read(_ANSWER.size))
                total += len(stream.read(size))
        return total

    def close(self) -> None:
        self._sock.close()


def _serve(sock: socket.socket, storage: Any) -> None:
    with sock:
        while True:
            requests = sock.recv(65536)
            if not requests:
                return
            if len(requests) % _REQUEST_SIZE:
                requests += _receive(sock, -len(requests) % _REQUEST_SIZE)
            answers = []
            for at in range(0, len(requests), _REQUEST_SIZE):
                data, start, _end = storage.loadBefore(
                    requests[at : at + 8], requests[at + 8 : at + 16]
                )
                answers.append(_ANSWER.pack(len(data), start) + data)
            sock.sendall(b"".join(answers))


def main(address: str, path: str) -> None:
    """Serve the FileStorage at *path* on *address* (``host:port``) until SIGTERM."""
    host, _, port = address.rpartition(":")
    storage = FileStorage(path)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with socket.create_server((host, int(port))) as listener:
        while True:
            sock, _ = listener.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_serve, args=(sock, storage), daemon=True).start()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
