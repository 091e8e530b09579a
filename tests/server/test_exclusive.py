"""Turns in a storage: who is told what, when the client aborts, goes or says nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.MappingStorage import MappingStorage
from ZODB.POSException import ConflictError, StorageTransactionError

from zeolith.errors import ClientDisconnected, NotCommitted, OutcomeUnknown
from zeolith.protocol.messages import Store
from zeolith.server.access import ConflictFound, StorageAccess
from zeolith.server.coordinator import Finished
from zeolith.server.exclusive import ExclusiveCoordinator
from zeolith.server.inbox import Inbox
from zeolith.server.invalidations import InvalidationLog
from zeolith.server.publisher import Publisher
from zeolith.server.replay import Vote
from zeolith.server.statistics import Statistics
from zeolith.server.transactions import Transaction
from zeolith.server.workers import Done, Job, WorkerPool
from zeolith.types import NO_TID

OID = bytes(7) + b"\1"


class Clock:
    """The time is what the test says."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], None]) -> Any:
        timer = (when, callback)
        self.timers.append(timer)
        clock = self

        class Handle:
            def cancel(self) -> None:
                if timer in clock.timers:
                    clock.timers.remove(timer)

        return Handle()

    def advance(self, seconds: float) -> None:
        self.now += seconds
        due = [timer for timer in self.timers if timer[0] <= self.now]
        for timer in due:
            self.timers.remove(timer)
            timer[1]()


class Steps(WorkerPool):
    """A pool of no threads: jobs run when the test says so, one at a time."""

    def __init__(self) -> None:
        super().__init__("steps", 1, Inbox())
        self.jobs: list[tuple[Job, Done | None]] = []

    def submit(self, job: Job, done: Done | None = None) -> None:
        self.jobs.append((job, done))

    def step(self) -> None:
        job, done = self.jobs.pop(0)
        result, error = None, None
        try:
            result = job()
        except Exception as caught:  # noqa: BLE001 - handed over, as a pool does
            error = caught
        assert done is not None
        done(result, error)

    def run(self) -> None:
        while self.jobs:
            self.step()


class Owner:
    """A session that writes down what it hears."""

    def __init__(self, name: str, bed: Bed) -> None:
        self.name = name
        self.bed = bed
        self.transaction = Transaction(1, TransactionMetaData(), 1 << 20)
        self.heard: list[Any] = []
        self.reasons: list[str] = []
        self.codec: Any = None

    def push(self, frame: bytes) -> None:
        raise AssertionError("nobody has subscribed")

    def drop(self, reason: str) -> None:
        self.reasons.append(reason)

    def close(self, reason: str) -> None:
        raise AssertionError("coordinators only drop")

    def store(self, oid: bytes = OID, serial: bytes = NO_TID) -> Owner:
        self.transaction.log.append(Store(oid, serial, self.name.encode(), 1))
        return self

    def vote(self) -> None:
        self.bed.coordinator.vote(
            self, self.transaction, lambda vote, error: self.heard.append(error or vote)
        )

    def finish(self) -> None:
        self.bed.coordinator.finish(
            self.transaction, lambda finished, error: self.heard.append(error or finished)
        )

    def abort(self) -> None:
        self.bed.coordinator.abort(self.transaction, lambda: self.heard.append("aborted"))


class Bed:
    """A coordinator whose threads and clock the test plays."""

    def __init__(self, timeout: float | None = 30.0) -> None:
        self.is_undisturbed = False  # so that every vote is a job that the test plays
        self.storage = MappingStorage()
        self.access = StorageAccess("1", self.storage)
        self.log = InvalidationLog(100, 100_000)
        self.log.reset(NO_TID, [])
        self.publisher = Publisher("1", self.log, lambda: None)
        self.stats = Statistics()
        self.pool = Steps()
        self.clock = Clock()
        self.settled: list[bool] = []
        self.failures = 0
        self.recorded: list[tuple[bytes | None, bytes, int]] = []
        self.coordinator = ExclusiveCoordinator(
            self.access,
            self.publisher,
            self.stats,
            self.pool,
            self.clock,
            timeout,
            False,
            self._settle,
            self._fail,
            self._record,
            lambda: self.is_undisturbed,
        )

    def _settle(self) -> None:
        self.settled.append(self.publisher.is_held)
        self.publisher.drain()

    def _fail(self) -> None:
        self.failures += 1

    def _record(self, uid: bytes | None, tid: bytes) -> None:
        # And whether it could be seen by then.
        self.recorded.append((uid, tid, len(self.storage)))

    def owner(self, name: str) -> Owner:
        return Owner(name, self)

    def assert_idle(self) -> None:
        self.pool.run()
        assert self.coordinator.is_idle
        assert self.coordinator.waiting == 0
        assert self.stats.lock_time is None
        assert self.storage.tpc_transaction() is None


