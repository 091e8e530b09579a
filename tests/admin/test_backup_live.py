"""Backups of a database that is being written to, and what clients make of a restored one."""

from __future__ import annotations

import functools
import logging
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import ZODB
from tests.support.backups import blob_files, read_blobs
from tests.support.processes import ServerProcess, child_environment
from tests.support.waiting import Background, wait_until
from ZODB.FileStorage import FileStorage

import zeolith
from zeolith.admin.backup.repository import open_repository
from zeolith.types import Tid

WRITER = """\
import os, sys, tempfile, ZODB, zeolith
from ZODB.blob import Blob
address = (sys.argv[1], int(sys.argv[2]))
with tempfile.TemporaryDirectory() as blobs:
    storage = zeolith.ClientStorage(address, blob_dir=blobs, wait_timeout=30)
    database = ZODB.DB(storage)
    number = 0
    while not os.path.exists(sys.argv[3]):
        with database.transaction() as connection:
            root = connection.root()
            root["last"] = number
            root[f"blob {number}"] = Blob(b"%d " % number * 500)
            # Revisions of one blob: all but one of them are for a pack to remove.
            if "changing" not in root:
                root["changing"] = Blob()
            with root["changing"].open("w") as file:
                file.write(b"%d" % number)
        print(number, flush=True)
        number += 1
    database.close()
"""


class Writer:
    """A process that commits transactions with blobs without a pause."""

    def __init__(self, directory: Path, address: tuple[str, int]) -> None:
        self._stop = directory / "stop"
        self._output = directory / "written"
        self._errors = directory / "errors"
        with self._output.open("wb") as output, self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-c", WRITER, address[0], str(address[1]), str(self._stop)],
                stdout=output,
                stderr=errors,
                env=child_environment(),
            )

    def written(self) -> int:
        """Return how many transactions have been committed."""
        assert self._process.poll() is None, self._errors.read_text()
        return self._output.read_bytes().count(b"\n")

    def wait_for_more(self, count: int) -> int:
        """Wait until *count* more are committed; return how many there are."""
        goal = self.written() + count
        wait_until(lambda: self.written() >= goal, f"{count} more transactions")
        return self.written()

    def stop(self) -> None:
        self._stop.touch()
        assert self._process.wait(30) == 0, self._errors.read_text()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """What a test starts, ended in reverse order."""
    with ExitStack() as found:
        yield found


@pytest.fixture
def server(tmp_path: Path, stack: ExitStack) -> ServerProcess:
    """A server with a FileStorage and blobs."""
    return stack.enter_context(ServerProcess(tmp_path / "server"))


@pytest.fixture
def writer(server: ServerProcess, tmp_path: Path, stack: ExitStack) -> Writer:
    """A process that keeps the server busy."""
    found = Writer(tmp_path, server.address)
    stack.callback(found.kill)
    return found


