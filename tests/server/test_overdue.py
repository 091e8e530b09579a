"""R8: a transaction that its client does not bring to an end does not stay for ever."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from tests.support.raw import RawClient, oid_of
from tests.support.waiting import promptly
from ZODB.MappingStorage import MappingStorage

from zeolith.server.overdue import AGAIN, Overdue
from zeolith.server.tally import Limit, Tally
from zeolith.server.transactions import Stage

LONGEST = 60.0


class Scene:
    """Connections without sockets, and a clock."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timer: tuple[float, Callable[[], None]] | None = None
        self.connections: list[Any] = []
        self.dropped: list[str] = []
        self.tally = Tally()

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[[], None]) -> Any:
        assert self.timer is None
        self.timer = self.now + delay, callback
        return SimpleNamespace(cancel=self.cancel)

    def cancel(self) -> None:
        self.timer = None

    def go_to(self, when: float) -> None:
        """Let the time pass; the timer fires when it is due."""
        while self.timer is not None and self.timer[0] <= when:
            (self.now, callback), self.timer = self.timer, None
            callback()
        self.now = when

    def begin(self, stage: Stage = Stage.COLLECTING) -> Any:
        """Return a session that has just begun a transaction."""
        transaction = SimpleNamespace(began=self.now, stage=stage)
        session = SimpleNamespace(transactions={1: transaction})

        def drop(reason: str) -> None:
            self.dropped.append(reason)
            session.transactions = {}

        session.drop = drop
        self.connections.append(SimpleNamespace(session=session))
        return session


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.fixture
def overdue(scene: Scene) -> Overdue:
    return Overdue(scene, lambda: scene.connections, LONGEST, scene.tally)


@pytest.mark.parametrize("stage", [Stage.COLLECTING, Stage.VOTED])
def test_a_client_that_takes_too_long_is_dropped(
    scene: Scene, overdue: Overdue, stage: Stage
) -> None:
    scene.begin(stage)
    overdue.watch()
    scene.go_to(1000 + LONGEST - 0.01)
    assert scene.dropped == []
    scene.go_to(1000 + LONGEST)
    (reason,) = scene.dropped
    assert "began 60 s ago, takes longer than 60 s (max-transaction-duration)" in reason
    assert scene.tally[Limit.TRANSACTION_DURATION] == 1
    assert scene.timer is None


def test_each_has_its_own_time(scene: Scene, overdue: Overdue) -> None:
    scene.begin()
    overdue.watch()
    scene.go_to(1030)
    second = scene.begin()
    overdue.watch()
    scene.go_to(1000 + LONGEST)
    assert len(scene.dropped) == 1
    assert second.transactions
    scene.go_to(1030 + LONGEST)
    assert len(scene.dropped) == 2


def test_who_ends_in_time_stays(scene: Scene, overdue: Overdue) -> None:
    session = scene.begin()
    scene.connections.append(SimpleNamespace(session=None))
    overdue.watch()
    scene.go_to(1050)
    session.transactions = {2: SimpleNamespace(began=scene.now, stage=Stage.COLLECTING)}
    overdue.watch()
    scene.go_to(1000 + LONGEST)
    assert scene.dropped == []
    session.transactions = {}
    scene.go_to(2000)
    assert scene.dropped == []
    assert scene.timer is None


def test_the_time_of_each_of_several_of_one_client_counts(scene: Scene, overdue: Overdue) -> None:
    session = scene.begin(Stage.VOTING)
    overdue.watch()
    scene.go_to(1030)
    session.transactions[2] = SimpleNamespace(began=scene.now, stage=Stage.COLLECTING)
    scene.go_to(1000 + LONGEST)
    assert scene.dropped == []
    scene.go_to(1030 + LONGEST)
    (reason,) = scene.dropped
    assert "began 60 s ago" in reason


@pytest.mark.parametrize("stage", [Stage.VOTING, Stage.FINISHING, Stage.OVER])
def test_what_the_server_does_itself_is_not_ended(
    scene: Scene, overdue: Overdue, stage: Stage
) -> None:
    session = scene.begin(stage)
    overdue.watch()
    scene.go_to(1000 + LONGEST + 3 * AGAIN)
    assert scene.dropped == []
    # But then it is the client's turn again.
    session.transactions[1].stage = Stage.COLLECTING
    scene.go_to(1000 + LONGEST + 5 * AGAIN)
    assert len(scene.dropped) == 1


def test_without_a_limit_nobody_looks(scene: Scene) -> None:
    overdue = Overdue(scene, lambda: scene.connections, None, scene.tally)
    scene.begin()
    overdue.watch()
    assert scene.timer is None
    overdue.stop()


def test_looking_ends_with_the_server(scene: Scene, overdue: Overdue) -> None:
    overdue.watch()
    overdue.stop()
    assert scene.timer is None


@pytest.mark.parametrize("has_voted", [False, True])
def test_a_real_client(serve: Any, raw: Any, mapping: MappingStorage, has_voted: bool) -> None:
    """What it held is free, and others go on."""
    server = serve(mapping, max_transaction_duration=0.2)
    slow, other = raw(server.address), raw(server.address)
    slow.begin()
    slow.store(oid_of(1), b"x")
    if has_voted:
        slow.vote()
    with promptly(10):
        slow.wait_closed()
    with promptly(10):
        other.commit({oid_of(2): (bytes(8), b"y")})
    with RawClient(server.address) as again:
        again.ping()
