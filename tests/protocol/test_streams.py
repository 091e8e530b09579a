"""Streams: two halves back to back, and what each may see."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from zeolith.errors import IllegalMessage, StreamViolation
from zeolith.protocol.limits import (
    FIRST_UPLOAD,
    MAX_STREAM_CREDIT,
    MAX_STREAM_NUMBER,
    STREAM_FRAME,
    STREAM_WINDOW,
)
from zeolith.protocol.streams import RECEIVER, SENDER, Receiver, Sender, State, Step, following

SENDER_STEPS: dict[Step, Callable[[Sender], None]] = {
    Step.DATA: lambda half: half.sent(1),
    Step.END: Sender.end,
    Step.CREDIT: lambda half: half.granted(1),
    Step.CANCEL: Sender.cancelled,
}
RECEIVER_STEPS: dict[Step, Callable[[Receiver], None]] = {
    Step.DATA: lambda half: half.received(1),
    Step.END: Receiver.end,
    Step.CREDIT: lambda half: half.grant(1),
    Step.CANCEL: Receiver.cancel,
}


def in_state(half: Any, state: State) -> Any:
    if state is State.CANCELLED:
        (half.cancelled if isinstance(half, Sender) else half.cancel)()
    elif state is State.ENDED:
        half.end()
    assert half.state is state
    return half


@pytest.mark.parametrize("step", Step)
@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize(
    ("make", "table", "steps"),
    [
        (lambda: Sender(7, 100), SENDER, SENDER_STEPS),
        (lambda: Receiver(7, 100), RECEIVER, RECEIVER_STEPS),
    ],
    ids=["sender", "receiver"],
)
def test_every_pair_of_state_and_step(
    make: Callable[[], Any], table: Any, steps: Any, state: State, step: Step
) -> None:
    half = in_state(make(), state)
    following_state = table.get((state, step))
    if following_state is None:
        with pytest.raises(StreamViolation, match=rf"stream 7: {step.value} while .*{state.value}"):
            steps[step](half)
        assert half.state is state
    else:
        steps[step](half)
        assert half.state is following_state


def test_the_tables_say_this() -> None:
    """A change of the tables is a change of the protocol."""
    assert set(SENDER) == {
        *((State.OPEN, step) for step in Step),
        (State.CANCELLED, Step.END),
        (State.ENDED, Step.CREDIT),
        (State.ENDED, Step.CANCEL),
    }
    assert set(RECEIVER) == {
        *((State.OPEN, step) for step in Step),
        (State.CANCELLED, Step.DATA),
        (State.CANCELLED, Step.END),
    }


def test_the_document_has_the_tables() -> None:
    text = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
    order = [Step.DATA, Step.END, Step.CREDIT, Step.CANCEL]
    for role, table in (("sender", SENDER), ("receiver", RECEIVER)):
        rows = text.partition(f"\n| the {role} is | ")[2].splitlines()[2:5]
        found = {}
        for row in rows:
            state, *cells = [cell.strip() for cell in row.strip("|").split("|")]
            for step, cell in zip(order, cells, strict=True):
                if cell:
                    found[State(state), step] = State(cell)
        assert found == table


def test_credit_is_used_up() -> None:
    sender = Sender(1, 10)
    assert sender.sendable(100) == 10
    assert sender.sendable(3) == 3
    assert sender.sendable(100, frame=4) == 4
    sender.sent(10)
    assert sender.sendable(100) == 0
    with pytest.raises(StreamViolation, match="1 bytes with a credit of 0"):
        sender.sent(1)
    sender.granted(5)
    assert (sender.sendable(100), sender.offset) == (5, 10)
    sender.cancelled()
    assert sender.sendable(100) == 0


@pytest.mark.parametrize("size", [0, -1, MAX_STREAM_CREDIT - 9])
def test_credit_has_a_limit(size: int) -> None:
    sender = Sender(1, 10)
    with pytest.raises(StreamViolation, match="more credit than 10"):
        sender.granted(size)
    sender.granted(MAX_STREAM_CREDIT - 10)
    assert sender.credit == MAX_STREAM_CREDIT


@pytest.mark.parametrize(("credit", "size"), [(10, 11), (10, 0)])
def test_data_beyond_the_credit(credit: int, size: int) -> None:
    receiver = Receiver(1, credit)
    with pytest.raises(StreamViolation, match=f"{size} bytes"):
        receiver.received(size)


def test_violations_are_illegal_messages() -> None:
    error = StreamViolation(3, "no")
    assert isinstance(error, IllegalMessage)
    assert (error.stream, error.problem, str(error)) == (3, "no", "stream 3: no")


def test_credit_is_due_when_half_of_the_window_is_used_up() -> None:
    receiver = Receiver(1, 100, 100)
    receiver.received(49)
    receiver.consumed(49)
    assert receiver.due == 0
    receiver.received(1)
    assert receiver.due == 0  # it waits here
    receiver.consumed(1)
    assert receiver.due == 50
    receiver.grant(50)
    assert (receiver.due, receiver.credit) == (0, 100)


def test_a_window_that_shrinks_gives_nothing_until_there_is_room() -> None:
    receiver = Receiver(1, 100, 100)
    receiver.received(60)
    receiver.consumed(60)
    receiver.window = 20
    assert receiver.due == 0
    receiver.received(30)
    receiver.consumed(30)
    assert receiver.due == 10


def test_no_credit_is_due_when_no_more_is_wanted() -> None:
    for finish in (Receiver.cancel, Receiver.end):
        receiver = Receiver(1, 0, 100)
        assert receiver.due == 100
        finish(receiver)
        assert receiver.due == 0


def test_numbers_of_uploads_go_round() -> None:
    assert following(FIRST_UPLOAD) == FIRST_UPLOAD + 1
    assert following(MAX_STREAM_NUMBER) == FIRST_UPLOAD


class BackToBack(RuleBasedStateMachine):
    """A sender and a receiver, and messages that are any time on their way.

    Whatever the order of steps: nothing is a violation, what arrives is a prefix of what was to be
    sent, all of it if nobody cancelled, and what waits at the receiver never exceeds its window.
    """

    WINDOW = 1000

    def __init__(self) -> None:
        super().__init__()
        self.sender = Sender(1, self.WINDOW)
        self.receiver = Receiver(1, self.WINDOW, self.WINDOW)
        self.data = bytes(range(256)) * 20
        self.down: deque[bytes | None] = deque()
        self.up: deque[int | None] = deque()
        self.arrived = b""
        self.consumed = 0
        self.was_cancelled = False

    @precondition(lambda self: self.sender.is_open)
    @rule(wanted=st.integers(1, 700), frame=st.integers(1, 400))
    def send(self, wanted: int, frame: int) -> None:
        rest = self.data[self.sender.offset :]
        size = self.sender.sendable(min(wanted, len(rest)), frame)
        if size:
            self.sender.sent(size)
            self.down.append(rest[:size])
        elif not rest:
            self.sender.end()
            self.down.append(None)

    @precondition(lambda self: self.down)
    @rule()
    def arrive(self) -> None:
        data = self.down.popleft()
        if data is None:
            self.receiver.end()
        else:
            self.receiver.received(len(data))
            self.arrived += data

    @precondition(lambda self: self.consumed < len(self.arrived))
    @rule(part=st.floats(0.01, 1))
    def consume(self, part: float) -> None:
        size = max(1, int((len(self.arrived) - self.consumed) * part))
        self.consumed += size
        self.receiver.consumed(size)

    @precondition(lambda self: self.receiver.due)
    @rule()
    def grant(self) -> None:
        size = self.receiver.due
        self.receiver.grant(size)
        self.up.append(size)

    @precondition(lambda self: self.receiver.is_open and len(self.arrived) > 3_000)
    @rule()
    def cancel(self) -> None:
        self.receiver.cancel()
        self.was_cancelled = True
        self.up.append(None)

    @precondition(lambda self: self.up)
    @rule()
    def answer(self) -> None:
        size = self.up.popleft()
        was_open = self.sender.is_open
        if size is None:
            self.sender.cancelled()
            if was_open:
                self.sender.end()
                self.down.append(None)
        else:
            self.sender.granted(size)

    @invariant()
    def holds(self) -> None:
        assert self.arrived == self.data[: len(self.arrived)]
        assert len(self.arrived) - self.consumed <= self.WINDOW
        on_their_way = sum(len(data) for data in self.down if data is not None)
        assert self.sender.offset == len(self.arrived) + on_their_way

    def teardown(self) -> None:
        """However far it has come: it comes to its end."""
        for _ in range(10_000):
            if self.receiver.has_ended and self.sender.has_ended:
                break
            if self.sender.is_open:
                self.send(700, 400)
            if self.down:
                self.arrive()
            if self.consumed < len(self.arrived):
                self.consume(1)
            if self.receiver.due:
                self.grant()
            if self.up:
                self.answer()
        assert self.receiver.has_ended
        assert self.sender.has_ended
        assert not self.down
        if not self.was_cancelled:
            assert self.arrived == self.data


BackToBack.TestCase.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)
TestBackToBack = BackToBack.TestCase


def test_the_usual_window_can_be_used() -> None:
    assert STREAM_WINDOW // 2 > STREAM_FRAME
    assert STREAM_WINDOW < MAX_STREAM_CREDIT
