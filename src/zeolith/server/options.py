"""How a server is to behave; every limit has a name, a default and a reason."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from ..credentials import Credentials, to_credentials
from ..errors import ConfigurationError
from ..protocol.compression import EXTRA, is_available
from ..protocol.limits import DEFAULT_LIMITS, Limits
from ..protocol.liveness import MAX_SILENCE, MIN_SILENCE, is_silence
from .resolution import MEMORY, TIMEOUT, ConflictResolution, check_conflict_resolution
from .users import Users

Address: TypeAlias = tuple[str, int] | str
"""``(host, port)``, an empty host meaning all interfaces and port 0 a free one; or the path of a
Unix socket."""

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

LOGIN_ATTEMPTS: Final = 50
"""Default of ``login_attempts``."""

_NAMES: Final = ("incoming_limit", "limits.max_message_size")


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerOptions:
    """The options of a :class:`~zeolith.server.Server`.

    :raises ConfigurationError: a value makes no sense.
    """

    address: Address
    """Where to listen."""

    monitor_address: Address | None = None
    """Where to listen for those who want to read a report of a few lines about each storage, or
    None.  With ``ssl``, they need TLS and a certificate as clients do."""

    read_only: bool = False
    """Refuse clients that want to write.  Packing is still allowed."""

    invalidation_queue_size: int = 10_000
    """Transactions remembered, so that a client which was away for a moment learns what changed
    instead of verifying its cache; fewer if they take more than ``invalidation_memory``."""

    invalidation_age: float | None = 86_400.0
    """Seconds.  A client that was away for no longer than this learns what changed even if the
    queue is too short for it, at the price of reading the storage for some seconds, on one of
    ``slow_workers``.  0 or None: never."""

    transaction_timeout: float | None = 30.0
    """Seconds that a client may hold the commit lock after the answer to its vote.  None: for
    ever, which lets one stuck client stop all others."""

    client_conflict_resolution: bool = False
    """Send conflicts to the client for resolution instead of resolving them here."""

    conflict_resolution: ConflictResolution | None = None
    """Where conflicts are resolved: nowhere (``off``), by the storage as ZODB does
    (``in-process``), or in a process of their own (``worker``).  To resolve them unpickles what
    clients have sent and runs the code of their application.  None: ``worker``, or ``off`` if the
    clients do it."""

    conflict_resolution_timeout: float | None = None
    """Seconds that the worker may take for the conflicts of one transaction, which keeps the
    commit lock meanwhile.  None: 5; a resolution takes less than a thousandth of it, but the first
    one of a class imports the application's modules."""

    conflict_resolution_memory: int | None = None
    """Bytes of address space that the worker of each storage may have.  None: 1 GiB, in which the
    modules of a large application find room; what conflicts is small."""

    msgpack: bool = False
    """Propose the msgpack coding rather than pickle; the client chooses."""

    pickle: bool = True
    """Accept ZEO clients that use the pickle coding.  If not, msgpack is proposed, and who insists
    on pickle is turned away before anything of it is decoded."""

    ssl: ssl.SSLContext | Credentials | None = None
    """TLS for all connections, or None for plain sockets.  Credentials may change: each new
    connection gets what they have then."""

    users: Users | None = None
    """Who may do what: nobody gets in who is none of them.  None: everybody may do everything."""

    login_attempts: int = LOGIN_ATTEMPTS
    """Log-ins in a row that may fail from one address, or in one name, before another one may be
    tried every 10 s: all processes of a site may start together with an old password."""

    limits: Limits = DEFAULT_LIMITS
    """What is accepted from a peer."""

    loop: Literal["auto", "uvloop", "asyncio"] = "auto"
    """The event loop; ``auto`` takes uvloop if it can be imported."""

    loads: Literal["auto", "loop", "workers"] = "auto"
    """Where objects are loaded.  ``auto`` reads ZODB's own local storages on the event loop, which
    is quickest, and all others on worker threads; ``workers`` helps where the disk is slow."""

    max_connections: int = 4096
    """Connections in all, those in a TLS handshake included.  Each takes a file descriptor and some
    kilobytes; sites with thousands of application processes need more."""

    max_connections_per_address: int = 1024
    """Connections of one address (of IPv6: one /64 network; Unix sockets are not limited).  More
    than the processes that one machine runs; it takes several machines to use up all there are."""

    peer_log_lines: int = 1000
    """Lines of the log that one address may cause in a minute; of more only the number is told.
    Each coming and going is a line: enough for the processes of a large machine to start anew."""

    register_timeout: float = 30.0
    """Seconds from connecting to a successful registration.  Clients need milliseconds; whoever
    takes longer only occupies a file descriptor."""

    dead_peer_timeout: float = 120.0
    """Seconds after which a peer is given up that no longer answers the network (TCP keep-alive and
    TCP_USER_TIMEOUT) or, in Zeolith's own protocol, says nothing at all, be it a heartbeat.  From
    1 s to a day; networks that pause and machines that are moved are back within two minutes."""

    compression: Literal["auto", "on", "off"] = "auto"
    """Whether large messages are compressed for clients that want it; ``auto``: if the library is
    installed; ``on`` insists on it."""

    output_mark: int = 256 * KIB
    """Bytes not yet taken by a client above which its requests wait: nobody is answered faster
    than he reads."""

    output_limit: int = 64 * MIB
    """Bytes not yet taken by a client above which it is disconnected.  Only what the client did
    not ask for (invalidations) can pile up so far; it may verify its cache when it returns."""

    incoming_limit: int = GIB
    """Bytes that have arrived and are not done with, over all connections: messages that are not
    complete, that wait for their turn, or (of transactions and blobs) for the disk.  Above it the
    connection with most of them is closed: each may send messages of the maximal size, but not
    all at the same time.  Not less than the maximal size."""

    upload_mark: int = 8 * MIB
    """Bytes of one client waiting to be written to disk (blobs, long transactions) above which
    nothing more is read from it."""

    commit_memory: int = 4 * MIB
    """Bytes of one transaction kept in memory; the rest waits in a temporary file.  Of several that
    a client has in progress at once all but one have as much together."""

    max_transaction_size: int = 16 * GIB
    """Bytes of object records (blobs not counted) that one transaction may have."""

    max_transaction_duration: float | None = 6 * 3600.0
    """Seconds from the beginning of a transaction to its end, as long as it is the client's turn.
    It keeps temporary files all that time; a copy of a large database with slow blobs takes
    hours.  None: for ever."""

    max_blob_size: int = 64 * GIB
    """Bytes of one blob.  It is on the disk before anybody knows whether it will be committed."""

    max_iterators: int = 256
    """Iterators that one client may have open; each may occupy a file descriptor."""

    max_outstanding: int = 128
    """Calls of one client that worker threads may have at the same time."""

    invalidation_memory: int = 16 * MIB
    """Bytes of the invalidation queue: eight for each object id, and 160 for each transaction.
    Enough for 10,000 transactions that change 190 objects each."""

    load_workers: int = 8
    """Threads per server that load objects from slow storages."""

    workers: int = 8
    """Threads per server for short storage calls and blob files."""

    slow_workers: int = 2
    """Threads per server for calls that may read a whole storage (undo log, invalidation age)."""

    shutdown_grace: float = 5.0
    """Seconds that commits in progress may take at shutdown; buffered output gets as long."""

    def __post_init__(self) -> None:
        for name in (
            "max_connections", "max_connections_per_address", "peer_log_lines", "max_blob_size",
            "login_attempts",
            "register_timeout", "output_mark", "output_limit",
            "incoming_limit", "upload_mark", "commit_memory", "max_transaction_size",
            "max_iterators", "max_outstanding",
            "load_workers", "workers", "slow_workers",
        ):  # fmt: skip
            if getattr(self, name) <= 0:
                raise ConfigurationError(name, "must be greater than zero")
        for name in ("invalidation_queue_size", "invalidation_memory", "shutdown_grace"):
            if getattr(self, name) < 0:
                raise ConfigurationError(name, "must not be negative")
        for name in ("transaction_timeout", "invalidation_age"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ConfigurationError(name, "must not be negative")
        longest = self.max_transaction_duration
        if longest is not None and longest <= 0:
            raise ConfigurationError("max_transaction_duration", "must be greater than zero")
        try:
            to_credentials(self.ssl)
        except TypeError as error:
            raise ConfigurationError("ssl", str(error)) from error
        check_incoming_limit(self.incoming_limit, self.limits.max_message_size)
        check_dead_peer_timeout(self.dead_peer_timeout)
        check_compression(self.compression)
        check_conflict_resolution(self)
        if self.loop not in ("auto", "uvloop", "asyncio"):
            raise ConfigurationError("loop", f"{self.loop!r} is none of auto, uvloop, asyncio")
        if self.loads not in ("auto", "loop", "workers"):
            raise ConfigurationError("loads", f"{self.loads!r} is none of auto, loop, workers")

    @property
    def resolves_conflicts(self) -> ConflictResolution:
        """Where the server resolves conflicts."""
        if self.conflict_resolution is None:
            return "off" if self.client_conflict_resolution else "worker"
        return self.conflict_resolution

    @property
    def resolution_timeout(self) -> float:
        """Seconds for the conflicts of one transaction, in the worker."""
        given = self.conflict_resolution_timeout
        return TIMEOUT if given is None else given

    @property
    def resolution_memory(self) -> int:
        """Bytes of address space of a worker."""
        given = self.conflict_resolution_memory
        return MEMORY if given is None else given

    @property
    def credentials(self) -> Credentials | None:
        """What ``ssl`` comes to; None for plain sockets."""
        return to_credentials(self.ssl)


def check_dead_peer_timeout(seconds: float) -> None:
    """Check that clients can be told of it.

    :raises ConfigurationError: it is too short or too long.
    """
    if not is_silence(seconds):
        raise ConfigurationError(
            "dead_peer_timeout",
            f"{seconds:g} s cannot be agreed upon with clients",
            f"give {MIN_SILENCE} to {MAX_SILENCE} s",
        )


def check_compression(compression: str) -> None:
    """Check that it can be done.

    :raises ConfigurationError: the value is unknown, or the library is missing.
    """
    if compression not in ("auto", "on", "off"):
        raise ConfigurationError("compression", f"{compression!r} is none of auto, on, off")
    if compression == "on" and not is_available():
        raise ConfigurationError(
            "compression",
            "the library 'zstandard' is not installed",
            f"install {EXTRA}, or say auto",
        )


def check_incoming_limit(
    incoming_limit: int, max_message_size: int, names: tuple[str, str] = _NAMES
) -> None:
    """Check two options against each other.

    :param names: what the user calls them.
    :raises ConfigurationError: messages of the maximal size would never arrive.
    """
    if incoming_limit < max_message_size:
        raise ConfigurationError(
            names[0],
            f"is less than {names[1]}, so that the largest messages would never get through",
            "give at least as much",
        )
