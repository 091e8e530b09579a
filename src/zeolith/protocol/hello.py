"""How Zeolith's own protocol begins: the hello of each side, and what an admission says.

A client that finds a version it speaks in the greeting answers with its hello, and may send its
registration right behind it.  The server's hello comes before any other frame of it; or instead of
it a refusal, which says which versions the server speaks, and then the end.

A hello is eight bytes that no version may change, the last two of them the version, and a msgpack
map that each version may add keys to.  What a receiver does not know it ignores.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from ..errors import IllegalMessage, IncompatiblePeer, UnknownVersion
from . import msgpacks
from .compression import CAPABILITY
from .greeting import OWN_VERSIONS
from .limits import BULK_FRAME, STREAM_FRAME, Limits
from .liveness import MAX_SILENCE, MIN_SILENCE, is_silence

MAGIC: Final = b"zhello"
"""First bytes of each hello; of no inquiry, no probe, and no hello of ZEO's protocol."""

_REFUSAL: Final = 0
"""In the place of the version: the server will not speak with this client."""

_HEAD_SIZE: Final = len(MAGIC) + 2

MIN_MESSAGE: Final = 1024
"""Bytes that each side has to accept in one message, so that there is room to say what is wrong."""

_MAX_NAME: Final = 200
"""Characters of a name; longer ones are cut: they end up in logs."""

BLOBS: Final = "blobs"
"""Name of the capability to verify blobs and to take long messages of streams."""

TRANSACTIONS: Final = "transactions"
"""Name of the capability of a server to have several transactions of one client in progress."""

_NO_CAPABILITIES: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType({})


class Introduction(NamedTuple):
    """What one side says of itself.

    :ivar version: of the protocol; chosen by the client, repeated by the server.
    :ivar max_message: bytes of the longest payload that it accepts.
    :ivar program: name and version of the program, for logs.
    :ivar capabilities: what it can do beyond the version, by name, with parameters.
    :ivar login: of a server: the mechanisms by one of which a client has to log in before it
        registers; none if it need not.  A client that knows none of them cannot go on.
    :ivar may_login: of a server: the same for a client that need not log in, but may.
    :ivar realm: of a server with users: the name of the realm that they belong to.
    :ivar silence: seconds after which it gives up a peer that it has not heard of; None: never.
    """

    version: int
    max_message: int
    program: str = ""
    capabilities: Mapping[str, Mapping[str, Any]] = _NO_CAPABILITIES
    login: tuple[str, ...] = ()
    silence: float | None = None
    may_login: tuple[str, ...] = ()
    realm: str = ""

    @property
    def mechanisms(self) -> tuple[str, ...]:
        """All mechanisms that a server names."""
        return self.login or self.may_login


class Terms(NamedTuple):
    """What one side asks for in its hello of Zeolith's own protocol.

    :ivar silence: seconds after which it gives up a peer that it has not heard of; None: never.
    :ivar compresses: whether it takes compressed messages, and sends them to a peer that does.
    :ivar checksums: the algorithms by which it verifies blobs, the best one first; none: it does
        not, and takes short messages of streams only.
    :ivar life: of a server: another one after each start; empty: it does not say.
    :ivar transactions: of a server: how many a client may have in progress at once.
    :ivar keeps: of a server: seconds for which it keeps an upload that is cut off; 0: not at all.
    """

    silence: float | None = None
    compresses: bool = False
    checksums: tuple[str, ...] = ()
    life: str = ""
    transactions: int = 1
    keeps: int = 0

    @property
    def capabilities(self) -> Mapping[str, Mapping[str, Any]]:
        """What it can do beyond the version."""
        found: dict[str, Mapping[str, Any]] = {CAPABILITY: {}} if self.compresses else {}
        if self.checksums:
            parts = {"checksums": self.checksums, "frame": BULK_FRAME}
            if self.life:
                parts["life"] = self.life
            if self.keeps:
                parts["keeps"] = self.keeps
            found[BLOBS] = parts
        if self.transactions > 1:
            found[TRANSACTIONS] = {"most": self.transactions}
        return found


