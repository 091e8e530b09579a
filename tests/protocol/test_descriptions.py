"""Messages as text: one short line each, and no data unless asked for."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.transcripts import read_transcript
from tests.support.wire_cases import ALL_CASES, Case, as_received, as_sent, name_of

from zeolith.errors import IllegalMessage
from zeolith.protocol import messages as m
from zeolith.protocol.descriptions import MAX_LINE, describe, kind_of
from zeolith.protocol.descriptions import name_of as method_of
from zeolith.protocol.inquiry import KickInquiry
from zeolith.protocol.loadrequests import LoadedMany, LoadMany
from zeolith.protocol.outcome import Outcome
from zeolith.protocol.peers import Inquired, Probe, Violated
from zeolith.protocol.transcript import Answered, Encrypted, Entry, TooLong, Transcript
from zeolith.types import MAX_TID

OID, TID, TID2 = b"\0" * 7 + b"\x2a", b"\0" * 7 + b"\3", b"\0" * 7 + b"\4"
KEY = (OID, MAX_TID)


def text_of(event: Any, asked: type[Any] | None = None, **options: Any) -> str:
    return describe(Entry(True, event, 100, asked), **options)


@pytest.mark.parametrize("with_data", [False, True])
@pytest.mark.parametrize("letter", [b"Z", b"M", b"O"])
@pytest.mark.parametrize("case", ALL_CASES, ids=name_of)
def test_every_message_is_one_short_line(case: Case, letter: bytes, with_data: bool) -> None:
    message = as_received(as_sent(case.message, letter), letter)
    text = text_of(message, with_data=with_data)
    assert text.isprintable()
    assert 0 < len(text) <= MAX_LINE
    if isinstance(message, m.Call | m.Notice):
        assert f"{case.wire[2]}(" in text


@pytest.mark.parametrize(
    ("event", "asked", "expected"),
    [
        (m.Call(KEY, m.LoadBefore(OID, TID)), None, "call loadBefore(oid=0x2a, tid=0x3)"),
        (m.Reply(KEY, (b"x" * 317, TID, None)), m.LoadBefore,
         "reply Loaded(oid=0x2a, tid=0x3, 317 bytes)"),
        (m.Reply((OID, TID2), (b"x", TID, TID2)), None,
         "reply Loaded(oid=0x2a, before=0x4, tid=0x3, end=0x4, 1 bytes)"),
        (m.Reply(KEY, None), None, "reply Loaded(oid=0x2a, nothing)"),
        (m.Reply(17, (b"abc", TID, None)), m.LoadBefore, "reply Loaded(17, tid=0x3, 3 bytes)"),
        (m.Call(3, m.Vote(9)), None, "call 3 vote(txn=9)"),
        (m.Reply(3, ()), m.Vote, "reply 3 vote: []"),
        (m.Reply(4, TID), m.TpcFinish, "reply 4 tpc_finish: 0x3"),
        (m.Reply(4, b"8 bytes!"), m.LoadSerial, "reply 4 loadSerial: 8 bytes"),
        (m.Reply(4, b"8 bytes!"), None, "reply 4 to no call: 8 bytes"),
        (m.Notice(m.TpcBegin(1, b"\xc3\xbc", b"", b"ab", TID)), None,
         ("notice tpc_begin(txn=1, user='ü', description='', extension=2 bytes, tid=0x3, "
          "status=' ')")),
        (m.Call(3, Outcome(bytes(15) + b"\xff", TID)), None, "call 3 outcome(uid=0xff, since=0x3)"),
        (m.Call(3, m.Pack(1.5, False)), None, "call 3 pack(time=1.5, wait=False)"),
        (m.Notice(m.InvalidateTransaction(TID, [TID] * 100)), None,
         "notice invalidateTransaction(tid=0x3, oids=[0x3, 0x3, 0x3, 0x3, 0x3, 0x3, … 94 more])"),
        (m.Notice(LoadMany(TID2, [OID, TID])), None, "notice load_many(tid=0x4, oids=[0x2a, 0x3])"),
        (m.Notice(LoadedMany(TID2, [(OID, TID, None, b"abc"), (TID, TID, TID2, b"")])), None,
         "notice loaded_many(tid=0x4, 0x2a: 3 bytes, 0x3: 0 bytes)"),
        (m.Notice(LoadedMany(TID2, [(OID, TID, None, b"")] * 8)), None,
         f"notice loaded_many(tid=0x4, {'0x2a: 0 bytes, ' * 6}… 2 more)"),
        (m.Fault(5, "builtins.KeyError", ("x\ny",)), m.History,
         "error 5 to history: builtins.KeyError ['x\\ny']"),
        (m.Heartbeat(), None, "heartbeat"),
        (Probe(), None, "inquiry ruok"),
        (Inquired(KickInquiry("app")), None,
         "inquiry KickInquiry(client='app')"),
        (Answered({"error": "no"}), None, "answer {'error': 'no'}"),
        (Encrypted(), None, "TLS: encrypted from here on, nothing can be shown"),
        (TooLong(None), None, "message that is too long to be shown"),
        (TooLong(0x21), None, "message that is too long to be shown, of kind 0x21"),
        (Violated(IllegalMessage("bad")), None, "violation by the client: bad"),
    ],
)  # fmt: skip
def test_texts(event: Any, asked: type[Any] | None, expected: str) -> None:
    assert text_of(event, asked) == expected


def test_the_side_that_broke_the_protocol_is_named() -> None:
    assert describe(Entry(False, Violated(IllegalMessage("x")), 4)) == "violation by the server: x"


SECRET = b"very secret content"


@pytest.mark.parametrize(
    "event",
    [
        m.Notice(m.Store(OID, TID, SECRET, 1)),
        m.Notice(m.Restore(OID, TID, SECRET, None, 1)),
        m.Notice(m.StoreBlobChunk(SECRET)),
        m.Notice(m.ReceiveBlobChunk(OID, TID, SECRET)),
        m.Notice(m.TpcBegin(1, b"", b"", SECRET, None, " ")),
        m.Notice(m.TpcBegin(1, b"", b"", {"k": SECRET}, None, " ")),
        m.Reply(KEY, (SECRET, TID, None)),
        m.Notice(LoadedMany(TID, [(OID, TID, None, SECRET)])),
        m.Reply(1, ({"oid": OID, "data": SECRET},)),
        m.Fault(1, "x", {"data": SECRET}),
    ],
)
def test_data_are_shown_only_on_request(event: Any) -> None:
    assert "secret" not in text_of(event)
    assert f"{len(SECRET)} bytes" in text_of(event)
    assert repr(SECRET) in text_of(event, with_data=True)


def test_of_much_data_the_beginning_is_shown() -> None:
    text = text_of(m.Notice(m.StoreBlobChunk(b"s" * 5_000)), with_data=True)
    assert text == f"notice storeBlobChunk(chunk=b'{'s' * 120}'… 5000 bytes)"


def test_what_a_peer_writes_cannot_feign_lines() -> None:
    text = text_of(m.Fault(1, "a\nb\x1b[2J", ()))
    assert text.isprintable()


@pytest.mark.parametrize(
    "value", ["x" * 9_999, 1 << 9_999, [[["x" * 100] * 9] * 9] * 9, {n: n for n in range(9_999)}]
)
def test_long_values_are_cut(value: Any) -> None:
    assert len(text_of(m.Reply(1, value))) <= MAX_LINE
    assert "…" in text_of(m.Reply(1, value))


def test_ids_are_recognised_by_what_the_protocol_demands_of_arguments() -> None:
    """An argument that has to be an id is shown as one, of whatever request, also of new ones."""
    for case in ALL_CASES:
        if not isinstance(case.message, m.Call | m.Notice):
            continue
        request: Any = case.message[-1]
        for name in ("oid", "tid", "serial"):
            value = getattr(request, name, None)
            if type(value) is bytes and len(value) == 8:
                shown = f"{name}={int.from_bytes(value, 'big'):#x}"
                assert shown in text_of(case.message), case


def test_kinds_and_methods() -> None:
    heard = Transcript()
    found = []
    for step in read_transcript("v1-session"):
        found += heard.feed(step.is_from_client, step.frame)
    assert [(kind_of(entry), method_of(entry)) for entry in found[:6]] == [
        ("greeting", "greeting"), ("hello", "hello"), ("call", "register"), ("hello", "hello"),
        ("reply", "register"), ("call", "get_info"),
    ]  # fmt: skip
    assert {kind_of(entry) for entry in found} == {
        "greeting", "hello", "call", "reply", "error", "notice", "heartbeat"
    }  # fmt: skip
    assert ("reply", "reply to no call") in {
        (kind_of(entry), method_of(entry)) for entry in [Entry(False, m.Reply(9, None), 9)]
    }
    loads = [entry for entry in found if method_of(entry) == "loadBefore"]
    assert [kind_of(entry) for entry in loads] == ["call", "reply"] * 3 + ["call", "error"]
    assert describe(found[0]) == "greeting M5, a Zeolith server; versions of its own protocol: 1"
    assert describe(found[1]).startswith(
        "hello Zeolith's own protocol (version=1, max_message=268435456, program='zeolith 0.1'"
    )
