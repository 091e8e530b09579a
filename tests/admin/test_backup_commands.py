"""The commands: their options, what they print, and their exit statuses."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.backups import Site, blob_files, listing, read_blobs
from tests.support.processes import child_environment
from tests.support.waiting import wait_until
from ZODB.blob import Blob

from zeolith.cli.main import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(site: Site, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a command in the site's directory; return status, output and errors."""
    monkeypatch.chdir(site.directory)

    def run(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        status = main(arguments)
        captured = capfd.readouterr()
        assert "Traceback" not in captured.err
        return status, captured.out, captured.err

    return run


BACKUP = ("backup", "-r", "repository", "-f", "Data.fs", "-b", "blobs")


def test_a_backup_is_made_verified_listed_and_restored(site: Site, run: Run) -> None:
    status, output, errors = run(*BACKUP)
    assert (status, errors) == (0, "")
    assert "Data.fs: full backup 20" in output
    assert ": 4 transactions up to 0x" in output
    assert run(*BACKUP)[:2] == (0, f"{site.path}: nothing new since the last backup\n")
    (tid,) = site.commit(4)
    status, output, _ = run(*BACKUP, "-Qz")
    assert status == 0
    assert "incremental backup" in output
    assert f"1 transactions up to 0x{tid.hex()}" in output
    for arguments, word in (((), "good"), (("-Q",), "sizes are right"), (("--all",), "good")):
        status, output, _ = run("verify", "-r", "repository", *arguments)
        assert status == 0
        assert output.endswith(f"2 parts up to 0x{tid.hex()}, 4 blobs: {word}\n")
    status, output, _ = run("restore", "-r", "repository", "--list")
    assert [line.split()[1] for line in output.splitlines()] == ["full", "incremental"]
    status, output, errors = run("restore", "-r", "repository", "-o", "R.fs", "-b", "R", "-w")
    assert (status, errors) == (0, "")
    assert f"5 transactions up to 0x{tid.hex()}, 4 blobs" in output
    assert read_blobs(site.directory / "R.fs", site.directory / "R").keys() == {1, 2, 3, 4}


def test_the_examples_of_the_document_run(site: Site, tmp_path: Path) -> None:
    document = Path(__file__).parents[2] / "docs" / "backup.md"
    blocks = re.findall(r"^```sh\n(.*?)^```$", document.read_text(), re.M | re.S)
    (first,) = [block for block in blocks if "mkdir" in block]
    (without,) = [block for block in blocks if "ZODB.scripts.repozo" in block]
    (dry_run,) = [block for block in blocks if "--dry-run" in block]
    (tmp_path / "bin").mkdir()
    wrapper = tmp_path / "bin" / "zeolith"
    wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} -m zeolith "$@"\n')
    wrapper.chmod(0o755)
    (wrapper.parent / "python").symlink_to(sys.executable)
    var = tmp_path / "var"
    var.mkdir()
    site.path.rename(var / "Data.fs")
    site.blobs.rename(var / "blobs")
    again = "rm -r restored/*\n"
    done = subprocess.run(
        ["sh", "-e", "-c", first + dry_run + again + without],
        cwd=tmp_path,
        env={**child_environment(), "PATH": f"{wrapper.parent}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "there is nothing to remove\n")
    assert re.search(r": full backup .*\n.* blobs: good\n.*: restored from backup .*", done.stdout)
    restored = tmp_path / "restored"
    assert read_blobs(restored / "Data.fs", restored / "blobs").keys() == {1, 2, 3}


def test_a_state_is_chosen_by_options(site: Site, run: Run) -> None:
    (tid, last) = site.commit(4, 5)
    run(*BACKUP)
    for number, option in enumerate((f"--tid={tid.hex()}", f"--tid=0x{tid.hex()}")):
        status, _, _ = run(
            "restore", "-r", "repository", "-o", f"{number}.fs", "-b", str(number), option
        )
        assert status == 0
        found = read_blobs(site.directory / f"{number}.fs", site.directory / str(number))
        assert found.keys() == {1, 2, 3, 4}
    status, output, _ = run(
        "restore", "-r", "repository", "-o", "D.fs", "-b", "D", "-D", "2100-01-01"
    )
    assert status == 0
    assert last.hex() in output
    status, _, errors = run(
        "restore", "-r", "repository", "-o", "A.fs", "-b", "A", "--at=2100-01-01"
    )
    assert status == 2
    assert f"is later than what is backed up, which ends with 0x{last.hex()}" in errors


CONFIG = """
<zeo>
  address 127.0.0.1:0
</zeo>
<filestorage main>
  path {directory}/Data.fs
  blob-dir {directory}/blobs
</filestorage>
<blobstorage wrapped>
  blob-dir {directory}/other
  <filestorage>
    path {directory}/Data.fs
  </filestorage>
</blobstorage>
<mappingstorage memory>
</mappingstorage>
"""


def test_a_database_is_found_in_a_configuration(site: Site, run: Run) -> None:
    Path("zeo.conf").write_text(CONFIG.format(directory=site.directory))
    base = ("backup", "-r", "repository", "-C", "zeo.conf")
    status, _, errors = run(*base)
    assert (status, "has several storages: main, wrapped, memory" in errors) == (2, True)
    status, _, errors = run(*base, "--storage", "none")
    assert (status, "has no storage 'none'" in errors) == (2, True)
    status, _, errors = run(*base, "--storage", "memory")
    assert (status, "storage 'memory': is not kept in the file" in errors) == (2, True)
    status, output, _ = run(*base, "--storage", "main")
    assert (status, "3 blobs" in output) == (0, True)
    status, _, errors = run(*base, "--storage", "wrapped")
    assert (status, f"blob directory {site.directory}/other: cannot be read" in errors) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("backup", "-f", "Data.fs"), "Missing option '-r'"),
        (("backup", "-r", "repository"), "-f: is missing"),
        (("backup", "-r", "x", "-f", "Data.fs", "-C", "zeo.conf"), "-C: says where"),
        (("backup", "-r", "x", "-f", "Data.fs", "--storage", "1"), "--storage: needs -C"),
        ((*BACKUP, "--no-blobs"), "--no-blobs: contradicts -b"),
        ((*BACKUP, "-k", "--keep", "2"), "-k: is --keep 1"),
        ((*BACKUP, "--keep", "0"), "'--keep': 0 is not in the range"),
        ((*BACKUP, "--dry-run"), "--dry-run: is about removing"),
        (("backup", "-r", "x", "-f", "none.fs"), "database none.fs: cannot be read: No such file"),
        (("backup", "-r", "no/x", "-f", "Data.fs", "-b", "blobs"), "repository no/x: cannot be"),
        (("backup", "-r", "x", "-f", "Data.fs", "-b", "none"), "none: cannot be read"),
        (("backup", "-r", "x", "-f", "Data.fs"), "refers to blobs"),
        (("verify", "-r", "none"), "repository none: cannot be read"),
        (("verify", "-r", "."), "repository .: has no backup"),
        (("verify", "-r", ".", "--all", "-D", "2026-01-01"), "-D: contradicts --all"),
        (("verify", "-r", ".", "--scratch", "none"), "--scratch none: is not a directory"),
        (("verify", "-r", ".", "-Q", "--scratch", "."), "--scratch: has no effect with -Q"),
        (("restore", "-r", "none", "-o", "x"), "repository none: cannot be read"),
        (("restore", "-r", ".", "--list", "-D", "2026-01-01"), "-D has no effect with --list"),
        (("restore", "-r", ".", "-o", "x", "--list"), "-o has no effect with --list"),
    ],
)
def test_wrong_usage(site: Site, run: Run, arguments: tuple[str, ...], message: str) -> None:
    before = listing(site.directory).keys()
    status, output, errors = run(*arguments)
    assert (status, output) == (2, "")
    assert message in errors
    assert listing(site.directory).keys() - before <= {"x/zeolith-backup.json"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "-o: is missing"),
        (("-o", "R.fs", "-D", "2026-01-01", "--tid", "0" * 16), "contradict each other"),
        (("-o", "R.fs", "-b", "R", "-D", "soon"), "-D: 'soon' is no date"),
        (("-o", "R.fs", "-b", "R", "-D", "2001-01-01"), "is before the first backup"),
        (("-o", "R.fs", "-b", "R", "--tid", "soon"), "--tid: 'soon' is no transaction id"),
        (("-o", "R.fs", "-b", "R", "--tid", "0" * 16), "is before the first transaction"),
        (("-o", "Data.fs", "-b", "R"), "Data.fs: exists"),
        (("-o", "R.fs", "-b", "blobs"), "blobs: is not empty"),
        (("-o", "R.fs"), "has 3 blobs"),
    ],
)
def test_wrong_usage_of_restore(
    site: Site, run: Run, arguments: tuple[str, ...], message: str
) -> None:
    run(*BACKUP)
    before = listing(site.directory)
    status, output, errors = run("restore", "-r", "repository", *arguments)
    assert (status, output) == (2, "")
    assert message in errors
    assert listing(site.directory) == before


