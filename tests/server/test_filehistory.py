"""The transactions of a FileStorage, as its file tells them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.histories import Z64, commit, fill, listed
from ZODB.FileStorage import FileStorage
from ZODB.POSException import StorageError
from ZODB.serialize import referencesf

from zeolith.server.filehistory import FileHistory

X = (7).to_bytes(8, "big")


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[FileStorage]:
    found = FileStorage(str(tmp_path / "Data.fs"), pack_gc=False)
    yield found
    found.close()


def told(history: FileHistory) -> list[tuple[bytes, tuple[bytes, ...]]]:
    return [(found.tid, tuple(sorted(set(found.oids())))) for found in history]


def told_since(storage: Any, after: bytes) -> list[tuple[bytes, tuple[bytes, ...]]]:
    history = FileHistory(storage, after)
    try:
        return told(history)
    finally:
        history.close()


def test_an_empty_file(storage: FileStorage) -> None:
    assert told_since(storage, Z64) == []


def test_it_says_what_zodb_s_iterator_says_from_wherever_it_begins(storage: FileStorage) -> None:
    tids = fill(storage, 60)
    expected = listed(storage)
    assert [tid for tid, _ in expected] == tids
    for at, tid in enumerate(tids):
        assert told_since(storage, tid) == expected[at + 1 :]
        number = int.from_bytes(tid, "big")
        assert told_since(storage, (number - 1).to_bytes(8, "big")) == expected[at:]
        assert told_since(storage, (number + 1).to_bytes(8, "big")) == expected[at + 1 :]
    assert told_since(storage, Z64) == expected
    assert told_since(storage, b"\xff" * 8) == []


def test_records_without_data_of_their_own(storage: FileStorage) -> None:
    """Undo writes records that point to earlier ones, also to none."""
    from ZODB.Connection import TransactionMetaData

    first = commit(storage, X)
    commit(storage, X, data=b"more")
    for entry in storage.undoLog(0, 2):
        meta = TransactionMetaData()
        storage.tpc_begin(meta)
        storage.undo(entry["id"], meta)
        storage.tpc_vote(meta)
        storage.tpc_finish(meta)
    assert told_since(storage, Z64) == listed(storage)
    assert len(told_since(storage, first)) == 3


def test_what_is_written_later_is_found_too(storage: FileStorage) -> None:
    fill(storage, 3)
    history = FileHistory(storage, Z64)
    assert len(told(history)) == 3
    tid = commit(storage, X)
    assert told(history) == [(tid, (X,))]
    history.close()


def test_a_transaction_in_progress_is_not_told(storage: FileStorage) -> None:
    from ZODB.Connection import TransactionMetaData

    fill(storage, 3)
    expected = listed(storage)
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    storage.store(b"\x01" * 8, Z64, b"data", "", meta)
    storage.tpc_vote(meta)
    assert told_since(storage, Z64) == expected
    assert told_since(storage, expected[-1][0]) == []
    storage.tpc_abort(meta)


@pytest.mark.parametrize("is_ahead", [True, False])
@pytest.mark.parametrize("is_packed", [True, False])
def test_a_rest_loses_nothing_even_if_the_file_is_packed(
    storage: FileStorage, is_ahead: bool, is_packed: bool
) -> None:
    tids = fill(storage, 20, objects=5)
    history = FileHistory(storage, Z64)
    taken = [next(history).tid for _ in range(12)]
    assert taken == tids[:12]
    # What was returned last may be wanted again.
    history.rest(tids[10] if is_ahead else tids[11], is_ahead)
    if is_packed:
        import time

        storage.pack(time.time(), referencesf)
    commit(storage, X)
    after = tids[10] if is_ahead else tids[11]
    assert told(history) == listed(storage, after)
    history.close()


def test_a_rest_holds_no_file_open(storage: FileStorage) -> None:
    import os

    fill(storage, 3)
    history = FileHistory(storage, Z64)
    first = next(history)
    descriptor = history._fd
    os.fstat(descriptor)
    history.rest(first.tid, False)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    history.close()
    history.close()


def test_a_file_that_was_moved_away(storage: FileStorage, tmp_path: Path) -> None:
    fill(storage, 3)
    (tmp_path / "Data.fs").rename(tmp_path / "away.fs")
    (tmp_path / "Data.fs").write_bytes(b"FS30")
    with pytest.raises(OSError, match="cannot open"):
        told_since(storage, Z64)


@pytest.mark.parametrize("after", ["start", "first", "last but one"])
def test_a_damaged_file_is_an_error_and_no_silence(
    storage: FileStorage, tmp_path: Path, after: str
) -> None:
    """Each byte of the lengths in the headers is damaged once: nothing is left out in silence."""
    tids = fill(storage, 6)
    since = {"start": Z64, "first": tids[0], "last but one": tids[-2]}[after]
    expected = listed(storage, since)
    path = tmp_path / "Data.fs"
    whole = path.read_bytes()
    starts = [position for position in range(len(whole)) if whole[position : position + 8] in tids]
    for position in starts:
        for offset in range(8, 16):
            damaged = bytearray(whole)
            damaged[position + offset] ^= 0x40
            path.write_bytes(damaged)
            try:
                found = told_since(storage, since)
            except (StorageError, OSError):
                continue
            # It was a byte that tells nothing of what was asked for.
            assert found == expected
    path.write_bytes(whole)
    assert told_since(storage, since) == expected


@pytest.mark.parametrize("since", [0, 2])
def test_no_byte_s_damage_leaves_out_a_transaction_in_silence(
    storage: FileStorage, tmp_path: Path, since: int
) -> None:
    for number in range(1, 5):
        commit(storage, *(n.to_bytes(8, "big") for n in range(number)), data=b"d" * number)
    tids = [Z64, *(tid for tid, _ in listed(storage))]
    expected = listed(storage, tids[since])
    path = tmp_path / "Data.fs"
    whole = path.read_bytes()
    errors = 0
    named = {
        at + offset
        for at in range(len(whole))
        for offset in range(8)
        if whole[at : at + 8] in tids[1:]
    }
    # A damaged id leads to another place, if the place has to be found.
    for at in sorted(set(range(4, len(whole))) - (named if since else set())):
        damaged = bytearray(whole)
        damaged[at] ^= 0x40
        path.write_bytes(damaged)
        try:
            found = told_since(storage, tids[since])
        except (StorageError, OSError):
            errors += 1
            continue
        # Nobody can tell whether an object's id is the right one.
        assert [len(oids) for _, oids in found] == [len(oids) for _, oids in expected]
    path.write_bytes(whole)
    assert errors > 50
