"""A database with blobs in files, and a place for its backups."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import ZODB
from ZODB.blob import Blob
from ZODB.FileStorage import FileStorage

from zeolith.admin.backup.making import Wishes, make_backup
from zeolith.admin.backup.manifest import Manifest
from zeolith.admin.backup.repository import Repository, create_repository
from zeolith.admin.backup.source import Source, find_source


class Silence:
    """A report that nobody reads."""

    def line(self, text: str) -> None:
        """Nothing."""

    def detail(self, text: str) -> None:
        """Nothing."""

    @contextmanager
    def progress(self, label: str, total: int) -> Iterator[Callable[[int], None]]:
        """Nothing."""
        yield lambda count: None


class Notes(Silence):
    """A report that remembers what was said.

    :ivar lines: all of it.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)

    def detail(self, text: str) -> None:
        self.lines.append(text)

    def __contains__(self, text: str) -> bool:
        return any(text in line for line in self.lines)


class Site:
    """A database ``Data.fs`` with ``blobs`` in a directory.

    :param directory: where it is made, with a directory ``repository`` for backups.
    :ivar notes: what the backups had to say.
    """

    def __init__(self, directory: Path, blob_layout: str | None = None) -> None:
        self.directory = directory
        self.path = directory / "Data.fs"
        self.blobs = directory / "blobs"
        if blob_layout is not None:
            # A new FileStorage would remove what is in its blob directory.
            FileStorage(str(self.path)).close()
            self.blobs.mkdir()
            (self.blobs / ".layout").write_text(blob_layout)
        self.notes = Notes()

    @property
    def repository(self) -> Repository:
        return create_repository(str(self.directory / "repository"))

    @property
    def source(self) -> Source:
        return find_source(str(self.path), str(self.blobs))

    @contextmanager
    def database(self) -> Iterator[Any]:
        """Open the database, as a server does."""
        storage = FileStorage(str(self.path), blob_dir=str(self.blobs))
        with closing(ZODB.DB(storage)) as database:
            yield database

    def commit(self, *numbers: int) -> list[bytes]:
        """Commit a transaction with a blob for each number; return the tids."""
        tids = []
        with self.database() as database:
            for number in numbers:
                with database.transaction() as connection:
                    root = connection.root()
                    root["last"] = number
                    root[f"blob {number}"] = Blob(content_of(number))
                tids.append(database.lastTransaction())
        return tids

    def pack(self) -> None:
        with self.database() as database:
            database.pack()

    def remove(self, *numbers: int) -> None:
        """Commit a transaction without some of the blobs."""
        with self.database() as database, database.transaction() as connection:
            for number in numbers:
                del connection.root()[f"blob {number}"]

    def backup(self, source: Source | None = None, **wishes: Any) -> Manifest:
        """Make a backup, of which something must come."""
        made = self.maybe_backup(source, **wishes)
        assert made is not None
        return made

    def maybe_backup(self, source: Source | None = None, **wishes: Any) -> Manifest | None:
        repository = self.repository
        with repository.locked():
            return make_backup(repository, source or self.source, Wishes(**wishes), self.notes)

    def blob_files(self) -> dict[str, bytes]:
        return blob_files(self.blobs)


def content_of(number: int) -> bytes:
    """Return the content of a blob."""
    return b"%d " % number * (100 * number + 1)


def blob_files(directory: Path) -> dict[str, bytes]:
    """Return the blobs below a directory."""
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*.blob")
    }


def listing(directory: Path) -> dict[str, bytes]:
    """Return all files below a directory that are not about locks."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    }


def read_blobs(path: Path, blob_dir: Path) -> dict[int, bytes]:
    """Open a restored database as its users do; return its blobs by number.

    Asserts that its ``last`` is the greatest of them, so that it is the state of one transaction.
    """
    storage = FileStorage(str(path), blob_dir=str(blob_dir))
    with closing(ZODB.DB(storage)) as database, database.transaction() as connection:
        root = connection.root()
        found = {}
        for name, value in root.items():
            if name.startswith("blob "):
                with value.open("r") as file:
                    found[int(name.removeprefix("blob "))] = file.read()
        assert root["last"] == max(found)
        return found
