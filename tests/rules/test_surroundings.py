"""The client where threads are not threads, where processes fork, and without assertions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.rules.conftest import tid_of
from tests.support.processes import ServerProcess, run_python
from tests.support.raw import FakeServer, RawClient, oid_of
from tests.support.waiting import Background

from zeolith.protocol.messages import LoadBefore


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path / "server") as found:
        yield found


COMMIT = """
from ZODB.Connection import TransactionMetaData
def commit(storage, number, data, serial=bytes(8)):
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    storage.store(number.to_bytes(8), serial, data, "", meta)
    storage.tpc_vote(meta)
    return storage.tpc_finish(meta)
"""


def test_gevent_greenlets_commit_load_and_hear_of_each_other(server: ServerProcess) -> None:
    """B (ZEO#1): locks and sockets of a monkey-patched process."""
    printed = run_python(
        """
from gevent import monkey
monkey.patch_all()
import gevent, sys
import zeolith
"""
        + COMMIT
        + """
address = (sys.argv[1], int(sys.argv[2]))
one, two = zeolith.ClientStorage(address), zeolith.ClientStorage(address)
def work(number):
    serial = bytes(8)
    for turn in range(20):
        serial = commit(one, number, b"%d" % turn, serial)
        two.ping()
        assert two.load(number.to_bytes(8)) == (b"%d" % turn, serial)
with gevent.Timeout(40):
    gevent.joinall([gevent.spawn(work, number) for number in range(1, 9)], raise_error=True)
    serial = commit(one, 99, b"idle")
    while two.lastTransaction() != serial:
        gevent.sleep(0.01)
    one.close()
    two.close()
print("done")
""",
        *map(str, server.address),
    )
    assert printed == "done\n"


def test_gevent_a_waiting_load_stops_no_other_greenlet() -> None:
    with FakeServer() as fake:

        def play() -> None:
            connection = fake.accept()
            connection.admit(tid_of(1))
            call = connection.expect(LoadBefore)
            # Answered only when the greenlets have told that they run.
            connection.next_call_named("ping")
            connection.reply(call, (b"late", tid_of(1), None))

        playing = Background(play)
        assert isinstance(fake.address, tuple)
        host, port = fake.address
        printed = run_python(
            """
from gevent import monkey
monkey.patch_all()
import gevent, sys
import zeolith
storage = zeolith.ClientStorage((sys.argv[1], int(sys.argv[2])))
with gevent.Timeout(20):
    loading = gevent.spawn(storage.loadBefore, (7).to_bytes(8), b"\\x7f" * 8)
    ticks = 0
    while ticks < 10:
        gevent.sleep(0.01)
        ticks += 1
    assert not loading.ready()
    pinging = gevent.spawn(lambda: storage._link.channel().call(__import__(
        "zeolith.protocol.messages", fromlist=["Ping"]).Ping()))
    assert loading.get() == (b"late", (0x03ff000000000001).to_bytes(8), None)
    storage.close()
    pinging.join()
print("done")
""",
            str(host),
            str(port),
        )
        assert printed == "done\n"
        playing.result()


def test_a_forked_child_has_a_connection_of_its_own(server: ServerProcess) -> None:
    printed = run_python(
        "import os, sys\nimport zeolith\n"
        + COMMIT
        + """
storage = zeolith.ClientStorage((sys.argv[1], int(sys.argv[2])))
tid = commit(storage, 1, b"before")
storage.load((1).to_bytes(8))
children = []
for number in range(2, 5):
    child = os.fork()
    if child == 0:
        status = 1
        try:
            later = (int.from_bytes(tid) + 1).to_bytes(8)
            assert storage.loadBefore((1).to_bytes(8), later)[:2] == (b"before", tid)
            for turn in range(20):
                serial = commit(storage, number, b"child", bytes(8) if turn == 0 else serial)
            storage.close()
            status = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            os._exit(status)
    children.append(child)
for turn in range(20):
    tid = commit(storage, 1, b"parent %d" % turn, tid)
for child in children:
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
storage.ping()
for number in range(2, 5):
    assert storage.load(number.to_bytes(8))[0] == b"child"
assert storage.load((1).to_bytes(8)) == (b"parent 19", tid)
storage.close()
print("done")
""",
        *map(str, server.address),
    )
    assert printed == "done\n"
    with RawClient(server.address) as client:
        assert client.load(oid_of(1))[0] == b"parent 19"


def test_a_fork_while_other_threads_use_the_storage(server: ServerProcess) -> None:
    """Whatever locks other threads hold at the fork, the child gets its own."""
    printed = run_python(
        "import os, sys, threading\nimport zeolith\n"
        + COMMIT
        + """
storage = zeolith.ClientStorage((sys.argv[1], int(sys.argv[2])), cache_size=100000)
for number in range(1, 30):
    commit(storage, number, b"x" * 10000)
stop = threading.Event()
def load():
    while not stop.is_set():
        for number in range(1, 30):
            storage.load(number.to_bytes(8))
threads = [threading.Thread(target=load) for _ in range(3)]
for thread in threads:
    thread.start()
for turn in range(10):
    child = os.fork()
    if child == 0:
        status = 1
        try:
            for number in range(1, 30):
                assert storage.load(number.to_bytes(8))[0] == b"x" * 10000
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
stop.set()
for thread in threads:
    thread.join()
storage.close()
print("done")
""".replace("import os,", "import warnings; warnings.simplefilter('ignore')\nimport os,"),
        *map(str, server.address),
    )
    assert printed == "done\n"


def test_without_assertions_everything_works_too(server: ServerProcess) -> None:
    """A (lp 544305): the cache was broken under `python -O`."""
    printed = run_python(
        "import sys\nimport zeolith\n"
        + COMMIT
        + """
def check(condition):
    if not condition:
        raise SystemExit("wrong")
check(not __debug__)
address = (sys.argv[1], int(sys.argv[2]))
one, two = zeolith.ClientStorage(address), zeolith.ClientStorage(address, cache_size=20000)
serial = bytes(8)
for turn in range(50):
    serial = commit(one, 1 + turn % 5, b"%d" % turn * 1000, bytes(8) if turn < 5 else serials[0])
    serials = (serials if turn else []) [1 if turn >= 5 else 0:] + [serial]
    two.ping()
    check(two.load((1 + turn % 5).to_bytes(8)) == (b"%d" % turn * 1000, serial))
    check(two.lastTransaction() == serial)
one.close()
two.close()
print("done")
""",
        *map(str, server.address),
        options=("-O",),
    )
    assert printed == "done\n"


@pytest.mark.parametrize("module", ["zeolith", "zeolith.client", "zeolith.server"])
def test_importing_has_no_effects(module: str) -> None:
    """No thread, no socket, no patched name, no ZODB."""
    printed = run_python(
        """
import sys, threading
before = threading.enumerate()
__import__(sys.argv[1])
assert threading.enumerate() == before
assert "uvloop" not in sys.modules
if sys.argv[1] == "zeolith":
    assert not [name for name in sys.modules if name.startswith(("ZODB", "zeolith."))]
print("done")
""",
        module,
    )
    assert printed == "done\n"
