"""What a server and the process that packs for it say to each other.

They hold a pair of sockets.  A message is a JSON object with the key ``is``, and perhaps bytes that
come after it.  Both ends are ours and of one version; nobody else can reach them.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable, Iterator
from struct import Struct
from typing import Any, Final

PACK_SUFFIX: Final = ".pack"
"""What ZODB calls the new file, after the name of the database."""

OLD_SUFFIX: Final = ".old"
"""What ZODB calls file and blob directory as they were before the pack."""

REMOVED: Final = ".removed"
"""What ZODB calls the list of the blobs that the new file no longer refers to."""

_LENGTHS: Final = Struct(">IQ")  # of the JSON text and of the bytes that follow

Message = tuple[dict[str, Any], bytes]


class PackWire:
    """One end.  Each direction may be used by one thread at a time.

    :param sock: a stream socket; closed with this.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._stream = sock.makefile("rb")

    def send(self, kind: str, payload: bytes = b"", **values: Any) -> None:
        """Send a message.

        :raises OSError: the other end is gone, or takes nothing.
        """
        text = json.dumps({"is": kind, **values}).encode("ascii")
        self._socket.sendall(_LENGTHS.pack(len(text), len(payload)) + text + payload)

    def receive(self) -> Message:
        """Wait for a message, for as long as :meth:`limit` allows.

        :raises EOFError: the other end is gone.
        :raises TimeoutError: nothing came in time.
        """
        text_size, payload_size = _LENGTHS.unpack(self._read(_LENGTHS.size))
        values = json.loads(self._read(text_size))
        return values, self._read(payload_size)

    def _read(self, size: int) -> bytes:
        try:
            data = self._stream.read(size)
        except ConnectionError:
            data = b""
        if data is None or len(data) != size:
            raise EOFError
        return data

    def limit(self, seconds: float | None) -> None:
        """Let :meth:`receive` and :meth:`send` fail if nothing moves for that long."""
        self._socket.settimeout(seconds)

    def close(self) -> None:
        """Close this end; harmless if it is closed."""
        self._stream.close()
        self._socket.close()


ENTRY: Final = Struct(">8sQ")
"""An object's id and the position of its current record."""


def serialize_entries(entries: Iterable[tuple[bytes, int]]) -> bytes:
    """Return (oid, position) pairs as bytes."""
    return b"".join(ENTRY.pack(oid, position) for oid, position in entries)


def parse_entries(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield the (oid, position) pairs of :func:`serialize_entries`."""
    return ENTRY.iter_unpack(data)
