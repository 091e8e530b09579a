"""The return of a storage that failed, with a clock and a loop that the test plays."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from tests.support.storages import Gate
from tests.support.waiting import DEADLINE, promptly, wait_until

from zeolith.server import recovery
from zeolith.server.inbox import Inbox
from zeolith.server.recovery import Recovery


def full() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def tid_of(number: int) -> bytes:
    return number.to_bytes(8, "big")


class Timers:
    """The time is what the test says."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waiting: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[[], None]) -> Any:
        timer = (delay, callback)
        self.waiting.append(timer)
        return SimpleNamespace(cancel=lambda: self.waiting.remove(timer))


class Service:
    """What a recovery sees of a storage service."""

    def __init__(self, tid: bytes = tid_of(5)) -> None:
        self.start_tid = tid
        self.log = SimpleNamespace(last_tid=tid)
        self.calls: list[str] = []

    def release(self) -> None:
        self.calls.append("release")

    def close(self, timeout: float) -> bool:
        self.calls.append("close")
        return True


class Bed:
    """A recovery whose attempts bring what is in :attr:`openings`."""

    def __init__(self, knows_how: bool = True) -> None:
        self.clock = Timers()
        self.inbox = Inbox()
        self.openings: list[Any] = []
        self.before_opening: Callable[[], object] = lambda: None
        self.returned: list[Any] = []
        self.given_up: list[str] = []
        reopen: Any = self._reopen if knows_how else None
        self.recovery = Recovery(
            "main",
            reopen,
            self.clock,
            self.inbox,
            self.returned.append,
            self.given_up.append,
        )

    def _reopen(self) -> Any:
        self.before_opening()
        result = self.openings.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    def fail(self, service: Service | None = None) -> Service:
        """Have a storage fail; return its service when that is closed."""
        service = service or Service()
        self.recovery.begin(service)  # type: ignore[arg-type]
        self.until(lambda: service.calls and self.clock.waiting)
        assert service.calls == ["release"]
        return service

    def until(self, condition: Callable[[], object]) -> None:
        """Deliver what the thread posts until *condition* is true."""

        def met() -> bool:
            self.inbox.deliver()
            return bool(condition())

        wait_until(met)

    def has_opened(self) -> bool:
        """Whether a storage is open that the loop does not know of yet."""
        return self.recovery._fresh is not None

    def is_idle(self) -> bool:
        """Whether the thread has nothing to do, and has posted all it had to say."""
        return self.recovery._worker.is_idle

    def elapse(self) -> float:
        """Let the time pass until the timer; return how long that was."""
        ((delay, callback),) = self.clock.waiting
        self.clock.waiting.clear()
        self.clock.now += delay
        callback()
        return delay


@pytest.fixture
def bed() -> Iterator[Bed]:
    found = Bed()
    yield found
    found.recovery.close(DEADLINE)


def test_the_delay_doubles_while_a_storage_cannot_be_opened(
    bed: Bed, caplog: pytest.LogCaptureFixture
) -> None:
    back = Service()
    bed.openings += [full()] * 6 + [back]
    bed.fail()
    delays = []
    while not bed.returned:
        delays.append(bed.elapse())
        bed.until(lambda: bed.returned or bed.clock.waiting)
    assert delays == [1, 2, 4, 8, 16, 30, 30]
    assert bed.returned == [back]
    assert bed.given_up == []
    assert caplog.text.count(f"storage 'main' cannot be opened: {full()}") == 6
    assert (
        f"in service again after 91.0 s; its last transaction is {tid_of(5).hex()}" in caplog.text
    )


@pytest.mark.parametrize(("seconds", "delay"), [(10, 2), (recovery.STEADY, 1)])
def test_a_storage_that_fails_again_soon_has_to_wait_longer(
    bed: Bed, seconds: float, delay: float
) -> None:
    bed.openings += [Service()]
    bed.fail()
    assert bed.elapse() == 1
    bed.until(lambda: bed.returned)
    bed.clock.now += seconds
    bed.fail()
    assert bed.elapse() == delay
    bed.openings += [Service()]
    bed.until(lambda: len(bed.returned) == 2)


def test_r4_a_storage_that_lost_what_was_announced_does_not_return(bed: Bed) -> None:
    short = Service(tid_of(4))
    bed.openings += [short]
    bed.fail(Service(tid_of(5)))
    bed.elapse()
    bed.until(lambda: bed.given_up)
    assert short.calls == ["close"]
    assert bed.returned == []
    assert bed.clock.waiting == []
    for tid in (tid_of(4), tid_of(5)):
        assert tid.hex() in bed.given_up[0]


def test_a_storage_that_kept_the_transaction_nobody_was_told_of_returns(bed: Bed) -> None:
    longer = Service(tid_of(6))
    bed.openings += [longer]
    bed.fail(Service(tid_of(5)))
    bed.elapse()
    bed.until(lambda: bed.returned)
    assert bed.returned == [longer]


def test_nobody_knows_how_to_open_it() -> None:
    bed = Bed(knows_how=False)
    service = Service()
    bed.recovery.begin(service)  # type: ignore[arg-type]
    assert len(bed.given_up) == 1
    wait_until(lambda: service.calls == ["release"])
    bed.recovery.close(DEADLINE)
    bed.inbox.deliver()
    assert bed.clock.waiting == []
    assert service.calls == ["release"]


def test_the_server_ends_before_the_next_attempt(bed: Bed) -> None:
    bed.fail()
    bed.recovery.stop()
    assert bed.clock.waiting == []


def test_the_server_ends_before_the_storage_is_closed(bed: Bed) -> None:
    """Whether its thread has begun or not: it is closed, once."""
    service = Service()
    bed.recovery.begin(service)  # type: ignore[arg-type]
    bed.recovery.stop()
    bed.recovery.close(DEADLINE)
    assert service.calls == ["release"]


def test_the_server_ends_while_the_storage_is_being_closed(bed: Bed) -> None:
    """The news of it comes when there is no time for another attempt."""
    service = Service()
    bed.recovery.begin(service)  # type: ignore[arg-type]
    bed.recovery.stop()
    wait_until(lambda: service.calls and bed.is_idle())
    bed.inbox.deliver()
    assert bed.clock.waiting == []


def test_the_server_ends_when_the_storage_has_just_been_opened(bed: Bed) -> None:
    back = Service()
    bed.openings += [back]
    bed.fail()
    bed.elapse()
    wait_until(lambda: bed.has_opened())
    bed.recovery.stop()
    bed.inbox.deliver()
    bed.recovery.close(DEADLINE)
    assert bed.returned == []
    assert back.calls == ["close"]


def test_the_server_ends_while_the_storage_is_being_opened(
    bed: Bed, caplog: pytest.LogCaptureFixture
) -> None:
    back = Service()
    bed.openings += [back]
    with Gate() as opening:
        bed.before_opening = opening
        bed.fail()
        bed.elapse()
        opening.wait_reached()
        bed.recovery.stop()
        with promptly():
            bed.recovery.close(0.01)
        assert "still being closed or opened" in caplog.text
        assert back.calls == []
        opening.open()
    wait_until(lambda: back.calls == ["close"])
    assert bed.returned == []
