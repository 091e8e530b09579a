"""Uploads that outlive their connection: each is known by an identity that its client has made.

Such an upload belongs to the session on which it arrives.  When that one's connection is cut off,
what has come to disk is *parked* for a while: the file is closed, its unfinished checksum stays in
memory, and on the client's next connection the upload goes on behind the last byte.

**Order.**  The jobs that write a file are on its session's lane of uploads.  Another session gets
it only when the last of them has ended, so no two ever write to it.  A client that asks for an
upload whose connection we still take for alive has evidently left that one, and it is closed.

**Who may.**  An upload is found by its identity, on its storage, and by the user that it came from.
Where no users are known the identity is the secret; so it is never logged.  For anybody else there
is no such upload, and he begins one of his own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from .peerlog import PeerName, peer_logger
from .upload import Upload
from .workers import WorkerPool

if TYPE_CHECKING:
    from .session import Session

logger = peer_logger(__name__)

PARK_TIME: Final = 60
"""Seconds for which an upload is kept that was cut off.  Its client tries to be back within 5, but
may notice the cut later than the server does."""

MAX_PARKED: Final = 1024
"""Uploads of one storage that are parked in all.  Each takes a file on the disk, and about 4 KB of
memory."""

MAX_PARKED_EACH: Final = 256
"""Those of one user, or of one address if users are not known.  Also, how many of the blobs that a
client's transactions have are parked if its connection is cut off; the others are sent again."""

_SIZES: Final = 2
"""How many blobs of the greatest length may be parked in all; of one user or address it is one.  So
the disk that is taken for nothing is bounded, and each blob can be gone on with."""

Answer: TypeAlias = Callable[[Upload | None], None]
"""Gets the upload, which belongs to the asking session then; None if there is none."""


class _Waiter(NamedTuple):
    session: Session
    answer: Answer


_Key: TypeAlias = tuple[str | None, bytes]
"""User, if known, and identity."""


class Ticket:
    """One upload that has an identity.

    :ivar session: whom it belongs to; None: its connection was cut off.
    """

    __slots__ = ("key", "peer", "session", "size", "timer", "upload", "waiter")

    def __init__(self, key: _Key, session: Session, upload: Upload) -> None:
        self.key = key
        self.upload = upload
        self.session: Session | None = session
        self.peer = key[0] or _origin(session)
        self.size = 0  # while it is parked
        self.timer: asyncio.TimerHandle | None = None
        self.waiter: _Waiter | None = None


