"""Answering what changed: ``changes_since``, page by page.

What the invalidation log remembers comes from there, everything older from the storage, on a
worker.  Where a client goes on with the next page its *history* is kept open, because to find the
place again may mean to read half of a file.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from functools import partial
from typing import Final, NamedTuple

from ..errors import HistoryLost, ServerBehindCache
from ..protocol import messages as m
from ..protocol.additions import ChangesSince
from .access import StorageAccess
from .history import History, LoggedTransaction, can_iterate, open_history
from .past import Past, past_of
from .session import Session

logger = logging.getLogger(__name__)

PAGE_TRANSACTIONS: Final = 10_000
"""Transactions in one page, however many a client asks for."""

PAGE_BYTES: Final = 1024 * 1024
"""Bytes of one page, unless the client accepts less in one message: some 130,000 objects.  What a
transaction has above that comes with the next page."""

PAGE_SECONDS: Final = 1.0
"""Seconds for reading one page from a storage.  It ends then behind the transaction at hand, so
that others who wait for a worker get their turn."""

QUICK_OBJECTS: Final = 1000
"""Transactions and objects in a page that is made on the event loop: it takes less than half a
millisecond."""

_PAGE_OVERHEAD: Final = 128
"""Bytes of an answer without its changes."""

_CHANGE_OVERHEAD: Final = 24
"""Bytes of a change without its objects."""

_ATTEMPTS: Final = 20
_PAUSE: Final = 0.05
"""Seconds between attempts to read a page.  ZODB's iterator over a FileStorage may find no
beginning while a transaction is being written, and what a storage keeps in memory may change under
an iterator."""


class Question(NamedTuple):
    """What a page has to answer.

    :ivar tid: the transaction after which it begins.
    :ivar limit: transactions in it at most.
    :ivar cut_tid: the transaction of which the client has a part; empty for none.
    :ivar cut_oid: the last object of that part.
    :ivar size: bytes of the answer at most.
    """

    tid: bytes
    limit: int
    cut_tid: bytes
    cut_oid: bytes
    size: int


class Page(NamedTuple):
    """A part of what changed.

    :ivar changes: transactions and the objects that each changed, in ascending order.
    :ivar last: the transaction up to which this is complete.
    :ivar is_cut: whether the last change is only a part of its transaction.
    """

    changes: list[tuple[bytes, bytes]]
    last: bytes
    is_cut: bool


def make_page(history: History, question: Question, seconds: float = PAGE_SECONDS) -> Page:
    """Return the next page of *history*.  Any thread.

    :param seconds: no further transaction is begun after so many.
    """
    deadline = time.monotonic() + seconds
    room = question.size - _PAGE_OVERHEAD
    most = (room - _CHANGE_OVERHEAD) // 8
    changes: list[tuple[bytes, bytes]] = []
    is_cut = False
    while not is_cut and len(changes) < question.limit:
        transaction = history.peek()
        if transaction is None:
            return Page(changes, history.stop, False)
        after = question.cut_oid if transaction.tid == question.cut_tid else b""
        oids, is_cut = _collect(transaction.oids(), after, most)
        size = _CHANGE_OVERHEAD + 8 * len(oids)
        if changes and (is_cut or size > room):
            is_cut = False
            break
        changes.append((transaction.tid, b"".join(oids)))
        room -= size
        if not is_cut:
            history.take()
        if time.monotonic() >= deadline:
            break
    return Page(changes, history.position, is_cut)


def _collect(oids: Iterable[bytes], after: bytes, most: int) -> tuple[list[bytes], bool]:
    """Return the *most* smallest different ids that are greater than *after*, in order, and
    whether there are more.  Takes memory for twice as many, however many there are."""
    found: list[bytes] = []
    is_cut = False
    for oid in oids:
        if oid > after:
            found.append(oid)
            if len(found) > 2 * most:
                found = sorted(set(found))
                is_cut = is_cut or len(found) > most
                del found[most:]
    found = sorted(set(found))
    return found[:most], is_cut or len(found) > most


def changes_since(session: Session, msgid: m.MsgId, request: ChangesSince) -> None:
    """Answer with the next page.

    :raises ServerBehindCache: the client has seen more than there is.
    :raises HistoryLost: nobody knows.
    """
    service = session.service
    service.publisher.drain()
    announced = service.log.last_tid
    if request.tid > announced:
        raise ServerBehindCache(announced, request.tid)
    question = _question(session, request)
    entries = service.log.after(request.tid, question.limit)
    if entries is None:
        if not can_iterate(service.access):
            raise HistoryLost(request.tid, service.log.floor)
        _read(session, msgid, question, announced)
        return
    stop = announced if len(entries) < question.limit else entries[-1][0]
    transactions = (LoggedTransaction(*entry) for entry in entries)
    history = History(transactions, request.tid, stop)
    if sum(len(oids) // 8 + 1 for _, oids in entries) <= QUICK_OBJECTS:
        _answer(session, msgid, make_page(history, question))
    else:
        session.began()
        job = partial(make_page, history, question)
        past_of(session).submit(job, partial(_made, session, msgid))


def _question(session: Session, request: ChangesSince) -> Question:
    cut = request.cut or b""
    size = min(PAGE_BYTES, session.codec.max_payload)
    limit = min(request.limit, PAGE_TRANSACTIONS)
    return Question(request.tid, limit, cut[:8], cut[8:], size)


def _made(session: Session, msgid: m.MsgId, page: Page | None, error: Exception | None) -> None:
    if session.is_lost:
        return
    if page is None:
        assert error is not None
        session.fault(msgid, error)
    else:
        _answer(session, msgid, page)
    session.ended()


def _answer(session: Session, msgid: m.MsgId, page: Page) -> None:
    value = {
        "changes": page.changes,
        "last": page.last,
        "cut": page.is_cut,
        # Of what has been announced by now; what is announced later the client will hear of.
        "more": page.last < session.service.log.last_tid,
    }
    session.reply(msgid, value)


# -- from the storage --------------------------------------------------------------------------


def _read(session: Session, msgid: m.MsgId, question: Question, announced: bytes) -> None:
    """Read a page from the storage, on a worker."""
    session.began()
    past = past_of(session)
    job = partial(_read_page, past, session.service.access, question, announced)
    past.submit(job, partial(_made, session, msgid))


def _read_page(past: Past, access: StorageAccess, question: Question, announced: bytes) -> Page:
    """Runs on a worker thread; leaves the history for the next page if there is more in it."""
    history, past.history = past.history, None
    if history is not None and history.position != question.tid:
        history.close()
        history = None
    for _ in range(_ATTEMPTS - 1):
        try:
            page, past.history = _attempt(access, history, question, announced)
        except (ValueError, RuntimeError) as error:
            logger.debug("storage %r: reading its history again: %s", access.name, error)
        else:
            return page
        history = None
        time.sleep(_PAUSE)
    page, past.history = _attempt(access, history, question, announced)
    return page


def _attempt(
    access: StorageAccess, history: History | None, question: Question, announced: bytes
) -> tuple[Page, History | None]:
    if history is None:
        history = open_history(access, question.tid, announced)
    try:
        page = make_page(history, question)
    except BaseException:
        history.close()
        raise
    if page.last == history.stop:
        history.close()
        return page, None
    history.rest()
    return page, history
