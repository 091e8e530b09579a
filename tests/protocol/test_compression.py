"""Compressed messages: what is worth it, and what a hostile peer can do with them."""

from __future__ import annotations

import random
import resource
import struct
import sys
import threading
import tracemalloc
from dataclasses import replace
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from tests.support.wire_cases import CASES, as_received, as_sent, serialize

from zeolith.errors import IllegalMessage, MessageTooLarge, UndecodableMessage
from zeolith.protocol import compression
from zeolith.protocol import messages as m
from zeolith.protocol.compression import (
    COMPRESSED,
    HEAD_SIZE,
    MAX_RATIO,
    MAX_SIZE,
    MIN_SIZE,
    compress,
    decompress,
)
from zeolith.protocol.framing import frame
from zeolith.protocol.greeting import Coding
from zeolith.protocol.hello import Terms
from zeolith.protocol.limits import DEFAULT_LIMITS
from zeolith.protocol.peers import ClientPeer, ServerPeer, Violated

OID, TID = b"\0" * 7 + b"\x2a", b"\3" * 8
WORDS = [b"%d" % n for n in range(1000)]
LIMIT = 1 << 20


def text(size: int, seed: int = 1) -> bytes:
    """Return bytes that shrink to about a half."""
    choice = random.Random(seed)
    return b" ".join(choice.choice(WORDS) for _ in range(size))[:size]


def packed(size: int, content: bytes, **options: Any) -> bytes:
    """Return a payload that announces *size* and holds *content*."""
    body = zstandard.ZstdCompressor(**options).compress(content)
    return struct.pack(">BI", COMPRESSED, size) + body


# -- writing -----------------------------------------------------------------------------------


@given(st.integers(MIN_SIZE, 20_000), st.integers(0, 5))
def test_what_is_compressed_comes_back(size: int, seed: int) -> None:
    content = text(size, seed)
    found = compress(frame(content))
    assert found[4] == COMPRESSED
    assert len(found) < len(content) * 7 / 8
    assert int.from_bytes(found[:4], "big") == len(found) - 4
    assert decompress(found[4:], LIMIT) == content


@pytest.mark.parametrize(
    "content",
    [
        text(MIN_SIZE - 1),
        random.Random(2).randbytes(5_000),
        # Shrinks, but not to what would be worth it.
        random.Random(2).randbytes(4_600) + bytes(400),
        # Shrinks too well.
        bytes(100_000),
        text(MAX_SIZE + 1),
        b"",
    ],
    ids=["short", "random", "hardly", "zeros", "long", "empty"],
)
def test_what_is_not_worth_it_goes_as_it_is(content: bytes) -> None:
    plain = frame(content)
    assert compress(plain) is plain


def test_nothing_is_compressed_twice() -> None:
    once = frame(struct.pack(">BI", COMPRESSED, 5) + text(5_000))
    assert compress(once) is once


def test_of_several_messages_in_one_piece_each_is_compressed() -> None:
    pieces = [frame(text(2_000)), frame(b"short"), frame(text(3_000)), frame(b"")]
    assert compress(b"".join(pieces)) == b"".join(map(compress, pieces))
    short = [frame(text(400)), frame(text(400))]
    assert compress(b"".join(short)) == b"".join(short)


