"""Every error Zeolith raises, as one tree.

::

    ZeolithError
    ├── ConfigurationError          a setting is wrong: says which, and the way out
    ├── MessageTooLarge             a message of ours is more than the peer takes: not sent
    ├── ProtocolViolation           the peer broke the wire protocol
    │   ├── FrameTooLarge           it announced more bytes than we accept
    │   ├── UndecodableMessage      the bytes of a message make no sense, or are not admitted
    │   ├── IllegalMessage          a well-formed message that has no place here
    │   │   ├── StreamViolation     of a stream, that is
    │   │   └── WrongProof          of a log-in: name or password are wrong
    │   ├── LoginRequired           a client asked for something without having logged in
    │   ├── LoginDelayed            too many log-ins have failed: another one may be tried later
    │   ├── IncompatiblePeer        its greeting names no protocol we speak
    │   │   ├── UnknownVersion      its hello names a version of our own that we do not speak
    │   │   ├── PickleRefused       it wants the pickle coding, which is not accepted here
    │   │   └── LoginRefused        we cannot log in there, or it is not whom it should be
    │   └── ServerFull              a server in place of its greeting: it has no room
    └── ClientStorageError          (also ZODB.POSException.StorageError)
        ├── ClientDisconnected      no server, or it went away: may be retried
        │   ├── ServerRefused       a server is there, but will not have us as we are
        │   │   ├── AuthenticationFailed    because of who we are, or say we are
        │   │   └── CertificateRefused  because of a certificate, ours or its own
        │   └── NotCommitted        it went away in a commit, which certainly did not happen
        ├── OutcomeUnknown          it went away in a commit, which may have happened
        ├── AccessDenied            this user may not do that
        ├── ObjectTooLarge          (also TransactionTooLargeError) it cannot be stored there
        ├── NotReached              the server has not come to a transaction in time
        ├── ServerBehindCache       the database is older than what this client has seen
        ├── OtherDatabase           the server has another database than before
        ├── DatabaseRestored        the database was restored from a backup since
        ├── BlobDamaged             a blob that was transferred has another checksum
        ├── HistoryLost             the server cannot tell any more what changed since then
        └── ServerError             the server reported an error this side has no class for

What ZODB callers expect as ZODB's own exceptions (``POSKeyError``,
``ConflictError``, ``ReadOnlyError`` …) is raised as exactly those.
"""

from __future__ import annotations

from enum import Enum

import transaction.interfaces
from ZODB.POSException import StorageError, TransactionTooLargeError
from ZODB.utils import oid_repr


class ZeolithError(Exception):
    """Base of all errors defined by Zeolith."""


class ConfigurationError(ZeolithError, ValueError):
    """A configuration, keyword or command-line option cannot be used.

    :param option: the option as the user wrote it, with its source if known.
    :param problem: what is wrong with it.
    :param remedy: what to do instead; empty if the problem says it all.
    """

    def __init__(self, option: str, problem: str, remedy: str = "") -> None:
        super().__init__(option, problem, remedy)
        self.option = option
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        text = f"{self.option}: {self.problem}"
        return f"{text}; {self.remedy}" if self.remedy else text


class MessageTooLarge(ZeolithError, ValueError):
    """A message is larger than the peer accepts.  It was not sent; the connection goes on.

    :param size: length of the message in bytes, or of the part of it that is too large alone.
    :param limit: the largest message in bytes.
    """

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(size, limit)
        self.size = size
        self.limit = limit

    def __str__(self) -> str:
        return f"a message of {self.size} bytes cannot be sent: the limit is {self.limit} bytes"


class ProtocolViolation(ZeolithError):
    """The peer sent something that the protocol does not allow.  The connection ends."""


class FrameTooLarge(ProtocolViolation):
    """The peer announced a frame larger than the configured maximum.

    :param announced: length in bytes as announced.
    :param limit: the configured maximum in bytes.
    """

    def __init__(self, announced: int, limit: int) -> None:
        super().__init__(announced, limit)
        self.announced = announced
        self.limit = limit

    def __str__(self) -> str:
        return f"a message of {self.announced} bytes exceeds the maximum of {self.limit}"


class UndecodableMessage(ProtocolViolation):
    """The bytes of a message cannot be decoded, or hold something that is not admitted."""


class IllegalMessage(ProtocolViolation):
    """A well-formed message that is not legal in the present state or has wrong arguments.

    :ivar msgid: id of the call to refuse, or None where no answer is expected.
    """

    msgid: object = None


class StreamViolation(IllegalMessage):
    """What the peer says of a stream is not legal in the stream's state, or beyond its credit.

    :param stream: its number.
    :param problem: what is wrong.
    """

    def __init__(self, stream: int, problem: str) -> None:
        super().__init__(stream, problem)
        self.stream = stream
        self.problem = problem

    def __str__(self) -> str:
        return f"stream {self.stream}: {self.problem}"


class WrongProof(IllegalMessage):
    """The client does not know the password, or there is no such user."""