class Parking:
    """All uploads to one storage that have an identity.  Belongs to the loop's thread.

    :param loop: knows the time.
    :param pool: removes files.
    :param max_blob_size: bytes of the longest blob.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, pool: WorkerPool, max_blob_size: int
    ) -> None:
        self._loop = loop
        self._pool = pool
        self._max_blob_size = max_blob_size
        self._is_closed = False
        self._tickets: dict[_Key, Ticket] = {}
        self._parked: dict[_Key, Ticket] = {}

    def __len__(self) -> int:
        """How many uploads are parked."""
        return len(self._parked)

    @property
    def size(self) -> int:
        """Bytes of the uploads that are parked."""
        return sum(ticket.size for ticket in self._parked.values())

    # -- for the session that has an upload ------------------------------------------------------

    def knows(self, session: Session, identity: bytes) -> bool:
        """Whether there is an upload with *identity* that the client of *session* may have."""
        return _key(session, identity) in self._tickets

    def enlist(self, session: Session, identity: bytes, upload: Upload) -> None:
        """*upload*, which has just been begun, has an identity that is not known here."""
        key = _key(session, identity)
        assert key not in self._tickets
        upload.ticket = self._tickets[key] = Ticket(key, session, upload)

    def forget(self, upload: Upload) -> None:
        """*upload* is about to be removed, or the storage has it: if it has an identity, that means
        nothing any more."""
        ticket, upload.ticket = upload.ticket, None
        if ticket is not None and self._tickets.get(ticket.key) is ticket:
            self._release(ticket)

    # -- a cut -----------------------------------------------------------------------------------

    def park(self, uploads: Iterable[Upload]) -> None:
        """The connection on which *uploads* were has been cut off: nobody else has them any more.

        They are kept, or discarded, when the jobs of their session that are on their way have
        ended.
        """
        for upload in uploads:
            ticket = upload.ticket
            assert ticket is not None
            session, ticket.session = ticket.session, None
            assert session is not None
            assert session.uploads is not None
            if self._is_closed:
                self._discard(ticket)
                continue
            session.uploads.submit(upload.rest, partial(self._rested, ticket))

    def _rested(self, ticket: Ticket, result: None, error: Exception | None) -> None:
        if self._tickets.get(ticket.key) is not ticket:
            return  # discarded meanwhile
        upload, waiter = ticket.upload, ticket.waiter
        is_wanted = waiter is not None and not waiter.session.is_lost
        is_good = error is None and upload.error is None and upload.written > 0
        if not is_good or not (is_wanted or self._has_room(ticket)):
            self._discard(ticket)
            return
        if is_wanted:
            self._hand_over(ticket)
            return
        ticket.waiter = None
        ticket.size = upload.written
        self._parked[ticket.key] = ticket
        ticket.timer = self._loop.call_later(PARK_TIME, self._discard, ticket)

    def _has_room(self, ticket: Ticket) -> bool:
        each = [other.size for other in self._parked.values() if other.peer == ticket.peer]
        size, limit = ticket.upload.written, self._max_blob_size
        return (
            len(self._parked) < MAX_PARKED
            and len(each) < MAX_PARKED_EACH
            and sum(each) + size <= limit
            and self.size + size <= _SIZES * limit
        )

    # -- for the session that goes on ------------------------------------------------------------

    def take(self, session: Session, identity: bytes, answer: Answer) -> None:
        """Let the client of *session* go on with the upload that it knows by *identity*.

        :param answer: called now or later; never if the session is lost before.
        :raises ValueError: the session has it, or waits for it.
        """
        ticket = self._tickets.get(_key(session, identity))
        if ticket is None:
            answer(None)
            return
        # Whoever has it, and whoever waits for it.
        others = [ticket.session, None if ticket.waiter is None else ticket.waiter.session]
        if session in others:
            raise ValueError("an upload with this identity is open on this connection")
        ticket.waiter = _Waiter(session, answer)
        if ticket.key in self._parked:
            self._hand_over(ticket)
            return
        # Else its session comes to its end now, or jobs of it are on their way.
        for other in others:
            if other is not None and not other.is_lost:
                other.leave("its client goes on with an upload on another connection")

    def _hand_over(self, ticket: Ticket) -> None:
        waiter = ticket.waiter
        assert waiter is not None
        upload = ticket.upload
        if upload.algorithm != waiter.session.codec.checksum:
            # What is there was summed up for other peers.
            self._discard(ticket)
            return
        ticket.waiter = None
        self._unpark(ticket)
        ticket.session = waiter.session
        waiter.answer(upload)

    # -- the end ---------------------------------------------------------------------------------

    def close(self) -> None:
        """Discard what belongs to no session, and keep nothing any more."""
        self._is_closed = True
        for ticket in list(self._tickets.values()):
            if ticket.session is None:
                self._discard(ticket)

    def _discard(self, ticket: Ticket) -> None:
        upload = ticket.upload
        upload.ticket = None
        self._pool.submit(upload.discard)
        self._release(ticket)

    def _release(self, ticket: Ticket) -> None:
        del self._tickets[ticket.key]
        self._unpark(ticket)
        waiter, ticket.waiter = ticket.waiter, None
        if waiter is not None and not waiter.session.is_lost:
            waiter.answer(None)

    def _unpark(self, ticket: Ticket) -> None:
        self._parked.pop(ticket.key, None)
        ticket.size = 0
        timer, ticket.timer = ticket.timer, None
        if timer is not None:
            timer.cancel()


def _key(session: Session, identity: bytes) -> _Key:
    user = session.connection.user
    return (None if user is None else user.name), identity


def _origin(session: Session) -> str:
    address = session.connection.address
    return address.origin if isinstance(address, PeerName) else address
