"""The change of files at the end of a pack, and the proof that the right one is in use."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.support.packing import (
    Contents,
    commit,
    debris,
    files_of,
    packed_aside,
    resume,
    snapshot,
    stop_at,
    wait_stopped,
)
from tests.support.storages import hook
from tests.support.waiting import Background
from ZODB.Connection import TransactionMetaData
from ZODB.POSException import ReadOnlyError
from ZODB.serialize import referencesf
from ZODB.utils import maxtid

from zeolith.server import filepacker, packprocess
from zeolith.server.filepacker import FileMisplaced


def test_a_disk_without_links(
    database: tuple[Contents, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    contents, directory = database

    def link(source: str, target: str) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", link)
    old = (directory / "Data.fs").read_bytes()
    monkeypatch.setattr("zeolith.server.packblobs.link_or_copy", shutil.copy)
    with packed_aside(directory) as (storage, packer):
        packer.pack(contents.end, referencesf)
        assert (directory / "Data.fs.old").read_bytes() == old
        commit(storage, storage.new_oid(), b"goes to the new file")
        assert (directory / "Data.fs").stat().st_size == storage.getSize()


@pytest.mark.parametrize("has_links", [True, False])
def test_a_change_that_fails_is_taken_back(
    database: tuple[Contents, Path], has_links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents, directory = database
    before = files_of(directory)

    def fail(*names: str) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with packed_aside(directory) as (storage, packer):
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", fail)
            if not has_links:
                patch.setattr(filepacker, "_link", lambda *names: False)
            with pytest.raises(OSError, match="Input/output error"):
                packer.pack(contents.end, referencesf)
        assert files_of(directory) == before
        oid = storage.new_oid()
        tid = commit(storage, oid, b"commits go on")
        packer.pack(contents.end, referencesf)
        assert storage.loadBefore(oid, maxtid) == (b"commits go on", tid, None)


def test_the_new_file_and_its_name_are_on_disk_before_anything_can_be_committed(
    database: tuple[Contents, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """R4: else a power failure could bring back the old file, without later transactions."""
    contents, directory = database
    steps: list[str] = []
    with packed_aside(directory) as (storage, packer):
        lock = storage._commit_lock

        class Watched:
            def acquire(self, *args: Any, **kw: Any) -> bool:
                steps.append("locked")
                return bool(lock.acquire(*args, **kw))

            def release(self) -> None:
                steps.append("released")
                lock.release()

        storage._commit_lock = Watched()
        sync = filepacker.sync_directory
        replace = os.replace

        def replaced(source: str, target: str) -> None:
            steps.append("replaced")
            replace(source, target)

        def synced(path: str) -> None:
            steps.append("synced")
            sync(path)

        monkeypatch.setattr(os, "replace", replaced)
        monkeypatch.setattr(filepacker, "sync_directory", synced)
        packer.pack(contents.end, referencesf)
        look = ["locked", "released"]  # whether all is well
        assert steps == ["locked", "replaced", "synced", "released", *look]


def test_r4_the_packing_process_brings_to_disk_what_it_has_written(
    database: tuple[Contents, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents, directory = database
    log = tmp_path / "synced"
    program = (
        "import os, sys\n"
        "from zeolith.server import packchild\n"
        "fsync = os.fsync\n"
        "def sync(fd):\n"
        "    with open(sys.argv[1], 'a') as log:\n"
        "        path, size = os.readlink(f'/proc/self/fd/{fd}'), os.fstat(fd).st_size\n"
        "        print(path, size, file=log)\n"
        "    fsync(fd)\n"
        "os.fsync = sync\n"
        "sys.exit(packchild.main(int(sys.argv[2])))\n"
    )
    monkeypatch.setattr(packprocess, "_PROGRAM", ("-c", program, str(log)))
    with packed_aside(directory, pack_keep_old=False) as (storage, packer):
        packer.pack(contents.end, referencesf)
        last = dict(line.rsplit(" ", 1) for line in log.read_text().splitlines())
        assert last[f"{directory}/Data.fs.pack"] == str(storage.getSize())
    assert int(last[f"{directory}/blobs/.removed"]) > 0


def test_a_storage_whose_file_was_moved_away_takes_no_more_commits(
    database: tuple[Contents, Path],
) -> None:
    """Class D: what is written to a file without a name is lost at the next start."""
    contents, directory = database
    with packed_aside(directory) as (storage, packer):
        shutil.copy(directory / "Data.fs", directory / "copy")
        os.replace(directory / "copy", directory / "Data.fs")
        before = files_of(directory)
        with pytest.raises(FileMisplaced, match="not the one that has this name"):
            packer.pack(contents.end, referencesf)
        assert files_of(directory) == before
        with pytest.raises(ReadOnlyError):
            storage.tpc_begin(TransactionMetaData())


def test_a_file_that_comes_in_between_is_not_overwritten(
    database: tuple[Contents, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents, directory = database
    stop_at(monkeypatch, "copy", tmp_path / "mark")
    with packed_aside(directory) as (storage, packer):
        pack = Background(lambda: packer.pack(contents.end, referencesf))
        pid = wait_stopped(tmp_path / "mark")
        (directory / "restored").write_bytes(b"a backup, put here by somebody in a hurry")
        os.replace(directory / "restored", directory / "Data.fs")
        resume(pid)
        with pytest.raises(FileMisplaced):
            pack.result()
        assert (directory / "Data.fs").read_bytes().startswith(b"a backup")
        with pytest.raises(ReadOnlyError):
            storage.tpc_begin(TransactionMetaData())


def test_a_name_that_may_not_be_on_disk_is_not_written_to(
    database: tuple[Contents, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    contents, directory = database

    def fail(path: str) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(filepacker, "sync_directory", fail)
    with packed_aside(directory) as (storage, packer):
        with pytest.raises(FileMisplaced, match="may not be on disk"):
            packer.pack(contents.end, referencesf)
        with pytest.raises(ReadOnlyError):
            storage.tpc_begin(TransactionMetaData())


def test_blobs_whose_removal_failed_go_with_the_next_pack(
    database: tuple[Contents, Path], caplog: pytest.LogCaptureFixture
) -> None:
    contents, directory = database
    caplog.set_level(logging.INFO)
    with packed_aside(directory, pack_keep_old=False) as (storage, packer):
        expected = {path for path in files_of(directory) if path.endswith(".blob")}

        def fail(*arguments: Any) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        from zeolith.server import packblobs

        with (
            hook(packblobs, "remove_committed", before=fail),
            hook(packblobs, "remove_committed_dir", before=fail),
            pytest.raises(OSError, match="Input/output error"),
        ):
            packer.pack(contents.middle, referencesf)
        assert (directory / "blobs" / ".removed").exists()
        assert {p for p in files_of(directory) if p.endswith(".blob")} == expected
        packer.pack(contents.middle, referencesf)
        assert debris(directory) == []
        assert {p for p in files_of(directory) if p.endswith(".blob")} < expected
        assert snapshot(storage) == contents.expected
