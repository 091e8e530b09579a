"""What changed, put together from a server's pages.  Pure: no socket, no thread."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from ..errors import IllegalMessage
from ..protocol.additions import ChangesSince

PAGE: Final = 1000
"""Transactions asked for at once.  What waits for its consumer is one page: a megabyte at most."""

MAX_OBJECTS: Final = 10_000_000
"""Objects in one change, which take half a gigabyte.  None may be left out; a server that goes on
naming more is given up.  (One that announces more has disconnected its clients before.)"""


class Change(NamedTuple):
    """One transaction.

    :ivar tid: its id, eight bytes.
    :ivar oids: ids of the objects that it created or changed, eight bytes each, in ascending order.
    """

    tid: bytes
    oids: tuple[bytes, ...]


class ChangePages:
    """Where a feed is: which page to ask for next, and what the answer means.

    :param position: the transaction after which changes are wanted.
    :ivar position: the transaction up to which all changes have been returned.
    :ivar has_more: whether the server had more when it last answered.
    """

    def __init__(self, position: bytes) -> None:
        self.position = position
        self.has_more = False
        self._cut_tid = b""
        self._cut_oids: list[bytes] = []

    def question(self) -> ChangesSince:
        """Return what to ask next."""
        cut = self._cut_tid + self._cut_oids[-1] if self._cut_tid else None
        return ChangesSince(self.position, PAGE, cut)

    def take(self, answer: Any) -> list[Change]:
        """Return the changes of a page, which is the answer to :meth:`question`.

        :raises IllegalMessage: it is none.
        """
        changes, last, is_cut, has_more = _parse(answer)
        before = self.position
        found: list[Change] = []
        for at, (tid, oids) in enumerate(changes):
            if tid <= before:
                raise IllegalMessage(f"changes: {tid.hex()} comes after {before.hex()}")
            before = tid
            if self._cut_tid:
                if tid == self._cut_tid:
                    oids = self._cut_oids + oids
                else:
                    # The rest of it was packed away meanwhile.
                    found.append(self._finish())
            if len(oids) > MAX_OBJECTS:
                raise IllegalMessage(f"changes: {tid.hex()} has more than {MAX_OBJECTS} objects")
            self._cut_tid, self._cut_oids = tid, oids
            if not is_cut or at < len(changes) - 1:
                found.append(self._finish())
        if not changes and self._cut_tid:
            found.append(self._finish())
        if last < (found[-1].tid if found else self.position) or (is_cut and last >= before):
            raise IllegalMessage(f"changes: a page that ends at {last.hex()} has more in it")
        self.position = last
        self.has_more = has_more
        return found

    def _finish(self) -> Change:
        change = Change(self._cut_tid, tuple(self._cut_oids))
        self._cut_tid, self._cut_oids = b"", []
        if any(a >= b for a, b in zip(change.oids, change.oids[1:])):
            raise IllegalMessage(f"changes: objects of {change.tid.hex()} are not in order")
        return change


def _parse(answer: Any) -> tuple[list[tuple[bytes, list[bytes]]], bytes, bool, bool]:
    try:
        changes = [(tid, _split(oids)) for tid, oids in answer["changes"]]
        last, is_cut, has_more = answer["last"], answer["cut"], answer["more"]
    except (KeyError, TypeError, ValueError) as error:
        raise IllegalMessage(f"changes: no page: {answer!r:.60}") from error
    if not all(type(tid) is bytes and len(tid) == 8 for tid in (last, *(c[0] for c in changes))):
        raise IllegalMessage("changes: a transaction id has not eight bytes")
    if type(is_cut) is not bool or type(has_more) is not bool or (is_cut and not changes[-1:]):
        raise IllegalMessage("changes: a page without a beginning or an end")
    if is_cut and not changes[-1][1]:
        raise IllegalMessage("changes: a part without objects")
    return changes, last, is_cut, has_more


def _split(oids: Any) -> list[bytes]:
    if type(oids) is not bytes or len(oids) % 8:
        raise ValueError("no list of ids")
    return [oids[at : at + 8] for at in range(0, len(oids), 8)]
