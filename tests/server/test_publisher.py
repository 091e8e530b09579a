"""Invalidations: their order, who gets them and when."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from zeolith.protocol.codec import Codec
from zeolith.protocol.codecs import make_codec
from zeolith.protocol.compression import compress
from zeolith.protocol.greeting import Coding
from zeolith.protocol.limits import DEFAULT_LIMITS
from zeolith.protocol.messages import (
    CLIENT_REQUESTS,
    SERVER_REQUESTS,
    Info,
    InvalidateTransaction,
    Notice,
)
from zeolith.server.invalidations import InvalidationLog
from zeolith.server.publisher import Publisher


def num(number: int) -> bytes:
    return number.to_bytes(8, "big")


class Listener:
    """A subscriber that writes down what it is told."""

    def __init__(self, coding: Coding = Coding.PICKLE) -> None:
        self.codec: Codec = make_codec(coding, SERVER_REQUESTS, DEFAULT_LIMITS)
        self.reader = make_codec(coding, CLIENT_REQUESTS, DEFAULT_LIMITS)
        self.frames: list[bytes] = []
        self.reasons: list[str] = []

    def push(self, frame: bytes) -> None:
        self.frames.append(frame)

    def drop(self, reason: str) -> None:
        self.reasons.append(reason)

    def close(self, reason: str) -> None:
        raise AssertionError("publishers only drop")

    @property
    def heard(self) -> list[Any]:
        found = []
        for frame in self.frames:
            message = self.reader.decode(frame[4:])
            assert isinstance(message, Notice)
            request = message.request
            if isinstance(request, InvalidateTransaction):
                request = (request.tid, list(request.oids))
            found.append(request)
        return found


class Bed:
    """A publisher at transaction 10."""

    def __init__(self) -> None:
        self.wakes: list[int] = []
        self.log = InvalidationLog(100, 100_000)
        self.log.reset(num(10), [])
        self.publisher = Publisher("1", self.log, lambda: self.wakes.append(1))


@pytest.fixture
def bed() -> Bed:
    return Bed()


def test_r1_everybody_but_the_origin_is_told_in_order(bed: Bed) -> None:
    one, two = Listener(), Listener(Coding.MSGPACK)
    assert bed.publisher.subscribe(one) == num(10)
    bed.publisher.subscribe(two)
    assert len(bed.publisher) == 2
    bed.publisher.publish(num(11), [num(1)], one)
    bed.publisher.publish(num(12), [num(2), num(3)], two)
    bed.publisher.publish(num(13), [])
    assert (one.frames, two.frames) == ([], [])
    bed.publisher.drain()
    assert one.heard == [(num(12), [num(2), num(3)]), (num(13), [])]
    assert two.heard == [(num(11), [num(1)]), (num(13), [])]
    assert bed.log.last_tid == num(13)


def test_encoded_once_per_coding(bed: Bed) -> None:
    listeners = [Listener(coding) for coding in [*Coding, *Coding]]
    for listener in listeners:
        bed.publisher.subscribe(listener)
    bed.publisher.publish(num(11), [num(1)])
    bed.publisher.drain()
    assert len({id(listener.frames[0]) for listener in listeners}) == len(Coding)


def test_compressed_once_for_all_who_take_that(bed: Bed) -> None:
    listeners = [Listener(Coding.OWN) for _ in range(6)]
    for listener in listeners[:3]:
        listener.codec.compress = compress
        listener.reader.takes_compressed = True
    for listener in listeners:
        bed.publisher.subscribe(listener)
    oids = [num(n) for n in range(500)]
    bed.publisher.publish(num(11), oids)
    bed.publisher.drain()
    frames = [listener.frames[0] for listener in listeners]
    assert len({id(frame) for frame in frames}) == 2
    assert len(frames[0]) < len(frames[5]) / 2
    assert all(listener.heard == [(num(11), oids)] for listener in listeners)


def test_subscribing_names_the_last_transaction_not_announced(bed: Bed) -> None:
    """A (ZEO#209): what the answer names is not announced, and nothing after it is missed."""
    bed.publisher.publish(num(11), [num(1)])
    late = Listener()
    assert bed.publisher.subscribe(late) == num(11)
    bed.publisher.publish(num(12), [num(2)])
    bed.publisher.drain()
    assert late.heard == [(num(12), [num(2)])]


def test_unsubscribed_is_not_told(bed: Bed) -> None:
    listener = Listener()
    bed.publisher.subscribe(listener)
    bed.publisher.unsubscribe(listener)
    bed.publisher.unsubscribe(listener)
    bed.publisher.publish(num(11), [num(1)])
    bed.publisher.drain()
    assert listener.frames == []


def test_r4_nothing_is_told_while_held(bed: Bed) -> None:
    listener = Listener()
    bed.publisher.subscribe(listener)
    bed.publisher.is_held = True
    bed.publisher.publish(num(11), [num(1)])
    bed.publisher.drain()
    assert (listener.frames, bed.log.last_tid) == ([], num(10))
    bed.publisher.is_held = False
    bed.publisher.drain()
    assert listener.heard == [(num(11), [num(1)])]


def test_whose_transaction_alone_is_to_be_announced(bed: Bed) -> None:
    one, other = Listener(), Listener()
    publisher = bed.publisher
    assert not publisher.awaits_only(one)
    publisher.publish(num(11), [num(1)], one)
    assert publisher.awaits_only(one)
    assert not publisher.awaits_only(other)
    publisher.is_held = True
    assert not publisher.awaits_only(one)
    publisher.is_held = False
    publisher.publish(num(12), [num(2)], other)
    assert not publisher.awaits_only(one)
    assert not publisher.awaits_only(other)
    publisher.drain()
    publisher.reset(lambda: num(13))
    assert not publisher.awaits_only(one)


def test_taking_back_what_was_not_announced(bed: Bed) -> None:
    listener = Listener()
    bed.publisher.subscribe(listener)
    bed.publisher.publish(num(11), [num(1)])
    failed = bed.publisher.publish(num(12), [num(2)])
    bed.publisher.publish(num(13), [num(3)])
    bed.publisher.retract(failed)
    bed.publisher.drain()
    bed.publisher.retract(failed)
    assert [tid for tid, _ in listener.heard] == [num(11), num(13)]


def test_only_changes_made_elsewhere_wake_the_loop(bed: Bed) -> None:
    """The end of a commit of our own wakes it anyway."""
    bed.publisher.publish(num(11), [], Listener())
    assert bed.wakes == []
    bed.publisher.publish(num(12), [])
    assert bed.wakes == [1]


def test_a_storage_that_lost_track_makes_everybody_verify(bed: Bed) -> None:
    listener = Listener()
    bed.publisher.subscribe(listener)
    bed.publisher.publish(num(11), [num(1)])
    bed.publisher.reset(lambda: num(20))
    assert bed.wakes == [1, 1]
    bed.publisher.drain()
    assert [tid for tid, _ in listener.heard] == [num(11)]
    assert len(listener.reasons) == 1
    assert bed.log.after(num(11)) is None
    assert bed.log.after(num(20)) == []


@pytest.mark.parametrize("tid", [9, 10])
def test_a_storage_that_goes_back_makes_everybody_verify(
    bed: Bed, tid: int, caplog: pytest.LogCaptureFixture
) -> None:
    listener = Listener()
    bed.publisher.subscribe(listener)
    bed.publisher.publish(num(tid), [num(1)])
    bed.publisher.drain()
    assert listener.frames == []
    assert len(listener.reasons) == 1
    assert bed.log.last_tid == num(10)
    (record,) = caplog.records
    assert num(tid).hex() in record.getMessage()


def test_an_old_announcement_of_nothing_is_ignored(bed: Bed) -> None:
    """Clients of another server are told of its last transaction when they connect."""
    listener = Listener()
    bed.publisher.subscribe(listener)
    bed.publisher.publish(num(10), [])
    bed.publisher.drain()
    assert (listener.frames, listener.reasons) == ([], [])


def test_telling_everybody_something_else(bed: Bed) -> None:
    listener = Listener(Coding.MSGPACK)
    bed.publisher.subscribe(listener)
    bed.publisher.publish(num(11), [num(1)])
    message = Info({"length": 1, "size": 2})
    bed.publisher.send_all(lambda codec: codec.notice(message))
    assert listener.heard == [(num(11), [num(1)]), message]


def test_publishing_from_threads_loses_nothing(bed: Bed) -> None:
    listener = Listener()
    bed.publisher.subscribe(listener)
    lock = threading.Lock()
    counter = iter(range(11, 5000))

    def publish() -> None:
        for _ in range(200):
            with lock:  # the storage's own: tids increase
                bed.publisher.publish(num(next(counter)), [num(1)])

    threads = [threading.Thread(target=publish) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        bed.publisher.drain()
    bed.publisher.drain()
    assert [tid for tid, _ in listener.heard] == [num(n) for n in range(11, 811)]