def test_damage_is_exit_status_1(site: Site, run: Run) -> None:
    run(*BACKUP)
    path = next(Path("repository").rglob("*.blob"))
    path.unlink()
    for arguments in ((), ("-Q",)):
        status, output, errors = run("verify", "-r", "repository", *arguments)
        assert (status, output.endswith("3 blobs: damaged\n")) == (1, True)
        assert f"zeolith: {site.directory / path}: blob 0x" in errors
    status, _, errors = run("restore", "-r", "repository", "-o", "R.fs", "-b", "R")
    assert (status, "is missing; --keep-going" in errors) == (1, True)
    status, output, errors = run(
        "restore", "-r", "repository", "-o", "R.fs", "-b", "R", "--keep-going"
    )
    assert (status, "is missing" in errors, "2 blobs" in output) == (1, True, True)


def test_a_blob_that_the_database_has_lost_is_exit_status_1(site: Site, run: Run) -> None:
    next(site.blobs.rglob("*.blob")).unlink()
    status, output, errors = run(*BACKUP)
    assert (status, "full backup" in output) == (1, True)
    assert f"is missing from {site.blobs}" in errors
    assert run(*BACKUP)[0] == 0


def test_old_backups_are_removed(site: Site, run: Run) -> None:
    for _ in range(3):
        run(*BACKUP, "-F")
    status, _, errors = run(*BACKUP, "--keep", "2", "--dry-run")
    assert (status, errors.count("would remove the full backup")) == (0, 1)
    assert len(list(Path("repository").glob("*.fs"))) == 3
    status, _, errors = run(*BACKUP, "--keep", "2")
    assert (status, errors.count("removing the full backup")) == (0, 1)
    assert len(list(Path("repository").glob("*.fs"))) == 2
    run(*BACKUP, "--keep", "1", "--keep-days", "1")
    assert len(list(Path("repository").glob("*.fs"))) == 2
    run(*BACKUP, "-k", "-F")
    assert len(list(Path("repository").glob("*.fs"))) == 1
    assert run("verify", "-r", "repository")[0] == 0


