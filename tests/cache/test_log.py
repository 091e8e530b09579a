"""The circle of records: what goes in comes out, in order, within its bounds."""

from __future__ import annotations

import errno
import itertools
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import pytest

from zeolith.cache.log import (
    LENGTH_MASK,
    MINIMUM_SIZE,
    LogDamaged,
    LogState,
    RecordLog,
    end_of,
)
from zeolith.cache.records import CHECKSUM_SIZE, OVERHEAD, pack_body
from zeolith.cache.seals import Seals

TID = b"\0" * 7 + b"\1"


def to_oid(n: int) -> bytes:
    return n.to_bytes(8, "big")


def make_body(n: int, size: int) -> bytes:
    return pack_body(to_oid(n), TID, bytes([n % 256]) * size)


def body_of(record: bytes) -> bytes:
    return record[:-CHECKSUM_SIZE]


def make_log(file: IO[bytes], shift: int, first: int, end: int) -> RecordLog:
    return RecordLog(file, shift, Seals.divide(end - first, end), LogState.empty(first, end))


@contextmanager
def open_log(size: int, shift: int = 4) -> Iterator[RecordLog]:
    with tempfile.TemporaryFile("w+b", buffering=0) as file:
        yield make_log(file, shift, 0, size >> shift)


@pytest.fixture
def log() -> Iterator[RecordLog]:
    with open_log(MINIMUM_SIZE) as log:
        yield log


def sweep(log: RecordLog) -> list[bytes]:
    """Give up the oldest records; return their object ids."""
    batch = log.oldest()
    oids = []
    for place in batch.places:
        at = log.offset(place) - batch.base
        assert batch.chunk[at : at + (place & LENGTH_MASK)][8:16] == TID
        oids.append(batch.chunk[at : at + 8])
    log.release(batch)
    return oids


def test_a_record_is_read_back_from_its_place(log: RecordLog) -> None:
    body = make_body(5, 100)
    place = log.append(body)
    assert place is not None
    assert place & LENGTH_MASK == len(body) + CHECKSUM_SIZE
    assert body_of(log.read(place, to_oid(5))) == body
    assert log.read_start(place, to_oid(5)) == TID


def test_reading_another_object_than_was_written_is_damage(log: RecordLog) -> None:
    place = log.append(make_body(5, 100))
    assert place is not None
    with pytest.raises(LogDamaged):
        log.read(place, to_oid(6))
    with pytest.raises(LogDamaged):
        log.read_start(place, to_oid(6))


def test_reading_a_record_that_was_cut_off_is_damage(log: RecordLog) -> None:
    place = log.append(make_body(5, 100))
    assert place is not None
    os.ftruncate(log.fd, log.offset(place) + 60)
    with pytest.raises(LogDamaged):
        log.read(place, to_oid(5))
    assert log.read_start(place, to_oid(5)) == TID
    os.ftruncate(log.fd, log.offset(place) + 15)
    with pytest.raises(LogDamaged):
        log.read_start(place, to_oid(5))


@pytest.mark.parametrize("size", [0, 1, 11, 12, 13, 300, 1004])
def test_the_oldest_leave_first_and_the_file_keeps_its_size(log: RecordLog, size: int) -> None:
    written: list[bytes] = []
    left: list[bytes] = []
    held: dict[bytes, int] = {}
    for n in range(1000):
        body = make_body(n, size)
        while (place := log.append(body)) is None:
            gone = sweep(log)
            assert gone
            left += gone
            for oid in gone:
                del held[oid]
        written.append(to_oid(n))
        held[to_oid(n)] = place
        for oid, at in held.items():
            assert body_of(log.read(at, oid)) == make_body(int.from_bytes(oid, "big"), size)
    assert left == written[: len(left)]
    assert len(held) >= 0.6 * MINIMUM_SIZE // (OVERHEAD + size + 16)
    assert os.fstat(log.fd).st_size <= MINIMUM_SIZE


def test_what_is_swept_can_be_copied_into_the_gap_first(log: RecordLog) -> None:
    body = make_body(1, 100)
    first = log.append(body)
    assert first is not None
    while log.append(make_body(2, 100)) is not None:
        pass
    batch = log.oldest()
    assert batch.places[0] == first
    (copy,) = log.copy([batch.chunk[: len(body)]])
    assert copy is not None
    assert body_of(log.read(first, to_oid(1))) == body_of(log.read(copy, to_oid(1))) == body
    log.release(batch)
    assert body_of(log.read(copy, to_oid(1))) == body


