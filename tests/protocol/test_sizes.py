"""Nothing is written that the peer does not take, and what is as long as it takes is written."""

from __future__ import annotations

from typing import Any

import pytest

from zeolith.errors import MessageTooLarge
from zeolith.protocol.codec import Codec
from zeolith.protocol.codecs import make_codec
from zeolith.protocol.framing import HEADER_SIZE, MAX_PAYLOAD, frame
from zeolith.protocol.greeting import Coding
from zeolith.protocol.limits import DEFAULT_LIMITS, Limits
from zeolith.protocol.messages import (
    CLIENT_REQUESTS,
    Pack,
    Register,
    Request,
    Restore,
    Store,
    StoreBlobChunk,
    UndoInfo,
)
from zeolith.protocol.peers import ClientPeer

OID, TID = bytes(8), b"\3" * 8
CODINGS = pytest.mark.parametrize("coding", list(Coding), ids=lambda coding: coding.name)


class Endless(bytes):
    """Says that it is longer than any frame; nobody has to have the memory."""

    def __len__(self) -> int:
        return MAX_PAYLOAD + 1


def codec_for(coding: Coding, max_payload: int = MAX_PAYLOAD) -> Codec:
    return make_codec(coding, CLIENT_REQUESTS, DEFAULT_LIMITS, max_payload)


def notice(codec: Codec, request: Request) -> bytes:
    return codec.notice(request)


def call(codec: Codec, request: Request) -> bytes:
    return codec.call(1, request)


def test_a_frame_is_as_long_as_its_length_can_tell() -> None:
    assert MAX_PAYLOAD == 2**32 - 1
    with pytest.raises(MessageTooLarge) as caught:
        frame(Endless())
    assert (caught.value.size, caught.value.limit) == (2**32, 2**32 - 1)


def test_a_frame_is_as_long_as_the_peer_takes() -> None:
    assert frame(b"12345", 5) == b"\0\0\0\x0512345"
    with pytest.raises(MessageTooLarge, match=r"6 bytes .* limit is 5 bytes"):
        frame(b"123456", 5)


@CODINGS
@pytest.mark.parametrize(
    "make",
    [
        lambda data: Store(OID, TID, data, 1),
        lambda data: Store(OID, None, data, 1),
        lambda data: Restore(OID, TID, data, None, 1),
        lambda data: StoreBlobChunk(data),
        lambda data: UndoInfo(0, 1, {"user": data}),
    ],
    ids=["store", "store new", "restore", "chunk", "inside"],
)
def test_requests_up_to_the_limit_are_written(coding: Coding, make: Any) -> None:
    for size in (300, 1000, 70_000):
        request = make(bytes(size))
        for write in (notice, call):
            written = write(codec_for(coding), request)
            payload = len(written) - HEADER_SIZE
            assert write(codec_for(coding, payload), request) == written
            for limit in (payload - 1, size, size - 1):
                with pytest.raises(MessageTooLarge) as caught:
                    write(codec_for(coding, limit), request)
                assert caught.value.size > caught.value.limit == limit


@CODINGS
def test_small_requests_are_not_affected(coding: Coding) -> None:
    limited = codec_for(coding, 100)
    for request in (Register("1", False), Pack(1.5, True)):
        assert limited.call(1, request) == codec_for(coding).call(1, request)


@CODINGS
def test_an_answer_longer_than_any_frame_is_an_error(coding: Coding) -> None:
    with pytest.raises(MessageTooLarge):
        codec_for(coding).loaded((OID, TID), Endless(), TID, None)


@CODINGS
@pytest.mark.parametrize(
    ("greeting", "limit"), [(b"Z5 zeolith", 1000), (b"Z5", MAX_PAYLOAD)], ids=["zeolith", "zeo"]
)
def test_a_client_knows_what_its_server_takes(coding: Coding, greeting: bytes, limit: int) -> None:
    """Class F: a ZEO server takes whatever a frame can hold."""
    client = ClientPeer(Limits(max_message_size=1000))
    client.receive(frame(greeting))
    client.hello(coding)
    assert client.codec is not None
    request = Store(OID, TID, bytes(1001), 1)
    if limit == MAX_PAYLOAD:
        assert len(client.codec.notice(request)) > 1001
    else:
        with pytest.raises(MessageTooLarge) as caught:
            client.codec.notice(request)
        assert caught.value.limit == limit
