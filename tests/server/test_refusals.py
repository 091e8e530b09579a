"""R8: whoever is refused cannot fill the log."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from zeolith.server.limitedlog import MOST_LINES, PERIOD
from zeolith.server.refusals import Refusals


class Clock:
    """Stands for a loop; time goes on when it is told to."""

    def __init__(self) -> None:
        self.timer: tuple[float, Callable[[], None]] | None = None

    def call_later(self, delay: float, callback: Callable[[], None]) -> Any:
        assert self.timer is None
        self.timer = delay, callback
        return SimpleNamespace(cancel=self.cancel)

    def cancel(self) -> None:
        self.timer = None

    def go_on(self) -> None:
        assert self.timer is not None
        (delay, callback), self.timer = self.timer, None
        assert delay == PERIOD
        callback()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def refusals(clock: Clock) -> Iterator[Refusals]:
    found = Refusals(clock)  # type: ignore[arg-type]
    yield found
    found.close()
    assert clock.timer is None


def refuse(refusals: Refusals, times: int) -> None:
    for number in range(times):
        refusals.note(("10.0.0.1", number), ssl.SSLError(1, "bad"))


def test_a_flood_is_a_few_lines_and_a_number(
    clock: Clock, refusals: Refusals, caplog: pytest.LogCaptureFixture
) -> None:
    refuse(refusals, 1000)
    assert len(caplog.records) == MOST_LINES
    clock.go_on()
    assert len(caplog.records) == MOST_LINES + 1
    assert f"{1000 - MOST_LINES} more TLS handshakes failed" in caplog.records[-1].getMessage()
    # And the next ones are told again.
    caplog.clear()
    refuse(refusals, 1)
    assert len(caplog.records) == 1


def test_a_few_are_told_without_a_number(
    clock: Clock, refusals: Refusals, caplog: pytest.LogCaptureFixture
) -> None:
    refuse(refusals, MOST_LINES)
    clock.go_on()
    assert len(caplog.records) == MOST_LINES


def test_what_was_left_out_is_told_at_the_end(
    refusals: Refusals, caplog: pytest.LogCaptureFixture
) -> None:
    refuse(refusals, MOST_LINES + 2)
    refusals.close()
    assert "2 more" in caplog.records[-1].getMessage()
    refusals.close()
    assert len(caplog.records) == MOST_LINES + 1


@pytest.mark.parametrize(
    ("peername", "label"),
    [(("10.0.0.1", 5), "(10.0.0.1:5)"), (("::1", 5, 0, 0), "([::1]:5)"), ("", "(unix client)")],
)
def test_peers_are_named(
    refusals: Refusals, peername: Any, label: str, caplog: pytest.LogCaptureFixture
) -> None:
    refusals.note(peername, ConnectionAbortedError("too slow"))
    assert caplog.records[0].getMessage() == f"{label} no TLS connection: too slow"
