"""A short blob is sent at once, with all that is said of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage

from tests.support.processes import running_server
from tests.support.raw import oid_of
from zeolith.client.storage import ClientStorage
from zeolith.client.streams import Streams
from zeolith.client.transfers import SHORT
from zeolith.client.wire import PlainWire
from zeolith.errors import ObjectTooLarge
from zeolith.protocol.limits import STREAM_FRAME, Limits
from zeolith.protocol.messages import Ping
from zeolith.protocol.streamrequests import StreamEnd

from .conftest import Open


@pytest.fixture
def storage(server: Any, client: Open, tmp_path: Path) -> ClientStorage:
    found = client(server.address, blob_dir=str(tmp_path / "cache"))
    # As after some messages that the line took in a moment.
    found._link.channel().streams._pace().frame = 2 * SHORT
    return found


def begin(storage: ClientStorage) -> TransactionMetaData:
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    return meta


def store(
    storage: ClientStorage,
    meta: TransactionMetaData,
    path: Path,
    number: int,
    data: bytes,
    record: bytes = b"record",
) -> None:
    path.write_bytes(data)
    storage.storeBlob(oid_of(number), None, record, str(path), "", meta)


def finish(storage: ClientStorage, meta: TransactionMetaData) -> bytes:
    storage.tpc_vote(meta)
    return storage.tpc_finish(meta)


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """How many bytes the parts of each write had that carries data."""
    found: list[tuple[int, ...]] = []
    original = PlainWire.send_parts

    def send_parts(self: PlainWire, *parts: bytes | memoryview) -> None:
        found.append(tuple(map(len, parts)))
        original(self, *parts)

    monkeypatch.setattr(PlainWire, "send_parts", send_parts)
    return found


def test_each_is_one_write(
    storage: ClientStorage, files: FileStorage, tmp_path: Path, writes: list[tuple[int, ...]]
) -> None:
    sizes = [1, 1000, SHORT]
    data = [os.urandom(size) for size in sizes]
    meta = begin(storage)
    for number, content in enumerate(data):
        store(storage, meta, tmp_path / "new", number + 1, content)
    assert [parts[1] for parts in writes] == sizes
    assert all(parts[2] > len(b"record") for parts in writes)
    serial = finish(storage, meta)
    for number, content in enumerate(data):
        assert Path(files.loadBlob(oid_of(number + 1), serial)).read_bytes() == content
        assert Path(storage.loadBlob(oid_of(number + 1), serial)).read_bytes() == content


@pytest.mark.parametrize("size", [0, SHORT + 1])
def test_one_that_is_not_short_has_a_stream(
    storage: ClientStorage, files: FileStorage, tmp_path: Path, size: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    data, opened = os.urandom(size), []
    original = Streams.upload

    def upload(self: Streams, *arguments: Any) -> Any:
        opened.append(size)
        return original(self, *arguments)

    monkeypatch.setattr(Streams, "upload", upload)
    meta = begin(storage)
    store(storage, meta, tmp_path / "new", 1, data)
    store(storage, meta, tmp_path / "new", 2, b"short")
    serial = finish(storage, meta)
    assert opened == [size]
    assert Path(files.loadBlob(oid_of(1), serial)).read_bytes() == data
    assert Path(files.loadBlob(oid_of(2), serial)).read_bytes() == b"short"


def test_a_slow_line_gets_no_longer_messages_than_before(
    storage: ClientStorage, files: FileStorage, tmp_path: Path, writes: list[tuple[int, ...]]
) -> None:
    storage._link.channel().streams._pace().frame = STREAM_FRAME
    data = os.urandom(STREAM_FRAME + 1)
    meta = begin(storage)
    store(storage, meta, tmp_path / "new", 1, data)
    serial = finish(storage, meta)
    assert writes[0][1] == STREAM_FRAME
    assert Path(files.loadBlob(oid_of(1), serial)).read_bytes() == data


def test_what_a_line_takes_long_for_is_not_sent_so_again(
    storage: ClientStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter(range(1000))
    monkeypatch.setattr("zeolith.client.streams.time.monotonic", lambda: next(now))
    meta = begin(storage)
    pace = storage._link.channel().streams._pace()
    store(storage, meta, tmp_path / "new", 1, b"short")
    monkeypatch.undo()
    assert pace.frame == SHORT
    storage.tpc_abort(meta)


def test_a_record_that_is_too_long_is_refused_before_anything_is_sent(
    files: FileStorage, client: Open, tmp_path: Path, writes: list[tuple[int, ...]]
) -> None:
    with running_server(files, limits=Limits(max_message_size=100_000)) as server:
        storage = client(server.address, blob_dir=str(tmp_path / "cache"))
        channel = storage._link.channel()
        channel.streams._pace().frame = SHORT
        meta = begin(storage)
        with pytest.raises(ObjectTooLarge):
            store(storage, meta, tmp_path / "new", 1, b"blob", bytes(100_000))
        assert writes == []
        storage.tpc_abort(meta)
        meta = begin(storage)
        store(storage, meta, tmp_path / "new", 1, b"blob")
        serial = finish(storage, meta)
        assert Path(files.loadBlob(oid_of(1), serial)).read_bytes() == b"blob"
        assert storage._link.channel() is channel  # no number was left out
        storage.close()


class _NothingThen:
    """The parts of an empty blob; *then* is called when it is clear that there are none."""

    def __init__(self, then: Any) -> None:
        self._then = then
        self._has_ended = False

    def __iter__(self) -> _NothingThen:
        return self

    def __next__(self) -> bytes:
        if self._has_ended:
            self._then()
        self._has_ended = True
        raise StopIteration


def test_no_other_begins_before_an_empty_one(storage: ClientStorage) -> None:
    """The server takes numbers in turn, and drops a client that leaves one out."""
    channel = storage._link.channel()
    streams, begun = channel.streams, list[int]()

    def begin_another() -> None:
        if not begun:
            begun.append(streams.upload([b"another"])[0])

    number, size = streams.upload(_NothingThen(begin_another))
    assert size == 0
    begin_another()
    assert begun == [number + 1]
    channel.call(Ping())
    for each in (number, *begun):
        streams.forget(each)


def test_an_interrupt_behind_the_end_of_an_empty_one(
    storage: ClientStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = storage._link.channel()
    original, announced = channel.post, list[int]()

    def post(request: Any) -> None:
        original(request)
        if isinstance(request, StreamEnd):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(channel, "post", post)
        with pytest.raises(KeyboardInterrupt):
            channel.streams.upload([], announced.append)
    channel.streams.forget(announced[0])
    channel.call(Ping())
    number, _ = channel.streams.upload([b"another"])
    assert number == announced[0] + 1
    channel.streams.forget(number)
    channel.call(Ping())
