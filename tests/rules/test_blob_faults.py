"""Class C: connections are cut and either side is killed while blobs travel, at random.

What happens comes from the seed: which fault, after how many messages about blobs, at which byte.
How the processes' messages interleave does not, so a seed is a way to begin again, not a recording.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest
import ZODB
from tests.rules.blob_documents import prepare, verify, verify_caches
from tests.support.processes import ServerProcess, child_environment
from tests.support.proxy import Action, Passing, Proxy, pass_all
from tests.support.waiting import wait_until

from zeolith import ClientStorage

WATCHED: Final = frozenset(
    {
        "stream_data", "stream_end", "stream_credit", "open_blob", "open_upload", "attach_blob",
        "storeBlobStart", "storeBlobChunk", "storeBlobEnd", "sendBlob",
        "receiveBlobStart", "receiveBlobChunk", "receiveBlobStop", "vote", "tpc_finish",
    }
)  # fmt: skip
"""Messages at which something may happen."""

_MANY_MESSAGES: Final = 60


class Worker:
    """A client process, in one life after the other.

    :param number: which one it is.
    """

    def __init__(self, number: int, directory: Path, kind: str, address: tuple[str, int]) -> None:
        self.number = number
        self._directory = directory
        self._kind = kind
        self._address = address
        self._life = 0
        self.process: subprocess.Popen[bytes]
        self.is_killed = False

    def start(self) -> None:
        """Begin the next life."""
        life, self._life = f"{self.number}-{self._life}", self._life + 1
        self.is_killed = False
        host, port = self._address
        seed = 1000 * self.number + self._life
        # Where it leaves what it has not committed when it is killed.
        environment = {**child_environment(), "TMPDIR": str(self._directory)}
        with open(self._directory / f"{life}.log", "wb") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-W", "ignore", "-m", "tests.rules.blob_worker",
                    host, str(port), str(self._directory), life, str(seed), self._kind,
                ],
                stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment,
            )  # fmt: skip

    def kill(self) -> None:
        """Kill it; any thread."""
        self.is_killed = True
        self.process.send_signal(signal.SIGKILL)

    def reap(self) -> int:
        """Wait for its end; return its exit status."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(60)

    def log(self) -> str:
        return (self._directory / f"{self.number}-{self._life - 1}.log").read_text()


class Faults:
    """The rule of a proxy: a fault after a random number of messages about blobs.

    Of each four, two are cuts; one kills the server, one a client.
    """

    def __init__(self, seed: int, server: ServerProcess, workers: list[Worker]) -> None:
        self._random = random.Random(seed)
        self._server = server
        self._workers = workers
        self._kinds: list[str] = []
        self._lock = threading.Lock()
        self._left = 5
        self.done: list[str] = []
        self.is_server_killed = False

    def __call__(self, passing: Passing) -> Action | int:
        if passing.name not in WATCHED:
            return Action.PASS
        with self._lock:
            self._left -= 1
            if self._left > 0 or self.is_server_killed:
                return Action.PASS
            self._left = self._random.randrange(1, _MANY_MESSAGES)
            if not self._kinds:
                self._kinds = ["cut", "cut", "server", "client"]
                self._random.shuffle(self._kinds)
            kind = self._kinds.pop()
            self.done.append(f"{kind} at {passing.name}")
            if kind == "server":
                self.is_server_killed = True
                assert self._server.process is not None
                os.kill(self._server.process.pid, signal.SIGKILL)
            elif kind == "client":
                self._random.choice(self._workers).kill()
            else:
                within = self._random.randrange(passing.size)
                actions: list[Action | int] = [Action.CUT, Action.CUT_AFTER, within]
                return self._random.choice(actions)
            return self._random.choice([Action.PASS, Action.CUT])


def run(directory: Path, seed: int, faults: int, kind: str) -> tuple[int, int]:
    """Have *faults* faults happen; return what :func:`verify` has found.

    :param kind: of the worker; ``zeo-server`` is Zeolith's client with ZEO's server.
    """
    is_ours = kind != "zeo-server"
    if is_ours:
        server = ServerProcess(directory)
    else:
        server = ServerProcess(directory, config="", module=["ZEO.runzeo"])
    lives = [f"{number}-{life}" for number in range(2) for life in range(faults + 1)]
    with ExitStack() as stack:
        stack.callback(server.kill)
        server.start()
        database = ZODB.DB(ClientStorage(server.address, blob_dir=str(directory / "first")))
        prepare(database, lives)
        database.close()
        proxy = stack.enter_context(Proxy(server.address))
        workers = [Worker(number, directory, kind, proxy.address) for number in range(2)]
        for worker in workers:
            worker.start()
            stack.callback(worker.reap)
            stack.callback(worker.kill)
        rule = Faults(seed, server, workers)
        proxy.rule = rule

        def has_happened() -> bool:
            return (
                len(rule.done) >= faults
                or rule.is_server_killed
                or any(worker.process.poll() is not None for worker in workers)
            )

        while len(rule.done) < faults:
            wait_until(has_happened, "something happens", 60)
            if rule.is_server_killed:
                server.kill()
                server.start()
                rule.is_server_killed = False
            for worker in workers:
                if worker.process.poll() is not None:
                    assert worker.is_killed, worker.log()
                    worker.reap()
                    worker.start()
        proxy.rule = pass_all
        if rule.is_server_killed:
            server.kill()
            server.start()
        for worker in workers:
            status = worker.reap()
            assert status == 0 or worker.is_killed, worker.log()
        # Once more, so that what is left has nobody else to see to it.
        server.kill()
        server.start()
        if is_ours:
            assert server.stop() == 0
            assert server.tracebacks() == []
        server.kill()
    # ZEO's server leaves what it was killed with; its client's cache is its own affair, too.
    found = verify(directory, directory.glob("*.done"), is_clean=is_ours)
    if kind != "zeo":
        verify_caches(directory)
    assert {what.partition(" ")[0] for what in rule.done} == {"cut", "server", "client"}
    return found


def test_c_blobs_are_whole_whatever_is_cut_or_killed(tmp_path: Path) -> None:
    acknowledged, _unknown = run(tmp_path, seed=4, faults=10, kind="own")
    assert acknowledged > 0


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["own", "M5", "zeo", "zeo-server"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_c_blobs_are_whole_whatever_is_cut_or_killed_many_times(
    tmp_path: Path, kind: str, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    acknowledged, unknown = run(tmp_path, seed, 80, kind)
    with capsys.disabled():
        print(f" {acknowledged} acknowledged and there, {unknown} without an answer there")
    assert acknowledged > 0
