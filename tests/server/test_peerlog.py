"""R8: no address can fill the log."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from zeolith.server import peerlog
from zeolith.server.peerlog import MOST_NOTES, PERIOD, PeerLines, PeerName, peer_logger
from zeolith.server.tally import Limit, Tally

MOST = 5
logger = peer_logger("zeolith.tests.peers")


class Clock:
    """Stands for a loop; time goes on when it is told to."""

    def __init__(self) -> None:
        self.timer: Callable[[], None] | None = None

    def call_later(self, delay: float, callback: Callable[[], None]) -> Any:
        assert self.timer is None
        assert delay == PERIOD
        self.timer = callback
        return SimpleNamespace(cancel=self.cancel)

    def cancel(self) -> None:
        self.timer = None

    def go_on(self) -> None:
        assert self.timer is not None
        callback, self.timer = self.timer, None
        callback()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tally() -> Tally:
    return Tally()


@pytest.fixture
def lines(clock: Clock, tally: Tally) -> Iterator[PeerLines]:
    found = PeerLines(clock, MOST, tally)  # type: ignore[arg-type]
    yield found
    found.close()
    assert clock.timer is None


def say(name: str, times: int, level: int = logging.WARNING) -> None:
    for _ in range(times):
        logger.log(level, "(%s) says it", name)


def test_a_flood_is_a_few_lines_and_a_number(
    clock: Clock, lines: PeerLines, tally: Tally, caplog: pytest.LogCaptureFixture
) -> None:
    name = PeerName("app 192.0.2.1:5", lines, "192.0.2.1")
    say(name, MOST)
    assert len(caplog.records) == MOST
    assert tally[Limit.LOG_LINES] == 0
    # Other ports and labels are the same address.
    say(name.replace_text("192.0.2.1:6"), 1000)
    assert len(caplog.records) == MOST
    assert tally[Limit.LOG_LINES] == 1000
    caplog.clear()
    clock.go_on()
    assert "(192.0.2.1) suppressed 1000 more lines" in caplog.text
    say(name, 1)
    assert len(caplog.records) == 2


def test_others_are_heard(lines: PeerLines, caplog: pytest.LogCaptureFixture) -> None:
    say(PeerName("x", lines, "192.0.2.1"), MOST + 1)
    caplog.clear()
    say(PeerName("y", lines, "192.0.2.2"), 1)
    say("no peer", 3)
    logger.warning("nobody")
    assert len(caplog.records) == 5


def test_what_is_critical_is_always_told(
    lines: PeerLines, caplog: pytest.LogCaptureFixture
) -> None:
    name = PeerName("x", lines, "192.0.2.1")
    say(name, MOST + 3)
    say(name, 2, logging.CRITICAL)
    assert len(caplog.records) == MOST + 2


def test_what_nobody_reads_is_not_counted(
    lines: PeerLines, tally: Tally, caplog: pytest.LogCaptureFixture
) -> None:
    name = PeerName("x", lines, "192.0.2.1")
    with caplog.at_level(logging.INFO, "zeolith.tests.peers"):
        say(name, 100, logging.DEBUG)
        say(name, MOST, logging.INFO)
    assert len(caplog.records) == MOST
    assert tally[Limit.LOG_LINES] == 0


def test_a_line_comes_from_where_it_is_written(
    lines: PeerLines, caplog: pytest.LogCaptureFixture
) -> None:
    say(PeerName("x", lines, "192.0.2.1"), 1)
    assert caplog.records[0].funcName == "say"
    logger.error("directly")
    assert caplog.records[1].filename == "test_peerlog.py"


def test_many_addresses_are_a_few_notes(
    clock: Clock, lines: PeerLines, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(MOST_NOTES + 3):
        say(PeerName("x", lines, f"192.0.2.{number}"), MOST + 2)
    caplog.clear()
    clock.go_on()
    assert len(caplog.records) == MOST_NOTES + 1
    assert "suppressed 6 more lines about other addresses" in caplog.text


def test_addresses_beyond_counting_share_a_count(
    lines: PeerLines, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peerlog, "MOST_ORIGINS", 3)
    for number in range(100):
        say(PeerName("x", lines, f"192.0.2.{number}"), 1)
    assert len(caplog.records) == 3 + MOST
    assert len(lines._counts) == 4
    caplog.clear()
    lines.close()
    assert f"(others) suppressed {100 - 3 - MOST} more lines" in caplog.text
    lines.close()
    assert len(caplog.records) == 1