@pytest.fixture
def bed() -> Bed:
    return Bed()


def test_a_commit(bed: Bed) -> None:
    one = bed.owner("one").store()
    one.vote()
    assert one.heard == []
    assert bed.stats.lock_time is not None
    bed.pool.step()
    assert one.heard == [([], [])]
    one.finish()
    # Nobody may look until the storage has finished.
    assert bed.publisher.is_held
    bed.pool.step()
    tid = bed.storage.lastTransaction()
    assert one.heard[1:] == [Finished(tid, {"length": 1, "size": bed.storage.getSize()})]
    assert bed.settled == [False]
    assert bed.log.after(NO_TID) == [(tid, OID)]
    bed.assert_idle()


def test_the_next_vote_comes_after_the_end(bed: Bed) -> None:
    one, two = bed.owner("one").store(), bed.owner("two").store(OID[:-1] + b"\2")
    one.vote()
    two.vote()
    assert bed.coordinator.waiting == 1
    bed.pool.run()
    assert (len(one.heard), len(two.heard)) == (1, 0)
    one.finish()
    bed.pool.run()
    assert (len(one.heard), len(two.heard)) == (2, 1)
    two.finish()
    bed.assert_idle()
    assert two.heard[1].tid > one.heard[1].tid


def test_a_failed_vote_frees_the_lock(bed: Bed) -> None:
    one, two = bed.owner("one").store(serial=b"9" * 8), bed.owner("two").store()
    bed.owner("zero").store()
    zero = bed.owner("zero").store()
    zero.vote()
    bed.pool.run()
    zero.finish()
    bed.pool.run()
    one.vote()
    two.vote()
    bed.pool.run()
    assert isinstance(one.heard[0], ConflictError)
    assert isinstance(two.heard[0], ConflictError)
    bed.assert_idle()


@pytest.mark.parametrize("how", ["waiting", "voting", "voted", "finishing"])
def test_b_the_client_goes(bed: Bed, how: str) -> None:
    """At any time: the next one gets its turn, and the storage is left clean."""
    first, two, three = (bed.owner(name).store() for name in ("first", "two", "three"))
    two.transaction.log.append(Store(OID[:-1] + b"\2", NO_TID, b"x", 1))
    if how == "waiting":
        first.vote()
        two.vote()
        three.vote()
        bed.pool.run()
        two.abort()
        assert isinstance(two.heard[0], StorageTransactionError)
        assert two.heard[1:] == ["aborted"]
        first.abort()
    else:
        two.vote()
        three.vote()
        if how == "voting":
            two.abort()
            two.abort()
            assert two.heard == []
        bed.pool.step()
        if how == "voting":
            assert isinstance(two.heard[0], StorageTransactionError)
        if how == "voted":
            two.abort()
        if how == "finishing":
            two.finish()
            two.abort()
        bed.pool.run()
        assert two.heard[-1] == "aborted"
    bed.pool.run()
    if how == "finishing":
        # Too late: it is committed, which is a conflict for the next one.
        assert isinstance(two.heard[1], Finished)
        assert isinstance(three.heard[0], ConflictError)
    else:
        assert three.heard == [([], [])]
        three.abort()
    bed.assert_idle()


def test_aborting_what_never_voted(bed: Bed) -> None:
    one = bed.owner("one")
    one.abort()
    assert one.heard == ["aborted"]


