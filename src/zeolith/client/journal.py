"""What a transaction with blobs has told its server, so that another connection can be told it.

An upload takes long, and a connection may break in it; all that came before would be in vain.
Nothing that precedes the vote has an effect at the server, and the vote looks at each revision that
was changed or only read.  So all of it may be said again on another connection to the same server,
if that was not started anew meanwhile, and the vote decides as it would have done.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias

from ..protocol.limits import IDENTITY_SIZE, MAX_TRANSACTIONS
from ..protocol.messages import Request

JOURNAL_MARK: Final = 16 * 1024 * 1024
"""Bytes of records that are kept to be said again, by all transactions of a client together; one
that has more of them is over when its connection breaks, and memory stays bounded (R8).  Blobs are
in files and do not count."""

JOURNAL_SHARE: Final = JOURNAL_MARK // MAX_TRANSACTIONS
"""Bytes that each may keep whatever the others have."""

MAX_RESUMPTIONS: Final = 4
"""Connections that one transaction may lose without the server's having more of its blobs than
before: then waiting for a better one is up to whoever commits."""

RESUMPTION_TIME: Final = 5.0
"""Seconds to wait for another connection: a server that restarts is back by then, and a commit is
not held up by one that is gone."""

_OVERHEAD: Final = 200
"""Bytes of an entry besides its record."""

_UPLOAD_OVERHEAD: Final = 400
"""Bytes of what is known of an upload, and of the path of its file."""


class Resumable:
    """The upload of one blob, over as many connections as it takes.  Not thread-safe.

    :param journal: of its transaction.
    :ivar identity: by which the server knows it on all of them.
    :ivar is_new: the server cannot have heard of it.
    :ivar whole: once all of it was sent: algorithm, size and checksum.
    """

    __slots__ = ("_journal", "_reached", "identity", "is_new", "whole")

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._reached = 0
        self.identity = os.urandom(IDENTITY_SIZE)
        self.is_new = True
        self.whole: tuple[str, int, bytes] | None = None

    def reached(self, offset: int) -> None:
        """The server has *offset* bytes: if that is more than before, the connection that was lost
        was of use."""
        if offset > self._reached:
            self._reached = offset
            self._journal.resumptions = 0


class SentBlob(NamedTuple):
    """A blob that was uploaded with its record.

    :ivar path: its file, which is ours until the transaction ends.
    :ivar upload: None if it cannot be gone on with.
    """

    oid: bytes
    serial: bytes | None
    data: bytes
    path: str
    upload: Resumable | None = None


Entry: TypeAlias = "Request | SentBlob"


class Journal:
    """What was said after ``tpc_begin``, in order.  Not thread-safe: the committing thread has it.

    :param tid, status: of the beginning.
    :param together: returns the sizes of all journals of the client, this one's included.
    :ivar entries: what was said.
    :ivar is_complete: whether that is all.
    :ivar resumptions: how often it has been said again since the server had more of its blobs.
    :ivar size: bytes that it takes.
    """

    __slots__ = (
        "_together",
        "entries",
        "is_complete",
        "resumptions",
        "size",
        "status",
        "tid",
    )

    def __init__(self, tid: bytes | None, status: str, together: Callable[[], int]) -> None:
        self._together = together
        self.tid = tid
        self.status = status
        self.entries: list[Entry] = []
        self.is_complete = True
        self.resumptions = 0
        self.size = 0

    def note(self, entry: Entry) -> None:
        """*entry* has been said."""
        if not self.is_complete:
            return
        if isinstance(entry, SentBlob):
            self.size += _OVERHEAD + _UPLOAD_OVERHEAD + len(entry.data)
        else:
            records = (len(field) for field in entry if field.__class__ is bytes)
            self.size += _OVERHEAD + sum(records)
        if self.size > JOURNAL_SHARE and self._together() > JOURNAL_MARK:
            self.end()
        else:
            self.entries.append(entry)

    def end(self) -> None:
        """What was said is not all, or not of use any more: it will not be said again."""
        self.is_complete = False
        self.entries = []
        self.size = 0
