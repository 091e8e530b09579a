"""ZEO's import name on top of Zeolith, for software that was written for ZEO.

This is not PyPI's ZEO: the distribution ``zeolith-zeo`` takes its place, and refuses to be imported
beside it.  ``docs/dropin.md`` of Zeolith says what is there and what differs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

is_zeolith = True
"""Tells this package from PyPI's."""

from . import _beside  # noqa: E402 - it looks for the name above

_beside.refuse()

if TYPE_CHECKING:
    import ZODB
    import ZODB.Connection

    from zeolith.config.address import Address
    from zeolith.standalone import Stop

    from .ClientStorage import ClientStorage

__all__ = ["DB", "client", "connection", "is_zeolith", "server"]


def client(*args: Any, **kw: Any) -> ClientStorage:
    """Return a :class:`ZEO.ClientStorage.ClientStorage`; it takes the arguments."""
    from .ClientStorage import ClientStorage

    return ClientStorage(*args, **kw)


def DB(*args: Any, **kw: Any) -> ZODB.DB:
    """Return a :class:`ZODB.DB` on a client storage, which takes the arguments.

    Closing the database closes the storage.
    """
    from zeolith.shortcuts import database_on

    return database_on(client(*args, **kw))


def connection(*args: Any, **kw: Any) -> ZODB.Connection.Connection:
    """Return a connection to a database of its own, made by :func:`DB` from the arguments.

    Closing the connection closes the database.
    """
    from zeolith.shortcuts import only_connection

    return only_connection(DB(*args, **kw))


def server(
    path: str | None = None,
    blob_dir: str | None = None,
    storage_conf: str | None = None,
    zeo_conf: object = None,
    port: int | Address = 0,
    threaded: bool = True,
    **kw: Any,
) -> tuple[Address, Stop]:
    """Start a server; return its address and a function that stops it.

    The arguments are those of :func:`zeolith.server`.  What ZEO takes without using it is left
    out, and the log says so: *path* beside *storage_conf*, *port* beside a *zeo_conf* that is a
    text, and ``start_timeout`` of a server in a thread.

    :raises ConfigurationError: the arguments cannot be used, or the server does not start.
    """
    from ._serving import serve

    return serve(path, blob_dir, storage_conf, zeo_conf, port, threaded, kw)