def test_r7_the_time_limit(bed: Bed, caplog: pytest.LogCaptureFixture) -> None:
    one, two = bed.owner("label 127.0.0.1:1").store(), bed.owner("two").store()
    one.vote()
    two.vote()
    # Not counted from the vote's beginning.
    bed.clock.advance(100)
    bed.pool.run()
    bed.clock.advance(29.9)
    assert one.reasons == []
    bed.clock.advance(0.2)
    assert one.reasons == ["transaction timeout"]
    # The lock is free when the storage has really forgotten the transaction, not before.
    assert two.heard == []
    bed.pool.step()
    assert bed.storage.tpc_transaction() is None
    bed.pool.step()
    assert two.heard == [([], [])]
    (record,) = [record for record in caplog.records if record.levelno == logging.CRITICAL]
    assert "label 127.0.0.1:1" in record.getMessage()
    assert "30.1 s" in record.getMessage()
    assert "1 waiting" in record.getMessage()
    assert bed.stats.timeouts == 1
    # Its connection goes as a consequence.
    one.abort()
    with pytest.raises(StorageTransactionError):
        one.finish()
    two.abort()
    bed.assert_idle()


def test_r7_the_time_limit_is_each_ones_own(bed: Bed) -> None:
    """A timer of an earlier transaction that fires finds nothing to do."""
    for turn in range(3):
        owner = bed.owner(str(turn)).store(bytes(7) + bytes([turn + 1]))
        owner.vote()
        bed.pool.run()
        bed.clock.advance(20)
        owner.finish()
        bed.pool.run()
        assert owner.reasons == []
    last = bed.owner("last").store(bytes(7) + b"\x09")
    last.vote()
    bed.pool.run()
    bed.clock.advance(29)
    bed.clock.advance(0.5)
    assert last.reasons == []
    bed.clock.advance(0.5)
    assert last.reasons == ["transaction timeout"]
    bed.assert_idle()


def test_no_time_limit() -> None:
    bed = Bed(timeout=None)
    one = bed.owner("one").store()
    one.vote()
    bed.pool.run()
    assert bed.clock.timers == []
    one.abort()
    bed.assert_idle()


@pytest.mark.parametrize("already", ["voting", "voted"])
def test_voting_twice(bed: Bed, already: str) -> None:
    one = bed.owner("one").store()
    one.vote()
    if already == "voted":
        bed.pool.run()
    with pytest.raises(StorageTransactionError, match=already):
        one.vote()
    bed.pool.run()
    assert one.heard == [([], [])]


def test_finishing_without_a_vote(bed: Bed) -> None:
    one = bed.owner("one").store()
    with pytest.raises(StorageTransactionError, match="finish"):
        one.finish()
    one.vote()
    with pytest.raises(StorageTransactionError, match="voting"):
        one.finish()
    bed.pool.run()
    one.abort()
    bed.assert_idle()


def test_a_storage_that_fails_while_finishing(bed: Bed, caplog: pytest.LogCaptureFixture) -> None:
    def fail(meta: Any, callback: Any) -> None:
        callback(b"7" * 8)
        raise OSError("disk on fire")

    bed.storage.tpc_finish = fail
    one, two = bed.owner("one").store(), bed.owner("two").store()
    one.vote()
    bed.pool.run()
    one.finish()
    two.vote()
    bed.pool.run()
    assert isinstance(one.heard[1], OSError)
    assert bed.failures == 1
    # Nobody is told of the transaction, nobody may look, nobody else gets the lock.
    bed.publisher.drain()
    assert bed.log.last_tid == NO_TID
    assert bed.publisher.is_held
    assert two.heard == []
    (record,) = [record for record in caplog.records if record.levelno == logging.CRITICAL]
    for part in ("one", "'1'", "disk on fire", (b"7" * 8).hex()):
        assert part in record.getMessage()
    # What the time limit has to say is said.
    assert bed.clock.timers == []


def test_a_storage_that_was_disconnected_while_finishing(bed: Bed) -> None:
    """A client of another server: that server knows what became of the transaction."""

    def fail(meta: Any, callback: Any) -> None:
        raise ClientDisconnected("gone")

    finish, bed.storage.tpc_finish = bed.storage.tpc_finish, fail
    one, two = bed.owner("one").store(), bed.owner("two").store()
    one.vote()
    two.vote()
    bed.pool.run()
    one.finish()
    bed.pool.step()
    bed.storage.tpc_finish = finish
    assert isinstance(one.heard[1], ClientDisconnected)
    assert bed.failures == 0
    bed.pool.run()
    assert two.heard == [([], [])]
    two.finish()
    bed.assert_idle()


