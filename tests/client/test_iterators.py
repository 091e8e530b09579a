"""Iterators as ZEO's servers have them live and die with their connection."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from tests.support.raw import FakeServer, oid_of
from tests.support.waiting import Background, wait_until
from zeolith.errors import ClientDisconnected
from zeolith.protocol.messages import (
    IteratorGc,
    IteratorNext,
    IteratorRecordNext,
    IteratorRecordStart,
    IteratorStart,
    Notice,
)

from .conftest import Attach
from .scripted import tid

OID = oid_of(1)


def start(storage: Any, server: Any, iid: int) -> Any:
    starting = Background(storage.iterator)
    server.reply(server.expect(IteratorStart), iid)
    return starting.result()


def fetch(iterator: Any, server: Any, iid: int, *values: Any) -> Any:
    fetching = Background(lambda: next(iterator, None))
    call = server.expect(IteratorNext)
    assert call.request.iid == iid
    server.reply(call, *values)
    return fetching.result()


def test_transactions_and_their_records(attach: Attach) -> None:
    storage, server = attach(is_zeo=True)
    iterator = start(storage, server, 5)
    found = fetch(iterator, server, 5, (tid(2), " ", b"joe", b"text", {"k": 1}))
    assert (found.tid, found.user, found.description, found.extension) == (
        tid(2),
        b"joe",
        b"text",
        {"k": 1},
    )
    reading = Background(lambda: list(found))
    started = server.expect(IteratorRecordStart)
    assert started.request == (5, tid(2))
    server.reply(started, 6)
    server.reply(server.expect(IteratorRecordNext), (OID, tid(2), b"data", None))
    server.reply(server.expect(IteratorRecordNext), None)
    records: Any = reading.result()
    (record,) = records
    assert (record.oid, record.tid, record.data) == (OID, tid(2), b"data")
    assert fetch(iterator, server, 5, None) is None
    # It has ended: the server is not asked again.
    assert next(iterator, None) is None


def test_an_iterator_begun_without_a_server_belongs_to_the_next_one(
    fake: FakeServer, attach: Attach
) -> None:
    storage, server = attach(is_zeo=True)
    server.close()
    wait_until(lambda: not storage.is_connected())
    starting = Background(storage.iterator)
    again = fake.accept()
    again.admit(tid(1), is_zeo=True)
    again.reply(again.expect(IteratorStart), 5)
    assert fetch(starting.result(), again, 5, None) is None


def test_an_iterator_is_never_used_on_another_connection(fake: FakeServer, attach: Attach) -> None:
    storage, server = attach(is_zeo=True)
    iterator = start(storage, server, 5)
    found = fetch(iterator, server, 5, (tid(2), " ", b"", b"", {}))
    server.close()
    again = fake.accept()
    again.admit(tid(1), is_zeo=True)
    wait_until(storage.is_connected)
    for use in (lambda: next(iterator), lambda: iter(found)):
        with pytest.raises(ClientDisconnected):
            Background(use).result(10)


def test_abandoned_iterators_are_given_back_with_the_next_one(
    fake: FakeServer, attach: Attach
) -> None:
    storage, server = attach(is_zeo=True)
    abandoned = [start(storage, server, iid) for iid in (5, 6)]
    abandoned.clear()
    gc.collect()
    starting = Background(storage.iterator)
    notice = server.next()
    assert isinstance(notice, Notice)
    assert [sorted(ids) for ids in notice.request] == [[5, 6]]
    assert isinstance(notice.request, IteratorGc)
    server.reply(server.expect(IteratorStart), 7)
    abandoned.append(starting.result())
    # What one connection knows means nothing to the next one.
    server.close()
    again = fake.accept()
    again.admit(tid(1), is_zeo=True)
    wait_until(storage.is_connected)
    abandoned.clear()
    gc.collect()
    assert fetch(start(storage, again, 7), again, 7, None) is None
