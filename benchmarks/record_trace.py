"""Record the trace ``traces/catalog.trace.gz`` for ``hitrates.py``.

``python -m benchmarks.record_trace`` runs an application as sites in Zope are: documents in
folders, found through a catalog of BTrees, on a server in a process of its own.  What is asked of
the client's cache is what ZODB's own object caches, which are small here, do not answer.  Visitors
come to popular documents again and again, search, and list folders; editors change documents, and
another client does too; once the whole catalog is built anew.

The load is the same each time, times and transaction ids apart.
"""

from __future__ import annotations

import gzip
import os
import random
import shutil
import tempfile
from bisect import bisect
from contextlib import closing
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

import transaction
from BTrees.IIBTree import IITreeSet
from BTrees.IOBTree import IOBTree
from BTrees.OOBTree import OOBTree
from persistent import Persistent
from ZODB.DB import DB

import zeolith

TARGET: Final = Path(__file__).parent / "traces" / "catalog.trace.gz"
DOCUMENTS: Final = 3_000
FOLDERS: Final = 60
WORDS: Final = 1_500
REQUESTS: Final = 2_200
CONNECTIONS: Final = 3
OBJECTS_CACHED: Final = 250
"""By each of ZODB's connections, a tenth of what there is."""


class Document(Persistent):
    """A text with its metadata."""

    def __init__(self, number: int, chance: random.Random) -> None:
        self.title = f"document {number}"
        self.folder = number % FOLDERS
        self.write(chance)

    def write(self, chance: random.Random) -> None:
        """Write another text."""
        self.words = [int(WORDS * chance.random() ** 3) for _ in range(20)]
        self.text = "x" * min(int(chance.lognormvariate(6.5, 1.0)), 30_000)


class Site:
    """What one connection sees of the application."""

    def __init__(self, root: Any) -> None:
        self.documents, self.folders = root["documents"], root["folders"]
        self.words, self.titles, self.metadata = root["words"], root["titles"], root["metadata"]

    @staticmethod
    def make(root: Any) -> None:
        """Make an empty one."""
        root["documents"], root["metadata"] = IOBTree(), IOBTree()
        root["folders"], root["words"], root["titles"] = OOBTree(), OOBTree(), OOBTree()

    def index(self, number: int) -> None:
        """Put a document into the catalog."""
        document = self.documents[number]
        self.titles[document.title] = number
        self.metadata[number] = (document.title, document.folder, len(document.text))
        for word in document.words:
            self.words.setdefault(word, IITreeSet()).insert(number)

    def unindex(self, number: int) -> None:
        """Take a document out of the catalog."""
        for word in self.documents[number].words:
            if word in self.words:
                self.words[word].discard(number)

    def edit(self, number: int, chance: random.Random) -> None:
        """Change a document."""
        self.unindex(number)
        self.documents[number].write(chance)
        self.index(number)

    def visit(self, number: int) -> int:
        """Show a document and its neighbours."""
        document = self.documents[number]
        siblings = list(self.folders[document.folder])[:10]
        return len(document.text) + len([self.metadata[sibling] for sibling in siblings])

    def search(self, words: list[int]) -> int:
        """Show the first documents that have all *words*."""
        found: set[int] | None = None
        for word in words:
            numbers = set(self.words.get(word, ()))
            found = numbers if found is None else found & numbers
        return sum(len(self.documents[number].text) for number in sorted(found or ())[:10])


def fill(db: Any, chance: random.Random) -> None:
    """Make the site and its documents."""
    with db.transaction() as connection:
        Site.make(connection.root())
    for first in range(0, DOCUMENTS, 100):
        with db.transaction() as connection:
            site = Site(connection.root())
            for number in range(first, first + 100):
                site.documents[number] = document = Document(number, chance)
                site.folders.setdefault(document.folder, IITreeSet()).insert(number)
                site.index(number)


def use(db: Any, other: Any, chance: random.Random) -> None:
    """Serve requests by some connections in turn; *other* is another client's database."""
    order = list(range(DOCUMENTS))
    chance.shuffle(order)
    weights = list(accumulate(1 / (n + 1) ** 0.8 for n in range(DOCUMENTS)))

    def popular() -> int:
        return order[bisect(weights, chance.random() * weights[-1])]

    managers = [transaction.TransactionManager() for _ in range(CONNECTIONS)]
    connections = [db.open(manager) for manager in managers]
    for request in range(REQUESTS):
        connection, manager = chance.choice(list(zip(connections, managers)))
        manager.begin()
        site = Site(connection.root())
        kind = chance.random()
        if request == REQUESTS // 2:
            for number in range(DOCUMENTS):
                site.index(number)
        elif kind < 0.6:
            site.visit(popular())
        elif kind < 0.9:
            site.search([int(WORDS * chance.random() ** 3) for _ in range(2)])
        elif kind < 0.95:
            site.edit(popular(), chance)
        else:
            with other.transaction() as elsewhere:
                Site(elsewhere.root()).edit(popular(), chance)
            db.storage.sync_to(other.storage.lastTransaction(), 30)
        manager.commit()
        connection.cacheGC()
    for connection in connections:
        connection.close()


def record(target: Path) -> None:
    """Run the application and write the trace of its cache to *target*."""
    chance = random.Random(20)
    with tempfile.TemporaryDirectory() as directory:
        trace = os.path.join(directory, "catalog.trace")
        address, stop = zeolith.server(os.path.join(directory, "Data.fs"))
        try:
            with closing(DB(zeolith.ClientStorage(address), cache_size=OBJECTS_CACHED)) as other:
                fill(other, chance)
                os.environ["ZEO_CACHE_TRACE"] = trace
                storage = zeolith.ClientStorage(address)
                del os.environ["ZEO_CACHE_TRACE"]
                with closing(DB(storage, cache_size=OBJECTS_CACHED)) as db:
                    use(db, other, chance)
        finally:
            stop()
        target.parent.mkdir(exist_ok=True)
        with (
            open(trace, "rb") as source,
            open(target, "wb") as file,
            gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as packed,
        ):
            shutil.copyfileobj(source, packed)


if __name__ == "__main__":
    record(TARGET)
