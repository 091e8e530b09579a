"""Short blobs that are asked for before somebody wants them."""

from __future__ import annotations

import logging
import random
import threading
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.POSException import POSKeyError

from zeolith.client import blobahead
from zeolith.client import incoming as incoming_module
from zeolith.client import streams as streams_module
from zeolith.client.channel import Channel
from zeolith.client.incoming import Incoming
from zeolith.client.steps import FEWEST
from zeolith.client.storage import ClientStorage
from zeolith.client.streams import MAX_DOWNLOADS
from zeolith.errors import ClientDisconnected
from zeolith.protocol.limits import MAX_STREAMS, STREAM_FRAME
from zeolith.protocol.messages import Call, Notice, Ping, Register
from zeolith.protocol.peers import Event, Hello
from zeolith.protocol.streamrequests import OpenBlob, StreamCancel, StreamData, StreamEnd

from ..support.flipping import FlippingLine
from ..support.interrupts import interrupted_at
from ..support.promptwire import PromptWire
from ..support.proxy import Action, Passing, Proxy
from ..support.raw import oid_of
from ..support.waiting import Background, wait_until
from .conftest import Line, Open, Recorder
from .streaming import TID, answer, own_line, say
from .test_transfers import leftovers

COUNT = 40
SHORT = 5_000


def data_of(number: int, size: int = SHORT) -> bytes:
    return random.Random(number).randbytes(size)


def commit(files: FileStorage, tmp_path: Path, count: int, size: int = SHORT) -> bytes:
    """Commit blobs with the ids from 1 on in one transaction, at the server; return its id."""
    meta = TransactionMetaData()
    files.tpc_begin(meta)
    for number in range(1, count + 1):
        path = tmp_path / f"new-{number}"
        path.write_bytes(data_of(number, size))
        files.storeBlob(oid_of(number), None, b"record", str(path), "", meta)
    files.tpc_vote(meta)
    tid: bytes = files.tpc_finish(meta)
    return tid


def asked(proxy: Proxy) -> list[int]:
    """Return the numbers of the objects whose blobs were asked for."""
    return [
        int.from_bytes(frame.message.request.oid, "big")
        for frame in proxy.frames()
        if isinstance(frame.message, Call) and isinstance(frame.message.request, OpenBlob)
    ]


def open_streams(storage: ClientStorage) -> int:
    channel = storage._link.channel()
    return len(channel.streams._incoming)


def load(storage: ClientStorage, number: int, tid: bytes, size: int = SHORT) -> None:
    assert Path(storage.loadBlob(oid_of(number), tid)).read_bytes() == data_of(number, size)


def test_what_is_read_in_sequence_is_asked_for_ahead(
    server: Any, files: FileStorage, proxy: Proxy, client: Open, tmp_path: Path
) -> None:
    tid = commit(files, tmp_path, COUNT)
    reader = client(proxy.address, blob_dir=str(tmp_path / "reader"))
    for number in (1, 2, 3):
        load(reader, number, tid)
    wait_until(lambda: asked(proxy) == [1, 2, 3, 4, 5, 6, 7])
    for number in range(4, COUNT + 1):
        load(reader, number, tid)
    # Each once, and some that are no blobs behind the last.
    assert asked(proxy)[:COUNT] == list(range(1, COUNT + 1))
    assert len(asked(proxy)) <= COUNT + blobahead.MOST
    assert leftovers(tmp_path / "reader") == []
    wait_until(lambda: open_streams(reader) == 0)


@pytest.mark.parametrize("size", [0, 1])
def test_empty_ones_too(
    server: Any, files: FileStorage, client: Open, tmp_path: Path, size: int
) -> None:
    tid = commit(files, tmp_path, COUNT, size)
    reader = client(server.address, blob_dir=str(tmp_path / "reader"))
    for number in range(1, COUNT + 1):
        load(reader, number, tid, size)
    assert leftovers(tmp_path / "reader") == []


def test_what_is_read_in_no_order_is_asked_for_once(
    server: Any, files: FileStorage, proxy: Proxy, client: Open, tmp_path: Path
) -> None:
    tid = commit(files, tmp_path, COUNT)
    reader = client(proxy.address, blob_dir=str(tmp_path / "reader"))
    numbers = [1, 2, 9, 3, 11, 21, 22, 40, 4, 6, 7]
    for number in numbers:
        load(reader, number, tid)
    assert asked(proxy) == numbers


