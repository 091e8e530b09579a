"""The first frame in each direction, and Zeolith's marker in it.

The server speaks first: a letter for the coding (``Z`` pickle, ``M`` msgpack) and the protocol
version.  A ZEO client takes the smaller of that version and its own, so bytes after the ``5`` are
legal to it and invisible; they tell a Zeolith client whom it talks to.  The client answers with
the coding it chose and the version; the server uses the coding of the *answer*.

Source: ``zeo-reference`` C.5, *handshake*.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from ..errors import IncompatiblePeer

VERSION = b"5"
MARKER = b" zeolith"
STATUS_PROBE = b"ruok"


class Coding(Enum):
    """How messages are written."""

    PICKLE = b"Z"
    MSGPACK = b"M"


class Greeting(NamedTuple):
    """What a server's greeting says.

    :ivar coding: the coding it proposes.
    :ivar is_zeolith: whether it carries Zeolith's marker.
    """

    coding: Coding
    is_zeolith: bool


def serialize_greeting(coding: Coding) -> bytes:
    """Return the payload with which a Zeolith server greets."""
    return coding.value + VERSION + MARKER


def parse_greeting(payload: bytes) -> Greeting:
    """Return what a server's greeting says.

    :raises IncompatiblePeer: it is not a ZEO 5 (or newer) server.
    """
    letter, version = payload[:1], payload[1:]
    if letter not in (b"Z", b"M") or version < VERSION:
        raise IncompatiblePeer(
            f"greeting {payload[:20]!r} is not that of a server speaking ZEO protocol 5"
        )
    return Greeting(Coding(letter), version.startswith(VERSION + MARKER))


def serialize_hello(coding: Coding) -> bytes:
    """Return the payload with which a client answers a greeting."""
    return coding.value + VERSION


def parse_hello(payload: bytes) -> Coding:
    """Return the coding a client has chosen.

    :raises IncompatiblePeer: its answer is not exactly ``Z5`` or ``M5``.
    """
    if payload[1:] != VERSION or payload[:1] not in (b"Z", b"M"):
        raise IncompatiblePeer(
            f"hello {payload[:20]!r} is not that of a client speaking ZEO protocol 5"
        )
    return Coding(payload[:1])
