"""Blobs on their way from and to the server: on streams, or as ZEO's protocol has it."""

from __future__ import annotations

from functools import partial
from typing import Any

from ..errors import ClientStorageError
from ..protocol.limits import STREAM_FRAME
from ..protocol.messages import SendBlob, StoreBlobChunk, StoreBlobEnd, StoreBlobStart
from ..protocol.streamrequests import AttachBlob, OpenBlob
from .blobs import BlobDirectory
from .channel import Channel
from .download import Download
from .link import Link


def fetch_blob(link: Link, blobs: BlobDirectory, oid: bytes, serial: bytes) -> None:
    """Have the blob that a load of *blobs* waits for sent, and return when it is there.

    After a break it is gone on with where it was: a revision of a blob never changes.

    :raises ClientDisconnected: no connection within ``wait_timeout``.
    :raises ClientStorageError: what came is not what was to come.
    """
    download = blobs.download(oid, serial)
    sink = _BlobSink(download)
    link.repeat(partial(_fetch_on, sink, oid, serial), lambda: download.received)


def _fetch_on(sink: _BlobSink, oid: bytes, serial: bytes, channel: Channel) -> None:
    download = sink.download
    if not channel.speaks_own:
        download.is_resumable = False
        download.drop()  # what another server has sent of it: this one begins anew
        channel.call(SendBlob(oid, serial))
        return
    download.is_resumable = True
    offset = download.resume()
    if download.error is None:
        channel.streams.fetch(
            lambda number, credit: OpenBlob(number, oid, serial, offset, credit), sink
        )
        sink.ended()


class _BlobSink:
    """Writes a stream to a download.

    No lock: the stream's own keeps its reader and the thread that loads the blob apart.
    """

    def __init__(self, download: Download) -> None:
        self.download = download
        self._size: int | None = None

    @property
    def is_wanted(self) -> bool:
        # Without the second a server could fill the disk with a blob that has no end.
        return self.download.error is None and not (
            self._size is not None and self.download.received > self._size
        )

    def opened(self, answer: Any) -> None:
        size = answer.get("size") if type(answer) is dict else None
        if type(size) is not int:
            raise ClientStorageError("the server does not say how long a blob is")
        if self._size not in (None, size):
            raise ClientStorageError(
                f"the server says that a blob has {size} bytes, and said {self._size} before"
            )
        self._size = self.download.size = size

    def take(self, data: bytes) -> int:
        self.download.write(data)
        return len(data)

    def ended(self) -> None:
        download = self.download
        if download.error is None and download.received != self._size:
            raise ClientStorageError(
                f"the server has ended a blob of {self._size} bytes after {download.received}"
            )
        download.end()


def send_blob(
    channel: Channel,
    blobs: BlobDirectory,
    path: str,
    oid: bytes,
    serial: bytes | None,
    data: bytes,
    txn: int,
) -> None:
    """Send the file *path* as the blob of *oid* in the transaction with the number *txn*.

    :param data: the record of *oid*.
    :raises ClientDisconnected: the connection has ended.
    :raises MessageTooLarge: the server does not take such a record.
    """
    if channel.speaks_own:
        number, size = channel.streams.upload(blobs.chunks(path, STREAM_FRAME))
        channel.post(AttachBlob(number, oid, serial, data, txn, size))
        return
    channel.post(StoreBlobStart())
    for chunk in blobs.chunks(path):
        channel.post(StoreBlobChunk(chunk))
    channel.post(StoreBlobEnd(oid, serial, data, txn))