def test_r4_a_commit_is_recorded_before_it_can_be_seen(bed: Bed) -> None:
    """Whoever asks after a kill is told of all that may be in the database."""
    uid = bytes(range(16))
    one, two = bed.owner("one").store(), bed.owner("two").store(bytes(7) + b"\2")
    one.transaction.uid = uid
    for owner in (one, two):
        owner.vote()
        bed.pool.run()
        owner.finish()
        bed.pool.run()
    first, second = one.heard[1].tid, two.heard[1].tid
    assert bed.recorded == [(uid, first, 0), (None, second, 1)]


@pytest.mark.parametrize(
    ("error", "is_fatal"),
    [
        (ClientDisconnected("gone"), False),
        (NotCommitted("gone"), False),
        (OutcomeUnknown("gone", "nobody knows"), False),
        (OSError("the disk is full"), True),
    ],
)
def test_errors_that_a_storage_survives(bed: Bed, error: Exception, is_fatal: bool) -> None:
    def fail(meta: Any, callback: Any) -> None:
        raise error

    finish, bed.storage.tpc_finish = bed.storage.tpc_finish, fail
    one = bed.owner("one").store()
    one.vote()
    bed.pool.run()
    one.finish()
    bed.pool.run()
    bed.storage.tpc_finish = finish
    assert one.heard[1] is error
    assert bed.failures == is_fatal
    assert bed.publisher.is_held == is_fatal


def test_a_size_that_cannot_be_told_is_no_failed_commit(
    bed: Bed, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise OSError("no idea")

    bed.storage.getSize = fail
    one = bed.owner("one").store()
    one.vote()
    bed.pool.run()
    one.finish()
    bed.assert_idle()
    assert one.heard[1] == Finished(bed.storage.lastTransaction(), None)
    assert "no idea" in caplog.text


@pytest.mark.parametrize(("count", "level"), [(3, "DEBUG"), (4, "WARNING"), (10, "CRITICAL")])
def test_long_queues_are_reported(
    bed: Bed, count: int, level: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for number in range(count + 1):
        bed.owner(f"client {number}").store().vote()
    last = [record for record in caplog.records if "waits" in record.getMessage()][-1]
    assert last.levelname == level
    assert f"client {count}" in last.getMessage()
    assert f"{count} waiting" in last.getMessage()


def test_a_small_vote_is_taken_on_the_loop_where_nothing_disturbs(bed: Bed) -> None:
    bed.is_undisturbed = True
    first = bed.owner("first").store()
    first.vote()
    assert first.heard == [Vote([], [])]
    assert not bed.pool.jobs
    first.finish()
    bed.assert_idle()


def test_a_conflict_that_nobody_resolves_is_found_on_the_loop(bed: Bed) -> None:
    bed.is_undisturbed = True
    first, second = bed.owner("first").store(), bed.owner("second").store()
    first.vote()
    first.finish()
    bed.pool.run()
    second.vote()
    assert not bed.pool.jobs
    assert isinstance(second.heard[0], ConflictError)
    bed.assert_idle()


def test_a_conflict_to_be_resolved_is_left_to_the_commit_thread(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    bed.is_undisturbed = True
    store = bed.storage.store

    def conflicting(*args: Any) -> None:
        if not bed.access.may_resolve:
            raise ConflictFound
        store(*args)

    monkeypatch.setattr(bed.storage, "store", conflicting)
    owner = bed.owner("one").store()
    owner.vote()
    assert owner.heard == []
    bed.pool.run()
    assert owner.heard
    owner.finish()
    bed.pool.run()
    bed.assert_idle()


def test_a_vote_that_fails_on_the_loop_frees_the_lock(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    bed.is_undisturbed = True

    def refuse(*args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(bed.storage, "tpc_vote", refuse)
    first = bed.owner("first").store()
    first.vote()
    assert isinstance(first.heard[0], OSError)
    bed.assert_idle()


def test_of_waiting_votes_only_the_last_is_taken_on_the_loop(bed: Bed) -> None:
    owners = [bed.owner(str(number)) for number in range(4)]
    for number, owner in enumerate(owners):
        owner.store(bytes([0] * 7 + [number + 1]))
        owner.vote()
    bed.is_undisturbed = True
    for owner in owners:
        bed.pool.run()
        assert owner.heard == [Vote([], [])]
        owner.finish()
        bed.pool.run()
    bed.assert_idle()
