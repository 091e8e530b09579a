"""Whose turn it is to commit, whatever interrupts it."""

from __future__ import annotations

import sys
import threading
from functools import partial
from typing import Any

import pytest
from ZODB.Connection import TransactionMetaData

from tests.support.interrupts import interrupted_at
from tests.support.waiting import Background, promptly, wait_until
from zeolith.client import committer as committer_module
from zeolith.client import turn as turn_module
from zeolith.client.committer import Committer
from zeolith.client.turn import Turns
from zeolith.protocol.messages import Request, TpcAbort, TpcBegin


def one() -> int:
    return 1


def test_one_after_the_other() -> None:
    turns: Turns[str] = Turns(one)
    assert turns.take("first") == 0
    assert turns.holders == ["first"]
    second = Background(lambda: turns.take("second"))
    wait_until(lambda: turns._waiting)
    turns.give_up("somebody else")
    assert turns.holders == ["first"]
    turns.give_up("first")
    with promptly(turn_module.RECHECK / 2):
        assert second.result() == 0
    assert turns.holders == ["second"]
    turns.give_up("second")
    assert turns.holders == []
    assert not turns._waiting


def test_some_at_once() -> None:
    turns: Turns[str] = Turns(lambda: 3)
    assert [turns.take(who) for who in ("first", "second", "third")] == [0, 1, 2]
    fourth = Background(lambda: turns.take("fourth"))
    wait_until(lambda: turns._waiting)
    turns.give_up("second")
    with promptly(turn_module.RECHECK / 2):
        assert fourth.result() == 1
    assert turns.holders == ["first", "third", "fourth"], "in the order in which they got it"


def test_two_that_end_at_once_wake_two() -> None:
    turns: Turns[str] = Turns(lambda: 2)
    for who in ("first", "second"):
        turns.take(who)
    waiting = [Background(partial(turns.take, who)) for who in ("third", "fourth")]
    wait_until(lambda: len(turns._waiting) == 2)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(60)  # nobody runs in between
    try:
        turns.give_up("first")
        turns.give_up("second")
    finally:
        sys.setswitchinterval(interval)
    with promptly(turn_module.RECHECK / 2):
        for thread in waiting:
            thread.result()


def test_fewer_than_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another server takes fewer at once, or more."""
    monkeypatch.setattr(turn_module, "RECHECK", 0.001)
    most = 3
    turns: Turns[str] = Turns(lambda: most)
    for who in ("first", "second", "third"):
        turns.take(who)
    most = 1
    fourth = Background(lambda: turns.take("fourth"))
    wait_until(lambda: turns._waiting)
    turns.give_up("third")
    assert turns.holders == ["first", "second"]
    turns.give_up("first")
    assert fourth.result() == 0
    fifth = Background(lambda: turns.take("fifth"))
    wait_until(lambda: turns._waiting)
    most = 5
    assert fifth.result() == 2


@pytest.mark.parametrize("most", [1, 3])
def test_each_of_many_gets_it(most: int) -> None:
    turns: Turns[object] = Turns(lambda: most)
    counts = [0] * most

    def work() -> None:
        for _ in range(200):
            me = object()
            number = turns.take(me)
            before = counts[number]
            assert me in turns.holders
            counts[number] = before + 1
            turns.give_up(me)

    threads = [Background(work) for _ in range(8)]
    for thread in threads:
        thread.result()
    assert sum(counts) == 1600
    assert not turns._waiting


@pytest.mark.parametrize("is_taken", [False, True])
def test_an_interrupt_at_any_step_leaves_it_free(
    is_taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turn_module, "RECHECK", 0.001)

    def use(turn: Turns[str]) -> None:
        try:
            turn.take("me")
        finally:
            turn.give_up("me")

    step, is_reached = 0, True
    while is_reached:
        step += 1
        turn: Turns[str] = Turns(one)
        over = threading.Event()

        def let_go(turn: Turns[str] = turn, over: threading.Event = over) -> None:
            wait_until(lambda: turn._waiting or over.is_set())
            turn.give_up("other")

        other = None
        if is_taken:
            turn.take("other")
            other = Background(let_go)
        is_reached = interrupted_at(step, partial(use, turn), [turn_module])
        # An interrupt in giving up is followed by the abort of the transaction.
        turn.give_up("me")
        over.set()
        if other is not None:
            other.result()
        assert turn.holders == [], step
        assert not turn._waiting, step
    assert step > 2


class Line:
    """A link and its channel, which notes what is posted."""

    is_read_only = False
    speaks_own = True
    transactions = 1

    def __init__(self) -> None:
        self.posted: list[Request] = []

    def channel(self) -> Line:
        return self

    def post(self, request: Request) -> None:
        self.posted.append(request)


def test_an_interrupted_begin_lets_others_commit() -> None:
    step, is_reached = 0, True
    nothing: Any = None
    while is_reached:
        step += 1
        line: Any = Line()
        committer = Committer(line, nothing, nothing, nothing, nothing)
        first, second = TransactionMetaData(), TransactionMetaData()
        begin = partial(committer.begin, first, None, " ")
        is_reached = interrupted_at(step, begin, [committer_module, turn_module])
        if not is_reached:
            break
        assert committer.txn is None, step
        with promptly(5):
            committer.begin(second, None, " ")
        assert committer.txn is second
        # The server never gets a second transaction before the end of the first.
        kinds = [type(request) for request in line.posted]
        begun = [number for number, kind in enumerate(kinds) if kind is TpcBegin]
        assert begun, step
        assert all(kinds[number - 1] is TpcAbort for number in begun[1:]), (step, kinds)
    assert step > 5


def test_another_server_that_takes_fewer_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the turn and the connection for it."""
    monkeypatch.setattr(turn_module, "RECHECK", 0.001)
    nothing: Any = None
    line: Any = Line()
    line.transactions = 2
    committer = Committer(line, nothing, nothing, nothing, nothing)
    first, second = TransactionMetaData(), TransactionMetaData()
    committer.begin(first, None, " ")

    def channel() -> Any:
        line.transactions = 1
        return line

    line.channel = channel
    beginning = Background(lambda: committer.begin(second, None, " "))
    wait_until(lambda: committer._turns._waiting)
    assert [type(request) for request in line.posted] == [TpcBegin]
    committer._turns.give_up(committer._turns.holders[0])
    beginning.result()
    assert committer.txn is second
