"""The configuration of a server, and its file: ``zeo.conf``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from ..protocol.limits import DEFAULT_LIMITS
from .accounts import Owner
from .address import Address
from .indexing import Report
from .runner import Runner
from .storages import (
    DEFAULT_NAME,
    StorageOpener,
    name_storages,
    open_storages,
    reopen_storage,
)

if TYPE_CHECKING:
    from ..server import Server
    from .credentials import FileCredentials

DEFAULT_TRANSACTION_TIMEOUT: Final = 30.0

TUNING: Final = (
    "loads",
    "load_workers",
    "max_transaction_size",
    "max_transaction_duration",
    "max_blob_size",
    "max_connections",
    "max_connections_per_address",
    "max_iterators",
    "max_outstanding",
    "peer_log_lines",
    "login_attempts",
    "commit_memory",
    "incoming_limit",
    "output_limit",
    "register_timeout",
    "dead_peer_timeout",
    "shutdown_grace",
    "conflict_resolution_timeout",
    "conflict_resolution_memory",
)
"""Options of the server that are keys of ``<zeo>`` under the same name, and nothing else."""


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """What a server is to do.

    :ivar address: where to listen.
    :ivar monitor_address: where to report to those who connect, or None.
    :ivar socket_mode: permission bits of a Unix socket, or None for what the umask leaves.
    :ivar socket_owner: whom a Unix socket belongs to, or None for who starts the server.
    :ivar storages: what opens the storages; each has a name.
    :ivar read_only: whether clients may not commit.
    :ivar invalidation_queue_size: number of transactions remembered for returning clients.
    :ivar invalidation_age: seconds for which missed invalidations are read from the storage,
        or None.
    :ivar transaction_timeout: seconds a client may hold the commit lock, or None for ever.
    :ivar client_conflict_resolution: whether conflicts are resolved by the clients.
    :ivar conflict_resolution: ``"off"``, ``"in-process"``, ``"worker"``, or None for what follows
        from the other.
    :ivar msgpack: whether msgpack is proposed instead of pickle.
    :ivar pickle: whether ZEO clients may choose pickle.
    :ivar pid_file: path, or None.
    :ivar loop: ``"auto"``, ``"uvloop"`` or ``"asyncio"``.
    :ivar compression: ``"auto"``, ``"on"`` or ``"off"``.
    :ivar tuning: further :class:`~zeolith.server.ServerOptions` by name.
    :ivar max_message_size: bytes of the largest message accepted.
    :ivar eventlog: ZConfig's factory of the logging described in the file: calling it sets the
        logging up, its ``reopen()`` reopens the files; None to leave logging alone.
    :ivar runner: how ``zeolith ctl`` runs the server in the background.
    :ivar user_file: path of the file of users, or None where everybody may do everything.
    :ivar realm: what the users' realm must be called, or None.
    :ivar tls: certificates, or None for connections without TLS.
    :ivar source: where all this was read, for messages.
    """

    address: Address
    storages: tuple[StorageOpener, ...]
    monitor_address: Address | None = None
    socket_mode: int | None = None
    socket_owner: Owner | None = None
    read_only: bool = False
    invalidation_queue_size: int = 10_000
    invalidation_age: float | None = 86_400.0
    transaction_timeout: float | None = DEFAULT_TRANSACTION_TIMEOUT
    client_conflict_resolution: bool = False
    conflict_resolution: Literal["off", "in-process", "worker"] | None = None
    msgpack: bool = False
    pickle: bool = True
    pid_file: str | None = None
    loop: Literal["auto", "uvloop", "asyncio"] = "auto"
    compression: Literal["auto", "on", "off"] = "auto"
    tuning: Mapping[str, Any] = field(default_factory=dict)
    max_message_size: int = DEFAULT_LIMITS.max_message_size
    eventlog: Any = None
    runner: Runner = field(default_factory=Runner)
    tls: FileCredentials | None = None
    user_file: str | None = None
    realm: str | None = None
    source: str = "the command line"

    def open_storages(self, report: Report | None = None) -> dict[str, Any]:
        """Open the storages; see :func:`.storages.open_storages`."""
        return open_storages(self.storages, report)

    def make_server(self, report: Report | None = None) -> Server:
        """Open the storages; return a server for them that does not listen yet.

        :param report: told of what takes long.
        :raises ConfigurationError: a setting makes no sense, or a storage cannot be opened.
        """
        from ..server import Server, ServerOptions
        from .userdirectory import UserDirectory

        users = None
        if self.user_file is not None:
            names = [opener.name or DEFAULT_NAME for opener in self.storages]
            users = UserDirectory(self.user_file, self.realm, names)
            users.announce()
        options = ServerOptions(
            users=users,
            address=self.address,
            monitor_address=self.monitor_address,
            read_only=self.read_only,
            invalidation_queue_size=self.invalidation_queue_size,
            invalidation_age=self.invalidation_age,
            transaction_timeout=self.transaction_timeout,
            client_conflict_resolution=self.client_conflict_resolution,
            conflict_resolution=self.conflict_resolution,
            msgpack=self.msgpack,
            pickle=self.pickle,
            ssl=self.tls,
            loop=self.loop,
            compression=self.compression,
            limits=replace(DEFAULT_LIMITS, max_message_size=self.max_message_size),
            **self.tuning,
        )
        reopen = {
            opener.name or DEFAULT_NAME: partial(reopen_storage, opener)
            for opener in self.storages
            if getattr(opener, "can_reopen", True)
        }
        return Server(self.open_storages(report), options, reopen)


def msgpack_by_environment(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether ``ZEO_MSGPACK`` asks for msgpack, as it does for ZEO."""
    return bool(environ.get("ZEO_MSGPACK"))


