"""Fixtures of the server's tests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.support.blobsites import KIB, Site, store_blob
from tests.support.packing import Contents
from tests.support.processes import running_server
from tests.support.raw import RawClient, oid_of
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage

from zeolith.protocol.greeting import Coding

Serve = Callable[..., Any]
Connect = Callable[..., RawClient]


@pytest.fixture(params=["uvloop", "asyncio"])
def loop(request: pytest.FixtureRequest) -> str:
    """The event loop of the server."""
    name: str = request.param
    return name


@pytest.fixture(params=list(Coding), ids=lambda coding: coding.name.lower())
def coding(request: pytest.FixtureRequest) -> Coding:
    """The coding of the client."""
    found: Coding = request.param
    return found


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
def files(tmp_path: Path) -> FileStorage:
    """A FileStorage with blobs; whoever serves it closes it."""
    return FileStorage(str(tmp_path / "Data.fs"), blob_dir=str(tmp_path / "blobs"))


@pytest.fixture
def client(files: FileStorage, serve: Serve, raw: Connect, loop: str, coding: Coding) -> RawClient:
    """A client of a FileStorage with blobs."""
    return raw(serve(files, loop=loop).address, coding=coding)


@pytest.fixture
def site(files: FileStorage, tmp_path: Path, serve: Serve, raw: Connect, loop: str) -> Site:
    """A server with one large blob, and a client of it."""
    data = os.urandom(4 * 1024 * KIB + 77)
    tid = store_blob(files, tmp_path, 1, data)
    server = serve(files, loop=loop)
    return Site(server, raw(server.address, coding=Coding.OWN), oid_of(1), tid, data)


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> tuple[Contents, Path]:
    """A database with something to pack, and its directory; not to be changed."""
    directory = tmp_path_factory.mktemp("contents")
    return Contents(directory), directory


@pytest.fixture
def database(contents: tuple[Contents, Path], tmp_path: Path) -> tuple[Contents, Path]:
    """A copy of it."""
    found, directory = contents
    copy = tmp_path / "db"
    shutil.copytree(directory, copy)
    return found, copy
