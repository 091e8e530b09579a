"""Requests of Zeolith's own protocol that are about loads, and about being up to date."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from .messages import Flow, Form

Record: TypeAlias = tuple[bytes, bytes, bytes | None, bytes]
"""``(oid, start, end, data)``: a revision of an object, the tid that wrote it, and the tid that
replaced it, or None while it is the current one."""

MAX_SYNC_TIME: Final = 60.0
"""Seconds that a ``sync_to`` may wait: a client that is still interested asks again, and one that
is not must not be remembered for long."""


class LoadMany(NamedTuple):
    """Each object is answered as if it had been asked for alone, or in a :class:`LoadedMany`.

    :ivar oids: at least one, at most :data:`.limits.MAX_LOADS`.
    """

    tid: bytes
    oids: Sequence[bytes]


class LoadedMany(NamedTuple):
    """Revisions of objects asked for by :class:`LoadMany`.

    :ivar tid: as asked.
    :ivar records: at least one, at most :data:`.limits.MAX_LOADS`.
    """

    tid: bytes
    records: Sequence[Record]


class SyncTo(NamedTuple):
    """Answer with the last transaction as soon as that is *tid* or a later one.

    :ivar seconds: after which the answer is nothing, if it has not come to that; 0 to
        :data:`MAX_SYNC_TIME`.
    """

    tid: bytes
    seconds: float


def _is_id(value: Any) -> bool:
    return type(value) is bytes and len(value) == 8


def _is_sequence(value: Any) -> bool:
    # What is in it is checked where its fixed layout is read or written; there is no other way.
    return type(value) is list or type(value) is tuple


def _is_wait(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= MAX_SYNC_TIME


LOAD_SERVER_REQUESTS: Final[Mapping[str, Form]] = {
    "load_many": Form("load_many", LoadMany, Flow.NOTICE, (_is_id, _is_sequence), 2),
    "sync_to": Form("sync_to", SyncTo, Flow.CALL, (_is_id, _is_wait), 2),
}
"""What a client may ask of a server, by name."""

LOAD_CLIENT_REQUESTS: Final[Mapping[str, Form]] = {
    "loaded_many": Form("loaded_many", LoadedMany, Flow.NOTICE, (_is_id, _is_sequence), 2),
}
"""What a server may tell a client, by name."""
