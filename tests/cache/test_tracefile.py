"""Writing traces: whole records, one writer a file, and an end that is told."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from zeolith.cache import tracefile
from zeolith.cache.tracefile import MOST_NAMES, WRITE_AT, TraceFile
from zeolith.cache.traces import ZERO, Code, Event, open_trace


def to_oid(n: int) -> bytes:
    return n.to_bytes(8, "big")


def read(path: str | Path) -> list[Event]:
    with open_trace(str(path)) as reader:
        return list(reader)


def numbers(path: str | Path) -> list[int]:
    return [int.from_bytes(event.oid, "big") for event in read(path)]


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "cache.trace")


@pytest.fixture
def open_file(path: str) -> Iterator[Callable[..., TraceFile]]:
    opened: list[TraceFile] = []

    def open_one(name: str = path) -> TraceFile:
        opened.append(TraceFile(name))
        return opened[-1]

    yield open_one
    for file in opened:
        file.close()


def test_what_is_added_is_there(path: str, open_file: Callable[..., TraceFile]) -> None:
    file = open_file()
    file.add(Code.LOAD_HIT, to_oid(1), to_oid(2), to_oid(3), 4)
    file.add(Code.START, b"")
    file.add(Code.STORE, to_oid(9), length=1 << 30)
    file.close()
    file.close()
    first, second, third = read(path)
    assert first[1:] == (Code.LOAD_HIT, False, 4, to_oid(1), to_oid(2), to_oid(3))
    assert second[1:] == (Code.START, False, 0, b"", ZERO, ZERO)
    assert third.length == (1 << 23) - 1
    again = open_file()
    again.add(Code.LOAD_MISS, to_oid(5))
    again.close()
    assert numbers(path) == [1, 0, 9, 5]


def test_records_are_written_by_and_by(path: str, open_file: Callable[..., TraceFile]) -> None:
    file = open_file()
    for n in range(WRITE_AT - 1):
        file.add(Code.LOAD_MISS, to_oid(n))
    assert read(path) == []
    file.add(Code.LOAD_MISS, to_oid(WRITE_AT - 1))
    assert numbers(path) == list(range(WRITE_AT))
    file.add(Code.LOAD_MISS, to_oid(WRITE_AT))
    file.flush()
    assert len(numbers(path)) == WRITE_AT + 1


def test_a_file_has_one_writer(path: str, open_file: Callable[..., TraceFile]) -> None:
    stem = path.removesuffix(".trace")
    names = [open_file().path for _ in range(3)]
    assert names == [path, f"{stem}-{os.getpid()}.trace", f"{stem}-{os.getpid()}-2.trace"]


def test_names_come_to_an_end(
    path: str, open_file: Callable[..., TraceFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracefile, "MOST_NAMES", 3)
    assert MOST_NAMES > 3
    for _ in range(3):
        open_file()
    with pytest.raises(FileExistsError, match="3 files of such a name are in use"):
        open_file()


def test_what_is_no_trace_is_left_alone(tmp_path: Path, path: str) -> None:
    Path(path).write_text("dear diary")
    with pytest.raises(OSError, match="a file that is no trace has that name"):
        TraceFile(path)
    assert Path(path).read_text() == "dear diary"
    pipe = str(tmp_path / "pipe.trace")
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="not a regular file"):
        TraceFile(pipe)
    with pytest.raises(OSError, match=r"No such file.*nowhere"):
        TraceFile(str(tmp_path / "nowhere" / "cache.trace"))


def test_a_full_disk_ends_the_trace_behind_a_whole_record(
    path: str,
    open_file: Callable[..., TraceFile],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    file = open_file()
    file.add(Code.LOAD_MISS, to_oid(1))
    file.flush()
    write = os.write

    def fail_after_a_part(descriptor: int, data: bytes) -> int:
        if len(data) > 40:
            return write(descriptor, data[:40])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fail_after_a_part)
        for n in (2, 3):
            file.add(Code.LOAD_MISS, to_oid(n))
        with caplog.at_level(logging.WARNING):
            file.flush()
    assert [record.message for record in caplog.records] == [
        f"the cache trace {path} ends: [Errno 28] No space left on device"
    ]
    file.add(Code.LOAD_MISS, to_oid(4))
    file.close()
    assert numbers(path) == [1]


def test_a_slow_disk_ends_the_trace_instead_of_filling_memory(
    path: str,
    open_file: Callable[..., TraceFile],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Rule R8, and nobody waits for the disk but who writes."""
    monkeypatch.setattr(tracefile, "MOST_WAITING", WRITE_AT + 10)
    file = open_file()
    is_writing, may_go_on = threading.Event(), threading.Event()
    write = os.write

    def wait(descriptor: int, data: bytes) -> int:
        is_writing.set()
        assert may_go_on.wait(30)
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", wait)
    file.add(Code.LOAD_MISS, to_oid(1))
    writer = threading.Thread(target=file.flush)
    writer.start()
    assert is_writing.wait(30)
    with caplog.at_level(logging.WARNING):
        for n in range(WRITE_AT + 20):
            file.add(Code.LOAD_MISS, to_oid(n))
    assert [record.message for record in caplog.records] == [
        f"the cache trace {path} ends: the disk is too slow"
    ]
    assert not file._waiting
    may_go_on.set()
    writer.join()
    file.close()
    assert numbers(path) == [1]


