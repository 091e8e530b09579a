"""Messages made to hurt (known failures E and F): each is refused before it costs anything.

Cost is measured as the peak of traced memory and as the number of opcodes looked at, which are the
same on every machine; time follows from both.
"""

from __future__ import annotations

import os
import pickle
import struct
import tracemalloc
from typing import Any

import pytest

from zeolith.errors import UndecodableMessage
from zeolith.protocol import msgpacks, pickles
from zeolith.protocol.codecs import make_codec
from zeolith.protocol.greeting import Coding
from zeolith.protocol.limits import DEFAULT_LIMITS, Limits
from zeolith.protocol.messages import SERVER_REQUESTS

MIB = 1024 * 1024
HEAD = b"\x80\x03"


def doubling(count: int, start: bytes, step: bytes) -> bytes:
    """Return a pickle that puts a value into two places of a new one, *count* times."""
    return HEAD + start + step * count + b"."


def length_bombs() -> list[tuple[str, bytes]]:
    bombs = []
    for size in (MIB, 2**31 - 1, 2**32 - 1):
        four = struct.pack("<I", size)
        bombs += [
            (f"binbytes-{size}", HEAD + b"B" + four + b"x" * 20 + b"."),
            (f"binunicode-{size}", HEAD + b"X" + four + b"x" * 20 + b"."),
            (f"long4-{size}", HEAD + b"\x8b" + four + b"x" * 20 + b"."),
            (f"long-binput-{size}", HEAD + b"Nr" + four + b"."),
            (f"long-binget-{size}", HEAD + b"Nj" + four + b"."),
        ]
    for size in (2**32, 2**63 - 1, 2**64 - 1):
        eight = struct.pack("<Q", size)
        bombs += [
            (f"binbytes8-{size}", HEAD + b"\x8e" + eight + b"x" * 20 + b"."),
            (f"binunicode8-{size}", HEAD + b"\x8d" + eight + b"x" * 20 + b"."),
            (f"bytearray8-{size}", b"\x80\x05\x96" + eight + b"x" * 20 + b"."),
        ]
    return bombs


_FORTY = range(40)

