"""What a cache reads in the files of others: right as of what it knows itself, or nothing (R6)."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from zeolith.cache import MINIMUM_SIZE, RingCache, SharedCache, Siblings
from zeolith.cache import journal as journal_module
from zeolith.cache.home import CacheHome
from zeolith.cache.interface import ClientCache
from zeolith.cache.siblings import Sibling
from zeolith.protocol.hello import Database
from zeolith.types import MAX_TID, NO_TID

DATABASE = Database("identity", 1)
OID = b"\0" * 7 + b"\7"


def to_tid(n: int) -> bytes:
    return n.to_bytes(8, "big")


T = [to_tid(n) for n in range(20)]

Open = Callable[..., SharedCache]


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Open]:
    paths = [str(tmp_path / f"cache.{number}") for number in range(3)]
    opened: list[SharedCache] = []

    def open_one(number: int | None, last_tid: bytes = NO_TID) -> SharedCache:
        home = None if number is None else CacheHome(paths[number])
        others = [path for path in paths if home is None or path != home.path]
        cache = SharedCache(RingCache(20_000, home=home), Siblings(others, 1 << 20))
        opened.append(cache)
        if last_tid != NO_TID:
            connect(cache, last_tid)
        return cache

    yield open_one
    for cache in opened:
        cache.close()


def connect(cache: ClientCache, tid: bytes, database: Database | None = DATABASE) -> None:
    cache.set_last_tid(tid)
    cache.set_database(database)


def announce(cache: ClientCache, tid: bytes, *oids: bytes) -> None:
    for oid in oids:
        cache.invalidate(oid, tid)
    cache.set_last_tid(tid)


@pytest.fixture
def writer(process: Open) -> SharedCache:
    """It has saved the revision that transaction 3 wrote, as of transaction 5."""
    cache = process(0, T[5])
    cache.store(OID, T[3], None, b"three")
    cache.save()
    return cache


THREE = (b"three", T[3], None)


def test_what_another_process_holds(process: Open, writer: SharedCache) -> None:
    reader = process(1, T[5])
    assert reader.load_before(OID, MAX_TID) == THREE
    assert reader.load_before(OID, T[4]) == THREE
    assert reader.load_before(OID, T[3]) is None
    assert reader.load_before(to_tid(1_000), MAX_TID) is None
    assert (reader.statistics().borrowed, len(reader)) == (2, 0)
    assert writer.load_before(OID, MAX_TID) == THREE
    assert writer.statistics().borrowed == 0


def test_what_it_holds_itself_comes_first(process: Open, writer: SharedCache) -> None:
    reader = process(1, T[5])
    reader.store(OID, T[3], None, b"three")
    assert reader.load_before(OID, MAX_TID) == THREE
    assert reader.statistics().borrowed == 0


def test_what_is_announced_ends_it(process: Open, writer: SharedCache) -> None:
    reader = process(1, T[5])
    announce(reader, T[6], to_tid(1_000))
    assert reader.load_before(OID, MAX_TID) == THREE
    announce(reader, T[7], OID)
    assert reader.load_before(OID, MAX_TID) is None
    # The writer learns of it too, and loads what there is now.
    announce(writer, T[7], OID)
    writer.store(OID, T[7], None, b"seven")
    writer.save()
    assert reader.load_before(OID, MAX_TID) is None
    reader.look_around()
    assert reader.load_before(OID, MAX_TID) == (b"seven", T[7], None)


def test_what_is_being_announced_is_not_served_any_more(process: Open, writer: SharedCache) -> None:
    reader = process(1, T[5])
    reader.invalidate(OID, T[6])
    assert reader.load_before(OID, MAX_TID) is None


def test_what_nobody_was_told_of_is_not_believed(process: Open, writer: SharedCache) -> None:
    reader = process(1, T[5])
    reader.set_last_tid(T[9])
    assert reader.load_before(OID, MAX_TID) is None


def test_what_the_server_says_has_changed_meanwhile(process: Open, writer: SharedCache) -> None:
    for changed, found in (([to_tid(1_000)], THREE), ([OID], None)):
        reader = process(None)
        assert reader.unknown_since(DATABASE, T[9]) == [T[5]]
        reader.learn_changes(T[5], T[10], changed)
        connect(reader, T[9])
        assert reader.load_before(OID, MAX_TID) == found
        announce(reader, T[10], to_tid(1_001))
        assert reader.load_before(OID, MAX_TID) == found


def test_whom_to_ask_for(process: Open, writer: SharedCache) -> None:
    second = process(1, T[8])
    second.save()
    reader = process(None)
    assert reader.unknown_since(DATABASE, T[9]) == [T[8], T[5]]
    assert reader.unknown_since(DATABASE, T[8]) == [T[5]]
    assert reader.unknown_since(DATABASE, T[4]) == []
    assert reader.unknown_since(Database("identity", 2), T[9]) == []
    assert reader.unknown_since(None, T[9]) == []


def test_too_many_changes_are_not_taken_in(
    process: Open, writer: SharedCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R8."""
    monkeypatch.setattr("zeolith.cache.shared.MAX_CHANGES", 2)
    reader = process(None)
    reader.learn_changes(T[5], T[9], [to_tid(n) for n in range(1_000, 1_003)])
    connect(reader, T[9])
    assert reader.load_before(OID, MAX_TID) is None


