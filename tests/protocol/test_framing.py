"""Frames come out as they went in, however the stream is cut, and never larger than allowed."""

from __future__ import annotations

import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeolith.errors import FrameTooLarge
from zeolith.protocol.framing import HEADER_SIZE, FrameReader, frame

PAYLOADS = [b"", b"a", b"bc", b"d" * 1_000, b"", b"e" * 70_000, b"f"]
STREAM = b"".join(map(frame, PAYLOADS))


def test_frame_is_length_and_payload() -> None:
    assert frame(b"") == b"\0\0\0\0"
    assert frame(b"abc") == b"\0\0\0\x03abc"
    assert frame(b"x" * 258)[:HEADER_SIZE] == b"\0\0\x01\x02"


def test_whole_stream_at_once() -> None:
    reader = FrameReader(70_000)
    assert reader.feed(STREAM) == PAYLOADS
    assert reader.pending == 0


def test_byte_by_byte() -> None:
    reader = FrameReader(70_000)
    found = []
    for at in range(len(STREAM)):
        found += reader.feed(STREAM[at : at + 1])
    assert found == PAYLOADS
    assert reader.pending == 0


@given(st.lists(st.binary(max_size=40)), st.integers(0, 2**32))
def test_random_chunks(payloads: list[bytes], seed: int) -> None:
    stream = b"".join(map(frame, payloads))
    choice = random.Random(seed)
    reader = FrameReader(40)
    found = []
    at = 0
    while at < len(stream):
        step = choice.choice((0, 1, 2, 3, 4, 5, 9, 50, 5_000))
        found += reader.feed(stream[at : at + step])
        at += step
    assert found == payloads
    assert reader.pending == 0


@pytest.mark.parametrize("step", [1, 2, 4_095, 4_096, 4_097, 65_536])
def test_chunks_around_the_size_that_is_gathered(step: int) -> None:
    payload = random.Random(step).randbytes(300_000)
    stream = frame(payload) + frame(b"next")
    reader = FrameReader(300_000)
    found = []
    for at in range(0, len(stream), step):
        found += reader.feed(stream[at : at + step])
    assert found == [payload, b"next"]
    assert all(type(item) is bytes for item in found)


def test_pending_counts_what_makes_no_frame() -> None:
    reader = FrameReader(10)
    assert reader.feed(b"\0\0") == []
    assert reader.pending == 2
    assert reader.feed(b"\0\x03ab") == []
    assert reader.pending == 6
    assert reader.feed(b"c\0") == [b"abc"]
    assert reader.pending == 1


def test_nothing_fed_is_nothing_found() -> None:
    reader = FrameReader(10)
    assert reader.feed(b"") == []
    assert reader.feed(b"\0\0\0\x01") == []
    assert reader.feed(b"") == []
    assert reader.feed(b"x") == [b"x"]


def test_largest_frame_is_accepted_and_one_byte_more_is_not() -> None:
    assert FrameReader(5).feed(frame(b"12345")) == [b"12345"]
    with pytest.raises(FrameTooLarge) as caught:
        FrameReader(5).feed(frame(b"123456"))
    assert (caught.value.announced, caught.value.limit) == (6, 5)
    assert "6 bytes" in str(caught.value)


def test_length_is_refused_before_any_of_the_frame_arrives() -> None:
    with pytest.raises(FrameTooLarge) as caught:
        FrameReader(5).feed(b"\xff\xff\xff\xff")
    assert caught.value.announced == 2**32 - 1


@pytest.mark.parametrize("step", [1, 3, 1_000])
def test_frames_before_an_oversized_one_are_returned(step: int) -> None:
    stream = frame(b"one") + frame(b"two") + frame(b"too large")
    reader = FrameReader(5)
    found = []
    refused = 0
    for at in range(0, len(stream) + step, step):
        try:
            found += reader.feed(stream[at : at + step])
        except FrameTooLarge:
            refused += 1
    assert found == [b"one", b"two"]
    assert refused > 0


def test_limit_may_change_between_frames() -> None:
    reader = FrameReader(5)
    assert reader.feed(frame(b"hello") + frame(b"a longer message") + b"\0\0") == [b"hello"]
    reader.max_size = 100
    assert reader.feed(b"") == [b"a longer message"]
    assert reader.feed(b"\0\x01x") == [b"x"]


def test_announcing_much_takes_no_memory() -> None:
    reader = FrameReader(2**32 - 1)
    tracemalloc.start()
    try:
        assert reader.feed(b"\xff\xff\xff\xff" + b"x" * 100) == []
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10_000


def test_a_frame_that_arrives_in_crumbs_takes_twice_its_length_at_most() -> None:
    size = 400_000
    stream = frame(b"x" * size)
    reader = FrameReader(size)
    tracemalloc.start()
    try:
        for at in range(0, len(stream) - 2, 2):
            reader.feed(stream[at : at + 2])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * size
    assert reader.feed(stream[-2:]) == [b"x" * size]


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (frame(b"12345") + b"rest", (b"12345", b"rest")),
        (frame(b"12345"), (b"12345", b"")),
        (frame(b""), (b"", b"")),
        (frame(b"12345")[:-1], None),
        (b"\0\0\0", None),
        (b"", None),
        (frame(b"123456"), None),
    ],
)
def test_one_short_frame_is_cut_from_what_has_come(
    data: bytes, found: tuple[bytes, bytes] | None
) -> None:
    reader = FrameReader(5)
    cut = reader.cut(memoryview(data))
    assert (None if cut is None else (cut[0], bytes(cut[1]))) == found
    assert reader.pending == 0


def test_a_long_frame_and_one_behind_a_part_are_not_cut() -> None:
    reader = FrameReader(100_000)
    assert reader.cut(memoryview(frame(bytes(5000)))) is None
    assert reader.feed(b"\0\0\0\1") == []
    assert reader.cut(memoryview(frame(b"x"))) is None
    assert reader.feed(b"y") == [b"y"]
