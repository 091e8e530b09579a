"""From an address to a storage, a database or a connection in one call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ZODB
    import ZODB.Connection

    from .client.storage import ClientStorage


def client(*args: Any, **kw: Any) -> ClientStorage:
    """Return a :class:`~zeolith.client.storage.ClientStorage`; it takes the arguments."""
    from .client.storage import ClientStorage

    return ClientStorage(*args, **kw)


def DB(*args: Any, **kw: Any) -> ZODB.DB:  # noqa: N802 - the name ZEO gave it
    """Return a :class:`ZODB.DB` on a client storage, which takes the arguments.

    Closing the database closes the storage.
    """
    return database_on(client(*args, **kw))


def connection(*args: Any, **kw: Any) -> ZODB.Connection.Connection:
    """Return a connection to a database of its own, made by :func:`DB` from the arguments.

    Closing the connection closes the database.
    """
    return only_connection(DB(*args, **kw))


def database_on(storage: ClientStorage) -> ZODB.DB:
    """Return a database on *storage*, which is closed if there can be none."""
    import ZODB

    try:
        return ZODB.DB(storage)
    except BaseException:
        storage.close()
        raise


def only_connection(db: ZODB.DB) -> ZODB.Connection.Connection:
    """Return a connection that closes *db* with itself; *db* is closed if there can be none."""
    try:
        return db.open_then_close_db_when_connection_closes()
    except BaseException:
        db.close()
        raise
