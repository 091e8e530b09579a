"""Packing a FileStorage aside: the result is ZODB's own, whatever happens meanwhile."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import stat
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.support.packing import (
    Contents,
    commit,
    debris,
    files_of,
    open_storage,
    packed_aside,
    resume,
    snapshot,
    stop_at,
    wait_gone,
    wait_stopped,
)
from tests.support.storages import hook
from tests.support.waiting import Background, promptly, wait_until
from ZODB.blob import BlobStorage
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.POSException import ReadOnlyError, StorageError
from ZODB.serialize import referencesf
from ZODB.utils import maxtid, z64

from zeolith.server import filepacker, packprocess
from zeolith.server.filepacker import PackCancelled, can_pack_aside

# -- the result --------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["middle", "end"])
@pytest.mark.parametrize("gc", [True, False])
@pytest.mark.parametrize("keep", [True, False])
def test_the_result_is_that_of_zodb(
    database: tuple[Contents, Path], when: str, gc: bool, keep: bool, tmp_path: Path
) -> None:
    contents, ours = database
    theirs = tmp_path / "theirs"
    shutil.copytree(ours, theirs)
    t = getattr(contents, when)
    options: dict[str, Any] = {"pack_gc": gc, "pack_keep_old": keep}
    with closing(open_storage(theirs, **options)) as storage:
        before = storage.getSize()
        storage.pack(t, referencesf)
        index = dict(storage._index.items())
        assert storage.getSize() < before
    with packed_aside(ours, **options) as (storage, packer):
        packer.pack(t, referencesf)
        assert dict(storage._index.items()) == index
        assert snapshot(storage) == contents.expected
    found, expected = files_of(ours), files_of(theirs)
    assert set(found) == set(expected)
    assert {name for name in found if found[name] != expected[name]} == set()
    assert (("Data.fs.old" in found), ("blobs.old/.layout" in found)) == (keep, keep)
    # What is on disk for the next start is the same as what is in memory.
    with closing(open_storage(ours)) as storage:
        assert storage._used_index
        assert dict(storage._index.items()) == index


def test_the_estimate_is_what_comes(database: tuple[Contents, Path]) -> None:
    contents, directory = database
    with packed_aside(directory) as (storage, packer):
        before = files_of(directory)
        estimate = packer.estimate(contents.middle)
        assert files_of(directory) == before
        assert estimate["before"] == storage.getSize()
        packer.pack(contents.middle, referencesf)
        assert estimate["after"] == storage.getSize()
    after = files_of(directory)
    gone = {
        name for name in before
        if name.endswith(".blob") and name not in after
    }  # fmt: skip
    assert estimate["blobs"] == len(gone) > 0
    assert estimate["blob_bytes"] == sum(len(before[name]) for name in gone)


def test_a_second_pack_changes_nothing(database: tuple[Contents, Path]) -> None:
    contents, directory = database
    with packed_aside(directory) as (storage, packer):
        packer.pack(contents.end, referencesf)
        size = storage.getSize()
        packer.pack(contents.end, referencesf)
        packer.pack(contents.middle, referencesf)
        assert storage.getSize() == size
        assert packer.estimate(contents.end) == {
            "before": size, "after": size, "blobs": 0, "blob_bytes": 0
        }  # fmt: skip
        assert debris(directory) == []
        assert snapshot(storage) == contents.expected


def test_an_empty_database_needs_no_pack(tmp_path: Path) -> None:
    with packed_aside(tmp_path) as (storage, packer):
        packer.pack(time.time(), referencesf)
        assert packer.estimate(time.time())["after"] == storage.getSize() == 4


def test_a_read_only_storage_is_not_packed(database: tuple[Contents, Path]) -> None:
    contents, directory = database
    with (
        packed_aside(directory, read_only=True) as (_, packer),
        pytest.raises(ReadOnlyError),
    ):
        packer.pack(contents.end, referencesf)


def test_records_that_only_the_caller_can_read_are_packed_by_zodb(
    database: tuple[Contents, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    contents, directory = database
    monkeypatch.setattr(packprocess, "_PROGRAM", ("-c", "raise SystemExit(3)"))
    with packed_aside(directory) as (storage, packer):
        size = storage.getSize()
        packer.pack(contents.end, lambda *arguments: referencesf(*arguments))
        assert storage.getSize() < size
        assert snapshot(storage) == contents.expected


def test_the_new_file_has_the_rights_of_the_old(database: tuple[Contents, Path]) -> None:
    contents, directory = database
    path = directory / "Data.fs"
    path.chmod(0o640)
    with packed_aside(directory) as (_, packer):
        packer.pack(contents.end, referencesf)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_only_plain_file_storages_are_packed_aside(tmp_path: Path) -> None:
    class Other(FileStorage):
        pass

    (tmp_path / "inner").mkdir()
    with (
        closing(open_storage(tmp_path)) as plain,
        closing(Other(str(tmp_path / "other.fs"))) as other,
        closing(FileStorage(str(tmp_path / "own.fs"), packer=lambda *_: None)) as own,
        closing(open_storage(tmp_path / "inner")) as inner,
    ):
        wrapper = BlobStorage(str(tmp_path / "b"), inner)
        assert [can_pack_aside(s) for s in (plain, other, own, wrapper, inner)] == [
            True, False, False, False, True
        ]  # fmt: skip


# -- beside those who write --------------------------------------------------------------------


@pytest.mark.parametrize("step", ["scan", "copy", "follow"])
def test_what_is_committed_meanwhile_is_there(
    database: tuple[Contents, Path], step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents, directory = database
    mark = tmp_path / "mark"
    stop_at(monkeypatch, step, mark)
    # However little there is to be copied: not while commits have to wait.
    monkeypatch.setattr(filepacker, "_SMALL", 0)
    with packed_aside(directory) as (storage, packer):
        oid = storage.new_oid()
        pack = Background(lambda: packer.pack(contents.middle, referencesf))
        pid = wait_stopped(mark)
        # More than is copied while the storage is locked, over several rounds.
        tids = [commit(storage, oid, bytes(20_000) + b"%d" % n) for n in range(12)]
        resume(pid)
        pack.result()
        last = commit(storage, oid, b"after")
        for number, tid in enumerate(tids):
            assert storage.loadSerial(oid, tid) == bytes(20_000) + b"%d" % number
        assert snapshot(storage) == contents.expected
    with closing(open_storage(directory)) as storage:
        assert storage.loadBefore(oid, maxtid) == (b"after", last, None)
        assert storage.loadSerial(oid, tids[0]) == bytes(20_000) + b"0"
    assert debris(directory) == []


def test_a_transaction_between_vote_and_finish_is_waited_for(
    database: tuple[Contents, Path],
) -> None:
    contents, directory = database
    with packed_aside(directory) as (storage, packer):
        meta, oid = TransactionMetaData(), storage.new_oid()
        storage.tpc_begin(meta)
        storage.store(oid, z64, b"voted before the pack", "", meta)
        storage.tpc_vote(meta)
        waits = threading.Event()
        with hook(packer, "_acquire", before=waits.set):
            pack = Background(lambda: packer.pack(contents.end, referencesf))
            assert waits.wait(30)
            # The packing process has read ahead: a transaction that is not finished.
            tid = storage.tpc_finish(meta)
            pack.result()
        assert storage.loadBefore(oid, maxtid) == (b"voted before the pack", tid, None)
        assert snapshot(storage) == contents.expected
    # Nor does the file say that it is not finished.
    (directory / "Data.fs.index").unlink()
    with closing(open_storage(directory)) as storage:
        assert storage.loadBefore(oid, maxtid) == (b"voted before the pack", tid, None)


def test_an_object_that_comes_back_keeps_its_blob(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Garbage at the pack's time, but written again since: ZODB's packer removes the new blob."""
    import transaction
    import ZODB
    from ZODB.blob import Blob

    with packed_aside(tmp_path, blob_dir=str(tmp_path / "blobs")) as (storage, packer):
        db = ZODB.DB(storage)
        connection = db.open()
        root = connection.root()
        root["blob"] = blob = Blob(b"first")
        transaction.commit()
        del root["blob"]
        transaction.commit()
        when = time.time()
        wait_until(lambda: time.time() > when + 0.01)
        root["blob"] = blob
        with blob.open("w") as file:
            file.write(b"second")
        transaction.commit()
        packer.pack(when, referencesf)
        serial = storage.loadBefore(blob._p_oid, maxtid)[1]
        path = Path(storage.loadBlob(blob._p_oid, serial))
        assert path.read_bytes() == b"second"
        connection.close()
        db.close()


