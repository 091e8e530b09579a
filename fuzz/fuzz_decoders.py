"""Fuzz the protocol core.

Invariant: whatever bytes a peer sends, in whatever pieces,

1. decoding returns a message or raises one of the four errors of ``PERMITTED``, nothing else;
2. what is decoded can be shown, and its message id can be hashed and echoed;
3. a connection's last event is its only violation, and nothing comes after it;
4. decoding takes at most ``MAX_BYTES_PER_BYTE`` times the length of the input in memory, plus a
   little.

Usage: ``python fuzz/fuzz_decoders.py [seconds [seed]]``, by default 30 seconds and a seed that is
printed.  With atheris installed, ``python fuzz/fuzz_decoders.py --atheris [libFuzzer options]``.
Ends with status 1 and the input in hexadecimal if the invariant is broken.
"""

from __future__ import annotations

import random
import sys
import time
import traceback
import tracemalloc
from collections.abc import Callable, Sequence

from zeolith.errors import (
    FrameTooLarge,
    IllegalMessage,
    IncompatiblePeer,
    UndecodableMessage,
)
from zeolith.protocol import msgpacks, pickles
from zeolith.protocol.additions import requests_to_client, requests_to_server
from zeolith.protocol.codecs import make_codec
from zeolith.protocol.framing import HEADER_SIZE, frame
from zeolith.protocol.greeting import Coding
from zeolith.protocol.hello import (
    MAGIC,
    MIN_MESSAGE,
    Introduction,
    Terms,
    parse_admission,
    serialize_introduction,
)
from zeolith.protocol.inquiry import (
    PREFIX,
    KickInquiry,
    StatusInquiry,
    parse_answer,
    parse_inquiry,
    serialize_inquiry,
)
from zeolith.protocol.limits import Limits
from zeolith.protocol.messages import (
    Call,
    Fault,
    Info,
    InvalidateTransaction,
    Reply,
    Store,
    TpcBegin,
    UndoInfo,
    Vote,
)
from zeolith.protocol.peers import (
    ClientPeer,
    Hello,
    Inquired,
    Phase,
    ServerPeer,
    Violated,
    Welcomed,
)

PERMITTED = (UndecodableMessage, IllegalMessage, FrameTooLarge, IncompatiblePeer)

MAX_BYTES_PER_BYTE = 700
"""An empty set takes 216 bytes, some more on the stack, and is written in one; a refusal's
traceback, the codec and the table of heights add to it."""

LIMITS = Limits(max_message_size=100_000)
OID, TID = b"\0" * 7 + b"\1", b"\3" * 8

_VALUES: Sequence[object] = (
    (1, False, "loadBefore", (OID, TID)),
    ((OID, TID), False, "loadBefore", (OID, TID)),
    (0, True, "storea", (OID, TID, b"data" * 20, 7)),
    (0, True, "tpc_begin", (7, b"u", b"d", {"k": [1, {"n": (None, 1.5)}]}, None, " ")),
    (3, False, "undoInfo", (0, -20, {"user_name": b"/ admin"})),
    (0, True, "invalidateTransaction", (TID, [OID] * 5)),
    ((OID, TID), 0, ".reply", (b"data", TID, None)),
    (4, 2, ".reply", ("ZODB.POSException.ConflictError", {"serials": (TID, TID), "oid": OID})),
    (-1, 0, ".reply", None),
)

_PIECES: Sequence[bytes] = (
    *(
        bytes([opcode])
        for opcode in b"()]}\x8fteusa\x85\x86\x87\x90\x91R\x81b.N\x94\x9302\x81\xc0\xc1"
    ),
    *(b"\x80\x04", b"q\0", b"h\0", b"X\1\0\0\0k", b"C\1x", b"B\xff\xff\0\0"),
    *(b"X\xff\xff\xff\xff", b"\x8a\x40", b"\x8b\xff\xff\0\0"),
    *(b"cbuiltins\ndict\n", b"cbuiltins\nset\n", b"cbuiltins\nKeyError\n", b"cos\nsystem\n"),
    *(b"cZopeUndo.Prefix\nPrefix\n", b"cZODB.POSException\n_recon\n", b"c_codecs\nencode\n"),
    *(b"\xdc\0\x10", b"\xdd\0\0\xff\xff", b"\xde\0\1", b"\xc4\x08", b"\xd9\xff"),
    *(b'{"ask": "kick", ', b'"client": "x"', b"[", b"]", b"}", b", ", b'"', b"1e999", b"\\ud800"),
    *(bytes([kind]) for kind in range(0x51)),
    *(b"\x50\0\0\0", b"\x28\xb5\x2f\xfd", b"\x28\xb5\x2f\xfd\x20\x01\x09\0\0\x05"),
    *(MAGIC, MAGIC + b"\0\1", MAGIC + b"\0\0", b"\xa6limits", b"\xa7message"),
    *(b"\xc7\x0c\xff", b"\xd6\xff", b"\0\0\0\x05", b"\xff\xff\xff\xff"),
)


