"""A FileStorage has one server, whatever names its file has."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.support.packing import Contents, check_database
from tests.support.processes import child_environment, running_server
from tests.support.raw import Z64, RawClient, oid_of
from zc.lockfile import LockFile
from ZODB.FileStorage import FileStorage

from zeolith.config.server import parse_server_config
from zeolith.config.storages import File, StorageOpener, open_storages, reopen_storage
from zeolith.errors import ConfigurationError
from zeolith.protocol.messages import Pack
from zeolith.server import fileclaim
from zeolith.server.fileclaim import FileClaim, FileInUse, claim_files

Link = Callable[[Path], Path]


def soft(path: Path) -> Path:
    """Make a symbolic link to *path* in another directory."""
    link = path.parent / "elsewhere" / "link.fs"
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(path)
    return link


def above(path: Path) -> Path:
    """Make a symbolic link to the directory of *path*."""
    link = path.parent.parent / "directory"
    link.symlink_to(path.parent)
    return link / path.name


def hard(path: Path) -> Path:
    """Give *path* another name."""
    link = path.parent / "hard.fs"
    link.hardlink_to(path)
    return link


every_link = pytest.mark.parametrize("make", [soft, above, hard])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database."""
    (tmp_path / "real").mkdir()
    found = tmp_path / "real" / "Data.fs"
    with running_server(FileStorage(str(found))) as server, RawClient(server.address) as client:
        client.commit({oid_of(0): (Z64, b"\x80\x03}q\x00.}q\x01.")})
    return found


def opened(*openers: StorageOpener) -> list[Any]:
    return list(open_storages(openers).values())


def refusal(*openers: StorageOpener) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        open_storages(openers)
    return caught.value


def sections(text: str) -> tuple[StorageOpener, ...]:
    return parse_server_config(f"<zeo>\naddress 0\n</zeo>\n{text}").storages


def file_section(path: Path, name: str = "main") -> str:
    return f"<filestorage {name}>\npath {path}\n</filestorage>\n"


# -- two at a time -----------------------------------------------------------------------------


@every_link
def test_r4_two_names_of_one_file_in_one_server(path: Path, make: Link) -> None:
    """Both would acknowledge transactions, and write them to the same place."""
    link = make(path)
    error = refusal(File("one", str(path)), File("two", str(link)))
    assert error.option == f"storage 'two' ({link})"
    assert "already" in error.problem
    assert "in this process" in error.problem
    assert "stop that process, or connect to it as a client" in error.remedy
    # All is free again.
    for each in (link, path):
        opened(File("one", str(each)))[0].close()


@every_link
@pytest.mark.parametrize("is_wrapped", [False, True])
def test_r4_two_names_of_one_file_in_sections(path: Path, make: Link, is_wrapped: bool) -> None:
    blobs = path.parent / "blobs"
    inner = file_section(make(path), "inner" if is_wrapped else "two")
    if is_wrapped:
        inner = f"<blobstorage two>\nblob-dir {blobs}\n{inner}</blobstorage>"
    error = refusal(*sections(file_section(path) + inner))
    assert "in this process" in error.problem


