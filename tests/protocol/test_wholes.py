"""Short blobs that have come at once: what is taken as one, and what is left to be decoded."""

from __future__ import annotations

import random
from typing import Any

import pytest

from zeolith.protocol.checksums import ALGORITHMS, DIGEST_SIZE
from zeolith.protocol.codec import Codec
from zeolith.protocol.hello import NO_TERMS, Terms
from zeolith.protocol.limits import BULK_FRAME, STREAM_FRAME
from zeolith.protocol.messages import Info, Ping
from zeolith.protocol.peers import ClientPeer
from zeolith.protocol.streamlayouts import data_head
from zeolith.protocol.streamrequests import StreamEnd, StreamFault
from zeolith.protocol.wholes import MAX_WHOLE, MOST_RECEIVED, Whole, cut_wholes

from .test_checksums import meet

TERMS = Terms(checksums=ALGORITHMS)
CHECKSUM = bytes(range(DIGEST_SIZE))


@pytest.fixture
def codec() -> Codec:
    ours, _ = meet(TERMS, TERMS)
    assert ours.codec is not None
    return ours.codec


@pytest.fixture
def client() -> ClientPeer:
    return meet(TERMS, TERMS)[1]


def write(codec: Codec, msgid: int, number: int, data: bytes, answer: Any = None) -> bytes:
    return b"".join(
        (
            codec.reply(msgid, {"size": len(data)} if answer is None else answer),
            data_head(number, len(data)) + data,
            codec.notice(StreamEnd(number, CHECKSUM)),
        )
    )


@pytest.mark.parametrize("size", [1, 127, 128, 255, 256, 50_000, 65_535, MAX_WHOLE])
@pytest.mark.parametrize("kind", [bytes, lambda data: memoryview(bytearray(data))])
def test_one(codec: Codec, size: int, kind: Any) -> None:
    data = random.Random(size).randbytes(size)
    sent = write(codec, 7, 3, data)
    assert len(sent) <= MOST_RECEIVED
    (found,), taken, is_begun = cut_wholes(kind(sent), BULK_FRAME)
    assert found == Whole(7, size, 3, data, CHECKSUM)
    assert type(found.data) is bytes, "what it was in is used again"
    assert found.answer == {"size": size}
    assert (taken, is_begun) == (len(sent), False)


def test_several_and_what_is_behind_them(codec: Codec) -> None:
    sent = [write(codec, number, number + 1, bytes([number]) * 300) for number in range(1, 4)]
    behind = codec.notice(Info({"length": 1}))
    found, taken, is_begun = cut_wholes(b"".join(sent) + behind, BULK_FRAME)
    assert [(whole.msgid, whole.number, whole.data[:1]) for whole in found] == [
        (1, 2, b"\1"),
        (2, 3, b"\2"),
        (3, 4, b"\3"),
    ]
    assert (taken, is_begun) == (len(b"".join(sent)), False)


def test_nothing_is_taken_of_one_that_is_not_whole(codec: Codec) -> None:
    """It may be kept, if it is known to be one: what is not is for others to see at once."""
    first = write(codec, 1, 1, b"first")
    sent = write(codec, 2, 2, b"x" * 300)
    begun = []
    for size in range(len(sent)):
        found, taken, is_begun = cut_wholes(first + sent[:size], BULK_FRAME)
        assert ([whole.msgid for whole in found], taken) == ([1], len(first))
        if is_begun:
            begun.append(size)
    # From the heads on, which tell how long it is, to the last byte but one.
    assert begun == list(range(begun[0], len(sent)))
    assert begun[0] < 40


def test_what_is_said_before_the_end_is_not_kept(codec: Codec) -> None:
    sent = write(codec, 1, 1, b"x" * 300)[: -len(CHECKSUM) - 9]
    assert cut_wholes(sent, BULK_FRAME) == ([], 0, True)
    others = (codec.reply(2, None), codec.heartbeat(), codec.notice(StreamEnd(2, CHECKSUM))[:9])
    for other in others:
        assert cut_wholes(sent + other, BULK_FRAME) == ([], 0, False)


