"""The file that tells which unique id became which transaction: honest, whatever happens to it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import permutations
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.waiting import Background

from zeolith.server import outcomelog
from zeolith.server.outcomelog import NO_UID, RECORD_SIZE, OutcomeLog
from zeolith.types import NO_TID

IDENTITY = "8533cc74-68ff-41bd-bc70-cf7202d4e705"
OTHER = "7d9a1c0e-5b4f-4c3a-9e21-d0c8b7f6a5e4"


def tid(number: int) -> bytes:
    return number.to_bytes(8, "big")


def uid(number: int) -> bytes:
    return number.to_bytes(16, "big")


class Commit(NamedTuple):
    """A transaction that is in the database."""

    uid: bytes | None
    tid: bytes


def check_honest(log: OutcomeLog, commits: list[Commit], others: list[bytes]) -> None:
    """Check that whoever asks *log* is told the truth, or that it is not known.

    :param commits: what is in the database.
    :param others: unique ids of what is not.
    """
    for commit in commits:
        if commit.uid is not None:
            found = log.find(commit.uid)
            # Who asks had seen some transaction before it.
            assert found == commit.tid or (found is None and log.horizon >= commit.tid)
    for other in others:
        assert log.find(other) is None


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "Data.fs.outcomes"


Open = Callable[..., OutcomeLog]


@pytest.fixture
def opened(path: Path) -> Iterator[Open]:
    """Open the log of a database that ends at that transaction."""
    with ExitStack() as stack:

        def open_log(last: int = 0, identity: str = IDENTITY) -> OutcomeLog:
            log = OutcomeLog(str(path), identity, tid(last))
            stack.callback(log.close)
            return log

        yield open_log


def crash(log: OutcomeLog) -> None:
    """What a kill leaves: the file as it is."""
    assert log._descriptor is not None
    os.close(log._descriptor)
    log._descriptor = None
    log._path = None


# -- what is kept ------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [crash, OutcomeLog.close])
def test_r4_what_was_recorded_is_known_after_a_restart(
    opened: Open, end: Callable[[OutcomeLog], None]
) -> None:
    log = opened()
    assert log.horizon == NO_TID
    for number in range(1, 6):
        log.committed(uid(number), tid(number))
    end(log)
    log = opened(5)
    assert [log.find(uid(number)) for number in range(1, 7)] == [*map(tid, range(1, 6)), None]
    assert log.horizon == NO_TID


def test_without_a_file_it_is_known_as_long_as_the_process_lives(tmp_path: Path) -> None:
    log = OutcomeLog(None, "", tid(3))
    assert log.horizon == tid(3)
    log.committed(uid(4), tid(4))
    log.maintain()
    assert log.find(uid(4)) == tid(4)
    log.close()
    assert os.listdir(tmp_path) == []


def test_of_a_database_that_is_older_than_its_file_the_past_is_not_known(opened: Open) -> None:
    log = opened(7)
    assert log.horizon == tid(7)
    log.committed(uid(8), tid(8))
    crash(log)
    log = opened(8)
    assert log.horizon == tid(7)
    assert log.find(uid(8)) == tid(8)


def test_r4_what_the_database_has_not_was_not_committed(opened: Open, path: Path) -> None:
    """The server was killed between the record and the disk."""
    log = opened()
    log.committed(uid(1), tid(1))
    log.committed(uid(2), tid(2))
    crash(log)
    log = opened(1)
    assert log.find(uid(1)) == tid(1)
    assert log.find(uid(2)) is None
    assert log.horizon == NO_TID
    # Its tid may be given to another one.
    log.committed(uid(3), tid(2))
    crash(log)
    log = opened(2)
    assert log.find(uid(2)) is None
    assert log.find(uid(3)) == tid(2)
    assert log.horizon == NO_TID


def test_r4_what_only_the_database_has_is_not_known(opened: Open) -> None:
    """The machine stopped and the file lost its end, or somebody else wrote to the database."""
    log = opened()
    log.committed(uid(1), tid(1))
    crash(log)
    for _ in range(2):  # that is remembered
        log = opened(4)
        assert log.horizon == tid(4)
        assert log.find(uid(1)) == tid(1)
        crash(log)
    log = opened(4)
    log.committed(uid(5), tid(5))
    crash(log)
    log = opened(5)
    assert log.horizon == tid(4)
    assert log.find(uid(5)) == tid(5)


def test_transactions_without_a_unique_id_leave_no_gap(opened: Open) -> None:
    log = opened()
    log.committed(uid(1), tid(1))
    log.committed(None, tid(2))
    crash(log)
    log = opened(2)
    assert log.horizon == NO_TID
    assert log.find(NO_UID) is None
    assert log.find(uid(1)) == tid(1)


def test_the_file_of_another_database_counts_for_nothing(
    opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    log = opened()
    log.committed(uid(1), tid(1))
    crash(log)
    log = opened(1, OTHER)
    assert log.find(uid(1)) is None
    assert log.horizon == tid(1)
    assert "is removed" in caplog.text
    log.committed(uid(2), tid(2))
    crash(log)
    log = opened(2, OTHER)
    assert log.find(uid(2)) == tid(2)
    assert log.horizon == tid(1)


# -- damage ------------------------------------------------------------------------------------


def small_file(opened: Open) -> list[Commit]:
    """Make a file with a record of each sort; return what it says."""
    log = opened(2)
    commits = [Commit(uid(3), tid(3)), Commit(None, tid(4)), Commit(uid(5), tid(6))]
    for commit in commits:
        log.committed(*commit)
    crash(log)
    return commits


def test_a_file_cut_at_every_byte(opened: Open, path: Path) -> None:
    commits = small_file(opened)
    whole = path.read_bytes()
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        log = opened(6)
        check_honest(log, commits, [uid(1), uid(7)])
        assert (log.horizon == tid(2)) is (size == len(whole))
        # It goes on from there.
        log.committed(uid(7), tid(7))
        crash(log)
        log = opened(7)
        check_honest(log, [*commits, Commit(uid(7), tid(7))], [uid(1)])
        assert log.find(uid(7)) == tid(7)
        assert log.horizon < tid(7)
        crash(log)


def test_every_bit_of_a_file_flipped(opened: Open, path: Path) -> None:
    commits = small_file(opened)
    whole = path.read_bytes()
    assert len(whole) == 28 + 4 * RECORD_SIZE
    for at in range(len(whole)):
        for bit in range(8):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
            log = opened(6)
            check_honest(log, commits, [uid(1), uid(7)])
            assert log.horizon == tid(6)
            crash(log)


@pytest.mark.parametrize(
    "rest", [b"x", b"x" * RECORD_SIZE, bytes(RECORD_SIZE), bytes(5 * RECORD_SIZE + 3)]
)
def test_what_follows_the_last_record_is_removed(opened: Open, path: Path, rest: bytes) -> None:
    """Such as the zeros that a file system leaves when the machine stops."""
    commits = small_file(opened)
    whole = path.read_bytes()
    path.write_bytes(whole + rest)
    log = opened(6)
    check_honest(log, commits, [uid(1), uid(7), NO_UID])
    assert log.horizon == tid(2)
    crash(log)
    assert path.read_bytes() == whole


def test_a_file_with_some_of_its_records_in_any_order(opened: Open, path: Path) -> None:
    commits = small_file(opened)
    whole = path.read_bytes()
    head, records = whole[:28], [whole[at : at + 28] for at in range(28, len(whole), 28)]
    for count in range(4):
        for some in permutations(records, count):
            path.write_bytes(head + b"".join(some))
            log = opened(6)
            check_honest(log, commits, [uid(1), uid(7)])
            crash(log)


# -- bounds ------------------------------------------------------------------------------------


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomelog, "KEPT", 10)
    monkeypatch.setattr(outcomelog, "MOST_RECORDS", 20)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("end", [crash, OutcomeLog.close])
def test_r8_the_newest_are_kept(
    opened: Open, path: Path, end: Callable[[OutcomeLog], None]
) -> None:
    log = opened()
    commits: list[Commit] = []
    due = 0
    for number in range(1, 201):
        commits.append(Commit(uid(number) if number % 3 else None, tid(number)))
        log.committed(*commits[-1])
        if log.is_due:
            due += 1
            log.is_due = False
            log.maintain()
            assert not path.with_suffix(".outcomes.new").exists()
        assert len(log._tids) <= 10
        assert path.stat().st_size <= 28 + 20 * RECORD_SIZE
        check_honest(log, commits, [uid(1000)])
    assert 5 < due < 40
    assert log.find(uid(200)) == tid(200)
    assert log.find(uid(179)) is None
    end(log)
    again = opened(200)
    check_honest(again, commits, [uid(1000)])
    assert again.horizon == log.horizon
    assert again._tids == log._tids


@pytest.mark.usefixtures("few")
def test_what_is_older_than_a_gap_is_kept_when_the_file_is_written_anew(opened: Open) -> None:
    log = opened()
    log.committed(uid(1), tid(1))
    crash(log)
    log = opened(2)
    commits = [Commit(uid(1), tid(1))]
    for number in range(3, 25):
        commits.append(Commit(uid(number) if number > 18 else None, tid(number)))
        log.committed(*commits[-1])
    assert log.is_due
    log.maintain()
    crash(log)
    log = opened(24)
    check_honest(log, commits, [uid(2)])
    assert log.find(uid(1)) == tid(1)
    assert log.horizon == tid(2)


@pytest.mark.usefixtures("few")
def test_commits_while_the_file_is_written_anew(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are in the new file, too."""
    log = opened()
    commits = [Commit(uid(number), tid(number)) for number in range(1, 31)]
    for commit in commits[:25]:
        log.committed(*commit)
    reached, go_on = threading.Event(), threading.Event()
    fsync = os.fsync

    def slow_fsync(descriptor: int) -> None:
        reached.set()
        assert go_on.wait(10)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", slow_fsync)
    thread = Background(log.maintain)
    assert reached.wait(10)
    for commit in commits[25:]:
        log.committed(*commit)  # waits for no disk
    go_on.set()
    thread.result()
    crash(log)
    log = opened(30)
    check_honest(log, commits, [])
    assert log.find(uid(30)) == tid(30)
    assert log.horizon == tid(20)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("step", ["fsync", "replace", "write"])