def load_server_config(path_or_url: str | os.PathLike[str]) -> ServerConfig:
    """Read a ``zeo.conf``.

    :raises ConfigurationError: it cannot be read or used; the text names file, line, key and
        what to do.
    """
    return _load(os.fspath(path_or_url))


def parse_server_config(text: str, source: str = "<text>") -> ServerConfig:
    """Read the text of a ``zeo.conf``.

    :param source: what to call the text in errors.
    :raises ConfigurationError: see :func:`load_server_config`.
    """
    return _load(source, text)


@cache
def server_schema() -> Any:
    """Return ZConfig's schema of a ``zeo.conf``."""
    import ZConfig

    from .client import adopt

    schema = ZConfig.loadSchema(str(Path(__file__).with_name("schema.xml")))
    adopt(schema)
    return schema


def _load(source: str, text: str | None = None) -> ServerConfig:
    from .survey import survey

    found = survey(server_schema(), source, text)
    if found.complaints:
        first, *more = found.complaints
        error = first.to_error()
        if more:
            file = "" if text is not None else f" {source}"
            error.add_note(f"{len(more)} more: see zeolith check-config{file}")
        raise error
    return to_config(found.values, source)


def to_config(values: Any, source: str) -> ServerConfig:
    """Return what ZConfig's *values* mean.

    :param source: where they were read, for messages.
    :raises ConfigurationError: the storages' names are not distinct.
    """
    zeo = values.zeo
    return ServerConfig(
        address=zeo.address,
        storages=name_storages(values.storages, source),
        monitor_address=zeo.monitor_address,
        socket_mode=zeo.socket_mode,
        socket_owner=zeo.socket_owner,
        read_only=zeo.read_only,
        invalidation_queue_size=zeo.invalidation_queue_size,
        invalidation_age=zeo.invalidation_age,
        transaction_timeout=zeo.transaction_timeout or None,
        client_conflict_resolution=zeo.client_conflict_resolution,
        conflict_resolution=zeo.conflict_resolution,
        msgpack=msgpack_by_environment() if zeo.msgpack is None else zeo.msgpack,
        pickle=zeo.pickle,
        pid_file=zeo.pid_filename,
        loop=zeo.event_loop,
        compression=zeo.compression,
        tuning={name: getattr(zeo, name) for name in TUNING},
        max_message_size=zeo.max_message_size,
        eventlog=values.eventlog,
        runner=Runner.from_section(values.runner),
        tls=zeo.ssl,
        user_file=zeo.authentication_database,
        realm=zeo.authentication_realm,
        source=source,
    )