def test_only_one_pack_at_a_time(
    database: tuple[Contents, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents, directory = database
    stop_at(monkeypatch, "copy", tmp_path / "mark")
    with packed_aside(directory) as (_, packer):
        pack = Background(lambda: packer.pack(contents.middle, referencesf))
        pid = wait_stopped(tmp_path / "mark")
        with pytest.raises(StorageError, match="already running"):
            packer.pack(contents.middle, referencesf)
        resume(pid)
        pack.result()
        assert debris(directory) == []


# -- packs that do not come to their end -------------------------------------------------------


@pytest.mark.parametrize(
    "step", ["start", "scan", "look-ahead", "copy", "record", "list", "finish"]
)
def test_a_packing_process_that_is_killed_changes_nothing(
    database: tuple[Contents, Path], step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents, directory = database
    before = files_of(directory)
    stop_at(monkeypatch, step, tmp_path / "mark")
    with packed_aside(directory) as (storage, packer):
        pack = Background(lambda: packer.pack(contents.middle, referencesf))
        os.kill(wait_stopped(tmp_path / "mark"), signal.SIGKILL)
        if step == "start":
            pack.result()  # a process that does not even start is done without
            assert storage.getSize() < len(before["Data.fs"])
            return
        with pytest.raises(StorageError, match="ended by signal 9; nothing has changed"):
            pack.result()
        assert files_of(directory) == before
        commit(storage, storage.new_oid(), b"commits go on")
        packer.pack(contents.middle, referencesf)
        assert storage.getSize() < len(before["Data.fs"])
        assert snapshot(storage) == contents.expected


@pytest.mark.parametrize("step", ["scan", "copy", "finish"])
def test_a_pack_can_be_cancelled(
    database: tuple[Contents, Path], step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents, directory = database
    before = files_of(directory)
    stop_at(monkeypatch, step, tmp_path / "mark")
    with packed_aside(directory) as (storage, packer):
        pack = Background(lambda: packer.pack(contents.middle, referencesf))
        pid = wait_stopped(tmp_path / "mark")
        with promptly():
            packer.cancel()
            with pytest.raises(PackCancelled):
                pack.result()
            wait_gone(pid)
        assert files_of(directory) == before
        assert snapshot(storage) == contents.expected


def test_a_packing_process_ends_with_its_server(database: tuple[Contents, Path]) -> None:
    """Also while it waits to be told what to do: closing its socket is all that a death does."""
    contents, directory = database
    with packed_aside(directory) as (_, packer):
        task = packer._task(contents.middle, None)
        with packprocess.pack_process(lambda phase, done, total: None) as process:
            assert process.begin(task) is not None
            process._wire.close()
            assert process._process.wait(30) == 1


def test_r7_a_packing_process_that_hangs_holds_up_commits_for_a_bounded_time(
    database: tuple[Contents, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its last step nobody can commit."""
    contents, directory = database
    monkeypatch.setattr(packprocess, "_FINISH_TIMEOUT", 0.2)
    stop_at(monkeypatch, "finish", tmp_path / "mark")
    with packed_aside(directory) as (storage, packer):
        pack = Background(lambda: packer.pack(contents.end, referencesf))
        with pytest.raises(StorageError, match=r"did not finish within 0\.2 s"):
            pack.result()
        commit(storage, storage.new_oid(), b"goes on")
        assert debris(directory) == []


def test_a_packing_process_that_never_starts_is_given_up(
    database: tuple[Contents, Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The server packs by itself then."""
    contents, directory = database
    monkeypatch.setattr(packprocess, "_START_TIMEOUT", 0.2)
    waits = "import socket, sys; socket.socket(fileno=int(sys.argv[1])).recv(1)"
    monkeypatch.setattr(packprocess, "_PROGRAM", ("-c", waits))
    with packed_aside(directory) as (storage, packer):
        size = storage.getSize()
        with promptly(30.0):
            packer.pack(contents.end, referencesf)
        assert storage.getSize() < size
    assert "it is not ready after 0.2 s" in caplog.text


def test_a_pack_does_not_follow_busy_writers_for_ever(database: tuple[Contents, Path]) -> None:
    _, directory = database

    class Process:
        rounds = 0

        def follow(self, end: int) -> int:
            self.rounds += 1
            return 0  # there is always as much left as before

    with packed_aside(directory) as (storage, packer):
        process: Any = Process()
        storage.getSize = lambda: 1 << 30
        packer._catch_up(process, 0)
        assert 1 < process.rounds < 100


def test_a_pack_that_waits_for_a_transaction_can_be_cancelled(
    database: tuple[Contents, Path],
) -> None:
    contents, directory = database
    with packed_aside(directory) as (storage, packer):
        meta = TransactionMetaData()
        storage.tpc_begin(meta)
        pack = Background(lambda: packer.pack(contents.middle, referencesf))
        wait_until((directory / "Data.fs.pack").exists)
        with promptly():
            packer.cancel()
            with pytest.raises(PackCancelled):
                pack.result()
        storage.tpc_abort(meta)
        assert debris(directory) == []


FULL = """
import errno, os, sys
from zeolith.server import packchild
class Full(packchild.Packer):
    def writePackedDataRecord(self, *args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._path + ".pack")
packchild.Packer = Full
sys.exit(packchild.main(int(sys.argv[1])))
"""


def test_a_full_disk_is_named_and_left_as_it_was(
    database: tuple[Contents, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    contents, directory = database
    before = files_of(directory)
    monkeypatch.setattr(packprocess, "_PROGRAM", ("-c", FULL))
    with packed_aside(directory) as (_, packer):
        with pytest.raises(OSError, match="No space left") as caught:
            packer.pack(contents.end, referencesf)
        assert caught.value.errno == errno.ENOSPC
        assert caught.value.filename == f"{directory / 'Data.fs'}.pack"
        assert files_of(directory) == before


def test_damage_is_said_and_left_as_it_was(tmp_path: Path) -> None:
    Contents(tmp_path, blobs=False)
    path = tmp_path / "Data.fs"
    with packed_aside(tmp_path) as (_, packer):
        with path.open("r+b") as file:
            file.seek(path.stat().st_size // 2)
            file.write(b"damage" * 500)
        before = files_of(tmp_path)
        with pytest.raises(StorageError, match="packing failed: "):
            packer.pack(time.time(), referencesf)
        assert files_of(tmp_path) == before


def test_without_a_process_the_server_packs(
    database: tuple[Contents, Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    contents, directory = database
    monkeypatch.setattr("sys.executable", str(directory / "nothing"))
    with packed_aside(directory) as (storage, packer):
        size = storage.getSize()
        packer.pack(contents.end, referencesf)
        assert storage.getSize() < size
        assert snapshot(storage) == contents.expected
    assert "cannot be started" in caplog.text


def test_the_working_directory_is_nobodys_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ZODB.py").write_text("raise SystemExit('not this one')")
    monkeypatch.chdir(tmp_path)
    with packprocess.pack_process(lambda *report: None):
        pass  # it has started
