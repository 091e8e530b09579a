"""R8: how many connections there may be, and who makes room."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import pytest

from zeolith.server.crowd import PATIENCE, Crowd, Entry
from zeolith.server.limitedlog import LimitedLog
from zeolith.server.origins import UNIX
from zeolith.server.tally import Limit, Tally

MOST = 6
MOST_PER_ADDRESS = 4


class House:
    """A crowd, with a clock that stands still unless told to go on.

    :ivar evicted: names of those that had to make room, in order.
    """

    def __init__(self, log: LimitedLog) -> None:
        self.now = 100.0
        self.tally = Tally()
        self.evicted: list[str] = []
        self.crowd = Crowd(lambda: self.now, MOST, MOST_PER_ADDRESS, self.tally, log)

    def enter(self, source: str, name: str = "x") -> Entry | None:
        return self.crowd.enter(source, name, lambda: self.evicted.append(name))

    def admit(self, source: str, name: str = "x") -> Entry:
        entry = self.enter(source, name)
        assert entry is not None
        return entry

    def fill(self, source: str, count: int) -> list[Entry]:
        """Let registered clients in."""
        found = [self.admit(source) for _ in range(count)]
        for entry in found:
            entry.settle()
        return found


@pytest.fixture
def log() -> Iterator[LimitedLog]:
    loop = asyncio.new_event_loop()
    found = LimitedLog(loop, logging.getLogger("zeolith.tests"), "connections were turned away")
    yield found
    found.close()
    loop.close()


@pytest.fixture
def house(log: LimitedLog) -> House:
    return House(log)


def test_as_many_as_one_address_may_have(house: House, caplog: pytest.LogCaptureFixture) -> None:
    entries = house.fill("a", MOST_PER_ADDRESS)
    assert house.enter("a", "1.2.3.4:5") is None
    assert "(1.2.3.4:5) turned away: its address has 4 connections" in caplog.text
    house.admit("b")
    entries[0].leave()
    house.admit("a")
    assert house.tally[Limit.CONNECTIONS_PER_ADDRESS] == 1
    assert house.tally[Limit.CONNECTIONS] == 0


def test_as_many_as_there_may_be(house: House, caplog: pytest.LogCaptureFixture) -> None:
    entries = house.fill("a", 3) + house.fill("b", 3)
    assert house.crowd.count == MOST
    assert house.enter("c") is None
    assert f"there are {MOST} connections" in caplog.text
    entries[0].leave()
    house.admit("c")
    assert (house.tally[Limit.CONNECTIONS], house.tally[Limit.CONNECTIONS_PER_ADDRESS]) == (1, 0)


def test_unix_sockets_are_limited_in_all_only(house: House) -> None:
    house.fill(UNIX, MOST)
    assert house.enter(UNIX) is None
    assert house.tally[Limit.CONNECTIONS] == 1


def test_leaving_twice_is_leaving_once(house: House) -> None:
    entry = house.admit("a")
    entry.leave()
    entry.leave()
    assert house.crowd.count == 0
    house.fill("a", MOST_PER_ADDRESS)
    assert house.enter("a") is None


def test_who_waits_longest_makes_room(house: House, caplog: pytest.LogCaptureFixture) -> None:
    for name in "abcdef":
        house.admit(name, name)
        house.now += 0.1
    house.now += PATIENCE
    house.admit("z", "z")
    assert house.evicted == ["a"]
    assert "(a) connection closed: not registered for" in caplog.text
    assert house.crowd.count == MOST
    house.admit("z", "z")
    assert house.evicted == ["a", "b"]
    assert house.tally[Limit.CONNECTIONS] == 2


def test_only_after_its_time(house: House) -> None:
    for name in "abcdef":
        house.admit(name, name)
    house.now += PATIENCE - 0.01
    assert house.enter("z") is None
    assert house.evicted == []
    house.now += 0.01
    house.admit("z")
    assert house.evicted == ["a"]


def test_whoever_has_registered_stays(house: House) -> None:
    first, second = house.admit("a", "first"), house.admit("a", "second")
    house.fill("b", 4)
    first.settle()
    house.now += PATIENCE
    house.admit("c")
    assert house.evicted == ["second"]
    second.settle()  # too late, and no harm
    second.leave()
    assert house.crowd.count == MOST


def test_within_an_address_one_of_it_makes_room(house: House) -> None:
    house.admit("other", "other")
    house.fill("a", MOST_PER_ADDRESS - 1)
    house.admit("a", "mine")
    house.now += PATIENCE
    house.admit("a")
    assert house.evicted == ["mine"]
    assert house.tally[Limit.CONNECTIONS_PER_ADDRESS] == 1


def test_who_makes_room_may_be_the_last_of_its_address(house: House) -> None:
    house.admit("a", "mine")
    house.fill("b", 4)
    house.fill("c", 1)
    house.now += PATIENCE
    house.admit("a")
    assert house.evicted == ["mine"]
    house.fill("d", 0)
    assert house.enter("d") is None
