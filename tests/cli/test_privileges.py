"""``-u``: a server that root starts and another user runs."""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.cli.conftest import Process, Start
from tests.support.waiting import wait_until

import zeolith

FILE = ("-f", "Data.fs")
NOBODY = "nobody"

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory that every user may use; pytest's own are for root alone."""
    path = Path(tempfile.mkdtemp(prefix="zeolith-"))
    path.chmod(0o777)
    yield path
    shutil.rmtree(path)


def closed_directory(path: Path) -> Path | None:
    """Return the directory on the way to *path* that only root may enter; None if all may."""
    for parent in [*reversed(path.parents), path]:
        if parent.stat().st_mode & 0o005 != 0o005:
            return parent
    return None


@pytest.fixture
def readable(shared: Path) -> list[str]:
    """Words that run a command where every user can read Python's library.

    Where it lies in a directory of root's, that is hidden, for the command alone, under an open
    one in which the library has its old place.
    """
    library = Path(sys.base_prefix)
    closed = closed_directory(library)
    if closed is None:
        return []
    for path in (zeolith.__file__, sys.prefix):
        if closed_directory(Path(path).parent) is not None:
            pytest.skip(f"{path} is where only root may look")
    if subprocess.run(["unshare", "--mount", "true"], check=False).returncode:
        pytest.skip(f"{library} is where only root may look, and no other place can be shown")
    copy = shared / "library"
    copy.mkdir()
    old, new, place = (shlex.quote(str(path)) for path in (library, copy, closed))
    script = (
        f"mount --bind {old} {new}; mount -t tmpfs -o mode=755 tmpfs {place}; mkdir -p {old}; "
        f'mount --bind {new} {old}; umount {new}; exec "$@"'
    )
    return ["unshare", "--mount", "sh", "-e", "-c", script, "sh"]


Serve = Callable[..., Process]


@pytest.fixture
def serve_there(serve: Start, shared: Path, readable: list[str]) -> Serve:
    """Start ``zeolith serve`` in the shared directory and wait until it listens."""

    def serve_there(*arguments: str) -> Process:
        return serve(*arguments, directory=shared, before=readable)

    return serve_there


def identity(pid: int) -> dict[str, str]:
    """Return the ids of a process as the system lists them."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {name: " ".join(fields[name].split()) for name in ("Uid", "Gid", "Groups", "CapEff")}


@needs_root
def test_everything_of_root_is_given_up(serve_there: Serve, shared: Path) -> None:
    server = serve_there("-a", "0", *FILE, "--blob-dir", "blobs", "-u", NOBODY)
    nobody = pwd.getpwnam(NOBODY)
    groups = os.getgrouplist(NOBODY, nobody.pw_gid)
    assert identity(server.pid) == {
        "Uid": " ".join([str(nobody.pw_uid)] * 4),
        "Gid": " ".join([str(nobody.pw_gid)] * 4),
        "Groups": " ".join(map(str, sorted(groups))),
        "CapEff": "0" * 16,
    }
    zeolith.connection(server.address).close()  # a database has made its root
    for name in ("Data.fs", "Data.fs.lock", "blobs"):
        assert (shared / name).stat().st_uid == nobody.pw_uid, name
    assert server.stop() == 0


@needs_root
def test_a_number_names_a_user_too(serve_there: Serve) -> None:
    nobody = pwd.getpwnam(NOBODY)
    server = serve_there("-a", "0", *FILE, "-u", str(nobody.pw_uid))
    assert identity(server.pid)["Uid"].split() == [str(nobody.pw_uid)] * 4
    assert server.stop() == 0


@needs_root
def test_the_address_is_bound_before(serve_there: Serve, shared: Path) -> None:
    """In a directory of root's only root can make a socket."""
    closed = shared / "run"
    closed.mkdir(mode=0o755)
    server = serve_there("-U", "run/zeo.sock", *FILE, "-u", NOBODY, "--pid-file", "run/zeo.pid")
    found = (closed / "zeo.sock").stat()
    assert found.st_uid == pwd.getpwnam(NOBODY).pw_uid
    assert (closed / "zeo.pid").read_text() == f"{server.pid}\n"
    zeolith.connection(str(closed / "zeo.sock")).close()
    assert server.stop() == 0
    # What it may not remove names nobody any more, and is no obstacle.
    assert (closed / "zeo.pid").read_text() == ""
    again = serve_there("-U", "run/zeo.sock", *FILE, "-u", NOBODY, "--pid-file", "run/zeo.pid")
    assert (closed / "zeo.pid").read_text() == f"{again.pid}\n"
    assert again.stop() == 0


