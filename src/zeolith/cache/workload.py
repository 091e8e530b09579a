"""What a cache was asked, in a form that any cache can be asked again.

A trace says what one cache answered; another would have answered otherwise, and then not have
stored what it held.  So each load is taken for what it asked for: a revision of an object.  A load
that was a hit names it.  A load that was a miss is told by what is stored for the object next, for
that was the server's answer.
"""

from __future__ import annotations

import enum
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from ..types import MAX_TID
from .traces import EMPTY, INVALIDATE, LOAD, OPERATION, STORE, ZERO, Code, Event

STEP_BITS: Final = 3
STEP_MASK: Final = (1 << STEP_BITS) - 1


class Step(enum.IntEnum):
    """What a cache is asked.

    :cvar LOAD: for a revision; if the cache does not hold it, the server answers and the cache may
        keep it.
    :cvar STORE: to take in a revision that nobody has asked for, such as one just committed.
    :cvar END: to know that a revision is not the current one any more.
    :cvar MISS: for something that is in no cache: what it was never came to be known.
    :cvar CLEAR: to begin empty.
    """

    LOAD = 0
    STORE = 1
    END = 2
    MISS = 3
    CLEAR = 4


def _numbers() -> array[int]:
    return array("Q")


@dataclass(slots=True)
class Workload:
    """Steps over revisions, which have numbers here.

    It takes 8 bytes of memory for a step, 4 more for a load, and 28 for a revision.

    :ivar steps: ``number of the revision << STEP_BITS | Step``.
    :ivar times: seconds since the epoch of each load; may be empty if nobody wants to know.
    :ivar oids: by revision, the object; an integer, as the following.
    :ivar starts: by revision, the tid that wrote it.
    :ivar ends: by revision, the tid that replaced it; 0 if that is not known, or did not happen.
    :ivar lengths: by revision, bytes of the object record.
    """

    steps: array[int] = field(default_factory=_numbers)
    times: array[int] = field(default_factory=lambda: array("I"))
    oids: array[int] = field(default_factory=_numbers)
    starts: array[int] = field(default_factory=_numbers)
    ends: array[int] = field(default_factory=_numbers)
    lengths: array[int] = field(default_factory=lambda: array("I"))

    @classmethod
    def of_reads(cls, reads: Iterable[int], lengths: Sequence[int]) -> Workload:
        """Return the workload of loads alone.

        :param reads: numbers of objects, of which there is one revision each.
        :param lengths: of these.
        """
        count = len(lengths)
        return cls(
            steps=array("Q", [number << STEP_BITS | Step.LOAD for number in reads]),
            oids=array("Q", range(count)),
            starts=array("Q", [1]) * count,
            ends=array("Q", [0]) * count,
            lengths=array("I", lengths),
        )

    @property
    def loads(self) -> int:
        """How many loads there are."""
        return sum(step & STEP_MASK in (Step.LOAD, Step.MISS) for step in self.steps)


class WorkloadReader:
    """Makes a workload of the events of a trace."""

    def __init__(self) -> None:
        self._workload = Workload()
        self._known: dict[tuple[bytes, bytes], int] = {}
        self._current: dict[bytes, int] = {}
        self._missed: dict[bytes, list[int]] = {}
        """Where in the steps loads wait to be told of which revision they were."""
        self._before: tuple[int, bytes] | None = None

    def add(self, event: Event) -> None:
        """Take up *event*."""
        code, oid = event.code, event.oid
        before, self._before = self._before, (code, oid)
        if code == Code.LOAD_EARLIER_MISS and before == (Code.LOAD_MISS, oid):
            # ZEO writes both of one load.
            return
        operation = code & OPERATION
        if operation == LOAD:
            self._workload.times.append(event.time)
            if code == Code.LOAD_HIT:
                self._current[oid] = self._step(Step.LOAD, event, event.start)
            elif code == Code.LOAD_EARLIER_HIT:
                # ZEO's format has the revision's start there.
                self._step(Step.LOAD, event, event.end)
            else:
                self._missed.setdefault(oid, []).append(len(self._workload.steps))
                self._workload.steps.append(Step.MISS)
        elif operation == STORE:
            number = self._step(Step.STORE, event, event.start)
            if event.end == ZERO:
                self._current[oid] = number
            else:
                self._workload.ends[number] = _tid(event.end)
        elif operation == INVALIDATE:
            ended = self._current.pop(oid, None)
            if ended is not None:
                self._workload.ends[ended] = _tid(event.start)
                self._workload.steps.append(ended << STEP_BITS | Step.END)
        elif event.end == EMPTY:
            self._current.clear()
            self._workload.steps.append(Step.CLEAR)

    def _step(self, step: Step, event: Event, start: bytes) -> int:
        """Add a step about a revision, and return the revision's number."""
        workload, oid = self._workload, event.oid
        number = self._known.setdefault((oid, start), len(workload.oids))
        if number == len(workload.oids):
            workload.oids.append(int.from_bytes(oid, "big"))
            workload.starts.append(_tid(start))
            workload.ends.append(0)
            workload.lengths.append(event.length)
        for place in self._missed.pop(oid, ()):
            workload.steps[place] = number << STEP_BITS | Step.LOAD
        workload.steps.append(number << STEP_BITS | step)
        return number

    def finish(self) -> Workload:
        """Return the workload; nothing can be added any more."""
        return self._workload


def _tid(tid: bytes) -> int:
    """Return *tid* as a number, below the largest that there is: damage must not be one."""
    return min(int.from_bytes(tid, "big"), int.from_bytes(MAX_TID, "big") - 1)
