"""The commit queue: every phase with every input, and the order of those who wait."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeolith.server.commit import STEPS, Action, CommitQueue, Deed, IllegalStep, Input, Phase

TIMEOUT = 30.0

# How a ticket gets into each phase.
WAYS: dict[Phase, list[Input]] = {
    Phase.VOTING: [],
    Phase.DOOMED: [Input.ABORT],
    Phase.VOTED: [Input.ACCEPTED],
    Phase.FINISHING: [Input.ACCEPTED, Input.FINISH],
    Phase.ABORTING: [Input.ACCEPTED, Input.ABORT],
}


def queue_with(ticket: str, phase: Phase) -> CommitQueue[str]:
    """Return a queue in which *ticket* is in *phase* and another one waits behind it."""
    queue: CommitQueue[str] = CommitQueue(TIMEOUT)
    if phase is Phase.WAITING:
        queue.vote("holder")
        queue.vote(ticket)
    else:
        queue.vote(ticket)
        for what in WAYS[phase]:
            queue.step(ticket, what, 0.0)
    queue.vote("next")
    assert queue.phase(ticket) is phase
    return queue


# (phase, input) → the next phase and what the storage is told, the next vote included.
EXPECTED: dict[tuple[Phase, Input], tuple[Phase | None, Action[str] | None]] = {
    (Phase.WAITING, Input.ABORT): (None, None),
    (Phase.VOTING, Input.ACCEPTED): (Phase.VOTED, None),
    (Phase.VOTING, Input.REFUSED): (None, Action(Deed.VOTE, "next")),
    (Phase.VOTING, Input.ABORT): (Phase.DOOMED, None),
    (Phase.DOOMED, Input.ACCEPTED): (Phase.ABORTING, Action(Deed.ABORT, "it")),
    (Phase.DOOMED, Input.REFUSED): (None, Action(Deed.VOTE, "next")),
    (Phase.DOOMED, Input.ABORT): (Phase.DOOMED, None),
    (Phase.VOTED, Input.FINISH): (Phase.FINISHING, Action(Deed.FINISH, "it")),
    (Phase.VOTED, Input.ABORT): (Phase.ABORTING, Action(Deed.ABORT, "it")),
    (Phase.VOTED, Input.EXPIRE): (Phase.ABORTING, Action(Deed.ABORT, "it")),
    (Phase.FINISHING, Input.ABORT): (Phase.FINISHING, None),
    (Phase.FINISHING, Input.DONE): (None, Action(Deed.VOTE, "next")),
    (Phase.ABORTING, Input.ABORT): (Phase.ABORTING, None),
    (Phase.ABORTING, Input.DONE): (None, Action(Deed.VOTE, "next")),
}


@pytest.mark.parametrize("what", list(Input))
@pytest.mark.parametrize("phase", list(Phase))
def test_every_pair(phase: Phase, what: Input) -> None:
    queue = queue_with("it", phase)
    before = (queue.holder, queue.waiting, queue.deadline)
    if (phase, what) in EXPECTED:
        successor, action = EXPECTED[phase, what]
        assert queue.step("it", what, 1.0) == action
        assert queue.phase("it") is successor
    else:
        with pytest.raises(IllegalStep) as caught:
            queue.step("it", what, 1.0)
        assert (caught.value.phase, caught.value.what) == (phase, what)
        assert what.value in str(caught.value)
        assert phase.value in str(caught.value)
        assert queue.phase("it") is phase
        assert (queue.holder, queue.waiting, queue.deadline) == before


def test_the_table_is_the_one_tested() -> None:
    assert set(STEPS) == set(EXPECTED)


@pytest.mark.parametrize("what", list(Input))
def test_unknown_tickets(what: Input) -> None:
    queue: CommitQueue[str] = CommitQueue(TIMEOUT)
    with pytest.raises(IllegalStep, match="unknown"):
        queue.step("nobody", what, 0.0)


@pytest.mark.parametrize("phase", list(Phase))
def test_voting_twice(phase: Phase) -> None:
    queue = queue_with("it", phase)
    with pytest.raises(IllegalStep, match=f"vote is not legal while {phase.value}"):
        queue.vote("it")


def test_first_come_first_served() -> None:
    queue: CommitQueue[int] = CommitQueue(TIMEOUT)
    assert queue.vote(1) == Action(Deed.VOTE, 1)
    assert [queue.vote(number) for number in (2, 3, 4)] == [None, None, None]
    assert (queue.holder, queue.waiting) == (1, 3)
    queue.step(3, Input.ABORT, 0.0)
    order = [1]
    while queue.holder is not None:
        action = queue.step(queue.holder, Input.REFUSED, 0.0)
        if action is not None:
            assert action.deed is Deed.VOTE
            order.append(action.ticket)
    assert order == [1, 2, 4]
    assert queue.waiting == 0


def test_the_lock_is_free_only_after_the_abort_is_done() -> None:
    queue = queue_with("it", Phase.VOTED)
    queue.step("it", Input.ABORT, 0.0)
    assert queue.holder == "it"
    assert queue.phase("next") is Phase.WAITING
    assert queue.step("it", Input.DONE, 0.0) == Action(Deed.VOTE, "next")


def test_the_deadline_counts_from_the_vote() -> None:
    queue: CommitQueue[str] = CommitQueue(TIMEOUT)
    queue.vote("it")
    assert queue.deadline is None
    assert queue.expire(1000.0) is None
    queue.step("it", Input.ACCEPTED, 1000.0)
    assert queue.deadline == 1000.0 + TIMEOUT
    assert queue.expire(1000.0 + TIMEOUT - 0.1) is None
    assert queue.expire(1000.0 + TIMEOUT) == Action(Deed.ABORT, "it")
    assert queue.deadline is None
    assert queue.expire(9999.0) is None


@pytest.mark.parametrize("what", [Input.FINISH, Input.ABORT])
def test_no_deadline_after_the_decision(what: Input) -> None:
    queue = queue_with("it", Phase.VOTED)
    queue.step("it", what, 0.0)
    assert queue.deadline is None


def test_no_timeout_no_deadline() -> None:
    queue: CommitQueue[str] = CommitQueue(None)
    queue.vote("it")
    queue.step("it", Input.ACCEPTED, 0.0)
    assert queue.deadline is None
    assert queue.expire(1e9) is None


def test_a_timeout_of_zero_is_a_timeout() -> None:
    queue: CommitQueue[str] = CommitQueue(0.0)
    queue.vote("it")
    queue.step("it", Input.ACCEPTED, 5.0)
    assert queue.expire(5.0) == Action(Deed.ABORT, "it")


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from([None, *Input])), max_size=60))
def test_whatever_happens_one_ticket_holds_the_lock(
    events: list[tuple[int, Input | None]],
) -> None:
    """R7: exclusive, and whoever waits is next when the holder has gone."""
    queue: CommitQueue[int] = CommitQueue(TIMEOUT)
    for now, (ticket, what) in enumerate(events):
        try:
            action = queue.vote(ticket) if what is None else queue.step(ticket, what, now)
        except IllegalStep:
            continue
        if action is not None:
            assert action.ticket == queue.holder
        phases = [queue.phase(number) for number in range(5)]
        holding = [phase for phase in phases if phase not in (None, Phase.WAITING)]
        assert len(holding) == (queue.holder is not None)
        assert queue.waiting == phases.count(Phase.WAITING)
        assert (queue.deadline is not None) == (Phase.VOTED in phases)
