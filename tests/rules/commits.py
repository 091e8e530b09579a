"""Commits through a storage, and what the server has of them."""

from __future__ import annotations

from typing import Any

from tests.support.raw import Z64, RawClient
from ZODB.Connection import TransactionMetaData

from zeolith.protocol.messages import Notice, ReceiveBlobChunk, SendBlob

RECORD = b"cZODB.blob\nBlob\n."


def commit(storage: Any, oid: bytes, data: bytes, serial: bytes = Z64) -> bytes:
    """Commit one object through a storage."""
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    storage.store(oid, serial, data, "", meta)
    storage.tpc_vote(meta)
    tid: bytes = storage.tpc_finish(meta)
    return tid


def blob(client: RawClient, oid: bytes, tid: bytes) -> bytes:
    """Return a blob as the server sends it."""
    at = len(client.inbox)
    client.call(SendBlob(oid, tid))
    return b"".join(
        message.request.chunk
        for message in client.inbox[at:]
        if isinstance(message, Notice) and isinstance(message.request, ReceiveBlobChunk)
    )
