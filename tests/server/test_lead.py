"""At most one client of a storage leads."""

from __future__ import annotations

from typing import Any

import pytest
from tests.server.conftest import Connect, Serve
from tests.support.raw import Z64, oid_of
from tests.support.waiting import wait_until
from ZODB.MappingStorage import MappingStorage

from zeolith.protocol import messages as m
from zeolith.protocol.greeting import Coding
from zeolith.protocol.lead import GiveLead, TakeLead
from zeolith.server.lead import LONGEST_LEAD, Lead


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_one_at_a_time(serve: Serve, raw: Connect, loop: str) -> None:
    server = serve(MappingStorage(), loop=loop)
    first, second = (raw(server.address, coding=Coding.OWN) for _ in range(2))
    assert first.call(TakeLead()) is True
    assert first.call(TakeLead()) is True
    assert second.call(TakeLead()) is False
    assert second.call(GiveLead()) is None  # who does not lead has nothing to give
    assert second.call(TakeLead()) is False
    assert first.call(GiveLead()) is None
    assert second.call(TakeLead()) is True
    assert first.call(TakeLead()) is False


def test_the_lead_ends_with_the_connection(serve: Serve, raw: Connect) -> None:
    server = serve(MappingStorage())
    first, second = (raw(server.address, coding=Coding.OWN) for _ in range(2))
    assert first.call(TakeLead()) is True
    assert second.call(TakeLead()) is False
    first.close()
    wait_until(lambda: second.call(TakeLead()), "the lead is free")


def test_each_storage_has_its_own(serve: Serve, raw: Connect) -> None:
    server = serve({"1": MappingStorage(), "2": MappingStorage()})
    first, second = (raw(server.address, name, coding=Coding.OWN) for name in ("1", "2"))
    assert first.call(TakeLead()) is True
    assert second.call(TakeLead()) is True


def test_r1_what_the_last_leader_committed_is_announced_before(serve: Serve, raw: Connect) -> None:
    server = serve(MappingStorage())
    first, second = (raw(server.address, coding=Coding.OWN) for _ in range(2))
    assert first.call(TakeLead()) is True
    first.send(
        m.TpcBegin(1, b"", b"", b"", None, " ", b"u" * 16),
        m.Store(oid_of(1), Z64, b"x", 1),
    )
    first.vote()
    tid = first.finish()
    first.call(GiveLead())
    assert second.call(TakeLead()) is True
    assert second.invalidations() == [(tid, [oid_of(1)])]


def test_zeos_protocol_does_not_have_it() -> None:
    from zeolith.protocol.additions import requests_to_server

    for coding in (Coding.PICKLE, Coding.MSGPACK):
        assert not {"take_lead", "give_lead"} & set(requests_to_server(coding))
    assert {"take_lead", "give_lead"} <= set(requests_to_server(Coding.OWN))


class Leader:
    """As much of a session as is looked at."""

    def __init__(self, name: str) -> None:
        self.name = name


def test_r7_one_that_hangs_does_not_lead_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    lead = Lead()
    first: Any = Leader("first")
    second: Any = Leader("second")
    assert lead.take(first, 1000.0)
    assert not lead.take(second, 1000.0 + LONGEST_LEAD)
    # That it asks once more gives it no more time.
    assert lead.take(first, 1000.5 + LONGEST_LEAD)
    assert lead.take(second, 1001.0 + LONGEST_LEAD)
    assert "(first) has led for 600 s" in caplog.text
    assert not lead.take(first, 1002.0 + LONGEST_LEAD)
    lead.give(first)
    assert not lead.take(first, 1003.0 + LONGEST_LEAD)
    lead.give(second)
    assert lead.take(first, 1004.0 + LONGEST_LEAD)