def test_a_file_that_cannot_be_written_anew_stays(
    opened: Open,
    path: Path,
    step: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = opened()
    commits = [Commit(uid(number), tid(number)) for number in range(1, 31)]
    for commit in commits[:25]:
        log.committed(*commit)

    def fail(*args: Any) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail)
        log.maintain()
        log.maintain()
    assert caplog.text.count("the disk is full") == 1
    assert sorted(os.listdir(path.parent)) == [path.name]
    for commit in commits[25:]:
        log.committed(*commit)
    check_honest(log, commits, [])
    # Whoever opens what is there now is told nothing wrong.
    copy = path.parent / "copy"
    copy.write_bytes(path.read_bytes())
    other = OutcomeLog(str(copy), IDENTITY, tid(30))
    check_honest(other, commits, [])
    other.close()
    # When it works again everything is there.
    log.maintain()
    crash(log)
    log = opened(30)
    assert log.find(uid(30)) == tid(30)
    assert log.horizon == tid(20)


# -- failures ----------------------------------------------------------------------------------


@pytest.mark.parametrize("written", [None, 0, 13])
def test_r4_a_record_that_cannot_be_written_is_said_once_and_leaves_nothing_wrong(
    opened: Open,
    path: Path,
    written: int | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The commit goes on; the answer after a restart is that nothing is known."""
    log = opened()
    commits = [Commit(uid(number), tid(number)) for number in range(1, 6)]
    log.committed(*commits[0])
    write = os.write

    def fail(descriptor: int, data: bytes) -> int:
        if written is None:
            raise OSError("the disk is full")
        return write(descriptor, data[:written])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fail)
        log.committed(*commits[1])
        log.committed(*commits[2])
    # Nothing may come behind what is missing.
    log.committed(*commits[3])
    assert caplog.text.count("cannot be written") == 1
    check_honest(log, commits[:4], [uid(9)])
    assert log.find(uid(3)) == tid(3)
    copy = path.parent / "copy"
    copy.write_bytes(path.read_bytes())
    other = OutcomeLog(str(copy), IDENTITY, tid(4))
    check_honest(other, commits[:4], [uid(9)])
    assert other.horizon == tid(4)
    assert other.find(uid(1)) == tid(1)
    other.close()
    # Until it can be written again.
    log.maintain()
    log.committed(*commits[4])
    crash(log)
    log = opened(5)
    assert [log.find(commit.uid or b"") for commit in commits] == [c.tid for c in commits]
    assert log.horizon == NO_TID


def test_a_file_that_cannot_be_opened(
    opened: Open, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.mkdir()
    log = opened(3)
    assert "cannot be written" in caplog.text
    log.committed(uid(4), tid(4))
    assert log.find(uid(4)) == tid(4)
    assert log.horizon == tid(3)
    path.rmdir()
    log.maintain()
    crash(log)
    assert opened(4).find(uid(4)) == tid(4)


def test_after_its_end_nothing_is_written(opened: Open, path: Path) -> None:
    log = opened()
    log.committed(uid(1), tid(1))
    log.close()
    size = path.stat().st_size
    log.committed(uid(2), tid(2))
    log.maintain()
    log.close()
    assert path.stat().st_size == size


def test_it_is_flushed_now_and_then(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    log = opened()
    flushed: list[int] = []
    monkeypatch.setattr(os, "fsync", flushed.append)
    log.committed(uid(1), tid(1))
    assert flushed == []
    log.maintain()
    assert len(flushed) == 1
    log.maintain()
    assert len(flushed) == 1
    log.committed(uid(2), tid(2))
    log.close()
    assert len(flushed) == 2


# -- anything ----------------------------------------------------------------------------------

_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("commit"), st.booleans()),
        st.tuples(st.just("maintain"), st.none()),
        # The server is killed in a commit that is on disk, or is not.
        st.tuples(st.just("kill"), st.booleans()),
        # The machine stops: the file loses some of its end.
        st.tuples(st.just("power"), st.integers(0, 3 * RECORD_SIZE)),
        st.tuples(st.just("stranger"), st.integers(1, 3)),
        st.tuples(st.just("write fails"), st.integers(0, 27)),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(_STEPS)
def test_whatever_happens_it_is_honest(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, Any]]
) -> None:
    path = tmp_path_factory.mktemp("model") / "Data.fs.outcomes"
    commits: list[Commit] = []
    others: list[bytes] = []
    number = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outcomelog, "KEPT", 10)
        patch.setattr(outcomelog, "MOST_RECORDS", 20)

        def open_log() -> OutcomeLog:
            return OutcomeLog(str(path), IDENTITY, commits[-1].tid if commits else NO_TID)

        log = open_log()
        for step, value in steps:
            number += 1
            if step == "commit":
                commits.append(Commit(uid(number) if value else None, tid(number)))
                log.committed(*commits[-1])
            elif step == "maintain":
                log.maintain()
            elif step == "write fails":
                write = os.write
                commits.append(Commit(uid(number), tid(number)))
                with patch.context() as inner:
                    inner.setattr(os, "write", lambda fd, data: write(fd, data[:value]))  # noqa: B023
                    log.committed(*commits[-1])
            elif step == "stranger":
                crash(log)
                for _ in range(value):
                    number += 1
                    commits.append(Commit(None, tid(number)))
                log = open_log()
            else:
                log.committed(uid(number), tid(number))
                crash(log)
                if step == "power":
                    # What was flushed stays; losing more than that does no harm either.
                    os.truncate(path, max(0, path.stat().st_size - value))
                if value is False:
                    others.append(uid(number))
                else:
                    commits.append(Commit(uid(number), tid(number)))
                log = open_log()
            check_honest(log, commits, others)
        log.close()
        check_honest(open_log_closed(open_log()), commits, others)


def open_log_closed(log: OutcomeLog) -> OutcomeLog:
    log.close()
    return log