def test_a_copy_never_writes_over_what_is_not_released(log: RecordLog) -> None:
    places: list[int] = []
    while (place := log.append(make_body(len(places), 100))) is not None:
        places.append(place)
    while None not in log.copy([make_body(98, 50), make_body(99, 60)]):
        pass
    for n, place in enumerate(places):
        assert body_of(log.read(place, to_oid(n))) == make_body(n, 100)


def test_several_copied_together_are_read_back(log: RecordLog) -> None:
    # The file is gone round, so that some do not fit before its end and others not at all.
    copied = refused = 0
    for n in range(600):
        if log.append(make_body(n, 100 + n)) is not None:
            continue
        bodies = [make_body(1000 + size, size) for size in (0, 12, 130, 13)]
        for body, place in zip(bodies, log.copy(bodies)):
            if place is None:
                refused += 1
            else:
                copied += 1
                assert body_of(log.read(place, body[:8])) == body
        sweep(log)
        sweep(log)
    assert copied > 100
    assert refused > 10


def test_a_record_larger_than_the_gap_is_swept_alone(log: RecordLog) -> None:
    assert log.append(make_body(1, 1000)) is not None
    assert log.append(make_body(2, 10)) is not None
    assert sweep(log) == [to_oid(1)]
    assert sweep(log) == [to_oid(2)]


def test_an_empty_log_has_no_oldest(log: RecordLog) -> None:
    with pytest.raises(LogDamaged):
        log.oldest()


@pytest.mark.parametrize(
    ("length", "found"),
    [
        (b"\0" * 4, [1, 2, 3]),
        (b"\xff" * 4, [1, 2, 3]),
        # Possible, but it would lead into the middle of the next record.
        (b"\0\0\0\x90", [1, 2, 3]),
    ],
)
def test_the_walk_goes_on_behind_bytes_that_are_no_record(
    log: RecordLog, length: bytes, found: list[int]
) -> None:
    for n in range(4):
        assert log.append(make_body(n, 100)) is not None
    os.pwrite(log.fd, length, 16)
    swept = []
    while log._tail != log._head:
        swept += sweep(log)
    assert swept == [to_oid(n) for n in found]


def test_a_walk_through_nothing_but_damage_comes_to_its_end(log: RecordLog) -> None:
    while log.append(make_body(1, 100)) is not None:
        pass
    os.pwrite(log.fd, bytes(MINIMUM_SIZE), 0)
    left = 0
    while log._tail != log._head:
        left += len(sweep(log))
    assert left == 0
    assert log.append(make_body(2, 100)) is not None


def test_a_file_that_was_cut_off_is_walked_to_its_end(log: RecordLog) -> None:
    while log.append(make_body(1, 100)) is not None:
        pass
    os.ftruncate(log.fd, 200)
    left = 0
    while log._tail != log._head:
        left += len(sweep(log))
    assert left == 1


def test_every_place_of_a_large_file_fits_into_six_bytes() -> None:
    with open_log(100 << 30, 11) as log:
        assert log.capacity == 100 << 30
        log._head = log._end - 64  # the last record of a full file
        body = make_body(7, 1000)
        place = log.append(body) or log.copy([body])[0]
        assert place is not None
        assert place < 1 << 48
        assert log.offset(place) >= (100 << 30) - (64 << log.shift)
        assert body_of(log.read(place, to_oid(7))) == body


def test_a_write_that_stops_half_way_is_continued(
    log: RecordLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:7], at))
    place = log.append(make_body(5, 100))
    assert place is not None
    assert body_of(log.read(place, to_oid(5))) == make_body(5, 100)


def test_a_write_that_does_not_get_on_is_an_error(
    log: RecordLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: 0)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        log.append(make_body(5, 100))


