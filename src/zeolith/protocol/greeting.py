"""The first frame in each direction, and Zeolith's marker in it.

The server speaks first: a letter for the coding (``Z`` pickle, ``M`` msgpack) and the protocol
version.  A ZEO client takes the smaller of that version and its own, so bytes after the ``5`` are
legal to it and invisible; they tell a Zeolith client whom it talks to.  The client answers with
the coding it chose and the version; the server uses the coding of the *answer*.

After the marker a server names the versions of Zeolith's own protocol that it speaks, as
``M5 zeolith 1,2``.  A client that speaks one of them may answer with a hello of that protocol
instead; see :mod:`.hello`.

Source: ``zeo-reference`` C.5, *handshake*.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, NamedTuple

from ..errors import IncompatiblePeer, PickleRefused, ServerFull

VERSION = b"5"
MARKER = b" zeolith"
STATUS_PROBE = b"ruok"

FULL: Final = b"Z0 full: too many connections"
"""What a server says in place of its greeting if it has no room.  The version is below all that
there are, so that ZEO's clients end the connection, log these words and come again."""

OWN_VERSIONS: Final = (1,)
"""Versions of Zeolith's own protocol that this program speaks, oldest first."""

MAX_VERSION: Final = 0xFFFF
"""Greatest version number there can be: a hello has two bytes for it."""


class Coding(Enum):
    """How messages are written."""

    PICKLE = b"Z"
    MSGPACK = b"M"
    OWN = b"O"
    """That of Zeolith's own protocol.  No greeting proposes it by this letter."""


ZEO_CODINGS: Final = (Coding.PICKLE, Coding.MSGPACK)
"""The codings of ZEO protocol 5."""


class Greeting(NamedTuple):
    """What a server's greeting says.

    :ivar coding: the coding it proposes.
    :ivar is_zeolith: whether it carries Zeolith's marker.
    :ivar versions: versions of Zeolith's own protocol that the server speaks.
    """

    coding: Coding
    is_zeolith: bool
    versions: tuple[int, ...] = ()

    @property
    def version(self) -> int | None:
        """The newest version of Zeolith's own protocol that both sides speak, if there is one."""
        common = set(self.versions).intersection(OWN_VERSIONS)
        return max(common) if common else None


def serialize_greeting(coding: Coding, versions: tuple[int, ...] = OWN_VERSIONS) -> bytes:
    """Return the payload with which a Zeolith server greets.

    :param versions: of Zeolith's own protocol; none: only ZEO's is spoken.
    """
    payload = coding.value + VERSION + MARKER
    return payload + b" " + b",".join(b"%d" % each for each in versions) if versions else payload


def _parse_versions(words: bytes) -> tuple[int, ...]:
    """Return the versions that follow the marker; none if what follows is something else."""
    # Further words are for the future.
    numbers = words.split(b" ")[1].split(b",") if words.startswith(b" ") else []
    if not all(number.isdigit() and int(number) <= MAX_VERSION for number in numbers):
        return ()
    return tuple(map(int, numbers))


def parse_greeting(payload: bytes) -> Greeting:
    """Return what a server's greeting says.

    :raises ServerFull: it has no room for another connection.
    :raises IncompatiblePeer: it is not a ZEO 5 (or newer) server.
    """
    if payload == FULL:
        raise ServerFull
    letter, version = payload[:1], payload[1:]
    if letter not in (b"Z", b"M") or version < VERSION:
        raise IncompatiblePeer(
            f"greeting {payload[:20]!r} is not that of a server speaking ZEO protocol 5"
        )
    is_zeolith = version.startswith(VERSION + MARKER)
    words = version[len(VERSION + MARKER) :] if is_zeolith else b""
    return Greeting(Coding(letter), is_zeolith, _parse_versions(words))


def serialize_hello(coding: Coding) -> bytes:
    """Return the payload with which a client answers a greeting in ZEO's protocol."""
    assert coding in ZEO_CODINGS
    payload: bytes = coding.value + VERSION
    return payload


def parse_hello(payload: bytes, takes_pickle: bool = True) -> Coding:
    """Return the coding a client has chosen.

    :param takes_pickle: whether it may choose pickle.
    :raises PickleRefused: it has, and it may not.
    :raises IncompatiblePeer: its answer is not exactly ``Z5`` or ``M5``.
    """
    if payload[1:] != VERSION or payload[:1] not in (b"Z", b"M"):
        raise IncompatiblePeer(
            f"hello {payload[:20]!r} is not that of a client speaking ZEO protocol 5"
        )
    coding = Coding(payload[:1])
    if coding is Coding.PICKLE and not takes_pickle:
        raise PickleRefused
    return coding


_TLS_RECORDS: Final = range(0x14, 0x18)
"""First byte of what a TLS peer sends: change of cipher, alert, hand-shake, data."""

_TLS_MAJOR_VERSION: Final = 3


def is_tls(begin: bytes) -> bool:
    """Tell whether a peer whose first bytes are *begin*, one or more, speaks TLS."""
    return begin[0] in _TLS_RECORDS and begin[1:2] in (b"", bytes([_TLS_MAJOR_VERSION]))