def test_what_is_here_is_not_asked_for(
    server: Any, files: FileStorage, proxy: Proxy, client: Open, tmp_path: Path
) -> None:
    tid = commit(files, tmp_path, COUNT)
    reader = client(proxy.address, blob_dir=str(tmp_path / "reader"))
    for number in (5, 20, 6):
        load(reader, number, tid)
    for number in range(1, COUNT + 1):
        load(reader, number, tid)
    found = [number for number in asked(proxy) if number <= COUNT]
    assert sorted(found) == list(range(1, COUNT + 1))


def test_each_thread_has_a_sequence_of_its_own(
    server: Any, files: FileStorage, proxy: Proxy, client: Open, tmp_path: Path
) -> None:

    tid = commit(files, tmp_path, COUNT)
    reader = client(proxy.address, blob_dir=str(tmp_path / "reader"))
    for number in (1, 2):
        load(reader, number, tid)
        Background(partial(load, reader, COUNT - 7 * number, tid)).result()
    load(reader, 3, tid)
    wait_until(lambda: asked(proxy)[-4:] == [4, 5, 6, 7])


def test_when_something_else_is_read_what_waits_is_forgotten(
    server: Any, files: FileStorage, client: Open, tmp_path: Path
) -> None:
    tid = commit(files, tmp_path, COUNT)
    reader = client(server.address, blob_dir=str(tmp_path / "reader"))
    for number in (1, 2, 3, 30):
        load(reader, number, tid)
    assert not reader._link.channel().streams.ahead._wanted
    wait_until(lambda: open_streams(reader) == 0)
    load(reader, 4, tid)


