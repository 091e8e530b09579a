"""A client process that stores and reads blobs until it is told to stop, or killed.

Run as a script: ``HOST PORT DIRECTORY LIFE SEED KIND``.  Each document is an object with a blob and
the checksum of what it should be.  What was acknowledged is written to ``DIRECTORY/LIFE.done``, one
line for each document: name and checksum.  Ends with status 3 when a blob is not what it should be.
"""

from __future__ import annotations

import hashlib
import os
import random
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import transaction
import ZODB
from persistent.mapping import PersistentMapping
from tests.rules.blob_documents import CONTAINER, Broken, check_blob
from transaction.interfaces import TransientError
from ZODB.blob import Blob
from ZODB.POSException import POSKeyError, StorageError

SIZES = (0, 1, 1000, 32 * 1024, 59_000, 59_001, 200_000, 600_000, 1_500_000)


def open_storage(kind: str, address: tuple[str, int], directory: Path) -> Any:
    """Return a client storage.

    :param kind: ``zeo``, or a Zeolith client: ``own``, ``zeo-server``, or ``M5``, which speaks
        ZEO's protocol with any server.
    """
    options: dict[str, Any] = {"blob_dir": str(directory), "wait_timeout": 20}
    if kind == "zeo":
        from ZEO.ClientStorage import ClientStorage as ZeoStorage
        from ZEO.Exceptions import ClientDisconnected

        class Storage(ZeoStorage):
            def notify_connected(self, *args: Any) -> None:
                # Ids that a server has given it before a restart may be somebody else's by now.
                self._oids: list[bytes] = []
                super().notify_connected(*args)

        while True:
            # It gives up when its first connection is cut.
            with suppress(ClientDisconnected):
                return Storage(address, **options)
    from zeolith import ClientStorage
    from zeolith.protocol import peers
    from zeolith.protocol.greeting import Greeting, parse_greeting

    if kind == "M5":
        vars(peers)["parse_greeting"] = lambda payload: Greeting(
            parse_greeting(payload).coding, False
        )
    return ClientStorage(address, min_disconnect_poll=0.02, max_disconnect_poll=0.1, **options)


def survivable() -> tuple[type[BaseException], ...]:
    """Return what a cut connection may raise."""
    from zeolith.errors import ClientStorageError, OutcomeUnknown

    return (StorageError, TransientError, ClientStorageError, OutcomeUnknown)


def open_database(storage: Any) -> Any:
    """Return a database; its root object is loaded for that, and the line may be cut."""
    while True:
        with suppress(StorageError, TransientError):
            return ZODB.DB(storage)


class Worker:
    def __init__(self, database: Any, directory: Path, life: str, seed: int) -> None:
        self._database = database
        self._done = open(directory / f"{life}.done", "ab", buffering=0)  # noqa: SIM115 - to the end
        self._life = life
        self._random = random.Random(seed)
        self._number = 0

    def commit(self) -> None:
        """Store a few documents in one transaction."""
        lines = []
        with self._database.transaction() as connection:
            mine = connection.root()[CONTAINER][self._life]
            for _ in range(self._random.randrange(1, 4)):
                self._number += 1
                data = self._random.randbytes(self._random.choice(SIZES))
                checksum = hashlib.sha256(data).hexdigest()
                name = f"{self._life}-{self._number}"
                mine[name] = PersistentMapping(blob=Blob(data), checksum=checksum)
                lines.append(f"{name} {checksum}\n")
        self._done.write("".join(lines).encode())

    def read(self) -> None:
        """Read one document of anybody's from the server."""
        with self._database.transaction() as connection:
            lives = connection.root()[CONTAINER]
            documents = {name: mine for mine in lives.values() for name in mine}
            if not documents:
                return
            name = self._random.choice(sorted(documents))
            document = documents[name][name]
            blob = document["blob"]
            blob._p_activate()
            path = self._database.storage.loadBlob(blob._p_oid, blob._p_serial)
            data = Path(path).read_bytes()
            with suppress(FileNotFoundError):
                os.unlink(path)  # so that the next reader has to fetch it
            check_blob(document, data)


def main() -> int:
    host, port, directory, life, seed, kind = sys.argv[1:]
    stopping = threading.Event()

    def wait_for_end() -> None:
        os.read(0, 1)
        stopping.set()

    threading.Thread(target=wait_for_end, daemon=True).start()
    base = Path(directory)
    storage = open_storage(kind, (host, int(port)), base / f"cache-{life.partition('-')[0]}")
    database = open_database(storage)
    worker = Worker(database, base, life, int(seed))
    errors: tuple[type[BaseException], ...] = survivable()
    steps = [worker.commit, worker.read, worker.read]
    if kind == "zeo":
        # A download that was cut off leaves a part of it, to which ZEO's client appends the next
        # one.
        errors = (Exception,)
        steps = [worker.commit]
    while not stopping.is_set():
        for step in steps:
            try:
                step()
            except Broken as error:
                print(f"BROKEN: {error}", flush=True)
                return 3
            except POSKeyError:
                raise
            except errors as error:
                print(f"{step.__name__}: {type(error).__name__}: {error}", flush=True)
                with suppress(*errors):
                    transaction.abort()
    database.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
