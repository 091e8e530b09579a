"""Who votes next, who holds the commit lock and until when.

Pure: no thread, no clock, no I/O.  Time is an argument; what is to be done is returned as an
action, which the caller carries out.

A *ticket* stands for one transaction that wants to commit; any hashable object will do.  Its way::

    vote        accepted                finish            done
    ────▶ WAITING ──▶ VOTING ────────▶ VOTED ────────▶ FINISHING ────▶ (gone)
             │          │  │ refused      │ abort
       abort │    abort │  └──▶ (gone)   │ expire
             ▼          ▼                ▼         done
          (gone)      DOOMED ───────▶ ABORTING ────────▶ (gone)
                        │    accepted
                        └──▶ (gone)  refused

All phases but WAITING hold the lock; there is at most one such ticket.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from enum import Enum
from typing import Final, Generic, NamedTuple, TypeVar

Ticket = TypeVar("Ticket", bound=Hashable)


class Phase(Enum):
    """Where a ticket is on its way."""

    __hash__ = object.__hash__  # members are one of a kind; Enum's own is Python code

    WAITING = "waiting"
    """Another ticket holds the lock."""

    VOTING = "voting"
    """The storage is being asked."""

    DOOMED = "doomed"
    """The storage is being asked, and whatever it says the transaction will be aborted."""

    VOTED = "voted"
    """The storage is ready to commit; the client is to decide, within a time limit."""

    FINISHING = "finishing"
    """The storage is committing.  Nothing can stop that any more."""

    ABORTING = "aborting"
    """The storage is forgetting the transaction."""


class Input(Enum):
    """What can happen to a ticket."""

    __hash__ = object.__hash__  # members are one of a kind; Enum's own is Python code

    ACCEPTED = "accepted"
    """The storage's vote succeeded."""

    REFUSED = "refused"
    """The storage's vote failed, and the storage has forgotten the transaction."""

    FINISH = "finish"
    """The client commits."""

    ABORT = "abort"
    """The client aborts, or has gone."""

    EXPIRE = "expire"
    """The time limit has passed."""

    DONE = "done"
    """The storage has finished or aborted."""


class Deed(Enum):
    """What an action does to the storage."""

    VOTE = "vote"
    FINISH = "finish"
    ABORT = "abort"


class Action(NamedTuple, Generic[Ticket]):
    """Have the storage do *deed* for *ticket*, then report ACCEPTED, REFUSED or DONE."""

    deed: Deed
    ticket: Ticket


class IllegalStep(Exception):
    """The input does not fit the ticket's phase.

    :ivar phase: the phase, or None if the ticket is unknown here.
    :ivar what: the input, or None for a vote.
    """

    def __init__(self, phase: Phase | None, what: Input | None) -> None:
        super().__init__(phase, what)
        self.phase = phase
        self.what = what

    def __str__(self) -> str:
        what = "vote" if self.what is None else self.what.value
        return f"{what} is not legal while {'unknown' if self.phase is None else self.phase.value}"


_GONE: Final = None

STEPS: Final[Mapping[tuple[Phase, Input], tuple[Phase | None, Deed | None]]] = {
    (Phase.WAITING, Input.ABORT): (_GONE, None),
    (Phase.VOTING, Input.ACCEPTED): (Phase.VOTED, None),
    (Phase.VOTING, Input.REFUSED): (_GONE, None),
    (Phase.VOTING, Input.ABORT): (Phase.DOOMED, None),
    (Phase.DOOMED, Input.ACCEPTED): (Phase.ABORTING, Deed.ABORT),
    (Phase.DOOMED, Input.REFUSED): (_GONE, None),
    (Phase.DOOMED, Input.ABORT): (Phase.DOOMED, None),
    (Phase.VOTED, Input.FINISH): (Phase.FINISHING, Deed.FINISH),
    (Phase.VOTED, Input.ABORT): (Phase.ABORTING, Deed.ABORT),
    (Phase.VOTED, Input.EXPIRE): (Phase.ABORTING, Deed.ABORT),
    # Both have passed the point at which anything could be changed: the end is near.
    (Phase.FINISHING, Input.ABORT): (Phase.FINISHING, None),
    (Phase.ABORTING, Input.ABORT): (Phase.ABORTING, None),
    (Phase.FINISHING, Input.DONE): (_GONE, None),
    (Phase.ABORTING, Input.DONE): (_GONE, None),
}
"""(phase, input) → (next phase, what the storage is to do).  A pair that is missing is illegal."""


class CommitQueue(Generic[Ticket]):
    """The commit lock of one storage and those who want it, first come first served.

    Not thread-safe: it belongs to the event loop.

    :param timeout: seconds a ticket may stay VOTED, or None for ever.
    :ivar holder: the ticket that holds the lock, or None.
    """

    def __init__(self, timeout: float | None) -> None:
        self._timeout = timeout
        # In order of arrival.  The first is the holder: nobody waits while the lock is free.
        self._phases: dict[Ticket, Phase] = {}
        self._deadline: float | None = None
        self.holder: Ticket | None = None

    @property
    def waiting(self) -> int:
        """How many tickets wait for the lock."""
        return len(self._phases) - 1 if self._phases else 0

    @property
    def deadline(self) -> float | None:
        """The time at which :meth:`expire` is to be called, or None."""
        return self._deadline

    def phase(self, ticket: Ticket) -> Phase | None:
        """Return the phase of *ticket*, or None if it is unknown."""
        return self._phases.get(ticket)

    def vote(self, ticket: Ticket) -> Action[Ticket] | None:
        """*ticket* wants to commit.

        :raises IllegalStep: it is here already.
        """
        if ticket in self._phases:
            raise IllegalStep(self._phases[ticket], None)
        if self.holder is not None:
            self._phases[ticket] = Phase.WAITING
            return None
        self.holder = ticket
        self._phases[ticket] = Phase.VOTING
        return Action(Deed.VOTE, ticket)

    def step(self, ticket: Ticket, what: Input, now: float) -> Action[Ticket] | None:
        """Apply *what* to *ticket*.

        :param now: the time, in seconds of any clock.
        :raises IllegalStep: the pair is not in :data:`STEPS`; nothing has changed.
        """
        phase = self._phases.get(ticket)
        step = STEPS.get((phase, what)) if phase is not None else None
        if step is None:
            raise IllegalStep(phase, what)
        successor, deed = step
        if ticket == self.holder:
            voted = successor is Phase.VOTED and self._timeout is not None
            self._deadline = now + (self._timeout or 0.0) if voted else None
        if successor is None:
            # Nobody who goes leaves anything to be done.
            return self._leave(ticket)
        self._phases[ticket] = successor
        return None if deed is None else Action(deed, ticket)

    def expire(self, now: float) -> Action[Ticket] | None:
        """Abort the holder if its time is over; nothing happens if it is not."""
        if self._deadline is None or now < self._deadline:
            return None
        holder = self.holder
        assert holder is not None  # a deadline is set only while there is one
        return self.step(holder, Input.EXPIRE, now)

    def _leave(self, ticket: Ticket) -> Action[Ticket] | None:
        del self._phases[ticket]
        if ticket != self.holder:
            return None
        self.holder = holder = next(iter(self._phases), None)
        if holder is None:
            return None
        self._phases[holder] = Phase.VOTING
        return Action(Deed.VOTE, holder)