@needs_root
def test_the_monitor_s_address_is_bound_before(serve_there: Serve, shared: Path) -> None:
    """It may be a port or a place that only root can have, too."""
    (shared / "run").mkdir(mode=0o755)
    (shared / "zeo.conf").write_text(
        "<zeo>\naddress 127.0.0.1:0\nmonitor-address run/monitor.sock\n</zeo>\n"
        "<mappingstorage>\n</mappingstorage>\n"
    )
    server = serve_there("-C", "zeo.conf", "-u", NOBODY)
    path = shared / "run" / "monitor.sock"
    assert path.stat().st_uid == pwd.getpwnam(NOBODY).pw_uid
    with socket.socket(socket.AF_UNIX) as reader:
        reader.connect(str(path))
        assert reader.makefile("rb").read().startswith(b"ZEO monitor server")
    assert server.stop() == 0


@needs_root
def test_the_pid_file_goes_where_the_user_may_remove_it(serve_there: Serve, shared: Path) -> None:
    server = serve_there("-a", "0", *FILE, "-u", NOBODY, "--pid-file", "zeo.pid")
    assert (shared / "zeo.pid").read_text() == f"{server.pid}\n"
    assert server.stop() == 0
    assert not (shared / "zeo.pid").exists()


def write_conf(directory: Path, log: str) -> None:
    (directory / "zeo.conf").write_text(
        "<zeo>\naddress 127.0.0.1:0\n</zeo>\n<mappingstorage>\n</mappingstorage>\n"
        f"<eventlog>\n<logfile>\npath {log}\n</logfile>\n</eventlog>\n"
    )


@needs_root
def test_log_files_are_the_users_so_that_they_can_be_rotated(
    serve_there: Serve, shared: Path
) -> None:
    write_conf(shared, "zeo.log")
    server = serve_there("-C", "zeo.conf", "-u", NOBODY)
    log = shared / "zeo.log"
    assert log.stat().st_uid == pwd.getpwnam(NOBODY).pw_uid
    log.rename(shared / "zeo.log.1")
    server.send(signal.SIGUSR2)
    wait_until(lambda: log.exists() and "log files reopened" in log.read_text())
    assert server.stop() == 0


@needs_root
def test_a_log_that_only_root_may_write_is_refused(
    start: Start, shared: Path, readable: list[str]
) -> None:
    (shared / "log").mkdir(mode=0o755)
    write_conf(shared, "log/zeo.log")
    process = start("serve", "-C", "zeo.conf", "-u", NOBODY, directory=shared, before=readable)
    assert process.wait() == 2
    assert "log/zeo.log cannot be opened: Permission denied; let user nobody write" in process.log
    assert "Traceback" not in process.log


@needs_root
def test_a_file_of_roots_is_refused(start: Start, shared: Path, readable: list[str]) -> None:
    """The storages are opened after: root's rights do not open them."""
    (shared / "Data.fs").write_bytes(b"")
    (shared / "Data.fs").chmod(0o600)
    process = start("serve", "-a", "0", *FILE, "-u", NOBODY, directory=shared, before=readable)
    assert process.wait() == 2
    assert "Data.fs: Permission denied; let the user that runs the server" in process.log
    assert (shared / "Data.fs").read_bytes() == b""


@needs_root
def test_rights_that_could_be_taken_back_are_no_end(
    start: Start, shared: Path, readable: list[str]
) -> None:
    kept = ["setpriv", "--securebits", "+no_setuid_fixup"]
    process = start(
        *("serve", "-a", "0", *FILE, "-u", NOBODY), directory=shared, before=[*readable, *kept]
    )
    assert process.wait() == 2
    assert "root's rights could be taken back" in process.log
    assert not (shared / "Data.fs").exists()


@needs_root
def test_only_root_can_become_another(start: Start, shared: Path, readable: list[str]) -> None:
    nobody = pwd.getpwnam(NOBODY)
    as_nobody = ["setpriv", f"--reuid={nobody.pw_uid}", "--clear-groups"]
    before = [*readable, *as_nobody]
    process = start("serve", "-a", "0", *FILE, "-u", "root", directory=shared, before=before)
    assert process.wait() == 2
    assert "--user: only root can serve as root, and this is user" in process.log
    # Being that user already is what was asked for.
    server = start(
        *("serve", "-a", "0", *FILE, "-u", NOBODY, "--test"), directory=shared, before=before
    )
    assert server.wait() == 0


def test_an_unknown_user(refused: Callable[..., str], tmp_path: Path) -> None:
    said = refused("-a", "0", *FILE, "-u", "no-such-user")
    assert "--user: there is no user 'no-such-user' on this machine" in said
    assert not (tmp_path / "Data.fs").exists()


@needs_root
def test_start_py_serves_as_nobody(start: Start, shared: Path, readable: list[str]) -> None:
    process = start("-p", "0", directory=shared, before=readable, module="zeolith.start")
    process.wait_listening()
    assert identity(process.pid)["Uid"].split() == [str(pwd.getpwnam(NOBODY).pw_uid)] * 4
    assert (shared / "ZEO_SERVER.pid").read_text() == f"{process.pid}\n"
    assert process.stop() == 0
    assert (shared / "Data.fs").exists()


