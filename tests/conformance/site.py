"""A pairing of client and server, ready to be used by a test."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import ZEO.Exceptions
import ZODB
from tests.conformance.clients import client_class
from tests.support.hosts import Hosts, Kind, RunningServer
from tests.support.proxy import Proxy
from tests.support.waiting import wait_until

import zeolith.errors

FILE = "<filestorage>\n path {directory}/Data.fs\n</filestorage>"
BLOBS = "<filestorage>\n path {directory}/Data.fs\n blob-dir {directory}/blobs\n</filestorage>"
MAPPING = "<mappingstorage/>"

DISCONNECTED = (ZEO.Exceptions.ClientDisconnected, zeolith.errors.ClientDisconnected)
"""What either client raises without a server."""


class Pairing(NamedTuple):
    """Who talks to whom.

    :ivar is_msgpack: the server proposes ``M5`` instead of ``Z5``.
    :ivar is_own: the client may choose Zeolith's own protocol.
    """

    client: Kind
    server: Kind
    is_msgpack: bool
    is_own: bool = False

    @property
    def name(self) -> str:
        coding = "own" if self.is_own else "M5" if self.is_msgpack else "Z5"
        return f"{self.client}-to-{self.server}-{coding}"


class Database(ZODB.DB):
    """A database that may be closed twice."""

    _is_closed = False

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            super().close()


class Site:
    """Starts servers and clients of one pairing, and ends them with the test.

    :ivar directory: where the servers of this site keep their files.
    """

    def __init__(self, hosts: Hosts, pairing: Pairing, directory: Path) -> None:
        self.pairing = pairing
        self.directory = directory
        self._hosts = hosts
        self._stack = ExitStack()
        self._blob_dirs = 0

    def serve(self, storages: dict[str, str] | str = FILE, **options: Any) -> RunningServer:
        """Start a server.

        :param storages: ZConfig texts by name, or one that is then called ``1``; ``{directory}``
            stands for the site's directory.
        :param options: of the server.
        """
        if isinstance(storages, str):
            storages = {"1": storages}
        texts = {name: text.format(directory=self.directory) for name, text in storages.items()}
        options.setdefault("msgpack", self.pairing.is_msgpack)
        server = self._hosts.start(self.pairing.server, texts, **options)
        self._stack.callback(server.stop)
        return server

    def proxy(self, server: RunningServer) -> Proxy:
        """Put a proxy in front of a server."""
        return self._stack.enter_context(Proxy(server.address))

    def client(self, address: Any, **options: Any) -> Any:
        """Return a client storage, closed with the site."""
        options.setdefault("wait_timeout", 30)
        storage = client_class(self.pairing.client)(address, **options)
        self._stack.callback(storage.close)
        return storage

    def blob_options(self, is_shared: bool) -> dict[str, Any]:
        """Return the options of a client with blobs, each with a directory of its own."""
        if is_shared:
            return {"blob_dir": str(self.directory / "blobs"), "shared_blob_dir": True}
        self._blob_dirs += 1
        return {"blob_dir": str(self.directory / f"client-blobs-{self._blob_dirs}")}

    def database(self, address: Any, **options: Any) -> Database:
        """Return a database on a client storage, closed with the site."""
        database = Database(self.client(address, **options))
        self._stack.callback(database.close)
        return database

    def catch_up(self, reader: Any, writer: Any) -> None:
        """Let one database or storage see what another has committed.

        A Zeolith server's answers never overtake an invalidation, so any call will do.  ZEO's
        server on uvloop gives no such promise.
        """
        reader, writer = (getattr(item, "storage", item) for item in (reader, writer))
        reader.ping()
        if self.pairing.server == "zeo":
            wait_until(lambda: reader.lastTransaction() == writer.lastTransaction())
        assert reader.lastTransaction() == writer.lastTransaction()

    def close(self) -> None:
        """End everything, clients before servers."""
        self._stack.close()


def files_below(directory: str | Path, suffix: str) -> list[str]:
    """Return the paths of the files whose names end with *suffix*."""
    return [
        os.path.join(path, name)
        for path, _, names in os.walk(directory)
        for name in names
        if name.endswith(suffix)
    ]
