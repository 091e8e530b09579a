"""The questions that an administrator's command asks a server, in place of a hello.

A client's first frame may be an *inquiry* instead of the coding it chooses: the bytes ``zeolith``
and a JSON object.  The server answers with one frame of JSON and closes the connection.  ZEO's
clients never send it, and nobody sends it to a server whose greeting lacks Zeolith's marker.

An answer is a JSON object.  If the server will not do what was asked, it has the one key
``error``, a text.
"""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple, TypeAlias

from ..errors import IllegalMessage, UndecodableMessage

PREFIX: Final = b"zeolith"

ASKED_CONNECTIONS: Final = 100
"""Connections that an answer describes unless it is asked for another number."""

MOST_CONNECTIONS: Final = 1000
"""Connections that one answer describes at most: describing one takes about four microseconds,
in which the server does nothing else."""


class StatusInquiry(NamedTuple):
    """How is the server?

    :ivar storage: the storage to be told of; None: all.
    :ivar connections: how many connections are to be described at most.
    """

    storage: str | None = None
    connections: int = ASKED_CONNECTIONS


class KickInquiry(NamedTuple):
    """End connections of clients.

    :ivar client: label, address or number of the connections, as a status shows them; None: all.
    :ivar storage: only those to that storage; None: to any.
    :ivar dry_run: end nothing, only tell which ones would be.
    """

    client: str | None = None
    storage: str | None = None
    dry_run: bool = False


class EstimateInquiry(NamedTuple):
    """Begin to find out what a pack would bring; a status will say it.

    :ivar storage: of that storage.
    :ivar time: of a pack to that time, in seconds since the epoch.
    """

    storage: str
    time: float


Inquiry: TypeAlias = StatusInquiry | KickInquiry | EstimateInquiry

_KINDS: Final[dict[str, type[StatusInquiry] | type[KickInquiry] | type[EstimateInquiry]]] = {
    "status": StatusInquiry,
    "kick": KickInquiry,
    "estimate": EstimateInquiry,
}
_NAMES: Final = {cls: name for name, cls in _KINDS.items()}


def _is_text_or_none(value: Any) -> bool:
    return value is None or type(value) is str


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MOST_CONNECTIONS


def _is_flag(value: Any) -> bool:
    return type(value) is bool


def _is_time(value: Any) -> bool:
    # Python's time functions end with the year 9999.
    return type(value) in (int, float) and 0 <= value < 253e9


_CHECKS: Final = {
    "storage": _is_text_or_none,
    "client": _is_text_or_none,
    "connections": _is_count,
    "dry_run": _is_flag,
    "time": _is_time,
}


def serialize_inquiry(inquiry: Inquiry) -> bytes:
    """Return the payload of the frame that asks *inquiry*."""
    question = {"ask": _NAMES[type(inquiry)], **inquiry._asdict()}
    return PREFIX + json.dumps(question).encode("ascii")


def parse_inquiry(payload: bytes) -> Inquiry:
    """Return what a payload that begins with :data:`PREFIX` asks.

    :raises UndecodableMessage: it is not JSON.
    :raises IllegalMessage: no such question can be asked.
    """
    question = _parse_object(payload[len(PREFIX) :], "inquiry")
    kind = question.pop("ask", None)
    cls = _KINDS.get(kind) if type(kind) is str else None
    if cls is None:
        raise IllegalMessage(f"unknown inquiry {str(kind)[:60]!r}")
    for name, value in question.items():
        if name not in cls._fields or not _CHECKS[name](value):
            raise IllegalMessage(f"inquiry {kind}: {name[:60]!r} is unknown or malformed")
    missing = set(cls._fields) - set(cls._field_defaults) - set(question)
    if missing or (cls is EstimateInquiry and question["storage"] is None):
        raise IllegalMessage(f"inquiry {kind}: storage and time must be given")
    return cls(**question)


def serialize_answer(answer: dict[str, Any]) -> bytes:
    """Return the payload of the frame that answers an inquiry."""
    return json.dumps(answer).encode("ascii")


def parse_answer(payload: bytes) -> dict[str, Any]:
    """Return what a server answers to an inquiry, or to ``ruok``.

    :raises UndecodableMessage: it is not a JSON object.
    """
    return _parse_object(payload, "answer")


def _parse_object(payload: bytes, what: str) -> dict[str, Any]:
    try:
        value = json.loads(payload)
    # ValueError covers bytes that are no text, texts that are no JSON and numbers that are too
    # long; a few hundred brackets are enough for the decoder to give up.
    except (ValueError, RecursionError) as error:
        raise UndecodableMessage(f"{what} is not JSON: {str(error)[:100]}") from None
    if type(value) is not dict:
        raise UndecodableMessage(f"{what} is not a JSON object")
    return value
