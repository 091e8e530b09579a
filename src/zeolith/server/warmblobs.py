"""Short blobs that the system has in memory: read and sent in the step in which they are asked for.

To have a worker open a file, and to go on when it has, takes longer than to read 64 KB.  So the
loop does it itself, where it can be sure that it waits for no disk: the system is asked to open the
file only if all names on the way to it are in memory, and to read only what is.  What it would have
to wait for, and everything that is not as simple, goes the way of all streams
(:class:`~.streams.Streams`), which also says what is wrong.

What is not asked for in this way is the checksum beside the file.  It lies with the inode, which
is in memory when the file could be opened; what the system may have let go of is the block that it
came from, and then it reads that one, as the loop may have to for any record of a FileStorage.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import ZODB.blob
from ZODB.FileStorage import FileStorage

from ..protocol.limits import MAX_STREAMS
from ..protocol.messages import MsgId
from ..protocol.openings import OVERHEAD, serialize_whole
from ..protocol.streamrequests import OpenBlob
from .blobplaces import PATHS
from .blobsums import recall_as
from .sources import AT_ONCE
from .streams import OUTPUT_MARK
from .warmfiles import NEVER, open_warm, read_warm

if TYPE_CHECKING:
    from .session import Session

AT_A_TIME: Final = 4
"""Blobs of one client in one step of the loop: some 80 µs, then it sees to others (R7)."""

_load_blob: Final = ZODB.blob.BlobStorageMixin.loadBlob


class WarmBlobs:
    """The blobs of one storage.  Belongs to the loop's thread.

    :param storage: has its blobs in a directory of its own, and finds them there.
    :param base: that directory.
    :param path_of: returns the path of a blob in it.
    :ivar is_able: whether the system has not said that it does not know how.
    """

    def __init__(self, storage: Any, base: str, path_of: Callable[[bytes, bytes], bytes]) -> None:
        # Whoever has put another method in the place of the class's own wants to be asked.
        self._attributes = vars(storage)
        self._base = os.fsencode(os.path.join(base, ""))
        self._path_of = path_of
        self._room = memoryview(bytearray(AT_ONCE))
        self._sent = 0
        self.is_able = True
        # Here, where waiting is allowed, rather than for the first blob: there are file systems to
        # which opening a file means to ask another host.
        self.read(self._base + os.fsencode(ZODB.blob.LAYOUT_MARKER), AT_ONCE, "")

    def send(self, session: Session, msgid: MsgId, request: OpenBlob) -> bool:
        """Answer *request* and send all of the blob behind the answer, in one piece.

        :returns: whether it is done; if not, nothing is.
        """
        number, oid, serial, offset, credit = request
        connection, codec, streams = session.connection, session.codec, session.streams
        algorithm = codec.checksum
        if (
            not self.is_able
            or offset
            or algorithm is None
            or "loadBlob" in self._attributes
            or len(streams) >= MAX_STREAMS
            or streams.has(number)
            or connection.unsent >= OUTPUT_MARK  # it has to wait for its turn
        ):
            return False
        most = min(credit, AT_ONCE, codec.data_frame, codec.max_payload - OVERHEAD)
        found = self.read(self._base + self._path_of(oid, serial), most, algorithm)
        if found is None:
            return False
        data, checksum = found
        size = len(data)
        session.send(serialize_whole(msgid, number, data, checksum))
        session.stats.blobs.has_sent(size, is_complete=True)
        self._sent += 1
        if not self._sent % AT_A_TIME:
            # All that a client has asked for in advance is handled in one step.
            session.stall("blobs")
            session.lobby.loop.call_soon(session.unstall, "blobs")
        return True

    def read(self, path: bytes, most: int, algorithm: str) -> tuple[memoryview, bytes] | None:
        """Return all of a file and its checksum, or None if that cannot be had without waiting.

        :param most: bytes that it may have.
        :param algorithm: of the checksum.
        :returns: the data, at least one byte, are good until the next call.
        """
        descriptor = -1
        try:
            descriptor = open_warm(path)
            status = os.fstat(descriptor)
            size = status.st_size
            if not 0 < size <= most or not stat.S_ISREG(status.st_mode):
                return None
            data = self._room[:size]
            if read_warm(descriptor, data) != size:
                return None
            # Last: of a file that is not in memory it might not be there either.
            checksum = recall_as(descriptor, algorithm, status)
            return None if checksum is None else (data, checksum)
        except OSError as error:
            if error.errno in NEVER:
                self.is_able = False
            return None
        finally:
            if descriptor >= 0:
                os.close(descriptor)


def find_warm_blobs(storage: Any) -> WarmBlobs | None:
    """Return what sends the short blobs of *storage*; None if it is not known where they are.

    May wait for the disk.  Only classes that are known exactly count: a subclass may find its blobs
    in another way.
    """
    cls = type(storage)
    if cls not in (FileStorage, ZODB.blob.BlobStorage) or cls.loadBlob is not _load_blob:
        return None
    helper = storage.fshelper
    if type(helper) is not ZODB.blob.FilesystemHelper:
        return None
    path_of = PATHS.get(type(helper.layout))
    return None if path_of is None else WarmBlobs(storage, helper.base_dir, path_of)
