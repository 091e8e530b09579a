"""The databases that are served: written once, copied for every server."""

from __future__ import annotations

import random
from contextlib import closing
from pathlib import Path
from typing import Final

from BTrees.IOBTree import IOBTree
from persistent.mapping import PersistentMapping
from ZODB.Connection import TransactionMetaData
from ZODB.DB import DB
from ZODB.FileStorage import FileStorage
from ZODB.utils import maxtid, p64

OBJECTS: Final = 20_000
"""Items of the sample database."""

RECORD_SIZE: Final = 300
"""Bytes of each item's record, give or take a few."""

SMALL_OBJECTS: Final = 200_000
SMALL_SIZE: Final = 60
"""Bytes of each record of the database of small objects: little enough that what a cache adds to
a record is what is seen."""

PACKED_OBJECTS: Final = 210_000
"""Items of the database that is packed, each stored twice: together 150 MB."""

_PICKLED_AROUND_TEXT: Final = 75
_BATCH: Final = 5_000


def write_items(path: Path) -> list[bytes]:
    """Write the sample database: an IOBTree ``items`` of :data:`OBJECTS` mappings.

    Return the object ids of the items.
    """
    chance = random.Random(1)
    text_size = RECORD_SIZE - _PICKLED_AROUND_TEXT
    with closing(DB(FileStorage(str(path)))) as db:
        with db.transaction() as connection:
            items = connection.root()["items"] = IOBTree()
            for number in range(OBJECTS):
                text = "".join(chance.choices("abcdefghijklmnop", k=text_size))
                items[number] = PersistentMapping(text=text)
        with db.transaction() as connection:
            return [item._p_oid for item in connection.root()["items"].values()]


def write_small_objects(path: Path) -> list[bytes]:
    """Write :data:`SMALL_OBJECTS` records of :data:`SMALL_SIZE` bytes; return their ids."""
    chance = random.Random(2)
    oids = [p64(number) for number in range(1, SMALL_OBJECTS + 1)]
    with closing(FileStorage(str(path))) as storage:
        for first in range(0, SMALL_OBJECTS, _BATCH):
            meta = TransactionMetaData()
            storage.tpc_begin(meta)
            for oid in oids[first : first + _BATCH]:
                storage.store(oid, p64(0), chance.randbytes(SMALL_SIZE), "", meta)
            storage.tpc_vote(meta)
            storage.tpc_finish(meta)
    return oids


def write_twice(path: Path) -> list[bytes]:
    """Write :data:`PACKED_OBJECTS` items as :func:`write_items` does, then store each again.

    Half of what is in the file is of no use then.  Return the object ids of the items.
    """
    chance = random.Random(3)
    text_size = RECORD_SIZE - _PICKLED_AROUND_TEXT
    oids: list[bytes] = []
    with closing(DB(FileStorage(str(path)))) as db:
        for first in range(0, PACKED_OBJECTS, _BATCH):
            with db.transaction() as connection:
                items = connection.root().setdefault("items", IOBTree())
                batch = range(first, min(first + _BATCH, PACKED_OBJECTS))
                for number in batch:
                    text = "".join(chance.choices("abcdefghijklmnop", k=text_size))
                    items[number] = PersistentMapping(text=text)
                connection.transaction_manager.savepoint()
                oids += [items[number]._p_oid for number in batch]
    with closing(FileStorage(str(path))) as storage:
        for first in range(0, len(oids), _BATCH):
            meta = TransactionMetaData()
            records = [(oid, *storage.loadBefore(oid, maxtid)) for oid in oids[first:][:_BATCH]]
            storage.tpc_begin(meta)
            for oid, data, tid, _ in records:
                storage.store(oid, tid, data, "", meta)
            storage.tpc_vote(meta)
            storage.tpc_finish(meta)
    return oids


def write_oids(path: Path, oids: list[bytes]) -> None:
    """Keep *oids* for the processes that load them."""
    path.write_bytes(b"".join(oids))


def read_oids(path: Path) -> list[bytes]:
    """Return what :func:`write_oids` kept."""
    joined = path.read_bytes()
    return [joined[at : at + 8] for at in range(0, len(joined), 8)]
