"""Requests that only Zeolith's own protocol has; ZEO's codings know nothing of them.

Each is a named tuple as those in :mod:`.messages` are.  :mod:`.own` has their numbers,
``docs/protocol.md`` what they mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from .greeting import Coding
from .lead import LEAD_SERVER_REQUESTS
from .loadrequests import LOAD_CLIENT_REQUESTS, LOAD_SERVER_REQUESTS
from .messages import CLIENT_REQUESTS, SERVER_REQUESTS, Flow, Form
from .outcome import OUTCOME_SERVER_REQUESTS
from .streamrequests import STREAM_CLIENT_REQUESTS, STREAM_SERVER_REQUESTS

PAIR_SIZE: Final = 16
"""Bytes of an object id and a transaction id."""

MAX_PAIRS: Final = 16_384
"""Pairs in one ``verify_many``: a quarter of a megabyte, which a server checks within a tenth of a
second even where it has to ask a database for each."""


class VerifyMany(NamedTuple):
    """Which of these objects have another current revision than the one named?

    :ivar pairs: object id and transaction id, 16 bytes each, one after the other.
    """

    pairs: bytes


class ChangesSince(NamedTuple):
    """Which objects did the transactions after *tid* change?

    :ivar limit: transactions wanted at most; a server may name less.
    :ivar cut: the transaction that the last answer ended within, and the last object that it named:
        16 bytes; None if it did not.
    """

    tid: bytes
    limit: int
    cut: bytes | None = None


class CacheReport(NamedTuple):
    """How a client's cache does, since the client began, for whoever looks at the server.

    :ivar hits: loads that it answered.
    :ivar misses: loads that it did not.
    :ivar records: records that it holds.
    :ivar used: bytes that they take.
    :ivar capacity: most bytes that it takes.
    """

    hits: int
    misses: int
    records: int
    used: int
    capacity: int


def _is_id(value: Any) -> bool:
    return type(value) is bytes and len(value) == 8


def _are_pairs(value: Any) -> bool:
    size = len(value) if type(value) is bytes else -1
    return 0 <= size <= MAX_PAIRS * PAIR_SIZE and size % PAIR_SIZE == 0


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0


def _is_amount(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_pair_or_none(value: Any) -> bool:
    return value is None or (type(value) is bytes and len(value) == PAIR_SIZE)


OWN_SERVER_REQUESTS: Final[Mapping[str, Form]] = {
    **SERVER_REQUESTS,
    **LEAD_SERVER_REQUESTS,
    **LOAD_SERVER_REQUESTS,
    **OUTCOME_SERVER_REQUESTS,
    **STREAM_SERVER_REQUESTS,
    "verify_many": Form("verify_many", VerifyMany, Flow.CALL, (_are_pairs,), 1),
    "changes_since": Form(
        "changes_since", ChangesSince, Flow.CALL, (_is_id, _is_count, _is_pair_or_none), 2
    ),
    "cache_report": Form("cache_report", CacheReport, Flow.NOTICE, (_is_amount,) * 5, 5),
}
"""What a client may ask of a server in Zeolith's own protocol, by name."""

OWN_CLIENT_REQUESTS: Final[Mapping[str, Form]] = {
    **CLIENT_REQUESTS,
    **STREAM_CLIENT_REQUESTS,
    **LOAD_CLIENT_REQUESTS,
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
