"""What a server and the process that resolves conflicts for it say to each other.

They hold a pair of sockets.  The process says that it is ready; then it gets a request and gives an
answer, one at a time.  It runs an application's code, so its answers are checked; nothing here is a
pickle of ours.
"""

from __future__ import annotations

from enum import Enum
from struct import Struct
from typing import Final, NamedTuple

from .conflicts import Records

_REQUEST: Final = Struct(">8s8s8sQQQ")
"""Object, tid of what is committed, tid of what was read; lengths of the three records."""

_ANSWER: Final = Struct(">cQ")
"""Kind, and the length of what follows."""

REQUEST_SIZE: Final = _REQUEST.size
ANSWER_SIZE: Final = _ANSWER.size

MAX_TEXT: Final = 8192
"""Bytes of a reason: a traceback's end."""

NO_MEMORY: Final = 77
"""The exit status of a process that has used up its memory."""


class Kind(Enum):
    """What an answer is."""

    READY = b"b"
    RESOLVED = b"r"
    """The record follows."""
    UNRESOLVED = b"n"
    """It is for the class not to be resolved; a reason follows."""
    MISSING = b"m"
    """The class cannot be imported."""
    FAILED = b"e"
    """The application's code raised something; a traceback follows."""


class Request(NamedTuple):
    """A conflict to be resolved."""

    oid: bytes
    committed: bytes
    read: bytes
    records: Records


def serialize_request(request: Request) -> tuple[bytes, ...]:
    """Return the parts to be sent, one after the other; the records are not copied."""
    oid, committed, read, records = request
    return _REQUEST.pack(oid, committed, read, *map(len, records)), *records


def parse_request_head(head: bytes) -> tuple[bytes, bytes, bytes, tuple[int, int, int]]:
    """Return object, both tids, and the lengths of the records that follow."""
    oid, committed, read, *lengths = _REQUEST.unpack(head)
    return oid, committed, read, (lengths[0], lengths[1], lengths[2])


def serialize_answer(kind: Kind, body: bytes = b"") -> bytes:
    """Return an answer as bytes."""
    return _ANSWER.pack(kind.value, len(body)) + body


def parse_answer_head(head: bytes, max_record: int) -> tuple[Kind, int]:
    """Return what an answer is, and the length of what follows.

    :param max_record: the size of the largest record that is accepted.
    :raises ValueError: no answer is like that.
    """
    letter, length = _ANSWER.unpack(head)
    kind = Kind(letter)
    limit = {Kind.READY: 0, Kind.MISSING: 0, Kind.RESOLVED: max_record}.get(kind, MAX_TEXT)
    if length > limit:
        raise ValueError(f"an answer of {length} bytes, {limit} are the limit")
    return kind, length
