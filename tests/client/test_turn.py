"""Whose turn it is to commit, whatever interrupts it."""

from __future__ import annotations

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
from zeolith.client.turn import Turn
from zeolith.protocol.messages import Request, TpcAbort, TpcBegin


def test_one_after_the_other() -> None:
    turn: Turn[str] = Turn()
    turn.take("first")
    assert turn.holder == "first"
    second = Background(lambda: turn.take("second"))
    wait_until(lambda: turn._waiting)
    turn.give_up("somebody else")
    assert turn.holder == "first"
    turn.give_up("first")
    with promptly(turn_module.RECHECK / 2):
        second.result()
    assert turn.holder == "second"
    turn.give_up("second")
    assert turn.holder is None
    assert not turn._waiting


def test_each_of_many_gets_it() -> None:
    turn: Turn[object] = Turn()
    count = 0

    def work() -> None:
        nonlocal count
        for _ in range(200):
            me = object()
            turn.take(me)
            before = count
            assert turn.holder is me
            count = before + 1
            turn.give_up(me)

    threads = [Background(work) for _ in range(8)]
    for thread in threads:
        thread.result()
    assert count == 1600
    assert not turn._waiting


@pytest.mark.parametrize("is_taken", [False, True])
def test_an_interrupt_at_any_step_leaves_it_free(
    is_taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turn_module, "RECHECK", 0.001)

    def use(turn: Turn[str]) -> None:
        try:
            turn.take("me")
        finally:
            turn.give_up("me")

    step, is_reached = 0, True
    while is_reached:
        step += 1
        turn: Turn[str] = Turn()
        over = threading.Event()

        def let_go(turn: Turn[str] = turn, over: threading.Event = over) -> None:
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
        assert turn.holder is None, step
        assert not turn._waiting, step
    assert step > 2


class Line:
    """A link and its channel, which notes what is posted."""

    is_read_only = False
    speaks_own = True

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
