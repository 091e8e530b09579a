"""The server as process 1 of a container, and under limits of the system."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psutil
import pytest
import transaction
from tests.cli.conftest import Process, Start
from tests.support.processes import run_python
from tests.support.waiting import promptly, wait_until
from ZODB.POSException import StorageError

import zeolith

FILE = ("-f", "Data.fs")
CONTAINER = ("unshare", "--fork", "--kill-child", "--pid", "--mount-proc")


@pytest.fixture
def contained(serve: Start) -> Callable[..., tuple[Process, psutil.Process]]:
    """Start ``zeolith serve`` as process 1; return it with what the host sees of it."""
    probe = subprocess.run([*CONTAINER, "true"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("this user may not make process namespaces")

    def contained(*arguments: str) -> tuple[Process, psutil.Process]:
        # It cannot know the host's number of itself, so the host looks for it.
        outer = serve(*arguments, before=CONTAINER)
        (inner,) = psutil.Process(outer.pid).children()
        return outer, inner

    return contained


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGHUP, 1)],
)
def test_signals_reach_process_1(
    contained: Callable[..., tuple[Process, psutil.Process]],
    tmp_path: Path,
    number: signal.Signals,
    status: int,
) -> None:
    outer, inner = contained("-a", "0", *FILE, "--pid-file", "zeo.pid")
    assert (tmp_path / "zeo.pid").read_text() == "1\n"
    zeolith.connection(outer.address).close()
    inner.send_signal(number)
    assert outer.wait() == status  # unshare passes its child's status on
    assert f"{number.name}: stopping" in outer.log
    assert (tmp_path / "Data.fs.index").exists()


ORPHAN = """\
import os, ZODB.MappingStorage

main = ZODB.MappingStorage.MappingStorage()
gone, is_gone = os.pipe()
if os.fork() == 0:
    if os.fork() == 0:
        os.read(gone, 1)  # until its parent has ended and been waited for
        os._exit(0)
    os._exit(0)
os.wait()
os.write(is_gone, b"x")
"""


def test_process_1_buries_orphans(
    contained: Callable[..., tuple[Process, psutil.Process]], tmp_path: Path
) -> None:
    (tmp_path / "orphan.py").write_text(ORPHAN)
    outer, inner = contained("-a", "0", "-S", "main=orphan")
    wait_until(lambda: not inner.children())
    assert greets(outer)
    inner.send_signal(signal.SIGTERM)
    assert outer.wait() == 0


def greets(process: Process) -> bool:
    zeolith.client(process.address, storage="main").close()
    return True


REAPER = """\
import os
from zeolith.cli.reaping import GRACE, Reaper

reaper = Reaper()
assert reaper.look(0.0) is False
awaited = os.fork()
if not awaited:
    os._exit(7)
os.waitid(os.P_PID, awaited, os.WEXITED | os.WNOWAIT)  # it has ended
assert reaper.look(10.0) is True
assert reaper.look(10.0 + GRACE / 2) is True
# Whoever waits for it gets its status: it was not taken at once.
assert os.waitstatus_to_exitcode(os.waitpid(awaited, 0)[1]) == 7
assert reaper.look(11.0 + GRACE) is False
orphan = os.fork()
if not orphan:
    os._exit(0)
os.waitid(os.P_PID, orphan, os.WEXITED | os.WNOWAIT)
assert reaper.look(20.0) is True
assert reaper.look(20.0 + GRACE) is False
try:
    os.waitpid(orphan, 0)
except ChildProcessError:
    print("buried")
"""


def test_a_child_is_buried_only_if_nobody_waits_for_it() -> None:
    assert run_python(REAPER) == "buried\n"


@pytest.mark.skipif(shutil.which("prlimit") is None, reason="needs prlimit of util-linux")
def test_a_file_that_may_not_grow_fails_the_commit_not_the_server(serve: Start) -> None:
    """SIGXFSZ would end the process."""
    limit = 200_000
    server = serve("-a", "0", *FILE, before=("prlimit", f"--fsize={limit}"))
    assert ignores(server.pid, signal.SIGXFSZ)
    with closing(zeolith.DB(server.address)) as db:
        with db.transaction() as connection:
            connection.root()["before"] = 1
        with pytest.raises(StorageError), db.transaction() as connection:
            connection.root()["large"] = os.urandom(2 * limit)
        transaction.abort()
        with db.transaction() as connection:
            assert sorted(connection.root()) == ["before"]
            connection.root()["after"] = 1
    assert server.stop() == 0


def ignores(pid: int, number: signal.Signals) -> bool:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigIgn:"):
            return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    raise AssertionError("no list of ignored signals")


WRITER = """\
import sys, zeolith
from persistent.mapping import PersistentMapping
from ZODB.POSException import ConflictError, StorageError

db = zeolith.DB(("127.0.0.1", int(sys.argv[1])), wait_timeout=1)
key, acknowledged, number = f"client {sys.argv[2]}", 0, 0
while True:
    try:
        with db.transaction() as connection:
            root = connection.root()
            if key not in root:
                root[key] = PersistentMapping()
            root[key]["n"] = number
    except ConflictError:
        continue
    except StorageError:
        break
    acknowledged, number = number, number + 1
    if number == 3:
        print("going", flush=True)
print(acknowledged)
db.close()
"""


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_a_stop_under_load_is_clean_and_saves_the_index(
    serve: Start, tmp_path: Path, loop: str
) -> None:
    server = serve("-a", "0", *FILE, "--loop", loop)
    assert isinstance(server.address, tuple)
    zeolith.connection(server.address).close()  # a database has made its root
    clients = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(server.address[1]), str(number)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    try:
        for client in clients:
            assert client.stdout is not None
            assert client.stdout.readline() == "going\n"
        with promptly():
            assert server.stop() == 0
        acknowledged = [int(client.communicate(timeout=30)[0]) for client in clients]
    finally:
        for client in clients:
            client.kill()
            client.communicate()
    for trouble in ("Traceback", "ERROR", "CRITICAL"):
        assert trouble not in server.log, server.log
    again = serve("-a", "0", *FILE)
    assert "rebuild" not in again.log
    with closing(zeolith.DB(again.address)) as db, db.transaction() as connection:
        for number, last in enumerate(acknowledged):
            assert connection.root()[f"client {number}"]["n"] >= last
    assert again.stop() == 0
