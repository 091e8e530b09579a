"""Fixtures of the rule and failure tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.support.processes import running_server
from tests.support.raw import FakeConnection, FakeServer, RawClient
from tests.support.waiting import Background
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage

from zeolith import ClientStorage

Serve = Callable[..., Any]
Connect = Callable[..., RawClient]
Open = Callable[..., ClientStorage]
Attach = Callable[..., tuple[ClientStorage, FakeConnection]]


@pytest.fixture(params=["uvloop", "asyncio"])
def loop(request: pytest.FixtureRequest) -> str:
    """The event loop of the server."""
    name: str = request.param
    return name


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """What a test opens, closed at its end in reverse order."""
    with ExitStack() as found:
        yield found


@pytest.fixture
def serve(stack: ExitStack) -> Serve:
    """Start servers in this process: ``serve(storage, **options)`` returns the server."""
    return lambda storage, **options: stack.enter_context(running_server(storage, **options))


@pytest.fixture
def raw(stack: ExitStack) -> Connect:
    """Open raw clients: ``raw(address, ...)``."""
    return lambda *args, **kw: stack.enter_context(RawClient(*args, **kw))


@pytest.fixture
def mapping() -> MappingStorage:
    """A storage in memory; whoever serves it closes it."""
    return MappingStorage()


@pytest.fixture
def files(tmp_path: Path, stack: ExitStack) -> FileStorage:
    """A FileStorage with blobs; whoever serves it closes it."""
    storage = FileStorage(str(tmp_path / "Data.fs"), blob_dir=str(tmp_path / "blobs"))
    stack.callback(storage.close)
    return storage


@pytest.fixture
def client(stack: ExitStack) -> Open:
    """Open client storages: ``client(address, **keywords)``."""

    def open_client(address: Any, **keywords: Any) -> ClientStorage:
        keywords.setdefault("wait_timeout", 20)
        storage = ClientStorage(address, **keywords)
        stack.callback(storage.close)
        return storage

    return open_client


@pytest.fixture
def fake(stack: ExitStack) -> FakeServer:
    """A server that the test plays."""
    return stack.enter_context(FakeServer())


def tid_of(number: int) -> bytes:
    """Return a transaction id; a greater number is a later one."""
    return b"\x03\xff" + number.to_bytes(6, "big")


@pytest.fixture
def attach(fake: FakeServer, client: Open) -> Attach:
    """Connect a client storage to the fake server, whose last transaction is ``tid_of(1)``."""

    def attach_client(**keywords: Any) -> tuple[ClientStorage, FakeConnection]:
        opening = Background(lambda: client(fake.address, **keywords))
        connection = fake.accept()
        connection.admit(tid_of(1))
        storage = opening.result()
        assert isinstance(storage, ClientStorage)
        return storage, connection

    return attach_client


class Database:
    """What a storage tells its database, in order.

    That everything may have changed is told twice, and in between up to when: this is noted once.
    """

    def __init__(self, storage: Any) -> None:
        self.told: list[tuple[bytes, list[bytes]] | str] = []
        self.on_invalidate: Callable[[bytes], object] = lambda tid: None
        self.on_drop: Callable[[], object] = lambda: None
        self._is_half_told = False
        storage.registerDB(self)

    def invalidate(self, tid: bytes, oids: Any) -> None:
        if self._is_half_told:
            assert not oids
            return
        self.on_invalidate(tid)
        self.told.append((tid, sorted(oids)))

    def invalidateCache(self) -> None:  # noqa: N802 - ZODB's name
        self._is_half_told = not self._is_half_told
        if self._is_half_told:
            self.on_drop()
            self.told.append("all")

    def transform_record_data(self, data: bytes) -> bytes:
        return data

    untransform_record_data = transform_record_data

    def references(self, record: bytes, oids: Any = None) -> list[bytes]:
        return []
