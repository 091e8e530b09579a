"""What changed, put together from a server's pages.  Pure: no socket, no thread."""

from __future__ import annotations

from itertools import islice
from operator import ge
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


class ChangePages(NamedTuple):
    """Where a feed is: which page to ask for next, and what the answer means.

    It does not change: an answer leads to the next one, or to an error and nothing else.

    :ivar position: the transaction up to which all changes have been returned.
    :ivar has_more: whether the server had more when it last answered.
    :ivar part: the transaction that the last page ended within, as far as it is known; None if it
        did not.
    """

    position: bytes
    has_more: bool = False
    part: Change | None = None

    def question(self) -> ChangesSince:
        """Return what to ask next."""
        part = self.part
        return ChangesSince(self.position, PAGE, None if part is None else part.tid + part.oids[-1])

    def take(self, answer: Any) -> tuple[list[Change], ChangePages]:
        """Return the changes of a page, which answers :meth:`question`, and where that leads.

        :raises IllegalMessage: it is none.
        """
        found, last, is_cut, has_more = _parse(answer)
        part = self.part
        if part is not None:
            if found and found[0].tid == part.tid:
                found[0] = Change(part.tid, part.oids + found[0].oids)
            else:
                # The rest of it was packed away meanwhile.
                found.insert(0, part)
        before = self.position
        for change in found:
            _check(change, before)
            before = change.tid
        rest = found.pop() if is_cut else None
        if last < (found[-1].tid if found else self.position) or (rest and last >= rest.tid):
            raise IllegalMessage(f"changes: a page that ends at {last.hex()} has more in it")
        return found, ChangePages(last, has_more, rest)


def _check(change: Change, before: bytes) -> None:
    tid, oids = change
    if tid <= before:
        raise IllegalMessage(f"changes: {tid.hex()} comes after {before.hex()}")
    if len(oids) > MAX_OBJECTS:
        raise IllegalMessage(f"changes: {tid.hex()} has more than {MAX_OBJECTS} objects")
    if any(map(ge, oids, islice(oids, 1, None))):
        raise IllegalMessage(f"changes: objects of {tid.hex()} are not in order")


def _parse(answer: Any) -> tuple[list[Change], bytes, bool, bool]:
    try:
        changes = [Change(tid, _split(oids)) for tid, oids in answer["changes"]]
        last, is_cut, has_more = answer["last"], answer["cut"], answer["more"]
    except (KeyError, TypeError, ValueError) as error:
        raise IllegalMessage(f"changes: no page: {answer!r:.60}") from error
    if not all(type(tid) is bytes and len(tid) == 8 for tid in (last, *(c.tid for c in changes))):
        raise IllegalMessage("changes: a transaction id has not eight bytes")
    if type(is_cut) is not bool or type(has_more) is not bool:
        raise IllegalMessage("changes: a page without a beginning or an end")
    if is_cut and not (changes and changes[-1].oids):
        raise IllegalMessage("changes: a part without objects")
    return changes, last, is_cut, has_more


def _split(oids: Any) -> tuple[bytes, ...]:
    if type(oids) is not bytes or len(oids) % 8:
        raise ValueError("no list of ids")
    return tuple([oids[at : at + 8] for at in range(0, len(oids), 8)])