def zeolith_command(directory: Path, *arguments: str) -> str:
    """Run a command, which must end with status 0; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "zeolith", *arguments],
        cwd=directory,
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


BACKUP = ("backup", "-r", "repository", "-f", "Data.fs", "-b", "blobs")


def check_state(path: Path, blob_dir: Path, tid: Tid) -> int:
    """Check that a restored database is that of a transaction, whole; return its last number."""
    storage = FileStorage(str(path), read_only=True)
    assert storage.lastTransaction() == tid
    storage.close()
    blobs = read_blobs(path, blob_dir)
    last = max(blobs)
    assert blobs == {number: b"%d " % number * 500 for number in range(last + 1)}
    with (
        closing(ZODB.DB(FileStorage(str(path), blob_dir=str(blob_dir)))) as database,
        database.transaction() as connection,
        connection.root()["changing"].open("r") as file,
    ):
        assert file.read() == b"%d" % last
    return last


def test_backups_while_writing_are_of_one_transaction_each(
    server: ServerProcess, writer: Writer, tmp_path: Path
) -> None:
    site = server.directory
    for number in range(5):
        before = writer.wait_for_more(10)
        if number == 3:
            with closing(zeolith.ClientStorage(server.address)) as storage:
                storage.pack(wait=True)
        output = zeolith_command(site, *BACKUP, *(["-z"] if number % 2 else []))
        assert ("full" if number in (0, 3) else "incremental") in output
        assert writer.wait_for_more(1) > before
    chains = open_repository(str(site / "repository")).read_chains()
    assert [len(chain) for chain in chains] == [3, 2]
    assert "good" in zeolith_command(site, "verify", "-r", "repository", "--all")
    # Restored beside the running server and its writer, each backup is whole.
    previous = 0
    for manifest in (manifest for chain in chains for manifest in chain):
        target = tmp_path / manifest.name
        target.mkdir()
        zeolith_command(
            site,
            *("restore", "-r", "repository", "-o", str(target / "Data.fs")),
            *("-b", str(target / "blobs"), "-D", manifest.name),
        )
        # One blob for each number, one for each revision of the other blob that is in the file.
        last = check_state(target / "Data.fs", target / "blobs", manifest.last)
        assert last > previous
        assert len(blob_files(target / "blobs")) <= 2 * last + 2
        previous = last
    writer.stop()
    assert server.stop() == 0
    assert server.tracebacks() == []


def test_packs_at_the_same_time(server: ServerProcess, writer: Writer) -> None:
    site = server.directory
    for _ in range(4):
        writer.wait_for_more(10)
        with closing(zeolith.ClientStorage(server.address)) as storage:
            pack = Background(functools.partial(storage.pack, wait=True))
            zeolith_command(site, *BACKUP)
            pack.result()
    zeolith_command(site, *BACKUP)
    assert "damaged" not in zeolith_command(site, "verify", "-r", "repository", "--all")


def test_any_transaction_between_two_backups_can_be_had(
    server: ServerProcess, writer: Writer, tmp_path: Path
) -> None:
    site = server.directory
    writer.wait_for_more(5)
    zeolith_command(site, *BACKUP)
    with closing(zeolith.ClientStorage(server.address)) as storage:
        tid = Tid(storage.lastTransaction())
    writer.wait_for_more(5)
    zeolith_command(site, *BACKUP)
    zeolith_command(
        site,
        *("restore", "-r", "repository", "-o", str(tmp_path / "Data.fs")),
        *("-b", str(tmp_path / "blobs"), "--tid", tid.hex()),
    )
    last = check_state(tmp_path / "Data.fs", tmp_path / "blobs", tid)
    assert len(blob_files(tmp_path / "blobs")) == 2 * (last + 1)


def test_a_client_that_has_seen_more_notices_the_restored_database(
    server: ServerProcess,
    writer: Writer,
    tmp_path: Path,
    stack: ExitStack,
    caplog: pytest.LogCaptureFixture,
) -> None:
    writer.wait_for_more(5)
    zeolith_command(server.directory, *BACKUP)
    written = writer.wait_for_more(5)
    (manifest,) = open_repository(str(server.directory / "repository")).read_chains()[0]
    restored = ServerProcess(tmp_path / "restored")
    addresses: Sequence[tuple[str, int]] = [server.address, restored.address]
    storage = zeolith.ClientStorage(addresses, blob_dir=str(tmp_path / "cache"))
    database = stack.enter_context(closing(ZODB.DB(storage)))
    with database.transaction() as connection:
        assert connection.root()["last"] >= written - 1
    seen = storage.lastTransaction()
    assert seen > manifest.last
    writer.stop()
    assert server.stop() == 0

    zeolith_command(
        server.directory,
        *("restore", "-r", "repository", "-o", str(restored.directory / "Data.fs")),
        *("-b", str(restored.directory / "blobs")),
    )
    # As whoever puts it in the place of the original does: it is to be that database, not another.
    shutil.copy(server.directory / "Data.fs.zeolith", restored.directory)
    last = check_state(restored.directory / "Data.fs", restored.directory / "blobs", manifest.last)
    with caplog.at_level(logging.WARNING, "zeolith.client"):
        stack.enter_context(restored)
        wait_until(storage.is_connected, "the client has found the restored server")
    (text,) = [text for text in caplog.messages if "must have been restored" in text]
    assert f"the database ends at transaction {manifest.last_tid}" in text
    with database.transaction() as connection:
        root = connection.root()
        assert root["last"] == last
        assert f"blob {last + 1}" not in root
        with root["changing"].open("r") as file:
            assert file.read() == b"%d" % last
        root["last"] = last + 1
    with database.transaction() as connection:
        assert connection.root()["last"] == last + 1


def test_a_database_that_a_server_has_open_is_not_overwritten(
    server: ServerProcess, writer: Writer
) -> None:
    writer.wait_for_more(3)
    zeolith_command(server.directory, *BACKUP)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "zeolith", "restore", "-r", "repository", "--overwrite"),
            *("-o", "Data.fs", "-b", "blobs"),
        ],
        cwd=server.directory,
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert server.process is not None
    assert (done.returncode, done.stdout) == (2, "")
    assert f"Data.fs: is open in process {server.process.pid}" in done.stderr
    writer.wait_for_more(3)


def test_a_killed_backup_does_no_harm(
    server: ServerProcess, writer: Writer, tmp_path: Path
) -> None:
    """kill -9 at moments that differ from run to run; wherever it hits, the rules are the same."""
    site = server.directory
    writer.wait_for_more(5)
    zeolith_command(site, *BACKUP)
    for delay in range(4):
        writer.wait_for_more(5)
        with subprocess.Popen(
            [sys.executable, "-m", "zeolith", *BACKUP],
            cwd=site,
            env=child_environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            # It takes part of the time that the writer takes for some transactions.
            known = len(list((site / "repository").iterdir()))
            wait_until(
                lambda known=known, process=process: (  # type: ignore[misc]
                    len(list((site / "repository").iterdir())) > known or process.poll() is not None
                ),
                "the backup has begun",
            )
            writer.wait_for_more(delay)
            process.send_signal(signal.SIGKILL)
        zeolith_command(site, "verify", "-r", "repository")
    output = zeolith_command(site, *BACKUP)
    assert "incremental backup" in output
    zeolith_command(site, "verify", "-r", "repository")
    manifest = open_repository(str(site / "repository")).read_chains()[-1][-1]
    zeolith_command(
        site,
        *("restore", "-r", "repository", "-o", str(tmp_path / "Data.fs")),
        *("-b", str(tmp_path / "blobs")),
    )
    check_state(tmp_path / "Data.fs", tmp_path / "blobs", manifest.last)
    assert blob_files(site / "repository" / "blobs") == blob_files(tmp_path / "blobs")
