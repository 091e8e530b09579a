"""A server with a large blob, and a client that reads it as a stream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.raw import RawClient, oid_of
from tests.support.rawstreams import RawStreams
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage

KIB = 1024


def store_blob(storage: FileStorage, tmp_path: Path, number: int, data: bytes) -> bytes:
    """Commit a blob behind the server's back, before it is there."""
    path = tmp_path / f"new-{number}"
    path.write_bytes(data)
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    storage.storeBlob(oid_of(number), bytes(8), b"record", str(path), "", meta)
    storage.tpc_vote(meta)
    tid: bytes = storage.tpc_finish(meta)
    return tid


class Site:
    """A server with one large blob, and a client of it."""

    def __init__(self, server: Any, client: RawClient, oid: bytes, tid: bytes, data: bytes) -> None:
        self.server, self.oid, self.tid, self.data = server, oid, tid, data
        self.client = client
        self.streams = RawStreams(client)

    def open(self, number: int, offset: int = 0, credit: int = 0) -> Any:
        return self.streams.open(number, self.oid, self.tid, offset, credit)

    @property
    def session(self) -> Any:
        (connection,) = [
            connection
            for connection in self.server._lobby.connections
            if connection.session is not None and connection.session._streams is not None
        ]
        return connection.session