def test_many_threads(path: str, open_file: Callable[..., TraceFile]) -> None:
    file = open_file()
    each, threads = 5000, 4

    def add(first: int) -> None:
        for n in range(first, first + each):
            file.add(Code.LOAD_MISS, to_oid(n))

    adding = [threading.Thread(target=add, args=(n * each,)) for n in range(threads)]
    for thread in adding:
        thread.start()
    for thread in adding:
        thread.join()
    file.close()
    found = numbers(path)
    assert sorted(found) == list(range(threads * each))
    for n in range(threads):
        of_one = [number for number in found if number // each == n]
        assert of_one == sorted(of_one)


def test_a_finalizer_in_the_middle_of_writing(
    path: str, open_file: Callable[..., TraceFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = open_file()
    write = os.write

    def come_back(descriptor: int, data: bytes) -> int:
        monkeypatch.undo()
        for n in range(WRITE_AT):
            file.add(Code.LOAD_MISS, to_oid(n + 2))
        file.flush()
        return write(descriptor, data)

    file.add(Code.LOAD_MISS, to_oid(1))
    monkeypatch.setattr(os, "write", come_back)
    file.flush()
    file.close()
    assert numbers(path) == list(range(1, WRITE_AT + 2))


def test_a_child_leaves_the_parents_records_to_it(
    path: str, open_file: Callable[..., TraceFile]
) -> None:
    file = open_file()
    file.add(Code.LOAD_MISS, to_oid(1))
    child = os.fork()
    if child == 0:
        try:
            file.add(Code.LOAD_MISS, to_oid(2))
            file.flush()
            file.close()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert read(path) == []
    assert open_file().path != path, "the parent's lock is gone"
    file.close()
    assert numbers(path) == [1]


def test_a_child_made_while_another_thread_writes(
    open_file: Callable[..., TraceFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child has no such thread: who waited for it would wait for ever."""
    file = open_file()
    is_writing, may_go_on = threading.Event(), threading.Event()
    write = os.write

    def wait(descriptor: int, data: bytes) -> int:
        is_writing.set()
        assert may_go_on.wait(30)
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", wait)
    file.add(Code.LOAD_MISS, to_oid(1))
    writer = threading.Thread(target=file.flush)
    writer.start()
    assert is_writing.wait(30)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(10)
            file.close()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    may_go_on.set()
    writer.join()
    assert status == 0


def test_a_process_that_closes_nothing(path: str) -> None:
    script = f"""
from zeolith.cache.tracefile import TraceFile
TraceFile({path!r}).add(0x20, b"12345678")
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
    (event,) = read(path)
    assert event.oid == b"12345678"
