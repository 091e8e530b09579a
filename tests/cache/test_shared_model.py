"""Several processes that share a cache, against the history: whatever one reads in another's file,
while that one goes on, crashes or begins anew, is what was current as of what it knows itself."""

from __future__ import annotations

from bisect import bisect_left
from tempfile import TemporaryDirectory
from typing import Any, cast

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from zeolith.cache import MINIMUM_SIZE, RingCache, SharedCache, Siblings
from zeolith.cache.home import CacheHome
from zeolith.client.channel import Channel
from zeolith.client.sharing import ask_changes
from zeolith.protocol.hello import Database
from zeolith.protocol.messages import GetInvalidations
from zeolith.types import MAX_TID

OIDS = [n.to_bytes(8, "big") for n in (0, 1, 2, 0x3FFF, 0x4000, 2**64 - 1)]
NUMBERS = (0, 1, 2)

oids = st.sampled_from(OIDS)
some_oids = st.lists(oids, min_size=1, max_size=4, unique=True)
numbers = st.sampled_from(NUMBERS)


def to_tid(n: int) -> bytes:
    return n.to_bytes(8, "big")


def to_int(tid: bytes) -> int:
    return int.from_bytes(tid, "big")


def record_of(oid: bytes, start: int, epoch: int) -> bytes:
    """What transaction *start* wrote into *oid*; all of one length, or nearly."""
    seed = oid + to_tid(start) + bytes([epoch])
    return (seed * 40)[: (300, 300, 300, 600)[(to_int(oid) + start) % 4]]


class Process:
    """One of those that share the cache.

    :ivar epoch: of the history of which it knows the transactions up to *told*.
    :ivar untold: invalidations that are on their way to it; None while it is not connected.
    """

    def __init__(self, cache: SharedCache) -> None:
        self.cache = cache
        self.told = to_int(cache.last_tid())
        self.epoch = 0 if cache.database is None else cache.database.epoch
        self.untold: list[tuple[int, list[bytes]]] | None = None

    def take_all(self) -> None:
        while self.untold:
            self.take()

    def take(self) -> None:
        assert self.untold
        tid, written = self.untold.pop(0)
        if tid > self.told:
            for oid in written:
                self.cache.invalidate(oid, to_tid(tid))
            self.cache.set_last_tid(to_tid(tid))
            self.told = tid