# -- Unix sockets ------------------------------------------------------------------------------


def test_the_mode_of_a_unix_socket(serve: Start, tmp_path: Path) -> None:
    server = serve("-U", "zeo.sock", *FILE, "--socket-mode", "0606")
    assert (tmp_path / "zeo.sock").stat().st_mode & 0o7777 == 0o606
    assert server.stop() == 0


@needs_root
def test_the_owner_of_a_unix_socket(serve: Start, tmp_path: Path) -> None:
    (tmp_path / "zeo.conf").write_text(
        "<zeo>\naddress ./zeo.sock\nsocket-mode 660\nsocket-owner nobody:12345\n</zeo>\n"
        "<mappingstorage>\n</mappingstorage>\n"
    )
    server = serve("-C", "zeo.conf")
    found = (tmp_path / "zeo.sock").stat()
    assert (found.st_uid, found.st_gid) == (pwd.getpwnam(NOBODY).pw_uid, 12345)
    assert found.st_mode & 0o7777 == 0o660
    assert server.stop() == 0


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("-a", "0", "--socket-mode", "0600"), "socket-mode: has no effect"),
        (("-a", "0", "--socket-owner", ":0"), "socket-owner: has no effect"),
        (("-U", "s", "--socket-mode", "rw"), "--socket-mode: 'rw' is no file mode"),
        (("-U", "s", "--socket-owner", "no-such-user"), "there is no user 'no-such-user'"),
        (("-U", "missing/s"), "No such file or directory"),
    ],
)
def test_refused_sockets(
    refused: Callable[..., str], tmp_path: Path, options: tuple[str, ...], text: str
) -> None:
    assert text in refused(*options, *FILE)
    assert not (tmp_path / "Data.fs").exists()


def test_a_signal_while_it_starts_leaves_no_socket(start: Start, tmp_path: Path) -> None:
    """The socket is there before the storages are open; so is the pid file of -u."""
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "component.xml").write_text(
        '<component><sectiontype name="slow" datatype="slow.Slow" implements="ZODB.storage"/>'
        "</component>"
    )
    (tmp_path / "slow" / "__init__.py").write_text(
        "from ZODB.config import BaseConfig\n"
        "class Slow(BaseConfig):\n    def open(self):\n        open('gate').read()\n"
    )
    os.mkfifo(tmp_path / "gate")
    (tmp_path / "zeo.conf").write_text(
        "%import slow\n<zeo>\naddress ./zeo.sock\nmonitor-address ./monitor.sock\n</zeo>\n"
        "<slow>\n</slow>\n"
    )
    process = start("serve", "-C", "zeo.conf")
    # Opening our end returns when the file that never ends is being read.
    with (tmp_path / "gate").open("w"):
        assert (tmp_path / "zeo.sock").exists()
        assert (tmp_path / "monitor.sock").exists()
        assert process.stop() == 0
    assert not (tmp_path / "zeo.sock").exists()
    assert not (tmp_path / "monitor.sock").exists()


def test_an_address_in_use_touches_no_data(
    serve: Start, refused: Callable[..., str], tmp_path: Path
) -> None:
    server = serve("-U", "zeo.sock", *FILE)
    assert "./zeo.sock is in use by another server" in refused("-U", "zeo.sock", "-f", "other.fs")
    assert not (tmp_path / "other.fs").exists()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "zeo.sock"))
    assert server.stop() == 0


def test_a_monitor_s_address_in_use_touches_no_data(
    refused: Callable[..., str], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        (tmp_path / "zeo.conf").write_text(
            f"<zeo>\naddress 0\nmonitor-address {taken.getsockname()[1]}\n</zeo>\n"
            "<filestorage>\npath Data.fs\n</filestorage>\n"
        )
        assert "monitor-address: " in (said := refused("-C", "zeo.conf"))
    assert "is in use" in said
    assert not (tmp_path / "Data.fs").exists()


def test_of_servers_started_together_on_a_stale_socket_one_stays(
    start: Start, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as crashed:
        crashed.bind(str(tmp_path / "zeo.sock"))
    processes = [start("serve", "-U", "zeo.sock", "-f", f"{number}.fs") for number in range(4)]
    wait_until(lambda: sum(process.has_ended for process in processes) == 3)
    (server,) = [process for process in processes if not process.has_ended]
    server.wait_listening()
    zeolith.connection(str(tmp_path / "zeo.sock")).close()
    assert server.stop() == 0
    losers = [process for process in processes if process is not server]
    assert [process.wait() for process in losers] == [2, 2, 2]