def test_the_least_ratio_that_is_refused_is_never_sent() -> None:
    for size in (20_000, 200_000, MAX_SIZE):
        for part in (0, 1, 2, 5, 10):
            content = text(size * part // 1_000) + bytes(size - size * part // 1_000)
            found = compress(frame(content))[4:]
            if found[0] == COMPRESSED:
                assert decompress(found, MAX_SIZE) == content


def test_threads_do_not_disturb_each_other() -> None:
    """The library's contexts are for one thread each, and it lets others run meanwhile."""
    errors: list[object] = []

    def work(seed: int) -> None:
        for turn in range(30):
            content = text(20_000 + turn, seed)
            if decompress(compress(frame(content))[4:], LIMIT) != content:
                errors.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(compression._compressors) <= 4


# -- reading -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        (packed(LIMIT + 1, text(600)), "limit is 1048576"),
        (packed(0xFFFFFFFF, text(600)), "limit is 1048576"),
        (packed(LIMIT, text(600)), "to one"),
        (packed(599, text(600)), "599 bytes says within that it takes 600"),
        (packed(601, text(600)), "601 bytes says within that it takes 600"),
        (packed(600, text(600), write_content_size=False), "it takes no size"),
        (packed(600, text(600)) + b"x", "damaged"),
        (packed(600, text(600)) + packed(600, text(600))[HEAD_SIZE:], "damaged"),
        (packed(600, text(600))[:-1], "damaged"),
        (packed(600, text(600))[: HEAD_SIZE + 6], "damaged"),
        (packed(600, text(600))[:HEAD_SIZE], "to one"),
        (packed(0, b""), "empty"),
        (packed(600, frame(b"")[:0] + bytes([COMPRESSED]) + text(599)), "twice"),
        (bytes([COMPRESSED]) + b"\0\0\2\x58" + text(100), "damaged"),
        (bytes([COMPRESSED]) + b"\0\0\0\4" + b"\x50\x2a\x4d\x18\4\0\0\0abcd", "damaged"),
    ],
)
def test_what_is_not_what_it_says(payload: bytes, problem: str) -> None:
    with pytest.raises(UndecodableMessage, match=problem):
        decompress(payload, LIMIT)


def test_a_frame_that_wants_a_large_window_is_refused() -> None:
    """Where it was made in pieces, the library would take memory for the window."""
    parameters = zstandard.ZstdCompressionParameters(window_log=26)
    maker = zstandard.ZstdCompressor(compression_params=parameters).compressobj(size=3_000)
    body = bytearray(maker.compress(text(3_000)) + maker.flush())
    assert body[4] & 0x20  # a single segment, whose window is its content
    # The same frame with a window of its own: descriptor, window, size of the content, blocks.
    content = zstandard.get_frame_parameters(bytes(body)).content_size
    assert content == 3_000
    body[4:5] = bytes([body[4] & ~0x20, (26 - 10) << 3])
    assert zstandard.get_frame_parameters(bytes(body)).window_size == 1 << 26
    with pytest.raises(UndecodableMessage, match="67108864 to decompress"):
        decompress(struct.pack(">BI", COMPRESSED, 3_000) + bytes(body), LIMIT)


@given(st.binary(max_size=200), st.integers(0, 2_000))
def test_any_bytes_are_refused_or_have_the_size_that_they_announce(body: bytes, size: int) -> None:
    for payload in (struct.pack(">BI", COMPRESSED, size) + body, bytes([COMPRESSED]) + body):
        try:
            content = decompress(payload, LIMIT)
        except (UndecodableMessage, struct.error):
            continue
        assert len(content) == int.from_bytes(payload[1:5], "big")


@given(st.integers(0, 400), st.integers(0, 255))
def test_damage_is_noticed_or_harmless(at: int, value: int) -> None:
    payload = bytearray(packed(3_000, text(3_000)))
    payload[HEAD_SIZE + at % (len(payload) - HEAD_SIZE)] = value
    try:
        assert len(decompress(bytes(payload), LIMIT)) == 3_000
    except UndecodableMessage:
        pass


def test_r8_a_bomb_takes_no_memory() -> None:
    """256 MB of zeros in 8 KB: refused before anything is allocated, whatever it announces."""
    size = 256 << 20
    body = zstandard.ZstdCompressor().compress(bytes(size))
    assert len(body) < 10_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    try:
        for announced in (size, 5_000, MAX_RATIO * len(body)):
            with pytest.raises(UndecodableMessage):
                decompress(
                    struct.pack(">BI", COMPRESSED, announced) + body,
                    DEFAULT_LIMITS.max_message_size,
                )
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100_000
    if sys.platform == "linux":
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000


# -- in the peers ------------------------------------------------------------------------------


