"""Answering which of a client's objects are out of date: ``verify_many``.

Checks run on a worker, in slices between which others get their turn.  They begin after the
answer's transaction was announced, so a record that is found current was so then; one that has been
written since is reported, for which the client would get an invalidation anyway.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from ZODB.POSException import POSKeyError

from ..protocol import messages as m
from ..protocol.additions import PAIR_SIZE, VerifyMany
from .access import StorageAccess, wrapped_by_blobs
from .filereader import FileTids, can_read_directly
from .past import past_of
from .session import Session

SLICE_PAIRS: Final = 2048
"""Pairs checked at once: a few milliseconds of a FileStorage, a quarter of a second of a storage
that has to ask a database for each."""


class Verification:
    """One question of one client.

    :param session: who asks.
    :param pairs: object and transaction ids, 16 bytes each.
    :param tid: the last transaction announced when the question came.
    """

    def __init__(self, session: Session, msgid: m.MsgId, pairs: bytes, tid: bytes) -> None:
        self._session = session
        self._msgid = msgid
        self._pairs = pairs
        self._tid = tid
        self._at = 0
        self._stale: list[bytes] = []

    def run(self) -> None:
        """Check the next slice, or answer."""
        service = self._session.service
        if self._session.is_lost:
            self._end()
        elif self._at >= len(self._pairs):
            self._session.reply(self._msgid, (self._tid, b"".join(self._stale)))
            self._end()
        else:
            end = self._at + SLICE_PAIRS * PAIR_SIZE
            pairs, self._at = self._pairs[self._at : end], end
            past_of(self._session).submit(partial(find_stale, service.access, pairs), self._found)

    def _found(self, stale: list[bytes] | None, error: Exception | None) -> None:
        if error is not None:
            self._session.fault(self._msgid, error)
            self._end()
        else:
            self._stale += stale or ()  # none of a client that is gone
            self.run()

    def _end(self) -> None:
        self._session.service.verifying -= 1
        self._session.ended()


def verify_many(session: Session, msgid: m.MsgId, request: VerifyMany) -> None:
    """Answer with the transaction as of which, and the objects that are out of date."""
    service = session.service
    service.publisher.drain()
    service.verifying += 1
    session.began()
    Verification(session, msgid, request.pairs, service.log.last_tid).run()


def find_stale(access: StorageAccess, pairs: bytes) -> list[bytes]:
    """Return the objects whose current revision is another one than *pairs* says, or that have
    none.  Runs on a worker thread.

    :raises Unsupported: the storage cannot tell.
    """
    storage = wrapped_by_blobs(access.storage)
    if not can_read_directly(storage):
        return _compare(access.method("getTid"), pairs)
    tids = FileTids(storage)
    try:
        return _compare(tids.get_tid, pairs)
    finally:
        tids.close()


def _compare(get_tid: Callable[[bytes], bytes], pairs: bytes) -> list[bytes]:
    stale = []
    for at in range(0, len(pairs), PAIR_SIZE):
        oid = pairs[at : at + 8]
        try:
            tid: bytes | None = get_tid(oid)
        except POSKeyError:
            tid = None
        if tid != pairs[at + 8 : at + PAIR_SIZE]:
            stale.append(oid)
    return stale