class LoginRequired(ProtocolViolation):
    """A client asked for something without having logged in, where that is required.

    :param problem: what it did.
    :param is_inquiry: whether it asked what an administrator asks, and can be told why not.
    """

    def __init__(self, problem: str, is_inquiry: bool = False) -> None:
        super().__init__(problem)
        self.is_inquiry = is_inquiry


class LoginDelayed(ProtocolViolation):
    """Too many log-ins have failed, so that none is looked at for a while.

    :param seconds: after which another one may be tried.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds

    def __str__(self) -> str:
        return f"too many log-ins have failed; another one may be tried in {self.seconds:.0f} s"


class IncompatiblePeer(ProtocolViolation):
    """The peer's greeting names no protocol version that this side speaks."""


class UnknownVersion(IncompatiblePeer):
    """The two sides speak no common version of Zeolith's own protocol.

    :param wanted: the version that the client's hello names.
    :param spoken: those that the server speaks.
    """

    def __init__(self, wanted: int, spoken: tuple[int, ...]) -> None:
        super().__init__(wanted, spoken)
        self.wanted = wanted
        self.spoken = spoken

    def __str__(self) -> str:
        spoken = ", ".join(map(str, self.spoken)) or "none"
        return (
            f"the client wants version {self.wanted} of Zeolith's protocol, the server speaks "
            f"{spoken}"
        )


class LoginRefused(IncompatiblePeer):
    """A client cannot log in at this server, or must not go on with it; the text says why."""


class PickleRefused(IncompatiblePeer):
    """A client chose the pickle coding, which its server does not accept."""

    def __str__(self) -> str:
        return (
            "the client insists on the pickle coding, which is not accepted here (pickle false): "
            "it needs msgpack, which ZEO's clients have if the package msgpack is installed"
        )


class ServerFull(ProtocolViolation):
    """A server takes no more connections; told in place of its greeting."""

    def __str__(self) -> str:
        return "the server has as many connections as it takes; its log says which limit it is"


class ClientStorageError(ZeolithError, StorageError):
    """Base of the errors of the client storage."""


class ClientDisconnected(ClientStorageError, transaction.interfaces.TransientError):
    """There is no connection to a server, or it was lost; the transaction may be retried."""


class ServerRefused(ClientDisconnected):
    """A server answered, but refuses this client: trying again will not help until someone acts.

    :param server: address of the server.
    :param reason: what it or the TLS layer said.
    """

    def __init__(self, server: str, reason: object) -> None:
        super().__init__(server, reason)
        self.server = server
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.server} refuses this client: {self.reason}"


class AuthenticationFailed(ServerRefused):
    """The server refuses this client because of who it is, or because it does not say so.

    Or the client refuses the server, which cannot prove that it is the right one.
    """


class CertificateProblem(Enum):
    """What is wrong with a certificate."""

    EXPIRED = "expired"
    NOT_YET_VALID = "not yet valid"
    FOREIGN = "foreign"
    """Nobody whom the other side trusts has signed it."""
    MISMATCH = "mismatch"
    """It is for another host."""
    REVOKED = "revoked"
    REVOCATION_UNKNOWN = "revocation unknown"
    """Its authority has no valid revocation list, where one is demanded."""
    UNFIT = "unfit"
    """It is not made for this use."""
    MISSING = "missing"
    """There is none."""
    OTHER = "other"


class CertificateRefused(ServerRefused):
    """The TLS connection failed because of a certificate.

    :param server: address of the server.
    :param reason: what is wrong with it, and what can be done.
    :param whose: ``"server"``: its certificate, refused by this side; ``"client"``: ours.
    :param problem: what is wrong with it.
    """

    def __init__(
        self, server: str, reason: object, whose: str, problem: CertificateProblem
    ) -> None:
        super().__init__(server, reason)
        self.args = (server, reason, whose, problem)
        self.whose = whose
        self.problem = problem

    def __str__(self) -> str:
        if self.whose == "server":
            return f"the certificate of {self.server} is not accepted: {self.reason}"
        return f"{self.server} does not accept this client's certificate: {self.reason}"


class NotCommitted(ClientDisconnected):
    """The connection was lost in ``tpc_finish``, and the transaction was certainly not committed.

    The same if it was the server's storage that failed.  It may be retried: nothing of it will come
    later.

    :param cause: how the connection was lost, or what the server said.
    """

    def __init__(self, cause: object) -> None:
        super().__init__(cause)
        self.cause = cause

    def __str__(self) -> str:
        return f"the transaction was not committed, and may be repeated: {self.cause}"


class OutcomeUnknown(ClientStorageError):
    """The connection was lost in ``tpc_finish``, and whether it was committed cannot be told.

    The same if it was the server's storage that failed.  Not a transient error: the transaction
    might be made twice.

    :param cause: how the connection was lost, or what the server said.
    :param reason: why it cannot be told.
    :param uid: the transaction's unique id (16 bytes); None if it has none.
    """

    def __init__(self, cause: object, reason: str, uid: bytes | None = None) -> None:
        super().__init__(cause, reason, uid)
        self.cause = cause
        self.reason = reason
        self.uid = uid

    def __str__(self) -> str:
        which = "" if self.uid is None else f" {self.uid.hex()}"
        return (
            f"it is not known whether transaction{which} was committed ({self.cause}; "
            f"{self.reason}): look whether the database has its changes before repeating it"
        )


