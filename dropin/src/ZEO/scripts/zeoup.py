"""Whether a server is up: connect, count up in the database, say how long that took."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any

import transaction
import ZODB
from persistent.mapping import PersistentMapping
from ZODB.POSException import ConflictError, StorageError

# What ZEO's script counts in: either must be able to go on with the other's.
from ZODB.tests.MinPO import MinPO
from ZODB.utils import z64

from ZEO.ClientStorage import ClientStorage


def check_server(addr: Any, storage: str = "1", write: bool = True) -> float:
    """Return how many seconds it takes to connect and to use the database.

    :param addr: of the server.
    :param storage: name of the storage.
    :param write: whether to count up ``root()["monitor"]["zeoup"]``; else the root is loaded.
    :raises ClientDisconnected: no server answers within 30 seconds.
    """
    begin = time.monotonic()
    opened = ClientStorage(addr, storage=storage, read_only=not write)
    try:
        if write:
            _count(opened)
        else:
            opened.load(z64)
    finally:
        opened.close()
    return time.monotonic() - begin


def _count(storage: ClientStorage) -> None:
    db = ZODB.DB(storage)
    connection = db.open(transaction.TransactionManager())
    try:
        with connection.transaction_manager:
            root = connection.root()
            monitor = root.setdefault("monitor", PersistentMapping())
            counter = monitor.setdefault("zeoup", MinPO(0))
            counter.value += 1
    except ConflictError:
        # Somebody else was as quick: the server is up.
        return
    finally:
        connection.close()
        db.close()


def main(args: Sequence[str] | None = None) -> int:
    """Check a server and print how long that took.

    :param args: None: those of this process.
    :return: 0 if it is up, 1 if not.
    """
    parser = argparse.ArgumentParser(
        prog="python -m ZEO.scripts.zeoup", description=__doc__, add_help=False
    )
    parser.add_argument("--help", action="help", help="show this and exit")
    parser.add_argument("-p", dest="port", type=int, help="port")
    parser.add_argument("-h", dest="host", default="", help="host; default: this one")
    parser.add_argument("-U", dest="path", help="Unix socket, in place of a port")
    parser.add_argument("-S", dest="storage", default="1", help="name of the storage")
    parser.add_argument("--nowrite", action="store_true", help="load the root; change nothing")
    options = parser.parse_args(args)
    if options.port is None and options.path is None:
        parser.error("give a port (-p) or a Unix socket (-U)")
    try:
        seconds = check_server(
            options.path or (options.host, options.port), options.storage, not options.nowrite
        )
    except StorageError as error:
        print(f"{type(error).__name__}: {error}")
        return 1
    print(f"Elapsed time: {seconds:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