class SharedMachine(RuleBasedStateMachine):
    """A server's history, and processes on one host that hear of it in order."""

    @initialize(size=st.integers(MINIMUM_SIZE, 3 * MINIMUM_SIZE))
    def start(self, size: int) -> None:
        self.size = size
        self.directory = TemporaryDirectory()
        self.paths = [f"{self.directory.name}/cache.{number}" for number in NUMBERS]
        self.clock = 0
        self.epoch = 1
        # By epoch: which transactions wrote each object, and in which epoch they did so.
        self.histories: dict[int, dict[bytes, list[tuple[int, int]]]] = {
            1: {oid: [] for oid in OIDS}
        }
        self.processes = [self.open(number) for number in NUMBERS]
        # Something to begin with, or most runs would end before anything can be shared.
        self.commit(OIDS[:3])
        self.commit(OIDS[2:])
        for number in NUMBERS:
            self.it_connects(number, True, True, [])
        self.loads_are_answered(0, OIDS)
        self.it_is_saved(0)
        self.it_looks_around(1)

    def open(self, number: int) -> Process:
        others = [path for path in self.paths if path != self.paths[number]]
        own = RingCache(self.size, home=CacheHome(self.paths[number]))
        cache = SharedCache(own, Siblings(others, 1 << 20))
        cache.begin_as_sibling()
        return Process(cache)

    def teardown(self) -> None:
        if hasattr(self, "processes"):
            for process in self.processes:
                process.cache.close()
            self.directory.cleanup()

    def commit(self, written: list[bytes], committer: Process | None = None) -> None:
        self.clock += 1
        for oid in written:
            self.histories[self.epoch][oid].append((self.clock, self.epoch))
        for process in self.processes:
            if process is not committer and process.untold is not None:
                process.untold.append((self.clock, written))

    def changed_since(self, tid: int) -> list[bytes]:
        history = self.histories[self.epoch]
        return [oid for oid in OIDS if history[oid] and history[oid][-1][0] > tid]

    @rule(written=some_oids)
    def somebody_else_commits(self, written: list[bytes]) -> None:
        self.commit(written)

    @rule(number=numbers)
    def an_invalidation_arrives(self, number: int) -> None:
        if self.processes[number].untold:
            self.processes[number].take()

    @rule(number=numbers, written=some_oids)
    def a_process_commits(self, number: int, written: list[bytes]) -> None:
        process = self.processes[number]
        if process.untold is None:
            return
        process.take_all()
        self.commit(written, process)
        tid = to_tid(self.clock)
        for oid in written:
            process.cache.replace(oid, tid, record_of(oid, self.clock, self.epoch))
        process.cache.set_last_tid(tid)
        process.told = self.clock

    @rule(number=numbers, wanted=some_oids)
    def loads_are_answered(self, number: int, wanted: list[bytes]) -> None:
        process = self.processes[number]
        if process.untold is None:
            return
        process.take_all()
        for oid in wanted:
            history = self.histories[self.epoch][oid]
            if history:
                data = record_of(oid, *history[-1])
                process.cache.store(oid, to_tid(history[-1][0]), None, data)

    @rule(number=numbers)
    def it_is_saved(self, number: int) -> None:
        self.processes[number].cache.save()

    @rule(number=numbers)
    def it_looks_around(self, number: int) -> None:
        if self.processes[number].untold is not None:
            self.processes[number].cache.look_around()

    @rule()
    def all_are_saved_and_look_around(self) -> None:
        for number in NUMBERS:
            self.it_is_saved(number)
        for number in NUMBERS:
            self.it_looks_around(number)

    @rule(number=numbers, oid=oids)
    def an_object_is_forgotten(self, number: int, oid: bytes) -> None:
        self.processes[number].cache.invalidate(oid, None)

    @rule(number=numbers)
    def the_connection_breaks(self, number: int) -> None:
        self.processes[number].untold = None

    @rule(
        number=numbers,
        is_told=st.booleans(),
        can_tell=st.booleans(),
        meanwhile=st.lists(some_oids, max_size=2),
    )
    def it_connects(
        self, number: int, is_told: bool, can_tell: bool, meanwhile: list[list[bytes]]
    ) -> None:
        """As a link does it.

        :param is_told: what it missed; else each of its objects is verified.
        :param can_tell: whether the server knows what changed since another's snapshot.
        :param meanwhile: transactions before that is answered.
        """
        process = self.processes[number]
        cache = process.cache
        database = Database("identity", self.epoch)
        verified = self.clock
        process.untold = []
        if process.told and process.epoch != self.epoch:
            cache.clear()
        elif process.told:
            for oid in self.changed_since(process.told):
                if is_told:
                    cache.invalidate(oid, None)
                else:
                    # Only what it holds itself is looked at.
                    cache.own.invalidate(oid, None)

        class Server:
            server_name = "server"

            def call(_, request: GetInvalidations) -> Any:  # noqa: N805
                if meanwhile:
                    self.commit(meanwhile.pop())
                since = to_int(request.tid)
                return (to_tid(self.clock), self.changed_since(since)) if can_tell else None

        ask_changes(cast(Channel, Server()), cache, database, to_tid(verified))
        cache.set_last_tid(to_tid(verified))
        cache.set_database(database)
        process.told, process.epoch = verified, self.epoch

    @rule(number=numbers)
    def it_is_closed_and_opened(self, number: int) -> None:
        self.processes[number].cache.close()
        self.processes[number] = self.open(number)

    @rule(number=numbers)
    def it_is_killed_and_started(self, number: int) -> None:
        cache = self.processes[number].cache
        cache.own._is_off = True
        cache.close()
        self.processes[number] = self.open(number)

    @rule(lost=st.integers(0, 4))
    def the_server_is_restored(self, lost: int) -> None:
        self.clock = max(0, self.clock - lost)
        before = self.histories[self.epoch]
        self.epoch += 1
        self.histories[self.epoch] = {
            oid: [item for item in history if item[0] <= self.clock]
            for oid, history in before.items()
        }
        for process in self.processes:
            process.untold = None

    @invariant()
    def answers_are_right(self) -> None:
        for process in self.processes:
            for oid in OIDS:
                for tid in range(max(0, process.told - 4), process.told + 2):
                    self.check(process, oid, to_tid(tid), tid)
                if process.untold is not None:
                    # A file that was written to after its snapshot may show what came later.
                    self.check(process, oid, MAX_TID, process.told + 1)

    def check(self, process: Process, oid: bytes, tid: bytes, meant: int) -> None:
        found = process.cache.load_before(oid, tid)
        if found is None:
            return
        data, start, end = found
        history = self.histories[process.epoch][oid]
        at = bisect_left(history, (meant, 0)) - 1
        assert at >= 0
        assert (data, to_int(start)) == (record_of(oid, *history[at]), history[at][0])
        ended = history[at + 1][0] if at + 1 < len(history) else None
        if end is None:
            assert ended is None or ended > process.told
        else:
            assert to_int(end) == ended


class SharedMachineAtLength(SharedMachine):
    """The same, more often."""


TestSharedMachine = SharedMachine.TestCase
TestSharedMachine.settings = settings(max_examples=40, stateful_step_count=50, deadline=None)
TestSharedMachineAtLength = pytest.mark.long(SharedMachineAtLength.TestCase)
TestSharedMachineAtLength.settings = settings(
    max_examples=500, stateful_step_count=80, deadline=None
)
