"""Traces: what is read is what was written, and of what is none there is word."""

from __future__ import annotations

import gzip
import io
import os
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeolith.cache.traces import (
    LONGEST_LENGTH,
    READ_SIZE,
    RECORD,
    ZERO,
    Code,
    Event,
    TraceDamaged,
    TraceReader,
    begins_trace,
    open_trace,
)
from zeolith.errors import ConfigurationError

NOW = 1_795_000_000


def to_oid(n: int) -> bytes:
    return n.to_bytes(8, "big")


def pack(event: Event) -> bytes:
    word = event.length << 8 | event.is_version << 7 | event.code
    return RECORD.pack(event.time, word, len(event.oid), event.start, event.end) + event.oid


def make(*numbers: int) -> list[Event]:
    return [
        Event(NOW + n, Code.LOAD_HIT, False, 100 + n, to_oid(n), to_oid(50), ZERO) for n in numbers
    ]


def read(data: bytes, is_searching: bool = False) -> tuple[list[Event], TraceReader, str]:
    """Return the events, the reader and what it said in the end."""
    reader = TraceReader(io.BufferedReader(io.BytesIO(data)), is_searching)
    events: list[Event] = []
    try:
        events.extend(reader)
    except TraceDamaged as error:
        return events, reader, str(error)
    return events, reader, ""


def test_the_layout_is_that_of_zeo() -> None:
    from ZEO.cache import ClientCache

    assert RECORD.format == ClientCache.TRACE_FMT
    data = bytes.fromhex("6afd6940 000040 52 0008") + to_oid(7) + ZERO + to_oid(9)
    (event,), _, _ = read(data)
    assert event == Event(0x6AFD6940, Code.STORE, False, 64, to_oid(9), to_oid(7), ZERO)


@given(
    st.lists(
        st.builds(
            Event,
            st.integers(1, 2**32 - 1),
            st.sampled_from(list(Code)),
            st.booleans(),
            st.integers(0, LONGEST_LENGTH),
            st.binary(min_size=8, max_size=8) | st.just(b""),
            st.binary(min_size=8, max_size=8),
            st.binary(min_size=8, max_size=8),
        )
    ),
    st.booleans(),
)
def test_what_is_written_is_read(events: list[Event], is_compressed: bool) -> None:
    data = b"".join(map(pack, events))
    found, reader, said = read(gzip.compress(data) if is_compressed else data)
    assert (found, said) == (events, "")
    assert (reader.count, reader.offset, reader.skipped) == (len(events), len(data), 0)


def test_more_than_is_read_at_once() -> None:
    events = make(*range(READ_SIZE // 34 * 2 + 5))
    assert read(b"".join(map(pack, events)))[0] == events


@pytest.mark.parametrize("is_compressed", [False, True])
def test_cut_off_anywhere(is_compressed: bool) -> None:
    events = make(1, 2, 3)
    data = b"".join(map(pack, events))
    for size in range(len(data)):
        found, reader, said = read(data[:size])
        assert found == events[: size // 34]
        assert bool(said) == bool(size % 34), size
        if said:
            assert said == f"it ends within a record at byte {size // 34 * 34}"
    whole = gzip.compress(data)
    for size in range(2, len(whole)):
        found, reader, said = read(whole[:size])
        assert found == events[: len(found)]
        assert reader.count == len(found)
        assert said, size


def test_an_end_within_a_record_is_told_from_damage() -> None:
    data = pack(make(1)[0])
    for rest, is_cut in ((data[:20], True), (b"x" * 40, False)):
        reader = TraceReader(io.BufferedReader(io.BytesIO(data + rest)))
        with pytest.raises(TraceDamaged) as caught:
            list(reader)
        assert caught.value.is_cut is is_cut
        assert caught.value.offset == 34


@pytest.mark.parametrize(
    "data",
    [
        b"zeolith client cache, records, version 1\n" + bytes(4096),
        b"<?xml version='1.0' encoding='utf-8'?>" * 3,
        b"FS30" + os.urandom(8).replace(b"\0", b"1") + b"\xff" * 200,
        b"\x7fELF" + bytes(range(1, 200)),
    ],
)
def test_a_file_of_something_else(data: bytes) -> None:
    found, _, said = read(data)
    assert not found
    assert said == "there is no record of a cache trace at byte 0"
    assert not begins_trace(data[:34])


def test_damaged_compression() -> None:
    data = bytearray(gzip.compress(b"".join(map(pack, make(*range(1000))))))
    data[-6] ^= 0xFF
    found, _, said = read(bytes(data))
    assert found == make(*range(1000))
    assert "the compressed file is damaged (CRC check failed" in said
    data[len(data) // 2] ^= 0xFF
    found, _, said = read(bytes(data))
    assert len(found) < 1000
    assert said


def test_zeros_are_passed_over_as_zeo_does() -> None:
    first, second = make(1, 2)
    found, reader, said = read(pack(first) + bytes(8) + pack(second))
    assert (found, said, reader.skipped) == ([first, second], "", 8)
    found, reader, said = read(bytes(1000))
    assert (found, reader.skipped) == ([], 1000)


@pytest.mark.parametrize("torn", range(1, 34))
def test_searching_finds_the_next_record(torn: int) -> None:
    first, second, third, fourth = make(1, 2, 3, 4)
    data = pack(first) + pack(second)[:torn] + pack(third) + pack(fourth)
    found, reader, said = read(data, is_searching=True)
    assert (found, said) == ([first, third, fourth], "")
    assert reader.skipped == torn


def test_searching_refuses_large_object_ids_and_far_times() -> None:
    first, second = make(1, 2)
    large = first._replace(oid=to_oid(2**32))
    late = first._replace(time=NOW + 400 * 86400)
    data = b"".join(map(pack, [first, large, late, second]))
    assert read(data)[0] == [first, large, late, second]
    assert read(data, is_searching=True)[0] == [first, second]


def test_nothing_at_all() -> None:
    assert read(b"")[0] == []
    assert not begins_trace(b"")
    assert begins_trace(pack(make(1)[0]))
    assert not begins_trace(struct.pack(">I", NOW))


def test_opening(tmp_path: Path) -> None:
    path = tmp_path / "a.trace"
    path.write_bytes(pack(make(1)[0]))
    with open_trace(str(path)) as reader:
        assert list(reader) == make(1)
    with (
        pytest.raises(ConfigurationError, match=r"b\.trace: cannot be read: No such file"),
        open_trace(str(tmp_path / "b.trace")),
    ):
        pass


def test_searching_takes_nothing_from_a_good_trace() -> None:
    events = make(*range(50))
    events[25] = Event(NOW + 25, Code.START, False, 0, b"", ZERO, ZERO)
    found, reader, said = read(b"".join(map(pack, events)), is_searching=True)
    assert (found, reader.skipped, said) == (events, 0, "")
