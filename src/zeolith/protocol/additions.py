"""Requests that only Zeolith's own protocol has; ZEO's codings know nothing of them.

Each is a named tuple as those in :mod:`.messages` are.  :mod:`.own` has their numbers,
``docs/protocol.md`` what they mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from .greeting import Coding
from .messages import CLIENT_REQUESTS, SERVER_REQUESTS, UID_SIZE, Flow, Form


class Outcome(NamedTuple):
    """What became of a transaction of which the client has seen no end.

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

OWN_SERVER_REQUESTS: Final[Mapping[str, Form]] = {
    **SERVER_REQUESTS,
    "tpc_begin": _begin._replace(checks=(*_begin.checks, _is_uid_or_none)),
    "outcome": Form("outcome", Outcome, Flow.CALL, (_is_uid, _is_id), 2),
}
"""What a client may ask of a server in Zeolith's own protocol, by name."""

OWN_CLIENT_REQUESTS: Final[Mapping[str, Form]] = {
    **CLIENT_REQUESTS,
}
"""What a server may tell a client in Zeolith's own protocol, by name."""

NAMES: Final[Mapping[type, str]] = {
    form.cls: form.name
    for table in (OWN_SERVER_REQUESTS, OWN_CLIENT_REQUESTS)
    for form in table.values()
}
"""Names of all requests."""


def requests_to_server(coding: Coding) -> Mapping[str, Form]:
    """Return what a client may ask of a server in *coding*, by name."""
    return OWN_SERVER_REQUESTS if coding is Coding.OWN else SERVER_REQUESTS


def requests_to_client(coding: Coding) -> Mapping[str, Form]:
    """Return what a server may tell a client in *coding*, by name."""
    return OWN_CLIENT_REQUESTS if coding is Coding.OWN else CLIENT_REQUESTS
