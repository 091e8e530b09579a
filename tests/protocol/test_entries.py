"""The entries of an iteration."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeolith.errors import UndecodableMessage
from zeolith.protocol import msgpacks
from zeolith.protocol.entries import CLOSE, Entry, EntryReader, Header, Record, serialize_entry
from zeolith.protocol.limits import DEFAULT_LIMITS, Limits

OID, TID = b"\0" * 7 + b"\x2a", b"\3" * 8
HEADER = Header(TID, " ", b"user", b"about", b"\x80\x03}q\0.")
ENTRIES: list[Entry] = [
    HEADER,
    Record(OID, TID, b"data", None),
    Record(OID, TID, None, TID),
    Record(OID, TID, b"x" * 100_000, None),
    CLOSE,
    HEADER._replace(status="p", user=b"", extension=b""),
    CLOSE,
]


def read_all(reader: EntryReader) -> list[Entry]:
    found = []
    while (entry := reader.next()) is not None:
        found.append(entry)
    return found


@given(st.lists(st.integers(1, 60_000), min_size=1))
def test_entries_cut_anywhere(sizes: list[int]) -> None:
    data = b"".join(map(serialize_entry, ENTRIES))
    reader = EntryReader(DEFAULT_LIMITS)
    found = []
    at = turn = 0
    while at < len(data):
        size = sizes[turn % len(sizes)] if len(data) < sum(sizes) * 50 else 5_000
        reader.feed(data[at : at + size])
        at += size
        turn += 1
        found += read_all(reader)
    assert found == ENTRIES
    reader.check_end()


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_an_end_within_a_transaction(count: int) -> None:
    reader = EntryReader(DEFAULT_LIMITS)
    reader.feed(b"".join(map(serialize_entry, ENTRIES[:count])))
    read_all(reader)
    with pytest.raises(UndecodableMessage, match="within a transaction"):
        reader.check_end()


def test_an_end_within_an_entry() -> None:
    reader = EntryReader(DEFAULT_LIMITS)
    reader.feed(b"\0\0")
    assert reader.next() is None
    with pytest.raises(UndecodableMessage, match="within a transaction"):
        reader.check_end()


def test_r8_a_length_is_checked_before_anything_is_kept_for_it() -> None:
    reader = EntryReader(Limits(max_message_size=1000))
    reader.feed((1001).to_bytes(4, "big"))
    with pytest.raises(UndecodableMessage, match="1001 bytes; the limit is 1000"):
        reader.next()


@pytest.mark.parametrize("entries", [[CLOSE], [ENTRIES[1]], [HEADER, HEADER]])
def test_entries_in_the_wrong_place(entries: list[Entry]) -> None:
    reader = EntryReader(DEFAULT_LIMITS)
    reader.feed(b"".join(map(serialize_entry, entries)))
    with pytest.raises(UndecodableMessage, match="not where"):
        read_all(reader)


@pytest.mark.parametrize(
    "value",
    [
        1, "x", {}, (1,), (1, 2, 3, 4), (OID, TID, "text", None), (OID, TID, b"", b"short"),
        (b"short", TID, b"", None), (OID, TID, b"", None, 1, 2),
        (TID, b" ", b"", b"", b""), (TID, " ", 1, b"", b""), (TID, " ", b"", b"", {}),
        (b"short", " ", b"", b"", b""),
    ],
)  # fmt: skip
def test_what_is_no_entry(value: object) -> None:
    body = msgpacks.dumps(value)
    reader = EntryReader(DEFAULT_LIMITS)
    reader.feed(len(body).to_bytes(4, "big") + body)
    with pytest.raises(UndecodableMessage, match="no transaction, record or end"):
        reader.next()
    reader = EntryReader(DEFAULT_LIMITS)
    reader.feed(b"\0\0\0\1\xc1")
    with pytest.raises(UndecodableMessage):
        reader.next()
