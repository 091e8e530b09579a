"""The cache against the full history of a small database: it may forget, it must not be wrong."""

from __future__ import annotations

import os
import random
from bisect import bisect_left
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from zeolith.cache import MINIMUM_SIZE, RingCache
from zeolith.cache.home import HEADER_SIZE, CacheHome
from zeolith.cache.snapshot import parse_snapshot
from zeolith.types import NO_TID

OIDS = [n.to_bytes(8, "big") for n in (0, 1, 2, 0x3FFF, 0x4000, 0x12345678, 2**63, 2**64 - 1)]

oids = st.sampled_from(OIDS)


def to_tid(n: int) -> bytes:
    return n.to_bytes(8, "big")


def record_of(oid: bytes, start: int) -> bytes:
    """What transaction *start* wrote into *oid*: says so, in a length of its own."""
    seed = oid + to_tid(start)
    # Few lengths, so that another revision may come to lie in the very same place.
    length = (100, 100, 100, 450, 900)[(int.from_bytes(oid, "big") + start) % 5]
    return seed + (seed * (length // 16 + 1))[:length]


class CacheMachine(RuleBasedStateMachine):
    """A server's history, a client that hears of it in order, and the cache of that client."""

    @initialize(size=st.integers(MINIMUM_SIZE, 4 * MINIMUM_SIZE))
    def start(self, size: int) -> None:
        self.size = size
        self.clock = 0
        self.told = 0
        self.seen = 0
        """The last transaction that the cache may have heard of otherwise."""
        self.histories: dict[bytes, list[int]] = {oid: [] for oid in OIDS}
        self.untold: list[tuple[int, list[bytes]]] = []
        self.asked: tuple[int, list[tuple[bytes, bytes]]] | None = None
        self.asked_at = 0
        self.answer: tuple[int, list[bytes]] | None = None
        self.cache = self.make_cache()

    def make_cache(self) -> RingCache:
        return RingCache(self.size)

    def teardown(self) -> None:
        if hasattr(self, "cache"):
            self.cache.close()

    def revision_before(self, oid: bytes, tid: int) -> tuple[int, int | None] | None:
        history = self.histories[oid]
        at = bisect_left(history, tid) - 1
        if at < 0:
            return None
        return history[at], history[at + 1] if at + 1 < len(history) else None

    @rule(written=st.lists(oids, min_size=1, max_size=4, unique=True))
    def another_client_commits(self, written: list[bytes]) -> None:
        self.clock += 1
        for oid in written:
            self.histories[oid].append(self.clock)
        self.untold.append((self.clock, written))

    @precondition(lambda self: self.untold)
    @rule()
    def its_invalidations_arrive(self) -> None:
        tid, written = self.untold.pop(0)
        for oid in written:
            self.cache.invalidate(oid, to_tid(tid))
        self.cache.set_last_tid(to_tid(tid))
        self.told = tid

    @rule()
    def it_was_away(self) -> None:
        """And nobody knows what changed: what it holds is looked into while it goes on."""
        self.cache.suspects.suspect_all()
        self.untold.clear()
        self.cache.set_last_tid(to_tid(self.clock))
        self.told = self.clock
        self.asked = self.answer = None

    @precondition(lambda self: self.asked is None and self.answer is None)
    @rule()
    def a_page_of_suspects_is_asked_about(self) -> None:
        self.asked = self.cache.suspects.page()
        self.asked_at = self.clock
        assert (self.asked is None) is (len(self.cache.suspects) == 0)

    @precondition(lambda self: self.asked is not None)
    @rule()
    def the_server_looks_at_them(self) -> None:
        assert self.asked is not None
        (number, pairs), self.asked = self.asked, None
        stale = [
            oid
            for oid, start in pairs
            if self.histories[oid][-1:] != [int.from_bytes(start, "big")]
        ]
        self.answer = number, stale

    @precondition(lambda self: self.answer is not None and self.told >= self.asked_at)
    @rule()
    def its_findings_arrive(self) -> None:
        """After what had been announced when it was asked, and maybe long after it looked."""
        assert self.answer is not None
        self.cache.suspects.settle(*self.answer)
        self.answer = None

    @rule()
    def suspects_are_given_up(self) -> None:
        count = len(self.cache.suspects)
        assert self.cache.suspects.forget_all() == count
        assert len(self.cache.suspects) == 0

    @rule(
        wanted=st.lists(st.tuples(oids, st.integers(0, 5)), min_size=1, max_size=12),
    )
    def answers_arrive_together(self, wanted: list[tuple[bytes, int]]) -> None:
        records = []
        for oid, back in wanted:
            found = self.revision_before(oid, self.clock + 1 - back)
            if found is not None:
                start, end = found
                ended = None if end is None else to_tid(end)
                records.append((oid, to_tid(start), ended, record_of(oid, start)))
        self.cache.store_many(records)
        self.seen = self.clock

    @precondition(lambda self: not self.untold)
    @rule(written=st.lists(oids, min_size=1, max_size=4, unique=True))
    def we_commit(self, written: list[bytes]) -> None:
        self.clock += 1
        tid = to_tid(self.clock)
        for oid in written:
            self.histories[oid].append(self.clock)
            self.cache.replace(oid, tid, record_of(oid, self.clock))
        self.cache.set_last_tid(tid)
        self.told = self.clock

    @rule(oid=oids, back=st.integers(0, 6))
    def a_load_is_answered(self, oid: bytes, back: int) -> None:
        # The server may know more than we have been told: the answer tells of it first.
        revision = self.revision_before(oid, max(0, self.clock + 1 - back))
        if revision is not None:
            start, end = revision
            self.cache.store(
                oid, to_tid(start), None if end is None else to_tid(end), record_of(oid, start)
            )
            self.seen = self.clock

    @rule(oid=oids)
    def an_invalidation_is_repeated(self, oid: bytes) -> None:
        told = [tid for tid in self.histories[oid] if tid <= self.told]
        if told:
            self.cache.invalidate(oid, to_tid(told[-1]))

    @rule(oid=oids)
    def an_object_is_forgotten(self, oid: bytes) -> None:
        self.cache.invalidate(oid, None)

    @rule()
    def everything_is_forgotten(self) -> None:
        self.cache.clear()
        assert len(self.cache) == 0
        assert self.cache.last_tid() == NO_TID
        self.cache.set_last_tid(to_tid(self.told))

    @rule(oid=oids)
    def what_fits_is_held_at_once(self, oid: bytes) -> None:
        revision = self.revision_before(oid, self.clock + 1)
        if revision is not None:
            start = to_tid(revision[0])
            data = record_of(oid, revision[0])
            self.cache.store(oid, start, None, data)
            self.seen = self.clock
            if len(data) + 64 < self.size // 6:
                assert self.cache.load_before(oid, to_tid(self.clock + 1)) == (data, start, None)

    @invariant()
    def answers_are_right(self) -> None:
        for oid in OIDS:
            for tid in range(max(0, self.told - 8), self.told + 2):
                found = self.cache.load_before(oid, to_tid(tid))
                if found is None:
                    continue
                data, start, end = found
                revision = self.revision_before(oid, tid)
                assert revision is not None
                assert start == to_tid(revision[0])
                assert data == record_of(oid, revision[0])
                if end is None:
                    assert revision[1] is None or revision[1] > self.told
                else:
                    assert end == to_tid(revision[1] or 0)

    @invariant()
    def it_is_bounded_and_counted(self) -> None:
        held = {
            (oid, found[1])
            for oid in OIDS
            for start in self.histories[oid]
            if (found := self.cache.load_before(oid, to_tid(start + 1))) is not None
        }
        assert len(self.cache) == len(held) + len(self.cache.suspects)
        assert self.cache.statistics().capacity <= self.size + HEADER_SIZE


class Image(NamedTuple):
    """The files as they were at one moment.

    :ivar size: of the cache.
    :ivar told: the last tid that the snapshot says.
    """

    size: int
    records: bytes
    snapshot: bytes
    told: int


class PersistentCacheMachine(CacheMachine):
    """The same with a cache that is closed and opened again, properly or after a crash."""

    images: list[Image]

    def make_cache(self) -> RingCache:
        if not hasattr(self, "directory"):
            self.directory = TemporaryDirectory()
            self.path = f"{self.directory.name}/cache.zec"
            self.images = []
        cache = RingCache(self.size, home=CacheHome(self.path))
        self.asked = self.answer = None  # whoever asked is gone
        if cache.last_tid() == NO_TID:
            # So does a client: what is as of nobody knows when cannot be verified.
            cache.clear()
        return cache

    def teardown(self) -> None:
        super().teardown()
        if hasattr(self, "directory"):
            self.directory.cleanup()

    @rule()
    def it_is_saved(self) -> None:
        self.cache.save()
        if os.path.exists(self.path + ".index"):
            records, snapshot = (Path(self.path + suffix).read_bytes() for suffix in ("", ".index"))
            told = int.from_bytes(parse_snapshot(snapshot).last_tid, "big")
            self.images.append(Image(self.size, records, snapshot, told))
            del self.images[:-8]

    @rule()
    def it_is_closed_and_opened(self) -> None:
        held, suspects = len(self.cache), len(self.cache.suspects)
        self.cache.close()
        self.cache = self.make_cache()
        if self.seen <= self.told != 0:
            assert len(self.cache) == held
            assert len(self.cache.suspects) == suspects
            assert self.cache.last_tid() == to_tid(self.told)
        self.it_goes_on_from_what_was_saved()

    @rule()
    def the_process_is_killed(self) -> None:
        self.kill()
        self.cache = self.make_cache()
        self.it_goes_on_from_what_was_saved()

    def kill(self) -> None:
        self.cache._rings.close()
        home = self.cache._home
        assert home is not None
        home.close()

    def it_goes_on_from_what_was_saved(self) -> None:
        self.told = int.from_bytes(self.cache.last_tid(), "big")
        # Without a server it is asked all the same.
        self.answers_are_right()
        self.the_server_tells_what_was_missed()

    @precondition(lambda self: self.images)
    @rule(choice=st.integers(0, 7), seed=st.integers(0, 2**32))
    def the_power_fails(self, choice: int, seed: int) -> None:
        """What is found is a snapshot of some time, and blocks of any time."""
        self.kill()
        chance = random.Random(seed)
        image = self.images[choice % len(self.images)]
        files = [Path(self.path).read_bytes(), *(image.records for image in self.images)]
        length = max(map(len, files))
        blocks = [
            chance.choice(files).ljust(length, b"\0")[at : at + 512]
            for at in range(HEADER_SIZE, length, 512)
        ]
        Path(self.path).write_bytes(image.records[:HEADER_SIZE] + b"".join(blocks))
        Path(self.path + ".index").write_bytes(image.snapshot)
        self.cache = self.make_cache()
        # In a file of another size the records of that snapshot need not be found.
        begins_empty = image.size != self.size and self.cache.last_tid() == NO_TID
        assert begins_empty or self.cache.last_tid() == to_tid(image.told)
        self.it_goes_on_from_what_was_saved()

    @rule(is_closed=st.booleans())
    def the_server_is_restored_to_what_the_cache_tells(self, is_closed: bool) -> None:
        """Nobody can notice that; and what comes next has later tids than what is lost."""
        if is_closed:
            self.cache.close()
        else:
            self.kill()
        self.cache = self.make_cache()
        self.told = int.from_bytes(self.cache.last_tid(), "big")
        for oid, history in self.histories.items():
            self.histories[oid] = [tid for tid in history if tid <= self.told]
        self.images = [image for image in self.images if image.told <= self.told]
        self.untold.clear()
        self.seen = self.told
        self.answers_are_right()

    @rule(size=st.integers(MINIMUM_SIZE, 4 * MINIMUM_SIZE))
    def it_gets_another_size(self, size: int) -> None:
        self.size = size
        self.cache.close()
        self.cache = self.make_cache()
        self.it_goes_on_from_what_was_saved()

    def the_server_tells_what_was_missed(self) -> None:
        for oid, history in self.histories.items():
            if history and history[-1] > self.told:
                self.cache.invalidate(oid, None)
        self.untold.clear()
        self.told = self.seen = self.clock
        self.cache.set_last_tid(to_tid(self.told))


TestPersistentCacheMachine = PersistentCacheMachine.TestCase
TestPersistentCacheMachine.settings = settings(
    max_examples=100, stateful_step_count=60, deadline=None
)
TestCacheMachine = CacheMachine.TestCase
TestCacheMachine.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
