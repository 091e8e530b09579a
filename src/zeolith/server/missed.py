"""Answering what a client has missed: from the log, else from the storage, else not at all.

The answer is complete up to the last transaction that had been announced when the question came;
what was announced since the client has been told, because it is registered.  What takes long is
done on a worker.  A client that gets no answer verifies what it has, object by object if it can.

After a night many clients come at once, and wait for one after the other: so each has one question
at a time, nobody reads for a client that is gone, and those who ask the same share one reading.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias

from persistent.TimeStamp import TimeStamp

from .access import StorageAccess
from .history import can_iterate, open_history
from .invalidations import Entry, split
from .past import past_of
from .workers import Done

if TYPE_CHECKING:
    from .session import Session

logger = logging.getLogger(__name__)

Missed: TypeAlias = tuple[bytes, list[bytes]]
"""The last transaction, and the objects that were changed up to it."""

QUICK_BYTES: Final = 64 * 1024
"""Bytes of object ids, and a tenth as many transactions, that are gone through on the event loop:
it takes about a millisecond."""

MISSED_OBJECTS: Final = 250_000
"""Objects in an answer, which is made on the event loop: ten milliseconds and 2.5 megabytes.  Who
missed more is served better by a verification."""

MISSED_SECONDS: Final = 5.0
"""Seconds for reading what a client missed from a storage: from a FileStorage some hundred thousand
transactions.  The client waits for the answer, and others for the thread."""


class Reading:
    """What a storage says that was changed after a transaction, for all who ask at the same time.

    Any thread.

    :param tid: the transaction.
    :param last_tid: the last one; it has been announced.
    """

    def __init__(self, access: StorageAccess, tid: bytes, last_tid: bytes) -> None:
        self._access = access
        self._tid = tid
        self._last_tid = last_tid
        self._lock = threading.Lock()  # guards the answer, while it is found out
        self._answers: list[Missed | None] = []

    def answer(self) -> Missed | None:
        """Return the answer; see :func:`read_missed`.  Runs on a worker thread."""
        with self._lock:
            if not self._answers:
                self._answers.append(read_missed(self._access, self._tid, self._last_tid))
            return self._answers[0]


def find_missed(session: Session, tid: bytes, done: Done) -> None:
    """Find out what changed after *tid*: *done* gets a :data:`Missed`, or None if it is unknown.

    Called on the loop's thread, and so is *done*.
    """
    service = session.service
    service.publisher.drain()
    last_tid = service.log.last_tid
    entries = service.log.after(tid)
    if entries is not None:
        size = sum([len(oids) for _, oids in entries])
        if size + 10 * len(entries) <= QUICK_BYTES:
            done(_collect(entries, last_tid), None)
        else:
            past_of(session).submit(partial(_collect, entries, last_tid), done)
    elif _is_younger(tid, service.options.invalidation_age) and can_iterate(service.access):
        key = tid, last_tid
        reading = service.readings.get(key)
        if reading is None:
            service.readings[key] = reading = Reading(service.access, tid, last_tid)
        past_of(session).submit(reading.answer, done)
    else:
        done(None, None)


def _is_younger(tid: bytes, age: float | None) -> bool:
    if not age:
        return False
    try:
        then = TimeStamp(tid).timeTime()
    except ValueError:  # eight bytes that are no time
        return False
    return bool(time.time() - then < age)


def _collect(entries: Iterable[Entry], last_tid: bytes) -> Missed | None:
    """Any thread: *entries* do not change."""
    changed: dict[bytes, None] = {}
    for _, oids in entries:
        changed.update(dict.fromkeys(split(oids)))
        if len(changed) > MISSED_OBJECTS:
            return None
    return last_tid, list(changed)


def read_missed(
    access: StorageAccess, tid: bytes, last_tid: bytes, seconds: float = MISSED_SECONDS
) -> Missed | None:
    """Read from the storage what changed after *tid*, up to *last_tid*; None if that is too much
    work, or cannot be done.  Runs on a worker thread.

    :param last_tid: it has been announced.
    :param seconds: that it may take.
    """
    deadline = time.monotonic() + seconds
    changed: set[bytes] = set()
    try:
        history = open_history(access, tid, last_tid)
        try:
            while (transaction := history.peek()) is not None:
                for oid in transaction.oids():
                    changed.add(oid)
                    # One transaction may have changed millions.
                    if len(changed) > MISSED_OBJECTS or time.monotonic() > deadline:
                        return None
                history.take()
        finally:
            history.close()
    except Exception as error:  # noqa: BLE001 - whatever it is, the client can do without
        logger.warning("storage %r: its history cannot be read: %s", access.name, error)
        return None
    return last_tid, list(changed)