def check(data: bytes) -> None:
    """Assert the invariant for *data*."""
    for coding in Coding:
        for is_server in (True, False):
            _check_message(coding, data, is_server)
    _check_stream(data)
    _check_hello(data)
    _check_inquiry(data)


def _check_hello(data: bytes) -> None:
    """Of either side; and what a client that said hello may get instead of an answer."""
    server, client = ServerPeer(Coding.PICKLE, LIMITS), ClientPeer(LIMITS)
    client.receive(server.greeting())
    client.hello(Coding.OWN)
    for peer in (server, client):
        for event in peer.receive(frame(MAGIC + data)):
            if isinstance(event, Violated):
                assert isinstance(event.error, PERMITTED)
                assert peer.phase is Phase.CLOSED
            else:
                assert isinstance(event, Hello | Welcomed)
                assert peer.codec is not None
                assert peer.codec.max_payload >= MIN_MESSAGE
    try:
        parse_admission(msgpacks.loads(data, LIMITS))
    except PERMITTED:
        pass


def _check_inquiry(data: bytes) -> None:
    """An administrator's question comes first, and alone; its answer may be anything, too."""
    peer = ServerPeer(Coding.PICKLE, LIMITS)
    for event in peer.receive(frame(PREFIX + data)):
        if isinstance(event, Inquired):
            assert parse_inquiry(serialize_inquiry(event.inquiry)) == event.inquiry
        else:
            assert isinstance(event, Violated)
            assert isinstance(event.error, PERMITTED)
    assert peer.phase is Phase.CLOSED
    try:
        parse_answer(data)
    except PERMITTED:
        pass


def _check_message(coding: Coding, data: bytes, is_server: bool) -> None:
    codec = make_codec(
        coding, (requests_to_server if is_server else requests_to_client)(coding), LIMITS
    )
    codec.takes_compressed = True
    try:
        message = codec.decode(data)
    except PERMITTED:
        return
    assert repr(message)
    if isinstance(message, Call | Reply | Fault):
        hash(message.msgid)
        assert len(codec.reply(message.msgid, None)) < 20_000, "a long echo"


def _check_stream(data: bytes) -> None:
    coding = tuple(Coding)[len(data) % len(Coding)]
    terms = Terms(60, True)
    server = ServerPeer(Coding.PICKLE, LIMITS, terms=terms)
    client = ClientPeer(LIMITS, terms=terms)
    client.receive(server.greeting())
    server.receive(client.hello(coding))
    if coding is Coding.OWN:
        client.receive(server.welcome())
    server.registered()
    for peer in (server, client):
        events = []
        step = 1 + len(data) % 17
        for stream in (data, frame(data)):
            for at in range(0, len(stream), step):
                events += peer.receive(stream[at : at + step])
        violations = [event for event in events if isinstance(event, Violated)]
        assert violations == ([events[-1]] if violations else []), "a violation is not the end"
        assert all(isinstance(event.error, PERMITTED) for event in violations)


def check_memory(data: bytes) -> None:
    """Assert that decoding *data* takes memory in proportion to its length only."""
    for loads in (pickles.loads, msgpacks.loads):
        tracemalloc.start()
        try:
            loads(data, LIMITS)
        except PERMITTED:
            pass
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak <= MAX_BYTES_PER_BYTE * len(data) + 20_000, f"{peak} bytes of memory"