def test_a_part_of_a_blob_is_not_kept(codec: Codec) -> None:
    """More data may follow, or none for long: they are passed on as they come."""
    sent = write(codec, 1, 1, b"x" * 300, {"size": 301})
    assert not any(cut_wholes(sent[:size], BULK_FRAME)[2] for size in range(len(sent)))
    # All of it is the rest of one that has come before.
    (found,), _, _ = cut_wholes(sent, BULK_FRAME)
    assert (found.size, len(found.data)) == (301, 300)


def changed(sent: bytes, at: int, value: int) -> bytes:
    at %= len(sent)
    return sent[:at] + bytes([value]) + sent[at + 1 :]


def test_whatever_is_not_exactly_that_is_left_to_others(codec: Codec) -> None:
    sent = write(codec, 1, 1, b"x" * 300)
    reply, data = codec.reply(1, {"size": 300}), data_head(1, 300) + b"x" * 300
    end = codec.notice(StreamEnd(1, CHECKSUM))
    assert sent == reply + data + end
    others = {
        "no answer": changed(sent, 4, 0x04),
        "a shorter answer": changed(sent, 3, sent[3] - 1),
        "a longer answer": changed(sent, 3, sent[3] + 1),
        "another answer": codec.reply(1, {"bits": 300}) + data + end,
        "a negative size": codec.reply(1, {"size": -300}) + data + end,
        "a size of 64 bits": codec.reply(1, {"size": 1 << 40}) + data + end,
        "no size": codec.reply(1, {"size": None}) + data + end,
        "no data": changed(sent, len(reply) + 4, 0x42),
        "empty data": reply + data_head(1, 0) + end,
        "a fault": reply + data + codec.notice(StreamFault(1, "builtins.OSError", (5, "x"))),
        "the end of another stream": reply + data + codec.notice(StreamEnd(2, CHECKSUM)),
        "no checksum": reply + data + codec.notice(StreamEnd(1)) + bytes(DIGEST_SIZE),
        "no end": reply + data + data,
        "data that are too long": write(codec, 1, 1, bytes(MAX_WHOLE + 1)),
    }
    assert [name for name, other in others.items() if cut_wholes(other, BULK_FRAME)[0]] == []
    assert cut_wholes(sent, 299)[0] == []
    assert len(cut_wholes(sent, 300)[0]) == 1


def test_any_byte_that_is_another_one_does_not_make_it_fail(codec: Codec) -> None:
    """R8: a server may send what it likes; what is odd is judged where all messages are."""
    sent = write(codec, 1, 1, b"x" * 20)
    for at in range(len(sent)):
        for value in (0, 1, 0x7F, 0x80, 0xCC, 0xCE, 0xFF):
            found, taken, _ = cut_wholes(changed(sent, at, value), BULK_FRAME)
            assert (len(found), taken) in ((0, 0), (1, len(sent)))


def test_a_peer_takes_it_where_long_messages_may_come(client: ClientPeer, codec: Codec) -> None:
    sent = write(codec, 1, 1, b"x" * 300)
    assert len(client.receive_wholes(sent)[0]) == 1
    assert client.pending == 0
    without = meet(TERMS, NO_TERMS)[1]
    assert without.receive_wholes(sent) == ([], 0, False)
    fresh = ClientPeer(terms=TERMS)
    assert fresh.receive_wholes(sent) == ([], 0, False)


def test_not_in_the_middle_of_another_message(client: ClientPeer, codec: Codec) -> None:
    sent = write(codec, 1, 1, b"x" * 300)
    call = codec.reply(5, None)
    client.receive(call[:3])
    assert client.receive_wholes(sent) == ([], 0, False)
    client.receive(call[3:])
    assert client.receive_wholes(sent)[1] == len(sent)
    client.receive(data_head(9, STREAM_FRAME + 1))
    assert client.receive_wholes(sent) == ([], 0, False)


def test_what_comes_behind_it_is_received_as_ever(client: ClientPeer, codec: Codec) -> None:
    sent = write(codec, 1, 1, b"x" * 300) + codec.reply(2, None)
    _, taken, _ = client.receive_wholes(sent)
    (reply,) = client.receive(sent[taken:])
    assert reply == (2, None)
    with pytest.raises(ValueError, match="is no id"):
        codec.call(-1, Ping())
