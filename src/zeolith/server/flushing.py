"""The files of a transaction's blobs on their way to the disk, many at a time (R4).

A file system has much to do for a flush, and very little for those that follow at once.  So
complete files wait, with what they hold already on its way, until many are together or the vote
needs them.  They stay open: what the disk says of a file that was closed may be forgotten before
it is flushed.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from .session import Session
    from .transactions import Transaction
    from .upload import Upload

BATCH: Final = 64
"""Complete files of one client that wait at most: each is open (R8)."""

_THREADS: Final = 4
"""How many are flushed at once; more bring nothing to the disks that we have seen."""

_LEAST: Final = 4
"""Fewer than that are flushed sooner than threads are started."""

_ALONE: Final = 0.002
"""Seconds in which one thread does what it can alone, if all of it is short: the first flush takes
a while on any disk, and those behind it are quicker than other threads on a quick one."""

_SLOW: Final = 0.0001
"""Seconds that one takes for which, on the average, there is use for other threads."""

_LONG: Final = 1024 * 1024
"""Bytes of a file that is not short."""

_T = TypeVar("_T")


def add(session: Session, transaction: Transaction, upload: Upload) -> None:
    """*upload*, a file of *transaction*, is about to be complete: flush it before the vote."""
    transaction.unflushed.append(upload)
    transactions = session.transactions.values()
    if sum(len(found.unflushed) for found in transactions) >= BATCH:
        for found in transactions:
            if found.unflushed:
                _flush(session, found)


def flush_rest(session: Session, transaction: Transaction, then: Callable[[], None]) -> bool:
    """Call *then* when all files of *transaction* are on disk, or it has failed.

    Return false, and do nothing, if they are.
    """
    if not transaction.unflushed:
        return False
    _flush(session, transaction)
    transaction.when_complete(then)
    return True


def _flush(session: Session, transaction: Transaction) -> None:
    uploads, transaction.unflushed = transaction.unflushed, []
    transaction.flushing += uploads
    assert session.uploads is not None
    transaction.wait()
    are_short = all(upload.size < _LONG for upload in uploads)
    session.uploads.submit(
        partial(do_all, _flush_one, uploads, are_short),
        partial(_flushed, transaction, uploads),
        len(uploads),
    )


def _flush_one(upload: Upload) -> None:
    if upload.error is not None:
        return
    try:
        upload.flush()
    except OSError as error:
        upload.error = upload.error or error


def _flushed(
    transaction: Transaction, uploads: list[Upload], result: None, error: Exception | None
) -> None:
    if error is not None:
        transaction.fail(error)
    for upload in uploads:
        if upload.error is not None:
            transaction.fail(upload.error)
        if upload.flushed is not None:
            transaction.flushed.add(upload.flushed)
    # What could not be flushed, or was not because its client has gone, is still open and stays.
    closed = {id(upload) for upload in uploads if not upload.is_open}
    transaction.flushing = [upload for upload in transaction.flushing if id(upload) not in closed]
    transaction.go_on()


def do_all(action: Callable[[_T], object], items: Sequence[_T], are_short: bool = False) -> None:
    """Call *action* with each of *items*, in some threads and in this one.  Blocks.

    :param are_short: perhaps this one is done with them before others have begun.
    :raises Exception: the first that *action* raises; the rest is not begun then.
    """
    waiting = deque(items)
    errors: list[Exception] = []

    def work(is_enough: Callable[[], bool]) -> None:
        while not errors:
            try:
                item = waiting.popleft()
            except IndexError:
                return
            try:
                action(item)
            except Exception as error:  # noqa: BLE001 - raised below
                errors.append(error)
            if is_enough():
                return

    helpers = []
    began = monotonic()

    def needs_help() -> bool:
        spent = monotonic() - began
        return spent > max(_ALONE, _SLOW * (len(items) - len(waiting)))

    if are_short:
        work(needs_help)
    if len(waiting) >= _LEAST:
        for _ in range(_THREADS - 1):
            helper = threading.Thread(
                target=work, args=(_never,), name="zeolith-flush", daemon=True
            )
            helpers.append(helper)
            helper.start()
    work(_never)
    for helper in helpers:
        helper.join()
    if errors:
        raise errors[0]


def _never() -> bool:
    return False
