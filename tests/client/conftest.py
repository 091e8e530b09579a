"""Clients whose server is the test: a channel on frames in memory, and storages on sockets."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ZODB.FileStorage import FileStorage

from tests.support import waiting
from tests.support.processes import running_server
from tests.support.proxy import Proxy
from tests.support.raw import FakeConnection, FakeServer
from zeolith.client.blobs import BlobDirectory
from zeolith.client.channel import Channel
from zeolith.client.storage import ClientStorage
from zeolith.client.wire import Address
from zeolith.protocol.codec import Codec
from zeolith.protocol.greeting import Coding
from zeolith.protocol.loadrequests import Record
from zeolith.protocol.messages import Call, Notice, Request
from zeolith.protocol.peers import Event, ServerPeer

Open = Callable[..., ClientStorage]
Attach = Callable[..., tuple[ClientStorage, FakeConnection]]


class MemoryWire:
    """A wire whose other end is a queue of bytes."""

    peer_name: Address = ("memory", 1)

    def __init__(self) -> None:
        self.arriving: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.sent: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.failure: BaseException | None = None
        self.is_closed = False
        self.reading = threading.Semaphore(0)
        """Released each time somebody starts to wait for bytes."""

    def send(self, data: bytes) -> None:
        if self.failure is not None:
            raise self.failure
        self.sent.put(data)

    def receive(self) -> bytes:
        self.reading.release()
        return self.arriving.get()

    def is_readable(self, timeout: float | None) -> bool:
        return not self.arriving.empty()

    def is_writable(self) -> bool:
        return True

    def set_timeout(self, timeout: float | None) -> None:
        pass

    def abort(self) -> None:
        self.arriving.put(b"")

    def close(self) -> None:
        self.is_closed = True


@dataclass
class Recorder:
    """A receiver that writes down what it gets, and may be told to fail."""

    events: list[Any] = field(default_factory=list)
    on_loaded: Callable[[], None] | None = None

    def loaded(self, oid: bytes, start: bytes, end: bytes | None, data: bytes) -> None:
        if self.on_loaded is not None:
            self.on_loaded()
        self.events.append(("loaded", oid, start, end, data))

    def loaded_many(self, records: Sequence[Record]) -> None:
        for record in records:
            self.loaded(*record)

    def noticed(self, request: Request) -> None:
        self.events.append(request)

    def broken(self, channel: Channel, cause: BaseException) -> None:
        self.events.append(("broken", str(cause)))


@dataclass
class ServerEnd:
    """The test as server: reads what the client sent, answers when the test says so."""

    wire: MemoryWire
    peer: ServerPeer
    _events: list[Event] = field(default_factory=list)

    @property
    def codec(self) -> Codec:
        assert self.peer.codec is not None
        return self.peer.codec

    def next_event(self) -> Event:
        while not self._events:
            self._events.extend(self.peer.receive(self.wire.sent.get(timeout=10)))
        return self._events.pop(0)

    def next_call(self) -> Call:
        event = self.next_event()
        assert isinstance(event, Call), event
        return event

    def next_notice(self) -> Request:
        event = self.next_event()
        assert isinstance(event, Notice), event
        return event.request

    def say(self, *frames: bytes) -> None:
        self.wire.arriving.put(b"".join(frames))


@dataclass
class Line:
    """A registered channel and its other end."""

    channel: Channel
    receiver: Recorder
    wire: MemoryWire
    server: ServerEnd


@pytest.fixture(params=[Coding.PICKLE, Coding.MSGPACK], ids=["Z5", "M5"])
def line(request: pytest.FixtureRequest) -> Line:
    """A registered channel, in both codings."""
    wire = MemoryWire()
    receiver = Recorder()
    channel = Channel(wire, receiver, "memory")
    peer = ServerPeer(request.param)
    # A greeting without Zeolith's marker leaves the choice of the coding to the server.
    wire.arriving.put(b"\0\0\0\x02" + request.param.value + b"5")
    channel.greet()
    assert wire.reading.acquire(timeout=10)
    peer.receive(wire.sent.get(timeout=10))
    peer.registered()
    channel.registered()
    return Line(channel, receiver, wire, ServerEnd(wire, peer))


class Background:
    """A thread with a result."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self._result: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, args=(function, args), daemon=True)
        self._thread.start()

    def _run(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        try:
            self._result.put((function(*args), None))
        except BaseException as error:  # noqa: BLE001 - raised again by result()
            self._result.put((None, error))

    def result(self) -> Any:
        """Wait for the thread's end; return or raise what the function did."""
        value, error = self._result.get(timeout=20)
        self._thread.join(20)
        if error is not None:
            raise error
        return value


@pytest.fixture
def background() -> type[Background]:
    """Runs a function in a thread."""
    return Background


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


@pytest.fixture
def fake(stack: ExitStack) -> FakeServer:
    return stack.enter_context(FakeServer())


@pytest.fixture
def client(stack: ExitStack) -> Open:
    def open_client(address: Any, **keywords: Any) -> ClientStorage:
        keywords.setdefault("wait_timeout", 20)
        keywords.setdefault("min_disconnect_poll", 0.01)
        storage = ClientStorage(address, **keywords)
        stack.callback(storage.close)
        return storage

    return open_client


@pytest.fixture
def attach(fake: FakeServer, client: Open) -> Attach:
    """Connect a storage to the fake server, whose last transaction is 1."""

    def attach_client(
        *, is_zeo: bool = False, **keywords: Any
    ) -> tuple[ClientStorage, FakeConnection]:
        opening = waiting.Background(lambda: client(fake.address, **keywords))
        connection = fake.accept()
        connection.admit(bytes([0] * 7 + [1]), is_zeo=is_zeo)
        storage = opening.result()
        assert isinstance(storage, ClientStorage)
        return storage, connection

    return attach_client


@pytest.fixture
def blob_cache(tmp_path: Path) -> Iterator[BlobDirectory]:
    """A directory of blobs without a limit of its size."""
    with closing(BlobDirectory(str(tmp_path / "cache"), shared=False, cache_size=None)) as found:
        yield found


@pytest.fixture
def files(tmp_path: Path) -> FileStorage:
    return FileStorage(str(tmp_path / "Data.fs"), blob_dir=str(tmp_path / "blobs"))


@pytest.fixture
def server(files: FileStorage) -> Iterator[Any]:
    with running_server(files) as found:
        yield found


@pytest.fixture
def proxy(server: Any, stack: ExitStack) -> Proxy:
    return stack.enter_context(Proxy(server.address))
