"""What became of a transaction: the question of a client that has not seen its end, and the answer.

Only Zeolith's own protocol has it; for it, a transaction begins with a unique id there.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, Final, NamedTuple

from ..errors import IllegalMessage
from .messages import SERVER_REQUESTS, UID_SIZE, Flow, Form

_MAX_REASON = 500
"""Characters of a reason that count."""


class Outcome(NamedTuple):
    """What became of a transaction?

    :ivar uid: the unique id that its ``tpc_begin`` had.
    :ivar since: the last transaction that the client had seen when it sent ``tpc_finish``: this
        one, if it was committed, came later.
    """

    uid: bytes
    since: bytes


def _is_uid(value: Any) -> bool:
    return type(value) is bytes and len(value) == UID_SIZE


def _is_uid_or_none(value: Any) -> bool:
    return value is None or _is_uid(value)


def _is_id(value: Any) -> bool:
    return type(value) is bytes and len(value) == 8


_begin = SERVER_REQUESTS["tpc_begin"]

OUTCOME_SERVER_REQUESTS: Final[Mapping[str, Form]] = {
    "tpc_begin": _begin._replace(checks=(*_begin.checks, _is_uid_or_none)),
    "outcome": Form("outcome", Outcome, Flow.CALL, (_is_uid, _is_id), 2),
}
"""The question, and a ``tpc_begin`` that may have a unique id."""


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