@every_link
@pytest.mark.parametrize("is_first", [False, True])
def test_r4_two_names_of_one_file_in_two_processes(path: Path, make: Link, is_first: bool) -> None:
    link = make(path)
    first, second = (link, path) if is_first else (path, link)
    program = (
        "import sys; from zeolith.config.storages import *; "
        "storage = open_storages([File('1', sys.argv[1])])['1']; "
        "print('open', flush=True); sys.stdin.read(); storage.close()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(first)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=child_environment(),
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        assert f"in process {process.pid}" in refusal(File("1", str(second))).problem
        process.kill()
    # A process that ends, however it does, keeps nothing.
    opened(File("1", str(second)))[0].close()


@pytest.mark.parametrize("make", [soft, hard])
def test_r4_two_names_of_one_file_that_are_open_already(path: Path, make: Link) -> None:
    """A server of storages that somebody else has opened."""
    from zeolith.server import Server, ServerOptions

    storages = {"one": FileStorage(str(path)), "two": FileStorage(str(make(path)))}
    server = Server(storages, ServerOptions(address=("127.0.0.1", 0)))
    with pytest.raises(FileInUse, match=r"storage 'two'.*in this process"):
        server.run()


def test_those_who_know_only_the_link_are_kept_away(path: Path) -> None:
    """ZEO, for example, which locks by name; and it keeps us away."""
    link = soft(path)
    with closing(opened(File("1", str(link)))[0]):
        for name in (path, link):
            with pytest.raises(Exception, match="lock"):
                FileStorage(str(name))
    for name in (path, link):
        lock = LockFile(f"{name}.lock")
        try:
            assert str(os.getpid()) in Path(f"{name}.lock").read_text()
            assert "is already open in this process" in refusal(File("1", str(link))).problem
        finally:
            lock.close()
    FileStorage(str(link)).close()


def test_readers_are_not_kept_away(path: Path) -> None:
    text = f"<filestorage reader>\npath {soft(path)}\nread-only true\n</filestorage>\n"
    storages = opened(*sections(file_section(path) + text))
    assert [storage.isReadOnly() for storage in storages] == [False, True]
    claim_files(storages[1], "1")
    for storage in storages:
        storage.close()


# -- what follows ------------------------------------------------------------------------------


def test_r4_a_pack_leaves_link_and_claim(tmp_path: Path) -> None:
    """The new file is claimed as the old one was, and is the one that the link leads to."""
    Contents(tmp_path, 20)
    path = tmp_path / "Data.fs"
    link = soft(path)
    (storage,) = opened(File("1", str(link), str(tmp_path / "blobs")))
    before = path.stat().st_ino
    with running_server(storage) as server, RawClient(server.address) as client:
        client.call(Pack(4e9))
        assert path.stat().st_ino != before
        assert link.is_symlink()
        other = tmp_path / "other.fs"
        other.hardlink_to(path)
        for name in (path, other, link):
            assert "already" in refusal(File("1", str(name))).problem
        client.commit({oid_of(7777): (Z64, b"\x80\x03}q\x00.}q\x01.")})
    with closing(opened(File("1", str(other)))[0]) as found:
        assert found.load(oid_of(7777))


def test_what_comes_back_after_a_failure_is_claimed(path: Path) -> None:
    link = soft(path)
    opener = File("1", str(link))
    opened(opener)[0].close()
    with closing(reopen_storage(opener)):
        assert "in this process" in refusal(File("1", str(path))).problem
        with pytest.raises(Exception, match="lock"):
            FileStorage(str(link))
    assert opener.path == str(link)


def test_a_claim_does_not_live_on_in_a_forked_process(path: Path) -> None:
    claim = FileClaim(str(path), "1")
    assert claim._descriptor is not None
    inherited = os.dup(claim._descriptor)
    try:
        claim.close()
        FileClaim(str(path), "2").close()
    finally:
        os.close(inherited)
    claim.close()
    claim.follow()  # as a pack may that is slower than the end
    FileClaim(str(path), "2").close()


# -- real names --------------------------------------------------------------------------------


def test_a_database_is_made_where_a_link_leads(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "blobs").mkdir()
    (tmp_path / "blobs").symlink_to(tmp_path / "far" / "blobs", target_is_directory=True)
    link = tmp_path / "Data.fs"
    link.symlink_to(tmp_path / "far" / "Data.fs")
    (storage,) = opened(File("1", str(link), str(tmp_path / "blobs")))
    assert storage._file_name == str(tmp_path / "far" / "Data.fs")
    assert storage.fshelper.base_dir.rstrip("/") == str(tmp_path / "far" / "blobs")
    assert "in this process" in refusal(File("2", storage._file_name)).problem
    storage.close()
    assert link.is_symlink()


def test_the_index_moves_to_the_file(tmp_path: Path) -> None:
    """From beside the link, where ZEO has left it."""
    contents = Contents(tmp_path, 20)
    path, link = tmp_path / "Data.fs", soft(tmp_path / "Data.fs")
    os.rename(f"{path}.index", f"{link}.index")
    (storage,) = opened(File("1", str(link), str(tmp_path / "blobs")))
    assert storage._used_index
    storage.close()
    assert not Path(f"{link}.index").exists()
    assert check_database(tmp_path) == contents.expected


def test_an_older_index_beside_a_link_is_left(tmp_path: Path) -> None:
    Contents(tmp_path, 20)
    path, link = tmp_path / "Data.fs", soft(tmp_path / "Data.fs")
    Path(f"{link}.index").write_bytes(b"old")
    os.utime(f"{link}.index", (1, 1))
    (storage,) = opened(File("1", str(link), str(tmp_path / "blobs")))
    assert storage._used_index
    storage.close()
    assert Path(f"{link}.index").read_bytes() == b"old"
    assert Path(f"{path}.index").exists()


def test_an_index_that_cannot_be_moved(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    link = soft(path)
    Path(f"{link}.index").mkdir()
    os.utime(f"{link}.index", (4e9, 4e9))
    opened(File("1", str(link)))[0].close()
    assert "cannot be moved" in caplog.text


def test_r4_blobs_whose_database_is_missing_stay(tmp_path: Path) -> None:
    """FileStorage removes them when it begins anew; but perhaps a disk is not mounted."""
    Contents(tmp_path, 20)
    (tmp_path / "far").mkdir()
    path, link, blobs = tmp_path / "Data.fs", tmp_path / "far" / "Data.fs", tmp_path / "blobs"
    os.rename(path, tmp_path / "unmounted")
    link.symlink_to(path)
    before = sorted(blobs.rglob("*.blob"))
    assert before
    section = f"<filestorage 1>\npath {path}\nblob-dir {blobs}\n</filestorage>"
    for opener in (File("1", str(link), str(blobs)), *sections(section)):
        error = refusal(opener)
        assert f"{path} is missing, but there are blobs in {blobs}" in error.problem
        assert "put the blobs elsewhere" in error.remedy
    assert sorted(blobs.rglob("*.blob")) == before
    os.rename(tmp_path / "unmounted", path)
    opened(File("1", str(link), str(blobs)))[0].close()


# -- systems without such locks ----------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(
    path: Path, number: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*args: Any) -> None:
        raise OSError(number, "no locks")

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    opened(File("1", str(path)))[0].close()
    assert f"{path} is not guarded" in caplog.text


def test_a_disk_that_fails(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "fcntl", fail)
        assert "Input/output error" in refusal(File("1", str(path))).problem
    opened(File("1", str(path)))[0].close()


def test_a_system_that_knows_only_older_locks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fileclaim, "_OFD", None)
    link = hard(path)
    with closing(opened(File("1", str(path)))[0]):
        assert "in this process" in refusal(File("2", str(link))).problem
    opened(File("2", str(link)))[0].close()


def test_a_new_file_that_cannot_be_claimed(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The pack is done: it is no failure."""
    (storage,) = opened(File("1", str(path)))
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", lambda *args: os.close(-1))
        fileclaim.follow_file(storage)
    storage.close()
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "is not guarded" in record.getMessage()