def pair(server: bool = True, client: bool = True) -> tuple[ServerPeer, ClientPeer]:
    """Return two peers that have met and admitted each other, of which either wants it or not."""
    ours = ServerPeer(Coding.MSGPACK, terms=Terms(compresses=server))
    theirs = ClientPeer(terms=Terms(compresses=client))
    theirs.receive(ours.greeting())
    ours.receive(theirs.hello(Coding.OWN))
    theirs.receive(ours.welcome())
    ours.registered()
    theirs.registered()
    return ours, theirs


@pytest.mark.parametrize(("server", "client"), [(False, True), (True, False), (False, False)])
def test_both_sides_have_to_want_it(server: bool, client: bool) -> None:
    peers: list[Any] = list(pair(server, client))
    for peer in peers:
        assert peer.codec.compress is None
        (event,) = peer.receive(frame(packed(600, text(600))))
        assert isinstance(event, Violated)
        assert isinstance(event.error, IllegalMessage)
        assert "not been agreed upon" in str(event.error)


def test_every_message_can_be_compressed() -> None:
    server, client = pair()
    for role, reader, writer in (("server", server, client), ("client", client, server)):
        assert writer.codec is not None
        for case in CASES:
            if case.receiver != role or case.wire[2] == "register":
                continue
            message = as_sent(case.message, b"O")
            plain = serialize(writer.codec, message)
            expected = [as_received(message, b"O")]
            assert reader.receive(compress(plain)) == expected
            reader.take_expansion()
            # Also what we would not: a peer may think otherwise of what is worth it.
            content = plain[4:]
            body = packed(len(content), content)
            if len(content) <= MAX_RATIO * (len(body) - HEAD_SIZE):
                assert reader.receive(frame(body)) == expected
                assert reader.take_expansion() == len(content) - len(body)
            assert reader.take_expansion() == 0


def test_a_client_may_be_answered_in_compressed_form_as_soon_as_it_registers() -> None:
    server = ServerPeer(Coding.MSGPACK, terms=Terms(compresses=True))
    client = ClientPeer(terms=Terms(compresses=True))
    client.receive(server.greeting())
    server.receive(client.hello(Coding.OWN))
    client.receive(server.welcome())
    assert server.codec is not None
    assert client.codec is not None
    assert client.codec.compress is None
    value = {"tid": TID, "later": text(1_000)}
    assert client.receive(compress(server.codec.reply(1, value))) == [m.Reply(1, value)]
    # Before it is admitted, nobody has the server decompress anything.
    (event,) = server.receive(frame(packed(600, text(600))))
    assert isinstance(event, Violated)
    assert isinstance(event.error, IllegalMessage)


def test_the_limit_of_a_message_holds_for_what_is_inside() -> None:
    limits = replace(DEFAULT_LIMITS, max_message_size=2_000)
    server = ServerPeer(Coding.MSGPACK, limits, terms=Terms(compresses=True))
    client = ClientPeer(terms=Terms(compresses=True))
    client.receive(server.greeting())
    server.receive(client.hello(Coding.OWN))
    client.receive(server.welcome())
    server.registered()
    client.registered()
    assert client.codec is not None
    content = b"\x22" + bytes(8) + OID + text(2_000)
    (event,) = server.receive(frame(packed(len(content), content)))
    assert isinstance(event, Violated)
    assert "the limit is 2000" in str(event.error)
    # Nor does our side send it: an invalidation is checked when it is compressed already.
    notice = client.codec.notice(m.Store(OID, None, text(1_900), 1))
    small = compress(notice)
    assert len(small) < len(notice)
    assert client.codec.check(small) is small
    client.codec.max_payload = 1_000
    with pytest.raises(MessageTooLarge, match=f"{len(notice) - 4} bytes"):
        client.codec.check(small)


def test_nobody_needs_the_library_who_does_not_compress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    server, client = pair(server=False, client=False)
    assert client.codec is not None
    (event,) = server.receive(client.codec.notice(m.Store(OID, None, text(5_000), 1)))
    assert isinstance(event, m.Notice)
