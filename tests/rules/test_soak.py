"""A soak: several processes with several threads read and commit while the server restarts."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import transaction
import ZODB
from persistent.mapping import PersistentMapping
from tests.support.processes import ServerProcess, child_environment

import zeolith

WORKER = Path(__file__).with_name("soak_worker.py")
ACCOUNTS = 20
MIB = 1 << 20


def prepare(address: Any, processes: int, threads: int) -> None:
    db = ZODB.DB(zeolith.ClientStorage(address))
    try:
        with db.transaction() as connection:
            root = connection.root()
            root["accounts"] = PersistentMapping(
                {f"{n:02}": PersistentMapping({"amount": 1000}) for n in range(ACCOUNTS)}
            )
            root["counters"] = PersistentMapping(
                {
                    f"{process}-{thread}": PersistentMapping({"value": 0})
                    for process in range(processes)
                    for thread in range(threads)
                }
            )
            root["total"] = 1000 * ACCOUNTS
    finally:
        db.close()


def soak(
    tmp_path: Path, seconds: float, processes: int, threads: int, restarts: int
) -> dict[str, Any]:
    """Run the workers, restart the server meanwhile, and compare at the end."""
    server = ServerProcess(tmp_path / "server", blobs=False)
    with server:
        prepare(server.address, processes, threads)
        host, port = server.address
        workers = [
            subprocess.Popen(
                [
                    *(sys.executable, str(WORKER), host, str(port)),
                    *(str(seconds), str(threads), str(number)),
                ],
                stdout=subprocess.PIPE,
                text=True,
                env=child_environment(),
            )
            for number in range(processes)
        ]
        try:
            pause = threading.Event()
            end = time.monotonic() + seconds
            memory: list[int] = []
            for turn in range(restarts):
                # The time of day is what this test is about: nothing is waited for here.
                pause.wait(seconds / (restarts + 1))
                memory.append(server.memory())
                if turn % 2:
                    server.kill()
                else:
                    assert server.stop() == 0
                server.start()
            pause.wait(max(0.0, end - time.monotonic()))
            memory.append(server.memory())
            results = [json.loads(worker.communicate(timeout=120)[0]) for worker in workers]
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
        assert server.tracebacks() == []
        wrong = [line for result in results for line in result["wrong"]]
        assert not wrong, "\n".join(wrong)
        check_end(server.address, results)
        return {
            "commits": sum(result["commits"] for result in results),
            "reads": sum(result["reads"] for result in results),
            "retries": sum(result["retries"] for result in results),
            "server MiB": [size // MIB for size in memory],
            "client MiB": [[size // MIB for size in r["memory"]][3::10] for r in results],
            "memory": [result["memory"] for result in results],
            "server memory": memory,
        }


def check_end(address: Any, results: list[dict[str, Any]]) -> None:
    """Nothing acknowledged is lost, nothing was committed that nobody tried."""
    db = ZODB.DB(zeolith.ClientStorage(address))
    try:
        with db.transaction() as connection:
            root = connection.root()
            assert sum(account["amount"] for account in root["accounts"].values()) == root["total"]
            counters = {name: counter["value"] for name, counter in root["counters"].items()}
        transaction.abort()
    finally:
        db.close()
    for result in results:
        for name, acknowledged in result["acknowledged"].items():
            assert acknowledged <= counters[name] <= acknowledged + result["uncertain"][name]


def test_soak_short(tmp_path: Path) -> None:
    found = soak(tmp_path, seconds=6, processes=2, threads=3, restarts=2)
    assert found["commits"] > 50
    assert found["reads"] > 100


@pytest.mark.long
@pytest.mark.timeout(900)
def test_soak_long(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = soak(tmp_path, seconds=180, processes=4, threads=4, restarts=8)
    memories = found.pop("memory")
    server = found.pop("server memory")
    with capsys.disabled():
        print(f" {found}")
    assert found["commits"] > 5000
    for memory in memories:
        # Flat: the last third needs no more than the second one, but for what the allocator and
        # the garbage collector leave lying about.
        third = len(memory) // 3
        assert max(memory[2 * third :]) < max(memory[third : 2 * third]) + 8 * MIB
    assert max(server) < min(server) + 30 * MIB
