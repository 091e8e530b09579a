"""Fuzz the protocol core.

Invariant: whatever bytes a peer sends, in whatever pieces,

1. decoding returns a message or raises one of the four errors of ``PERMITTED``, nothing else;
2. what is decoded can be shown, and its message id can be hashed and echoed;
3. a connection's last event is its only violation, and nothing comes after it;
4. who reads along (:mod:`zeolith.protocol.transcript`) accounts for every byte, and describes what
   it hears in one line;
5. decoding takes at most ``MAX_BYTES_PER_BYTE`` times the length of the input in memory, plus a
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
from zeolith.protocol.additions import (
    ChangesSince,
    VerifyMany,
    requests_to_client,
    requests_to_server,
)
from zeolith.protocol.codecs import make_codec
from zeolith.protocol.compression import HEAD_SIZE, compress, decompress, is_available
from zeolith.protocol.descriptions import MAX_LINE, describe
from zeolith.protocol.entries import CLOSE, EntryReader, Header, Record, serialize_entry
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
from zeolith.protocol.loadrequests import LoadedMany, LoadMany, SyncTo
from zeolith.protocol.messages import (
    Call,
    Fault,
    Info,
    InvalidateTransaction,
    Register,
    Reply,
    Store,
    TpcBegin,
    UndoInfo,
    Vote,
)
from zeolith.protocol.outcome import Outcome, State, Verdict, parse_verdict, serialize_verdict
from zeolith.protocol.peers import (
    ClientPeer,
    Hello,
    Inquired,
    Phase,
    ServerPeer,
    Violated,
    Welcomed,
)
from zeolith.protocol.streamrequests import (
    AttachBlob,
    ForgetUpload,
    OpenBlob,
    OpenIteration,
    OpenUpload,
    StreamCancel,
    StreamCredit,
    StreamData,
    StreamEnd,
    StreamFault,
)
from zeolith.protocol.transcript import Transcript

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
    *(bytes([kind]) for kind in range(0x52)),
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
    _check_parts(data)
    _check_transcript(data)


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


def _check_parts(data: bytes) -> None:
    """What travels inside of messages: an iteration's entries, what became of a transaction, and
    compressed payloads."""
    entries = EntryReader(LIMITS)
    try:
        for at in range(0, len(data), 50):
            entries.feed(data[at : at + 50])
            while entries.next() is not None:
                pass
        entries.check_end()
    except PERMITTED:
        pass
    try:
        parse_verdict(msgpacks.loads(data, LIMITS))
    except PERMITTED:
        pass
    if is_available() and len(data) >= HEAD_SIZE:
        try:
            assert len(decompress(data, LIMITS.max_message_size)) <= LIMITS.max_message_size
        except PERMITTED:
            pass


def _check_transcript(data: bytes) -> None:
    """Said by either side: at the beginning, and to an open connection."""
    for is_greeted in (False, True):
        for is_from_client in (False, True):
            heard = _transcript(tuple(Coding)[len(data) % len(Coding)] if is_greeted else None)
            step, size = 1 + len(data) % 31, 0
            stream = data + frame(data)
            for at in range(0, len(stream), step):
                for entry in heard.feed(is_from_client, stream[at : at + step]):
                    size += entry.size
                    text = describe(entry, with_data=is_greeted)
                    assert 0 < len(text) <= MAX_LINE
                    assert text.isprintable()
            lost = heard.undecoded(is_from_client)
            assert size + lost == len(stream) or not lost, "bytes are missing"


def _transcript(coding: Coding | None) -> Transcript:
    """Return one of an open connection in *coding*; of one that has just been made if None."""
    heard = Transcript(LIMITS)
    if coding is not None:
        server, client = _peers(coding)
        assert server.codec is not None
        assert client.codec is not None
        heard.feed(False, server.greeting())
        heard.feed(True, client.hello(coding))
        if coding is Coding.OWN:
            heard.feed(False, server.welcome())
        heard.feed(True, client.codec.call(1, Register("1", False)))
        heard.feed(False, server.codec.reply(1, TID))
    return heard


def _check_message(coding: Coding, data: bytes, is_server: bool) -> None:
    codec = make_codec(
        coding, (requests_to_server if is_server else requests_to_client)(coding), LIMITS
    )
    codec.takes_compressed = is_available()
    try:
        message = codec.decode(data)
    except PERMITTED:
        return
    assert repr(message)
    if isinstance(message, Call | Reply | Fault):
        hash(message.msgid)
        assert len(codec.reply(message.msgid, None)) < 20_000, "a long echo"


def _peers(coding: Coding) -> tuple[ServerPeer, ClientPeer]:
    """Return two peers that have said hello."""
    terms = Terms(60, is_available())
    server, client = ServerPeer(Coding.PICKLE, LIMITS, terms=terms), ClientPeer(LIMITS, terms=terms)
    client.receive(server.greeting())
    server.receive(client.hello(coding))
    if coding is Coding.OWN:
        client.receive(server.welcome())
    return server, client


def _check_stream(data: bytes) -> None:
    coding = tuple(Coding)[len(data) % len(Coding)]
    server, client = _peers(coding)
    server.registered()
    client.registered()
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
    decoders: list[Callable[[bytes], object]] = [
        lambda payload: pickles.loads(payload, LIMITS),
        lambda payload: msgpacks.loads(payload, LIMITS),
        make_codec(Coding.OWN, requests_to_client(Coding.OWN), LIMITS).decode,
    ]
    if is_available() and len(data) >= HEAD_SIZE:
        decoders.append(lambda payload: decompress(payload, LIMITS.max_message_size))
    for decode in decoders:
        tracemalloc.start()
        try:
            decode(data)
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


_ENTRIES = (
    Header(TID, " ", b"user", b"about", b"pickle"),
    Record(OID, TID, b"data", None),
    CLOSE,
)


def _own_frames() -> list[bytes]:
    """Return frames that only Zeolith's own protocol has."""
    codec = make_codec(Coding.OWN, requests_to_server(Coding.OWN), LIMITS)
    notices: Sequence[tuple[object, ...]] = (
        LoadMany(TID, [OID, TID]),
        LoadedMany(TID, [(OID, TID, None, b"data"), (TID, TID, OID, b"")]),
        TpcBegin(7, b"u", b"d", b"", TID, " ", bytes(16)),
        OpenUpload(1 << 31, bytes(range(16))),
        AttachBlob(1 << 31, OID, None, b"record", 7, 70_000),
        ForgetUpload(1 << 31),
        StreamData(5, b"data"),
        StreamEnd(5),
        StreamFault(5, "builtins.KeyError", ("x",)),
        StreamCredit(5, 70_000),
        StreamCancel(5),
    )
    calls: Sequence[tuple[object, ...]] = (
        VerifyMany((OID + TID) * 3),
        ChangesSince(TID, 100, TID + OID),
        Outcome(bytes(16), TID),
        SyncTo(TID, 1.5),
        OpenBlob(5, OID, TID, 0, 70_000),
        OpenUpload(1 << 31, bytes(range(16))),
        OpenIteration(6, None, TID, 70_000),
    )
    frames = [*map(codec.notice, notices), *(codec.call(5, request) for request in calls)]
    if is_available():
        frames.append(compress(codec.notice(Store(OID, TID, b"data " * 300, 7))))
    return frames


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
        *(data[HEADER_SIZE:] for data in _own_frames()),
        serialize_introduction(Introduction(1, 70_000, "x", {"y": {"z": 1}})).removeprefix(MAGIC),
        serialize_introduction(Introduction(1, 70_000, "x", {"zstd": {}}, (), 5.5))[8:],
        b"".join(serialize_entry(entry) for entry in _ENTRIES),
        msgpacks.dumps(serialize_verdict(Verdict(State.COMMITTED, TID))),
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