def _mutate(choice: random.Random, data: bytes) -> bytes:
    """Return *data* with one random change."""
    at = choice.randrange(len(data) + 1)
    to = min(len(data), at + choice.choice((1, 1, 2, 4, 9, 30)))
    match choice.randrange(7):
        case 0:
            return data[:at] + choice.randbytes(to - at) + data[to:]
        case 1:
            return data[:at] + choice.choice(_PIECES) + data[at:]
        case 2:
            return data[:at] + data[to:]
        case 3:
            return data[:at] + data[at:to] * choice.choice((2, 3, 50, 1_000)) + data[to:]
        case 4:
            return data[:at] + choice.choice(_PIECES) * choice.choice((1, 2, 40, 2_000)) + data[to:]
        case 5:
            return data[:at]
        case _:
            return data[:at] + choice.choice((b"\0", b"\x7f", b"\x80", b"\xff")) + data[to:]


def _seeds() -> list[bytes]:
    codecs = [
        make_codec(coding, requests_to_server(coding), LIMITS)
        for coding in (Coding.OWN, Coding.MSGPACK)
    ]
    dumps: Sequence[Callable[[object], bytes]] = (pickles.dumps, msgpacks.dumps)
    inquiries = (StatusInquiry("1", 5), KickInquiry("label", None, True))
    return [
        *(dump(value) for dump in dumps for value in _VALUES),
        *(
            data[HEADER_SIZE:]
            for codec in codecs
            for data in (
                codec.load_before(OID, TID),
                codec.loaded((OID, TID), b"data", TID, None),
                codec.loaded((OID, TID), b"data", TID, TID),
                codec.reply((OID, TID), None),
                codec.fault((OID, TID), "builtins.KeyError", ("x",)),
                codec.call(5, Vote(7)),
                codec.call(5, UndoInfo(0, -20, {"user_name": b"/ admin"})),
                codec.notice(TpcBegin(7, b"u", b"d", b"pickle", TID, " ")),
                codec.notice(Store(OID, TID, b"data", 7)),
                codec.notice(InvalidateTransaction(TID, [OID, TID])),
                codec.notice(Info({"length": 1, "size": 2})),
                codec.reply(5, [OID, TID]),
                codec.reply(5, {"tid": TID, "identity": "x", "epoch": 1}),
                codec.heartbeat(),
            )
        ),
        serialize_introduction(Introduction(1, 70_000, "x", {"y": {"z": 1}})).removeprefix(MAGIC),
        *(serialize_inquiry(inquiry).removeprefix(PREFIX) for inquiry in inquiries),
        *(b"", b"\x80\x03", b"\x80\x04."),
    ]


def fuzz(seconds: float, seed: int) -> int:
    """Check random inputs for *seconds*; return how many.  AssertionError: the invariant broke."""
    choice = random.Random(seed)
    corpus = _seeds()
    for data in corpus:
        check(data)
    deadline = time.monotonic() + seconds
    count = 0
    while time.monotonic() < deadline:
        data = choice.choice(corpus)
        for _ in range(choice.choice((1, 1, 2, 3, 8))):
            data = _mutate(choice, data)[:100_000]
        try:
            check(data)
            if count % 20 == 0:
                check_memory(data)
        except BaseException:
            print(f"broken by {data.hex()}", file=sys.stderr)
            raise
        # Inputs that grew out of others reach further than single steps.
        if choice.random() < 0.02:
            corpus[choice.randrange(len(corpus))] = data[:2_000]
            corpus[choice.randrange(len(corpus))] = choice.choice(_seeds())
        count += 1
    return count


def main(argv: Sequence[str]) -> int:
    """Run the fuzzer; return the exit status."""
    if argv[1:2] == ["--atheris"]:
        import atheris  # type: ignore  # only where it is installed

        atheris.instrument_all()
        atheris.Setup([argv[0], *argv[2:]], check)
        atheris.Fuzz()
        return 0
    seconds = float(argv[1]) if len(argv) > 1 else 30.0
    seed = int(argv[2]) if len(argv) > 2 else random.randrange(2**32)
    print(f"fuzzing the decoders for {seconds:g} s, seed {seed}")
    try:
        count = fuzz(seconds, seed)
    except Exception:  # noqa: BLE001 - whatever it is, it is the finding
        traceback.print_exc()
        return 1
    print(f"{count} inputs, the invariant holds")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
