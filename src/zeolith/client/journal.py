"""What a transaction with blobs has told its server, so that another connection can be told it.

An upload takes long, and a connection may break in it; all that came before would be in vain.
Nothing that precedes the vote has an effect at the server, and the vote looks at each revision that
was changed or only read.  So all of it may be said again on another connection to the same server,
if that was not started anew meanwhile, and the vote decides as it would have done.
"""

from __future__ import annotations

from typing import Final, NamedTuple, TypeAlias

from ..protocol.messages import Request

JOURNAL_MARK: Final = 16 * 1024 * 1024
"""Bytes of records that are kept to be said again; a transaction with more of them is over when its
connection breaks, and memory stays bounded (R8).  Blobs are in files and do not count."""

MAX_RESUMPTIONS: Final = 4
"""Connections that one transaction may lose: if each of them is lost in the same upload, waiting
for a better one is up to whoever commits."""

RESUMPTION_TIME: Final = 5.0
"""Seconds to wait for another connection: a server that restarts is back by then, and a commit is
not held up by one that is gone."""

_OVERHEAD: Final = 200
"""Bytes of an entry besides its record."""


class SentBlob(NamedTuple):
    """A blob that was uploaded with its record.

    :ivar path: its file, which is ours until the transaction ends.
    """

    oid: bytes
    serial: bytes | None
    data: bytes
    path: str


Entry: TypeAlias = "Request | SentBlob"


class Journal:
    """What was said after ``tpc_begin``, in order.  Not thread-safe: the committing thread has it.

    :param tid, status: of the beginning.
    :ivar entries: what was said.
    :ivar is_complete: whether that is all.
    :ivar resumptions: how often it has been said again.
    """

    __slots__ = (
        "_size",
        "entries",
        "is_complete",
        "resumptions",
        "status",
        "tid",
    )

    def __init__(self, tid: bytes | None, status: str) -> None:
        self.tid = tid
        self.status = status
        self.entries: list[Entry] = []
        self.is_complete = True
        self.resumptions = 0
        self._size = 0

    def note(self, entry: Entry) -> None:
        """*entry* has been said."""
        if not self.is_complete:
            return
        records = (len(field) for field in entry if field.__class__ is bytes)
        self._size += _OVERHEAD + sum(records)
        if self._size > JOURNAL_MARK:
            self.end()
        else:
            self.entries.append(entry)

    def end(self) -> None:
        """What was said is not all, or not of use any more: it will not be said again."""
        self.is_complete = False
        self.entries = []
