"""Checksums of blobs, and how two peers agree about them."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from zeolith.errors import IllegalMessage
from zeolith.protocol import checksums
from zeolith.protocol.checksums import ALGORITHMS, DIGEST_SIZE, choose, make_hasher
from zeolith.protocol.greeting import Coding
from zeolith.protocol.hello import BLOBS, BlobTerms, Terms, blob_terms
from zeolith.protocol.limits import BULK_FRAME, STREAM_FRAME
from zeolith.protocol.messages import Notice
from zeolith.protocol.peers import ClientPeer, Greeted, Hello, ServerPeer, Welcomed
from zeolith.protocol.streamlayouts import STREAM_END
from zeolith.protocol.streamrequests import AttachBlob, StreamEnd


@pytest.mark.parametrize("algorithm", ["blake3", "sha256"])
def test_every_algorithm_makes_a_checksum_of_one_length(algorithm: str) -> None:
    assert algorithm in ALGORITHMS
    hasher = make_hasher(algorithm)
    hasher.update(memoryview(b"zeo"))
    hasher.update(b"lith")
    whole = make_hasher(algorithm)
    whole.update(b"zeolith")
    assert len(hasher.digest()) == DIGEST_SIZE
    assert hasher.digest() == whole.digest() != make_hasher(algorithm).digest()


def test_sha_256_is_what_everybody_calls_so() -> None:
    hasher = make_hasher("sha256")
    hasher.update(b"zeolith")
    assert hasher.digest() == hashlib.sha256(b"zeolith").digest()


@pytest.mark.parametrize(
    ("server", "client", "expected"),
    [
        (("blake3", "sha256"), ("blake3", "sha256"), "blake3"),
        (("blake3", "sha256"), ("sha256", "blake3"), "blake3"),
        (("sha256",), ("blake3", "sha256"), "sha256"),
        (("blake3", "sha256"), ("sha256",), "sha256"),
        (("of later", "sha256"), ("of later", "sha256"), "sha256"),
        (("blake3",), ("sha256",), None),
        ((), ("sha256",), None),
        ((7, "sha256"), (7, "sha256"), "sha256"),
    ],
)
def test_the_best_of_those_that_both_know(server: Any, client: Any, expected: str | None) -> None:
    assert choose(server, client) == expected


def meet(server: Terms, client: Terms) -> tuple[ServerPeer, ClientPeer]:
    """Return both ends of a connection whose client has been admitted."""
    ours, theirs = ServerPeer(Coding.MSGPACK, terms=server), ClientPeer(terms=client)
    (greeted,) = theirs.receive(ours.greeting())
    assert isinstance(greeted, Greeted)
    (hello,) = ours.receive(theirs.hello(Coding.OWN))
    assert isinstance(hello, Hello)
    (welcomed,) = theirs.receive(ours.welcome())
    assert isinstance(welcomed, Welcomed)
    ours.registered()
    theirs.registered()
    return ours, theirs


@pytest.mark.parametrize(
    ("server", "client", "checksum", "frame"),
    [
        (ALGORITHMS, ALGORITHMS, ALGORITHMS[0], BULK_FRAME),
        (("sha256",), ALGORITHMS, "sha256", BULK_FRAME),
        (ALGORITHMS, ("sha256",), "sha256", BULK_FRAME),
        # Those of before.
        ((), ALGORITHMS, None, STREAM_FRAME),
        (ALGORITHMS, (), None, STREAM_FRAME),
    ],
)
def test_both_ends_agree(
    server: tuple[str, ...], client: tuple[str, ...], checksum: str | None, frame: int
) -> None:
    for peer in meet(Terms(checksums=server), Terms(checksums=client)):
        assert peer.codec is not None
        assert (peer.codec.checksum, peer.codec.data_frame) == (checksum, frame)


def test_where_messages_are_compressed_they_are_short() -> None:
    terms = Terms(compresses=True, checksums=ALGORITHMS)
    for peer in meet(terms, terms):
        assert peer.codec is not None
        assert (peer.codec.checksum, peer.codec.data_frame) == (ALGORITHMS[0], STREAM_FRAME)


def test_what_the_capability_says() -> None:
    said = Terms(checksums=("sha256",)).capabilities
    assert said == {BLOBS: {"checksums": ("sha256",), "frame": BULK_FRAME}}
    assert blob_terms(said) == BlobTerms(("sha256",), BULK_FRAME)
    assert blob_terms({}) == BlobTerms((), STREAM_FRAME)
    # What a later peer adds is ignored.
    more = {BLOBS: {"checksums": (), "frame": 1 << 40, "more": 1}}
    assert blob_terms(more) == BlobTerms((), 1 << 40)


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"checksums": ()},
        {"frame": BULK_FRAME},
        {"checksums": "sha256", "frame": BULK_FRAME},
        {"checksums": (), "frame": STREAM_FRAME - 1},
        {"checksums": (), "frame": "1"},
    ],
)
def test_a_capability_that_says_nothing_of_use(parts: dict[str, Any]) -> None:
    with pytest.raises(IllegalMessage, match="blobs needs"):
        blob_terms({BLOBS: parts})


def test_what_a_server_says_of_itself() -> None:
    said = Terms(checksums=("sha256",), life="5", keeps=60).capabilities
    assert blob_terms(said) == BlobTerms(("sha256",), BULK_FRAME, "5", 60)


@pytest.mark.parametrize("more", [{"life": 5}, {"keeps": "60"}, {"keeps": -1}, {"keeps": 1.5}])
def test_what_a_server_says_wrongly(more: dict[str, Any]) -> None:
    with pytest.raises(IllegalMessage, match="a server"):
        blob_terms({BLOBS: {"checksums": (), "frame": STREAM_FRAME, **more}})


def test_an_end_and_an_attachment_with_and_without() -> None:
    ours, theirs = meet(Terms(checksums=ALGORITHMS), Terms(checksums=ALGORITHMS))
    assert ours.codec is not None
    assert theirs.codec is not None
    for checksum in (None, bytes(range(DIGEST_SIZE))):
        frame = ours.codec.notice(StreamEnd(5, checksum))
        assert len(frame) == 9 + len(checksum or b"")
        assert theirs.receive(frame) == [Notice(StreamEnd(5, checksum))]
        attach = AttachBlob(1 << 31, bytes(8), None, b"record", 1, 7, checksum)
        assert ours.receive(theirs.codec.notice(attach)) == [Notice(attach)]


@pytest.mark.parametrize("size", [1, DIGEST_SIZE - 1, DIGEST_SIZE + 1])
def test_a_checksum_of_another_length(size: int) -> None:
    _, theirs = meet(Terms(checksums=ALGORITHMS), Terms(checksums=ALGORITHMS))
    payload = bytes([STREAM_END, 0, 0, 0, 5]) + bytes(size)
    (violated,) = theirs.receive(len(payload).to_bytes(4, "big") + payload)
    assert "has not its length" in str(violated.error)  # type: ignore[union-attr]


def test_without_the_library_there_is_still_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checksums, "_MAKERS", {"sha256": hashlib.sha256})
    assert choose(("blake3", "sha256"), ("blake3", "sha256")) == "sha256"
