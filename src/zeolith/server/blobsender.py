"""Blobs on their way from the disk to a client."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import IO, TYPE_CHECKING, Any, Final

from ..protocol.messages import (
    MsgId,
    ReceiveBlobChunk,
    ReceiveBlobStart,
    ReceiveBlobStop,
    SendBlob,
)

if TYPE_CHECKING:
    from .session import Session

CHUNK_SIZE: Final = 59000
"""Bytes of a chunk, as ZEO has it."""

_CHUNKS_AT_ONCE: Final = 8


class BlobSender:
    """Streams blobs to one client, one after the other and no faster than it reads.

    Belongs to the loop; only reading the file happens on worker threads.

    :param session: the client.
    """

    __slots__ = ("_file", "_is_reading", "_queue", "_session", "_waiting")

    def __init__(self, session: Session) -> None:
        self._session = session
        self._queue: deque[tuple[MsgId, SendBlob]] = deque()
        self._file: IO[bytes] | None = None
        self._is_reading = False
        self._waiting = False  # for the client to take what it has been sent

    def __len__(self) -> int:
        return len(self._queue)

    def send(self, msgid: MsgId, request: SendBlob) -> None:
        """Send a blob after those before it, then answer the call."""
        self._queue.append((msgid, request))
        if len(self._queue) == 1:
            self._open()

    def resume(self) -> None:
        """The client takes data again."""
        if self._waiting:
            self._waiting = False
            self._read()

    def close(self) -> None:
        """The client is gone."""
        self._queue.clear()
        if not self._is_reading:
            self._close_file()

    def _open(self) -> None:
        _, request = self._queue[0]
        job = partial(self._open_job, request)
        cold = self._session.service.cold
        if cold is None:
            self._submit(job, self._opened)
        else:
            cold.with_blob(self._submit, job, self._opened)

    def _open_job(self, request: SendBlob) -> IO[bytes]:
        path = self._session.service.access.load_blob(request.oid, request.serial)
        return open(path, "rb", buffering=0)

    def _opened(self, file: IO[bytes] | None, error: Exception | None) -> None:
        self._is_reading = False
        self._file = file
        if file is None:
            assert error is not None
            self._end(error)
        elif not self._queue:
            self._close_file()
        else:
            _, request = self._queue[0]
            self._session.send(self._session.codec.notice(ReceiveBlobStart(*request)))
            self._read()

    def _read(self) -> None:
        file = self._file
        if file is None:
            return
        if not self._session.is_writable:
            self._waiting = True
            return
        publisher = self._session.publisher
        if publisher is not None and publisher.is_held:
            # What is sent now would have to be kept in memory until the finish is over.
            self._session.service.when_settled(self._read)
            return
        self._submit(partial(file.read, CHUNK_SIZE * _CHUNKS_AT_ONCE), self._have_read)

    def _have_read(self, data: bytes | None, error: Exception | None) -> None:
        self._is_reading = False
        if not self._queue:
            self._close_file()
            return
        if error is not None:
            self._end(error)
            return
        _, request = self._queue[0]
        codec = self._session.codec
        self._session.stats.blobs.has_sent(len(data or b""), is_complete=not data)
        if not data:
            self._session.send(codec.notice(ReceiveBlobStop(*request)))
            self._end(None)
            return
        for start in range(0, len(data), CHUNK_SIZE):
            chunk = data[start : start + CHUNK_SIZE]
            self._session.send(codec.notice(ReceiveBlobChunk(*request, chunk)))
        self._read()

    def _end(self, error: Exception | None) -> None:
        self._close_file()
        if not self._queue:
            return
        msgid, _ = self._queue.popleft()
        self._session.answer(msgid, None, error)
        self._session.ended()
        if self._queue:
            self._open()

    def _submit(self, job: Any, done: Any) -> None:
        self._is_reading = True
        self._session.service.pools.quick.submit(job, done)

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