NO_TERMS: Final = Terms()


class BlobTerms(NamedTuple):
    """What one side says of blobs in its hello.

    :ivar checksums: names of algorithms, the best one first; those that we do not know included.
    :ivar frame: bytes of data that it takes in one message of a stream.
    :ivar life: of a server: another one after each start; empty if it does not say.
    :ivar keeps: of a server: seconds for which it keeps an upload that is cut off; 0: not at all.
    """

    checksums: tuple[Any, ...] = ()
    frame: int = STREAM_FRAME
    life: str = ""
    keeps: int = 0


def blob_terms(capabilities: Mapping[str, Mapping[str, Any]]) -> BlobTerms:
    """Return what the capability ``blobs`` says; of one that is not there, what all peers can.

    :raises IllegalMessage: its parameters are none.
    """
    parts = capabilities.get(BLOBS)
    if parts is None:
        return BlobTerms()
    checksums, frame = parts.get("checksums"), parts.get("frame")
    if type(checksums) is not tuple or type(frame) is not int or frame < STREAM_FRAME:
        raise IllegalMessage(
            f"hello: blobs needs a list of checksums and a frame of at least {STREAM_FRAME} bytes"
        )
    life = parts.get("life", "")
    if type(life) is not str:
        raise IllegalMessage("hello: the life of a server is text")
    keeps = parts.get("keeps", 0)
    if type(keeps) is not int or keeps < 0:
        raise IllegalMessage("hello: a server keeps uploads for a number of seconds")
    return BlobTerms(checksums, frame, life, keeps)


def most_transactions(capabilities: Mapping[str, Mapping[str, Any]]) -> int:
    """Return how many transactions a client may have in progress with a server at once.

    :raises IllegalMessage: what the capability ``transactions`` says is no number of them.
    """
    most = capabilities.get(TRANSACTIONS, {"most": 1}).get("most")
    if type(most) is not int or most < 1:
        raise IllegalMessage("hello: the most transactions at once are a number from 1 on")
    return most


def serialize_introduction(introduction: Introduction) -> bytes:
    """Return the payload of a hello."""
    version, max_message, program, capabilities, login, silence, may_login, realm = introduction
    limits: dict[str, Any] = {"message": max_message}
    if silence is not None:
        limits["silence"] = silence
    said: dict[str, Any] = {
        "program": program,
        "limits": limits,
        "capabilities": {name: dict(parts) for name, parts in capabilities.items()},
    }
    for key, value in (("login", login), ("may_login", may_login), ("realm", realm)):
        if value:
            said[key] = value
    return _head(version) + msgpacks.dumps(said)


def parse_introduction(payload: bytes, limits: Limits) -> Introduction:
    """Return what a payload that begins with :data:`MAGIC` says.

    :raises UnknownVersion: it names a version that we do not speak.
    :raises UndecodableMessage: what follows is no msgpack.
    :raises IllegalMessage: it is no hello, or what it says is not legal.
    """
    version, body = _split(payload)
    if version not in OWN_VERSIONS:
        raise UnknownVersion(version, OWN_VERSIONS)
    said = _map_of(msgpacks.loads(body, limits), "a hello")
    said_limits = _map_of(said.get("limits"), "limits")
    limit, silence = said_limits.get("message"), said_limits.get("silence")
    if type(limit) is not int or limit < MIN_MESSAGE:
        raise IllegalMessage(f"hello: a message limit below {MIN_MESSAGE} bytes is not legal")
    if silence is not None and not is_silence(silence):
        raise IllegalMessage(
            f"hello: a limit of silence is {MIN_SILENCE} to {MAX_SILENCE} seconds, not "
            f"{silence!r:.40}"
        )
    capabilities = _map_of(said.get("capabilities", {}), "capabilities")
    for name, parts in capabilities.items():
        if type(name) is not str:
            raise IllegalMessage("hello: the name of a capability is no text")
        _map_of(parts, "a capability")
    login, may_login = said.get("login", ()), said.get("may_login", ())
    if type(login) is not tuple or type(may_login) is not tuple:
        raise IllegalMessage("hello: login is no list")
    return Introduction(
        version,
        limit,
        _name_of(said.get("program", "")),
        capabilities,
        tuple(map(_name_of, login)),
        silence,
        tuple(map(_name_of, may_login)),
        _name_of(said.get("realm", "")),
    )


