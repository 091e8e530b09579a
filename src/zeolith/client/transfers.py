"""Blobs on their way from and to the server: on streams, or as ZEO's protocol has it."""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing
from functools import partial
from io import FileIO
from typing import Any, Final

from ..aside import Aside, is_worthwhile
from ..errors import BlobDamaged, ClientStorageError
from ..protocol.checksums import Hasher, make_hasher
from ..protocol.messages import SendBlob, StoreBlobChunk, StoreBlobEnd, StoreBlobStart
from ..protocol.streamrequests import AttachBlob, OpenBlob
from .blobs import BlobDirectory
from .channel import Channel
from .download import Download
from .journal import Resumable
from .link import Link
from .streams import Announce

logger = logging.getLogger(__name__)

PIECE_SIZE: Final = 512 * 1024
"""Bytes of a file that are read, summed up and sent at once; a small file needs no more memory."""


SHORT: Final = 128 * 1024
"""Bytes of a blob that is read when its file is taken in, and sent with all that is said of it at
once, if the line takes so long a message in a moment."""

RESUMABLE_SIZE: Final = 1024 * 1024
"""Bytes of a blob that is gone on with after a break.  A shorter one is sent again as quickly, and
need not be known by an identity."""


def fetch_blob(link: Link, blobs: BlobDirectory, oid: bytes, serial: bytes) -> None:
    """Have the blob that a load of *blobs* waits for sent, and return when it is there.

    After a break it is gone on with where it was: a revision of a blob never changes.

    :raises ClientDisconnected: no connection within ``wait_timeout``.
    :raises BlobDamaged: what came, twice, has another checksum than the server says.
    :raises ClientStorageError: what came is not what was to come.
    """
    download = blobs.download(oid, serial)
    for is_last in (False, True):
        sink = _BlobSink(download, oid)
        try:
            link.repeat(partial(_fetch_on, sink, blobs, oid, serial), lambda: download.received)
        except BlobDamaged as error:
            # On the way, or at the server: if it comes like that again it has no good one.
            download.drop()
            if is_last:
                raise
            logger.warning("%s: %s; it is fetched again", link.name, error)
        else:
            return


def _fetch_on(
    sink: _BlobSink, blobs: BlobDirectory, oid: bytes, serial: bytes, channel: Channel
) -> None:
    download = sink.download
    if not channel.speaks_own:
        download.is_resumable = False
        download.drop()  # what another server has sent of it: this one begins anew
        channel.call(SendBlob(oid, serial))
        return
    download.is_resumable = True
    ahead = channel.streams.ahead
    offset = download.resume(channel.checksum)
    if download.error is not None:
        return
    found = ahead.take(oid, serial) if not offset else None
    if found is None:
        checksum = channel.streams.fetch(
            lambda number, credit: OpenBlob(number, oid, serial, offset, credit),
            sink,
            partial(ahead.follow, oid, serial, blobs.has),
        )
    else:
        checksum = found.checksum
        ahead.follow(oid, serial, blobs.has)
        sink.asked()  # an empty one has no data that would make the file
        sink.opened(found.answer)
        for data in found.data:
            sink.take(data)
    sink.ended(checksum)


class _BlobSink:
    """Writes a stream to a download.

    No lock: the stream's own keeps its reader and the thread that loads the blob apart.
    """

    def __init__(self, download: Download, oid: bytes) -> None:
        self.download = download
        self._oid = oid
        self._size: int | None = None

    @property
    def is_wanted(self) -> bool:
        # Without the second a server could fill the disk with a blob that has no end.
        return self.download.error is None and not (
            self._size is not None and self.download.received > self._size
        )

    def asked(self) -> None:
        self.download.open()

    def opened(self, answer: Any) -> None:
        size = answer.get("size") if type(answer) is dict else None
        if type(size) is not int:
            raise ClientStorageError("the server does not say how long a blob is")
        if self._size not in (None, size):
            raise ClientStorageError(
                f"the server says that a blob has {size} bytes, and said {self._size} before"
            )
        self._size = size
        self.download.expect(size)

    def take(self, data: bytes | memoryview) -> int:
        self.download.write(data)
        return len(data)

    def ended(self, checksum: bytes | None) -> None:
        """All has come: the file may have its name if it is the right one."""
        download = self.download
        if download.error is None and download.received != self._size:
            raise ClientStorageError(
                f"the server has ended a blob of {self._size} bytes after {download.received}"
            )
        if download.error is None and download.digest != checksum:
            raise BlobDamaged(
                self._oid, "what has arrived is not what was committed: its checksum is another"
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
    upload: Resumable | None,
    contents: bytes | None,
) -> None:
    """Send the file *path* as the blob of *oid* in the transaction with the number *txn*.

    :param data: the record of *oid*.
    :param upload: what was sent of it before on other connections; None: nothing, and it will not
        be gone on with either.
    :param contents: of the file, if they are known.
    :raises ClientDisconnected: the connection has ended.
    :raises MessageTooLarge: the server does not take such a record.
    """
    if channel.speaks_own:
        numbers: list[int] = []
        try:
            if contents is not None:
                checksum = _sum_of(contents, channel.checksum)
                size = len(contents)

                def attached(number: int) -> AttachBlob:
                    return AttachBlob(number, oid, serial, data, txn, size, checksum)

                if channel.streams.upload_whole(contents, attached, numbers.append):
                    return
            number, size, checksum = _send_on_stream(channel, path, upload, numbers.append)
            channel.post(AttachBlob(number, oid, serial, data, txn, size, checksum))
        except BaseException:
            # Else it would take its place at the server for as long as others commit.
            for number in numbers:
                channel.streams.forget(number)
            raise
        return
    channel.post(StoreBlobStart())
    for chunk in blobs.chunks(path):
        channel.post(StoreBlobChunk(chunk))
    channel.post(StoreBlobEnd(oid, serial, data, txn))