def test_a_failed_write_leaves_the_log_as_it_was(
    log: RecordLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = log.append(make_body(1, 100))
    assert first is not None

    def fail(fd: int, data: bytes, at: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", fail)
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            log.append(make_body(2, 100))
    second = log.append(make_body(3, 100))
    assert second is not None
    assert log.offset(second) == 128
    assert sweep(log) == [to_oid(1), to_oid(3)]


def test_a_log_that_never_wrapped_can_shrink_to_what_it_has() -> None:
    with open_log(16 * MINIMUM_SIZE) as log:
        held: dict[int, int] = {}
        while log.offset(max(held.values(), default=0)) < 2 * MINIMUM_SIZE:
            place = log.append(make_body(len(held), 300))
            assert place is not None
            held[len(held)] = place
        assert log.shrink()
        assert 2 * MINIMUM_SIZE <= log.capacity < 3 * MINIMUM_SIZE
        assert not log.shrink(), "there is nothing more to give up"
        for n, place in held.items():
            assert body_of(log.read(place, to_oid(n))) == make_body(n, 300)
        left = []
        for n in range(len(held), 200):
            while log.append(make_body(n, 300)) is None:
                left += sweep(log)
        assert left == [to_oid(n) for n in range(len(left))]
        assert len(left) > 150
        assert os.fstat(log.fd).st_size <= log.capacity


def test_a_log_too_small_or_already_wrapped_does_not_shrink(log: RecordLog) -> None:
    assert log.append(make_body(1, 100)) is not None
    assert not log.shrink()
    for n in range(100):
        while log.append(make_body(n, 300)) is None:
            sweep(log)
    assert not log.shrink()


def test_cleared_it_begins_anew(log: RecordLog) -> None:
    while log.append(make_body(1, 300)) is not None:
        pass
    log.clear()
    place = log.append(make_body(2, 300))
    assert place is not None
    assert log.offset(place) == 0
    assert sweep(log) == [to_oid(2)]


def test_emptied_by_sweeps_it_begins_anew(log: RecordLog) -> None:
    for n in range(5):
        assert log.append(make_body(n, 300)) is not None
    while log._tail != log._head:
        sweep(log)
    place = log.append(make_body(9, 300))
    assert place is not None
    assert log.offset(place) == 0


def test_it_keeps_to_its_part_of_the_file() -> None:
    with tempfile.TemporaryFile("w+b", buffering=0) as file:
        file.write(b"x" * 20_000)
        log = make_log(file, 4, 256, 512)
        for n in range(300):
            while (place := log.append(make_body(n, 100))) is None:
                sweep(log)
            assert 4096 <= log.offset(place) < 8192 - 100
        assert os.pread(log.fd, 4096, 0) == b"x" * 4096
        assert os.pread(log.fd, 20_000, 8192) == b"x" * (20_000 - 8192)


def test_what_is_left_of_the_last_round_keeps_its_seed() -> None:
    """The head stays out of a segment until nothing is left in it, also when it takes the gap."""
    with tempfile.TemporaryFile("w+b", buffering=0) as file:
        seals = Seals(5, [])
        seals.resize(1024)
        log = RecordLog(file, 4, seals, LogState.empty(0, 1024))
        held: dict[bytes, int] = {}
        numbers = itertools.count(10_000)
        for n in range(600):
            while (place := log.append(make_body(n, 90 + n % 60))) is None:
                for number in numbers:
                    (copy,) = log.copy([make_body(number, 30)])
                    if copy is None:
                        break
                    held[to_oid(number)] = copy
                for oid, at in held.items():
                    assert log.read(at, oid)[:8] == oid
                for oid in sweep(log):
                    del held[oid]
            held[to_oid(n)] = place
        assert len(held) > 60


def test_a_record_that_begins_at_the_end_of_what_is_read_at_once_is_not_left_out(
    log: RecordLog,
) -> None:
    """Behind bytes that are no record the walk meets it, its header in the next piece."""
    gap = log._gap
    first = log.append(make_body(1, (gap - 1 << log.shift) - OVERHEAD))
    assert first is not None
    second = log.append(make_body(2, 100))
    assert second is not None
    assert log.offset(second) == gap - 1 << log.shift
    os.pwrite(log.fd, bytes(log.offset(second)), 0)
    assert sweep(log) == []
    assert sweep(log) == [to_oid(2)]


@pytest.mark.parametrize("granules", [190, 350, 450, 640])
@pytest.mark.parametrize("turns", range(0, 1000, 97))
def test_after_a_cut_what_lies_before_it_is_walked_and_nothing_else(
    turns: int, granules: int
) -> None:
    """Also if the log has grown since its head came to the end for the last time."""
    with tempfile.TemporaryFile("w+b", buffering=0) as file:
        held: dict[bytes, int] = {}
        log = make_log(file, 4, 0, 400)
        numbers = itertools.count()

        def fill(times: int) -> None:
            for n in itertools.islice(numbers, times):
                while (place := log.append(make_body(n, 90 + n % 60))) is None:
                    for oid in sweep(log):
                        del held[oid]
                held[to_oid(n)] = place

        fill(150)
        log._seals.resize(800)
        log.resize(800)
        log.go_on()
        fill(turns % 70)
        end = granules
        before = {oid for oid, place in held.items() if end_of(place, log.shift) <= end}
        log._seals.resize(end)
        log.resize(end)
        os.ftruncate(log.fd, min(end << log.shift, os.fstat(log.fd).st_size))
        log.go_on()
        walked: set[bytes] = set()
        while True:
            try:
                walked.update(sweep(log))
            except LogDamaged:
                break
        assert walked == before
