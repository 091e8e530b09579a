"""Streams: bytes in order beside the calls of a connection, as fast as their receiver takes them.

A stream has a *sender* and a *receiver*, one on each side.  The receiver gives *credit*, in bytes;
data use it up.  The sender ends the stream, with END or with a fault; the receiver can only ask for
that, by CANCEL.  So each stream has one end, and what is on its way when it is cancelled is known
to come before that.  What is legal when is two tables; a pair that is not in one is a violation.

No half knows where bytes come from or go to.  Not thread-safe: the caller sees to it that one
thread at a time uses a half.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final

from ..errors import StreamViolation
from .limits import (
    FIRST_UPLOAD,
    MAX_STREAM_CREDIT,
    MAX_STREAM_NUMBER,
    STREAM_FRAME,
    STREAM_WINDOW,
)


class State(Enum):
    """Where a stream is in its life; each side has its own view."""

    # There is one of each; that of an Enum is written in Python, and looked up for each message.
    __hash__ = object.__hash__

    OPEN = "open"
    """Data may come."""

    CANCELLED = "cancelled"
    """The receiver wants no more; the end is to come."""

    ENDED = "ended"
    """The end, or a fault, has been said."""


class Step(Enum):
    """What is said about a stream."""

    __hash__ = object.__hash__

    DATA = "data"
    END = "end"
    """Also a fault."""

    CREDIT = "credit"
    CANCEL = "cancel"


SENDER: Final[Mapping[tuple[State, Step], State]] = {
    (State.OPEN, Step.DATA): State.OPEN,
    (State.OPEN, Step.CREDIT): State.OPEN,
    (State.OPEN, Step.CANCEL): State.CANCELLED,
    (State.OPEN, Step.END): State.ENDED,
    (State.CANCELLED, Step.END): State.ENDED,
    # They have crossed the end.
    (State.ENDED, Step.CREDIT): State.ENDED,
    (State.ENDED, Step.CANCEL): State.ENDED,
}
"""(state, step) → the sender's next state; it takes DATA and END itself, the others arrive."""

RECEIVER: Final[Mapping[tuple[State, Step], State]] = {
    (State.OPEN, Step.DATA): State.OPEN,
    (State.OPEN, Step.CREDIT): State.OPEN,
    (State.OPEN, Step.CANCEL): State.CANCELLED,
    (State.OPEN, Step.END): State.ENDED,
    # They have crossed the cancellation.
    (State.CANCELLED, Step.DATA): State.CANCELLED,
    (State.CANCELLED, Step.END): State.ENDED,
}
"""(state, step) → the receiver's next state; it takes CREDIT and CANCEL itself."""


class _Half:
    """What both halves have.

    :ivar number: of the stream.
    :ivar state: present state.
    :ivar offset: bytes that have passed.
    :ivar credit: bytes that may still pass, as far as this side knows.
    """

    __slots__ = ("credit", "number", "offset", "state")

    _table: Mapping[tuple[State, Step], State]

    def __init__(self, number: int, credit: int) -> None:
        self.number = number
        self.state = State.OPEN
        self.offset = 0
        self.credit = credit

    def _take(self, step: Step) -> None:
        state = self._table.get((self.state, step))
        if state is None:
            raise StreamViolation(self.number, f"{step.value} while it is {self.state.value}")
        self.state = state

    def end(self) -> None:
        """The stream ends here, whether all went well or not.

        :raises StreamViolation: it has ended.
        """
        self._take(Step.END)

    @property
    def is_open(self) -> bool:
        """Whether data may pass."""
        return self.state is State.OPEN

    @property
    def has_ended(self) -> bool:
        """Whether the end has been said."""
        return self.state is State.ENDED


class Sender(_Half):
    """The side that has the bytes.

    :param number: of the stream.
    :param credit: bytes that may be sent at once.
    """

    __slots__ = ()

    _table = SENDER

    def sendable(self, wanted: int, frame: int = STREAM_FRAME) -> int:
        """Return how many of *wanted* bytes may be sent in one message of *frame* bytes."""
        return min(wanted, self.credit, frame) if self.state is State.OPEN else 0

    def sent(self, size: int) -> None:
        """*size* bytes are sent in one message.

        :raises StreamViolation: there is not as much credit, or the stream is not open.
        """
        self._take(Step.DATA)
        if not 0 < size <= self.credit:
            raise StreamViolation(self.number, f"{size} bytes with a credit of {self.credit}")
        self.credit -= size
        self.offset += size

    def granted(self, size: int) -> None:
        """The receiver gives credit for *size* bytes more.

        :raises StreamViolation: that is none, or more than :data:`.limits.MAX_STREAM_CREDIT` in
            all; or the stream is cancelled.
        """
        self._take(Step.CREDIT)
        if not 0 < size <= MAX_STREAM_CREDIT - self.credit:
            raise StreamViolation(self.number, f"{size} bytes more credit than {self.credit}")
        self.credit += size

    def cancelled(self) -> None:
        """The receiver wants no more: :meth:`end` is to follow.

        :raises StreamViolation: it has said so before.
        """
        self._take(Step.CANCEL)


class Receiver(_Half):
    """The side that wants the bytes.

    :param number: of the stream.
    :param credit: bytes that the sender was told it may send at once.
    :param window: bytes that may be on their way or wait here; may be changed.
    """

    __slots__ = ("_consumed", "window")

    _table = RECEIVER

    def __init__(self, number: int, credit: int, window: int = STREAM_WINDOW) -> None:
        super().__init__(number, credit)
        self.window = window
        self._consumed = 0

    def received(self, size: int) -> None:
        """*size* bytes have come, in one message or as a part of a long one.

        :raises StreamViolation: more than there is credit for, none at all, or behind the end.
        """
        self._take(Step.DATA)
        if not 0 < size <= self.credit:
            raise StreamViolation(self.number, f"{size} bytes with a credit of {self.credit}")
        self.credit -= size
        self.offset += size

    def consumed(self, size: int) -> None:
        """*size* of the bytes that have come do not wait here any more."""
        self._consumed += size
        assert self._consumed <= self.offset

    @property
    def due(self) -> int:
        """Credit to be given now; 0 while what there is lasts for half of the window."""
        if self.state is not State.OPEN:
            return 0
        room = self.window - self.credit - (self.offset - self._consumed)
        return room if room >= max(self.window // 2, 1) else 0

    def grant(self, size: int) -> None:
        """The sender is told that it may send *size* bytes more.

        :raises StreamViolation: the stream is not open.
        """
        self._take(Step.CREDIT)
        self.credit += size

    def cancel(self) -> None:
        """The sender is told that no more is wanted.

        :raises StreamViolation: the stream is not open.
        """
        self._take(Step.CANCEL)


def following(number: int) -> int:
    """Return the number of the upload that a client opens after that with *number*."""
    return number + 1 if number < MAX_STREAM_NUMBER else FIRST_UPLOAD