PICKLES: list[tuple[str, bytes]] = [
    # A stack overflow in ZEO 6.2, when the value is thrown away or hashed.
    ("deep-tuples", HEAD + b")" + b"\x85" * MIB + b"."),
    ("deep-pairs", HEAD + b")" + b"N\x86" * (MIB // 2) + b"."),
    ("deep-lists", HEAD + b"]" * MIB + b"a" * (MIB - 1) + b"."),
    ("deep-dicts", HEAD + b"}K\x01" * MIB + b"}" + b"s" * MIB + b"."),
    ("deep-marks", HEAD + b"(" * MIB + b"t" * MIB + b"."),
    ("deep-sets", b"\x80\x04" + b"(" * MIB + b"\x91" * MIB + b"."),
    ("deep-calls", HEAD + b"cbuiltins\nKeyError\n" * 5_000 + b")" + b"R\x85" * 5_000 + b"."),
    ("marks-only", HEAD + b"(" * MIB),
    # Forty steps make a value of 2**40 parts.
    ("doubling-tuples", doubling(60, b")q\x00", b"h\x00\x86q\x00")),
    ("doubling-tuples-2", HEAD + b")" + b"".join(b"q%ch%c\x86" % (n, n) for n in _FORTY) + b"."),
    ("doubling-lists", HEAD + b"]" + b"".join(b"q%c]h%cah%ca" % (n, n, n) for n in _FORTY) + b"."),
    ("doubling-dup", HEAD + b")" + b"2\x86" * 60 + b"."),
    ("list-in-itself", HEAD + b"]q\x00h\x00a."),
    ("dict-in-itself", HEAD + b"}q\x00K\x01h\x00s."),
    ("memo-index", HEAD + b"Nr\xff\xff\xff\x7f."),
    ("memo-gaps", HEAD + b"".join(b"Nr" + struct.pack("<I", n << 12) for n in range(999)) + b"."),
    ("set-flood", b"\x80\x04(" + b"\x8f" * (2 * MIB) + b"t."),
    ("dict-flood", HEAD + b"(" + b"}" * (2 * MIB) + b"t."),
    ("call-flood", HEAD + b"(" + b"cbuiltins\nset\n)R" * 300_000 + b"t."),
    ("colliding-keys", HEAD + b"}(" + b"".join(
        pickle.dumps((2**61 - 1) * n, 2)[2:-1] + b"N" for n in range(20_000)
    ) + b"u."),
    ("large-integer", HEAD + b"\x8a\xff" + b"\x7f" * 255 + b"."),
    ("decimal-integer", HEAD + b"I" + b"9" * MIB + b"\n."),
    ("decimal-long", HEAD + b"L" + b"9" * MIB + b"L\n."),
    *length_bombs(),
]  # fmt: skip

CODE: list[tuple[str, bytes]] = [
    ("eval", HEAD + b"cbuiltins\neval\nX\x03\0\0\0bad\x85R."),
    ("eval-2", b"\x80\x02c__builtin__\neval\nX\x03\0\0\0bad\x85R."),
    ("eval-stack", b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x03bad\x85R."),
    ("exec", HEAD + b"cbuiltins\nexec\nX\x03\0\0\0bad\x85R."),
    ("import", HEAD + b"cbuiltins\n__import__\nX\x02\0\0\0os\x85R."),
    ("getattr", HEAD + b"cbuiltins\ngetattr\ncbuiltins\ndict\nX\x08\0\0\0fromkeys\x86R."),
    ("system", HEAD + b"cos\nsystem\nX\x04\0\0\0true\x85R."),
    ("posix", HEAD + b"cposix\nsystem\nX\x04\0\0\0true\x85R."),
    ("copyreg", HEAD + b"ccopyreg\n_reconstructor\ncbuiltins\nobject\ncbuiltins\nobject\nN\x87R."),
    ("copy_reg", b"\x80\x02ccopy_reg\n_reconstructor\n."),
    ("inst", HEAD + b"(X\x04\0\0\0trueios\nsystem\n."),
    ("obj", HEAD + b"(cos\nsystem\nX\x04\0\0\0trueo."),
    ("newobj", HEAD + b"cbuiltins\nobject\n)\x81."),
    ("newobj-ex", b"\x80\x04cbuiltins\ndict\n)}\x92."),
    ("build-slots", HEAD + b"]N}X\x01\0\0\0aNs\x86b."),
    ("extension", HEAD + b"\x82\x01."),
    ("persistent-id", HEAD + b"Pname\n."),
    ("binary-persistent-id", HEAD + b"NQ."),
    ("buffer", b"\x80\x05\x97."),
    ("attribute-of-a-permitted-name", b"\x80\x04\x8c\x08builtins\x8c\x0ddict.fromkeys\x93."),
    ("module-of-a-permitted-name", HEAD + b"cbuiltins.dict\nfromkeys\n."),
]


def nested_headers(width: int, count: int, filler: int = 0) -> bytes:
    """Return array headers inside one another that each announce as much as there could be."""
    kind, pack = ((b"\xdc", ">H"), (b"\xdd", ">I"))[width == 4]
    total = (1 + width) * count + filler
    announced = min(total, 0xFFFF if width == 2 else total)
    return (kind + struct.pack(pack, announced)) * count + b"\xc0" * filler


MSGPACKS: list[tuple[str, bytes]] = [
    # Each header makes the C decoder take eight bytes for every byte of the message.
    ("nested-2-kib", nested_headers(2, 700)),
    ("nested-1-mib", nested_headers(4, MIB // 5)),
    ("nested-with-filler", nested_headers(4, 31, MIB)),
    ("nested-maps", (b"\xdf" + struct.pack(">I", MIB // 8) + b"\xa1k") * 900 + b"\xc0" * MIB),
    ("one-by-one", b"\x91" * MIB + b"\xc0"),
    ("many-announced", b"\xdd\xff\xff\xff\xff"),
    ("many-entries", b"\xdf\xff\xff\xff\xff"),
    ("long-bytes", b"\xc6\xff\xff\xff\xffx"),
    ("long-text", b"\xdb\xff\xff\xff\xffx"),
    ("long-extension", b"\xc9\xff\xff\xff\xff\x01x"),
    ("map-flood", b"\xdd" + struct.pack(">I", 2 * MIB) + b"\x80" * (2 * MIB)),
    ("timestamp", b"\x94\x01\xc2\xa4ping\x91\xc7\x0c\xff" + b"\xff" * 12),
]


def peak_of_refusal(coding: Coding, payload: bytes, limits: Limits = DEFAULT_LIMITS) -> int:
    """Return the most memory that refusing *payload* takes, in bytes."""
    codec = make_codec(coding, SERVER_REQUESTS, limits)
    tracemalloc.start()
    try:
        with pytest.raises(UndecodableMessage) as caught:
            codec.decode(payload)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(str(caught.value)) < 400
    return peak


CHEAP = 300_000
"""Bytes: less than what any bomb above takes if it goes off, by far."""

_FLOODS = {"call-flood", "set-flood", "dict-flood", "deep-lists", "deep-dicts"}
"""Honest but for their number: they are cut off at the limit of containers."""


@pytest.mark.parametrize(("name", "payload"), PICKLES, ids=[name for name, _ in PICKLES])
def test_pickle_bombs_are_refused_before_they_cost_memory(name: str, payload: bytes) -> None:
    if name in _FLOODS:
        assert peak_of_refusal(Coding.PICKLE, payload, Limits(max_containers=1_000)) < CHEAP
    else:
        peak = peak_of_refusal(Coding.PICKLE, payload)
        # A thousand keys of the kind are harmless, but their batch comes as a whole.
        assert peak < (3 * MIB if name == "colliding-keys" else CHEAP)


def test_floods_take_no_more_than_a_message_may() -> None:
    """A container takes 300 bytes at most, see the test before."""
    assert DEFAULT_LIMITS.max_containers * 300 < DEFAULT_LIMITS.max_message_size


@pytest.mark.parametrize(("name", "payload"), MSGPACKS, ids=[name for name, _ in MSGPACKS])
def test_msgpack_bombs_are_refused_before_they_cost_memory(name: str, payload: bytes) -> None:
    """They never reach the C decoder, so not even a flood takes memory."""
    assert peak_of_refusal(Coding.MSGPACK, payload) < CHEAP


@pytest.mark.parametrize(("name", "payload"), CODE, ids=[name for name, _ in CODE])
def test_no_pickle_runs_code(name: str, payload: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """E: CVE-2009-0668 and its kin.  F: ZEO 6.2 admits all builtins."""

    def ran(*args: object) -> None:
        raise AssertionError(f"{name} ran")

    monkeypatch.setattr(os, "system", ran)
    monkeypatch.setattr("builtins.eval", ran)
    monkeypatch.setattr("builtins.exec", ran)
    with pytest.raises(UndecodableMessage):
        pickles.loads(payload, DEFAULT_LIMITS)


def test_a_reducer_of_the_sender_is_no_call_of_the_receiver() -> None:
    class Exploit:
        def __reduce__(self) -> Any:
            return os.system, ("true",)

    for protocol in (2, 3, 4, 5):
        with pytest.raises(UndecodableMessage, match="system"):
            pickles.loads(pickle.dumps(Exploit(), protocol), DEFAULT_LIMITS)


class _CountingBytes(bytes):
    """A payload that counts how often one of its bytes is looked at."""

    looked = 0

    def __getitem__(self, index: Any) -> Any:
        self.looked += 1
        return super().__getitem__(index)


@pytest.mark.parametrize("name", ["deep-tuples", "deep-lists", "deep-marks", "doubling-lists"])
def test_bombs_are_refused_where_they_go_too_far(name: str) -> None:
    payload = _CountingBytes(dict(PICKLES)[name])
    with pytest.raises(UndecodableMessage):
        pickles.loads(payload, DEFAULT_LIMITS)
    if name == "deep-lists":  # they are not nested before the APPENDs come
        assert payload.looked < MIB
    else:
        assert payload.looked < 100


def test_time_is_linear_in_the_length() -> None:
    """Each byte of an honest message is looked at once."""
    for count in (1_000, 2_000, 4_000):
        payload = _CountingBytes(pickles.dumps([(n, {"k": [n]}) for n in range(count)]))
        pickles.loads(payload, DEFAULT_LIMITS)
        assert payload.looked < 1.2 * len(payload)
        payload = _CountingBytes(msgpacks.dumps([(n, {"k": [n]}) for n in range(count)]))
        msgpacks.loads(payload, DEFAULT_LIMITS)
        assert payload.looked < 1.2 * len(payload)


@pytest.mark.parametrize("depth", [32, 31])
def test_deepest_message_that_is_accepted_can_be_thrown_away_and_shown(depth: int) -> None:
    payload = HEAD + b")" + b"\x85" * (depth - 1) + b"."
    value = pickles.loads(payload, DEFAULT_LIMITS)
    assert len(repr(value)) < 100
    assert hash(value) == hash(pickles.loads(payload, DEFAULT_LIMITS))


def test_a_message_id_cannot_make_the_answer_long() -> None:
    """Every answer repeats the id, and the answer may be written to many a log."""
    codec = make_codec(Coding.PICKLE, SERVER_REQUESTS, DEFAULT_LIMITS)
    text = "x" * 300
    for msgid in (text, (text,), tuple(range(100)), text.encode(), ((1,),)):
        with pytest.raises(UndecodableMessage, match="message id"):
            codec.decode(pickles.dumps((msgid, False, "ping", ())))
    by_memo = (
        HEAD + b"((X\xc8\0\0\0" + b"x" * 200 + b"q\x00" + b"h\x00" * 9 + b"t\x89X\4\0\0\0ping)t."
    )
    with pytest.raises(UndecodableMessage, match="message id"):
        codec.decode(by_memo)