def test_two_backups_at_once(site: Site, run: Run) -> None:
    run(*BACKUP)
    with site.repository.locked():
        status, _, errors = run(*BACKUP)
    assert (status, f"process {os.getpid()} is making a backup here" in errors) == (1, True)


def test_verbose(site: Site, run: Run) -> None:
    _, _, errors = run(*BACKUP, "-v")
    assert "doing a full backup" in errors  # repozo's own words
    assert "copying 3 blobs: " in errors
    _, _, errors = run("verify", "-r", "repository", "-v")
    assert "checking 3 blobs: " in errors


def test_hard_links(site: Site, run: Run) -> None:
    run(*BACKUP, "--hard-link")
    assert all(path.stat().st_nlink == 2 for path in site.blobs.rglob("*.blob"))


@pytest.mark.parametrize("blocks", [8, 40])
def test_a_full_disk_is_exit_status_1(site: Site, blocks: int) -> None:
    """No file may grow beyond some blocks: that stops the file's part, or else a blob."""
    site.backup()
    before = listing(site.repository.path)
    with site.database() as database, database.transaction() as connection:
        connection.root()["large"] = "x" * 10_000
        connection.root()["large blob"] = Blob(b"x" * 100_000)
    command = shlex.join([sys.executable, "-m", "zeolith", *BACKUP])
    done = subprocess.run(
        ["sh", "-c", f"ulimit -f {blocks}; exec {command}"],
        cwd=site.directory,
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "the backup failed: " in done.stderr
    assert "File too large; make room on the disk and try again; earlier" in done.stderr
    assert "Traceback" not in done.stderr
    assert listing(site.repository.path) == before
    assert site.backup().kind == "incremental"


SLOW = """\
import sys
from pathlib import Path
if "zeolith" in sys.orig_argv:
    from zeolith.admin.backup.blobstore import BlobStore
    add = BlobStore.add
    def slow(*args, **keywords):
        Path("copying").touch()
        while Path("hold").exists():
            pass
        return add(*args, **keywords)
    BlobStore.add = slow
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_backup_in_order(
    site: Site, tmp_path: Path, number: signal.Signals
) -> None:
    site.backup()
    site.commit(4)
    before = listing(site.repository.path)
    customize = tmp_path / "customize"
    customize.mkdir()
    (customize / "sitecustomize.py").write_text(SLOW)
    environment = child_environment()
    environment["PYTHONPATH"] = f"{customize}{os.pathsep}{environment['PYTHONPATH']}"
    (site.directory / "hold").touch()
    with subprocess.Popen(
        [sys.executable, "-m", "zeolith", *BACKUP],
        cwd=site.directory,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            wait_until((site.directory / "copying").exists, "blobs are copied")
            process.send_signal(number)
            output, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (process.returncode, output, errors) == (1, "", "zeolith: interrupted\n")
    assert listing(site.repository.path) == before
    assert blob_files(site.repository.path / "blobs").keys() < site.blob_files().keys()