def parse_answer(payload: bytes, version: int, limits: Limits) -> Introduction:
    """Return what the first frame of a server says that got our hello of *version*.

    :raises IncompatiblePeer: it is a refusal, or the hello of another version.
    :raises UndecodableMessage, IllegalMessage: as :func:`parse_introduction`.
    """
    found, body = _split(payload)
    if found == _REFUSAL:
        reason = _map_of(msgpacks.loads(body, limits), "a refusal").get("error", "")
        raise IncompatiblePeer(f"the server refuses: {_name_of(reason)}")
    if found != version:
        raise IncompatiblePeer(f"asked for version {version}, the server answers in {found}")
    return parse_introduction(payload, limits)


def serialize_refusal(error: UnknownVersion) -> bytes:
    """Return the payload that tells a client why the connection ends."""
    return _head(_REFUSAL) + msgpacks.dumps({"error": str(error)})


def _head(version: int) -> bytes:
    return MAGIC + version.to_bytes(2, "big")


def _split(payload: bytes) -> tuple[int, bytes]:
    if len(payload) < _HEAD_SIZE or not payload.startswith(MAGIC):
        raise IllegalMessage("no hello of Zeolith's protocol")
    return int.from_bytes(payload[len(MAGIC) : _HEAD_SIZE], "big"), payload[_HEAD_SIZE:]


def _map_of(value: Any, what: str) -> dict[Any, Any]:
    if type(value) is not dict:
        raise IllegalMessage(f"hello: {what} is not a map")
    return value


def _name_of(value: Any) -> str:
    if type(value) is not str:
        raise IllegalMessage("hello: a name is no text")
    return "".join(c if c.isprintable() else "?" for c in value[:_MAX_NAME])


# -- admission ---------------------------------------------------------------------------------


class Database(NamedTuple):
    """Which database a storage holds.

    :ivar identity: differs between any two databases.
    :ivar epoch: changes when transactions that clients may have seen are lost: two states of one
        epoch are one history.
    """

    identity: str
    epoch: int


class Admission(NamedTuple):
    """What a server answers to a registration.

    :ivar tid: its last transaction; None if the storage has none.
    :ivar database: None if the server cannot tell one database from another.
    """

    tid: bytes | None
    database: Database | None


def serialize_admission(admission: Admission) -> dict[str, Any]:
    """Return the value of the answer, in Zeolith's own protocol."""
    tid, database = admission
    if database is None:
        return {"tid": tid, "identity": None, "epoch": 0}
    return {"tid": tid, "identity": database.identity, "epoch": database.epoch}


def parse_admission(value: Any) -> Admission:
    """Return what an answer to a registration says, in Zeolith's own protocol or in ZEO's, which
    tells the transaction only.

    :raises IllegalMessage: it is neither.
    """
    tid, database = value, None
    if type(value) is dict:
        tid, identity, epoch = value.get("tid"), value.get("identity"), value.get("epoch")
        if identity is not None:
            if type(identity) is not str or not identity or type(epoch) is not int:
                raise IllegalMessage("the database's identity is no text, or its epoch no number")
            database = Database(_name_of(identity), epoch)
    if tid is not None and (type(tid) is not bytes or len(tid) != 8):
        raise IllegalMessage(f"the server's last transaction id is {tid!r:.60}")
    return Admission(tid, database)