def _send_on_stream(
    channel: Channel, path: str, upload: Resumable | None, announce: Announce
) -> tuple[int, int, bytes | None]:
    """Send a file; return the stream's number, and size and checksum of what was sent."""
    algorithm = channel.checksum
    with FileIO(path) as file:
        is_long = os.fstat(file.fileno()).st_size > RESUMABLE_SIZE
        if upload is not None and algorithm is not None and channel.keeps_uploads and is_long:
            return _go_on(channel, file, upload, algorithm, announce)
        hasher = None if algorithm is None else make_hasher(algorithm)
        with closing(_pieces(file, hasher, algorithm)) as pieces:
            number, size = channel.streams.upload(pieces, announce)
    return number, size, None if hasher is None else hasher.digest()


def _sum_of(contents: bytes, algorithm: str | None) -> bytes | None:
    if algorithm is None:
        return None
    hasher = make_hasher(algorithm)
    hasher.update(contents)
    return hasher.digest()


def _go_on(
    channel: Channel, file: FileIO, upload: Resumable, algorithm: str, announce: Announce
) -> tuple[int, int, bytes]:
    """As :func:`_send_on_stream`, with what the server does not have."""
    hasher, whole, is_new = make_hasher(algorithm), upload.whole, upload.is_new
    upload.is_new = False

    def parts_from(offset: int) -> Iterator[memoryview]:
        upload.reached(offset)
        if whole is not None and whole[:2] == (algorithm, offset):
            return iter(())
        _sum_up(file, hasher, offset)
        return cleanup.enter_context(closing(_pieces(file, hasher, algorithm)))

    with ExitStack() as cleanup:
        number, size = channel.streams.go_on(upload.identity, is_new, parts_from, announce)
    if whole is None or whole[:2] != (algorithm, size):
        upload.whole = whole = algorithm, size, hasher.digest()
    return number, size, whole[2]


def _sum_up(file: FileIO, hasher: Hasher, size: int) -> None:
    """Have *hasher* take the first *size* bytes of *file*, which the server has."""
    buffer = memoryview(bytearray(min(PIECE_SIZE, size)))
    while size:
        piece = buffer[: file.readinto(buffer[:size])]
        if not piece:
            raise ClientStorageError("the server has more of a blob than its file has")
        hasher.update(piece)
        size -= len(piece)


def _pieces(
    file: FileIO, hasher: Hasher | None, algorithm: str | None
) -> Generator[memoryview, None, None]:
    """Return what *file* has from where it stands, in parts that are good until the next one is
    asked for.  To be closed: it may have a thread.

    What is summed up is what is sent, byte for byte, whatever becomes of the file meanwhile: so it
    goes through this process's memory, where it has to go to be summed up.

    :param hasher: sums up all parts, until there are no more; by *algorithm*.
    """
    left = os.fstat(file.fileno()).st_size - file.tell()
    goes_aside = is_worthwhile(algorithm, left)
    free = memoryview(bytearray(min(PIECE_SIZE, max(left, 1))))
    used = memoryview(bytearray(PIECE_SIZE)) if goes_aside else free
    aside = Aside() if goes_aside else None
    try:
        while size := file.readinto(free):
            piece = free[:size]
            if hasher is not None:
                job = partial(hasher.update, piece)
                job() if aside is None else aside.do(job)
            yield piece
            free, used = used, free
    finally:
        if aside is not None:
            aside.close()
