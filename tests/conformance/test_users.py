"""ZEO's own clients at a server that knows its users: they cannot log in, but may be known."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme
from tests.conformance.clients import FORGIVEN, open_client
from tests.conformance.site import DISCONNECTED
from tests.support import users as known
from tests.support.processes import running_server
from tests.support.tlscontexts import server_context
from tests.support.users import entry
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.POSException import ReadOnlyError, StorageError

from zeolith.config.userdirectory import UserDirectory

pytestmark = FORGIVEN["zeo"]

Z64 = bytes(8)
OID = b"\0" * 7 + b"\1"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


@pytest.fixture
def storage(tmp_path: Path) -> FileStorage:
    return FileStorage(str(tmp_path / "Data.fs"))


@pytest.fixture
def users(tmp_path: Path) -> UserDirectory:
    return known.directory(
        tmp_path / "users",
        entry("web", "write", None, certificates=("web.example.org",)),
        entry("watch", "read", None, certificates=("watch.example.org",)),
        entry("here", "write", None, accounts=(str(os.geteuid()),)),
    )


def commit(client: Any) -> bytes:
    meta = TransactionMetaData()
    client.tpc_begin(meta)
    client.store(OID, Z64, b"data", "", meta)
    client.tpc_vote(meta)
    tid: bytes = client.tpc_finish(meta)
    return tid


class Certificates:
    """A server's and its clients' contexts."""

    def __init__(self, directory: Path) -> None:
        self._authority = trustme.CA()
        self._root = directory / "ca.pem"
        self._authority.cert_pem.write_to_path(str(self._root))
        server = directory / "server.pem"
        self._authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
            str(server)
        )
        self.server = server_context(str(server), str(self._root))

    def client(self, name: str) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self._root))
        self._authority.issue_cert(name).configure_cert(context)
        return context


def test_by_certificate(
    storage: FileStorage, users: UserDirectory, stack: ExitStack, tmp_path: Path
) -> None:
    certificates = Certificates(tmp_path)
    server = stack.enter_context(running_server(storage, users=users, ssl=certificates.server))

    def connect(name: str, **options: Any) -> Any:
        found = open_client("zeo", server.address, ssl=certificates.client(name), **options)
        stack.callback(found.close)
        return found

    web = connect("web.example.org")
    tid = commit(web)
    watch = connect("watch.example.org", read_only_fallback=True)
    assert watch.load(OID) == (b"data", tid)
    assert watch.isReadOnly()
    with pytest.raises(ReadOnlyError):
        commit(watch)
    with pytest.raises(StorageError, match="lacks the right 'pack'"):
        web.pack(1.0, wait=True)
    assert web.load(OID) == (b"data", tid)
    with pytest.raises(DISCONNECTED):
        connect("stranger.example.org", wait_timeout=1)


def test_over_a_unix_socket(
    storage: FileStorage, users: UserDirectory, stack: ExitStack, tmp_path: Path
) -> None:
    address = str(tmp_path / "socket")
    stack.enter_context(running_server(storage, users=users, address=address))
    client = open_client("zeo", address)
    stack.callback(client.close)
    commit(client)


def test_not_at_all(storage: FileStorage, users: UserDirectory, stack: ExitStack) -> None:
    server = stack.enter_context(running_server(storage, users=users))
    with pytest.raises(DISCONNECTED):
        open_client("zeo", server.address, wait_timeout=1)