class AccessDenied(ClientStorageError):
    """The user whom the server knows this client as may not do that.

    :param user: who that is.
    :param right: what is needed: ``read``, ``write``, ``undo``, ``pack`` or ``administer``.
    :param storage: of which storage; empty: of all.
    """

    def __init__(self, user: str, right: str, storage: str) -> None:
        super().__init__(user, right, storage)
        self.user = user
        self.right = right
        self.storage = storage

    def __str__(self) -> str:
        where = f"on storage {self.storage!r}" if self.storage else "on all storages"
        return f"the user {self.user!r} lacks the right {self.right!r} {where}"


class ObjectTooLarge(ClientStorageError, TransactionTooLargeError):
    """A record is larger than the server accepts.

    The connection goes on, the transaction has to be aborted; to repeat it does not help.

    :param oid: the object's id.
    :param size: length of the message that would store it in bytes, or of the record alone.
    :param limit: the largest message in bytes.
    """

    def __init__(self, oid: bytes, size: int, limit: int) -> None:
        super().__init__(oid, size, limit)
        self.oid = oid
        self.size = size
        self.limit = limit

    def __str__(self) -> str:
        return (
            f"object {oid_repr(self.oid)} cannot be stored: its record takes {self.size} bytes, "
            f"and the server accepts messages of up to {self.limit}; keep large data in a blob"
        )


class NotReached(ClientStorageError):
    """A transaction that was waited for is not known here yet.

    :param tid: the transaction (8 bytes).
    :param last_tid: the last one that is known (8 bytes).
    """

    def __init__(self, tid: bytes, last_tid: bytes) -> None:
        super().__init__(tid, last_tid)
        self.tid = tid
        self.last_tid = last_tid

    def __str__(self) -> str:
        return (
            f"transaction {self.tid.hex()} was not reached in time: the last one known here is "
            f"{self.last_tid.hex()}"
        )


class ServerBehindCache(ClientStorageError):
    """The server's database ends before transactions that this client has already seen.

    :param server_tid: last transaction id of the server (8 bytes).
    :param cache_tid: last transaction id this client has seen (8 bytes).
    """

    def __init__(self, server_tid: bytes, cache_tid: bytes) -> None:
        super().__init__(server_tid, cache_tid)
        self.server_tid = server_tid
        self.cache_tid = cache_tid

    def __str__(self) -> str:
        return (
            f"the server's last transaction {self.server_tid.hex()} is older than "
            f"{self.cache_tid.hex()}, which this client has already seen"
        )


class OtherDatabase(ClientStorageError):
    """The server has another database than the one this client has objects of.

    :param found: identity of the server's database.
    :param known: identity of the one known so far.
    """

    def __init__(self, found: str, known: str) -> None:
        super().__init__(found, known)
        self.found = found
        self.known = known

    def __str__(self) -> str:
        return (
            f"the server's database is {self.found}, but what this client has seen comes from "
            f"database {self.known}"
        )


class DatabaseRestored(ClientStorageError):
    """The database was restored from a backup: transactions that were reported may be lost.

    :param found: epoch of the server's database.
    :param known: the epoch in which the transactions were reported.
    """

    def __init__(self, found: int, known: int) -> None:
        super().__init__(found, known)
        self.found = found
        self.known = known

    def __str__(self) -> str:
        return (
            f"the database was restored from a backup: its epoch is {self.found}, and was "
            f"{self.known}; what was learned of it before has to be learned anew"
        )


class BlobDamaged(ClientStorageError):
    """A blob that was transferred is not the one that was sent: its checksum is another.

    :ivar oid: the object that the blob belongs to.
    :ivar where: what was damaged: on which way, and what that means.
    """

    def __init__(self, oid: bytes, where: str) -> None:
        super().__init__(oid, where)
        self.oid = oid
        self.where = where

    def __str__(self) -> str:
        return f"the blob of object {self.oid.hex()} is damaged: {self.where}"


class HistoryLost(ClientStorageError):
    """The server cannot tell which objects changed after a transaction.

    :param since: the transaction (8 bytes).
    :param floor: the first one after which it can tell (8 bytes).
    """

    def __init__(self, since: bytes, floor: bytes) -> None:
        super().__init__(since, floor)
        self.since = since
        self.floor = floor

    def __str__(self) -> str:
        return (
            f"what changed after transaction {self.since.hex()} is not known: the storage cannot "
            f"iterate over its transactions, and the server remembers those after "
            f"{self.floor.hex()} only"
        )


class ServerError(ClientStorageError):
    """The server reported an error for which this side knows no class.

    :param name: dotted class name as the server sent it.
    :param details: its arguments or attributes as the server sent them.
    """

    def __init__(self, name: str, details: object) -> None:
        super().__init__(name, details)
        self.name = name
        self.details = details

    def __str__(self) -> str:
        return f"{self.name}: {self.details!r}"
