"""Ways to choose what stays in a cache of a given room.

:class:`Zeolith` is the real cache, at work on a temporary file.  The others are models that count
bytes: ZEO's circle, least-recently-used, and the optimum, which knows the future.
"""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from array import array
from collections import OrderedDict, deque
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

from ..errors import ConfigurationError
from .log import MINIMUM_SIZE
from .records import OVERHEAD
from .ring import RingCache
from .workload import STEP_BITS, STEP_MASK, Step, Workload

ZEO_OVERHEAD: Final = 43
"""Bytes of a record in a cache file of ZEO beside its data."""

REARRANGE: Final = 0.8
"""ZEO copies what is read to the front of its circle if that has moved on by this share of it."""

LEAST_ROOM: Final = MINIMUM_SIZE
"""Bytes of the smallest cache that is simulated: of the smallest that there is."""


class Policy(Protocol):
    """A cache, of which only what it holds matters.  Revisions are numbers of a workload."""

    def load(self, revision: int) -> bool:
        """Return whether *revision* is held; if not it is offered."""

    def store(self, revision: int) -> None:
        """*revision* is offered."""

    def end(self, revision: int) -> None:
        """*revision*, whether held or not, ceases to be the current one of its object."""

    def clear(self) -> None:
        """Forget everything."""

    def close(self) -> None:
        """Release files."""


PolicyMaker = Callable[[Workload, int], Policy]
"""Makes a policy for a workload and a room in bytes."""


def simulate(make: PolicyMaker, workload: Workload, room: int) -> bytearray:
    """Return for each load of *workload* whether a cache has the answer: 1 or 0.

    :param make: makes the cache.
    :param room: its size in bytes, at least :data:`LEAST_ROOM`.
    """
    policy = make(workload, room)
    hits = bytearray()
    do: dict[int, Callable[[int], None]] = {Step.STORE: policy.store, Step.END: policy.end}
    load, is_load, is_miss, is_clear = policy.load, int(Step.LOAD), int(Step.MISS), int(Step.CLEAR)
    try:
        for step in workload.steps:
            kind = step & STEP_MASK
            if kind == is_load:
                hits.append(load(step >> STEP_BITS))
            elif kind == is_miss:
                hits.append(0)
            elif kind == is_clear:
                policy.clear()
            else:
                do[kind](step >> STEP_BITS)
    finally:
        policy.close()
    return hits


class Zeolith:
    """Our cache."""

    def __init__(self, workload: Workload, room: int) -> None:
        self._workload = workload
        self._room = room
        self._ended: set[int] = set()
        self._cache = RingCache(room)

    def load(self, revision: int) -> bool:
        workload = self._workload
        oid, start = workload.oids[revision], workload.starts[revision]
        found = self._cache.load_before(oid.to_bytes(8, "big"), (start + 1).to_bytes(8, "big"))
        if found is not None and int.from_bytes(found[1], "big") == start:
            return True
        self.store(revision)
        return False

    def store(self, revision: int) -> None:
        workload = self._workload
        end = workload.ends[revision] if revision in self._ended else 0
        self._cache.store(
            workload.oids[revision].to_bytes(8, "big"),
            workload.starts[revision].to_bytes(8, "big"),
            end.to_bytes(8, "big") if end else None,
            bytes(workload.lengths[revision]),
        )

    def end(self, revision: int) -> None:
        self._ended.add(revision)
        end = self._workload.ends[revision]
        oid = self._workload.oids[revision].to_bytes(8, "big")
        self._cache.invalidate(oid, end.to_bytes(8, "big") if end else None)

    def clear(self) -> None:
        # A new one: what follows may be the trace of another cache, from the same time even.
        self._cache.close()
        self._cache = RingCache(self._room)
        self._ended.clear()

    def close(self) -> None:
        capacity = self._cache.statistics().capacity
        self._cache.close()
        if capacity < self._room * 0.99:
            raise ConfigurationError(
                "temporary directory",
                f"has no room for a cache of {self._room:,} bytes to try",
                "name another one by the environment variable TMPDIR",
            )


class _Model(ABC):
    """What the models have in common."""

    @abstractmethod
    def load(self, revision: int) -> bool:
        """As :class:`Policy` has it, which has the others too."""

    def store(self, revision: int) -> None:
        self.load(revision)

    def end(self, revision: int) -> None:  # noqa: B027
        """Do nothing: what is not read any more goes by itself."""

    def close(self) -> None:  # noqa: B027
        """Do nothing: there is no file."""