def test_more_announcements_than_it_remembers(
    process: Open, writer: SharedCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R8: an old snapshot is not believed any more then; a later one is."""
    monkeypatch.setattr(journal_module, "MAX_CHANGES", 50)
    reader = process(1, T[5])
    for n in range(6, 100):
        announce(reader, to_tid(n), to_tid(n))
    assert reader.load_before(OID, MAX_TID) is None
    announce(writer, to_tid(99), to_tid(99))
    writer.save()
    reader.look_around()
    assert reader.load_before(OID, MAX_TID) == THREE


def test_what_is_not_needed_any_more_is_forgotten(process: Open, writer: SharedCache) -> None:
    """R8: what was announced since the oldest snapshot that is read, and no more."""
    reader = process(1, T[5])
    for n in range(6, 20):
        announce(reader, T[n], to_tid(1_000 + n))
        announce(writer, T[n], to_tid(1_000 + n))
        writer.save()
        reader.look_around()
        assert len(reader._journal) == 0
        assert reader.load_before(OID, MAX_TID) == THREE


def test_one_that_is_ahead_is_believed_as_far_as_we_are(process: Open, writer: SharedCache) -> None:
    reader = process(1, T[4])
    assert reader.load_before(OID, MAX_TID) == THREE
    announce(reader, T[5], OID)
    # What the snapshot says of the time up to 5 may come from a history that the server lost.
    assert reader.load_before(OID, MAX_TID) is None


def test_what_began_later_than_we_know_is_no_answer(process: Open, writer: SharedCache) -> None:
    """R3."""
    reader = process(1, T[2])
    assert reader.load_before(OID, MAX_TID) is None
    reader.set_last_tid(T[5])
    assert reader.load_before(OID, MAX_TID) is None


def test_a_later_revision_at_the_same_place(tmp_path: Path, process: Open) -> None:
    writer = RingCache(MINIMUM_SIZE, home=CacheHome(str(tmp_path / "cache.0")))
    connect(writer, T[5])
    writer.store(OID, T[3], None, b"three")
    writer.save()
    place = writer._index.get(OID)
    reader = process(1, T[5])
    announce(writer, T[6], OID)
    for n in range(1_000, 2_000):
        writer.store(to_tid(n), T[1], None, b"f" * 8)
        writer.invalidate(OID, None)
        writer.store(OID, T[6], None, b"sixth")
        if writer._index.get(OID) == place:
            break
    else:
        pytest.fail("it never came to lie there")
    assert reader.load_before(OID, MAX_TID) is None
    announce(reader, T[6], OID)
    assert reader.load_before(OID, MAX_TID) is None
    writer.close()


@pytest.mark.parametrize("other", [Database("another", 1), Database("identity", 2), None])
def test_another_database_is_not_read(
    process: Open, writer: SharedCache, other: Database | None
) -> None:
    reader = process(1)
    connect(reader, T[5], other)
    assert reader.load_before(OID, MAX_TID) is None


def test_a_server_that_does_not_say_which_it_is(
    process: Open, caplog: pytest.LogCaptureFixture
) -> None:
    writer = process(0)
    connect(writer, T[5], None)
    writer.store(OID, T[3], None, b"three")
    writer.save()
    caplog.clear()
    reader = process(1)
    for _ in range(3):
        connect(reader, T[5], None)
    assert reader.load_before(OID, MAX_TID) is None
    (record,) = caplog.records
    assert "not shared" in record.message
    assert record.levelno == logging.WARNING


def test_what_we_drop_is_not_read_at_theirs(process: Open, writer: SharedCache) -> None:
    reader = process(1, T[5])
    reader.clear()
    connect(reader, T[5])
    assert reader.load_before(OID, MAX_TID) is None
    reader.look_around()
    assert reader.load_before(OID, MAX_TID) is None
    announce(writer, T[6], to_tid(1_000))
    writer.save()
    announce(reader, T[6], to_tid(1_000))
    reader.look_around()
    assert reader.load_before(OID, MAX_TID) == THREE


def test_dropped_while_it_is_being_read(
    process: Open, writer: SharedCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server was restored meanwhile, and goes as far as before by other transactions."""
    reader = process(1, T[5])
    read = Sibling.read

    def read_slowly(sibling: Sibling, oid: bytes) -> bytes | None:
        found = read(sibling, oid)
        reader.clear()
        reader.set_last_tid(T[5])
        return found

    monkeypatch.setattr(Sibling, "read", read_slowly)
    assert reader.load_before(OID, MAX_TID) is None


def test_what_caused_a_conflict_is_not_read_again(process: Open, writer: SharedCache) -> None:
    reader = process(1, T[5])
    reader.invalidate(OID, None)
    assert reader.load_before(OID, MAX_TID) is None
    announce(reader, T[6], to_tid(1_000))
    assert reader.load_before(OID, MAX_TID) is None


def test_what_we_commit_ourselves_ends_it(process: Open, writer: SharedCache) -> None:
    reader = process(1, T[5])
    # Too large to be kept here: what others hold is older all the same.
    reader.replace(OID, T[6], b"s" * 20_000)
    assert reader.load_before(OID, MAX_TID) is None
    reader.set_last_tid(T[6])
    assert reader.load_before(OID, MAX_TID) is None


def test_without_a_server_it_begins_where_the_others_are(
    process: Open, writer: SharedCache
) -> None:
    announce(writer, T[8], to_tid(1_000))
    writer.save()
    reader = process(1)
    assert reader.load_before(OID, MAX_TID) is None
    reader.begin_as_sibling()
    assert (reader.last_tid(), reader.database) == (T[8], DATABASE)
    assert reader.load_before(OID, MAX_TID) == THREE


def test_without_a_server_it_shows_nothing_later_than_it_knows(
    process: Open, writer: SharedCache
) -> None:
    """R3."""
    process(1, T[2]).close()
    reader = process(1)
    assert (reader.last_tid(), reader.database) == (T[2], DATABASE)
    assert reader.load_before(OID, MAX_TID) is None


def test_who_knows_something_goes_on_from_there(process: Open, writer: SharedCache) -> None:
    process(1, T[4]).close()
    reader = process(1)
    reader.begin_as_sibling()
    assert reader.last_tid() == T[4]
    assert reader.load_before(OID, MAX_TID) == THREE


def test_after_its_end_it_reads_nothing(process: Open, writer: SharedCache) -> None:
    reader = process(1, T[5])
    reader.close()
    reader.look_around()
    assert reader.load_before(OID, MAX_TID) is None


def test_it_may_end_while_somebody_looks(
    process: Open, writer: SharedCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = process(1, T[5])
    found = reader._siblings.look()

    def look() -> list[Sibling]:
        reader.close()
        return found

    monkeypatch.setattr(reader._siblings, "look", look)
    reader.look_around()
    assert reader.load_before(OID, MAX_TID) is None


def test_one_that_was_ahead_is_believed_as_of_then(process: Open, writer: SharedCache) -> None:
    """R6: what it knows beyond us might be of a history that the server has lost."""
    reader = process(1, T[5])
    writer.replace(OID, T[6], b"six")
    writer.set_last_tid(T[6])
    writer.save()
    reader.look_around()
    announce(reader, T[7], to_tid(99))
    assert reader.load_before(OID, MAX_TID) is None


def test_what_is_known_of_changes_goes_with_the_rest(process: Open, writer: SharedCache) -> None:
    """R6: it was of a history that the server has lost."""
    reader = process(1, T[4])
    announce(reader, T[10], to_tid(99))
    reader.clear()
    connect(reader, T[3])
    # What the third process saves is as of 5; what happened then up to 8 is not known.
    third = process(2, T[5])
    third.store(OID, T[3], None, b"three")
    third.save()
    reader.set_last_tid(T[8])
    reader.look_around()
    assert reader.load_before(OID, MAX_TID) is None


def test_its_end_gives_back_the_files_of_others(process: Open, writer: SharedCache) -> None:
    before = len(os.listdir("/proc/self/fd"))
    reader = process(1, T[5])
    assert reader.load_before(OID, MAX_TID) == THREE
    reader.close()
    reader.look_around()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_disk_that_fails_leaves_what_others_have(process: Open, writer: SharedCache) -> None:
    reader = process(1, T[5])
    reader.own._degrade(OSError("gone"))
    assert reader.load_before(OID, MAX_TID) == THREE
    announce(reader, T[6], OID)
    assert reader.load_before(OID, MAX_TID) is None


def test_read_while_it_is_written(process: Open) -> None:
    """R6: one process commits and saves all the time, another is told and reads all the time."""
    writer, reader = process(0, T[1]), process(1, T[1])
    # What was announced to the reader: it must not see what was before that.
    changed: dict[bytes, int] = {}
    is_over = threading.Event()
    wrong: list[object] = []
    oids = [to_tid(n) for n in range(1, 30)]

    def read() -> None:
        while not is_over.is_set():
            for oid in oids:
                known = changed.get(oid, 0)
                found = reader.load_before(oid, MAX_TID)
                if found is not None:
                    data, start, _ = found
                    told = int.from_bytes(reader.last_tid(), "big")
                    if (
                        data[:16] != oid + start
                        or not known <= int.from_bytes(start, "big") <= told
                    ):
                        wrong.append((oid, found, known))

    thread = threading.Thread(target=read)
    thread.start()
    try:
        for n in range(2, 800):
            tid, oid = to_tid(n), oids[n * 7 % len(oids)]
            announce(writer, tid, oid)
            writer.store(oid, tid, None, (oid + tid) * (1 + n % 30))
            if n % 5 == 0:
                writer.save()
            announce(reader, tid, oid)
            changed[oid] = n
            if n % 7 == 0:
                reader.look_around()
    finally:
        is_over.set()
        thread.join()
    assert not wrong
    assert reader.statistics().borrowed > 50
