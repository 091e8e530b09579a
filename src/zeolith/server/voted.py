"""Blobs that are not committed yet: what a server that was killed has left of them.

What arrives is in files of the blob directory's temporary directory, with a name by which the next
server knows them for its predecessor's.

A storage gives the file of a blob its final name before the transaction is committed.  A server
that is killed then, or a copy to another disk that fails half-way, leaves a file that nobody knows
of any more.  So what is about to get its name is written down first, in the temporary directory
beside the blobs (``zeolith-voting``), and the list goes with the end of the transaction.

Two servers never have one such directory: the FileStorage beside it is locked.

What a list names is removed only if the storage has no such revision.  Nothing of it is flushed:
the list has to outlive the process; what a power failure leaves is lost room at worst.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from typing import Any, Final

from ZODB.POSException import POSKeyError

UPLOAD_PREFIX: Final = "zeolith-upload-"
"""How the names of the files begin that blobs arrive in."""

LIST_NAME: Final = "zeolith-voting"

logger = logging.getLogger(__name__)


class VotedBlobs:
    """What one blob directory has of the transaction that is being voted on.

    Belongs to whoever has the storage's commit lock.

    :param storage: follows ZODB's BlobStorageMixin, and nobody else writes to its directory.
    """

    def __init__(self, storage: Any) -> None:
        self._storage = storage
        self._path = os.path.join(storage.fshelper.temp_dir, LIST_NAME)
        self._entries: dict[tuple[bytes, bytes], None] = {}

    def note_stored(self, oids: Iterable[bytes]) -> None:
        """The blobs of *oids* are about to be stored in the transaction that was begun.

        :raises OSError: that cannot be written down.
        """
        tid = self._storage._tid
        self._note((oid, tid) for oid in oids)

    def note_made(self) -> None:
        """The storage itself has made blobs, as an undo does.

        :raises OSError: as :meth:`note_stored`.
        """
        self._note(self._storage.dirty_oids)

    def _note(self, entries: Iterable[tuple[bytes, bytes]]) -> None:
        news = [entry for entry in entries if entry not in self._entries]
        if not news:
            return
        # Before it is on the disk: what cannot be written is looked for all the same.
        self._entries.update(dict.fromkeys(news))
        lines = "".join(f"{oid.hex()} {tid.hex()}\n" for oid, tid in news)
        with open(self._path, "a", encoding="ascii") as file:
            file.write(lines)

    def committed(self) -> None:
        """The transaction is committed: its blobs stay.

        Never raises: nothing may fail any more.
        """
        if self._entries:
            self._entries = {}
            self._unlink()

    def aborted(self) -> None:
        """The storage has forgotten the transaction: remove what it has left.

        :raises OSError: a file cannot be removed; the list stays.
        """
        if self._entries:
            for oid, tid in self._entries:
                self._remove(oid, tid)
            self._entries = {}
            self._unlink()

    def recover(self) -> None:
        """Remove what a server that was killed has left; the storage has just been opened.

        :raises OSError: a file cannot be read or removed.
        """
        self._recover_uploads()
        self._recover_voted()

    def _recover_uploads(self) -> None:
        directory = self._storage.fshelper.temp_dir
        names = [name for name in os.listdir(directory) if name.startswith(UPLOAD_PREFIX)]
        for name in names:
            os.remove(os.path.join(directory, name))
        if names:
            logger.warning("removed %d files of broken uploads from %s", len(names), directory)

    def _recover_voted(self) -> None:
        try:
            with open(self._path, "rb") as file:
                lines = file.read().splitlines()
        except FileNotFoundError:
            return
        for line in lines:
            try:
                oid, tid = map(bytes.fromhex, line.decode("ascii").split())
            except ValueError:
                continue  # cut off: nothing was done with it
            if len(oid) == len(tid) == 8:
                self._remove(oid, tid)
        self._unlink()

    def _remove(self, oid: bytes, tid: bytes) -> None:
        path = self._storage.fshelper.getBlobFilename(oid, tid)
        if not os.path.lexists(path):
            return
        try:
            self._storage.loadSerial(oid, tid)
        except POSKeyError:
            os.remove(path)
            logger.warning("removed %s, a blob that was not committed", path)

    def _unlink(self) -> None:
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            pass
        except OSError as error:
            # The next transaction writes to its end, and a start looks at each entry.
            logger.error("cannot remove %s: %s", self._path, error)