def test_after_a_while_too(
    server: Any,
    files: FileStorage,
    client: Open,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tid = commit(files, tmp_path, COUNT)
    reader = client(server.address, blob_dir=str(tmp_path / "reader"))
    for number in (1, 2, 3):
        load(reader, number, tid)
    channel = reader._link.channel()
    reader.tended(channel)
    assert len(channel.streams.ahead._wanted) == 4
    monkeypatch.setattr(blobahead, "PATIENCE", -1.0)
    reader.tended(channel)
    assert not channel.streams.ahead._wanted
    load(reader, 4, tid)


def test_long_ones_come_when_they_are_wanted(
    server: Any, files: FileStorage, client: Open, tmp_path: Path
) -> None:
    size = 20 * blobahead.LONGEST
    tid = commit(files, tmp_path, 8, size)
    reader = client(server.address, blob_dir=str(tmp_path / "reader"))
    for number in range(1, 9):
        load(reader, number, tid, size)
    wait_until(lambda: open_streams(reader) == 0)


def test_long_ones_are_not_asked_for_twice_for_long(
    server: Any, files: FileStorage, proxy: Proxy, client: Open, tmp_path: Path
) -> None:
    """Each time the server would send 64 KB for nothing."""
    size = blobahead.LONGEST + 1
    tid = commit(files, tmp_path, COUNT, size)
    reader = client(proxy.address, blob_dir=str(tmp_path / "reader"))
    for number in range(1, COUNT + 1):
        load(reader, number, tid, size)
    assert len(asked(proxy)) <= COUNT + FEWEST
    wait_until(lambda: open_streams(reader) == 0)


def test_a_line_that_is_cut(
    server: Any, files: FileStorage, proxy: Proxy, client: Open, tmp_path: Path
) -> None:
    """In the middle of what was asked for ahead."""
    tid = commit(files, tmp_path, COUNT)
    reader = client(proxy.address, blob_dir=str(tmp_path / "reader"))
    ends = []

    def cut(passing: Passing) -> Action:
        message = passing.message
        if isinstance(message, Notice) and isinstance(message.request, StreamEnd):
            ends.append(passing)
            if len(ends) % 7 == 0:
                return Action.CUT
        return Action.PASS

    proxy.rule = cut
    for number in range(1, COUNT + 1):
        load(reader, number, tid)
    assert len(ends) >= COUNT
    assert leftovers(tmp_path / "reader") == []


def test_a_byte_that_changes_on_the_way(
    server: Any,
    client: Open,
    tmp_path: Path,
    stack: ExitStack,
    caplog: pytest.LogCaptureFixture,
) -> None:
    writer = client(server.address, blob_dir=str(tmp_path / "writer"))
    meta = TransactionMetaData()
    writer.tpc_begin(meta)
    for number in range(1, COUNT + 1):
        path = tmp_path / f"new-{number}"
        path.write_bytes(data_of(number))
        writer.storeBlob(oid_of(number), None, b"record", str(path), "", meta)
    writer.tpc_vote(meta)
    tid = writer.tpc_finish(meta)
    line = stack.enter_context(FlippingLine(server.address))
    line.downwards.append(int(10.5 * SHORT))  # what is not data is a hundredth of it
    reader = client(line.address, blob_dir=str(tmp_path / "reader"))
    with caplog.at_level(logging.WARNING, "zeolith.client.transfers"):
        for number in range(1, COUNT + 1):
            load(reader, number, tid)
    assert line.flipped == 1
    assert "it is fetched again" in caplog.text


def test_a_blob_that_is_not_there_is_an_error_when_it_is_wanted(
    server: Any, files: FileStorage, client: Open, tmp_path: Path
) -> None:
    tid = commit(files, tmp_path, 4)
    reader = client(server.address, blob_dir=str(tmp_path / "reader"))
    for number in (1, 2, 3, 4):
        load(reader, number, tid)
    wait_until(lambda: open_streams(reader) == 0)
    with pytest.raises(POSKeyError):
        reader.loadBlob(oid_of(5), tid)


# -- with a server that is the test ----------------------------------------------------------------


def begin_sequence(line: Line) -> None:
    """Have blobs asked for ahead, those from 4 to 7."""
    for number in (1, 2, 3):
        line.channel.streams.ahead.follow(oid_of(number), TID, lambda oid, tid: False)


def test_one_that_is_longer_than_it_should_be_is_not_waited_for() -> None:
    line = own_line()
    ahead = line.channel.streams.ahead
    begin_sequence(line)
    request = answer(line, {"size": blobahead.LONGEST + 1})
    say(line, StreamData(request.stream, b"x" * 32_768), StreamData(request.stream, b"x" * 32_768))
    assert ahead.take(oid_of(4), TID) is None
    assert request.credit == blobahead.LONGEST


def test_one_that_ends_because_it_was_cancelled_is_not_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another thread may read the server's end before who has cancelled it looks."""
    line = own_line()
    begin_sequence(line)
    request = answer(line, {"size": blobahead.LONGEST + 1})
    say(line, StreamData(request.stream, b"x" * 32_768), StreamData(request.stream, b"x" * 32_768))
    cancel = Incoming.cancel

    def cancel_and_hear(stream: Incoming) -> None:
        cancel(stream)
        say(line, StreamEnd(request.stream, bytes(32)))
        while not stream.has_ended:
            line.channel._read()

    monkeypatch.setattr(Incoming, "cancel", cancel_and_hear)
    assert line.channel.streams.ahead.take(oid_of(4), TID) is None


def test_those_who_wait_learn_that_the_connection_has_ended() -> None:
    line = own_line()
    begin_sequence(line)
    answer(line, {"size": 2})
    line.channel._read()
    line.channel.close(ConnectionResetError("cut"))
    with pytest.raises(ClientDisconnected):
        line.channel.streams.ahead.take(oid_of(4), TID)
    # Of this one not even the answer has come: it is asked for again.
    assert line.channel.streams.ahead.take(oid_of(5), TID) is None
    with pytest.raises(ClientDisconnected):
        line.channel.streams.ahead.follow(oid_of(5), TID, lambda oid, tid: False)


def test_an_interrupt_while_it_is_asked_for_ends_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or somebody would wait for ever for what was never sent."""
    line = own_line()

    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(line.channel, "_send", interrupt)
    with pytest.raises(KeyboardInterrupt):
        begin_sequence(line)
    assert line.channel.is_broken


def test_no_more_than_the_most_wait() -> None:
    line = own_line()
    ahead = line.channel.streams.ahead
    for number in range(1, 100):
        ahead.follow(oid_of(number), TID, lambda oid, tid: False)
        assert len(ahead._wanted) <= blobahead.MOST


def test_the_server_is_asked_for_no_more_than_it_admits() -> None:
    """Those that were cancelled count until it has said their end."""
    assert blobahead.MOST_OPEN + MAX_DOWNLOADS < MAX_STREAMS
    line = own_line()
    streams = line.channel.streams
    for start in range(0, 100_000, 1000):
        for number in range(start, start + 6):
            streams.ahead.follow(oid_of(number), TID, lambda oid, tid: False)
            assert streams.receiving <= blobahead.MOST_OPEN
    assert streams.receiving == blobahead.MOST_OPEN
    # As soon as it has, there is room again.
    for number in range(blobahead.MOST_OPEN):
        say(line, StreamEnd(number))
    while streams.receiving:
        line.channel._read()
    begin_sequence(line)
    assert len(streams.ahead._wanted) == FEWEST


def test_many_threads_ask_for_no_more_than_the_most() -> None:
    line = own_line()
    ahead = line.channel.streams.ahead
    barrier = threading.Barrier(8)
    together = threading.Barrier(8)

    def is_here(oid: bytes, tid: bytes) -> bool:
        if oid == oid_of(int.from_bytes(oid, "big") // 1000 * 1000 + 4):
            together.wait(30)
        return False

    def read(start: int) -> None:
        barrier.wait(30)
        for number in (1, 2, 3):
            ahead.follow(oid_of(start + number), TID, is_here)

    reading = [Background(partial(read, 1000 * number)) for number in range(1, 9)]
    for each in reading:
        each.result()
    assert len(ahead._wanted) == blobahead.MOST
    assert line.channel.streams.receiving == blobahead.MOST


class Shorts(PromptWire):
    """Its server has a short blob for who asks, or a long one if the id is even."""

    def __init__(self) -> None:
        super().__init__()
        self.open: set[int] = set()

    def handle(self, event: Event) -> None:
        codec = self.peer.codec
        if isinstance(event, Hello):
            self.arriving.append(self.peer.welcome())
            return
        assert codec is not None
        if isinstance(event, Call):
            request, size = event.request, None
            if isinstance(request, Register):
                self.peer.registered()
            elif isinstance(request, OpenBlob):
                size = {"size": 10 * blobahead.LONGEST if request.oid[-1] % 2 == 0 else 100}
                self.open.add(request.stream)
            self.arriving.append(codec.reply(event.msgid, size))
            if size is not None:
                assert isinstance(request, OpenBlob)
                data = b"x" * min(size["size"], STREAM_FRAME)
                self.arriving.append(codec.notice(StreamData(request.stream, data)))
                if size["size"] == 100:
                    self.end(request.stream)
        elif isinstance(event, Notice) and isinstance(event.request, StreamCancel):
            self.cancel(event.request.stream)

    def cancel(self, number: int) -> None:
        if number in self.open:
            self.end(number)

    def end(self, number: int) -> None:
        assert self.peer.codec is not None
        self.open.remove(number)
        self.arriving.append(self.peer.codec.notice(StreamEnd(number)))


def test_an_interrupt_at_any_step_leaves_no_stream_open_and_nobody_waiting() -> None:
    """Or the connection has ended."""

    def here(oid: bytes, tid: bytes) -> bool:
        return False

    def read(ahead: blobahead.Ahead, *numbers: int) -> None:
        for number in numbers:
            ahead.take(oid_of(number), TID)
            ahead.follow(oid_of(number), TID, here)

    step = survivors = 0
    modules = (blobahead, streams_module, incoming_module)
    while True:
        step += 1
        wire = Shorts()
        channel = Channel(wire, Recorder(), "memory")
        channel.greet()
        channel.call(Register("1", False))
        channel.registered()
        ahead = channel.streams.ahead
        if not interrupted_at(step, partial(read, ahead, 1, 2, 3, 4, 5, 50), modules):
            break
        try:
            read(ahead, 1, 2, 3, 4, 5, 6, 50)
            channel.call(Ping())
        except ClientDisconnected:
            assert channel.is_broken
            continue
        survivors += 1
        assert not ahead._wanted
        assert wire.open == set(), "a stream was left open"
    assert step > 300
    assert survivors > 30


def test_one_with_more_than_the_server_says_is_not_waited_for() -> None:
    line = own_line()
    begin_sequence(line)
    request = answer(line, {"size": 10})
    say(line, StreamData(request.stream, b"x" * 11))
    say(line, StreamData(request.stream, b"x" * 32_768))
    assert line.channel.streams.ahead.take(oid_of(4), TID) is None


def test_r8_data_without_an_answer_are_not_kept() -> None:
    """The call would wait for its answer, and have them, for as long as the connection lasts."""
    line = own_line()
    begin_sequence(line)
    call = line.server.next_call()
    assert isinstance(call.request, OpenBlob)
    say(line, StreamData(call.request.stream, b"x" * 100), StreamEnd(call.request.stream))
    with pytest.raises(ClientDisconnected, match="data before the answer"):
        line.channel.streams.ahead.take(oid_of(4), TID)


def test_r7_who_tends_does_not_wait_for_who_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the watcher, who is to notice that the server does not read any more."""
    line = own_line()
    ahead = line.channel.streams.ahead
    begin_sequence(line)
    request = answer(line, {"size": 2 * blobahead.LONGEST})
    for _ in range(3):
        line.server.next_call()
    monkeypatch.setattr(blobahead, "PATIENCE", -1.0)
    with line.channel._sending:
        Background(ahead.tend).result(timeout=10)
    # They are tried again.
    assert len(ahead._wanted) == 4
    ahead.tend()
    assert not ahead._wanted
    line.channel.flush()
    assert line.server.next_notice() == StreamCancel(request.stream)