class Circle(_Model):
    """ZEO's: one circle of records.  What is written goes where the oldest was.

    :param overhead: bytes of a record beside its data.
    :param rearrange: see :data:`REARRANGE`.
    """

    def __init__(
        self,
        workload: Workload,
        room: int,
        *,
        overhead: int = ZEO_OVERHEAD,
        rearrange: float = REARRANGE,
    ) -> None:
        self._sizes = [length + overhead for length in workload.lengths]
        self._room = room
        self._far = rearrange * room
        self.clear()

    def clear(self) -> None:
        self._places: dict[int, int] = {}
        self._written: deque[tuple[int, int]] = deque()
        self._head = 0

    def load(self, revision: int) -> bool:
        place = self._places.get(revision)
        if place is None:
            self._write(revision)
            return False
        if self._head - place > self._far:
            self._write(revision)
        return True

    def store(self, revision: int) -> None:
        if revision not in self._places:
            self._write(revision)

    def _write(self, revision: int) -> None:
        size, head, places, written = self._sizes[revision], self._head, self._places, self._written
        if size > self._room:
            return
        while written and head + size - written[0][0] > self._room:
            place, gone = written.popleft()
            if places.get(gone) == place:
                del places[gone]
        places[revision] = head
        written.append((head, revision))
        self._head = head + size


class Recent(_Model):
    """What was least recently used goes.

    :param overhead: bytes of a record beside its data.
    """

    def __init__(self, workload: Workload, room: int, *, overhead: int = OVERHEAD) -> None:
        self._sizes = [length + overhead for length in workload.lengths]
        self._room = room
        self.clear()

    def clear(self) -> None:
        self._held: OrderedDict[int, None] = OrderedDict()
        self._used = 0

    def load(self, revision: int) -> bool:
        held, size = self._held, self._sizes[revision]
        if revision in held:
            held.move_to_end(revision)
            return True
        if size <= self._room:
            held[revision] = None
            self._used += size
            while self._used > self._room:
                gone, _ = held.popitem(last=False)
                self._used -= self._sizes[gone]
        return False


class Optimum(_Model):
    """That goes which is not needed for longest (Bélády).

    It is offered what the workload has, in that order, for it knows what comes.

    :param overhead: bytes of a record beside its data.
    """

    def __init__(self, workload: Workload, room: int, *, overhead: int = OVERHEAD) -> None:
        self._sizes = [length + overhead for length in workload.lengths]
        self._room = room
        self._following = _following(workload)
        self._at = 0
        self.clear()

    def clear(self) -> None:
        self._needed: dict[int, int] = {}
        self._queue: list[tuple[int, int]] = []
        self._used = 0

    def load(self, revision: int) -> bool:
        needed, queue, size = self._needed, self._queue, self._sizes[revision]
        following = self._following[self._at]
        self._at += 1
        is_held = revision in needed
        if is_held or (following != NEVER and size <= self._room):
            needed[revision] = following
            heapq.heappush(queue, (-following, revision))
            self._used += 0 if is_held else size
            while self._used > self._room:
                when, gone = heapq.heappop(queue)
                if needed.get(gone) == -when:
                    del needed[gone]
                    self._used -= self._sizes[gone]
        return is_held


NEVER: Final = (1 << 63) - 1
"""When something is needed that is not needed any more."""


def _following(workload: Workload) -> array[int]:
    """Return for each load and store when the same revision is loaded next, as a step's number.

    A clear in between makes no difference: what is needed before it comes first.
    """
    following = array("Q")
    later: dict[int, int] = {}
    for at in range(len(workload.steps) - 1, -1, -1):
        kind, revision = workload.steps[at] & STEP_MASK, workload.steps[at] >> STEP_BITS
        if kind in (Step.LOAD, Step.STORE):
            following.append(later.get(revision, NEVER))
            if kind == Step.LOAD:
                later[revision] = at
    following.reverse()
    return following


class Unlimited(_Model):
    """Nothing goes: what no cache can be better than.

    :param room: of no importance.
    """

    def __init__(self, workload: Workload, room: int) -> None:
        self.clear()

    def clear(self) -> None:
        self._held: set[int] = set()

    def load(self, revision: int) -> bool:
        is_held = revision in self._held
        self._held.add(revision)
        return is_held


def make_policies(rearrange: float = REARRANGE) -> dict[str, PolicyMaker]:
    """Return what there is to compare, by its name.

    :param rearrange: for ZEO's circle.
    """
    return {
        "ZEO": partial(Circle, rearrange=rearrange),
        "LRU": Recent,
        "Zeolith": Zeolith,
        "optimum": Optimum,
    }
