"""What became of a transaction: the answer to :class:`.Outcome`."""

from __future__ import annotations

from enum import Enum
from typing import Any, NamedTuple

from ..errors import IllegalMessage

_MAX_REASON = 500
"""Characters of a reason that count."""


class State(Enum):
    """What became of it, as it is called on the wire."""

    COMMITTED = "committed"
    """It is in the database, on disk, and visible."""

    NOT_COMMITTED = "not committed"
    """It is not in the database and never will be."""

    UNKNOWN = "unknown"
    """The server cannot tell."""


class Verdict(NamedTuple):
    """What became of a transaction.

    :ivar tid: its id if it was committed, else None.
    :ivar reason: why nothing is known; empty if something is.
    """

    state: State
    tid: bytes | None = None
    reason: str = ""


NOT_COMMITTED = Verdict(State.NOT_COMMITTED)


def serialize_verdict(verdict: Verdict) -> dict[str, Any]:
    """Return the value of the answer."""
    state, tid, reason = verdict
    found: dict[str, Any] = {"state": state.value}
    if state is State.COMMITTED:
        found["tid"] = tid
    elif state is State.UNKNOWN:
        found["reason"] = reason
    return found


def parse_verdict(value: Any) -> Verdict:
    """Return what an answer says.  Keys that are not known are ignored.

    :raises IllegalMessage: it is none.
    """
    said = value.get("state") if type(value) is dict else None
    if said == State.COMMITTED.value:
        tid = value.get("tid")
        if type(tid) is not bytes or len(tid) != 8:
            raise IllegalMessage("a transaction is said to be committed, but not as which")
        return Verdict(State.COMMITTED, tid)
    if said == State.NOT_COMMITTED.value:
        return NOT_COMMITTED
    if said == State.UNKNOWN.value:
        reason = value.get("reason")
        return Verdict(State.UNKNOWN, None, reason[:_MAX_REASON] if type(reason) is str else "")
    raise IllegalMessage("what became of a transaction is said in words that are not known")
